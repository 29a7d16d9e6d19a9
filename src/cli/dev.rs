//! `dev`: the bridge with a broker in memory, for trying it out.

use std::net::SocketAddr;

use crate::app::App;
use crate::config::Config;
use crate::telemetry;

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    telemetry::begin(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    super::block_on(async move {
        let app = App::dev(&config)?;
        super::say(banner(app.public_address()?))?;
        app.run().await
    })
}

fn banner(public: SocketAddr) -> String {
    format!(
        r#"
  sse-bridge dev: a broker in memory, no login, only on this machine. Nothing is kept.

  watch     curl -N 'http://{public}/events?team_id=7'
  publish   curl http://{public}/publish -d '{{"topic":"team.7.job.9.status","data":{{"state":"done"}}}}'
  console   http://{public}/

  metrics   http://{public}/metrics
  Ctrl-C ends it. Against RabbitMQ: sse-bridge serve

"#
    )
}
