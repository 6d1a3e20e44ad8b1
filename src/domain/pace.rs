//! Pace: the request budget of one project, a token bucket.

use std::num::NonZeroU32;
use std::time::Duration;

/// View calls that may go out at once after a quiet time, as the contract says.
pub const BURST: u32 = 10;

/// A bucket that refills evenly and never holds more than [`BURST`] calls.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    cost: Duration,
    /// The bucket is full at this time, since the program's start; a call moves it on by its cost.
    full_at: Duration,
}

impl Pace {
    pub fn new(requests_per_second: NonZeroU32) -> Self {
        Self { cost: Duration::from_secs(1) / requests_per_second.get(), full_at: Duration::ZERO }
    }

    #[must_use]
    pub fn with_budget(self, requests_per_second: NonZeroU32) -> Self {
        Self { full_at: self.full_at, ..Self::new(requests_per_second) }
    }

    /// When the next call may go out; now or earlier means now.
    pub fn ready_at(&self) -> Duration {
        self.full_at.saturating_sub(self.cost * (BURST - 1))
    }

    /// Spends one call, once [`Pace::ready_at`] has come.
    pub fn spend(&mut self, now: Duration) {
        self.full_at = self.full_at.max(now).saturating_add(self.cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_steady_rate() {
        let mut pace = Pace::new(NonZeroU32::new(10).unwrap());
        let now = Duration::from_secs(5);
        for _ in 0..BURST {
            assert!(pace.ready_at() <= now);
            pace.spend(now);
        }
        assert_eq!(pace.ready_at(), now + Duration::from_millis(100));
        pace.spend(pace.ready_at());
        assert_eq!(pace.ready_at(), now + Duration::from_millis(200));
    }

    #[test]
    fn another_budget_forgets_nothing_that_was_spent() {
        let mut pace = Pace::new(NonZeroU32::new(10).unwrap());
        let now = Duration::from_secs(5);
        for _ in 0..BURST {
            pace.spend(now);
        }
        assert!(pace.with_budget(NonZeroU32::new(5).unwrap()).ready_at() < now);
        let faster = pace.with_budget(NonZeroU32::new(1000).unwrap());
        assert!(faster.ready_at() > now, "what was spent is paid back first");
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_the_budget(rate in 1_u32..100, steps in prop::collection::vec(0_u64..500, 1..300)) {
            let mut pace = Pace::new(NonZeroU32::new(rate).unwrap());
            let (mut now, mut sent) = (Duration::ZERO, Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                if pace.ready_at() <= now {
                    pace.spend(now);
                    sent.push(now);
                }
            }
            for (index, from) in sent.iter().enumerate() {
                let within = sent[index..].iter().filter(|at| **at < *from + Duration::from_secs(1)).count();
                prop_assert!(within <= (rate + BURST) as usize, "{within} calls in one second");
            }
        }
    }
}
