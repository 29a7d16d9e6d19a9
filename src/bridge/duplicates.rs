//! Which messages were seen before, by their `message_id`: producers publish again what they had no confirm for, and
//! queues deliver again what was not acknowledged.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::Message;
use crate::event::audience::Audience;

/// How many ids are remembered.
const MAX_IDS: usize = 100_000;

/// For how long.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// The ids seen lately, as keyed 64-bit hashes: about 6 MB when full. Two different ids meet with a chance of 1 in 10^14
/// each, and no producer can choose them so.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    hasher: RandomState,
    seen: HashMap<u64, Seen, BuildHasherDefault<AsItIs>>,
    /// In the order they came, with when.
    order: VecDeque<(Instant, u64)>,
    when: When,
}

/// What tells how long ago an id was seen.
#[derive(Clone, Copy, Debug, Default)]
enum When {
    /// The messages' timestamps, or, where one bears none, when they came.
    #[default]
    Arrival,
    /// Their timestamps alone.
    Timestamp,
}

/// When and where an id was seen last.
#[derive(Debug)]
struct Seen {
    at: Instant,
    timestamp: Option<u64>,
}

/// What is a keyed hash already needs no other.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Duplicates {
    /// For records that are read faster than they were published. Where one bears no timestamp nobody can say how long ago
    /// it was, and it is no repeat: to be sent twice can be mended, not to be sent cannot.
    pub(super) fn by_timestamp() -> Self {
        Self {
            when: When::Timestamp,
            ..Self::default()
        }
    }

    /// Whether a message of this id for this audience was seen before; it has been from now on. Audiences are told
    /// apart, so that an id used for several reaches each, and no tenant can silence another.
    pub(super) fn has_seen(
        &mut self,
        audience: &Audience,
        message: &Message,
        now: Instant,
    ) -> bool {
        let Some(message_id) = &message.message_id else {
            return false;
        };
        while let Some((at, oldest)) = self.order.front()
            && (self.order.len() >= MAX_IDS || now.duration_since(*at) > MAX_AGE)
        {
            // One that was seen again later stays.
            if let Entry::Occupied(entry) = self.seen.entry(*oldest)
                && entry.get().at == *at
            {
                entry.remove();
            }
            self.order.pop_front();
        }
        let id = self.hasher.hash_one((audience, message_id));
        if let Some(seen) = self.seen.get(&id)
            && self.is_near(seen, message)
        {
            return true;
        }
        let seen = Seen {
            at: now,
            timestamp: message.timestamp,
        };
        self.seen.insert(id, seen);
        self.order.push_back((now, id));
        false
    }

    fn is_near(&self, seen: &Seen, message: &Message) -> bool {
        if let (Some(first), Some(second)) = (seen.timestamp, message.timestamp) {
            return first.abs_diff(second) <= MAX_AGE.as_secs();
        }
        matches!(self.when, When::Arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::audience::Recipient;

    fn team(name: &str) -> Audience {
        Audience {
            tenant: None,
            recipient: Recipient::Team(name.parse().unwrap()),
        }
    }

    fn message(id: &str) -> Message {
        Message {
            position: None,
            routing_key: "team.7.n".into(),
            headers: Vec::new(),
            kind: None,
            message_id: Some(id.to_owned()),
            timestamp: None,
            expiration: None,
            redelivered: false,
            fault: None,
            body: bytes::Bytes::new(),
        }
    }

    #[test]
    fn an_id_is_a_repeat_for_its_audience_only() {
        let mut duplicates = Duplicates::default();
        let now = Instant::now();
        assert!(!duplicates.has_seen(&team("7"), &message("a"), now));
        assert!(duplicates.has_seen(&team("7"), &message("a"), now));
        assert!(!duplicates.has_seen(&team("7"), &message("b"), now));
        assert!(!duplicates.has_seen(&team("8"), &message("a"), now));
    }

    #[test]
    fn ids_are_forgotten_by_age_and_by_count() {
        let mut duplicates = Duplicates::default();
        let now = Instant::now();
        let later = now + MAX_AGE + Duration::from_secs(1);
        assert!(!duplicates.has_seen(&team("7"), &message("old"), now));
        assert!(!duplicates.has_seen(&team("7"), &message("old"), later));
        for number in 0..MAX_IDS {
            assert!(!duplicates.has_seen(&team("8"), &message(&number.to_string()), later));
        }
        assert!(!duplicates.has_seen(&team("7"), &message("old"), later));
        assert!(duplicates.seen.len() <= duplicates.order.len());
    }

    #[test]
    fn what_is_read_at_once_and_was_published_long_after_is_no_repeat() {
        let mut duplicates = Duplicates::by_timestamp();
        let now = Instant::now();
        let published = |seconds: u64| Message {
            timestamp: Some(seconds),
            ..message("daily")
        };
        assert!(!duplicates.has_seen(&team("7"), &published(1000), now));
        assert!(duplicates.has_seen(&team("7"), &published(1600), now));
        assert!(!duplicates.has_seen(&team("7"), &published(1601), now));
        assert!(duplicates.has_seen(&team("7"), &published(2201), now));
        // Nobody can say.
        assert!(!duplicates.has_seen(&team("7"), &message("daily"), now));
        assert!(!duplicates.has_seen(&team("7"), &message("daily"), now));
        assert!(!duplicates.has_seen(&team("7"), &published(2202), now));
        assert!(duplicates.has_seen(&team("7"), &published(2203), now));
    }
}
