//! Who of the replicas that read one stream dead-letters its poison, and how far that has come.
//!
//! Beside the stream there is a small queue with a single active consumer. It holds one message, the token: whoever
//! holds its delivery unacknowledged has the duty. When its link ends, RabbitMQ hands the token to another replica.
//! The token says up to where poison is dealt with. It is moved by publishing the next one and then acknowledging the
//! one before, so that it is never nowhere. Nothing here is waited for by what is live.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{BasicProperties, Channel, Connection};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::StreamExt;

use super::connection::{self, Backoff};
use super::message::take_apart;
use super::progress::Offset;
use super::publisher::Publisher;
use super::stream::{self, Tail};
use super::{BrokerConfig, Error, topology};
use crate::event::id::{EventId, Position};
use crate::faults::FaultLog;

/// How long a link waits for the token before it is taken that another replica has it.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
/// How long tokens may pause before the best of them counts: after a crash there can be two.
const PAUSE: Duration = Duration::from_millis(25);
/// How often the token is moved while nothing but good records pass.
const MOVE: Duration = Duration::from_secs(5);
/// How often it is moved where it says the same: RabbitMQ ends channels that keep a delivery for half an hour.
const REFRESH: Duration = Duration::from_secs(60);
/// How many tokens are taken at once. All but the best are acknowledged.
const PREFETCH: u16 = 16;
/// How long the record that a token names may take to come, before somebody looks whether it is there at all.
const SILENCE: Duration = Duration::from_millis(500);

/// How far poison is dealt with in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// All poison at or below is dealt with.
    pub settled: Option<Position>,
    /// What is dealt with above that, where something below is not yet.
    pub letters: Vec<Position>,
    /// The newest record that was read when it was written: where another record stands, it is another stream, and
    /// the token says nothing.
    pub newest: Option<EventId>,
}

impl Token {
    /// It says nothing.
    pub(super) const NONE: Self = Self {
        settled: None,
        letters: Vec::new(),
        newest: None,
    };

    /// What cannot be read says nothing.
    fn parse(body: &[u8]) -> Self {
        let read = || {
            let written: Written = serde_json::from_slice(body).ok()?;
            Some(Self {
                settled: written.settled.map(Position::new),
                letters: written.letters.into_iter().map(Position::new).collect(),
                newest: Some(written.newest?.parse().ok()?),
            })
        };
        read().unwrap_or(Self::NONE)
    }

    fn body(&self) -> Vec<u8> {
        let written = Written {
            settled: self.settled.map(Position::get),
            letters: self.letters.iter().copied().map(Position::get).collect(),
            newest: self.newest.map(|newest| newest.to_string()),
        };
        // A number and a text can always be written.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Whether it says more than the other; both must be of this stream.
    fn says_more_than(&self, other: &Self) -> bool {
        let reach = |token: &Self| {
            let newest = token.newest.map(|newest| newest.position);
            (token.settled, newest, token.letters.len())
        };
        reach(self) > reach(other)
    }
}

/// A token as it is written: JSON, so that an operator can read it.
#[derive(Serialize, Deserialize)]
struct Written {
    settled: Option<u64>,
    #[serde(default)]
    letters: Vec<u64>,
    newest: Option<String>,
}

/// Where this replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The link has just begun, or there is none: the token may yet come.
    Seeking,
    /// Another replica has the duty, or nobody can have it now.
    Without,
    /// This replica has the duty, and whoever had it before came as far as this.
    Held(Token),
}

/// Which token was published, or could not be.
#[derive(Clone, Copy, Debug)]
enum Published {
    /// The one that whoever comes puts into the queue.
    First,
    /// The next one.
    Next,
}

/// How far this replica has come, to be written into the token. None while it has not the duty.
pub(super) type Told = Option<Token>;

/// Seeks the duty and keeps it. Cheap to clone: clones speak through the same channels.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    config: Arc<BrokerConfig>,
    publisher: Publisher,
    standing: watch::Sender<Standing>,
    told: watch::Sender<Told>,
    written: watch::Sender<Token>,
    /// Counts streams: what a token said of the one before says nothing of this one.
    streams: watch::Sender<u64>,
}

impl Keeper {
    pub(super) fn new(config: Arc<BrokerConfig>, publisher: Publisher) -> Self {
        Self {
            config,
            publisher,
            standing: watch::Sender::new(Standing::Seeking),
            told: watch::Sender::new(None),
            written: watch::Sender::new(Token::NONE),
            streams: watch::Sender::new(0),
        }
    }

