//! `POST /publish`: what it takes, what it refuses, and that nothing refused reaches anybody.

use serde_json::json;

use crate::harness::{Bridge, Client, Raw, event};
use crate::requests::detail;

#[tokio::test]
async fn what_is_wrong_is_refused_with_the_reason_and_reaches_nobody() {
    let bridge = Bridge::dev().start().await;
    let mut all = Client::connect(&bridge, "all=true").await;
    let long = "x".repeat(256);
    let cases = [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "invalid"),
        ("not json", "expected"),
        (r#"{"topic":"team.7.n","data":1} x"#, "trailing"),
        (r#"{"data":1}"#, "`topic`"),
        (r#"{"topic":"team.7.n"}"#, "`data`"),
        (r#"{"topic":7,"data":1}"#, "string"),
        (r#"{"topic":"team.7.n","data":1,"data":2}"#, "`data`"),
        (r#"{"topic":"team.7.n","data":1,"teamid":"7"}"#, "`teamid`"),
        (r#"{"topic":"team.7.n","data":1,"team":"7"}"#, "`team`"),
        (r#"{"topic":"","data":1}"#, "topic"),
        (&format!(r#"{{"topic":"team.7.{long}","data":1}}"#), "topic"),
        // No binding: RabbitMQ would return it.
        (r#"{"topic":"orders.1","data":1}"#, "`orders.1`"),
        (r#"{"topic":"team.7.n","data":1,"type":""}"#, "type"),
        (r#"{"topic":"team.7.n","data":1,"type":"a\nid: 1"}"#, "type"),
        (
            r#"{"topic":"team.7.n","data":1,"type":"bridge.gap"}"#,
            "type",
        ),
        (r#"{"topic":"team.7.n","data":1,"user_id":""}"#, "user_id"),
        (r#"{"topic":"team.7.n","data":1,"user_id":42}"#, "string"),
        (
            r#"{"topic":"team.7.n","data":1,"team_id":"a b"}"#,
            "team_id",
        ),
        (
            r#"{"topic":"team.7.n","data":1,"channel":"a/b"}"#,
            "channel",
        ),
        (
            r#"{"topic":"team.7.n","data":1,"tenant_id":"\u0000"}"#,
            "tenant_id",
        ),
        (
            &format!(r#"{{"topic":"team.7.n","data":1,"message_id":"{long}"}}"#),
            "message_id",
        ),
    ];
    for (body, says) in cases {
        let response = bridge.request("POST", "/publish", &[], body).await;
        let detail = detail(&response, 422);
        assert!(detail.contains(says), "{body}: {detail}");
    }
    let response = bridge
        .request("POST", "/publish", &[], r#"{"topic":"orders.1","data":1}"#)
        .await;
    assert!(
        detail(&response, 422).contains("team.#"),
        "it says what is bound"
    );
    bridge.publish(&event("team.7.n", "good")).await;
    assert_eq!(all.data(1).await, ["\"good\""]);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_the_largest_legal_one_arrives() {
    let bridge = Bridge::dev().set("PAYLOAD_MAX_BYTES", 1000).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let of_size = |bytes: usize| {
        let data = format!("\"{}\"", "x".repeat(bytes - 2));
        format!(r#"{{"topic":"team.7.n","data":{data}}}"#)
    };
    let response = bridge
        .request("POST", "/publish", &[], &of_size(1001))
        .await;
    let said = detail(&response, 413);
    assert!(said.contains("1001") && said.contains("1000"), "{said}");
    // Too large by far: refused before it is read to its end.
    let response = bridge
        .request("POST", "/publish", &[], &of_size(20_000))
        .await;
    detail(&response, 413);
    let response = bridge
        .request("POST", "/publish", &[], &of_size(1000))
        .await;
    assert_eq!(response.head.status, 202, "{}", response.body);
    assert_eq!(client.event().await.data.len(), 1000);
}

#[tokio::test]
async fn what_is_taken_is_answered_with_202_and_no_body() {
    let bridge = Bridge::dev().start().await;
    let mut client = Client::connect(&bridge, "user_id=42&tenant_id=acme").await;
    let body = json!({
        "topic": "team.7.n",
        "data": {"a": 1},
        "type": "note",
        "user_id": "42",
        "team_id": null,
        "tenant_id": "acme",
        "message_id": "x",
    });
    let response = bridge
        .request("POST", "/publish", &[], &body.to_string())
        .await;
    assert_eq!(response.head.status, 202);
    assert_eq!(response.body, "");
    let event = client.event().await;
    assert_eq!(
        (event.name.as_str(), event.data.as_str()),
        ("note", r#"{"a":1}"#)
    );
}

#[tokio::test]
async fn one_connection_serves_many_publishes_even_where_they_do_not_wait_for_answers() {
    let bridge = Bridge::dev().start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let mut raw = Raw::connect(bridge.public).await;
    let request = |number: usize| {
        let body = format!(r#"{{"topic":"team.7.n","data":{number}}}"#);
        format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for number in 0..3 {
        raw.send(request(number).as_bytes()).await;
        let (head, _) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    }
    let pipelined: String = (3..10).map(request).collect();
    raw.send(pipelined.as_bytes()).await;
    for _ in 3..10 {
        let (head, _) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    }
    // What is refused does not cost the connection.
    raw.send(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    let (head, _) = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 422 "), "{head}");
    raw.send(request(10).as_bytes()).await;
    raw.response().await;
    let expected: Vec<String> = (0..=10).map(|number| number.to_string()).collect();
    assert_eq!(client.data(11).await, expected);
}

#[tokio::test]
async fn who_may_not_publish_is_refused_before_the_body_comes() {
    let bridge = Bridge::dev().start_without_broker().await;
    let mut raw = Raw::connect(bridge.public).await;
    raw.send(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let (head, body) = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(body.contains("events:publish"), "{body}");
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_once_however_many_events_it_keeps_from_coming() {
    let bridge = Bridge::dev()
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", "0123456789abcdef")
        .start_serve()
        .await;
    let body = event("team.7.n", "lost").to_string();
    let bearer = [("Authorization", "Bearer 0123456789abcdef")];
    let one = async || {
        let answer = bridge.request("POST", "/publish", &bearer, &body).await;
        (
            answer.head.status,
            answer.head.header("Retry-After") == Some("2"),
        )
    };
    let all = tokio::join!(one(), one(), one(), one(), one(), one(), one(), one());
    for answer in [all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7] {
        assert_eq!(answer, (503, true));
    }
    let line = bridge.log_line("cannot publish").await;
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["times"], 1);
    // On a machine that stops for a second now and then it is told once more.
    let times = bridge.output().matches("cannot publish").count();
    assert!(times <= 2, "{times}");
}
