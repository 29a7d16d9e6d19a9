//! Events that the hub takes, and that listeners are woken for and take from it; no socket, no task.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use sse_bridge::event::audience::Audience;
use sse_bridge::event::filter::Filter;
use sse_bridge::event::scope::Scope;
use sse_bridge::hub::{
    Backpressure, Hub, HubConfig, Numbering, Resume, Subscription, Update, Writer, hub,
};
use sse_bridge::metrics::Metrics;

use crate::bridge::scatter;
use crate::message::{USUAL, frame, json, team, user};

/// The bounds of `.env.example`.
pub fn config() -> HubConfig {
    HubConfig {
        channel_capacity: 1024,
        backpressure: Backpressure::DropOldest,
        max_events: 100_000,
        max_bytes: 256 * 1024 * 1024,
        max_age: Duration::from_secs(600),
        flush_window: Duration::ZERO,
        reads_back: false,
    }
}

pub fn new_hub(config: HubConfig) -> (Writer, Hub) {
    let (mut writer, hub) = hub(config, Numbering::Offsets, Metrics::new().unwrap());
    writer.caught_up();
    (writer, hub)
}

/// Whoever listens to these, and has joined.
pub fn listener(hub: &Hub, audiences: Vec<Audience>) -> Subscription {
    let scope = Scope::Audiences(audiences);
    let mut listener = hub.subscribe(scope, Filter::default(), Resume::Never);
    let joined = look(&mut listener, &mut 0);
    assert!(matches!(joined, Poll::Ready(Update::Joined { .. })));
    assert!(look(&mut listener, &mut 0).is_pending());
    listener
}

/// Takes what is there, and counts it.
pub fn look(listener: &mut Subscription, events: &mut usize) -> Poll<Update> {
    let mut context = Context::from_waker(Waker::noop());
    listener.poll_update(&mut context, |_| {
        *events += 1;
        ControlFlow::Continue(())
    })
}

/// Publishes to these audiences in turn, once memory is as full as the bounds let it become.
fn publish(bencher: Bencher, audiences: &[Audience]) {
    let (mut writer, _hub) = new_hub(config());
    let (body, position) = (json(USUAL), Cell::new(0));
    let next = || {
        let at = position.replace(position.get() + 1);
        let audience = scatter(at, audiences.len());
        frame(at, &audiences[audience], &body)
    };
    for _ in 0..110_000 {
        writer.publish(next());
    }
    bencher
        .with_inputs(next)
        .bench_local_values(|frame| writer.publish(frame));
}

/// Its ring is full: it pushes out its own events.
#[divan::bench(sample_size = 64)]
fn nobody_listens_to_one_team(bencher: Bencher) {
    publish(bencher, &[team("7")]);
}

/// The history is full: the oldest goes, whoever's it is.
#[divan::bench(sample_size = 64, args = [100, 10_000])]
fn nobody_listens_to_users(bencher: Bencher, count: usize) {
    publish(bencher, &users(count));
}

/// Nothing is full, and the audience is new.
#[divan::bench(sample_size = 64)]
fn nobody_listens_and_nothing_is_full(bencher: Bencher) {
    let (audience, body) = (team("7"), json(USUAL));
    let hubs = Cell::new(None);
    bencher
        .with_inputs(|| {
            let (writer, at) = match hubs.take() {
                Some((writer, at)) if at < 64 => (writer, at),
                _ => (new_hub(config()).0, 0),
            };
            hubs.set(Some((writer, at + 1)));
            frame(at, &audience, &body)
        })
        .bench_local_values(|frame| {
            if let Some((mut writer, at)) = hubs.take() {
                writer.publish(frame);
                hubs.set(Some((writer, at)));
            }
        });
}

/// All are woken, and each takes it.
#[divan::bench(sample_size = 4, args = [1, 1000])]
fn listeners_of_one_team(bencher: Bencher, count: usize) {
    let (mut writer, hub) = new_hub(config());
    let (audience, body, position) = (team("7"), json(USUAL), Cell::new(0));
    let mut listeners: Vec<Subscription> = (0..count)
        .map(|_| listener(&hub, vec![audience.clone()]))
        .collect();
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| {
            let at = position.replace(position.get() + 1);
            frame(at, &audience, &body)
        })
        .bench_local_values(|frame| {
            writer.publish(frame);
            let mut taken = 0;
            for listener in &mut listeners {
                assert!(look(listener, &mut taken).is_ready());
            }
            assert_eq!(taken, count);
        });
}

/// One of many is woken, and takes it. What it costs must not grow with the others.
#[divan::bench(sample_size = 64, args = [100, 1000, 10_000])]
fn each_user_listens(bencher: Bencher, count: usize) {
    let (mut writer, hub) = new_hub(config());
    let (users, body, position) = (users(count), json(USUAL), Cell::new(0));
    let mut listeners: Vec<Subscription> = users
        .iter()
        .map(|user| listener(&hub, vec![user.clone()]))
        .collect();
    bencher
        .with_inputs(|| {
            let at = position.replace(position.get() + 1);
            let number = scatter(at, count);
            (number, frame(at, &users[number], &body))
        })
        .bench_local_values(|(number, frame)| {
            writer.publish(frame);
            let mut taken = 0;
            assert!(look(&mut listeners[number], &mut taken).is_ready());
            assert_eq!(taken, 1);
        });
}

fn users(count: usize) -> Vec<Audience> {
    (0..count).map(|number| user(&number.to_string())).collect()
}
