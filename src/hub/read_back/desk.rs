//! Where returning clients wait until a reading takes them.

use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::reading::{Reading, Stretch};
use super::{NEAR, Seat, small};
use crate::event::id::Position;
use crate::hub::{Shared, lock};

/// How long nobody may have come to the desk before a reading begins: clients that lost one server return together.
const GATHER: Duration = Duration::from_millis(50);
/// How long the first of them waits at most.
const LONGEST_GATHER: Duration = Duration::from_secs(1);
/// How many records before the lowest cursor a reading begins, so that a repeat is known by the message that it repeats.
const LOOK_BACK: u64 = small(4096);
/// How long somebody waits at the desk before its turn comes, however many come after it who are nearer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Where returning clients wait, and the readings there are.
#[derive(Debug, Default)]
pub(in crate::hub) struct Desk {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// In no order. As many as there are connections at most.
    waiting: Vec<Weak<Seat>>,
    readings: Vec<Weak<Stretch>>,
    /// How many ever came, to see whether they keep coming.
    arrivals: u64,
}

impl Desk {
    /// Takes a seat in a reading that has not passed it yet, or waits for one. `newest` is the newest live position.
    pub(super) fn take(&self, seat: &Arc<Seat>, newest: u64) {
        let mut queue = lock(&self.queue);
        queue.readings.retain(|reading| reading.strong_count() > 0);
        let taken = queue
            .readings
            .iter()
            .filter_map(Weak::upgrade)
            .any(|reading| reading.is_worth_waiting_for(seat, newest) && reading.attach(seat));
        if !taken {
            if queue.waiting.len() == queue.waiting.capacity() {
                // Before it grows: who has left needs no place.
                queue.waiting.retain(|seat| seat.strong_count() > 0);
            }
            queue.waiting.push(Arc::downgrade(seat));
            queue.arrivals += 1;
            self.arrived.notify_one();
        }
    }

    /// Wakes everybody who waits or is served.
    pub(in crate::hub) fn wake(&self) {
        let queue = lock(&self.queue);
        for seat in queue.waiting.iter().filter_map(Weak::upgrade) {
            seat.signal.raise();
        }
        for reading in queue.readings.iter().filter_map(Weak::upgrade) {
            reading.wake();
        }
    }

    fn arrivals(&self) -> u64 {
        lock(&self.queue).arrivals
    }

    pub(super) fn is_empty(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.waiting.retain(|seat| seat.strong_count() > 0);
        queue.waiting.is_empty()
    }

    /// Makes a reading for a group of those who wait, the nearest to the tail: they are served soonest; but for that of who has
    /// waited too long, if there is one. Nobody is made to read, or to wait, more than twice as far as it came from, so that
    /// all groups together read at most twice what the farthest client needs.
    fn group(&self, newest: u64) -> Option<Arc<Stretch>> {
        let mut queue = lock(&self.queue);
        let mut seats: Vec<Arc<Seat>> = queue.waiting.iter().filter_map(Weak::upgrade).collect();
        seats.sort_by_key(|seat| seat.needs());
        let groups = groups(seats.iter().map(|seat| seat.needs()), newest);
        let longest = seats.iter().enumerate().min_by_key(|(_, seat)| seat.since);
        let urgent = longest.filter(|(_, seat)| seat.since.elapsed() > LONGEST_WAIT);
        let group = match urgent {
            Some((index, _)) => groups.into_iter().find(|group| group.contains(&index)),
            None => groups.into_iter().next_back(),
        }?;
        let mut chosen: Vec<Arc<Seat>> = seats.drain(group).collect();
        queue.waiting = seats.iter().map(Arc::downgrade).collect();
        let lowest = chosen.first()?.needs();
        // Not beyond the newest that is known: beyond the end of a stream there is silence.
        let begin = lowest.saturating_sub(LOOK_BACK).min(newest);
        let stretch = Arc::new(Stretch::new(Position::new(begin)));
        chosen.retain(|seat| !stretch.attach(seat));
        // It begins below them all, so that none is refused; whoever were would wait on.
        queue.waiting.extend(chosen.iter().map(Arc::downgrade));
        queue.readings.push(Arc::downgrade(&stretch));
        Some(stretch)
    }
}

