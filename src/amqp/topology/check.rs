//! The topology as `sse-bridge check` looks at it: all of it, making nothing, and with words for people.

use lapin::Connection;

use super::wanted::{dead_letter_queue, duty_queue, events_queue, revocation_queue};
use super::{
    Counts, Mode, State, advice_on_delivery_limit, advice_on_sharing, inspect_exchange,
    inspect_queue, passive_queue,
};
use crate::amqp::connection::{self, Role, Suspicion};
use crate::amqp::publisher::Publisher;
use crate::amqp::{AmqpAddress, BrokerConfig, Error, QueueType, RevocationStream};

/// What `sse-bridge check` found, in the order it looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One line each.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it stands.
    pub level: Level,
    /// What was found, and what to do about a problem.
    pub text: String,
}

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing, but no fault.
    Note,
    /// Wrong: `serve` would not work, or not fully.
    Problem,
}

impl Report {
    /// Whether there is no problem.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.level != Level::Problem)
    }

    fn add(&mut self, level: Level, text: impl Into<String>) {
        self.findings.push(Finding {
            level,
            text: text.into(),
        });
    }
}

/// Reaches the broker and compares all that the bridge needs, making nothing.
///
/// # Errors
/// When no node can be reached, or the link breaks meanwhile.
pub async fn check(config: &BrokerConfig) -> Result<Report, Error> {
    let mut report = Report::default();
    let connection = check_nodes(config, &mut report).await?;
    check_exchange(&connection, &config.exchange, config, &mut report).await?;
    check_events_queue(&connection, config, &mut report).await?;
    let keys = config.binding_keys.join("`, `");
    let bindings = match config.declare {
        true => format!("bindings cannot be read over AMQP; `serve` makes sure of `{keys}`"),
        false => format!(
            "bindings cannot be read over AMQP; make sure that queue `{}` is bound to exchange `{}` with `{keys}`",
            config.queue, config.exchange
        ),
    };
    report.add(Level::Note, bindings);
    check_exchange(
        &connection,
        &config.dead_letter_exchange,
        config,
        &mut report,
    )
    .await?;
    check_dead_letter_queue(&connection, config, &mut report).await?;
    if config.queue_type == QueueType::Stream {
        check_duty_queue(&connection, config, &mut report).await?;
    }
    if let Some(stream) = &config.revocations {
        check_revocation_queue(&connection, stream, config, &mut report).await?;
    }
    connection::close(&connection).await;
    let publisher = Publisher::new(config);
    match publisher.reach().await {
        Ok(()) => report.add(Level::Ok, "connections for publishing can be made"),
        Err(error) => report.add(Level::Problem, error.to_string()),
    }
    publisher.close().await;
    Ok(report)
}

async fn check_nodes(config: &BrokerConfig, report: &mut Report) -> Result<Connection, Error> {
    let mut found = None;
    let mut failed = None;
    for node in &config.nodes {
        match check_node(node, config).await {
            Ok((connection, greeting)) => {
                report.add(
                    Level::Ok,
                    format!("{node} answers: {} {}", greeting.product, greeting.version),
                );
                match found {
                    None => found = Some(connection),
                    Some(_) => connection::close(&connection).await,
                }
            }
            Err(error) => {
                report.add(Level::Problem, error.to_string());
                failed.get_or_insert(error);
            }
        }
    }
    found.ok_or_else(|| {
        failed.unwrap_or(Error::Invalid {
            what: "the list of nodes",
            reason: "no node is configured".to_owned(),
        })
    })
}

async fn check_node(
    node: &AmqpAddress,
    config: &BrokerConfig,
) -> Result<(Connection, connection::Greeting), Error> {
    let greeting = connection::greet(node, config).await?;
    let suspicion = Suspicion::default();
    let connection = connection::connect(node, config, Role::Check, &suspicion).await?;
    Ok((connection, greeting))
}

/// What a thing that is not there means for `serve`.
fn absent(config: &BrokerConfig, missing: Error, report: &mut Report) {
    match missing {
        Error::Missing { thing, name, how } if config.declare => {
            report.add(
                Level::Note,
                format!("{thing} `{name}` is not there yet; `serve` makes it ({how})"),
            );
        }
        missing => report.add(Level::Problem, missing.to_string()),
    }
}

