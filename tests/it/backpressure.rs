//! A client that does not read: it delays nobody, and hears exactly what it lost.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Bridge, Client, Event, Producer, SOON, Silence};

/// 1.2 MB of events: more than the kernel keeps for a client that reads nothing.
const COUNT: u64 = 600;

/// Fewer than any ring here holds, so that a client that reads never falls behind.
const BATCH: usize = 30;

/// About 2 KB, so that few of them fill a socket.
fn numbered(number: u64) -> Value {
    let padding = "x".repeat(2000);
    json!({"topic": format!("team.7.key.{}", number % 5), "data": {"n": number, "padding": padding}})
}

fn number(event: &Event) -> u64 {
    event.json()["n"].as_u64().expect("a number")
}

/// Publishes all, while `fast` reads along: whatever becomes of slow ones, it gets every event, in order.
async fn publish_all(producer: &mut Producer, fast: &mut Client) {
    for start in (0..COUNT).step_by(BATCH) {
        for number in start..start + BATCH as u64 {
            producer.publish(&numbered(number)).await;
        }
        let events = fast.events(BATCH).await;
        let numbers: Vec<u64> = events.iter().map(number).collect();
        assert_eq!(numbers, (start..start + BATCH as u64).collect::<Vec<_>>());
    }
}

/// Everything up to the marker that is published here.
async fn catch_up(producer: &mut Producer, slow: &mut Client) -> Vec<Event> {
    producer
        .publish(&json!({"topic": "team.7.key.end", "data": "end"}))
        .await;
    slow.before("\"end\"").await
}

