//! Who an event is for. The first rule that applies decides: headers, routing-key templates, fields of the body,
//! broadcast keys. Where none applies the message is poison: it is never broadcast by accident.
//!
//! What a rule reads and finds illegal is poison too, even where another value would win: a producer that sends
//! `team-id: true` beside a good `user-id` is wrong about something, and should hear of it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::audience::{Audience, BadIdentifier, Identifier, Recipient};
use super::topic::{Segment, TopicPattern, fit};
use super::{HeaderValue, Message, Poison, Reason};

/// How messages are addressed: plain, validated values, made by the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRules {
    /// The header that names a user.
    pub user_header: String,
    /// The header that names a team.
    pub team_header: String,
    /// The header that names a channel.
    pub channel_header: String,
    /// The header that names a tenant.
    pub tenant_header: String,
    /// What routing keys mean; the first that fits decides.
    pub routing_keys: Vec<RoutingKeyTemplate>,
    /// Where in a JSON body the user stands; none does not look.
    pub user_field: Option<JsonPointer>,
    /// Where in a JSON body the team stands; none does not look.
    pub team_field: Option<JsonPointer>,
    /// The routing keys of events for everybody.
    pub broadcast_keys: Vec<TopicPattern>,
}

impl AddressRules {
    /// The names of attributes that the templates give, each once, in alphabetical order.
    pub fn attribute_names(&self) -> impl Iterator<Item = &str> {
        let slots = self
            .routing_keys
            .iter()
            .flat_map(|template| template.slots.iter());
        let names: BTreeSet<&str> = slots
            .filter_map(|slot| match &slot.meaning {
                Meaning::Attribute(name) => Some(&**name),
                _ => None,
            })
            .collect();
        names.into_iter()
    }

    /// Finds the audience and the attributes of a message.
    ///
    /// # Errors
    /// [`Reason::BadAddress`] where something that a rule reads is no identifier, [`Reason::Unaddressed`] where no
    /// rule applies.
    pub fn address(&self, message: &Message) -> Result<Address, Poison> {
        let header_tenant = identifier_of_header(message, &self.tenant_header)?;
        let header_recipient = self.recipient_of_headers(message)?;
        let topic = self.read_routing_key(&message.routing_key)?;

        let recipient = match header_recipient.or(topic.recipient) {
            Some(recipient) => recipient,
            None => self
                .recipient_of_body(&message.body)?
                .map_or_else(|| self.broadcast(&message.routing_key), Ok)?,
        };
        let tenant = header_tenant.or(topic.tenant);
        Ok(Address {
            audience: Audience { tenant, recipient },
            attributes: topic.attributes,
        })
    }

    /// The word by which a routing key names a tenant, whatever the headers beside it say, and whether or not it is a legal
    /// name.
    #[must_use]
    pub fn tenant_in<'k>(&self, routing_key: &'k str) -> Option<&'k str> {
        let mut words = [""; RoutingKeyTemplate::MAX_NAMES];
        let template = self.fitting(routing_key, &mut words)?;
        let slot = template
            .slots
            .iter()
            .position(|slot| matches!(slot.meaning, Meaning::Tenant))?;
        words.get(slot).copied()
    }

    /// Rule 1.
    fn recipient_of_headers(&self, message: &Message) -> Result<Option<Recipient>, Poison> {
        // All three are read, so that an illegal one that would lose is found as well.
        let user = identifier_of_header(message, &self.user_header)?;
        let channel = identifier_of_header(message, &self.channel_header)?;
        let team = identifier_of_header(message, &self.team_header)?;
        Ok(strongest(user, channel, team))
    }

    /// Rule 2, and what the routing key tells of the tenant and the attributes.
    fn read_routing_key(&self, routing_key: &str) -> Result<TopicReading, Poison> {
        let mut words = [""; RoutingKeyTemplate::MAX_NAMES];
        match self.fitting(routing_key, &mut words) {
            Some(template) => template.interpret(routing_key, &words),
            None => Ok(TopicReading::default()),
        }
    }

    /// The first template that the routing key fits, and in `words` what its slots stand for.
    fn fitting<'k>(
        &self,
        routing_key: &'k str,
        words: &mut [&'k str; RoutingKeyTemplate::MAX_NAMES],
    ) -> Option<&RoutingKeyTemplate> {
        self.routing_keys
            .iter()
            .find(|template| template.read(routing_key, words))
    }

    /// Rule 3. A body that is not JSON has no fields; the check of the payload reports it.
    fn recipient_of_body(&self, body: &[u8]) -> Result<Option<Recipient>, Poison> {
        if self.user_field.is_none() && self.team_field.is_none() {
            return Ok(None);
        }
        let Ok(body) = std::str::from_utf8(body) else {
            return Ok(None);
        };
        let read = |field: &Option<JsonPointer>| match field {
            Some(field) => identifier_of_field(body, field),
            None => Ok(None),
        };
        let user = read(&self.user_field)?;
        let team = read(&self.team_field)?;
        Ok(strongest(user, None, team))
    }

    /// Rule 4, and the end of the rules.
    fn broadcast(&self, routing_key: &str) -> Result<Recipient, Poison> {
        if self
            .broadcast_keys
            .iter()
            .any(|pattern| pattern.matches(routing_key))
        {
            return Ok(Recipient::Broadcast);
        }
        let detail = format_args!(
            "no header, routing-key template, field or broadcast key gives an audience; routing key {}",
            Excerpt(routing_key)
        );
        Err(Poison::new(Reason::Unaddressed, &detail))
    }
}

