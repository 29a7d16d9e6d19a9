//! `GET /events`: a stream over Server-Sent Events (WHATWG HTML §9.2), as bytes that its connection pulls.
//!
//! A connection asks for more only while its socket takes what it has, so a client that stalls is simply not asked for; its
//! ring drops what it has no room for, and the first thing it is sent when it goes on is how much that was.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body as HttpBody, Frame as BodyFrame};
use tokio::time::Instant;

use super::Transport;
use super::limits::{ClientAddress, Full};
use super::request::{EventsRequest, Heartbeat, LAST_EVENT_ID};
use super::session::{Client, CloseReason, Session, Step};
use crate::auth::{BadCredentials, Grant, Shown, Unauthenticated};
use crate::event::id::EventId;
use crate::frame::{Block, Frame, sse};
use crate::hub::Gap;
use crate::problem::Problem;

/// As this transport is called in metrics.
const NAME: &str = "sse";

/// Events that wait together are sent together, up to about this many bytes: one copy, one write.
const BATCH_BYTES: usize = 16 * 1024;

/// A longer event is sent alone: a copy for each client would cost more than the write that it saves, and those who take nothing
/// would hold theirs.
const COPIED_BYTES: usize = 4 * 1024;

/// How long a client that is over a limit should wait, in seconds.
const RETRY_AFTER_SECONDS: u16 = 10;

/// What a connection and the streams on it tell each other: one with HTTP/1.1, many with HTTP/2. Made by the listener for
/// each connection; a stream finds it among its request's extensions.
#[derive(Debug)]
pub struct Link {
    /// Whose connection it is.
    pub peer: SocketAddr,
    /// Set by the connection when its socket took nothing for too long, or a stream of it; read when the stream ends.
    pub stalled: AtomicBool,
    /// When the oldest event was consumed of those that streams handed over and the socket has not taken: in
    /// nanoseconds since `opened`, plus 1; 0 is none. Set by streams, taken by the connection, which are all one task.
    waiting_since: AtomicU64,
    opened: Instant,
}

impl Link {
    /// A link for a connection that was just accepted.
    #[must_use]
    pub fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            stalled: AtomicBool::new(false),
            waiting_since: AtomicU64::new(0),
            opened: Instant::now(),
        }
    }

    /// An event that was consumed at `accepted_at` was handed to the connection.
    fn handed_over(&self, accepted_at: Instant) {
        let since = accepted_at
            .saturating_duration_since(self.opened)
            .as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1) + 1;
        // Where an older one still waits, that is the one to count.
        if self.waiting_since.load(Ordering::Relaxed) == 0 {
            self.waiting_since.store(since, Ordering::Relaxed);
        }
    }

    /// The socket has taken all that it was given. How long the oldest event of it was under way, if there was one.
    #[must_use]
    pub fn flushed(&self) -> Option<Duration> {
        let since = self.waiting_since.load(Ordering::Relaxed).checked_sub(1)?;
        self.waiting_since.store(0, Ordering::Relaxed);
        Some(
            self.opened
                .elapsed()
                .saturating_sub(Duration::from_nanos(since)),
        )
    }
}

