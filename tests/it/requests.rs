//! Requests that are wrong: each is told what is wrong with it, at once, in one form.

use serde_json::Value;

use crate::harness::{Bridge, Raw, Response};

/// The detail of a problem (RFC 9457), which must be whole.
pub fn detail(response: &Response, status: u16) -> String {
    assert_eq!(response.head.status, status, "{response:?}");
    assert_eq!(
        response.head.header("Content-Type"),
        Some("application/problem+json"),
        "{response:?}"
    );
    assert_eq!(response.head.header("Cache-Control"), Some("no-store"));
    let problem: Value = serde_json::from_str(&response.body).expect("JSON");
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().unwrap().is_empty());
    problem["detail"].as_str().expect("a detail").to_owned()
}

#[tokio::test]
async fn a_wrong_parameter_is_named_in_the_answer() {
    let bridge = Bridge::dev().start().await;
    let many = "team_id=7&".repeat(200);
    let long = format!("user_id={}", "a".repeat(129));
    let cases = [
        ("team=7", 400, "`team`"),
        ("Team_id=7", 400, "`Team_id`"),
        ("team_id=7&retry=1", 400, "`retry`"),
        ("order_id=9", 400, "`order_id`"),
        ("user_id=", 400, "`user_id`"),
        ("user_id=a%20b", 400, "`user_id`"),
        ("user_id=a%0Ab", 400, "`user_id`"),
        ("user_id=%FF", 400, "`user_id`"),
        (&long, 400, "`user_id`"),
        ("team_id=a%00", 400, "`team_id`"),
        ("channel=a%2Fb", 400, "`channel`"),
        ("tenant_id=", 400, "`tenant_id`"),
        ("tenant_id=a&tenant_id=b", 400, "`tenant_id`"),
        ("all=yes", 400, "`all`"),
        ("all", 400, "`all`"),
        ("all=true&all=true", 400, "`all`"),
        ("broadcast=0", 400, "`broadcast`"),
        ("broadcast=false&broadcast=true", 400, "`broadcast`"),
        ("envelope=TRUE", 400, "`envelope`"),
        ("envelope=true&envelope=true", 400, "`envelope`"),
        ("heartbeat=never", 400, "`heartbeat`"),
        ("heartbeat=event&heartbeat=event", 400, "`heartbeat`"),
        ("topic=", 400, "`topic`"),
        ("event=", 400, "`event`"),
        ("event=bridge.gap", 400, "`event`"),
        ("event=a%0Ab", 400, "`event`"),
        (
            "last_event_id=1-00000000&last_event_id=1-00000000",
            400,
            "`last_event_id`",
        ),
        (&many, 400, "128"),
        // Nothing at all is asked for.
        ("all=false&broadcast=false", 403, "nothing"),
    ];
    for (query, status, named) in cases {
        let response = bridge.get(&format!("/events?{query}")).await;
        let detail = detail(&response, status);
        assert!(detail.contains(named), "{query}: {detail}");
        assert_eq!(response.head.header("Vary"), Some("Origin"), "{query}");
    }
    let unknown = detail(&bridge.get("/events?team=7").await, 400);
    for known in ["user_id", "team_id", "topic", "last_event_id", "job_id"] {
        assert!(unknown.contains(known), "it says what is known: {unknown}");
    }
    let refused = r#"sse_bridge_connections_refused_total{reason="bad_request"}"#;
    assert_eq!(bridge.metric(refused).await, cases.len() as f64);
    let forbidden = r#"sse_bridge_connections_refused_total{reason="forbidden"}"#;
    assert_eq!(bridge.metric(forbidden).await, 1.0);
    let opened = r#"sse_bridge_connections_closed_total{reason="client"}"#;
    assert_eq!(bridge.metric(opened).await, 0.0, "nothing was streamed");
}

#[tokio::test]
async fn a_name_that_a_client_made_up_cannot_break_the_answer() {
    let bridge = Bridge::dev().start().await;
    let made_up = format!("/events?%22%0D%0A%3Cscript%3E{}=1", "x".repeat(5000));
    let response = bridge.get(&made_up).await;
    let detail = detail(&response, 400);
    assert!(
        !detail.contains(['\r', '\n']) && detail.len() < 500,
        "{detail}"
    );
}

#[tokio::test]
async fn what_is_not_here_or_not_so_is_a_problem_like_another() {
    let bridge = Bridge::dev().start().await;
    for (method, target, headers, status) in [
        ("GET", "/nothing", &[][..], 404),
        ("GET", "/events/", &[], 404),
        ("GET", "/EVENTS", &[], 404),
        ("POST", "/events", &[], 405),
        ("DELETE", "/events", &[], 405),
        ("GET", "/publish", &[], 405),
        ("PUT", "/publish", &[], 405),
        ("POST", "/healthz", &[], 405),
        ("GET", "/events", &[("Accept", "application/json")], 406),
        ("GET", "/events", &[("Accept", "text/html, image/*")], 406),
    ] {
        let response = bridge.request(method, target, headers, "").await;
        let detail = detail(&response, status);
        let helps = if status == 406 {
            "text/event-stream"
        } else {
            "/events"
        };
        assert!(detail.contains(helps), "{method} {target}: {detail}");
        // RFC 9110 §15.5.6: a 405 names what the path takes.
        assert_eq!(
            response.head.header("Allow").is_some(),
            status == 405,
            "{method} {target}"
        );
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_the_connection_closed() {
    let bridge = Bridge::dev().start().await;
    let mut raw = Raw::connect(bridge.public).await;
    let padding = "x".repeat(20 * 1024);
    raw.send(
        format!("GET /events HTTP/1.1\r\nHost: localhost\r\nX-Padding: {padding}\r\n").as_bytes(),
    )
    .await;
    let answer = raw.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 "),
        "{answer:?}"
    );
    assert_eq!(bridge.get("/healthz").await.head.status, 200);
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let bridge = Bridge::dev().start().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET /events\r\n\r\n",
        b"GET /ev ents HTTP/1.1\r\n\r\n",
        b"\r\n\0\0\r\n\r\n",
    ] {
        let mut raw = Raw::connect(bridge.public).await;
        raw.send(garbage).await;
        let answer = raw.rest().await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{garbage:?}: {answer:?}"
        );
    }
    assert_eq!(bridge.get("/healthz").await.head.status, 200);
}

#[tokio::test]
async fn a_head_request_tells_of_the_stream_and_opens_none() {
    let bridge = Bridge::dev().start().await;
    let mut raw = Raw::connect(bridge.public).await;
    raw.send(b"HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/event-stream\r\n"));
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    bridge
        .wait_metric(r#"sse_bridge_connections{transport="sse"}"#, 0.0)
        .await;
}
