//! Which messages were seen before, by their `message_id`: producers publish again what they had no confirm for, and
//! queues deliver again what was not acknowledged.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::audience::Audience;

/// How many ids are remembered.
const MAX_IDS: usize = 100_000;

/// For how long.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// The ids seen lately, as keyed 64-bit hashes: about 3 MB when full. Two different ids meet with a chance of 1 in 10^14
/// each, and no producer can choose them so.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    hasher: RandomState,
    seen: HashSet<u64>,
    /// In the order they came, with when.
    order: VecDeque<(Instant, u64)>,
}

impl Duplicates {
    /// Whether a message of this id for this audience was seen before; it has been from now on. Audiences are told
    /// apart, so that an id used for several reaches each, and no tenant can silence another.
    pub(super) fn has_seen(&mut self, audience: &Audience, message_id: &str, now: Instant) -> bool {
        while let Some((at, oldest)) = self.order.front()
            && (self.order.len() >= MAX_IDS || now.duration_since(*at) > MAX_AGE)
        {
            self.seen.remove(oldest);
            self.order.pop_front();
        }
        let id = self.hasher.hash_one((audience, message_id));
        if !self.seen.insert(id) {
            return true;
        }
        self.order.push_back((now, id));
        false
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

    #[test]
    fn an_id_is_a_repeat_for_its_audience_only() {
        let mut duplicates = Duplicates::default();
        let now = Instant::now();
        assert!(!duplicates.has_seen(&team("7"), "a", now));
        assert!(duplicates.has_seen(&team("7"), "a", now));
        assert!(!duplicates.has_seen(&team("7"), "b", now));
        assert!(!duplicates.has_seen(&team("8"), "a", now));
    }

    #[test]
    fn ids_are_forgotten_by_age_and_by_count() {
        let mut duplicates = Duplicates::default();
        let now = Instant::now();
        assert!(!duplicates.has_seen(&team("7"), "old", now));
        assert!(!duplicates.has_seen(&team("7"), "old", now + MAX_AGE + Duration::from_secs(1)));
        for number in 0..MAX_IDS {
            assert!(!duplicates.has_seen(&team("8"), &number.to_string(), now + MAX_AGE));
        }
        assert!(!duplicates.has_seen(&team("7"), "old", now + MAX_AGE));
        assert_eq!(duplicates.seen.len(), duplicates.order.len());
    }
}
