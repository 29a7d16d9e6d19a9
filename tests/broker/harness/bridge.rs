//! The bridge as its users run it: the binary, as a child process, configured by its environment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::http::{self, Response};
use super::{SOON, Vhost, eventually, run, secrets};

/// How the bridge is to be started: its environment, and nothing else from outside.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Setup {
    /// Sets a variable.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "`set(name, 5)` reads better than `set(name, &5)`"
    )]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    /// Another build of the bridge.
    #[allow(dead_code, reason = "the benchmarks use it")]
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Leaves a variable out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Starts `serve` and waits until it is ready for clients.
    pub async fn start(&self) -> Bridge {
        let bridge = self.start_unready().await;
        bridge.wait_ready().await;
        bridge
    }

    /// Starts `serve` and waits until it listens, whether or not it has found the broker.
    pub async fn start_unready(&self) -> Bridge {
        let mut process = Process::spawn(self, &["serve"]);
        let (public, admin) = eventually("the bridge listens", SOON, async || {
            if let Some(status) = process.child.try_wait().expect("a child can be asked") {
                panic!(
                    "the bridge ended at its start: {status}\n{}",
                    process.output()
                );
            }
            process.addresses()
        })
        .await;
        Bridge {
            process,
            public,
            admin,
        }
    }

    /// Runs a command, such as `check`, to its end.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        let mut process = Process::spawn(self, arguments);
        let status = process.wait(SOON).await;
        Finished {
            code: status.code(),
            output: process.output(),
        }
    }
}

/// A command of the bridge that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout and stderr.
    pub output: String,
}

/// A running bridge. Killed when dropped.
pub struct Bridge {
    process: Process,
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where `/metrics` is.
    pub admin: SocketAddr,
}

impl Bridge {
    /// A bridge for a virtual host: no login, any free ports, everything else as a user would find it.
    pub fn on(vhost: &Vhost) -> Setup {
        Self::at(&vhost.url())
    }

    /// As [`Bridge::on`], for any AMQP URL.
    pub fn at(url: &str) -> Setup {
        Setup {
            program: env!("CARGO_BIN_EXE_sse-bridge").into(),
            environment: BTreeMap::new(),
        }
        .set("RABBITMQ_URL", url)
        .set("AUTH_MODE", "none")
        .set("HTTP_BIND", "127.0.0.1:0")
        .set("ADMIN_BIND", "127.0.0.1:0")
        .set("RUST_LOG", "info")
        .set("LOG_FORMAT", "json")
    }

    /// Waits for `/readyz` to say so.
    pub async fn wait_ready(&self) {
        eventually(
            &format!("the bridge is ready\n{}", self.output()),
            SOON,
            async || (self.get("/readyz").await.ok()?.head.status == 200).then_some(()),
        )
        .await;
    }

    /// A `GET` on the public listener.
    pub async fn get(&self, target: &str) -> std::io::Result<Response> {
        self.get_with(target, &[]).await
    }

    /// A `GET` on the admin listener.
    pub async fn get_admin(&self, target: &str) -> std::io::Result<Response> {
        http::request(self.admin, "GET", target, &[], "").await
    }

    /// A `GET` on the public listener, with headers.
    pub async fn get_with(
        &self,
        target: &str,
        headers: &[(&str, &str)],
    ) -> std::io::Result<Response> {
        http::request(self.public, "GET", target, headers, "").await
    }

    /// A `POST` on the public listener.
    pub async fn post(
        &self,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Response> {
        http::request(self.public, "POST", target, headers, body).await
    }

    /// All of `/metrics`.
    pub async fn metrics(&self) -> String {
        let response = http::request(self.admin, "GET", "/metrics", &[], "")
            .await
            .expect("the admin listener answers");
        assert_eq!(response.head.status, 200, "{}", response.body);
        response.body
    }

    /// One series, by its name and labels as they are printed: `sse_bridge_connections{transport="sse"}`.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
    }

    /// Waits until a series has a value that pleases.
    pub async fn wait_metric(&self, series: &str, pleases: impl Fn(f64) -> bool) -> f64 {
        eventually(
            &format!("{series} has the value it should"),
            SOON,
            async || Some(self.metric(series).await).filter(|value| pleases(*value)),
        )
        .await
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.child), signal).expect("the bridge is running");
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        self.process.end();
    }

    /// Waits for it to end by itself.
    pub async fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit).await
    }

    /// Whether it still runs, which is to say that nothing restarted it either.
    pub fn is_running(&mut self) -> bool {
        self.process
            .child
            .try_wait()
            .expect("a child can be asked")
            .is_none()
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The processor time it has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .expect("the bridge is running");
        // Fields 14 and 15 of proc_pid_stat(5), in ticks of a hundredth of a second; the name, field 2, may hold spaces.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The memory it holds, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the bridge is running");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a process has memory");
        let kibibytes: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number of kB");
        kibibytes * 1024
    }

    /// What it wrote to stdout and stderr so far.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// A child process whose output is collected as it comes.
struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Those of its log alone: what it writes to stdout may be a token that was asked for.
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    fn spawn(setup: &Setup, arguments: &[&str]) -> Self {
        secrets::note_settings(&setup.environment);
        let mut child = run::command(&setup.program)
            .args(arguments)
            .envs(&setup.environment)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the bridge starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let stdout = collect(stdout, vec![Arc::clone(&lines)]);
        let stderr = collect(stderr, vec![Arc::clone(&lines), Arc::clone(&log)]);
        Self {
            child,
            lines,
            log,
            readers: vec![stdout, stderr],
        }
    }

    async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        let status = eventually("the bridge ends", limit, async || {
            child.try_wait().expect("a child can be asked")
        })
        .await;
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
        status
    }

    fn output(&self) -> String {
        self.lines
            .lock()
            .expect("a reader does not panic")
            .join("\n")
    }

    /// The addresses in the line that says where it listens.
    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let lines = self.lines.lock().expect("a reader does not panic");
        lines.iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let field = |name: &str| line["fields"][name].as_str().or(line[name].as_str());
            (field("message")? == "listening").then_some(())?;
            Some((
                field("public")?.parse().ok()?,
                field("admin")?.parse().ok()?,
            ))
        })
    }

    fn end(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            // One that panicked has nothing more to say.
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        let log = self.log.lock().map(|log| log.join("\n"));
        secrets::search(&log.unwrap_or_default());
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<_> = output.lines().collect();
            eprintln!(
                "the bridge's last lines:\n{}",
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
    }
}

fn collect(
    pipe: impl Read + Send + 'static,
    into: Vec<Arc<Mutex<Vec<String>>>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            for lines in &into {
                lines
                    .lock()
                    .expect("nobody panics with the lines")
                    .push(line.clone());
            }
        }
    })
}
