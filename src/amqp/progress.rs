//! How far a stream has been read, across links: where to begin, when history ends, and what a delivery is in the
//! light of that. Pure: it decides, the consumer acts.

use std::time::Duration;

use crate::event::id::{Mark, Position};

/// Where a subscription begins (`x-stream-offset`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    /// At the oldest record that is kept.
    First,
    /// This far back.
    Age(Duration),
    /// At this record.
    At(Position),
}

/// What the consumer knows of the stream it reads. Lives as long as the process.
#[derive(Debug)]
pub(super) struct Progress {
    /// How far back the first start begins.
    history: Duration,
    warm_up: WarmUp,
    /// The newest record that was handed to the intake, and its mark: at the next link it must be there still.
    last: Option<(Position, Mark)>,
    /// The lowest record that was not settled when that was last looked at, at the latest when a link was lost.
    lowest_unsettled: Option<Position>,
    /// Whether this link has shown that the stream is the one that was read before.
    recognised: bool,
    /// The record after which positions skip, if that has been looked into.
    skip_after: Option<Position>,
}

/// How the first start stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WarmUp {
    /// Nobody knows yet where history ends.
    Unknown,
    /// History ends with the record `tail`.
    Reading {
        tail: Position,
        by_age: bool,
    },
    Over,
}

/// What a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// For the intake.
    Accept {
        /// History ends before it, and this is the first to show that.
        news: bool,
        /// Records before it are gone: retention was faster than we were.
        lost: bool,
    },
    /// The record that was read last, at which this link began or which it passes again.
    Known,
    /// The age led past the tail: to be subscribed again, at the tail.
    PastTail,
    /// Positions skip. A stream does so where a segment begins, but also where retention was faster than we were: to be
    /// subscribed again, at the last record, which shows whether that is still kept and so all that followed it.
    Skipped,
    /// The record at this position is another than it was: the stream was deleted and made anew.
    AnotherStream,
}

impl Progress {
    pub(super) fn new(history: Duration) -> Self {
        Self {
            history,
            warm_up: WarmUp::Unknown,
            last: None,
            lowest_unsettled: None,
            recognised: false,
            skip_after: None,
        }
    }

    /// Whether the tail must be looked for before anything is read.
    pub(super) fn needs_tail(&self) -> bool {
        self.warm_up == WarmUp::Unknown
    }

    /// The tail was looked for: the newest record at the first start, or none, and then there is no history.
    pub(super) fn found_tail(&mut self, tail: Option<Position>) {
        self.warm_up = match tail {
            Some(tail) => WarmUp::Reading {
                tail,
                by_age: !self.history.is_zero(),
            },
            None => WarmUp::Over,
        };
    }

    /// Where the next subscription begins.
    pub(super) fn offset(&self) -> Offset {
        match (self.last, self.warm_up) {
            (Some((last, _)), _) => Offset::At(
                self.lowest_unsettled
                    .map_or(last, |lowest| lowest.min(last)),
            ),
            (None, WarmUp::Reading { by_age: true, .. }) => Offset::Age(self.history),
            (
                None,
                WarmUp::Reading {
                    tail,
                    by_age: false,
                },
            ) => Offset::At(tail),
            (None, WarmUp::Unknown | WarmUp::Over) => Offset::First,
        }
    }

    /// A subscription begins.
    pub(super) fn begin(&mut self) {
        self.recognised = self.last.is_none();
    }

