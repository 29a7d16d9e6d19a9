//! `GET /tail`: what becomes of messages, as it happens, for those who run the bridge. Metadata of every tenant, never a
//! body; it stands where the metrics stand, and takes the query of `GET /events`, so that filters can be tried.
//!
//! Nobody reads a thousand lines a second: what waits is looked at every now and then, a bounded part of it is sent, and how
//! much was left out is told. The way of an event is never woken, asked or held up by it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::auth::{Grant, Permission};
use crate::event::address::Attributes;
use crate::event::filter::Filter;
use crate::event::scope::Scope;
use crate::frame::sse;
use crate::hub::Hub;
use crate::lifecycle::Lifecycle;
use crate::problem::Problem;
use crate::tail::{DEAD_LETTERS, Judged, Outcome, Tail, Told, Watcher};
use crate::transport::request::{EventsRequest, LAST_EVENT_ID};

/// How often it is looked what was judged.
const TURN: Duration = Duration::from_millis(50);

/// How many published messages are told in a turn.
const PUBLISHED_A_TURN: usize = 20;

/// How many others: those that are kept come together.
const OTHERS_A_TURN: usize = DEAD_LETTERS;

/// How often it is told how many were left out.
const MISSED_EVERY: Duration = Duration::from_secs(1);

/// After so long without traffic a comment is sent, so that a connection that is dead is found out.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a browser waits before it comes back, in milliseconds.
const RETRY_MS: u32 = 2000;

/// How long whoever finds no place should wait, in seconds.
const RETRY_AFTER_SECONDS: u16 = 10;

/// What `GET /tail` needs.
#[derive(Debug)]
pub struct Watching {
    /// Where it is told what was judged.
    pub tail: Tail,
    /// Who listens.
    pub hub: Hub,
    /// The attributes that may be filtered by.
    pub attributes: Vec<String>,
    /// Says when to end.
    pub lifecycle: Lifecycle,
}

