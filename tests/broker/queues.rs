//! Every queue type and both scopes carry events; what each can and cannot do is told, not discovered.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::harness::{
    Bridge, Client, Direction, Message, Proxy, RabbitMq, SOON, Silence, eventually, within,
};

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
    eventually("nobody consumes", SOON, async || {
        (vhost.queue("events.sse").await == Some((0, 0))).then_some(())
    })
    .await;
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
    let check = setup.clone();
    let second = setup.set("REPLICA_NAME", "second").start_unready().await;
    eventually("the second consumer is reported", SOON, async || {
        let output = second.output();
        output
            .lines()
            .any(|line| line.contains("\"ERROR\"") && line.contains("\"consumers\":2"))
            .then_some(())
    })
    .await;
    second
        .wait_metric("sse_bridge_queue_consumers", |count| count == 2.0)
        .await;
    let check = check.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{}", check.output);
    assert!(check.output.contains("consumers"), "{}", check.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_quorum_queue_that_is_cut_many_times_repeats_nothing_without_any_message_id() {
    cut_many_times("quorum").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_classic_queue_that_is_cut_many_times_repeats_nothing_without_any_message_id() {
    cut_many_times("classic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_stream_that_is_cut_many_times_repeats_nothing_and_gets_the_duty_of_dead_lettering_back()
 {
    cut_many_times("stream").await;
}

/// Cuts the link under traffic: each good number arrives once, in order, and each poison one is dead-lettered once.
async fn cut_many_times(kind: &str) {
    const CUTS: usize = 15;
    const POISON_EVERY: usize = 40;
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let proxy = Proxy::to(shared.port()).await;
    let bridge = Bridge::at(&vhost.url_at(proxy.port()))
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
        .set("SSE_CHANNEL_CAPACITY", 100_000)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    // A client that reads all the while, up to the number it is told in the end.
    let (more, mut wanted) = tokio::sync::watch::channel(usize::MAX);
    let reading = tokio::spawn(async move {
        let mut received = Vec::new();
        while received.len() < *wanted.borrow_and_update() {
            match client.next(Duration::from_millis(200)).await {
                Ok(event) => received.push(event.data),
                Err(Silence::Nothing) => {}
                Err(silence) => panic!("{silence:?} after {} events", received.len()),
            }
        }
        (client, received)
    });
    // One that publishes all the while, at most 2,000 a second.
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
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        published
    });
    for cut in 1..=CUTS {
        // So many take more than a second, after which the bridge counts a link as a good one and is back at once.
        let consumed = bridge.metric("sse_bridge_events_consumed_total").await;
        bridge
            .wait_metric("sse_bridge_events_consumed_total", |count| {
                count > consumed + 2200.0
            })
            .await;
        proxy.restore();
        bridge
            .wait_metric("sse_bridge_broker_reconnects_total", |count| {
                count >= cut as f64
            })
            .await;
    }
    stop.send(()).expect("the producer is running");
    let published = producing.await.expect("the producer does not panic");
    let expected: Vec<_> = (0..published)
        .filter(|n| n % POISON_EVERY != 0)
        .map(|n| n.to_string())
        .collect();
    more.send(expected.len()).expect("the client is running");
    let (mut client, received) = within("all that is good arrives", SOON, reading)
        .await
        .expect("the client does not panic");
    if let Some(index) = (0..expected.len()).find(|index| received[*index] != expected[*index]) {
        let around = index.saturating_sub(3)..(index + 5).min(expected.len());
        panic!(
            "at {index} of {}: {:?} instead of {:?}",
            expected.len(),
            &received[around.clone()],
            &expected[around]
        );
    }
    bridge
        .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
        .await;
    assert_eq!(client.next(Duration::ZERO).await, Err(Silence::Nothing));
    let poison = published.div_ceil(POISON_EVERY);
    let (mut letters, mut bodies) = (0, HashSet::new());
    // What a replica passed while it did not have the duty yet is swept after all else is settled.
    eventually("each has its dead letter", SOON, async || {
        for letter in vhost.take_all("events.sse.dlq").await {
            letters += 1;
            bodies.insert(letter.body);
        }
        (bodies.len() == poison).then_some(())
    })
    .await;
    // The publisher's link is cut as well: of a dead letter that was on its way just then nobody knows whether the broker
    // has it, and it is written again. No other is.
    let tried_again = bridge.metric("sse_bridge_dead_letter_failures_total").await;
    assert!(
        f64::from(letters) <= poison as f64 + tried_again,
        "{letters} for {poison}, {tried_again} tried again"
    );
    if kind != "stream" {
        assert_eq!(vhost.queue("events.sse").await, Some((0, 1)));
    }
}

#[tokio::test]
async fn twenty_five_flaps_of_the_link_take_no_message_from_a_quorum_queue() {
    const FLAPS: usize = 25;
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let setup = |url: &str| Bridge::at(url).set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum");
    drop(setup(&vhost.url()).start().await);
    let proxy = Proxy::to(shared.port()).await;
    let bridge = setup(&vhost.url_at(proxy.port()))
        .set("RABBITMQ_DECLARE", "false")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    // What holds the acknowledgements back: poison that cannot be dead-lettered.
    vhost.delete_exchange("events.dlx").await;
    let messages = (0..100).map(|n| match n {
        0 => Message::to("team.7.n", "poison"),
        n => Message::to("team.7.n", n.to_string()),
    });
    vhost.producer().await.publish_all(messages).await;
    for flap in 1..=FLAPS {
        // All of it is delivered again and again, as nothing behind the poison is acknowledged: RabbitMQ counts that,
        // and takes away what is over the limit.
        bridge
            .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 100.0)
            .await;
        // A link that lived for a second counts as a good one, and the next is made at once.
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.restore();
        bridge
            .wait_metric("sse_bridge_broker_reconnects_total", |count| {
                count >= flap as f64
            })
            .await;
    }
    // Somebody mends it.
    setup(&vhost.url())
        .set("RABBITMQ_EVENTS_QUEUE", "events.other")
        .start()
        .await
        .kill();
    bridge
        .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
        .await;
    let expected: Vec<_> = (1..100).map(|n| n.to_string()).collect();
    assert_eq!(client.data(99).await, expected);
    assert_eq!(client.next(Duration::ZERO).await, Err(Silence::Nothing));
    assert_eq!(vhost.take("events.sse.dlq", 1).await[0].body, "poison");
    // RabbitMQ may still count the consumer that took it.
    let (letters, _) = vhost.queue("events.sse.dlq").await.unwrap();
    assert_eq!(letters, 0);
    assert_eq!(vhost.queue("events.sse").await, Some((0, 1)));
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
        assert_eq!(client.next(Duration::ZERO).await, Err(Silence::Nothing));
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
    assert_eq!(client.next(Duration::ZERO).await, Err(Silence::Nothing));
}

/// Waits until the bridge has said this.
async fn says(bridge: &Bridge, what: &str) {
    eventually(what, SOON, async || {
        bridge.output().contains(what).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_lost_link_had_does_not_excuse_an_equal_message_that_is_redelivered_much_later() {
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let proxy = Proxy::to(shared.port()).await;
    let bridge = Bridge::at(&vhost.url_at(proxy.port()))
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum")
        .set("RABBITMQ_HEARTBEAT_SECONDS", 5)
        .set("RUST_LOG", "info,sse_bridge::amqp::consumer=debug")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    let tick = || Message::to("team.7.n", "\"tick\"");
    // The broker has no acknowledgement of it, and never delivers it again.
    proxy.silence_one(Direction::Outward);
    producer.publish(tick()).await;
    assert_eq!(client.data(1).await, ["\"tick\""]);
    vhost.delete_queue("events.sse").await;
    proxy.restore();
    says(&bridge, "what the links before had is forgotten").await;
    // It is on its way when the link breaks.
    proxy.silence_one(Direction::Inward);
    producer.publish(tick()).await;
    eventually("it is delivered", SOON, async || {
        let (waiting, _) = vhost.queue("events.sse").await?;
        (waiting == 0).then_some(())
    })
    .await;
    proxy.restore();
    assert_eq!(client.data(1).await, ["\"tick\""]);
}

#[tokio::test]
async fn a_look_for_the_newest_record_that_gets_no_answer_holds_up_no_delivery() {
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let proxy = Proxy::to(shared.port()).await;
    let bridge = Bridge::at(&vhost.url_at(proxy.port()))
        .set("RABBITMQ_HEARTBEAT_SECONDS", 60)
        .set("RUST_LOG", "info,sse_bridge::amqp::consumer=debug")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    producer.publish(Message::to("team.7.n", "1")).await;
    assert_eq!(client.data(1).await, ["1"]);
    proxy.silence_one(Direction::Outward);
    says(&bridge, "looking for the newest record").await;
    producer.publish(Message::to("team.7.n", "2")).await;
    // Long before the look is given up.
    let event = client.next(Duration::from_secs(5)).await;
    assert_eq!(event.map(|event| event.data), Ok("2".to_owned()));
    proxy.restore();
}
