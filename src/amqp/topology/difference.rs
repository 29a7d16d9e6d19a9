//! How RabbitMQ says that something is there but otherwise.

use std::fmt;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

use crate::amqp::QueueType;
use crate::amqp::connection::reply;

/// What a 406 says of an argument that is not there.
pub(super) const NONE: &str = "none";

/// What a 406 says: which argument differs, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) argument: String,
    pub(super) ours: String,
    pub(super) theirs: String,
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
    pub(super) fn read(error: &lapin::Error) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
