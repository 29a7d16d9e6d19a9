//! Who a request speaks for, and what that one may see. This module decides rights and does nothing else: it knows no
//! stream, and the only address that it ever asks is that of the key server which the operator named.

mod authenticator;
mod credentials;
mod jwt;
mod claims;
mod keys;
mod jwks;
mod grant;
mod revocations;

use std::fmt;

pub use jsonwebtoken::{Algorithm, AlgorithmFamily};

pub use self::authenticator::{Authenticator, ShownToken, Unauthenticated};
pub use self::claims::{BadClaim, ClaimName, ClaimNames, MAX_TOKEN_ID_BYTES, is_token_id};
pub use self::credentials::{ACCESS_TOKEN, BadCredentials, CookiePlace, Places, Shown};
pub use self::grant::{Forbidden, Grant, Permission, Reach, Validity, Wanted};
pub use self::jwks::{JwksConfig, KeyRefresh, KeysUnavailable, NoClient};
pub use self::jwt::{BadToken, TokenRules};
pub use self::keys::{BadKeyFile, KeySet};
pub use self::revocations::{Refused, Revocation, Revocations, Subject, Watch};

/// How requests are told apart.
#[derive(Clone, Debug)]
pub enum AuthMode {
    /// Not at all: whoever reaches the port sees what it asks for.
    None,
    /// A trusted front end shows one shared secret; the `user_id` and `team_id` it asks for are then believed.
    Token(Secret),
    /// Each shows a JSON Web Token, which says who it is and what it may see.
    Jwt(Box<JwtConfig>),
}

impl AuthMode {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token(_) => "token",
            Self::Jwt(_) => "jwt",
        }
    }

    /// Whether tokens are checked, so that there is something to revoke.
    #[must_use]
    pub fn checks_tokens(&self) -> bool {
        match self {
            Self::None => false,
            Self::Token(_) | Self::Jwt(_) => true,
        }
    }

    /// Whether tokens say whose they are. Where they do not, whoever shows one decides that anew with each request.
    #[must_use]
    pub fn tells_apart(&self) -> bool {
        match self {
            Self::None | Self::Token(_) => false,
            Self::Jwt(_) => true,
        }
    }
}

/// Settings of this module.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// How requests are told apart.
    pub mode: AuthMode,
    /// Where a token may stand.
    pub places: Places,
}

/// How JSON Web Tokens are judged.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// What verifies signatures.
    pub keys: KeySource,
    /// What else is asked of a token.
    pub rules: TokenRules,
}

/// Where keys are from: exactly one place.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A secret that whoever signs has as well.
    Secret(Secret),
    /// A file, which was read.
    File(KeySet),
    /// A key server.
    Jwks(JwksConfig),
}

impl KeySource {
    /// The fewest bytes of a secret: as many as SHA-256 gives (RFC 7518 §3.2).
    pub const MIN_SECRET_BYTES: usize = 32;
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
