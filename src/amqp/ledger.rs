//! Which poison of a stream is dealt with, whoever dead-lettered it: how far that goes, what is under way, and what
//! this replica passed over while another had the duty. Pure: it decides, the consumer acts.
//!
//! Every replica reads every record, and one of them has the duty (see [`duty`](super::duty)). A replica without it
//! lets poison pass and remembers how far up; when it gets the duty, it reads that part again (see
//! [`sweep`](super::sweep)), beside what is live, which never waits for it.

use std::collections::BTreeMap;

use super::duty::Token;
use crate::event::id::{EventId, Position};

/// How many dead letters a token names one by one. Of more, some may be written again by the next that has the duty.
const MOST_LETTERS: usize = 1000;

/// What is known of the poison in one stream. Lives as long as the process, across links.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Whether this replica has the duty.
    held: bool,
    /// All poison at or below is dealt with, by this replica or another. It only rises.
    settled: Option<Position>,
    /// The newest record that one with the duty has read, to tell this stream from another of its name.
    newest: Option<EventId>,
    /// The first record that this process read.
    first: Option<Position>,
    /// The newest record that this process read.
    last: Option<Position>,
    /// Up to here poison may have been passed over: above `settled` it must be read again by whoever has the duty.
    skipped: Option<Position>,
    /// How far that reading is, while it lasts.
    swept: Option<Position>,
    /// Dead letters above `settled`, own ones and, of others, what the token says. As bounded as the deliveries they hold back: by the prefetch.
    letters: BTreeMap<Position, Letter>,
    /// Whether `settled` has passed an own dead letter since [`Ledger::token`] was last asked.
    letter_settled: bool,
}

/// How far the dead letter of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Letter {
    UnderWay,
    Confirmed,
}

/// What is to become of a record that is poison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// To be dead-lettered now, by this replica; settled when that is confirmed.
    Letter,
    /// Its dead letter is under way; settled with that.
    Waits,
    /// Nothing more: it was dead-lettered, or that is another replica's duty.
    Nothing,
}

/// What of a stream must be read again: from `begin`, or the oldest record above it, up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub begin: Position,
    pub end: Position,
}

impl Ledger {
    /// A record was read, live.
    pub(super) fn read(&mut self, id: EventId) {
        self.last = self.last.max(Some(id.position));
        if self
            .newest
            .is_none_or(|newest| newest.position < id.position)
        {
            self.newest = Some(id);
        }
        if self.first.is_none() {
            self.first = Some(id.position);
            self.mind_what_nobody_read();
        }
    }

    /// The record at this position is poison.
    pub(super) fn poison(&mut self, position: Position) -> Due {
        match self.letters.get(&position) {
            Some(Letter::UnderWay) => return Due::Waits,
            Some(Letter::Confirmed) => return Due::Nothing,
            None => {}
        }
        if self.settled >= Some(position) {
            return Due::Nothing;
        }
        if !self.held {
            self.skipped = self.skipped.max(Some(position));
            return Due::Nothing;
        }
        self.letters.insert(position, Letter::UnderWay);
        Due::Letter
    }

    /// Whether the dead letter of the record at this position is under way.
    pub(super) fn is_under_way(&self, position: Position) -> bool {
        self.letters.get(&position) == Some(&Letter::UnderWay)
    }

    /// The dead letter of the record at this position is confirmed.
    pub(super) fn confirmed(&mut self, position: Position) {
        if let Some(letter) = self.letters.get_mut(&position) {
            *letter = Letter::Confirmed;
        }
    }

    /// The dead letter of the record at this position was given up, as the duty has passed to another.
    pub(super) fn given_up(&mut self, position: Position) {
        self.letters.remove(&position);
        self.skipped = self.skipped.max(Some(position));
    }

    /// This replica has the duty, and whoever had it before has come as far as the token says.
    pub(super) fn gained(&mut self, token: Token) {
        self.held = true;
        self.settled = self.settled.max(token.settled);
        for position in token.letters {
            self.letters.entry(position).or_insert(Letter::Confirmed);
        }
        if let Some(newest) = token.newest
            && self.newest.is_none_or(|own| own.position < newest.position)
        {
            self.newest = Some(newest);
        }
        self.forget_what_is_settled();
        self.mind_what_nobody_read();
    }

