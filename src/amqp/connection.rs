//! One link to one node: reaching it, logging in, and saying in plain words why it failed. And how long to wait
//! before the next try, and how often to say so.
//!
//! It knows nothing of queues; it keeps no link. Who connects owns what it gets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{LongString, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::AmqpAddress;
use super::mending;
use super::trust::{self, Passage, Spoken};
use super::{BrokerConfig, Error};

/// How long a node may take to accept a TCP connection, unless its URI says otherwise.
const REACH: Duration = Duration::from_secs(5);
/// How long the login may take after that.
pub(super) const LOGIN: Duration = Duration::from_secs(5);
/// How long the broker may take to answer one request on an open link.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long a polite goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Frames of 16 KiB, unless the node's URI says otherwise: `lapin` keeps 64 of them per connection, 1 MB instead of 8. Headers
/// that do not fit are left out on the way in (see [`mending`]).
pub(super) const FRAME_MAX: u32 = 16 * 1024;

/// What a connection is for: it says so in RabbitMQ's list of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Consumer,
    ReadBack,
    Revocations,
    Publisher,
    Check,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::ReadBack => "read-back",
            Self::Revocations => "revocations",
            Self::Publisher => "publisher",
            Self::Check => "check",
        }
    }
}

/// The properties a connection of this role shows to the broker.
pub(super) fn properties(config: &BrokerConfig, role: Role) -> ConnectionProperties {
    let host = gethostname::gethostname();
    let name = format!(
        "sse-bridge {} ({}) on {}",
        config.queue,
        role.as_str(),
        host.display()
    );
    ConnectionProperties::default()
        .with_connection_name(LongString::from(name))
        .with_client_property("product".into(), LongString::from("sse-bridge"))
        .with_client_property(
            "version".into(),
            LongString::from(env!("CARGO_PKG_VERSION")),
        )
}

/// Whether the last try of a node ended in silence: it accepted, and then said nothing.
#[derive(Debug, Default)]
pub(super) struct Suspicion(AtomicBool);

/// Connects to a node and logs in.
///
/// `lapin` has no time-out for either, and a try that is given up leaves a thread behind until its socket ends. So
/// the node is knocked at first, with a time-out of our own; and one that once fell silent must greet us.
pub(super) async fn connect(
    node: &AmqpAddress,
    config: &BrokerConfig,
    role: Role,
    suspicion: &Suspicion,
) -> Result<Connection, Error> {
    knock(node, config, suspicion).await?;
    let uri = node.uri(config.heartbeat, Some(FRAME_MAX));
    let passage = Passage::to(node, config.trust.as_ref())?;
    let runtime = mending::runtime(passage, uri.query.frame_max);
    match timeout(
        LOGIN,
        Connection::connect_uri_with_runtime(uri, properties(config, role), runtime),
    )
    .await
    {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(explain_login(&error, node)),
        Err(_) => {
            suspicion.raise();
            Err(silent(node))
        }
    }
}

/// Connects to the node whose turn it is.
pub(super) async fn connect_in_turn(
    config: &BrokerConfig,
    turn: usize,
    role: Role,
    suspicion: &Suspicion,
) -> Result<Connection, Error> {
    let Some(node) = config.nodes.get(turn % config.nodes.len().max(1)) else {
        let reason = "no node is configured".to_owned();
        return Err(Error::Invalid {
            what: "the list of nodes",
            reason,
        });
    };
    connect(node, config, role, suspicion).await
}

/// Makes sure that somebody is there before `lapin` connects, and that it speaks if it once did not.
pub(super) async fn knock(
    node: &AmqpAddress,
    config: &BrokerConfig,
    suspicion: &Suspicion,
) -> Result<(), Error> {
    if suspicion.0.load(Ordering::Relaxed) {
        greet(node, config).await?;
        suspicion.0.store(false, Ordering::Relaxed);
        Ok(())
    } else {
        reach(node, config).await.map(drop)
    }
}