    /// Where this replica stands, from now on.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The token has not come in time: it is taken that another replica has it. It may come yet.
    pub(super) fn stop_seeking(&self) {
        self.standing.send_if_modified(|standing| {
            let waited = *standing == Standing::Seeking;
            if waited {
                *standing = Standing::Without;
            }
            waited
        });
    }

    /// Takes note of how far this replica has come. What is urgent is written at once, the rest every few seconds.
    pub(super) fn tell(&self, told: Told, is_urgent: bool) {
        self.told.send_if_modified(|known| {
            *known = told;
            is_urgent
        });
    }

    /// Returns when what was told last is written, as far as it says anything.
    pub(super) async fn written(&self) {
        let told = self.told.borrow().clone();
        if let Some(told) = told.filter(|told| told.newest.is_some()) {
            // The sender is in this struct: it cannot be gone.
            drop(
                self.written
                    .subscribe()
                    .wait_for(|written| *written == told)
                    .await,
            );
        }
    }

    /// The stream was made anew: what is known of the one before is forgotten, the duty is kept.
    pub(super) fn stream_is_another(&self) {
        self.streams.send_modify(|streams| *streams += 1);
        self.told.send_replace(None);
        self.written.send_replace(Token::NONE);
        self.standing.send_if_modified(|standing| {
            let is_held = matches!(standing, Standing::Held(_));
            if is_held {
                *standing = Standing::Held(Token::NONE);
            }
            is_held
        });
    }

    /// There is no link.
    pub(super) fn link_is_lost(&self) {
        self.told.send_replace(None);
        self.standing.send_replace(Standing::Seeking);
    }

    /// Seeks the duty over this link and keeps it, until it is dropped.
    pub(super) async fn keep(&self, connection: &Connection) -> Infallible {
        let mut backoff = Backoff::default();
        let mut faults = FaultLog::default();
        loop {
            let began = Instant::now();
            let Err(fault) = self.hold(connection).await;
            if !connection.status().connected() {
                // The whole link ends, which is told where it delivers.
                return pending().await;
            }
            self.standing.send_replace(Standing::Without);
            if began.elapsed() >= REFRESH {
                backoff.reset();
            }
            complain(
                &fault,
                &mut faults,
                "cannot share the duty of dead-lettering with other replicas; poison waits in the stream until that works again",
            );
            sleep(backoff.next()).await;
        }
    }

    async fn hold(&self, connection: &Connection) -> Result<Infallible, Error> {
        topology::ensure_duty(connection, &self.config).await?;
        let queue = topology::duty_queue_name(&self.config);
        let (channel, mut deliveries) = stream::open_at(connection, &queue, PREFETCH, None).await?;
        let mut told = self.told.subscribe();
        // Whoever comes puts one there, that says what it last knew: so the queue is never empty for long, whatever became
        // of the last one.
        let known = self.written.send_replace(Token::NONE);
        // In tasks of their own, as all that publish wait for the one that makes a connection: it must go on also while
        // this one waits for something else. At most one moves the token at a time.
        let mut publishing = JoinSet::new();
        let announcer = self.clone();
        publishing.spawn(async move {
            announcer.publish_until_confirmed(&known).await;
            Published::First
        });
        let mut is_moving = false;
        let mut pause = None;
        let mut hand = Hand {
            keeper: self,
            connection,
            channel,
            kept: None,
            stream: *self.streams.borrow(),
        };
        let mut next_move = None;
        let mut last_moved = Instant::now();
        loop {
            tokio::select! {
                delivery = deliveries.next() => {
                    let delivery = match delivery {
                        Some(Ok(delivery)) => delivery,
                        Some(Err(error)) => return Err(connection::lost("keeping the duty's token", &error)),
                        None => return Err(Error::Cancelled { queue }),
                    };
                    if next_move.is_none() {
                        pause = Some(Instant::now() + PAUSE);
                    }
                    let best = hand.take(delivery).await?;
                    if next_move.is_some() {
                        self.hold_with(&best);
                    }
                }
                Some(published) = publishing.join_next() => {
                    is_moving &= !matches!(published, Ok(Published::Next) | Err(_));
                }
                () = until(pause) => {
                    pause = None;
                    next_move = Some(Instant::now() + MOVE);
                    if let Some((_, best)) = hand.kept() {
                        self.written.send_replace(best.clone());
                        self.hold_with(best);
                    }
                }
                changed = told.changed(), if next_move.is_some() && !is_moving => {
                    if changed.is_err() {
                        // The other end is in this struct: it cannot be gone.
                        return Ok(pending().await);
                    }
                    let token = told.borrow_and_update().clone();
                    if let Some(token) = token {
                        self.move_to(token, &mut publishing);
                        is_moving = true;
                        last_moved = Instant::now();
                    }
                }
                () = until(next_move), if !is_moving => {
                    next_move = Some(Instant::now() + MOVE);
                    let Some((_, kept)) = hand.kept() else {
                        continue;
                    };
                    let token = told.borrow_and_update().clone();
                    let token = token.unwrap_or_else(|| kept.clone());
                    if token != *kept || last_moved.elapsed() >= REFRESH {
                        self.move_to(token, &mut publishing);
                        is_moving = true;
                        last_moved = Instant::now();
                    }
                }
            }
        }
    }

