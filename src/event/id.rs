//! The id of an event: where the log keeps it, and a mark that tells this log from another of the same name.
//!
//! A browser keeps it and sends it back as `Last-Event-ID`, so its text is strict: each id has one spelling, and
//! whatever else arrives is malformed. Nothing here believes an id; that is for the history, which knows the marks.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A place in the log. Positions rise but are not contiguous: RabbitMQ skips one at each segment of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// The position of this number.
    #[must_use]
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What tells a record from one that had the same position in an earlier log of that name. 0 is the mark of
/// [`EventId::ORIGIN`] alone: no record and no epoch has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark(u32);

impl Mark {
    /// The mark of a record in a stream: the same on every replica and after any restart.
    ///
    /// It must never change: clients hold ids across an upgrade of the bridge. XXH3 (64 bits, folded to 32) of the
    /// routing key, then the message id if there is one, then the timestamp, then the body, each seeded with the
    /// hash before it, the first with the position.
    #[must_use]
    pub fn of_record(
        position: Position,
        routing_key: &str,
        message_id: Option<&str>,
        timestamp: Option<u64>,
        body: &[u8],
    ) -> Self {
        let mut hash = xxh3_64_with_seed(routing_key.as_bytes(), position.0);
        if let Some(message_id) = message_id {
            hash = xxh3_64_with_seed(message_id.as_bytes(), hash);
        }
        // One byte says whether there is a timestamp, so that none is not the same as 0.
        let mut stamp = [0; 9];
        if let (Some(timestamp), Some((present, seconds))) = (timestamp, stamp.split_first_mut()) {
            *present = 1;
            seconds.copy_from_slice(&timestamp.to_le_bytes());
        }
        hash = xxh3_64_with_seed(&stamp, hash);
        hash = xxh3_64_with_seed(body, hash);
        let [a, b, c, d, ..] = (hash ^ (hash >> 32)).to_le_bytes();
        Self::epoch(u32::from_le_bytes([a, b, c, d]))
    }

    /// The mark of everything that one process counts itself, where the log has no positions.
    #[must_use]
    pub const fn epoch(epoch: u32) -> Self {
        Self(if epoch == 0 { 1 } else { epoch })
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The id of an event on the wire: `48211-9f3c01ab`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    /// Where the log keeps it.
    pub position: Position,
    /// What tells it from the record that an earlier log kept there.
    pub mark: Mark,
}

impl EventId {
    /// `0-00000000`: before the first record of an empty stream.
    pub const ORIGIN: Self = Self {
        position: Position(0),
        mark: Mark(0),
    };

    /// The most bytes its text has.
    pub(crate) const MAX_TEXT_LENGTH: usize = 20 + 1 + MARK_DIGITS;

    /// How many bytes its text has.
    pub(crate) fn text_length(self) -> usize {
        self.position
            .0
            .checked_ilog10()
            .map_or(1, |power| power as usize + 1)
            + 1
            + MARK_DIGITS
    }
}

/// How many hexadecimal digits a mark has in an id.
const MARK_DIGITS: usize = 8;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.position, self.mark)
    }
}

/// Strict, so that every id has one spelling: decimal digits without a leading zero or a sign, `-`, and eight
/// lower-case hexadecimal digits.
impl FromStr for EventId {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let (position, mark) = text.split_once('-').ok_or(MalformedId)?;
        let decimal = position.bytes().all(|byte| byte.is_ascii_digit());
        let shortest = position == "0" || !position.starts_with('0');
        let hexadecimal = mark
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !decimal || !shortest || !hexadecimal || mark.len() != MARK_DIGITS {
            return Err(MalformedId);
        }
        Ok(Self {
            position: Position(position.parse().map_err(|_| MalformedId)?),
            mark: Mark(u32::from_str_radix(mark, 16).map_err(|_| MalformedId)?),
        })
    }
}

