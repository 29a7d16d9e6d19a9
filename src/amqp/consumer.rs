//! The supervised consumer: it connects, makes sure of the topology, subscribes, hands every delivery to the intake
//! and settles it by the verdict; and whatever happens to the link, it begins again, for ever.
//!
//! Its connection publishes nothing: RabbitMQ stops the acks of a connection that also publishes when it blocks
//! publishers. It never nacks: poison goes to the dead-letter exchange by [`DeadLetters`] and is acknowledged when
//! that has confirmed it; behind it acks wait, deliveries go on until the prefetch is used up. On a stream that is
//! the duty of one replica (see [`Keeper`]); the others acknowledge poison and let it pass.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout, timeout_at};
use tokio_stream::StreamExt;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::connection::{self, Backoff, FaultLog, Role, Suspicion};
use super::dead_letter::{Gate, Outcome, Permit};
use super::duty::{self, Keeper, Standing};
use super::ledger::{Due, Ledger};
use super::message::{Origin, position, take_apart};
use super::progress::{Arrival, Offset, Progress};
use super::redeliveries::{self, Fingerprint, LetterId, Redeliveries};
use super::settlements::Settlements;
use super::sweep::Sweep;
use super::topology::{self, Made};
use super::{BrokerConfig, DeadLetters, Error, QueueType};
use crate::event::id::{EventId, Mark, Position};
use crate::event::{Break, Intake, Message, Poison, Verdict};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// How long settled deliveries may wait for the broker to be told.
const FLUSH: Duration = Duration::from_millis(50);
/// How long the search for the tail waits for a first record before it asks how many there are, each time.
const SILENCE: Duration = Duration::from_millis(500);
/// How long a subscription may be silent at its beginning, where a record must be, before that means something.
const LONG_SILENCE: Duration = Duration::from_secs(3);
/// What that grows to where it means nothing again and again.
const LONGEST_SILENCE: Duration = Duration::from_secs(12);
/// How long the last chunk of a stream may pause before it counts as read.
const QUIET: Duration = Duration::from_millis(150);
/// How long the search for the tail takes at most under steady traffic.
const PROBE: Duration = Duration::from_secs(2);
/// How many records of the last chunk may be unacknowledged.
const PROBE_PREFETCH: u16 = 1000;
/// How long a stream may deliver nothing before it is asked whether that is all, so that a subscription that has died
/// without a word is noticed.
const LULL: Duration = Duration::from_secs(5);
/// How often it is asked again while nothing comes.
const LONG_LULL: Duration = Duration::from_secs(60);
/// How often the broker is asked what is in the queue.
const WATCH: Duration = Duration::from_secs(10);
/// A link that lived this long was a good one: the next fault begins with the shortest wait.
const GOOD_LINK: Duration = Duration::from_secs(1);
/// How long dead letters on their way may take at the end.
const LAST_LETTERS: Duration = Duration::from_secs(5);
/// How long the broker may take to stop delivering at the end.
const CANCEL: Duration = Duration::from_secs(2);

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
            frame_max: Some(connection::SMALL_FRAMES),
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
    /// The size of frames to ask for; none is the broker's.
    frame_max: Option<u32>,
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