    fn move_to(&self, token: Token, publishing: &mut JoinSet<Published>) {
        let writer = self.clone();
        publishing.spawn(async move {
            writer.write(token).await;
            Published::Next
        });
    }

    /// The duty is this replica's, and the best token says this.
    fn hold_with(&self, best: &Token) {
        self.standing.send_if_modified(|standing| match standing {
            // What this replica wrote itself is no news to it.
            Standing::Held(known) if !best.says_more_than(known) => false,
            Standing::Held(_) if *self.written.borrow() == *best => false,
            _ => {
                *standing = Standing::Held(best.clone());
                true
            }
        });
    }

    /// Publishes the next token. The one before is acknowledged when this one arrives.
    async fn write(&self, token: Token) {
        let stream = *self.streams.borrow();
        match self.publish(&token).await {
            // It is of the stream before, and is found to be when it arrives.
            Ok(()) if stream != *self.streams.borrow() => {}
            Ok(()) => {
                tracing::debug!(
                    settled = token.settled.map(Position::get),
                    "the duty's token was moved"
                );
                self.written.send_replace(token);
            }
            // It is tried again when there is more to say, or in a few seconds.
            Err(error) => tracing::debug!(%error, "cannot move the duty's token"),
        }
    }

    async fn publish_until_confirmed(&self, token: &Token) {
        let mut backoff = Backoff::default();
        let mut faults = FaultLog::default();
        while let Err(error) = self.publish(token).await {
            complain(
                &error,
                &mut faults,
                "cannot put a token into the queue by which replicas share the duty of dead-lettering; it is tried again",
            );
            sleep(backoff.next()).await;
        }
    }

    /// Through the default exchange, which every queue is bound to by its name (AMQP 0-9-1 §3.1.3.1).
    async fn publish(&self, token: &Token) -> Result<(), Error> {
        let properties = BasicProperties::default().with_content_type("application/json".into());
        let queue = topology::duty_queue_name(&self.config);
        self.publisher
            .send("", &queue, properties, &token.body())
            .await
    }
}

/// The tokens of one subscription.
struct Hand<'a> {
    keeper: &'a Keeper,
    connection: &'a Connection,
    channel: Channel,
    /// The delivery that is kept unacknowledged, and what it says.
    kept: Option<(u64, Token)>,
    /// The stream of which it says that.
    stream: u64,
}

impl Hand<'_> {
    /// What is kept, and what it says of the stream as it is now.
    fn kept(&mut self) -> Option<&(u64, Token)> {
        let stream = *self.keeper.streams.borrow();
        if let Some((_, kept)) = &mut self.kept
            && self.stream != stream
        {
            *kept = Token::NONE;
        }
        self.stream = stream;
        self.kept.as_ref()
    }

    /// Keeps the token that says most and acknowledges the other. What the kept one says.
    async fn take(&mut self, delivery: Delivery) -> Result<Token, Error> {
        let tag = delivery.delivery_tag;
        let token = Token::parse(&delivery.data);
        let is_own = token != Token::NONE && *self.keeper.written.borrow() == token;
        let token = match token.newest {
            Some(_) if is_own => token,
            Some(newest) => match self.is_of_this_stream(newest).await? {
                true => token,
                false => Token::NONE,
            },
            None => Token::NONE,
        };
        let Some((kept_tag, kept)) = self.kept().cloned() else {
            self.kept = Some((tag, token.clone()));
            return Ok(token);
        };
        // What this replica wrote last is what it knows now. Of two that say the same the younger is kept: it may wait
        // longer.
        let is_less = !is_own && (kept.says_more_than(&token) || token == Token::NONE);
        let (superseded, kept_tag, best) = match is_less {
            true => (tag, kept_tag, kept),
            false => (kept_tag, tag, token),
        };
        self.kept = Some((kept_tag, best.clone()));
        let acknowledged = self
            .channel
            .basic_ack(superseded, BasicAckOptions { multiple: false });
        connection::answer("acknowledging a token of the duty", acknowledged).await?;
        Ok(best)
    }

    /// Whether the stream still has this record, or has let go of all that was there then.
    async fn is_of_this_stream(&self, newest: EventId) -> Result<bool, Error> {
        let config = &self.keeper.config;
        loop {
            if let Some(found) = self.first_record(Offset::At(newest.position)).await? {
                if found.position == newest.position {
                    return Ok(found.mark == newest.mark);
                }
                // Either retention has taken all up to there, so that there is nothing to be right about; or the number
                // was left out in another stream, as one is at each of its segments.
                let oldest = self.first_record(Offset::First).await?;
                return Ok(oldest.is_some_and(|oldest| oldest.position > newest.position));
            }
            match stream::find_tail(self.connection, &config.queue).await? {
                Tail::At(tail) if tail < newest.position => return Ok(false),
                Tail::Empty => return Ok(false),
                // It is there and does not come: the broker is slow, or has just started.
                Tail::At(_) | Tail::Silent => sleep(SILENCE).await,
            }
        }
    }

    /// The first record from there on, if one comes soon.
    async fn first_record(&self, begin: Offset) -> Result<Option<EventId>, Error> {
        let queue = &self.keeper.config.queue;
        let (_channel, mut records) = stream::open(self.connection, queue, 1, Some(begin)).await?;
        match timeout(SILENCE, records.next()).await {
            Ok(Some(Ok(delivery))) => {
                let (message, origin) = take_apart(delivery);
                Ok(origin.position.map(|position| EventId {
                    position,
                    mark: stream::mark(position, &message),
                }))
            }
            Ok(Some(Err(error))) => Err(connection::lost("looking at a record", &error)),
            Ok(None) => Err(Error::Cancelled {
                queue: queue.clone(),
            }),
            Err(_) => Ok(None),
        }
    }
}

