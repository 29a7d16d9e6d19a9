//! Returning clients against a plain model: a `Vec` that is the stream. Random publishes, retention, readings that fail,
//! clients that are slow and come back from anywhere: each is shown all that is for it, once and in order, and what it is
//! not shown it was told before.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tokio::time::{Instant, timeout};

use super::history::Content;
use super::{
    Backpressure, Gap, GapReason, Hub, HubConfig, Numbering, Reading, Readings, Resume,
    Subscription, Update, Writer, hub,
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
const RUNS: u64 = 300;
/// Steps of each.
const STEPS: usize = 300;

#[test]
fn a_returning_client_misses_nothing_that_the_stream_has_and_is_told_of_the_rest() {
    let seed = fastrand::u64(..);
    for run in 0..RUNS {
        let seed = seed.wrapping_add(run);
        let outcome = std::panic::catch_unwind(|| play(seed));
        assert!(outcome.is_ok(), "failed with seed {seed}: play({seed})");
    }
}

fn play(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(World::new(seed).play());
}

#[derive(Clone, Debug)]
struct Record {
    id: EventId,
    /// `None`: nobody's event.
    audience: Option<Audience>,
    topic: &'static str,
}

/// A client, across its connections.
struct Client {
    subscription: Subscription,
    scope: Scope,
    filtered: bool,
    /// It was shown, or told that it missed, all events up to here; `None` is before the first.
    up_to: Option<Position>,
    /// The id that its browser has.
    last_id: Option<EventId>,
    /// Events that it was told it missed as it was slow. Those of one audience may lie behind others' that are shown yet.
    passed: HashSet<Position>,
    /// Whether it was told that what is not kept is gone, and was shown nothing since.
    told_expired: bool,
    /// It came with an id that is none of this stream.
    is_lost: bool,
    /// The stream was made anew meanwhile.
    may_be_lost: bool,
    joined: bool,
}

struct World {
    rng: Rng,
    config: HubConfig,
    writer: Writer,
    hub: Hub,
    readings: Readings,
    /// Readings under way, each with the position it reads next.
    active: Vec<(Reading, u64)>,
    stream: Vec<Record>,
    /// Records before this one were removed.
    kept: usize,
    /// Records from this one on are yet to be consumed: another replica may have them already.
    consumed: usize,
    clients: Vec<Client>,
    next_position: u64,
    /// Whether retention ever removed anything.
    has_expired: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = HubConfig {
            channel_capacity: rng.usize(1..40),
            backpressure: match rng.bool() {
                true => Backpressure::Disconnect,
                false => Backpressure::DropOldest,
            },
            max_events: rng.usize(40..80),
            max_bytes: 0,
            max_age: Duration::ZERO,
            flush_window: Duration::ZERO,
            reads_back: true,
        };
        let (mut writer, hub) = hub(config.clone(), Numbering::Offsets, Metrics::new().unwrap());
        if rng.bool() {
            // An empty stream; else the history is read once there is one.
            writer.caught_up();
        }
        let readings = hub.readings();
        let mut world = Self {
            next_position: 0,
            rng,
            config,
            writer,
            hub,
            readings,
            active: Vec::new(),
            stream: Vec::new(),
            kept: 0,
            consumed: 0,
            clients: Vec::new(),
            has_expired: false,
        };
        for _ in 0..world.rng.usize(1..200) {
            world.give();
        }
        world.consume(usize::MAX);
        world.writer.caught_up();
        world
    }

    async fn play(mut self) {
        for _ in 0..STEPS {
            match self.rng.u8(0..100) {
                0..25 => {
                    let most = if self.rng.u8(0..8) == 0 { 200 } else { 8 };
                    for _ in 0..self.rng.usize(0..most) {
                        self.give();
                    }
                    let some = self.rng.usize(0..2 * most);
                    self.consume(some);
                }
                25..40 => self.come(),
                40..70 => self.look(),
                70..85 => self.read().await,
                85..90 => self.begin_reading().await,
                90..93 if !self.active.is_empty() => {
                    // Its link broke.
                    let index = self.rng.usize(0..self.active.len());
                    self.active.swap_remove(index);
                }
                93..95 => self.expire(),
                95..96 => self.replace(),
                _ if !self.clients.is_empty() => {
                    let index = self.rng.usize(0..self.clients.len());
                    self.clients.swap_remove(index);
                }
                _ => {}
            }
        }
        self.settle().await;
    }

    fn give(&mut self) {
        let id = EventId {
            position: Position::new(self.next_position),
            mark: Mark::epoch(self.rng.u32(..)),
        };
        self.next_position += if self.rng.u8(0..20) == 0 { 2 } else { 1 };
        let record = Record {
            id,
            audience: (self.rng.u8(0..5) > 0).then(|| audience(&mut self.rng)),
            topic: if self.rng.bool() { "a" } else { "b" },
        };
        self.stream.push(record);
    }

    /// The bridge consumes so many more.
    fn consume(&mut self, count: usize) {
        for record in self.stream[self.consumed..].iter().take(count) {
            match frame(record) {
                Some(frame) => self.writer.publish(frame),
                None => self.writer.pass(record.id, Instant::now()),
            }
            self.consumed += 1;
        }
    }

    /// Retention removes what is not in live memory only, as it is never faster than that.
    fn expire(&mut self) {
        let floor = self.hub.shared.log.lock().history.floor();
        let most = self
            .stream
            .iter()
            .position(|record| Some(record.id.position) > floor.map(|floor| floor.position))
            .unwrap_or(0);
        if most > self.kept {
            self.kept = self.rng.usize(self.kept..=most);
            self.has_expired = self.kept > 0;
        }
    }

    /// The stream is deleted and made anew.
    fn replace(&mut self) {
        self.stream.clear();
        (self.kept, self.consumed, self.next_position) = (0, 0, 0);
        self.active.clear();
        self.writer.broken(Break::Replaced);
        for client in &mut self.clients {
            // An origin is that of every stream.
            let is_at_origin = client.last_id == Some(EventId::ORIGIN) && !client.joined;
            if client.joined || client.last_id.is_some() {
                client.up_to = None;
                client.passed.clear();
                (client.is_lost, client.may_be_lost) = (!is_at_origin, true);
            }
        }
    }

    fn come(&mut self) {
        let scope = match self.rng.u8(0..5) {
            0 => Scope::Everything {
                tenant: None,
                broadcast: self.rng.bool(),
            },
            1 => Scope::Audiences(vec![team("7"), team("8")]),
            _ => Scope::Audiences(vec![audience(&mut self.rng)]),
        };
        let filtered = self.rng.u8(0..4) == 0;
        let any = self.rng.usize(0..self.stream.len().max(1));
        let (resume, up_to, is_lost) = match (self.rng.u8(0..12), self.stream.get(any)) {
            (9, _) => {
                let position = Position::new(self.next_position + self.rng.u64(0..50));
                let mark = Mark::epoch(self.rng.u32(..));
                (Resume::After(EventId { position, mark }), None, true)
            }
            (0, _) => (Resume::Malformed, None, true),
            (1, Some(record)) => {
                let mark = Mark::epoch(self.rng.u32(..));
                let position = record.id.position;
                (Resume::After(EventId { position, mark }), None, true)
            }
            (2, _) => (Resume::After(EventId::ORIGIN), None, false),
            (3..9, Some(record)) => (Resume::After(record.id), Some(record.id.position), false),
            _ => (Resume::Never, None, false),
        };
        let last_id = match resume {
            Resume::After(id) => Some(id),
            Resume::Malformed => Some(EventId::ORIGIN),
            Resume::Never => None,
        };
        let subscription = self.hub.subscribe(scope.clone(), filter(filtered), resume);
        self.clients.push(Client {
            subscription,
            scope,
            filtered,
            up_to,
            last_id,
            passed: HashSet::new(),
            told_expired: false,
            is_lost,
            may_be_lost: is_lost,
            joined: false,
        });
    }

    async fn begin_reading(&mut self) {
        if self.active.len() < 3
            && let Ok(reading) = timeout(Duration::from_secs(2), self.readings.next()).await
        {
            let begin = reading.begin().get();
            self.active.push((reading, begin));
        }
    }

    /// A reading reads on, if it has room; one that holds up others is let go if that takes too long.
    async fn read(&mut self) {
        if self.active.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.active.len());
        let (mut reading, mut next) = self.active.swap_remove(index);
        for _ in 0..self.rng.usize(1..60) {
            match timeout(Duration::from_secs(6), reading.room()).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => break,
            }
            let record = self.stream[self.kept..]
                .iter()
                .find(|record| record.id.position.get() >= next);
            let Some(record) = record else {
                reading.asked();
                reading.ended().await;
                break;
            };
            let overtaken = self.stream[..self.kept]
                .iter()
                .any(|record| record.id.position.get() >= next);
            if overtaken && next > reading.begin().get() {
                // Whoever reads notices, and gives up: those it served look where they are.
                return;
            }
            match frame(record) {
                Some(frame) => {
                    if !reading.pass_if_for_nobody(record.id, frame.audience()) {
                        reading.publish(frame);
                    }
                }
                None => reading.pass(record.id),
            }
            next = record.id.position.get() + 1;
        }
        self.active.push((reading, next));
    }

    fn look(&mut self) {
        if !self.clients.is_empty() {
            let index = self.rng.usize(0..self.clients.len());
            let wants = match self.rng.bool() {
                true => self.rng.usize(1..5),
                false => usize::MAX,
            };
            let client = self.clients.swap_remove(index);
            let client = self.show(client, wants);
            self.clients.push(client);
        }
    }

    /// A client takes some of what there is for it; one whose stream ends comes back with its id.
    fn show(&mut self, mut client: Client, wants: usize) -> Client {
        let mut taken = 0;
        let mut context = Context::from_waker(Waker::noop());
        while taken < wants {
            let mut shown = Vec::new();
            let update = client.subscription.poll_update(&mut context, |frame| {
                shown.push(frame.id());
                taken += 1;
                match taken < wants {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            });
            for id in shown {
                self.shown(&mut client, id);
            }
            match update {
                Poll::Pending => break,
                Poll::Ready(Update::Events { .. }) => {}
                Poll::Ready(Update::Joined { checkpoint, gap }) => {
                    client.joined = true;
                    match gap {
                        Some(gap) => self.told(&mut client, gap),
                        None => assert!(!client.is_lost, "a foreign id was believed"),
                    }
                    if client.last_id.is_none() {
                        client.up_to = checkpoint
                            .filter(|id| *id != EventId::ORIGIN)
                            .map(|id| id.position);
                    }
                    client.last_id = checkpoint.or(client.last_id);
                }
                Poll::Ready(Update::Gap(gap)) => self.told(&mut client, gap),
                Poll::Ready(Update::Overrun) => {
                    client.joined = false;
                    let resume = client.last_id.map_or(Resume::Never, Resume::After);
                    let scope = client.scope.clone();
                    client.subscription =
                        self.hub.subscribe(scope, filter(client.filtered), resume);
                }
                Poll::Ready(Update::Closed) => panic!("nobody closed the hub"),
            }
        }
        if let Some(id) = client.subscription.checkpoint() {
            // It may only name a record up to which this client was shown everything, or told.
            self.check_what_was_missed(&mut client, id.position);
            client.last_id = Some(id);
            client.up_to = client
                .up_to
                .max(Some(id.position).filter(|_| id != EventId::ORIGIN));
        }
        client
    }

    fn told(&self, client: &mut Client, gap: Gap) {
        match gap.reason {
            GapReason::Slow => {
                assert_eq!(self.config.backpressure, Backpressure::DropOldest);
                let passed = self.passed(client);
                // A reader of everything is told part by part; and what an earlier gap covers is not counted.
                let is_in_parts = matches!(client.scope, Scope::Everything { .. });
                let exact = (!client.filtered).then_some(passed.len() as u64);
                assert!(
                    is_in_parts || client.told_expired || gap.missed == exact,
                    "{gap:?} {exact:?}"
                );
                client.passed.extend(passed);
            }
            GapReason::Expired => {
                assert!(self.has_expired, "a gap though nothing was removed");
                client.told_expired = true;
                // Where its record would be nothing is kept: nobody can tell.
                client.is_lost = false;
            }
            GapReason::Unknown => {
                assert!(client.may_be_lost, "a gap though the id is of this stream");
                (client.is_lost, client.may_be_lost) = (false, false);
                (client.up_to, client.told_expired) = (None, true);
            }
        }
    }

    /// What is for this client and no longer in live memory, though it is live.
    fn passed(&self, client: &Client) -> Vec<Position> {
        let log = self.hub.shared.log.lock();
        let held = |position: Position| {
            let slot = log
                .history
                .get(log.history.after(position).ordinal.wrapping_sub(1));
            slot.is_some_and(|slot| {
                slot.id.position == position && matches!(slot.content, Content::Held(..))
            })
        };
        let passed = self.stream[..self.consumed].iter().filter(|record| {
            let position = record.id.position;
            Some(position) > client.up_to
                && !client.passed.contains(&position)
                && covers(client, record)
                && !held(position)
        });
        passed.map(|record| record.id.position).collect()
    }

    /// Whatever this client was not shown before `end` it was told of; what is kept is missed only by who is slow.
    fn check_what_was_missed(&self, client: &mut Client, end: Position) {
        if let Some(missed) = self.first_missed(client, end) {
            let is_kept = self.stream[self.kept..]
                .iter()
                .any(|record| record.id.position == missed);
            assert!(
                client.told_expired && !is_kept,
                "{missed} was missed before {end}, kept: {is_kept}: {:?} up to {:?}, {:?}",
                client.scope,
                client.up_to,
                self.config
            );
        }
        client.told_expired = false;
    }

    /// The first event for this client before `end` that it was not shown.
    fn first_missed(&self, client: &Client, end: Position) -> Option<Position> {
        let missed = self.stream.iter().find(|record| {
            Some(record.id.position) > client.up_to
                && record.id.position < end
                && is_for(client, record)
                && !client.passed.contains(&record.id.position)
        });
        missed.map(|record| record.id.position)
    }

    fn shown(&self, client: &mut Client, id: EventId) {
        let record = self.stream.iter().find(|record| record.id == id).unwrap();
        assert!(is_for(client, record), "{id} is not for this client");
        assert!(Some(id.position) > client.up_to, "{id} came again or late");
        self.check_what_was_missed(client, id.position);
        client.up_to = Some(id.position);
        client.last_id = Some(id);
    }

    /// Everybody is served to the end.
    async fn settle(&mut self) {
        self.consume(usize::MAX);
        let newest = self.writer.newest();
        for _ in 0..2000 {
            let behind = self
                .clients
                .iter()
                .any(|client| client.subscription.checkpoint() != newest);
            if !behind {
                return;
            }
            for _ in 0..self.clients.len() {
                let client = self.clients.remove(0);
                let client = self.show(client, usize::MAX);
                self.clients.push(client);
            }
            self.begin_reading().await;
            tokio::time::advance(Duration::from_millis(10)).await;
            for _ in 0..self.active.len() {
                self.read().await;
            }
        }
        panic!("not everybody was served");
    }
}

fn is_for(client: &Client, record: &Record) -> bool {
    covers(client, record) && (!client.filtered || record.topic == "a")
}

fn covers(client: &Client, record: &Record) -> bool {
    let audience = record.audience.as_ref();
    audience.is_some_and(|audience| client.scope.covers(audience))
}

fn frame(record: &Record) -> Option<Frame> {
    let event = Event {
        id: record.id,
        audience: record.audience.clone()?,
        topic: record.topic.to_owned(),
        name: None,
        attributes: Attributes::default(),
        timestamp: None,
        body: Bytes::from_static(b"{}"),
    };
    Some(Frame::encode(event, Instant::now()))
}

fn filter(filtered: bool) -> Filter {
    let mut filter = Filter::default();
    if filtered {
        filter.topics.push("a".parse().unwrap());
    }
    filter
}

fn team(name: &str) -> Audience {
    Audience {
        tenant: None,
        recipient: Recipient::Team(name.parse().unwrap()),
    }
}

fn audience(rng: &mut Rng) -> Audience {
    match rng.u8(0..6) {
        0 => Audience {
            tenant: None,
            recipient: Recipient::Broadcast,
        },
        1..4 => team("7"),
        _ => team("8"),
    }
}
