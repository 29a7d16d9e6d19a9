//! One client of a stream, followed by the places of its ids: whatever stands between two of them was owed to it.

use std::rc::Rc;

use super::super::history::{Moment, ORIGIN, Person};
use super::entitlement::Due;
use super::outline::{Outline, Place};
use super::{Kind, Report, Walk};

/// A client's way through the log.
pub(super) struct StreamWalk<'a> {
    outline: &'a Outline,
    person: Person,
    due: Rc<[Due]>,
    /// Which of `due` it has been sent.
    seen: Vec<bool>,
    /// Up to here it has, or was told that it missed, everything. None before it has joined.
    cursor: Option<Place>,
    /// Gaps that it was told of since it was at `cursor`, and that end with the next id.
    pending: Vec<Gap>,
    /// Gaps that do not: where it hears several audiences and one ring passed it, what is left of the others comes in
    /// between.
    told: Option<Told>,
    /// It came with an id that it made up, and was not told yet that nobody knows it.
    forged: bool,
    /// The same, but told or not.
    came_forged: bool,
}

struct Gap {
    reason: String,
    missed: Option<u64>,
}

/// Of what was published up to this moment so many events may be missing, or any number. No fewer either, once the client
/// has everything else.
struct Told {
    at: Moment,
    missed: Option<u64>,
    /// How many were missing.
    found: u64,
    /// Each of them was told for what rings had passed, so that something must be missing.
    slow: bool,
}

impl<'a> StreamWalk<'a> {
    pub(super) fn new(outline: &'a Outline, person: Person, due: Rc<[Due]>) -> Self {
        Self {
            outline,
            seen: vec![false; due.len()],
            person,
            due,
            cursor: None,
            pending: Vec::new(),
            told: None,
            forged: false,
            came_forged: false,
        }
    }

    fn client(&self) -> u32 {
        self.person.client
    }

    /// The beginning has one id for all streams: a replica that still knows the old one begins with that.
    fn may_be_at_another_beginning(&self, at: Moment) -> bool {
        let is_at_beginning = self.cursor.is_some_and(|cursor| cursor.offset == -1);
        is_at_beginning && self.outline.was_recreated(None, at)
    }

    /// What is owed from after the cursor up to a place, that place left out.
    fn owed_before(&self, to: Place) -> std::ops::Range<usize> {
        let Some(cursor) = self.cursor else {
            return 0..0;
        };
        let first = self.due.partition_point(|due| due.place <= cursor);
        let end = self.due.partition_point(|due| due.place < to);
        first..end.max(first)
    }

    /// Everything in this range did not come.
    fn skip(&mut self, skipped: std::ops::Range<usize>, where_to: &str, report: &mut Report) {
        if !self.pending.is_empty() {
            report.summary.cover(skipped.len());
            self.close_gap(skipped.len() as u64, report);
            return;
        }
        for due in &self.due[skipped] {
            let at = self.outline.published.get(&due.number).map(|one| one.at);
            if let Some(told) = &mut self.told
                && at.is_some_and(|at| at <= told.at)
                && told.missed.is_none_or(|missed| told.found < missed)
            {
                told.found += 1;
                report.summary.cover(1);
                continue;
            }
            let what = format!(
                "client {} was not sent {} at {:?}: it was at {:?}, and then {where_to}",
                self.client(),
                due.number,
                due.place,
                self.cursor
            );
            report.summary.losses += 1;
            report.find(Kind::Lost, &what);
        }
    }

    /// The gaps that were told are over, and so many events were missed.
    fn close_gap(&mut self, missed: u64, report: &mut Report) {
        let gaps = std::mem::take(&mut self.pending);
        let told: Option<u64> = gaps.iter().map(|gap| gap.missed).sum();
        if let Some(told) = told
            && told != missed
        {
            let what = format!(
                "client {} was told that it missed {told} events, and missed {missed}, after {:?}",
                self.client(),
                self.cursor
            );
            report.find(Kind::WrongCount, &what);
        }
        // With a filter nobody but the checker knows how many of those that went were for this client.
        let is_narrow = !self.person.scope.topics.is_empty();
        if missed == 0
            && !is_narrow
            && gaps.iter().all(|gap| gap.reason != "unknown")
            && self.told.is_none()
        {
            let what = format!(
                "client {} was told of a gap after {:?}, and missed nothing",
                self.client(),
                self.cursor
            );
            report.find(Kind::FalseGap, &what);
        }
    }

    /// It has everything but what it was told that it missed.
    fn caught_up(&mut self, report: &mut Report) {
        let Some(told) = self.told.take() else {
            return;
        };
        let is_narrow = !self.person.scope.topics.is_empty();
        if let Some(missed) = told.missed
            && missed != told.found
        {
            let what = format!(
                "client {} was told that it missed {missed} events, and missed {}, up to {:?}",
                self.client(),
                told.found,
                self.cursor
            );
            report.find(Kind::WrongCount, &what);
        } else if told.slow && told.found == 0 && !is_narrow {
            let what = format!(
                "client {} was told of a gap and missed nothing, up to {:?}",
                self.client(),
                self.cursor
            );
            report.find(Kind::FalseGap, &what);
        }
    }

    fn told_of_its_forgery(&mut self, report: &mut Report) {
        if std::mem::take(&mut self.forged) {
            let what = format!(
                "client {} came with an id that it made up, and was not told",
                self.client()
            );
            report.find(Kind::MissingGap, &what);
        }
    }
}

