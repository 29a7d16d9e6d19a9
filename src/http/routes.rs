//! Which path leads where, and what every answer bears.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use super::{CorsOrigins, operations};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::publish::{self, Publishing};
use crate::transport::request::LAST_EVENT_ID;
use crate::transport::{Transport, sse};

/// How long a browser may remember the answer to a preflight (Fetch §4.9).
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);

/// The public listener.
pub fn public(
    transport: Arc<Transport>,
    publishing: Arc<Publishing>,
    lifecycle: Lifecycle,
    origins: &CorsOrigins,
) -> Router {
    let body_limit = match publishing.max_bytes {
        0 => DefaultBodyLimit::disable(),
        // The event and what stands around it.
        bytes => DefaultBodyLimit::max(bytes.saturating_add(publish::ENVELOPE_BYTES)),
    };
    Router::new()
        .route("/events", get(sse::events).with_state(transport))
        .route(
            "/publish",
            post(publish::publish)
                .layer(body_limit)
                .with_state(publishing),
        )
        .merge(operations::health(lifecycle))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(cors(origins))
        // An answer to one origin must not be given to another from a cache.
        .layer(SetResponseHeaderLayer::overriding(
            VARY,
            HeaderValue::from_static("Origin"),
        ))
}

/// The admin listener.
pub fn admin(metrics: Arc<Metrics>, lifecycle: Lifecycle) -> Router {
    operations::health(lifecycle)
        .merge(operations::metrics(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
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
