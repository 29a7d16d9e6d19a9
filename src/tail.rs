//! What became of each message, told to whoever watches: its metadata, never its body.
//!
//! Where nobody watches, a message costs one load here. Where somebody does, it goes into a ring that drops its oldest, so
//! that who watches can neither delay an event nor take more memory than the ring has. Dead letters are few and are what one
//! comes to look for: the last of them are kept for whoever comes after.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::event::address::Address;
use crate::event::id::EventId;
use crate::event::{EventName, Message, Poison};

/// Messages that wait for who watches; when there are more the oldest are dropped.
const CAPACITY: usize = 2048;

/// How many may watch at one time.
const PLACES: usize = 16;

/// Dead letters that are kept for who comes later.
pub const DEAD_LETTERS: usize = 50;

/// A message that was judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The id that it has, or would have as an event.
    pub id: EventId,
    /// When it was judged.
    pub at: SystemTime,
    /// Its routing key.
    pub topic: String,
    /// Its name, if it has a legal one.
    pub name: Option<EventName>,
    /// Whose it is; a dead letter may be nobody's.
    pub address: Option<Address>,
    /// How long its body is.
    pub bytes: usize,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its audience has it.
    Published,
    /// It stands at or before a position that was judged before.
    Seen,
    /// Its `message_id` was seen before.
    Duplicate,
    /// Its `expiration` has passed.
    Expired,
    /// It can never be delivered.
    DeadLetter(Poison),
}

impl Outcome {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Seen => "seen",
            Self::Duplicate => "duplicate",
            Self::Expired => "expired",
            Self::DeadLetter(_) => "dead_letter",
        }
    }
}

/// Where it is told. Cheap to clone: all clones are the same tail.
#[derive(Clone, Debug)]
pub struct Tail(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    judged: broadcast::Sender<Arc<Judged>>,
    places: Arc<Semaphore>,
    /// The newest last. Held while one is sent, so that who comes has each once.
    dead_letters: Mutex<VecDeque<Arc<Judged>>>,
}

impl Default for Tail {
    fn default() -> Self {
        Self(Arc::new(Shared {
            judged: broadcast::Sender::new(CAPACITY),
            places: Arc::new(Semaphore::new(PLACES)),
            dead_letters: Mutex::default(),
        }))
    }
}

impl Tail {
    /// Tells what became of a message.
    pub fn tell(
        &self,
        id: EventId,
        message: &Message,
        address: Option<&Address>,
        outcome: Outcome,
    ) {
        let is_dead_letter = matches!(outcome, Outcome::DeadLetter(_));
        if !is_dead_letter && self.0.places.available_permits() == PLACES {
            return;
        }
        let judged = Arc::new(Judged {
            id,
            at: SystemTime::now(),
            topic: message.routing_key.clone(),
            name: message.kind.as_ref().and_then(|kind| kind.parse().ok()),
            address: address.cloned(),
            bytes: message.body.len(),
            outcome,
        });
        let kept = is_dead_letter.then(|| self.keep(&judged));
        // An error says that nobody watches.
        drop(self.0.judged.send(judged));
        drop(kept);
    }

    /// Begins to watch: the dead letters that are kept, and all that is judged from now on. `None` where as many watch as may.
    #[must_use]
    pub fn watch(&self) -> Option<Watcher> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        let kept = self.dead_letters();
        Some(Watcher {
            earlier: kept.clone(),
            judged: self.0.judged.subscribe(),
            _place: place,
        })
    }

    fn keep(&self, dead_letter: &Arc<Judged>) -> MutexGuard<'_, VecDeque<Arc<Judged>>> {
        let mut kept = self.dead_letters();
        if kept.len() == DEAD_LETTERS {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(dead_letter));
        kept
    }

    fn dead_letters(&self) -> MutexGuard<'_, VecDeque<Arc<Judged>>> {
        self.0
            .dead_letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who watches, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    earlier: VecDeque<Arc<Judged>>,
    judged: broadcast::Receiver<Arc<Judged>>,
    _place: OwnedSemaphorePermit,
}

