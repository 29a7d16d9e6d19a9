//! The queues as they should be, and what to make of one that is otherwise.

use std::fmt;
use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable, LongString};

use super::difference::{Difference, NONE};
use super::duty_queue_name;
use crate::amqp::{BrokerConfig, Error, QueueScope, QueueType, RevocationStream};

/// What a quorum queue may redeliver. From 4.0 on the default is 20, a lost link counts, and what is over is dropped;
/// poison is dead-lettered by us.
pub(super) const DELIVERY_LIMIT: i64 = 1_000_000;
/// The largest segment of a stream, RabbitMQ's default.
const LARGEST_SEGMENT: u64 = 500_000_000;
const SMALLEST_SEGMENT: u64 = 1 << 20;
/// The segments of a stream whose size has no limit.
const USUAL_SEGMENT: u64 = 64 << 20;
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

/// A queue as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) name: String,
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

pub(super) fn events_queue(config: &BrokerConfig) -> Wanted {
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

pub(super) fn dead_letter_queue(config: &BrokerConfig) -> Wanted {
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

pub(super) fn duty_queue(config: &BrokerConfig) -> Wanted {
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
pub(super) fn revocation_queue(stream: &RevocationStream) -> Wanted {
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
    pub(super) fn arguments(&self) -> FieldTable {
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

    pub(super) fn missing(&self) -> Error {
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
    pub(super) fn adopt(&mut self, difference: &Difference) -> bool {
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
    pub(super) fn concede(&mut self, difference: &Difference) {
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

    pub(super) fn differs(&self, mut differences: Vec<Difference>) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::tests::config;

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
