//! The hub: one writer, many readers, nothing shared but what is bounded.
//!
//! An event is kept once, in a *channel* (its audience's ring: at once what its listeners are sent and what a returning
//! client is served from) and noted in the *history* (the log of all that was consumed, which bounds them all). A
//! *subscription* holds a cursor in each channel of its scope and merges them by position, so that what it yields is
//! always in log order.
//!
//! Invariants:
//! - Positions given to the [`Writer`] rise strictly; there is one writer.
//! - An event is in its channel before the tail passes its position, and a reader takes only what is below the tail it
//!   read first. Hence a merge never finds, later, an event that belonged earlier.
//! - Locks are taken in the order state, ring, listeners; none is held across an await; readers of channels never take
//!   the first.
//! - A reader never holds the writer back: rings drop their oldest, and a cursor that was passed is told.

mod registry;
mod channel;
mod history;
mod subscription;
#[cfg(test)]
mod model;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use self::subscription::{Gap, GapReason, Resume, Subscription, Update};

use self::channel::Listeners;
use self::history::History;
use self::registry::Registry;
use crate::event::Break;
use crate::event::filter::Filter;
use crate::event::id::{EventId, Mark, Position};
use crate::event::scope::Scope;
use crate::frame::Frame;
use crate::metrics::Metrics;

/// The bounds of the hub and what it does to readers that cannot keep up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// Events that one audience's ring holds; 0 is no limit but those of the whole history.
    pub channel_capacity: usize,
    /// What becomes of a reader that cannot keep up.
    pub backpressure: Backpressure,
    /// Events held in all; 0 is no limit.
    pub max_events: usize,
    /// Bytes held in all; 0 is no limit.
    pub max_bytes: usize,
    /// How long an event is held; zero is no limit.
    pub max_age: Duration,
}

/// What becomes of a reader that cannot keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backpressure {
    /// Its oldest events are dropped, and it is told how many.
    DropOldest,
    /// While it is behind, of each routing key only the newest event is kept, and it is told how many went.
    Latest,
    /// Its stream ends; the browser comes back with its last id.
    Disconnect,
}

/// Where positions come from, which decides what an id of another process means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// Offsets of a stream: the same on every replica and after every restart.
    Offsets,
    /// A count of this process alone, with its mark.
    Sequence(Mark),
}

impl Numbering {
    /// The id that stands before the first event.
    fn origin(self) -> EventId {
        match self {
            Self::Offsets => EventId::ORIGIN,
            Self::Sequence(mark) => EventId {
                position: Position::new(0),
                mark,
            },
        }
    }
}

/// The readers' side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    shared: Arc<Shared>,
}

/// The writer's side, of which there is one.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: HubConfig,
    metrics: Arc<Metrics>,
    /// One more than the position of the newest record, 0 while there is none: readers take only what is below.
    /// Stored by the writer after the event is in its ring.
    tail: AtomicU64,
    /// How often the log broke off. A reader that joined in an earlier era joins anew.
    era: AtomicU64,
    /// Set once, when the streams are to end.
    closed: AtomicBool,
    /// Readers of everything: woken by every event.
    everything: Mutex<Listeners>,
    /// Readers that wait for the history to be read.
    waiting: Mutex<Listeners>,
    state: Mutex<State>,
}

/// What the writer changes and a joining reader must see whole: history meets live under this one lock.
#[derive(Debug)]
struct State {
    registry: Registry,
    history: History,
    /// Whether the history has been read: before, readers wait.
    live: bool,
    /// How the log broke off last, if it ever did: what readers of an earlier era are told.
    break_off: Option<Break>,
}

/// Makes an empty hub.
#[must_use]
pub fn hub(config: HubConfig, numbering: Numbering, metrics: Arc<Metrics>) -> (Writer, Hub) {
    let state = State {
        registry: Registry::default(),
        history: History::new(numbering),
        live: false,
        break_off: None,
    };
    let shared = Arc::new(Shared {
        config,
        metrics,
        tail: AtomicU64::new(0),
        era: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        everything: Mutex::default(),
        waiting: Mutex::default(),
        state: Mutex::new(state),
    });
    (
        Writer {
            shared: Arc::clone(&shared),
        },
        Hub { shared },
    )
}