    /// This replica no longer has the duty, for all it knows.
    pub(super) fn lost(&mut self) {
        self.advance();
        self.held = false;
        self.swept = None;
    }

    /// Whether this replica has the duty.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// What must be read again now.
    pub(super) fn stretch(&self) -> Option<Stretch> {
        let end = self.skipped.filter(|_| self.held)?;
        let begin = match self.settled {
            Some(settled) => Position::new(settled.get().saturating_add(1)),
            None => self.first?,
        };
        (begin <= end).then_some(Stretch { begin, end })
    }

    /// That reading has come as far as this.
    pub(super) fn swept(&mut self, position: Position) {
        self.swept = self.swept.max(Some(position));
    }

    /// That reading has come to this end.
    pub(super) fn swept_all(&mut self, end: Position) {
        self.swept = Some(end);
        self.advance();
        self.swept = None;
        if self.skipped <= Some(end) {
            self.skipped = None;
        }
    }

    /// That reading broke off; it begins again where it was.
    pub(super) fn sweep_broke_off(&mut self) {
        self.advance();
        self.swept = None;
    }

    /// How far poison is dealt with, for others to know; and whether that should be told at once, as otherwise dead
    /// letters would be written again. None without the duty.
    pub(super) fn token(&mut self) -> Option<(Token, bool)> {
        self.advance();
        let confirmed = self
            .letters
            .iter()
            .filter(|(_, letter)| **letter == Letter::Confirmed);
        let token = Token {
            settled: self.settled,
            letters: confirmed
                .map(|(position, _)| *position)
                .take(MOST_LETTERS)
                .collect(),
            newest: self.newest,
        };
        let is_urgent = std::mem::take(&mut self.letter_settled);
        self.held.then_some((token, is_urgent))
    }

    /// The stream was made anew.
    pub(super) fn start_over(&mut self) {
        *self = Self::default();
    }

    /// Between where others ended and where this process began nobody has read: that is read as well.
    fn mind_what_nobody_read(&mut self) {
        if let (Some(settled), Some(first)) = (self.settled, self.first)
            && self.held
            && let Some(below) = first.get().checked_sub(1)
            && settled.get() < below
        {
            self.skipped = self.skipped.max(Some(Position::new(below)));
        }
    }

    fn advance(&mut self) {
        if !self.held {
            return;
        }
        let read = match self.skipped {
            Some(_) => self.swept,
            None => self.last,
        };
        let waiting = self
            .letters
            .iter()
            .find(|(_, letter)| **letter == Letter::UnderWay)
            .map(|(position, _)| *position);
        let up_to = match waiting {
            Some(waiting) if read >= Some(waiting) => {
                waiting.get().checked_sub(1).map(Position::new)
            }
            _ => read,
        };
        self.settled = self.settled.max(up_to);
        self.forget_what_is_settled();
    }

    fn forget_what_is_settled(&mut self) {
        let settled = self.settled;
        if self.skipped <= settled {
            self.skipped = None;
        }
        // One under way stays, and is confirmed or given up by itself.
        let is_settled = |position: &Position, letter: &mut Letter| {
            *letter == Letter::Confirmed && Some(*position) <= settled
        };
        self.letter_settled |= self.letters.extract_if(.., is_settled).count() > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::id::Mark;

    fn at(position: u64) -> Position {
        Position::new(position)
    }

    fn id(position: u64) -> EventId {
        EventId {
            position: at(position),
            mark: Mark::epoch(7),
        }
    }

    fn read(ledger: &mut Ledger, positions: std::ops::RangeInclusive<u64>) {
        for position in positions {
            ledger.read(id(position));
        }
    }

    fn token(settled: u64) -> Token {
        Token {
            settled: Some(at(settled)),
            letters: Vec::new(),
            newest: Some(id(settled)),
        }
    }

    fn settled(ledger: &mut Ledger) -> Option<u64> {
        ledger.token().unwrap().0.settled.map(Position::get)
    }

    fn stretch(begin: u64, end: u64) -> Option<Stretch> {
        Some(Stretch {
            begin: at(begin),
            end: at(end),
        })
    }

    /// One that has had the duty from the first record on.
    fn holder() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.gained(Token::NONE);
        ledger
    }

