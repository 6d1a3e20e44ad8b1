//! The time and the chance that a decision is given: the core has no clock and no generator.

use std::time::Duration;

use jiff::{RoundMode, Timestamp, TimestampRound};

/// One moment on both clocks: the first measures intervals, the second goes into records and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time since the program started; a jump of the wall clock does not touch it.
    pub since_start: Duration,
    pub wall: Timestamp,
}

impl Moment {
    /// What the wall clock says at this time since the start, be it over or still to come. In
    /// tenths of a second, so that the same moment looks the same from one second to the next.
    pub fn wall_at(self, at: Duration) -> Timestamp {
        let wall = match at.checked_sub(self.since_start) {
            Some(left) => self.wall.checked_add(left).unwrap_or(Timestamp::MAX),
            None => self.wall.checked_sub(self.since_start.abs_diff(at)).unwrap_or(Timestamp::MIN),
        };
        let tenths = TimestampRound::new()
            .smallest(jiff::Unit::Millisecond)
            .increment(100)
            .mode(RoundMode::HalfExpand);
        wall.round(tenths).unwrap_or(wall)
    }
}

/// A number in `0.0..=1.0`, the chance that spreads delays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit(f64);

impl Unit {
    pub const HALF: Self = Self(0.5);

    /// Clamps any number into the range; not-a-number becomes zero.
    pub fn clamped(value: f64) -> Self {
        if value.is_nan() { Self(0.0) } else { Self(value.clamp(0.0, 1.0)) }
    }

    pub fn get(self) -> f64 {
        self.0
    }
}
