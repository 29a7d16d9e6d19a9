//! What was found in a history, and the figures of the run.

use std::collections::BTreeMap;
use std::fmt;

use super::super::history::{Moment, SECOND};

/// What can be wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An event that the log holds did not reach a client that was owed it, and no gap covers it.
    Lost,
    /// The broker confirmed an event and does not hold it, and was not killed at the time.
    LostByBroker,
    /// A client was sent what is for others, or for nobody.
    Foreign,
    /// A client was sent what nobody published.
    Corrupt,
    /// A client was sent an event twice, though nothing had told it to expect that.
    Repeated,
    /// A client was sent an event, or an id, from before what it had.
    OutOfOrder,
    /// An event bears an id that is not its own, or an id names nothing.
    WrongId,
    /// A client was told of a gap for which there is no reason.
    FalseGap,
    /// A client came with an id that is of no log, and was not told.
    MissingGap,
    /// A gap says another number than was missed.
    WrongCount,
    /// More was unacknowledged than the prefetch allows.
    OverPrefetch,
    /// Something stayed unacknowledged when all was quiet.
    Unsettled,
    /// The link was not back in time.
    SlowRecovery,
    /// Threads, descriptors or memory did not return to where they were.
    Leak,
    /// The log holds a publisher's events in another order than they were published.
    PublishedOutOfOrder,
    /// Poison without a dead letter, with too many, or with another reason; or a dead letter of what is no poison.
    DeadLetters,
    /// An entitled client was refused.
    Refused,
    /// Nothing happened, which proves nothing.
    Nothing,
}

/// How many findings of a kind are told in full.
const TOLD: usize = 10;

/// The verdict on a run.
#[derive(Debug, Default)]
pub struct Report {
    findings: BTreeMap<Kind, Vec<String>>,
    counts: BTreeMap<Kind, usize>,
    pub summary: Summary,
}

impl Report {
    pub(super) fn find(&mut self, kind: Kind, what: &str) {
        *self.counts.entry(kind).or_default() += 1;
        let told = self.findings.entry(kind).or_default();
        if told.len() < TOLD {
            told.push(what.to_owned());
        }
    }

    /// What was found, by kind.
    pub fn kinds(&self) -> Vec<Kind> {
        self.counts.keys().copied().collect()
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.summary)?;
        for (kind, told) in &self.findings {
            write!(f, "\n{kind:?}: {}", self.count(*kind))?;
            for what in told {
                write!(f, "\n    {what}")?;
            }
            if self.count(*kind) > told.len() {
                write!(f, "\n    …")?;
            }
        }
        Ok(())
    }
}

/// The figures of a run, or of several.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub events: u64,
    pub confirmed: u64,
    pub poison: u64,
    /// Attempts to publish that failed.
    pub refused: u64,
    pub clients: u64,
    pub deliveries: u64,
    pub reconnects: u64,
    pub faults: BTreeMap<String, u64>,
    /// Events that a client was sent again, after a gap had told it to expect that.
    pub repeats: u64,
    /// How connections ended.
    pub ends: BTreeMap<String, u64>,
    pub gaps: BTreeMap<String, u64>,
    /// Events that clients missed and were told of.
    pub covered: u64,
    pub losses: u64,
    /// Events that a killed broker confirmed and did not hold afterwards.
    pub lost_by_broker: u64,
    /// The longest that a link took to be back, and after what.
    pub slowest_recovery: (Moment, String),
    /// Recoveries that were judged, and those during which the next fault began.
    pub recoveries: u64,
    pub recoveries_unjudged: u64,
    pub most_unacknowledged: u64,
    /// Records of the log that repeat an earlier one's number: what publishers stored twice.
    pub skipped: u64,
}

impl Summary {
    /// Counts events that a gap covers.
    pub(super) fn cover(&mut self, events: usize) {
        self.covered += events as u64;
    }

    /// A link took so long to be back after such a fault.
    pub(super) fn recovered(&mut self, took: Moment, kind: &str) {
        if took > self.slowest_recovery.0 {
            self.slowest_recovery = (took, kind.to_owned());
        }
    }

    /// Adds the figures of another run.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.confirmed += other.confirmed;
        self.poison += other.poison;
        self.refused += other.refused;
        self.clients += other.clients;
        self.deliveries += other.deliveries;
        self.reconnects += other.reconnects;
        self.repeats += other.repeats;
        self.covered += other.covered;
        self.losses += other.losses;
        self.lost_by_broker += other.lost_by_broker;
        self.recovered(other.slowest_recovery.0, &other.slowest_recovery.1);
        self.recoveries += other.recoveries;
        self.recoveries_unjudged += other.recoveries_unjudged;
        self.most_unacknowledged = self.most_unacknowledged.max(other.most_unacknowledged);
        self.skipped += other.skipped;
        for (mine, others) in [
            (&mut self.faults, &other.faults),
            (&mut self.ends, &other.ends),
            (&mut self.gaps, &other.gaps),
        ] {
            for (name, count) in others {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Summary {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a time for people, far below 2^52 microseconds"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, u64>| {
            let entries: Vec<_> = counts
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            if entries.is_empty() {
                "none".to_owned()
            } else {
                entries.join(", ")
            }
        };
        writeln!(
            f,
            "events      {}, of them {} poison; confirmed {}; attempts refused {}; stored twice {}",
            self.events, self.poison, self.confirmed, self.refused, self.skipped
        )?;
        writeln!(
            f,
            "clients     {}; reconnects {}; deliveries {}; repeats after a gap {}",
            self.clients, self.reconnects, self.deliveries, self.repeats
        )?;
        writeln!(f, "ends        {}", list(&self.ends))?;
        writeln!(f, "faults      {}", list(&self.faults))?;
        writeln!(
            f,
            "gaps        {}; events that they covered {}",
            list(&self.gaps),
            self.covered
        )?;
        writeln!(
            f,
            "links       back after {:.1} s at most ({}), {} judged, {} overtaken by the next fault; unacknowledged at most {}",
            self.slowest_recovery.0 as f64 / SECOND as f64,
            self.slowest_recovery.1,
            self.recoveries,
            self.recoveries_unjudged,
            self.most_unacknowledged
        )?;
        write!(
            f,
            "losses      {}; lost by a killed broker {}",
            self.losses, self.lost_by_broker
        )
    }
}
