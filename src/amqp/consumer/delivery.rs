//! One subscription at work: what it delivers is handed to the intake and settled by the verdict, until it ends.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions};
use tokio::time::{Instant, interval, sleep_until, timeout, timeout_at};
use tokio_stream::StreamExt;

use super::alarm::{Alarm, Lull};
use super::{Consumer, End, Key, Run, Settled, Subscription, count};
use crate::amqp::connection;
use crate::amqp::dead_letter::{Gate, Outcome, Permit};
use crate::amqp::ledger::Due;
use crate::amqp::message::{Origin, take_apart};
use crate::amqp::progress::Arrival;
use crate::amqp::redeliveries::{self, Fingerprint};
use crate::amqp::settlements::Settlements;
use crate::amqp::stream::{LONG_SILENCE, SILENCE, Tail, find_tail, mark};
use crate::amqp::sweep::Sweep;
use crate::amqp::{BrokerConfig, Error, QueueType, topology};
use crate::event::id::{EventId, Position};
use crate::event::{Break, Intake, Message, Poison, Verdict};
use crate::metrics::Metrics;

/// How long settled deliveries may wait for the broker to be told.
const FLUSH: Duration = Duration::from_millis(50);
/// How often the broker is asked what is in the queue.
const WATCH: Duration = Duration::from_secs(10);
/// How long a broker that has lost a link may take to deliver again what that had, besides what it takes to notice: two
/// heartbeats.
const REDELIVERY: Duration = Duration::from_secs(5);
/// RabbitMQ's heartbeat, where nobody asks for another.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How long dead letters on their way may take at the end.
const LAST_LETTERS: Duration = Duration::from_secs(5);
/// How long the broker may take to stop delivering at the end.
const CANCEL: Duration = Duration::from_secs(2);

/// What happened next.
enum Step {
    Stop,
    Letter(Option<Settled>),
    Flush,
    Silence,
    Lull,
    Looked(Result<Tail, Error>),
    Standing,
    Forget,
    Acknowledged(u64),
    Delivery(Option<lapin::Result<Delivery>>),
    Swept(Option<Result<Delivery, Error>>),
}

impl<I: Intake> Run<I> {
    pub(super) async fn deliver(
        &mut self,
        connection: &Connection,
        subscription: &mut Subscription,
    ) -> End {
        let Consumer {
            config, metrics, ..
        } = &self.consumer;
        let (config, metrics) = (Arc::clone(config), Arc::clone(metrics));
        let batch = usize::from(config.prefetch / 2).max(1);
        let mut watching = Box::pin(watch(connection, &config, &metrics));
        let mut flush = Alarm::unset();
        let redelivery = redelivery(connection);
        let mut forget = Alarm::unset();
        if self.redeliveries.expects() {
            forget.set(Instant::now() + redelivery);
        }
        let mut lull = self.is_stream().then(Lull::begin);
        // Beside the deliveries, which need not wait for it.
        let mut look: Option<Look<'_>> = None;
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
                () = flush.rings() => Step::Flush,
                () = forget.rings() => Step::Forget,
                () = until(subscription.silence) => Step::Silence,
                () = is_long(&mut lull) => Step::Lull,
                tail = newest(&mut look) => Step::Looked(tail),
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
                Step::Forget if self.is_full(subscription) => {
                    // What comes again may have to wait for room.
                    forget.set(Instant::now() + redelivery);
                    None
                }
                Step::Forget => {
                    tracing::debug!("what the links before had is forgotten");
                    self.redeliveries.forget_before();
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
                    // Where it is full, the broker waits for us: a dead letter that cannot be confirmed holds the acks back.
                    if look.is_none() && !self.is_full(subscription) {
                        tracing::debug!("nothing comes; looking for the newest record");
                        look = Some(Look {
                            tail: Box::pin(find_tail(connection, &config.queue)),
                            is_moot: false,
                        });
                    }
                    None
                }
                Step::Looked(tail) => match look.take() {
                    Some(look) if look.is_moot && tail.is_ok() => None,
                    _ => self.looked(tail, subscription),
                },
                Step::Delivery(delivery) => {
                    if let Some(lull) = &mut lull {
                        lull.end();
                    }
                    if let Some(look) = &mut look {
                        look.is_moot = true;
                    }
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
            if subscription.settlements.due() == 0 {
                flush.clear();
            } else if !flush.is_set() {
                flush.set(Instant::now() + FLUSH);
            }
            metrics
                .unacknowledged
                .set(count(subscription.settlements.unacknowledged()));
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

    /// Whether the broker delivers nothing until it is told that something is settled.
    fn is_full(&self, subscription: &Subscription) -> bool {
        let prefetch = usize::from(self.consumer.config.prefetch);
        subscription.settlements.unacknowledged() >= prefetch
    }

    /// Nothing had come for a while, and this is the newest record. If it is newer than the last that was read, that must
    /// come now: its silence means something again.
    fn looked(&self, tail: Result<Tail, Error>, subscription: &mut Subscription) -> Option<End> {
        let is_suspicious = match tail {
            Ok(Tail::At(tail)) => self.progress.is_behind(tail) || self.progress.is_another(tail),
            // Where a record was read, one must be.
            Ok(Tail::Empty) => self.progress.offset_is_known(),
            Ok(Tail::Silent) => false,
            Err(error @ Error::Timeout { .. }) => {
                tracing::debug!(%error, "cannot look for the newest record");
                false
            }
            // The stream is gone, and the broker has forgotten to say so; or the link is, and that is seen here first.
            Err(error) => return Some(End::Fault(error)),
        };
        if is_suspicious {
            subscription.silence = Some(Instant::now() + SILENCE);
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
    pub(super) async fn wind_up(&mut self, subscription: &mut Subscription) {
        // Before the cancel: RabbitMQ need not take what comes after it from a quorum queue's consumer.
        tell_last(subscription).await;
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
        tell_last(subscription).await;
        drop(timeout(CANCEL, subscription.channel.close(200, "OK".into())).await);
    }

    /// Waits for the dead letters on their way, but not for ever.
    pub(super) async fn last_letters(&mut self, settlements: Option<&mut Settlements>) {
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

/// How long what a link before had may still come again over this one.
fn redelivery(connection: &Connection) -> Duration {
    let heartbeat = match connection.configuration().heartbeat() {
        0 => HEARTBEAT,
        seconds => Duration::from_secs(seconds.into()),
    };
    heartbeat * 2 + REDELIVERY
}

/// Tells the broker what is settled, at the end.
async fn tell_last(subscription: &mut Subscription) {
    if let Some(tag) = subscription.settlements.take_due() {
        let telling = subscription
            .channel
            .basic_ack(tag, BasicAckOptions { multiple: true });
        drop(timeout(CANCEL, telling).await);
    }
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

/// A look for the newest record.
struct Look<'a> {
    tail: Pin<Box<dyn Future<Output = Result<Tail, Error>> + Send + 'a>>,
    /// Something has come since it began: what it finds may be older than that. It goes on, as one that is dropped may
    /// leave a channel open.
    is_moot: bool,
}

/// What the look finds, if there is one. Cancel-safe.
async fn newest(look: &mut Option<Look<'_>>) -> Result<Tail, Error> {
    match look {
        Some(look) => look.tail.as_mut().await,
        None => pending().await,
    }
}

async fn is_long(lull: &mut Option<Lull>) {
    match lull {
        Some(lull) => lull.is_long().await,
        None => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
