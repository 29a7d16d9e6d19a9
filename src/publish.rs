//! `POST /publish`: one event, to the exchange, answered once the broker has it. Never straight to the hub: there is one
//! way in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::amqp;
use crate::auth::{
    Authenticator, Forbidden, Grant, Permission, Revocations, Shown, ShownToken, Unauthenticated,
};
use crate::body;
use crate::embedded;
use crate::event::address::AddressRules;
use crate::event::audience::Identifier;
use crate::event::{EventName, HeaderValue, Message};
use crate::faults::FaultLog;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::traces::{Publication, Tracer};

/// What the handler needs. One a process, shared.
#[derive(Debug)]
pub struct Publishing {
    /// Who may publish.
    pub authenticator: Authenticator,
    /// Who may no longer.
    pub revocations: Revocations,
    /// Where to.
    pub exchange: Exchange,
    /// How events are addressed, and so which headers say for whom one is.
    pub address: AddressRules,
    /// The largest body that is taken, in bytes; 0 is no limit.
    pub max_bytes: usize,
    /// What makes spans, where something does.
    pub tracer: Option<Tracer>,
    /// What has been told of the broker's faults: one that stops every event is not told with each.
    pub faults: Mutex<FaultLog>,
    /// Where outcomes are counted.
    pub metrics: Arc<Metrics>,
}

/// The way in: RabbitMQ's exchange, or the one in memory.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// RabbitMQ's, by name.
    Broker(amqp::Publisher, String),
    /// That of `dev`.
    Embedded(embedded::Exchange),
}

/// What may stand around `data` in a request, in bytes.
const ENVELOPE_BYTES: usize = 8 * 1024;

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

/// Answers `POST /publish`: 202 once the broker has confirmed. The message bears the trace that the request is in.
///
/// # Errors
/// 401 and 403 for who may not, 408 for a body that does not come, 413 and 422 for what the broker need not see, 503 when it
/// cannot be had, or when nobody knows yet what was revoked.
pub async fn publish(
    State(publishing): State<Arc<Publishing>>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let shown = Shown {
        method: &method,
        headers: &headers,
        query: query.as_deref(),
    };
    let mut trace = Publication::begin(publishing.tracer.as_ref(), &headers);
    let token = publishing.authenticator.token(&shown);
    // A token whose key may be new waits, and all else that the request bears is not held meanwhile.
    drop(headers);
    let answer = publishing.answer(token, body, &mut trace).await;
    let outcome = match &answer {
        Ok(_) => "confirmed",
        Err(problem) if problem.status().is_client_error() => "refused",
        Err(_) => "failed",
    };
    publishing.metrics.publishes.of(outcome).inc();
    trace.answered(
        answer
            .as_ref()
            .map_or_else(Problem::status, |status| *status),
    );
    answer.map(IntoResponse::into_response)
}

impl Publishing {
    async fn answer(
        &self,
        token: Result<ShownToken, Unauthenticated>,
        body: Body,
        trace: &mut Publication,
    ) -> Result<StatusCode, Problem> {
        let grant = self.authenticator.grant(token?).await?;
        grant.require(Permission::Publish).map_err(forbidden)?;
        // Not before it is known that it may publish.
        let body = body::read(body, self.body_limit()).await?;
        let event: NewEvent<'_> = serde_json::from_slice(&body)
            .map_err(|error| Problem::unprocessable(error.to_string()))?;
        let mut message = self.message(event, &body, &grant)?;
        // The last: on a replica that has just started it may take a while to know.
        self.revocations.check(&grant).await?;
        trace.send(&mut message);
        let sent = self.send(message).await;
        trace.sent(sent.as_ref().err().map(|problem| match problem.status() {
            StatusCode::UNPROCESSABLE_ENTITY => "unroutable",
            _ => "unconfirmed",
        }));
        sent.map(|()| StatusCode::ACCEPTED)
    }

