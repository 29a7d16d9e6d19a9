//! What one client is sent, in which order, and when it ends: the same for every wire.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::{ClientAddress, Seat};
use crate::auth::{Validity, Watch};
use crate::event::id::EventId;
use crate::frame::Frame;
use crate::hub::{Gap, Subscription, Update};
use crate::metrics::Metrics;

/// One client's stream.
#[derive(Debug)]
pub(super) struct Session {
    subscription: Subscription,
    /// Whether its grant was revoked.
    watch: Watch,
    /// Fires at the earliest of the moments below. Where traffic has moved the heartbeat since it was set, it fires
    /// early and is set anew: cheaper than setting it at every event.
    timer: Pin<Box<Sleep>>,
    heartbeat: Duration,
    last_sent: Instant,
    expiry: Option<Expiry>,
    /// Whether the timer, and who revokes, know the task.
    is_known: bool,
    /// Why it ended; what it is if nothing says otherwise.
    closing: CloseReason,
    metrics: Arc<Metrics>,
    client: Client,
    began: Instant,
    sent: Sent,
    _seat: Seat,
}

/// Whose stream it is, for the log and the metrics.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) transport: &'static str,
    pub(super) address: ClientAddress,
    /// By whom it is counted, if that is known: a user, or one of a tenant, as `tenant/user`.
    pub(super) holder: Option<String>,
}

impl Client {
    fn tenant_id(&self) -> Option<&str> {
        let (tenant, _) = self.holder.as_deref()?.split_once('/')?;
        Some(tenant)
    }

    fn user_id(&self) -> Option<&str> {
        let holder = self.holder.as_deref()?;
        Some(holder.split_once('/').map_or(holder, |(_, user)| user))
    }
}

/// What a client was sent so far.
#[derive(Debug, Default)]
struct Sent {
    events: u64,
    bytes: u64,
    last_id: Option<EventId>,
}

/// The target of the lines that tell when streams begin and end: there may be many of them, and not everybody wants them.
const STREAMS: &str = "sse_bridge::streams";

/// The end of a grant, and with it of the stream: by the wall clock, as whoever issued it meant it. A timer alone would
/// go on for the time that was left when the stream began, though the clock was set or the machine slept meanwhile.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    warn_at: SystemTime,
    end_at: SystemTime,
    warned: bool,
    /// What tells the time; a test's own.
    now: fn() -> SystemTime,
}

impl Expiry {
    fn of(validity: &Validity) -> Option<Self> {
        let expires_at = validity.expires_at?;
        Some(Self {
            warn_at: expires_at
                .checked_sub(EXPIRY_NOTICE)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            end_at: expires_at
                .checked_add(validity.leeway)
                .unwrap_or(expires_at),
            warned: false,
            now: SystemTime::now,
        })
    }

    /// How long to the next moment, by the clock as it stands; it is looked at again before long.
    fn next(&self) -> Duration {
        let moment = if self.warned {
            self.end_at
        } else {
            self.warn_at
        };
        let left = moment.duration_since((self.now)());
        left.unwrap_or_default().min(CLOCK_CHECK)
    }
}

/// Why a stream ended, for the client, the log and the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// The client went away.
    Client,
    /// Its socket took nothing for too long.
    Stalled,
    /// It did not keep up, and is to come back.
    Slow,
    /// This process is ending.
    Drain,
    /// Its grant ended.
    Expired,
    /// Its grant was revoked before that.
    Revoked,
}

impl CloseReason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Stalled => "stalled",
            Self::Slow => "slow",
            Self::Drain => "drain",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// What the client is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The stream has joined the log: a gap, if there was one, then the id it stands at.
    Joined {
        checkpoint: Option<EventId>,
        gap: Option<Gap>,
    },
    /// Events, which the visitor was shown.
    Events {
        /// Whether those were all: then the task is woken when there is more, and need not ask before.
        all: bool,
    },
    /// The client missed something.
    Gap(Gap),
    /// Nothing has happened for a while. The id up to which the client has everything, if there is one to name.
    Heartbeat(Option<EventId>),
    /// The grant ends soon.
    Expiring,
    /// The stream ends.
    End(CloseReason),
}

