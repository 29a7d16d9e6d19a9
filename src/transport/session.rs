//! What one client is sent, in which order, and when it ends: the same for every wire.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::Seat;
use crate::event::id::EventId;
use crate::frame::Frame;
use crate::hub::{Gap, Subscription, Update};
use crate::metrics::Metrics;

/// One client's stream.
#[derive(Debug)]
pub(super) struct Session {
    subscription: Subscription,
    /// Fires at the earliest of the moments below. Where traffic has moved the heartbeat since it was set, it fires
    /// early and is set anew: cheaper than setting it at every event.
    timer: Pin<Box<Sleep>>,
    heartbeat: Duration,
    last_sent: Instant,
    expiry: Option<Expiry>,
    /// Why it ended; what it is if nothing says otherwise.
    closing: CloseReason,
    metrics: Arc<Metrics>,
    transport: &'static str,
    _seat: Seat,
}

/// The end of a grant, and with it of the stream.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    warn_at: Instant,
    end_at: Instant,
    warned: bool,
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
}

impl CloseReason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Stalled => "stalled",
            Self::Slow => "slow",
            Self::Drain => "drain",
            Self::Expired => "expired",
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
    Events,
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

/// A timer that nothing has set fires after this long, and is set again.
const FAR_AWAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Session {
    /// Begins a stream, counted until it is dropped.
    pub(super) fn new(
        subscription: Subscription,
        heartbeat: Duration,
        expires_at: Option<SystemTime>,
        seat: Seat,
        transport: &'static str,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = Instant::now();
        let expiry = expires_at.map(|at| {
            let end_at = now
                + at.duration_since(SystemTime::now())
                    .unwrap_or_default()
                    .min(FAR_AWAY * 365);
            Expiry {
                warn_at: end_at.checked_sub(EXPIRY_NOTICE).unwrap_or(now),
                end_at,
                warned: false,
            }
        });
        metrics.connections.of(transport).inc();
        let mut session = Self {
            subscription,
            timer: Box::pin(sleep_until(now)),
            heartbeat,
            last_sent: now,
            expiry,
            closing: CloseReason::Client,
            metrics,
            transport,
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
        if let Poll::Ready(update) = self.subscription.poll_update(context, visit) {
            self.last_sent = Instant::now();
            return Poll::Ready(match update {
                Update::Joined { checkpoint, gap } => Step::Joined { checkpoint, gap },
                Update::Events => Step::Events,
                Update::Gap(gap) => Step::Gap(gap),
                Update::Overrun => self.end(CloseReason::Slow),
                Update::Closed => self.end(CloseReason::Drain),
            });
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if let Some(step) = self.due(now) {
                return Poll::Ready(step);
            }
            let next = self.next_moment(now);
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Says that the socket stopped taking bytes, so that the end is counted as what it was.
    pub(super) fn stalled(&mut self) {
        self.closing = CloseReason::Stalled;
    }

    /// Counts events as handed to this client.
    pub(super) fn delivered(&self, events: u64) {
        self.metrics
            .events_delivered
            .of(self.transport)
            .inc_by(events);
    }

    fn due(&mut self, now: Instant) -> Option<Step> {
        if let Some(expiry) = &mut self.expiry {
            if now >= expiry.end_at {
                return Some(self.end(CloseReason::Expired));
            }
            if now >= expiry.warn_at && !expiry.warned {
                expiry.warned = true;
                return Some(Step::Expiring);
            }
        }
        if !self.heartbeat.is_zero() && now >= self.last_sent + self.heartbeat {
            self.last_sent = now;
            return Some(Step::Heartbeat(self.subscription.checkpoint()));
        }
        None
    }

    fn next_moment(&self, now: Instant) -> Instant {
        let heartbeat = Some(self.heartbeat)
            .filter(|every| !every.is_zero())
            .map(|every| self.last_sent + every);
        let expiry = self.expiry.map(|expiry| {
            if expiry.warned {
                expiry.end_at
            } else {
                expiry.warn_at
            }
        });
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
        self.metrics.connections.of(self.transport).dec();
        self.metrics
            .connections_closed
            .of(self.closing.as_str())
            .inc();
    }
}