/// What happened next.
enum Step {
    Stop,
    Letter(Option<Settled>),
    Flush,
    Silence,
    Lull,
    Standing,
    Acknowledged(u64),
    Delivery(Option<lapin::Result<Delivery>>),
    Swept(Option<Result<Delivery, Error>>),
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
            self.frame_max,
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
        if end.as_ref().is_some_and(Error::is_frame_too_large) {
            // A message with huge headers: from now on frames are as large as the broker's.
            self.frame_max = None;
        }
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
            match find_tail(connection, config).await? {
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
        if let Tail::At(tail) = find_tail(connection, &self.consumer.config).await?
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
        let standing = *self.standing.borrow_and_update();
        let had = self.ledger.is_held();
        let gate = match standing {
            Standing::Seeking => Gate::Undecided,
            Standing::Without => Gate::Closed,
            Standing::Held(token) => Gate::Open(token.settled),
        };
        match standing {
            Standing::Seeking | Standing::Without => self.ledger.lost(),
            Standing::Held(token) => self.ledger.gained(token),
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

    async fn deliver(&mut self, connection: &Connection, subscription: &mut Subscription) -> End {
        let Consumer {
            config, metrics, ..
        } = &self.consumer;
        let (config, metrics) = (Arc::clone(config), Arc::clone(metrics));
        let batch = usize::from(config.prefetch / 2).max(1);
        let mut watching = Box::pin(watch(connection, &config, &metrics));
        let mut flush: Option<Instant> = None;
        let mut lull = self.is_stream().then(|| Instant::now() + LULL);
        let mut sweep = Sweep::new(connection, &config);
        loop {
            if let Some(stretch) = self.ledger.stretch() {
                sweep.begin(stretch);
            }
            // Each branch is cancel-safe: a join set and a consumer keep what was not taken.
            let step = tokio::select! {
                biased;
                () = &mut self.stopping => Step::Stop,
                Some(settled) = self.letters.join_next() => Step::Letter(settled.ok()),
                Ok(()) = self.standing.changed() => Step::Standing,
                () = until(flush) => Step::Flush,
                () = until(subscription.silence) => Step::Silence,
                () = until(lull) => Step::Lull,
                never = &mut watching => match never {},
                tag = &mut subscription.answer => Step::Acknowledged(tag),
                delivery = subscription.deliveries.next() => Step::Delivery(delivery),
                // The last: what is live goes first.
                delivery = sweep.next() => Step::Swept(delivery),
            };
            let end = match step {
                Step::Stop => Some(End::Stopped),
                Step::Letter(settled) => {
                    self.settle_letter(settled, &mut subscription.settlements, Some(&mut sweep));
                    None
                }
                Step::Standing => {
                    self.stand();
                    None
                }
                Step::Acknowledged(tag) => {
                    self.redeliveries.acknowledged(tag);
                    subscription.answered();
                    None
                }
                Step::Swept(delivery) => {
                    self.take_swept(delivery, &mut sweep, batch);
                    None
                }
                Step::Flush => self.acknowledge(subscription).await,
                Step::Silence => self.silent(subscription),
                Step::Lull => {
                    lull = Some(Instant::now() + LONG_LULL);
                    self.look_for_more(connection, subscription).await
                }
                Step::Delivery(delivery) => {
                    lull = lull.map(|_| Instant::now() + LULL);
                    self.take_burst(delivery, subscription, batch)
                }
            };
            if let Some(end) = end {
                return end;
            }
            if subscription.settlements.due() >= batch
                && let Some(end) = self.acknowledge(subscription).await
            {
                return end;
            }
            flush = match subscription.settlements.due() {
                0 => None,
                _ => flush.or_else(|| Some(Instant::now() + FLUSH)),
            };
            metrics
                .unacknowledged
                .set(count(subscription.settlements.unsettled()));
            if !self.is_stream() {
                subscription.ask(config.prefetch.max(1));
            }
            if let Err(error) = sweep.acknowledge().await {
                self.break_off(&mut sweep, &error);
            }
            if self.ledger.is_held() {
                self.tell();
            }
        }
    }

    /// Nothing has come for a while. If the stream has a newer record than the last that was read, that must come now:
    /// its silence means something again.
    async fn look_for_more(
        &mut self,
        connection: &Connection,
        subscription: &mut Subscription,
    ) -> Option<End> {
        let prefetch = usize::from(self.consumer.config.prefetch);
        if subscription.settlements.unsettled() >= prefetch {
            // The broker waits for us: a dead letter that cannot be confirmed holds the acks back.
            return None;
        }
        let tail = tokio::select! {
            tail = find_tail(connection, &self.consumer.config) => tail,
            () = &mut self.stopping => return Some(End::Stopped),
        };
        match tail {
            Ok(Tail::At(tail)) if self.progress.is_behind(tail) => {
                subscription.silence = Some(Instant::now() + SILENCE);
            }
            Ok(_) => {}
            // A link that is broken is seen where it delivers.
            Err(error) => tracing::debug!(%error, "cannot look for the newest record"),
        }
        None
    }

    /// Takes a delivery and those that are there already, up to a batch: a burst costs one turn of the loop.
    fn take_burst(
        &mut self,
        first: Option<lapin::Result<Delivery>>,
        subscription: &mut Subscription,
        batch: usize,
    ) -> Option<End> {
        subscription.silence = None;
        let mut next = Some(first);
        for _ in 0..batch {
            let Some(delivery) = next
                .take()
                .or_else(|| subscription.deliveries.next().now_or_never())
            else {
                break;
            };
            let end = match delivery {
                Some(Ok(delivery)) => self.take(delivery, &mut subscription.settlements),
                Some(Err(error)) => Some(End::Fault(connection::lost("consuming", &error))),
                None => {
                    let queue = self.consumer.config.queue.clone();
                    Some(End::Fault(Error::Cancelled { queue }))
                }
            };
            if end.is_some() {
                return end;
            }
        }
        None
    }

    fn take(&mut self, delivery: Delivery, settlements: &mut Settlements) -> Option<End> {
        let tag = delivery.delivery_tag;
        let (message, origin) = take_apart(delivery);
        settlements.deliver(tag, origin.position);
        match origin.position.filter(|_| self.is_stream()) {
            Some(position) => self.take_record(position, message, origin, tag, settlements),
            None => {
                self.take_from_queue(message, origin, tag, settlements);
                None
            }
        }
    }

    fn take_record(
        &mut self,
        position: Position,
        message: Message,
        origin: Origin,
        tag: u64,
        settlements: &mut Settlements,
    ) -> Option<End> {
        let mark = mark(position, &message);
        match self.progress.judge(position, mark) {
            Arrival::Known if self.ledger.is_under_way(position) => {}
            Arrival::Known => settlements.settle(tag),
            Arrival::PastTail | Arrival::Skipped => return Some(End::Elsewhere),
            Arrival::AnotherStream => {
                self.start_over();
                return Some(End::Elsewhere);
            }
            Arrival::Accept { news, lost } => {
                if news {
                    self.catch_up();
                }
                if lost {
                    tracing::error!(
                        position = position.get(),
                        "records before this one are lost: the stream's retention removed them before they were read"
                    );
                    self.intake.broken(Break::Lost);
                }
                self.ledger.read(EventId { position, mark });
                self.hand_over(position, message, origin, tag, settlements);
                if self.progress.handed_over(position) {
                    self.catch_up();
                }
            }
        }
        None
    }

    /// The intake has its say on a record, for the first time or, as it was read without the duty, again.
    fn hand_over(
        &mut self,
        position: Position,
        message: Message,
        origin: Origin,
        tag: u64,
        settlements: &mut Settlements,
    ) {
        let poison = match self.intake.accept(message) {
            Verdict::Acknowledge => return settlements.settle(tag),
            Verdict::DeadLetter(poison) => poison,
        };
        match self.ledger.poison(position) {
            Due::Nothing => settlements.settle(tag),
            Due::Waits => {}
            Due::Letter => {
                let stream = self.streams;
                let permit = Permit::Gate(position, self.gate.subscribe());
                self.send_letter(origin, poison, Key::Record { stream, position }, permit);
            }
        }
    }

    /// The intake has its say on a delivery of a work queue, unless it has had it.
    fn take_from_queue(
        &mut self,
        message: Message,
        origin: Origin,
        tag: u64,
        settlements: &mut Settlements,
    ) {
        let fingerprint = Fingerprint::of(&message);
        match self
            .redeliveries
            .deliver(tag, fingerprint, message.redelivered)
        {
            redeliveries::Arrival::Done => settlements.settle(tag),
            redeliveries::Arrival::Waits => {}
            redeliveries::Arrival::New => match self.intake.accept(message) {
                Verdict::Acknowledge => settlements.settle(tag),
                Verdict::DeadLetter(poison) => {
                    let letter = Key::Letter(self.redeliveries.poisoned());
                    self.send_letter(origin, poison, letter, Permit::Always);
                }
            },
        }
    }

    fn send_letter(&mut self, origin: Origin, poison: Poison, what: Key, permit: Permit) {
        let dead_letters = self.consumer.dead_letters.clone();
        let sending = dead_letters.send(origin, poison, permit);
        self.letters.spawn(async move {
            let outcome = sending.await;
            Settled { what, outcome }
        });
    }

    fn settle_letter(
        &mut self,
        settled: Option<Settled>,
        settlements: &mut Settlements,
        sweep: Option<&mut Sweep<'_>>,
    ) {
        // None settles nothing: a task that panicked.
        let Some(Settled { what, outcome }) = settled else {
            return;
        };
        match what {
            Key::Letter(letter) => {
                if let Some(tag) = self.redeliveries.confirmed(letter) {
                    settlements.settle(tag);
                }
            }
            Key::Record { stream, position } if stream == self.streams => {
                match outcome {
                    Outcome::Confirmed => self.ledger.confirmed(position),
                    Outcome::GivenUp => self.ledger.given_up(position),
                }
                if let Some(tag) = settlements.tag_of(position) {
                    settlements.settle(tag);
                }
                if let Some(reading) = sweep.and_then(Sweep::reading)
                    && let Some(tag) = reading.settlements.tag_of(position)
                {
                    reading.settlements.settle(tag);
                }
                self.progress.settled_below(settlements.lowest_unsettled());
            }
            Key::Record { .. } => {}
        }
    }

    /// Takes what is read again, and what of it is there already, up to a batch.
    fn take_swept(
        &mut self,
        first: Option<Result<Delivery, Error>>,
        sweep: &mut Sweep<'_>,
        batch: usize,
    ) {
        let mut next = first;
        for _ in 0..batch {
            let delivery = match next
                .take()
                .or_else(|| sweep.next().now_or_never().flatten())
            {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return self.break_off(sweep, &error),
                None => return,
            };
            let Some(reading) = sweep.reading() else {
                return;
            };
            let tag = delivery.delivery_tag;
            let (message, origin) = take_apart(delivery);
            let end = reading.stretch.end;
            reading.settlements.deliver(tag, origin.position);
            // A record without a position is no record: it ends nothing and is none of ours.
            let position = origin.position.unwrap_or(end);
            if position <= end {
                self.hand_over(position, message, origin, tag, &mut reading.settlements);
                self.ledger.swept(position);
            }
            if position >= end {
                self.ledger.swept_all(end);
                sweep.end();
                return;
            }
        }
    }

    fn break_off(&mut self, sweep: &mut Sweep<'_>, error: &Error) {
        tracing::debug!(%error, "the reading of what was read without the duty broke off");
        self.ledger.sweep_broke_off();
        sweep.rest();
    }

    /// Tells the broker what is settled. The end, if it cannot be told.
    async fn acknowledge(&mut self, subscription: &mut Subscription) -> Option<End> {
        let tag = subscription.settlements.take_due()?;
        subscription.told = tag;
        let telling = subscription
            .channel
            .basic_ack(tag, BasicAckOptions { multiple: true });
        // The ack first: it is on its way once it has been polled, and its tag has been taken already.
        let told = tokio::select! {
            biased;
            told = telling => told,
            () = &mut self.stopping => return Some(End::Stopped),
        };
        told.err()
            .map(|error| End::Fault(connection::lost("acknowledging", &error)))
    }

    fn silent(&mut self, subscription: &mut Subscription) -> Option<End> {
        let due = subscription.silence.take();
        if due.is_some_and(|due| due.elapsed() > SILENCE) {
            // So late that this process stood still itself: what came meanwhile waits to be taken.
            subscription.silence = Some(Instant::now() + LONG_SILENCE);
            return None;
        }
        let queue = &self.consumer.config.queue;
        if self.progress.offset_is_known() {
            return Some(End::Silent);
        }
        if self.progress.nothing_came() {
            tracing::warn!(%queue, "the newest record does not come; going on without history");
            self.catch_up();
            return None;
        }
        let history_seconds = self.consumer.config.history_max_age.as_secs();
        tracing::info!(%queue, history_seconds, "nothing comes of the age of the history; beginning with the newest record");
        Some(End::Elsewhere)
    }

    /// The end of this process: no more deliveries; what can be settled is.
    async fn wind_up(&mut self, subscription: &mut Subscription) {
        let tag = subscription.deliveries.tag();
        let cancel = subscription
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        drop(timeout(CANCEL, cancel).await);
        self.last_letters(Some(&mut subscription.settlements)).await;
        if let Some((token, _)) = self.ledger.token() {
            // Whoever comes next need not write these dead letters again.
            self.keeper.tell(Some(token), true);
            drop(timeout(LAST_LETTERS, self.keeper.written()).await);
        }
        if let Some(tag) = subscription.settlements.take_due() {
            let telling = subscription
                .channel
                .basic_ack(tag, BasicAckOptions { multiple: true });
            drop(timeout(CANCEL, telling).await);
        }
        drop(timeout(CANCEL, subscription.channel.close(200, "OK".into())).await);
    }

    /// Waits for the dead letters on their way, but not for ever.
    async fn last_letters(&mut self, settlements: Option<&mut Settlements>) {
        if settlements.is_none() {
            // Without a link nobody decides whose they are.
            self.gate.send_if_modified(|gate| {
                let undecided = *gate == Gate::Undecided;
                if undecided {
                    *gate = Gate::Closed;
                }
                undecided
            });
        }
        let mut nowhere = Settlements::default();
        let settlements = settlements.unwrap_or(&mut nowhere);
        let deadline = Instant::now() + LAST_LETTERS;
        while let Ok(Some(settled)) = timeout_at(deadline, self.letters.join_next()).await {
            self.settle_letter(settled.ok(), settlements, None);
        }
        if !self.letters.is_empty() {
            let messages = self.letters.len();
            tracing::warn!(
                messages,
                "stopping before these could be dead-lettered; they are not acknowledged"
            );
        }
    }
}

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
pub(super) async fn find_tail(
    connection: &Connection,
    config: &BrokerConfig,
) -> Result<Tail, Error> {
    let last = AMQPValue::LongString(LongString::from("last"));
    let (channel, mut deliveries) =
        open_at(connection, &config.queue, PROBE_PREFETCH, Some(last)).await?;
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
                    queue: config.queue.clone(),
                });
            }
            Err(_) => match tail {
                Some(tail) => return Ok(Tail::At(tail)),
                None => {
                    let counts = topology::passive_queue(connection, &config.queue).await?;
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

/// Asks every 10 s what is in the queue and who consumes it, and says so when a work queue has a second consumer.
/// Never fatal: a link that is broken is seen where it delivers.
async fn watch(connection: &Connection, config: &BrokerConfig, metrics: &Metrics) -> Infallible {
    let mut ticks = interval(WATCH);
    let mut told = 1;
    loop {
        ticks.tick().await;
        match topology::passive_queue(connection, &config.queue).await {
            Ok(Some(counts)) => {
                metrics.queue_messages.set(counts.messages.into());
                metrics.queue_consumers.set(counts.consumers.into());
                if config.queue_type != QueueType::Stream && counts.consumers != told {
                    told = counts.consumers;
                    if counts.consumers > 1 {
                        let advice = topology::advice_on_sharing(config.queue_scope);
                        tracing::error!(queue = %config.queue, consumers = counts.consumers, "{advice}");
                    }
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot count what is in the queue"),
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

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
