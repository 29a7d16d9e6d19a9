//! Publishing with confirms and `mandatory`, on connections of its own: RabbitMQ stops *all* writes of a connection
//! that publishes while it has an alarm, and acks must not stop with them.
//!
//! Connections come from a `deadpool-lapin` pool and are kept, with their channels, as opening a channel costs ten
//! times what a publish costs. A channel carries one message at a time: RabbitMQ returns an unroutable message
//! without saying which publish it was, and `lapin` gives it to whichever confirm comes next.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use deadpool_lapin::{
    Manager, Object, Pool, PoolConfig, PoolError, Runtime, TimeoutType, Timeouts,
};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::connection::{self, FRAME_MAX, Role, Suspicion};
use super::mending;
use super::trust::Passage;
use super::{BrokerConfig, Error, topology};

/// How long a publish may take, the connection it may need included.
const PUBLISH: Duration = Duration::from_secs(10);
/// How many messages of one connection may wait for their confirms, each on its channel.
const CHANNELS: usize = 128;
/// What of a frame is not for properties: its own head and the head of the content (AMQP 0-9-1 §4.2.6).
const FRAME_OVERHEAD: usize = 64;
/// Persistent (AMQP 0-9-1 §1.8.1, `delivery-mode`).
const PERSISTENT: u8 = 2;

/// A message on its way out.
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The exchange it is published to.
    pub exchange: String,
    /// Its routing key, 255 bytes at most.
    pub routing_key: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// The AMQP property `type`.
    pub kind: Option<String>,
    /// The AMQP property `message_id`.
    pub message_id: Option<String>,
    /// The AMQP property `timestamp`: seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The AMQP property `content_type`.
    pub content_type: Option<String>,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// A message may end up in a log line; its body must not.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("headers", &self.headers)
            .field("kind", &self.kind)
            .field("message_id", &self.message_id)
            .field("timestamp", &self.timestamp)
            .field("content_type", &self.content_type)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// Publishes messages and waits for their confirms. Cheap to clone: all clones share their connections, which are
