//! The wire, byte for byte: the vectors of `tests/vectors/sse` against our encoder and against a client's parser, and
//! for any body at all that a client reads back exactly what was sent.

#![expect(
    clippy::expect_used,
    reason = "what a test needs and does not get must fail it"
)]

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sse_bridge::event::address::Attributes;
use sse_bridge::event::audience::{Audience, Recipient};
use sse_bridge::event::id::{EventId, Mark, Position};
use sse_bridge::event::{Event, EventName};
use sse_bridge::frame::{Frame, sse};
use tokio::time::Instant;

use crate::sse_parser::{Dispatched, SseParser};

/// A vector of `events.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventVector {
    name: String,
    id: String,
    event: Option<String>,
    data: String,
    wire: String,
    message: Message,
}

/// A vector of `streams.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StreamVector {
    name: String,
    wire: String,
    messages: Vec<Message>,
    last_event_id: String,
    retry: Option<u64>,
}

/// What a page's `MessageEvent` holds.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Message {
    last_event_id: String,
    r#type: String,
    data: String,
}

impl From<Dispatched> for Message {
    fn from(
        Dispatched {
            last_event_id,
            kind,
            data,
        }: Dispatched,
    ) -> Self {
        Self {
            last_event_id,
            r#type: kind,
            data,
        }
    }
}

fn vectors<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/sse")
        .join(file);
    let text = std::fs::read_to_string(&path).expect("the vectors can be read");
    let vectors: Vec<T> = serde_json::from_str(&text).expect("the vectors are of their format");
    assert!(!vectors.is_empty(), "{file}");
    vectors
}

fn messages(parser: SseParser) -> Vec<Message> {
    parser.dispatched.into_iter().map(Message::from).collect()
}

fn frame(id: EventId, name: Option<&str>, body: &[u8]) -> Frame {
    let event = Event {
        id,
        audience: Audience {
            tenant: None,
            recipient: Recipient::Broadcast,
        },
        topic: "broadcast".to_owned(),
        name: name.map(|name| name.parse().expect("a legal name")),
        attributes: Attributes::default(),
        timestamp: None,
        body: Bytes::copy_from_slice(body),
    };
    Frame::encode(event, Instant::now())
}

#[test]
fn every_event_of_the_vectors_is_encoded_to_exactly_its_bytes() {
    for vector in vectors::<EventVector>("events.json") {
        let id: EventId = vector.id.parse().expect("a canonical id");
        let frame = frame(id, vector.event.as_deref(), vector.data.as_bytes());
        let wire = String::from_utf8_lossy(frame.sse());
        assert_eq!(wire, vector.wire, "{}", vector.name);
    }
}

#[test]
fn every_event_of_the_vectors_is_read_back_as_its_message() {
    for vector in vectors::<EventVector>("events.json") {
        let read = messages(SseParser::read(vector.wire.as_bytes()));
        assert_eq!(read, [vector.message], "{}", vector.name);
    }
}

#[test]
fn every_stream_of_the_vectors_is_read_alike_however_it_is_cut() {
    for vector in vectors::<StreamVector>("streams.json") {
        for size in 1..=vector.wire.len().max(1) {
            let mut parser = SseParser::default();
            for chunk in vector.wire.as_bytes().chunks(size) {
                parser.feed(chunk);
            }
            assert_eq!(
                parser.last_event_id, vector.last_event_id,
                "{} by {size}",
                vector.name
            );
            assert_eq!(parser.retry, vector.retry, "{} by {size}", vector.name);
            assert_eq!(
                messages(parser),
                vector.messages,
                "{} by {size}",
                vector.name
            );
        }
    }
}

