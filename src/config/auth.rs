//! The settings of identity: how clients are told apart, where a token may stand, and how a JWT is judged.

use super::reader::Reader;
use super::settings::{self, Setting};
use super::value::{
    algorithm, boolean, cookie_name, list, one_of, parsed, seconds, signing_secret, string_or_uri,
    token,
};
use super::{Command, CorsOrigins};
use crate::auth::{
    Algorithm, AuthConfig, AuthMode, ClaimName, ClaimNames, CookiePlace, JwksConfig, JwtConfig,
    KeySet, KeySource, Places, TokenRules,
};

/// A value of `AUTH_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthModeName {
    Jwt,
    Token,
    None,
}

impl Reader<'_> {
    pub(super) fn auth(&mut self, origins: Option<&CorsOrigins>) -> Option<AuthConfig> {
        let modes = [
            ("jwt", AuthModeName::Jwt),
            ("token", AuthModeName::Token),
            ("none", AuthModeName::None),
        ];
        let named = self.optional(&settings::AUTH_MODE, one_of(&modes));
        if named.is_none()
            && self.command == Command::Serve
            && self.raw.given(&settings::AUTH_MODE).is_none()
        {
            self.missing(
                &settings::AUTH_MODE,
                "jwt (each client shows a token of its own), token (a trusted front end shows AUTH_TOKEN), or none \
                 (whoever reaches the port reads every event)",
            );
        }
        let name = named.unwrap_or(match self.command {
            Command::Token => AuthModeName::Jwt,
            Command::Serve | Command::Publish | Command::Dev => AuthModeName::None,
        });
        let places = self.places(name, origins)?;
        let shared = self.optional(&settings::AUTH_TOKEN, token);
        let jwt = self.jwt(name);
        self.settings_of_other_modes(name);
        let mode = match name {
            AuthModeName::None => AuthMode::None,
            AuthModeName::Token => {
                if self.raw.given(&settings::AUTH_TOKEN).is_none() {
                    self.missing(
                        &settings::AUTH_TOKEN,
                        "the secret that AUTH_MODE=token is about: at least 16 characters (openssl rand -hex 32)",
                    );
                }
                shared.map_or(AuthMode::None, AuthMode::Token)
            }
            AuthModeName::Jwt => jwt.map_or(AuthMode::None, |jwt| AuthMode::Jwt(Box::new(jwt))),
        };
        Some(AuthConfig { mode, places })
    }

    /// Where a token may stand. Whose pages may use a cookie is what CORS names.
    fn places(&mut self, mode: AuthModeName, origins: Option<&CorsOrigins>) -> Option<Places> {
        let name = self.optional(&settings::AUTH_COOKIE, cookie_name);
        let query = self.value(&settings::AUTH_QUERY_TOKEN, boolean)?;
        if query && mode == AuthModeName::None && self.command == Command::Serve {
            self.contradiction(
                [&settings::AUTH_QUERY_TOKEN, &settings::AUTH_MODE],
                "there is no token to take from anywhere: take the first out",
            );
        }
        if name.is_some() && origins == Some(&CorsOrigins::Any) {
            self.contradiction(
                [&settings::AUTH_COOKIE, &settings::HTTP_CORS_ORIGINS],
                "browsers would send the cookie for every page: name the origins that may use it",
            );
        }
        let origins = match origins {
            Some(CorsOrigins::Exactly(origins)) => origins
                .iter()
                .filter_map(|origin| origin.to_str().ok())
                .map(str::to_owned)
                .collect(),
            Some(CorsOrigins::None | CorsOrigins::Any) | None => Vec::new(),
        };
        let cookie = name.map(|name| CookiePlace { name, origins });
        Some(Places { cookie, query })
    }

    fn jwt(&mut self, mode: AuthModeName) -> Option<JwtConfig> {
        let given = self.optional(&settings::AUTH_JWT_ALGORITHMS, list(algorithm));
        let secret = self.optional(&settings::AUTH_JWT_SECRET, signing_secret);
        let asymmetric = self.raw.given(&settings::AUTH_JWT_SECRET).is_none();
        let by_kind: &[Algorithm] = if asymmetric {
            &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
        } else {
            &[Algorithm::HS256]
        };
        let algorithms = given.unwrap_or_else(|| by_kind.to_vec());
        let file = self.optional(&settings::AUTH_JWT_PUBLIC_KEY_FILE, |path| {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot be read: {error}"))?;
            KeySet::of_pem(&text, &algorithms).map_err(|error| error.to_string())
        });
        let refresh = self.value(&settings::AUTH_JWKS_REFRESH_SECONDS, seconds(10..=86_400))?;
        let jwks = self.optional(&settings::AUTH_JWKS_URL, |url| {
            JwksConfig::new(url, refresh)
        });
        let rules = TokenRules {
            algorithms,
            issuers: self.strings(&settings::AUTH_JWT_ISSUER),
            audiences: self.strings(&settings::AUTH_JWT_AUDIENCE),
            leeway: self.value(&settings::AUTH_LEEWAY_SECONDS, seconds(0..=30))?,
            claims: ClaimNames {
                user: self.value(&settings::AUTH_CLAIM_USER, parsed::<ClaimName>)?,
                teams: self.value(&settings::AUTH_CLAIM_TEAMS, parsed::<ClaimName>)?,
                channels: self.value(&settings::AUTH_CLAIM_CHANNELS, parsed::<ClaimName>)?,
                tenant: self.value(&settings::AUTH_CLAIM_TENANT, parsed::<ClaimName>)?,
                permissions: self.value(&settings::AUTH_CLAIM_PERMISSIONS, parsed::<ClaimName>)?,
            },
        };
        self.contradictions_of_claims();
        self.contradictions_of_keys(&rules.algorithms);
        let keys = match (secret, file, jwks) {
            (Some(secret), _, _) => KeySource::Secret(secret),
            (None, Some(keys), _) => KeySource::File(keys),
            (None, None, Some(jwks)) => KeySource::Jwks(jwks),
            (None, None, None) => {
                let any = [
                    &settings::AUTH_JWT_SECRET,
                    &settings::AUTH_JWT_PUBLIC_KEY_FILE,
                    &settings::AUTH_JWKS_URL,
                ];
                let none_given = any.iter().all(|setting| self.raw.given(setting).is_none());
                if mode == AuthModeName::Jwt && none_given && self.command == Command::Serve {
                    self.problems.push(
                        "AUTH_MODE=jwt has no key to verify tokens with: set one of AUTH_JWT_SECRET, \
                         AUTH_JWT_PUBLIC_KEY_FILE, AUTH_JWKS_URL"
                            .to_owned(),
                    );
                }
                // `token` may be given a key to sign with on its command line, and `publish` has no clients.
                KeySource::File(KeySet::none())
            }
        };
        Some(JwtConfig { keys, rules })
    }

    fn strings(&mut self, setting: &Setting) -> Vec<String> {
        self.optional(setting, list(string_or_uri))
            .unwrap_or_default()
    }
}
