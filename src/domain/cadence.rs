//! Cadence: how often to poll an export while nothing is wrong. Never mixed with [`super::retry`].

use std::time::Duration;

use super::moment::Unit;

/// The polling intervals: starts at `min`, grows by half while nothing changes, up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    min: Duration,
    max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the smaller interval must be above zero and not above the larger one")]
pub struct CadenceError;

impl Cadence {
    pub fn try_new(min: Duration, max: Duration) -> Result<Self, CadenceError> {
        if min.is_zero() || min > max { Err(CadenceError) } else { Ok(Self { min, max }) }
    }

    pub fn min(&self) -> Duration {
        self.min
    }

    pub fn max(&self) -> Duration {
        self.max
    }

    /// The wait before the next poll after `unchanged` polls in a row without news, ±10 %.
    pub fn interval(&self, unchanged: u32, jitter: Unit) -> Duration {
        let mut interval = self.min;
        for _ in 0..unchanged {
            if interval >= self.max {
                break;
            }
            interval = interval.saturating_mul(3) / 2;
        }
        spread(interval.min(self.max), jitter)
    }

    /// The longest interval, spread: for an unknown status.
    pub fn slow(&self, jitter: Unit) -> Duration {
        spread(self.max, jitter)
    }
}

/// `interval` ±10 %.
pub fn spread(interval: Duration, jitter: Unit) -> Duration {
    interval.mul_f64(0.9 + 0.2 * jitter.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_interval_grows_by_half_up_to_the_cap() {
        let cadence = Cadence::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap();
        let seconds = |unchanged| cadence.interval(unchanged, Unit::HALF).as_secs_f64();
        for (unchanged, expected) in [(0, 10.0), (1, 15.0), (2, 22.5), (u32::MAX, 300.0)] {
            assert!((seconds(unchanged) - expected).abs() < 1e-6, "{unchanged}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Cadence::try_new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Cadence::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }

    proptest! {
        #[test]
        fn every_interval_stays_within_a_tenth_of_the_bounds(
            min_ms in 1_u64..100_000, factor in 1_u64..100, unchanged: u32, jitter in 0.0_f64..=1.0,
        ) {
            let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(min_ms * factor));
            let interval = Cadence::try_new(min, max).unwrap().interval(unchanged, Unit::clamped(jitter));
            prop_assert!(interval >= min.mul_f64(0.899) && interval <= max.mul_f64(1.101));
        }
    }
}
