//! What the text of a value may be. Each function here takes one setting's text and gives what it means, or the words
//! for what is legal. None of them quotes the text: some of it is secret, and whoever reports shows the rest.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::CorsOrigins;
use super::raw::NOTHING;
use crate::amqp::AmqpAddress;
use crate::auth::{Algorithm, KeySource, Secret};
use crate::event::id::Marking;
use crate::event::topic::TopicPattern;
use crate::http::proxies::TrustedProxies;

/// The longest name of an exchange or a queue, in bytes (AMQP 0-9-1 §4.2.5.3, short strings).
pub(super) const LONGEST_NAME: usize = 255;
/// The longest name of a header, in bytes (AMQP 0-9-1 §4.2.5.5, field tables).
const LONGEST_HEADER: usize = 128;
/// The shortest shared secret, in bytes: 128 bits where every byte is random.
const SHORTEST_TOKEN: usize = 16;
/// The shortest secret that a key is derived from, in bytes.
const SHORTEST_KEY: usize = 32;
/// The longest shared secret, in bytes, so that it fits any server's bound on a header.
const LONGEST_TOKEN: usize = 1_024;
/// The longest life of a queue without consumers: RabbitMQ's timers end at 2^32 ms.
const LONGEST_EXPIRY: Duration = Duration::from_secs(49 * DAY);
/// For how long it may be known who was revoked.
const REVOCATION_AGES: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(365 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// A value whose own type says what is legal.
pub(super) fn parsed<T>(text: &str) -> Result<T, String>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                format!("write one of {}", words.join(", "))
            })
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// A whole number in decimal.
pub(super) fn number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
    unit: &str,
) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        digits(text)
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                format!(
                    "write a whole number of {unit} from {} to {}",
                    range.start(),
                    range.end()
                )
            })
    }
}

pub(super) fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> {
    let seconds = number(range, "seconds");
    move |text| seconds(text).map(Duration::from_secs)
}

/// A number that 0 takes the limit out of.
pub(super) fn limit(unit: &str) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        digits(text)
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| format!("write a whole number of {unit}, or 0 for no limit"))
    }
}

/// A number and a unit, as RabbitMQ writes retention: `7D`, `24h`, `10m`, `30s`.
///
/// # Errors
/// In words, what is legal.
pub fn duration(text: &str) -> Result<Duration, String> {
    let legal = || {
        "write a whole number and a unit, such as 30s, 10m, 24h, 7D (also M of 30 days, Y of 365), or 0 for no limit"
            .to_owned()
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.chars().next_back().ok_or_else(legal)?;
    let number: u64 = text.strip_suffix(unit).and_then(digits).ok_or_else(legal)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'D' | 'd' => DAY,
        'M' => 30 * DAY,
        'Y' => 365 * DAY,
        _ => return Err(legal()),
    };
    // A hundred years: what is added to or taken from a clock must not overflow.
    number
        .checked_mul(seconds)
        .filter(|seconds| *seconds <= 100 * 365 * DAY)
        .map(Duration::from_secs)
        .ok_or_else(legal)
}

pub(super) fn queue_expires(text: &str) -> Result<Duration, String> {
    let expires = duration(text)?;
    if expires > LONGEST_EXPIRY {
        return Err("RabbitMQ knows no longer one: write at most 49D, or 0 for never".to_owned());
    }
    Ok(expires)
}

pub(super) fn revocation_age(text: &str) -> Result<Duration, String> {
    let age = duration(text)?;
    if !REVOCATION_AGES.contains(&age) {
        return Err(
            "write as long as the longest token is good for, from 1m to 365D (0 would forget at once who was revoked)"
                .to_owned(),
        );
    }
    Ok(age)
}

/// A number of bytes, or one with a unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let legal = || {
        "write a number of bytes, or one with KiB, MiB, GiB, KB, MB or GB, such as 256MiB, or 0 for no limit".to_owned()
    };
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).ok_or_else(legal)?;
    let number = digits(number).ok_or_else(legal)?;
    let bytes = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(legal()),
    };
    // AMQP's tables have signed numbers of 64 bits at most.
    number
        .checked_mul(bytes)
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(legal)
}

/// A number of bytes in memory.
pub(super) fn memory_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    usize::try_from(bytes).map_err(|_| "is more than this machine can address".to_owned())
}

