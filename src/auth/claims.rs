//! From a token's claims to a grant. Every claim is of its type or the token is refused: one that is misread would grant
//! more, or less, than whoever signed it meant.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::grant::{Grant, Permission, Reach, Validity};
use crate::event::address::JsonPointer;
use crate::event::audience::Identifier;
use crate::event::topic::TopicPattern;

/// Which claim means what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// Whose own events.
    pub user: ClaimName,
    /// Whose teams' events.
    pub teams: ClaimName,
    /// Which channels.
    pub channels: ClaimName,
    /// Inside which tenant.
    pub tenant: ClaimName,
    /// What its bearer may do.
    pub permissions: ClaimName,
}

/// The name of a claim, or, where it begins with a slash, the JSON pointer to it (RFC 6901). At most 128 bytes, none of
/// them a control character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimName(String);

/// A claim that is not what it has to be. The words are for whoever makes the tokens; they never quote a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token's claim `{name}` {rule}")]
pub struct BadClaim {
    name: String,
    rule: String,
}

/// The longest id of a token (`jti`), in bytes.
pub const MAX_TOKEN_ID_BYTES: usize = 256;

/// The last second of the year 9999. What is later is a mistake, such as milliseconds: such a token would never end.
const LATEST: u64 = 253_402_300_799;

impl ClaimName {
    const MAX_BYTES: usize = 128;

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts a value where [`ClaimNames`] will look for it.
    ///
    /// # Errors
    /// Where that is inside of a claim that is no object.
    pub fn insert(&self, claims: &mut Map<String, Value>, value: Value) -> Result<(), BadClaim> {
        let Some(pointer) = self.0.strip_prefix('/') else {
            claims.insert(self.0.clone(), value);
            return Ok(());
        };
        // RFC 6901 §4: in this order.
        let mut tokens = pointer
            .split('/')
            .map(|token| token.replace("~1", "/").replace("~0", "~"));
        let Some(mut token) = tokens.next() else {
            return Ok(());
        };
        let mut place = claims;
        for next in tokens {
            let inner = place
                .entry(token)
                .or_insert_with(|| Value::Object(Map::new()));
            place = inner
                .as_object_mut()
                .ok_or_else(|| self.bad("would be inside of another claim"))?;
            token = next;
        }
        place.insert(token, value);
        Ok(())
    }

    fn find<'c>(&self, claims: &'c Value) -> Option<&'c Value> {
        if self.0.starts_with('/') {
            claims.pointer(&self.0)
        } else {
            claims.get(&self.0)
        }
    }

    fn bad(&self, rule: impl Into<String>) -> BadClaim {
        BadClaim {
            name: self.0.clone(),
            rule: rule.into(),
        }
    }
}