/// A text is no id of ours. It names no value: the text is a client's, of any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an event id is malformed; it looks like 48211-9f3c01ab")]
pub struct MalformedId;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(position: u64, mark: u32) -> EventId {
        EventId {
            position: Position(position),
            mark: Mark(mark),
        }
    }

    #[test]
    fn an_id_is_a_position_and_eight_hexadecimal_digits() {
        assert_eq!(id(48_211, 0x9f3c_01ab).to_string(), "48211-9f3c01ab");
        assert_eq!("48211-9f3c01ab".parse(), Ok(id(48_211, 0x9f3c_01ab)));
        assert_eq!(EventId::ORIGIN.to_string(), "0-00000000");
        assert_eq!("0-00000000".parse(), Ok(EventId::ORIGIN));
        let longest = "18446744073709551615-ffffffff";
        assert_eq!(longest.parse(), Ok(id(u64::MAX, u32::MAX)));
        assert_eq!(longest.len(), EventId::MAX_TEXT_LENGTH);
    }

    #[test]
    fn what_is_not_written_exactly_so_is_malformed() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-00000001",
            "01-00000001",
            "00-00000001",
            "+1-00000001",
            "-1-00000001",
            "1-0000001",
            "1-000000001",
            "1-0000000A",
            "1-0000000g",
            "1-+0000001",
            "1-0x000001",
            " 1-00000001",
            "1-00000001 ",
            "1-00000001\n",
            "1--00000001",
            "1-00000001-",
            "١-00000001",
            "1-0000000é",
            "18446744073709551616-00000001",
            "99999999999999999999999999-00000001",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(MalformedId), "{text:?}");
        }
    }

    /// Clients hold ids across an upgrade: were one of these to change, every cursor of theirs would be unknown.
    #[test]
    fn the_mark_of_a_record_is_the_same_for_ever() {
        let of = |position, key, message_id, timestamp, body| {
            Mark::of_record(Position(position), key, message_id, timestamp, body).to_string()
        };
        assert_eq!(of(0, "", None, None, b""), "46e13b30");
        assert_eq!(of(48_211, "user.42", None, None, b"{}"), "99cf649a");
        assert_eq!(
            of(48_211, "user.42", Some("m-1"), Some(1_700_000_000), b"{}"),
            "12c9e73e"
        );
        assert_eq!(
            of(
                u64::MAX,
                "team.7.job.9.status",
                None,
                Some(0),
                &[b'x'; 1000]
            ),
            "9d9023f1"
        );
    }

    #[test]
    fn the_mark_tells_records_apart_by_each_of_their_parts() {
        let marks = [
            Mark::of_record(Position(1), "a", None, None, b"b"),
            Mark::of_record(Position(2), "a", None, None, b"b"),
            Mark::of_record(Position(1), "ab", None, None, b""),
            Mark::of_record(Position(1), "", None, None, b"ab"),
            Mark::of_record(Position(1), "a", Some(""), None, b"b"),
            Mark::of_record(Position(1), "a", Some("b"), None, b""),
            Mark::of_record(Position(1), "a", None, Some(0), b"b"),
            Mark::of_record(Position(1), "a", None, Some(1), b"b"),
        ];
        for (index, mark) in marks.iter().enumerate() {
            assert!(!marks[..index].contains(mark), "{index}");
        }
    }

    #[test]
    fn no_epoch_has_the_mark_of_the_origin() {
        assert_ne!(Mark::epoch(0), EventId::ORIGIN.mark);
        assert_eq!(Mark::epoch(7).get(), 7);
    }

    proptest! {
        #[test]
        fn an_id_is_read_back_as_it_was_written(position: u64, mark: u32, shift in 0..64_u32) {
            let id = id(position >> shift, mark);
            let text = id.to_string();
            prop_assert_eq!(text.len(), id.text_length());
            prop_assert!(text.len() <= EventId::MAX_TEXT_LENGTH);
            prop_assert_eq!(text.parse(), Ok(id));
        }

        #[test]
        fn every_id_has_one_spelling(text in "[+ 0]?0?[0-9]{0,3}--?[0-9a-f]{7,8}[0-9a-fA-F]?\\n?") {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn no_text_makes_an_id_panic(text in any::<String>()) {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn no_record_has_the_mark_of_the_origin(position: u64, key: String, body: Vec<u8>) {
            let mark = Mark::of_record(Position(position), &key, None, None, &body);
            prop_assert_ne!(mark, EventId::ORIGIN.mark);
        }
    }
}
