//! Which deliveries of one channel are settled, and up to which tag the broker may be told so. Pure bookkeeping.

use std::collections::VecDeque;

use crate::event::id::Position;

/// The deliveries of one channel that the broker has not been told about, in the order of their tags.
///
/// An ack with `multiple` settles its tag and all below it (AMQP 0-9-1 §1.8.3.13), so one delivery that waits for its
/// dead letter holds back those behind it. How many may wait is bounded by the prefetch, which the broker keeps.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    /// From the lowest tag up. The front is unsettled: what is settled at the front moves to `acknowledgeable`.
    open: VecDeque<Delivered>,
    /// The highest tag below which all is settled, and how many the broker has not been told of.
    acknowledgeable: Option<(u64, usize)>,
}

#[derive(Debug)]
struct Delivered {
    tag: u64,
    position: Option<Position>,
    settled: bool,
}

impl Settlements {
    /// Takes note of a delivery. Tags rise by one on a channel, from 1.
    pub(super) fn deliver(&mut self, tag: u64, position: Option<Position>) {
        self.open.push_back(Delivered {
            tag,
            position,
            settled: false,
        });
    }

    /// This delivery needs nothing more. Unknown tags are passed over.
    pub(super) fn settle(&mut self, tag: u64) {
        let Some(front) = self.open.front() else {
            return;
        };
        let index = tag
            .checked_sub(front.tag)
            .and_then(|index| usize::try_from(index).ok());
        let Some(delivered) = index.and_then(|index| self.open.get_mut(index)) else {
            return;
        };
        if delivered.settled {
            return;
        }
        delivered.settled = true;
        while let Some(Delivered {
            tag, settled: true, ..
        }) = self.open.front()
        {
            let waiting = self.acknowledgeable.map_or(0, |(_, waiting)| waiting);
            self.acknowledgeable = Some((*tag, waiting + 1));
            self.open.pop_front();
        }
    }

    /// How many deliveries an ack would settle at the broker now.
    pub(super) fn due(&self) -> usize {
        self.acknowledgeable.map_or(0, |(_, waiting)| waiting)
    }

    /// The tag to acknowledge with `multiple`, once.
    pub(super) fn take_due(&mut self) -> Option<u64> {
        self.acknowledgeable.take().map(|(tag, _)| tag)
    }

    /// How many deliveries the broker was not told about: those that wait, what stands behind them, and what is due.
    pub(super) fn unacknowledged(&self) -> usize {
        self.open.len() + self.due()
    }

    /// The lowest position that waits to be settled.
    pub(super) fn lowest_unsettled(&self) -> Option<Position> {
        self.open.front().and_then(|delivered| delivered.position)
    }

    /// The tag of the delivery at this position, if it is still open.
    pub(super) fn tag_of(&self, position: Position) -> Option<u64> {
        self.open
            .iter()
            .find(|delivered| delivered.position == Some(position))
            .map(|delivered| delivered.tag)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delivered(tags: std::ops::RangeInclusive<u64>) -> Settlements {
        let mut settlements = Settlements::default();
        for tag in tags {
            settlements.deliver(tag, Some(Position::new(100 + 2 * tag)));
        }
        settlements
    }

    #[test]
    fn what_is_settled_in_order_is_acknowledged_at_once_up_to_the_last() {
        let mut settlements = delivered(1..=3);
        assert_eq!((settlements.due(), settlements.unacknowledged()), (0, 3));
        settlements.settle(1);
        settlements.settle(2);
        assert_eq!((settlements.due(), settlements.unacknowledged()), (2, 3));
        assert_eq!(settlements.take_due(), Some(2));
        assert_eq!(settlements.unacknowledged(), 1);
        assert_eq!(settlements.take_due(), None);
        assert_eq!(settlements.lowest_unsettled(), Some(Position::new(106)));
        settlements.settle(3);
        assert_eq!(settlements.take_due(), Some(3));
        assert_eq!(settlements.lowest_unsettled(), None);
    }

    #[test]
    fn one_that_waits_holds_back_those_behind_it() {
        let mut settlements = delivered(1..=4);
        settlements.settle(2);
        settlements.settle(4);
        assert_eq!(settlements.take_due(), None);
        assert_eq!(settlements.lowest_unsettled(), Some(Position::new(102)));
        settlements.settle(1);
        assert_eq!(settlements.take_due(), Some(2));
        assert_eq!(settlements.tag_of(Position::new(106)), Some(3));
        assert_eq!(settlements.tag_of(Position::new(102)), None);
        settlements.settle(3);
        assert_eq!(settlements.take_due(), Some(4));
    }

    #[test]
    fn settling_twice_or_what_was_never_delivered_changes_nothing() {
        let mut settlements = delivered(1..=2);
        for tag in [0, 2, 2, 3, u64::MAX] {
            settlements.settle(tag);
        }
        assert_eq!((settlements.due(), settlements.unacknowledged()), (0, 2));
        settlements.settle(1);
        settlements.settle(1);
        assert_eq!(settlements.take_due(), Some(2));
    }

    proptest! {
        #[test]
        fn in_whatever_order_they_settle_nothing_unsettled_is_acknowledged_and_all_is_in_the_end(
            order in Just((1..=64_u64).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let mut settlements = delivered(1..=64);
            let mut settled = std::collections::BTreeSet::new();
            let mut acknowledged = 0;
            for tag in order {
                settlements.settle(tag);
                settled.insert(tag);
                if let Some(up_to) = settlements.take_due() {
                    prop_assert!(up_to > acknowledged);
                    prop_assert!((1..=up_to).all(|tag| settled.contains(&tag)));
                    acknowledged = up_to;
                }
                prop_assert_eq!(settlements.unacknowledged() as u64, 64 - acknowledged);
            }
            prop_assert_eq!(acknowledged, 64);
        }
    }
}
