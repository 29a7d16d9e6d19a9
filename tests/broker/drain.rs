//! The bridge ends as Kubernetes wants it: it says goodbye, hands its clients over, and is gone in time.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::{Bridge, Client, Item, Message, RabbitMq, SOON, Silence, eventually};

#[tokio::test]
async fn a_drained_client_gets_a_retry_and_a_goodbye_and_the_bridge_ends_with_zero() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = Bridge::on(&vhost).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    vhost
        .producer()
        .await
        .publish(Message::to("team.7.x", "1"))
        .await;
    assert_eq!(client.data(1).await, ["1"]);
    bridge.signal(Signal::TERM);
    let (items, silence) = client.until_end(SOON).await;
    assert_eq!(
        silence,
        Silence::Ended,
        "the stream ends as HTTP wants it, after {items:?}"
    );
    assert!(
        items.iter().any(|item| matches!(item, Item::Retry(_))),
        "a retry in {items:?}"
    );
    let Some(Item::Event(bye)) = items.last() else {
        panic!("no goodbye at the end of {items:?}")
    };
    assert_eq!((bye.name.as_str(), bye.has_own_id), ("bridge.bye", false));
    assert_eq!(bye.json()["reason"], "drain");
    let status = bridge.wait_exit(SOON).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_first_moment_of_a_drain_to_its_end_the_bridge_is_not_ready() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = Bridge::on(&vhost)
        .set("DRAIN_SECONDS", 5)
        .set("SSE_STALL_SECONDS", 600)
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Client::connect(&bridge, "team_id=8").await);
    }
    // It keeps the drain from ending early.
    let stalled = Client::connect(&bridge, "team_id=7").await;
    fill(&vhost).await;
    bridge.signal(Signal::TERM);
    drain_has_begun(&bridge).await;
    for client in &mut clients {
        let (items, silence) = client.until_end(SOON).await;
        assert_eq!(silence, Silence::Ended, "{items:?}");
    }
    let mut answers = 0;
    while let Ok(response) = bridge.get_admin("/readyz").await {
        assert_eq!(response.head.status, 503);
        answers += 1;
        // On the public listener a probe is refused either way.
        if let Ok(response) = bridge.get("/readyz").await {
            assert_eq!(response.head.status, 503);
        }
    }
    assert!(answers > 0, "nobody could see the drain");
    assert_eq!(bridge.wait_exit(SOON).await.code(), Some(0));
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_though_a_client_does_not_read() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = Bridge::on(&vhost)
        .set("DRAIN_SECONDS", 2)
        .set("SSE_STALL_SECONDS", 600)
        .start()
        .await;
    let stalled = Client::connect(&bridge, "team_id=7").await;
    fill(&vhost).await;
    let began = Instant::now();
    bridge.signal(Signal::TERM);
    let status = bridge.wait_exit(SOON).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.output());
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "it took {:?}",
        began.elapsed()
    );
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_bridge_at_once() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = Bridge::on(&vhost)
        .set("DRAIN_SECONDS", 600)
        .set("SSE_STALL_SECONDS", 600)
        .start()
        .await;
    let stalled = Client::connect(&bridge, "team_id=7").await;
    fill(&vhost).await;
    bridge.signal(Signal::TERM);
    drain_has_begun(&bridge).await;
    bridge.signal(Signal::TERM);
    bridge.wait_exit(SOON).await;
    drop(stalled);
}

#[tokio::test]
async fn sigint_drains_too() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = Bridge::on(&vhost).start().await;
    bridge.signal(Signal::INT);
    assert_eq!(
        bridge.wait_exit(SOON).await.code(),
        Some(0),
        "{}",
        bridge.output()
    );
}

#[tokio::test]
async fn what_was_taken_before_the_end_is_settled_and_what_was_not_stays_in_the_queue() {
    const COUNT: usize = 2_000;
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost)
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum")
        .set("SSE_CHANNEL_CAPACITY", 2 * COUNT);
    let mut bridge = setup.start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    producer
        .publish_all((0..COUNT / 2).map(|n| Message::to("team.7.n", n.to_string())))
        .await;
    bridge.signal(Signal::TERM);
    producer
        .publish_all((COUNT / 2..COUNT).map(|n| Message::to("team.7.n", n.to_string())))
        .await;
    let (items, _) = client.until_end(SOON).await;
    assert_eq!(bridge.wait_exit(SOON).await.code(), Some(0));
    let mut all: Vec<usize> = items
        .into_iter()
        .filter_map(|item| match item {
            Item::Event(event) if !event.is_control() => {
                Some(event.data.parse().expect("a number"))
            }
            _ => None,
        })
        .collect();
    let received = all.len();
    // The broker counts a while after it has taken an acknowledgement. What it holds beside what was delivered would
    // be counted for ever.
    let left = eventually(
        "what was not delivered is in the queue, and nothing else",
        SOON,
        async || {
            let (left, _) = vhost.queue("events.sse").await?;
            Some(left as usize).filter(|left| received + left == COUNT)
        },
    )
    .await;
    let taken = vhost.take("events.sse", left).await;
    all.extend(
        taken
            .iter()
            .map(|message| message.body.parse::<usize>().expect("a number")),
    );
    // What was taken and given back may stand behind what was never taken.
    all.sort_unstable();
    assert!(
        all.into_iter().eq(0..COUNT),
        "each either delivered or left"
    );
}

/// Publishes more than the buffers of a client that does not read can hold.
async fn fill(vhost: &crate::harness::Vhost) {
    let body = format!("\"{}\"", "x".repeat(1_000));
    vhost
        .producer()
        .await
        .publish_all((0..10_000).map(|_| Message::to("team.7.n", body.as_str())))
        .await;
}

async fn drain_has_begun(bridge: &Bridge) {
    eventually("the drain has begun", SOON, async || {
        bridge.output().contains("draining").then_some(())
    })
    .await;
}
