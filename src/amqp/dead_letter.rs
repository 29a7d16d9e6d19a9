//! What becomes of a message that cannot be delivered: it goes to the dead-letter exchange as it came, with headers
//! that say why, and the broker confirms it before it is settled. It is tried until it works; nothing is dropped.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::connection::Backoff;
use super::message::{self, Origin};
use super::publisher::{self, Publisher};
use super::{BrokerConfig, Error};
use crate::event::Poison;
use crate::event::id::Position;
use crate::faults::FaultLog;
use crate::metrics::Metrics;

/// What the headers of a dead letter may take when the original ones are too many for a frame. The smallest frame
/// that RabbitMQ may be told to take has 8,192 bytes, and the other properties may take 2,600.
const TRIMMED: usize = 4 * 1024;
/// What the names of our headers begin with. No original one has such a name in a dead letter: it would be kept for ours.
const OURS: &str = "x-bridge-";

/// The header that says how many of the original ones a dead letter lacks.
const LEFT_OUT: &str = "x-bridge-headers-left-out";

/// What became of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The broker has it, from this replica or another.
    Confirmed,
    /// Another replica has the duty of writing it.
    GivenUp,
}

/// Whether dead letters may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Those of positions above this one, or all.
    Open(Option<Position>),
    /// Nobody knows yet: they wait.
    Undecided,
    /// They are another's.
    Closed,
}

/// What a dead letter asks before each try.
#[derive(Clone, Debug)]
pub(super) enum Permit {
    /// A work queue delivers a message to one consumer, who always may.
    Always,
    /// The record at this position of a stream that several replicas read. A gate that is gone holds nobody back.
    Gate(Position, watch::Receiver<Gate>),
}

impl Permit {
    /// Waits until it is decided. None if the letter may be written.
    async fn wait(&mut self) -> Option<Outcome> {
        let Self::Gate(position, gate) = self else {
            return None;
        };
        let decided = gate.wait_for(|gate| *gate != Gate::Undecided).await;
        match decided.map(|gate| *gate) {
            Ok(Gate::Open(settled)) if settled >= Some(*position) => Some(Outcome::Confirmed),
            Ok(Gate::Closed) => Some(Outcome::GivenUp),
            Ok(Gate::Open(_) | Gate::Undecided) | Err(_) => None,
        }
    }

    /// Waits for so long, or until it is decided that the letter is another's.
    async fn rest(&mut self, wait: Duration) {
        let closed = async {
            if let Self::Gate(_, gate) = self
                && gate.wait_for(|gate| *gate == Gate::Closed).await.is_ok()
            {
                return;
            }
            pending().await
        };
        // Elapsed is what it is waited for.
        drop(timeout(wait, closed).await);
    }
}

/// The way to the dead-letter exchange. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    publisher: Publisher,
    config: Arc<BrokerConfig>,
    metrics: Arc<Metrics>,
    /// Shared by all that are on their way, so that a fault which stops them all is told once.
    faults: Arc<Mutex<FaultLog>>,
}

impl DeadLetters {
    /// Dead letters go through this publisher.
    #[must_use]
    pub fn new(publisher: Publisher, config: Arc<BrokerConfig>, metrics: Arc<Metrics>) -> Self {
        Self {
            publisher,
            config,
            metrics,
            faults: Arc::default(),
        }
    }

    /// What dead letters go through.
    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Returns when the broker has confirmed the dead letter, however long that takes, or when the permit says that it
    /// is not ours to write. Dropped before, nobody knows whether the broker has it.
    pub(super) async fn send(self, origin: Origin, poison: Poison, mut permit: Permit) -> Outcome {
        let mut properties = self.properties(&origin, &poison);
        let mut backoff = Backoff::default();
        loop {
            if let Some(outcome) = permit.wait().await {
                return outcome;
            }
            let Err(error) = self.try_once(&origin, &mut properties).await else {
                break;
            };
            self.metrics.dead_letter_failures.inc();
            self.complain(&error);
            permit.rest(backoff.next()).await;
        }
        self.metrics.dead_letters.of(poison.reason.as_str()).inc();
        tracing::error!(
            reason = poison.reason.as_str(),
            detail = %poison.detail,
            routing_key = %origin.routing_key,
            position = origin.position.map(|position| position.get()),
            exchange = %self.config.dead_letter_exchange,
            "dead-lettered a message that cannot be delivered"
        );
        Outcome::Confirmed
    }

    async fn try_once(
        &self,
        origin: &Origin,
        properties: &mut BasicProperties,
    ) -> Result<(), Error> {
        let exchange = &self.config.dead_letter_exchange;
        let routing_key = origin.routing_key.as_str();
        let sent = self
            .publisher
            .send(exchange, routing_key, properties.clone(), &origin.body)
            .await;
        match &sent {
            Err(Error::Invalid {
                what: publisher::TOO_LARGE,
                ..
            }) => trim(properties),
            Err(Error::NoExchange { .. } | Error::Unroutable { .. }) if self.config.declare => {
                self.publisher.restore_dead_letters().await?;
            }
            _ => {}
        }
        sent
    }

