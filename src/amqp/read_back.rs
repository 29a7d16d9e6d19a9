//! Reading back: records of the stream that are no longer in memory, for clients that come back for them. It reads what
//! it is asked to ([`event::ReadBacks`](crate::event::ReadBacks)) and settles nothing.
//!
//! It has a connection of its own, made when somebody waits and closed when nobody has for a while, and a bounded number of
//! readers on it, so that live consumption never waits for it. A reader that fails is simply given up: those whom it
//! served ask again from where they are.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use lapin::message::Delivery;
use lapin::{Channel, Connection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::StreamExt;
use tracing::Instrument;

use super::connection::{self, Backoff, Role, Suspicion};
use super::message::take_apart;
use super::progress::Offset;
use super::stream;
use super::{BrokerConfig, Error};
use crate::event::id::Position;
use crate::event::{self, ReadBack};
use crate::faults::FaultLog;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// How many records may be on their way to one reader: they are in memory besides those that it holds.
const PREFETCH: u16 = 64;
/// How many records one turn takes, before live deliveries have theirs.
const BURST: u16 = 32;
/// How many records a second all readers together take. Faster, the broker and the bridge would be busy with them alone,
/// and live events would wait longer (`cargo bench --bench resume`).
const RECORDS_PER_SECOND: u32 = 10_000;
/// Besides, each reader takes so many for each record that is consumed live: it catches up, whatever is published.
const PER_LIVE_RECORD: u64 = 2;
/// How much of its time a reader that comes late takes back.
const SLACK: Duration = Duration::from_millis(20);
/// How long a stream may deliver nothing before that counts as its end, for now.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the broker is asked whether that was all: neither is silence an end, nor do events that keep coming say that
/// there is none.
const ASK: Duration = Duration::from_millis(500);
/// How long it may deliver nothing at all while somebody waits: then the reader is given up and made anew.
const SILENCE: Duration = Duration::from_secs(5);
/// How long the connection is kept when nobody needs it.
const LINGER: Duration = Duration::from_secs(10);

/// Reads records of the stream again.
#[derive(Debug)]
pub struct ReadBacks {
    config: Arc<BrokerConfig>,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
}

impl ReadBacks {
    /// Makes no connection yet.
    #[must_use]
    pub fn new(config: Arc<BrokerConfig>, metrics: Arc<Metrics>, lifecycle: Lifecycle) -> Self {
        Self {
            config,
            metrics,
            lifecycle,
        }
    }

    /// Serves readings until the intake's stage is asked to stop.
    pub async fn run<Waiting: event::ReadBacks>(self, mut waiting: Waiting) {
        let mut stopping = std::pin::pin!(self.lifecycle.intake.stopping());
        let mut readers = JoinSet::new();
        let mut link = Link::default();
        let pace = Arc::default();
        loop {
            let has_reader_left = readers.len() < self.config.read_back_readers;
            tokio::select! {
                () = &mut stopping => break,
                Some(ended) = readers.join_next() => link.note(ended.unwrap_or(Ok(()))),
                () = link.is_to_close(), if readers.is_empty() => link.close().await,
                reading = next(&mut waiting, link.retry_at), if has_reader_left => {
                    let connecting = link.connection(&self.config);
                    let connected = tokio::select! {
                        connected = connecting => connected,
                        () = &mut stopping => break,
                    };
                    match connected {
                        Ok(connection) => {
                            let span = tracing::info_span!("reader", begin = reading.begin().get());
                            let reader = Reader {
                                pace: Arc::clone(&pace),
                                config: Arc::clone(&self.config),
                                metrics: Arc::clone(&self.metrics),
                                connection,
                            };
                            readers.spawn(reader.read(reading).instrument(span));
                        }
                        Err(error) => link.note(Err(error)),
                    }
                }
            }
            let busy = i64::try_from(readers.len()).unwrap_or(i64::MAX);
            self.metrics.read_back_readers.set(busy);
        }
        readers.shutdown().await;
        link.close().await;
        self.metrics.read_back_readers.set(0);
    }
}

/// The next reading, but not before a fault has had its wait.
async fn next<Waiting: event::ReadBacks>(
    waiting: &mut Waiting,
    retry_at: Option<Instant>,
) -> Waiting::ReadBack {
    if let Some(retry_at) = retry_at {
        sleep_until(retry_at).await;
    }
    waiting.next().await
}

/// The connection, or the place where it will be.
#[derive(Default)]
struct Link {
    connection: Option<Arc<Connection>>,
    idle_since: Option<Instant>,
    /// The node whose turn it is.
    node: usize,
    suspicion: Suspicion,
    backoff: Backoff,
    faults: FaultLog,
    retry_at: Option<Instant>,
}

impl Link {
    async fn connection(&mut self, config: &BrokerConfig) -> Result<Arc<Connection>, Error> {
        self.idle_since = None;
        if let Some(connection) = &self.connection
            && connection.status().connected()
        {
            return Ok(Arc::clone(connection));
        }
        let connection =
            connection::connect_in_turn(config, self.node, Role::ReadBack, &self.suspicion).await?;
        Ok(Arc::clone(self.connection.insert(Arc::new(connection))))
    }

    /// A reader has ended, or could not begin.
    fn note(&mut self, ended: Result<(), Error>) {
        let now = Instant::now();
        self.idle_since = Some(now);
        let Err(error) = ended else {
            self.backoff.reset();
            self.faults.reset();
            self.retry_at = None;
            return;
        };
        self.node = self.node.wrapping_add(1);
        let wait = self.backoff.next();
        self.retry_at = Some(now + wait);
        if let Some(times) = self.faults.note(&error, now) {
            tracing::warn!(
                times,
                "cannot read back from the stream; clients that wait for it wait on: {error}"
            );
        }
    }

    async fn is_to_close(&self) {
        match (&self.connection, self.idle_since) {
            (Some(_), Some(idle_since)) => sleep_until(idle_since + LINGER).await,
            _ => pending().await,
        }
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection::close(&connection).await;
        }
    }
}

