//! Who may see an event: one recipient, inside one tenant where there are tenants.
//!
//! An audience is made from checked identifiers only; it is the key by which the hub finds the channel.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::HeaderValue;

/// The name of a user, team, channel or tenant: 1 to 128 bytes of `A-Z a-z 0-9 _ - : @ .`. Cheap to clone.
///
/// The private field holds a legal identifier: it is written into logs and ids of channels as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identifier(Arc<str>);

impl Identifier {
    /// The most bytes an identifier may have.
    pub const MAX_BYTES: usize = 128;

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` is an identifier, without making one.
    pub(super) fn check(text: &str) -> Result<(), BadIdentifier> {
        if text.is_empty() {
            return Err(BadIdentifier::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(BadIdentifier::TooLong { bytes: text.len() });
        }
        match text.bytes().position(|byte| !is_legal(byte)) {
            Some(at) => Err(BadIdentifier::Character { at }),
            None => Ok(()),
        }
    }
}

const fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':' | b'@' | b'.')
}

impl FromStr for Identifier {
    type Err = BadIdentifier;

    fn from_str(text: &str) -> Result<Self, BadIdentifier> {
        Self::check(text)?;
        Ok(Self(Arc::from(text)))
    }
}

/// A string, or any integer in decimal.
impl TryFrom<&HeaderValue> for Identifier {
    type Error = BadIdentifier;

    fn try_from(value: &HeaderValue) -> Result<Self, BadIdentifier> {
        match value {
            HeaderValue::Text(text) => text.parse(),
            // A sign and decimal digits are legal, and at most 40 bytes.
            HeaderValue::Integer(integer) => Ok(Self(Arc::from(integer.to_string()))),
            HeaderValue::Other(kind) => Err(BadIdentifier::Type { kind }),
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Identifier {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why something is no identifier. It names the rule and never the value, which may come from a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadIdentifier {
    /// It has no bytes.
    #[error("is empty; it must have 1 to {} bytes", Identifier::MAX_BYTES)]
    Empty,
    /// It has more than 128 bytes.
    #[error("has {bytes} bytes; at most {} are allowed", Identifier::MAX_BYTES)]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// It has a character that is not allowed.
    #[error("has a character at byte {at} that is none of A-Z a-z 0-9 _ - : @ .")]
    Character {
        /// Which byte of it, counted from 0.
        at: usize,
    },
    /// It is neither a string nor an integer.
    #[error("is of type {kind}; it must be a string or an integer")]
    Type {
        /// The name of its type.
        kind: &'static str,
    },
}

/// To whom an event goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Recipient {
    /// One user, on all its connections.
    User(Identifier),
    /// All that listen to one channel.
    Channel(Identifier),
    /// All members of one team.
    Team(Identifier),
    /// Everybody.
    Broadcast,
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Channel(channel) => write!(f, "channel:{channel}"),
            Self::Team(team) => write!(f, "team:{team}"),
            Self::Broadcast => f.write_str("broadcast"),
        }
    }
}

/// Who may see an event. The tenant fences every recipient, broadcast too: those of other tenants, and of none,
/// never see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Audience {
    /// The tenant that it stays inside; none where nothing names one.
    pub tenant: Option<Identifier>,
    /// To whom it goes.
    pub recipient: Recipient,
}

/// `user:42`, or `tenant acme, team:7`.
impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "tenant {tenant}, {}", self.recipient),
            None => self.recipient.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identifier_has_1_to_128_of_the_allowed_characters() {
        for legal in [
            "4",
            "AZaz09_-:@.",
            "jane@example.org",
            "urn:x:1",
            &"i".repeat(128),
        ] {
            assert_eq!(legal.parse::<Identifier>().unwrap().as_str(), legal);
        }
        for (illegal, why) in [
            ("", BadIdentifier::Empty),
            ("a b", BadIdentifier::Character { at: 1 }),
            ("a\n", BadIdentifier::Character { at: 1 }),
            ("\0", BadIdentifier::Character { at: 0 }),
            ("jané", BadIdentifier::Character { at: 3 }),
            ("a/b", BadIdentifier::Character { at: 1 }),
            ("*", BadIdentifier::Character { at: 0 }),
            ("#", BadIdentifier::Character { at: 0 }),
        ] {
            assert_eq!(illegal.parse::<Identifier>(), Err(why), "{illegal:?}");
        }
        let bytes = 129;
        assert_eq!(
            "i".repeat(bytes).parse::<Identifier>(),
            Err(BadIdentifier::TooLong { bytes })
        );
    }

    #[test]
    fn a_header_is_an_identifier_if_it_is_a_string_or_an_integer() {
        let of = |value: HeaderValue| Identifier::try_from(&value).map(|legal| legal.to_string());
        assert_eq!(of(HeaderValue::Text("42".to_owned())), Ok("42".to_owned()));
        assert_eq!(of(HeaderValue::Integer(42)), Ok("42".to_owned()));
        assert_eq!(of(HeaderValue::Integer(-1)), Ok("-1".to_owned()));
        assert_eq!(
            of(HeaderValue::Integer(i128::MIN)),
            Ok(i128::MIN.to_string())
        );
        let kind = "boolean";
        assert_eq!(
            of(HeaderValue::Other(kind)),
            Err(BadIdentifier::Type { kind })
        );
    }

    #[test]
    fn an_audience_is_printed_with_its_tenant() {
        let identifier = |text: &str| text.parse::<Identifier>().unwrap();
        let print = |tenant, recipient| Audience { tenant, recipient }.to_string();
        let acme = || Some(identifier("acme"));
        assert_eq!(print(None, Recipient::User(identifier("42"))), "user:42");
        assert_eq!(
            print(acme(), Recipient::Team(identifier("7"))),
            "tenant acme, team:7"
        );
        assert_eq!(
            print(None, Recipient::Channel(identifier("x"))),
            "channel:x"
        );
        assert_eq!(
            print(acme(), Recipient::Broadcast),
            "tenant acme, broadcast"
        );
    }

    proptest! {
        #[test]
        fn every_integer_is_an_identifier(integer: i128) {
            let identifier = Identifier::try_from(&HeaderValue::Integer(integer)).unwrap();
            prop_assert_eq!(identifier.as_str().parse(), Ok(identifier.clone()));
        }

        #[test]
        fn no_text_makes_an_identifier_panic(text in any::<String>()) {
            if let Ok(identifier) = text.parse::<Identifier>() {
                prop_assert_eq!(identifier.as_str(), text);
            }
        }
    }
}
