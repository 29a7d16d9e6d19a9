//! What an event is: a message as its source took it from the log, and an event once it was found good. Every
//! type that the rest of the bridge passes on is made here, from text that nobody has checked yet.
//!
//! Pure and total: no I/O, no clock, no panic, whatever a producer or a client sends. It imports nothing of ours.
//! It stands second on the way of an event, between the bridge that takes deliveries and the frame that encodes them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

pub mod id;
pub mod audience;
pub mod topic;
pub mod address;
pub mod payload;
pub mod filter;
pub mod scope;

use address::Attributes;
use audience::Audience;
use id::{EventId, Position};

/// A message as its source took it from the log, not yet judged.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Where the log keeps it (`x-stream-offset`); none where the log has no positions (queues, `dev`): the bridge
    /// counts.
    pub position: Option<Position>,
    /// The routing key it was published with: the topic of the event.
    pub routing_key: String,
    /// The AMQP headers, in no particular order. The source leaves out its own (`x-stream-offset`).
    pub headers: Vec<(String, HeaderValue)>,
    /// The AMQP property `type`.
    pub kind: Option<String>,
    /// The AMQP property `message_id`.
    pub message_id: Option<String>,
    /// The AMQP property `timestamp`: seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The AMQP property `expiration`: milliseconds in decimal, as text.
    pub expiration: Option<String>,
    /// Whether the broker delivered it before.
    pub redelivered: bool,
    /// What its source found that makes it poison, whatever the rest of it is: nothing of it is then to be believed.
    pub fault: Option<Poison>,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl Message {
    /// The first header of this name; names are compared byte for byte, as AMQP does.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }
}

/// A message may end up in a log line; its body must not.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("position", &self.position)
            .field("routing_key", &self.routing_key)
            .field("headers", &self.headers)
            .field("kind", &self.kind)
            .field("message_id", &self.message_id)
            .field("timestamp", &self.timestamp)
            .field("expiration", &self.expiration)
            .field("redelivered", &self.redelivered)
            .field("fault", &self.fault)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// The value of an AMQP header, as far as an event can be addressed by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderValue {
    /// A string (AMQP `longstr` or `shortstr`) that is valid UTF-8.
    Text(String),
    /// An integer of any width.
    Integer(i128),
    /// Anything else, by the name of its AMQP type, for the detail of a dead letter.
    Other(&'static str),
}

/// A message that was found good.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Its id on the wire.
    pub id: EventId,
    /// Who may see it.
    pub audience: Audience,
    /// Its routing key.
    pub topic: String,
    /// What becomes the SSE `event:` field; none leaves the field out, so that `onmessage` fires.
    pub name: Option<EventName>,
    /// What the routing-key templates named in its topic.
    pub attributes: Attributes,
    /// Seconds since the Unix epoch, as its producer said.
    pub timestamp: Option<u64>,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// An event may end up in a log line; its body must not.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("audience", &self.audience)
            .field("topic", &self.topic)
            .field("name", &self.name)
            .field("attributes", &self.attributes)
            .field("timestamp", &self.timestamp)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// The name of an event: 1 to 128 bytes without control characters, and not of ours (`bridge.`). Cheap to clone.
///
/// The private field holds a legal name: the encoder writes it into the `event:` field as it is, and a line break
/// there would let a producer forge fields (WHATWG HTML §9.2.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventName(Arc<str>);

impl EventName {
    /// The most bytes a name may have.
    pub const MAX_BYTES: usize = 128;
    /// What the names of control events begin with: a producer that could send them could lie about gaps.
    pub const RESERVED_PREFIX: &str = "bridge.";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventName {
    type Err = BadEventName;

    fn from_str(text: &str) -> Result<Self, BadEventName> {
        if text.is_empty() {
            return Err(BadEventName::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(BadEventName::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(BadEventName::ControlCharacter);
        }
        if text.starts_with(Self::RESERVED_PREFIX) {
            return Err(BadEventName::Reserved);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no event name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadEventName {
    /// It has no bytes.
    #[error("an event name is empty; it has 1 to {} bytes", EventName::MAX_BYTES)]
    Empty,
    /// It has more than 128 bytes.
    #[error(
        "an event name has {bytes} bytes; at most {} are allowed",
        EventName::MAX_BYTES
    )]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// It has a control character, such as a line break.
    #[error("an event name has a control character; use printable characters only")]
    ControlCharacter,
    /// It begins like a control event.
    #[error(
        "an event name begins with `bridge.`, which is reserved for control events; use another name"
    )]
    Reserved,
}

/// Where a source hands its messages: implemented by the bridge, called by `amqp` and `embedded`, which do not know
/// the bridge.
pub trait Intake: Send + 'static {
    /// Takes one message and says how to settle it. Synchronous and fast; it never blocks.
    fn accept(&mut self, message: Message) -> Verdict;

    /// All that was accepted so far was history; from here on it is news. Called once, after the first start's
    /// warm-up (at once where there is no warm-up).
    fn caught_up(&mut self);

    /// The log does not go on where it ended: what comes next does not follow what was accepted before.
    fn broken(&mut self, what: Break);
}

/// Who wants records read again that are no longer in memory: implemented by the bridge, served by `amqp`, which does
/// not know the bridge.
pub trait ReadBacks: Send + 'static {
    /// One reading.
    type ReadBack: ReadBack;

    /// The next reading that somebody waits for. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Self::ReadBack> + Send;
}

