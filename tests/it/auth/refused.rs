//! Requests that are refused, each with its status and with words that help.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::minting::{
    SECRET, by_any_key, by_secret, claims, encode, key_path, now, sign, sign_text, sign_with,
    token, unsigned, with, without,
};
use crate::harness::{Bridge, Raw};
use crate::requests::detail;

/// A request that is refused.
struct Refused {
    what: String,
    target: String,
    headers: Vec<(String, String)>,
    status: u16,
    says: String,
}

fn refused(what: &str, target: &str, headers: &[(&str, &str)], status: u16, says: &str) -> Refused {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Refused {
        what: what.to_owned(),
        target: target.to_owned(),
        headers: headers.iter().map(owned).collect(),
        status,
        says: says.to_owned(),
    }
}

/// A token in its usual place, refused with 401.
fn bad(what: &str, token: &str, says: &str) -> Refused {
    let bearer = format!("Bearer {token}");
    refused(what, "/events", &[("Authorization", &bearer)], 401, says)
}

/// A claim that is not what it has to be.
fn bad_claim(name: &str, value: Value) -> Refused {
    let what = format!("{name} = {value}");
    bad(&what, &token(&with(name, value)), &format!("`{name}`"))
}

/// A good token, with a request that it does not grant, or that is wrong.
fn denied(query: &str, status: u16, says: &str) -> Refused {
    let bearer = format!("Bearer {}", token(&claims()));
    let target = format!("/events?{query}");
    refused(query, &target, &[("Authorization", &bearer)], status, says)
}

