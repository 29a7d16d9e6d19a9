//! Who owns the tasks, and in which order they end.
//!
//! The process lives in three stages, stopped in the order of the way of an event: the *intake* (what consumes),
//! then the *streams* (what browsers are connected to), then the *doors* (listeners and housekeeping). Stopping a
//! stage asks its tasks to end and waits for them; nothing here knows what they do.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::SetOnce;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument;

/// The stages of this process and its readiness. Cheap to clone: all clones are the same lifecycle.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// What consumes events and settles them. Stopped first.
    pub intake: Stage,
    /// What sends to clients. Stopped when nothing new can come in.
    pub streams: Stage,
    /// Listeners and housekeeping. Stopped last, so that a drain can be watched.
    pub doors: Stage,
    /// Written once by the source when it first had its broker; read by `/readyz`.
    connected: Arc<AtomicBool>,
    /// Set before anything runs, where tokens say whose they are; taken back once it is known which were revoked.
    awaits_revocations: Arc<AtomicBool>,
}

/// Whether this replica should be given traffic, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Send clients here.
    Ready,
    /// The broker has not been reached since the start.
    Connecting,
    /// Which tokens were revoked has not been read since the start.
    Uninformed,
    /// This process is ending.
    Draining,
}

impl Lifecycle {
    /// The source has its broker. What happens to the link later does not take readiness away: clients that are
    /// entitled keep their streams while RabbitMQ is away.
    pub fn mark_connected(&self) {
        self.connected.store(true, Ordering::Release);
    }

    /// Clients are not to be sent here before it is known which tokens were revoked.
    pub fn await_revocations(&self) {
        self.awaits_revocations.store(true, Ordering::Release);
    }

    /// It is known which tokens were revoked. That RabbitMQ is away later on does not take readiness away.
    pub fn mark_informed(&self) {
        self.awaits_revocations.store(false, Ordering::Release);
    }

    /// Resolves when a task of any stage has panicked, with its name: what it did is done by nobody any more. Cancel-safe.
    pub async fn panicked(&self) -> &'static str {
        tokio::select! {
            name = self.intake.panicked.wait() => name,
            name = self.streams.panicked.wait() => name,
            name = self.doors.panicked.wait() => name,
        }
    }

    /// What `/readyz` answers.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.intake.is_stopping() {
            Readiness::Draining
        } else if !self.connected.load(Ordering::Acquire) {
            Readiness::Connecting
        } else if self.awaits_revocations.load(Ordering::Acquire) {
            Readiness::Uninformed
        } else {
            Readiness::Ready
        }
    }
}

/// Tasks that end together. Cheap to clone: all clones are the same stage.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The name of the first task that panicked. Set as that unwinds; read by whoever waits for [`Lifecycle::panicked`].
    panicked: Arc<SetOnce<&'static str>>,
}

/// Notes whether the task that holds it unwinds.
struct Watched {
    name: &'static str,
    panicked: Arc<SetOnce<&'static str>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Only the first is told.
            drop(self.panicked.set(self.name));
        }
    }
}

impl Stage {
    /// Starts a task that this stage waits for when it is stopped. The task must end soon after
    /// [`Stage::stopping`] resolves. `name` appears in its log lines. That it panics is noted: [`Lifecycle::panicked`].
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let panicked = Arc::clone(&self.panicked);
        let watched = async move {
            let _watched = Watched { name, panicked };
            task.await
        };
        self.tasks
            .spawn(watched.instrument(tracing::info_span!("task", name)))
    }

    /// Something that is no task but must have ended before this stage has: an answer under way. Held until then.
    pub fn token(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    /// Resolves when this stage is asked to stop. Cancel-safe.
    pub fn stopping(&self) -> WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    /// Whether this stage was asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Asks the tasks of this stage to end, and waits until all have. Cancel-safe: dropping it leaves the request standing.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_replica_is_ready_when_it_has_its_broker_and_knows_what_was_revoked_until_it_drains()
    {
        let lifecycle = Lifecycle::default();
        lifecycle.await_revocations();
        assert_eq!(lifecycle.readiness(), Readiness::Connecting);
        lifecycle.mark_connected();
        assert_eq!(lifecycle.readiness(), Readiness::Uninformed);
        lifecycle.mark_informed();
        assert_eq!(lifecycle.readiness(), Readiness::Ready);
        lifecycle.intake.stop().await;
        assert_eq!(lifecycle.readiness(), Readiness::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_told_by_its_name_and_one_that_ends_is_not() {
        for which in 0..3 {
            let lifecycle = Lifecycle::default();
            let stage = [&lifecycle.intake, &lifecycle.streams, &lifecycle.doors][which];
            stage.spawn("ends", async {}).await.unwrap();
            let stays = stage.spawn("is cut off", std::future::pending::<()>());
            stays.abort();
            stays.await.unwrap_err();
            let quiet = timeout(Duration::from_secs(1), lifecycle.panicked()).await;
            quiet.expect_err("nothing panicked");
            let panics = stage.spawn("panics", async { panic!("as a test") });
            assert!(panics.await.unwrap_err().is_panic());
            let name = timeout(Duration::from_secs(1), lifecycle.panicked()).await;
            assert_eq!(name, Ok("panics"));
        }
    }
}
