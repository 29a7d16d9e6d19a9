//! Which deliveries of a work queue are repeats: when a link breaks, the queue delivers again what it had no
//! acknowledgement for, though this process has had it. Pure: it decides, the consumer acts.
//!
//! The queue gives no number to a message that outlives a link, so it is known again by what it is. Only a delivery
//! that the broker marks as redelivered can be a repeat, and each that was had before excuses one of them: two equal
//! messages stay two. What does not come again soon after a link was lost, the broker has let go of, and it is forgotten:
//! it must not excuse an equal one that is redelivered another day.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::event::{HeaderValue, Message};

/// How many links may be lost while the broker still holds what they left open, before the oldest is forgotten. It
/// notices a link that fell silent only after two heartbeats.
const LINKS: usize = 4;
/// Headers that a quorum queue adds when it delivers again.
const ADDED: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// What is known of the deliveries of a work queue. Lives as long as the process, across links.
#[derive(Debug)]
pub(super) struct Redeliveries {
    /// Of this link, in the order of their tags: those that the broker may yet hold. At most the prefetch.
    open: VecDeque<Had>,
    /// Of the links before, in the order they came: those that may come again. At most [`LINKS`] times the prefetch.
    before: VecDeque<Had>,
    prefetch: usize,
    /// How many dead letters there were.
    letters: u64,
}

/// A delivery that was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Had {
    tag: u64,
    fingerprint: Fingerprint,
    fate: Fate,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was handed over and needs nothing more, or its dead letter is confirmed.
    Done,
    UnderWay(LetterId),
}

/// A dead letter of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LetterId(u64);

/// What a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// To be handed over.
    New,
    /// It was handed over, or its dead letter is confirmed: to be settled.
    Done,
    /// Its dead letter is under way; settled with that.
    Waits,
}

impl Redeliveries {
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            open: VecDeque::new(),
            before: VecDeque::new(),
            prefetch: usize::from(prefetch.max(1)),
            letters: 0,
        }
    }

    /// Takes note of a delivery, and says what it is.
    pub(super) fn deliver(
        &mut self,
        tag: u64,
        fingerprint: Fingerprint,
        is_redelivered: bool,
    ) -> Arrival {
        let known = is_redelivered.then(|| self.recall(fingerprint)).flatten();
        let fate = known.map_or(Fate::Done, |had| had.fate);
        if self.open.len() == self.prefetch {
            // The broker holds no more than that: it has had the acknowledgement of this one.
            self.open.pop_front();
        }
        self.open.push_back(Had {
            tag,
            fingerprint,
            fate,
        });
        match (known, fate) {
            (None, _) => Arrival::New,
            (Some(_), Fate::Done) => Arrival::Done,
            (Some(_), Fate::UnderWay(_)) => Arrival::Waits,
        }
    }

    /// Whether anything of the links before may come again.
    pub(super) fn expects(&self) -> bool {
        !self.before.is_empty()
    }

    /// What has not come again by now will not.
    pub(super) fn forget_before(&mut self) {
        self.before.clear();
    }

    fn recall(&mut self, fingerprint: Fingerprint) -> Option<Had> {
        // They come again in their order: the first that fits is near the front.
        let index = self
            .before
            .iter()
            .position(|had| had.fingerprint == fingerprint)?;
        self.before.remove(index)
    }

    /// The delivery that came last is being dead-lettered.
    pub(super) fn poisoned(&mut self) -> LetterId {
        self.letters += 1;
        let letter = LetterId(self.letters);
        if let Some(had) = self.open.back_mut() {
            had.fate = Fate::UnderWay(letter);
        }
        letter
    }

    /// A dead letter is confirmed. The tag of the delivery that waits for it, if that is of this link.
    pub(super) fn confirmed(&mut self, letter: LetterId) -> Option<u64> {
        let waits = |had: &&mut Had| had.fate == Fate::UnderWay(letter);
        if let Some(had) = self.open.iter_mut().find(waits) {
            had.fate = Fate::Done;
            return Some(had.tag);
        }
        if let Some(had) = self.before.iter_mut().find(waits) {
            had.fate = Fate::Done;
        }
        None
    }

    /// The broker has had the acknowledgement of this tag and all below: they cannot come again.
    pub(super) fn acknowledged(&mut self, tag: u64) {
        while self.open.front().is_some_and(|had| had.tag <= tag) {
            self.open.pop_front();
        }
    }

    /// The link is lost: what the broker may yet hold comes again.
    pub(super) fn link_is_lost(&mut self) {
        self.before.append(&mut self.open);
        let most = self.prefetch.saturating_mul(LINKS);
        let surplus = self.before.len().saturating_sub(most);
        self.before.drain(..surplus);
    }
}