#[tokio::test]
async fn a_slow_client_is_told_exactly_how_many_events_it_lost_before_the_next_one() {
    let bridge = Bridge::dev().set("SSE_CHANNEL_CAPACITY", 64).start().await;
    let mut slow = Client::connect(&bridge, "team_id=7").await;
    let mut filtered = Client::connect(&bridge, "team_id=7&topic=team.7.%23").await;
    let mut fast = Client::connect(&bridge, "team_id=7").await;
    let mut producer = bridge.producer().await;
    publish_all(&mut producer, &mut fast).await;

    let (mut next, mut received, mut missed, mut gaps) = (0, 0, 0, 0);
    for event in catch_up(&mut producer, &mut slow).await {
        if event.is_control() {
            assert_eq!(
                (event.name.as_str(), event.has_own_id),
                ("bridge.gap", false)
            );
            assert_eq!(event.json()["reason"], "slow");
            let lost = event.json()["missed"].as_u64().expect("a number");
            assert!(lost > 0);
            gaps += 1;
            missed += lost;
            next += lost;
        } else {
            assert_eq!(number(&event), next, "after {gaps} gaps");
            received += 1;
            next += 1;
        }
    }
    assert!(gaps > 0, "it was not slow");
    assert_eq!(received + missed, COUNT);

    // How many of the lost events a filter would have let through, nobody knows any more.
    let mut filtered_gaps = 0;
    let mut newest = None;
    for event in filtered.before("\"end\"").await {
        if event.is_control() {
            assert_eq!(event.data, r#"{"reason":"slow","missed":null}"#);
            filtered_gaps += 1;
        } else {
            let number = Some(number(&event));
            assert!(number > newest, "{number:?} after {newest:?}");
            newest = number;
        }
    }
    assert!(filtered_gaps > 0, "it was not slow");
    assert_eq!(
        bridge
            .metric(r#"sse_bridge_gaps_total{reason="slow"}"#)
            .await,
        f64::from(gaps + filtered_gaps)
    );
    assert_eq!(
        fast.before("\"end\"").await,
        [],
        "the fast one lost nothing"
    );
}

#[tokio::test]
async fn with_latest_a_slow_client_gets_the_newest_of_each_routing_key_and_is_told_of_the_rest() {
    let bridge = Bridge::dev()
        .set("SSE_BACKPRESSURE", "latest")
        .start()
        .await;
    let mut slow = Client::connect(&bridge, "team_id=7").await;
    let mut fast = Client::connect(&bridge, "team_id=7").await;
    let mut producer = bridge.producer().await;
    publish_all(&mut producer, &mut fast).await;

    let (mut received, mut missed, mut newest) = (0, 0, BTreeMap::new());
    let mut last = None;
    for event in catch_up(&mut producer, &mut slow).await {
        if event.is_control() {
            assert_eq!(event.json()["reason"], "slow", "{event:?}");
            missed += event.json()["missed"].as_u64().expect("a number");
        } else {
            let number = number(&event);
            let skipped = last.map_or(number, |last| number - last - 1);
            assert!(skipped == 0 || missed > 0, "{skipped} lost, and not a word");
            assert!(last < Some(number), "in order");
            last = Some(number);
            newest.insert(number % 5, number);
            received += 1;
        }
    }
    assert_eq!(received + missed, COUNT);
    assert!(missed > 0, "it was not slow");
    let expected: BTreeMap<u64, u64> = (COUNT - 5..COUNT).map(|n| (n % 5, n)).collect();
    assert_eq!(newest, expected, "the newest of every key");
    let dropped = async |reason: &str| {
        let series = format!(r#"sse_bridge_events_dropped_total{{reason="{reason}"}}"#);
        bridge.metric(&series).await.to_string()
    };
    assert_eq!(dropped("superseded").await, missed.to_string());
    assert_eq!(dropped("slow").await, "0", "nothing was passed by the ring");
}

#[tokio::test]
async fn with_disconnect_a_slow_clients_stream_ends_and_it_may_come_back() {
    let bridge = Bridge::dev()
        .set("SSE_BACKPRESSURE", "disconnect")
        .set("SSE_CHANNEL_CAPACITY", 64)
        .start()
        .await;
    let mut slow = Client::connect(&bridge, "team_id=7").await;
    let mut fast = Client::connect(&bridge, "team_id=7").await;
    let mut producer = bridge.producer().await;
    publish_all(&mut producer, &mut fast).await;

    let mut received = 0;
    let silence = loop {
        match slow.next(SOON).await {
            Ok(event) => {
                assert_eq!(number(&event), received, "without a hole, to the end");
                received += 1;
            }
            Err(silence) => break silence,
        }
    };
    assert_eq!(silence, Silence::Ended);
    assert!(received < COUNT, "it was not slow");
    bridge
        .wait_metric(r#"sse_bridge_connections_closed_total{reason="slow"}"#, 1.0)
        .await;

    let mut back = slow.reconnect().await;
    let gap = back.event().await;
    assert_eq!(
        (gap.name.as_str(), gap.json()["reason"].as_str()),
        ("bridge.gap", Some("expired"))
    );
    let kept: Vec<u64> = back.events(64).await.iter().map(number).collect();
    assert_eq!(kept, (COUNT - 64..COUNT).collect::<Vec<_>>());
    assert_eq!(catch_up(&mut producer, &mut back).await, []);
    assert_eq!(fast.before("\"end\"").await, [], "the fast one went on");
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_too_long_is_let_go_and_no_other() {
    let bridge = Bridge::dev()
        .set("SSE_STALL_SECONDS", 1)
        .set("SSE_HEARTBEAT_SECONDS", 1)
        .start()
        .await;
    let mut stalled = Client::connect(&bridge, "team_id=7").await;
    let mut idle = Client::connect(&bridge, "team_id=8").await;
    let mut fast = Client::connect(&bridge, "team_id=7").await;
    let mut producer = bridge.producer().await;
    publish_all(&mut producer, &mut fast).await;
    bridge
        .wait_metric(
            r#"sse_bridge_connections_closed_total{reason="stalled"}"#,
            1.0,
        )
        .await;
    bridge
        .wait_metric(r#"sse_bridge_connections{transport="sse"}"#, 2.0)
        .await;
    // What the kernel had taken it may still read; then its connection is broken, not ended.
    let (_, silence) = stalled.until_end(SOON).await;
    assert_eq!(silence, Silence::Broken);
    producer
        .publish(&json!({"topic": "broadcast.end", "data": "end"}))
        .await;
    assert_eq!(fast.data(1).await, ["\"end\""]);
    assert_eq!(idle.data(1).await, ["\"end\""]);
}
