//! What a request shows, and the grant that this earns.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use super::grant::{Grant, Permission};
use super::{AuthConfig, AuthMode};

/// Turns what a request shows into a grant.
#[derive(Clone, Debug)]
pub struct Authenticator {
    mode: AuthMode,
    /// What a request may do that needs no login.
    anyone: Vec<Permission>,
}

/// Why a request earned no grant. The text is for the client: it says what to send, never what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// Nothing was shown.
    #[error("this server wants a token: send `Authorization: Bearer <token>`")]
    Missing,
    /// The `Authorization` header cannot be read.
    #[error("the Authorization header is not of the form `Bearer <token>` (RFC 6750 §2.1)")]
    Malformed,
    /// The token is not right.
    #[error("the token is not valid here")]
    Wrong,
}

impl Authenticator {
    /// An authenticator by its settings. Without login anyone may read, and no more.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        Self {
            mode: config.mode.clone(),
            anyone: vec![Permission::Read],
        }
    }

    /// For `dev`: no login, and anyone who reaches the loopback address may do everything.
    #[must_use]
    pub fn for_dev() -> Self {
        Self {
            mode: AuthMode::None,
            anyone: Permission::ALL.to_vec(),
        }
    }

    /// The grant that a request's headers earn.
    ///
    /// # Errors
    /// [`Unauthenticated`] when this server wants a token and they bear no valid one.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Grant, Unauthenticated> {
        match &self.mode {
            AuthMode::None => Ok(Grant::undivided(&self.anyone)),
            AuthMode::Token(secret) => {
                let shown = bearer(headers)?;
                // Constant time (RFC 9700 §2.6 in spirit): an answer's delay tells nothing about the secret but its length.
                if bool::from(shown.as_bytes().ct_eq(secret.expose().as_bytes())) {
                    Ok(Grant::undivided(&Permission::ALL))
                } else {
                    Err(Unauthenticated::Wrong)
                }
            }
        }
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1; the scheme's case does not matter, RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Unauthenticated> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Unauthenticated::Missing)?;
    if values.next().is_some() {
        return Err(Unauthenticated::Malformed);
    }
    let text = value.to_str().map_err(|_| Unauthenticated::Malformed)?;
    match text.split_once(' ') {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() =>
        {
            Ok(token.trim())
        }
        _ => Err(Unauthenticated::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    fn headers(values: &[&str]) -> HeaderMap {
        let value = |text: &&str| (AUTHORIZATION, text.parse().unwrap());
        values.iter().map(value).collect()
    }

    #[test]
    fn only_the_shared_token_earns_a_grant() {
        let mode = AuthMode::Token(Secret::new("correct horse battery".replace(' ', "-")));
        let authenticator = Authenticator::new(&AuthConfig { mode });
        let outcome = |values: &[&str]| authenticator.authenticate(&headers(values)).err();
        assert_eq!(outcome(&["Bearer correct-horse-battery"]), None);
        assert_eq!(outcome(&["bearer  correct-horse-battery"]), None);
        for (values, expected) in [
            (&[][..], Unauthenticated::Missing),
            (&["Bearer correct-horse-batterz"], Unauthenticated::Wrong),
            (&["Bearer correct-horse-batter"], Unauthenticated::Wrong),
            (&["Bearer correct-horse-battery-"], Unauthenticated::Wrong),
            (&["Bearer "], Unauthenticated::Malformed),
            (&["Basic Y29ycmVjdA=="], Unauthenticated::Malformed),
            (&["correct-horse-battery"], Unauthenticated::Malformed),
            (
                &[
                    "Bearer correct-horse-battery",
                    "Bearer correct-horse-battery",
                ],
                Unauthenticated::Malformed,
            ),
        ] {
            assert_eq!(outcome(values), Some(expected), "{values:?}");
        }
    }

    #[test]
    fn without_login_anyone_may_read_and_nothing_else() {
        let authenticator = Authenticator::new(&AuthConfig {
            mode: AuthMode::None,
        });
        let grant = authenticator.authenticate(&HeaderMap::new()).unwrap();
        assert!(grant.require(Permission::Read).is_ok());
        assert!(grant.require(Permission::Publish).is_err());
        assert!(grant.require(Permission::Admin).is_err());
    }
}
