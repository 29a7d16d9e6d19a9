//! Which path leads where, and what every answer bears.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING,
    VARY,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use super::console::Console;
use super::{CorsOrigins, operations};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::publish::{self, Publishing};
use crate::revoke::{self, Revoking};
use crate::traces::{TRACEPARENT, TRACESTATE};
use crate::transport::request::LAST_EVENT_ID;
use crate::transport::{Transport, sse};
use crate::watch::{self, Watching};

/// How long a browser may remember the answer to a preflight (Fetch §4.9).
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);

/// How long a client should wait where there is no room for it, in seconds.
const RETRY_AFTER_SECONDS: u16 = 10;

/// The public listener.
pub fn public(
    transport: Arc<Transport>,
    publishing: Arc<Publishing>,
    lifecycle: Lifecycle,
    origins: &CorsOrigins,
) -> Router {
    Router::new()
        .route("/events", get(sse::events).with_state(transport))
        .route("/publish", post(publish::publish).with_state(publishing))
        .merge(operations::health(lifecycle))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(unambiguous))
        .layer(cors(origins))
        .layer(middleware::from_fn(unambiguous_preflight))
        .layer(vary())
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// There are as many as there may be: 503, as other replicas may have room.
    Full,
    /// Those of its address come too fast.
    TooFast,
    /// Its address holds as many as it may.
    TooMany,
}

/// What is answered to a connection that is not let in, whatever it asks for; but whoever asks whether this replica is
/// alive is told, or it would be restarted for being full.
pub fn refusing(refusal: Refusal, lifecycle: Lifecycle, origins: &CorsOrigins) -> Router {
    operations::health(lifecycle)
        .fallback(async move || Problem::from(refusal))
        .layer(cors(origins))
        .layer(vary())
        .layer(SetResponseHeaderLayer::overriding(
            CONNECTION,
            HeaderValue::from_static("close"),
        ))
}

/// An answer to one origin must not be given to another from a cache.
fn vary() -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(VARY, HeaderValue::from_static("Origin"))
}

/// What those see who run it: on the admin listener, or in `dev` on the public one.
pub fn operators(
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    watching: Arc<Watching>,
    console: Console,
) -> Router {
    Router::new()
        .route("/tail", get(watch::tail).with_state(watching))
        .merge(operations::metrics(metrics, lifecycle))
        .merge(console.router())
}

/// The admin listener. Nothing is revoked where no tokens are checked.
pub fn admin(operators: Router, revoking: Option<Arc<Revoking>>, lifecycle: Lifecycle) -> Router {
    let revoke = revoking.map(|revoking| post(revoke::revoke).with_state(revoking));
    revoke
        .into_iter()
        .fold(Router::new(), |router, revoke| {
            router.route("/revoke", revoke)
        })
        .merge(operations::health(lifecycle))
        .merge(operators)
        .fallback(not_found_by_operators)
        .method_not_allowed_fallback(method_not_allowed_to_operators)
}

/// What pages of other origins may do (Fetch §3.2): read streams and publish, with credentials where origins are named.
fn cors(origins: &CorsOrigins) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            AUTHORIZATION,
            CACHE_CONTROL,
            CONTENT_TYPE,
            HeaderName::from_static(LAST_EVENT_ID),
            HeaderName::from_static(TRACEPARENT),
            HeaderName::from_static(TRACESTATE),
        ])
        .expose_headers([RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE);
    match origins {
        CorsOrigins::None => CorsLayer::new(),
        CorsOrigins::Any => layer.allow_origin(AllowOrigin::any()),
        CorsOrigins::Exactly(origins) => {
            layer.allow_origin(origins.clone()).allow_credentials(true)
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, detail) = match refusal {
            Refusal::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "this replica holds as many connections as it may; come back later",
            ),
            Refusal::TooFast => (
                StatusCode::TOO_MANY_REQUESTS,
                "this address connects more often than it may; come back later",
            ),
            Refusal::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                "this address holds as many connections as one address may; come back later",
            ),
        };
        Self::later(status, RETRY_AFTER_SECONDS, detail)
    }
}

/// What could be read in two ways, here and by a proxy on the way, is not read at all (RFC 9112 §3.2, §6.1): a body is as
/// long as its `Content-Length` says, and a request is for one host, which whatever comes next finds in `Host`.
async fn unambiguous(mut request: Request, next: Next) -> Response {
    if let Some(problem) = ambiguity(&request) {
        return ([(CONNECTION, "close")], problem).into_response();
    }
    // HTTP/2 names the host as the target's authority (RFC 9113 §8.3.1).
    let authority = request
        .uri()
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(authority) = authority {
        request.headers_mut().entry(HOST).or_insert(authority);
    }
    next.run(request).await
}

/// What the CORS layer answers by itself never comes to where other requests are judged.
async fn unambiguous_preflight(request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        unambiguous(request, next).await
    } else {
        next.run(request).await
    }
}

fn ambiguity(request: &Request) -> Option<Problem> {
    let (headers, target) = (request.headers(), request.uri());
    // hyper has taken away by now what stood beside it, so that one alone is refused too. HTTP/2 knows none.
    if headers.contains_key(TRANSFER_ENCODING) {
        let detail =
            "a body is taken by its Content-Length alone: send that, and no Transfer-Encoding";
        return Some(Problem::new(StatusCode::LENGTH_REQUIRED, detail));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let is_missing = host.is_none() && request.version() == Version::HTTP_11;
    if another.is_some() || is_missing {
        return Some(Problem::bad_request("a request has one Host header"));
    }
    let differs =
        |host: &HeaderValue, named: &str| !host.as_bytes().eq_ignore_ascii_case(named.as_bytes());
    let named = target.authority().map(http::uri::Authority::as_str);
    if let (Some(host), Some(named)) = (host, named)
        && differs(host, named)
    {
        let detail = "the target of this request is at another host than its Host header names";
        return Some(Problem::bad_request(detail));
    }
    // `GET events`, or a CONNECT: for a proxy, which this is not (RFC 9112 §3.2.3).
    target
        .path()
        .is_empty()
        .then(|| Problem::bad_request("the target of a request begins with /"))
}

async fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "nothing is served here; events are at /events",
    )
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take that method: GET /events, POST /publish",
    )
}

async fn not_found_by_operators() -> Problem {
    let detail = "nothing is served here; this listener has GET /metrics, /console, /tail, /healthz and /readyz, and POST /revoke where tokens are checked";
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn method_not_allowed_to_operators() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take that method: POST /revoke, GET all others",
    )
}
