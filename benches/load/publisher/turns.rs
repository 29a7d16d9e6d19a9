//! When the next event is to be published.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Load, Pace};

/// How long an event may take to reach everybody, before the rest is not published any more.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Turns {
    next: u64,
    end: u64,
    first: u64,
    began: Instant,
    pace: Pace,
    complete: watch::Receiver<u64>,
}

impl Turns {
    pub fn new(first: u64, load: &Load, complete: watch::Receiver<u64>) -> Self {
        Self {
            next: first,
            end: first + load.events,
            first,
            began: Instant::now(),
            pace: load.pace,
            complete,
        }
    }

    /// How many events there are in all.
    pub fn len(&self) -> u64 {
        self.end - self.first
    }

    /// The number of the next event, when its turn has come. One that is late does not move those after it.
    pub async fn next(&mut self) -> Option<u64> {
        let number = (self.next < self.end).then_some(self.next)?;
        match self.pace {
            Pace::PerSecond(rate) => {
                let due = Duration::from_secs_f64((number - self.first) as f64 / f64::from(rate));
                sleep_until(self.began + due).await;
            }
            Pace::Window(window) => {
                let room = self
                    .complete
                    .wait_for(|complete| number < (*complete).max(self.first) + window);
                timeout(PATIENCE, room).await.ok()?.ok()?;
            }
        }
        self.next += 1;
        Some(number)
    }
}
