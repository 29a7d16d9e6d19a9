//! The one place that every door asks: what a request shows, and the grant that this earns.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::credentials::{BadCredentials, Places, Shown};
use super::grant::{Grant, Permission};
use super::jwks::{KeyRefresh, KeysUnavailable, NoClient};
use super::jwt::{BadToken, Keys, Refusal, Verifier};
use super::keys::KeySet;
use super::{AuthConfig, AuthMode, KeySource, Secret};
use crate::metrics::Metrics;

/// Turns what a request shows into a grant. Cheap to clone: all clones are the same.
#[derive(Clone, Debug)]
pub struct Authenticator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    judge: Judge,
    places: Places,
}

/// What a request shows: a token that is still to be judged, or nothing where none is wanted.
#[derive(Debug)]
pub struct ShownToken(Option<Secret>);

/// How a token becomes a grant.
#[derive(Debug)]
enum Judge {
    /// There is none, and anyone may do this.
    Anyone(Vec<Permission>),
    /// It is a shared secret.
    Shared(Secret),
    /// It is a JWT.
    Jwt(Box<Verifier>),
}

/// Why a request earned no grant. The text is for the client: it says what to send, never what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// It shows no token that could be judged.
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    /// The shared token is not right.
    #[error("the token is not valid here")]
    Wrong,
    /// The JWT is not good.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// It cannot be told now.
    #[error(transparent)]
    Unavailable(#[from] KeysUnavailable),
}

impl Authenticator {
    /// An authenticator by its settings, and what fetches its keys, if anything does. Without login anyone may read, and no
    /// more.
    ///
    /// # Errors
    /// [`NoClient`] when keys could never be fetched.
    pub fn new(
        config: &AuthConfig,
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, Option<KeyRefresh>), NoClient> {
        let mut refresh = None;
        let judge = match &config.mode {
            AuthMode::None => Judge::Anyone(vec![Permission::Read]),
            AuthMode::Token(secret) => Judge::Shared(secret.clone()),
            AuthMode::Jwt(jwt) => {
                let accepted = &jwt.rules.algorithms;
                let keys = match &jwt.keys {
                    KeySource::Secret(secret) => Keys::Fixed(KeySet::of_secret(secret, accepted)),
                    KeySource::File(keys) => Keys::Fixed(keys.clone()),
                    KeySource::Jwks(jwks) => {
                        let (remote, fetching) = KeyRefresh::new(jwks, accepted, metrics)?;
                        refresh = Some(fetching);
                        Keys::Remote(remote)
                    }
                };
                let rules = jwt.rules.clone();
                Judge::Jwt(Box::new(Verifier { keys, rules }))
            }
        };
        let places = config.places.clone();
        Ok((Self(Arc::new(Inner { judge, places })), refresh))
    }

    /// For `dev`: no login, and anyone who reaches the loopback address may do everything.
    #[must_use]
    pub fn for_dev() -> Self {
        Self(Arc::new(Inner {
            judge: Judge::Anyone(Permission::ALL.to_vec()),
            places: Places::default(),
        }))
    }

    /// The token that a request shows, apart from all else that it bears.
    ///
    /// # Errors
    /// [`Unauthenticated`] when this server wants a token and the request bears none that could be judged.
    pub fn token(&self, shown: &Shown<'_>) -> Result<ShownToken, Unauthenticated> {
        let Inner { judge, places } = &*self.0;
        Ok(ShownToken(match judge {
            Judge::Anyone(_) => {
                places.nothing_misplaced(shown)?;
                None
            }
            Judge::Shared(_) | Judge::Jwt(_) => {
                Some(Secret::new(places.token(shown)?.into_owned()))
            }
        }))
    }

    /// The grant that a token earns. Waits only for a key that may be new, and for others' sake never under a lock: whoever
    /// asks should hold no more of the request meanwhile than it needs.
    ///
    /// # Errors
    /// [`Unauthenticated`] when this server wants a token and this is no valid one.
    pub async fn grant(&self, token: ShownToken) -> Result<Grant, Unauthenticated> {
        let token = token.0.ok_or(BadCredentials::Missing);
        match &self.0.judge {
            Judge::Anyone(permissions) => Ok(Grant::undivided(permissions)),
            Judge::Shared(secret) => {
                let (token, secret) = (token?, secret.expose().as_bytes());
                // Constant time (RFC 9700 §2.6 in spirit): an answer's delay tells nothing about the secret but its length.
                if bool::from(token.expose().as_bytes().ct_eq(secret)) {
                    Ok(Grant::undivided(&Permission::ALL))
                } else {
                    Err(Unauthenticated::Wrong)
                }
            }
            Judge::Jwt(verifier) => {
                verifier
                    .verify(token?.expose())
                    .await
                    .map_err(|refusal| match refusal {
                        Refusal::Bad(bad) => bad.into(),
                        Refusal::Unavailable(unavailable) => unavailable.into(),
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;
    use http::{HeaderMap, Method};

    use super::*;

    async fn outcome(
        authenticator: &Authenticator,
        token: Option<&str>,
    ) -> Result<Grant, Unauthenticated> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        let shown = Shown {
            method: &Method::GET,
            headers: &headers,
            query: None,
        };
        authenticator.grant(authenticator.token(&shown)?).await
    }

    fn of_mode(mode: AuthMode) -> Authenticator {
        let places = Places::default();
        let config = AuthConfig { mode, places };
        Authenticator::new(&config, &Metrics::new().unwrap())
            .unwrap()
            .0
    }

    #[tokio::test]
    async fn only_the_shared_token_earns_a_grant() {
        let authenticator = of_mode(AuthMode::Token(Secret::new(
            "correct-horse-battery".to_owned(),
        )));
        outcome(&authenticator, Some("correct-horse-battery"))
            .await
            .unwrap();
        assert_eq!(
            outcome(&authenticator, None).await.unwrap_err(),
            Unauthenticated::Credentials(BadCredentials::Missing)
        );
        for wrong in [
            "correct-horse-batterz",
            "correct-horse-batter",
            "correct-horse-battery-",
        ] {
            let error = outcome(&authenticator, Some(wrong)).await.unwrap_err();
            assert_eq!(error, Unauthenticated::Wrong, "{wrong}");
        }
    }

    #[tokio::test]
    async fn without_login_anyone_may_read_and_nothing_else() {
        let authenticator = of_mode(AuthMode::None);
        let grant = outcome(&authenticator, None).await.unwrap();
        assert!(grant.require(Permission::Read).is_ok());
        assert!(grant.require(Permission::Publish).is_err());
        assert!(grant.require(Permission::Admin).is_err());
    }
}
