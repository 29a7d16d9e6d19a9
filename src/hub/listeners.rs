//! Who is to be woken, and when: at once or, where what they are woken for comes closer than the flush window, once for all
//! that came within it. Then each reader takes it together, and each socket is written once for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::{Shared, lock};

/// Readers that are woken together.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    signals: Mutex<Slab<Arc<Signal>>>,
    /// When they were woken last, in nanoseconds since the flush began, plus 1; 0 is never.
    woken_at: AtomicU64,
    /// They are to be woken when the window ends.
    is_due: AtomicBool,
}

impl Listeners {
    pub(super) fn add(&self, signal: &Arc<Signal>) -> usize {
        lock(&self.signals).insert(Arc::clone(signal))
    }

    pub(super) fn remove(&self, listener: usize) {
        let mut signals = lock(&self.signals);
        signals.try_remove(listener);
        if signals.is_empty() {
            signals.shrink_to_fit();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.signals).is_empty()
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.signals).len()
    }

    /// Wakes all who have not been woken since they last looked.
    pub(super) fn wake(&self) {
        for (_, signal) in &*lock(&self.signals) {
            signal.raise();
        }
    }
}

/// Wakes one reader, once, however many events come before it looks.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    pub(super) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// To be called before looking: what comes after this call wakes. A swap, not a store: it and the writer's swap
    /// have an order, so that either the writer sees the flag down, or the reader sees what the writer wrote.
    pub(super) fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
        self.raised.swap(false, Ordering::AcqRel);
    }
}

/// Wakes listeners for events: the first after a pause at once, and those that follow within the window when that ends.
#[derive(Debug)]
pub(super) struct Flush {
    /// Zero: all at once.
    window: Duration,
    began: Instant,
    due: Mutex<Vec<Arc<Listeners>>>,
    fell_due: Notify,
}

impl Flush {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            began: Instant::now(),
            due: Mutex::default(),
            fell_due: Notify::new(),
        }
    }

    /// An event that came now is where these listeners find it.
    pub(super) fn event(&self, listeners: &Arc<Listeners>, now: Instant) {
        if self.window.is_zero() {
            return listeners.wake();
        }
        let last = listeners.woken_at.load(Ordering::Relaxed);
        let rest = Duration::from_nanos(self.nanoseconds(now).saturating_sub(last));
        if last == 0 || rest >= self.window {
            self.wake(listeners, now);
        } else if !listeners.is_due.swap(true, Ordering::AcqRel) {
            lock(&self.due).push(Arc::clone(listeners));
            self.fell_due.notify_one();
        }
    }

    /// Wakes those who wait for the end of the window. Runs until it is dropped.
    async fn run(&self) {
        let mut due = Vec::new();
        loop {
            self.fell_due.notified().await;
            sleep(self.window).await;
            std::mem::swap(&mut due, &mut lock(&self.due));
            let now = Instant::now();
            for listeners in due.drain(..) {
                // Before they are woken: an event that comes meanwhile is seen by them, or they fall due again.
                listeners.is_due.store(false, Ordering::Release);
                self.wake(&listeners, now);
            }
        }
    }

    fn wake(&self, listeners: &Listeners, now: Instant) {
        listeners
            .woken_at
            .store(self.nanoseconds(now), Ordering::Relaxed);
        listeners.wake();
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX - 1) + 1
    }
}

/// Wakes readers when the flush window ends.
#[derive(Debug)]
pub struct Flusher {
    shared: Arc<Shared>,
}

impl Flusher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        self.shared.flush.run().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use fastrand::Rng;
    use tokio::time::advance;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(2);

    /// A reader that counts how often it was woken, and looks at once.
    #[derive(Default)]
    struct Reader {
        signal: Arc<Signal>,
        woken: Arc<Woken>,
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Reader {
        fn of(listeners: &Listeners) -> Self {
            let reader = Self::default();
            listeners.add(&reader.signal);
            reader.look();
            reader
        }

        fn look(&self) {
            self.signal.listen(&Arc::clone(&self.woken).into());
        }

        /// How often it was woken since it was asked last.
        fn woken(&self) -> usize {
            let woken = self.woken.0.swap(0, Ordering::Relaxed);
            self.look();
            woken
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    fn flush() -> Arc<Flush> {
        let flush = Arc::new(Flush::new(WINDOW));
        let running = Arc::clone(&flush);
        tokio::spawn(async move { running.run().await });
        flush
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_event_wakes_at_once_and_those_that_follow_it_closely_do_together() {
        let flush = flush();
        let (busy, quiet) = (Arc::default(), Arc::default());
        let (reader, other) = (Reader::of(&busy), Reader::of(&quiet));
        flush.event(&busy, Instant::now());
        assert_eq!(reader.woken(), 1);
        for _ in 0..10 {
            flush.event(&busy, Instant::now());
        }
        flush.event(&quiet, Instant::now());
        assert_eq!((reader.woken(), other.woken()), (0, 1));
        sleep(2 * WINDOW).await;
        assert_eq!((reader.woken(), other.woken()), (1, 0));
        sleep(2 * WINDOW).await;
        flush.event(&busy, Instant::now());
        assert_eq!(reader.woken(), 1, "after a pause at once again");
    }

    #[tokio::test(start_paused = true)]
    async fn no_event_waits_for_longer_than_the_window_however_they_come() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = Rng::with_seed(seed);
        let flush = flush();
        let listeners = Arc::default();
        let reader = Reader::of(&listeners);
        let mut waits_since: Option<Instant> = None;
        for _ in 0..10_000 {
            if rng.bool() {
                flush.event(&listeners, Instant::now());
                waits_since.get_or_insert_with(Instant::now);
            }
            advance(Duration::from_micros(rng.u64(0..1_500))).await;
            tokio::task::yield_now().await;
            if reader.woken() > 0 {
                waits_since = None;
            }
            // A timer has milliseconds.
            let waits = waits_since.map_or(Duration::ZERO, |since| since.elapsed());
            assert!(waits <= WINDOW + Duration::from_millis(3), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_window_every_event_wakes_at_once() {
        let flush = Flush::new(Duration::ZERO);
        let listeners = Arc::default();
        let reader = Reader::of(&listeners);
        for _ in 0..3 {
            flush.event(&listeners, Instant::now());
            assert_eq!(reader.woken(), 1);
        }
    }
}
