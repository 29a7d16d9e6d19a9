//! Reading a queue from somewhere: a channel that delivers from an offset on, and where a stream ends.

use std::time::Duration;

use futures_util::FutureExt;
use lapin::message::Delivery;
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
/// How long the search for the tail takes at most where records come faster than they are read.
const PROBE: Duration = Duration::from_secs(2);
/// How many records of the last chunk may be on their way.
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

/// Finds the newest record that there was when this was asked, however fast others come.
pub(super) async fn find_tail(connection: &Connection, queue: &str) -> Result<Tail, Error> {
    let last = AMQPValue::LongString(LongString::from("last"));
    let (channel, mut deliveries) = open_at(connection, queue, PROBE_PREFETCH, Some(last)).await?;
    let began = Instant::now();
    // Whether every count so far was 0. One alone says nothing: until a broker has counted, it is 0.
    let mut seems_empty = true;
    let mut tail = loop {
        match timeout(SILENCE, deliveries.next()).await {
            Ok(delivery) => break received(queue, delivery)?,
            Err(_) => {
                let counts = topology::passive_queue(connection, queue).await?;
                seems_empty &= counts.is_some_and(|counts| counts.messages == 0);
                if began.elapsed() >= LONG_SILENCE {
                    return Ok(match seems_empty {
                        true => Tail::Empty,
                        false => Tail::Silent,
                    });
                }
            }
        }
    };
    // Twice, as it may be in the middle of a chunk when it is asked first.
    let (mut all, mut acknowledged) = (0, None);
    let first_came = Instant::now();
    while all < 2 && first_came.elapsed() < PROBE {
        if acknowledged.replace(tail.1) != Some(tail.1) {
            acknowledge(&channel, tail.1).await?;
        }
        ask(&channel, PROBE_PREFETCH).await?;
        let mut waited = 0;
        while waited < PROBE_PREFETCH
            && let Some(delivery) = deliveries.next().now_or_never()
        {
            tail = received(queue, delivery)?;
            waited += 1;
        }
        all += u8::from(waited < PROBE_PREFETCH);
    }
    Ok(Tail::At(tail.0))
}

/// The position and the tag of a record.
fn received(
    queue: &str,
    delivery: Option<lapin::Result<Delivery>>,
) -> Result<(Position, u64), Error> {
    match delivery {
        Some(Ok(delivery)) => {
            // Only a stream's records have one, and nothing else is looked for here.
            let position = position(&delivery.properties).unwrap_or_default();
            Ok((position, delivery.delivery_tag))
        }
        Some(Err(error)) => Err(connection::lost("looking for the newest record", &error)),
        None => Err(Error::Cancelled {
            queue: queue.to_owned(),
        }),
    }
}

/// Asks the broker something that it answers in its turn. It has then delivered all that it had for this channel, unless as
/// much as may be on its way is on its way.
pub(super) async fn ask(channel: &Channel, prefetch: u16) -> Result<(), Error> {
    let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
    connection::answer("asking for a sign of life", qos).await
}

/// A stream delivers on when it is told how far it was read (AMQP 0-9-1 §1.8.3.13).
pub(super) async fn acknowledge(channel: &Channel, tag: u64) -> Result<(), Error> {
    let told = channel.basic_ack(tag, BasicAckOptions { multiple: true });
    connection::answer("telling how far a stream was read", told).await
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
