//! What an event costs that nobody hears: RabbitMQ, and each replica that reads it. The floor under any number of replicas, as
//! each of them reads every event.

use std::time::Instant;

use super::{growth, ingest};
use crate::harness::{Bridge, RabbitMq};
use crate::plot::Curve;
use crate::publisher::{Amqp, Load, Pace, Turns};
use crate::server;
use crate::usage::{Cpu, resident_bytes};

const SECONDS: u32 = 5;

/// What so many events a second cost one replica, on a stream.
pub async fn ingest() {
    let mut measured = Vec::new();
    for rate in [100, 300, 1_000, 3_000, 10_000] {
        measured.push((f64::from(rate), measure("stream", 1, rate).await));
    }
    keep("growth-ingest", "events/s that nobody hears", &measured);
}

/// What so many replicas cost, each with a consumer of its own: of one stream, or of a queue for each replica.
pub async fn replicas(kind: &str) {
    let mut measured = Vec::new();
    for replicas in [1, 2, 4, 8] {
        measured.push((f64::from(replicas), measure(kind, replicas, 1_000).await));
    }
    let (name, varied) = match kind {
        "stream" => ("growth-replicas", "replicas, 1,000 events/s of one stream"),
        _ => (
            "growth-replica-queues",
            "replicas, 1,000 events/s, a queue for each",
        ),
    };
    keep(name, varied, &measured);
}

/// How fast so many replicas together read a stream that waits, and what a record then costs: where RabbitMQ is the limit.
pub async fn readers() {
    let head = [
        "replicas that read 100,000 waiting records of a stream",
        "records/s, of each",
        "of all",
        "RabbitMQ, us/record read",
        "a replica, us/record",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    let mut rates = Vec::new();
    for replicas in [1, 2, 4, 8] {
        let (_vhost, setup) = ingest::waiting("stream").await;
        let node = [RabbitMq::shared().await.pid()];
        let (before, began) = (Cpu::of(&node), Instant::now());
        let mut bridges = Vec::new();
        for _ in 0..replicas {
            bridges.push(setup.start_unready().await);
        }
        for bridge in &bridges {
            let all = |count| count >= ingest::EVENTS as f64;
            bridge
                .wait_metric("sse_bridge_events_consumed_total", all)
                .await;
        }
        let took = began.elapsed().as_secs_f64();
        let pids: Vec<u32> = bridges.iter().map(Bridge::pid).collect();
        let records = ingest::EVENTS as f64 * f64::from(replicas);
        let per_record = |cpu: Cpu| cpu.total.as_secs_f64() * 1e6 / records;
        rates.push((f64::from(replicas), records / took));
        lines.push([
            replicas.to_string(),
            format!("{:.0}", records / f64::from(replicas) / took),
            format!("{:.0}", records / took),
            format!("{:.1}", per_record(Cpu::of(&node).since(before))),
            format!("{:.1}", per_record(Cpu::of(&pids))),
        ]);
    }
    let curve = Curve {
        name: "records/s, of all",
        points: rates,
    };
    growth::keep("growth-readers", &lines, &[curve]);
}

/// What was found with so many replicas.
struct Cost {
    /// Microseconds of processor time for each event.
    broker: f64,
    /// The same, of one replica.
    replica: f64,
    /// By how many bytes RabbitMQ grew for each replica, before the first event.
    broker_memory: f64,
}

async fn measure(kind: &str, replicas: u32, per_second: u32) -> Cost {
    let node = RabbitMq::shared().await;
    let vhost = node.vhost();
    let mut publisher = Amqp::connect(&vhost, "events.topic", "team.0.n", 1).await;
    let before = resident_bytes(&[node.pid()]);
    let mut bridges = Vec::new();
    for number in 0..replicas {
        let mut setup = server::setup(&vhost)
            .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
            .set("REPLICA_NAME", number);
        if kind != "stream" {
            setup = setup.set("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica");
        }
        bridges.push(setup.start().await);
    }
    let grown = resident_bytes(&[node.pid()]).saturating_sub(before);
    let pids: Vec<u32> = bridges.iter().map(Bridge::pid).collect();
    let mut cost = Cost {
        broker: 0.0,
        replica: 0.0,
        broker_memory: grown as f64 / f64::from(replicas),
    };
    let mut published = 0;
    // The first round warms up.
    for seconds in [1, SECONDS] {
        let load = Load {
            events: u64::from(seconds * per_second),
            pace: Pace::PerSecond(per_second),
            bytes: 200,
        };
        let of_all = || (Cpu::of(&[node.pid()]), Cpu::of(&pids));
        let (broker, replica) = of_all();
        let (_tell, complete) = tokio::sync::watch::channel(0);
        publisher
            .publish(Turns::new(published, &load, complete), load.bytes)
            .await;
        published += load.events;
        for bridge in &bridges {
            bridge
                .wait_metric("sse_bridge_events_consumed_total", |count| {
                    count >= published as f64
                })
                .await;
        }
        let (broker_after, replica_after) = of_all();
        let per_event = |cpu: Cpu| cpu.total.as_secs_f64() * 1e6 / load.events as f64;
        cost.broker = per_event(broker_after.since(broker));
        cost.replica = per_event(replica_after.since(replica)) / f64::from(replicas);
    }
    cost
}

fn keep(name: &str, varied: &str, measured: &[(f64, Cost)]) {
    let head = [
        varied,
        "RabbitMQ, us/event",
        "a replica, us/event",
        "RabbitMQ, MiB/replica",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(measured.iter().map(|(value, cost)| {
        [
            value.to_string(),
            format!("{:.1}", cost.broker),
            format!("{:.1}", cost.replica),
            format!("{:.2}", cost.broker_memory / f64::from(1 << 20)),
        ]
    }));
    let curve = |name, of: fn(&Cost) -> f64| Curve {
        name,
        points: measured
            .iter()
            .map(|(value, cost)| (*value, of(cost)))
            .collect(),
    };
    let curves = [
        curve("RabbitMQ, us of CPU an event", |cost| cost.broker),
        curve("a replica, us of CPU an event", |cost| cost.replica),
    ];
    growth::keep(name, &lines, &curves);
}
