//! What a history says of everything but deliveries: what was published, what the log holds, which faults there were.

use std::collections::{HashMap, HashSet};

use super::super::history::{Fault, Intent, Moment, ORIGIN, Person, Record, Rules, SECOND, Sample};
use super::{Kind, Report, entitlement};

/// How long before and after its kill a broker is not to be trusted with a confirm: RabbitMQ 3.10 that is starting on busy
/// cores was seen to confirm what it does not store.
const UNTRUSTED: Moment = 10 * SECOND;

/// How long after a stream was made anew a client may still come to a replica that has not seen it, and the other way
/// round.
const RECREATION: Moment = 20 * SECOND;

/// How long RabbitMQ may take to notice that a consumer is gone, and to deliver again what that one had.
pub(super) const REDELIVERY: Moment = 30 * SECOND;

/// How far behind a bridge may be whose link has just failed.
const UNREAD: Moment = 30 * SECOND;

/// How long after it was published, or after a fault, a message is dead-lettered at the latest.
const DEAD_LETTERED: Moment = 10 * SECOND;

/// A place in the log: which stream, and where in it. Before its first record is -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) generation: u32,
    pub(super) offset: i64,
}

/// An event that was to be published.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) intent: Intent,
    pub(super) at: Moment,
    pub(super) confirmed: Option<Moment>,
}

/// A fault, from when to when.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) fault: Fault,
    pub(super) begin: Moment,
    pub(super) end: Option<Moment>,
}

#[derive(Debug, Default)]
pub(super) struct Outline {
    rules: Option<Rules>,
    pub(super) published: HashMap<u64, Published>,
    refused: u64,
    /// In the log's order.
    pub(super) log: Vec<(Place, Option<u64>)>,
    by_id: HashMap<String, Place>,
    /// Where an event stands in the log: more than once, if it was published again.
    by_number: HashMap<u64, Vec<Place>>,
    pub(super) faults: Vec<Span>,
    pub(super) people: HashMap<u32, Person>,
    pub(super) samples: Vec<(Moment, Sample)>,
    /// When each replica was started, first and again.
    starts: Vec<(Moment, u32)>,
    letters: HashMap<u64, Vec<String>>,
}

impl Outline {
    pub(super) fn of(history: impl Iterator<Item = (Moment, Record)>) -> Self {
        let mut outline = Self::default();
        for (at, record) in history {
            outline.take(at, record);
        }
        outline.log.sort_by_key(|(place, _)| *place);
        for (place, number) in &outline.log {
            if let Some(number) = number {
                outline.by_number.entry(*number).or_default().push(*place);
            }
        }
        outline
    }

    fn take(&mut self, at: Moment, record: Record) {
        match record {
            Record::Rules(rules) => self.rules = Some(rules),
            Record::Client(person) => {
                self.people.insert(person.client, person);
            }
            Record::Intent(intent) => {
                let published = Published {
                    intent,
                    at,
                    confirmed: None,
                };
                self.published.insert(published.intent.number, published);
            }
            Record::Confirmed { number } => {
                if let Some(published) = self.published.get_mut(&number) {
                    published.confirmed = Some(at);
                }
            }
            Record::Refused { .. } => self.refused += 1,
            Record::FaultBegin(fault) => self.faults.push(Span {
                fault,
                begin: at,
                end: None,
            }),
            Record::FaultEnd { fault } => {
                let span = self
                    .faults
                    .iter_mut()
                    .find(|span| span.fault.fault == fault);
                if let Some(span) = span {
                    span.end = Some(at);
                }
            }
            Record::Started { replica, .. } => self.starts.push((at, replica)),
            Record::Sample(sample) => self.samples.push((at, sample)),
            Record::Log {
                generation,
                offset,
                id,
                number,
            } => {
                let place = Place {
                    generation,
                    offset: i64::try_from(offset).expect("an offset is a signed number"),
                };
                self.log.push((place, number));
                self.by_id.insert(id, place);
            }
            Record::DeadLetter { number, reason } => {
                self.letters.entry(number).or_default().push(reason);
            }
            _ => {}
        }
    }