/// User beats channel beats team.
fn strongest(
    user: Option<Identifier>,
    channel: Option<Identifier>,
    team: Option<Identifier>,
) -> Option<Recipient> {
    let user = user.map(Recipient::User);
    user.or(channel.map(Recipient::Channel))
        .or(team.map(Recipient::Team))
}

fn identifier_of_header(message: &Message, name: &str) -> Result<Option<Identifier>, Poison> {
    let Some(value) = message.header(name) else {
        return Ok(None);
    };
    match Identifier::try_from(value) {
        Ok(identifier) => Ok(Some(identifier)),
        Err(error) => Err(bad_address(&format_args!(
            "header {} {error}",
            Excerpt(name)
        ))),
    }
}

fn identifier_of_field(body: &str, field: &JsonPointer) -> Result<Option<Identifier>, Poison> {
    let Some(value) = field.find(body) else {
        return Ok(None);
    };
    match Identifier::try_from(&scalar(value)) {
        Ok(identifier) => Ok(Some(identifier)),
        Err(error) => Err(bad_address(&format_args!(
            "field {} of the body {error}",
            Excerpt(&field.text)
        ))),
    }
}

fn bad_address(detail: &dyn fmt::Display) -> Poison {
    Poison::new(Reason::BadAddress, detail)
}

/// Text from outside as it may stand in a detail: quoted, escaped, and cut to what tells one from another.
struct Excerpt<'a>(&'a str);

impl Excerpt<'_> {
    const MAX_CHARACTERS: usize = 64;
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        f.write_str("\"")?;
        for character in rest.by_ref().take(Self::MAX_CHARACTERS) {
            write!(f, "{}", character.escape_debug())?;
        }
        f.write_str(if rest.as_str().is_empty() {
            "\""
        } else {
            "…\""
        })
    }
}

/// Who a message is for, and what its routing key tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Who may see it.
    pub audience: Audience,
    /// What the first template that fits its routing key names, whichever rule gave the audience.
    pub attributes: Attributes,
}

/// What templates named in the topic of an event: a few pairs of name and value, such as `job_id` and `9`. Empty, it
/// takes no memory but its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(Arc<str>, Box<str>)>);

impl Attributes {
    /// The value of this attribute.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// All pairs, in the order of the template.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The memory that it holds beside its own, in bytes. Names belong to the templates.
    pub(crate) fn heap_bytes(&self) -> usize {
        let values: usize = self.0.iter().map(|(_, value)| value.len()).sum();
        self.0.capacity() * size_of::<(Arc<str>, Box<str>)>() + values
    }
}

/// What one routing key means.
#[derive(Default)]
struct TopicReading {
    tenant: Option<Identifier>,
    recipient: Option<Recipient>,
    attributes: Attributes,
}

/// A topic pattern of which some words bear names, such as `team.{team_id}.job.{job_id}.status`. `{user_id}`,
/// `{team_id}`, `{channel}` and `{tenant_id}` address the event, other names become its attributes.
#[derive(Clone, Debug)]
pub struct RoutingKeyTemplate {
    /// As it was written.
    text: Box<str>,
    /// The words of `text`; a named one is [`Segment::One`].
    segments: Box<[Segment]>,
    /// The named ones, at most [`RoutingKeyTemplate::MAX_NAMES`], in the order of the words.
    slots: Box<[Slot]>,
}