/// Answers `GET /events`.
///
/// # Errors
/// 400 for a request that cannot be read, 401, 403 and 503 for what it may not have or nobody can tell yet, 406 where it does not take
/// an event stream, 429 and 503 over a limit. All else is a 200: a browser gives up for good on anything but that.
pub async fn events(
    State(transport): State<Arc<Transport>>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let metrics = &transport.metrics;
    let refuse = |reason: &str, problem: Problem| {
        metrics.connections_refused.of(reason).inc();
        problem
    };
    let shown = Shown {
        method: &method,
        headers: &headers,
        query: query.as_deref(),
    };
    let unauthenticated =
        |error: Unauthenticated| refuse(refusal_reason(&error), Problem::from(error));
    let token = transport
        .authenticator
        .token(&shown)
        .map_err(unauthenticated)?;
    let takes_events = accepts_event_stream(&headers);
    let last_event_id = headers.get(LAST_EVENT_ID).cloned();
    // A token whose key may be new waits, and all else that the request bears is not held meanwhile.
    drop(headers);
    let grant = transport
        .authenticator
        .grant(token)
        .await
        .map_err(unauthenticated)?;
    if !takes_events {
        let detail = "this is an event stream: send `Accept: text/event-stream`";
        return Err(refuse(
            "bad_request",
            Problem::new(StatusCode::NOT_ACCEPTABLE, detail),
        ));
    }
    let last_event_id = last_event_id.as_ref();
    let request = EventsRequest::parse(query.as_deref(), last_event_id, &transport.attributes)
        .map_err(|error| refuse("bad_request", Problem::bad_request(error.to_string())))?;
    let scope = grant
        .scope(&request.wanted)
        .map_err(|error| refuse("forbidden", Problem::forbidden(error.to_string())))?;

    let link = extensions.get::<Arc<Link>>().map(Arc::clone);
    let address = extensions
        .get::<ClientAddress>()
        .copied()
        .unwrap_or_else(|| ClientAddress::of(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    let holder = holder(&grant, &request);
    let seat = transport
        .limits
        .take(holder.as_deref(), address)
        .map_err(|full| {
            let (reason, status, detail) = match full {
                Full::User => (
                    "user_limit",
                    StatusCode::TOO_MANY_REQUESTS,
                    "this user holds as many streams as one user may",
                ),
                Full::Address => (
                    "address_limit",
                    StatusCode::TOO_MANY_REQUESTS,
                    "this address holds as many streams as one address may",
                ),
                // Other replicas may have room.
                Full::InAll => (
                    "connection_limit",
                    StatusCode::SERVICE_UNAVAILABLE,
                    "this replica holds as many streams as it may; come back later",
                ),
            };
            refuse(reason, Problem::later(status, RETRY_AFTER_SECONDS, detail))
        })?;

    let watch = transport
        .revocations
        .watch(&grant, &request.wanted, SystemTime::now())
        .map_err(|error| refuse("revoked", error.into()))?;
    let session = Session::new(
        transport
            .hub
            .subscribe(scope, request.filter, request.resume),
        watch,
        Client {
            transport: NAME,
            address,
            holder,
        },
        transport.config.heartbeat,
        grant.validity(),
        seat,
        Arc::clone(metrics),
    );
    let handover = extensions.get::<Arc<Handover>>();
    let stream = EventStream {
        session: Some(session),
        retry: transport.config.retry,
        preamble: Some(sse::retry(jittered(transport.config.retry))),
        envelope: request.envelope,
        heartbeat: request.heartbeat,
        link,
        long: None,
        told_all: false,
    };
    Ok(response(match handover {
        None => Body::new(stream),
        Some(handover) => {
            handover.give(stream);
            // Of no known length, so that the head tells none.
            Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>())
        }
    }))
}

/// As what a request is counted that earned no grant.
fn refusal_reason(error: &Unauthenticated) -> &'static str {
    match error {
        Unauthenticated::Credentials(BadCredentials::InQuery | BadCredentials::Contradicting) => {
            "bad_request"
        }
        Unauthenticated::Credentials(BadCredentials::ForeignPage) => "forbidden",
        Unauthenticated::Unavailable(_) => "keys_unavailable",
        Unauthenticated::Credentials(_) | Unauthenticated::Wrong | Unauthenticated::Token(_) => {
            "unauthorized"
        }
    }
}

/// By whom a stream is counted, if that is known: a user of a tenant is not the user of that name in another.
fn holder(grant: &Grant, request: &EventsRequest) -> Option<String> {
    let (user, tenant) = match grant.user() {
        Some(user) => (user, grant.tenant()),
        None => (
            request.wanted.users.first()?,
            request.wanted.tenant.as_ref(),
        ),
    };
    // No identifier has a slash in it.
    Some(match tenant {
        Some(tenant) => format!("{tenant}/{user}"),
        None => user.to_string(),
    })
}