/// How fast readers may go, all together.
#[derive(Debug, Default)]
struct Pace {
    /// When all that was taken so far would have been taken at that speed.
    due: Mutex<Option<Instant>>,
}

impl Pace {
    /// When the next records may be taken, after so many.
    fn due(&self, records: u64) -> Instant {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let begin = due.map_or(earliest, |due| due.max(earliest));
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        *due.insert(begin + Duration::from_secs(1) * records / RECORDS_PER_SECOND)
    }
}

/// What one reader may take besides.
struct Allowance {
    /// How many records were consumed live, when it was last counted.
    live: u64,
    left: u64,
}

impl Allowance {
    fn new(live: u64) -> Self {
        Self { live, left: 0 }
    }

    /// How many of the records that were taken do not fall under it. What it leaves may be taken later.
    fn exceeding(&mut self, records: u64, live: u64) -> u64 {
        let grown = live.saturating_sub(self.live) * PER_LIVE_RECORD;
        let allowed = self.left + grown;
        self.live = live;
        // What was not needed for long is not a right to hurry.
        self.left = allowed.saturating_sub(records).min(u64::from(PREFETCH));
        records.saturating_sub(allowed)
    }
}

/// What a reader reads, on a channel of its own.
struct Source {
    channel: Channel,
    deliveries: lapin::Consumer,
    /// The last record that was taken.
    last: Option<Position>,
}

/// One reader.
struct Reader {
    pace: Arc<Pace>,
    config: Arc<BrokerConfig>,
    metrics: Arc<Metrics>,
    connection: Arc<Connection>,
}

impl Reader {
    /// Reads until nobody needs more.
    async fn read(self, mut reading: impl ReadBack) -> Result<(), Error> {
        let begin = Offset::At(reading.begin());
        let queue = &self.config.queue;
        let (channel, deliveries) =
            stream::open(&self.connection, queue, PREFETCH, Some(begin)).await?;
        let mut source = Source {
            channel,
            deliveries,
            last: None,
        };
        let mut records = 0_u64;
        let live = &self.metrics.events_consumed;
        let mut allowance = Allowance::new(live.get());
        let (mut quiet, mut asked) = (Duration::ZERO, Instant::now());
        // A subscription can die without a word: whoever still waits then does so at another one.
        while quiet < SILENCE && reading.room().await {
            let first = timeout(PAUSE, source.deliveries.next()).await.ok();
            let mut taken = self.take(&mut source, first, BURST, &mut reading).await?;
            if asked.elapsed() >= ASK {
                asked = Instant::now();
                reading.asked();
                stream::ask(&source.channel, PREFETCH).await?;
                let waited = self.take(&mut source, None, PREFETCH, &mut reading).await?;
                taken += waited;
                // Had there been more, it would have been sent: as much as may be on its way.
                if waited < PREFETCH {
                    reading.ended().await;
                }
            } else if taken == 0 {
                reading.pause().await;
            }
            quiet = match taken {
                0 => quiet + PAUSE,
                _ => Duration::ZERO,
            };
            records += u64::from(taken);
            let exceeding = allowance.exceeding(taken.into(), live.get());
            sleep_until(self.pace.due(exceeding)).await;
        }
        tracing::debug!(records, "read back");
        let closing = source.channel.close(200, "OK".into());
        connection::answer("closing a channel", closing).await
    }

