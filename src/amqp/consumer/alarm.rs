//! Deadlines of a subscription that move with every delivery.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long a stream may deliver nothing before it is asked whether that is all, so that a subscription that has died
/// without a word is noticed.
const LULL: Duration = Duration::from_secs(5);
/// How often it is asked again while nothing comes.
const LONG_LULL: Duration = Duration::from_secs(60);

/// A moment to wake at, once it is set. Its timer stays: one that is made for every delivery takes the runtime's lock
/// twice, and wakes the worker that sleeps until a later one.
pub(super) struct Alarm {
    timer: Pin<Box<Sleep>>,
    is_set: bool,
}

impl Alarm {
    pub(super) fn unset() -> Self {
        Self {
            timer: Box::pin(sleep_until(Instant::now())),
            is_set: false,
        }
    }

    pub(super) fn set(&mut self, moment: Instant) {
        self.timer.as_mut().reset(moment);
        self.is_set = true;
    }

    pub(super) fn clear(&mut self) {
        self.is_set = false;
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }

    /// Returns at the moment that it is set to, once. Cancel-safe.
    pub(super) async fn rings(&mut self) {
        if !self.is_set {
            return pending().await;
        }
        self.timer.as_mut().await;
        self.is_set = false;
    }
}

/// Whether a stream has delivered nothing for long.
pub(super) struct Lull {
    /// When it will have, if nothing comes.
    due: Instant,
    /// Rings at that moment or before.
    alarm: Alarm,
}

impl Lull {
    pub(super) fn begin() -> Self {
        let mut lull = Self {
            due: Instant::now() + LULL,
            alarm: Alarm::unset(),
        };
        lull.alarm.set(lull.due);
        lull
    }

    /// Something came.
    pub(super) fn end(&mut self) {
        self.due = Instant::now() + LULL;
    }

    /// Returns when nothing has come for long, and again and again while it goes on. Cancel-safe.
    pub(super) async fn is_long(&mut self) {
        loop {
            self.alarm.rings().await;
            let now = Instant::now();
            let was_due = self.due <= now;
            if was_due {
                self.due = now + LONG_LULL;
            }
            // Something may come meanwhile, and then the next is due after that.
            self.alarm.set(self.due.min(now + LULL));
            if was_due {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_asked_5_s_after_the_last_delivery_and_every_60_s_while_nothing_comes() {
        let began = Instant::now();
        let mut lull = Lull::begin();
        advance(Duration::from_secs(3)).await;
        lull.end();
        lull.is_long().await;
        assert_eq!(began.elapsed().as_secs(), 8);
        lull.is_long().await;
        assert_eq!(began.elapsed().as_secs(), 68);
        advance(Duration::from_secs(1)).await;
        lull.end();
        lull.is_long().await;
        assert_eq!(began.elapsed().as_secs(), 74);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_for_an_alarm_can_begin_again() {
        let began = Instant::now();
        let mut alarm = Alarm::unset();
        let patience = Duration::from_secs(1);
        assert!(timeout(patience, alarm.rings()).await.is_err());
        alarm.set(began + Duration::from_secs(3));
        assert!(timeout(patience, alarm.rings()).await.is_err());
        alarm.rings().await;
        assert_eq!(began.elapsed().as_secs(), 3);
        assert!(!alarm.is_set());
        alarm.set(Instant::now() + patience);
        alarm.clear();
        assert!(timeout(2 * patience, alarm.rings()).await.is_err());
    }
}