impl Walk for StreamWalk<'_> {
    fn connects(&mut self, at: Moment, _replica: u32, last_id: Option<&str>, forged: bool) {
        self.forged = forged;
        self.came_forged = forged;
        match last_id {
            _ if forged => {}
            None => {
                self.cursor = None;
                self.pending.clear();
                self.told = None;
            }
            Some(id) => {
                // From its own last id it is owed everything anew, whatever it was told before.
                let place = self.outline.place(id, at);
                if place.is_some() {
                    self.cursor = match (place, self.cursor) {
                        // The beginning of a stream has one id for all streams.
                        (Some(place), Some(cursor))
                            if place.offset == -1 && cursor.offset == -1 =>
                        {
                            Some(cursor)
                        }
                        (place, _) => place,
                    };
                    self.pending.clear();
                    self.told = None;
                }
            }
        }
    }

    fn checkpoint(&mut self, at: Moment, id: &str, report: &mut Report) {
        self.told_of_its_forgery(report);
        if id == ORIGIN && !self.pending.is_empty() && self.outline.was_recreated_lately(at) {
            // The beginning of which stream? A replica that lags means the one before: the next event shows it.
            return;
        }
        let Some(mut place) = self.outline.place(id, at) else {
            let what = format!(
                "client {} was sent the id {id}, of no record",
                self.client()
            );
            report.find(Kind::WrongId, &what);
            return;
        };
        if let Some(cursor) = self.cursor
            && self.pending.is_empty()
        {
            if place.offset == -1 && cursor.offset == -1 {
                place = cursor;
            }
            if place < cursor && !self.may_be_at_another_beginning(at) {
                let what = format!(
                    "client {} was at {cursor:?}, and sent back to {id}",
                    self.client()
                );
                report.find(Kind::OutOfOrder, &what);
                return;
            }
        }
        let mut skipped = self.owed_before(place);
        let at_place = self.due.get(skipped.end);
        let is_after = self.cursor.is_some_and(|cursor| cursor < place);
        if is_after && at_place.is_some_and(|due| due.place == place) {
            skipped.end += 1;
        }
        let closes_gap = !self.pending.is_empty();
        self.skip(skipped, &format!("at {id}, without data"), report);
        self.cursor = Some(place);
        if !closes_gap {
            self.caught_up(report);
        }
    }

    fn event(&mut self, at: Moment, id: &str, number: u64, report: &mut Report) {
        self.told_of_its_forgery(report);
        let places = self.outline.places(number);
        let place = self
            .outline
            .place(id, 0)
            .filter(|place| places.contains(place));
        let Some(place) = place else {
            let what = format!(
                "client {} was sent {number} as {id}; it stands at {places:?}",
                self.client()
            );
            report.find(Kind::WrongId, &what);
            return;
        };
        let index = self.due.partition_point(|due| due.place < places[0]);
        let seen = self.seen.get(index).copied().unwrap_or_default();
        let is_before = self.cursor.is_some_and(|cursor| place <= cursor);
        let backward = is_before && !self.may_be_at_another_beginning(at);
        if backward && self.pending.is_empty() {
            let kind = if seen {
                Kind::Repeated
            } else {
                Kind::OutOfOrder
            };
            let what = format!(
                "client {} was at {:?}, and sent {number} as {id}",
                self.client(),
                self.cursor
            );
            report.find(kind, &what);
            return;
        }
        if seen && place != places[0] {
            let what = format!(
                "client {} was sent {number} again, as {id}, which the publisher stored twice: {places:?}",
                self.client()
            );
            report.find(Kind::Repeated, &what);
        } else if seen {
            report.summary.repeats += 1;
        }
        self.skip(self.owed_before(place), &format!("sent {id}"), report);
        self.cursor = Some(place);
        if let Some(seen) = self.seen.get_mut(index) {
            *seen = true;
        }
    }

    fn gap(&mut self, at: Moment, reason: &str, missed: Option<u64>, report: &mut Report) {
        let is_true = match reason {
            "unknown" => self.came_forged || self.outline.was_recreated(self.cursor, at),
            "slow" => self.outline.may_be_slow(self.client(), at),
            "expired" => self.outline.rules().short_history,
            _ => false,
        };
        if !is_true {
            let what = format!(
                "client {} at {:?} was told {reason:?} at {at}",
                self.client(),
                self.cursor
            );
            report.find(Kind::FalseGap, &what);
        }
        self.forged = false;
        if reason != "slow" {
            self.pending.push(Gap {
                reason: reason.to_owned(),
                missed,
            });
        }
        // Rings that are short hold less than the id at which a client begins anew promises.
        if reason == "slow" || self.outline.rules().short_rings {
            let before = self.told.take().unwrap_or(Told {
                at,
                missed: Some(0),
                found: 0,
                slow: true,
            });
            self.told = Some(Told {
                at,
                missed: before
                    .missed
                    .zip(missed)
                    .map(|(before, missed)| before + missed),
                found: before.found,
                slow: before.slow && reason == "slow",
            });
        }
    }

    fn owed(&mut self, report: &mut Report) {
        if self.cursor.is_none() {
            report.summary.losses += 1;
            let what = format!("client {} never joined", self.client());
            report.find(Kind::Lost, &what);
            return;
        }
        if !self.pending.is_empty() {
            return;
        }
        let end = Place {
            generation: u32::MAX,
            offset: i64::MAX,
        };
        self.skip(self.owed_before(end), "the run ended", report);
        self.caught_up(report);
    }
}