/// made when they are first needed.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    config: BrokerConfig,
    /// For all messages but those with huge headers, in turn.
    links: Vec<Link>,
    /// For messages whose properties need a larger frame than the others take; seldom or never made.
    wide: Link,
    /// Counts publishes, to spread them.
    turn: AtomicUsize,
    closed: AtomicBool,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("links", &self.shared.links.len())
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Makes no connection yet.
    #[must_use]
    pub fn new(config: &BrokerConfig) -> Self {
        let size = config.publish_pool_size.max(1);
        let pools = Arc::new(Pools::new(config, size, Some(FRAME_MAX)));
        let wide = Arc::new(Pools::new(config, 1, None));
        Self {
            shared: Arc::new(Shared {
                config: config.clone(),
                links: (0..size)
                    .map(|number| Link::new(Arc::clone(&pools), number))
                    .collect(),
                wide: Link::new(wide, 0),
                turn: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
            }),
        }
    }

    /// Publishes a message, persistent and `mandatory`, and waits until the broker has it. Cancel-safe, but then
    /// nobody knows whether the broker has it.
    ///
    /// # Errors
    /// When the broker has not confirmed it. It may have it all the same where the error [leaves that open](Error::leaves_open).
    pub async fn publish(&self, outgoing: Outgoing) -> Result<(), Error> {
        let Outgoing {
            exchange,
            routing_key,
            headers,
            kind,
            message_id,
            timestamp,
            content_type,
            body,
        } = outgoing;
        let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        if !headers.is_empty() {
            let mut table = FieldTable::default();
            for (name, value) in headers {
                let name = connection::short("a header's name", &name)?;
                table.insert(name, AMQPValue::LongString(LongString::from(value)));
            }
            properties = properties.with_headers(table);
        }
        if let Some(kind) = kind {
            properties = properties.with_type(connection::short("the type", &kind)?);
        }
        if let Some(message_id) = message_id {
            properties =
                properties.with_message_id(connection::short("the message id", &message_id)?);
        }
        if let Some(timestamp) = timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        if let Some(content_type) = content_type {
            let content_type = connection::short("the content type", &content_type)?;
            properties = properties.with_content_type(content_type);
        }
        self.send(&exchange, &routing_key, properties, &body).await
    }

    /// Publishes with these properties as they are, but persistent.
    pub(super) async fn send(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), Error> {
        if self.shared.closed.load(Ordering::Acquire) {
            let cause = "this process is ending".to_owned();
            return Err(Error::Lost {
                action: "publishing".to_owned(),
                cause,
            });
        }
        let parcel = Parcel {
            exchange,
            routing_key,
            size: encoded_size(&properties),
            properties: properties.with_delivery_mode(PERSISTENT),
            body,
        };
        let deadline = Instant::now() + PUBLISH;
        let link = self.link_for(&parcel);
        match timeout_at(
            deadline,
            link.publish(&self.shared.config, &parcel, deadline),
        )
        .await
        {
            Ok(result) => result,
            Err(_) => Err(parcel.unanswered()),
        }
    }

    fn link_for(&self, parcel: &Parcel<'_>) -> &Link {
        let shared = &self.shared;
        if parcel.size + FRAME_OVERHEAD > FRAME_MAX as usize {
            return &shared.wide;
        }
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed) % shared.links.len();
        shared.links.get(turn).unwrap_or(&shared.wide)
    }

    /// Makes sure of one connection, and names who answers there.
    pub(super) async fn reach(&self) -> Result<(), Error> {
        let link = self.shared.links.first().unwrap_or(&self.shared.wide);
        link.hold(&self.shared.config).await.map(drop)
    }

    /// Makes the dead-letter exchange and queue again, as somebody has deleted them.
    pub(super) async fn restore_dead_letters(&self) -> Result<(), Error> {
        let link = self.shared.links.first().unwrap_or(&self.shared.wide);
        let held = link.hold(&self.shared.config).await?;
        topology::ensure_dead_letters(&held.connection, &self.shared.config).await
    }

    /// Refuses what comes from now on, and closes the connections.
    pub async fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        for link in self.shared.links.iter().chain([&self.shared.wide]) {
            let held = link.state.lock().await.held.take();
            if let Some(held) = held {
                connection::close(&held.connection).await;
            }
            link.pools.close();
        }
    }
}

/// The pools of connections with one size of frames: one pool a node, as a pool knows one address. Made when first
/// needed, as a pool wants to be made inside the runtime.
struct Pools {
    nodes: Vec<OnceLock<Pool>>,
    size: usize,
    frame_max: Option<u32>,
    suspicion: Suspicion,
}

impl Pools {
    fn new(config: &BrokerConfig, size: usize, frame_max: Option<u32>) -> Self {
        let nodes = config.nodes.iter().map(|_| OnceLock::new()).collect();
        Self {
            nodes,
            size,
            frame_max,
            suspicion: Suspicion::default(),
        }
    }

    async fn get(&self, config: &BrokerConfig, number: usize) -> Result<Object, Error> {
        let index = number % self.nodes.len().max(1);
        let (Some(node), Some(pool)) = (config.nodes.get(index), self.nodes.get(index)) else {
            let reason = "no node is configured".to_owned();
            return Err(Error::Invalid {
                what: "the list of nodes",
                reason,
            });
        };
        connection::knock(node, config, &self.suspicion).await?;
        let pool = match pool.get() {
            Some(pool) => pool,
            None => {
                let made = self.make(config, node).map_err(|reason| Error::Lost {
                    action: "making the pool of connections".to_owned(),
                    cause: reason,
                })?;
                pool.get_or_init(|| made)
            }
        };
        pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => connection::explain_login(&error, node),
            PoolError::Timeout(TimeoutType::Create) => {
                self.suspicion.raise();
                connection::silent(node)
            }
            error => Error::Lost {
                action: "taking a connection from the pool".to_owned(),
                cause: error.to_string(),
            },
        })
    }

    fn make(&self, config: &BrokerConfig, node: &super::AmqpAddress) -> Result<Pool, String> {
        let patience = Timeouts {
            wait: Some(connection::LOGIN),
            create: Some(connection::LOGIN),
            recycle: Some(connection::LOGIN),
        };
        let passage =
            Passage::to(node, config.trust.as_ref()).map_err(|error| error.to_string())?;
        let properties = connection::properties(config, Role::Publisher);
        let uri = node.uri(config.heartbeat, self.frame_max);
        let manager = Manager::new(
            node.uri_text(config.heartbeat, self.frame_max),
            move || properties.clone(),
            mending::runtime(passage, uri.query.frame_max),
        );
        let settings = PoolConfig {
            timeouts: patience,
            ..PoolConfig::new(self.size)
        };
        Pool::builder(manager)
            .config(settings)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| error.to_string())
    }

    fn close(&self) {
        for pool in self.nodes.iter().filter_map(OnceLock::get) {
            pool.close();
        }
    }
}

