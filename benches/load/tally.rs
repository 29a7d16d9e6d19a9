//! What has come to the clients, counted exactly: each event by how many it reached.

use std::io;

use super::latencies::Latencies;
use super::orders::Report;
use super::stamp::Stamp;

#[derive(Debug, Default)]
pub struct Tally {
    /// The number of the first event that counts.
    first: u64,
    /// How many clients each event is for.
    recipients: u32,
    /// How many clients each event has reached, from the first on.
    reached: Vec<u32>,
    /// How many of those, from the first on, have reached all.
    complete: usize,
    latencies: Latencies,
    report: Report,
}

impl Tally {
    pub fn new(first: u64, recipients: u32) -> Self {
        Self {
            first,
            recipients,
            ..Self::default()
        }
    }

    /// An event came to a client's socket, and the client has none with this number or a later one.
    pub fn delivered(&mut self, stamp: Stamp, arrived: u64) {
        let Some(index) = stamp.number.checked_sub(self.first) else {
            return;
        };
        let index = usize::try_from(index).expect("an index");
        if index >= self.reached.len() {
            self.reached.resize(index + 1, 0);
        }
        self.reached[index] += 1;
        while self
            .reached
            .get(self.complete)
            .is_some_and(|count| *count >= self.recipients)
        {
            self.complete += 1;
        }
        self.latencies.add(arrived.saturating_sub(stamp.published));
        self.report.deliveries += 1;
        self.report.last_ns = self.report.last_ns.max(arrived);
    }

    /// An event came that the client already had, or that it should have had before.
    pub fn out_of_order(&mut self, stamp: Stamp) {
        self.report.out_of_order += u64::from(stamp.number >= self.first);
    }

    /// A connection ended.
    pub fn ended(&mut self, why: &io::Error) {
        self.report.ended += 1;
        self.report.first_end.get_or_insert_with(|| why.to_string());
    }

    /// Clients heard so many ids, and were told so many times that they missed something.
    pub fn heard(&mut self, ids: u64, gaps: u64) {
        self.report.ids += ids;
        self.report.gaps += gaps;
    }

    pub fn first_end(&self) -> Option<String> {
        self.report.first_end.clone()
    }

    pub fn deliveries(&self) -> u64 {
        self.report.deliveries
    }

    /// The number below which all events have reached all that they are for.
    pub fn complete(&self) -> u64 {
        self.first + self.complete as u64
    }

    pub fn report(&self, cpu_ns: u64) -> Report {
        Report {
            p50_ns: self.latencies.percentile(0.5),
            p99_ns: self.latencies.percentile(0.99),
            max_ns: self.latencies.percentile(1.0),
            cpu_ns,
            ..self.report.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::Tally;
    use crate::stamp::Stamp;

    fn stamp(number: u64) -> Stamp {
        Stamp {
            number,
            published: 1_000,
        }
    }

    #[test]
    fn an_event_is_complete_when_it_and_all_before_it_have_reached_everybody() {
        let mut tally = Tally::new(10, 2);
        tally.delivered(stamp(11), 1_005);
        tally.delivered(stamp(11), 1_005);
        tally.delivered(stamp(10), 1_010);
        assert_eq!((tally.complete(), tally.deliveries()), (10, 3));
        tally.delivered(stamp(10), 1_020);
        assert_eq!((tally.complete(), tally.deliveries()), (12, 4));
    }

    #[test]
    fn what_was_published_before_does_not_count() {
        let mut tally = Tally::new(10, 1);
        tally.delivered(stamp(9), 1_010);
        tally.out_of_order(stamp(9));
        let report = tally.report(0);
        assert_eq!(
            (report.deliveries, report.out_of_order, report.last_ns),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_report_has_everything() {
        let mut tally = Tally::new(0, 1);
        tally.delivered(stamp(0), 1_010);
        tally.delivered(stamp(1), 1_020);
        tally.out_of_order(stamp(0));
        tally.ended(&io::ErrorKind::UnexpectedEof.into());
        tally.heard(3, 1);
        let report = tally.report(7);
        assert_eq!((report.deliveries, report.out_of_order), (2, 1));
        assert_eq!(
            (report.gaps, report.ended, report.ids, report.cpu_ns),
            (1, 1, 3, 7)
        );
        assert_eq!(
            (report.p50_ns, report.max_ns, report.last_ns),
            (10, 20, 1_020)
        );
    }
}
