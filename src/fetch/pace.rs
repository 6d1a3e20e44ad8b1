//! Whether a body arrives fast enough. Pure.

use std::time::Duration;

/// The span of waiting over which the rate is measured.
const WINDOW: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooSlow {
    pub(super) bytes: u64,
}

/// A minimum rate over each minute of waiting, not of other work. Zero demands nothing.
#[derive(Debug)]
pub(super) struct RateFloor {
    min_bytes_per_second: u64,
    waited: Duration,
    bytes: u64,
}

impl RateFloor {
    pub(super) fn new(min_bytes_per_second: u64) -> Self {
        Self { min_bytes_per_second, waited: Duration::ZERO, bytes: 0 }
    }

    /// Notes that `bytes` arrived after `waited`, and judges the window once it is full.
    pub(super) fn note(&mut self, waited: Duration, bytes: u64) -> Result<(), TooSlow> {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < WINDOW {
            return Ok(());
        }
        let demanded =
            u128::from(self.min_bytes_per_second).saturating_mul(self.waited.as_millis());
        let enough = u128::from(self.bytes) * 1000 >= demanded;
        let verdict = if enough { Ok(()) } else { Err(TooSlow { bytes: self.bytes }) };
        *self = Self::new(self.min_bytes_per_second);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drip(floor: &mut RateFloor, seconds: u64, bytes: u64) -> Result<(), TooSlow> {
        (0..seconds).try_for_each(|_| floor.note(SECOND, bytes))
    }

    #[test]
    fn a_full_minute_of_waiting_is_judged() {
        let mut floor = RateFloor::new(1024);
        assert_eq!(drip(&mut floor, 59, 1), Ok(()), "not before the minute is over");
        assert_eq!(floor.note(SECOND, 1), Err(TooSlow { bytes: 60 }));
        assert_eq!(drip(&mut RateFloor::new(1024), 600, 1024), Ok(()));
        assert_eq!(drip(&mut RateFloor::new(1024), 60, 1023), Err(TooSlow { bytes: 60 * 1023 }));
    }

    #[test]
    fn each_minute_is_judged_on_its_own() {
        let mut floor = RateFloor::new(10);
        assert_eq!(floor.note(WINDOW, u64::MAX), Ok(()));
        assert_eq!(floor.note(WINDOW, 599), Err(TooSlow { bytes: 599 }));
    }

    #[test]
    fn time_not_spent_waiting_and_a_zero_floor_demand_nothing() {
        let mut floor = RateFloor::new(u64::MAX);
        assert!((0..1_000).all(|_| floor.note(Duration::ZERO, 1).is_ok()));
        assert_eq!(drip(&mut RateFloor::new(0), 600, 0), Ok(()));
        assert!(floor.note(Duration::MAX, 0).is_err());
    }
}
