//! Tokens, good and forged, and the settings of a bridge that judges them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto};
use serde_json::{Value, json};

use crate::harness::{Bridge, Setup};

pub const SECRET: &str = "a-secret-that-only-the-issuer-and-the-bridge-have";
pub const ISSUER: &str = "https://issuer.example";

/// A private key of `tests/vectors/keys`.
pub fn private_pem(name: &str) -> String {
    let path = key_path(&format!("{name}.pem"));
    std::fs::read_to_string(path).expect("a key of the tests")
}

pub fn key_path(file: &str) -> String {
    format!("{}/tests/vectors/keys/{file}", env!("CARGO_MANIFEST_DIR"))
}

pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}

/// The claims of user 42 in tenant acme, in team 7.
pub fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": "events",
        "exp": now() + 600,
        "iat": now(),
        "jti": "a1",
        "sub": "42",
        "teams": ["7"],
        "channels": ["news.*"],
        "tenant_id": "acme",
        "permissions": ["events:read"],
    })
}

pub fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

pub fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// A token signed with the secret, as its issuer would.
pub fn token(claims: &Value) -> String {
    sign(&json!({"alg": "HS256", "typ": "JWT"}), claims)
}

/// A token with any header, whose signature is right for HS256 whatever that says.
pub fn sign(header: &Value, claims: &Value) -> String {
    sign_text(&header.to_string(), claims.to_string().as_bytes())
}

pub fn sign_text(header: &str, payload: &[u8]) -> String {
    let message = format!("{}.{}", encode(header.as_bytes()), encode(payload));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

pub fn unsigned(header: &Value, claims: &Value) -> String {
    let (header, claims) = (header.to_string(), claims.to_string());
    format!(
        "{}.{}.",
        encode(header.as_bytes()),
        encode(claims.as_bytes())
    )
}

pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token signed with a private key of the tests.
pub fn sign_with(key: &str, algorithm: Algorithm, key_id: Option<&str>, claims: &Value) -> String {
    let pem = private_pem(key);
    let private = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    };
    let header = Header {
        kid: key_id.map(str::to_owned),
        ..Header::new(algorithm)
    };
    jsonwebtoken::encode(&header, claims, &private.unwrap()).unwrap()
}

/// A bridge for tokens that are signed with [`SECRET`].
pub fn by_secret() -> Setup {
    by_any_key().set("AUTH_JWT_SECRET", SECRET)
}

/// A bridge for tokens, but for the key.
pub fn by_any_key() -> Setup {
    Bridge::dev()
        .set("AUTH_MODE", "jwt")
        .set("AUTH_JWT_ISSUER", ISSUER)
        .set("AUTH_JWT_AUDIENCE", "other,events")
}
