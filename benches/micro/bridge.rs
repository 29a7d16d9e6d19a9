//! Messages from the broker's hand to the hub's: all that a delivery costs beside AMQP itself, with no client there.

use std::cell::Cell;
use std::sync::Arc;

use divan::Bencher;
use sse_bridge::bridge::{Bridge, Rules};
use sse_bridge::event::id::{Marking, Position};
use sse_bridge::event::payload::{PayloadFormat, PayloadRules};
use sse_bridge::event::{HeaderValue, Intake, Message};
use sse_bridge::hub::{Numbering, hub};
use sse_bridge::metrics::Metrics;

use crate::fan_out::config;
use crate::message::{USUAL, address_rules, json, message};

fn bridge() -> Bridge {
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
    let mut bridge = Bridge::new(Arc::new(rules), Numbering::Offsets, writer, metrics);
    bridge.caught_up();
    bridge
}

/// Each message at the next position, once memory is as full as it gets.
fn accept(bencher: Bencher, next: impl Fn(u64) -> Message) {
    let mut bridge = bridge();
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