/// A 200 that neither browser nor proxy keeps, transforms or holds back.
fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "private, no-cache, no-store, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The stream is the last thing on its connection, so that a drain need not wait for idle ones.
        (CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a client takes an event stream: it says so, it takes anything, or it does not say (RFC 9110 §12.5.1).
fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let mut accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .peekable();
    accepted.peek().is_none()
        || accepted.flat_map(|value| value.split(',')).any(|range| {
            let kind = range.split(';').next().unwrap_or_default().trim();
            ["text/event-stream", "text/*", "*/*"]
                .iter()
                .any(|known| kind.eq_ignore_ascii_case(known))
        })
}

/// A quarter more or less than `retry`, in milliseconds, so that clients that were cut off together do not come back so.
fn jittered(retry: Duration) -> u32 {
    spread(retry, 0.75..1.25)
}

/// Somewhere within `range` times `retry`, in milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float too large becomes the largest delay"
)]
fn spread(retry: Duration, range: std::ops::Range<f64>) -> u32 {
    let factor = range.start + fastrand::f64() * (range.end - range.start);
    (retry.as_secs_f64() * 1000.0 * factor) as u32
}

/// Where a connection that sends a stream's bytes by itself finds it, when the request that it came with is answered. It
/// stands among the request's extensions; then the answer has no body.
#[derive(Debug, Default)]
pub struct Handover(Mutex<Option<EventStream>>);

impl Handover {
    fn give(&self, stream: EventStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    /// The stream, if that is what was answered.
    #[must_use]
    pub fn take(&self) -> Option<EventStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A session written as SSE.
#[derive(Debug)]
pub struct EventStream {
    /// Gone once the stream has ended.
    session: Option<Session>,
    retry: Duration,
    /// What stands before everything else; gone once sent.
    preamble: Option<Block>,
    envelope: bool,
    heartbeat: Heartbeat,
    link: Option<Arc<Link>>,
    /// An event that is too long to be sent with what was given last, and goes alone after it.
    long: Option<Bytes>,
    /// What was given last is all there is.
    told_all: bool,
}

impl EventStream {
    /// Whether what it gave last is all there is: then the task is woken when there is more, and need not ask before.
    #[must_use]
    pub const fn has_told_all(&self) -> bool {
        self.told_all
    }

    /// What is to be sent next: whole blocks, the first of them at once. `None` is the end.
    pub fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
        framing: Framing,
    ) -> Poll<Option<Bytes>> {
        if let Some(long) = self.long.take() {
            self.told_all = false;
            return Poll::Ready(Some(self.counted(long)));
        }
        let (mut batch, mut told_all) = (Batch::new(framing), false);
        if let Some(preamble) = self.preamble.take() {
            batch.add(&preamble);
        }
        if let Some(session) = &mut self.session {
            let (envelope, link) = (self.envelope, self.link.as_deref());
            let (mut events, mut last_id) = (0, None);
            let step = session.poll_step(context, |frame: &Arc<Frame>| {
                if let Some(link) = link.filter(|_| events == 0) {
                    link.handed_over(frame.accepted_at());
                }
                events += 1;
                last_id = Some(frame.id());
                batch.add(if envelope {
                    frame.sse_envelope()
                } else {
                    frame.sse()
                });
                batch.room()
            });
            match step {
                Poll::Ready(Step::Events { all }) => {
                    session.delivered(events, last_id);
                    told_all = all;
                }
                Poll::Ready(step) => self.write(step, &mut batch),
                Poll::Pending => {}
            }
        }
        let (bytes, long) = batch.into_bytes();
        self.told_all = told_all && long.is_none();
        self.long = long;
        match bytes {
            Some(bytes) => Poll::Ready(Some(self.counted(bytes))),
            None if self.session.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// These bytes, counted as handed to the client.
    fn counted(&mut self, bytes: Bytes) -> Bytes {
        if let Some(session) = &mut self.session {
            session.wrote(bytes.len());
        }
        bytes
    }
}

/// For a connection that hyper writes.
impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let polled = self.poll_bytes(context, Framing::None);
        polled.map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }
}

impl EventStream {
    fn write(&mut self, step: Step, batch: &mut Batch) {
        if let (Step::Joined { checkpoint: id, .. } | Step::Heartbeat(id), Some(session)) =
            (step, &mut self.session)
        {
            session.has_id(id);
        }
        match step {
            // The gap first: a client that is cut off between the two must not come back from after what it missed.
            Step::Joined { checkpoint, gap } => {
                if let Some(gap) = gap {
                    batch.add(&gap_event(gap));
                }
                // To be seen by a script that asked for that: else it would not know where it is before the next heartbeat.
                if checkpoint.is_some() {
                    self.beat(checkpoint, batch);
                }
            }
            Step::Events { .. } => {}
            Step::Gap(gap) => batch.add(&gap_event(gap)),
            Step::Heartbeat(id) => self.beat(id, batch),
            Step::Expiring => batch.add(&sse::control("bridge.expiring", "{}")),
            Step::End(reason) => {
                self.farewell(reason, batch);
                if let Some(mut session) = self.session.take() {
                    session.wrote(batch.len());
                }
            }
        }
    }

