//! The hub against a plain model of it: a `Vec` of all that was ever given, from which everything is derived by looking
//! through the whole of it. Random publishes, subscriptions, lags, resumes and breaks must give the same sequences and the
//! same gaps.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tokio::time::Instant;

use super::{
    Backpressure, Gap, GapReason, Hub, HubConfig, Numbering, Resume, Subscription, Update, Writer,
    hub,
};
use crate::event::address::Attributes;
use crate::event::audience::{Audience, Recipient};
use crate::event::filter::Filter;
use crate::event::id::{EventId, Mark, Position};
use crate::event::scope::Scope;
use crate::event::{Break, Event};
use crate::frame::Frame;
use crate::metrics::Metrics;

/// How many random histories are played.
const RUNS: u64 = 400;
/// Steps of each.
const STEPS: usize = 250;
/// What the hub calls behind with [`Backpressure::Latest`].
const BEHIND: usize = 64;

#[test]
fn the_hub_gives_what_a_plain_list_of_all_events_gives() {
    let seed = fastrand::u64(..);
    for run in 0..RUNS {
        let seed = seed.wrapping_add(run);
        let outcome = std::panic::catch_unwind(|| World::new(seed).play());
        assert!(
            outcome.is_ok(),
            "failed with seed {seed}: World::new({seed}).play()"
        );
    }
}

/// What a client is shown, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Joined(Option<EventId>, Option<Gap>),
    Event(EventId),
    Gap(Gap),
    Overrun,
}

/// A record ever given.
#[derive(Clone, Debug)]
struct Record {
    id: EventId,
    /// `None`: passed.
    audience: Option<Audience>,
    topic: String,
    era: usize,
    /// Its event is still in memory.
    held: bool,
    /// Its id is still known.
    known: bool,
}

/// A reader, and what the model knows of it.
struct Reader {
    subscription: Subscription,
    scope: Scope,
    filtered: bool,
    resume: Resume,
    joined: Option<usize>,
    /// Up to here everything was shown or told as missed, but for what is in `told`.
    cursor: Option<Position>,
    /// A reader of everything: what is gone up to here was told when it joined.
    told_up_to: Option<Position>,
    /// Positions told as missed out of order.
    told: HashSet<Position>,
}

