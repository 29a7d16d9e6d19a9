//! Which path leads where, and what every answer bears.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER,
    TRANSFER_ENCODING, VARY,
};
use http::uri::Authority;
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
        .layer(middleware::from_fn(unambiguous))
}

/// The listener of `dev`: all that there is, for this machine and its own pages, as there is no login.
pub fn dev(public: Router, operators: Router, origins: &CorsOrigins) -> Router {
    let of_known_pages = middleware::from_fn_with_state(Arc::new(origins.clone()), of_a_known_page);
    for_this_machine(public.merge(operators).layer(of_known_pages))
}

/// What is served to this machine alone, and so not under a name: whose it is decides to which address it leads, so that a
/// page of `evil.example` could have this listener's answers as those of its own origin (DNS rebinding).
pub fn for_this_machine(router: Router) -> Router {
    router.layer(middleware::from_fn(not_by_name))
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

async fn not_by_name(request: Request, next: Next) -> Response {
    if hosts(&request).all(is_of_this_machine) {
        return next.run(request).await;
    }
    let detail = "this listener is for the machine that it runs on, and takes no name but localhost: ask http://127.0.0.1 \
                  with its port; a proxy before it sends `Host: localhost`";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

/// The hosts that a request is for, each with its port: one, or what is ambiguous.
fn hosts(request: &Request) -> impl Iterator<Item = &str> {
    let headers = request.headers().get_all(HOST).iter();
    // What has no path is asked of a proxy, and refused as that.
    let target = request.uri();
    let named = target.authority().filter(|_| !target.path().is_empty());
    headers
        .map(|host| host.to_str().unwrap_or_default())
        .chain(named.map(Authority::as_str))
}

fn is_of_this_machine(host: &str) -> bool {
    host.parse::<Authority>().is_ok_and(|authority| {
        let host = authority.host();
        host.eq_ignore_ascii_case("localhost")
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    })
}

/// A browser sends a POST of plain text for whichever page asks, and does not ask before (Fetch §4.1): where nobody shows a
/// token, anybody's page could publish.
async fn of_a_known_page(
    State(origins): State<Arc<CorsOrigins>>,
    request: Request,
    next: Next,
) -> Response {
    let mut pages = request.headers().get_all(ORIGIN).iter();
    if request.method() != Method::POST || pages.all(|page| is_known(page, &request, &origins)) {
        return next.run(request).await;
    }
    let detail = "this page may not publish here, where there is no login: name its origin in HTTP_CORS_ORIGINS";
    ([(VARY, "Origin")], Problem::forbidden(detail)).into_response()
}

fn is_known(page: &HeaderValue, request: &Request, origins: &CorsOrigins) -> bool {
    let is_named = match origins {
        CorsOrigins::None => false,
        CorsOrigins::Any => true,
        CorsOrigins::Exactly(origins) => origins.contains(page),
    };
    let (_, own) = page
        .to_str()
        .ok()
        .and_then(|page| page.split_once("://"))
        .unwrap_or_default();
    is_named || hosts(request).any(|host| host.eq_ignore_ascii_case(own))
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
    let named = target.authority().map(Authority::as_str);
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