/// Digits only: the standard library's parser takes a plus sign too.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// A comma list with at least one member.
pub(super) fn list<T>(
    member: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Vec<T>, String> {
    move |text| {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let judge = |(index, part): (usize, &&str)| match (*part, parts.len()) {
            ("", _) => Err(format!(
                "number {} of the list is empty: take a comma out",
                index + 1
            )),
            (part, 1) => member(part),
            (part, _) => {
                member(part).map_err(|legal| format!("number {} of the list: {legal}", index + 1))
            }
        };
        parts.iter().enumerate().map(judge).collect()
    }
}

/// A comma list, or the word for an empty one.
pub(super) fn list_or_none<T>(
    member: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Vec<T>, String> {
    let members = list(member);
    move |text| {
        if text == NOTHING {
            Ok(Vec::new())
        } else {
            members(text)
        }
    }
}

/// A node of the broker. The words for what is wrong never quote it: they would show its password.
pub(super) fn amqp_address(text: &str) -> Result<AmqpAddress, String> {
    const LEGAL: &str = "write amqp://user:password@host:5672/vhost, nodes with commas between; in user, \
                         password and vhost write %40 for @, %2F for /, %3A for :, %23 for #, %2C for a comma";
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error}): {LEGAL}"))?;
    match url.scheme() {
        "amqp" | "amqps" => {}
        _ => return Err(format!("does not begin with amqp:// or amqps://: {LEGAL}")),
    }
    if url.fragment().is_some() {
        return Err(format!("has a # in it: {LEGAL}"));
    }
    parsed(text).map_err(|error| format!("{error}: {LEGAL}"))
}

/// A file, which is looked at when it is needed.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// A comma list of addresses, and of networks as `address/bits`.
pub(super) fn networks(text: &str) -> Result<TrustedProxies, String> {
    list_or_none(network)(text).map(TrustedProxies::new)
}

fn network(text: &str) -> Result<IpNet, String> {
    const LEGAL: &str =
        "write an IP address or a network, such as 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32";
    let address: Option<IpAddr> = text.parse().ok();
    let network = match address {
        Some(address) => Some(IpNet::from(address.to_canonical())),
        None => text.parse().ok(),
    };
    let network: IpNet = network.ok_or_else(|| LEGAL.to_owned())?;
    if network.prefix_len() == 0 {
        return Err(
            "would believe everybody, and limits by address would mean nothing: name your proxies"
                .to_owned(),
        );
    }
    if network.trunc() != network {
        return Err(format!(
            "has bits set behind its prefix: write {}",
            network.trunc()
        ));
    }
    Ok(network)
}

