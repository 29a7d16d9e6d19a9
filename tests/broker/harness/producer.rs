//! Producers: one on lapin for bulk, and one that survives its broker.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};

use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
};
use tokio::time::{sleep, timeout};

use super::{SOON, Vhost, secrets, within};

const EXCHANGE: &str = "events.topic";

/// How many messages of [`Producer::publish_all`] are on their way at once.
const WINDOW: usize = 500;

/// A message to be published.
#[derive(Clone, Debug)]
pub struct Message {
    topic: String,
    body: Vec<u8>,
    headers: FieldTable,
    kind: Option<String>,
    id: Option<String>,
    expiration: Option<String>,
    timestamp: Option<u64>,
}

impl Message {
    pub fn to(topic: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.to_owned(),
            body: body.into(),
            headers: FieldTable::default(),
            kind: None,
            id: None,
            expiration: None,
            timestamp: None,
        }
    }

    /// A header with text.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.raw_header(name, AMQPValue::LongString(value.into()))
    }

    /// A header of any AMQP type.
    #[must_use]
    pub fn raw_header(mut self, name: &str, value: AMQPValue) -> Self {
        self.headers.insert(name.into(), value);
        self
    }

    /// The AMQP property `type`.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    /// The AMQP property `message_id`.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// The AMQP property `expiration`.
    #[must_use]
    pub fn expiration(mut self, milliseconds: &str) -> Self {
        self.expiration = Some(milliseconds.to_owned());
        self
    }

    /// The AMQP property `timestamp`, in seconds since the Unix epoch.
    #[must_use]
    pub fn timestamp(mut self, seconds: u64) -> Self {
        self.timestamp = Some(seconds);
        self
    }

    fn properties(&self) -> BasicProperties {
        let mut properties = BasicProperties::default()
            .with_headers(self.headers.clone())
            .with_delivery_mode(2);
        if let Some(kind) = &self.kind {
            properties = properties.with_type(kind.as_str().into());
        }
        if let Some(id) = &self.id {
            properties = properties.with_message_id(id.as_str().into());
        }
        if let Some(expiration) = &self.expiration {
            properties = properties.with_expiration(expiration.as_str().into());
        }
        if let Some(timestamp) = self.timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        properties
    }
}

/// A connection with one confirm channel. Every publish is `mandatory`: one that no queue is bound for panics.
pub struct Producer {
    _connection: Connection,
    channel: Channel,
}

impl Producer {
    pub async fn connect(vhost: &Vhost) -> Self {
        let connection = vhost.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirms");
        Self {
            _connection: connection,
            channel,
        }
    }

    /// Publishes one message and waits for the broker's confirm.
    pub async fn publish(&self, message: Message) {
        self.publish_all([message]).await;
    }

    /// Publishes many in their order, and waits for all confirms.
    pub async fn publish_all(&self, messages: impl IntoIterator<Item = Message>) {
        let mut confirms = std::collections::VecDeque::with_capacity(WINDOW);
        for message in messages {
            if confirms.len() == WINDOW {
                confirmed(confirms.pop_front().expect("a full window")).await;
            }
            confirms.push_back(
                send(&self.channel, &message)
                    .await
                    .expect("the broker takes a message"),
            );
        }
        for confirm in confirms {
            confirmed(confirm).await;
        }
    }
}

async fn send(channel: &Channel, message: &Message) -> lapin::Result<PublisherConfirm> {
    secrets::note_body(&message.body);
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    channel
        .basic_publish(
            EXCHANGE.into(),
            message.topic.as_str().into(),
            options,
            &message.body,
            message.properties(),
        )
        .await
}

async fn confirmed(confirm: PublisherConfirm) {
    let outcome = within("a confirm", SOON, confirm)
        .await
        .expect("the broker answers");
    assert!(
        matches!(outcome, Confirmation::Ack(None)),
        "a message was not taken, or nothing is bound for it: {outcome:?}"
    );
}

/// A producer that goes on through crashes of its broker: what was not confirmed it publishes again, with the same
/// `message_id`, before anything new. So the broker may store a message twice, but none too few, and in order.
pub struct Persistent {
    url: String,
    link: Option<(Connection, Channel)>,
}

impl Persistent {
    pub fn to(vhost: &Vhost) -> Self {
        Self {
            url: vhost.url(),
            link: None,
        }
    }

    /// Publishes a batch, and returns when all of it is confirmed.
    pub async fn publish_all(&mut self, messages: &[Message]) {
        let mut unconfirmed = messages;
        while !unconfirmed.is_empty() {
            let confirmed = timeout(Duration::from_secs(5), self.attempt(unconfirmed))
                .await
                .unwrap_or(0);
            if confirmed < unconfirmed.len() {
                self.link
                    .take_if(|(_, channel)| !channel.status().connected());
                sleep(Duration::from_millis(50)).await;
            }
            unconfirmed = &unconfirmed[confirmed..];
        }
    }

    /// Publishes one message, once; an error says why it is not known to be stored.
    pub async fn try_publish(&mut self, message: &Message) -> Result<(), String> {
        let cause = match timeout(
            Duration::from_secs(5),
            self.attempt(std::slice::from_ref(message)),
        )
        .await
        {
            Ok(1..) => return Ok(()),
            Ok(_) => "not taken",
            Err(_) => "not confirmed in time",
        };
        self.link
            .take_if(|(_, channel)| !channel.status().connected());
        Err(cause.to_owned())
    }

    /// How many of the messages, from the first on, were confirmed.
    async fn attempt(&mut self, messages: &[Message]) -> usize {
        if self.link.is_none() {
            self.link = self.connect().await.ok();
        }
        let Some((_, channel)) = &self.link else {
            return 0;
        };
        // One at a time: a node that is starting takes messages before the queue is bound again, and gives them back; lapin
        // hands what comes back to whichever confirm is next, so that with several under way a lost one looks confirmed.
        let mut confirmed = 0;
        for message in messages {
            let Ok(confirm) = send(channel, message).await else {
                break;
            };
            match confirm.await {
                Ok(Confirmation::Ack(None)) => confirmed += 1,
                _ => break,
            }
        }
        confirmed
    }

    async fn connect(&self) -> lapin::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        // RabbitMQ 3.10 that is starting, on busy cores, confirms messages to a stream whose writer is not up yet and does not
        // store them: seen here, its own count of the stream without them. A stream that can be declared has its writer.
        let probe = connection.create_channel().await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        probe
            .queue_declare("events.sse".into(), passive, FieldTable::default())
            .await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok((connection, channel))
    }
}
