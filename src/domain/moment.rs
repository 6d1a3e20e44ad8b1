//! The time and the chance that a decision is given: the core has no clock and no generator.

use std::time::Duration;

use jiff::Timestamp;

/// One moment on both clocks: the first measures intervals, the second goes into records and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time since the program started; a jump of the wall clock does not touch it.
    pub since_start: Duration,
    pub wall: Timestamp,
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