#[test]
fn a_checkpoint_moves_the_id_and_dispatches_nothing_and_a_gap_leaves_the_id_alone() {
    let id: EventId = "48211-9f3c01ab".parse().expect("a canonical id");
    let stream = [
        sse::retry(2_000),
        sse::checkpoint(id),
        sse::comment(),
        sse::control("bridge.gap", r#"{"reason":"unknown","missed":null}"#),
    ]
    .map(|block| block.to_vec())
    .concat();
    let parser = SseParser::read(&stream);
    assert_eq!(parser.retry, Some(2_000));
    assert_eq!(parser.last_event_id, "48211-9f3c01ab");
    let gap = Message {
        last_event_id: "48211-9f3c01ab".to_owned(),
        r#type: "bridge.gap".to_owned(),
        data: r#"{"reason":"unknown","missed":null}"#.to_owned(),
    };
    assert_eq!(messages(parser), [gap]);
}

/// Line ends as a client reads them.
fn with_line_feeds(data: &str) -> String {
    data.replace("\r\n", "\n").replace('\r', "\n")
}

fn data() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\r\n :a\u{feff}\u{0}\u{2028}\u{85}]{0,24}",
        "(data|id|event|retry|:|bridge\\.gap|: | |\r|\n|\r\n|\\{\\}){0,16}",
    ]
}

fn event_name() -> impl Strategy<Value = Option<String>> {
    let legal = |name: &String| name.parse::<EventName>().is_ok();
    proptest::option::of("[ :a-z.\u{2028}\u{feff}é]{1,12}".prop_filter("a legal name", legal))
}

fn id() -> impl Strategy<Value = EventId> {
    let id = |(position, mark)| EventId {
        position: Position::new(position),
        mark: Mark::epoch(mark),
    };
    (any::<u64>(), any::<u32>()).prop_map(id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_event_is_read_back_as_exactly_one_message(
        id in id(),
        name in event_name(),
        data in data(),
        cut in 1..64_usize,
    ) {
        let frame = frame(id, name.as_deref(), data.as_bytes());
        // Two others around it: it must neither take from the one nor leak into the other.
        let before = sse::control("before", "1");
        let after = sse::control("after", "2");
        let stream = [&before, frame.sse(), &after].map(|block| block.to_vec()).concat();
        let mut parser = SseParser::default();
        for chunk in stream.chunks(cut) {
            parser.feed(chunk);
        }
        let expected = Message {
            last_event_id: id.to_string(),
            r#type: name.unwrap_or_else(|| "message".to_owned()),
            data: with_line_feeds(&data),
        };
        let messages = messages(parser);
        prop_assert_eq!(messages.len(), 3);
        prop_assert_eq!(&messages[1], &expected);
        prop_assert_eq!(&messages[2].r#type, "after");
    }

    #[test]
    fn any_envelope_is_read_back_as_json_with_the_body_inside(
        id in id(),
        name in event_name(),
        data in data(),
    ) {
        let frame = frame(id, name.as_deref(), data.as_bytes());
        let mut messages = messages(SseParser::read(frame.sse_envelope()));
        prop_assert_eq!(messages.len(), 1);
        let message = messages.remove(0);
        prop_assert_eq!(message.last_event_id, id.to_string());
        prop_assert_eq!(message.r#type, name.as_deref().unwrap_or("message"));
        let envelope: serde_json::Value = serde_json::from_str(&message.data).expect("JSON");
        prop_assert_eq!(&envelope["id"], &serde_json::Value::from(id.to_string()));
        prop_assert_eq!(envelope["event"].as_str(), name.as_deref());
        match serde_json::from_str::<serde_json::Value>(&data) {
            Ok(data) => prop_assert_eq!(&envelope["data"], &data),
            // Inside a JSON string line ends are escaped: they come through as they were.
            Err(_) => prop_assert_eq!(envelope["data"].as_str(), Some(data.as_str())),
        }
    }

    #[test]
    fn any_bytes_are_one_message_and_never_a_panic(id in id(), body: Vec<u8>) {
        let frame = frame(id, None, &body);
        let read = messages(SseParser::read(frame.sse()));
        prop_assert_eq!(read.len(), 1);
        prop_assert_eq!(&read[0].data, &with_line_feeds(&String::from_utf8_lossy(&body)));
    }
}