/// A named word of a template.
#[derive(Clone, Debug)]
struct Slot {
    /// Which word of the template it is.
    segment: usize,
    name: Box<str>,
    meaning: Meaning,
}

#[derive(Clone, Debug)]
enum Meaning {
    User,
    Team,
    Channel,
    Tenant,
    Attribute(Arc<str>),
}

impl RoutingKeyTemplate {
    /// The most words of a template that may bear names.
    pub const MAX_NAMES: usize = 16;

    /// The template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the routing key fits; if so, `words` holds what each slot stands for.
    fn read<'k>(&self, routing_key: &'k str, words: &mut [&'k str; Self::MAX_NAMES]) -> bool {
        fit(&self.segments, routing_key, |segment, word| {
            let slot = self.slots.iter().position(|slot| slot.segment == segment);
            if let Some(place) = slot.and_then(|slot| words.get_mut(slot)) {
                *place = word;
            }
        })
    }

    /// What the words that the slots stand for mean.
    fn interpret(&self, routing_key: &str, words: &[&str]) -> Result<TopicReading, Poison> {
        let (mut user, mut channel, mut team, mut tenant) = (None, None, None, None);
        let mut attributes = Vec::new();
        for (slot, word) in self.slots.iter().zip(words) {
            let bad = |error: BadIdentifier| {
                let key = Excerpt(routing_key);
                bad_address(&format_args!(
                    "{{{}}} of routing key {key} {error}",
                    slot.name
                ))
            };
            match &slot.meaning {
                Meaning::User => user = Some(word.parse().map_err(bad)?),
                Meaning::Channel => channel = Some(word.parse().map_err(bad)?),
                Meaning::Team => team = Some(word.parse().map_err(bad)?),
                Meaning::Tenant => tenant = Some(word.parse().map_err(bad)?),
                Meaning::Attribute(name) => {
                    Identifier::check(word).map_err(bad)?;
                    attributes.push((Arc::clone(name), Box::from(*word)));
                }
            }
        }
        let recipient = strongest(user, channel, team);
        Ok(TopicReading {
            tenant,
            recipient,
            attributes: Attributes(attributes),
        })
    }
}

impl FromStr for RoutingKeyTemplate {
    type Err = BadTemplate;

    fn from_str(text: &str) -> Result<Self, BadTemplate> {
        if text.is_empty() {
            return Err(BadTemplate::Empty);
        }
        let mut segments = Vec::new();
        let mut slots: Vec<Slot> = Vec::new();
        for word in text.split('.') {
            let Some(name) = name_of(word)? else {
                segments.push(Segment::of_word(word));
                continue;
            };
            if slots.iter().any(|slot| *slot.name == *name) {
                return Err(BadTemplate::Twice {
                    name: name.to_owned(),
                });
            }
            slots.push(Slot {
                segment: segments.len(),
                name: Box::from(name),
                meaning: Meaning::of(name),
            });
            segments.push(Segment::One);
        }
        if slots.len() > Self::MAX_NAMES {
            return Err(BadTemplate::TooManyNames { names: slots.len() });
        }
        Ok(Self {
            text: Box::from(text),
            segments: segments.into(),
            slots: slots.into(),
        })
    }
}

impl Meaning {
    fn of(name: &str) -> Self {
        match name {
            "user_id" => Self::User,
            "team_id" => Self::Team,
            "channel" => Self::Channel,
            "tenant_id" => Self::Tenant,
            attribute => Self::Attribute(Arc::from(attribute)),
        }
    }
}