/// An AMQP short string that can be read in a log.
fn name(text: &str, longest: usize) -> Result<String, String> {
    if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) {
        return Err(format!(
            "write 1 to {longest} bytes without control characters"
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn exchange_name(text: &str) -> Result<String, String> {
    name(text, LONGEST_NAME)
}

pub(super) fn queue_name(text: &str) -> Result<String, String> {
    // AMQP 0-9-1 §2.1.2.1 (Queue.Declare).
    if text.starts_with("amq.") {
        return Err("names with amq. at the start are the broker's own: name another".to_owned());
    }
    name(text, LONGEST_NAME)
}

pub(super) fn replica_name(text: &str) -> Result<String, String> {
    if text.contains(char::is_whitespace) {
        return Err("write a name without blanks".to_owned());
    }
    name(text, LONGEST_NAME)
}

pub(super) fn header_name(text: &str) -> Result<String, String> {
    name(text, LONGEST_HEADER)
}

pub(super) fn binding_key(text: &str) -> Result<String, String> {
    parsed::<TopicPattern>(text).map(|_| text.to_owned())
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, such as 0.0.0.0:8080 or [::]:8080 (port 0: any that is free)".to_owned()
    })
}

pub(super) fn cors_origins(text: &str) -> Result<CorsOrigins, String> {
    match text {
        "*" => Ok(CorsOrigins::Any),
        NOTHING => Ok(CorsOrigins::None),
        _ => list(origin)(text).map(CorsOrigins::Exactly),
    }
}

/// An origin as browsers write it (RFC 6454 §6.2): compared byte by byte, so that any other spelling never matches.
fn origin(text: &str) -> Result<HeaderValue, String> {
    const LEGAL: &str = "write scheme://host or scheme://host:port as browsers do (no path, no slash at the end), or * alone";
    if text == "*" {
        return Err("* stands alone: take the others out, or it".to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("is no origin ({error}): {LEGAL}"))?;
    let host = text.split_once("://").map_or("", |(_, host)| host);
    if host.is_empty() || host.contains(['/', '?', '#', '@', '*', '\\']) {
        return Err(format!("is no origin: {LEGAL}"));
    }
    let origin = url.origin();
    let spelling = if origin.is_tuple() {
        origin.ascii_serialization()
    } else {
        text.to_owned()
    };
    if spelling != text {
        return Err(format!("browsers write it {spelling}: write it so"));
    }
    HeaderValue::from_str(text).map_err(|_| format!("is no origin: {LEGAL}"))
}

/// A secret that fits into `Authorization: Bearer` (RFC 6750 §2.1, `b64token`).
pub(super) fn token(text: &str) -> Result<Secret, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if text.len() < SHORTEST_TOKEN || text.len() > LONGEST_TOKEN || !text.bytes().all(legal) {
        return Err(format!(
            "write {SHORTEST_TOKEN} to {LONGEST_TOKEN} characters of A-Z a-z 0-9 - . _ ~ + / = (openssl rand -hex 32)"
        ));
    }
    Ok(Secret::new(text.to_owned()))
}

/// A secret from which a key is derived.
pub(super) fn event_id_key(text: &str) -> Result<Marking, String> {
    if text.len() < SHORTEST_KEY {
        return Err(format!(
            "write at least {SHORTEST_KEY} bytes, the same on all replicas (openssl rand -hex 32)"
        ));
    }
    Ok(Marking::keyed(text))
}

/// A secret that JWTs are signed with, used byte for byte as it stands.
pub(super) fn signing_secret(text: &str) -> Result<Secret, String> {
    if text.len() < KeySource::MIN_SECRET_BYTES || text.len() > LONGEST_TOKEN {
        return Err(format!(
            "write {} to {LONGEST_TOKEN} bytes (openssl rand -hex 32)",
            KeySource::MIN_SECRET_BYTES
        ));
    }
    Ok(Secret::new(text.to_owned()))
}

/// An algorithm by its name in a token's header (RFC 7518 §3.1, RFC 8037 §3.1). `none` is no algorithm.
pub(super) fn algorithm(text: &str) -> Result<Algorithm, String> {
    text.parse().map_err(|_| {
        "write names of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA".to_owned()
    })
}

/// A value of `iss` or `aud`: compared byte for byte.
pub(super) fn string_or_uri(text: &str) -> Result<String, String> {
    name(text, LONGEST_NAME)
}

/// The name of a cookie: an HTTP token (RFC 6265 §4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > LONGEST_HEADER || !text.bytes().all(legal) {
        return Err("write the name of a cookie, such as __Host-events".to_owned());
    }
    Ok(text.to_owned())
}

/// Where a collector takes traces: what OTLP/HTTP puts behind the base that the setting names is put there.
pub(super) fn otlp_endpoint(text: &str) -> Result<Uri, String> {
    let legal = || {
        "write http://host:4318 or https://host:4318, the collector's port for OTLP over HTTP"
            .to_owned()
    };
    let url = Url::parse(text).map_err(|_| legal())?;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !bare || url.host().is_none() {
        return Err(legal());
    }
    let base = url.as_str().trim_end_matches('/');
    format!("{base}/v1/traces").parse().map_err(|_| legal())
}

pub(super) fn otlp_protocol(text: &str) -> Result<(), String> {
    if text == "http/protobuf" {
        return Ok(());
    }
    Err("write http/protobuf, which is all that is spoken here, and name the collector's port for it (4318)".to_owned())
}

/// Headers as OpenTelemetry writes them: `name=value`, with commas between, percent-encoded.
pub(super) fn otlp_headers(text: &str) -> Result<HeaderMap, String> {
    let header = |(name, value): (String, String)| {
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_str(&name).ok()?, value))
    };
    let headers: Option<HeaderMap> =
        pairs(text).and_then(|pairs| pairs.into_iter().map(header).collect());
    headers.ok_or_else(|| {
        "write name=value with commas between, and in values %2C for a comma, %25 for %".to_owned()
    })
}

pub(super) fn resource_attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    pairs(text).ok_or_else(|| {
        "write name=value with commas between (deployment.environment.name=production), and in values %2C for a comma, %25 \
         for %"
            .to_owned()
    })
}

/// `name=value,name=value`, with what is percent-encoded decoded, and blanks around names and values left out.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text.trim()).decode_utf8().ok()?;
        Some(text.into_owned())
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = decoded(name).filter(|name| !name.is_empty())?;
        Some((name, decoded(value)?))
    };
    text.split(',').map(pair).collect()
}

pub(super) fn service_name(text: &str) -> Result<String, String> {
    name(text, LONGEST_NAME)
}

/// A share of all.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| "write a number from 0 (none) to 1 (all), such as 0.01".to_owned())
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("{error}: write directives such as info or sse_bridge=debug,info"))
}
