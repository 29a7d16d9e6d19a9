//! The exchanges, queues and bindings the bridge needs: made where they are missing, compared where they are there.
//!
//! All is declared passively first, on a channel of its own, as a mismatch closes the channel it happens on. Nothing
//! is ever deleted or changed.

mod difference;
mod wanted;
mod check;

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ExchangeKind};
use tokio::time::{Instant, sleep, timeout};

pub use self::check::{Finding, Level, Report, check};

use self::difference::Difference;
use self::wanted::{
    DELIVERY_LIMIT, Wanted, dead_letter_queue, duty_queue, events_queue, revocation_queue,
};
use super::connection::{self, answer, is_not_found, open_channel, reply, short};
use super::{BrokerConfig, Error, QueueScope, RevocationStream};

/// How long a queue may be without its home node, as it is for 0.3 s after a broker's start.
const HOME_NODE: Duration = Duration::from_secs(5);
/// A limit below this is reached by an ordinary bad day of the network.
const LOW_DELIVERY_LIMIT: i64 = 1000;

/// Since when a queue exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It was there already.
    Before,
    /// It was not there and has just been declared: whatever is in it, or will be, begins there.
    Now,
}

/// Makes what is missing of the exchange, the queue and the bindings of events, or with `declare` off only looks, and
/// compares what is there. Says whether the queue was made by this call, and what of it an operator should know.
///
/// # Errors
/// [`Error::Topology`] where something is there but otherwise, [`Error::Missing`] where it is not there and may not
/// be made, [`Error::NotPermitted`] without the rights, and those of a link that breaks.
pub(super) async fn ensure_events(
    connection: &Connection,
    config: &BrokerConfig,
) -> Result<(Made, Option<String>), Error> {
    let mode = Mode::of(config);
    ensure_exchange(connection, &config.exchange, mode).await?;
    let wanted = events_queue(config);
    let (made, warning) = match inspect_queue(connection, &wanted, mode).await? {
        State::Absent => return Err(wanted.missing()),
        State::Made => (Made::Now, None),
        State::Same | State::Uncompared(_) => (Made::Before, None),
        State::Adopted(kept) => {
            let advice = advice_on_delivery_limit(&config.queue, &kept);
            (Made::Before, advice.map(|(_, advice)| advice))
        }
    };
    if mode == Mode::Make {
        bind(
            connection,
            &config.queue,
            &config.exchange,
            &config.binding_keys,
        )
        .await?;
    }
    Ok((made, warning))
}

/// The same for the dead-letter exchange and queue alone. The queue may be of any type, as long as it is there.
pub(super) async fn ensure_dead_letters(
    connection: &Connection,
    config: &BrokerConfig,
) -> Result<(), Error> {
    let mode = Mode::of(config);
    ensure_exchange(connection, &config.dead_letter_exchange, mode).await?;
    if passive_queue(connection, &config.dead_letter_queue)
        .await?
        .is_none()
    {
        let wanted = dead_letter_queue(config);
        if mode == Mode::Look {
            return Err(wanted.missing());
        }
        declare_queue(connection, &wanted.name, wanted.arguments())
            .await
            .map_err(|refusal| match refusal {
                Refusal::Differs(difference) => wanted.differs(vec![difference]),
                Refusal::Other(error) => error,
            })?;
    }
    match mode {
        Mode::Make => {
            let all = ["#".to_owned()];
            bind(
                connection,
                &config.dead_letter_queue,
                &config.dead_letter_exchange,
                &all,
            )
            .await
        }
        Mode::Look => Ok(()),
    }
}

/// The queue by which the replicas of a stream share the duty of dead-lettering (see [`duty`](super::duty)).
pub(super) fn duty_queue_name(config: &BrokerConfig) -> String {
    format!("{}.duty", config.queue)
}

/// The same for that queue. Not bound to anything but the default exchange, which every queue is bound to.
pub(super) async fn ensure_duty(
    connection: &Connection,
    config: &BrokerConfig,
) -> Result<(), Error> {
    let wanted = duty_queue(config);
    match inspect_queue(connection, &wanted, Mode::of(config)).await? {
        State::Absent => Err(wanted.missing()),
        State::Made | State::Same | State::Adopted(_) | State::Uncompared(_) => Ok(()),
    }
}