    fn complain(&self, error: &Error) {
        const WHAT: &str = "cannot dead-letter a message; it stays unsettled and is tried again";
        let told = self
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(error, Instant::now());
        let Some(times) = told else {
            return;
        };
        if error.needs_operator() {
            tracing::error!(%error, times, "{WHAT}");
        } else {
            tracing::warn!(%error, times, "{WHAT}");
        }
    }

    /// The original properties, and why. Two of them would stop the letter and become headers: RabbitMQ refuses a
    /// `user_id` that is not ours, and an `expiration` would empty the dead-letter queue.
    fn properties(&self, origin: &Origin, poison: &Poison) -> BasicProperties {
        let original = &origin.properties;
        let mut headers = FieldTable::default();
        for (name, value) in original.headers().iter().flatten() {
            let name_text = name.as_str();
            if !message::is_added(name_text) && !name_text.starts_with(OURS) {
                headers.insert(name.clone(), value.clone());
            }
        }
        let mut tell = |name: &str, value: &str| {
            headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
        };
        tell("x-bridge-reason", poison.reason.as_str());
        tell("x-bridge-detail", &poison.detail);
        tell("x-bridge-exchange", origin.exchange.as_str());
        tell("x-bridge-routing-key", origin.routing_key.as_str());
        tell("x-bridge-queue", &self.config.queue);
        if let Some(position) = origin.position {
            tell("x-bridge-position", &position.to_string());
        }
        if let Some(user_id) = original.user_id() {
            tell("x-bridge-user-id", user_id.as_str());
        }
        if let Some(expiration) = original.expiration() {
            tell("x-bridge-expiration", expiration.as_str());
        }
        if origin.headers_left_out > 0 {
            headers.insert(
                LEFT_OUT.into(),
                AMQPValue::LongUInt(origin.headers_left_out),
            );
        }
        type With = fn(BasicProperties, ShortString) -> BasicProperties;
        let texts: [(&Option<ShortString>, With); 8] = [
            (original.content_type(), BasicProperties::with_content_type),
            (
                original.content_encoding(),
                BasicProperties::with_content_encoding,
            ),
            (
                original.correlation_id(),
                BasicProperties::with_correlation_id,
            ),
            (original.reply_to(), BasicProperties::with_reply_to),
            (original.message_id(), BasicProperties::with_message_id),
            (original.kind(), BasicProperties::with_type),
            (original.app_id(), BasicProperties::with_app_id),
            (original.cluster_id(), BasicProperties::with_cluster_id),
        ];
        let mut properties = BasicProperties::default().with_headers(headers);
        for (text, with) in texts {
            if let Some(text) = text {
                properties = with(properties, text.clone());
            }
        }
        if let Some(priority) = original.priority() {
            properties = properties.with_priority(*priority);
        }
        if let Some(timestamp) = original.timestamp() {
            properties = properties.with_timestamp(*timestamp);
        }
        properties
    }
}