    fn beat(&self, id: Option<EventId>, batch: &mut Batch) {
        match (self.heartbeat, id) {
            (Heartbeat::Checkpoint, None) => batch.add(&sse::comment()),
            (_, Some(id)) => batch.add(&sse::checkpoint(id)),
            (Heartbeat::Event, None) => {}
        }
        if self.heartbeat == Heartbeat::Event {
            // The checkpoint moved the id; this itself bears none.
            batch.add(&sse::control("bridge.heartbeat", "{}"));
        }
    }

    /// What a client is told before its stream ends. One that was too slow is told nothing: it comes back at once.
    fn farewell(&self, reason: CloseReason, batch: &mut Batch) {
        let data = match reason {
            CloseReason::Drain => r#"{"reason":"drain"}"#,
            CloseReason::Expired => r#"{"reason":"expired"}"#,
            CloseReason::Revoked => r#"{"reason":"revoked"}"#,
            CloseReason::Client | CloseReason::Stalled | CloseReason::Slow => return,
        };
        // Whose login was revoked is not to come back: no time to do so is named.
        if reason != CloseReason::Revoked {
            // Spread out, so that the replicas that are left do not get all of them at once.
            batch.add(&sse::retry(spread(self.retry, 0.5..4.0)));
        }
        batch.add(&sse::control("bridge.bye", data));
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let stalled = self
            .link
            .as_ref()
            .is_some_and(|link| link.stalled.load(Ordering::Relaxed));
        if let Some(session) = self.session.as_mut().filter(|_| stalled) {
            session.stalled();
        }
    }
}

fn gap_event(gap: Gap) -> Block {
    let missed = gap
        .missed
        .map_or_else(|| "null".to_owned(), |missed| missed.to_string());
    sse::control(
        "bridge.gap",
        &format!(
            r#"{{"reason":"{}","missed":{missed}}}"#,
            gap.reason.as_str()
        ),
    )
}

/// What stands around the blocks of a stream when its connection gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing: the connection frames what it is given.
    None,
    /// Each is a chunk of HTTP/1.1.
    Chunked,
}

/// Blocks that are sent together. One alone is passed on as it is, shared with every other client; several are copied, all of
/// them short.
#[derive(Debug)]
struct Batch {
    framing: Framing,
    bytes: Gathered,
    /// A long block behind them.
    long: Option<Bytes>,
}

#[derive(Debug)]
enum Gathered {
    Nothing,
    One(Bytes),
    Several(BytesMut),
}

