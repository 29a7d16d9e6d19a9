//! Where a node of RabbitMQ listens, and as whom to log in: an AMQP URI, parsed once. Its password is never shown.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use url::{Host, Url};

/// The address of a node, from `amqp://user:password@host:port/virtual-host`.
///
/// The parts follow <https://www.rabbitmq.com/docs/uri-spec> and its query parameters (`heartbeat`, `frame_max`,
/// `channel_max`, `connection_timeout`), but for one: a path of `/` alone names the virtual host `/` and not the one
/// without a name, as users of pika, aio-pika and Celery expect.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpAddress(AMQPUri);

/// Why a text is no address. It never repeats the text: there may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Not a URI at all.
    #[error(
        "an AMQP URI cannot be read ({0}); it looks like amqp://user:password@host:5672/virtual-host, with %-encoding for special characters in the password"
    )]
    Malformed(String),
    /// Neither `amqp` nor `amqps`.
    #[error("an AMQP URI begins with amqp:// or amqps://, not {0}://")]
    Scheme(String),
    /// A query parameter that is none, or none of its values.
    #[error("the AMQP URI has `{name}={value}`: {reason}")]
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What would be right.
        reason: &'static str,
    },
}

impl FromStr for AmqpAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let url = Url::parse(text).map_err(|error| BadAddress::Malformed(error.to_string()))?;
        let scheme: AMQPScheme = url
            .scheme()
            .parse()
            .map_err(|_| BadAddress::Scheme(url.scheme().to_owned()))?;
        let host = match url.host() {
            // lapin's own parser takes localhost for every IPv6 address.
            Some(Host::Ipv6(ip)) => ip.to_string(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Domain(name)) => decode(name, "the host")?,
            None => return Err(BadAddress::Malformed("it has no host".to_owned())),
        };
        if host.is_empty() {
            return Err(BadAddress::Malformed("it has no host".to_owned()));
        }
        let username = match url.username() {
            "" => "guest".to_owned(),
            name => decode(name, "the user")?,
        };
        let password = match url.password() {
            None => "guest".to_owned(),
            Some(password) => decode(password, "the password")?,
        };
        let vhost = match url.path().strip_prefix('/') {
            None | Some("") => "/".to_owned(),
            Some(path) if path.contains('/') => {
                let reason = "the virtual host has a `/` in it, which is written %2F";
                return Err(BadAddress::Malformed(reason.to_owned()));
            }
            Some(path) => decode(path, "the virtual host")?,
        };
        if vhost.len() > 255 || username.len() > 255 {
            return Err(BadAddress::Malformed(
                "a name has more than 255 bytes".to_owned(),
            ));
        }
        let port = url.port().unwrap_or_else(|| scheme.default_port());
        Ok(Self(AMQPUri {
            scheme,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username, password },
                host,
                port,
            },
            vhost,
            query: query(&url)?,
        }))
    }
}

/// Percent-decodes one part of the URI. A `%` that begins no byte stands for itself, as in WHATWG URLs.
fn decode(part: &str, name: &str) -> Result<String, BadAddress> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().filter(|_| first == b'%');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
    }
    String::from_utf8(bytes)
        .map_err(|_| BadAddress::Malformed(format!("{name} is not UTF-8 once decoded")))
}

fn query(url: &Url) -> Result<AMQPQueryString, BadAddress> {
    let mut query = AMQPQueryString::default();
    for (name, value) in url.query_pairs() {
        let bad = |reason| BadAddress::Parameter {
            name: name.clone().into_owned(),
            value: value.clone().into_owned(),
            reason,
        };
        let number = "it takes a whole number";
        match &*name {
            "heartbeat" => query.heartbeat = Some(value.parse().map_err(|_| bad(number))?),
            "channel_max" => query.channel_max = Some(value.parse().map_err(|_| bad(number))?),
            "connection_timeout" => {
                query.connection_timeout = Some(value.parse().map_err(|_| bad(number))?);
            }
            "frame_max" => {
                let frame_max = value.parse().map_err(|_| bad(number))?;
                if frame_max != 0 && frame_max < 8192 {
                    return Err(bad("it takes 0 for the broker's, or at least 8192"));
                }
                query.frame_max = Some(frame_max);
            }
            "auth_mechanism" if value.eq_ignore_ascii_case("plain") => {}
            "auth_mechanism" => return Err(bad("only `plain` is supported")),
            // Other clients' parameters do no harm here (pika's, the Erlang client's).
            _ => {}
        }
    }
    Ok(query)
}

