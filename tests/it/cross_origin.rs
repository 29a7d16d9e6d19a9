//! Pages of other origins (Fetch §3.2): those that were named may read, others may not.

use std::collections::BTreeSet;

use crate::harness::{Bridge, Client, Response, event};

const OURS: &str = "https://app.example";
const THEIRS: &str = "https://evil.example";

const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin";
const ALLOW_CREDENTIALS: &str = "Access-Control-Allow-Credentials";

/// The head of a stream that a page of this origin asks for.
async fn stream(bridge: &Bridge, origin: &str) -> Client {
    Client::connect_with(bridge.public, "team_id=7", &[("Origin", origin)]).await
}

/// What a browser asks before it sends a header of the page's own.
async fn preflight(bridge: &Bridge, origin: &str, method: &str, headers: &str) -> Response {
    let asked = [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", headers),
    ];
    let target = if method == "POST" {
        "/publish"
    } else {
        "/events"
    };
    bridge.request("OPTIONS", target, &asked, "").await
}

fn words(response: &Response, header: &str) -> BTreeSet<String> {
    let value = response.head.header(header).unwrap_or_default();
    value
        .split(',')
        .map(|word| word.trim().to_ascii_lowercase())
        .collect()
}

#[tokio::test]
async fn a_named_origin_may_read_and_another_may_not() {
    let bridge = Bridge::dev()
        .set("HTTP_CORS_ORIGINS", format!("https://first.example,{OURS}"))
        .start()
        .await;
    let head = stream(&bridge, OURS).await.head;
    assert_eq!(head.header(ALLOW_ORIGIN), Some(OURS));
    assert_eq!(head.header(ALLOW_CREDENTIALS), Some("true"));
    assert_eq!(head.header("Vary"), Some("Origin"));
    for other in [
        THEIRS,
        "http://app.example",
        "https://app.example:8443",
        "https://app.example:443",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://evil.app.example",
        "https://app.exampl",
        "https://app.example/",
        "https://app.example.",
        "https://App.example",
        "HTTPS://app.example",
        "https://app.example,https://evil.example",
        "https://evil.example https://app.example",
        "https://user@app.example",
        "app.example",
        "*",
        "null",
        "",
    ] {
        let head = stream(&bridge, other).await.head;
        assert_eq!(head.header(ALLOW_ORIGIN), None, "{other}");
        assert_eq!(head.header("Vary"), Some("Origin"), "{other}");
        let answer = preflight(&bridge, other, "GET", "last-event-id").await;
        assert_eq!(answer.head.header(ALLOW_ORIGIN), None, "{other}");
    }
}

#[tokio::test]
async fn an_error_is_readable_too_or_the_page_could_not_tell_why_it_failed() {
    let bridge = Bridge::dev()
        .set("HTTP_CORS_ORIGINS", OURS)
        .set("HTTP_MAX_CONNECTIONS_PER_IP", 1)
        .start()
        .await;
    let _only = stream(&bridge, OURS).await;
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16);
    let cases: &[Case<'_>] = &[
        ("GET", "/events?team=7", &[], 400),
        ("GET", "/events?all=false&broadcast=false", &[], 403),
        ("GET", "/none", &[], 404),
        ("DELETE", "/events", &[], 405),
        ("GET", "/events", &[("Accept", "application/json")], 406),
        ("POST", "/publish", &[("Transfer-Encoding", "chunked")], 411),
        ("POST", "/publish", &[], 422),
        ("GET", "/events?team_id=7", &[], 429),
    ];
    for (method, target, headers, status) in cases {
        for (origin, allowed) in [(OURS, Some(OURS)), (THEIRS, None)] {
            let mut all = vec![("Origin", origin)];
            all.extend_from_slice(headers);
            let error = bridge.request(method, target, &all, "").await;
            // In `dev` a foreign page publishes nothing at all.
            let status = match (*method, allowed) {
                ("POST", None) => 403,
                _ => *status,
            };
            assert_eq!(error.head.status, status, "{method} {target}");
            assert_eq!(error.head.header(ALLOW_ORIGIN), allowed, "{target}");
            assert_eq!(error.head.header("Vary"), Some("Origin"), "{target}");
            if allowed.is_some() {
                assert!(words(&error, "Access-Control-Expose-Headers").contains("retry-after"));
            }
        }
    }
}

