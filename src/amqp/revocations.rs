//! The stream by which replicas tell each other what was revoked: read from its first record on, and from then on live,
//! over a link of its own that is supervised like the consumer's. It hands records to [`Notices`] and settles nothing.
//!
//! Reading a record twice does no harm, missing one does: at any doubt it reads all from the first record again.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt;

use super::connection::{self, Backoff, Role, Suspicion};
use super::message::take_apart;
use super::progress::Offset;
use super::stream::{self, LONG_SILENCE, Tail};
use super::topology::{self, Made};
use super::{BrokerConfig, Error, RevocationStream};
use crate::event::Notices;
use crate::event::id::{Mark, Position};
use crate::faults::FaultLog;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// How many records may be on their way.
const PREFETCH: u16 = 256;
/// How many are taken in one turn.
const BURST: usize = 128;
/// How often the stream is looked at, whatever it delivers: a subscription can die without a word, and a stream that was
/// made anew can hold records that are never delivered here.
const LOOK: Duration = Duration::from_secs(30);
/// A link that lived this long was a good one: the next fault begins with the shortest wait.
const GOOD_LINK: Duration = Duration::from_secs(10);

/// Reads what replicas tell each other.
#[derive(Debug)]
pub struct Revocations {
    config: Arc<BrokerConfig>,
    stream: RevocationStream,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
}

impl Revocations {
    /// Makes no connection yet.
    #[must_use]
    pub fn new(
        config: Arc<BrokerConfig>,
        stream: RevocationStream,
        metrics: Arc<Metrics>,
        lifecycle: Lifecycle,
    ) -> Self {
        Self {
            config,
            stream,
            metrics,
            lifecycle,
        }
    }

    /// Reads until the streams' stage is asked to stop: as long as a client is connected, it can be revoked.
    pub async fn run(self, mut notices: impl Notices) {
        let mut stopping = std::pin::pin!(self.lifecycle.streams.stopping());
        let mut backoff = Backoff::default();
        let mut faults = FaultLog::default();
        let suspicion = Suspicion::default();
        let mut place = Place::default();
        let mut node = 0;
        loop {
            let began = Instant::now();
            let connecting = Box::pin(connection::connect_in_turn(
                &self.config,
                node,
                Role::Revocations,
                &suspicion,
            ));
            let connected = tokio::select! {
                connected = connecting => connected,
                () = &mut stopping => return,
            };
            let fault = match connected {
                Err(fault) => fault,
                Ok(connection) => {
                    let end = tokio::select! {
                        fault = Box::pin(self.follow(&connection, &mut place, &mut notices)) => Some(fault),
                        () = &mut stopping => None,
                    };
                    self.metrics.revocations_up.set(0);
                    connection::close(&connection).await;
                    let Some(fault) = end else {
                        return;
                    };
                    if began.elapsed() >= GOOD_LINK {
                        backoff.reset();
                        faults.reset();
                    }
                    fault
                }
            };
            node = node.wrapping_add(1);
            complain(&fault, &mut faults);
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = &mut stopping => return,
            }
        }
    }

    /// All subscriptions of one link, to its end.
    async fn follow(
        &self,
        connection: &Connection,
        place: &mut Place,
        notices: &mut impl Notices,
    ) -> Error {
        match topology::ensure_revocations(connection, &self.config, &self.stream).await {
            Ok(Made::Before) => {}
            Ok(Made::Now) => {
                // Nobody has told anything yet.
                place.last = None;
                notices.caught_up();
            }
            Err(error) => return error,
        }
        loop {
            if let Err(error) = self.read(connection, place, notices).await {
                return error;
            }
            let queue = &self.stream.queue;
            tracing::debug!(%queue, "the stream does not go on where it was read last: it is read from its first record again");
            place.last = None;
        }
    }

    /// One subscription. Returns without an error when the stream does not go on where it was read last, or keeps silent
    /// though it has more.
    async fn read(
        &self,
        connection: &Connection,
        place: &mut Place,
        notices: &mut impl Notices,
    ) -> Result<(), Error> {
        let queue = &self.stream.queue;
        let begin = place.begin();
        let (channel, mut records) = stream::open(connection, queue, PREFETCH, Some(begin)).await?;
        self.metrics.revocations_up.set(1);
        // Beside the reading, which need not wait for it.
        let mut look = Box::pin(stream::find_tail(connection, queue));
        let mut is_looking = true;
        let mut look_again = Instant::now();
        // The record up to which everything was there when it was looked, and when its silence means something.
        let mut expected: Option<(Position, Instant)> = None;
        loop {
            // Each branch is cancel-safe: the look goes on in the next turn.
            tokio::select! {
                record = records.next() => {
                    if !take(&channel, record, &mut records, queue, place, notices).await? {
                        return Ok(());
                    }
                    expected = expected.map(|(tail, _)| (tail, Instant::now() + LONG_SILENCE));
                }
                tail = &mut look, if is_looking => {
                    is_looking = false;
                    look_again = Instant::now() + LOOK;
                    match tail? {
                        Tail::At(tail) if place.is_beyond(tail) => return Ok(()),
                        Tail::At(tail) => expected = Some((tail, Instant::now() + LONG_SILENCE)),
                        Tail::Empty if place.last.is_some() => return Ok(()),
                        Tail::Empty => notices.caught_up(),
                        // The broker is slow, or has just started.
                        Tail::Silent => look_again = Instant::now(),
                    }
                }
                () = sleep_until(look_again), if !is_looking => {
                    look = Box::pin(stream::find_tail(connection, queue));
                    is_looking = true;
                }
                () = until(expected.map(|(_, silence)| silence)) => return Ok(()),
            }
            if let Some((tail, _)) = expected
                && place.has(tail)
            {
                expected = None;
                notices.caught_up();
            }
        }
    }
}

