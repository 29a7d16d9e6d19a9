//! A client that returns with its last event id finds what it missed, nothing else, and nothing twice.

use crate::harness::{Bridge, Client, Item, Message, RabbitMq, SOON, eventually};

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = Message> {
    range.map(|n| Message::to("team.7.n", n.to_string()))
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn a_returning_client_gets_exactly_what_it_missed() {
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = shared.vhost();
        let bridge = Bridge::on(&vhost)
            .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
            .start()
            .await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let mut witness = Client::connect(&bridge, "").await;
        let producer = vhost.producer().await;
        producer.publish_all(numbered(0..10)).await;
        assert_eq!(client.data(10).await, numbers(0..10), "{kind}");

        let mut away = client;
        for round in 0..3 {
            let begin = 10 + round * 20;
            producer.publish_all(numbered(begin..begin + 15)).await;
            producer
                .publish(Message::to("team.8.n", "\"not for team 7\""))
                .await;
            // All of it is in the bridge before the client returns, or it would be live and prove nothing.
            witness.before("\"not for team 7\"").await;
            // It returns to what it missed, and to news.
            away = away.reconnect().await;
            producer.publish_all(numbered(begin + 15..begin + 20)).await;
            assert_eq!(
                away.data(20).await,
                numbers(begin..begin + 20),
                "{kind}, round {round}"
            );
        }
        assert_eq!(
            bridge
                .metric("sse_bridge_resumes_total{outcome=\"memory\"}")
                .await,
            3.0,
            "{kind}"
        );
    }
}

#[tokio::test]
async fn an_id_that_was_never_given_out_is_answered_with_a_gap_and_the_stream_goes_on() {
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "classic"] {
        let vhost = shared.vhost();
        let bridge = Bridge::on(&vhost)
            .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
            .start()
            .await;
        let producer = vhost.producer().await;
        producer.publish_all(numbered(0..3)).await;
        bridge
            .wait_metric("sse_bridge_events_consumed_total", |count| count == 3.0)
            .await;
        let ids = [
            "999999-deadbeef",
            "1-00000001",
            "nonsense",
            "18446744073709551616-00000000",
            "5",
            "-",
            "%00",
        ];
        for id in ids {
            let mut client =
                Client::connect_with(bridge.public, "team_id=7", &[("Last-Event-ID", id)])
                    .await
                    .subscribed()
                    .await;
            let gap = client.event().await;
            assert_eq!(
                (gap.name.as_str(), gap.has_own_id),
                ("bridge.gap", false),
                "{kind}, {id:?}: {gap:?}"
            );
            assert_eq!(gap.json()["reason"], "unknown", "{kind}, {id:?}");
            let marker = format!("\"after {id}\"");
            producer
                .publish(Message::to("team.7.n", marker.as_str()))
                .await;
            let rest = client.before(&marker).await;
            assert!(
                rest.iter().all(|event| !event.is_control()),
                "one gap, not several: {rest:?}"
            );
        }
        let gaps = bridge
            .metric("sse_bridge_gaps_total{reason=\"unknown\"}")
            .await;
        assert_eq!(gaps, ids.len() as f64, "{kind}");
    }
}

#[tokio::test]
async fn a_work_queues_ids_mean_nothing_after_a_restart_and_the_client_is_told() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum");
    let bridge = setup.start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    producer.publish_all(numbered(0..3)).await;
    client.events(3).await;
    bridge.kill();
    // What it had not acknowledged yet comes again, and not to the client.
    let again = eventually("nobody consumes", SOON, async || {
        let (waiting, consumers) = vhost.queue("events.sse").await?;
        (consumers == 0).then_some(f64::from(waiting))
    })
    .await;
    let bridge = setup.start().await;
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| count == again)
        .await;
    let mut client = client.reconnect_to(bridge.public).await;
    assert_eq!(client.event().await.json()["reason"], "unknown");
    producer.publish_all(numbered(3..6)).await;
    assert_eq!(client.data(3).await, numbers(3..6));
}

#[tokio::test]
async fn a_streams_ids_are_good_on_any_replica_and_after_a_restart() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost);
    let first = setup.clone().set("REPLICA_NAME", "first").start().await;
    let second = setup.clone().set("REPLICA_NAME", "second").start().await;
    let producer = vhost.producer().await;
    let mut client = Client::connect(&first, "team_id=7").await;
    producer.publish_all(numbered(0..10)).await;
    assert_eq!(client.data(10).await, numbers(0..10));
    first.kill();
    producer.publish_all(numbered(10..20)).await;
    let mut client = client.reconnect_to(second.public).await;
    assert_eq!(
        client.data(10).await,
        numbers(10..20),
        "on the other replica"
    );
    second.kill();
    producer.publish_all(numbered(20..30)).await;
    let third = setup.start().await;
    let mut client = client.reconnect_to(third.public).await;
    assert_eq!(client.data(10).await, numbers(20..30), "after a restart");
}

#[tokio::test]
async fn an_id_of_a_stream_that_was_deleted_is_recognised() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost);
    let bridge = setup.start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    producer.publish_all(numbered(0..5)).await;
    client.events(5).await;
    bridge.kill();
    vhost.delete_queue("events.sse").await;
    let bridge = setup.start().await;
    // As many records under the same positions, and others.
    producer.publish_all(numbered(100..110)).await;
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| count == 10.0)
        .await;
    let mut client = client.reconnect_to(bridge.public).await;
    let gap = client.event().await;
    assert_eq!(
        (gap.name.as_str(), gap.json()["reason"].as_str()),
        ("bridge.gap", Some("unknown")),
        "{gap:?}"
    );
}

#[tokio::test]
async fn a_quiet_client_is_moved_forward_by_checkpoints() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("SSE_HEARTBEAT_SECONDS", 1)
        .start()
        .await;
    let mut quiet = Client::connect(&bridge, "team_id=7").await;
    let mut busy = Client::connect(&bridge, "team_id=8").await;
    let producer = vhost.producer().await;
    producer
        .publish_all((0..50).map(|n| Message::to("team.8.n", n.to_string())))
        .await;
    let newest = busy.events(50).await.pop().expect("fifty events").id;
    loop {
        match quiet.next_item(crate::harness::SOON).await {
            Ok(Item::Checkpoint(id)) if id == newest => break,
            Ok(Item::Event(event)) => panic!("not for team 7: {event:?}"),
            Ok(_) => {}
            Err(silence) => panic!("no checkpoint at {newest}, but {silence:?}"),
        }
    }
    producer.publish(Message::to("team.7.n", "1")).await;
    assert_eq!(quiet.reconnect().await.data(1).await, ["1"]);
}