#[tokio::test]
async fn a_named_origin_may_send_its_last_event_id_and_publish_and_another_may_not() {
    let bridge = Bridge::dev().set("HTTP_CORS_ORIGINS", OURS).start().await;
    for (method, headers) in [
        (
            "GET",
            &["last-event-id", "authorization", "cache-control"][..],
        ),
        ("POST", &["content-type", "authorization"]),
    ] {
        let answer = preflight(&bridge, OURS, method, &headers.join(",")).await;
        assert!(matches!(answer.head.status, 200 | 204), "{answer:?}");
        assert_eq!(answer.head.header(ALLOW_ORIGIN), Some(OURS));
        assert_eq!(answer.head.header(ALLOW_CREDENTIALS), Some("true"));
        let allowed = words(&answer, "Access-Control-Allow-Headers");
        assert!(
            headers.iter().all(|header| allowed.contains(*header)),
            "{allowed:?}"
        );
        let methods = words(&answer, "Access-Control-Allow-Methods");
        assert!(
            methods.contains(&method.to_ascii_lowercase()),
            "{methods:?}"
        );
        assert!(answer.head.header("Access-Control-Max-Age").is_some());
        assert!(answer.head.header("Vary").unwrap().contains("Origin"));

        let answer = preflight(&bridge, THEIRS, method, &headers.join(",")).await;
        assert_eq!(answer.head.header(ALLOW_ORIGIN), None);
    }
    let answer = preflight(&bridge, OURS, "DELETE", "x-made-up").await;
    assert!(!words(&answer, "Access-Control-Allow-Headers").contains("x-made-up"));
    assert!(!words(&answer, "Access-Control-Allow-Methods").contains("delete"));
}

#[tokio::test]
async fn with_a_star_every_origin_may_read_but_none_with_credentials() {
    let bridge = Bridge::dev().set("HTTP_CORS_ORIGINS", "*").start().await;
    for origin in [OURS, THEIRS] {
        let head = stream(&bridge, origin).await.head;
        assert_eq!(head.header(ALLOW_ORIGIN), Some("*"));
        assert_eq!(head.header(ALLOW_CREDENTIALS), None);
    }
    let answer = preflight(&bridge, THEIRS, "GET", "last-event-id").await;
    assert_eq!(answer.head.header(ALLOW_ORIGIN), Some("*"));
    assert!(words(&answer, "Access-Control-Allow-Headers").contains("last-event-id"));
}

#[tokio::test]
async fn where_no_origin_is_named_none_may_read() {
    let bridge = Bridge::dev().start().await;
    let head = stream(&bridge, OURS).await.head;
    assert_eq!(head.header(ALLOW_ORIGIN), None);
    assert_eq!(head.header("Vary"), Some("Origin"));
    let answer = preflight(&bridge, OURS, "GET", "last-event-id").await;
    assert_eq!(answer.head.header(ALLOW_ORIGIN), None);
}

#[tokio::test]
async fn a_page_may_read_that_there_is_no_room_for_it() {
    let bridge = Bridge::dev()
        .set("HTTP_MAX_CONNECTIONS", 1)
        .set("HTTP_CORS_ORIGINS", OURS)
        .start_listening()
        .await;
    let _only = stream(&bridge, OURS).await;
    let refused = bridge
        .request("GET", "/events", &[("Origin", OURS)], "")
        .await;
    assert_eq!(refused.head.status, 503);
    assert_eq!(refused.head.header(ALLOW_ORIGIN), Some(OURS));
    assert_eq!(refused.head.header("Vary"), Some("Origin"));
    assert!(refused.head.header("Retry-After").is_some());
}

#[tokio::test]
async fn in_dev_where_nobody_shows_a_token_only_pages_of_its_own_and_those_named_publish() {
    // What a browser sends for any page, without a preflight.
    let publish = async |bridge: &Bridge, origin: Option<&str>| {
        let mut headers = vec![("Content-Type", "text/plain")];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        let body = event("team.7.n", origin.unwrap_or("none")).to_string();
        let answer = bridge.request("POST", "/publish", &headers, &body).await;
        answer.head.status
    };
    for (named, theirs, ours) in [
        (None, 403, 403),
        (Some(OURS), 403, 202),
        (Some("*"), 202, 202),
    ] {
        let setup = named.into_iter().fold(Bridge::dev(), |setup, named| {
            setup.set("HTTP_CORS_ORIGINS", named)
        });
        let bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let own = format!("http://{}", bridge.public);
        let another = format!("http://localhost:{}", bridge.public.port());
        for (origin, status) in [
            (Some(THEIRS), theirs),
            (Some("null"), theirs),
            (Some(&*another), theirs),
            (Some(OURS), ours),
            (Some(&*own), 202),
            (None, 202),
        ] {
            assert_eq!(
                publish(&bridge, origin).await,
                status,
                "{named:?} {origin:?}"
            );
        }
        if named.is_none() {
            let both = [format!("{own:?}"), "\"none\"".to_owned()];
            assert_eq!(client.data(2).await, both, "nothing of others came first");
        }
    }
}