/// The same for the stream by which replicas tell each other what was revoked. Nor is that bound to anything else.
pub(super) async fn ensure_revocations(
    connection: &Connection,
    config: &BrokerConfig,
    stream: &RevocationStream,
) -> Result<Made, Error> {
    let wanted = revocation_queue(stream);
    match inspect_queue(connection, &wanted, Mode::of(config)).await? {
        State::Absent => Err(wanted.missing()),
        State::Made => Ok(Made::Now),
        State::Same | State::Adopted(_) | State::Uncompared(_) => Ok(Made::Before),
    }
}

/// What RabbitMQ counts of a queue. Messages of a stream are those it retains, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub messages: u32,
    pub consumers: u32,
}

/// Counts the messages and consumers of a queue; none if there is no such queue.
pub(super) async fn passive_queue(
    connection: &Connection,
    queue: &str,
) -> Result<Option<Counts>, Error> {
    let deadline = Instant::now() + HOME_NODE;
    let action = format!("looking for queue `{queue}`");
    loop {
        let channel = open_channel(connection).await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let name = short("the name of a queue", queue)?;
        let asked = channel.queue_declare(name, options, FieldTable::default());
        match timeout(connection::ANSWER, asked).await {
            Ok(Ok(queue)) => {
                let counts = Counts {
                    messages: queue.message_count(),
                    consumers: queue.consumer_count(),
                };
                return Ok(Some(counts));
            }
            Ok(Err(error)) if is_not_found(&error) => {
                if !is_starting(&error) {
                    return Ok(None);
                }
                if Instant::now() >= deadline {
                    return Err(connection::lost(&action, &error));
                }
                sleep(Duration::from_millis(100)).await;
            }
            Ok(Err(error)) => return Err(explain(&error, &action)),
            Err(_) => return Err(unanswered(&action)),
        }
    }
}

/// Whether to make what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Make,
    Look,
}

impl Mode {
    fn of(config: &BrokerConfig) -> Self {
        if config.declare {
            Self::Make
        } else {
            Self::Look
        }
    }
}

/// What was found where something should be.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Absent,
    /// Not there, and therefore made.
    Made,
    /// There as wanted.
    Same,
    /// There, and as wanted but for these, which no setting names.
    Adopted(Vec<Difference>),
    /// There, but without the right to declare it nobody tells how it is.
    Uncompared(String),
}

async fn ensure_exchange(connection: &Connection, name: &str, mode: Mode) -> Result<(), Error> {
    match inspect_exchange(connection, name, mode).await? {
        State::Absent => Err(Error::Missing {
            thing: "exchange",
            name: name.to_owned(),
            how: "type topic, durable".to_owned(),
        }),
        State::Made | State::Same | State::Adopted(_) | State::Uncompared(_) => Ok(()),
    }
}

async fn inspect_exchange(connection: &Connection, name: &str, mode: Mode) -> Result<State, Error> {
    let action = format!("declare exchange `{name}`");
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let there = match declare_exchange(connection, name, passive).await {
        Ok(()) => State::Same,
        Err(Failure::Broker(error)) if is_not_found(&error) => {
            if mode == Mode::Look {
                return Ok(State::Absent);
            }
            State::Made
        }
        Err(failure) => return Err(failure.explain(&action)),
    };
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    match declare_exchange(connection, name, durable).await {
        Ok(()) => Ok(there),
        Err(Failure::Broker(error)) => match Difference::read(&error) {
            Some(difference) => Err(Error::Topology {
                thing: "exchange",
                name: name.to_owned(),
                differences: difference.to_string(),
                advice: "name another exchange in the settings, or delete this one and let it be made anew"
                    .to_owned(),
            }),
            None if mode == Mode::Look && connection::is_refused(&error) => {
                Ok(State::Uncompared(reply_text(&error)))
            }
            None => Err(explain(&error, &action)),
        },
        Err(failure) => Err(failure.explain(&action)),
    }
}

