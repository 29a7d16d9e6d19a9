//! One audience's ring of events, and who listens to it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::listeners::{Listeners, Signal};
use crate::event::audience::Audience;
use crate::event::id::Position;
use crate::frame::Frame;

/// An audience's events still in memory, numbered from 0 as they came, and its listeners.
#[derive(Debug)]
pub(super) struct Channel {
    audience: Audience,
    /// Written by the writer alone, under the hub's state lock; read by every listener.
    ring: RwLock<Ring>,
    /// The number after the newest event's: lets a reader see without the lock that there is nothing new for it.
    /// Stored by the writer after the event is in the ring.
    end: AtomicU64,
    listeners: Arc<Listeners>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    /// The number of the oldest entry.
    start: u64,
    /// The position of the newest entry that was let go.
    evicted: Option<Position>,
}

/// An event in the ring.
#[derive(Debug)]
struct Entry {
    position: Position,
    /// That of its record in the history.
    ordinal: u64,
    frame: Arc<Frame>,
}

/// Where a reader is in a channel: the number of the event it takes next.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) channel: Arc<Channel>,
    next: u64,
    /// The key of the reader's signal among the channel's listeners.
    listener: usize,
}

/// What a reader finds at its cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing that is new to it.
    Empty,
    /// An event at this position.
    At(Position),
    /// The ring has passed it; so many events are gone. The cursor now stands at the oldest that is left.
    Passed(u64),
}

impl Channel {
    /// What an empty channel takes in the registry, with its map entries: an estimate from above.
    pub(super) const FOOTPRINT: usize = 512;

    pub(super) fn new(audience: Audience) -> Self {
        Self {
            audience,
            ring: RwLock::default(),
            end: AtomicU64::new(0),
            listeners: Arc::default(),
        }
    }

    pub(super) fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Adds the newest event, whose record has this ordinal in the history. The writer's.
    pub(super) fn push(&self, frame: Arc<Frame>, ordinal: u64) {
        let mut ring = self.write();
        ring.entries.push_back(Entry {
            position: frame.id().position,
            ordinal,
            frame,
        });
        self.end
            .store(ring.start + ring.entries.len() as u64, Ordering::Release);
    }

    /// Lets the oldest event go and returns it, with the ordinal of its record in the history. The writer's.
    pub(super) fn pop(&self) -> Option<(u64, Arc<Frame>)> {
        let mut ring = self.write();
        let oldest = ring.entries.pop_front()?;
        ring.start += 1;
        ring.evicted = Some(oldest.position);
        if ring.entries.is_empty() {
            ring.entries.shrink_to_fit();
        }
        Some((oldest.ordinal, oldest.frame))
    }

    pub(super) fn len(&self) -> usize {
        self.read().entries.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.read().entries.is_empty() && self.listeners.is_empty()
    }

    /// Who is woken by its events.
    pub(super) fn listeners(&self) -> &Arc<Listeners> {
        &self.listeners
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cursor {
    /// Joins after the newest event.
    pub(super) fn at_tail(channel: Arc<Channel>, signal: &Arc<Signal>) -> Self {
        let next = channel.end.load(Ordering::Acquire);
        let listener = channel.listeners.add(signal);
        Self {
            channel,
            next,
            listener,
        }
    }

    /// Joins after `position`; `None` is before the first. The flag says that events after it are gone.
    pub(super) fn after(
        channel: Arc<Channel>,
        position: Option<Position>,
        signal: &Arc<Signal>,
    ) -> (Self, bool) {
        let ring = channel.read();
        let skipped = ring
            .entries
            .partition_point(|entry| position.is_some_and(|position| entry.position <= position));
        let next = ring.start + skipped as u64;
        // `None` is before every position, on both sides.
        let lost = ring.evicted > position;
        drop(ring);
        let listener = channel.listeners.add(signal);
        (
            Self {
                channel,
                next,
                listener,
            },
            lost,
        )
    }

    /// Stops listening.
    pub(super) fn leave(&self) {
        self.channel.listeners.remove(self.listener);
    }

    /// Whether everything in the channel has been taken.
    pub(super) fn is_at_end(&self) -> bool {
        self.channel.end.load(Ordering::Acquire) == self.next
    }

    /// How many events wait, those past `is_at_end` included.
    pub(super) fn behind(&self) -> u64 {
        self.channel
            .end
            .load(Ordering::Acquire)
            .saturating_sub(self.next)
    }

    /// Looks at the next event without taking it.
    pub(super) fn head(&mut self) -> Head {
        if self.is_at_end() {
            return Head::Empty;
        }
        let ring = self.channel.read();
        if self.next < ring.start {
            let missed = ring.start - self.next;
            self.next = ring.start;
            return Head::Passed(missed);
        }
        ring.at(self.next)
            .map_or(Head::Empty, |entry| Head::At(entry.position))
    }

    /// Takes events below `bound`, in order, for as long as `visit` wants more. Stops short where the ring has passed
    /// the cursor: [`Cursor::head`] tells.
    pub(super) fn take(
        &mut self,
        bound: Position,
        visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let ring = self.channel.read();
        while self.next >= ring.start
            && let Some(entry) = ring.at(self.next)
            && entry.position < bound
        {
            self.next += 1;
            visit(&entry.frame)?;
        }
        ControlFlow::Continue(())
    }
}

impl Ring {
    fn at(&self, number: u64) -> Option<&Entry> {
        self.entries
            .get(usize::try_from(number.checked_sub(self.start)?).ok()?)
    }
}