/// Takes a mismatch as a finding; passes on what ends the link.
fn compared(result: Result<State, Error>, thing: &str, report: &mut Report) -> Result<bool, Error> {
    match result {
        Ok(State::Same | State::Adopted(_) | State::Made) => {
            report.add(Level::Ok, format!("{thing} is there, as configured"));
            Ok(true)
        }
        Ok(State::Uncompared(reply)) => {
            report.add(
                Level::Note,
                format!("{thing} is there, but this user may not declare it, so it could not be compared: {reply}"),
            );
            Ok(true)
        }
        Ok(State::Absent) => Ok(false),
        Err(error) if error.needs_operator() => {
            report.add(Level::Problem, error.to_string());
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

async fn check_exchange(
    connection: &Connection,
    name: &str,
    config: &BrokerConfig,
    report: &mut Report,
) -> Result<(), Error> {
    let state = inspect_exchange(connection, name, Mode::Look).await;
    if !compared(
        state,
        &format!("exchange `{name}` (topic, durable)"),
        report,
    )? {
        let how = "type topic, durable".to_owned();
        absent(
            config,
            Error::Missing {
                thing: "exchange",
                name: name.to_owned(),
                how,
            },
            report,
        );
    }
    Ok(())
}

async fn check_events_queue(
    connection: &Connection,
    config: &BrokerConfig,
    report: &mut Report,
) -> Result<(), Error> {
    let wanted = events_queue(config);
    let thing = format!("{} queue `{}`", config.queue_type, config.queue);
    let state = inspect_queue(connection, &wanted, Mode::Look).await;
    let advice = match &state {
        Ok(State::Adopted(kept)) => advice_on_delivery_limit(&config.queue, kept),
        _ => None,
    };
    if !compared(state, &thing, report)? {
        absent(config, wanted.missing(), report);
        return Ok(());
    }
    if let Some((level, advice)) = advice {
        report.add(level, advice);
    }
    let Some(counts) = passive_queue(connection, &config.queue).await? else {
        return Ok(());
    };
    let (level, text) = counted(config, counts);
    report.add(level, text);
    Ok(())
}

/// How the events queue stands by its counts. Only a work queue has consumers to speak of: of a stream RabbitMQ always
/// says 0, and every replica reads all of it.
fn counted(config: &BrokerConfig, counts: Counts) -> (Level, String) {
    let Counts {
        messages,
        consumers,
    } = counts;
    let text = format!("queue `{}` has {messages} messages", config.queue);
    if config.queue_type == QueueType::Stream {
        return (Level::Ok, text);
    }
    let text = format!("{text} and {consumers} consumers");
    match consumers {
        0 | 1 => (Level::Ok, text),
        _ => {
            let advice = advice_on_sharing(config.queue_scope);
            (Level::Problem, format!("{text}; {advice}"))
        }
    }
}

async fn check_dead_letter_queue(
    connection: &Connection,
    config: &BrokerConfig,
    report: &mut Report,
) -> Result<(), Error> {
    let name = &config.dead_letter_queue;
    match passive_queue(connection, name).await? {
        Some(counts) => {
            let text = format!(
                "dead-letter queue `{name}` has {} messages",
                counts.messages
            );
            report.add(
                if counts.messages == 0 {
                    Level::Ok
                } else {
                    Level::Note
                },
                text,
            );
        }
        None => absent(config, dead_letter_queue(config).missing(), report),
    }
    Ok(())
}

async fn check_duty_queue(
    connection: &Connection,
    config: &BrokerConfig,
    report: &mut Report,
) -> Result<(), Error> {
    let wanted = duty_queue(config);
    let thing = format!(
        "quorum queue `{}` (by which replicas agree on who dead-letters)",
        wanted.name
    );
    let state = inspect_queue(connection, &wanted, Mode::Look).await;
    if !compared(state, &thing, report)? {
        absent(config, wanted.missing(), report);
    }
    Ok(())
}

async fn check_revocation_queue(
    connection: &Connection,
    stream: &RevocationStream,
    config: &BrokerConfig,
    report: &mut Report,
) -> Result<(), Error> {
    let wanted = revocation_queue(stream);
    let thing = format!(
        "stream queue `{}` (by which replicas tell each other what was revoked)",
        wanted.name
    );
    let state = inspect_queue(connection, &wanted, Mode::Look).await;
    if !compared(state, &thing, report)? {
        absent(config, wanted.missing(), report);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::tests::config;

    #[test]
    fn consumers_are_counted_and_judged_on_work_queues_only() {
        let counted = |queue_type, consumers| {
            let config = BrokerConfig {
                queue_type,
                ..config()
            };
            let messages = 7;
            super::counted(
                &config,
                Counts {
                    messages,
                    consumers,
                },
            )
        };
        for consumers in [0, 2] {
            let text = "queue `events.sse` has 7 messages".to_owned();
            assert_eq!(counted(QueueType::Stream, consumers), (Level::Ok, text));
        }
        for queue_type in [QueueType::Quorum, QueueType::Classic] {
            let text = "queue `events.sse` has 7 messages and 1 consumers".to_owned();
            assert_eq!(counted(queue_type, 1), (Level::Ok, text));
            let (level, text) = counted(queue_type, 2);
            assert_eq!(level, Level::Problem);
            assert!(
                text.contains("and 2 consumers; two consumers on one work queue"),
                "{text}"
            );
        }
    }
}