/// One reading of old records, for everybody whose cursor it passes. Dropped, it has ended.
pub trait ReadBack: Send + 'static {
    /// The position to begin at: its record, or the oldest that is kept after it.
    fn begin(&self) -> Position;

    /// Takes the next record. Synchronous and fast; it settles nothing.
    fn accept(&mut self, message: Message);

    /// There is nothing more to read for now.
    fn pause(&mut self) -> impl Future<Output = ()> + Send;

    /// The log is about to be asked how far it goes.
    fn asked(&mut self);

    /// All that it had when it was asked has been given.
    fn ended(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits until there is room for more. False when nobody needs more.
    fn room(&mut self) -> impl Future<Output = bool> + Send;
}

/// What takes what replicas tell each other beside the events: implemented by whoever it concerns, fed by `amqp`, which
/// does not know what it says.
pub trait Notices: Send + 'static {
    /// Takes one record. It may have been given before, and must not mind. Synchronous and fast.
    fn accept(&mut self, body: &[u8]);

    /// All that was told before this process began has been accepted. May be called again.
    fn caught_up(&mut self);
}

/// How a log can fail to go on where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Records were removed before they were read. Positions go on rising.
    Lost,
    /// It was deleted and made anew. Positions begin anew.
    Replaced,
}

/// What became of a delivery: what its source must do to settle it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was delivered to the hub, was a repeat, or had expired: acknowledge it.
    Acknowledge,
    /// It can never be delivered: dead-letter it with the reason, wait for the confirm, then acknowledge it.
    DeadLetter(Poison),
}

/// Why a message can never be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    /// The kind of fault: a header of the dead letter and the label of a metric.
    pub reason: Reason,
    /// What exactly was wrong, at most [`Poison::DETAIL_MAX_BYTES`] bytes. Never text of the payload.
    pub detail: String,
}

impl Poison {
    /// The most bytes that a detail has.
    pub const DETAIL_MAX_BYTES: usize = 256;

    /// A poison with this detail, shortened where it is too long.
    #[must_use]
    pub fn new(reason: Reason, detail: &dyn fmt::Display) -> Self {
        let mut detail = detail.to_string();
        if detail.len() > Self::DETAIL_MAX_BYTES {
            detail.truncate(detail.floor_char_boundary(Self::DETAIL_MAX_BYTES - ELLIPSIS.len()));
            detail.push_str(ELLIPSIS);
        }
        Self { reason, detail }
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

const ELLIPSIS: &str = "…";

/// The kinds of fault that make a message poison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No rule gives it an audience.
    Unaddressed,
    /// Something that addresses it is no identifier.
    BadAddress,
    /// Its body has more bytes than allowed.
    TooLarge,
    /// It has headers that cannot be carried.
    BadHeaders,
    /// Its body is not UTF-8.
    NotUtf8,
    /// Its body is not JSON, where it must be.
    NotJson,
    /// Its body is JSON, but not an object, where it must be.
    NotObject,
}

impl Reason {
    /// Every reason.
    pub const ALL: &[Self] = &[
        Self::Unaddressed,
        Self::BadAddress,
        Self::TooLarge,
        Self::BadHeaders,
        Self::NotUtf8,
        Self::NotJson,
        Self::NotObject,
    ];

    /// Its name in the header `x-bridge-reason` and in the label of the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unaddressed => "unaddressed",
            Self::BadAddress => "bad_address",
            Self::TooLarge => "too_large",
            Self::BadHeaders => "bad_headers",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotObject => "not_object",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_legal_only_if_it_cannot_forge_a_field_or_a_control_event() {
        for legal in [
            "a",
            "job.status",
            " leading",
            "a b",
            "größe",
            "bridge",
            "Bridge.gap",
            "事件",
        ] {
            assert_eq!(legal.parse::<EventName>().unwrap().as_str(), legal);
        }
        let longest = "n".repeat(128);
        assert_eq!(longest.parse::<EventName>().unwrap().to_string(), longest);
        for (illegal, why) in [
            ("", BadEventName::Empty),
            ("a\nid: 1", BadEventName::ControlCharacter),
            ("a\r", BadEventName::ControlCharacter),
            ("\0", BadEventName::ControlCharacter),
            ("\u{7f}", BadEventName::ControlCharacter),
            ("\u{85}", BadEventName::ControlCharacter),
            ("bridge.gap", BadEventName::Reserved),
            ("bridge.", BadEventName::Reserved),
        ] {
            assert_eq!(illegal.parse::<EventName>(), Err(why), "{illegal:?}");
        }
        let bytes = 129;
        assert_eq!(
            "n".repeat(bytes).parse::<EventName>(),
            Err(BadEventName::TooLong { bytes })
        );
    }

    #[test]
    fn a_body_is_never_printed() {
        let message = Message {
            position: None,
            routing_key: "user.42".to_owned(),
            headers: Vec::new(),
            kind: None,
            message_id: None,
            timestamp: None,
            expiration: None,
            redelivered: false,
            fault: None,
            body: Bytes::from_static(b"secret"),
        };
        let printed = format!("{message:?}");
        assert!(
            printed.contains("body_bytes: 6") && !printed.contains("secret"),
            "{printed}"
        );
    }

    proptest! {
        #[test]
        fn a_detail_is_never_longer_than_its_bound(text in "\\PC{0,300}") {
            let poison = Poison::new(Reason::BadAddress, &text);
            prop_assert!(poison.detail.len() <= Poison::DETAIL_MAX_BYTES);
            if text.len() <= Poison::DETAIL_MAX_BYTES {
                prop_assert_eq!(poison.detail, text);
            }
        }

        #[test]
        fn no_text_makes_a_name_panic(text in any::<String>()) {
            if let Ok(name) = text.parse::<EventName>() {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
