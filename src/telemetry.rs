//! Where log lines go: to standard error, one JSON object a line for machines or coloured for people.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Begins to log. Called once, before anything else does.
///
/// # Errors
/// When something in this process logs already, or the filter cannot be read.
pub fn begin(config: &LogConfig) -> anyhow::Result<()> {
    // lapin logs messages that come back, bodies and all. What the setting says of it goes before.
    let filter = EnvFilter::try_new(format!("lapin=off,{}", config.filter))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let begun = match config.format {
        LogFormat::Json => logs
            .json()
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
        LogFormat::Pretty => logs
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .try_init(),
    };
    begun.map_err(|error| anyhow::anyhow!("cannot begin to log: {error}"))
}
