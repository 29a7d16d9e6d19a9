//! Messages as producers send them, and the rules that stand in `.env.example`.

use bytes::Bytes;
use sse_bridge::event::address::AddressRules;
use sse_bridge::event::audience::{Audience, Recipient};
use sse_bridge::event::id::{EventId, Mark, Position};
use sse_bridge::event::{Event, HeaderValue, Message};
use sse_bridge::frame::Frame;
use tokio::time::Instant;

/// The usual size of a body, in bytes.
pub const USUAL: usize = 200;
/// Seconds since 1970.
pub const TIMESTAMP: u64 = 1_780_000_000;

/// The rules of a bridge of which nothing is configured.
pub fn address_rules() -> AddressRules {
    let templates = [
        "team.{team_id}.job.{job_id}.status",
        "team.{team_id}.#",
        "user.{user_id}.#",
        "channel.{channel}.#",
    ];
    AddressRules {
        user_header: "user-id".to_owned(),
        team_header: "team-id".to_owned(),
        channel_header: "channel".to_owned(),
        tenant_header: "tenant-id".to_owned(),
        routing_keys: templates.map(|text| text.parse().unwrap()).to_vec(),
        user_field: None,
        team_field: None,
        broadcast_keys: vec!["broadcast.#".parse().unwrap()],
    }
}

/// A JSON array of jobs on one line, of exactly so many bytes.
pub fn json(bytes: usize) -> Bytes {
    jobs(bytes, "")
}

/// The same with a line for each job.
pub fn json_of_lines(bytes: usize) -> Bytes {
    jobs(bytes, "\n")
}

fn jobs(bytes: usize, line_end: &str) -> Bytes {
    let mut text = String::from("[");
    let mut number = 0;
    loop {
        let job = format!(
            r#"{{"job":{number},"state":"running","done":0.{number},"label":"crème \"brûlée\"","steps":[1,2,3]}},{line_end}"#
        );
        // A string fills the rest: `"…"]`.
        if text.len() + job.len() + 3 > bytes {
            break;
        }
        text.push_str(&job);
        number += 1;
    }
    let padding = "x".repeat(bytes - text.len() - 3);
    Bytes::from(format!("{text}\"{padding}\"]"))
}

/// A message of a stream: its headers are what the routing key does not say.
pub fn message(routing_key: &str, headers: &[(&str, HeaderValue)], body: Bytes) -> Message {
    Message {
        position: Some(Position::new(48_211)),
        routing_key: routing_key.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        kind: Some("job.status".to_owned()),
        message_id: None,
        timestamp: Some(TIMESTAMP),
        expiration: None,
        redelivered: false,
        fault: None,
        body,
    }
}

pub fn user(name: &str) -> Audience {
    of(Recipient::User(name.parse().unwrap()))
}

pub fn team(name: &str) -> Audience {
    of(Recipient::Team(name.parse().unwrap()))
}

pub fn of(recipient: Recipient) -> Audience {
    Audience {
        tenant: None,
        recipient,
    }
}

pub fn id(position: u64) -> EventId {
    EventId {
        position: Position::new(position),
        mark: Mark::epoch(0x9f3c_01ab),
    }
}

/// An event for this audience at this position.
pub fn event(position: u64, audience: &Audience, body: &Bytes) -> Event {
    Event {
        id: id(position),
        audience: audience.clone(),
        topic: "team.7.job.9.status".to_owned(),
        name: Some("job.status".parse().unwrap()),
        attributes: Default::default(),
        timestamp: Some(TIMESTAMP),
        body: body.clone(),
    }
}

pub fn frame(position: u64, audience: &Audience, body: &Bytes) -> Frame {
    Frame::encode(event(position, audience, body), Instant::now())
}
