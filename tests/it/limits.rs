//! How many streams there may be: of one user, from one address, in all.

use crate::harness::{Bridge, Client, Raw, Response, SOON, eventually};

/// A refusal that a client can act on: it says when to come back.
fn assert_refusal(refusal: &Response, status: u16, says: &str) {
    assert_eq!(refusal.head.status, status, "{refusal:?}");
    assert_eq!(refusal.head.header("Retry-After"), Some("10"));
    assert_eq!(
        refusal.head.header("Content-Type"),
        Some("application/problem+json")
    );
    let problem: serde_json::Value = serde_json::from_str(&refusal.body).expect("JSON");
    assert_eq!(problem["status"], status);
    assert!(
        problem["detail"].as_str().unwrap().contains(says),
        "{problem}"
    );
}

/// The refusal of a stream, whose body has been read to its end.
async fn refused(bridge: &Bridge, query: &str) -> Response {
    let target = format!("/events?{query}");
    let headers = [("Accept", "text/event-stream")];
    bridge.request("GET", &target, &headers, "").await
}

/// Waits until a place is free again.
async fn let_in_again(bridge: &Bridge, query: &str) -> Client {
    eventually("a place is free again", SOON, async || {
        Client::try_connect(bridge.public, query, &[]).await.ok()
    })
    .await
}

#[tokio::test]
async fn a_user_holds_so_many_streams_and_no_more_while_others_are_let_in() {
    let bridge = Bridge::dev()
        .set("HTTP_MAX_CONNECTIONS_PER_USER", 2)
        .start()
        .await;
    let first = Client::connect(&bridge, "user_id=42").await;
    let mut second = Client::connect(&bridge, "user_id=42").await;
    assert_refusal(&refused(&bridge, "user_id=42").await, 429, "user");
    let _other = Client::connect(&bridge, "user_id=43").await;
    let _nobody = Client::connect(&bridge, "team_id=7").await;
    assert_eq!(
        bridge
            .metric(r#"sse_bridge_connections_refused_total{reason="user_limit"}"#)
            .await,
        1.0
    );
    drop(first);
    let mut third = let_in_again(&bridge, "user_id=42").await;
    bridge.publish(&crate::harness::event("user.42.n", 1)).await;
    assert_eq!(second.data(1).await, ["1"], "who was let in stays");
    assert_eq!(third.data(1).await, ["1"]);
}

#[tokio::test]
async fn an_address_holds_so_many_streams_and_no_more_while_others_are_let_in() {
    let bridge = Bridge::dev()
        .set("HTTP_MAX_CONNECTIONS_PER_IP", 1)
        .start()
        .await;
    let first = Client::connect(&bridge, "team_id=7").await;
    assert_refusal(&refused(&bridge, "team_id=8").await, 429, "address");
    let mut elsewhere = Raw::connect_from([127, 0, 0, 2].into(), bridge.public).await;
    elsewhere.send(b"GET /events HTTP/1.0\r\n\r\n").await;
    let head = elsewhere.until(b"\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    // What is no stream takes no place.
    assert_eq!(bridge.get("/healthz").await.head.status, 200);
    assert_eq!(
        bridge
            .metric(r#"sse_bridge_connections_refused_total{reason="address_limit"}"#)
            .await,
        1.0
    );
    drop(first);
    let_in_again(&bridge, "team_id=7").await;
}

#[tokio::test]
async fn a_full_replica_says_so_to_whoever_comes_and_keeps_whom_it_has() {
    let bridge = Bridge::dev().set("HTTP_MAX_CONNECTIONS", 3).start().await;
    let mut first = Client::connect(&bridge, "team_id=7").await;
    let second = Client::connect(&bridge, "team_id=7").await;
    let mut producer = bridge.producer().await;
    producer
        .publish(&crate::harness::event("team.7.n", 1))
        .await;

    assert_refusal(&refused(&bridge, "team_id=7").await, 503, "connections");
    let health = bridge.get("/healthz").await;
    assert_eq!(health.head.status, 200, "being full is no illness");
    assert_eq!(health.head.header("Connection"), Some("close"));

    producer
        .publish(&crate::harness::event("team.7.n", 2))
        .await;
    assert_eq!(first.data(2).await, ["1", "2"], "who was let in stays");
    drop(second);
    let_in_again(&bridge, "team_id=7").await;
    drop((first, producer));
    eventually("the refusals are counted", SOON, async || {
        let metrics = bridge.get("/metrics").await;
        let series = r#"sse_bridge_connections_refused_total{reason="connection_limit"} "#;
        let count = metrics
            .body
            .lines()
            .find_map(|line| line.strip_prefix(series))?;
        (count.parse::<f64>().ok()? >= 2.0).then_some(())
    })
    .await;
}
