//! A stretch of the log in memory: what one writer gives and many readers take. The hub has one for what is live; each
//! reading of old records fills one of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use super::channel::Channel;
use super::history::History;
use super::listeners::Listeners;
use super::registry::Registry;
use super::{Numbering, lock};
use crate::event::Break;
use crate::event::audience::Audience;
use crate::event::id::{EventId, Position};
use crate::frame::Frame;

/// What its writer and its readers share.
#[derive(Debug)]
pub(super) struct Log {
    /// One more than the position of the newest record, 0 while there is none: readers take only what is below.
    /// Stored by the writer after the event is in its ring.
    tail: AtomicU64,
    /// How often the log broke off. A reader that joined in an earlier era joins anew.
    era: AtomicU64,
    /// Readers of everything: woken by every event.
    everything: Arc<Listeners>,
    state: Mutex<State>,
}

/// What the writer changes and a joining reader must see whole: history meets live under this one lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) registry: Registry,
    pub(super) history: History,
}

impl Log {
    pub(super) fn new(numbering: Numbering) -> Self {
        let state = State {
            registry: Registry::default(),
            history: History::new(numbering),
        };
        Self {
            tail: AtomicU64::new(0),
            era: AtomicU64::new(0),
            everything: Arc::default(),
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The readers of everything.
    pub(super) fn everything(&self) -> &Arc<Listeners> {
        &self.everything
    }

    /// The position that readers must stay below.
    pub(super) fn tail(&self) -> Position {
        Position::new(self.tail.load(Ordering::Acquire))
    }

    pub(super) fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// Adds an event, and says whose it is: nobody is woken yet. `trim` holds the state to its bounds. The writer's.
    pub(super) fn push(&self, frame: Frame, trim: impl FnOnce(&mut State)) -> Arc<Channel> {
        let position = frame.id().position;
        let mut state = self.lock();
        let channel = state.registry.channel(frame.audience());
        state.history.push(frame.into(), &channel);
        trim(&mut state);
        drop(state);
        self.move_tail(position);
        channel
    }

    /// Adds a record that is nobody's event. The writer's.
    pub(super) fn pass(&self, id: EventId, now: Instant, trim: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.history.pass(id, now);
        trim(&mut state);
        drop(state);
        self.move_tail(id.position);
    }

    /// The same, unless an event for `audience` would reach somebody: then it does nothing, and says so. The writer's.
    pub(super) fn pass_if_for_nobody(
        &self,
        id: EventId,
        audience: &Audience,
        now: Instant,
    ) -> bool {
        // Whoever joins does so under this lock.
        let mut state = self.lock();
        if !self.everything.is_empty() || state.registry.has_listeners(audience) {
            return false;
        }
        state.history.pass(id, now);
        drop(state);
        self.move_tail(id.position);
        true
    }

    fn move_tail(&self, newest: Position) {
        self.tail.store(newest.get() + 1, Ordering::Release);
    }

    /// The log broke off: forgets what it held, and lets every reader know.
    pub(super) fn begin_anew(&self, what: Break, trim: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.history.begin_anew(what);
        // Readers still hold the channels there were, which get no event any more, and find that they are of the past.
        let orphans = state.registry.take();
        if what == Break::Replaced {
            self.tail.store(0, Ordering::Release);
        }
        self.era.fetch_add(1, Ordering::AcqRel);
        trim(&mut state);
        drop(state);
        for channel in orphans {
            channel.listeners().wake();
        }
        self.everything.wake();
    }

    /// Wakes every reader.
    pub(super) fn wake(&self) {
        let channels = self.lock().registry.all();
        for channel in channels {
            channel.listeners().wake();
        }
        self.everything.wake();
    }
}
