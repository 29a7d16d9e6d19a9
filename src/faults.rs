//! Faults that go on are told less and less often, so that the log has room for other news.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// Which faults have been told: each at its first time, then after 1 s, 2 s, 4 s..., for as long as it comes back.
#[derive(Debug, Default)]
pub struct FaultLog {
    /// Bounded: what can go wrong has few texts.
    faults: Vec<Told>,
}

#[derive(Debug)]
struct Told {
    text: String,
    /// How often it happened.
    times: u64,
    last_seen: Instant,
    last_told: Instant,
    /// How long to keep quiet about it since then.
    quiet: Duration,
}

impl FaultLog {
    const KINDS: usize = 16;
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(600);
    /// What has not been seen for so long is news again.
    const OVER: Duration = Duration::from_secs(60);

    /// How often this has happened, if that is to be told now.
    pub fn note(&mut self, fault: &impl Display, now: Instant) -> Option<u64> {
        let text = fault.to_string();
        self.faults.retain(|told| now < told.last_seen + Self::OVER);
        let Some(told) = self.faults.iter_mut().find(|told| told.text == text) else {
            if self.faults.len() == Self::KINDS {
                self.faults.remove(0);
            }
            let quiet = Self::SHORTEST;
            self.faults.push(Told {
                text,
                times: 1,
                last_seen: now,
                last_told: now,
                quiet,
            });
            return Some(1);
        };
        told.times += 1;
        told.last_seen = now;
        if now < told.last_told + told.quiet {
            return None;
        }
        told.last_told = now;
        told.quiet = (told.quiet * 2).min(Self::LONGEST);
        Some(told.times)
    }

    /// It is over; what comes next is news again.
    pub fn reset(&mut self) {
        self.faults.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_at_first_and_then_at_doubling_intervals_until_it_is_over() {
        let mut log = FaultLog::default();
        let began = Instant::now();
        let after = |milliseconds| began + Duration::from_millis(milliseconds);
        let often = (0..200).map(|tenth| tenth * 100);
        let told: Vec<_> = often
            .filter(|now| log.note(&"blocked", after(*now)).is_some())
            .collect();
        assert_eq!(told, [0, 1000, 3000, 7000, 15_000]);
        assert_eq!(log.note(&"cancelled", after(20_000)), Some(1));
        assert_eq!(log.note(&"blocked", after(20_000)), None);
        log.reset();
        assert_eq!(log.note(&"blocked", after(20_000)), Some(1));
        assert_eq!(
            log.note(&"blocked", after(80_000)),
            Some(1),
            "it was gone for a minute"
        );
    }

    #[test]
    fn the_log_of_faults_is_bounded() {
        let mut log = FaultLog::default();
        let now = Instant::now();
        for number in 0..1000 {
            assert_eq!(log.note(&number, now), Some(1));
        }
        assert_eq!(log.faults.len(), FaultLog::KINDS);
    }
}
