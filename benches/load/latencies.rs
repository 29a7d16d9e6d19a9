//! Millions of latencies in a few kilobytes: counted in buckets that are at most a 128th wide, the largest kept exactly.

/// Buckets for each power of two.
const PER_OCTAVE: u64 = 128;

/// Latencies in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    largest: u64,
}

impl Latencies {
    pub fn add(&mut self, nanoseconds: u64) {
        let bucket = bucket_of(nanoseconds);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.largest = self.largest.max(nanoseconds);
    }

    /// The smallest latency that this share of all does not exceed, at most a 128th too large. 0 when there are none.
    pub fn percentile(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return end_of(bucket as u64).min(self.largest);
            }
        }
        self.largest
    }
}

/// Values below [`PER_OCTAVE`] have a bucket each; above, each octave is cut into as many.
fn bucket_of(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PER_OCTAVE.ilog2() + 1);
    (u64::from(shift) * PER_OCTAVE + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn end_of(bucket: u64) -> u64 {
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    let first = bucket - shift * PER_OCTAVE;
    (first << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::{Latencies, PER_OCTAVE, bucket_of, end_of};

    #[test]
    fn buckets_follow_each_other_without_a_hole_and_none_is_wider_than_a_128th() {
        let mut first = 0;
        for bucket in 0..7_000 {
            let last = end_of(bucket);
            assert_eq!(bucket_of(first), bucket as usize, "{first}");
            assert_eq!(bucket_of(last), bucket as usize, "{last}");
            assert!((last - first) * PER_OCTAVE <= first, "{first}..={last}");
            first = last + 1;
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut latencies = Latencies::default();
        let values: Vec<u64> = (0..10_000_u64)
            .map(|n| (n * 7_919 % 10_000) * 1_000)
            .collect();
        values.iter().for_each(|value| latencies.add(*value));
        let mut sorted = values;
        sorted.sort_unstable();
        for (share, at) in [(0.0, 0), (0.5, 4_999), (0.99, 9_899), (1.0, 9_999)] {
            let (exact, found) = (sorted[at], latencies.percentile(share));
            assert!(
                exact <= found && found <= exact + exact / PER_OCTAVE,
                "{share}: {found}, not {exact}"
            );
        }
        assert_eq!(latencies.percentile(1.0), 9_999_000);
    }

    #[test]
    fn of_none_every_percentile_is_0_and_of_one_it_is_that() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.99), 0);
        latencies.add(123_456_789);
        assert_eq!(latencies.percentile(0.0), 123_456_789);
        assert_eq!(latencies.percentile(0.99), 123_456_789);
    }
}