    #[test]
    fn with_the_duty_poison_is_dead_lettered_once_and_holds_the_token_back_until_confirmed() {
        let mut ledger = holder();
        read(&mut ledger, 0..=4);
        assert_eq!(settled(&mut ledger), Some(4));
        read(&mut ledger, 5..=5);
        assert_eq!(ledger.poison(at(5)), Due::Letter);
        assert_eq!(ledger.poison(at(5)), Due::Waits);
        read(&mut ledger, 6..=7);
        assert_eq!(ledger.poison(at(7)), Due::Letter);
        assert_eq!(settled(&mut ledger), Some(4));
        ledger.confirmed(at(7));
        assert_eq!(ledger.poison(at(7)), Due::Nothing);
        let (token, is_urgent) = ledger.token().unwrap();
        assert_eq!((token.settled, is_urgent), (Some(at(4)), false));
        ledger.confirmed(at(5));
        let (token, is_urgent) = ledger.token().unwrap();
        assert_eq!((token.settled, is_urgent), (Some(at(7)), true));
        assert_eq!(token.newest, Some(id(7)));
        assert!(!ledger.token().unwrap().1, "urgent once");
        assert_eq!(ledger.poison(at(5)), Due::Nothing);
        assert!(ledger.letters.is_empty());
    }

    #[test]
    fn without_the_duty_poison_passes_and_is_read_again_when_the_duty_comes() {
        let mut ledger = Ledger::default();
        read(&mut ledger, 10..=20);
        assert_eq!(ledger.poison(at(12)), Due::Nothing);
        assert_eq!(ledger.poison(at(15)), Due::Nothing);
        assert_eq!((ledger.stretch(), ledger.token()), (None, None));
        ledger.gained(token(13));
        assert_eq!(ledger.stretch(), stretch(14, 15));
        read(&mut ledger, 21..=30);
        assert_eq!(settled(&mut ledger), Some(13));
        ledger.swept(at(14));
        assert_eq!(settled(&mut ledger), Some(14));
        assert_eq!(ledger.poison(at(15)), Due::Letter);
        ledger.swept(at(15));
        ledger.swept_all(at(15));
        assert_eq!((settled(&mut ledger), ledger.stretch()), (Some(14), None));
        ledger.confirmed(at(15));
        assert_eq!(settled(&mut ledger), Some(30));
    }

    #[test]
    fn what_was_dead_lettered_while_something_older_was_not_is_not_dead_lettered_by_the_next() {
        let mut ledger = Ledger::default();
        read(&mut ledger, 0..=5);
        assert_eq!(ledger.poison(at(2)), Due::Nothing, "without the duty");
        ledger.gained(Token::NONE);
        read(&mut ledger, 6..=6);
        assert_eq!(ledger.poison(at(6)), Due::Letter);
        ledger.confirmed(at(6));
        let (token, _) = ledger.token().unwrap();
        assert_eq!((token.settled, &*token.letters), (None, &[at(6)][..]));

        let mut next = Ledger::default();
        read(&mut next, 0..=6);
        assert_eq!(next.poison(at(2)), Due::Nothing);
        assert_eq!(next.poison(at(6)), Due::Nothing);
        next.gained(token);
        assert_eq!(next.stretch(), stretch(0, 6));
        assert_eq!(next.poison(at(2)), Due::Letter);
        assert_eq!(next.poison(at(6)), Due::Nothing);
        next.swept_all(at(6));
        next.confirmed(at(2));
        let (token, _) = next.token().unwrap();
        assert_eq!((token.settled, &*token.letters), (Some(at(6)), &[][..]));
    }

    #[test]
    fn nothing_is_read_again_where_no_poison_was_passed_over() {
        let mut ledger = Ledger::default();
        read(&mut ledger, 10..=20);
        assert_eq!(ledger.poison(at(12)), Due::Nothing);
        ledger.gained(token(12));
        assert_eq!((ledger.stretch(), settled(&mut ledger)), (None, Some(20)));
    }

