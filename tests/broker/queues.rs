//! Every queue type and both scopes carry events; what each can and cannot do is told, not discovered.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::harness::{Bridge, Client, Message, RabbitMq, SOON, Silence, eventually};

#[tokio::test]
async fn every_queue_type_delivers_in_both_scopes() {
    let shared = RabbitMq::shared().await;
    let cases = [
        ("stream", "shared"),
        ("quorum", "shared"),
        ("quorum", "replica"),
        ("classic", "shared"),
        ("classic", "replica"),
    ];
    for (kind, scope) in cases {
        let vhost = shared.vhost();
        let bridge = Bridge::on(&vhost)
            .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
            .set("RABBITMQ_EVENTS_QUEUE_SCOPE", scope)
            .set("REPLICA_NAME", "replica-1")
            .start()
            .await;
        let queue = if scope == "replica" {
            "events.sse.replica-1"
        } else {
            "events.sse"
        };
        assert!(
            vhost.queue(queue).await.is_some(),
            "{kind}, {scope}: {queue} is there"
        );
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let producer = vhost.producer().await;
        producer
            .publish_all((0..100).map(|n| Message::to("team.7.n", n.to_string())))
            .await;
        let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(client.data(100).await, expected, "{kind}, {scope}");
        bridge
            .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
            .await;
    }
}

#[tokio::test]
async fn replicas_with_queues_of_their_own_each_deliver_everything() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost)
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum")
        .set("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica");
    let first = setup.clone().set("REPLICA_NAME", "first").start().await;
    let second = setup.set("REPLICA_NAME", "second").start().await;
    let mut clients = [
        Client::connect(&first, "team_id=7").await,
        Client::connect(&second, "team_id=7").await,
    ];
    let producer = vhost.producer().await;
    producer
        .publish_all((0..100).map(|n| Message::to("team.7.n", n.to_string())))
        .await;
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    for client in &mut clients {
        assert_eq!(client.data(100).await, expected);
    }
}

#[tokio::test]
async fn what_was_published_while_no_bridge_ran_waits_in_a_work_queue_and_is_settled_once() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum");
    setup.start().await.kill();
    let producer = vhost.producer().await;
    producer
        .publish_all((0..10).map(|n| Message::to("team.7.n", n.to_string())))
        .await;
    assert_eq!(
        vhost
            .queue("events.sse")
            .await
            .map(|(messages, _)| messages),
        Some(10)
    );

    let mut bridge = setup.start().await;
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| count == 10.0)
        .await;
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_exit(SOON).await.code(), Some(0));
    assert_eq!(
        vhost
            .queue("events.sse")
            .await
            .map(|(messages, _)| messages),
        Some(0)
    );
}

#[tokio::test]
async fn a_second_consumer_on_a_shared_work_queue_is_reported() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", "classic");
    let _first = setup.clone().set("REPLICA_NAME", "first").start().await;
    let second = setup.set("REPLICA_NAME", "second").start_unready().await;
    eventually("the second consumer is reported", SOON, async || {
        let output = second.output();
        output
            .lines()
            .any(|line| line.contains("\"ERROR\"") && line.contains("\"consumers\":2"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_expired_message_is_not_delivered() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let minute_old = |body: &str| Message::to("team.7.n", body).timestamp(now - 60);
    producer.publish(minute_old("1").expiration("5000")).await;
    producer
        .publish(minute_old("2").expiration("3600000"))
        .await;
    assert_eq!(client.data(1).await, ["2"]);
    bridge
        .wait_metric(
            "sse_bridge_events_dropped_total{reason=\"expired\"}",
            |count| count == 1.0,
        )
        .await;
    assert_eq!(
        client.next(std::time::Duration::ZERO).await,
        Err(Silence::Nothing)
    );
}