/// The name in `{name}`; none where the word has no braces.
fn name_of(word: &str) -> Result<Option<&str>, BadTemplate> {
    if !word.contains(['{', '}']) {
        return Ok(None);
    }
    let name = word
        .strip_prefix('{')
        .and_then(|word| word.strip_suffix('}'));
    let legal = |name: &&str| {
        name.starts_with(|first: char| first.is_ascii_lowercase())
            && name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    match name.filter(legal) {
        Some(name) => Ok(Some(name)),
        None => Err(BadTemplate::Name {
            word: word.to_owned(),
        }),
    }
}

impl PartialEq for RoutingKeyTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RoutingKeyTemplate {}

impl fmt::Display for RoutingKeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no routing-key template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadTemplate {
    /// It has no bytes.
    #[error("a routing-key template is empty")]
    Empty,
    /// A word has braces, but is not a name in braces.
    #[error(
        "{word:?} in a routing-key template is no name: write {{name}}, of a-z 0-9 _, a letter first, as a whole word"
    )]
    Name {
        /// The word.
        word: String,
    },
    /// One name stands for two words.
    #[error("a routing-key template names {{{name}}} twice; give each word its own name")]
    Twice {
        /// The name.
        name: String,
    },
    /// More words bear names than are allowed.
    #[error(
        "a routing-key template has {names} names; at most {} are allowed",
        RoutingKeyTemplate::MAX_NAMES
    )]
    TooManyNames {
        /// How many do.
        names: usize,
    },
}

/// A place in a JSON document (RFC 6901), such as `/data/user_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer {
    /// As it was written.
    text: Box<str>,
    /// Its tokens, without escapes.
    tokens: Box<[Box<str>]>,
}

impl JsonPointer {
    /// The pointer as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands there, as it is written in the document; none where nothing does, or where the document is not
    /// JSON. Takes no stack, however deep the document nests, and keeps nothing of what it passes.
    fn find<'d>(&self, document: &'d str) -> Option<&'d str> {
        self.tokens
            .iter()
            .try_fold(document, |value, token| child(value, token))
    }
}

impl FromStr for JsonPointer {
    type Err = BadJsonPointer;

    fn from_str(text: &str) -> Result<Self, BadJsonPointer> {
        let tokens = text.strip_prefix('/').ok_or(BadJsonPointer::NoSlash)?;
        let tokens = tokens.split('/').map(unescape).collect::<Result<_, _>>()?;
        Ok(Self {
            text: Box::from(text),
            tokens,
        })
    }
}

/// RFC 6901 §3 and §4: `~1` is `/`, `~0` is `~`, and no other `~` may stand there.
fn unescape(token: &str) -> Result<Box<str>, BadJsonPointer> {
    let mut parts = token.split('~');
    let mut plain = String::from(parts.next().unwrap_or_default());
    for part in parts {
        let (escaped, rest) = match (part.strip_prefix('0'), part.strip_prefix('1')) {
            (Some(rest), _) => ('~', rest),
            (_, Some(rest)) => ('/', rest),
            _ => return Err(BadJsonPointer::Escape),
        };
        plain.push(escaped);
        plain.push_str(rest);
    }
    Ok(plain.into())
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no place of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadJsonPointer {
    /// It does not begin with `/`. The empty pointer, which is the whole document, addresses nobody.
    #[error("a JSON pointer begins with `/`, as in /user_id")]
    NoSlash,
    /// A `~` is followed by neither `0` nor `1`.
    #[error("in a JSON pointer `~` is written ~0, and `/` inside a name ~1")]
    Escape,
}

/// The member or element of a JSON value that this token leads to, as it is written there.
fn child<'d>(value: &'d str, token: &str) -> Option<&'d str> {
    let mut deserializer = serde_json::Deserializer::from_str(value);
    let found = match value.trim_start_matches(JSON_WHITESPACE).as_bytes().first() {
        Some(b'{') => deserializer.deserialize_map(Member(token)).ok()?,
        Some(b'[') => deserializer
            .deserialize_seq(Element(array_index(token)?))
            .ok()?,
        _ => None,
    };
    deserializer.end().ok()?;
    found.map(RawValue::get)
}

