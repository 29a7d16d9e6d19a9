//! Every queue type and both scopes carry events; what each can and cannot do is told, not discovered.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::harness::{Bridge, Client, Message, Proxy, RabbitMq, SOON, Silence, eventually};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_many_times_repeats_nothing_and_dead_letters_nothing_twice_without_any_message_id()
 {
    const CUTS: usize = 25;
    const POISON_EVERY: usize = 40;
    let shared = RabbitMq::shared().await;
    for kind in ["quorum", "classic"] {
        let vhost = shared.vhost();
        let proxy = Proxy::to(shared.port()).await;
        let bridge = Bridge::at(&vhost.url_at(proxy.port()))
            .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
            .set("SSE_CHANNEL_CAPACITY", 1_000_000)
            .start()
            .await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        // One that publishes all the while, each number once, and poison among them.
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let producer = vhost.producer().await;
        let producing = tokio::spawn(async move {
            let mut published = 0;
            while stopped.try_recv().is_err() {
                let batch = published..published + 20;
                published = batch.end;
                producer
                    .publish_all(batch.map(|n| {
                        let prefix = if n % POISON_EVERY == 0 { "poison " } else { "" };
                        Message::to("team.7.n", format!("{prefix}{n}"))
                    }))
                    .await;
            }
            published
        });
        for _ in 0..CUTS {
            let consumed = bridge.metric("sse_bridge_events_consumed_total").await;
            bridge
                .wait_metric("sse_bridge_events_consumed_total", |count| {
                    count > consumed + 100.0
                })
                .await;
            proxy.restore();
            bridge
                .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
                .await;
            bridge
                .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
                .await;
        }
        stop.send(()).expect("the producer is running");
        let published = producing.await.expect("the producer does not panic");
        let expected: Vec<_> = (0..published)
            .filter(|n| n % POISON_EVERY != 0)
            .map(|n| n.to_string())
            .collect();
        let received = client.data(expected.len()).await;
        let first = (0..expected.len()).find(|index| received[*index] != expected[*index]);
        if let Some(index) = first {
            let around = index.saturating_sub(3)..(index + 5).min(expected.len());
            panic!(
                "{kind}: at {index} of {published}: {:?} instead of {:?}",
                &received[around.clone()],
                &expected[around]
            );
        }
        bridge
            .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
            .await;
        assert_eq!(
            client.next(std::time::Duration::ZERO).await,
            Err(Silence::Nothing),
            "{kind}"
        );
        let poison = published.div_ceil(POISON_EVERY);
        let mut letters: Vec<_> = vhost
            .take("events.sse.dlq", poison)
            .await
            .into_iter()
            .map(|letter| letter.body)
            .collect();
        letters.sort();
        letters.dedup();
        assert_eq!(letters.len(), poison, "{kind}: each");
        let left = vhost.queue("events.sse.dlq").await;
        assert_eq!(left, Some((0, 0)), "{kind}: none twice");
        assert_eq!(vhost.queue("events.sse").await, Some((0, 1)), "{kind}");
    }
}

#[tokio::test]
async fn equal_messages_stay_as_many_as_they_were_when_a_link_is_cut() {
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let proxy = Proxy::to(shared.port()).await;
    let bridge = Bridge::at(&vhost.url_at(proxy.port()))
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    for _ in 0..5 {
        producer
            .publish_all((0..20).map(|_| Message::to("team.7.n", "\"tick\"")))
            .await;
        proxy.restore();
        bridge
            .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
            .await;
        producer
            .publish_all((0..20).map(|_| Message::to("team.7.n", "\"tick\"")))
            .await;
        assert_eq!(client.data(40).await, vec!["\"tick\""; 40]);
        bridge
            .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
            .await;
        assert_eq!(
            client.next(std::time::Duration::ZERO).await,
            Err(Silence::Nothing)
        );
    }
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