/// Why a declare did not work: the broker's word, or none.
enum Failure {
    Broker(lapin::Error),
    Other(Error),
}

impl Failure {
    fn explain(self, action: &str) -> Error {
        match self {
            Self::Broker(error) => explain(&error, action),
            Self::Other(error) => error,
        }
    }
}

async fn declare_exchange(
    connection: &Connection,
    name: &str,
    options: ExchangeDeclareOptions,
) -> Result<(), Failure> {
    let channel = open_channel(connection).await.map_err(Failure::Other)?;
    let name = short("the name of an exchange", name).map_err(Failure::Other)?;
    let asked = channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
    match timeout(connection::ANSWER, asked).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Broker(error)),
        Err(_) => Err(Failure::Other(unanswered("declaring an exchange"))),
    }
}

async fn inspect_queue(
    connection: &Connection,
    wanted: &Wanted,
    mode: Mode,
) -> Result<State, Error> {
    let mut there = passive_queue(connection, &wanted.name).await?.is_some();
    if !there && mode == Mode::Look {
        return Ok(State::Absent);
    }
    let mut tried = wanted.clone();
    let mut differences: Vec<Difference> = Vec::new();
    let mut adopted = Vec::new();
    loop {
        let refusal = match declare_queue(connection, &tried.name, tried.arguments()).await {
            Ok(()) if !there => return Ok(State::Made),
            Ok(()) if differences.is_empty() && adopted.is_empty() => return Ok(State::Same),
            Ok(()) if differences.is_empty() => return Ok(State::Adopted(adopted)),
            Ok(()) => return Err(wanted.differs(differences)),
            Err(refusal) => refusal,
        };
        // Somebody else has made it in the meantime, where it differs from ours.
        there |= matches!(refusal, Refusal::Differs(_));
        match refusal {
            // RabbitMQ tells one difference at a time. Each round takes over one argument, once: it ends.
            Refusal::Differs(difference) if tried.adopt(&difference) => {
                tracing::debug!(queue = %tried.name, %difference, "kept what the queue has");
                adopted.push(difference);
            }
            Refusal::Differs(difference) => {
                let known = differences
                    .iter()
                    .any(|each| each.argument == difference.argument);
                if !known {
                    tried.concede(&difference);
                    differences.push(difference);
                }
                if known || difference_ends(&differences) {
                    return Err(wanted.differs(differences));
                }
            }
            Refusal::Other(Error::NotPermitted { reply, .. }) if there && mode == Mode::Look => {
                return Ok(State::Uncompared(reply));
            }
            Refusal::Other(error) if differences.is_empty() => return Err(error),
            Refusal::Other(_) => return Err(wanted.differs(differences)),
        }
    }
}

/// Whether looking on would tell nothing more: what is no argument cannot be taken over.
fn difference_ends(differences: &[Difference]) -> bool {
    let last = differences.last();
    last.is_none_or(|last| !last.argument.starts_with("x-") || last.argument == "x-queue-type")
}

/// Why a queue could not be declared.
enum Refusal {
    Differs(Difference),
    Other(Error),
}

async fn declare_queue(
    connection: &Connection,
    name: &str,
    arguments: FieldTable,
) -> Result<(), Refusal> {
    let action = format!("declare queue `{name}`");
    let channel = open_channel(connection).await.map_err(Refusal::Other)?;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let name = short("the name of a queue", name).map_err(Refusal::Other)?;
    match timeout(
        connection::ANSWER,
        channel.queue_declare(name, options, arguments),
    )
    .await
    {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(match Difference::read(&error) {
            Some(difference) => Refusal::Differs(difference),
            None => Refusal::Other(explain(&error, &action)),
        }),
        Err(_) => Err(Refusal::Other(unanswered(&action))),
    }
}

