//! How many streams there may be: of one user, from one address, in all.

use std::net::IpAddr;
use std::time::{Duration, Instant};

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
async fn an_address_that_holds_connections_for_nothing_leaves_room_for_others() {
    let bridge = Bridge::dev()
        .set("HTTP_MAX_CONNECTIONS_PER_IP", 1)
        .set("HTTP_TRUSTED_PROXIES", "127.0.0.2")
        .start()
        .await;
    // Answered and kept open, and no stream: twice the limit and 16 more.
    let ask = async |source: [u8; 4]| {
        let mut raw = Raw::connect_from(source.into(), bridge.public).await;
        raw.send(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let head = raw.until(b"\r\n\r\n").await.to_ascii_lowercase();
        (head, raw)
    };
    let mut held = Vec::new();
    for _ in 0..18 {
        let (head, raw) = ask([127, 0, 0, 3]).await;
        assert!(head.starts_with("http/1.1 404 "), "{head}");
        held.push(raw);
    }
    let (head, mut raw) = ask([127, 0, 0, 3]).await;
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    for line in ["retry-after: 10", "connection: close"] {
        assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
    }
    let problem = raw.rest().await;
    assert!(problem.contains("as many connections"), "{problem}");
    let refused = r#"sse_bridge_connections_refused_total{reason="address_limit"}"#;
    assert_eq!(bridge.metric(refused).await, 1.0);
    // Of a trusted proxy its clients' streams are counted, and others have places of their own.
    for source in [[127, 0, 0, 2], [127, 0, 0, 4]] {
        let mut others = Vec::new();
        for _ in 0..if source == [127, 0, 0, 2] { 30 } else { 18 } {
            let (head, raw) = ask(source).await;
            assert!(head.starts_with("http/1.1 404 "), "{source:?}: {head}");
            others.push(raw);
        }
    }
    held.pop();
    eventually("a place is free again", SOON, async || {
        let (head, _) = ask([127, 0, 0, 3]).await;
        head.starts_with("http/1.1 404 ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_replica_says_so_to_whoever_comes_and_keeps_whom_it_has() {
    let bridge = Bridge::dev()
        .set("HTTP_MAX_CONNECTIONS", 3)
        .start_listening()
        .await;
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

#[tokio::test]
async fn those_who_say_nothing_do_not_keep_a_probe_out_of_a_full_replica() {
    let full = Bridge::dev().set("HTTP_MAX_CONNECTIONS", 1).start().await;
    let of_one_address = Bridge::dev()
        .set("HTTP_MAX_CONNECTIONS_PER_IP", 1)
        .start()
        .await;
    let _held = let_in_again(&full, "team_id=7").await;
    let connect =
        async |bridge: &Bridge| Raw::connect_from([127, 0, 0, 3].into(), bridge.public).await;
    // As many as one address may hold.
    let mut let_in = Vec::new();
    for _ in 0..18 {
        let_in.push(connect(&of_one_address).await);
    }
    for bridge in [&full, &of_one_address] {
        let began = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..30 {
            silent.push(connect(bridge).await);
        }
        eventually("a probe is told", SOON, async || {
            let mut probe = connect(bridge).await;
            probe
                .try_send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await
                .ok()?;
            let answer = probe.rest_bytes().await;
            answer.starts_with(b"HTTP/1.1 200 ").then_some(())
        })
        .await;
        // Each has a second; whoever was let in would have ten.
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        drop(silent);
    }
    let refused = r#"sse_bridge_connections_refused_total{reason="address_limit"}"#;
    assert!(of_one_address.metric(refused).await > 30.0);
}

/// What a stream is answered that is asked for from another address of loopback, with these lines: its status, its head,
/// and the connection, which stays open.
async fn asked_from(bridge: &Bridge, source: [u8; 4], lines: &str) -> (u16, String, Raw) {
    let mut raw = Raw::connect_from(IpAddr::from(source), bridge.public).await;
    raw.send(
        format!("GET /events?team_id=7 HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").as_bytes(),
    )
    .await;
    let head = raw.until(b"\r\n\r\n").await;
    let status = head[9..12].parse().expect("a status");
    (status, head.to_ascii_lowercase(), raw)
}

#[tokio::test]
async fn behind_a_trusted_proxy_clients_are_told_apart_and_nobody_can_pose_as_another() {
    let bridge = Bridge::dev()
        .set("HTTP_MAX_CONNECTIONS_PER_IP", 1)
        .set("HTTP_TRUSTED_PROXIES", "127.0.0.2, 127.0.4.0/24")
        .start()
        .await;
    const PROXY: [u8; 4] = [127, 0, 0, 2];
    // Who asks, what it says, and what that comes to; whoever got a stream keeps it.
    let cases: &[([u8; 4], &str, u16)] = &[
        (PROXY, "X-Forwarded-For: 203.0.113.1\r\n", 200),
        (PROXY, "X-Forwarded-For: 203.0.113.1\r\n", 429),
        (PROXY, "X-Forwarded-For: 203.0.113.2\r\n", 200),
        // Made up by the client: to the left of what the proxy saw.
        (PROXY, "X-Forwarded-For: 1.1.1.1, 203.0.113.1\r\n", 429),
        (
            PROXY,
            "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 203.0.113.1\r\n",
            429,
        ),
        (PROXY, "X-Forwarded-For: 203.0.113.1:1234\r\n", 429),
        (PROXY, "X-Forwarded-For: 203.0.113.1, 127.0.4.9\r\n", 429),
        (PROXY, "Forwarded: for=203.0.113.1\r\n", 429),
        (PROXY, "Forwarded: for=203.0.113.3;proto=https\r\n", 200),
        // Another network of the same client is no other client.
        (PROXY, "X-Forwarded-For: 2001:db8::1\r\n", 200),
        (PROXY, "X-Forwarded-For: 2001:db8::ffff\r\n", 429),
        (PROXY, "Forwarded: for=\"[2001:db8::2]:80\"\r\n", 429),
        (PROXY, "X-Forwarded-For: 2001:db8:0:1::1\r\n", 200),
        // What cannot be read, and what contradicts itself, is the proxy's own.
        (PROXY, "X-Forwarded-For: garbage\r\n", 200),
        (PROXY, "X-Forwarded-For: 203.0.113.9, garbage\r\n", 429),
        (
            PROXY,
            "Forwarded: for=203.0.113.8\r\nX-Forwarded-For: 203.0.113.9\r\n",
            429,
        ),
        (PROXY, "", 429),
        // Who is no trusted proxy is who it is.
        ([127, 0, 0, 3], "X-Forwarded-For: 203.0.113.50\r\n", 200),
        ([127, 0, 0, 3], "X-Forwarded-For: 203.0.113.51\r\n", 429),
        ([127, 0, 0, 3], "Forwarded: for=203.0.113.52\r\n", 429),
        ([127, 0, 4, 1], "X-Forwarded-For: 203.0.113.60\r\n", 200),
        ([127, 0, 4, 2], "X-Forwarded-For: 203.0.113.60\r\n", 429),
    ];
    let mut open = Vec::new();
    for (source, lines, expected) in cases {
        let (status, _, raw) = asked_from(&bridge, *source, lines).await;
        assert_eq!(status, *expected, "{source:?} {lines:?}");
        open.push(raw);
    }
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_told_to_wait_and_others_are_not() {
    let bridge = Bridge::dev()
        .set("HTTP_MAX_CONNECTION_RATE_PER_IP", 1)
        .set("HTTP_TRUSTED_PROXIES", "127.0.0.2")
        .start_listening()
        .await;
    // The first ten come as a burst; and the proxy's connections are not counted but its clients' requests.
    for (source, lines) in [
        ([127, 0, 0, 3], ""),
        ([127, 0, 0, 2], "X-Forwarded-For: 203.0.113.1\r\n"),
    ] {
        let mut open = Vec::new();
        let mut refused = None;
        for _ in 0..30 {
            let (status, head, raw) = asked_from(&bridge, source, lines).await;
            if status == 429 {
                refused = Some((head, raw));
                break;
            }
            assert_eq!(status, 200);
            open.push(raw);
        }
        assert!(open.len() >= 10, "{source:?}: {}", open.len());
        let (head, mut raw) = refused.expect("one is too many");
        for line in ["retry-after: 10", "connection: close", "vary: origin"] {
            assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
        }
        let problem = raw.rest().await;
        assert!(problem.contains("more often than it may"), "{problem}");
    }
    let (status, ..) =
        asked_from(&bridge, [127, 0, 0, 2], "X-Forwarded-For: 203.0.113.2\r\n").await;
    assert_eq!(status, 200, "another client of that proxy");
    let (status, ..) = asked_from(&bridge, [127, 0, 0, 4], "").await;
    assert_eq!(status, 200, "another address");

    // Whoever asks whether it is alive is told.
    let mut raw = Raw::connect_from([127, 0, 0, 2].into(), bridge.public).await;
    raw.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n")
        .await;
    assert!(raw.until(b"\r\n").await.contains(" 200 "));
}