impl Batch {
    fn new(framing: Framing) -> Self {
        Self {
            framing,
            bytes: Gathered::Nothing,
            long: None,
        }
    }

    /// Adds a block, for which there must be room.
    fn add(&mut self, block: &Block) {
        let framed = match self.framing {
            Framing::None => block,
            Framing::Chunked => &**block.chunk(),
        };
        let shared = || match self.framing {
            Framing::None => block.bytes(),
            Framing::Chunked => block.chunk().clone(),
        };
        match &mut self.bytes {
            Gathered::Nothing => self.bytes = Gathered::One(shared()),
            _ if block.len() > COPIED_BYTES => self.long = Some(shared()),
            Gathered::One(first) => {
                let capacity = (first.len() + framed.len()).max(BATCH_BYTES / 8);
                let mut several = BytesMut::with_capacity(capacity);
                several.extend_from_slice(first);
                several.extend_from_slice(framed);
                self.bytes = Gathered::Several(several);
            }
            Gathered::Several(several) => several.extend_from_slice(framed),
        }
    }

    fn len(&self) -> usize {
        match &self.bytes {
            Gathered::Nothing => 0,
            Gathered::One(block) => block.len(),
            Gathered::Several(blocks) => blocks.len(),
        }
    }

    /// Whether there is room for more.
    fn room(&self) -> ControlFlow<()> {
        let is_full = match &self.bytes {
            Gathered::Nothing => false,
            Gathered::One(block) => block.len() > COPIED_BYTES,
            Gathered::Several(blocks) => blocks.len() >= BATCH_BYTES,
        };
        if is_full || self.long.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// What is sent now, and what after it.
    fn into_bytes(self) -> (Option<Bytes>, Option<Bytes>) {
        let bytes = match self.bytes {
            Gathered::Nothing => None,
            Gathered::One(block) => Some(block),
            Gathered::Several(blocks) => Some(blocks.freeze()),
        };
        (bytes, self.long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client is given of blocks that wait together, in turn.
    fn given(framing: Framing, blocks: &[Block]) -> Vec<Bytes> {
        let (mut given, mut waiting) = (Vec::new(), blocks);
        while !waiting.is_empty() {
            let mut batch = Batch::new(framing);
            while let Some((block, rest)) = waiting.split_first()
                && batch.room().is_continue()
            {
                batch.add(block);
                waiting = rest;
            }
            let (now, then) = batch.into_bytes();
            given.extend(now.into_iter().chain(then));
        }
        given
    }

    #[test]
    fn a_long_event_is_shared_by_all_its_clients_wherever_it_stands_and_short_ones_leave_together()
    {
        let short = || sse::control("s", "1");
        let long = || sse::control("l", &"x".repeat(COPIED_BYTES));
        for framing in [Framing::None, Framing::Chunked] {
            let blocks = [
                long(),
                short(),
                short(),
                long(),
                long(),
                short(),
                long(),
                short(),
            ];
            let given = given(framing, &blocks);
            let all: Vec<&[u8]> = blocks
                .iter()
                .map(|block| match framing {
                    Framing::None => &**block,
                    Framing::Chunked => &**block.chunk(),
                })
                .collect();
            assert_eq!(given.concat(), all.concat());
            assert_eq!(given.len(), 7, "both short ones at the front together");
            for long in blocks.iter().filter(|block| block.len() > COPIED_BYTES) {
                let memory = long.chunk().as_ptr_range();
                let is_shared = |bytes: &&Bytes| memory.contains(&bytes.as_ptr());
                assert_eq!(given.iter().filter(is_shared).count(), 1);
            }
        }
        let many: Vec<Block> = (0..10_000).map(|_| short()).collect();
        let given = given(Framing::Chunked, &many);
        let most = BATCH_BYTES + COPIED_BYTES + 16;
        assert!(given.iter().all(|bytes| bytes.len() <= most));
        assert!(given.len() < 20, "{}", given.len());
    }
}