impl Suspicion {
    /// To be called when a login was given up.
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection, and TLS on it where the address asks for that: what is wrong with a certificate is said here.
async fn reach(node: &AmqpAddress, config: &BrokerConfig) -> Result<Spoken, Error> {
    let passage = Passage::to(node, config.trust.as_ref())?;
    let unreachable = |reason: String| Error::Unreachable {
        node: node.to_string(),
        reason,
    };
    let patience = node.connection_timeout().unwrap_or(REACH);
    let socket = match timeout(patience, TcpStream::connect(node.endpoint())).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => {
            let reason = format!("no answer within {} ms", patience.as_millis());
            return Err(unreachable(reason));
        }
    };
    match timeout(LOGIN, passage.over(socket)).await {
        Ok(Ok(spoken)) => Ok(spoken),
        Ok(Err(error)) => Err(match trust::refusal(&error) {
            Some(reason) => Error::Tls {
                node: node.to_string(),
                reason,
            },
            None => unreachable(error.to_string()),
        }),
        Err(_) => Err(silent(node)),
    }
}

/// A node that accepted, and then said nothing for [`LOGIN`].
pub(super) fn silent(node: &AmqpAddress) -> Error {
    let reason = format!(
        "it accepted the connection but did not answer within {} s",
        LOGIN.as_secs()
    );
    Error::Unreachable {
        node: node.to_string(),
        reason,
    }
}

/// Who answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// `RabbitMQ`, if it is.
    pub product: String,
    /// Such as `3.10.8`.
    pub version: String,
}

/// Reads the broker's greeting (`connection.start`, AMQP 0-9-1 §1.4.2.1), which `lapin` keeps to itself, and hangs up.
pub(super) async fn greet(node: &AmqpAddress, config: &BrokerConfig) -> Result<Greeting, Error> {
    let mut stream = reach(node, config).await?;
    let conversation = async {
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        // Type, channel, length of the payload; a greeting is some 500 bytes.
        let mut head = [0; 7];
        stream.read_exact(&mut head).await?;
        let [kind, _, _, size @ ..] = head;
        let size = u32::from_be_bytes(size);
        if kind != 1 || size > 64 * 1024 {
            return Err(std::io::Error::other(
                "what answers there does not speak AMQP 0-9-1",
            ));
        }
        let mut payload = vec![0; size as usize];
        stream.read_exact(&mut payload).await?;
        Ok(payload)
    };
    match timeout(LOGIN, conversation).await {
        Ok(Ok(payload)) => Ok(Greeting {
            product: server_property(&payload, "product")
                .unwrap_or("a broker without a name")
                .to_owned(),
            version: server_property(&payload, "version")
                .unwrap_or("unknown")
                .to_owned(),
        }),
        Ok(Err(error)) => Err(Error::Unreachable {
            node: node.to_string(),
            reason: error.to_string(),
        }),
        Err(_) => Err(silent(node)),
    }
}

/// The string under `name` in the table of server properties: its length and name, `S`, its length and text
/// (AMQP 0-9-1 §4.2.5.5). Found by its bytes: for two strings a parser of all field types is not worth having.
fn server_property<'a>(payload: &'a [u8], name: &str) -> Option<&'a str> {
    let mut key = vec![u8::try_from(name.len()).ok()?];
    key.extend_from_slice(name.as_bytes());
    key.push(b'S');
    let at = payload
        .windows(key.len())
        .position(|window| window == key)?;
    let rest = payload.get(at + key.len()..)?;
    let (size, rest) = rest.split_first_chunk::<4>()?;
    std::str::from_utf8(rest.get(..u32::from_be_bytes(*size) as usize)?).ok()
}

