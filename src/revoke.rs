//! `POST /revoke`, on the admin listener: a user or a token is revoked, here at once and on every other replica through
//! the broker. And what other replicas say that was revoked.
//!
//! It holds here before the broker is asked: where that fails, as much is revoked as can be.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::ORIGIN;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::amqp::{Outgoing, Publisher, RevocationStream};
use crate::auth::{MAX_TOKEN_ID_BYTES, Revocation, Revocations, Subject, is_token_id};
use crate::body;
use crate::event::Notices;
use crate::event::audience::Identifier;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::problem::Problem;

/// What the handler needs. One a process, shared.
#[derive(Debug)]
pub struct Revoking {
    /// What is revoked here.
    pub revocations: Revocations,
    /// How other replicas are told.
    pub publisher: Publisher,
    /// Where.
    pub stream: RevocationStream,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The largest body, in bytes.
const BODY_BYTES: usize = 8 * 1024;

/// How many may be revoked at a time, which bounds what they take in memory: some 300 MB.
const MAX_REVOCATIONS: usize = 1_000_000;

/// How long a client should wait while the broker cannot be had, in seconds.
const RETRY_AFTER_SECONDS: u16 = 2;

/// The body of a request. A member that is unknown is refused: a misspelt one would change who is revoked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRevocation {
    token_id: Option<String>,
    user_id: Option<String>,
    tenant_id: Option<String>,
    /// Seconds since the Unix epoch.
    expires_at: Option<u64>,
}

/// A revocation as replicas tell it: JSON, so that an operator can read it. Versions to come may say more.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
    /// Milliseconds since the Unix epoch.
    revoked_at_ms: u64,
    /// Seconds since the Unix epoch.
    expires_at: u64,
}

/// Answers `POST /revoke`: 202 once the broker has confirmed, so that every replica hears of it.
///
/// # Errors
/// 400 for what is no JSON, 403 for a browser's page, 408 for a body that does not come, 413 and 422 for what cannot be
/// revoked, 503 when the broker cannot be had: then it holds on this replica alone.
pub async fn revoke(
    State(revoking): State<Arc<Revoking>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if headers.contains_key(ORIGIN) {
        // There is no login here: a page that an operator happens to visit could otherwise log everybody out.
        let detail = "this is no request for a browser's page: send it without an Origin header";
        return Err(Problem::forbidden(detail));
    }
    let body = body::read(body, BODY_BYTES).await?;
    let request: NewRevocation = serde_json::from_slice(&body).map_err(|error| {
        let status = match error.classify() {
            Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            Category::Syntax | Category::Eof | Category::Io => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, error.to_string())
    })?;
    let now = SystemTime::now();
    let revocation = request.judge(now, revoking.stream.max_age)?;
    if revoking.revocations.count() >= MAX_REVOCATIONS {
        let detail = format!(
            "{MAX_REVOCATIONS} revocations are known, and no more are taken; wait for some to end"
        );
        return Err(later(detail));
    }
    let record = Record::of(&revocation);
    let ended = revoking.revocations.apply(revocation, now);
    revoking
        .metrics
        .revocations
        .set(count(&revoking.revocations));
    tracing::info!(
        token_id = record.token_id.as_ref().map(tracing::field::debug),
        user_id = record.user_id,
        tenant_id = record.tenant_id,
        expires_at = record.expires_at,
        streams_ended = ended,
        "revoked"
    );
    revoking.tell(&record, now).await.map_err(|error| {
        tracing::error!(%error, "cannot tell other replicas what was revoked");
        later("the broker did not confirm it, so that it holds on this replica only; send it again")
    })?;
    Ok(StatusCode::ACCEPTED.into_response())
}

impl Revoking {
    async fn tell(&self, record: &Record, now: SystemTime) -> Result<(), crate::amqp::Error> {
        let outgoing = Outgoing {
            // The default exchange, which every queue is bound to by its name (AMQP 0-9-1 §3.1.3.1).
            exchange: String::new(),
            routing_key: self.stream.queue.clone(),
            headers: Vec::new(),
            kind: None,
            message_id: None,
            timestamp: Some(seconds(now)),
            content_type: Some("application/json".to_owned()),
            // Numbers and texts can always be written.
            body: Bytes::from(serde_json::to_vec(record).unwrap_or_default()),
        };
        self.publisher.publish(outgoing).await
    }
}

