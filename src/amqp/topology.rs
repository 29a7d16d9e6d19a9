//! The exchanges, queues and bindings the bridge needs: made where they are missing, compared where they are there.
//!
//! All is declared passively first, on a channel of its own, as a mismatch closes the channel it happens on. Nothing
//! is ever deleted or changed.

use std::fmt;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Connection, ExchangeKind};
use tokio::time::{Instant, sleep, timeout};

use super::connection::{self, Role, Suspicion, answer, is_not_found, open_channel, reply, short};
use super::publisher::Publisher;
use super::{AmqpAddress, BrokerConfig, Error, QueueScope, QueueType, RevocationStream};

/// How long a queue may be without its home node, as it is for 0.3 s after a broker's start.
const HOME_NODE: Duration = Duration::from_secs(5);
/// What a quorum queue may redeliver. From 4.0 on the default is 20, a lost link counts, and what is over is dropped;
/// poison is dead-lettered by us.
const DELIVERY_LIMIT: i64 = 1_000_000;
/// The largest segment of a stream, RabbitMQ's default.
const LARGEST_SEGMENT: u64 = 500_000_000;
const SMALLEST_SEGMENT: u64 = 1 << 20;
/// The segments of a stream whose size has no limit.
const USUAL_SEGMENT: u64 = 64 << 20;
/// A limit below this is reached by an ordinary bad day of the network.
const LOW_DELIVERY_LIMIT: i64 = 1000;
/// Arguments that no setting of ours names, so that whatever an existing queue has is right.
const ADOPTED: [&str; 2] = ["x-stream-max-segment-size-bytes", "x-delivery-limit"];
/// Arguments that RabbitMQ compares, and that an existing queue may have otherwise.
const COMPARED: [&str; 8] = [
    "x-queue-type",
    "x-max-age",
    "x-max-length-bytes",
    "x-max-length",
    "x-expires",
    "x-message-ttl",
    "x-overflow",
    "x-delivery-limit",
];
/// What a 406 says of an argument that is not there.
const NONE: &str = "none";

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