/// What a message is known again by: XXH3 (64 bits) of all that its producer gave it. Two different messages of the
/// few that are compared meet with a chance of 1 in 10^16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn of(message: &Message) -> Self {
        let Message {
            position: _,
            redelivered: _,
            fault: _,
            routing_key,
            headers,
            kind,
            message_id,
            timestamp,
            expiration,
            body,
        } = message;
        let mut hash = xxh3_64_with_seed(routing_key.as_bytes(), 0);
        // Each part is seeded with the hash before it, and what may be absent says whether it is there.
        let mut part = |number: u64, text: Option<&[u8]>| {
            let seed = hash.rotate_left(1) ^ (number << 1 | u64::from(text.is_some()));
            hash = xxh3_64_with_seed(text.unwrap_or_default(), seed);
        };
        part(1, kind.as_deref().map(str::as_bytes));
        part(2, message_id.as_deref().map(str::as_bytes));
        part(
            3,
            timestamp
                .map(u64::to_le_bytes)
                .as_ref()
                .map(<[u8; 8]>::as_slice),
        );
        part(4, expiration.as_deref().map(str::as_bytes));
        for (name, value) in headers {
            if ADDED.contains(&name.as_str()) {
                continue;
            }
            part(5, Some(name.as_bytes()));
            match value {
                HeaderValue::Text(text) => part(6, Some(text.as_bytes())),
                HeaderValue::Integer(number) => part(7, Some(&number.to_le_bytes())),
                HeaderValue::Other(name) => part(8, Some(name.as_bytes())),
            }
        }
        part(9, Some(body));
        Self(hash)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const PREFETCH: u16 = 8;

    fn print(number: u64) -> Fingerprint {
        Fingerprint(number)
    }

    /// One whose link was lost after it had taken these.
    fn lost_after(messages: impl IntoIterator<Item = u64>) -> Redeliveries {
        let mut redeliveries = Redeliveries::new(PREFETCH);
        for (tag, message) in (1..).zip(messages) {
            let arrival = redeliveries.deliver(tag, print(message), false);
            assert_eq!(arrival, Arrival::New);
        }
        redeliveries.link_is_lost();
        redeliveries
    }

    #[test]
    fn what_comes_again_after_a_link_was_lost_is_known_once() {
        let mut redeliveries = lost_after([1, 2, 3]);
        assert_eq!(redeliveries.deliver(1, print(2), true), Arrival::Done);
        assert_eq!(redeliveries.deliver(2, print(3), true), Arrival::Done);
        assert_eq!(redeliveries.deliver(3, print(3), true), Arrival::New);
        assert_eq!(
            redeliveries.deliver(4, print(4), true),
            Arrival::New,
            "it was on its way when the link broke"
        );
    }

    #[test]
    fn what_is_not_marked_as_redelivered_is_never_a_repeat() {
        let mut redeliveries = lost_after([1]);
        assert_eq!(redeliveries.deliver(1, print(1), false), Arrival::New);
        assert_eq!(redeliveries.deliver(2, print(1), true), Arrival::Done);
    }

    #[test]
    fn equal_messages_are_counted() {
        let mut redeliveries = lost_after([7, 7]);
        let arrivals: Vec<_> = (1..=3)
            .map(|tag| redeliveries.deliver(tag, print(7), true))
            .collect();
        assert_eq!(arrivals, [Arrival::Done, Arrival::Done, Arrival::New]);
    }

    #[test]
    fn what_the_broker_had_the_acknowledgement_of_does_not_excuse_an_equal_one() {
        let mut redeliveries = Redeliveries::new(PREFETCH);
        redeliveries.deliver(1, print(7), false);
        redeliveries.deliver(2, print(8), false);
        redeliveries.acknowledged(1);
        redeliveries.link_is_lost();
        assert_eq!(redeliveries.deliver(1, print(7), true), Arrival::New);
        assert_eq!(redeliveries.deliver(2, print(8), true), Arrival::Done);
    }

    #[test]
    fn what_has_not_come_again_in_time_does_not_excuse_an_equal_one() {
        let mut redeliveries = lost_after([1, 2]);
        assert!(redeliveries.expects());
        assert_eq!(redeliveries.deliver(1, print(2), true), Arrival::Done);
        redeliveries.forget_before();
        assert!(!redeliveries.expects());
        assert_eq!(redeliveries.deliver(2, print(1), true), Arrival::New);
        redeliveries.link_is_lost();
        assert_eq!(redeliveries.deliver(1, print(2), true), Arrival::Done);
    }

    #[test]
    fn a_repeat_may_be_repeated_when_the_next_link_is_lost_too() {
        let mut redeliveries = lost_after([1, 2]);
        assert_eq!(redeliveries.deliver(1, print(1), true), Arrival::Done);
        redeliveries.link_is_lost();
        assert_eq!(redeliveries.deliver(1, print(1), true), Arrival::Done);
        assert_eq!(redeliveries.deliver(2, print(2), true), Arrival::Done);
    }

    #[test]
    fn a_dead_letter_goes_on_across_links_and_is_not_written_again() {
        let mut redeliveries = Redeliveries::new(PREFETCH);
        redeliveries.deliver(1, print(1), false);
        let first = redeliveries.poisoned();
        redeliveries.deliver(2, print(2), false);
        let second = redeliveries.poisoned();
        redeliveries.link_is_lost();
        assert_eq!(redeliveries.confirmed(first), None);
        assert_eq!(redeliveries.deliver(1, print(1), true), Arrival::Done);
        assert_eq!(redeliveries.deliver(2, print(2), true), Arrival::Waits);
        assert_eq!(redeliveries.confirmed(second), Some(2));
        assert_eq!(redeliveries.confirmed(second), None, "once");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut redeliveries = Redeliveries::new(PREFETCH);
        for _ in 0..3 * LINKS {
            for tag in 1..=100 {
                redeliveries.deliver(tag, print(tag), false);
            }
            assert_eq!(redeliveries.open.len(), usize::from(PREFETCH));
            redeliveries.link_is_lost();
        }
        assert_eq!(redeliveries.before.len(), LINKS * usize::from(PREFETCH));
    }

    /// A queue as RabbitMQ keeps it: what is delivered and not acknowledged comes again first, in order.
    struct Queue {
        ready: VecDeque<(u64, bool)>,
        unacknowledged: VecDeque<u64>,
    }

    proptest! {
        #[test]
        fn whatever_is_cut_where_each_message_is_handed_over_once_and_in_order(
            links in prop::collection::vec((0..12_usize, 0..12_usize, 0..12_usize), 1..12),
        ) {
            let mut queue = Queue {
                ready: (0..200).map(|message| (message, false)).collect(),
                unacknowledged: VecDeque::new(),
            };
            let mut redeliveries = Redeliveries::new(PREFETCH);
            let mut handed_over = Vec::new();
            // The last link lives until everything is consumed.
            let last = (usize::MAX, usize::MAX, usize::MAX);
            for (received, acknowledged, known) in links.into_iter().chain([last]) {
                let (mut tag, mut told) = (0, 0);
                while tag < received as u64 {
                    let Some((message, redelivered)) = queue.ready.pop_front() else { break };
                    queue.unacknowledged.push_back(message);
                    tag += 1;
                    if redeliveries.deliver(tag, print(message), redelivered) == Arrival::New {
                        handed_over.push(message);
                    }
                    // Acks that the broker has are fewer than those sent, and those known to be had fewer still.
                    if queue.unacknowledged.len() == usize::from(PREFETCH) || acknowledged as u64 > told {
                        queue.unacknowledged.pop_front();
                        told += 1;
                        redeliveries.acknowledged(told.min(known as u64));
                    }
                }
                // Some more are on their way when the link breaks.
                while queue.unacknowledged.len() < usize::from(PREFETCH)
                    && let Some((message, _)) = queue.ready.pop_front()
                {
                    queue.unacknowledged.push_back(message);
                }
                for message in queue.unacknowledged.drain(..).rev() {
                    queue.ready.push_front((message, true));
                }
                redeliveries.link_is_lost();
            }
            prop_assert_eq!(handed_over, (0..200).collect::<Vec<_>>());
        }
    }

    fn message() -> Message {
        Message {
            position: None,
            routing_key: "team.7.x".to_owned(),
            headers: vec![("a".to_owned(), HeaderValue::Text("b".to_owned()))],
            kind: None,
            message_id: None,
            timestamp: None,
            expiration: None,
            redelivered: false,
            fault: None,
            body: Bytes::from_static(b"1"),
        }
    }

    #[test]
    fn a_fingerprint_is_of_all_that_the_producer_gave_and_of_nothing_the_broker_adds() {
        let plain = message();
        let header = |name: &str, value| (name.to_owned(), value);
        let mut again = plain.clone();
        again.redelivered = true;
        again
            .headers
            .push(header("x-delivery-count", HeaderValue::Integer(1)));
        assert_eq!(Fingerprint::of(&again), Fingerprint::of(&plain));

        let changes: [fn(&mut Message); 9] = [
            |message| message.routing_key.push('y'),
            |message| message.kind = Some(String::new()),
            |message| message.message_id = Some(String::new()),
            |message| message.timestamp = Some(0),
            |message| message.expiration = Some("1".to_owned()),
            |message| message.headers.clear(),
            |message| message.headers[0].1 = HeaderValue::Other("b"),
            |message| message.headers[0].1 = HeaderValue::Integer(98),
            |message| message.body = Bytes::from_static(b"2"),
        ];
        let mut seen = vec![Fingerprint::of(&plain)];
        for change in changes {
            let mut changed = plain.clone();
            change(&mut changed);
            let fingerprint = Fingerprint::of(&changed);
            assert!(!seen.contains(&fingerprint), "{changed:?}");
            seen.push(fingerprint);
        }
    }
}