struct World {
    rng: Rng,
    config: HubConfig,
    numbering: Numbering,
    writer: Writer,
    hub: Hub,
    records: Vec<Record>,
    readers: Vec<Reader>,
    live: bool,
    era: usize,
    break_off: Option<Break>,
    next_position: u64,
    floor: Option<EventId>,
    newest: Option<EventId>,
    now: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let backpressure = match rng.u8(0..3) {
            0 => Backpressure::Latest,
            1 => Backpressure::Disconnect,
            _ => Backpressure::DropOldest,
        };
        let channel_capacity = rng.usize(1..100);
        let config = HubConfig {
            channel_capacity,
            backpressure,
            max_events: channel_capacity + rng.usize(0..100),
            max_bytes: 0,
            max_age: Duration::ZERO,
            flush_window: Duration::ZERO,
            reads_back: false,
        };
        let mark = Mark::epoch(rng.u32(..));
        let numbering = if rng.bool() {
            Numbering::Offsets
        } else {
            Numbering::Sequence(mark)
        };
        let (writer, hub) = hub(config.clone(), numbering, Metrics::new().unwrap());
        let origin = match numbering {
            Numbering::Offsets => None,
            Numbering::Sequence(_) => Some(numbering.origin()),
        };
        let next_position = match numbering {
            Numbering::Offsets => rng.u64(0..3),
            Numbering::Sequence(_) => 1,
        };
        Self {
            rng,
            config,
            numbering,
            writer,
            hub,
            records: Vec::new(),
            readers: Vec::new(),
            live: false,
            era: 0,
            break_off: None,
            next_position,
            floor: origin,
            newest: origin,
            now: Instant::now(),
        }
    }

    fn play(mut self) {
        let warm_up = self.rng.usize(0..30);
        for step in 0..STEPS {
            if step == warm_up {
                self.catch_up();
            }
            match self.rng.u8(0..100) {
                0..45 => {
                    let burst = if self.rng.u8(0..10) == 0 { 120 } else { 8 };
                    for _ in 0..self.rng.usize(0..burst) {
                        self.give();
                    }
                }
                45..60 => self.subscribe(),
                60..95 => self.poll_one(),
                95..98 => self.leave(),
                _ => self.break_off(),
            }
            self.check_bounds();
        }
        while !self.readers.is_empty() {
            self.poll_one();
            self.leave();
        }
    }

    fn id(&mut self) -> EventId {
        let position = Position::new(self.next_position);
        match self.numbering {
            // Offsets rise, with holes.
            Numbering::Offsets => {
                self.next_position += if self.rng.u8(0..10) == 0 { 2 } else { 1 };
                EventId {
                    position,
                    mark: Mark::epoch(self.rng.u32(..)),
                }
            }
            Numbering::Sequence(mark) => {
                self.next_position += 1;
                EventId { position, mark }
            }
        }
    }

    fn audience(&mut self) -> Audience {
        let recipient = match self.rng.u8(0..10) {
            0 => Recipient::Broadcast,
            1..6 => Recipient::Team("7".parse().unwrap()),
            6..9 => Recipient::Team("8".parse().unwrap()),
            _ => Recipient::User("42".parse().unwrap()),
        };
        let tenant = (self.rng.u8(0..6) == 0).then(|| "acme".parse().unwrap());
        Audience { tenant, recipient }
    }

    fn give(&mut self) {
        let id = self.id();
        if self.floor.is_none() && id.position.get() == 0 {
            self.floor = Some(EventId::ORIGIN);
        }
        let topic = match self.rng.u8(0..6) {
            0 => "a".to_owned(),
            1 => "b".to_owned(),
            _ => format!("topic {}", self.rng.u8(..)),
        };
        let audience = (self.rng.u8(0..10) > 0).then(|| self.audience());
        match &audience {
            None => self.writer.pass(id, self.now),
            Some(audience) => {
                let event = Event {
                    id,
                    audience: audience.clone(),
                    topic: topic.clone(),
                    name: None,
                    attributes: Attributes::default(),
                    timestamp: None,
                    body: Bytes::from_static(b"{}"),
                };
                self.writer.publish(Frame::encode(event, self.now));
            }
        }
        self.newest = Some(id);
        let held = audience.is_some();
        self.records.push(Record {
            id,
            audience,
            topic,
            era: self.era,
            held,
            known: true,
        });
        self.evict();
    }

    /// The bounds, by counting.
    fn evict(&mut self) {
        let newest = self.records.last().unwrap().audience.clone();
        let of_it = |record: &&mut Record| record.held && record.audience == newest;
        while self.records.iter_mut().filter(of_it).count() > self.config.channel_capacity {
            self.records.iter_mut().find(of_it).unwrap().held = false;
        }
        loop {
            let held = self.records.iter().filter(|record| record.held).count();
            let known = self.records.iter().filter(|record| record.known).count();
            if held <= self.config.max_events && known <= 4 * self.config.max_events {
                return;
            }
            let oldest = self.records.iter_mut().find(|record| record.known).unwrap();
            oldest.held = false;
            oldest.known = false;
            self.floor = Some(oldest.id);
        }
    }

    fn check_bounds(&self) {
        let held = self.records.iter().filter(|record| record.held).count();
        let metric = self.hub.shared.metrics.history_events.get();
        assert_eq!(metric, i64::try_from(held).unwrap());
    }

    fn catch_up(&mut self) {
        self.writer.caught_up();
        self.live = true;
        if self.newest.is_none() {
            self.newest = Some(self.numbering.origin());
            self.floor = self.newest;
        }
    }

    fn break_off(&mut self) {
        if !self.live || self.rng.bool() {
            return;
        }
        let what = if self.rng.bool() {
            Break::Lost
        } else {
            Break::Replaced
        };
        self.writer.broken(what);
        self.era += 1;
        self.break_off = Some(what);
        for record in &mut self.records {
            record.held = false;
            record.known = false;
        }
        match (what, self.numbering) {
            (Break::Lost, Numbering::Offsets) => (self.floor, self.newest) = (None, None),
            (Break::Lost, Numbering::Sequence(_)) => self.floor = self.newest,
            (Break::Replaced, numbering) => {
                self.newest = Some(numbering.origin());
                self.floor = self.newest;
                self.next_position =
                    numbering.origin().position.get() + u64::from(numbering != Numbering::Offsets);
            }
        }
    }

    fn subscribe(&mut self) {
        let tenant = (self.rng.u8(0..6) == 0).then(|| "acme".parse().unwrap());
        let scope = if self.rng.u8(0..5) == 0 {
            Scope::Everything {
                tenant,
                broadcast: self.rng.bool(),
            }
        } else {
            let mut audiences: Vec<Audience> =
                (0..self.rng.usize(1..4)).map(|_| self.audience()).collect();
            let mut seen = HashSet::new();
            audiences.retain(|audience| seen.insert(audience.clone()));
            Scope::Audiences(audiences)
        };
        let resume = match self.rng.u8(0..10) {
            0 => Resume::Malformed,
            1 => Resume::After(EventId {
                position: Position::new(self.rng.u64(0..self.next_position + 5)),
                mark: Mark::epoch(self.rng.u32(..)),
            }),
            2 => Resume::After(EventId::ORIGIN),
            3..7 if !self.records.is_empty() => {
                Resume::After(self.records[self.rng.usize(0..self.records.len())].id)
            }
            _ => Resume::Never,
        };
        let filtered = self.rng.u8(0..6) == 0;
        let mut filter = Filter::default();
        if filtered {
            filter.topics.push("a".parse().unwrap());
        }
        let subscription = self.hub.subscribe(scope.clone(), filter, resume);
        self.readers.push(Reader {
            subscription,
            scope,
            filtered,
            resume,
            joined: None,
            cursor: None,
            told_up_to: None,
            told: HashSet::new(),
        });
    }

    fn leave(&mut self) {
        if !self.readers.is_empty() {
            let index = self.rng.usize(0..self.readers.len());
            self.readers.swap_remove(index);
        }
    }

    /// One reader takes some, or all that there is for it.
    fn poll_one(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.readers.len());
        let mut reader = self.readers.swap_remove(index);
        let wants = match self.config.backpressure {
            // What was superseded depends on what was taken together.
            Backpressure::Latest => usize::MAX,
            _ if self.rng.bool() => self.rng.usize(1..5),
            _ => usize::MAX,
        };
        let shown = take(&mut reader.subscription, wants);
        let expected = self.expected(&mut reader, wants);
        assert_eq!(
            shown, expected,
            "{:?} {:?} {:?}",
            reader.scope, reader.resume, self.config
        );
        if wants == usize::MAX && self.live && expected.last() != Some(&Shown::Overrun) {
            assert_eq!(
                reader.subscription.checkpoint(),
                self.newest,
                "{:?} {:?} {:?} {expected:?}",
                reader.scope,
                reader.resume,
                self.config
            );
        }
        if expected.last() != Some(&Shown::Overrun) {
            self.readers.push(reader);
        }
    }

    fn expected(&self, reader: &mut Reader, wants: usize) -> Vec<Shown> {
        let mut shown = Vec::new();
        if !self.live {
            return shown;
        }
        if reader.joined != Some(self.era) {
            shown.push(self.join(reader));
        }
        let in_scope: Vec<&Record> = self
            .records
            .iter()
            .filter(|record| record.era == self.era && Some(record.id.position) > reader.cursor)
            .filter(|record| !reader.told.contains(&record.id.position))
            .filter(|record| {
                record
                    .audience
                    .as_ref()
                    .is_some_and(|audience| reader.scope.covers(audience))
            })
            .collect();
        match (&reader.scope, self.config.backpressure) {
            (Scope::Everything { .. }, _) => self.follow(reader, &in_scope, wants, &mut shown),
            (Scope::Audiences(_), Backpressure::Latest) => {
                self.latest(reader, &in_scope, &mut shown)
            }
            (Scope::Audiences(_), _) => self.merge(reader, &in_scope, wants, &mut shown),
        }
        shown
    }

    /// Where a reader joins, by looking its id up.
    fn join(&self, reader: &mut Reader) -> Shown {
        let again = reader.joined.is_some();
        reader.joined = Some(self.era);
        reader.told.clear();
        let oldest = match self.numbering {
            Numbering::Offsets => (None, self.floor),
            Numbering::Sequence(_) => (self.newest.map(|newest| newest.position), self.newest),
        };
        let ((cursor, checkpoint), mut reason) = match reader.resume {
            _ if again => {
                let reason = match self.break_off.unwrap() {
                    Break::Lost => GapReason::Expired,
                    Break::Replaced => GapReason::Unknown,
                };
                ((None, self.floor), Some(reason))
            }
            Resume::Never => ((self.position_of_newest(), self.newest), None),
            Resume::Malformed => (oldest, Some(GapReason::Unknown)),
            Resume::After(id) => {
                let foreign =
                    matches!(self.numbering, Numbering::Sequence(mark) if mark != id.mark);
                let known = self
                    .records
                    .iter()
                    .filter(|record| record.known)
                    .any(|record| record.id == id)
                    || self.newest == Some(id)
                    || self.floor == Some(id);
                let first = self
                    .records
                    .iter()
                    .find(|record| record.known)
                    .map(|record| record.id.position);
                let older = match self.floor {
                    // Before every record: what is not its own beginning is later.
                    _ if id == self.numbering.origin() => first.is_some(),
                    Some(floor) => id.position < floor.position,
                    None => first.is_some_and(|first| id.position < first),
                };
                if known && !foreign {
                    let cursor = (id != EventId::ORIGIN).then_some(id.position);
                    ((cursor, Some(id)), None)
                } else if older && !foreign {
                    (oldest, Some(GapReason::Expired))
                } else {
                    (oldest, Some(GapReason::Unknown))
                }
            }
        };
        reader.cursor = cursor;
        if let Scope::Audiences(_) = reader.scope {
            for record in &self.records {
                let wanted = record.era == self.era
                    && Some(record.id.position) > cursor
                    && record
                        .audience
                        .as_ref()
                        .is_some_and(|audience| reader.scope.covers(audience));
                if wanted && !record.held {
                    reader.told.insert(record.id.position);
                    // Those that went with the front of the log are below the floor, of which the reason tells.
                    reason = reason.or(Some(GapReason::Expired));
                }
            }
        } else {
            let after =
                |record: &&Record| record.era == self.era && Some(record.id.position) > cursor;
            let lost = self.records.iter().filter(after).any(|record| {
                let audience = record.audience.as_ref();
                let covered = audience.is_some_and(|audience| reader.scope.covers(audience));
                record.known && !record.held && covered
            });
            reader.told_up_to = None;
            if lost {
                reason = reason.or(Some(GapReason::Expired));
                reader.told_up_to = self.position_of_newest();
            }
            // From the oldest: what is not known any more is not told again.
            for record in self.records.iter().filter(after) {
                if !record.known {
                    reader.told.insert(record.id.position);
                }
            }
        }
        Shown::Joined(
            checkpoint,
            reason.map(|reason| Gap {
                reason,
                missed: None,
            }),
        )
    }

    fn merge(
        &self,
        reader: &mut Reader,
        in_scope: &[&Record],
        wants: usize,
        shown: &mut Vec<Shown>,
    ) {
        let gone: Vec<&&Record> = in_scope.iter().filter(|record| !record.held).collect();
        if !gone.is_empty() {
            let told = self.slow(reader, gone.len());
            reader
                .told
                .extend(gone.iter().map(|record| record.id.position));
            shown.push(told.clone());
            if told == Shown::Overrun {
                return;
            }
        }
        let mut taken = 0;
        for record in in_scope.iter().filter(|record| record.held) {
            if taken == wants {
                return;
            }
            reader.cursor = Some(record.id.position);
            if !reader.filtered || record.topic == "a" {
                shown.push(Shown::Event(record.id));
                taken += 1;
            }
        }
        if taken < wants {
            self.to_the_end(reader);
        }
    }

    fn latest(&self, reader: &mut Reader, in_scope: &[&Record], shown: &mut Vec<Shown>) {
        let gone: Vec<&&Record> = in_scope.iter().filter(|record| !record.held).collect();
        if !gone.is_empty() {
            reader
                .told
                .extend(gone.iter().map(|record| record.id.position));
            shown.push(self.slow(reader, gone.len()));
        }
        let held: Vec<&&Record> = in_scope.iter().filter(|record| record.held).collect();
        let behind = held.len() > BEHIND;
        let wanted: Vec<&&Record> = held
            .into_iter()
            .filter(|record| !reader.filtered || record.topic == "a")
            .collect();
        let keep: Vec<&&Record> = wanted
            .iter()
            .enumerate()
            .filter(|(index, record)| {
                !behind
                    || !wanted[index + 1..]
                        .iter()
                        .any(|later| later.topic == record.topic)
            })
            .map(|(_, record)| *record)
            .collect();
        // What is kept beside the ring is bounded as the ring is.
        let over = if behind {
            keep.len().saturating_sub(self.config.channel_capacity)
        } else {
            0
        };
        let keep = &keep[over..];
        if keep.len() < wanted.len() {
            shown.push(self.slow(reader, wanted.len() - keep.len()));
        }
        shown.extend(keep.iter().map(|record| Shown::Event(record.id)));
        self.to_the_end(reader);
    }

    /// A reader of everything finds what was evicted where it stood; what went with the front of the log, at once.
    fn follow(
        &self,
        reader: &mut Reader,
        in_scope: &[&Record],
        wants: usize,
        shown: &mut Vec<Shown>,
    ) {
        let fenced = reader.scope
            != (Scope::Everything {
                tenant: None,
                broadcast: true,
            });
        let front = self.records.iter().filter(|record| {
            record.era == self.era
                && !record.known
                && record.audience.is_some()
                && Some(record.id.position) > reader.cursor.max(reader.told_up_to)
                && !reader.told.contains(&record.id.position)
        });
        let front: Vec<Position> = front.map(|record| record.id.position).collect();
        let mut missed = front.len();
        let mut inexact = missed > 0 && fenced;
        reader.told.extend(front);
        let mut taken = 0;
        for record in in_scope.iter().filter(|record| record.known) {
            if taken == wants {
                return;
            }
            if !record.held && Some(record.id.position) <= reader.told_up_to {
                continue;
            }
            if !record.held {
                missed += 1;
                reader.told.insert(record.id.position);
                continue;
            }
            if missed > 0 {
                let told = self.slow_of(reader, missed, inexact);
                shown.push(told.clone());
                if told == Shown::Overrun {
                    return;
                }
                (missed, inexact) = (0, false);
            }
            reader.cursor = Some(record.id.position);
            if !reader.filtered || record.topic == "a" {
                shown.push(Shown::Event(record.id));
                taken += 1;
            }
        }
        if missed > 0 {
            shown.push(self.slow_of(reader, missed, inexact));
        }
        if taken < wants {
            self.to_the_end(reader);
        }
    }

    fn to_the_end(&self, reader: &mut Reader) {
        reader.cursor = reader.cursor.max(self.position_of_newest());
    }

    /// The origin of a stream is before its first position.
    fn position_of_newest(&self) -> Option<Position> {
        let newest = self.newest.filter(|newest| *newest != EventId::ORIGIN);
        newest.map(|newest| newest.position)
    }

    fn slow(&self, reader: &Reader, missed: usize) -> Shown {
        self.slow_of(reader, missed, false)
    }

    fn slow_of(&self, reader: &Reader, missed: usize, inexact: bool) -> Shown {
        if self.config.backpressure == Backpressure::Disconnect {
            return Shown::Overrun;
        }
        let missed = (!reader.filtered && !inexact).then_some(missed as u64);
        Shown::Gap(Gap {
            reason: GapReason::Slow,
            missed,
        })
    }
}

/// What a subscription shows until it has nothing more, or `wants` events were taken.
fn take(subscription: &mut Subscription, wants: usize) -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut taken = 0;
    let mut context = Context::from_waker(Waker::noop());
    while taken < wants {
        let mut events = Vec::new();
        let update = subscription.poll_update(&mut context, |frame: &Arc<Frame>| {
            events.push(Shown::Event(frame.id()));
            taken += 1;
            if taken < wants {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        shown.extend(events);
        match update {
            Poll::Pending => break,
            Poll::Ready(Update::Events { .. }) => {}
            Poll::Ready(Update::Joined { checkpoint, gap }) => {
                shown.push(Shown::Joined(checkpoint, gap))
            }
            Poll::Ready(Update::Gap(gap)) => shown.push(Shown::Gap(gap)),
            Poll::Ready(Update::Overrun) => {
                shown.push(Shown::Overrun);
                break;
            }
            Poll::Ready(Update::Closed) => panic!("nobody closed the hub"),
        }
    }
    shown
}