/// Leaves out the largest of the original headers until all fit into the smallest frame, and says so.
fn trim(properties: &mut BasicProperties) {
    let Some(table) = properties.headers() else {
        return;
    };
    let mut entries: Vec<_> = table.into_iter().collect();
    let ours = |name: &ShortString| name.as_str().starts_with(OURS);
    entries.sort_by_key(|(name, value)| (!ours(name), publisher::value_size(value)));
    let mut kept = FieldTable::default();
    let mut size = 0;
    let mut left_out = match table.inner().get(LEFT_OUT) {
        Some(AMQPValue::LongUInt(before)) => *before,
        _ => 0,
    };
    for (name, value) in entries {
        size += 1 + name.as_str().len() + publisher::value_size(value);
        if ours(name) || size <= TRIMMED {
            kept.insert(name.clone(), value.clone());
        } else {
            left_out += 1;
        }
    }
    kept.insert(LEFT_OUT.into(), AMQPValue::LongUInt(left_out));
    *properties = std::mem::take(properties).with_headers(kept);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::amqp::message::OFFSET;
    use crate::event::Reason;

    fn letters() -> DeadLetters {
        let config = Arc::new(crate::amqp::tests::config());
        DeadLetters::new(Publisher::new(&config), config, Metrics::new().unwrap())
    }

    fn origin(properties: BasicProperties) -> Origin {
        Origin {
            exchange: "events.topic".into(),
            routing_key: "nobody".into(),
            properties,
            body: Bytes::from_static(b"body"),
            position: Some(Position::new(7)),
            headers_left_out: 2,
        }
    }

    fn header(properties: &BasicProperties, name: &str) -> Option<String> {
        let value = properties.headers().as_ref()?.inner().get(name)?;
        Some(value.as_long_string()?.to_string())
    }

    #[test]
    fn a_dead_letter_keeps_what_it_came_with_and_says_why() {
        let mut headers = FieldTable::default();
        headers.insert("kept".into(), AMQPValue::LongInt(5));
        headers.insert(OFFSET.into(), AMQPValue::LongLongInt(7));
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_type("job".into())
            .with_timestamp(12)
            .with_priority(3)
            .with_user_id("somebody".into())
            .with_expiration("100".into());
        let poison = Poison {
            reason: Reason::Unaddressed,
            detail: "no rule".to_owned(),
        };
        let properties = letters().properties(&origin(original), &poison);
        for (name, value) in [
            ("x-bridge-reason", "unaddressed"),
            ("x-bridge-detail", "no rule"),
            ("x-bridge-exchange", "events.topic"),
            ("x-bridge-routing-key", "nobody"),
            ("x-bridge-position", "7"),
            ("x-bridge-queue", "events.sse"),
            ("x-bridge-user-id", "somebody"),
            ("x-bridge-expiration", "100"),
        ] {
            assert_eq!(header(&properties, name).as_deref(), Some(value), "{name}");
        }
        let headers = properties.headers().as_ref().unwrap();
        assert_eq!(headers.inner().get("kept"), Some(&AMQPValue::LongInt(5)));
        assert!(!headers.contains_key(OFFSET));
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "job");
        assert_eq!(
            (properties.timestamp(), properties.priority()),
            (&Some(12), &Some(3))
        );
        assert_eq!(
            (properties.user_id(), properties.expiration()),
            (&None, &None)
        );
    }

    #[tokio::test]
    async fn a_letter_waits_for_the_decision_and_is_not_written_where_another_has_or_will() {
        let gate = watch::Sender::new(Gate::Undecided);
        let permit = |position| Permit::Gate(Position::new(position), gate.subscribe());
        let mut waiting = permit(7);
        assert!(waiting.wait().now_or_never().is_none());
        let settled = |position| Gate::Open(Some(Position::new(position)));
        for (state, outcome) in [
            (Gate::Open(None), None),
            (settled(6), None),
            (settled(7), Some(Outcome::Confirmed)),
            (Gate::Closed, Some(Outcome::GivenUp)),
        ] {
            gate.send_replace(state);
            assert_eq!(waiting.wait().await, outcome, "{state:?}");
        }
        drop(gate);
        assert_eq!(Permit::Always.wait().await, None);
    }

    #[test]
    fn a_header_that_looks_like_ours_does_not_keep_a_dead_letter_from_fitting_into_a_frame() {
        let mut headers = FieldTable::default();
        let large = AMQPValue::LongString(vec![b'x'; 130_900].into());
        headers.insert("x-bridge-foo".into(), large);
        headers.insert("kept".into(), AMQPValue::LongInt(5));
        let long: ShortString = "t".repeat(255).into();
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_type(long.clone())
            .with_message_id(long.clone())
            .with_content_type(long.clone())
            .with_content_encoding(long.clone())
            .with_correlation_id(long.clone())
            .with_reply_to(long.clone())
            .with_app_id(long.clone())
            .with_cluster_id(long.clone())
            .with_user_id(long.clone())
            .with_expiration(long);
        let poison = Poison {
            reason: Reason::TooLarge,
            detail: "d".repeat(256),
        };
        let mut properties = letters().properties(&origin(original), &poison);
        trim(&mut properties);
        assert!(publisher::encoded_size(&properties) + 64 < 8192);
        assert_eq!(header(&properties, "x-bridge-foo"), None);
        let kept = properties.headers().as_ref().unwrap();
        assert!(kept.contains_key("kept"));
    }

    #[test]
    fn headers_too_large_for_a_frame_lose_the_largest_and_never_ours() {
        let mut headers = FieldTable::default();
        headers.insert(
            "large".into(),
            AMQPValue::LongString(vec![b'x'; 200_000].into()),
        );
        headers.insert("small".into(), AMQPValue::LongInt(5));
        let poison = Poison {
            reason: Reason::TooLarge,
            detail: "d".repeat(256),
        };
        let original = BasicProperties::default().with_headers(headers);
        let mut properties = letters().properties(&origin(original), &poison);
        trim(&mut properties);
        assert!(publisher::encoded_size(&properties) < 8192);
        let kept = properties.headers().as_ref().unwrap();
        assert!(kept.contains_key("small") && !kept.contains_key("large"));
        assert_eq!(
            header(&properties, "x-bridge-reason").as_deref(),
            Some("too_large")
        );
        assert_eq!(
            kept.inner().get("x-bridge-headers-left-out"),
            Some(&AMQPValue::LongUInt(3)),
            "two had been left out before"
        );
    }
}