/// One of the connections, or the place where it will be.
struct Link {
    pools: Arc<Pools>,
    /// A seat for each channel.
    seats: Semaphore,
    /// Held while a connection is made, so that only one is made at a time.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Arc<Held>>,
    /// The node whose turn it is.
    node: usize,
    /// What came of the last try, for those who waited for it.
    failed: Option<(Instant, Error)>,
}

/// A connection that is kept, and its channels in confirm mode that carry nothing now. The lock is held for a push
/// or a pop only.
struct Held {
    connection: Object,
    idle: StdMutex<Vec<Channel>>,
}

impl Link {
    fn new(pools: Arc<Pools>, node: usize) -> Self {
        let state = Mutex::new(State {
            node,
            ..State::default()
        });
        Self {
            pools,
            seats: Semaphore::new(CHANNELS),
            state,
        }
    }

    /// The connection, made anew if there is none or if it broke.
    async fn hold(&self, config: &BrokerConfig) -> Result<Arc<Held>, Error> {
        let came = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(held) = state
            .held
            .as_ref()
            .filter(|held| held.connection.status().connected())
        {
            return Ok(Arc::clone(held));
        }
        state.held = None;
        if let Some((_, error)) = state.failed.as_ref().filter(|(when, _)| *when > came) {
            return Err(error.clone());
        }
        match self.pools.get(config, state.node).await {
            Ok(connection) => {
                let held = Arc::new(Held {
                    connection,
                    idle: StdMutex::default(),
                });
                state.failed = None;
                Ok(Arc::clone(state.held.insert(held)))
            }
            Err(error) => {
                state.node = state.node.wrapping_add(1);
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn publish(
        &self,
        config: &BrokerConfig,
        parcel: &Parcel<'_>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let Ok(_seat) = self.seats.acquire().await else {
            return Err(parcel.unanswered());
        };
        let held = self.hold(config).await?;
        let frame_max = held.connection.configuration().frame_max() as usize;
        if parcel.size + FRAME_OVERHEAD > frame_max {
            return Err(Error::Invalid {
                what: TOO_LARGE,
                reason: format!(
                    "they take {} bytes, and a frame has {frame_max}",
                    parcel.size
                ),
            });
        }
        if held.connection.status().blocked() {
            return Err(Error::Blocked);
        }
        // A channel that fails or is given up is dropped, which closes it: its confirm may yet come.
        let channel = held.channel().await?;
        match timeout_at(deadline, parcel.publish_on(&channel)).await {
            Ok(outcome) => {
                if channel.status().connected() {
                    held.lock_idle().push(channel);
                }
                outcome
            }
            Err(_) if held.connection.status().blocked() => Err(Error::Blocked),
            Err(_) => Err(parcel.unanswered()),
        }
    }
}

/// What [`Error::Invalid`] says is too large.
pub(super) const TOO_LARGE: &str = "the headers of a message";

impl Held {
    async fn channel(&self) -> Result<Channel, Error> {
        loop {
            let idle = self.lock_idle().pop();
            match idle {
                Some(channel) if channel.status().connected() => return Ok(channel),
                Some(_) => {}
                None => break,
            }
        }
        let channel = connection::open_channel(&self.connection).await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        connection::answer("asking for confirms", confirm).await?;
        Ok(channel)
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One message, as it is published.
struct Parcel<'a> {
    exchange: &'a str,
    routing_key: &'a str,
    properties: BasicProperties,
    /// What the properties take on the wire, in bytes.
    size: usize,
    body: &'a [u8],
}

impl Parcel<'_> {
    async fn publish_on(&self, channel: &Channel) -> Result<(), Error> {
        let exchange = connection::short("the name of an exchange", self.exchange)?;
        let routing_key = connection::short("a routing key", self.routing_key)?;
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let properties = self.properties.clone();
        let sent = channel
            .basic_publish(exchange, routing_key, options, self.body, properties)
            .await;
        let confirmation = match sent {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        match confirmation {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Ack(Some(_))) => Err(Error::Unroutable {
                exchange: self.exchange.to_owned(),
                routing_key: self.routing_key.to_owned(),
            }),
            Ok(Confirmation::Nack(_)) => Err(self.refused(
                "it answered nack; a queue is full (`reject-publish`) or has lost its quorum",
            )),
            Ok(Confirmation::NotRequested) => Err(self.refused("the channel does not confirm")),
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn explain(&self, error: &lapin::Error) -> Error {
        match connection::reply(error) {
            Some((AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND), _)) => Error::NoExchange {
                exchange: self.exchange.to_owned(),
            },
            Some((AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), reply)) => {
                Error::NotPermitted {
                    action: format!("publish to exchange `{}`", self.exchange),
                    reply: reply.to_owned(),
                }
            }
            Some((AMQPErrorKind::Soft(_), reply)) => self.refused(reply),
            _ => connection::lost("publishing", error),
        }
    }

    fn refused(&self, reply: &str) -> Error {
        Error::Refused {
            exchange: self.exchange.to_owned(),
            routing_key: self.routing_key.to_owned(),
            reply: reply.to_owned(),
        }
    }

    fn unanswered(&self) -> Error {
        Error::Timeout {
            action: format!("a publish to exchange `{}`", self.exchange),
            seconds: PUBLISH.as_secs(),
        }
    }
}

/// An upper bound of what these properties take on the wire, in bytes. They must fit into one frame
/// (AMQP 0-9-1 §4.2.6.1), and a broker that gets a larger one closes the connection.
pub(super) fn encoded_size(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts: usize = texts
        .into_iter()
        .flatten()
        .map(|text| 1 + text.as_str().len())
        .sum();
    // The flags, the delivery mode, the priority and the timestamp.
    let fixed = 2 + 1 + 1 + 8;
    fixed + texts + properties.headers().as_ref().map_or(0, table_size)
}

fn table_size(table: &FieldTable) -> usize {
    let entries = table.into_iter();
    4 + entries
        .map(|(name, value)| 1 + name.as_str().len() + value_size(value))
        .sum::<usize>()
}

/// What a value takes, its type's letter included (AMQP 0-9-1 §4.2.5).
pub(super) fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ShortString(text) => 4 + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldTable(table) => table_size(table),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(value_size).sum::<usize>(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_properties_counts_nested_tables_and_arrays() {
        let mut inner = FieldTable::default();
        inner.insert("k".into(), AMQPValue::LongString("vv".into()));
        let mut table = FieldTable::default();
        table.insert("t".into(), AMQPValue::FieldTable(inner));
        table.insert(
            "a".into(),
            AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into()),
        );
        // 4; "t": 2 + 1 + (4 + 2 + 1 + 4 + 2); "a": 2 + 1 + (4 + 9)
        assert_eq!(table_size(&table), 4 + 16 + 16);
        let properties = BasicProperties::default()
            .with_headers(table)
            .with_message_id("abc".into());
        assert_eq!(encoded_size(&properties), 12 + 4 + 36);
    }

    #[test]
    fn a_message_on_its_way_out_never_shows_its_body() {
        let outgoing = Outgoing {
            exchange: "e".to_owned(),
            routing_key: "k".to_owned(),
            headers: Vec::new(),
            kind: None,
            message_id: None,
            timestamp: None,
            content_type: None,
            body: Bytes::from_static(b"secret"),
        };
        assert!(!format!("{outgoing:?}").contains("secret"));
    }
}
