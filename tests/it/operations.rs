//! What those see who run it: health, metrics, and the log.

use serde_json::json;

use crate::harness::{Bridge, Client, event};

#[tokio::test]
async fn it_says_that_it_is_alive_and_ready() {
    let bridge = Bridge::dev().start().await;
    for (target, says) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = bridge.get(target).await;
        assert_eq!((answer.head.status, answer.body.as_str()), (200, says));
        assert_eq!(answer.head.header("Cache-Control"), Some("no-store"));
    }
}

#[tokio::test]
async fn counters_are_there_from_the_start_and_move_with_what_happens() {
    let bridge = Bridge::dev().start().await;
    let answer = bridge.get("/metrics").await;
    assert_eq!(
        answer.head.header("Content-Type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let closed = r#"sse_bridge_connections_closed_total{reason="client"}"#;
    let open = r#"sse_bridge_connections{transport="sse"}"#;
    let delivered = r#"sse_bridge_events_delivered_total{transport="sse"}"#;
    for series in [
        closed,
        open,
        delivered,
        "sse_bridge_events_consumed_total",
        "sse_bridge_history_events",
        "sse_bridge_delivery_seconds_count",
        r#"sse_bridge_gaps_total{reason="slow"}"#,
        r#"sse_bridge_dead_letters_total{reason="not_object"}"#,
        r#"sse_bridge_connections_refused_total{reason="connection_limit"}"#,
    ] {
        assert_eq!(bridge.metric(series).await, 0.0, "{series}");
    }
    let version = format!(
        r#"sse_bridge_build_info{{version="{}"}}"#,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(bridge.metric(&version).await, 1.0);
    assert_eq!(bridge.metric("sse_bridge_broker_up").await, 1.0);

    let mut seven = Client::connect(&bridge, "team_id=7").await;
    let mut also_seven = Client::connect(&bridge, "team_id=7").await;
    assert_eq!(bridge.metric(open).await, 2.0);
    for topic in ["team.7.n", "team.7.n", "team.8.n"] {
        bridge.publish(&event(topic, 1)).await;
    }
    seven.events(2).await;
    also_seven.events(2).await;
    bridge.wait_metric(delivered, 4.0).await;
    bridge
        .wait_metric("sse_bridge_events_consumed_total", 3.0)
        .await;
    bridge.wait_metric("sse_bridge_history_events", 3.0).await;
    bridge
        .wait_metric_where("sse_bridge_history_bytes", |bytes| bytes > 0.0)
        .await;
    // Counted once a write is through, which may be after the client has read it.
    bridge
        .wait_metric_where("sse_bridge_delivery_seconds_count", |writes| writes >= 2.0)
        .await;
    // The two that listen to team 7 hear broadcasts too.
    bridge.wait_metric("sse_bridge_channels", 3.0).await;
    drop((seven, also_seven));
    bridge.wait_metric(closed, 2.0).await;
    bridge.wait_metric(open, 0.0).await;
    // That of broadcasts, which nobody listens to and which holds nothing, is freed.
    bridge.wait_metric("sse_bridge_channels", 2.0).await;
    assert!(bridge.metric("process_resident_memory_bytes").await > 0.0);
}

#[tokio::test]
async fn what_nobody_can_be_sent_is_an_error_in_the_log_with_its_reason_and_counted() {
    let bridge = Bridge::dev()
        .set("ADDRESS_ROUTING_KEYS", "user.{user_id}.#")
        .set("PAYLOAD_FORMAT", "json-object")
        .start()
        .await;
    let mut all = Client::connect(&bridge, "all=true").await;
    for (poison, reason) in [
        (
            json!({"topic": "team.7.n", "data": {"secret": "hush"}}),
            "unaddressed",
        ),
        (
            json!({"topic": "user.a%b", "data": {"secret": "hush"}}),
            "bad_address",
        ),
        (json!({"topic": "user.42", "data": ["hush"]}), "not_object"),
    ] {
        bridge.publish(&poison).await;
        let series = format!(r#"sse_bridge_dead_letters_total{{reason="{reason}"}}"#);
        bridge.wait_metric(&series, 1.0).await;
        let line = bridge
            .log_line_where(|line| line["fields"]["reason"] == reason)
            .await;
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["fields"]["routing_key"], poison["topic"]);
        assert!(!line["fields"]["detail"].as_str().unwrap().is_empty());
    }
    bridge.publish(&event("user.42", json!({"good": 1}))).await;
    assert_eq!(
        all.data(1).await,
        [r#"{"good":1}"#],
        "and nobody is sent it"
    );
    assert!(!bridge.output().contains("hush"), "a payload is in the log");
}
