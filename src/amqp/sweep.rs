//! Reading a stretch of a stream again, for the poison that was passed over in it: on a channel of its own, beside
//! what is live, which never waits for it.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection};
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt;

use super::ledger::Stretch;
use super::progress::Offset;
use super::settlements::Settlements;
use super::{BrokerConfig, Error, connection, stream};

/// How long a reading that broke off rests.
const REST: Duration = Duration::from_secs(1);

/// How long nothing may come while nothing that came is unsettled: at the latest the record that ends the stretch must. A
/// reader that the broker has forgotten without a word is not noticed otherwise.
const SILENCE: Duration = Duration::from_secs(10);

/// The one reading that may be under way on a link.
pub(super) struct Sweep<'a> {
    connection: &'a Connection,
    config: &'a BrokerConfig,
    state: State<'a>,
}

type Opening<'a> =
    Pin<Box<dyn Future<Output = Result<(Channel, lapin::Consumer), Error>> + Send + 'a>>;

#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum State<'a> {
    Idle { until: Option<Instant> },
    Opening(Stretch, Opening<'a>),
    Reading(Reading),
}

/// A channel that delivers the stretch.
pub(super) struct Reading {
    pub stretch: Stretch,
    pub settlements: Settlements,
    channel: Channel,
    deliveries: lapin::Consumer,
    /// When it was last heard of, or told something.
    last: Instant,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(connection: &'a Connection, config: &'a BrokerConfig) -> Self {
        Self {
            connection,
            config,
            state: State::Idle { until: None },
        }
    }

    /// Begins to read this stretch, unless a reading is under way or rests.
    pub(super) fn begin(&mut self, stretch: Stretch) {
        let State::Idle { until } = self.state else {
            return;
        };
        if until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let Stretch { begin, end } = stretch;
        tracing::info!(begin = begin.get(), end = end.get(), queue = %self.config.queue, "reading again what was read without the duty of dead-lettering");
        let opening = stream::open(
            self.connection,
            &self.config.queue,
            self.config.prefetch,
            Some(Offset::At(begin)),
        );
        self.state = State::Opening(stretch, Box::pin(opening));
    }

    /// The next delivery, or why there is none. None when there may be something to begin. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            match &mut self.state {
                State::Idle { until: None } => pending().await,
                State::Idle { until: Some(rest) } => {
                    sleep_until(*rest).await;
                    self.state = State::Idle { until: None };
                    return None;
                }
                State::Opening(stretch, opening) => match opening.await {
                    Ok((channel, deliveries)) => {
                        self.state = State::Reading(Reading {
                            stretch: *stretch,
                            settlements: Settlements::default(),
                            channel,
                            deliveries,
                            last: Instant::now(),
                        });
                    }
                    Err(error) => return Some(Err(error)),
                },
                State::Reading(reading) => {
                    let silent = is_silent(reading.last, &reading.settlements);
                    let delivery = tokio::select! {
                        biased;
                        delivery = reading.deliveries.next() => delivery,
                        () = silent => {
                            return Some(Err(Error::Timeout {
                                action: "reading again".to_owned(),
                                seconds: SILENCE.as_secs(),
                            }));
                        }
                    };
                    reading.last = Instant::now();
                    return Some(match delivery {
                        Some(Ok(delivery)) => Ok(delivery),
                        Some(Err(error)) => Err(connection::lost("reading again", &error)),
                        None => Err(Error::Cancelled {
                            queue: self.config.queue.clone(),
                        }),
                    });
                }
            }
        }
    }

    /// The reading, once it delivers.
    pub(super) fn reading(&mut self) -> Option<&mut Reading> {
        match &mut self.state {
            State::Reading(reading) => Some(reading),
            State::Idle { .. } | State::Opening(..) => None,
        }
    }

    /// It has come to its end. What it delivered beyond needs no acknowledgement: its channel closes.
    pub(super) fn end(&mut self) {
        self.state = State::Idle { until: None };
    }

    /// It broke off.
    pub(super) fn rest(&mut self) {
        self.state = State::Idle {
            until: Some(Instant::now() + REST),
        };
    }

    /// Tells the broker what is settled, so that it delivers more.
    pub(super) async fn acknowledge(&mut self) -> Result<(), Error> {
        if let Some(reading) = self.reading()
            && let Some(tag) = reading.settlements.take_due()
        {
            let telling = reading
                .channel
                .basic_ack(tag, BasicAckOptions { multiple: true });
            connection::answer("acknowledging what was read again", telling).await?;
            reading.last = Instant::now();
        }
        Ok(())
    }
}

/// Returns when the broker has kept silent for too long; never while it waits for us, as a dead letter that cannot be
/// confirmed holds the acks back.
fn is_silent(last: Instant, settlements: &Settlements) -> impl Future<Output = ()> + Send + use<> {
    let waits_for_us = settlements.unacknowledged() > 0;
    async move {
        match waits_for_us {
            true => pending().await,
            false => sleep_until(last + SILENCE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::id::Position;

    #[tokio::test(start_paused = true)]
    async fn silence_means_something_only_where_the_broker_does_not_wait_for_us() {
        let began = Instant::now();
        let mut settlements = Settlements::default();
        is_silent(began, &settlements).await;
        assert_eq!(began.elapsed(), SILENCE);
        settlements.deliver(1, Some(Position::new(7)));
        let waiting = tokio::time::timeout(10 * SILENCE, is_silent(began, &settlements)).await;
        assert!(waiting.is_err(), "a dead letter is under way");
        settlements.settle(1);
        assert_eq!(settlements.take_due(), Some(1));
        let told = Instant::now();
        is_silent(told, &settlements).await;
        assert_eq!(told.elapsed(), SILENCE);
    }
}
