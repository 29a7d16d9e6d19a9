//! The in-process topic exchange of `dev`: what RabbitMQ is to `serve`, without RabbitMQ, without keeping anything.
//!
//! It stands at the head of the way of an event and knows no more of it than `amqp` does.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::event::topic::TopicPattern;
use crate::event::{Intake, Message, Verdict};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// Events that wait between a publisher and the bridge; a publisher waits when there are more.
const QUEUE_CAPACITY: usize = 1024;

/// Where producers publish. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exchange {
    bindings: Arc<[TopicPattern]>,
    queue: mpsc::Sender<Message>,
}

/// What the bridge consumes.
#[derive(Debug)]
pub struct Queue {
    messages: mpsc::Receiver<Message>,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No binding key matches, so that it would reach nobody.
    #[error("no binding key matches topic `{topic}`; bound are {bindings}")]
    Unroutable {
        /// The topic it was published to.
        topic: String,
        /// The binding keys there are.
        bindings: String,
    },
    /// The process is ending.
    #[error("this process is ending")]
    Closed,
}

/// Makes an exchange with one queue bound to it by these keys.
#[must_use]
pub fn exchange(bindings: Vec<TopicPattern>) -> (Exchange, Queue) {
    let (queue, messages) = mpsc::channel(QUEUE_CAPACITY);
    (
        Exchange {
            bindings: bindings.into(),
            queue,
        },
        Queue { messages },
    )
}

impl Exchange {
    /// Routes a message to the queue.
    ///
    /// # Errors
    /// [`PublishError`] when no binding matches, as a `mandatory` publish to RabbitMQ would fail, or at the end.
    pub async fn publish(&self, message: Message) -> Result<(), PublishError> {
        if !self
            .bindings
            .iter()
            .any(|pattern| pattern.matches(&message.routing_key))
        {
            let bindings: Vec<&str> = self.bindings.iter().map(TopicPattern::as_str).collect();
            return Err(PublishError::Unroutable {
                topic: message.routing_key,
                bindings: bindings.join(", "),
            });
        }
        self.queue
            .send(message)
            .await
            .map_err(|_| PublishError::Closed)
    }
}

impl Queue {
    /// Hands messages to `intake` until the intake is asked to stop; what waits then is handed over first.
    pub async fn run(
        mut self,
        mut intake: impl Intake,
        lifecycle: Lifecycle,
        metrics: Arc<Metrics>,
    ) {
        intake.caught_up();
        metrics.broker_up.set(1);
        lifecycle.mark_connected();
        let mut stopping = std::pin::pin!(lifecycle.intake.stopping());
        loop {
            tokio::select! {
                () = &mut stopping, if !self.messages.is_closed() => self.messages.close(),
                message = self.messages.recv() => match message {
                    Some(message) => settle(&mut intake, message, &metrics),
                    None => break,
                },
            }
        }
        metrics.broker_up.set(0);
    }
}

/// There is nowhere to keep dead letters: the log line is all.
fn settle(intake: &mut impl Intake, message: Message, metrics: &Metrics) {
    let routing_key = message.routing_key.clone();
    if let Verdict::DeadLetter(poison) = intake.accept(message) {
        metrics.dead_letters.of(poison.reason.as_str()).inc();
        tracing::error!(
            reason = poison.reason.as_str(),
            detail = poison.detail,
            routing_key,
            "dead-lettered: RabbitMQ would keep this message in the dead-letter queue"
        );
    }
}