/// How long before its grant ends a client is told.
const EXPIRY_NOTICE: Duration = Duration::from_secs(30);

/// How often the wall clock is looked at where a grant ends by it: so late, at most, is noticed that it was set.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// A timer that nothing has set fires after this long, and is set again.
const FAR_AWAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Session {
    /// Begins a stream, counted until it is dropped.
    pub(super) fn new(
        subscription: Subscription,
        watch: Watch,
        client: Client,
        heartbeat: Duration,
        validity: &Validity,
        seat: Seat,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = Instant::now();
        metrics.connections.of(client.transport).inc();
        metrics.connections_opened.of(client.transport).inc();
        tracing::debug!(
            target: STREAMS,
            transport = client.transport,
            client = %client.address,
            tenant_id = client.tenant_id(),
            user_id = client.user_id(),
            "stream opened"
        );
        let mut session = Self {
            subscription,
            watch,
            timer: Box::pin(sleep_until(now)),
            heartbeat,
            last_sent: now,
            expiry: Expiry::of(validity),
            is_known: false,
            closing: CloseReason::Client,
            metrics,
            client,
            began: now,
            sent: Sent::default(),
            _seat: seat,
        };
        session.timer = Box::pin(sleep_until(session.next_moment(now)));
        session
    }

    /// What comes next. Events are shown to `visit` until it breaks. After [`Step::End`] it is not to be called again.
    pub(super) fn poll_step(
        &mut self,
        context: &mut Context<'_>,
        visit: impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) -> Poll<Step> {
        // Before events: a busy stream must end too, and what comes after it is no longer for this client.
        if self.watch.is_revoked() {
            return Poll::Ready(self.end(CloseReason::Revoked));
        }
        if let Some(step) = self.expiry_due() {
            return Poll::Ready(step);
        }
        if let Poll::Ready(update) = self.subscription.poll_update(context, visit) {
            self.last_sent = Instant::now();
            return Poll::Ready(match update {
                Update::Joined { checkpoint, gap } => Step::Joined { checkpoint, gap },
                Update::Events { all } => Step::Events {
                    // A timer that has fired is to be looked at: it will not wake the task again.
                    all: all && self.is_known && !self.timer.is_elapsed(),
                },
                Update::Gap(gap) => Step::Gap(gap),
                Update::Overrun => self.end(CloseReason::Slow),
                Update::Closed => self.end(CloseReason::Drain),
            });
        }
        while self.poll_timer(context).is_ready() {
            let now = Instant::now();
            if let Some(step) = self.expiry_due().or_else(|| self.heartbeat_due(now)) {
                return Poll::Ready(step);
            }
            let next = self.next_moment(now);
            self.timer.as_mut().reset(next);
        }
        if self.watch.poll_revoked(context).is_ready() {
            return Poll::Ready(self.end(CloseReason::Revoked));
        }
        self.is_known = true;
        Poll::Pending
    }

    /// Says that the socket stopped taking bytes, so that the end is counted as what it was.
    pub(super) fn stalled(&mut self) {
        self.closing = CloseReason::Stalled;
    }

    /// Counts events as handed to this client, the last of which has this id.
    pub(super) fn delivered(&mut self, events: u64, last_id: Option<EventId>) {
        self.metrics
            .events_delivered
            .of(self.client.transport)
            .inc_by(events);
        self.sent.events += events;
        self.has_id(last_id);
    }

    /// The client was told an id, if there is one: from there it would go on.
    pub(super) fn has_id(&mut self, id: Option<EventId>) {
        self.sent.last_id = id.or(self.sent.last_id);
    }

    /// Counts bytes as handed to this client.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.sent.bytes += bytes as u64;
    }

    /// Ready when the timer fires, which knows the task after this. Whatever else the task has done in this turn: a timer is
    /// otherwise pending, and knows nobody, where the task has used its budget up.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        std::pin::pin!(unconstrained(self.timer.as_mut())).poll(context)
    }

    fn expiry_due(&mut self) -> Option<Step> {
        let expiry = self.expiry.as_mut()?;
        let now = (expiry.now)();
        if now >= expiry.end_at {
            return Some(self.end(CloseReason::Expired));
        }
        if now >= expiry.warn_at && !expiry.warned {
            expiry.warned = true;
            return Some(Step::Expiring);
        }
        None
    }

    fn heartbeat_due(&mut self, now: Instant) -> Option<Step> {
        if self.heartbeat.is_zero() || now < self.last_sent + self.heartbeat {
            return None;
        }
        self.last_sent = now;
        Some(Step::Heartbeat(self.subscription.checkpoint()))
    }

    fn next_moment(&self, now: Instant) -> Instant {
        let heartbeat = Some(self.heartbeat)
            .filter(|every| !every.is_zero())
            .map(|every| self.last_sent + every);
        let expiry = self.expiry.as_ref().map(|expiry| now + expiry.next());
        heartbeat
            .into_iter()
            .chain(expiry)
            .min()
            .unwrap_or(now + FAR_AWAY)
    }

    fn end(&mut self, reason: CloseReason) -> Step {
        self.closing = reason;
        Step::End(reason)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.metrics.connections.of(self.client.transport).dec();
        let reason = self.closing.as_str();
        self.metrics.connections_closed.of(reason).inc();
        let Sent {
            events,
            bytes,
            last_id,
        } = self.sent;
        tracing::info!(
            target: STREAMS,
            transport = self.client.transport,
            client = %self.client.address,
            tenant_id = self.client.tenant_id(),
            user_id = self.client.user_id(),
            reason,
            seconds = self.began.elapsed().as_millis() as f64 / 1000.0,
            events,
            bytes,
            last_id = last_id.map(tracing::field::display),
            "stream closed"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::task::coop::{consume_budget, has_budget_remaining};

    use super::*;
    use crate::auth::{Grant, Permission, Revocation, Revocations, Subject, Wanted};
    use crate::event::Event;
    use crate::event::address::Attributes;
    use crate::event::audience::{Audience, Identifier, Recipient};
    use crate::event::filter::Filter;
    use crate::event::id::{Mark, Position};
    use crate::event::scope::Scope;
    use crate::hub::{Backpressure, Hub, HubConfig, Numbering, Resume, Writer, hub};

    const HEARTBEAT: Duration = Duration::from_secs(15);

    fn id(position: u64) -> EventId {
        EventId {
            position: Position::new(position),
            mark: Mark::epoch(7),
        }
    }

    /// A session of a hub that has read its history, for broadcasts.
    fn session(expires_at: Option<SystemTime>) -> (Writer, Session) {
        let validity = Validity {
            expires_at,
            ..Validity::default()
        };
        let (writer, _, session) = session_of_hub(&validity, Watch::default());
        (writer, session)
    }

    fn session_of_hub(validity: &Validity, watch: Watch) -> (Writer, Hub, Session) {
        let config = HubConfig {
            channel_capacity: 10,
            backpressure: Backpressure::DropOldest,
            max_events: 10,
            max_bytes: 0,
            max_age: Duration::ZERO,
            flush_window: Duration::ZERO,
            reads_back: false,
        };
        let metrics = Metrics::new().unwrap();
        let (mut writer, hub) = hub(
            config,
            Numbering::Sequence(Mark::epoch(7)),
            Arc::clone(&metrics),
        );
        writer.caught_up();
        let audience = Audience {
            tenant: None,
            recipient: Recipient::Broadcast,
        };
        let scope = Scope::Audiences(vec![audience]);
        let subscription = hub.subscribe(scope, Filter::default(), Resume::Never);
        let seat = Seat::default();
        set_clock();
        let client = Client {
            transport: "sse",
            address: ClientAddress::of([127, 0, 0, 1].into()),
            holder: None,
        };
        let mut session = Session::new(
            subscription,
            watch,
            client,
            HEARTBEAT,
            validity,
            seat,
            metrics,
        );
        if let Some(expiry) = &mut session.expiry {
            expiry.now = clock;
        }
        (writer, hub, session)
    }

    thread_local! {
        /// When the paused clock stood where, and by how much the wall clock was set since.
        static CLOCK: std::cell::Cell<Option<(Instant, SystemTime, Duration)>> = const { std::cell::Cell::new(None) };
    }

    fn set_clock() {
        CLOCK.set(Some((Instant::now(), SystemTime::now(), Duration::ZERO)));
    }

    /// Somebody sets the wall clock forward.
    fn set_forward(by: Duration) {
        let (began, at, forward) = CLOCK.get().unwrap();
        CLOCK.set(Some((began, at, forward + by)));
    }

    /// A wall clock that goes as the paused one does.
    fn clock() -> SystemTime {
        let (began, at, forward) = CLOCK.get().unwrap();
        at + forward + began.elapsed()
    }

    fn publish(writer: &mut Writer, position: u64) {
        let event = Event {
            id: id(position),
            audience: Audience {
                tenant: None,
                recipient: Recipient::Broadcast,
            },
            topic: "broadcast.notice".to_owned(),
            name: None,
            attributes: Attributes::default(),
            timestamp: None,
            body: Bytes::from_static(b"{}"),
        };
        writer.publish(Frame::encode(event, Instant::now()));
    }

    /// The next step, and how long it took to come.
    async fn next(session: &mut Session) -> (Step, Duration) {
        let asked = Instant::now();
        let step = poll_fn(|context| {
            session.poll_step(context, |_: &Arc<Frame>| ControlFlow::Continue(()))
        })
        .await;
        (step, asked.elapsed())
    }

    fn joined(position: u64) -> Step {
        Step::Joined {
            checkpoint: Some(id(position)),
            gap: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_is_told_where_the_log_stands_every_heartbeat() {
        let (mut writer, mut session) = session(None);
        assert_eq!(next(&mut session).await, (joined(0), Duration::ZERO));
        let beat = Step::Heartbeat(Some(id(0)));
        assert_eq!(next(&mut session).await.0, beat);
        let (step, waited) = next(&mut session).await;
        assert_eq!(step, beat);
        assert!(waited >= HEARTBEAT && waited < HEARTBEAT + Duration::from_millis(10));
        writer.pass(id(1), Instant::now());
        assert_eq!(next(&mut session).await.0, Step::Heartbeat(Some(id(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_puts_the_heartbeat_off() {
        let (mut writer, mut session) = session(None);
        next(&mut session).await;
        tokio::time::advance(HEARTBEAT - Duration::from_secs(1)).await;
        publish(&mut writer, 1);
        assert!(matches!(next(&mut session).await.0, Step::Events { .. }));
        let (step, waited) = next(&mut session).await;
        assert_eq!(step, Step::Heartbeat(Some(id(1))));
        assert!(waited >= HEARTBEAT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_used_its_turn_up_is_woken_for_its_heartbeat_all_the_same() {
        let (mut writer, mut session) = session(None);
        next(&mut session).await;
        let mut turn = 0;
        let asked = Instant::now();
        let woken = poll_fn(|context| {
            turn += 1;
            match turn {
                1 => {
                    // As many writes as a task may do in one go.
                    while has_budget_remaining() {
                        let writing = std::pin::pin!(consume_budget());
                        assert!(writing.poll(context).is_ready());
                    }
                    let polled = session.poll_step(context, |_| ControlFlow::Continue(()));
                    assert!(polled.is_pending());
                    // The next turn is not one that the timer has to give.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                2 => {
                    publish(&mut writer, 1);
                    let polled = session.poll_step(context, |_| ControlFlow::Continue(()));
                    assert_eq!(polled, Poll::Ready(Step::Events { all: true }));
                    // That is all, so nobody asks again.
                    Poll::Pending
                }
                _ if asked.elapsed() < HEARTBEAT => Poll::Pending,
                _ => Poll::Ready(asked.elapsed()),
            }
        });
        // Nothing else wakes it before that.
        let waited = tokio::time::timeout(2 * HEARTBEAT, woken).await.unwrap();
        assert!(waited < HEARTBEAT + Duration::from_secs(1), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_the_stream_after_what_was_given_before_it() {
        let (mut writer, hub, mut session) = session_of_hub(&Validity::default(), Watch::default());
        next(&mut session).await;
        publish(&mut writer, 1);
        hub.close();
        assert!(matches!(next(&mut session).await.0, Step::Events { .. }));
        assert_eq!(
            next(&mut session).await,
            (Step::End(CloseReason::Drain), Duration::ZERO)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_ends_is_announced_30_s_before_and_ends_the_stream() {
        let lifetime = Duration::from_secs(40);
        let (_writer, mut session) = session(Some(SystemTime::now() + lifetime));
        let began = Instant::now();
        next(&mut session).await;
        let mut steps = Vec::new();
        while !matches!(steps.last(), Some((Step::End(_), _))) {
            let (step, _) = next(&mut session).await;
            steps.push((step, began.elapsed().as_secs_f64().round()));
        }
        let warned = steps.iter().filter(|(step, _)| *step == Step::Expiring);
        assert_eq!(warned.collect::<Vec<_>>(), [&(Step::Expiring, 10.0)]);
        assert_eq!(steps.last(), Some(&(Step::End(CloseReason::Expired), 40.0)));
        let metrics = Arc::clone(&session.metrics);
        drop(session);
        assert_eq!(metrics.connections_closed.of("expired").get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_has_ended_ends_the_stream_at_once_however_busy_it_is() {
        let lifetime = Duration::from_secs(20);
        let (mut writer, mut session) = session(Some(SystemTime::now() + lifetime));
        assert_eq!(next(&mut session).await.0, Step::Expiring);
        next(&mut session).await;
        tokio::time::advance(lifetime).await;
        publish(&mut writer, 1);
        assert_eq!(
            next(&mut session).await,
            (Step::End(CloseReason::Expired), Duration::ZERO)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_goes_on_for_the_leeway_after_its_grant_has_ended() {
        let validity = Validity {
            expires_at: Some(SystemTime::now() + Duration::from_secs(40)),
            leeway: Duration::from_secs(30),
            ..Validity::default()
        };
        let (_writer, _, mut session) = session_of_hub(&validity, Watch::default());
        let began = Instant::now();
        while !matches!(next(&mut session).await.0, Step::End(CloseReason::Expired)) {}
        assert_eq!(began.elapsed().as_secs_f64().round(), 70.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_forward_ends_a_quiet_stream_within_half_a_minute() {
        let a_day = Duration::from_secs(24 * 60 * 60);
        let (_writer, mut session) = session(Some(SystemTime::now() + a_day));
        session.heartbeat = Duration::from_secs(3_600);
        next(&mut session).await;
        // The timer is set by the clock as it stood.
        let waiting = tokio::time::timeout(Duration::from_secs(1), next(&mut session)).await;
        assert!(waiting.is_err(), "nothing is due");
        set_forward(a_day);
        let (step, waited) = next(&mut session).await;
        assert_eq!(step, Step::End(CloseReason::Expired));
        assert!(waited <= CLOCK_CHECK, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_stream_ends_at_once_and_what_came_meanwhile_is_not_sent() {
        let user: Identifier = "42".parse().unwrap();
        let revocations = Revocations::awaited();
        for is_busy in [false, true] {
            let wanted = Wanted {
                users: vec![user.clone()],
                ..Wanted::default()
            };
            let now = SystemTime::now();
            let grant = Grant::undivided(&[Permission::Read]);
            let watch = revocations.watch(&grant, &wanted, now).unwrap();
            let (mut writer, _, mut session) = session_of_hub(&Validity::default(), watch);
            next(&mut session).await;
            let revocation = Revocation {
                subject: Subject::User {
                    tenant: None,
                    user: user.clone(),
                },
                revoked_at: now,
                expires_at: now + Duration::from_secs(3600),
            };
            let ending = async {
                if is_busy {
                    publish(&mut writer, 1);
                }
                assert_eq!(revocations.apply(revocation, now), Some(1));
            };
            let end = (Step::End(CloseReason::Revoked), Duration::ZERO);
            if is_busy {
                ending.await;
                assert_eq!(next(&mut session).await, end);
            } else {
                assert_eq!(tokio::join!(next(&mut session), ending).0, end);
            }
        }
    }
}
