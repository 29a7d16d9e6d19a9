//! An event encoded once, however many clients receive it.
//!
//! A frame is immutable and shared (`Arc<Frame>`): the hub keeps it, every transport sends the same bytes. It decides
//! nothing; it stands between the event that was found good and the hub.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use tokio::time::Instant;

use crate::event::address::Attributes;
use crate::event::audience::{Audience, Identifier, Recipient};
use crate::event::id::EventId;
use crate::event::{Event, EventName};

mod block;
pub mod sse;
pub mod json;

pub use self::block::Block;

/// An event and its encodings.
pub struct Frame {
    id: EventId,
    audience: Audience,
    topic: Box<str>,
    name: Option<EventName>,
    attributes: Attributes,
    timestamp: Option<u64>,
    accepted_at: Instant,
    /// The block for clients that want the body as it is. Written once, by [`Frame::encode`].
    sse: Block,
    /// The body, for the envelope. Where it is one line it is a part of `sse`, so that memory holds it once.
    body: Bytes,
    /// The block for clients that want the envelope. Written by the first connection that asks, then kept as long as
    /// the frame; `cost` counts it from the start.
    sse_envelope: OnceLock<Block>,
    /// What [`Frame::cost`] tells; the event does not change, so neither does it.
    cost: usize,
}