impl NewRevocation {
    /// What is to be revoked, and until when: as long as the stream keeps it, so that a replica that starts then knows it.
    fn judge(self, now: SystemTime, max_age: Duration) -> Result<Revocation, Problem> {
        let latest = now + max_age;
        let expires_at = match self.expires_at {
            None => latest,
            Some(at) => UNIX_EPOCH
                .checked_add(Duration::from_secs(at))
                .filter(|at| *at <= latest)
                .ok_or_else(|| {
                    Problem::unprocessable(format!(
                        "expires_at (seconds since 1970) is more than AUTH_REVOCATION_MAX_AGE ({} s) from now, when the \
                         revocation would be forgotten: raise that setting, or leave expires_at out",
                        max_age.as_secs()
                    ))
                })?,
        };
        let subject =
            subject(self.token_id, self.user_id, self.tenant_id).map_err(Problem::unprocessable)?;
        // A token that has ended is refused anyway, but a user goes on.
        if matches!(subject, Subject::User { .. }) && expires_at <= now {
            return Err(Problem::unprocessable(
                "expires_at (seconds since 1970) is past, so that nothing of this user's would be revoked: say until when \
                 its tokens are good, or leave expires_at out",
            ));
        }
        Ok(Revocation {
            subject,
            revoked_at: now,
            expires_at,
        })
    }
}

impl Record {
    fn of(revocation: &Revocation) -> Self {
        let (token_id, user_id, tenant_id) = match &revocation.subject {
            Subject::Token(id) => (Some(id.clone()), None, None),
            Subject::User { tenant, user } => (
                None,
                Some(user.to_string()),
                tenant.as_ref().map(ToString::to_string),
            ),
        };
        let since_1970 = revocation.revoked_at.duration_since(UNIX_EPOCH);
        let milliseconds = since_1970.unwrap_or_default().as_millis();
        Self {
            token_id,
            user_id,
            tenant_id,
            revoked_at_ms: u64::try_from(milliseconds).unwrap_or(u64::MAX),
            expires_at: seconds(revocation.expires_at),
        }
    }

    /// What another replica has revoked; none where that cannot be understood.
    fn revocation(self) -> Option<Revocation> {
        let since_1970 = |duration| UNIX_EPOCH.checked_add(duration);
        Some(Revocation {
            subject: subject(self.token_id, self.user_id, self.tenant_id).ok()?,
            revoked_at: since_1970(Duration::from_millis(self.revoked_at_ms))?,
            expires_at: since_1970(Duration::from_secs(self.expires_at))?,
        })
    }
}

/// One token, or one user; what is wrong otherwise.
fn subject(
    token_id: Option<String>,
    user_id: Option<String>,
    tenant_id: Option<String>,
) -> Result<Subject, String> {
    let identifier = |member: &str, value: String| {
        let legal: Result<Identifier, _> = value.parse();
        legal.map_err(|error| format!("{member}: {error}"))
    };
    match (token_id, user_id, tenant_id) {
        (Some(id), None, None) if !is_token_id(&id) => Err(format!(
            "token_id must have 1 to {MAX_TOKEN_ID_BYTES} bytes, none of them a control character"
        )),
        (Some(id), None, None) => Ok(Subject::Token(id)),
        (None, Some(user), tenant) => Ok(Subject::User {
            tenant: tenant
                .map(|tenant| identifier("tenant_id", tenant))
                .transpose()?,
            user: identifier("user_id", user)?,
        }),
        (Some(_), None, Some(_)) => Err(
            "tenant_id belongs to user_id: the id of a token is its own, in whichever tenant"
                .to_owned(),
        ),
        (Some(_), Some(_), _) | (None, None, _) => {
            Err("name what to revoke: either token_id or user_id".to_owned())
        }
    }
}

/// What replicas tell each other, applied here.
#[derive(Debug)]
pub struct Feed {
    /// What is revoked here.
    pub revocations: Revocations,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told when all is known.
    pub lifecycle: Lifecycle,
}

impl Notices for Feed {
    fn accept(&mut self, body: &[u8]) {
        let record: Option<Record> = serde_json::from_slice(body).ok();
        let Some(revocation) = record.and_then(Record::revocation) else {
            self.metrics.revocations_malformed.inc();
            tracing::warn!("a record among the revocations cannot be read; it is skipped");
            return;
        };
        if let Some(streams_ended) = self.revocations.apply(revocation, SystemTime::now()) {
            self.metrics.revocations.set(count(&self.revocations));
            tracing::debug!(streams_ended, "heard of a revocation");
        }
    }

