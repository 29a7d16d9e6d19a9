//! Keys from a key server: when it is asked, what of its answer counts, and what becomes of clients while it is away.

use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};

use super::minting::{by_any_key, claims, key_path, private_pem, sign_with};
use super::refused::stream_head;
use crate::harness::{Authority, Bridge, KeyServer, Setup, closed_port, http_answer, jwks};
use crate::requests::detail;

/// A bridge that takes its keys from there.
fn by(server: &KeyServer) -> Setup {
    by_any_key().set("AUTH_JWKS_URL", server.url())
}

/// The public half of a key of the tests, with a name.
fn jwk(key: &str, key_id: &str) -> Value {
    let pem = std::fs::read(key_path(&format!("{key}.pub.pem"))).unwrap();
    let key = DecodingKey::from_rsa_pem(&pem)
        .or_else(|_| DecodingKey::from_ec_pem(&pem))
        .or_else(|_| DecodingKey::from_ed_pem(&pem))
        .unwrap();
    let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&key, None).unwrap()).unwrap();
    jwk["kid"] = json!(key_id);
    jwk
}

fn changed(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn bearer(key: &str, algorithm: Algorithm, key_id: Option<&str>) -> String {
    format!("Bearer {}", sign_with(key, algorithm, key_id, &claims()))
}

async fn refusal(bridge: &Bridge, bearer: &str, status: u16) -> String {
    let headers = [("Authorization", bearer)];
    detail(
        &bridge.request("GET", "/events", &headers, "").await,
        status,
    )
}

#[tokio::test]
async fn a_token_is_verified_by_the_key_that_it_names_and_by_no_other() {
    let server = KeyServer::start(jwks(&[
        jwk("rsa", "one"),
        jwk("p256", "two"),
        jwk("ed25519", "three"),
    ]));
    let bridge = by(&server).start_serve().await;
    for (key, algorithm, key_id) in [
        ("rsa", Algorithm::RS256, "one"),
        ("p256", Algorithm::ES256, "two"),
        ("ed25519", Algorithm::EdDSA, "three"),
    ] {
        stream_head(&bridge, &bearer(key, algorithm, Some(key_id))).await;
    }
    for (what, bearer, says) in [
        (
            "no kid",
            bearer("rsa", Algorithm::RS256, None),
            "names no key",
        ),
        (
            "the kid of another kind",
            bearer("rsa", Algorithm::RS256, Some("two")),
            "not for the token's algorithm",
        ),
        (
            "not accepted",
            bearer("rsa", Algorithm::PS256, Some("one")),
            "RS256, ES256, EdDSA",
        ),
    ] {
        let detail = refusal(&bridge, &bearer, 401).await;
        assert!(detail.contains(says), "{what}: {detail}");
    }
    assert!(
        server
            .requests()
            .iter()
            .all(|line| line == "GET /jwks HTTP/1.1")
    );
}

#[tokio::test]
async fn keys_that_nobody_should_publish_or_that_are_for_something_else_verify_nothing() {
    let secret =
        json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"});
    let rsa = || jwk("rsa", "rsa");
    let server = KeyServer::start(jwks(&[
        secret,
        json!("no key at all"),
        json!({"kty": "AKP", "kid": "future"}),
        changed(changed(rsa(), "kid", json!("private")), "d", json!("AQAB")),
        changed(
            changed(rsa(), "kid", json!("encrypts")),
            "use",
            json!("enc"),
        ),
        changed(
            changed(rsa(), "kid", json!("signs")),
            "key_ops",
            json!(["sign"]),
        ),
        changed(changed(rsa(), "kid", json!("other")), "alg", json!("RS512")),
        changed(changed(rsa(), "kid", json!("short")), "n", json!("AQAB")),
        changed(jwk("p384", "curve"), "crv", json!("P-256")),
        jwk("p256", "good"),
    ]));
    let bridge = by(&server).start_serve().await;
    let log = bridge.log_line("the key server gave its keys").await;
    assert_eq!(log["fields"]["keys"], 1, "{log}");
    // Exactly one is left, so that a token need not name it.
    stream_head(&bridge, &bearer("p256", Algorithm::ES256, None)).await;
    let refused = ["private", "encrypts", "signs", "other", "short"].map(async |key_id| {
        let bearer = bearer("rsa", Algorithm::RS256, Some(key_id));
        refusal(&bridge, &bearer, 401).await
    });
    for detail in futures_util::future::join_all(refused).await {
        assert!(detail.contains("names no key"), "{detail}");
    }
}

#[tokio::test]
async fn a_new_key_is_waited_for_and_however_many_ask_the_server_is_asked_once_an_interval() {
    let server = KeyServer::start(jwks(&[jwk("rsa", "old")]));
    let bridge = by(&server).start_serve().await;
    stream_head(&bridge, &bearer("rsa", Algorithm::RS256, Some("old"))).await;
    let began = tokio::time::Instant::now();
    // Nobody was told that there would be a new key.
    server.answer(jwks(&[jwk("p256", "new")]));
    let entitled = (0..20).map(async |_| {
        stream_head(&bridge, &bearer("p256", Algorithm::ES256, Some("new"))).await;
    });
    let made_up = (0..20).map(async |number: i32| {
        let key_id = format!("made-up-{number}");
        refusal(
            &bridge,
            &bearer("rsa", Algorithm::RS256, Some(&key_id)),
            401,
        )
        .await
    });
    let (_, refusals) = tokio::join!(
        futures_util::future::join_all(entitled),
        futures_util::future::join_all(made_up)
    );
    assert!(
        refusals.iter().all(|detail| detail.contains("`kid`")),
        "{refusals:?}"
    );
    let intervals = began.elapsed().as_secs() / 10 + 1;
    let asked = server.requests().len() as u64;
    assert!(
        asked <= 1 + intervals,
        "asked {asked} times in {:?}",
        began.elapsed()
    );
    // What the server withdrew is good no longer.
    let withdrawn = refusal(&bridge, &bearer("rsa", Algorithm::RS256, Some("old")), 401).await;
    assert!(withdrawn.contains("`kid`"), "{withdrawn}");
}

#[tokio::test]
async fn while_the_key_server_is_away_the_last_keys_stay_and_it_is_logged_once() {
    let server = KeyServer::start(jwks(&[jwk("p256", "one")]));
    let setup = by(&server).set("AUTH_JWKS_REFRESH_SECONDS", 10);
    let bridge = setup.start_serve().await;
    let good = bearer("p256", Algorithm::ES256, Some("one"));
    stream_head(&bridge, &good).await;
    server.answer(http_answer("500 Internal Server Error", "{}"));
    // A key that may be new: whether it is, nobody can tell.
    let answer = bridge
        .request(
            "GET",
            "/events",
            &[(
                "Authorization",
                &bearer("rsa", Algorithm::RS256, Some("new")),
            )],
            "",
        )
        .await;
    assert!(detail(&answer, 503).contains("key server"));
    assert_eq!(answer.head.header("Retry-After"), Some("10"));
    stream_head(&bridge, &good).await;
    let line = bridge.log_line("cannot fetch keys").await;
    assert_eq!(line["fields"]["kept"], 1, "{line}");
    let failures = bridge.output().matches("cannot fetch keys").count();
    assert_eq!(failures, 1);
}

#[tokio::test]
async fn until_the_key_server_was_reached_nobody_can_be_judged_and_then_everybody_is() {
    let keys = jwks(&[jwk("p256", "one")]);
    let large = http_answer(
        "200 OK",
        &json!({"keys": [], "padding": "x".repeat(300 * 1024)}).to_string(),
    );
    let elsewhere = KeyServer::start(keys.clone());
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        elsewhere.url()
    );
    let server = KeyServer::start(redirect);
    let bridge = by(&server).start_serve().await;
    let good = bearer("p256", Algorithm::ES256, Some("one"));
    refusal(&bridge, &good, 503).await;
    // What needs no keys is told at once.
    let nothing = bridge.get("/events").await;
    detail(&nothing, 401);
    for answer in [
        large,
        http_answer("200 OK", "[]"),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        server.answer(answer);
        refusal(&bridge, &good, 503).await;
    }
    assert_eq!(
        elsewhere.requests(),
        Vec::<String>::new(),
        "no redirect is followed"
    );
    server.answer(keys);
    let reached = async {
        while bridge.request("GET", "/healthz", &[], "").await.head.status != 200 {}
        bridge.log_line("the key server gave its keys").await;
    };
    tokio::time::timeout(Duration::from_secs(15), reached)
        .await
        .unwrap();
    stream_head(&bridge, &good).await;
    // The private halves stay where they are.
    assert!(
        !bridge
            .output()
            .contains(private_pem("p256").lines().nth(1).unwrap())
    );
}

