//! For those who run it: is it alive, may it be given clients, how is it doing.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use crate::lifecycle::{Lifecycle, Readiness};
use crate::metrics::{self, Metrics};
use crate::problem::Problem;

/// `GET /healthz` and `GET /readyz`: on both listeners.
pub fn health(lifecycle: Lifecycle) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(lifecycle)
}

/// `GET /metrics`: on the admin listener, and in `dev` on the public one.
pub fn metrics(metrics: Arc<Metrics>, lifecycle: Lifecycle) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .with_state((metrics, lifecycle))
}

/// The process answers, so it is alive.
async fn healthz() -> Response {
    plain(StatusCode::OK, "ok\n")
}

async fn readyz(State(lifecycle): State<Lifecycle>) -> Response {
    match lifecycle.readiness() {
        Readiness::Ready => plain(StatusCode::OK, "ready\n"),
        Readiness::Connecting => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "the broker has not been reached yet\n",
        ),
        Readiness::Uninformed => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "which tokens were revoked has not been read yet\n",
        ),
        Readiness::Draining => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    (
        status,
        [
            (CONTENT_TYPE, "text/plain; charset=utf-8"),
            (CACHE_CONTROL, "no-store"),
        ],
        text,
    )
        .into_response()
}

async fn render(
    State((metrics, lifecycle)): State<(Arc<Metrics>, Lifecycle)>,
) -> Result<Response, Problem> {
    let is_ready = lifecycle.readiness() == Readiness::Ready;
    metrics.ready.set(is_ready.into());
    let text = metrics.render().map_err(|error| {
        tracing::error!(%error, "cannot write the metrics");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics cannot be written; the log says why",
        )
    })?;
    Ok((
        [
            (CONTENT_TYPE, metrics::CONTENT_TYPE),
            (CACHE_CONTROL, "no-store"),
        ],
        text,
    )
        .into_response())
}