/// What a watcher finds.
#[derive(Clone, Debug)]
pub enum Told {
    /// The next message.
    Judged(Arc<Judged>),
    /// So many were dropped before it looked.
    Missed(u64),
}

impl Watcher {
    /// What was told next, if there is anything new. Never waits, so that nothing has to wake it.
    pub fn look(&mut self) -> Option<Told> {
        if let Some(earlier) = self.earlier.pop_front() {
            return Some(Told::Judged(earlier));
        }
        match self.judged.try_recv() {
            Ok(judged) => Some(Told::Judged(judged)),
            Err(TryRecvError::Lagged(missed)) => Some(Told::Missed(missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Reason;
    use crate::event::id::{Mark, Position};

    fn id(position: usize) -> EventId {
        EventId {
            position: Position::new(position as u64),
            mark: Mark::epoch(7),
        }
    }

    fn message(topic: &str) -> Message {
        Message {
            position: None,
            routing_key: topic.to_owned(),
            headers: Vec::new(),
            kind: None,
            message_id: None,
            timestamp: None,
            expiration: None,
            redelivered: false,
            fault: None,
            body: Bytes::from_static(b"a body that nobody is told"),
        }
    }

    fn dead_letter() -> Outcome {
        Outcome::DeadLetter(Poison::new(Reason::NotJson, &"not JSON at byte 0"))
    }

    fn positions(watcher: &mut Watcher) -> Vec<u64> {
        std::iter::from_fn(|| watcher.look())
            .map(|told| match told {
                Told::Judged(judged) => judged.id.position.get(),
                Told::Missed(missed) => panic!("{missed} missed"),
            })
            .collect()
    }

    #[test]
    fn who_watches_is_told_of_what_is_judged_from_then_on_and_never_of_its_body() {
        let tail = Tail::default();
        tail.tell(id(1), &message("a.b"), None, Outcome::Published);
        let mut watcher = tail.watch().unwrap();
        tail.tell(id(2), &message("a.b"), None, Outcome::Published);
        let Some(Told::Judged(judged)) = watcher.look() else {
            panic!("it was told of nothing")
        };
        assert_eq!((judged.topic.as_str(), judged.bytes), ("a.b", 26));
        assert_eq!(judged.id, id(2));
        assert!(!format!("{judged:?}").contains("nobody is told"));
        assert!(watcher.look().is_none());
    }

    #[test]
    fn where_nobody_watches_any_more_nothing_is_held() {
        let tail = Tail::default();
        let watcher = tail.watch().unwrap();
        tail.tell(id(1), &message("a"), None, Outcome::Published);
        assert_eq!(tail.0.judged.len(), 1);
        drop(watcher);
        assert_eq!(tail.0.judged.len(), 0);
        tail.tell(id(2), &message("a"), None, Outcome::Published);
        assert_eq!(tail.0.judged.len(), 0);
    }

    #[test]
    fn the_newest_dead_letters_are_kept_for_who_comes_later_and_each_is_told_once() {
        let tail = Tail::default();
        for position in 0..DEAD_LETTERS + 3 {
            tail.tell(id(position), &message("a"), None, dead_letter());
        }
        let mut watcher = tail.watch().unwrap();
        tail.tell(id(100), &message("a"), None, dead_letter());
        let expected: Vec<u64> = (3..DEAD_LETTERS as u64 + 3).chain([100]).collect();
        assert_eq!(positions(&mut watcher), expected);
    }

    #[test]
    fn who_does_not_look_misses_the_oldest_and_is_told_how_many() {
        let tail = Tail::default();
        let mut watcher = tail.watch().unwrap();
        for position in 0..CAPACITY + 5 {
            tail.tell(id(position), &message("a"), None, Outcome::Published);
        }
        assert!(matches!(watcher.look(), Some(Told::Missed(5))));
        assert_eq!(positions(&mut watcher).first(), Some(&5));
    }

    #[test]
    fn only_so_many_watch_at_one_time() {
        let tail = Tail::default();
        let mut watchers: Vec<Watcher> = (0..PLACES).map(|_| tail.watch().unwrap()).collect();
        assert!(tail.watch().is_none());
        watchers.pop();
        assert!(tail.watch().is_some());
    }
}
