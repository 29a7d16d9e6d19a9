//! `check`: is this configuration one that will work, and does the broker look as it says?

use crate::amqp::topology::{self, Level};
use crate::config::Config;

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
