//! The keys that tokens are verified with, and which of them a token chooses. Nothing here fetches any: a key is one
//! that the operator's secret, file or key server gave, never one that a token brings along (RFC 8725 §3.10).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::Secret;

/// How many keys one file or one key server may give.
const MAX_KEYS: usize = 100;
/// The longest name of a key, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;
/// The shortest modulus of an RSA key that is taken, in bytes: 2048 bits (RFC 7518 §3.3).
const MIN_MODULUS_BYTES: usize = 256;
/// The longest, in bytes: verifying takes longer the longer it is.
const MAX_MODULUS_BYTES: usize = 1024;

/// Keys of one source.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<VerificationKey>,
    /// Whether a token has to name its key: those of a key server have names, those of a file have none.
    by_id: bool,
}

/// A key, and what it may verify.
#[derive(Clone, Debug)]
pub(super) struct VerificationKey {
    id: Option<String>,
    /// Never of two families: a public key must not serve as a secret (RFC 8725 §2.1).
    algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// Why no key was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The token names a key that is not there. It may be newer than the keys that are.
    Unknown,
    /// The token names none, and there is not exactly one.
    Unnamed,
    /// What the token chose is not for its algorithm.
    Unfit,
}

/// Why a file's text holds no keys. The words follow the name of the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyFile {
    /// There is no PEM in it.
    #[error(
        "holds no PEM: write a file with -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE----- in it"
    )]
    Empty,
    /// It holds what would let its reader sign.
    #[error(
        "holds a private key, which this server has no use for: write the public one (openssl pkey -pubout)"
    )]
    Private,
    /// One of its keys cannot be used.
    #[error(
        "holds, as number {0}, no key that can be used: it must be RSA of 2048 to 8192 bits, EC on P-256 or P-384, or Ed25519"
    )]
    Unusable(usize),
    /// One of its keys is for nothing that is accepted.
    #[error(
        "holds, as number {0}, a key for {1}, none of which AUTH_JWT_ALGORITHMS accepts: add one, or take the key out"
    )]
    NotAccepted(usize, String),
    /// More keys than anybody needs.
    #[error("holds more than {MAX_KEYS} keys")]
    TooMany,
}

impl KeySet {
    /// The one key of a shared secret.
    #[must_use]
    pub fn of_secret(secret: &Secret, accepted: &[Algorithm]) -> Self {
        let key = VerificationKey {
            id: None,
            algorithms: fitting(AlgorithmFamily::Hmac.algorithms(), accepted),
            key: DecodingKey::from_secret(secret.expose().as_bytes()),
        };
        Self {
            keys: vec![key],
            by_id: false,
        }
    }

    /// The public keys, or the certificates with them, of a PEM file (RFC 7468). Of a certificate only the key counts.
    ///
    /// # Errors
    /// [`BadKeyFile`] when any of them is of no use.
    pub fn of_pem(text: &str, accepted: &[Algorithm]) -> Result<Self, BadKeyFile> {
        let mut keys = Vec::new();
        for (index, block) in text.split("-----BEGIN ").skip(1).enumerate() {
            let label = block.split("-----").next().unwrap_or_default();
            if label.contains("PRIVATE KEY") {
                return Err(BadKeyFile::Private);
            }
            if index == MAX_KEYS {
                return Err(BadKeyFile::TooMany);
            }
            let unusable = BadKeyFile::Unusable(index + 1);
            let (key, possible) = public_key(&format!("-----BEGIN {block}")).ok_or(unusable)?;
            let algorithms = fitting(possible, accepted);
            if algorithms.is_empty() {
                return Err(BadKeyFile::NotAccepted(index + 1, names(possible)));
            }
            keys.push(VerificationKey {
                id: None,
                algorithms,
                key,
            });
        }
        if keys.is_empty() {
            return Err(BadKeyFile::Empty);
        }
        Ok(Self { keys, by_id: false })
    }

    /// The keys of a JWK set (RFC 7517 §5) that can verify something accepted. Others are left out, as the standard
    /// wants it, and so are private and symmetric ones, which nobody may publish.
    ///
    /// # Errors
    /// When it is no JWK set.
    pub fn of_jwks(body: &[u8], accepted: &[Algorithm]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct JwkSet {
            keys: Vec<Value>,
        }
        let set: JwkSet = serde_json::from_slice(body)?;
        let keys = set
            .keys
            .iter()
            .filter_map(|key| of_jwk(key, accepted))
            .take(MAX_KEYS)
            .collect();
        Ok(Self { keys, by_id: true })
    }

