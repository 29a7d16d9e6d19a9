//! Who a request speaks for, and what that one may see. This module decides rights and does nothing else: it opens no
//! socket and knows no stream.

mod credentials;
mod grant;
mod revocations;

use std::fmt;

pub use self::credentials::{Authenticator, Unauthenticated};
pub use self::grant::{Forbidden, Grant, Permission, Reach, Validity, Wanted};
pub use self::revocations::{Refused, Revocation, Revocations, Subject, Watch};

/// How requests are told apart.
#[derive(Clone, Debug)]
pub enum AuthMode {
    /// Not at all: whoever reaches the port sees what it asks for.
    None,
    /// A trusted front end shows one shared secret; the `user_id` and `team_id` it asks for are then believed.
    Token(Secret),
}

impl AuthMode {
    /// Whether tokens are checked, so that there is something to revoke.
    #[must_use]
    pub fn checks_tokens(&self) -> bool {
        match self {
            Self::None => false,
            Self::Token(_) => true,
        }
    }

    /// Whether tokens say whose they are. Where they do not, whoever shows one decides that anew with each request.
    #[must_use]
    pub fn tells_apart(&self) -> bool {
        match self {
            Self::None | Self::Token(_) => false,
        }
    }
}

/// Settings of this module.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// How requests are told apart.
    pub mode: AuthMode,
}

/// A value that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps `value` from being printed.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for comparing or sending it, never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
