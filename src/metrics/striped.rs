//! What every delivery counts. Several threads do so at once, a million times a second, and a counter that they shared
//! would wander between their caches each time (a tenth of what a delivery costs). So each thread has one of its own, and
//! they are added up when Prometheus asks.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{Histogram, IntCounter};

/// One metric, as a stripe for each thread that runs tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Striped<M>(Arc<[M]>);

impl<M: Clone> Striped<M> {
    /// As many as there are cores.
    pub(super) fn new<E>(stripe: impl Fn() -> Result<M, E>) -> Result<Self, E> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        (0..cores)
            .map(|_| stripe())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// This thread's. Threads beyond the number of cores share.
    #[expect(
        clippy::indexing_slicing,
        reason = "a remainder is less than what it is of"
    )]
    fn mine(&self) -> &M {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed));
        &self.0[THREAD.with(|number| number % self.0.len())]
    }
}

impl Striped<Histogram> {
    /// Counts one value.
    pub fn observe(&self, value: f64) {
        self.mine().observe(value);
    }
}

impl Striped<IntCounter> {
    /// Adds to the count.
    pub fn inc_by(&self, more: u64) {
        self.mine().inc_by(more);
    }
}

impl<M: Collector> Collector for Striped<M> {
    fn desc(&self) -> Vec<&Desc> {
        self.0.first().map(Collector::desc).unwrap_or_default()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut stripes = self.0.iter().flat_map(Collector::collect);
        let Some(mut family) = stripes.next() else {
            return Vec::new();
        };
        for mut stripe in stripes {
            let pairs = family.mut_metric().iter_mut().zip(stripe.take_metric());
            for (sum, stripe) in pairs {
                add(sum, &stripe);
            }
        }
        vec![family]
    }
}

/// Adds up two of one kind: what the kind has not is empty in both.
fn add(sum: &mut Metric, stripe: &Metric) {
    let mut counter = sum.get_counter().clone();
    counter.set_value(counter.get_value() + stripe.get_counter().get_value());
    sum.set_counter(counter);
    let (mut histogram, more) = (sum.get_histogram().clone(), stripe.get_histogram());
    histogram.set_sample_count(histogram.get_sample_count() + more.get_sample_count());
    histogram.set_sample_sum(histogram.get_sample_sum() + more.get_sample_sum());
    let mut buckets = histogram.get_bucket().to_vec();
    for (bucket, more) in buckets.iter_mut().zip(more.get_bucket()) {
        bucket.set_cumulative_count(bucket.cumulative_count() + more.cumulative_count());
    }
    histogram.set_bucket(buckets);
    sum.set_histogram(histogram);
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, Opts, Registry, TextEncoder};

    use super::*;

    #[test]
    fn what_each_thread_counted_is_told_as_one() {
        let counter = Striped::new(|| IntCounter::with_opts(Opts::new("events", "Events.")));
        let options = HistogramOpts::new("seconds", "Seconds.").buckets(vec![1.0, 2.0]);
        let histogram = Striped::new(|| Histogram::with_opts(options.clone()));
        let (counter, histogram) = (counter.unwrap(), histogram.unwrap());
        let registry = Registry::new();
        registry.register(Box::new(counter.clone())).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    counter.inc_by(5);
                    histogram.observe(0.5);
                    histogram.observe(1.5);
                    histogram.observe(4.0);
                });
            }
        });
        let text = TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "events 40",
            "seconds_bucket{le=\"1\"} 8",
            "seconds_bucket{le=\"2\"} 16",
            "seconds_bucket{le=\"+Inf\"} 24",
            "seconds_sum 48",
            "seconds_count 24",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}:\n{text}");
        }
    }
}
