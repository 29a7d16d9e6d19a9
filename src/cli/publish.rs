//! `publish`: one event to the exchange, confirmed.

use std::io::{IsTerminal, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;

use crate::amqp::{Outgoing, Publisher};
use crate::config::Config;
use crate::event::EventName;
use crate::event::audience::Identifier;

/// What to publish.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The routing key, such as team.7.job.9.status
    #[arg(long, short)]
    topic: String,
    /// For one user
    #[arg(long, value_name = "ID")]
    user: Option<Identifier>,
    /// For one team
    #[arg(long, value_name = "ID")]
    team: Option<Identifier>,
    /// For one channel
    #[arg(long, value_name = "ID")]
    channel: Option<Identifier>,
    /// Inside one tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<Identifier>,
    /// The event's name in the browser; without one it is `message`
    #[arg(long = "type", value_name = "NAME")]
    kind: Option<EventName>,
    /// An id by which a repeat of this event is recognised
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// The event itself; without it, standard input
    #[arg(long, short, value_name = "JSON")]
    data: Option<String>,
}

pub(super) fn run(config: Config, arguments: Arguments) -> anyhow::Result<()> {
    let body = match arguments.data {
        Some(data) => Bytes::from(data),
        None => from_standard_input()?,
    };
    config.payload.check(&body).map_err(|poison| {
        anyhow::anyhow!(
            "the bridge would dead-letter this event as {}: {}",
            poison.reason.as_str(),
            poison.detail
        )
    })?;
    let address = &config.address;
    let headers = [
        (&address.user_header, arguments.user),
        (&address.team_header, arguments.team),
        (&address.channel_header, arguments.channel),
        (&address.tenant_header, arguments.tenant),
    ];
    let outgoing = Outgoing {
        exchange: config.broker.exchange.clone(),
        routing_key: arguments.topic,
        headers: headers
            .into_iter()
            .filter_map(|(name, value)| Some((name.clone(), value?.to_string())))
            .collect(),
        kind: arguments.kind.map(|name| name.as_str().to_owned()),
        message_id: arguments.message_id,
        timestamp: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .map(|now| now.as_secs()),
        content_type: Some("application/json".to_owned()),
        body,
    };
    super::block_on(async move {
        let publisher = Publisher::new(&config.broker);
        let (exchange, topic) = (outgoing.exchange.clone(), outgoing.routing_key.clone());
        publisher.publish(outgoing).await?;
        publisher.close().await;
        super::say(format_args!(
            "published to {exchange} as {topic}, confirmed by the broker\n"
        ))
    })
}

fn from_standard_input() -> anyhow::Result<Bytes> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        super::complain(
            "reading the event from standard input; end it with Ctrl-D (or use --data)",
        );
    }
    let mut body = Vec::new();
    input
        .read_to_end(&mut body)
        .context("cannot read standard input")?;
    Ok(Bytes::from(body))
}