#[tokio::test]
async fn over_https_keys_come_from_a_server_whose_certificate_this_system_trusts_and_from_no_other()
{
    let authority = Authority::new();
    let keys = || jwks(&[jwk("p256", "one")]);
    let here = authority.sign("server", &["127.0.0.1"], 2090);
    let good = bearer("p256", Algorithm::ES256, Some("one"));
    let server = KeyServer::start_over_tls(keys(), &here);
    let bridge = by(&server)
        .set("SSL_CERT_FILE", authority.file().display())
        .start_serve()
        .await;
    stream_head(&bridge, &good).await;
    assert_eq!(server.requests(), ["GET /jwks HTTP/1.1"]);

    let elsewhere = authority.sign("elsewhere", &["keys.example"], 2090);
    let expired = authority.sign("expired", &["127.0.0.1"], 2020);
    let stranger = Authority::new();
    let by_stranger = stranger.sign("server", &["127.0.0.1"], 2090);
    for (identity, says) in [
        (by_stranger, "UnknownIssuer"),
        (elsewhere, "not valid for name"),
        (expired, "expired"),
    ] {
        let server = KeyServer::start_over_tls(keys(), &identity);
        let bridge = by(&server)
            .set("SSL_CERT_FILE", authority.file().display())
            .start_serve()
            .await;
        let line = bridge.log_line("cannot fetch keys").await;
        assert_eq!(line["level"], "ERROR", "{line}");
        let error = line["fields"]["error"].as_str().unwrap();
        assert!(error.contains(says), "{says}: {error}");
        let said = refusal(&bridge, &good, 503).await;
        assert!(said.contains("key server"), "{said}");
        // It was asked nothing, though it was tried again.
        assert_eq!(server.requests(), Vec::<String>::new(), "{says}");
    }

    // Nor is anything asked in the clear of who answers where TLS was asked for.
    let plain = KeyServer::start(keys());
    let url = plain.url().replace("http://", "https://");
    let bridge = by_any_key()
        .set("AUTH_JWKS_URL", url)
        .set("SSL_CERT_FILE", authority.file().display())
        .start_serve()
        .await;
    refusal(&bridge, &good, 503).await;
    let requests = plain.requests();
    assert!(requests.iter().all(|line| !line.starts_with("GET")));
}

#[tokio::test]
async fn where_nothing_says_which_certificates_to_trust_it_does_not_start() {
    let finished = by_any_key()
        .set("AUTH_JWKS_URL", "https://keys.example/jwks")
        .set(
            "RABBITMQ_URL",
            format!("amqp://127.0.0.1:{}", closed_port()),
        )
        .set("SSL_CERT_FILE", "/missing/authorities.pem")
        .run(&["serve"], "")
        .await;
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    for said in ["AUTH_JWKS_URL", "/missing/authorities.pem", "SSL_CERT_FILE"] {
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
    }
}