    /// Sends a message to the exchange, and waits until that has it.
    async fn send(&self, message: Message) -> Result<(), Problem> {
        match &self.exchange {
            Exchange::Broker(publisher, exchange) => {
                let sending = publisher.publish(outgoing(message, exchange.clone()));
                sending.await.map_err(|error| match error {
                    amqp::Error::Unroutable { .. } => Problem::unprocessable(error.to_string()),
                    _ => {
                        self.complain(&error);
                        let detail = if error.leaves_open() {
                            "the broker did not confirm the event; it may or may not have it: \
                             publish it again with the same message_id"
                        } else {
                            "the broker does not have the event: it could not be reached, or did not take \
                             it (this bridge's log says why): publish it again later"
                        };
                        Problem::later(StatusCode::SERVICE_UNAVAILABLE, RETRY_AFTER_SECONDS, detail)
                    }
                })
            }
            Exchange::Embedded(exchange) => {
                exchange
                    .publish(message)
                    .await
                    .map_err(|error| match error {
                        embedded::PublishError::Unroutable { .. } => {
                            Problem::unprocessable(error.to_string())
                        }
                        embedded::PublishError::Closed => Problem::later(
                            StatusCode::SERVICE_UNAVAILABLE,
                            RETRY_AFTER_SECONDS,
                            error.to_string(),
                        ),
                    })
            }
        }
    }

    /// The largest body, in bytes: an event, and what may stand around it.
    const fn body_limit(&self) -> usize {
        match self.max_bytes {
            0 => usize::MAX,
            bytes => bytes.saturating_add(ENVELOPE_BYTES),
        }
    }

    fn complain(&self, error: &amqp::Error) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = faults.note(error, Instant::now()) {
            tracing::warn!(%error, times, "cannot publish");
        }
    }

    /// The message that says what the request says, checked before the broker sees it, inside the publisher's own tenant.
    fn message(
        &self,
        event: NewEvent<'_>,
        body: &Bytes,
        grant: &Grant,
    ) -> Result<Message, Problem> {
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
            return Err(Problem::unprocessable("topic is empty"));
        }
        short("topic", &event.topic)?;
        if let Some(kind) = &event.r#type {
            let legal: Result<EventName, _> = kind.parse();
            legal.map_err(|error| Problem::unprocessable(format!("type: {error}")))?;
        }
        if let Some(message_id) = &event.message_id {
            short("message_id", message_id)?;
        }
        let rules = &self.address;
        let tenant = grant
            .publishes_in(identifier("tenant_id", event.tenant_id)?)
            .map_err(forbidden)?;
        // A topic may name a tenant, too. Here the header beside it wins; whoever else reads the exchange may go by the topic.
        let named = rules.tenant_in(&event.topic).map(str::parse::<Identifier>);
        if let Some(Ok(named)) = named {
            grant.publishes_in(Some(named)).map_err(forbidden)?;
        }
        let headers = [
            (&rules.user_header, identifier("user_id", event.user_id)?),
            (&rules.team_header, identifier("team_id", event.team_id)?),
            (&rules.channel_header, identifier("channel", event.channel)?),
            (&rules.tenant_header, tenant),
        ];
        let headers = headers.into_iter().filter_map(|(header, value)| {
            Some((header.clone(), HeaderValue::Text(value?.to_string())))
        });
        Ok(Message {
            position: None,
            routing_key: event.topic,
            headers: headers.collect(),
            kind: event.r#type,
            message_id: event.message_id,
            timestamp: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .map(|now| now.as_secs()),
            expiration: None,
            redelivered: false,
            fault: None,
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
    Err(Problem::unprocessable(format!(
        "{member} has {} bytes; AMQP takes at most {SHORT_STRING_BYTES}",
        value.len()
    )))
}

fn identifier(member: &str, value: Option<String>) -> Result<Option<Identifier>, Problem> {
    value
        .map(|value| {
            let legal: Result<Identifier, _> = value.parse();
            legal.map_err(|error| Problem::unprocessable(format!("{member}: {error}")))
        })
        .transpose()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what `map_err` hands over it hands over whole"
)]
fn forbidden(error: Forbidden) -> Problem {
    Problem::forbidden(error.to_string())
}
