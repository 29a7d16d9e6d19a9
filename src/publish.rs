//! `POST /publish`: one event, to the exchange, answered once the broker has it. Never straight to the hub: there is one
//! way in.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::amqp;
use crate::auth::{Authenticator, Permission};
use crate::embedded;
use crate::event::audience::Identifier;
use crate::event::{EventName, HeaderValue, Message};
use crate::problem::Problem;

/// What the handler needs. One a process, shared.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Who may publish.
    pub authenticator: Authenticator,
    /// Where to.
    pub exchange: Exchange,
    /// The names of the headers that address an event.
    pub headers: AddressHeaders,
    /// The largest body that is taken, in bytes; 0 is no limit.
    pub max_bytes: usize,
}

/// The way in: RabbitMQ's exchange, or the one in memory.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// RabbitMQ's, by name.
    Broker(amqp::Publisher, String),
    /// That of `dev`.
    Embedded(embedded::Exchange),
}

/// The names of the AMQP headers by which a producer addresses an event.
#[derive(Clone, Debug)]
pub struct AddressHeaders {
    /// For one user.
    pub user: String,
    /// For one team.
    pub team: String,
    /// For one channel.
    pub channel: String,
    /// Inside one tenant.
    pub tenant: String,
}

/// What may stand around `data` in a request, in bytes.
pub const ENVELOPE_BYTES: usize = 8 * 1024;

/// AMQP's bound on short strings: topics, types, ids (AMQP 0-9-1 §4.2.5.3).
const SHORT_STRING_BYTES: usize = 255;

/// How long a client should wait while the broker cannot be had, in seconds.
const RETRY_AFTER_SECONDS: u16 = 2;

/// The body of a request. A member that is unknown is refused: a misspelt one would change who sees the event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEvent<'a> {
    topic: String,
    #[serde(borrow)]
    data: &'a RawValue,
    r#type: Option<String>,
    user_id: Option<String>,
    team_id: Option<String>,
    channel: Option<String>,
    tenant_id: Option<String>,
    message_id: Option<String>,
}

/// Answers `POST /publish`: 202 once the broker has confirmed.
///
/// # Errors
/// 401 and 403 for who may not, 413 and 422 for what the broker need not see, 503 when it cannot be had.
pub async fn publish(
    State(publishing): State<Arc<Publishing>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let grant = publishing
        .authenticator
        .authenticate(&headers)
        .map_err(|error| Problem::unauthorized(error.to_string()))?;
    grant
        .require(Permission::Publish)
        .map_err(|error| Problem::forbidden(error.to_string()))?;
    let body = body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let event: NewEvent<'_> =
        serde_json::from_slice(&body).map_err(|error| unprocessable(error.to_string()))?;
    let message = publishing.message(event, &body)?;
    match &publishing.exchange {
        Exchange::Broker(publisher, exchange) => {
            publisher.publish(outgoing(message, exchange.clone())).await.map_err(|error| match error {
                amqp::Error::Unroutable { .. } => unprocessable(error.to_string()),
                _ => {
                    tracing::warn!(%error, "cannot publish");
                    let detail = "the broker did not confirm the event; it may or may not have it: \
                                  publish it again with the same message_id";
                    Problem::later(StatusCode::SERVICE_UNAVAILABLE, RETRY_AFTER_SECONDS, detail)
                }
            })?;
        }
        Exchange::Embedded(exchange) => {
            exchange
                .publish(message)
                .await
                .map_err(|error| match error {
                    embedded::PublishError::Unroutable { .. } => unprocessable(error.to_string()),
                    embedded::PublishError::Closed => Problem::later(
                        StatusCode::SERVICE_UNAVAILABLE,
                        RETRY_AFTER_SECONDS,
                        error.to_string(),
                    ),
                })?
        }
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

impl Publishing {
    /// The message that says what the request says, checked before the broker sees it.
    fn message(&self, event: NewEvent<'_>, body: &Bytes) -> Result<Message, Problem> {
        let data = body.slice_ref(event.data.get().as_bytes());
        if self.max_bytes != 0 && data.len() > self.max_bytes {
            let detail = format!(
                "data has {} bytes; at most {} are taken",
                data.len(),
                self.max_bytes
            );
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        if event.topic.is_empty() {
            return Err(unprocessable("topic is empty"));
        }
        short("topic", &event.topic)?;
        if let Some(kind) = &event.r#type {
            let legal: Result<EventName, _> = kind.parse();
            legal.map_err(|error| unprocessable(format!("type: {error}")))?;
        }
        if let Some(message_id) = &event.message_id {
            short("message_id", message_id)?;
        }
        let mut headers = Vec::new();
        for (member, header, value) in [
            ("user_id", &self.headers.user, event.user_id),
            ("team_id", &self.headers.team, event.team_id),
            ("channel", &self.headers.channel, event.channel),
            ("tenant_id", &self.headers.tenant, event.tenant_id),
        ] {
            if let Some(value) = value {
                let legal: Result<Identifier, _> = value.parse();
                legal.map_err(|error| unprocessable(format!("{member}: {error}")))?;
                headers.push((header.clone(), HeaderValue::Text(value)));
            }
        }
        Ok(Message {
            position: None,
            routing_key: event.topic,
            headers,
            kind: event.r#type,
            message_id: event.message_id,
            timestamp: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .map(|now| now.as_secs()),
            expiration: None,
            redelivered: false,
            body: data,
        })
    }
}

/// A message as it goes to RabbitMQ's exchange.
fn outgoing(message: Message, exchange: String) -> amqp::Outgoing {
    let headers = message
        .headers
        .into_iter()
        .filter_map(|(name, value)| match value {
            HeaderValue::Text(text) => Some((name, text)),
            HeaderValue::Integer(_) | HeaderValue::Other(_) => None,
        });
    amqp::Outgoing {
        exchange,
        routing_key: message.routing_key,
        headers: headers.collect(),
        kind: message.kind,
        message_id: message.message_id,
        timestamp: message.timestamp,
        content_type: Some("application/json".to_owned()),
        body: message.body,
    }
}

fn short(member: &str, value: &str) -> Result<(), Problem> {
    if value.len() <= SHORT_STRING_BYTES {
        return Ok(());
    }
    Err(unprocessable(format!(
        "{member} has {} bytes; AMQP takes at most {SHORT_STRING_BYTES}",
        value.len()
    )))
}

fn unprocessable(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}
