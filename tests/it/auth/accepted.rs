//! Tokens that are good, in every place where one may stand, and what becomes of their streams.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use rustix::process::Signal;
use serde_json::json;

use super::minting::{
    by_any_key, by_secret, claims, key_path, now, sign, sign_with, token, with, without,
};
use super::refused::stream_head;
use crate::harness::{Bridge, Client, SOON, Silence};
use crate::requests::detail;

async fn status(bridge: &Bridge, target: &str, headers: &[(&str, &str)]) -> u16 {
    let query = target.trim_start_matches('?');
    match Client::try_connect(bridge.public, query, headers).await {
        Ok(client) => client.head.status,
        Err(refusal) => {
            eprintln!("{target} {headers:?}: {refusal:?}");
            refusal.head.status
        }
    }
}

#[tokio::test]
async fn a_good_token_is_taken_however_its_issuer_writes_it() {
    let bridge = by_secret().start_serve().await;
    let hs256 = json!({"alg": "HS256"});
    for (what, token) in [
        ("as usual", token(&claims())),
        (
            "an access token",
            sign(
                &json!({"alg": "HS256", "typ": "application/at+JWT"}),
                &claims(),
            ),
        ),
        (
            "a kid that no secret has",
            sign(&json!({"alg": "HS256", "kid": "x"}), &claims()),
        ),
        ("no typ", sign(&hs256, &claims())),
        (
            "within the leeway after its end",
            token(&with("exp", json!(now() - 10))),
        ),
        (
            "within the leeway before its beginning",
            token(&with("nbf", json!(now() + 20))),
        ),
        (
            "a fraction of a second",
            token(&with("exp", json!(now() as f64 + 60.5))),
        ),
        (
            "several audiences",
            token(&with("aud", json!(["x", "events"]))),
        ),
        ("a user by number", token(&with("sub", json!(42)))),
        ("teams by number", token(&with("teams", json!([7, "8", 7])))),
        (
            "a scope",
            token(&with("permissions", json!("openid events:read"))),
        ),
        (
            "nothing but broadcasts",
            token(&json!({
                "iss": "https://issuer.example", "aud": "events", "exp": now() + 60, "permissions": ["events:read"],
            })),
        ),
        ("no jti, no iat", token(&without("jti"))),
    ] {
        let bearer = format!("Bearer {token}");
        assert_eq!(
            status(&bridge, "", &[("Authorization", &bearer)]).await,
            200,
            "{what}"
        );
    }
    let bearer = format!("Bearer {}", token(&claims()));
    for query in [
        "team_id=7",
        "user_id=42&team_id=7",
        "channel=news.today",
        "tenant_id=acme",
        "team_id=7&broadcast=false",
    ] {
        assert_eq!(
            status(&bridge, query, &[("Authorization", &bearer)]).await,
            200,
            "{query}"
        );
    }
    let admin = with("permissions", json!(["events:read", "events:admin"]));
    let bearer = format!("Bearer {}", token(&admin));
    let headers = [("Authorization", bearer.as_str())];
    assert_eq!(status(&bridge, "all=true", &headers).await, 200);
    let answer = bridge
        .request("GET", "/events?all=true&tenant_id=other", &headers, "")
        .await;
    assert!(
        detail(&answer, 403).contains("tenant other"),
        "not even an admin's"
    );
}

#[tokio::test]
async fn a_file_of_public_keys_and_certificates_verifies_what_any_of_them_signed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.pem");
    let texts = [
        "rsa.cert.pem",
        "p256.pub.pem",
        "p384.pub.pem",
        "ed25519.cert.pem",
    ]
    .map(|name| std::fs::read_to_string(key_path(name)).unwrap());
    std::fs::write(&file, texts.concat()).unwrap();
    let bridge = by_any_key()
        .set("AUTH_JWT_PUBLIC_KEY_FILE", file.display())
        .set(
            "AUTH_JWT_ALGORITHMS",
            "RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,EdDSA",
        )
        .start_serve()
        .await;
    for (key, algorithm) in [
        ("rsa", Algorithm::RS256),
        ("rsa", Algorithm::RS384),
        ("rsa", Algorithm::RS512),
        ("rsa", Algorithm::PS256),
        ("rsa", Algorithm::PS384),
        ("rsa", Algorithm::PS512),
        ("p256", Algorithm::ES256),
        ("p384", Algorithm::ES384),
        ("ed25519", Algorithm::EdDSA),
    ] {
        let bearer = format!("Bearer {}", sign_with(key, algorithm, None, &claims()));
        stream_head(&bridge, &bearer).await;
    }
}

#[tokio::test]
async fn a_key_that_is_too_weak_or_no_public_one_stops_the_start() {
    for (file, says) in [
        ("rsa1024.pub.pem", "2048"),
        ("p521.pub.pem", "P-256"),
        ("p384.pub.pem", "ES384"),
        ("rsa.pem", "private key"),
        ("README.md", "holds no PEM"),
    ] {
        let setup = by_any_key()
            .set("AUTH_JWT_PUBLIC_KEY_FILE", key_path(file))
            .set("RABBITMQ_URL", "amqp://127.0.0.1");
        let finished = setup.run(&["serve"], "").await;
        assert_eq!(finished.code, Some(64), "{file}: {finished:?}");
        assert!(finished.stderr.contains(says), "{file}: {finished:?}");
        assert!(
            finished.stderr.contains("AUTH_JWT_PUBLIC_KEY_FILE="),
            "{file}: {finished:?}"
        );
    }
}

