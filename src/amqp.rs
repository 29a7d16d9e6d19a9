//! RabbitMQ, at the head of the way of an event: what consumes the events queue and settles it, what reads back from
//! it, what dead-letters, and what publishes with confirms. The only place that names `lapin`.
//!
//! It hands messages to an [`Intake`](crate::event::Intake) and does what its verdict says; it never looks into a
//! body, and it does not know the bridge. Every link is supervised here: back-off with jitter for ever, topology and
//! QoS again after every reconnect, and no recovery of `lapin`'s own, which subscribes a stream where it once began.

use std::fmt;
use std::time::Duration;

pub mod address;
mod trust;
mod mending;
pub mod connection;
pub mod topology;
pub mod consumer;
pub mod read_back;
mod message;
mod progress;
mod stream;
mod settlements;
mod redeliveries;
mod duty;
mod ledger;
mod sweep;
pub mod dead_letter;
pub mod publisher;
pub mod revocations;

pub use address::{AmqpAddress, BadAddress};
pub use consumer::Consumer;
pub use dead_letter::DeadLetters;
pub use publisher::{Outgoing, Publisher};
pub use read_back::ReadBacks;
pub use revocations::Revocations;
pub use trust::{Trust, Unbelievable};

/// What the consumer, the topology and the publisher need to know. Made by the configuration, checked there.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// The nodes of one cluster, tried in turn. Never empty.
    pub nodes: Vec<AmqpAddress>,
    /// Whose certificates are believed. There where a node asks for TLS.
    pub trust: Option<Trust>,
    /// The durable topic exchange that producers publish to.
    pub exchange: String,
    /// The full name of the queue that is consumed: with scope `replica` the replica's name is in it already.
    pub queue: String,
    /// What kind of queue that is.
    pub queue_type: QueueType,
    /// Who consumes it. A stream is read by every replica and has no scope.
    pub queue_scope: QueueScope,
    /// What binds the queue to the exchange: AMQP topic patterns.
    pub binding_keys: Vec<String>,
    /// How many deliveries may be unsettled, 1 to 65,535.
    pub prefetch: u16,
    /// Whether missing exchanges, queues and bindings are made; else they are only checked.
    pub declare: bool,
    /// How long a stream keeps its records; zero is for ever.
    pub stream_max_age: Duration,
    /// How many bytes a stream keeps; zero is no limit.
    pub stream_max_bytes: u64,
    /// How long a replica's own queue outlives its last consumer; zero is for ever.
    pub replica_queue_expires: Duration,
    /// The durable topic exchange that takes what cannot be delivered.
    pub dead_letter_exchange: String,
    /// The durable queue behind it.
    pub dead_letter_queue: String,
    /// How often an idle link shows that it lives; twice that without a sign ends it. Zero takes the broker's.
    pub heartbeat: Duration,
    /// How many connections publish. At least 1.
    pub publish_pool_size: usize,
    /// How many may read back from the stream at once; 0: nothing is read back.
    pub read_back_readers: usize,
    /// How far back a stream consumer begins at the first start; zero begins at the tail.
    pub history_max_age: Duration,
    /// Where replicas tell each other what was revoked; none where no tokens are checked.
    pub revocations: Option<RevocationStream>,
}

/// The stream by which replicas tell each other what was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationStream {
    /// The name of the queue.
    pub queue: String,
    /// How long it keeps its records at least.
    pub max_age: Duration,
}

impl BrokerConfig {
    /// Whether records can be read again that were read before.
    #[must_use]
    pub fn reads_back(&self) -> bool {
        self.queue_type == QueueType::Stream && self.read_back_readers > 0
    }
}

/// The kind of the events queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// A log that every replica reads at its own offset.
    Stream,
    /// A replicated work queue.
    Quorum,
    /// A work queue on one node.
    Classic,
}

/// Who consumes a work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueScope {
    /// One queue for the one replica there is.
    Shared,
    /// A queue for each replica.
    Replica,
}

impl QueueType {
    /// The word of the setting, and of `x-queue-type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

impl QueueScope {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Replica => "replica",
        }
    }
}

