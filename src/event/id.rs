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
    /// The mark of a record in a stream: the same on every replica and after any restart. Whoever can guess the record can
    /// compute it; for clients there is [`Marking`].
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

/// How the records of a stream are marked for clients. A checkpoint shows the mark of the newest record, whoever that is
/// for: without a key, somebody who can guess what a record says can confirm the guess by its mark. With one, nobody can
/// who has not the key.
#[derive(Clone, Default)]
pub struct Marking {
    /// What keys BLAKE3; none: marks are those of [`Mark::of_record`].
    key: Option<[u8; 32]>,
}

impl Marking {
    /// Marks by this secret: the same secret gives the same marks, on every replica and after any restart.
    #[must_use]
    pub fn keyed(secret: &str) -> Self {
        Self {
            key: Some(blake3::derive_key(KEY_CONTEXT, secret.as_bytes())),
        }
    }

    /// The mark of a record in a stream.
    ///
    /// It must never change: clients hold ids across an upgrade of the bridge. With a key it is the first 32 bits of keyed
    /// BLAKE3, which is a pseudo-random function, of: whether there is a message id and a timestamp, the position, the
    /// timestamp, the lengths of routing key and message id, these two, and the body.
    #[must_use]
    pub fn mark(
        &self,
        position: Position,
        routing_key: &str,
        message_id: Option<&str>,
        timestamp: Option<u64>,
        body: &[u8],
    ) -> Mark {
        let Some(key) = &self.key else {
            return Mark::of_record(position, routing_key, message_id, timestamp, body);
        };
        let length = |text: &str| (text.len() as u64).to_le_bytes();
        let message_id_text = message_id.unwrap_or_default();
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher
            .update(&[
                u8::from(message_id.is_some()),
                u8::from(timestamp.is_some()),
            ])
            .update(&position.0.to_le_bytes())
            .update(&timestamp.unwrap_or_default().to_le_bytes())
            // So that no two records are the same bytes in a row.
            .update(&length(routing_key))
            .update(&length(message_id_text))
            .update(routing_key.as_bytes())
            .update(message_id_text.as_bytes())
            .update(body);
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        Mark::epoch(u32::from_le_bytes([a, b, c, d]))
    }
}

/// What the key of marks is derived for (BLAKE3's `derive_key`): the secret gives another one for any other purpose.
const KEY_CONTEXT: &str = "sse-bridge 2026 marks of event ids v1";

/// Without the key.
impl fmt::Debug for Marking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marking")
            .field("is_keyed", &self.key.is_some())
            .finish_non_exhaustive()
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

    /// Its text. Every frame bears one, and the machinery of `fmt` takes several times as long to write it.
    pub(crate) fn text(self) -> IdText {
        let mut bytes = [b'-'; Self::MAX_TEXT_LENGTH];
        let mut places = bytes.iter_mut().rev();
        let mut mark = self.mark.0;
        for place in places.by_ref().take(MARK_DIGITS) {
            let [digit, ..] = (mark % 16).to_le_bytes();
            *place = digit + if digit < 10 { b'0' } else { b'a' - 10 };
            mark /= 16;
        }
        let mut position = self.position.0;
        for place in places.skip(1).take(self.text_length() - 1 - MARK_DIGITS) {
            let [digit, ..] = (position % 10).to_le_bytes();
            *place = digit + b'0';
            position /= 10;
        }
        IdText {
            bytes,
            start: Self::MAX_TEXT_LENGTH - self.text_length(),
        }
    }
}

/// How many hexadecimal digits a mark has in an id.
const MARK_DIGITS: usize = 8;

/// The text of an id.
pub(crate) struct IdText {
    bytes: [u8; EventId::MAX_TEXT_LENGTH],
    /// It stands behind this.
    start: usize,
}

impl IdText {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It is ASCII.
        f.write_str(std::str::from_utf8(self.text().as_bytes()).unwrap_or_default())
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
        for marking in [Marking::default(), Marking::keyed("a secret")] {
            let marks = [
                marking.mark(Position(1), "a", None, None, b"b"),
                marking.mark(Position(2), "a", None, None, b"b"),
                marking.mark(Position(1), "ab", None, None, b""),
                marking.mark(Position(1), "", None, None, b"ab"),
                marking.mark(Position(1), "a", Some(""), None, b"b"),
                marking.mark(Position(1), "a", Some("b"), None, b""),
                marking.mark(Position(1), "a", None, Some(0), b"b"),
                marking.mark(Position(1), "a", None, Some(1), b"b"),
            ];
            for (index, mark) in marks.iter().enumerate() {
                assert!(!marks[..index].contains(mark), "{marking:?}, {index}");
            }
        }
    }

    /// As for those without a key.
    #[test]
    fn the_mark_of_a_record_by_a_key_is_the_same_for_ever() {
        let marking = Marking::keyed("a secret of thirty-two characters");
        let of = |position, key, message_id, timestamp, body| {
            marking
                .mark(Position(position), key, message_id, timestamp, body)
                .to_string()
        };
        assert_eq!(of(0, "", None, None, b""), "3d3aba14");
        assert_eq!(of(48_211, "user.42", None, None, b"{}"), "f9805b22");
        assert_eq!(
            of(48_211, "user.42", Some("m-1"), Some(1_700_000_000), b"{}"),
            "b4ab8151"
        );
        assert_eq!(
            of(
                u64::MAX,
                "team.7.job.9.status",
                None,
                Some(0),
                &[b'x'; 1000]
            ),
            "f1b2526b"
        );
    }

    #[test]
    fn another_secret_or_none_gives_other_marks_and_none_gives_those_that_anybody_computes() {
        let mark = |marking: &Marking| marking.mark(Position(1), "user.42", None, None, b"{}");
        let unkeyed = Mark::of_record(Position(1), "user.42", None, None, b"{}");
        let secret = "a secret of thirty-two characters";
        assert_eq!(mark(&Marking::default()), unkeyed);
        assert_eq!(mark(&Marking::keyed(secret)), mark(&Marking::keyed(secret)));
        assert_ne!(mark(&Marking::keyed(secret)), unkeyed);
        assert_ne!(
            mark(&Marking::keyed(secret)),
            mark(&Marking::keyed("a secret of thirty-two characterz"))
        );
    }

    #[test]
    fn a_marking_never_shows_its_key() {
        assert_eq!(
            format!("{:?}", Marking::keyed("secret")),
            "Marking { is_keyed: true, .. }"
        );
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
            prop_assert_eq!(&text, &format!("{}-{}", id.position, id.mark));
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
