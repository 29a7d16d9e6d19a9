//! The broker goes away, in every way it can, and comes back: nothing that was confirmed is lost, nothing comes twice,
//! clients keep their streams, and the bridge neither dies nor spins.

mod history;
mod checker;
mod events;
mod publishers;
mod browser;
mod replica;
mod world;
mod fault;
mod runs;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::{
    Bridge, Client, Message, Persistent, Proxy, RabbitMq, SOON, eventually, within,
};

#[tokio::test(flavor = "multi_thread")]
async fn ten_crashes_of_the_broker_under_traffic_lose_nothing_repeat_nothing_and_restart_nothing() {
    const CRASHES: usize = 10;
    let mut broker = RabbitMq::private().await;
    let vhost = broker.vhost();
    let mut bridge = Bridge::on(&vhost)
        .set("SSE_CHANNEL_CAPACITY", 100_000)
        .start()
        .await;
    let pid = bridge.pid();
    let mut client = Client::connect(&bridge, "team_id=7").await;
    // RabbitMQ 3.10 knows of its first stream only in memory for a moment, and forgets it for good when it is killed in
    // that moment (ra's registry is a DETS table, saved late). Ending in order writes it.
    broker.stop().await;
    broker.start().await;
    bridge
        .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
        .await;

    // A producer that never stops, and counts what the broker confirmed.
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let mut producer = Persistent::to(&vhost);
    let producing = tokio::spawn(async move {
        let mut confirmed = 0;
        while stopped.try_recv().is_err() {
            let batch: Vec<_> = (confirmed..confirmed + 10)
                .map(|n| Message::to("team.7.n", n.to_string()).id(&format!("message-{n}")))
                .collect();
            producer.publish_all(&batch).await;
            confirmed += batch.len();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        confirmed
    });
    // A client that reads all the while, and never has to return.
    let (more, mut wanted) = tokio::sync::watch::channel(usize::MAX);
    let received = Arc::new(Mutex::new(Vec::<usize>::new()));
    let numbers = Arc::clone(&received);
    let reading = tokio::spawn(async move {
        while numbers.lock().unwrap().len() < *wanted.borrow_and_update() {
            match client.next(Duration::from_millis(200)).await {
                Ok(event) => {
                    let number = event.data.parse().unwrap_or_else(|_| panic!("{event:?}"));
                    numbers.lock().unwrap().push(number);
                }
                Err(crate::harness::Silence::Nothing) => {}
                Err(silence) => panic!("{silence:?}"),
            }
        }
    });

    for crash in 0..CRASHES {
        let consumed = bridge.metric("sse_bridge_events_consumed_total").await;
        bridge
            .wait_metric("sse_bridge_events_consumed_total", |count| {
                count > consumed + 50.0
            })
            .await;
        broker.kill();
        bridge
            .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
            .await;
        let (began, used) = (Instant::now(), bridge.cpu_time());
        broker.start().await;
        let (lasted, used) = (began.elapsed(), bridge.cpu_time() - used);
        assert!(
            used < lasted / 5,
            "crash {crash}: {used:?} of processor time in {lasted:?} without a broker"
        );
        bridge
            .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
            .await;
    }
    stop.send(()).expect("the producer is running");
    let confirmed = within("the producer ends", SOON, producing)
        .await
        .expect("the producer does not panic");
    // What another consumer finds in the stream, each message where it stands first: tells a message that the bridge lost
    // from one that the broker confirmed and does not hold.
    let last = (confirmed - 1).to_string();
    let mut known = BTreeSet::new();
    let mut stored: Vec<usize> = Vec::new();
    for body in vhost.stream_up_to("events.sse", &last).await {
        let number = body.parse().expect("a number");
        if known.insert(number) {
            stored.push(number);
        }
    }
    more.send(stored.len()).expect("the client is running");
    within("all that the stream holds arrives", SOON, reading)
        .await
        .expect("the client does not panic");
    let numbers = received.lock().unwrap().clone();
    assert!(
        numbers == stored,
        "each that the stream holds, in order, once: missing {:?}",
        known
            .difference(&numbers.iter().copied().collect())
            .collect::<Vec<_>>()
    );
    let lost: Vec<usize> = (0..confirmed).filter(|n| !known.contains(n)).collect();
    assert!(
        lost.is_empty(),
        "RabbitMQ confirmed these of {confirmed} and does not hold them: {lost:?}"
    );
    assert_eq!(numbers, (0..confirmed).collect::<Vec<_>>(), "in order");
    assert!(bridge.is_running());
    assert_eq!(bridge.pid(), pid);
    assert!(bridge.metric("sse_bridge_broker_reconnects_total").await >= CRASHES as f64);
}

#[tokio::test]
async fn clients_are_let_in_and_kept_while_the_broker_is_away_and_served_when_it_returns() {
    let mut broker = RabbitMq::private().await;
    let vhost = broker.vhost();
    let bridge = Bridge::on(&vhost)
        .set("SSE_HEARTBEAT_SECONDS", 1)
        .start()
        .await;
    let mut before = Client::connect(&bridge, "team_id=7").await;
    broker.stop().await;
    bridge
        .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
        .await;
    let mut during = Client::connect(&bridge, "team_id=7").await;
    for client in [&mut before, &mut during] {
        // The first items may be old; two more heartbeats are not.
        for _ in 0..4 {
            client.next_item(SOON).await.expect("a heartbeat");
        }
    }
    assert_eq!(
        bridge.get("/readyz").await.expect("an answer").head.status,
        200,
        "it has been ready, and stays so"
    );
    broker.start().await;
    bridge
        .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
        .await;
    vhost
        .producer()
        .await
        .publish(Message::to("team.7.x", "1"))
        .await;
    assert_eq!(before.data(1).await, ["1"]);
    assert_eq!(during.data(1).await, ["1"]);
}

#[tokio::test]
async fn a_bridge_that_starts_before_its_broker_waits_for_it() {
    let mut broker = RabbitMq::private().await;
    let vhost = broker.vhost();
    broker.stop().await;
    let mut bridge = Bridge::on(&vhost).start_unready().await;
    assert_eq!(
        bridge.get("/healthz").await.expect("an answer").head.status,
        200
    );
    assert_eq!(
        bridge.get("/readyz").await.expect("an answer").head.status,
        503
    );
    let mut client = Client::connect_with(bridge.public, "team_id=7", &[]).await;
    broker.start().await;
    bridge.wait_ready().await;
    client = client.subscribed().await;
    vhost
        .producer()
        .await
        .publish(Message::to("team.7.x", "1"))
        .await;
    assert_eq!(client.data(1).await, ["1"]);
    assert!(bridge.is_running());
}

#[tokio::test]
async fn a_link_that_is_cut_is_made_again_and_what_came_meanwhile_is_delivered() {
    let broker = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = broker.vhost();
        let proxy = Proxy::to(broker.port()).await;
        let setup = Bridge::at(&vhost.url_at(proxy.port())).set("RABBITMQ_EVENTS_QUEUE_TYPE", kind);
        let bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let producer = vhost.producer().await;
        for round in 0..3 {
            let begin = round * 10;
            producer
                .publish_all(
                    (begin..begin + 5)
                        .map(|n| Message::to("team.7.n", n.to_string()).id(&format!("{n}"))),
                )
                .await;
            proxy.cut();
            bridge
                .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
                .await;
            producer
                .publish_all(
                    (begin + 5..begin + 10)
                        .map(|n| Message::to("team.7.n", n.to_string()).id(&format!("{n}"))),
                )
                .await;
            proxy.restore();
            let expected: Vec<_> = (begin..begin + 10).map(|n| n.to_string()).collect();
            assert_eq!(client.data(10).await, expected, "{kind}, round {round}");
        }
        // What was taken and not settled comes again, and is told apart by its id; so everything ends settled.
        bridge
            .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
            .await;
    }
}

