//! The command line: what there is to say, in words for people. Each command is a file.

mod dev;
mod serve;
mod check;
mod publish;
mod token;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Sources};

/// Carries events from RabbitMQ to browsers over Server-Sent Events.
///
/// Back ends publish to a topic exchange; browsers connect to GET /events and get what they may see.
#[derive(Debug, Parser)]
#[command(
    name = "sse-bridge",
    version,
    after_help = "Try it with nothing installed:  sse-bridge dev\n\
                  Settings are environment variables, in .env, or in a TOML file; .env.example lists them all.\n\
                  Exit codes: 0 done, 1 failed, 64 bad configuration or command line."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// TOML file with settings; the environment and .env go before it [env: SSE_BRIDGE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File of NAME=value lines; the environment goes before it [default: .env, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it out: a broker in memory, no login, only on this machine, a console page
    ///
    /// Starts the bridge with an in-process topic exchange instead of RabbitMQ. Nothing else is needed, nothing is kept.
    /// The page at / shows events as they arrive and publishes some.
    Dev,
    /// Run: consume from RabbitMQ and stream to clients
    ///
    /// Needs RABBITMQ_URL and AUTH_MODE. Runs until SIGTERM or SIGINT, then drains: clients are told, what was consumed is
    /// settled; a second signal ends at once.
    Serve,
    /// Look: read the configuration, reach the broker, compare the topology
    ///
    /// Says what is wrong and what to do about it; changes nothing on the broker. Exits with 0 if all is well, else 1.
    /// With --local it asks nothing but the serve that runs on this machine, through ADMIN_BIND: the health check of a
    /// container, in which there is no other program to ask with.
    Check(check::Arguments),
    /// Send: publish one event to the exchange and wait for the broker's confirm
    ///
    /// Example: sse-bridge publish --topic team.7.job.9.status --data '{"state":"done"}'
    Publish(publish::Arguments),
    /// Mint: print a JSON Web Token that serve with the same settings takes, for trying things out
    ///
    /// Signs with AUTH_JWT_SECRET, or with --key-file where the server has public keys. Reaches nothing; prints the token
    /// alone. Example: curl -N -H "Authorization: Bearer $(sse-bridge token --user 42 --team 7)" http://127.0.0.1:8080/events
    Token(token::Arguments),
}

/// The exit code for a configuration that cannot be used (sysexits.h: EX_USAGE).
const BAD_CONFIGURATION: u8 = 64;

impl Cli {
    /// Does what was asked. Whatever goes wrong is told on standard error.
    #[must_use]
    pub fn run() -> ExitCode {
        let cli = match Self::try_parse() {
            Ok(cli) => cli,
            Err(error) => {
                drop(error.print());
                return if error.use_stderr() {
                    ExitCode::from(BAD_CONFIGURATION)
                } else {
                    ExitCode::SUCCESS
                };
            }
        };
        raise_descriptor_limit();
        let sources = Sources::from_process(cli.env_file, cli.config);
        match cli.command {
            Command::Dev => with_config(Config::for_dev(&sources), dev::run),
            Command::Serve => with_config(Config::load(&sources), serve::run),
            Command::Check(arguments) => match arguments.local {
                Some(question) => with_config(Config::admin_listener(&sources), |listener| {
                    check::ask_local(listener, question)
                }),
                None => with_config(Config::load(&sources), check::run),
            },
            Command::Publish(arguments) => with_config(Config::for_publish(&sources), |config| {
                publish::run(config, arguments)
            }),
            Command::Token(arguments) => with_config(Config::for_token(&sources), |config| {
                token::run(config, &arguments)
            }),
        }
    }
}

fn with_config<T>(
    config: Result<T, ConfigError>,
    run: impl FnOnce(T) -> anyhow::Result<()>,
) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            complain("sse-bridge: this configuration cannot be used:");
            for problem in error.problems() {
                complain(format_args!("  {problem}"));
            }
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("sse-bridge: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Every client takes a descriptor: takes as many as this process is allowed to, before the configuration counts them.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        complain(format_args!(
            "sse-bridge: cannot raise the limit of open files, so the one that stands is counted with: {error}"
        ));
    }
}

/// How long what is left of a command's tasks may take to end, once its work is done.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// Runs a command's work to its end.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(work);
    // Dropped, it would wait for threads however long they take (one that looks a name up in a DNS that does not answer), and
    // signals would find nobody who listens.
    runtime.shutdown_timeout(LAST_TASKS);
    ended
}

/// Writes to standard output. Who closes it has read enough (`| head -1`): that is no failure, and the rest goes nowhere.
fn say(text: impl Display) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes a line to standard error, as far as somebody reads it.
fn complain(text: impl Display) {
    drop(writeln!(io::stderr(), "{text}"));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_command_ends_though_a_thread_of_its_does_not() {
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            let work = async {
                let (begun, beginning) = tokio::sync::oneshot::channel();
                drop(tokio::task::spawn_blocking(|| {
                    begun.send(()).expect("it is waited for");
                    loop {
                        std::thread::park();
                    }
                }));
                Ok(beginning.await?)
            };
            ended.send(block_on(work)).unwrap();
        });
        let outcome = end.recv_timeout(Duration::from_secs(20));
        outcome.expect("it ends").unwrap();
    }
}
