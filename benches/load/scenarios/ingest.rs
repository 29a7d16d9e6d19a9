//! Events that nobody listens to: how fast the bridge takes what is waiting in a queue, against a bare consumer of the
//! same library, with the same kind of queue and the same prefetch, that looks at nothing.

use std::time::{Duration, Instant};

use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio_stream::StreamExt;

use crate::harness::{RabbitMq, Setup, Vhost};
use crate::publisher::{Amqp, Load, Pace, Turns};
use crate::server;
use crate::table::{Row, Target};

pub const EVENTS: u64 = 100_000;
const ROUNDS: usize = 5;
/// The bridge's default.
const PREFETCH: u16 = 512;

pub async fn ingest(kind: &str) -> Vec<Row> {
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let (bridge, bare) = (bridge_rate(kind).await, bare_rate(kind).await);
        println!("bridge {bridge:.0}/s, bare consumer {bare:.0}/s");
        rates[0].push(bridge);
        rates[1].push(bare);
    }
    let [bridge, bare] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    vec![Row {
        scenario: format!("ingest-{kind}"),
        figure: "events taken from the queue".to_owned(),
        measured: format!("{bridge:.0}/s"),
        against: format!("bare consumer {bare:.0}/s"),
        ratio: Some(bridge / bare),
        target: Some(Target::AtLeast(0.9)),
    }]
}

/// A virtual host with so many events waiting in the bridge's queue.
pub async fn waiting(kind: &str) -> (Vhost, Setup) {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = server::setup(&vhost)
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
        .set("RABBITMQ_PREFETCH_COUNT", PREFETCH);
    // It declares the queue, and ends.
    setup.start().await.kill();
    let load = Load {
        events: EVENTS,
        pace: Pace::Window(EVENTS),
        bytes: 200,
    };
    let (_tell, complete) = tokio::sync::watch::channel(0);
    let mut publisher = Amqp::connect(&vhost, "events.topic", "team.{n}.n", 1_000).await;
    publisher
        .publish(Turns::new(0, &load, complete), load.bytes)
        .await;
    (vhost, setup)
}

/// Events a second, from when the first was seen to be taken until the last was.
async fn bridge_rate(kind: &str) -> f64 {
    let (_vhost, setup) = waiting(kind).await;
    let bridge = setup.start_unready().await;
    let consumed = async || bridge.metric("sse_bridge_events_consumed_total").await;
    let poll = Duration::from_millis(20);
    let (mut began, mut first) = (Instant::now(), 0.0);
    loop {
        let count = consumed().await;
        if first == 0.0 {
            (began, first) = (Instant::now(), count);
        }
        if count >= EVENTS as f64 {
            return (count - first) / began.elapsed().as_secs_f64();
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "only {count} events were taken"
        );
        tokio::time::sleep(poll).await;
    }
}

async fn bare_rate(kind: &str) -> f64 {
    let (vhost, _setup) = waiting(kind).await;
    let connection = vhost.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .expect("a prefetch");
    let mut arguments = FieldTable::default();
    if kind == "stream" {
        arguments.insert(
            "x-stream-offset".into(),
            AMQPValue::LongString("first".into()),
        );
    }
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume("events.sse".into(), "".into(), options, arguments);
    let mut events = consuming.await.expect("the queue is there");
    let (mut began, mut count) = (Instant::now(), 0);
    while count < EVENTS {
        let event = events
            .next()
            .await
            .expect("the broker is there")
            .expect("an event");
        count += 1;
        if count == 1 {
            began = Instant::now();
        }
        if count % u64::from(PREFETCH / 2) == 0 || count == EVENTS {
            event
                .ack(BasicAckOptions { multiple: true })
                .await
                .expect("the broker is there");
        }
    }
    EVENTS as f64 / began.elapsed().as_secs_f64()
}
