//! How many new connections one address may make in a second. Bounded memory, however many addresses there are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::transport::ClientAddress;

/// How much may come at once, in seconds of the rate: a page that was reloaded, an office that came back.
const BURST_SECONDS: u16 = 10;

/// Addresses that are remembered in one generation; there are two. Beyond it the older half is forgotten, which lets some
/// in that should wait, and never keeps one out that should not.
const REMEMBERED: usize = 32 * 1024;

/// A token bucket for each address.
#[derive(Debug)]
pub struct ConnectionRate {
    per_second: f64,
    burst: f64,
    /// Locked for as long as it takes to look one address up.
    buckets: Mutex<Generations>,
}

/// A bucket that was not looked at for [`BURST_SECONDS`] is full, and as good as none: so it is enough to remember who
/// came in this generation or in the one before.
#[derive(Debug)]
struct Generations {
    current: HashMap<ClientAddress, Bucket>,
    previous: HashMap<ClientAddress, Bucket>,
    began: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl ConnectionRate {
    /// So many new connections a second, and [`BURST_SECONDS`] times that many at once.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            burst: per_second * f64::from(BURST_SECONDS),
            buckets: Mutex::new(Generations {
                current: HashMap::new(),
                previous: HashMap::new(),
                began: Instant::now(),
            }),
        }
    }

    /// Whether one more may come from this address now; if so, it is counted.
    #[must_use]
    pub fn admits(&self, address: ClientAddress, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let over = now >= buckets.began + Duration::from_secs(BURST_SECONDS.into());
        if over || buckets.current.len() >= REMEMBERED {
            buckets.previous = std::mem::take(&mut buckets.current);
            buckets.began = now;
        }
        let known = buckets
            .current
            .get(&address)
            .or_else(|| buckets.previous.get(&address));
        let tokens = known.map_or(self.burst, |bucket| {
            let since = now.saturating_duration_since(bucket.filled_at);
            (bucket.tokens + since.as_secs_f64() * self.per_second).min(self.burst)
        });
        let admitted = tokens >= 1.0;
        let bucket = Bucket {
            tokens: if admitted { tokens - 1.0 } else { tokens },
            filled_at: now,
        };
        buckets.current.insert(address, bucket);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn address(number: u32) -> ClientAddress {
        ClientAddress::of(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn admitted(rate: &ConnectionRate, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| rate.admits(address(1), now)).count()
    }

    #[test]
    fn an_address_may_come_in_a_burst_and_then_at_its_rate_whatever_others_do() {
        let rate = ConnectionRate::new(2);
        let began = Instant::now();
        let after = |milliseconds| began + Duration::from_millis(milliseconds);
        assert_eq!(admitted(&rate, 100, began), 20);
        assert!(rate.admits(address(2), began), "another one has its own");
        assert_eq!(admitted(&rate, 100, after(400)), 0);
        assert_eq!(admitted(&rate, 100, after(500)), 1);
        assert_eq!(admitted(&rate, 100, after(3500)), 6);
        // Across generations too, and never more than the burst.
        assert_eq!(admitted(&rate, 100, after(9_500)), 12);
        assert_eq!(admitted(&rate, 100, after(10_500)), 2);
        assert_eq!(admitted(&rate, 100, after(21_000)), 20);
        assert_eq!(admitted(&rate, 100, after(600_000)), 20);
    }

    #[test]
    fn its_memory_is_bounded_and_who_is_forgotten_is_let_in() {
        let rate = ConnectionRate::new(1);
        let now = Instant::now();
        assert_eq!(admitted(&rate, 11, now), 10);
        for number in 2..200_000 {
            assert!(rate.admits(address(number), now));
        }
        let buckets = rate.buckets.lock().unwrap();
        assert!(buckets.current.len() + buckets.previous.len() <= 2 * REMEMBERED);
        drop(buckets);
        assert!(rate.admits(address(1), now));
    }
}
