//! The settings of RabbitMQ: its nodes, whom of them to believe, and the topology.

use std::path::Path;
use std::time::Duration;

use url::Url;

use super::reader::Reader;
use super::value::{
    LONGEST_NAME, amqp_address, binding_key, boolean, duration, exchange_name, list, number,
    one_of, queue_expires, queue_name, replica_name, revocation_age, seconds, size,
};
use super::{Command, settings};
use crate::amqp::{AmqpAddress, BrokerConfig, QueueScope, QueueType, RevocationStream, Trust};
use crate::auth::AuthConfig;

impl Reader<'_> {
    pub(super) fn broker(&mut self, history_max_age: Option<Duration>) -> Option<BrokerConfig> {
        let nodes = match self.command {
            Command::Dev | Command::Token => Vec::new(),
            Command::Serve | Command::Publish => self.nodes(),
        };
        let trust = self.trust(&nodes);
        let queue_scope = self.value(
            &settings::RABBITMQ_EVENTS_QUEUE_SCOPE,
            one_of(&[
                ("shared", QueueScope::Shared),
                ("replica", QueueScope::Replica),
            ]),
        )?;
        let queue_type = self.value(
            &settings::RABBITMQ_EVENTS_QUEUE_TYPE,
            one_of(&[
                ("stream", QueueType::Stream),
                ("quorum", QueueType::Quorum),
                ("classic", QueueType::Classic),
            ]),
        )?;
        let heartbeat = self.value(&settings::RABBITMQ_HEARTBEAT_SECONDS, seconds(1..=600))?;
        self.heartbeats_of_nodes(heartbeat);
        Some(BrokerConfig {
            nodes,
            trust,
            exchange: self.value(&settings::RABBITMQ_EVENTS_EXCHANGE, exchange_name)?,
            queue: self.queue(queue_scope)?,
            queue_type,
            queue_scope,
            binding_keys: self.value(&settings::RABBITMQ_EVENTS_BINDING_KEY, list(binding_key))?,
            prefetch: self.value(
                &settings::RABBITMQ_PREFETCH_COUNT,
                number(1..=65_535, "deliveries"),
            )?,
            declare: self.value(&settings::RABBITMQ_DECLARE, boolean)?,
            stream_max_age: self.value(&settings::RABBITMQ_STREAM_MAX_AGE, duration)?,
            stream_max_bytes: self.value(&settings::RABBITMQ_STREAM_MAX_BYTES, size)?,
            replica_queue_expires: self
                .value(&settings::RABBITMQ_REPLICA_QUEUE_EXPIRES, queue_expires)?,
            dead_letter_exchange: self
                .value(&settings::RABBITMQ_DEAD_LETTER_EXCHANGE, exchange_name)?,
            dead_letter_queue: self.value(&settings::RABBITMQ_DEAD_LETTER_QUEUE, queue_name)?,
            heartbeat,
            publish_pool_size: self.value(
                &settings::RABBITMQ_PUBLISH_POOL_SIZE,
                number(1..=64, "connections"),
            )?,
            read_back_readers: self.value(
                &settings::RABBITMQ_READ_BACK_READERS,
                number(0..=64, "readers"),
            )?,
            history_max_age: history_max_age?,
            // As the settings of identity say, which are read later.
            revocations: None,
        })
    }

    /// Where replicas tell each other what was revoked: in a stream beside the events' queue, whatever that is.
    pub(super) fn revocations(&mut self, auth: &AuthConfig) -> Option<RevocationStream> {
        let max_age = self.value(&settings::AUTH_REVOCATION_MAX_AGE, revocation_age)?;
        let queue = self.value(&settings::RABBITMQ_EVENTS_QUEUE, queue_name)?;
        auth.mode.checks_tokens().then(|| RevocationStream {
            queue: format!("{queue}.revocations"),
            max_age,
        })
    }

    fn nodes(&mut self) -> Vec<AmqpAddress> {
        if self.raw.given(&settings::RABBITMQ_URL).is_none() {
            self.missing(
                &settings::RABBITMQ_URL,
                "the broker, such as amqp://user:password@rabbitmq.example:5672/%2F (sse-bridge dev needs none)",
            );
        }
        self.optional(&settings::RABBITMQ_URL, list(amqp_address))
            .unwrap_or_default()
    }

    /// Whose certificates are believed, where a node is asked for TLS.
    fn trust(&mut self, nodes: &[AmqpAddress]) -> Option<Trust> {
        let of_file =
            |text: &str| Trust::of_file(Path::new(text)).map_err(|error| error.to_string());
        let given = self.raw.given(&settings::RABBITMQ_CA_FILE).is_some();
        let trust = self.optional(&settings::RABBITMQ_CA_FILE, of_file);
        match (nodes.iter().any(AmqpAddress::is_tls), given) {
            (true, true) => trust,
            (true, false) => Trust::of_system()
                .map_err(|error| self.problem(&settings::RABBITMQ_URL, &error.to_string()))
                .ok(),
            (false, true) if !nodes.is_empty() => {
                self.contradiction(
                    [&settings::RABBITMQ_CA_FILE, &settings::RABBITMQ_URL],
                    "without TLS nobody shows a certificate: write amqps://, or take the file out",
                );
                None
            }
            (false, _) => None,
        }
    }

    /// A heartbeat of the URL's own goes before the setting: fine, unless both are given and differ.
    fn heartbeats_of_nodes(&mut self, heartbeat: Duration) {
        if self
            .raw
            .given(&settings::RABBITMQ_HEARTBEAT_SECONDS)
            .is_none()
        {
            return;
        }
        let urls = self
            .raw
            .given(&settings::RABBITMQ_URL)
            .map_or("", |given| &given.text);
        let of_url = |url: &str| {
            let url = Url::parse(url.trim()).ok()?;
            let (_, value) = url.query_pairs().find(|(name, _)| name == "heartbeat")?;
            Some(value.into_owned())
        };
        let other = urls
            .split(',')
            .filter_map(of_url)
            .find(|value| value.parse() != Ok(heartbeat.as_secs()));
        if let Some(value) = other {
            self.contradiction(
                [
                    &settings::RABBITMQ_URL,
                    &settings::RABBITMQ_HEARTBEAT_SECONDS,
                ],
                &format!("the URL says heartbeat={value}: take one out"),
            );
        }
    }

    /// The queue's full name: that of a replica's own queue ends in what tells it from the others.
    fn queue(&mut self, scope: QueueScope) -> Option<String> {
        let queue = self.value(&settings::RABBITMQ_EVENTS_QUEUE, queue_name)?;
        if scope == QueueScope::Shared {
            return Some(queue);
        }
        let replica = match self.optional(&settings::REPLICA_NAME, replica_name) {
            Some(name) => name,
            None => self.host_name()?,
        };
        let queue = format!("{queue}.{replica}");
        if queue.len() > LONGEST_NAME {
            self.contradiction(
                [&settings::RABBITMQ_EVENTS_QUEUE, &settings::REPLICA_NAME],
                "the two joined by a dot are longer than the 255 bytes of an AMQP name: shorten one",
            );
        }
        Some(queue)
    }

    fn host_name(&mut self) -> Option<String> {
        let name = gethostname::gethostname().to_string_lossy().into_owned();
        replica_name(&name)
            .map_err(|_| {
                self.missing(
                    &settings::REPLICA_NAME,
                    "a name that no other replica has, as this host's own is of no use",
                );
            })
            .ok()
    }
}