impl AmqpAddress {
    /// Whether the address asks for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0.scheme, AMQPScheme::AMQPS)
    }

    /// The virtual host.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    /// Host and port, as `tokio` and the standard library take them.
    pub(super) fn endpoint(&self) -> (&str, u16) {
        (&self.0.authority.host, self.0.authority.port)
    }

    /// How long to wait for a TCP connection, if the URI says so. At most 30 s: a link must come back soon.
    pub(super) fn connection_timeout(&self) -> Option<Duration> {
        let milliseconds = self.0.query.connection_timeout?;
        Some(Duration::from_millis(milliseconds.clamp(100, 30_000)))
    }

    /// What `lapin` connects with: the URI's own wishes first, then these. A heartbeat of zero is the broker's. `lapin` is
    /// never asked for TLS: that is under its sockets (see [`trust`](super::trust)).
    pub(super) fn uri(&self, heartbeat: Duration, frame_max: Option<u32>) -> AMQPUri {
        let mut uri = self.0.clone();
        uri.scheme = AMQPScheme::AMQP;
        let seconds = u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX);
        let query = &mut uri.query;
        query.heartbeat = query.heartbeat.or(Some(seconds));
        query.frame_max = query.frame_max.or(frame_max);
        uri
    }

    /// The same as text, for `deadpool-lapin`, which parses it again: the host is encoded too, or an IPv6 address
    /// would become localhost.
    pub(super) fn uri_text(&self, heartbeat: Duration, frame_max: Option<u32>) -> String {
        let mut uri = self.uri(heartbeat, frame_max);
        uri.authority.host = encode(&uri.authority.host);
        uri.to_string()
    }
}

/// Percent-encodes all but letters, digits, `.`, `-` and `_`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Shows all but the password, which becomes `***`.
impl fmt::Display for AmqpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri {
            scheme,
            authority,
            vhost,
            ..
        } = &self.0;
        let user = encode(&authority.userinfo.username);
        let host = match authority.host.contains(':') {
            true => format!("[{}]", authority.host),
            false => authority.host.clone(),
        };
        write!(
            f,
            "{scheme}://{user}:***@{host}:{}/{}",
            authority.port,
            encode(vhost)
        )
    }
}

impl fmt::Debug for AmqpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> AmqpAddress {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_shows_everything_but_its_password() {
        let address =
            parse("amqp://team%40a:p%40ss+w%2Frd@rabbit.example:5673/live%2Fa?heartbeat=7");
        assert_eq!(
            address.to_string(),
            "amqp://team%40a:***@rabbit.example:5673/live%2Fa"
        );
        assert_eq!(format!("{address:?}"), address.to_string());
        assert_eq!(address.0.authority.userinfo.password, "p@ss+w/rd");
        assert_eq!(address.0.authority.userinfo.username, "team@a");
        assert_eq!(address.vhost(), "live/a");
        assert_eq!(address.0.query.heartbeat, Some(7));
    }

    #[test]
    fn a_password_may_hold_what_a_query_would_split_at() {
        assert_eq!(
            parse("amqp://u:a=b&c+d@h").0.authority.userinfo.password,
            "a=b&c+d"
        );
    }

    #[test]
    fn what_is_left_out_has_the_usual_defaults() {
        for text in [
            "amqp://localhost",
            "amqp://localhost/",
            "amqp://localhost/%2f",
            "amqp://localhost/%2F",
        ] {
            assert_eq!(parse(text).0, AMQPUri::default(), "{text}");
        }
        assert_eq!(parse("amqps://h").endpoint(), ("h", 5671));
    }

    #[test]
    fn an_ipv6_address_stays_one_through_both_parsers() {
        let address = parse("amqp://[::1]:5673/x");
        assert_eq!(address.endpoint(), ("::1", 5673));
        let text = address.uri_text(Duration::from_secs(10), None);
        assert_eq!(
            text.parse::<AMQPUri>().unwrap(),
            address.uri(Duration::from_secs(10), None)
        );
        assert_eq!(address.to_string(), "amqp://guest:***@[::1]:5673/x");
    }

    #[test]
    fn the_uri_says_more_than_the_configuration() {
        let uri = parse("amqp://h/?heartbeat=3&frame_max=8192")
            .uri(Duration::from_secs(10), Some(16_384));
        assert_eq!(
            (uri.query.heartbeat, uri.query.frame_max),
            (Some(3), Some(8192))
        );
        let uri = parse("amqp://h").uri(Duration::from_secs(10), Some(16_384));
        assert_eq!(
            (uri.query.heartbeat, uri.query.frame_max),
            (Some(10), Some(16_384))
        );
    }

    #[test]
    fn a_bad_address_says_why_and_never_repeats_the_password() {
        for (text, says) in [
            ("localhost:5672", "begins with amqp://"),
            ("secret", "cannot be read"),
            ("http://u:secret@h/", "not http://"),
            ("amqp://u:secret@/x", "host"),
            ("amqp://u:secret@h:99999/", "port"),
            ("amqp://u:secret@h/a/b", "%2F"),
            ("amqp://u:secret@h/?heartbeat=ten", "heartbeat=ten"),
            ("amqp://u:secret@h/?frame_max=64", "8192"),
            ("amqp://u:secret@h/?auth_mechanism=external", "plain"),
        ] {
            let message = text.parse::<AmqpAddress>().unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