/// Takes a record and those that are there already, and tells the broker. False where the first is not the one at which
/// the reading was to go on.
async fn take(
    channel: &Channel,
    first: Option<lapin::Result<Delivery>>,
    records: &mut lapin::Consumer,
    queue: &str,
    place: &mut Place,
    notices: &mut impl Notices,
) -> Result<bool, Error> {
    const ACTION: &str = "reading what was revoked";
    let mut next = Some(first);
    let mut tag = None;
    for _ in 0..BURST {
        let Some(delivery) = next.take().or_else(|| records.next().now_or_never()) else {
            break;
        };
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Err(connection::lost(ACTION, &error)),
            None => {
                return Err(Error::Cancelled {
                    queue: queue.to_owned(),
                });
            }
        };
        tag = Some(delivery.delivery_tag);
        let (message, origin) = take_apart(delivery);
        let position = origin.position.unwrap_or_default();
        match place.arrive(position, stream::mark(position, &message)) {
            Arrival::New => notices.accept(&message.body),
            Arrival::Known => {}
            Arrival::Elsewhere => return Ok(false),
        }
    }
    if let Some(tag) = tag {
        let told = channel.basic_ack(tag, BasicAckOptions { multiple: true });
        connection::answer(ACTION, told).await?;
    }
    Ok(true)
}

/// How far the stream was read, across links.
#[derive(Debug, Default)]
struct Place {
    last: Option<(Position, Mark)>,
    /// Whether this subscription has shown that the stream is the one that was read before.
    is_recognised: bool,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    New,
    /// The one that was read last, at which this subscription began.
    Known,
    /// Another one than that, or that is gone.
    Elsewhere,
}

impl Place {
    /// Where the next subscription begins.
    fn begin(&mut self) -> Offset {
        self.is_recognised = self.last.is_none();
        self.last
            .map_or(Offset::First, |(last, _)| Offset::At(last))
    }

    fn arrive(&mut self, position: Position, mark: Mark) -> Arrival {
        if !self.is_recognised {
            self.is_recognised = true;
            return match self.last == Some((position, mark)) {
                true => Arrival::Known,
                false => Arrival::Elsewhere,
            };
        }
        self.last = Some((position, mark));
        Arrival::New
    }

    /// Whether everything up to there was read.
    fn has(&self, tail: Position) -> bool {
        self.is_recognised && self.last.is_some_and(|(last, _)| last >= tail)
    }

    /// Whether more was read than there is.
    fn is_beyond(&self, tail: Position) -> bool {
        self.last.is_some_and(|(last, _)| last > tail)
    }
}

fn complain(fault: &Error, faults: &mut FaultLog) {
    const WHAT: &str = "cannot read what was revoked: until that works again, revocations of other replicas are not heard of here";
    let Some(times) = faults.note(fault, Instant::now()) else {
        return;
    };
    let is_refused = matches!(fault, Error::Lost { cause, .. } if cause.contains("ACCESS_REFUSED"));
    if is_refused || fault.needs_operator() {
        tracing::error!(times, "{WHAT}: {fault}");
    } else {
        tracing::warn!(times, "{WHAT}: {fault}");
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Position {
        Position::new(position)
    }

    fn mark(number: u32) -> Mark {
        Mark::epoch(number)
    }

    #[test]
    fn it_begins_at_the_first_record_and_goes_on_after_the_last_that_it_knows() {
        let mut place = Place::default();
        assert_eq!(place.begin(), Offset::First);
        assert_eq!(place.arrive(at(3), mark(7)), Arrival::New);
        assert_eq!(place.arrive(at(5), mark(8)), Arrival::New);
        assert_eq!(place.begin(), Offset::At(at(5)));
        assert!(!place.has(at(5)), "it may be another stream");
        assert_eq!(place.arrive(at(5), mark(8)), Arrival::Known);
        assert!(place.has(at(5)) && !place.has(at(6)));
        assert_eq!(place.arrive(at(6), mark(9)), Arrival::New);
        assert!(place.has(at(6)));
    }

    #[test]
    fn another_record_where_the_last_one_was_is_another_stream() {
        for (position, number) in [(5, 9), (6, 8), (4, 8)] {
            let mut place = Place {
                last: Some((at(5), mark(8))),
                is_recognised: true,
            };
            place.begin();
            let arrival = place.arrive(at(position), mark(number));
            assert_eq!(arrival, Arrival::Elsewhere, "{position} {number}");
        }
    }

    #[test]
    fn a_stream_that_ends_before_the_last_record_is_another() {
        let mut place = Place::default();
        assert!(!place.is_beyond(at(0)));
        place.begin();
        place.arrive(at(5), mark(8));
        assert!(place.is_beyond(at(4)));
        assert!(!place.is_beyond(at(5)) && !place.is_beyond(at(6)));
    }
}
