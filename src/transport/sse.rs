//! `GET /events`: a stream over Server-Sent Events (WHATWG HTML §9.2), as a body that hyper pulls.
//!
//! hyper asks for more only while its socket takes what it has, so a client that stalls is simply not asked for; its
//! ring drops what it has no room for, and the first thing it is sent when it goes on is how much that was.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use super::request::{EventsRequest, Heartbeat};
use super::session::{CloseReason, Session, Step};
use crate::auth::{BadCredentials, Grant, Shown, Unauthenticated};
use crate::event::id::EventId;
use crate::frame::{Frame, sse};
use crate::hub::Gap;
use crate::problem::Problem;

/// As this transport is called in metrics.
const NAME: &str = "sse";

/// Events that wait together are sent together, up to about this many bytes: one chunk, one copy, one write.
const CHUNK_BYTES: usize = 16 * 1024;

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
/// an event stream, 429 over a limit. All else is a 200: a browser gives up for good on anything but that.
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
    let grant = transport
        .authenticator
        .authenticate(shown)
        .await
        .map_err(|error| refuse(refusal_reason(&error), error.into()))?;
    if !accepts_event_stream(&headers) {
        let detail = "this is an event stream: send `Accept: text/event-stream`";
        return Err(refuse(
            "bad_request",
            Problem::new(StatusCode::NOT_ACCEPTABLE, detail),
        ));
    }
    let request = EventsRequest::parse(query.as_deref(), &headers, &transport.attributes)
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
            let (reason, detail) = match full {
                Full::User => (
                    "user_limit",
                    "this user holds as many streams as one user may",
                ),
                Full::Address => (
                    "address_limit",
                    "this address holds as many streams as one address may",
                ),
            };
            refuse(
                reason,
                Problem::later(StatusCode::TOO_MANY_REQUESTS, RETRY_AFTER_SECONDS, detail),
            )
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
        transport.config.heartbeat,
        grant.validity(),
        seat,
        NAME,
        Arc::clone(metrics),
    );
    let stream = EventStream {
        session: Some(session),
        retry: transport.config.retry,
        preamble: Some(sse::retry(jittered(transport.config.retry))),
        envelope: request.envelope,
        heartbeat: request.heartbeat,
        link,
    };
    Ok(response(Body::new(stream)))
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

/// A session written as SSE.
#[derive(Debug)]
struct EventStream {
    /// Gone once the stream has ended.
    session: Option<Session>,
    retry: Duration,
    /// What stands before everything else; gone once sent.
    preamble: Option<Bytes>,
    envelope: bool,
    heartbeat: Heartbeat,
    link: Option<Arc<Link>>,
}

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let mut chunk = Chunk::default();
        if let Some(preamble) = this.preamble.take() {
            chunk.add(&preamble);
        }
        if let Some(session) = &mut this.session {
            let (envelope, link) = (this.envelope, this.link.as_deref());
            let mut events = 0;
            let step = session.poll_step(context, |frame: &Arc<Frame>| {
                if let Some(link) = link.filter(|_| events == 0) {
                    link.handed_over(frame.accepted_at());
                }
                events += 1;
                chunk.add(if envelope {
                    frame.sse_envelope()
                } else {
                    frame.sse()
                });
                chunk.room()
            });
            match step {
                Poll::Ready(Step::Events) => session.delivered(events),
                Poll::Ready(step) => this.write(step, &mut chunk),
                Poll::Pending => {}
            }
        }
        match chunk.into_bytes() {
            Some(bytes) => Poll::Ready(Some(Ok(BodyFrame::data(bytes)))),
            None if this.session.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl EventStream {
    fn write(&mut self, step: Step, chunk: &mut Chunk) {
        match step {
            // The gap first: a client that is cut off between the two must not come back from after what it missed.
            Step::Joined { checkpoint, gap } => {
                if let Some(gap) = gap {
                    chunk.add(&gap_event(gap));
                }
                if let Some(id) = checkpoint {
                    chunk.add(&sse::checkpoint(id));
                }
            }
            Step::Events => {}
            Step::Gap(gap) => chunk.add(&gap_event(gap)),
            Step::Heartbeat(id) => chunk.add(&self.beat(id)),
            Step::Expiring => chunk.add(&sse::control("bridge.expiring", "{}")),
            Step::End(reason) => {
                if let Some(farewell) = self.farewell(reason) {
                    chunk.add(&farewell);
                }
                self.session = None;
            }
        }
    }

    fn beat(&self, id: Option<EventId>) -> Bytes {
        match (self.heartbeat, id) {
            (Heartbeat::Checkpoint, Some(id)) => sse::checkpoint(id),
            (Heartbeat::Checkpoint, None) => Bytes::from_static(sse::COMMENT),
            (Heartbeat::Event, Some(id)) => {
                // The id moves too; `bridge.heartbeat` itself bears none.
                let mut both = BytesMut::from(&sse::checkpoint(id)[..]);
                both.extend_from_slice(&sse::control("bridge.heartbeat", "{}"));
                both.freeze()
            }
            (Heartbeat::Event, None) => sse::control("bridge.heartbeat", "{}"),
        }
    }

    /// What a client is told before its stream ends. One that was too slow is told nothing: it comes back at once.
    fn farewell(&self, reason: CloseReason) -> Option<Bytes> {
        let data = match reason {
            CloseReason::Drain => r#"{"reason":"drain"}"#,
            CloseReason::Expired => r#"{"reason":"expired"}"#,
            // It is not to come back: no time to do so is named.
            CloseReason::Revoked => {
                return Some(sse::control("bridge.bye", r#"{"reason":"revoked"}"#));
            }
            CloseReason::Client | CloseReason::Stalled | CloseReason::Slow => return None,
        };
        // Spread out, so that the replicas that are left do not get all of them at once.
        let mut farewell = BytesMut::from(&sse::retry(spread(self.retry, 0.5..4.0))[..]);
        farewell.extend_from_slice(&sse::control("bridge.bye", data));
        Some(farewell.freeze())
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

fn gap_event(gap: Gap) -> Bytes {
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

/// Blocks that are sent together. One alone is passed on as it is, shared with every other client; several are copied.
#[derive(Debug, Default)]
enum Chunk {
    #[default]
    Empty,
    One(Bytes),
    Several(BytesMut),
}

impl Chunk {
    fn add(&mut self, block: &Bytes) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(block.clone()),
            Self::One(first) => {
                let mut several =
                    BytesMut::with_capacity((first.len() + block.len()).max(CHUNK_BYTES / 8));
                several.extend_from_slice(&first);
                several.extend_from_slice(block);
                Self::Several(several)
            }
            Self::Several(mut several) => {
                several.extend_from_slice(block);
                Self::Several(several)
            }
        };
    }

    /// Whether there is room for more.
    fn room(&self) -> ControlFlow<()> {
        let bytes = match self {
            Self::Empty => 0,
            Self::One(block) => block.len(),
            Self::Several(blocks) => blocks.len(),
        };
        if bytes < CHUNK_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Empty => None,
            Self::One(block) => Some(block),
            Self::Several(blocks) => Some(blocks.freeze()),
        }
    }
}
