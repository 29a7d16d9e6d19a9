//! Whether a JSON Web Token (RFC 7519) is good. The library verifies signatures and dates; what it leaves to its caller is
//! decided here: which algorithm, which key, that a claim which was asked for is there, and what a claim may be.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use super::claims::{BadClaim, ClaimNames};
use super::grant::Grant;
use super::jwks::{KeysUnavailable, RemoteKeys};
use super::keys::{KeySet, NoKey, VerificationKey, names};

/// What a token is judged by.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// Algorithms that may have signed it.
    pub algorithms: Vec<Algorithm>,
    /// Who may have issued it, `iss`; empty: whoever.
    pub issuers: Vec<String>,
    /// For whom it has to be, `aud`; empty: for nobody in particular.
    pub audiences: Vec<String>,
    /// By how much clocks may differ, at most 30 s.
    pub leeway: Duration,
    /// Which claim means what.
    pub claims: ClaimNames,
}

/// What is wrong with a token. The text is for the client: it says why, and never quotes the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It has not the form of one.
    #[error(
        "the token is no JWT: it must be three parts of base64url with dots between (RFC 7515 3.1)"
    )]
    Malformed,
    /// Its payload cannot be read.
    #[error("the token's payload is no JSON object, or its `iss`, `sub` or `aud` is an object")]
    Payload,
    /// Its header is not what it has to be.
    #[error("the token's header {0}")]
    Header(&'static str),
    /// Its algorithm is not accepted.
    #[error("the token is not signed with an algorithm that this server accepts: {0}")]
    Algorithm(String),
    /// Its key is not known.
    #[error("the token's `kid` names no key that this server knows")]
    UnknownKey,
    /// It does not say which key.
    #[error("the token names no key (`kid`), and this server knows more than one, or none")]
    UnnamedKey,
    /// The key is for another algorithm.
    #[error("the token's key is not for the token's algorithm")]
    UnfitKey,
    /// It was not signed with that key, or changed since.
    #[error("the token's signature is wrong: it was signed with another key, or changed since")]
    Signature,
    /// It is past its end.
    #[error("the token has expired (`exp`): get a new one")]
    Expired,
    /// It is before its beginning.
    #[error("the token is not valid yet (`nbf`, or `iat`): check the clocks")]
    NotYet,
    /// It is of an issuer that is not trusted.
    #[error("the token is of another issuer (`iss`) than this server trusts")]
    Issuer,
    /// It is for another server.
    #[error("the token is for another audience (`aud`) than this server")]
    Audience,
    /// A claim is missing that has to be there.
    #[error("the token's claim `{0}` is missing, or not of its type")]
    Missing(String),
    /// A claim is not of its type.
    #[error(transparent)]
    Claim(#[from] BadClaim),
}

/// Why no grant came of a token.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is not good.
    Bad(BadToken),
    /// Whether it is good cannot be told now.
    Unavailable(KeysUnavailable),
}

/// Where keys are from.
#[derive(Clone, Debug)]
pub(super) enum Keys {
    /// From the configuration.
    Fixed(KeySet),
    /// From a key server.
    Remote(RemoteKeys),
}

/// Turns tokens into grants.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    pub(super) keys: Keys,
    pub(super) rules: TokenRules,
}

impl Verifier {
    /// The grant of a good token. Waits only where its key may be one that the key server has and this process has not.
    pub(super) async fn verify(&self, token: &str) -> Result<Grant, Refusal> {
        let header = self.header(token).map_err(Refusal::Bad)?;
        match &self.keys {
            Keys::Fixed(keys) => self.verify_with(token, &header, keys).map_err(Refusal::Bad),
            Keys::Remote(remote) => {
                let knows = |keys: &KeySet| {
                    keys.choose(header.key_id.as_deref(), header.algorithm)
                        .err()
                        != Some(NoKey::Unknown)
                };
                let keys = remote.current(knows).await.map_err(Refusal::Unavailable)?;
                self.verify_with(token, &header, &keys)
                    .map_err(Refusal::Bad)
            }
        }
    }

    /// Judges the header, which nobody has vouched for yet. Keys that it brings along (`jwk`, `x5c`) or points to
    /// (`jku`, `x5u`) are not looked at.
    fn header(&self, token: &str) -> Result<Header, BadToken> {
        let parts: Vec<&str> = token.splitn(4, '.').collect();
        let [header, _, _] = parts[..] else {
            return Err(BadToken::Malformed);
        };
        let header = URL_SAFE_NO_PAD
            .decode(header)
            .map_err(|_| BadToken::Malformed)?;
        let header: Map<String, Value> =
            serde_json::from_slice(&header).map_err(|_| BadToken::Header("is no JSON object"))?;
        let algorithm = header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm
            .and_then(|name| name.parse().ok())
            .filter(|algorithm| self.rules.algorithms.contains(algorithm))
            .ok_or_else(|| BadToken::Algorithm(names(&self.rules.algorithms)))?;
        // RFC 7515 §4.1.11: what is critical must be understood, and here nothing is.
        if header.contains_key("crit") {
            return Err(BadToken::Header(
                "has `crit`: this server knows no extension of JWS",
            ));
        }
        // RFC 8725 §3.11: a token that says it is for something else is not for this.
        if !header.get("typ").is_none_or(is_access_token) {
            return Err(BadToken::Header(
                "has a `typ` that is neither JWT nor at+jwt",
            ));
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(BadToken::Header("has a `kid` that is no string")),
        };
        Ok(Header { algorithm, key_id })
    }