impl fmt::Display for QueueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for QueueScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can go wrong between us and RabbitMQ. Each says what was tried and what to do; none has a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No TCP connection, or nobody who speaks AMQP behind it.
    #[error(
        "cannot reach RabbitMQ at {node}: {reason}; check RABBITMQ_URL, and that the broker runs and listens there"
    )]
    Unreachable {
        /// The address, its password hidden.
        node: String,
        /// What the system said.
        reason: String,
    },
    /// 403 while connecting.
    #[error(
        "RabbitMQ at {node} refuses the user or the password; check those in RABBITMQ_URL (`guest` may only log in from localhost): {reply}"
    )]
    Credentials {
        /// The address, its password hidden.
        node: String,
        /// What the broker said.
        reply: String,
    },
    /// 530 while connecting.
    #[error(
        "RabbitMQ at {node} has no virtual host `{vhost}` for this user; create it, grant the user access, or correct the end of RABBITMQ_URL: {reply}"
    )]
    VirtualHost {
        /// The address, its password hidden.
        node: String,
        /// The virtual host asked for.
        vhost: String,
        /// What the broker said.
        reply: String,
    },
    /// A certificate that is not believed, or no TLS there. Never tried in the clear instead.
    #[error(
        "no TLS with RabbitMQ at {node}: {reason}; check RABBITMQ_CA_FILE, and that RABBITMQ_URL names the host as its certificate does"
    )]
    Tls {
        /// The address, its password hidden.
        node: String,
        /// What the handshake came to.
        reason: String,
    },
    /// An exchange or a queue is not there, and we may not make it.
    #[error(
        "{thing} `{name}` does not exist in RabbitMQ and RABBITMQ_DECLARE is false; create it ({how}), or set RABBITMQ_DECLARE=true"
    )]
    Missing {
        /// "exchange" or "queue".
        thing: &'static str,
        /// Its name.
        name: String,
        /// What to create, with its arguments.
        how: String,
    },
    /// 406: it is there, but otherwise than configured.
    #[error("{thing} `{name}` is otherwise than configured: {differences}; {advice}")]
    Topology {
        /// "exchange" or "queue".
        thing: &'static str,
        /// Its name.
        name: String,
        /// Each argument or property that differs, with what is configured and what is there.
        differences: String,
        /// What to do about it.
        advice: String,
    },
    /// 403 on something: a right is missing.
    #[error(
        "RabbitMQ does not let this user {action}: {reply}; grant it with `rabbitmqctl set_permissions`, or set RABBITMQ_DECLARE=false where only declaring is refused"
    )]
    NotPermitted {
        /// What was tried.
        action: String,
        /// What the broker said.
        reply: String,
    },
    /// 404 on a publish.
    #[error(
        "there is no exchange `{exchange}` to publish to; create it, or restart the bridge with RABBITMQ_DECLARE=true"
    )]
    NoExchange {
        /// Its name.
        exchange: String,
    },
    /// No queue took the message.
    #[error(
        "exchange `{exchange}` has no queue bound for routing key `{routing_key}`, so nothing took the message; bind one"
    )]
    Unroutable {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// The broker said no: nack, or the channel closed over this message.
    #[error(
        "RabbitMQ refused a message for exchange `{exchange}`, routing key `{routing_key}`: {reply}"
    )]
    Refused {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
        /// What the broker said.
        reply: String,
    },
    /// A memory or disk alarm: the broker takes nothing from publishers.
    #[error(
        "RabbitMQ blocks its publishers (a memory or disk alarm); free memory or disk at the broker"
    )]
    Blocked,
    /// The broker did not answer.
    #[error(
        "RabbitMQ did not answer {action} within {seconds} s; it may be overloaded, or a queue without its quorum"
    )]
    Timeout {
        /// What was asked.
        action: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A value that AMQP cannot carry.
    #[error("{what} cannot be sent over AMQP: {reason}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// The consumer was cancelled by the broker, as when its queue is deleted.
    #[error(
        "RabbitMQ cancelled the consumer of queue `{queue}`: the queue was deleted, or its leader moved"
    )]
    Cancelled {
        /// The queue.
        queue: String,
    },
    /// Retention removed records of a stream while they were being read.
    #[error(
        "records of stream `{queue}` after position {position} are gone: its retention was faster than this reader; keep more (RABBITMQ_STREAM_MAX_AGE, RABBITMQ_STREAM_MAX_BYTES)"
    )]
    Overtaken {
        /// The queue.
        queue: String,
        /// The last position that was read.
        position: u64,
    },
    /// The link ended: connection or channel.
    #[error("the link to RabbitMQ broke while {action}: {cause}")]
    Lost {
        /// What was being done.
        action: String,
        /// What ended it.
        cause: String,
    },
}

impl Error {
    /// Whether the broker may have a message all the same, when this is what came of publishing it.
    #[must_use]
    pub const fn leaves_open(&self) -> bool {
        // What somebody else has to mend the broker was never given, or has refused.
        !self.needs_operator() && !matches!(self, Self::Unreachable { .. } | Self::Refused { .. })
    }

    /// Whether only somebody else can mend it (a setting, a right, the topology), so that it is an error and not a
    /// passing fault.
    #[must_use]
    pub const fn needs_operator(&self) -> bool {
        match self {
            Self::Credentials { .. }
            | Self::VirtualHost { .. }
            | Self::Tls { .. }
            | Self::Missing { .. }
            | Self::Topology { .. }
            | Self::NotPermitted { .. }
            | Self::NoExchange { .. }
            | Self::Unroutable { .. }
            | Self::Invalid { .. } => true,
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Blocked
            | Self::Timeout { .. }
            | Self::Cancelled { .. }
            | Self::Overtaken { .. }
            | Self::Lost { .. } => false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A configuration for a broker that is not there.
    pub(crate) fn config() -> BrokerConfig {
        BrokerConfig {
            nodes: vec!["amqp://127.0.0.1:1".parse().unwrap()],
            trust: None,
            exchange: "events.topic".to_owned(),
            queue: "events.sse".to_owned(),
            queue_type: QueueType::Stream,
            queue_scope: QueueScope::Shared,
            binding_keys: vec!["#".to_owned()],
            prefetch: 512,
            declare: true,
            stream_max_age: Duration::from_secs(24 * 60 * 60),
            stream_max_bytes: 1 << 30,
            replica_queue_expires: Duration::from_secs(3600),
            dead_letter_exchange: "events.dlx".to_owned(),
            dead_letter_queue: "events.sse.dlq".to_owned(),
            heartbeat: Duration::from_secs(10),
            publish_pool_size: 2,
            read_back_readers: 4,
            history_max_age: Duration::from_secs(600),
            revocations: None,
        }
    }
}
