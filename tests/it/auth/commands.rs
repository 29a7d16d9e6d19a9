//! `sse-bridge token`: what it mints is taken, and what would be of no use is refused.

use serde_json::{Value, json};

use super::minting::{SECRET, by_any_key, by_secret, key_path, now};
use super::refused::stream_head;
use crate::harness::{Bridge, Client, Setup};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn a_minted_token_is_printed_alone_and_opens_what_it_was_asked_to() {
    let setup = by_secret();
    let arguments = [
        "token",
        "--user",
        "42",
        "--team",
        "7",
        "--team",
        "8",
        "--channel",
        "news.*",
        "--tenant",
        "acme",
        "--ttl",
        "10m",
    ];
    let finished = setup.run(&arguments, "").await;
    assert_eq!(
        (finished.code, finished.stderr.as_str()),
        (Some(0), ""),
        "{finished:?}"
    );
    let token = finished.stdout.trim_end();
    assert_eq!(finished.stdout, format!("{token}\n"));
    let claims = claims_of(token);
    assert_eq!(claims["teams"], json!(["7", "8"]));
    assert_eq!(claims["permissions"], json!(["events:read"]));
    assert!(
        claims["exp"].as_u64().unwrap().abs_diff(now() + 600) < 60,
        "{claims}"
    );
    let bridge = setup.start_serve().await;
    let bearer = format!("Bearer {token}");
    for (query, status) in [
        (
            "user_id=42&team_id=7&team_id=8&channel=news.x&tenant_id=acme",
            200,
        ),
        ("team_id=9", 403),
    ] {
        let outcome =
            Client::try_connect(bridge.public, query, &[("Authorization", &bearer)]).await;
        let head = outcome.map_or_else(|refusal| refusal.head, |client| client.head);
        assert_eq!(head.status, status, "{query}");
    }
}

#[tokio::test]
async fn a_private_key_mints_for_a_server_that_has_the_public_one() {
    for (key, algorithms) in [
        ("rsa", "PS384"),
        ("p256", "RS256,ES256"),
        ("p384", "ES256,ES384"),
        ("ed25519", "EdDSA"),
    ] {
        let setup = by_any_key()
            .set(
                "AUTH_JWT_PUBLIC_KEY_FILE",
                key_path(&format!("{key}.pub.pem")),
            )
            .set("AUTH_JWT_ALGORITHMS", algorithms)
            .set("AUTH_CLAIM_TEAMS", "/realm/teams")
            .set("AUTH_CLAIM_PERMISSIONS", "/realm/roles");
        let file = key_path(&format!("{key}.pem"));
        let finished = setup
            .run(&["token", "--team", "7", "--key-file", &file], "")
            .await;
        assert_eq!(finished.code, Some(0), "{key}: {finished:?}");
        let token = finished.stdout.trim_end();
        assert_eq!(
            claims_of(token)["realm"],
            json!({"teams": ["7"], "roles": ["events:read"]})
        );
        stream_head(&setup.start_serve().await, &format!("Bearer {token}")).await;
    }
}

#[tokio::test]
async fn a_token_that_would_be_of_no_use_is_refused_with_what_to_do() {
    let file = key_path("rsa.pem");
    let secret = || Bridge::dev().set("AUTH_JWT_SECRET", SECRET);
    let public = || by_any_key().set("AUTH_JWT_PUBLIC_KEY_FILE", key_path("rsa.pub.pem"));
    let token_mode = Setup::default()
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", "0123456789abcdef");
    let cases: [(Setup, &[&str], i32, &str); 10] = [
        (token_mode, &[], 1, "AUTH_MODE=jwt"),
        (Setup::default(), &[], 1, "AUTH_JWT_SECRET"),
        (
            Setup::default().set("AUTH_JWT_SECRET", "short"),
            &[],
            64,
            "32",
        ),
        (public(), &[], 1, "--key-file"),
        (secret(), &["--key-file", &file], 1, "AUTH_JWT_SECRET"),
        (public(), &["--key-file", "/nowhere.pem"], 1, "/nowhere.pem"),
        (
            public(),
            &["--key-file", &key_path("rsa.pub.pem")],
            1,
            "PKCS#8",
        ),
        (
            public(),
            &["--key-file", &key_path("p384.pem")],
            1,
            "AUTH_JWT_ALGORITHMS",
        ),
        (secret(), &["--ttl", "0"], 1, "--ttl"),
        (secret(), &["--team", "a b"], 64, "--team"),
    ];
    for (setup, arguments, code, says) in cases {
        let all: Vec<&str> = std::iter::once("token")
            .chain(arguments.iter().copied())
            .collect();
        let finished = setup.run(&all, "").await;
        assert_eq!(finished.code, Some(code), "{arguments:?}: {finished:?}");
        assert_eq!(finished.stdout, "", "{arguments:?}");
        assert!(
            finished.stderr.contains(says),
            "{arguments:?}: {finished:?}"
        );
        assert!(!finished.stderr.contains(SECRET), "{finished:?}");
    }
}