fn complain(error: &Error, faults: &mut FaultLog, what: &'static str) {
    let Some(times) = faults.note(error, Instant::now()) else {
        return;
    };
    if error.needs_operator() {
        tracing::error!(%error, times, "{what}");
    } else {
        tracing::warn!(%error, times, "{what}");
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
    use crate::event::id::Mark;

    fn token(settled: u64, newest: u64) -> Token {
        Token {
            letters: Vec::new(),
            settled: Some(Position::new(settled)),
            newest: Some(EventId {
                position: Position::new(newest),
                mark: Mark::epoch(0x9f3c_01ab),
            }),
        }
    }

    #[test]
    fn a_token_is_written_as_json_and_read_back() {
        let body = token(7, 48_211).body();
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"settled":7,"letters":[],"newest":"48211-9f3c01ab"}"#
        );
        assert_eq!(Token::parse(&body), token(7, 48_211));
        assert_eq!(Token::parse(&Token::NONE.body()), Token::NONE);
    }

    #[test]
    fn what_cannot_be_read_or_cannot_be_recognised_says_nothing() {
        for body in [
            "",
            "{}",
            "7",
            "{\"settled\":7}",
            "{\"settled\":7,\"newest\":\"x\"}",
            "{\"settled\":-1,\"newest\":\"1-00000001\"}",
        ] {
            assert_eq!(Token::parse(body.as_bytes()), Token::NONE, "{body}");
        }
    }

    fn keeper() -> Keeper {
        let config = Arc::new(crate::amqp::tests::config());
        let publisher = Publisher::new(&config);
        Keeper::new(config, publisher)
    }

    #[test]
    fn who_has_the_duty_when_the_stream_is_made_anew_keeps_it_and_forgets_the_token() {
        let keeper = keeper();
        let standing = keeper.standing();
        keeper.hold_with(&token(48_000, 48_211));
        keeper.written.send_replace(token(48_000, 48_211));
        keeper.stream_is_another();
        assert_eq!(*standing.borrow(), Standing::Held(Token::NONE));
        keeper.hold_with(&token(7, 9));
        assert_eq!(*standing.borrow(), Standing::Held(token(7, 9)));
    }

    #[test]
    fn who_has_not_the_duty_when_the_stream_is_made_anew_does_not_get_it_so() {
        let keeper = keeper();
        let standing = keeper.standing();
        for before in [Standing::Seeking, Standing::Without] {
            keeper.standing.send_replace(before.clone());
            keeper.stream_is_another();
            assert_eq!(*standing.borrow(), before);
        }
    }

    #[test]
    fn a_token_says_more_if_more_is_dealt_with() {
        assert!(token(7, 9).says_more_than(&token(6, 20)));
        assert!(token(7, 9).says_more_than(&Token::NONE));
        assert!(!token(7, 9).says_more_than(&token(7, 9)));
        assert!(token(7, 10).says_more_than(&token(7, 9)));
        assert!(!Token::NONE.says_more_than(&Token::NONE));
    }
}