    #[test]
    fn a_token_that_says_nothing_leaves_all_that_this_process_read() {
        let mut ledger = Ledger::default();
        read(&mut ledger, 10..=20);
        assert_eq!(ledger.poison(at(18)), Due::Nothing);
        ledger.gained(Token::NONE);
        assert_eq!(ledger.stretch(), stretch(10, 18));
    }

    #[test]
    fn what_lies_between_the_token_and_the_first_record_read_is_read_too() {
        let mut ledger = Ledger::default();
        ledger.gained(token(100));
        assert_eq!(ledger.stretch(), None);
        read(&mut ledger, 200..=201);
        assert_eq!(ledger.stretch(), stretch(101, 199));
        let mut ledger = Ledger::default();
        ledger.gained(token(199));
        read(&mut ledger, 200..=201);
        assert_eq!((ledger.stretch(), settled(&mut ledger)), (None, Some(201)));
    }

    #[test]
    fn a_reader_behind_the_token_passes_over_what_others_dead_lettered_and_never_takes_the_token_back()
     {
        let mut ledger = Ledger::default();
        ledger.gained(token(50));
        read(&mut ledger, 40..=45);
        assert_eq!(ledger.poison(at(45)), Due::Nothing);
        let (said, _) = ledger.token().unwrap();
        assert_eq!(said, token(50));
        read(&mut ledger, 46..=52);
        assert_eq!(ledger.poison(at(51)), Due::Letter);
        let (said, _) = ledger.token().unwrap();
        assert_eq!((said.settled, said.newest), (Some(at(50)), Some(id(52))));
    }

    #[test]
    fn the_duty_lost_and_gained_again_writes_nothing_again_and_forgets_nothing() {
        let mut ledger = holder();
        read(&mut ledger, 0..=9);
        for position in [3, 5, 7] {
            assert_eq!(ledger.poison(at(position)), Due::Letter);
        }
        ledger.confirmed(at(3));
        ledger.confirmed(at(7));
        ledger.lost();
        assert_eq!(ledger.poison(at(5)), Due::Waits, "until it is given up");
        ledger.given_up(at(5));
        assert_eq!(ledger.poison(at(5)), Due::Nothing);
        read(&mut ledger, 10..=12);
        assert_eq!(ledger.poison(at(11)), Due::Nothing);
        // Nobody else has moved the token.
        ledger.gained(Token::NONE);
        assert_eq!(ledger.stretch(), stretch(5, 11));
        assert_eq!(ledger.poison(at(5)), Due::Letter);
        assert_eq!(ledger.poison(at(7)), Due::Nothing);
        assert_eq!(ledger.poison(at(11)), Due::Letter);
    }

    #[test]
    fn what_another_dead_lettered_meanwhile_is_not_read_again() {
        let mut ledger = holder();
        read(&mut ledger, 0..=9);
        assert_eq!(ledger.poison(at(5)), Due::Letter);
        ledger.lost();
        ledger.given_up(at(5));
        ledger.gained(token(6));
        assert_eq!(ledger.stretch(), None);
        assert_eq!(ledger.poison(at(5)), Due::Nothing);
    }

    #[test]
    fn a_sweep_that_breaks_off_goes_on_and_one_that_ends_leaves_what_was_given_up_meanwhile() {
        let mut ledger = Ledger::default();
        read(&mut ledger, 0..=20);
        ledger.poison(at(10));
        ledger.gained(Token::NONE);
        ledger.swept(at(4));
        ledger.sweep_broke_off();
        assert_eq!(ledger.stretch(), stretch(5, 10));
        ledger.given_up(at(15));
        ledger.swept_all(at(10));
        assert_eq!(ledger.stretch(), stretch(11, 15));
        ledger.swept_all(at(15));
        assert_eq!((ledger.stretch(), settled(&mut ledger)), (None, Some(20)));
    }

    #[test]
    fn a_stream_made_anew_begins_a_new_ledger() {
        let mut ledger = holder();
        read(&mut ledger, 0..=9);
        ledger.poison(at(5));
        ledger.start_over();
        assert!(!ledger.is_held() && !ledger.is_under_way(at(5)));
        ledger.gained(Token::NONE);
        read(&mut ledger, 0..=1);
        assert_eq!(ledger.poison(at(1)), Due::Letter);
    }
}