    /// What this delivery is.
    pub(super) fn judge(&mut self, position: Position, mark: Mark) -> Arrival {
        match self.last {
            None => match self.warm_up {
                WarmUp::Reading { tail, by_age: true } if position > tail => {
                    self.warm_up = WarmUp::Reading {
                        tail,
                        by_age: false,
                    };
                    Arrival::PastTail
                }
                _ => self.accept(position, mark, false),
            },
            Some((last, known)) if position == last => {
                if known != mark {
                    return Arrival::AnotherStream;
                }
                self.recognised = true;
                Arrival::Known
            }
            Some((last, _)) if position < last => {
                // Handed over before: the intake knows it again.
                Arrival::Accept {
                    news: false,
                    lost: false,
                }
            }
            Some((last, _))
                if self.recognised
                    && position.get() > last.get() + 1
                    && self.skip_after != Some(last) =>
            {
                self.skip_after = Some(last);
                Arrival::Skipped
            }
            Some(_) => {
                // A link begins at the last record or below: where it does not come, neither did what followed it.
                let lost = !self.recognised;
                self.recognised = true;
                self.accept(position, mark, lost)
            }
        }
    }

    fn accept(&mut self, position: Position, mark: Mark, lost: bool) -> Arrival {
        self.last = Some((position, mark));
        let news = self.end_warm_up_before(position);
        Arrival::Accept { news, lost }
    }

    fn end_warm_up_before(&mut self, position: Position) -> bool {
        match self.warm_up {
            WarmUp::Reading { tail, .. } if position > tail => {
                self.warm_up = WarmUp::Over;
                true
            }
            _ => false,
        }
    }

    /// The delivery at this position was handed over. True if history ends with it.
    pub(super) fn handed_over(&mut self, position: Position) -> bool {
        match self.warm_up {
            WarmUp::Reading { tail, .. } if position == tail => {
                self.warm_up = WarmUp::Over;
                true
            }
            _ => false,
        }
    }

    /// Whether subscriptions begin at a record that was read, which must therefore be there.
    pub(super) fn offset_is_known(&self) -> bool {
        self.last.is_some()
    }

    /// Nothing came at the beginning of a subscription. True if that ends history.
    pub(super) fn nothing_came(&mut self) -> bool {
        match self.warm_up {
            WarmUp::Reading { tail, by_age: true } if self.last.is_none() => {
                self.warm_up = WarmUp::Reading {
                    tail,
                    by_age: false,
                };
                false
            }
            WarmUp::Reading { .. } if self.last.is_none() => {
                self.warm_up = WarmUp::Over;
                true
            }
            _ => false,
        }
    }

    /// Whether the stream with this tail has records that were not read yet.
    pub(super) fn is_behind(&self, tail: Position) -> bool {
        self.last.is_some_and(|(last, _)| tail > last)
    }

    /// Whether the stream with this tail is another than the one that was read, as it is shorter. One that seems to
    /// have no records at all shows nothing: a broker that has just started says so of every stream.
    pub(super) fn is_another(&self, tail: Position) -> bool {
        self.last.is_some_and(|(last, _)| tail < last)
    }

    /// The stream was made anew: all of it is news.
    pub(super) fn start_over(&mut self) {
        *self = Self {
            warm_up: WarmUp::Over,
            ..Self::new(self.history)
        };
    }

