//! Serving what is no longer in memory. Those who came back for it wait at the *desk*; there they are gathered into
//! *readings* of the stream, each of which serves everybody whose cursor it passes, and when they have caught up with
//! memory they are live.
//!
//! A reading fills a log of its own, so that its readers merge, wake and join as live ones do. It differs in one thing:
//! nothing is dropped that somebody still needs. It waits for its readers instead, and lets go of one that holds up
//! others: that one comes to the desk again and goes on where it was.

mod desk;
mod reading;
mod returning;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

pub(super) use self::desk::Desk;
pub use self::desk::Readings;
pub use self::reading::Reading;
pub(super) use self::returning::{Returning, Turn};

use self::reading::Stretch;
use super::Shared;
use super::history::Located;
use super::listeners::Signal;
use super::reader::{Reader, Start};
use crate::event::id::EventId;
use crate::event::scope::Scope;

/// Cursors that are not farther than this from each other share a reading, however near the tail they are.
const NEAR: u64 = small(8192);

/// In tests of the hub bounds are small, so that few events reach them.
const fn small(bound: u64) -> u64 {
    if cfg!(test) { bound / 256 } else { bound }
}

/// Up to where a returning client has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// It has nothing: it begins with the oldest record that is kept.
    Oldest,
    /// Up to this record, which is yet to be seen.
    After(EventId),
}

impl From {
    /// The lowest position that a reading must pass to serve it.
    fn needs(self) -> u64 {
        match self {
            Self::Oldest => 0,
            Self::After(id) => id.position.get(),
        }
    }
}

/// One returning client, as its reading knows it. Dropped when the client leaves; lists hold it weakly.
#[derive(Debug)]
struct Seat {
    signal: Arc<Signal>,
    scope: Arc<Scope>,
    /// The lowest position it still needs. Moved by its client alone.
    needs: AtomicU64,
    /// It held up others.
    let_go: AtomicBool,
    /// Given to it when a reading takes it, for its client to fetch.
    place: Mutex<Option<Place>>,
    /// When it came to the desk.
    since: Instant,
}

/// A place in a reading.
#[derive(Debug)]
struct Place {
    stretch: Arc<Stretch>,
    reader: Reader,
    /// Since when the reading serves it.
    since: Instant,
}

impl Seat {
    fn needs(&self) -> u64 {
        self.needs.load(Ordering::Acquire)
    }
}

/// Whoever leaves a reading makes room in it.
impl Drop for Place {
    fn drop(&mut self) {
        self.stretch.moved.notify_one();
    }
}

/// Comes to the desk.
fn queue(shared: &Shared, scope: &Arc<Scope>, signal: &Arc<Signal>, from: From) -> Arc<Seat> {
    let seat = Arc::new(Seat {
        signal: Arc::clone(signal),
        scope: Arc::clone(scope),
        needs: AtomicU64::new(from.needs()),
        let_go: AtomicBool::new(false),
        place: Mutex::default(),
        since: Instant::now(),
    });
    shared.desk.take(&seat, shared.newest());
    seat
}

impl Shared {
    /// The newest live position.
    fn newest(&self) -> u64 {
        self.log.tail().get().saturating_sub(1)
    }

    /// Joins what is live after this record, if all that follows it for this scope is in memory.
    fn join_live(&self, id: EventId, scope: &Arc<Scope>, signal: &Arc<Signal>) -> Option<Reader> {
        let mut state = self.log.lock();
        if state.history.locate(id) != Located::Known {
            return None;
        }
        let start = match id {
            EventId::ORIGIN => Start::Oldest,
            id => Start::After(id),
        };
        let (reader, lost) = Reader::join(&self.log, &mut state, scope, signal, start);
        drop(state);
        (!lost).then_some(reader)
    }
}