/// A queue as it should be.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    name: String,
    arguments: Vec<(&'static str, Value)>,
    /// Which setting an argument comes from.
    settings: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

fn events_queue(config: &BrokerConfig) -> Wanted {
    let number = |number: u64| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let mut arguments = vec![(
        "x-queue-type",
        Value::Text(config.queue_type.as_str().to_owned()),
    )];
    match config.queue_type {
        QueueType::Stream => {
            if !config.stream_max_age.is_zero() {
                arguments.push(("x-max-age", Value::Text(age(config.stream_max_age))));
            }
            if config.stream_max_bytes > 0 {
                arguments.push(("x-max-length-bytes", number(config.stream_max_bytes)));
            }
            let segment = segment_bytes(config.stream_max_bytes);
            arguments.push(("x-stream-max-segment-size-bytes", number(segment)));
        }
        QueueType::Quorum => arguments.push(("x-delivery-limit", Value::Number(DELIVERY_LIMIT))),
        QueueType::Classic => {}
    }
    let expires = config.replica_queue_expires;
    let own = config.queue_type != QueueType::Stream && config.queue_scope == QueueScope::Replica;
    if own && !expires.is_zero() {
        let milliseconds = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
        // RabbitMQ keeps it as an Erlang timer, which ends at 2^32 - 1 ms (49 days).
        arguments.push((
            "x-expires",
            number(milliseconds.clamp(1, u64::from(u32::MAX))),
        ));
    }
    Wanted {
        name: config.queue.clone(),
        arguments,
        settings: &[
            ("x-queue-type", "RABBITMQ_EVENTS_QUEUE_TYPE"),
            ("x-max-age", "RABBITMQ_STREAM_MAX_AGE"),
            ("x-max-length-bytes", "RABBITMQ_STREAM_MAX_BYTES"),
        ],
    }
}

fn dead_letter_queue(config: &BrokerConfig) -> Wanted {
    let arguments = vec![(
        "x-queue-type",
        Value::Text(QueueType::Quorum.as_str().to_owned()),
    )];
    Wanted {
        name: config.dead_letter_queue.clone(),
        arguments,
        settings: &[],
    }
}

fn duty_queue(config: &BrokerConfig) -> Wanted {
    let kind = Value::Text(QueueType::Quorum.as_str().to_owned());
    Wanted {
        name: duty_queue_name(config),
        arguments: vec![
            ("x-queue-type", kind),
            ("x-single-active-consumer", Value::Flag(true)),
            ("x-delivery-limit", Value::Number(DELIVERY_LIMIT)),
        ],
        settings: &[],
    }
}

/// No limit by size: nothing that is revoked may push out what was revoked before it.
fn revocation_queue(stream: &RevocationStream) -> Wanted {
    let segment = i64::try_from(SMALLEST_SEGMENT).unwrap_or(i64::MAX);
    let kind = Value::Text(QueueType::Stream.as_str().to_owned());
    Wanted {
        name: stream.queue.clone(),
        arguments: vec![
            ("x-queue-type", kind),
            ("x-max-age", Value::Text(age(stream.max_age))),
            ("x-stream-max-segment-size-bytes", Value::Number(segment)),
        ],
        settings: &[("x-max-age", "AUTH_REVOCATION_MAX_AGE")],
    }
}

/// An age as `x-max-age` is usually written: whole hours, else minutes, else seconds. RabbitMQ compares the text.
fn age(age: Duration) -> String {
    let seconds = age.as_secs().max(1);
    match seconds {
        hours if hours % 3600 == 0 => format!("{}h", hours / 3600),
        minutes if minutes % 60 == 0 => format!("{}m", minutes / 60),
        seconds => format!("{seconds}s"),
    }
}

/// The seconds of an `x-max-age` in any of its spellings: a number and one of `Y M D h m s`.
fn age_seconds(text: &str) -> Option<u64> {
    let unit = match text.chars().next_back()? {
        'Y' => 365 * 86_400,
        'M' => 30 * 86_400,
        'D' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    let number: u64 = text.get(..text.len() - 1)?.parse().ok()?;
    number.checked_mul(unit)
}

/// Retention acts on whole segments only, so a stream has several: an eighth of its size each.
fn segment_bytes(stream_max_bytes: u64) -> u64 {
    match stream_max_bytes {
        0 => USUAL_SEGMENT,
        bytes => (bytes / 8).clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT),
    }
}

impl Wanted {
    fn arguments(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in &self.arguments {
            let value = match value {
                Value::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
                Value::Number(number) => AMQPValue::LongLongInt(*number),
                Value::Flag(flag) => AMQPValue::Boolean(*flag),
            };
            table.insert((*name).into(), value);
        }
        table
    }

    fn missing(&self) -> Error {
        let mut how = "durable".to_owned();
        for (name, value) in &self.arguments {
            how.push_str(&format!(", {name}={value}"));
        }
        Error::Missing {
            thing: "queue",
            name: self.name.clone(),
            how,
        }
    }

    /// Takes over what the existing queue has, if that means the same or if no setting of ours says otherwise.
    fn adopt(&mut self, difference: &Difference) -> bool {
        let Some(index) = self
            .arguments
            .iter()
            .position(|(name, _)| *name == difference.argument)
        else {
            return false;
        };
        let Some((name, value)) = self.arguments.get_mut(index) else {
            return false;
        };
        let same_age = *name == "x-max-age"
            && age_seconds(&difference.theirs).is_some_and(|theirs| {
                age_seconds(&difference.ours) == Some(theirs)
                    && value.to_string() != difference.theirs
            });
        if same_age {
            *value = Value::Text(difference.theirs.clone());
            return true;
        }
        if !ADOPTED.contains(name) {
            return false;
        }
        match difference.theirs.parse() {
            Ok(number) if *value != Value::Number(number) => *value = Value::Number(number),
            Ok(_) => return false,
            Err(_) => drop(self.arguments.remove(index)),
        }
        true
    }

    /// Takes over what the existing queue has, whatever it means, to see what else differs.
    fn concede(&mut self, difference: &Difference) {
        self.arguments
            .retain(|(name, _)| *name != difference.argument);
        let Some(name) = COMPARED
            .into_iter()
            .find(|name| *name == difference.argument)
        else {
            return;
        };
        let theirs = match difference.theirs.parse() {
            Ok(number) => Value::Number(number),
            Err(_) if difference.theirs == NONE => return,
            Err(_) => Value::Text(difference.theirs.clone()),
        };
        self.arguments.push((name, theirs));
    }

    /// The setting that an argument comes from.
    fn setting_of(&self, argument: &str) -> Option<&'static str> {
        let found = self.settings.iter().find(|(name, _)| *name == argument);
        found.map(|(_, setting)| *setting)
    }

    fn differs(&self, mut differences: Vec<Difference>) -> Error {
        // Of another type of queue everything differs.
        if let Some(index) = differences
            .iter()
            .position(|each| each.argument == "x-queue-type")
        {
            differences = vec![differences.swap_remove(index)];
        }
        let settings: Vec<_> = differences
            .iter()
            .filter_map(|each| self.setting_of(&each.argument))
            .collect();
        let change = match settings.len() {
            0 => String::new(),
            _ => format!("set {} to what is there, or ", settings.join(" and ")),
        };
        let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
        Error::Topology {
            thing: "queue",
            name: self.name.clone(),
            differences: differences.join(", "),
            advice: format!(
                "{change}name another queue, or delete this one (its messages are lost) and let it be made anew"
            ),
        }
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

/// What a 406 says: which argument differs, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    argument: String,
    ours: String,
    theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            argument,
            ours,
            theirs,
        } = self;
        write!(f, "{argument} is {theirs} there and {ours} here")
    }
}

