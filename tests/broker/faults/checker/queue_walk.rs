//! One client of a work queue, followed by each publisher's own numbers: the queue has no order but theirs, and ids
//! mean nothing once the bridge was started again.

use std::collections::HashMap;
use std::rc::Rc;

use super::super::history::{Moment, Person, number_of};
use super::entitlement::Due;
use super::outline::{Outline, REDELIVERY};
use super::{Kind, Report, Walk};

/// A client's way through what publishers published.
pub(super) struct QueueWalk<'a> {
    outline: &'a Outline,
    person: Person,
    due: Rc<[Due]>,
    /// In which chapter each of `due` was sent; 0 is never.
    seen: Vec<u32>,
    /// Begins with 1; the next begins with each gap.
    chapter: u32,
    /// What was published later than this is owed; what was published before, and did not come, it was told of. None
    /// before the client has joined.
    from: Option<Moment>,
    /// It was told of a gap, and not yet where it stands now.
    gap_open: bool,
    /// The last of each publisher's events that it was sent.
    newest: HashMap<u32, u64>,
    /// The replica, and which start of it, that its id is of.
    home: Option<(u32, usize)>,
    now: (u32, usize),
    forged: bool,
    came_forged: bool,
}

impl<'a> QueueWalk<'a> {
    pub(super) fn new(outline: &'a Outline, person: Person, due: Rc<[Due]>) -> Self {
        Self {
            outline,
            seen: vec![0; due.len()],
            person,
            due,
            chapter: 1,
            from: None,
            gap_open: false,
            newest: HashMap::new(),
            home: None,
            now: (0, 0),
            forged: false,
            came_forged: false,
        }
    }

    fn client(&self) -> u32 {
        self.person.client
    }

    fn publisher(&self, number: u64) -> Option<u32> {
        let published = self.outline.published.get(&number)?;
        Some(published.intent.publisher)
    }

    /// The last of a publisher's events that it was sent; where there was none, what stands before the first.
    fn newest_of(&self, publisher: u32) -> u64 {
        let newest = self.newest.get(&publisher).copied();
        newest.unwrap_or_else(|| number_of(publisher, 0))
    }

    /// Finds what is owed and did not come, of what was published before `until` and is below `end` of each publisher.
    fn find_lost(&self, until: Moment, end: impl Fn(u32) -> u64, report: &mut Report) {
        let Some(from) = self.from else {
            return;
        };
        for (due, seen) in self.due.iter().zip(&self.seen) {
            let Some(published) = self.outline.published.get(&due.number) else {
                continue;
            };
            if *seen == 0
                && published.confirmed.is_some()
                && published.at > from
                && published.at < until
                && due.number < end(published.intent.publisher)
            {
                let what = format!(
                    "client {} was not sent {}, published at {}; it is owed what was published after {from}",
                    self.client(),
                    due.number,
                    published.at,
                );
                report.summary.losses += 1;
                report.find(Kind::Lost, &what);
            }
        }
    }

    fn check_forgery(&mut self, report: &mut Report) {
        if std::mem::take(&mut self.forged) {
            let what = format!(
                "client {} came with an id that it made up, and was not told",
                self.client()
            );
            report.find(Kind::MissingGap, &what);
        }
    }
}

impl Walk for QueueWalk<'_> {
    fn connects(&mut self, at: Moment, replica: u32, last_id: Option<&str>, forged: bool) {
        self.now = (replica, self.outline.incarnation(replica, at));
        self.forged = forged;
        self.came_forged = forged;
        if last_id.is_none() {
            self.from = None;
            self.chapter += 1;
        }
    }

    fn checkpoint(&mut self, at: Moment, _id: &str, report: &mut Report) {
        self.check_forgery(report);
        self.home = Some(self.now);
        if self.from.is_none() || self.gap_open {
            self.from = Some(at);
            self.gap_open = false;
        }
    }

    fn event(&mut self, at: Moment, id: &str, number: u64, report: &mut Report) {
        self.check_forgery(report);
        self.home = Some(self.now);
        let index = self.due.partition_point(|due| due.number < number);
        let Some(publisher) = self.publisher(number) else {
            return;
        };
        let sent_in = self.seen.get(index).copied().unwrap_or_default();
        if let Some(sent) = self.seen.get_mut(index) {
            *sent = self.chapter;
        }
        if sent_in == self.chapter {
            let what = format!("client {} was sent {number} again, as {id}", self.client());
            report.find(Kind::Repeated, &what);
            return;
        }
        if sent_in > 0 {
            // What was not acknowledged comes again to a bridge that was started again.
            report.summary.repeats += 1;
            return;
        }
        let newest = self.newest_of(publisher);
        if number < newest && self.outline.disturbed_since(self.now.0, at).is_none() {
            let what = format!(
                "client {} was sent {number} as {id} after {newest}",
                self.client()
            );
            report.find(Kind::OutOfOrder, &what);
            return;
        }
        self.newest.insert(publisher, number.max(newest));
    }

    fn gap(&mut self, at: Moment, reason: &str, missed: Option<u64>, report: &mut Report) {
        let is_true = match reason {
            "unknown" => self.came_forged || self.home != Some(self.now),
            "slow" => self.outline.may_be_slow(self.client(), at),
            "expired" => self.outline.rules().short_history,
            _ => false,
        };
        if !is_true {
            let what = format!(
                "client {} was told {reason:?} at {at}; its id was of {:?}, it is at {:?}",
                self.client(),
                self.home,
                self.now
            );
            report.find(Kind::FalseGap, &what);
        }
        if reason != "slow" && missed.is_some() {
            let what = format!(
                "client {} was told a number that nobody knows",
                self.client()
            );
            report.find(Kind::WrongCount, &what);
        }
        self.forged = false;
        if reason != "slow" {
            // What came after it was published later, and the gap is of what was to come. Where a fault stands before it,
            // that is what was on its way: what was published long before the fault had come.
            match self.outline.disturbed_since(self.now.0, at) {
                None => self.find_lost(at, |publisher| self.newest_of(publisher), report),
                Some(begin) => {
                    self.find_lost(begin.saturating_sub(REDELIVERY), |_| u64::MAX, report)
                }
            }
        }
        self.chapter += 1;
        if reason == "slow" {
            // No id follows: what was published up to now may be among what it missed.
            self.from = Some(at);
        } else {
            self.gap_open = true;
        }
    }

    fn owed(&mut self, report: &mut Report) {
        if self.from.is_none() {
            report.summary.losses += 1;
            let what = format!("client {} never joined", self.client());
            report.find(Kind::Lost, &what);
            return;
        }
        if self.gap_open {
            return;
        }
        self.find_lost(Moment::MAX, |_| u64::MAX, report);
    }
}