/// Answers `GET /tail`.
///
/// # Errors
/// 400 for a query that `GET /events` would refuse too, 503 where as many watch as may.
pub async fn tail(
    State(watching): State<Arc<Watching>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let request = EventsRequest::parse(
        query.as_deref(),
        headers.get(LAST_EVENT_ID),
        &watching.attributes,
    )
    .map_err(|error| Problem::bad_request(error.to_string()))?;
    // Whoever reaches this listener may see the metadata of all.
    let scope = Grant::undivided(&[Permission::Read])
        .scope(&request.wanted)
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    let watcher = watching.tail.watch().ok_or_else(|| {
        Problem::later(
            StatusCode::SERVICE_UNAVAILABLE,
            RETRY_AFTER_SECONDS,
            "as many watch the tail as may at one time; come back later",
        )
    })?;
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let view = View {
        watcher,
        scope,
        filter: request.filter,
        hub: watching.hub.clone(),
        turns,
        stopping: Box::pin(watching.lifecycle.streams.stopping()),
        missed: 0,
        missed_told: Instant::now(),
        sent: Instant::now(),
        has_ended: false,
    };
    let first = Bytes::copy_from_slice(&sse::retry(RETRY_MS));
    let blocks = unfold((view, Some(first)), async |(mut view, first)| {
        let block = match first {
            Some(first) => first,
            None => view.next().await?,
        };
        Some((Ok::<_, Infallible>(block), (view, None)))
    });
    let mut response = Response::new(Body::from_stream(blocks));
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONNECTION, "close"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// One who watches, by its filters.
struct View {
    watcher: Watcher,
    scope: Scope,
    filter: Filter,
    hub: Hub,
    turns: Interval,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Not told yet.
    missed: u64,
    missed_told: Instant,
    sent: Instant,
    has_ended: bool,
}

impl View {
    /// What is to be sent next. `None` is the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        loop {
            let now = tokio::select! {
                // Nothing is judged any more by then.
                () = &mut self.stopping => {
                    self.has_ended = true;
                    let mut last = BytesMut::new();
                    self.write(&mut last);
                    last.extend_from_slice(&sse::control("bridge.bye", r#"{"reason":"drain"}"#));
                    return Some(last.freeze());
                }
                now = self.turns.tick() => now,
            };
            let mut turn = BytesMut::new();
            self.write(&mut turn);
            if self.missed > 0 && now.duration_since(self.missed_told) >= MISSED_EVERY {
                let missed = std::mem::take(&mut self.missed);
                let gap = format!(r#"{{"reason":"slow","missed":{missed}}}"#);
                turn.extend_from_slice(&sse::control("bridge.gap", &gap));
                self.missed_told = now;
            }
            if turn.is_empty() && now.duration_since(self.sent) >= HEARTBEAT {
                turn.extend_from_slice(&sse::comment());
            }
            if !turn.is_empty() {
                self.sent = now;
                return Some(turn.freeze());
            }
        }
    }

    /// Writes what was judged since the last turn, as far as there is room for it.
    fn write(&mut self, turn: &mut BytesMut) {
        let (mut published, mut others) = (PUBLISHED_A_TURN, OTHERS_A_TURN);
        while let Some(told) = self.watcher.look() {
            let judged = match told {
                Told::Missed(missed) => {
                    self.missed += missed;
                    continue;
                }
                Told::Judged(judged) if self.shows(&judged) => judged,
                Told::Judged(_) => continue,
            };
            // Apart, so that a dead letter is not lost in a flood of others.
            let room = match judged.outcome {
                Outcome::Published => &mut published,
                _ => &mut others,
            };
            if *room == 0 {
                self.missed += 1;
            } else {
                *room -= 1;
                self.write_row(turn, &judged);
            }
        }
    }

    /// Whether a client with these filters would see it; of what is nobody's, whether one that sees everything would.
    fn shows(&self, judged: &Judged) -> bool {
        let nameless = Attributes::default();
        let (is_covered, attributes) = match &judged.address {
            Some(address) => (self.scope.covers(&address.audience), &address.attributes),
            None => (self.scope.is_unfenced(), &nameless),
        };
        let name = judged.name.as_ref();
        is_covered && self.filter.matches(&judged.topic, name, attributes)
    }

    fn write_row(&self, turn: &mut BytesMut, judged: &Judged) {
        let audience = judged.address.as_ref().map(|address| &address.audience);
        let poison = match &judged.outcome {
            Outcome::DeadLetter(poison) => Some(poison),
            _ => None,
        };
        let row = Row {
            id: judged.id.to_string(),
            at: milliseconds(judged.at),
            topic: &judged.topic,
            event: judged.name.as_ref().map(|name| name.as_str()),
            tenant: audience.and_then(|audience| audience.tenant.as_ref().map(|id| id.as_str())),
            audience: audience.map(|audience| audience.recipient.to_string()),
            bytes: judged.bytes,
            verdict: judged.outcome.as_str(),
            listening: audience
                .filter(|_| judged.outcome == Outcome::Published)
                .map(|audience| self.hub.listeners(audience)),
            reason: poison.map(|poison| poison.reason.as_str()),
            detail: poison.map(|poison| poison.detail.as_str()),
        };
        // Text and numbers can always be written, on one line.
        if let Ok(json) = serde_json::to_vec(&row) {
            turn.extend_from_slice(b"data: ");
            turn.extend_from_slice(&json);
            turn.extend_from_slice(b"\n\n");
        }
    }
}

/// A message that was judged, as it is written.
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    /// Milliseconds since 1970.
    at: u64,
    topic: &'a str,
    event: Option<&'a str>,
    tenant: Option<&'a str>,
    audience: Option<String>,
    bytes: usize,
    verdict: &'static str,
    /// How many connections listen to its audience, or to everything, by now; their filters may let it go.
    #[serde(skip_serializing_if = "Option::is_none")]
    listening: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::id::{EventId, Mark, Position};
    use crate::event::{Message, Poison, Reason};
    use crate::hub::{Backpressure, HubConfig, Numbering, hub};
    use crate::metrics::Metrics;

    fn view(tail: &Tail) -> View {
        let config = HubConfig {
            channel_capacity: 1,
            backpressure: Backpressure::DropOldest,
            max_events: 1,
            max_bytes: 0,
            max_age: Duration::ZERO,
            flush_window: Duration::ZERO,
            reads_back: false,
        };
        let (_, hub) = hub(config, Numbering::Offsets, Metrics::new().unwrap());
        View {
            watcher: tail.watch().unwrap(),
            scope: Scope::Everything {
                tenant: None,
                broadcast: true,
            },
            filter: Filter::default(),
            hub,
            turns: interval(TURN),
            stopping: Box::pin(Lifecycle::default().streams.stopping()),
            missed: 0,
            missed_told: Instant::now(),
            sent: Instant::now(),
            has_ended: false,
        }
    }

    #[tokio::test]
    async fn a_flood_is_told_in_part_with_how_much_was_left_out_and_no_dead_letter_drowns_in_it() {
        let tail = Tail::default();
        let mut view = view(&tail);
        let message = Message {
            position: None,
            routing_key: "a.b".to_owned(),
            headers: Vec::new(),
            kind: None,
            message_id: None,
            timestamp: None,
            expiration: None,
            redelivered: false,
            fault: None,
            body: Bytes::new(),
        };
        let tell = |outcome: Outcome| {
            let (position, mark) = (Position::new(1), Mark::epoch(1));
            tail.tell(EventId { position, mark }, &message, None, outcome);
        };
        for _ in 0..1000 {
            tell(Outcome::Published);
        }
        tell(Outcome::DeadLetter(Poison::new(Reason::NotJson, &"")));
        let mut turn = BytesMut::new();
        view.write(&mut turn);
        let text = std::str::from_utf8(&turn).unwrap();
        assert_eq!(
            text.matches("\"verdict\":\"published\"").count(),
            PUBLISHED_A_TURN
        );
        assert_eq!(text.matches("\"reason\":\"not_json\"").count(), 1);
        assert_eq!(view.missed, 1000 - PUBLISHED_A_TURN as u64);

        view.missed_told = Instant::now() - MISSED_EVERY;
        let gap = view.next().await.unwrap();
        let expected = sse::control("bridge.gap", r#"{"reason":"slow","missed":980}"#);
        assert_eq!(gap, &*expected);
    }
}
