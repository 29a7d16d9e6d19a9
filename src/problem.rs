//! How an HTTP request is told that it failed: `application/problem+json` (RFC 9457), on every door.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::auth::{BadCredentials, Refused, Unauthenticated};

/// How long a client should wait for a key server to come back, in seconds.
const KEYS_RETRY_AFTER_SECONDS: u16 = 10;

/// An error answer. The title is its status' own; the detail says what was wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

/// The members of RFC 9457 §3.1. `type` is `about:blank`: the status says it all (§4.2.1).
#[derive(Serialize)]
struct Members<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// An answer of `status`; `detail` is for whoever wrote the client.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            header: None,
        }
    }

    /// 400: the request is wrong and will be wrong again.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 403: known, but not allowed.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 422: it can be read, and asks for what cannot be.
    #[must_use]
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 429 or 503: later, after `seconds` (RFC 9110 §10.2.3).
    #[must_use]
    pub fn later(status: StatusCode, seconds: u16, detail: impl Into<String>) -> Self {
        Self {
            header: Some((RETRY_AFTER, HeaderValue::from(seconds))),
            ..Self::new(status, detail)
        }
    }

    /// The answer's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// What every door answers to whom it does not know.
impl From<Unauthenticated> for Problem {
    fn from(error: Unauthenticated) -> Self {
        let detail = error.to_string();
        let (status, code) = match error {
            // RFC 6750 §3.1: who shows nothing is told no error code.
            Unauthenticated::Credentials(BadCredentials::Missing) => {
                (StatusCode::UNAUTHORIZED, None)
            }
            Unauthenticated::Credentials(BadCredentials::ForeignPage) => {
                return Self::forbidden(detail);
            }
            Unauthenticated::Credentials(
                BadCredentials::InQuery | BadCredentials::Contradicting,
            ) => (StatusCode::BAD_REQUEST, Some("invalid_request")),
            Unauthenticated::Credentials(BadCredentials::Malformed | BadCredentials::NoToken)
            | Unauthenticated::Wrong
            | Unauthenticated::Token(_) => (StatusCode::UNAUTHORIZED, Some("invalid_token")),
            Unauthenticated::Unavailable(_) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Self::later(status, KEYS_RETRY_AFTER_SECONDS, detail);
            }
        };
        Self {
            header: Some((WWW_AUTHENTICATE, challenge(code, &detail))),
            ..Self::new(status, detail)
        }
    }
}

/// What every door answers to whose token was good once, or may be.
impl From<Refused> for Problem {
    fn from(error: Refused) -> Self {
        let detail = error.to_string();
        match error.retry_after_seconds() {
            None => Self {
                header: Some((WWW_AUTHENTICATE, challenge(Some("invalid_token"), &detail))),
                ..Self::new(StatusCode::UNAUTHORIZED, detail)
            },
            Some(seconds) => Self::later(StatusCode::SERVICE_UNAVAILABLE, seconds, detail),
        }
    }
}

/// The scheme that would be right, and what was wrong (RFC 6750 §3, RFC 9110 §11.6.1).
fn challenge(code: Option<&str>, detail: &str) -> HeaderValue {
    let bare = HeaderValue::from_static("Bearer");
    let Some(code) = code else {
        return bare;
    };
    // RFC 6750 §3: neither quotes nor backslashes, nothing but ASCII.
    let legal = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    let detail: String = detail.chars().filter(legal).collect();
    HeaderValue::try_from(format!(
        r#"Bearer error="{code}", error_description="{detail}""#
    ))
    .unwrap_or(bare)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let members = Members {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&members).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}
