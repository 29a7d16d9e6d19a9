//! `check`: is this configuration one that will work, and does the broker look as it says? Or, with `--local`, how is the
//! `serve` that runs here?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::amqp::topology::{self, Level};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Ask the serve on this machine instead: is it alive, or ready for clients? [without a word: alive]
    #[arg(
        long,
        value_name = "QUESTION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "alive"
    )]
    pub(super) local: Option<Question>,
}

/// What `serve` is asked.
///
/// Whoever acts upon the answer by starting a container anew (Swarm, ECS, Podman) has to ask whether it is alive: while it is
/// not ready because RabbitMQ is away or because it drains, a new one would be no better, and would cost every client its
/// stream. Ready is the question of whoever only waits to send clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Question {
    /// It answers: what decides whether to start a container anew
    Alive,
    /// It has reached the broker and does not drain: what decides whether to send it clients
    Ready,
}

impl Question {
    const fn path(self) -> &'static str {
        match self {
            Self::Alive => "/healthz",
            Self::Ready => "/readyz",
        }
    }
}

/// How long the answer may take: less than the five seconds after which the container's engine gives up and says nothing.
const PATIENCE: Duration = Duration::from_secs(3);
/// The answers are one short line. Who answers with more is somebody else.
const LONGEST_ANSWER: usize = 256;

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    super::say("ok       configuration\n")?;
    for warning in &config.warnings {
        super::say(format_args!("warning  {warning}\n"))?;
    }
    super::block_on(async move {
        let report = topology::check(&config.broker).await?;
        for finding in &report.findings {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Note => "note",
                Level::Problem => "problem",
            };
            super::say(format_args!("{level:<8} {}\n", finding.text))?;
        }
        anyhow::ensure!(
            report.is_good(),
            "the broker does not look as this configuration says"
        );
        Ok(())
    })
}

pub(super) fn ask_local(listener: SocketAddr, question: Question) -> anyhow::Result<()> {
    anyhow::ensure!(
        listener.port() != 0,
        "ADMIN_BIND={listener}: any port that is free cannot be asked: name one"
    );
    let url = format!("http://{}{}", reached(listener), question.path());
    super::block_on(async move {
        let (status, text) = tokio::time::timeout(PATIENCE, get(&url))
            .await
            .with_context(|| format!("{url} does not answer within {PATIENCE:?}"))?
            .with_context(|| {
                format!(
                    "{url} cannot be asked: does sse-bridge serve run here, with this ADMIN_BIND?"
                )
            })?;
        anyhow::ensure!(status == StatusCode::OK, "{url} answers {status}: {text}");
        super::say(format_args!("ok       {url}: {text}\n"))
    })
}

/// Where this machine reaches a listener.
fn reached(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

/// The status and the line that stands below it.
async fn get(url: &str) -> anyhow::Result<(StatusCode, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(url.parse::<Uri>()?).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect();
    let text = body
        .await
        .map_or_else(|_| "more than a line".into(), |body| body.to_bytes());
    let text = String::from_utf8_lossy(&text);
    Ok((status, text.trim().escape_debug().to_string()))
}