async fn bind(
    connection: &Connection,
    queue: &str,
    exchange: &str,
    keys: &[String],
) -> Result<(), Error> {
    let channel = open_channel(connection).await?;
    for key in keys {
        let action = format!("bind queue `{queue}` to exchange `{exchange}` with `{key}`");
        let asked = channel.queue_bind(
            short("the name of a queue", queue)?,
            short("the name of an exchange", exchange)?,
            short("a binding key", key)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        match timeout(connection::ANSWER, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(explain(&error, &action)),
            Err(_) => return Err(unanswered(&action)),
        }
    }
    // One goodbye for the channel, and a round trip that shows the bindings were taken.
    answer("closing a channel", channel.close(200, "OK".into())).await
}

/// Whether a 404 means that the queue is there, but its node is not up yet.
fn is_starting(error: &lapin::Error) -> bool {
    let text = reply_text(error);
    text.contains("is down or inaccessible") || text.contains("has no leader")
}

fn reply_text(error: &lapin::Error) -> String {
    reply(error).map_or_else(|| error.to_string(), |(_, text)| text.to_owned())
}

fn explain(error: &lapin::Error, action: &str) -> Error {
    if connection::is_refused(error) {
        Error::NotPermitted {
            action: action.to_owned(),
            reply: reply_text(error),
        }
    } else {
        connection::lost(action, error)
    }
}

fn unanswered(action: &str) -> Error {
    Error::Timeout {
        action: action.to_owned(),
        seconds: connection::ANSWER.as_secs(),
    }
}

/// What is wrong with the delivery limit of an existing quorum queue, and what to do. An argument of a queue cannot be
/// changed; a policy can only lower it.
fn advice_on_delivery_limit(queue: &str, kept: &[Difference]) -> Option<(Level, String)> {
    let difference = kept
        .iter()
        .find(|difference| difference.argument == "x-delivery-limit")?;
    let theirs = &difference.theirs;
    let consequence = "RabbitMQ counts a delivery for every message that was under way when a link broke, and removes a message that goes over the limit, so that its event is lost";
    let remedy = format!(
        "let the bridge empty the queue, stop it, delete the queue, and let it be made anew with x-delivery-limit={DELIVERY_LIMIT}"
    );
    match theirs.parse::<i64>() {
        Ok(limit) if (0..LOW_DELIVERY_LIMIT).contains(&limit) => Some((
            Level::Problem,
            format!("queue `{queue}` has x-delivery-limit={limit}: {consequence}; {remedy}"),
        )),
        Ok(_) => None,
        Err(_) => Some((
            Level::Note,
            format!(
                "queue `{queue}` has no x-delivery-limit, which from RabbitMQ 4.0 on means 20: {consequence}; {remedy}, or set a policy with delivery-limit"
            ),
        )),
    }
}

/// What is wrong with two consumers on a work queue, and what to do.
pub(super) const fn advice_on_sharing(scope: QueueScope) -> &'static str {
    match scope {
        QueueScope::Shared => {
            "two consumers on one work queue get half the events each, and so do their clients; use RABBITMQ_EVENTS_QUEUE_TYPE=stream or RABBITMQ_EVENTS_QUEUE_SCOPE=replica for more than one replica"
        }
        QueueScope::Replica => {
            "two consumers on one replica's queue get half the events each, and so do their clients; give every replica a REPLICA_NAME of its own"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::difference::NONE;
    use super::*;

    #[test]
    fn a_low_delivery_limit_is_a_problem_none_is_worth_knowing_and_a_high_one_is_neither() {
        let level = |theirs: &str| {
            let difference = Difference {
                argument: "x-delivery-limit".to_owned(),
                ours: "1000000".to_owned(),
                theirs: theirs.to_owned(),
            };
            advice_on_delivery_limit("q", &[difference]).map(|(level, _)| level)
        };
        for (theirs, expected) in [
            ("0", Some(Level::Problem)),
            ("20", Some(Level::Problem)),
            ("999", Some(Level::Problem)),
            ("1000", None),
            ("-1", None),
            (NONE, Some(Level::Note)),
        ] {
            assert_eq!(level(theirs), expected, "{theirs}");
        }
        assert_eq!(advice_on_delivery_limit("q", &[]), None);
    }
}