/// RFC 8259 §2.
const JSON_WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Finds the member of this name. Where an object has several the last counts, as in a browser's `JSON.parse`: the
/// bridge must not read another user from a body than its client does.
struct Member<'p>(&'p str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = members.next_key_seed(NameIs(self.0))? {
            if is_it {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether the name of a member is this one, without keeping it.
struct NameIs<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for NameIs<'_> {
    type Value = bool;

    /// As bytes: JSON allows names that are no Unicode text (`"\ud800"`), and one of them must not hide the others.
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<bool, E> {
        Ok(name == self.0.as_bytes())
    }
}

/// Finds the element of this index.
struct Element(usize);

impl<'de> Visitor<'de> for Element {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.0 {
            if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = elements.next_element()?;
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// RFC 6901 §4: decimal digits without a leading zero. `-` is behind the last element, where nothing is.
fn array_index(token: &str) -> Option<usize> {
    let digits = token.bytes().all(|byte| byte.is_ascii_digit());
    let shortest = token == "0" || !token.starts_with('0');
    if digits && shortest {
        token.parse().ok()
    } else {
        None
    }
}

/// A value of a body as if a header had brought it, so that one rule judges both.
fn scalar(text: &str) -> HeaderValue {
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map_or(
            HeaderValue::Other("string that is no Unicode text"),
            HeaderValue::Text,
        ),
        Some(b'-' | b'0'..=b'9') => text.parse().map_or(
            HeaderValue::Other("number that is no integer"),
            HeaderValue::Integer,
        ),
        Some(b'{') => HeaderValue::Other("object"),
        Some(b'[') => HeaderValue::Other("array"),
        Some(b'n') => HeaderValue::Other("null"),
        _ => HeaderValue::Other("boolean"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn rules() -> AddressRules {
        let template = |text: &str| text.parse().unwrap();
        AddressRules {
            user_header: "user-id".to_owned(),
            team_header: "team-id".to_owned(),
            channel_header: "channel".to_owned(),
            tenant_header: "tenant-id".to_owned(),
            routing_keys: vec![
                template("team.{team_id}.job.{job_id}.status"),
                template("team.{team_id}.#"),
                template("user.{user_id}.#"),
                template("channel.{channel}.#"),
                template("{tenant_id}.mixed.{team_id}.{channel}.{user_id}"),
                template("{tenant_id}.room.{team_id}.{channel}"),
                template("log.{host}.{level}"),
            ],
            user_field: Some("/user_id".parse().unwrap()),
            team_field: Some("/data/teams/0".parse().unwrap()),
            broadcast_keys: vec!["broadcast.#".parse().unwrap(), "log.#".parse().unwrap()],
        }
    }

    fn message(routing_key: &str, headers: &[(&str, HeaderValue)], body: &str) -> Message {
        Message {
            position: None,
            routing_key: routing_key.to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            kind: None,
            message_id: None,
            timestamp: None,
            expiration: None,
            redelivered: false,
            fault: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn text(value: &str) -> HeaderValue {
        HeaderValue::Text(value.to_owned())
    }

    /// The audience as it is printed, and the attributes; or the reason.
    fn address(
        routing_key: &str,
        headers: &[(&str, HeaderValue)],
        body: &str,
    ) -> Result<(String, String), Reason> {
        let address = rules().address(&message(routing_key, headers, body));
        address.map_err(|poison| poison.reason).map(|address| {
            let pairs: Vec<String> = address
                .attributes
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            (address.audience.to_string(), pairs.join(","))
        })
    }

    fn found(audience: &str, attributes: &str) -> Result<(String, String), Reason> {
        Ok((audience.to_owned(), attributes.to_owned()))
    }

    #[test]
    fn headers_come_first_and_user_beats_channel_beats_team() {
        let (user, channel, team) = (
            ("user-id", HeaderValue::Integer(42)),
            ("channel", text("lobby")),
            ("team-id", text("7")),
        );
        let key = "team.1.x";
        let headers = [team, channel, user];
        assert_eq!(address(key, &headers[..1], "{}"), found("team:7", ""));
        assert_eq!(
            address(key, &headers[..2], "{}"),
            found("channel:lobby", "")
        );
        assert_eq!(address(key, &headers, "{}"), found("user:42", ""));
    }

    #[test]
    fn a_header_that_is_no_identifier_is_a_bad_address_even_where_it_would_lose() {
        for bad in [
            HeaderValue::Other("boolean"),
            text(""),
            text("a b"),
            text("4\n2"),
        ] {
            let good = ("user-id", text("42"));
            for name in ["user-id", "channel", "team-id", "tenant-id"] {
                let alone = address("user.1.x", &[(name, bad.clone())], r#"{"user_id":1}"#);
                assert_eq!(alone, Err(Reason::BadAddress), "{name} {bad:?}");
            }
            for name in ["channel", "team-id", "tenant-id"] {
                let both = address("user.1.x", &[good.clone(), (name, bad.clone())], "{}");
                assert_eq!(both, Err(Reason::BadAddress), "{name} {bad:?}");
            }
        }
        let poison = rules()
            .address(&message(
                "k",
                &[("team-id", HeaderValue::Other("boolean"))],
                "",
            ))
            .unwrap_err();
        assert_eq!(
            poison.detail,
            "header \"team-id\" is of type boolean; it must be a string or an integer"
        );
    }

    #[test]
    fn the_first_template_that_fits_decides_and_names_attributes() {
        assert_eq!(
            address("team.7.job.9.status", &[], "x"),
            found("team:7", "job_id=9")
        );
        assert_eq!(address("team.7.job.9", &[], "x"), found("team:7", ""));
        assert_eq!(address("team.7", &[], "x"), found("team:7", ""));
        assert_eq!(address("user.42.mail", &[], "x"), found("user:42", ""));
        assert_eq!(
            address("channel.lobby", &[], "x"),
            found("channel:lobby", "")
        );
        assert_eq!(
            address("acme.mixed.7.lobby.42", &[], "x"),
            found("tenant acme, user:42", "")
        );
        let room = found("tenant acme, channel:lobby", "");
        assert_eq!(address("acme.room.7.lobby", &[], "x"), room);
    }

    #[test]
    fn attributes_come_from_the_routing_key_whichever_rule_gives_the_audience() {
        let user = [("user-id", text("42"))];
        assert_eq!(
            address("team.7.job.9.status", &user, ""),
            found("user:42", "job_id=9")
        );
        let attributes = "host=web-1,level=warn";
        let field = r#"{"user_id":42}"#;
        assert_eq!(
            address("log.web-1.warn", &[], field),
            found("user:42", attributes)
        );
        assert_eq!(
            address("log.web-1.warn", &[], "{}"),
            found("broadcast", attributes)
        );
    }

    #[test]
    fn a_named_word_that_is_no_identifier_is_a_bad_address() {
        let user = [("user-id", text("42"))];
        for key in [
            "team..x",
            "user.a b",
            "team.7.job..status",
            "team.7.job.a/b.status",
            "user.ü",
        ] {
            assert_eq!(address(key, &[], "{}"), Err(Reason::BadAddress), "{key}");
            assert_eq!(address(key, &user, "{}"), Err(Reason::BadAddress), "{key}");
        }
        let poison = rules()
            .address(&message("team.7.job..status", &[], ""))
            .unwrap_err();
        assert_eq!(
            poison.detail,
            "{job_id} of routing key \"team.7.job..status\" is empty; it must have 1 to 128 bytes"
        );
    }

    #[test]
    fn a_tenant_fences_every_audience() {
        let tenant = ("tenant-id", text("acme"));
        let user = ("user-id", text("42"));
        let headers = [tenant.clone(), user.clone()];
        assert_eq!(
            address("x", &headers, ""),
            found("tenant acme, user:42", "")
        );
        let headers = [tenant.clone()];
        assert_eq!(
            address("team.7.x", &headers, ""),
            found("tenant acme, team:7", "")
        );
        assert_eq!(
            address("broadcast", &headers, ""),
            found("tenant acme, broadcast", "")
        );
        assert_eq!(
            address("x", &headers, r#"{"user_id":1}"#),
            found("tenant acme, user:1", "")
        );
        assert_eq!(address("x", &headers, ""), Err(Reason::Unaddressed));
        // The header beats the word, and the word holds where a header gives the audience.
        assert_eq!(
            address("evil.room.7.r", &headers, ""),
            found("tenant acme, channel:r", "")
        );
        assert_eq!(
            address("evil.room.7.r", &[user], ""),
            found("tenant evil, user:42", "")
        );
    }

    #[test]
    fn fields_of_the_body_are_strings_or_integers_and_user_beats_team() {
        for (body, expected) in [
            (r#"{"user_id":42}"#, found("user:42", "")),
            (r#" { "user_id" : "jane" } "#, found("user:jane", "")),
            (r#"{"user_\u0069d":"\u0034"}"#, found("user:4", "")),
            (
                r#"{"user_id":18446744073709551616}"#,
                found("user:18446744073709551616", ""),
            ),
            (r#"{"data":{"teams":[7,8]}}"#, found("team:7", "")),
            (
                r#"{"data":{"teams":["7"]},"user_id":-1}"#,
                found("user:-1", ""),
            ),
            (r#"{"user_id":1,"user_id":2}"#, found("user:2", "")),
            (r#"{"\ud800":1,"user_id":2}"#, found("user:2", "")),
            (r#"{"x":1e999,"user_id":2}"#, found("user:2", "")),
            (
                r#"{"data":{"teams":[1]},"data":5}"#,
                Err(Reason::Unaddressed),
            ),
            (r#"{"data":{"teams":[]}}"#, Err(Reason::Unaddressed)),
            (r#"{"data":{"teams":{"1":1}}}"#, Err(Reason::Unaddressed)),
            (r#"{"nested":{"user_id":1}}"#, Err(Reason::Unaddressed)),
            (r#"[{"user_id":1}]"#, Err(Reason::Unaddressed)),
            (r#"{"user_id":1"#, Err(Reason::Unaddressed)),
            (r#"{"user_id":1} x"#, Err(Reason::Unaddressed)),
            ("not JSON", Err(Reason::Unaddressed)),
            ("", Err(Reason::Unaddressed)),
            (r#"{"user_id":null}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":true}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":1.0}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":1e3}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":{}}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":[1]}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":""}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":"a b"}"#, Err(Reason::BadAddress)),
            (r#"{"user_id":"\ud800"}"#, Err(Reason::BadAddress)),
            (
                r#"{"user_id":1,"data":{"teams":[{}]}}"#,
                Err(Reason::BadAddress),
            ),
        ] {
            assert_eq!(address("x", &[], body), expected, "{body}");
        }
    }

    #[test]
    fn a_field_is_found_behind_nesting_deeper_than_any_stack() {
        let (open, close) = ("[".repeat(1_000_000), "]".repeat(1_000_000));
        let body = format!(r#"{{"deep":{open}{close},"user_id":42}}"#);
        assert_eq!(address("x", &[], &body), found("user:42", ""));
    }

    #[test]
    fn fields_are_read_only_where_they_are_configured() {
        let rules = AddressRules {
            user_field: None,
            team_field: None,
            ..rules()
        };
        let poison = rules
            .address(&message("x", &[], r#"{"user_id":42}"#))
            .unwrap_err();
        assert_eq!(poison.reason, Reason::Unaddressed);
    }

    #[test]
    fn a_message_is_broadcast_only_by_its_routing_key() {
        assert_eq!(address("broadcast", &[], "{}"), found("broadcast", ""));
        assert_eq!(address("broadcast.news", &[], "x"), found("broadcast", ""));
        for key in ["", "broadcasts", "x.broadcast", "team", "user"] {
            assert_eq!(address(key, &[], "{}"), Err(Reason::Unaddressed), "{key}");
        }
    }

    #[test]
    fn the_routing_key_in_a_detail_is_cut_and_escaped() {
        let key = format!("evil\n\u{1b}[31m\"{}", "x".repeat(200));
        let poison = rules().address(&message(&key, &[], "{}")).unwrap_err();
        let start = "no header, routing-key template, field or broadcast key gives an audience; \
                     routing key \"evil\\n\\u{1b}[31m\\\"xxx";
        assert!(poison.detail.starts_with(start), "{}", poison.detail);
        assert!(poison.detail.ends_with("xxx…\""), "{}", poison.detail);
    }

    #[test]
    fn a_template_names_whole_words_once() {
        for good in ["a", "#", "{a}", "*.{user_id}.#", "{a}.{b2_c}", "a..{x}"] {
            assert_eq!(good.parse::<RoutingKeyTemplate>().unwrap().as_str(), good);
        }
        assert_eq!("".parse::<RoutingKeyTemplate>(), Err(BadTemplate::Empty));
        for bad in [
            "{}", "{A}", "{1a}", "{_a}", "{a", "a}", "x{a}", "{a}x", "{{a}}", "{a b}", "{ä}",
        ] {
            let word = bad.to_owned();
            assert_eq!(
                bad.parse::<RoutingKeyTemplate>(),
                Err(BadTemplate::Name { word })
            );
        }
        let name = "a".to_owned();
        assert_eq!(
            "{a}.{a}".parse::<RoutingKeyTemplate>(),
            Err(BadTemplate::Twice { name })
        );
        let many = |names: usize| {
            let words: Vec<String> = (0..names).map(|number| format!("{{n{number}}}")).collect();
            words.join(".").parse::<RoutingKeyTemplate>().map(|_| ())
        };
        assert_eq!(many(16), Ok(()));
        assert_eq!(many(17), Err(BadTemplate::TooManyNames { names: 17 }));
    }

    #[test]
    fn attribute_names_are_those_that_address_nothing() {
        let rules = rules();
        let names: Vec<&str> = rules.attribute_names().collect();
        assert_eq!(names, ["host", "job_id", "level"]);
    }

    #[test]
    fn a_pointer_is_written_as_rfc_6901_says() {
        for good in ["/", "/a", "/a/0/b", "/~0~1", "//", "/ü"] {
            assert_eq!(good.parse::<JsonPointer>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BadJsonPointer::NoSlash),
            ("a", BadJsonPointer::NoSlash),
            ("/~", BadJsonPointer::Escape),
            ("/~2", BadJsonPointer::Escape),
            ("/a~/b", BadJsonPointer::Escape),
        ] {
            assert_eq!(bad.parse::<JsonPointer>(), Err(why), "{bad:?}");
        }
    }

    fn key() -> impl Strategy<Value = String> {
        let word = proptest::sample::select(vec![
            "team",
            "user",
            "channel",
            "broadcast",
            "job",
            "status",
            "7",
            "",
            "a b",
            "log",
            "room",
        ]);
        prop_oneof![
            proptest::collection::vec(word, 0..6).prop_map(|words| words.join(".")),
            any::<String>(),
        ]
    }

    fn header_value() -> impl Strategy<Value = HeaderValue> {
        prop_oneof![
            any::<String>().prop_map(HeaderValue::Text),
            "[0-9a-z]{1,4}".prop_map(HeaderValue::Text),
            any::<i128>().prop_map(HeaderValue::Integer),
            Just(HeaderValue::Other("table")),
        ]
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "SECRET[ -~]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name =
                proptest::sample::select(vec!["user_id", "data", "teams", "a/b", "~", "", "0"]);
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((name, inner), 0..4).prop_map(|members| {
                    members
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect()
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_message_makes_addressing_panic_or_the_payload_show(
            routing_key in key(),
            headers in proptest::collection::vec((proptest::sample::select(vec![
                "user-id", "team-id", "channel", "tenant-id", "other",
            ]), header_value()), 0..3),
            body in json(),
        ) {
            let message = message(&routing_key, &headers, &body.to_string());
            if let Err(poison) = rules().address(&message) {
                prop_assert!(poison.detail.len() <= Poison::DETAIL_MAX_BYTES);
                prop_assert!(!poison.detail.contains("SECRET"), "{}", poison.detail);
            }
        }

        #[test]
        fn no_bytes_in_a_body_make_addressing_panic(body: Vec<u8>) {
            let message = Message { body: Bytes::from(body), ..message("x", &[], "") };
            prop_assert!(rules().address(&message).is_err());
        }

        #[test]
        fn a_pointer_finds_what_it_finds_in_a_tree(
            document in json(),
            tokens in proptest::collection::vec(proptest::sample::select(vec![
                "user_id", "data", "teams", "a~1b", "~0", "", "0", "1", "01", "-", "+1",
            ]), 1..4),
        ) {
            let pointer = format!("/{}", tokens.join("/"));
            let text = format!(" {document:#} ");
            let found = pointer.parse::<JsonPointer>().unwrap().find(&text).map(str::to_owned);
            let found = found.map(|found| serde_json::from_str::<Value>(&found).unwrap());
            prop_assert_eq!(found.as_ref(), document.pointer(&pointer));
        }

        #[test]
        fn a_template_fits_what_its_pattern_fits(routing_key in key()) {
            for template in &rules().routing_keys {
                let stars = template.as_str().split('.').map(|word| match word.strip_prefix('{') {
                    Some(_) => "*",
                    None => word,
                });
                let pattern: TopicPattern = stars.collect::<Vec<_>>().join(".").parse().unwrap();
                let mut words = [""; RoutingKeyTemplate::MAX_NAMES];
                prop_assert_eq!(template.read(&routing_key, &mut words), pattern.matches(&routing_key));
            }
        }

        #[test]
        fn no_text_makes_a_template_or_a_pointer_panic(text in "[{}~/.a#*0é]{0,12}") {
            if let Ok(template) = text.parse::<RoutingKeyTemplate>() {
                prop_assert_eq!(template.to_string(), text.clone());
            }
            if let Ok(pointer) = text.parse::<JsonPointer>() {
                prop_assert_eq!(pointer.to_string(), text);
            }
        }
    }
}
