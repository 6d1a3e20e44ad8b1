//! Retry: how long to wait after a fault.
//!
//! A policy is a ladder of ceilings, one for each fault in a row. The ladder is computed once, by
//! `transport::retry_policy`; a delay only looks it up. So no decision reads a clock or rolls dice.

use std::time::Duration;

use super::moment::Unit;

/// Longest `Retry-After` that is obeyed; a longer one is cut to it.
pub const RETRY_AFTER_CAP: Duration = Duration::from_hours(1);

/// The ceiling of each delay, from the first fault in a row to the last that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    ceilings: [Duration; Self::STEPS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the first delay must be above zero, and no delay shorter than the one before it")]
pub struct RetryPolicyError;

impl RetryPolicy {
    /// A ladder that doubles from one millisecond reaches 17 years.
    pub const STEPS: usize = 40;

    pub fn try_new(ceilings: [Duration; Self::STEPS]) -> Result<Self, RetryPolicyError> {
        if ceilings[0].is_zero() || !ceilings.is_sorted() {
            return Err(RetryPolicyError);
        }
        Ok(Self { ceilings })
    }

    pub fn initial(&self) -> Duration {
        self.ceilings[0]
    }

    pub fn max(&self) -> Duration {
        self.ceilings[Self::STEPS - 1]
    }

    /// The wait after fault number `attempt` in a row (from 1): half the ceiling to the ceiling.
    pub fn delay(&self, attempt: u32, jitter: Unit) -> Duration {
        let step = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let ceiling = self.ceilings[step.min(Self::STEPS - 1)];
        ceiling.mul_f64(0.5 + 0.5 * jitter.get())
    }

    /// The core cannot use what computes the real ladder.
    #[cfg(test)]
    pub(crate) fn doubling(initial: Duration, max: Duration) -> Self {
        let mut ceiling = initial;
        let ceilings = std::array::from_fn(|_| {
            let this = ceiling.min(max);
            ceiling = ceiling.saturating_mul(2);
            this
        });
        Self::try_new(ceilings).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_fault_in_a_row_takes_the_next_ceiling_up_to_the_last() {
        let policy = RetryPolicy::doubling(Duration::from_secs(1), Duration::from_secs(600));
        assert_eq!((policy.initial().as_secs(), policy.max().as_secs()), (1, 600));
        for (attempt, seconds) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (64, 600), (u32::MAX, 600)]
        {
            let longest = policy.delay(attempt, Unit::clamped(1.0));
            assert_eq!(longest, Duration::from_secs(seconds), "attempt {attempt}");
            let shortest = policy.delay(attempt, Unit::clamped(0.0));
            assert_eq!(shortest, longest / 2, "attempt {attempt}");
        }
    }

    #[test]
    fn a_ladder_that_starts_at_zero_or_goes_down_is_refused() {
        let mut ceilings = [Duration::from_secs(2); RetryPolicy::STEPS];
        assert!(RetryPolicy::try_new(ceilings).is_ok());
        ceilings[7] = Duration::from_secs(1);
        assert!(RetryPolicy::try_new(ceilings).is_err());
        assert!(RetryPolicy::try_new([Duration::ZERO; RetryPolicy::STEPS]).is_err());
    }

    proptest! {
        #[test]
        fn no_delay_is_zero_or_above_the_cap(
            initial_ms in 1_u64..100_000, factor in 1_u64..100_000, attempt: u32, jitter in 0.0_f64..=1.0,
        ) {
            let initial = Duration::from_millis(initial_ms);
            let max = Duration::from_millis(initial_ms * factor);
            let delay = RetryPolicy::doubling(initial, max).delay(attempt, Unit::clamped(jitter));
            prop_assert!(delay >= initial / 2 && delay <= max);
        }
    }
}