fn forged() -> Vec<Refused> {
    let hs256 = json!({"alg": "HS256"});
    let good = token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let changed = encode(with("sub", json!("43")).to_string().as_bytes());
    let embedded = json!({"alg": "RS256", "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, "jku": "http://127.0.0.1:9/"});
    vec![
        bad("no JWT", "abc", "no JWT"),
        bad("two parts", "a.b", "no JWT"),
        bad("four parts", &format!("{good}.x"), "no JWT"),
        bad(
            "padded base64",
            &format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
            "no JWT",
        ),
        bad(
            "a header that is no JSON",
            &sign_text("HS256", b"{}"),
            "header",
        ),
        bad("a header that is a list", &sign_text("[]", b"{}"), "header"),
        bad(
            "a payload that is no JSON",
            &sign_text(r#"{"alg":"HS256"}"#, b"{"),
            "payload",
        ),
        bad(
            "a payload that is a list",
            &sign_text(r#"{"alg":"HS256"}"#, b"[]"),
            "payload",
        ),
        bad(
            "a payload that nests",
            &sign_text(r#"{"alg":"HS256"}"#, "[".repeat(5000).as_bytes()),
            "payload",
        ),
        bad(
            "oversized",
            &token(&with("padding", json!("x".repeat(9000)))),
            "visible ASCII",
        ),
        bad(
            "alg none",
            &unsigned(&json!({"alg": "none"}), &claims()),
            "algorithm",
        ),
        bad(
            "alg nOnE",
            &unsigned(&json!({"alg": "nOnE"}), &claims()),
            "algorithm",
        ),
        bad(
            "alg none, signed",
            &sign(&json!({"alg": "none"}), &claims()),
            "algorithm",
        ),
        bad(
            "no alg",
            &sign(&json!({"typ": "JWT"}), &claims()),
            "algorithm",
        ),
        bad(
            "alg a list",
            &sign(&json!({"alg": ["HS256"]}), &claims()),
            "algorithm",
        ),
        bad(
            "an algorithm that is not accepted",
            &sign(&json!({"alg": "HS512"}), &claims()),
            "HS256",
        ),
        bad(
            "RS256 where there is a secret",
            &sign_with("rsa", Algorithm::RS256, None, &claims()),
            "algorithm",
        ),
        bad(
            "a key that it brings along",
            &sign(&embedded, &claims()),
            "algorithm",
        ),
        bad(
            "another secret",
            &good.replace(parts[2], &encode(&[7; 32])),
            "signature",
        ),
        bad(
            "no signature",
            &format!("{}.{}.", parts[0], parts[1]),
            "signature",
        ),
        bad("half a signature", &good[..good.len() - 23], "signature"),
        bad(
            "a payload that was changed",
            &format!("{}.{changed}.{}", parts[0], parts[2]),
            "signature",
        ),
        bad(
            "crit",
            &sign(&json!({"alg": "HS256", "crit": ["exp"]}), &claims()),
            "crit",
        ),
        bad(
            "crit null",
            &sign(&json!({"alg": "HS256", "crit": null}), &claims()),
            "crit",
        ),
        bad(
            "a token for something else",
            &sign(&json!({"alg": "HS256", "typ": "logout+jwt"}), &claims()),
            "typ",
        ),
        bad(
            "kid a number",
            &sign(&json!({"alg": "HS256", "kid": 7}), &claims()),
            "kid",
        ),
        bad(
            "an odd jwk",
            &sign(&json!({"alg": "HS256", "jwk": 7}), &claims()),
            "token's header has a member",
        ),
        bad(
            "an odd x5c",
            &sign(&json!({"alg": "HS256", "x5c": 7}), &claims()),
            "token's header has a member",
        ),
        bad(
            "alg twice",
            &sign_text(
                r#"{"alg":"HS256","alg":"HS256"}"#,
                claims().to_string().as_bytes(),
            ),
            "stands twice",
        ),
        bad(
            "expired",
            &sign(&hs256, &with("exp", json!(now() - 31))),
            "expired",
        ),
        bad(
            "not yet valid",
            &sign(&hs256, &with("nbf", json!(now() + 90))),
            "not valid yet",
        ),
        bad(
            "issued in the future",
            &sign(&hs256, &with("iat", json!(now() + 90))),
            "not valid yet",
        ),
        bad(
            "wrong iss",
            &token(&with("iss", json!("https://evil.example"))),
            "issuer",
        ),
        bad("no iss", &token(&without("iss")), "`iss`"),
        bad(
            "wrong aud",
            &token(&with("aud", json!("elsewhere"))),
            "audience",
        ),
        bad(
            "wrong auds",
            &token(&with("aud", json!(["elsewhere", "nowhere"]))),
            "audience",
        ),
        bad("no aud at all", &token(&with("aud", json!([]))), "audience"),
        bad("no aud", &token(&without("aud")), "`aud`"),
        bad("no exp", &token(&without("exp")), "`exp`"),
    ]
}

fn mistyped() -> Vec<Refused> {
    let exps = [
        json!("2030"),
        json!(-1),
        json!(null),
        json!(true),
        json!(1e300),
        json!(u64::MAX),
        json!(now() * 1000),
    ];
    let users = [
        json!(1.5),
        json!(""),
        json!("*"),
        json!("#"),
        json!("a\r\nb"),
        json!("a\0"),
        json!("x".repeat(129)),
        json!(null),
        json!({"id": "42"}),
        json!("\u{ff14}\u{ff12}"),
    ];
    let teams = [
        json!("7"),
        json!({"7": true}),
        json!([["7"]]),
        json!(["7", "*"]),
        json!(["7\n"]),
        json!([null]),
        json!([true]),
    ];
    let channels = [
        json!("news"),
        json!([7]),
        json!(["a b"]),
        json!([""]),
        json!(["news\0"]),
        json!(null),
    ];
    let tenants = [json!(["acme"]), json!("#"), json!(null), json!("acme/evil")];
    let permissions = [
        json!(7),
        json!([1]),
        json!(null),
        json!({"events:read": true}),
    ];
    let of = |name: &'static str, values: Vec<Value>| {
        values.into_iter().map(move |value| bad_claim(name, value))
    };
    let mut cases: Vec<Refused> = Vec::new();
    cases.extend(of("exp", exps.into()));
    cases.extend(of("sub", users.into()));
    cases.extend(of("teams", teams.into()));
    cases.extend(of("channels", channels.into()));
    cases.extend(of("tenant_id", tenants.into()));
    cases.extend(of("permissions", permissions.into()));
    cases.extend(of("jti", vec![json!(7), json!(""), json!("a\nb")]));
    cases.extend(of("iat", vec![json!("now"), json!(-5)]));
    cases.extend(of("iss", vec![json!(5), json!(["https://issuer.example"])]));
    cases.extend(of("aud", vec![json!(5)]));
    cases.extend(of("nbf", vec![json!("now")]));
    cases
}

fn not_granted() -> Vec<Refused> {
    let of = |claims: &Value, says: &str| {
        let bearer = format!("Bearer {}", token(claims));
        refused(says, "/events", &[("Authorization", &bearer)], 403, says)
    };
    vec![
        denied("team_id=8", 403, "team:8"),
        denied("team_id=7&team_id=8", 403, "team:8"),
        denied("team_id=07", 403, "team:07"),
        denied("team_id=7.", 403, "team:7."),
        denied("team_id=7:admin", 403, "team:7:admin"),
        denied("team_id=%EF%BC%97", 400, "`team_id`"),
        denied("team_id=*", 400, "`team_id`"),
        denied("team_id=%23", 400, "`team_id`"),
        denied("team_id=7%00", 400, "`team_id`"),
        denied("team_id=7%0D%0Aid:%201", 400, "`team_id`"),
        denied("user_id=43", 403, "user:43"),
        denied("user_id=42%0A", 400, "`user_id`"),
        denied("channel=secret", 403, "channel:secret"),
        denied("channel=news", 403, "channel:news"),
        denied("channel=news.a.b", 403, "channel:news.a.b"),
        denied("channel=%23", 400, "`channel`"),
        denied("tenant_id=other", 403, "tenant other"),
        denied("tenant_id=other&team_id=7", 403, "tenant other"),
        denied("tenant_id=ACME", 403, "tenant ACME"),
        denied("all=true", 403, "events:admin"),
        denied("access_token=abc", 400, "no token in the query"),
        of(&without("permissions"), "events:read"),
        of(&with("permissions", json!([])), "events:read"),
        of(&with("permissions", json!("openid profile")), "events:read"),
        of(
            &with("permissions", json!(["events:admin", "EVENTS:READ"])),
            "events:read",
        ),
    ]
}

fn misplaced() -> Vec<Refused> {
    let good = token(&claims());
    let other = token(&with("sub", json!("43")));
    let (bearer, other_bearer) = (format!("Bearer {good}"), format!("Bearer {other}"));
    let cookie = format!("events={good}");
    let cookies = format!("events={good}; events={other}");
    let of_page = |what: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("Cookie", cookie.as_str())];
        all.extend_from_slice(headers);
        refused(what, "/events", &all, 403, "own origin")
    };
    vec![
        refused("nothing", "/events", &[], 401, "Authorization: Bearer"),
        refused(
            "Basic",
            "/events",
            &[("Authorization", "Basic YTpi")],
            401,
            "Bearer",
        ),
        refused(
            "no scheme",
            "/events",
            &[("Authorization", &good)],
            401,
            "Bearer",
        ),
        refused(
            "a scheme alone",
            "/events",
            &[("Authorization", "Bearer")],
            401,
            "Bearer",
        ),
        refused(
            "twice",
            "/events",
            &[("Authorization", &bearer), ("Authorization", &bearer)],
            401,
            "Bearer",
        ),
        refused(
            "not ASCII",
            "/events",
            &[("Authorization", "Bearer \u{fc}.a.b")],
            401,
            "Bearer",
        ),
        refused(
            "a cookie of another name",
            "/events",
            &[("Cookie", "event=x")],
            401,
            "Bearer",
        ),
        refused(
            "a cookie that says otherwise",
            "/events",
            &[("Cookie", &cookie), ("Authorization", &other_bearer)],
            400,
            "two different tokens",
        ),
        refused(
            "two cookies",
            "/events",
            &[("Cookie", &cookies)],
            400,
            "two different tokens",
        ),
        of_page("a cookie and nothing about the page", &[]),
        of_page("null Origin", &[("Origin", "null")]),
        of_page("another Origin", &[("Origin", "https://evil.example")]),
        of_page(
            "look-alike",
            &[("Origin", "https://app.example.evil.example")],
        ),
        of_page("look-alike port", &[("Origin", "https://app.example:444")]),
        of_page("cross-site", &[("Sec-Fetch-Site", "cross-site")]),
        of_page(
            "cross-site, though named",
            &[
                ("Sec-Fetch-Site", "cross-site"),
                ("Origin", "https://app.example"),
            ],
        ),
        of_page(
            "same-site without Origin",
            &[("Sec-Fetch-Site", "same-site")],
        ),
        of_page("typed by hand", &[("Sec-Fetch-Site", "none")]),
    ]
}

#[tokio::test]
async fn a_request_that_may_not_is_refused_with_words_that_help_and_never_show_the_token() {
    let bridge = by_secret()
        .set("AUTH_COOKIE", "events")
        .set("HTTP_CORS_ORIGINS", "https://app.example")
        .start_serve()
        .await;
    let cases: Vec<Refused> = [forged(), mistyped(), not_granted(), misplaced()]
        .into_iter()
        .flatten()
        .collect();
    assert!(cases.len() >= 100, "{}", cases.len());
    let signed = [SECRET.to_owned(), encode(br#"{"alg""#)];
    for case in &cases {
        let headers: Vec<(&str, &str)> = case
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let answer = bridge.request("GET", &case.target, &headers, "").await;
        assert_eq!(answer.head.status, case.status, "{}: {answer:?}", case.what);
        let detail = detail(&answer, case.status);
        assert!(detail.contains(&case.says), "{}: {detail}", case.what);
        let challenge = answer.head.header("WWW-Authenticate");
        assert_eq!(
            challenge.is_some_and(|challenge| challenge.starts_with("Bearer")),
            case.status == 401
                || detail.contains("token in the query")
                || detail.contains("two different"),
            "{}: {challenge:?}",
            case.what
        );
        for secret in &signed {
            assert!(!detail.contains(secret.as_str()), "{}: {detail}", case.what);
        }
    }
    let log = bridge.output();
    for secret in signed.iter().chain([&"access_token=abc".to_owned()]) {
        assert!(!log.contains(secret.as_str()), "{log}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret_and_a_key_of_one_kind_verifies_no_other() {
    let setup = by_any_key()
        .set("AUTH_JWT_PUBLIC_KEY_FILE", key_path("rsa.pub.pem"))
        .set("AUTH_JWT_ALGORITHMS", "RS256,ES256");
    let bridge = setup.start_serve().await;
    let public = std::fs::read(key_path("rsa.pub.pem")).unwrap();
    // The classic: a token signed with HS256, with the text of the public key for a secret.
    let as_secret = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(Algorithm::HS256),
        &claims(),
        &jsonwebtoken::EncodingKey::from_secret(&public),
    );
    for (what, token, says) in [
        ("HS256 by the public key", as_secret.unwrap(), "algorithm"),
        (
            "ES256 by another key",
            sign_with("p256", Algorithm::ES256, None, &claims()),
            "not for the token's algorithm",
        ),
        (
            "PS256, not accepted",
            sign_with("rsa", Algorithm::PS256, None, &claims()),
            "RS256, ES256",
        ),
        (
            "alg none",
            unsigned(&json!({"alg": "none"}), &claims()),
            "algorithm",
        ),
    ] {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str())];
        let detail = detail(&bridge.request("GET", "/events", &headers, "").await, 401);
        assert!(detail.contains(says), "{what}: {detail}");
    }
    let bearer = format!(
        "Bearer {}",
        sign_with("rsa", Algorithm::RS256, None, &claims())
    );
    stream_head(&bridge, &bearer).await;
}

#[tokio::test]
async fn what_is_no_good_http_earns_nothing_however_good_its_token() {
    let bridge = by_secret().start_serve().await;
    let bearer = format!("Authorization: Bearer {}\r\n", token(&claims()));
    let overflow = format!("X-Padding: {}\r\n", "x".repeat(20 * 1024));
    let cases = [
        (
            "NUL in the token",
            "Authorization: Bearer a\0b\r\n".to_owned(),
            "400",
        ),
        (
            "a bare CR in the token",
            "Authorization: Bearer a\rb\r\n".to_owned(),
            "400",
        ),
        (
            "a folded header",
            "Authorization: Bearer\r\n a\r\n".to_owned(),
            "400",
        ),
        ("too large a head", format!("{bearer}{overflow}"), "431"),
        (
            "a length twice",
            format!("{bearer}Content-Length: 0\r\nContent-Length: 1\r\n"),
            "400",
        ),
    ];
    for (what, headers, status) in cases {
        let mut raw = Raw::connect(bridge.public).await;
        raw.send(format!("GET /events HTTP/1.1\r\nHost: bridge\r\n{headers}\r\n").as_bytes())
            .await;
        let answer = raw.rest().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{what}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn publishing_asks_the_same_and_stays_in_the_tenant_of_the_token() {
    let bridge = by_secret()
        .set(
            "ADDRESS_ROUTING_KEYS",
            "team.{team_id}.#,in.{tenant_id}.team.{team_id}.#",
        )
        .start_serve()
        .await;
    let may = with("permissions", json!("events:publish"));
    let mut of_none = may.clone();
    of_none.as_object_mut().unwrap().remove("tenant_id");
    let publish = async |claims: &Value, body: Value| {
        let bearer = format!("Bearer {}", token(claims));
        let headers = [("Authorization", bearer.as_str())];
        bridge
            .request("POST", "/publish", &headers, &body.to_string())
            .await
    };
    let event = json!({"topic": "team.7.n", "data": 1});
    let elsewhere = json!({"topic": "team.7.n", "data": 1, "tenant_id": "other"});
    let by_topic = json!({"topic": "in.other.team.7.n", "data": 1});
    // Poison to the bridge, and yet somebody else may read it as the other tenant's.
    let by_bad_topic = json!({"topic": "in.other.team.a b.n", "data": 1});
    let unauthenticated = bridge
        .request("POST", "/publish", &[], &event.to_string())
        .await;
    detail(&unauthenticated, 401);
    for (claims, body, status, says) in [
        (&claims(), &event, 403, "events:publish"),
        (&may, &elsewhere, 403, "tenant other"),
        (&of_none, &elsewhere, 403, "tenant other"),
        (&of_none, &by_topic, 403, "tenant other"),
        (&may, &by_topic, 403, "tenant other"),
        (&may, &by_bad_topic, 403, "tenant other"),
        (&with("exp", json!(now() - 31)), &event, 401, "expired"),
    ] {
        let answer = publish(claims, body.clone()).await;
        let detail = detail(&answer, status);
        assert!(detail.contains(says), "{body}: {detail}");
    }
}

/// Waits for the head of a stream that is let in.
pub async fn stream_head(bridge: &Bridge, bearer: &str) {
    let mut raw = Raw::connect(bridge.public).await;
    raw.send(
        format!("GET /events HTTP/1.1\r\nHost: bridge\r\nAuthorization: {bearer}\r\n\r\n")
            .as_bytes(),
    )
    .await;
    let head = raw.until(b"\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