impl FromStr for ClaimName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(char::is_control) {
            return Err(format!(
                "write the name of a claim, or a JSON pointer such as /realm/roles, of 1 to {} bytes",
                Self::MAX_BYTES
            ));
        }
        if text.starts_with('/') {
            let pointer: Result<JsonPointer, _> = text.parse();
            pointer.map_err(|error| error.to_string())?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl ClaimNames {
    /// Whether a token with these claims would be taken for one.
    ///
    /// # Errors
    /// [`BadClaim`] when one of them is not of its type.
    pub fn check(&self, claims: &Value) -> Result<(), BadClaim> {
        self.grant(claims, Duration::ZERO).map(|_| ())
    }

    /// The grant of a token whose signature and validity were judged before. What it does not name is not granted.
    pub(super) fn grant(&self, claims: &Value, leeway: Duration) -> Result<Grant, BadClaim> {
        let reach = Reach::Somebody {
            tenant: identifier(&self.tenant, claims)?,
            user: identifier(&self.user, claims)?,
            teams: self.teams(claims)?,
            channels: self.channels(claims)?,
        };
        let validity = Validity {
            expires_at: moment("exp", claims)?,
            issued_at: moment("iat", claims)?,
            token_id: token_id(claims)?,
            leeway,
        };
        Ok(Grant::new(reach, self.permissions(claims)?, validity))
    }

    fn teams(&self, claims: &Value) -> Result<BTreeSet<Identifier>, BadClaim> {
        let Some(value) = self.teams.find(claims) else {
            return Ok(BTreeSet::new());
        };
        let teams = value
            .as_array()
            .ok_or_else(|| self.teams.bad("must be a list of strings or integers"))?;
        teams
            .iter()
            .map(|team| {
                identifier_of(team)
                    .map_err(|rule| self.teams.bad(format!("has a member that {rule}")))
            })
            .collect()
    }

    fn channels(&self, claims: &Value) -> Result<Vec<TopicPattern>, BadClaim> {
        let Some(value) = self.channels.find(claims) else {
            return Ok(Vec::new());
        };
        let bad = || {
            self.channels.bad(
                "must be a list of AMQP patterns of A-Z a-z 0-9 _ - : @ . with * and # as whole words, of at most 255 bytes",
            )
        };
        let channels = value.as_array().ok_or_else(bad)?;
        channels
            .iter()
            .map(|channel| {
                let text = channel.as_str().filter(|text| is_channel_pattern(text));
                text.and_then(|text| text.parse().ok()).ok_or_else(bad)
            })
            .collect()
    }

    /// A list, or words with blanks between, as OAuth's `scope` (RFC 6749 §3.3). Words that mean nothing here are for
    /// others.
    fn permissions(&self, claims: &Value) -> Result<Vec<Permission>, BadClaim> {
        let bad = || {
            self.permissions
                .bad("must be a list of strings, or one string with blanks between")
        };
        let words: Vec<&str> = match self.permissions.find(claims) {
            None => Vec::new(),
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(list)) => {
                let words: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                words.ok_or_else(bad)?
            }
            Some(_) => return Err(bad()),
        };
        let granted = |permission: &Permission| words.contains(&permission.as_str());
        Ok(Permission::ALL.into_iter().filter(granted).collect())
    }
}

fn identifier(name: &ClaimName, claims: &Value) -> Result<Option<Identifier>, BadClaim> {
    name.find(claims)
        .map(|value| identifier_of(value).map_err(|rule| name.bad(rule)))
        .transpose()
}

/// A string or an integer, as producers may write it too.
fn identifier_of(value: &Value) -> Result<Identifier, String> {
    let parsed: Result<Identifier, _> = match value {
        Value::String(text) => text.parse(),
        Value::Number(number) if number.is_u64() || number.is_i64() => number.to_string().parse(),
        _ => return Err("must be a string or an integer".to_owned()),
    };
    parsed.map_err(|error| error.to_string())
}

/// Words as in identifiers, so that nothing that looks like a pattern can be anything but one.
fn is_channel_pattern(text: &str) -> bool {
    text.split('.').all(|word| {
        matches!(word, "*" | "#")
            || word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-:@".contains(&byte))
    })
}

/// A NumericDate (RFC 7519 §2): seconds since 1970, of which a fraction is left out.
fn moment(name: &str, claims: &Value) -> Result<Option<SystemTime>, BadClaim> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value.as_u64().or_else(|| {
        let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0)?;
        Some(Duration::try_from_secs_f64(seconds).ok()?.as_secs())
    });
    let seconds = seconds
        .filter(|seconds| *seconds <= LATEST)
        .ok_or_else(|| BadClaim {
            name: name.to_owned(),
            rule: "must be a number of seconds (not milliseconds) since 1970".to_owned(),
        })?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// Whether a token may have this id (`jti`), and so whether there is something to revoke by it.
#[must_use]
pub fn is_token_id(text: &str) -> bool {
    (1..=MAX_TOKEN_ID_BYTES).contains(&text.len()) && !text.contains(char::is_control)
}

fn token_id(claims: &Value) -> Result<Option<String>, BadClaim> {
    claims
        .get("jti")
        .map(|value| {
            value
                .as_str()
                .filter(|id| is_token_id(id))
                .map(str::to_owned)
                .ok_or_else(|| BadClaim {
                    name: "jti".to_owned(),
                    rule: format!("must be a string of 1 to {MAX_TOKEN_ID_BYTES} bytes without control characters"),
                })
        })
        .transpose()
}