    fn verify_with(&self, token: &str, header: &Header, keys: &KeySet) -> Result<Grant, BadToken> {
        let candidates = keys
            .choose(header.key_id.as_deref(), header.algorithm)
            .map_err(|none| match none {
                NoKey::Unknown => BadToken::UnknownKey,
                NoKey::Unnamed => BadToken::UnnamedKey,
                NoKey::Unfit => BadToken::UnfitKey,
            })?;
        let claims = self.claims(token, header.algorithm, &candidates)?;
        self.check_what_the_library_does_not(&claims)?;
        Ok(self.rules.claims.grant(&claims, self.rules.leeway)?)
    }

    /// The claims of a token that one of the keys has signed, and that is valid now.
    fn claims(
        &self,
        token: &str,
        algorithm: Algorithm,
        keys: &[&VerificationKey],
    ) -> Result<Value, BadToken> {
        let validation = self.validation(algorithm);
        let mut bad = BadToken::Signature;
        for key in keys {
            match jsonwebtoken::decode::<Value>(token, &key.key, &validation) {
                Ok(decoded) => return Ok(decoded.claims),
                Err(error) => bad = why(token, &error),
            }
            if bad != BadToken::Signature {
                break;
            }
        }
        Err(bad)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let rules = &self.rules;
        let mut validation = Validation::new(algorithm);
        validation.leeway = rules.leeway.as_secs();
        validation.validate_nbf = true;
        // By default a token without the claim passes, whatever is expected of it.
        let mut required = vec!["exp"];
        if !rules.issuers.is_empty() {
            validation.set_issuer(&rules.issuers);
            required.push("iss");
        }
        if !rules.audiences.is_empty() {
            validation.set_audience(&rules.audiences);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn check_what_the_library_does_not(&self, claims: &Value) -> Result<(), BadToken> {
        if !claims.is_object() {
            return Err(BadToken::Payload);
        }
        // RFC 7519 §4.1.1: one issuer. The library takes a list, too, of which one is enough.
        let issuer = claims.get("iss");
        if !self.rules.issuers.is_empty() && !issuer.is_some_and(Value::is_string) {
            return Err(BadToken::Missing("iss".to_owned()));
        }
        // RFC 7519 §4.1.3: for somebody else, whoever that is. The library lets one of another type pass.
        if self.rules.audiences.is_empty() && claims.get("aud").is_some() {
            return Err(BadToken::Audience);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // The library reckons in whole seconds, of which the last would be a stream that ends as it begins.
        let ends_at = claims.get("exp").and_then(Value::as_f64);
        if ends_at
            .is_none_or(|ends_at| now.as_secs_f64() >= ends_at + self.rules.leeway.as_secs_f64())
        {
            return Err(BadToken::Expired);
        }
        // What revokes all tokens up to now must not miss one from the future.
        let issued_at = claims.get("iat").and_then(Value::as_f64);
        if issued_at.is_some_and(|issued_at| issued_at > (now + self.rules.leeway).as_secs_f64()) {
            return Err(BadToken::NotYet);
        }
        Ok(())
    }
}

/// What of a token's header matters.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// `JWT` (RFC 7519 §5.1) or `at+jwt` (RFC 9068 §2.1), in whichever case, and with `application/` or without.
fn is_access_token(kind: &Value) -> bool {
    kind.as_str().is_some_and(|kind| {
        let kind = kind.to_ascii_lowercase();
        matches!(
            kind.strip_prefix("application/").unwrap_or(&kind),
            "jwt" | "at+jwt"
        )
    })
}

fn why(token: &str, error: &Error) -> BadToken {
    match error.kind() {
        // The library reads members of the header, too, that nobody here looks at.
        ErrorKind::Json(_) if jsonwebtoken::decode_header(token).is_err() => BadToken::Header(
            "has a member of RFC 7515 4.1 (such as `jwk` or `x5c`) that is not what it has to be, or one that stands twice",
        ),
        ErrorKind::Json(_) => BadToken::Payload,
        ErrorKind::InvalidSignature => BadToken::Signature,
        ErrorKind::ExpiredSignature => BadToken::Expired,
        ErrorKind::ImmatureSignature => BadToken::NotYet,
        ErrorKind::InvalidIssuer => BadToken::Issuer,
        ErrorKind::InvalidAudience => BadToken::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            BadToken::Missing(claim.clone())
        }
        _ => BadToken::Malformed,
    }
}