#[tokio::test]
async fn a_link_that_falls_silent_is_noticed_by_its_heartbeat() {
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost();
    let proxy = Proxy::to(broker.port()).await;
    let bridge = Bridge::at(&vhost.url_at(proxy.port()))
        .set("RABBITMQ_HEARTBEAT_SECONDS", 1)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    proxy.silence();
    let began = Instant::now();
    bridge
        .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
        .await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "noticed after {:?}",
        began.elapsed()
    );
    vhost
        .producer()
        .await
        .publish(Message::to("team.7.x", "1"))
        .await;
    proxy.restore();
    assert_eq!(client.data(1).await, ["1"]);
}

#[tokio::test]
async fn a_silent_broker_at_the_start_is_tried_again() {
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost();
    let proxy = Proxy::to(broker.port()).await;
    proxy.silence();
    let bridge = Bridge::at(&vhost.url_at(proxy.port()))
        .set("RABBITMQ_HEARTBEAT_SECONDS", 1)
        .start_unready()
        .await;
    let line = eventually("the attempt is given up and reported", SOON, async || {
        bridge
            .output()
            .lines()
            .find(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\""))
            .map(str::to_owned)
    })
    .await;
    assert!(!line.contains("word-that-nobody-prints"), "{line}");
    proxy.restore();
    bridge.wait_ready().await;
}

