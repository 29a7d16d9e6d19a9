//! Clients that come back, and those that come for the first time: how they join, and what they are sent first.

use std::sync::LazyLock;
use std::task::Poll;

use divan::Bencher;
use divan::counter::ItemsCount;
use sse_bridge::event::audience::{Audience, Recipient};
use sse_bridge::event::filter::Filter;
use sse_bridge::event::id::Mark;
use sse_bridge::event::scope::Scope;
use sse_bridge::hub::{Hub, Resume, Subscription, Update, Writer};

use crate::fan_out::{config, look, new_hub};
use crate::message::{USUAL, frame, id, json, of, team, user};

const EVENTS: u64 = 100_000;
const TEAMS: u64 = 1000;
/// Behind this event a team of 1,000 has 10 more.
const LAST_SEEN: u64 = 90_000;

/// The hub of a bridge that holds its usual history: an event for each team in turn.
static FULL: LazyLock<(Writer, Hub)> = LazyLock::new(|| {
    let (mut writer, hub) = new_hub(config());
    let body = json(USUAL);
    let teams: Vec<Audience> = (0..TEAMS).map(|number| team(&number.to_string())).collect();
    for position in 0..EVENTS {
        let audience = &teams[(position % TEAMS) as usize];
        writer.publish(frame(position, audience, &body));
    }
    (writer, hub)
});

/// A user in so many teams.
fn scope(teams: usize) -> Scope {
    let teams = (0..teams).map(|number| team(&number.to_string()));
    let rest = [user("42"), of(Recipient::Broadcast)];
    Scope::Audiences(teams.chain(rest).collect())
}

fn everything() -> Scope {
    Scope::Everything {
        tenant: None,
        broadcast: true,
    }
}

fn join(scope: Scope, resume: Resume) -> Subscription {
    let mut client = FULL.1.subscribe(scope, Filter::default(), resume);
    let joined = look(&mut client, &mut 0);
    assert!(matches!(joined, Poll::Ready(Update::Joined { .. })));
    client
}

fn join_at(bencher: Bencher, scope: &Scope, resume: Resume) {
    bencher
        .with_inputs(|| scope.clone())
        .bench_values(|scope| join(scope, resume));
}

#[divan::bench(sample_size = 64, args = [1, 10])]
fn join_for_the_first_time(bencher: Bencher, teams: usize) {
    join_at(bencher, &scope(teams), Resume::Never);
}

#[divan::bench(sample_size = 64, args = [1, 10])]
fn join_behind_an_event_in_memory(bencher: Bencher, teams: usize) {
    join_at(bencher, &scope(teams), Resume::After(id(LAST_SEEN)));
}

#[divan::bench(sample_size = 16)]
fn join_everything_behind_an_event_in_memory(bencher: Bencher) {
    join_at(bencher, &everything(), Resume::After(id(EVENTS - 100)));
}

#[divan::bench(sample_size = 64)]
fn join_with_an_id_that_nobody_knows(bencher: Bencher) {
    let mut unknown = id(LAST_SEEN);
    unknown.mark = Mark::epoch(1);
    join_at(bencher, &scope(1), Resume::After(unknown));
}

#[divan::bench(sample_size = 64, args = [1, 10])]
fn leave(bencher: Bencher, teams: usize) {
    bencher
        .with_inputs(|| join(scope(teams), Resume::Never))
        .bench_values(drop);
}

/// Ten of each team, in the order of the log.
#[divan::bench(sample_size = 16, args = [1, 10])]
fn first_events(bencher: Bencher, teams: usize) {
    // The event that was seen last was the first of team 0.
    let events = 10 * teams - 1;
    bencher
        .counter(ItemsCount::new(events))
        .with_inputs(|| join(scope(teams), Resume::After(id(LAST_SEEN))))
        .bench_refs(|client| {
            let mut taken = 0;
            assert_eq!(
                look(client, &mut taken),
                Poll::Ready(Update::Events { all: true })
            );
            assert_eq!(taken, events);
        });
}

#[divan::bench(sample_size = 4)]
fn first_thousand_of_everything(bencher: Bencher) {
    let resume = Resume::After(id(EVENTS - 1001));
    bencher
        .counter(ItemsCount::new(1000_usize))
        .with_inputs(|| join(everything(), resume))
        .bench_refs(|client| {
            let mut taken = 0;
            assert_eq!(
                look(client, &mut taken),
                Poll::Ready(Update::Events { all: true })
            );
            assert_eq!(taken, 1000);
        });
}