/// The groups of cursors in rising order, made from the farthest on: each of those that are not nearer than half as far as
/// its first.
fn groups(cursors: impl Iterator<Item = u64>, newest: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut farthest = 0;
    for (index, cursor) in cursors.enumerate() {
        let distance = newest.saturating_sub(cursor).max(NEAR);
        match groups.last_mut() {
            Some(group) if distance >= farthest / 2 => group.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                farthest = distance;
            }
        }
    }
    groups
}

/// Who waits for readings.
#[derive(Debug)]
pub struct Readings {
    shared: Arc<Shared>,
}

impl Readings {
    pub(in crate::hub) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next reading that somebody waits for, when those who come with it are here too. Cancel-safe.
    pub async fn next(&mut self) -> Reading {
        let desk = &self.shared.desk;
        loop {
            while desk.is_empty() {
                desk.arrived.notified().await;
            }
            let longest = Instant::now() + LONGEST_GATHER;
            let mut arrivals = desk.arrivals();
            loop {
                sleep(GATHER).await;
                let so_far = arrivals;
                arrivals = desk.arrivals();
                if arrivals == so_far || Instant::now() >= longest {
                    break;
                }
            }
            if let Some(stretch) = desk.group(self.shared.newest()) {
                return Reading::new(stretch, Arc::clone(&self.shared));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::id::{EventId, Mark};
    use crate::event::scope::Scope;
    use crate::hub::listeners::Signal;
    use crate::hub::read_back::{From, queue};
    use crate::hub::{Backpressure, HubConfig, Numbering, hub};
    use crate::metrics::Metrics;

    #[test]
    #[expect(
        clippy::single_range_in_vec_init,
        reason = "one group is a range, not its members"
    )]
    fn a_group_is_of_those_who_came_from_not_less_than_half_as_far() {
        let newest = 1_000_000;
        for (cursors, expected) in [
            (vec![], vec![]),
            (vec![0], vec![0..1]),
            (vec![0, 400_000], vec![0..2]),
            (vec![0, 400_000, 600_000, 700_000], vec![0..2, 2..4]),
            (
                vec![0, 600_000, 900_000, 960_000],
                vec![0..1, 1..2, 2..3, 3..4],
            ),
            (
                vec![newest - 2 * NEAR, newest - NEAR, newest - 1],
                vec![0..3],
            ),
            (vec![1_000_005], vec![0..1]),
        ] {
            assert_eq!(
                groups(cursors.iter().copied(), newest),
                expected,
                "{cursors:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_came_from_far_is_not_passed_over_for_ever() {
        let config = HubConfig {
            channel_capacity: 0,
            backpressure: Backpressure::DropOldest,
            max_events: 10,
            max_bytes: 0,
            max_age: Duration::ZERO,
            flush_window: Duration::ZERO,
            reads_back: true,
        };
        let (mut writer, hub) = hub(config, Numbering::Offsets, Metrics::new().unwrap());
        writer.caught_up();
        let id = |position| EventId {
            position: Position::new(position),
            mark: Mark::epoch(7),
        };
        writer.pass(id(1_000_000), Instant::now());
        let shared = &hub.shared;
        let scope = Arc::new(Scope::Everything {
            tenant: None,
            broadcast: true,
        });
        let signal = Arc::new(Signal::default());
        let far = queue(shared, &scope, &signal, From::After(id(1000)));
        let mut readings = 0;
        while lock(&far.place).is_none() {
            let near = queue(shared, &scope, &signal, From::After(id(900_000)));
            let stretch = shared.desk.group(shared.newest()).unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
            drop((near, stretch));
            readings += 1;
        }
        assert_eq!(readings, 7, "the nearer ones first, but not for ever");
    }
}