#[tokio::test]
async fn claims_may_have_other_names_and_stand_inside_of_others() {
    let bridge = by_secret()
        .set("AUTH_CLAIM_USER", "https://app.example/user")
        .set("AUTH_CLAIM_TEAMS", "/realm/teams")
        .set("AUTH_CLAIM_PERMISSIONS", "scope")
        .start_serve()
        .await;
    let mut claims = without("teams");
    claims["https://app.example/user"] = json!("43");
    claims["realm"] = json!({"teams": ["9"]});
    claims["scope"] = json!("profile events:read");
    let bearer = format!("Bearer {}", token(&claims));
    let headers = [("Authorization", bearer.as_str())];
    assert_eq!(status(&bridge, "user_id=43&team_id=9", &headers).await, 200);
    for own in ["user_id=42", "team_id=7"] {
        assert_eq!(status(&bridge, own, &headers).await, 403, "{own}");
    }
    claims["realm"] = json!({"teams": "9"});
    let bearer = format!("Bearer {}", token(&claims));
    let answer = bridge
        .request("GET", "/events", &[("Authorization", &bearer)], "")
        .await;
    assert!(detail(&answer, 401).contains("`/realm/teams`"));
}

#[tokio::test]
async fn a_token_may_stand_in_the_cookie_of_a_page_that_may_use_it_and_in_the_query_where_that_is_allowed()
 {
    let jwt = by_secret();
    let shared = Bridge::dev()
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", "0123456789abcdef");
    for (setup, token) in [
        (jwt, token(&claims())),
        (shared, "0123456789abcdef".to_owned()),
    ] {
        let bridge = setup
            .set("AUTH_COOKIE", "events")
            .set("AUTH_QUERY_TOKEN", "true")
            .set("HTTP_CORS_ORIGINS", "https://app.example")
            .set("RUST_LOG", "trace")
            .start_serve()
            .await;
        let cookie = format!("theme=dark; events={token}");
        let own = format!("http://{}", bridge.public);
        for page in [
            &[("Sec-Fetch-Site", "same-origin")][..],
            &[("Origin", "https://app.example")],
            &[
                ("Origin", "https://app.example"),
                ("Sec-Fetch-Site", "same-site"),
            ],
            &[("Origin", own.as_str())],
        ] {
            let mut headers = vec![("Cookie", cookie.as_str())];
            headers.extend_from_slice(page);
            assert_eq!(status(&bridge, "", &headers).await, 200, "{page:?}");
        }
        let query = format!("team_id=7&access_token={token}");
        assert_eq!(status(&bridge, &query, &[]).await, 200);
        let bearer = format!("Bearer {token}");
        assert_eq!(
            status(&bridge, &query, &[("Authorization", &bearer)]).await,
            200
        );
        let answer = bridge
            .request(
                "GET",
                "/events?access_token=other",
                &[("Authorization", &bearer)],
                "",
            )
            .await;
        assert!(detail(&answer, 400).contains("two different tokens"));
        let answer = bridge
            .request("GET", "/events?access_token=other", &[], "")
            .await;
        assert!(!detail(&answer, 401).contains("other"));
        assert!(!bridge.output().contains(&token), "no token is ever logged");
    }
}

#[tokio::test]
async fn a_stream_is_warned_before_its_token_ends_and_ends_with_it() {
    let bridge = by_secret()
        .set("AUTH_LEEWAY_SECONDS", 1)
        .start_serve()
        .await;
    let began = tokio::time::Instant::now();
    let bearer = format!("Bearer {}", token(&with("exp", json!(now() + 3))));
    let headers = [("Authorization", bearer.as_str())];
    let mut client = Client::connect_with(bridge.public, "team_id=7", &headers).await;
    // Thirty seconds before its end is in the past: at once.
    let warning = client.event().await;
    assert_eq!(
        (warning.name.as_str(), warning.has_own_id),
        ("bridge.expiring", false)
    );
    let farewell = client.event().await;
    assert_eq!(
        (farewell.name.as_str(), farewell.data.as_str()),
        ("bridge.bye", r#"{"reason":"expired"}"#)
    );
    assert_eq!(client.next(SOON).await.unwrap_err(), Silence::Ended);
    let lasted = began.elapsed();
    assert!(
        lasted >= Duration::from_secs(2) && lasted < Duration::from_secs(15),
        "{lasted:?}"
    );
    // The same token is good no longer.
    let answer = bridge.request("GET", "/events", &headers, "").await;
    assert!(detail(&answer, 401).contains("expired"));
    bridge.signal(Signal::TERM);
}

#[tokio::test]
async fn users_of_one_name_in_two_tenants_are_two_users_where_streams_are_counted() {
    let bridge = by_secret()
        .set("HTTP_MAX_CONNECTIONS_PER_USER", 1)
        .start_serve()
        .await;
    let of = |tenant: &str| format!("Bearer {}", token(&with("tenant_id", json!(tenant))));
    let (acme, other) = (of("acme"), of("other"));
    let _held = Client::connect_with(bridge.public, "", &[("Authorization", &acme)]).await;
    assert_eq!(status(&bridge, "", &[("Authorization", &acme)]).await, 429);
    assert_eq!(status(&bridge, "", &[("Authorization", &other)]).await, 200);
}