#[tokio::test]
async fn a_poison_message_that_cannot_be_dead_lettered_yet_is_not_lost_and_holds_up_nothing_for_good()
 {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "").await;
    vhost.delete_queue("events.sse.dlq").await;
    let producer = vhost.producer().await;
    producer
        .publish_all([
            Message::to("team.7.x", "poison"),
            Message::to("team.7.x", "1"),
        ])
        .await;
    assert_eq!(client.data(1).await, ["1"]);
    let letters = vhost.take_once_declared("events.sse.dlq").await;
    assert_eq!(letters.body, "poison");
    bridge
        .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_stops_producers_and_not_delivery() {
    const COUNT: usize = 5_000;
    let broker = RabbitMq::private().await;
    let vhost = broker.vhost();
    let bridge = Bridge::on(&vhost)
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum")
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", "a-token-of-thirty-two-characters")
        .set("SSE_CHANNEL_CAPACITY", 2 * COUNT)
        // It is stopped for a while, which must not cost it its link.
        .set("RABBITMQ_HEARTBEAT_SECONDS", 300)
        .start()
        .await;
    let headers = [("Authorization", "Bearer a-token-of-thirty-two-characters")];
    let mut client = Client::connect_with(bridge.public, "team_id=7", &headers)
        .await
        .subscribed()
        .await;
    // Its publishing connection is one that the alarm will block.
    let body = r#"{"topic":"team.7.x","data":0}"#;
    assert_eq!(
        bridge
            .post("/publish", &headers, body)
            .await
            .expect("an answer")
            .head
            .status,
        202
    );
    assert_eq!(client.data(1).await, ["0"]);

    bridge.signal(Signal::STOP);
    vhost
        .producer()
        .await
        .publish_all((0..COUNT).map(|n| Message::to("team.7.n", n.to_string())))
        .await;
    broker
        .control(&["set_vm_memory_high_watermark", "absolute", "1MB"])
        .await;
    bridge.signal(Signal::CONT);
    // Many times the prefetch: without acks it would stand still.
    let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    assert_eq!(client.data(COUNT).await, expected);
    let blocked = bridge
        .post("/publish", &headers, body)
        .await
        .expect("an answer, and not for ever none");
    assert_eq!(blocked.head.status, 503, "{}", blocked.body);

    broker
        .control(&["set_vm_memory_high_watermark", "0.4"])
        .await;
    eventually("the bridge publishes again", SOON, async || {
        (bridge
            .post("/publish", &headers, body)
            .await
            .expect("an answer")
            .head
            .status
            == 202)
            .then_some(())
    })
    .await;
    assert_eq!(
        bridge.metric("sse_bridge_broker_reconnects_total").await,
        0.0,
        "the consumer's link was never lost"
    );
}
