//! Retry: how long to wait after a fault. The only file that uses `backoff`.
//!
//! `backoff` 0.4 is unmaintained (RUSTSEC-2025-0012, and RUSTSEC-2024-0384 through `instant`). The
//! owner chose it, and what is used here is its arithmetic alone: a capped exponential policy
//! without a limit on the elapsed time and without its own randomisation, which gives the ceiling;
//! the jitter is ours and comes in as an argument.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

use super::moment::Unit;

/// Longest `Retry-After` that is obeyed; a longer one is cut to it.
pub const RETRY_AFTER_CAP: Duration = Duration::from_hours(1);
/// Growth of the ceiling from one attempt to the next.
const MULTIPLIER: f64 = 2.0;
/// Attempts after which any policy has reached its cap: 2^64 times one millisecond is beyond every
/// configurable cap.
const LAST_GROWING_ATTEMPT: u32 = 64;

/// Exponential backoff: the ceiling doubles from `initial` up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    initial: Duration,
    max: Duration,
}

/// The delays do not make a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the first delay must be above zero and not above the largest one")]
pub struct RetryPolicyError;

impl RetryPolicy {
    /// # Errors
    /// When `initial` is zero or above `max`.
    pub fn try_new(initial: Duration, max: Duration) -> Result<Self, RetryPolicyError> {
        if initial.is_zero() || initial > max {
            Err(RetryPolicyError)
        } else {
            Ok(Self { initial, max })
        }
    }

    /// The ceiling of the first delay.
    #[must_use]
    pub fn initial(&self) -> Duration {
        self.initial
    }

    /// The largest delay.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The wait after the `attempt`-th fault in a row (from 1): between half the ceiling and the
    /// ceiling.
    #[must_use]
    pub fn delay(&self, attempt: u32, jitter: Unit) -> Duration {
        self.ceiling(attempt).mul_f64(0.5 + 0.5 * jitter.get())
    }

    fn ceiling(&self, attempt: u32) -> Duration {
        let mut policy = ExponentialBackoff {
            current_interval: self.initial,
            initial_interval: self.initial,
            randomization_factor: 0.0,
            multiplier: MULTIPLIER,
            max_interval: self.max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let mut ceiling = self.initial;
        for _ in 0..attempt.clamp(1, LAST_GROWING_ATTEMPT) {
            ceiling = policy.next_backoff().unwrap_or(self.max);
        }
        ceiling.min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let policy =
            RetryPolicy::try_new(Duration::from_secs(1), Duration::from_secs(600)).unwrap();
        for (attempt, seconds) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (64, 600), (u32::MAX, 600)]
        {
            assert_eq!(policy.ceiling(attempt), Duration::from_secs(seconds), "attempt {attempt}");
        }
        assert_eq!(policy.delay(3, Unit::clamped(0.0)), Duration::from_secs(2));
        assert_eq!(policy.delay(3, Unit::clamped(1.0)), Duration::from_secs(4));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(RetryPolicy::try_new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(RetryPolicy::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }

    proptest! {
        #[test]
        fn no_delay_is_zero_or_above_the_cap(
            initial_ms in 1_u64..100_000, factor in 1_u64..100_000, attempt: u32, jitter in 0.0_f64..=1.0,
        ) {
            let max = Duration::from_millis(initial_ms * factor);
            let policy = RetryPolicy::try_new(Duration::from_millis(initial_ms), max).unwrap();
            let delay = policy.delay(attempt, Unit::clamped(jitter));
            prop_assert!(delay >= Duration::from_millis(initial_ms) / 2 && delay <= max);
        }
    }
}
