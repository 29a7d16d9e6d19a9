//! A request's body: read no further, and for no longer, than whoever sends it needs.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use http::StatusCode;
use tokio::time::timeout;

use crate::problem::Problem;

/// How long a body may take to come.
const TIMEOUT: Duration = Duration::from_secs(10);

/// All of a body.
///
/// # Errors
/// 413 where it has more than `limit` bytes or breaks off, 408 where it does not come.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    match timeout(TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let detail =
                format!("the body cannot be read to its end, or has more than {limit} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s", TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}
