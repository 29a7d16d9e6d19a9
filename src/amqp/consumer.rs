//! The supervised consumer: it connects, makes sure of the topology, subscribes, hands every delivery to the intake
//! and settles it by the verdict; and whatever happens to the link, it begins again, for ever.
//!
//! Its connection publishes nothing: RabbitMQ stops the acks of a connection that also publishes when it blocks
//! publishers. It never nacks: poison goes to the dead-letter exchange by [`DeadLetters`] and is acknowledged when
//! that has confirmed it; behind it acks wait, deliveries go on until the prefetch is used up. On a stream that is
//! the duty of one replica (see [`Keeper`]); the others acknowledge poison and let it pass.

mod alarm;
mod delivery;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicQosOptions;
use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::connection::{self, Backoff, Role, Suspicion};
use super::dead_letter::{Gate, Outcome};
use super::duty::{self, Keeper, Standing};
use super::ledger::Ledger;
use super::progress::{Offset, Progress};
use super::redeliveries::{LetterId, Redeliveries};
use super::settlements::Settlements;
use super::stream::{LONG_SILENCE, Tail, find_tail, open};
use super::topology::{self, Made};
use super::{BrokerConfig, DeadLetters, Error, QueueType};
use crate::event::id::Position;
use crate::event::{Break, Intake};
use crate::faults::FaultLog;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// What that grows to where it means nothing again and again.
const LONGEST_SILENCE: Duration = Duration::from_secs(12);
/// A link that lived this long was a good one: the next fault begins with the shortest wait.
const GOOD_LINK: Duration = Duration::from_secs(1);

/// Consumes the events queue.
#[derive(Debug)]
pub struct Consumer {
    config: Arc<BrokerConfig>,
    dead_letters: DeadLetters,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
}

impl Consumer {
    /// Makes no connection yet.
    #[must_use]
    pub fn new(
        config: Arc<BrokerConfig>,
        dead_letters: DeadLetters,
        metrics: Arc<Metrics>,
        lifecycle: Lifecycle,
    ) -> Self {
        Self {
            config,
            dead_letters,
            metrics,
            lifecycle,
        }
    }

    /// Consumes until the intake's stage is asked to stop, and never returns before. Then it cancels the subscription,
    /// settles what it has (dead letters on their way have 5 s) and closes the link.
    pub async fn run(self, intake: impl Intake) {
        let stopping = Box::pin(self.lifecycle.intake.stopping());
        let progress = Progress::new(self.config.history_max_age);
        let redeliveries = Redeliveries::new(self.config.prefetch);
        let publisher = self.dead_letters.publisher().clone();
        let keeper = Keeper::new(Arc::clone(&self.config), publisher);
        let mut run = Run {
            consumer: self,
            intake,
            stopping,
            progress,
            redeliveries,
            ledger: Ledger::default(),
            standing: keeper.standing(),
            keeper,
            gate: watch::Sender::new(Gate::Undecided),
            caught_up: false,
            letters: JoinSet::new(),
            streams: 0,
            links: 0,
        };
        run.supervise().await;
        run.letters.shutdown().await;
        run.consumer.metrics.broker_up.set(0);
        run.consumer.metrics.unacknowledged.set(0);
        run.consumer.metrics.dead_letter_duty.set(0);
    }
}

/// All that outlives a link.
struct Run<I> {
    consumer: Consumer,
    intake: I,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Used for streams only, as are the next four.
    progress: Progress,
    ledger: Ledger,
    keeper: Keeper,
    /// Where the keeper stands.
    standing: watch::Receiver<Standing>,
    /// Whether dead letters may be written.
    gate: watch::Sender<Gate>,
    /// Used for work queues only.
    redeliveries: Redeliveries,
    /// Whether the intake was told that history is over.
    caught_up: bool,
    /// Dead letters on their way.
    letters: JoinSet<Settled>,
    /// Counts streams: what a dead letter settles is known by its position in one of them only.
    streams: u64,
    /// How many links have been subscribed.
    links: u64,
}