    pub(super) fn rules(&self) -> &Rules {
        self.rules
            .as_ref()
            .expect("a history begins with its rules")
    }

    pub(super) fn is_stream(&self) -> bool {
        self.rules().queue_type == "stream"
    }

    /// The place that an id names. The one id that names no record is the beginning of the stream of that time.
    pub(super) fn place(&self, id: &str, at: Moment) -> Option<Place> {
        if id == ORIGIN {
            let generation = self.recreations().filter(|span| span.begin <= at).count();
            return Some(Place {
                generation: u32::try_from(generation).expect("few streams"),
                offset: -1,
            });
        }
        self.by_id.get(id).copied()
    }

    /// Where an event stands in the log.
    pub(super) fn places(&self, number: u64) -> &[Place] {
        self.by_number.get(&number).map_or(&[], Vec::as_slice)
    }

    fn recreations(&self) -> impl Iterator<Item = &Span> {
        self.faults
            .iter()
            .filter(|span| span.fault.kind == "queue_deleted")
    }

    /// Whether the log was made anew so lately that replicas may disagree on which log it is.
    pub(super) fn was_recreated_lately(&self, at: Moment) -> bool {
        self.recreations()
            .any(|span| span.begin <= at && span.end.is_none_or(|end| at <= end + RECREATION))
    }

    /// Whether the log was made anew since a client was at this place, or so lately that replicas may disagree.
    pub(super) fn was_recreated(&self, since: Option<Place>, at: Moment) -> bool {
        self.recreations().enumerate().any(|(index, span)| {
            let lately = span.end.is_none_or(|end| at <= end + RECREATION);
            let older = since.is_some_and(|place| place.generation as usize <= index);
            span.begin <= at && (lately || older)
        })
    }

    /// Whether the client may have been slow: it does not always read, or a fault had made it so.
    pub(super) fn may_be_slow(&self, client: u32, at: Moment) -> bool {
        self.rules().short_rings
            || self.people.get(&client).is_some_and(|person| person.slow)
            || self
                .faults
                .iter()
                .any(|span| span.begin <= at && span.fault.clients.contains(&client))
    }

    /// When the link of a replica last began to be broken, if that was shortly before: a queue then delivers again, late and
    /// out of its order, what the link had taken and not acknowledged.
    pub(super) fn disturbed_since(&self, replica: u32, at: Moment) -> Option<Moment> {
        let disturbing = self.faults.iter().filter(|span| {
            span.fault.replicas.contains(&replica)
                && span.begin <= at
                && span.end.is_none_or(|end| at <= end + REDELIVERY)
        });
        disturbing.map(|span| span.begin).max()
    }

    /// How often a replica had been started.
    pub(super) fn incarnation(&self, replica: u32, at: Moment) -> usize {
        let starts = self.starts.iter();
        starts
            .filter(|(start, started)| *started == replica && *start <= at)
            .count()
    }

    /// Why this event is not for this client; none if it is.
    pub(super) fn foreign(&self, client: u32, number: u64) -> Option<String> {
        let Some(published) = self.published.get(&number) else {
            return Some("nobody published it".to_owned());
        };
        let intent = &published.intent;
        if let Some(reason) = &intent.poison {
            return Some(format!("it is poison, {reason}"));
        }
        let person = self.people.get(&client)?;
        (!entitlement::covers(&person.scope, intent)).then(|| {
            format!(
                "it is for {} under {}, and the client asked for {:?}",
                intent.audience, intent.topic, person.scope
            )
        })
    }