impl Writer {
    /// The newest record's id, of whatever became of it.
    #[must_use]
    pub fn newest(&self) -> Option<EventId> {
        self.shared.lock().history.newest()
    }

    /// Whether a record of this position, or a later one, was given before.
    #[must_use]
    pub fn has(&self, position: Position) -> bool {
        position < self.shared.tail()
    }

    /// Gives an event to its audience. Its position must be above that of every record before it.
    pub fn publish(&mut self, frame: Frame) {
        let now = frame.accepted_at();
        let position = frame.id().position;
        let mut state = self.shared.lock();
        let channel = state.registry.channel(frame.audience());
        state.history.push(Arc::new(frame), &channel);
        self.shared.trim(&mut state, now);
        drop(state);
        self.shared
            .tail
            .store(position.get() + 1, Ordering::Release);
        channel.wake();
        channel::wake(&self.shared.everything);
    }

    /// Notes a record that nobody is sent (a repeat, an expired event, poison): its id may stand in a client's hands,
    /// from a replica that judged otherwise.
    pub fn pass(&mut self, id: EventId, now: Instant) {
        let mut state = self.shared.lock();
        state.history.pass(id, now);
        self.shared.trim(&mut state, now);
        drop(state);
        self.shared
            .tail
            .store(id.position.get() + 1, Ordering::Release);
    }

    /// The history has been read: what comes now is news, and readers that waited may begin.
    pub fn caught_up(&mut self) {
        let mut state = self.shared.lock();
        state.live = true;
        state.history.settle_origin();
        drop(state);
        channel::wake(&self.shared.waiting);
    }

    /// What was given does not go on. Every reader is told of a gap and joins anew; ids from before are not believed.
    pub fn broken(&mut self, what: Break) {
        let mut state = self.shared.lock();
        state.break_off = Some(what);
        let State {
            registry, history, ..
        } = &mut *state;
        history.begin_anew(what);
        // Readers still hold the channels there were, which get no event any more, and find that they are of the past.
        let orphans = registry.take();
        if what == Break::Replaced {
            self.shared.tail.store(0, Ordering::Release);
        }
        self.shared.era.fetch_add(1, Ordering::AcqRel);
        self.shared.measure(&state);
        drop(state);
        for channel in orphans {
            channel.wake();
        }
        channel::wake(&self.shared.everything);
    }
}

impl Hub {
    /// Begins to listen. The first update says where the subscription joined; it comes at once, or when the history
    /// has been read.
    #[must_use]
    pub fn subscribe(&self, scope: Scope, filter: Filter, resume: Resume) -> Subscription {
        Subscription::new(Arc::clone(&self.shared), scope, filter, resume)
    }

    /// Ends every subscription, those that are yet to come too: each is told once, by [`Update::Closed`].
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        let channels = self.shared.lock().registry.all();
        for channel in channels {
            channel.wake();
        }
        channel::wake(&self.shared.everything);
        channel::wake(&self.shared.waiting);
    }

    /// Lets go of what is older than the history may be. Called every now and then, so that memory is given back
    /// where no event arrives to push it out.
    pub fn expire(&self, now: Instant) {
        let mut state = self.shared.lock();
        self.shared.trim(&mut state, now);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position that readers must stay below.
    fn tail(&self) -> Position {
        Position::new(self.tail.load(Ordering::Acquire))
    }

    /// Holds the history to its bounds and frees the channels that this emptied.
    fn trim(&self, state: &mut State, now: Instant) {
        let State {
            registry, history, ..
        } = state;
        history.trim(&self.config, now, |channel| registry.free_if_idle(channel));
        self.measure(state);
    }

    fn measure(&self, state: &State) {
        let State {
            registry, history, ..
        } = state;
        self.metrics.history_events.set(count(history.events()));
        self.metrics.history_bytes.set(count(history.bytes()));
        self.metrics.channels.set(count(registry.len()));
    }
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Takes a lock whether or not a task panicked under it: what it guards is changed only in steps that leave it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
