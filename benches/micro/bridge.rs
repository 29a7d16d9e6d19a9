//! Messages from the broker's hand to the hub's: all that a delivery costs beside AMQP itself, with no client there.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use sse_bridge::bridge::{Bridge, Rules};
use sse_bridge::event::id::{Marking, Position};
use sse_bridge::event::payload::{PayloadFormat, PayloadRules};
use sse_bridge::event::{HeaderValue, Intake, Message};
use sse_bridge::hub::{Numbering, hub};
use sse_bridge::metrics::Metrics;
use sse_bridge::traces::{Sampler, TraceConfig, Tracer};

use crate::fan_out::config;
use crate::message::{USUAL, address_rules, json, message};

fn bridge(tracer: Option<Tracer>) -> Bridge {
    let metrics = Metrics::new().unwrap();
    let (writer, _hub) = hub(config(), Numbering::Offsets, Arc::clone(&metrics));
    let rules = Rules {
        address: address_rules(),
        payload: PayloadRules {
            format: PayloadFormat::Json,
            max_bytes: 256 * 1024,
        },
        marking: Marking::default(),
    };
    let mut bridge = Bridge::new(Arc::new(rules), Numbering::Offsets, writer, tracer, metrics);
    bridge.caught_up();
    bridge
}

/// Each message at the next position, once memory is as full as it gets.
fn accept(bencher: Bencher, next: impl Fn(u64) -> Message) {
    accept_by(bencher, bridge(None), next);
}

fn accept_by(bencher: Bencher, mut bridge: Bridge, next: impl Fn(u64) -> Message) {
    let position = Cell::new(0);
    let message = || {
        let message = next(position.get());
        let position = Some(Position::new(position.replace(position.get() + 1)));
        Message {
            position,
            ..message
        }
    };
    for _ in 0..110_000 {
        bridge.accept(message());
    }
    bencher
        .with_inputs(message)
        .bench_local_values(|message| bridge.accept(message));
}

#[divan::bench(sample_size = 64)]
fn for_one_team(bencher: Bencher) {
    let body = json(USUAL);
    accept(bencher, |_| {
        message("team.7.job.9.status", &[], body.clone())
    });
}

/// The same with spans. Nobody sends them on, so that the queue is full, as it is at such a rate.
#[divan::bench(sample_size = 64, args = ["sampled", "unsampled"])]
fn for_one_team_traced(bencher: Bencher, trace: &str) {
    let config = TraceConfig {
        endpoint: "http://127.0.0.1:4318/v1/traces".parse().unwrap(),
        headers: http::HeaderMap::new(),
        timeout: Duration::from_secs(10),
        sampler: Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
        resource: Vec::new(),
        queue: 2048,
        delay: Duration::from_secs(5),
    };
    let metrics = Metrics::new().unwrap();
    let (tracer, _exporter) = Tracer::new(&config, "events.topic", "events.sse", &metrics).unwrap();
    let body = json(USUAL);
    let parent = match trace {
        "sampled" => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        _ => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
    };
    accept_by(bencher, bridge(Some(tracer)), |_| {
        let parent = HeaderValue::Text(parent.to_owned());
        message(
            "team.7.job.9.status",
            &[("traceparent", parent)],
            body.clone(),
        )
    });
}

#[divan::bench(sample_size = 64, args = [100, 10_000])]
fn for_users(bencher: Bencher, users: usize) {
    let body = json(USUAL);
    accept(bencher, |number| {
        let user = HeaderValue::Integer(scatter(number, users).try_into().unwrap());
        message("orders.created", &[("user-id", user)], body.clone())
    });
}

#[divan::bench(sample_size = 64)]
fn with_a_message_id(bencher: Bencher) {
    let body = json(USUAL);
    accept(bencher, |number| Message {
        message_id: Some(format!("7d0f5b5e-8d2c-4a8e-9c1a-{number:012}")),
        ..message("team.7.job.9.status", &[], body.clone())
    });
}

#[divan::bench(sample_size = 64)]
fn poison(bencher: Bencher) {
    let body = json(USUAL);
    accept(bencher, |_| message("orders.created", &[], body.clone()));
}

/// Which of so many is the next: the same in every run, and nothing that a cache could guess.
pub fn scatter(number: u64, count: usize) -> usize {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32;
    usize::try_from(mixed).unwrap() % count
}
