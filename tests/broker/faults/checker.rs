//! Judges a run by its history alone: nothing lost, nothing foreign, nothing out of order, nothing twice, no gap that is
//! not true, and the bridge as healthy after its faults as before.
//!
//! It knows nothing of the bridge: what clients were entitled to it works out by itself, from what they asked for and what
//! was published. What the log is, it takes from an independent reading of the stream; what a work queue's order is, from
//! each publisher's own. So it tells a message that the broker confirmed and does not hold, from one that the bridge lost.

mod outline;
mod entitlement;
mod stream_walk;
mod queue_walk;
mod health;
mod report;
mod planted;

use std::collections::HashMap;
use std::rc::Rc;

pub use self::report::{Kind, Report, Summary};

use self::entitlement::Due;
use self::health::Recoveries;
use self::outline::Outline;
use self::queue_walk::QueueWalk;
use self::stream_walk::StreamWalk;
use super::history::{Moment, Person, Record};

/// Judges a history, which it reads twice: once for what was published, and once for what clients saw of it.
pub fn check<I: Iterator<Item = (Moment, Record)>>(history: impl Fn() -> I) -> Report {
    let mut report = Report::default();
    let outline = Outline::of(history());
    outline.judge(&mut report);
    health::judge(&outline, &mut report);
    judge_clients(&outline, history(), &mut report);
    if report.summary.confirmed == 0 || report.summary.deliveries == 0 {
        report.find(Kind::Nothing, "nothing was published, or nothing delivered");
    }
    report
}

/// What one client sees, in a stream or in a queue.
trait Walk {
    fn connects(&mut self, at: Moment, replica: u32, last_id: Option<&str>, forged: bool);
    fn checkpoint(&mut self, at: Moment, id: &str, report: &mut Report);
    /// The event that bears this number, and is for this client.
    fn event(&mut self, at: Moment, id: &str, number: u64, report: &mut Report);
    fn gap(&mut self, at: Moment, reason: &str, missed: Option<u64>, report: &mut Report);
    /// It was owed everything up to here.
    fn owed(&mut self, report: &mut Report);
}

/// A client that is being heard of.
struct Client<'a> {
    walk: Box<dyn Walk + 'a>,
    replica: u32,
    connections: u64,
}

fn judge_clients(
    outline: &Outline,
    history: impl Iterator<Item = (Moment, Record)>,
    report: &mut Report,
) {
    let mut recoveries = Recoveries::of(outline);
    let mut scopes = entitlement::Scopes::of(outline);
    let mut clients: HashMap<u32, Client> = HashMap::new();
    for (at, record) in history {
        if let Record::Client(person) = &record {
            report.summary.clients += 1;
            let client = Client::new(outline, person, scopes.due(&person.scope));
            clients.insert(person.client, client);
            continue;
        }
        if let Record::Closed { how, .. } = &record {
            *report.summary.ends.entry(how.clone()).or_default() += 1;
        }
        let Some(number) = whose(&record) else {
            continue;
        };
        let Some(client) = clients.get_mut(&number) else {
            continue;
        };
        client.take(outline, at, &record, &mut recoveries, report);
        if matches!(record, Record::Finished { .. }) {
            clients.remove(&number);
        }
    }
    recoveries.judge(outline, report);
    report.summary.skipped = scopes.skipped();
}

/// The client that a record is about.
fn whose(record: &Record) -> Option<u32> {
    match record {
        Record::Connect { client, .. }
        | Record::Answered { client, .. }
        | Record::Checkpoint { client, .. }
        | Record::Event { client, .. }
        | Record::Gap { client, .. }
        | Record::Finished { client, .. } => Some(*client),
        _ => None,
    }
}

impl<'a> Client<'a> {
    fn new(outline: &'a Outline, person: &Person, due: Rc<[Due]>) -> Self {
        let person = person.clone();
        let walk: Box<dyn Walk + 'a> = if outline.is_stream() {
            Box::new(StreamWalk::new(outline, person, due))
        } else {
            Box::new(QueueWalk::new(outline, person, due))
        };
        Self {
            walk,
            replica: 0,
            connections: 0,
        }
    }

    fn take(
        &mut self,
        outline: &Outline,
        at: Moment,
        record: &Record,
        recoveries: &mut Recoveries,
        report: &mut Report,
    ) {
        match record {
            Record::Connect {
                replica,
                last_id,
                forged,
                ..
            } => {
                self.replica = *replica;
                self.connections += 1;
                report.summary.reconnects += u64::from(self.connections > 1);
                self.walk
                    .connects(at, *replica, last_id.as_deref(), *forged);
            }
            Record::Checkpoint { id, .. } => self.walk.checkpoint(at, id, report),
            Record::Event { client, id, number } => {
                report.summary.deliveries += 1;
                let Some(number) = *number else {
                    let what = format!("client {client} was sent under {id} what nobody published");
                    report.find(Kind::Corrupt, &what);
                    return;
                };
                if let Some(why) = outline.foreign(*client, number) {
                    let what = format!("client {client} was sent {number} as {id}: {why}");
                    report.find(Kind::Foreign, &what);
                    return;
                }
                recoveries.delivered(outline, self.replica, number, at);
                self.walk.event(at, id, number, report);
            }
            Record::Gap { reason, missed, .. } => {
                *report.summary.gaps.entry(reason.clone()).or_default() += 1;
                self.walk.gap(at, reason, *missed, report);
            }
            Record::Answered { client, status } => {
                let what = format!("client {client} was answered with {status}");
                report.find(Kind::Refused, &what);
            }
            Record::Finished { owed: true, .. } => self.walk.owed(report),
            _ => {}
        }
    }
}
