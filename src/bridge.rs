//! The heart: a delivery becomes an event, a frame, and its audience's; and the one table from what is wrong with it to
//! what becomes of it.
//!
//! | what a delivery is | verdict | the hub |
//! |---|---|---|
//! | its body or its address is illegal | dead-letter | passes its position |
//! | at or before a position already seen | acknowledge | has it |
//! | a repeat of a `message_id` | acknowledge | passes its position |
//! | in a stream, past its `expiration` | acknowledge | passes its position |
//! | good | acknowledge | publishes it |

mod duplicates;
mod read_back;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

pub use self::read_back::ReadBacks;

use self::duplicates::Duplicates;
use crate::event::address::{Address, AddressRules};
use crate::event::id::{EventId, Marking, Position};
use crate::event::payload::PayloadRules;
use crate::event::{Break, Event, EventName, Intake, Message, Poison, Verdict};
use crate::frame::Frame;
use crate::hub::{Numbering, Writer};
use crate::metrics::Metrics;
use crate::tail::{Outcome, Tail};
use crate::traces::{Consumption, Step, Tracer};

/// What makes a message an event: the same for what is read live and for what is read back.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How it finds its audience.
    pub address: AddressRules,
    /// What its body must be.
    pub payload: PayloadRules,
    /// How its id tells it from what else may have stood where it stands in a stream.
    pub marking: Marking,
}

impl Rules {
    fn judge(&self, message: &Message) -> Result<Address, Poison> {
        if let Some(fault) = &message.fault {
            return Err(fault.clone());
        }
        self.payload.check(&message.body)?;
        self.address.address(message)
    }

    /// The id of a message of a stream: where it stands, and the mark of what stands there.
    fn id_of_record(&self, message: &Message) -> EventId {
        let position = message.position.unwrap_or(Position::new(0));
        let mark = self.marking.mark(
            position,
            &message.routing_key,
            message.message_id.as_deref(),
            message.timestamp,
            &message.body,
        );
        EventId { position, mark }
    }
}

/// Judges deliveries and gives the good ones to the hub.
#[derive(Debug)]
pub struct Bridge {
    rules: Arc<Rules>,
    numbering: Numbering,
    hub: Writer,
    duplicates: Duplicates,
    /// Traces news; what is read again at the start was traced when it was that.
    tracer: Option<Tracer>,
    is_news: bool,
    metrics: Arc<Metrics>,
    tail: Tail,
}

impl Bridge {
    /// A bridge by these rules into this hub, which must count by the same numbering.
    #[must_use]
    pub fn new(
        rules: Arc<Rules>,
        numbering: Numbering,
        hub: Writer,
        tracer: Option<Tracer>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            rules,
            numbering,
            hub,
            duplicates: Duplicates::default(),
            tracer,
            is_news: false,
            metrics,
            tail: Tail::default(),
        }
    }

    /// Where it is told what becomes of each message.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }

    /// Begins the message's span, where it has one: the one branch that an event costs where nothing is traced.
    fn trace(&self, message: &Message) -> Option<Box<Consumption>> {
        let tracer = self.tracer.as_ref()?;
        self.is_news.then(|| tracer.consume(message)).flatten()
    }

    /// The id a message gets. In a queue it is the next number; in a stream it is where the message stands.
    fn id(&self, message: &Message) -> EventId {
        match (self.numbering, message.position) {
            (Numbering::Sequence(mark), _) => {
                let newest = self.hub.newest().map_or(0, |id| id.position.get());
                EventId {
                    position: Position::new(newest + 1),
                    mark,
                }
            }
            (Numbering::Offsets, _) => self.rules.id_of_record(message),
        }
    }
}

/// A part of a message's way, where that is traced.
fn step(trace: Option<&Consumption>, name: &'static str) -> Option<Step> {
    trace.map(|trace| trace.step(name))
}

/// What became of a message that was not published, where that is traced.
fn end(trace: Option<Box<Consumption>>, outcome: &'static str) {
    if let Some(mut trace) = trace {
        trace.ends_as(outcome);
    }
}

/// A message that was found good, as an event.
fn event(id: EventId, address: Address, message: Message) -> Event {
    Event {
        id,
        audience: address.audience,
        topic: message.routing_key,
        name: message.kind.and_then(|kind| kind.parse::<EventName>().ok()),
        attributes: address.attributes,
        timestamp: message.timestamp,
        body: message.body,
    }
}

impl Intake for Bridge {
    fn accept(&mut self, message: Message) -> Verdict {
        self.metrics.events_consumed.inc();
        let now = Instant::now();
        let mut trace = self.trace(&message);
        let id = self.id(&message);
        let seen = self.hub.has(id.position);
        let judging = step(trace.as_deref(), "address");
        let judged = self.rules.judge(&message);
        drop(judging);
        let address = match judged {
            Ok(address) => address,
            Err(poison) => {
                if let Some(trace) = &mut trace {
                    trace.fails(poison.reason);
                }
                if !seen {
                    self.hub.pass(id, now);
                    let outcome = Outcome::DeadLetter(poison.clone());
                    self.tail.tell(id, &message, None, outcome);
                }
                return Verdict::DeadLetter(poison);
            }
        };
        let tell = |outcome| self.tail.tell(id, &message, Some(&address), outcome);
        if seen {
            tell(Outcome::Seen);
            end(trace, "seen");
            return Verdict::Acknowledge;
        }
        if let Some(lag) = lag(&message) {
            self.metrics.event_lag.set(lag);
        }
        if self.numbering == Numbering::Offsets && is_expired(&message) {
            self.metrics.events_dropped.of("expired").inc();
            tell(Outcome::Expired);
            end(trace, "expired");
            self.hub.pass(id, now);
            return Verdict::Acknowledge;
        }
        if self.duplicates.has_seen(&address.audience, &message, now) {
            self.metrics.duplicates.inc();
            tell(Outcome::Duplicate);
            end(trace, "duplicate");
            self.hub.pass(id, now);
            return Verdict::Acknowledge;
        }
        tell(Outcome::Published);
        if let Some(trace) = &mut trace {
            trace.publishes(id);
        }
        let publishing = step(trace.as_deref(), "publish to hub");
        self.hub
            .publish(Frame::encode(event(id, address, message), now));
        drop(publishing);
        Verdict::Acknowledge
    }

    fn caught_up(&mut self) {
        self.is_news = true;
        self.hub.caught_up();
    }

    fn broken(&mut self, what: Break) {
        if what == Break::Replaced {
            // What was in the old log is in none now: who publishes it again does so for those who read this one.
            self.duplicates = Duplicates::default();
        }
        self.hub.broken(what);
    }
}

/// How old a message is by its producer's clock, in seconds; never negative, as clocks differ.
#[expect(
    clippy::cast_precision_loss,
    reason = "seconds since 1970 are far below 2^52"
)]
fn lag(message: &Message) -> Option<f64> {
    let published = message.timestamp? as f64;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some((now.as_secs_f64() - published).max(0.0))
}

/// Whether its `expiration` (AMQP 0-9-1 §1.8, RabbitMQ: milliseconds as text) has passed since its `timestamp`. Queues
/// let such messages go by themselves; streams do not know them. Without a timestamp nobody can say.
fn is_expired(message: &Message) -> bool {
    let Some(Ok(milliseconds)) = message.expiration.as_ref().map(|text| text.parse()) else {
        return false;
    };
    // A timestamp is in whole seconds: one more, so that nothing expires early.
    let allowed = std::time::Duration::from_millis(milliseconds).as_secs_f64() + 1.0;
    lag(message).is_some_and(|lag| lag > allowed)
}