    fn caught_up(&mut self) {
        self.revocations.inform();
        self.lifecycle.mark_informed();
    }
}

/// How many are known, as a gauge has it.
#[must_use]
pub fn count(revocations: &Revocations) -> i64 {
    i64::try_from(revocations.count()).unwrap_or(i64::MAX)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn later(detail: impl Into<String>) -> Problem {
    Problem::later(StatusCode::SERVICE_UNAVAILABLE, RETRY_AFTER_SECONDS, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)
    }

    fn judge(body: &str) -> Result<Revocation, Problem> {
        let request: NewRevocation = serde_json::from_str(body).unwrap();
        request.judge(now(), DAY)
    }

    #[test]
    fn a_revocation_lasts_as_long_as_it_says_and_no_longer_than_the_stream_keeps_it() {
        let expires_at = |body: &str| judge(body).map(|revocation| revocation.expires_at);
        let of = |text: &str| format!(r#"{{"token_id":"j1"{text}}}"#);
        let seconds = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(expires_at(&of("")), Ok(now() + DAY));
        assert_eq!(
            expires_at(&of(r#","expires_at":1700000060"#)),
            Ok(seconds(1_700_000_060))
        );
        assert_eq!(expires_at(&of(r#","expires_at":0"#)), Ok(seconds(0)));
        for late in ["1700086401", "18446744073709551615"] {
            let refused = expires_at(&of(&format!(r#","expires_at":{late}"#)));
            assert_eq!(
                refused.map_err(|problem| problem.status()),
                Err(StatusCode::UNPROCESSABLE_ENTITY),
                "{late}"
            );
        }
    }

    #[test]
    fn what_one_replica_writes_another_reads() {
        for body in [
            r#"{"token_id":"j\\\"1"}"#,
            r#"{"user_id":"42"}"#,
            r#"{"user_id":"42","tenant_id":"acme","expires_at":1700000060}"#,
        ] {
            let mut revocation = judge(body).unwrap();
            let written = serde_json::to_vec(&Record::of(&revocation)).unwrap();
            let read: Record = serde_json::from_slice(&written).unwrap();
            // In whole seconds, which is early by less than the time that it is remembered beyond.
            revocation.expires_at =
                UNIX_EPOCH + Duration::from_secs(seconds(revocation.expires_at));
            assert_eq!(read.revocation(), Some(revocation), "{body}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_counted_and_skipped() {
        let metrics = Metrics::new().unwrap();
        let mut feed = Feed {
            revocations: Revocations::awaited(),
            metrics: Arc::clone(&metrics),
            lifecycle: Lifecycle::default(),
        };
        let far = u64::MAX;
        let malformed = [
            "",
            "null",
            "[]",
            "{}",
            "\u{0}",
            r#"{"user_id":"42"}"#,
            r#"{"user_id":"","revoked_at_ms":1,"expires_at":99999999999}"#,
            r#"{"user_id":"4 2","revoked_at_ms":1,"expires_at":99999999999}"#,
            r#"{"user_id":42,"revoked_at_ms":1,"expires_at":99999999999}"#,
            r#"{"token_id":"j","user_id":"42","revoked_at_ms":1,"expires_at":99999999999}"#,
            r#"{"token_id":"","revoked_at_ms":1,"expires_at":99999999999}"#,
            r#"{"token_id":"j","revoked_at_ms":-1,"expires_at":99999999999}"#,
            &format!(r#"{{"token_id":"j","revoked_at_ms":1,"expires_at":{far}}}"#),
        ];
        for (count, body) in malformed.iter().enumerate() {
            feed.accept(body.as_bytes());
            assert_eq!(
                metrics.revocations_malformed.get(),
                count as u64 + 1,
                "{body}"
            );
        }
        assert_eq!(metrics.revocations.get(), 0);
        feed.accept(
            br#"{"user_id":"42","revoked_at_ms":1,"expires_at":99999999999,"why":"of a later version"}"#,
        );
        assert_eq!(metrics.revocations.get(), 1);
        assert_eq!(metrics.revocations_malformed.get(), malformed.len() as u64);
    }
}