impl Difference {
    fn read(error: &lapin::Error) -> Option<Self> {
        match reply(error)? {
            (AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED), text) => Self::parse(text),
            _ => None,
        }
    }

    /// Reads "PRECONDITION_FAILED - inequivalent arg 'x' for queue 'q' in vhost '/': received A but current is B",
    /// A and B being `none`, `'v'` or `the value 'v' of type 't'`. RabbitMQ cuts it at 255 bytes.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        let (_, rest) = rest
            .split_once(": received ")
            .or_else(|| rest.split_once(" received "))?;
        let (ours, theirs) = rest
            .split_once(" but current is ")
            .unwrap_or((rest, "something else"));
        let mut theirs = plain(theirs);
        if argument == "x-queue-type" && theirs == NONE {
            // Queues that were declared without a type.
            theirs = QueueType::Classic.to_string();
        }
        Some(Self {
            argument: argument.to_owned(),
            ours: plain(ours),
            theirs,
        })
    }
}

/// A value without what RabbitMQ writes around it.
fn plain(value: &str) -> String {
    let value = value.trim();
    let value = value.strip_prefix("the value ").unwrap_or(value);
    let value = value
        .split_once("' of type ")
        .map_or(value, |(value, _)| value);
    value.trim_matches('\'').to_owned()
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
    let frame_max = Some(connection::SMALL_FRAMES);
    let suspicion = Suspicion::default();
    let connection = connection::connect(node, config, Role::Check, frame_max, &suspicion).await?;
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
    use super::*;
    use crate::amqp::tests::config;

    #[test]
    fn a_mismatch_is_read_in_every_form_rabbitmq_writes_it() {
        let cases = [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'q' in vhost '/': received the value '1h' of type 'longstr' but current is the value '24h' of type 'longstr'",
                ("x-max-age", "1h", "24h"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'classic' but current is 'stream'",
                ("x-queue-type", "classic", "stream"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': received the value '5' of type 'signedint' but current is none",
                ("x-expires", "5", "none"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': received 'topic' but current is 'direct'",
                ("type", "topic", "direct"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'e' in vhost '/': received 'true'",
                ("durable", "true", "something else"),
            ),
        ];
        for (text, (argument, ours, theirs)) in cases {
            let difference = Difference::parse(text).unwrap();
            assert_eq!(
                (
                    &*difference.argument,
                    &*difference.ours,
                    &*difference.theirs
                ),
                (argument, ours, theirs),
                "{text}"
            );
        }
        assert_eq!(
            Difference::parse("PRECONDITION_FAILED - unknown delivery tag 4"),
            None
        );
    }

    #[test]
    fn an_age_is_written_as_people_write_it_and_read_in_every_spelling() {
        for (seconds, text) in [
            (86_400, "24h"),
            (604_800, "168h"),
            (5400, "90m"),
            (90, "90s"),
            (61, "61s"),
            (0, "1s"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
        for (text, seconds) in [
            ("1D", Some(86_400)),
            ("24h", Some(86_400)),
            ("2Y", Some(63_072_000)),
            ("7", None),
            ("", None),
            ("xh", None),
        ] {
            assert_eq!(age_seconds(text), seconds, "{text}");
        }
    }

    #[test]
    fn an_age_in_another_spelling_is_the_same_age_and_another_age_is_not() {
        let mut wanted = events_queue(&config());
        let difference = |theirs: &str| Difference {
            argument: "x-max-age".to_owned(),
            ours: "24h".to_owned(),
            theirs: theirs.to_owned(),
        };
        assert!(!wanted.clone().adopt(&difference("2D")));
        assert!(!wanted.clone().adopt(&difference("none")));
        assert!(wanted.adopt(&difference("1D")));
        assert!(
            wanted
                .arguments
                .contains(&("x-max-age", Value::Text("1D".to_owned())))
        );
        assert!(!wanted.adopt(&difference("1D")), "each is taken over once");
    }

    #[test]
    fn what_no_setting_names_is_taken_over_and_what_one_names_is_not() {
        let mut wanted = events_queue(&config());
        let difference = |argument: &str, theirs: &str| Difference {
            argument: argument.to_owned(),
            ours: "1".to_owned(),
            theirs: theirs.to_owned(),
        };
        let segment = "x-stream-max-segment-size-bytes";
        assert!(wanted.adopt(&difference(segment, "77")));
        assert!(wanted.arguments.contains(&(segment, Value::Number(77))));
        assert!(!wanted.adopt(&difference(segment, "77")));
        assert!(wanted.adopt(&difference(segment, "none")));
        assert!(!wanted.arguments.iter().any(|(name, _)| *name == segment));
        assert!(!wanted.adopt(&difference(segment, "none")));
        assert!(!wanted.adopt(&difference("x-max-length-bytes", "none")));
    }

    #[test]
    fn a_mismatch_names_each_argument_and_its_setting_and_another_type_hides_the_rest() {
        let difference = |argument: &str, ours: &str, theirs: &str| Difference {
            argument: argument.to_owned(),
            ours: ours.to_owned(),
            theirs: theirs.to_owned(),
        };
        let wanted = events_queue(&config());
        let age = difference("x-max-age", "24h", "1h");
        let bytes = difference("x-max-length-bytes", "5", "none");
        assert_eq!(
            wanted.differs(vec![age.clone(), bytes]).to_string(),
            "queue `events.sse` is otherwise than configured: x-max-age is 1h there and 24h here, x-max-length-bytes is none there and 5 here; \
             set RABBITMQ_STREAM_MAX_AGE and RABBITMQ_STREAM_MAX_BYTES to what is there, or name another queue, or delete this one \
             (its messages are lost) and let it be made anew"
        );
        let kind = difference("x-queue-type", "stream", "classic");
        let message = wanted.differs(vec![age, kind]).to_string();
        assert!(
            message.contains("x-queue-type is classic there and stream here; set"),
            "{message}"
        );
    }

    #[test]
    fn a_stream_has_segments_small_enough_for_its_retention_to_act() {
        for (bytes, segment) in [
            (0, USUAL_SEGMENT),
            (1, SMALLEST_SEGMENT),
            (1 << 30, 1 << 27),
            (1 << 50, LARGEST_SEGMENT),
        ] {
            assert_eq!(segment_bytes(bytes), segment);
        }
    }

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

    #[test]
    fn only_a_replicas_own_work_queue_expires() {
        let expires = |queue_type, queue_scope| {
            let config = BrokerConfig {
                queue_type,
                queue_scope,
                ..config()
            };
            events_queue(&config)
                .arguments
                .iter()
                .any(|(name, _)| *name == "x-expires")
        };
        assert!(expires(QueueType::Classic, QueueScope::Replica));
        assert!(expires(QueueType::Quorum, QueueScope::Replica));
        assert!(!expires(QueueType::Stream, QueueScope::Replica));
        assert!(!expires(QueueType::Quorum, QueueScope::Shared));
    }
}