impl Frame {
    /// Encodes an event that the bridge accepted at this instant.
    #[must_use]
    pub fn encode(event: Event, accepted_at: Instant) -> Self {
        let Event {
            id,
            audience,
            topic,
            name,
            attributes,
            timestamp,
            body,
        } = event;
        let sse = sse::event(id, name.as_ref(), &body);
        let (body, own_body_bytes) = match sse::data_of_one_line(&sse, &body) {
            Some(part) => (part, 0),
            // A copy: the source's buffer may be far larger than the body.
            None => (Bytes::copy_from_slice(&body), body.len()),
        };
        let mut frame = Self {
            id,
            audience,
            topic: topic.into_boxed_str(),
            name,
            attributes,
            timestamp,
            accepted_at,
            sse,
            body,
            sse_envelope: OnceLock::new(),
            cost: 0,
        };
        frame.cost = frame.count_cost(own_body_bytes);
        frame
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> EventId {
        self.id
    }

    /// Who may see it.
    #[must_use]
    pub const fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Its routing key.
    #[must_use]
    pub const fn topic(&self) -> &str {
        &self.topic
    }

    /// What stands in its `event:` field.
    #[must_use]
    pub const fn name(&self) -> Option<&EventName> {
        self.name.as_ref()
    }

    /// What the routing-key templates named in its topic.
    #[must_use]
    pub const fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// When the bridge took it from its source.
    #[must_use]
    pub const fn accepted_at(&self) -> Instant {
        self.accepted_at
    }

    /// The SSE block, ready to be sent.
    #[must_use]
    pub const fn sse(&self) -> &Block {
        &self.sse
    }

    /// The SSE block whose data is `{"id","topic","event","time","data"}`, ready to be sent. Encoded on first use,
    /// then kept.
    #[must_use]
    pub fn sse_envelope(&self) -> &Block {
        self.sse_envelope.get_or_init(|| {
            let envelope = json::envelope(
                self.id,
                &self.topic,
                self.name.as_ref(),
                self.timestamp,
                &self.body,
            );
            sse::event(self.id, self.name.as_ref(), &envelope)
        })
    }

    /// An upper bound of the memory it holds, in bytes, the envelope counted as if encoded.
    #[must_use]
    pub const fn cost(&self) -> usize {
        self.cost
    }

    fn count_cost(&self, own_body_bytes: usize) -> usize {
        let name = self.name.as_ref();
        let name_bytes = name.map_or(0, |name| name.as_str().len() + ARC_BYTES);
        let envelope = json::envelope_bound(&self.topic, name, &self.body, self.sse.len());
        let asked = size_of::<Self>()
            + ARC_BYTES
            + self.topic.len()
            + name_bytes
            + audience_heap_bytes(&self.audience)
            + self.attributes.heap_bytes()
            + self.sse.chunk().len()
            + own_body_bytes
            + sse::event_bound(name, envelope)
            + BUFFERS * SHARED_BYTES;
        // Allocators round up to size classes, at most a quarter apart.
        asked + asked / 4
    }
}

/// What an `Arc` holds beside its value: two counters.
const ARC_BYTES: usize = 2 * size_of::<usize>();
/// The buffers of a frame: the block, a body of several lines, the envelope's block.
const BUFFERS: usize = 3;
/// What `Bytes` holds beside a shared buffer.
const SHARED_BYTES: usize = 4 * size_of::<usize>();

fn audience_heap_bytes(audience: &Audience) -> usize {
    let recipient = match &audience.recipient {
        Recipient::User(identifier)
        | Recipient::Channel(identifier)
        | Recipient::Team(identifier) => Some(identifier),
        Recipient::Broadcast => None,
    };
    let bytes = |identifier: &Identifier| identifier.as_str().len() + ARC_BYTES;
    audience.tenant.as_ref().map_or(0, bytes) + recipient.map_or(0, bytes)
}

/// A frame may end up in a log line; its body must not.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("id", &self.id)
            .field("audience", &self.audience)
            .field("topic", &self.topic)
            .field("name", &self.name)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: Option<&str>, body: &[u8]) -> Event {
        Event {
            id: "48211-9f3c01ab".parse().unwrap(),
            audience: Audience {
                tenant: Some("acme".parse().unwrap()),
                recipient: Recipient::User("42".parse().unwrap()),
            },
            topic: "user.42.mail".to_owned(),
            name: name.map(|name| name.parse().unwrap()),
            attributes: Attributes::default(),
            timestamp: Some(0),
            body: Bytes::copy_from_slice(body),
        }
    }

    fn encode(name: Option<&str>, body: &[u8]) -> Frame {
        Frame::encode(event(name, body), Instant::now())
    }

    #[test]
    fn a_frame_tells_what_it_was_made_of() {
        let accepted_at = Instant::now();
        let frame = Frame::encode(event(Some("mail.new"), b"{}"), accepted_at);
        assert_eq!(frame.id().to_string(), "48211-9f3c01ab");
        assert_eq!(frame.audience().to_string(), "tenant acme, user:42");
        assert_eq!(frame.topic(), "user.42.mail");
        assert_eq!(frame.name().unwrap().as_str(), "mail.new");
        assert_eq!(frame.attributes(), &Attributes::default());
        assert_eq!(frame.accepted_at(), accepted_at);
        assert_eq!(
            &**frame.sse(),
            b"id: 48211-9f3c01ab\nevent: mail.new\ndata: {}\n\n"
        );
    }

    #[test]
    fn the_envelope_is_encoded_once_and_keeps_the_name_of_the_event() {
        let frame = encode(Some("mail.new"), b"{\n\"a\":1}");
        assert!(frame.sse_envelope.get().is_none());
        let block = frame.sse_envelope().clone();
        assert_eq!(
            std::str::from_utf8(&block).unwrap(),
            "id: 48211-9f3c01ab\nevent: mail.new\n\
             data: {\"id\":\"48211-9f3c01ab\",\"topic\":\"user.42.mail\",\"event\":\"mail.new\",\
             \"time\":\"1970-01-01T00:00:00Z\",\"data\":{\n\
             data: \"a\":1}}\n\n"
        );
        assert_eq!(frame.sse_envelope().as_ptr(), block.as_ptr());
    }

    #[test]
    fn a_body_of_one_line_is_held_once() {
        let frame = encode(None, b"{\"a\":1}");
        assert!(frame.sse.as_ptr_range().contains(&frame.body.as_ptr()));
        let frame = encode(None, b"{\n}");
        assert!(!frame.sse.as_ptr_range().contains(&frame.body.as_ptr()));
        assert_eq!(frame.body, "{\n}");
    }

    #[test]
    fn a_frame_of_a_small_part_does_not_hold_the_buffer_of_its_source() {
        let buffer = Bytes::from(vec![b'\n'; 1_000_000]);
        let mut event = event(None, b"");
        event.body = buffer.slice(..2);
        let frame = Frame::encode(event, Instant::now());
        assert!(!frame.sse_envelope().is_empty());
        assert!(buffer.is_unique());
    }

    proptest! {
        #[test]
        fn no_body_makes_encoding_panic_and_the_cost_covers_all_that_is_held(
            name in proptest::option::of("[a-z]{1,20}"),
            body: Vec<u8>,
        ) {
            let frame = encode(name.as_deref(), &body);
            prop_assert_eq!(&*frame.body, &*body);
            let blocks = [frame.sse(), frame.sse_envelope()].map(|block| block.chunk().len());
            let held = blocks[0] + blocks[1] + size_of::<Frame>();
            prop_assert!(held <= frame.cost(), "{held} > {}", frame.cost());
        }
    }
}