    /// What can be judged without looking at any client.
    pub(super) fn judge(&self, report: &mut Report) {
        let summary = &mut report.summary;
        summary.events = self.published.len() as u64;
        summary.refused = self.refused;
        for published in self.published.values() {
            summary.confirmed += u64::from(published.confirmed.is_some());
            summary.poison += u64::from(published.intent.poison.is_some());
        }
        for span in &self.faults {
            *summary.faults.entry(span.fault.kind.clone()).or_default() += 1;
        }
        if self.is_stream() {
            self.judge_log(report);
        }
        self.judge_letters(report);
    }

    /// What was confirmed is in the log, and each publisher's events stand in it as they were published.
    fn judge_log(&self, report: &mut Report) {
        for (number, published) in &self.published {
            let Some(confirmed) = published.confirmed else {
                continue;
            };
            if !self.places(*number).is_empty() {
                continue;
            }
            let killed = self.faults.iter().any(|span| {
                span.fault.kind == "broker_killed"
                    && confirmed + UNTRUSTED >= span.begin
                    && span.end.is_none_or(|end| confirmed <= end + UNTRUSTED)
            });
            if killed {
                report.summary.lost_by_broker += 1;
            } else {
                let what = format!("{number}, confirmed at {confirmed}, is not in the stream");
                report.find(Kind::LostByBroker, &what);
            }
        }
        let mut newest: HashMap<u32, u64> = HashMap::new();
        let mut known = HashSet::new();
        for number in self.log.iter().filter_map(|(_, number)| *number) {
            let Some(published) = self.published.get(&number) else {
                continue;
            };
            if !known.insert(number) {
                continue;
            }
            let newest = newest.entry(published.intent.publisher).or_default();
            if number < *newest {
                let what = format!("{number} stands behind {newest}");
                report.find(Kind::PublishedOutOfOrder, &what);
            }
            *newest = number.max(*newest);
        }
    }

    /// Whether the stream was deleted so soon after it was published that no bridge may have read it.
    fn may_be_unread(&self, published: &Published) -> bool {
        self.recreations()
            .any(|span| published.at <= span.begin && span.begin <= published.at + UNREAD)
    }

    /// How many faults may have come between a message's dead letter and the word that it is written: each may cost one more.
    fn faults_around(&self, published: &Published) -> usize {
        let spans = self.faults.iter().filter(|span| {
            let touches_a_link =
                !span.fault.replicas.is_empty() || span.fault.kind == "memory_alarm";
            touches_a_link
                && span.begin <= published.at + DEAD_LETTERED
                && span
                    .end
                    .is_none_or(|end| published.at <= end + DEAD_LETTERED)
        });
        spans.count()
    }

    /// Each poison message has its dead letter, and nothing else has.
    fn judge_letters(&self, report: &mut Report) {
        let most = self.rules().dead_letters_at_most;
        for (number, published) in &self.published {
            let letters = self.letters.get(number).map_or(&[][..], Vec::as_slice);
            let stored = match self.is_stream() {
                true => !self.places(*number).is_empty() && !self.may_be_unread(published),
                false => published.confirmed.is_some(),
            };
            let copies = letters.len() as u64;
            match &published.intent.poison {
                None if copies > 0 => {
                    let what = format!("{number} is no poison: {letters:?}");
                    report.find(Kind::DeadLetters, &what);
                }
                Some(reason) if stored && copies == 0 => {
                    let what = format!("{number}, {reason}, has none");
                    report.find(Kind::DeadLetters, &what);
                }
                Some(reason) if letters.iter().any(|letter| letter != reason) => {
                    let what = format!("{number} is {reason}, its letters say {letters:?}");
                    report.find(Kind::DeadLetters, &what);
                }
                // What was published again stands in the log more than once, and each record may have its letter.
                Some(_)
                    if most.is_some_and(|most| {
                        let records = self.places(*number).len().max(1);
                        copies > most * (records + self.faults_around(published)) as u64
                    }) =>
                {
                    let what = format!("{number}, published at {}, has {copies}", published.at);
                    report.find(Kind::DeadLetters, &what);
                }
                _ => {}
            }
        }
    }
}
