//! The hub: one writer, many readers, nothing shared but what is bounded.
//!
//! An event is kept once, in a *channel* (its audience's ring: at once what its listeners are sent and what a returning
//! client is served from) and noted in the *history* (the log of all that was consumed, which bounds them all). A
//! *reader* holds a cursor in each channel of its scope and merges them by position, so that what it yields is
//! always in log order. A *subscription* is one client's way through this: it waits for the history to be read, is
//! served from a *reading* of the stream while what it came back for is no longer in memory, and then is live.
//!
//! Invariants:
//! - Positions given to the [`Writer`] rise strictly; there is one writer.
//! - An event is in its channel before the tail passes its position, and a reader takes only what is below the tail it
//!   read first. Hence a merge never finds, later, an event that belonged earlier.
//! - Locks are taken in the order standing, desk, attached, state of a log, ring, listeners; none is held across an
//!   await.
//! - A reader never holds the writer back: rings drop their oldest, and a cursor that was passed is told. A reading waits
//!   for those it serves, and lets go of one that holds up the others.

mod registry;
mod listeners;
mod channel;
mod history;
mod log;
mod reader;
mod read_back;
mod subscription;
#[cfg(test)]
mod model;
#[cfg(test)]
mod read_back_model;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use self::listeners::Flusher;
pub use self::read_back::{Reading, Readings};
pub use self::subscription::{Gap, GapReason, Resume, Subscription, Update};

use self::listeners::{Flush, Listeners};
use self::log::{Log, State};
use self::read_back::Desk;
use crate::event::Break;
use crate::event::audience::Audience;
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
    /// Events of one audience that come closer than this are given to its readers together; zero: each at once. Else
    /// somebody must run [`Hub::flusher`].
    pub flush_window: Duration,
    /// Whether what is no longer held can be read back: then somebody must serve [`Hub::readings`]. Only the offsets of
    /// a stream can be.
    pub reads_back: bool,
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
    log: Arc<Log>,
    flush: Flush,
    /// Set once, when the streams are to end.
    closed: AtomicBool,
    /// Readers that wait for the history to be read.
    waiting: Listeners,
    standing: Mutex<Standing>,
    /// Where those wait who came back for what is no longer in memory.
    desk: Desk,
}

/// How the log stands. A reader joins under this lock and that of the log's state.
#[derive(Debug, Default)]
struct Standing {
    /// Whether the history has been read: before, readers wait.
    live: bool,
    /// How the log broke off last, if it ever did: what readers of an earlier era are told.
    break_off: Option<Break>,
}

/// Makes an empty hub.
#[must_use]
pub fn hub(config: HubConfig, numbering: Numbering, metrics: Arc<Metrics>) -> (Writer, Hub) {
    let shared = Arc::new(Shared {
        flush: Flush::new(config.flush_window),
        config,
        metrics,
        log: Arc::new(Log::new(numbering)),
        closed: AtomicBool::new(false),
        waiting: Listeners::default(),
        standing: Mutex::default(),
        desk: Desk::default(),
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
        self.shared.log.lock().history.newest()
    }

    /// Whether a record of this position, or a later one, was given before.
    #[must_use]
    pub fn has(&self, position: Position) -> bool {
        position < self.shared.log.tail()
    }

    /// Gives an event to its audience. Its position must be above that of every record before it.
    pub fn publish(&mut self, frame: Frame) {
        let now = frame.accepted_at();
        let log = &self.shared.log;
        let channel = log.push(frame, |state| self.shared.trim(state, now));
        self.shared.flush.event(channel.listeners(), now);
        self.shared.flush.event(log.everything(), now);
    }

    /// Notes a record that nobody is sent (a repeat, an expired event, poison): its id may stand in a client's hands,
    /// from a replica that judged otherwise.
    pub fn pass(&mut self, id: EventId, now: Instant) {
        self.shared
            .log
            .pass(id, now, |state| self.shared.trim(state, now));
    }

    /// The history has been read: what comes now is news, and readers that waited may begin.
    pub fn caught_up(&mut self) {
        let mut standing = lock(&self.shared.standing);
        standing.live = true;
        self.shared.log.lock().history.settle_origin();
        drop(standing);
        self.shared.waiting.wake();
    }

    /// What was given does not go on. Every reader is told of a gap and joins anew; ids from before are not believed.
    pub fn broken(&mut self, what: Break) {
        let mut standing = lock(&self.shared.standing);
        standing.break_off = Some(what);
        self.shared
            .log
            .begin_anew(what, |state| self.shared.measure(state));
        drop(standing);
        self.shared.desk.wake();
    }
}

impl Hub {
    /// Begins to listen. The first update says where the subscription joined; it comes at once, or when the history
    /// has been read, or when what the client came back for is being read back.
    #[must_use]
    pub fn subscribe(&self, scope: Scope, filter: Filter, resume: Resume) -> Subscription {
        Subscription::new(Arc::clone(&self.shared), scope, filter, resume)
    }

    /// How many subscriptions an event for this audience reaches, if their filters let it through.
    #[must_use]
    pub fn listeners(&self, audience: &Audience) -> usize {
        let log = &self.shared.log;
        let of_everything = log.everything().len();
        of_everything + log.lock().registry.listeners(audience)
    }

    /// Who waits for what is no longer in memory. To be served by one task.
    #[must_use]
    pub fn readings(&self) -> Readings {
        Readings::new(Arc::clone(&self.shared))
    }

    /// Who wakes readers when the flush window ends. To be run by one task.
    #[must_use]
    pub fn flusher(&self) -> Flusher {
        Flusher::new(Arc::clone(&self.shared))
    }

    /// Ends every subscription, those that are yet to come too: each is told once, by [`Update::Closed`].
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.log.wake();
        self.shared.desk.wake();
        self.shared.waiting.wake();
    }

    /// Lets go of what is older than the history may be. Called every now and then, so that memory is given back
    /// where no event arrives to push it out.
    pub fn expire(&self, now: Instant) {
        self.shared.trim(&mut self.shared.log.lock(), now);
    }
}

impl Shared {
    /// Holds the history to its bounds and frees the channels that this emptied.
    fn trim(&self, state: &mut State, now: Instant) {
        let State { registry, history } = state;
        history.trim(&self.config, now, |channel| registry.free_if_idle(channel));
        self.measure(state);
    }

    fn measure(&self, state: &State) {
        let State { registry, history } = state;
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