    /// Gives the reading this delivery and those that are here already, and acknowledges them: a stream delivers on when it
    /// is told how far it was read (AMQP 0-9-1 §1.8.3.13). How many there were.
    async fn take(
        &self,
        source: &mut Source,
        first: Option<Option<lapin::Result<Delivery>>>,
        limit: u16,
        reading: &mut impl ReadBack,
    ) -> Result<u16, Error> {
        let mut next = first;
        let (mut tag, mut taken) = (None, 0);
        while taken < limit
            && let Some(delivery) = next
                .take()
                .or_else(|| source.deliveries.next().now_or_never())
        {
            let delivery = self.delivery(delivery)?;
            tag = Some(delivery.delivery_tag);
            let (message, origin) = take_apart(delivery);
            if let (Some(last), Some(position)) = (source.last, origin.position) {
                self.check_gap(last, position).await?;
            }
            source.last = origin.position;
            reading.accept(message);
            taken += 1;
            self.metrics.read_back_records.inc();
        }
        if let Some(tag) = tag {
            stream::acknowledge(&source.channel, tag).await?;
        }
        Ok(taken)
    }

    /// Positions skip one where a segment begins; where they skip, it may also be that retention was faster. Then records
    /// between these two are gone, and those who are served here must look where they are.
    async fn check_gap(&self, last: Position, position: Position) -> Result<(), Error> {
        if position.get() <= last.get() + 1 {
            return Ok(());
        }
        let oldest = self.oldest().await?;
        if oldest.is_none_or(|oldest| oldest.get() <= last.get() + 1) {
            return Ok(());
        }
        Err(Error::Overtaken {
            queue: self.config.queue.clone(),
            position: last.get(),
        })
    }

    /// The oldest record that is kept.
    async fn oldest(&self) -> Result<Option<Position>, Error> {
        let queue = &self.config.queue;
        let offset = Some(Offset::First);
        let (channel, mut deliveries) = stream::open(&self.connection, queue, 1, offset).await?;
        let first = timeout(SILENCE, deliveries.next()).await.ok().flatten();
        let oldest = match first {
            Some(first) => take_apart(self.delivery(Some(first))?).1.position,
            None => None,
        };
        connection::answer("closing a channel", channel.close(200, "OK".into())).await?;
        Ok(oldest)
    }

    fn delivery(&self, delivery: Option<lapin::Result<Delivery>>) -> Result<Delivery, Error> {
        match delivery {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(error)) => Err(connection::lost("reading back", &error)),
            None => Err(Error::Cancelled {
                queue: self.config.queue.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readers_go_at_their_pace_together() {
        let pace = Pace::default();
        let began = Instant::now();
        for _ in 0..RECORDS_PER_SECOND / 1000 * 3 {
            sleep_until(pace.due(1000)).await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(3) - SLACK);
    }

    #[test]
    fn a_reader_that_takes_twice_what_is_live_does_not_go_at_the_common_pace() {
        let mut allowance = Allowance::new(1000);
        assert_eq!(allowance.exceeding(32, 1000), 32, "nothing came meanwhile");
        assert_eq!(allowance.exceeding(32, 1010), 12);
        assert_eq!(allowance.exceeding(32, 1020), 12);
        assert_eq!(allowance.exceeding(32, 1036), 0);
        assert_eq!(allowance.exceeding(32, 1036), 32);
        assert_eq!(allowance.exceeding(0, 1_000_000), 0);
        assert_eq!(allowance.exceeding(PREFETCH.into(), 1_000_000), 0);
        assert_eq!(allowance.exceeding(1, 1_000_000), 1, "long ago");
    }
}
