//! Coming back: with an id that is known, one that was, and one that never was.

use crate::harness::{Bridge, Client, Raw, event, until_checkpoint};

/// What a client is sent before its first checkpoint, as text, by the bytes of a body without chunks.
async fn opening(bridge: &Bridge, target: &str, headers: &[u8]) -> String {
    let mut raw = Raw::connect(bridge.public).await;
    let mut request = format!("GET {target} HTTP/1.0\r\n").into_bytes();
    request.extend_from_slice(headers);
    request.extend_from_slice(b"\r\n");
    raw.send(&request).await;
    let head = raw.until(b"\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.0 200 "),
        "a browser gives up on anything but a 200: {head}"
    );
    let retry = raw.until(b"\n\n").await;
    assert!(retry.starts_with("retry: "), "{retry}");
    raw.until(b"\nid: ").await
}

/// The gap, as it stands on the wire: without an id, before the checkpoint.
const UNKNOWN: &str = "event: bridge.gap\ndata: {\"reason\":\"unknown\",\"missed\":null}\n\nid: ";

#[tokio::test]
async fn a_client_that_returns_is_sent_exactly_what_it_missed_and_nothing_twice() {
    let bridge = Bridge::dev().start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    for (topic, data) in [("team.7.n", 1), ("team.7.n", 2), ("team.8.n", 3)] {
        bridge.publish(&event(topic, data)).await;
    }
    assert_eq!(client.data(2).await, ["1", "2"]);
    let id = client.last_id().to_owned();
    drop(client);
    for (topic, data) in [
        ("team.7.n", 4),
        ("team.8.n", 5),
        ("broadcast.n", 6),
        ("team.7.n", 7),
    ] {
        bridge.publish(&event(topic, data)).await;
    }
    bridge.settle().await;
    let query = "team_id=7";
    let mut back = Client::connect_with(bridge.public, query, &[("Last-Event-ID", &id)]).await;
    let mut fresh = Client::connect(&bridge, query).await;
    assert_eq!(back.data(3).await, ["4", "6", "7"]);
    bridge.publish(&event("team.7.n", 8)).await;
    assert_eq!(back.data(1).await, ["8"]);
    assert_eq!(fresh.data(1).await, ["8"], "who is new gets no history");
    assert_eq!(
        bridge
            .metric(r#"sse_bridge_resumes_total{outcome="memory"}"#)
            .await,
        1.0
    );
}

#[tokio::test]
async fn the_first_checkpoint_is_a_place_to_come_back_to() {
    let bridge = Bridge::dev().start().await;
    let client = Client::connect(&bridge, "team_id=7").await;
    bridge.publish(&event("team.7.n", 1)).await;
    bridge.publish(&event("team.7.n", 2)).await;
    // It goes before it has read anything but the checkpoint.
    let mut back = client.reconnect().await;
    assert_eq!(back.data(2).await, ["1", "2"]);
}

#[tokio::test]
async fn the_header_wins_over_the_parameter_and_the_parameter_serves_who_has_no_header() {
    let bridge = Bridge::dev().start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    for data in 1..=3 {
        bridge.publish(&event("team.7.n", data)).await;
    }
    let events = client.events(3).await;
    let (first, second) = (&events[0].id, &events[1].id);
    let query = format!("team_id=7&last_event_id={first}");
    let returning = async |headers: &[(&str, &str)]| {
        let mut client = Client::connect_with(bridge.public, &query, headers).await;
        client.event().await.data
    };
    assert_eq!(returning(&[]).await, "2");
    assert_eq!(returning(&[("Last-Event-ID", second)]).await, "3");
    assert_eq!(returning(&[("last-event-id", second)]).await, "3");
    assert_eq!(returning(&[("Last-Event-ID", "")]).await, "2");
}

#[tokio::test]
async fn an_id_of_another_process_is_told_as_a_gap_and_then_the_stream_is_live() {
    let before = Bridge::dev().start().await;
    let mut client = Client::connect(&before, "team_id=7").await;
    before.publish(&event("team.7.n", 1)).await;
    let id = client.event().await.id;

    let after = Bridge::dev().start().await;
    let mut fresh = Client::connect(&after, "team_id=7").await;
    after.publish(&event("team.7.n", 2)).await;
    // The same position, of another count.
    assert_eq!(fresh.event().await.position(), 1);
    let header = format!("Last-Event-ID: {id}\r\n");
    assert_eq!(
        opening(&after, "/events?team_id=7", header.as_bytes()).await,
        UNKNOWN
    );

    let mut back = Client::connect_with(after.public, "team_id=7", &[("Last-Event-ID", &id)]).await;
    let gap = back.event().await;
    assert_eq!(
        (gap.name.as_str(), gap.data.as_str(), gap.has_own_id),
        ("bridge.gap", r#"{"reason":"unknown","missed":null}"#, false)
    );
    after.publish(&event("team.7.n", 3)).await;
    assert_eq!(back.data(1).await, ["3"]);
    assert_eq!(
        fresh.data(1).await,
        ["3"],
        "who asked for nothing is told nothing"
    );
    assert_eq!(
        after
            .metric(r#"sse_bridge_gaps_total{reason="unknown"}"#)
            .await,
        2.0
    );
    assert_eq!(
        after
            .metric(r#"sse_bridge_resumes_total{outcome="unknown"}"#)
            .await,
        2.0
    );
}

#[tokio::test]
async fn an_id_that_is_none_is_told_as_a_gap_and_harms_nobody() {
    let bridge = Bridge::dev().start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    bridge.publish(&event("team.7.n", 1)).await;
    let id = client.event().await.id;
    let (_, mark) = id.split_once('-').unwrap();
    let long = format!("{}-{mark}", "9".repeat(4000));
    let beyond = format!("2-{mark}");
    let largest = format!("{}-{mark}", u64::MAX);
    let zeros = format!("01-{mark}");
    let upper = format!(
        "1-{}",
        mark.to_uppercase()
            .replace(|c: char| c.is_ascii_digit(), "A")
    );
    let trailing = format!("{id}x");
    for id in [
        "seven",
        "-",
        "1",
        "1-",
        "-1-00000000",
        "1-0000000g",
        "0x1-00000000",
        "18446744073709551616-00000000",
        "../../etc/passwd",
        &long,
        &beyond,
        &largest,
        &zeros,
        &upper,
        &trailing,
    ] {
        let header = format!("Last-Event-ID: {id}\r\n");
        assert_eq!(
            opening(&bridge, "/events?team_id=7", header.as_bytes()).await,
            UNKNOWN,
            "{id}"
        );
    }
    assert_eq!(
        opening(&bridge, "/events?team_id=7", b"Last-Event-ID: \xff\xfe\r\n").await,
        UNKNOWN
    );
    assert_eq!(
        opening(&bridge, "/events?team_id=7&last_event_id=%00%0A", b"").await,
        UNKNOWN
    );
    // Everybody else goes on.
    bridge.publish(&event("team.7.n", 2)).await;
    assert_eq!(client.data(1).await, ["2"]);
}

#[tokio::test]
async fn a_client_whose_events_are_gone_is_told_so_before_the_rest_and_no_other_client_is() {
    let bridge = Bridge::dev()
        .set("SSE_CHANNEL_CAPACITY", 2)
        .set("HISTORY_MAX_EVENTS", 8)
        .start()
        .await;
    let mut seven = Client::connect(&bridge, "team_id=7").await;
    let mut eight = Client::connect(&bridge, "team_id=8").await;
    bridge.publish(&event("team.7.n", 1)).await;
    bridge.publish(&event("team.8.n", 1)).await;
    let (seven_id, eight_id) = (seven.event().await.id, eight.event().await.id);
    drop((seven, eight));
    for data in 2..=5 {
        bridge.publish(&event("team.7.n", data)).await;
    }
    bridge.publish(&event("team.8.n", 2)).await;
    bridge.settle().await;

    // Team 7 made the noise: of its four events the ring has two.
    let query = "team_id=7";
    let mut seven =
        Client::connect_with(bridge.public, query, &[("Last-Event-ID", &seven_id)]).await;
    let gap = seven.event().await;
    assert_eq!(
        (gap.name.as_str(), gap.json()["reason"].as_str()),
        ("bridge.gap", Some("expired"))
    );
    assert!(!gap.has_own_id);
    assert_eq!(seven.data(2).await, ["4", "5"]);
    // Team 8 lost nothing by it.
    let query = "team_id=8";
    let mut eight =
        Client::connect_with(bridge.public, query, &[("Last-Event-ID", &eight_id)]).await;
    assert_eq!(eight.data(1).await, ["2"]);
    assert_eq!(
        bridge
            .metric(r#"sse_bridge_gaps_total{reason="expired"}"#)
            .await,
        1.0
    );
    assert_eq!(
        bridge
            .metric(r#"sse_bridge_resumes_total{outcome="expired"}"#)
            .await,
        1.0
    );
    assert_eq!(
        bridge
            .metric(r#"sse_bridge_resumes_total{outcome="memory"}"#)
            .await,
        1.0
    );
}

#[tokio::test]
async fn an_id_from_before_all_that_is_remembered_is_told_as_expired_and_the_stream_is_live() {
    let bridge = Bridge::dev()
        .set("SSE_CHANNEL_CAPACITY", 2)
        .set("HISTORY_MAX_EVENTS", 2)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    bridge.publish(&event("team.7.n", 0)).await;
    let id = client.event().await.id;
    let mut producer = bridge.producer().await;
    for data in 1..=64 {
        producer.publish(&event("team.7.n", data)).await;
    }
    bridge.settle().await;
    for query in ["team_id=7", "all=true"] {
        let mut back = Client::connect_with(bridge.public, query, &[("Last-Event-ID", &id)])
            .await
            .subscribed()
            .await;
        let gap = back.event().await;
        assert_eq!(
            (gap.name.as_str(), gap.data.as_str()),
            ("bridge.gap", r#"{"reason":"expired","missed":null}"#),
            "{query}"
        );
        bridge.publish(&event("team.7.n", query)).await;
        let next = back.before(&format!("{query:?}")).await;
        assert!(next.iter().all(|event| !event.is_control()), "{next:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_a_quiet_client_was_sent_is_a_place_to_come_back_to() {
    let bridge = Bridge::dev().set("SSE_HEARTBEAT_SECONDS", 1).start().await;
    let mut quiet = Client::connect(&bridge, "team_id=7").await;
    let first = quiet.last_id().to_owned();
    bridge.publish(&event("team.8.n", 1)).await;
    let (events, _) = until_checkpoint(&mut quiet, |id| id != first).await;
    assert_eq!(events, []);
    bridge.publish(&event("team.7.n", 2)).await;
    let mut back = quiet.reconnect().await;
    assert_eq!(back.data(1).await, ["2"]);
}