    /// This is the lowest unsettled record now, of all that were delivered on this link.
    pub(super) fn settled_below(&mut self, lowest_unsettled: Option<Position>) {
        // Until this link has delivered all that the one before it left open, it knows less than that one.
        if self.recognised {
            self.lowest_unsettled = lowest_unsettled;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: Duration = Duration::from_secs(600);
    const ACCEPT: Arrival = Arrival::Accept {
        news: false,
        lost: false,
    };
    const FIRST_NEWS: Arrival = Arrival::Accept {
        news: true,
        lost: false,
    };
    const AFTER_LOSS: Arrival = Arrival::Accept {
        news: false,
        lost: true,
    };

    fn at(position: u64) -> Position {
        Position::new(position)
    }

    fn mark(position: u64) -> Mark {
        Mark::of_record(at(position), "key", None, None, b"body")
    }

    fn judge(progress: &mut Progress, position: u64) -> Arrival {
        progress.judge(at(position), mark(position))
    }

    /// A stream that was read up to here, warm-up over.
    fn read_up_to(position: u64) -> Progress {
        let mut progress = Progress::new(HISTORY);
        progress.found_tail(None);
        progress.begin();
        for position in 1..=position {
            judge(&mut progress, position);
        }
        progress
    }

    #[test]
    fn an_empty_stream_begins_at_its_first_record_and_all_is_news() {
        let mut progress = Progress::new(HISTORY);
        assert!(progress.needs_tail());
        progress.found_tail(None);
        assert_eq!(progress.offset(), Offset::First);
        progress.begin();
        assert_eq!(judge(&mut progress, 0), ACCEPT);
        assert!(!progress.handed_over(at(0)));
    }

    #[test]
    fn a_warm_up_begins_by_age_and_ends_with_the_tail() {
        let mut progress = Progress::new(HISTORY);
        progress.found_tail(Some(at(9)));
        assert_eq!(progress.offset(), Offset::Age(HISTORY));
        progress.begin();
        assert_eq!(judge(&mut progress, 8), ACCEPT);
        assert!(!progress.handed_over(at(8)));
        assert_eq!(judge(&mut progress, 9), ACCEPT);
        assert!(progress.handed_over(at(9)));
        assert!(!progress.handed_over(at(9)), "once");
        assert_eq!(judge(&mut progress, 10), ACCEPT);
    }

    #[test]
    fn where_the_age_finds_nothing_the_tail_is_read() {
        let mut progress = Progress::new(HISTORY);
        progress.found_tail(Some(at(9)));
        progress.begin();
        assert!(!progress.nothing_came());
        assert_eq!(progress.offset(), Offset::At(at(9)));
        progress.begin();
        assert_eq!(judge(&mut progress, 9), ACCEPT);
        assert!(progress.handed_over(at(9)));
    }

    #[test]
    fn news_that_an_age_delivers_first_does_not_hide_the_tail() {
        let mut progress = Progress::new(HISTORY);
        progress.found_tail(Some(at(9)));
        progress.begin();
        assert_eq!(judge(&mut progress, 10), Arrival::PastTail);
        assert_eq!(progress.offset(), Offset::At(at(9)));
    }

    #[test]
    fn no_history_begins_at_the_tail_itself() {
        let mut progress = Progress::new(Duration::ZERO);
        progress.found_tail(Some(at(9)));
        assert_eq!(progress.offset(), Offset::At(at(9)));
    }

    #[test]
    fn a_tail_that_retention_took_ends_history_before_the_first_record_after_it() {
        let mut progress = Progress::new(Duration::ZERO);
        progress.found_tail(Some(at(9)));
        progress.begin();
        assert_eq!(judge(&mut progress, 12), FIRST_NEWS);
        assert_eq!(judge(&mut progress, 13), ACCEPT);

        let mut progress = Progress::new(Duration::ZERO);
        progress.found_tail(Some(at(9)));
        progress.begin();
        assert!(progress.nothing_came());
        assert!(!progress.nothing_came(), "once");
    }

    #[test]
    fn a_link_lost_in_the_warm_up_goes_on_where_it_was_with_the_same_tail() {
        let mut progress = Progress::new(HISTORY);
        progress.found_tail(Some(at(9)));
        progress.begin();
        judge(&mut progress, 7);
        progress.settled_below(None);
        assert!(!progress.needs_tail());
        assert_eq!(progress.offset(), Offset::At(at(7)));
        progress.begin();
        assert_eq!(judge(&mut progress, 7), Arrival::Known);
        assert_eq!(judge(&mut progress, 8), ACCEPT);
        assert_eq!(judge(&mut progress, 9), ACCEPT);
        assert!(progress.handed_over(at(9)));
    }

    #[test]
    fn a_reconnect_begins_at_the_last_record_and_does_not_hand_it_over_again() {
        let mut progress = read_up_to(5);
        progress.settled_below(None);
        assert_eq!(progress.offset(), Offset::At(at(5)));
        progress.begin();
        assert_eq!(judge(&mut progress, 5), Arrival::Known);
        assert_eq!(judge(&mut progress, 6), ACCEPT);
    }

    #[test]
    fn where_positions_skip_the_last_record_shows_whether_something_is_lost() {
        let mut progress = read_up_to(5);
        progress.settled_below(None);
        assert_eq!(judge(&mut progress, 7), Arrival::Skipped);
        assert_eq!(progress.offset(), Offset::At(at(5)));
        let mut overtaken = progress;
        overtaken.begin();
        assert_eq!(judge(&mut overtaken, 7), AFTER_LOSS);

        let mut progress = read_up_to(5);
        progress.settled_below(None);
        assert_eq!(judge(&mut progress, 7), Arrival::Skipped);
        progress.begin();
        assert_eq!(judge(&mut progress, 5), Arrival::Known);
        assert_eq!(judge(&mut progress, 7), ACCEPT);
        assert_eq!(
            judge(&mut progress, 9),
            Arrival::Skipped,
            "each is looked into"
        );
    }

    #[test]
    fn what_was_not_settled_comes_again_and_what_was_read_is_recognised_among_it() {
        let mut progress = read_up_to(5);
        progress.settled_below(Some(at(2)));
        assert_eq!(progress.offset(), Offset::At(at(2)));
        progress.begin();
        for position in 2..=4 {
            assert_eq!(judge(&mut progress, position), ACCEPT);
        }
        assert_eq!(judge(&mut progress, 5), Arrival::Known);
        assert_eq!(judge(&mut progress, 6), ACCEPT);
        progress.settled_below(None);
        assert_eq!(progress.offset(), Offset::At(at(6)));
    }

    #[test]
    fn a_link_that_ends_before_it_delivered_anything_forgets_nothing() {
        let mut progress = read_up_to(5);
        progress.settled_below(Some(at(2)));
        progress.begin();
        progress.settled_below(None);
        assert_eq!(progress.offset(), Offset::At(at(2)));
    }

    #[test]
    fn a_tail_beyond_the_last_record_is_more_to_come() {
        assert!(!Progress::new(HISTORY).is_behind(at(9)), "nothing was read");
        let progress = read_up_to(5);
        assert!(progress.is_behind(at(6)));
        assert!(!progress.is_behind(at(5)) && !progress.is_behind(at(4)));
    }

    #[test]
    fn a_stream_made_anew_is_told_by_its_record_or_by_its_length() {
        let mut progress = read_up_to(5);
        progress.settled_below(None);
        progress.begin();
        assert_eq!(progress.judge(at(5), mark(99)), Arrival::AnotherStream);
        assert!(progress.is_another(at(4)));
        assert!(!progress.is_another(at(5)));
        progress.start_over();
        assert_eq!(progress.offset(), Offset::First);
        progress.begin();
        assert_eq!(judge(&mut progress, 0), ACCEPT);
    }

    #[test]
    fn records_that_retention_took_while_the_link_was_down_are_told() {
        let mut progress = read_up_to(5);
        progress.settled_below(None);
        progress.begin();
        assert_eq!(judge(&mut progress, 50), AFTER_LOSS);
        assert_eq!(judge(&mut progress, 51), ACCEPT);
    }

    #[test]
    fn records_that_retention_took_in_the_warm_up_are_told_also_where_history_ends_with_them() {
        let interrupted = || {
            let mut progress = Progress::new(HISTORY);
            progress.found_tail(Some(at(9)));
            progress.begin();
            judge(&mut progress, 5);
            progress.settled_below(None);
            progress.begin();
            progress
        };
        let mut progress = interrupted();
        assert_eq!(judge(&mut progress, 8), AFTER_LOSS);
        assert!(!progress.handed_over(at(8)));
        let mut progress = interrupted();
        assert_eq!(judge(&mut progress, 9), AFTER_LOSS);
        assert!(progress.handed_over(at(9)));
        let mut progress = interrupted();
        let both = Arrival::Accept {
            news: true,
            lost: true,
        };
        assert_eq!(judge(&mut progress, 12), both);
        assert_eq!(judge(&mut progress, 13), ACCEPT, "each once");
    }
}
