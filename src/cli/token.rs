//! `token`: mints a JSON Web Token that `serve` with the same settings takes, for trying things out. It asks nobody, and
//! nothing remembers what it minted.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::Args;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value, json};

use crate::auth::{Algorithm, AuthMode, JwtConfig, KeySource, Permission};
use crate::config::{Config, duration};
use crate::event::audience::Identifier;
use crate::event::topic::TopicPattern;

/// What the token is to say.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Whose own events
    #[arg(long, value_name = "ID")]
    user: Option<Identifier>,
    /// A team whose events it opens; may be repeated
    #[arg(long = "team", value_name = "ID")]
    teams: Vec<Identifier>,
    /// A pattern of channels that it opens, such as news.*; may be repeated
    #[arg(long = "channel", value_name = "PATTERN")]
    channels: Vec<TopicPattern>,
    /// The tenant that everything stays inside
    #[arg(long, value_name = "ID")]
    tenant: Option<Identifier>,
    /// What it allows: events:read (the default), events:publish, events:admin; may be repeated
    #[arg(
        long = "permission",
        value_name = "NAME",
        default_value = "events:read"
    )]
    permissions: Vec<Permission>,
    /// How long it is good for, such as 30s, 10m, 1h, 7D
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// Sign with this private key (PEM, PKCS#8) instead of AUTH_JWT_SECRET
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The key's name (kid), as the key server gives it
    #[arg(long, value_name = "NAME", requires = "key_file")]
    key_id: Option<String>,
}

pub(super) fn run(config: Config, arguments: &Arguments) -> anyhow::Result<()> {
    let AuthMode::Jwt(jwt) = config.auth.mode else {
        bail!(
            "AUTH_MODE is not jwt, so no minted token would be looked at: set AUTH_MODE=jwt (with token, send AUTH_TOKEN itself)"
        );
    };
    ensure!(
        !arguments.ttl.is_zero(),
        "--ttl 0: a token that is never good is of no use"
    );
    let claims = claims(arguments, &jwt)?;
    let token = sign(arguments, &jwt, &claims)?;
    super::say(format_args!("{token}\n"))
}

fn claims(arguments: &Arguments, jwt: &JwtConfig) -> anyhow::Result<Value> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands before 1970")?;
    let token_id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let mut claims = Map::new();
    claims.insert("iat".to_owned(), json!(now.as_secs()));
    claims.insert("exp".to_owned(), json!((now + arguments.ttl).as_secs()));
    claims.insert("jti".to_owned(), json!(token_id));
    let named = [
        ("iss", jwt.rules.issuers.first()),
        ("aud", jwt.rules.audiences.first()),
    ];
    for (name, value) in named {
        claims.extend(value.map(|value| (name.to_owned(), json!(value))));
    }
    let texts = |all: Vec<&str>| (!all.is_empty()).then(|| json!(all));
    let names = &jwt.rules.claims;
    let values = [
        (
            &names.user,
            arguments.user.as_ref().map(|user| json!(user.as_str())),
        ),
        (
            &names.teams,
            texts(arguments.teams.iter().map(Identifier::as_str).collect()),
        ),
        (
            &names.channels,
            texts(
                arguments
                    .channels
                    .iter()
                    .map(TopicPattern::as_str)
                    .collect(),
            ),
        ),
        (
            &names.tenant,
            arguments
                .tenant
                .as_ref()
                .map(|tenant| json!(tenant.as_str())),
        ),
        (
            &names.permissions,
            texts(
                arguments
                    .permissions
                    .iter()
                    .map(|permission| permission.as_str())
                    .collect(),
            ),
        ),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            name.insert(&mut claims, value)?;
        }
    }
    let claims = Value::Object(claims);
    names.check(&claims)?;
    Ok(claims)
}

fn sign(arguments: &Arguments, jwt: &JwtConfig, claims: &Value) -> anyhow::Result<String> {
    let key = match (&jwt.keys, &arguments.key_file) {
        (KeySource::Secret(_), Some(_)) => bail!(
            "--key-file contradicts AUTH_JWT_SECRET: the server would not take such a token; leave one out"
        ),
        (KeySource::Secret(secret), None) => EncodingKey::from_secret(secret.expose().as_bytes()),
        (_, Some(path)) => private_key(path)?,
        (KeySource::File(keys), None) if keys.is_empty() => bail!(
            "there is no key to sign with: set AUTH_JWT_SECRET (openssl rand -hex 32), or give --key-file"
        ),
        (KeySource::File(_) | KeySource::Jwks(_), None) => bail!(
            "the server has public keys only, which sign nothing: give the private one with --key-file"
        ),
    };
    let accepted = &jwt.rules.algorithms;
    let fitting = |algorithm: &&Algorithm| key.family().algorithms().contains(algorithm);
    // Of an EC key only signing shows the curve.
    let signed = accepted.iter().filter(fitting).find_map(|algorithm| {
        let header = Header {
            kid: arguments.key_id.clone(),
            ..Header::new(*algorithm)
        };
        jsonwebtoken::encode(&header, claims, &key).ok()
    });
    signed.with_context(|| {
        format!(
            "this key signs with none of the algorithms that AUTH_JWT_ALGORITHMS accepts ({accepted:?}): name one of its own"
        )
    })
}

fn private_key(path: &Path) -> anyhow::Result<EncodingKey> {
    let shown = path.display();
    let pem = std::fs::read(path).with_context(|| format!("--key-file {shown}: cannot be read"))?;
    let key = EncodingKey::from_rsa_pem(&pem)
        .or_else(|_| EncodingKey::from_ec_pem(&pem))
        .or_else(|_| EncodingKey::from_ed_pem(&pem))
        .ok()
        // An RSA key is taken for one whichever half it is.
        .filter(|_| String::from_utf8_lossy(&pem).contains("PRIVATE KEY"));
    key.with_context(|| {
        format!(
            "--key-file {shown}: is no private key that can be used: write an RSA, EC or Ed25519 one as PKCS#8 PEM \
             (openssl pkcs8 -topk8 -nocrypt)"
        )
    })
}
