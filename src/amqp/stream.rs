//! Reading a queue from somewhere: a channel that delivers from an offset on, and where a stream ends.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

use super::message::position;
use super::progress::Offset;
use super::{Error, connection, topology};
use crate::event::Message;
use crate::event::id::{Mark, Position};

/// How long the search for the tail waits for a first record before it asks how many there are, each time.
pub(super) const SILENCE: Duration = Duration::from_millis(500);
/// How long the last chunk of a stream may pause before it counts as read.
const QUIET: Duration = Duration::from_millis(150);
/// How long the search for the tail takes at most under steady traffic.
const PROBE: Duration = Duration::from_secs(2);
/// How many records of the last chunk may be unacknowledged.
const PROBE_PREFETCH: u16 = 1000;
/// How long a subscription may be silent at its beginning, where a record must be, before that means something.
pub(super) const LONG_SILENCE: Duration = Duration::from_secs(3);

/// Opens a channel that delivers the queue from this offset.
pub(super) async fn open(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
    offset: Option<Offset>,
) -> Result<(Channel, lapin::Consumer), Error> {
    let begin = offset.map(|offset| match offset {
        Offset::First => AMQPValue::LongString(LongString::from("first")),
        Offset::Age(age) => {
            AMQPValue::LongString(LongString::from(format!("{}s", age.as_secs().max(1))))
        }
        Offset::At(position) => {
            AMQPValue::LongLongInt(i64::try_from(position.get()).unwrap_or(i64::MAX))
        }
    });
    open_at(connection, queue, prefetch, begin).await
}

pub(super) async fn open_at(
    connection: &Connection,
    queue: &str,
    prefetch: u16,
    begin: Option<AMQPValue>,
) -> Result<(Channel, lapin::Consumer), Error> {
    let channel = connection::open_channel(connection).await?;
    let qos = channel.basic_qos(prefetch.max(1), BasicQosOptions { global: false });
    connection::answer("setting the prefetch", qos).await?;
    let mut arguments = FieldTable::default();
    if let Some(begin) = begin {
        arguments.insert("x-stream-offset".into(), begin);
    }
    let queue_name = connection::short("the name of a queue", queue)?;
    let options = BasicConsumeOptions::default();
    let consume = channel.basic_consume(queue_name, "".into(), options, arguments);
    let deliveries = connection::answer(&format!("consuming queue `{queue}`"), consume).await?;
    Ok((channel, deliveries))
}

/// Where a stream ends.
pub(super) enum Tail {
    At(Position),
    /// It delivers nothing for [`LONG_SILENCE`], and has said all the while that it has nothing.
    Empty,
    /// It delivers nothing, but says it has records, or did so in between.
    Silent,
}

/// Finds the newest record: reads the last chunk until it pauses, or for [`PROBE`] where it never does.
pub(super) async fn find_tail(connection: &Connection, queue: &str) -> Result<Tail, Error> {
    let last = AMQPValue::LongString(LongString::from("last"));
    let (channel, mut deliveries) = open_at(connection, queue, PROBE_PREFETCH, Some(last)).await?;
    let began = Instant::now();
    let mut reading_since = None;
    let mut tail = None;
    let mut unacknowledged = 0;
    // Whether every count so far was 0. One alone says nothing: until a broker has counted, it is 0.
    let mut seems_empty = true;
    loop {
        let patience = tail.map_or(SILENCE, |_| QUIET);
        match timeout(patience, deliveries.next()).await {
            Ok(Some(Ok(delivery))) => {
                tail = position(&delivery.properties).or(tail);
                // A pause may never come.
                if let Some(tail) = tail
                    && reading_since.get_or_insert_with(Instant::now).elapsed() >= PROBE
                {
                    return Ok(Tail::At(tail));
                }
                unacknowledged += 1;
                if unacknowledged >= PROBE_PREFETCH / 2 {
                    unacknowledged = 0;
                    let options = BasicAckOptions { multiple: true };
                    let told = channel.basic_ack(delivery.delivery_tag, options);
                    connection::answer("looking for the newest record", told).await?;
                }
            }
            Ok(Some(Err(error))) => {
                return Err(connection::lost("looking for the newest record", &error));
            }
            Ok(None) => {
                return Err(Error::Cancelled {
                    queue: queue.to_owned(),
                });
            }
            Err(_) => match tail {
                Some(tail) => return Ok(Tail::At(tail)),
                None => {
                    let counts = topology::passive_queue(connection, queue).await?;
                    seems_empty &= counts.is_some_and(|counts| counts.messages == 0);
                    if began.elapsed() >= LONG_SILENCE {
                        return Ok(match seems_empty {
                            true => Tail::Empty,
                            false => Tail::Silent,
                        });
                    }
                }
            },
        }
    }
}

pub(super) fn mark(position: Position, message: &Message) -> Mark {
    let Message {
        routing_key,
        message_id,
        timestamp,
        body,
        ..
    } = message;
    Mark::of_record(
        position,
        routing_key,
        message_id.as_deref(),
        *timestamp,
        body,
    )
}