/// A dead letter that needs nothing more, and what it settles.
#[derive(Clone, Copy, Debug)]
struct Settled {
    what: Key,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
enum Key {
    /// A record of one of the streams there were.
    Record { stream: u64, position: Position },
    /// A delivery of a work queue, across links.
    Letter(LetterId),
}

/// A channel that delivers.
struct Subscription {
    channel: Channel,
    deliveries: lapin::Consumer,
    settlements: Settlements,
    /// When silence means something.
    silence: Option<Instant>,
    /// The highest tag that was acknowledged, and the highest of which the broker was asked whether it has had that.
    told: u64,
    asked: u64,
    /// Its answer: up to here it has. Never, where it was not asked.
    answer: Pin<Box<dyn Future<Output = u64> + Send>>,
    is_asking: bool,
}

impl Subscription {
    fn new(channel: Channel, deliveries: lapin::Consumer, silence: Option<Instant>) -> Self {
        Self {
            channel,
            deliveries,
            settlements: Settlements::default(),
            silence,
            told: 0,
            asked: 0,
            answer: Box::pin(pending()),
            is_asking: false,
        }
    }

    /// Asks the broker something that it answers after it has had the acknowledgements so far, as these have no answer.
    fn ask(&mut self, prefetch: u16) {
        if self.is_asking || self.told == self.asked {
            return;
        }
        self.is_asking = true;
        self.asked = self.told;
        let (tag, channel) = (self.told, self.channel.clone());
        self.answer = Box::pin(async move {
            let options = BasicQosOptions { global: false };
            match channel.basic_qos(prefetch, options).await {
                Ok(()) => tag,
                // A channel that is broken is seen where it delivers.
                Err(_) => pending().await,
            }
        });
    }

    /// It has answered.
    fn answered(&mut self) {
        self.is_asking = false;
        self.answer = Box::pin(pending());
    }
}

/// Why a subscription ended.
enum End {
    Stopped,
    /// To be made again on the same link, elsewhere in the stream.
    Elsewhere,
    /// Nothing came, where the record that was last read must be.
    Silent,
    Fault(Error),
}

impl<I: Intake> Run<I> {
    async fn supervise(&mut self) {
        let mut backoff = Backoff::default();
        let mut faults = FaultLog::default();
        let suspicion = Suspicion::default();
        let mut node = 0;
        loop {
            let links = self.links;
            let began = Instant::now();
            let Some(fault) = self.live(node, &suspicion).await else {
                return;
            };
            self.consumer.metrics.broker_up.set(0);
            self.consumer.metrics.unacknowledged.set(0);
            let had_link = self.links > links;
            if had_link && began.elapsed() >= GOOD_LINK {
                backoff.reset();
                faults.reset();
            }
            node = node.wrapping_add(1);
            let wait = backoff.next();
            report(&fault, &mut faults, wait);
            tokio::select! {
                () = sleep(wait) => {}
                () = &mut self.stopping => {
                    self.last_letters(None).await;
                    return;
                }
            }
        }
    }

    /// One link, from the first knock to its end. None when this process is ending.
    async fn live(&mut self, node: usize, suspicion: &Suspicion) -> Option<Error> {
        let config = Arc::clone(&self.consumer.config);
        let connecting = Box::pin(connection::connect_in_turn(
            &config,
            node,
            Role::Consumer,
            suspicion,
        ));
        let connected = tokio::select! {
            connected = connecting => connected,
            () = &mut self.stopping => {
                self.last_letters(None).await;
                return None;
            }
        };
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => return Some(error),
        };
        let end = Box::pin(self.consume(&connection)).await;
        connection::close(&connection).await;
        end
    }

    /// All subscriptions of one link, and the duty beside them. None when this process is ending.
    async fn consume(&mut self, connection: &Connection) -> Option<Error> {
        let stopping = self.consumer.lifecycle.intake.stopping();
        let prepared = tokio::select! {
            prepared = self.prepare(connection) => Some(prepared),
            () = stopping => None,
        };
        match prepared {
            Some(Ok(())) => {}
            Some(Err(error)) => return Some(error),
            None => {
                self.last_letters(None).await;
                return None;
            }
        }
        if !self.is_stream() {
            return self.read(connection).await;
        }
        let keeper = self.keeper.clone();
        let end = tokio::select! {
            end = self.read(connection) => end,
            never = keeper.keep(connection) => match never {},
        };
        self.keeper.link_is_lost();
        self.stand();
        end
    }