/// Opens a channel. One that fails is tried again: an id that the broker once closed can answer with its old error
/// when ids come round.
pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, Error> {
    let opening = "opening a channel";
    let mut last = None;
    for _ in 0..3 {
        match answer(opening, connection.create_channel()).await {
            Ok(channel) => return Ok(channel),
            Err(error) if !connection.status().connected() => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(Error::Timeout {
        action: opening.to_owned(),
        seconds: ANSWER.as_secs(),
    }))
}

/// Waits for the broker's answer, for [`ANSWER`] at most.
pub(super) async fn answer<T>(
    action: &str,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Error> {
    match timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(lost(action, &error)),
        Err(_) => Err(Error::Timeout {
            action: action.to_owned(),
            seconds: ANSWER.as_secs(),
        }),
    }
}

/// Says goodbye to the broker, but does not wait long for it.
pub(super) async fn close(connection: &Connection) {
    if connection.status().connected() {
        // Whatever it answers: the link ends now.
        drop(timeout(GOODBYE, connection.close(200, "OK".into())).await);
    }
}

/// A name as AMQP carries it: at most 255 bytes (AMQP 0-9-1 §4.2.5.3). `lapin`'s `From` panics on longer ones.
pub(super) fn short(what: &'static str, text: &str) -> Result<ShortString, Error> {
    ShortString::try_new(text).map_err(|error| Error::Invalid {
        what,
        reason: error.to_string(),
    })
}

/// What the broker said with its reply code, if it said anything.
pub(super) fn reply(error: &lapin::Error) -> Option<(&AMQPErrorKind, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            Some((AMQPError::kind(error), error.get_message().as_str()))
        }
        _ => None,
    }
}

/// Whether the broker said 404.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    matches!(
        reply(error),
        Some((AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND), _))
    )
}

/// Whether the broker said 403.
pub(super) fn is_refused(error: &lapin::Error) -> bool {
    matches!(
        reply(error),
        Some((AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), _))
    )
}

/// The end of a link that was up.
pub(super) fn lost(action: &str, error: &lapin::Error) -> Error {
    let cause = match reply(error) {
        Some((_, message)) => message.to_owned(),
        None => error.to_string(),
    };
    Error::Lost {
        action: action.to_owned(),
        cause,
    }
}

/// Why a login failed.
pub(super) fn explain_login(error: &lapin::Error, node: &AmqpAddress) -> Error {
    let name = node.to_string();
    match reply(error) {
        Some((AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), reply)) => Error::Credentials {
            node: name,
            reply: reply.to_owned(),
        },
        // 530, and 403 in some versions when the virtual host is down.
        Some((AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED), reply))
            if reply.contains("vhost") || reply.contains("virtual host") =>
        {
            Error::VirtualHost {
                node: name,
                vhost: node.vhost().to_owned(),
                reply: reply.to_owned(),
            }
        }
        Some((_, reply)) => Error::Unreachable {
            node: name,
            reason: reply.to_owned(),
        },
        None => Error::Unreachable {
            node: name,
            reason: error.to_string(),
        },
    }
}

/// How long to wait before the next try: 0.1 s, doubling to 5 s, each with jitter (half of it and up), so that
/// replicas that lost one broker do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let longest = Self::FIRST
            .saturating_mul(1 << self.tries.min(16))
            .min(Self::LONGEST);
        self.tries = self.tries.saturating_add(1);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// It worked: the next fault begins with the shortest wait.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_a_tenth_of_a_second_to_five_and_begin_again_after_a_success() {
        let mut backoff = Backoff::default();
        for longest in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] {
            let wait = backoff.next().as_millis();
            assert!(
                (longest / 2..=longest).contains(&wait),
                "{wait} of {longest}"
            );
        }
        for _ in 0..100 {
            assert!(backoff.next() <= Backoff::LONGEST);
        }
        backoff.reset();
        assert!(backoff.next() <= Backoff::FIRST);
    }

    #[test]
    fn a_property_is_found_in_a_greeting_and_a_cut_one_is_none() {
        let payload =
            b"\x00\x0a\x07versionS\x00\x00\x00\x063.10.8\x07productS\x00\x00\x00\x08RabbitMQ";
        assert_eq!(server_property(payload, "version"), Some("3.10.8"));
        assert_eq!(server_property(payload, "product"), Some("RabbitMQ"));
        assert_eq!(server_property(payload, "platform"), None);
        assert_eq!(
            server_property(&payload[..payload.len() - 1], "product"),
            None
        );
    }
}
