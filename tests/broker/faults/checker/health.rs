//! Whether the bridges were well: what they held unacknowledged, how soon they were back, what they kept.

use std::collections::HashMap;

use super::super::history::{Moment, Phase, SECOND, Sample};
use super::outline::Outline;
use super::{Kind, Report};

/// The runtime starts a thread for blocking work when it likes, and each pooled connection that publishes has one of its
/// own, of which there are two: made when the first dead letter is, and kept.
const MORE_THREADS: u64 = 8;

/// Two pooled connections, a name being looked up, the sampler's own request.
const MORE_DESCRIPTORS: u64 = 12;

/// The allocator gives back what is free after some seconds and never all of it: after hundreds of clients and a burst of
/// reading back, tens of megabytes stay for good, once. What grows with every fault goes past that.
const MORE_MEMORY: u64 = 96 << 20;

/// How long the first event after a fault may take once the broker has confirmed it, where that was late itself.
const FIRST_EVENT: Moment = 5 * SECOND;

pub(super) fn judge(outline: &Outline, report: &mut Report) {
    let prefetch = outline.rules().prefetch;
    let mut starts: HashMap<u32, &Sample> = HashMap::new();
    let mut rests: HashMap<u32, &Sample> = HashMap::new();
    for (at, sample) in &outline.samples {
        let summary = &mut report.summary;
        summary.most_unacknowledged = summary.most_unacknowledged.max(sample.unacknowledged);
        // RabbitMQ delivers a stream's chunks whole, also where that is more than may be on its way.
        let most = if outline.is_stream() {
            2 * prefetch
        } else {
            prefetch
        };
        if sample.unacknowledged > most {
            let what = format!(
                "replica {} held {} unacknowledged at {at}, the prefetch is {prefetch}",
                sample.replica, sample.unacknowledged
            );
            report.find(Kind::OverPrefetch, &what);
        }
        match sample.phase {
            Phase::Start => {
                starts.insert(sample.replica, sample);
            }
            Phase::Run => {}
            Phase::Rest => {
                rests.insert(sample.replica, sample);
            }
        }
    }
    for (replica, rest) in rests {
        if rest.unacknowledged > 0 {
            let what = format!(
                "replica {replica} held {} unacknowledged when all was over",
                rest.unacknowledged
            );
            report.find(Kind::Unsettled, &what);
        }
        let Some(start) = starts.get(&replica) else {
            let what = format!("replica {replica} was not sampled at its start");
            report.find(Kind::Nothing, &what);
            continue;
        };
        // Events in memory are no leak: the bridge bounds them, and says how much they take. What that costs the allocator
        // is more, by a part.
        let allowed_memory = start.memory + MORE_MEMORY + rest.history * 2;
        for (what, before, after, allowed) in [
            (
                "threads",
                start.threads,
                rest.threads,
                start.threads + MORE_THREADS,
            ),
            (
                "descriptors",
                start.descriptors,
                rest.descriptors,
                start.descriptors + MORE_DESCRIPTORS,
            ),
            ("bytes of memory", start.memory, rest.memory, allowed_memory),
        ] {
            if after > allowed {
                let what = format!(
                    "replica {replica} had {before} {what} at its start and {after} when all was over; allowed were {allowed}"
                );
                report.find(Kind::Leak, &what);
            }
        }
    }
}

/// A link that a fault may have broken, and what was seen of it since.
struct Recovery {
    /// In [`Outline::faults`].
    fault: usize,
    end: Moment,
    link_up: Option<Moment>,
    /// The first event that was published after the fault's end and delivered by this replica.
    first_event: Option<Moment>,
}

/// The links that had to come back, by replica.
pub(super) struct Recoveries {
    waiting: HashMap<u32, Vec<Recovery>>,
}

impl Recoveries {
    pub(super) fn of(outline: &Outline) -> Self {
        let mut waiting: HashMap<u32, Vec<Recovery>> = HashMap::new();
        for (index, span) in outline.faults.iter().enumerate() {
            let Some(end) = span.end else {
                continue;
            };
            for replica in &span.fault.replicas {
                let link_up = outline.samples.iter().find(|(at, sample)| {
                    *at >= end && sample.replica == *replica && sample.broker_up
                });
                waiting.entry(*replica).or_default().push(Recovery {
                    fault: index,
                    end,
                    link_up: link_up.map(|(at, _)| *at),
                    first_event: None,
                });
            }
        }
        Self { waiting }
    }

    /// A replica delivered an event.
    pub(super) fn delivered(&mut self, outline: &Outline, replica: u32, number: u64, at: Moment) {
        let Some(published) = outline.published.get(&number) else {
            return;
        };
        for recovery in self.waiting.get_mut(&replica).into_iter().flatten() {
            if recovery.first_event.is_none() && published.at >= recovery.end {
                recovery.first_event = Some(at);
            }
        }
    }

    pub(super) fn judge(&self, outline: &Outline, report: &mut Report) {
        let limit = outline.rules().recovery_seconds * SECOND;
        for (replica, recoveries) in &self.waiting {
            for recovery in recoveries {
                let span = &outline.faults[recovery.fault];
                let confirmed = outline
                    .published
                    .values()
                    .filter(|published| {
                        published.at >= recovery.end && published.intent.poison.is_none()
                    })
                    .filter_map(|published| published.confirmed)
                    .min();
                let link_due = recovery.end + limit;
                let event_due = confirmed.map(|confirmed| link_due.max(confirmed + FIRST_EVENT));
                let link_late = recovery.link_up.is_none_or(|at| at > link_due);
                let event_late =
                    event_due.is_some_and(|due| recovery.first_event.is_none_or(|at| at > due));
                let back = recovery.link_up.max(recovery.first_event);
                let is_late = link_late || event_late;
                let until = match back {
                    Some(back) if !is_late => back,
                    _ => event_due.unwrap_or(link_due),
                };
                let overtaken = outline.faults.iter().any(|other| {
                    other.fault.fault != span.fault.fault
                        && other.fault.replicas.contains(replica)
                        && other.begin <= until
                        && other.end.is_none_or(|end| end > recovery.end)
                });
                if overtaken {
                    report.summary.recoveries_unjudged += 1;
                    continue;
                }
                if !is_late {
                    report.summary.recoveries += 1;
                    let took = until - recovery.end;
                    report.summary.recovered(took, &span.fault.kind);
                    continue;
                }
                let what = format!(
                    "replica {replica} after {} that ended at {}: link up at {:?}, first event at {:?}",
                    span.fault.kind, recovery.end, recovery.link_up, recovery.first_event
                );
                report.find(Kind::SlowRecovery, &what);
            }
        }
    }
}
