//! The ladder of retry delays. The only file that uses `backoff`.
//!
//! `backoff` 0.4 is unmaintained (RUSTSEC-2025-0012, and RUSTSEC-2024-0384 through `instant`). The
//! owner chose it. Only the arithmetic of its exponential policy is used, without a limit on the
//! elapsed time and without its own randomisation. It reads a clock and rolls dice all the same, so
//! it runs when a policy is made, and no delay depends on either.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

use crate::domain::retry::{RetryPolicy, RetryPolicyError};

/// Delays whose ceiling doubles from `initial` up to `max`, in whole milliseconds.
pub fn retry_policy(initial: Duration, max: Duration) -> Result<RetryPolicy, RetryPolicyError> {
    if initial > max {
        return Err(RetryPolicyError);
    }
    let mut policy = ExponentialBackoff {
        current_interval: initial,
        initial_interval: initial,
        randomization_factor: 0.0,
        multiplier: 2.0,
        max_interval: max,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let mut ceilings = [max; RetryPolicy::STEPS];
    for ceiling in &mut ceilings[..RetryPolicy::STEPS - 1] {
        let delay = policy.next_backoff().unwrap_or(max);
        // The dice may have added a nanosecond.
        *ceiling = Duration::new(delay.as_secs(), delay.subsec_millis() * 1_000_000).min(max);
    }
    RetryPolicy::try_new(ceilings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_initial_up_to_max() {
        for (initial_ms, max_ms) in [(1_000, 600_000), (20, 3_600_000), (1, 1), (7, 86_400_000)] {
            let (initial, max) = (Duration::from_millis(initial_ms), Duration::from_millis(max_ms));
            let expected = RetryPolicy::doubling(initial, max);
            // Often, because the crate rolls dice.
            for _ in 0..500 {
                assert_eq!(retry_policy(initial, max), Ok(expected), "{initial:?} to {max:?}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(retry_policy(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(retry_policy(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
