//! A slow client delays nobody, costs bounded memory, and is told exactly what it missed.

use std::fs;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    Bridge, Client, EventStream, Item, Message, RabbitMq, SOON, Silence, command, eventually,
};

const MEBIBYTE: u64 = 1024 * 1024;

fn padded(number: usize) -> Message {
    Message::to(
        "team.7.n",
        format!(r#"{{"n":{number},"padding":"{}"}}"#, "x".repeat(180)),
    )
}

/// A client that another process is: curl, writing what it gets to a file.
struct Curl {
    process: Child,
    file: std::path::PathBuf,
}

impl Curl {
    fn start(bridge: &Bridge, query: &str) -> Self {
        let mut curl = command("curl");
        let file = curl
            .get_current_dir()
            .expect("a folder of its own")
            .join("events");
        let process = curl
            .args(["--silent", "--no-buffer", "--output"])
            .arg(&file)
            .arg(format!("http://{}/events?{query}", bridge.public))
            .stdout(Stdio::null())
            .spawn()
            .expect("curl starts");
        Self { process, file }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("curl is running");
    }

    fn items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        EventStream::default().read(&fs::read(&self.file).unwrap_or_default(), &mut |item| {
            items.push(item)
        });
        items
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_client_delays_nobody_and_learns_exactly_how_many_events_it_missed() {
    const COUNT: usize = 100_000;
    const BATCH: usize = 2_000;
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = Bridge::on(&vhost)
        .set("SSE_CHANNEL_CAPACITY", 2 * BATCH)
        .set("SSE_STALL_SECONDS", 600)
        .set("HISTORY_MAX_BYTES", "16MiB")
        .start()
        .await;
    let mut fast = Client::connect(&bridge, "team_id=7").await;
    let slow = Curl::start(&bridge, "team_id=7");
    eventually("curl is subscribed", SOON, async || {
        slow.items()
            .iter()
            .any(|item| matches!(item, Item::Checkpoint(_)))
            .then_some(())
    })
    .await;
    slow.signal(Signal::STOP);

    let producer = vhost.producer().await;
    let before = bridge.resident_bytes();
    let mut most = before;
    for begin in (0..COUNT).step_by(BATCH) {
        // A batch is less than the ring, and the next waits for the fast client: it can only fall behind if it is held up.
        let numbers = begin..begin + BATCH;
        let (events, ()) = tokio::join!(
            fast.events(BATCH),
            producer.publish_all(numbers.clone().map(padded))
        );
        for (event, number) in events.iter().zip(numbers) {
            assert!(
                event.data.starts_with(&format!("{{\"n\":{number},")),
                "number {number}: {event:?}"
            );
        }
        most = most.max(bridge.resident_bytes());
    }
    assert!(
        most - before < 96 * MEBIBYTE,
        "memory grew from {before} to {most} bytes"
    );

    slow.signal(Signal::CONT);
    producer.publish(Message::to("team.7.end", "\"end\"")).await;
    let items = eventually("the slow client catches up", SOON, async || {
        let items = slow.items();
        items
            .iter()
            .any(|item| matches!(item, Item::Event(event) if event.data == "\"end\""))
            .then_some(items)
    })
    .await;
    let (mut received, mut missed, mut newest) = (0, 0, None);
    for item in items {
        let Item::Event(event) = item else { continue };
        if event.name == "bridge.gap" {
            assert_eq!(event.json()["reason"], "slow");
            missed += event.json()["missed"]
                .as_u64()
                .expect("a number, as it is known");
        } else if event.data != "\"end\"" {
            let number = event.json()["n"].as_u64();
            assert!(
                number > newest,
                "in order, and none twice: {number:?} after {newest:?}"
            );
            newest = number;
            received += 1;
        }
    }
    assert!(
        missed > 0,
        "a client that stood still for {COUNT} events missed none of them"
    );
    assert_eq!(
        received + missed,
        COUNT as u64,
        "{received} received and {missed} missed"
    );
    assert!(bridge.is_running());
    let dropped = bridge
        .metric("sse_bridge_events_dropped_total{reason=\"slow\"}")
        .await;
    assert_eq!(dropped, missed as f64, "the counter says the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_stands_before_any_later_event_and_what_follows_is_whole() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("SSE_CHANNEL_CAPACITY", 16)
        .set("SSE_STALL_SECONDS", 600)
        .start()
        .await;
    // It reads nothing of this while it is published.
    let mut slow = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    let count = 20_000;
    producer.publish_all((0..count).map(padded)).await;
    let (mut expected, mut missed) = (0, 0);
    while expected + missed < count as u64 {
        let event = slow.event().await;
        if event.name == "bridge.gap" {
            missed += event.json()["missed"].as_u64().expect("a number");
        } else {
            assert_eq!(
                event.json()["n"],
                expected + missed,
                "a gap is told where it is"
            );
            expected += 1;
        }
    }
    assert!(
        missed > 0,
        "the buffers of the kernel took all of it: the test proves nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_disconnected_in_the_end() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("SSE_HEARTBEAT_SECONDS", 1)
        .set("SSE_STALL_SECONDS", 2)
        .start()
        .await;
    let stalled = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    producer.publish_all((0..20_000).map(padded)).await;
    bridge
        .wait_metric(
            "sse_bridge_connections_closed_total{reason=\"stalled\"}",
            |count| count == 1.0,
        )
        .await;
    bridge
        .wait_metric("sse_bridge_connections{transport=\"sse\"}", |count| {
            count == 0.0
        })
        .await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_set_to_disconnect_ends_a_slow_stream_and_the_client_returns_and_loses_nothing() {
    const COUNT: usize = 20_000;
    const KEPT: usize = 100;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("SSE_BACKPRESSURE", "disconnect")
        .set("SSE_CHANNEL_CAPACITY", KEPT)
        .set("SSE_STALL_SECONDS", 600)
        .start()
        .await;
    // It reads nothing of this while it is published.
    let mut slow = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    producer.publish_all((0..COUNT).map(padded)).await;
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| {
            count == COUNT as f64
        })
        .await;

    let mut received = 0;
    let end = loop {
        match slow.next(SOON).await {
            Ok(event) => {
                assert!(!event.is_control(), "after {received} events: {event:?}");
                assert_eq!(event.json()["n"], received);
                received += 1;
            }
            Err(silence) => break silence,
        }
    };
    assert_eq!(end, Silence::Ended, "after {received} events");
    assert!(
        received < COUNT - KEPT,
        "the buffers of the kernel took {received} events: the test proves nothing"
    );
    bridge
        .wait_metric(
            "sse_bridge_connections_closed_total{reason=\"slow\"}",
            |count| count == 1.0,
        )
        .await;

    assert_eq!(
        bridge
            .metric("sse_bridge_events_dropped_total{reason=\"slow\"}")
            .await,
        0.0,
        "it returns for them"
    );

    let mut returned = slow.reconnect().await;
    producer.publish(padded(COUNT)).await;
    let rest = returned.events(COUNT + 1 - received).await;
    for (event, number) in rest.iter().zip(received..) {
        assert_eq!(
            event.json()["n"],
            number,
            "all of it, and no gap: {event:?}"
        );
    }
    let resumes = bridge
        .metric("sse_bridge_resumes_total{outcome=\"stream\"}")
        .await;
    assert_eq!(resumes, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let clients = [
        Client::connect(&bridge, "team_id=7").await,
        Client::connect(&bridge, "user_id=1").await,
    ];
    bridge
        .wait_metric("sse_bridge_connections{transport=\"sse\"}", |count| {
            count == 2.0
        })
        .await;
    drop(clients);
    bridge
        .wait_metric("sse_bridge_connections{transport=\"sse\"}", |count| {
            count == 0.0
        })
        .await;
    let closed = bridge
        .metric("sse_bridge_connections_closed_total{reason=\"client\"}")
        .await;
    assert_eq!(closed, 2.0);
}
