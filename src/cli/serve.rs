//! `serve`: the bridge itself.

use crate::app::App;
use crate::config::Config;
use crate::telemetry;

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    telemetry::begin(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    super::block_on(async move { App::serve(&config)?.run().await })
}