    /// All subscriptions of one link. None when this process is ending.
    async fn read(&mut self, connection: &Connection) -> Option<Error> {
        if self.is_stream() {
            self.seek_duty().await;
        }
        let mut silence = LONG_SILENCE;
        loop {
            let stopping = self.consumer.lifecycle.intake.stopping();
            let subscribed = tokio::select! {
                subscribed = self.subscribe(connection, silence) => Some(subscribed),
                () = stopping => None,
            };
            let mut subscription = match subscribed {
                Some(Ok(subscription)) => subscription,
                Some(Err(error)) => return Some(error),
                None => {
                    self.last_letters(None).await;
                    return None;
                }
            };
            let end = self.deliver(connection, &mut subscription).await;
            let lowest = subscription.settlements.lowest_unsettled();
            match end {
                End::Stopped => {
                    self.wind_up(&mut subscription).await;
                    return None;
                }
                End::Elsewhere => {
                    self.progress.settled_below(lowest);
                    silence = LONG_SILENCE;
                }
                End::Silent => {
                    self.progress.settled_below(lowest);
                    if silence < LONGEST_SILENCE {
                        let queue = &self.consumer.config.queue;
                        tracing::warn!(%queue, "nothing comes where the last record was; looking whether the stream is still the same");
                    }
                    silence = silence.saturating_mul(2).min(LONGEST_SILENCE);
                    if let Err(error) = self.recognise(connection).await {
                        return Some(error);
                    }
                }
                End::Fault(error) => {
                    // What was delivered and not settled will come again. Dead letters on their way go on.
                    self.progress.settled_below(lowest);
                    self.redeliveries.link_is_lost();
                    return Some(error);
                }
            }
        }
    }

    fn is_stream(&self) -> bool {
        self.consumer.config.queue_type == QueueType::Stream
    }

    /// Makes sure of the exchanges and queues.
    async fn prepare(&mut self, connection: &Connection) -> Result<(), Error> {
        let config = Arc::clone(&self.consumer.config);
        let (made, warning) = Box::pin(topology::ensure_events(connection, &config)).await?;
        if let Some(warning) = warning.filter(|_| self.links == 0) {
            tracing::warn!("{warning}");
        }
        if made == Made::Now && self.is_stream() {
            self.made_now();
        }
        Box::pin(self.ensure_dead_letters(connection)).await
    }

    async fn subscribe(
        &mut self,
        connection: &Connection,
        silence: Duration,
    ) -> Result<Subscription, Error> {
        let config = Arc::clone(&self.consumer.config);
        let offset = match self.is_stream() {
            true => Some(self.begin(connection).await?),
            false => None,
        };
        let (channel, deliveries) =
            open(connection, &config.queue, config.prefetch, offset).await?;
        let silence = match offset {
            None | Some(Offset::First) => None,
            // In both cases there is a record that must come.
            Some(Offset::Age(_) | Offset::At(_)) => Some(Instant::now() + silence),
        };
        self.subscribed(offset);
        Ok(Subscription::new(channel, deliveries, silence))
    }

    /// At the first start everything must be there. Later on events are more than poison: they are delivered even
    /// where somebody has to mend the dead-letter exchange first, while poison stays unsettled.
    async fn ensure_dead_letters(&self, connection: &Connection) -> Result<(), Error> {
        let config = &self.consumer.config;
        let mut ensured = topology::ensure_dead_letters(connection, config).await;
        if ensured.is_ok() && self.is_stream() {
            ensured = topology::ensure_duty(connection, config).await;
        }
        match ensured {
            Err(error) if error.needs_operator() && self.links > 0 => {
                tracing::error!("{error}");
                Ok(())
            }
            result => result,
        }
    }

    /// This process has just made the stream: it has no history, and what was read before was of another.
    fn made_now(&mut self) {
        if self.progress.offset_is_known() {
            self.start_over();
        } else {
            self.progress.found_tail(None);
        }
    }

    /// Where a stream's subscription begins.
    async fn begin(&mut self, connection: &Connection) -> Result<Offset, Error> {
        if self.progress.needs_tail() {
            let config = &self.consumer.config;
            match find_tail(connection, &config.queue).await? {
                Tail::At(tail) => self.progress.found_tail(Some(tail)),
                Tail::Empty => self.progress.found_tail(None),
                // Tried again with the next link, for ever: taken as empty, its history would come as news.
                Tail::Silent => {
                    return Err(Error::Timeout {
                        action: format!("with the newest record of stream `{}`", config.queue),
                        seconds: LONG_SILENCE.as_secs(),
                    });
                }
            }
        }
        self.progress.begin();
        Ok(self.progress.offset())
    }