    /// No key at all: no token is good.
    #[must_use]
    pub fn none() -> Self {
        Self {
            keys: Vec::new(),
            by_id: false,
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that may have signed a token: several where they share a name, or have none.
    pub(super) fn choose(
        &self,
        key_id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<&VerificationKey>, NoKey> {
        let candidates: Vec<&VerificationKey> = match key_id {
            _ if !self.by_id => self.keys.iter().collect(),
            Some(id) => {
                let named = |key: &&VerificationKey| key.id.as_deref() == Some(id);
                let keys: Vec<_> = self.keys.iter().filter(named).collect();
                if keys.is_empty() {
                    return Err(NoKey::Unknown);
                }
                keys
            }
            None if self.keys.len() == 1 => self.keys.iter().collect(),
            None => return Err(NoKey::Unnamed),
        };
        let fit: Vec<_> = candidates
            .into_iter()
            .filter(|key| key.algorithms.contains(&algorithm))
            .collect();
        if fit.is_empty() {
            Err(NoKey::Unfit)
        } else {
            Ok(fit)
        }
    }
}

/// The names of algorithms, for people.
pub(super) fn names(algorithms: &[Algorithm]) -> String {
    let names: Vec<String> = algorithms
        .iter()
        .map(|algorithm| format!("{algorithm:?}"))
        .collect();
    names.join(", ")
}

fn fitting(possible: &[Algorithm], accepted: &[Algorithm]) -> Vec<Algorithm> {
    possible
        .iter()
        .filter(|algorithm| accepted.contains(algorithm))
        .copied()
        .collect()
}

/// The key of one PEM block, and what it could verify.
fn public_key(pem: &str) -> Option<(DecodingKey, &'static [Algorithm])> {
    let pem = pem.as_bytes();
    // Each looks at what kind of key it is, and takes its own only.
    let key = DecodingKey::from_rsa_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_ed_pem(pem))
        .ok()?;
    // Whether it is well formed shows only when it is taken apart.
    let jwk = Jwk::from_decoding_key(&key, None).ok()?;
    let possible = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => rsa_algorithms(&rsa.n)?,
        AlgorithmParameters::EllipticCurve(curve) => curve_algorithms(&curve.x, &curve.y)?,
        AlgorithmParameters::OctetKeyPair(pair) => edwards_algorithms(&pair.x)?,
        _ => return None,
    };
    Some((key, possible))
}

/// A JSON Web Key (RFC 7517 §4), as far as it matters here.
#[derive(Deserialize)]
struct PublicJwk {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// There in private keys only (RFC 7518 §6).
    d: Option<Value>,
}

fn of_jwk(key: &Value, accepted: &[Algorithm]) -> Option<VerificationKey> {
    let jwk = PublicJwk::deserialize(key).ok()?;
    let verifies = jwk.r#use.as_deref().is_none_or(|purpose| purpose == "sig")
        && jwk
            .key_ops
            .as_ref()
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    let named = jwk
        .kid
        .as_ref()
        .is_none_or(|id| id.len() <= MAX_KEY_ID_BYTES);
    if !verifies || !named || jwk.d.is_some() {
        return None;
    }
    let (key, possible) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (jwk.n?, jwk.e?);
            (
                DecodingKey::from_rsa_components(&n, &e).ok()?,
                rsa_algorithms(&n)?,
            )
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (x, y) = (jwk.x?, jwk.y?);
            let possible = curve_algorithms(&x, &y)?;
            let of_curve = if curve == "P-256" { P256 } else { P384 };
            if possible != of_curve {
                return None;
            }
            (DecodingKey::from_ec_components(&x, &y).ok()?, possible)
        }
        ("OKP", Some("Ed25519")) => {
            let x = jwk.x?;
            let possible = edwards_algorithms(&x)?;
            (DecodingKey::from_ed_components(&x).ok()?, possible)
        }
        _ => return None,
    };
    let mut algorithms = fitting(possible, accepted);
    if let Some(only) = &jwk.alg {
        // RFC 9864 names EdDSA by its curve.
        let only = if only == "Ed25519" { "EdDSA" } else { only };
        let only: Algorithm = only.parse().ok()?;
        algorithms.retain(|algorithm| *algorithm == only);
    }
    (!algorithms.is_empty()).then_some(VerificationKey {
        id: jwk.kid,
        algorithms,
        key,
    })
}

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

fn rsa_algorithms(modulus: &str) -> Option<&'static [Algorithm]> {
    let modulus = URL_SAFE_NO_PAD.decode(modulus).ok()?;
    let leading = modulus.iter().take_while(|byte| **byte == 0).count();
    (MIN_MODULUS_BYTES..=MAX_MODULUS_BYTES)
        .contains(&(modulus.len() - leading))
        .then_some(RSA)
}

/// By how long the coordinates are (RFC 7518 §6.2.1.2): always the full length of the curve.
fn curve_algorithms(x: &str, y: &str) -> Option<&'static [Algorithm]> {
    let (x, y) = (
        URL_SAFE_NO_PAD.decode(x).ok()?,
        URL_SAFE_NO_PAD.decode(y).ok()?,
    );
    match (x.len(), y.len()) {
        (32, 32) => Some(P256),
        (48, 48) => Some(P384),
        _ => None,
    }
}

fn edwards_algorithms(x: &str) -> Option<&'static [Algorithm]> {
    let x = URL_SAFE_NO_PAD.decode(x).ok()?;
    (x.len() == 32).then_some(ED25519)
}
