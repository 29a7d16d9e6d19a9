//! How it ends: clients are told, and it does not take longer than it may.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Bridge, Client, Item, Raw, SOON, Silence, event};

/// A client that reads nothing, with more waiting for it than the kernel takes.
async fn clogged(bridge: &Bridge) -> Client {
    let client = Client::connect(bridge, "team_id=7").await;
    let mut producer = bridge.producer().await;
    let padding = "x".repeat(20_000);
    for _ in 0..60 {
        producer
            .publish(&json!({"topic": "team.7.n", "data": padding}))
            .await;
    }
    client
}

#[tokio::test]
async fn asked_to_end_it_says_goodbye_to_every_client_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut bridge = Bridge::dev().set("SSE_RETRY_MS", 1000).start().await;
        let mut clients = Vec::new();
        for query in ["", "team_id=7", "team_id=8&heartbeat=event"] {
            clients.push(Client::connect(&bridge, query).await);
        }
        // Neither a connection on which nothing happens nor one that has published holds it up.
        let _silent = Raw::connect(bridge.public).await;
        let mut producer = bridge.producer().await;
        producer.publish(&event("team.7.n", 1)).await;
        clients[0].events(1).await;
        clients[1].events(1).await;
        bridge.signal(signal);
        for client in &mut clients {
            let (items, silence) = client.until_end(SOON).await;
            assert_eq!(silence, Silence::Ended, "{items:?}");
            let [.., Item::Retry(delay), Item::Event(bye)] = &items[..] else {
                panic!("no farewell: {items:?}");
            };
            assert!((500..=4000).contains(delay), "{delay}");
            assert_eq!(
                (bye.name.as_str(), bye.data.as_str(), bye.has_own_id),
                ("bridge.bye", r#"{"reason":"drain"}"#, false)
            );
        }
        // Far less than DRAIN_SECONDS.
        assert_eq!(bridge.wait_exit(Duration::from_secs(8)).await, Some(0));
        assert!(bridge.output().contains("draining"), "{}", bridge.output());
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_when_the_drain_is_over() {
    let mut bridge = Bridge::dev().set("DRAIN_SECONDS", 1).start().await;
    let mut stuck = clogged(&bridge).await;
    let mut reading = Client::connect(&bridge, "team_id=8").await;
    bridge.signal(Signal::TERM);
    assert_eq!(reading.event().await.name, "bridge.bye");
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
    assert!(
        bridge.output().contains("not every client"),
        "{}",
        bridge.output()
    );
    let (_, silence) = stuck.until_end(SOON).await;
    assert_eq!(silence, Silence::Broken);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut bridge = Bridge::dev().set("DRAIN_SECONDS", 600).start().await;
    let _stuck = clogged(&bridge).await;
    bridge.signal(Signal::TERM);
    bridge.log_line("draining").await;
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_exit(SOON).await, Some(1));
    assert!(bridge.output().contains("second signal"));
}

#[tokio::test]
async fn while_it_drains_no_new_client_is_let_in() {
    let mut bridge = Bridge::dev().set("DRAIN_SECONDS", 600).start().await;
    let stuck = clogged(&bridge).await;
    let mut told = Client::connect(&bridge, "team_id=8").await;
    bridge.signal(Signal::TERM);
    assert_eq!(told.event().await.name, "bridge.bye");
    // Refused by the kernel, or told goodbye at once: either sends it elsewhere.
    if let Ok(mut socket) = tokio::net::TcpStream::connect(bridge.public).await {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut answer = Vec::new();
        let exchange = async {
            socket.write_all(b"GET /events HTTP/1.0\r\n\r\n").await?;
            socket.read_to_end(&mut answer).await
        };
        let _ = crate::harness::within("the end of that connection", SOON, exchange).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.contains("bridge.bye"),
            "{answer}"
        );
    }
    drop(stuck);
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
}

#[tokio::test]
async fn clients_are_told_though_the_broker_was_never_there() {
    let mut bridge = Bridge::dev()
        .set("DRAIN_SECONDS", 4)
        .start_without_broker()
        .await;
    // It has no checkpoint to wait for.
    let mut client = Client::connect_with(bridge.public, "team_id=7", &[]).await;
    bridge.signal(Signal::TERM);
    let (items, silence) = client.until_end(SOON).await;
    assert_eq!(silence, Silence::Ended, "{items:?}");
    let Some(Item::Event(bye)) = items.last() else {
        panic!("no farewell: {items:?}");
    };
    assert_eq!(bye.name, "bridge.bye");
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
}

#[tokio::test]
async fn a_request_whose_body_does_not_come_holds_nothing_up_for_longer_than_the_drain() {
    let mut bridge = Bridge::dev().set("DRAIN_SECONDS", 1).start().await;
    let mut unfinished = Raw::connect(bridge.public).await;
    unfinished
        .send(b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{")
        .await;
    // It is seen to be served once another one behind it is.
    bridge.publish(&event("team.7.n", 1)).await;
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_exit(Duration::from_secs(8)).await, Some(0));
}