    /// The broker delivers from here on.
    fn subscribed(&mut self, offset: Option<Offset>) {
        let Consumer {
            config,
            metrics,
            lifecycle,
            ..
        } = &self.consumer;
        if metrics.broker_up.get() == 0 {
            if self.links > 0 {
                metrics.broker_reconnects.inc();
            }
            self.links += 1;
            metrics.broker_up.set(1);
            let begins = offset.map(tracing::field::debug);
            tracing::info!(queue = %config.queue, queue_type = %config.queue_type, begins, "consuming");
        }
        lifecycle.mark_connected();
        if matches!(offset, None | Some(Offset::First)) {
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        if !self.caught_up {
            self.caught_up = true;
            self.intake.caught_up();
            tracing::info!("history is read; from here on it is news");
        }
    }

    /// Nothing came where the last record must be. Either the broker is slow, or the stream was made anew: only a record
    /// shows that, as none at all is what a broker says that has just started.
    async fn recognise(&mut self, connection: &Connection) -> Result<(), Error> {
        if let Tail::At(tail) = find_tail(connection, &self.consumer.config.queue).await?
            && self.progress.is_another(tail)
        {
            self.start_over();
        }
        Ok(())
    }

    fn start_over(&mut self) {
        let queue = &self.consumer.config.queue;
        tracing::error!(%queue, "the stream was deleted and made anew: it is read from its first record, and what was not read of the old one is lost");
        self.progress.start_over();
        self.intake.broken(Break::Replaced);
        // Dead letters on their way go on: they are nowhere else now. They settle nothing in the new stream, and nobody
        // else can write them.
        self.streams += 1;
        self.gate.send_replace(Gate::Open(None));
        self.gate = watch::Sender::new(Gate::Undecided);
        self.ledger.start_over();
        self.keeper.stream_is_another();
        self.stand();
    }

    /// Waits a little for the duty, so that a single replica has it before it reads.
    async fn seek_duty(&mut self) {
        let decided = self
            .standing
            .wait_for(|standing| *standing != Standing::Seeking);
        let is_late = timeout(duty::PATIENCE, decided).await.is_err();
        if is_late {
            self.keeper.stop_seeking();
        }
        self.stand();
    }

    /// Takes note of where the keeper stands.
    fn stand(&mut self) {
        let standing = self.standing.borrow_and_update().clone();
        let had = self.ledger.is_held();
        let gate = match &standing {
            Standing::Seeking => Gate::Undecided,
            Standing::Without => Gate::Closed,
            Standing::Held(token) => Gate::Open(token.settled),
        };
        match &standing {
            Standing::Seeking | Standing::Without => self.ledger.lost(),
            Standing::Held(token) => self.ledger.gained(token.clone()),
        }
        self.gate.send_replace(gate);
        self.tell();
        let (has, queue) = (self.ledger.is_held(), &self.consumer.config.queue);
        self.consumer.metrics.dead_letter_duty.set(has.into());
        if has && !had {
            tracing::info!(%queue, ?standing, "this replica dead-letters the poison of the stream");
        } else if had && !has {
            tracing::info!(%queue, "this replica no longer dead-letters the poison of the stream");
        }
    }

    /// Tells the keeper how far poison is dealt with.
    fn tell(&mut self) {
        match self.ledger.token() {
            Some((token, is_urgent)) => self.keeper.tell(Some(token), is_urgent),
            None => self.keeper.tell(None, false),
        }
    }
}

/// Tells a fault: once, then at doubling intervals.
fn report(fault: &Error, faults: &mut FaultLog, wait: Duration) {
    let Some(times) = faults.note(fault, Instant::now()) else {
        return;
    };
    let next_try_ms = count(usize::try_from(wait.as_millis()).unwrap_or(usize::MAX));
    if fault.needs_operator() {
        tracing::error!(times, next_try_ms, "{fault}");
    } else {
        tracing::warn!(times, next_try_ms, "{fault}");
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
