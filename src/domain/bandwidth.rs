//! Bandwidth: a cap on the bytes per second of all bodies together, as a token bucket.

use std::time::Duration;

/// Most bytes that may be reserved at a time. Small enough that no body waits long for the others;
/// large enough that reserving costs nothing compared to hashing and writing the slice.
pub const SLICE_BYTES: u64 = 16 * 1024;

/// Lowest cap, 64 KiB/s. The HTTP client hands out bodies by up to 408 KiB, so at this rate each of
/// eight parts is read about once a minute. Stores often close connections that are not read for 60
/// s. The bytes in flight then have to be sent, and paid for, twice.
pub const MIN_BYTES_PER_SECOND: u64 = 64 * 1024;

/// The burst after a quiet time, as time at the full rate. It must be longer than the pauses of a
/// busy machine, or the cap would not be reached.
const BURST: Duration = Duration::from_millis(100);

/// A cap in bytes per second, [`MIN_BYTES_PER_SECOND`] or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    bytes_per_second: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BandwidthError {
    #[error("must not be zero: leave the key out to have no cap")]
    Zero,
    #[error(
        "is too low: the minimum is 64KiB/s, because stores close connections that read too slowly"
    )]
    TooLow,
}

impl Bandwidth {
    pub const BOUNDLESS: Self = Self { bytes_per_second: u64::MAX };

    pub fn try_new(bytes_per_second: u64) -> Result<Self, BandwidthError> {
        match bytes_per_second {
            0 => Err(BandwidthError::Zero),
            1..MIN_BYTES_PER_SECOND => Err(BandwidthError::TooLow),
            MIN_BYTES_PER_SECOND.. => Ok(Self { bytes_per_second }),
        }
    }

    pub fn bytes_per_second(self) -> u64 {
        self.bytes_per_second
    }

    /// The burst after a quiet time, as time at the full rate: 100 ms, or the time of one slice.
    fn burst(self) -> Duration {
        BURST.max(self.time_of(SLICE_BYTES))
    }

    /// How long `bytes` take at this rate, rounded up to a nanosecond: the cap is never
    /// exceeded, and at 10 GB/s a slice costs less than a thousandth too much.
    fn time_of(self, bytes: u64) -> Duration {
        let (seconds, rest) = (bytes / self.bytes_per_second, bytes % self.bytes_per_second);
        let nanos = (u128::from(rest) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        // The rest is less than one second's bytes, so this is a billion at most.
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos))
    }
}

/// Serves all bodies in the order of reservation. Times count from any fixed moment.
#[derive(Debug, Clone)]
pub struct Bucket {
    bandwidth: Bandwidth,
    /// When everything reserved so far will have arrived, at the rate alone, without a burst.
    settled_at: Duration,
}

impl Bucket {
    pub fn new(bandwidth: Bandwidth) -> Self {
        Self { bandwidth, settled_at: Duration::ZERO }
    }

    /// Sets another cap. Bodies that already wait keep their wait.
    pub fn change(&mut self, bandwidth: Bandwidth) {
        self.bandwidth = bandwidth;
    }

    /// Reserves `bytes` at `now`, and returns how long to wait for them. Any span grants at most
    /// its own worth of bytes and one burst, if no reservation exceeds [`SLICE_BYTES`].
    pub fn reserve(&mut self, now: Duration, bytes: u64) -> Duration {
        self.settled_at = self.settled_at.max(now).saturating_add(self.bandwidth.time_of(bytes));
        self.settled_at.saturating_sub(self.bandwidth.burst()).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bandwidth(bytes_per_second: u64) -> Bandwidth {
        Bandwidth::try_new(bytes_per_second).unwrap()
    }

    #[test]
    fn a_cap_of_zero_or_below_the_minimum_is_refused() {
        assert_eq!(Bandwidth::try_new(0), Err(BandwidthError::Zero));
        for rate in [1, MIN_BYTES_PER_SECOND - 1] {
            assert_eq!(Bandwidth::try_new(rate), Err(BandwidthError::TooLow));
        }
        for rate in [MIN_BYTES_PER_SECOND, u64::MAX] {
            assert_eq!(bandwidth(rate).bytes_per_second(), rate);
        }
        let lowest = format!("{}KiB/s", MIN_BYTES_PER_SECOND / 1024);
        assert!(BandwidthError::TooLow.to_string().contains(&lowest));
    }

    #[test]
    fn a_burst_then_the_steady_rate() {
        // A million bytes a second: a burst of 100,000 bytes.
        let mut bucket = Bucket::new(bandwidth(1_000_000));
        let now = 5 * SECOND;
        for _ in 0..10 {
            assert_eq!(bucket.reserve(now, 10_000), Duration::ZERO);
        }
        assert_eq!(bucket.reserve(now, 10_000), Duration::from_millis(10));
        assert_eq!(bucket.reserve(now, 10_000), Duration::from_millis(20), "behind the one before");
        let later = now + Duration::from_millis(20);
        assert_eq!(bucket.reserve(later, 10_000), Duration::from_millis(10));
    }

    #[test]
    fn another_cap_counts_from_now_on() {
        let mut bucket = Bucket::new(bandwidth(1_000_000));
        let now = 5 * SECOND;
        bucket.reserve(now, 100_000);
        bucket.change(bandwidth(10_000_000));
        assert_eq!(bucket.reserve(now, 10_000), Duration::from_millis(1));
    }

    #[test]
    fn at_the_lowest_rate_a_slice_goes_at_once() {
        let mut bucket = Bucket::new(bandwidth(MIN_BYTES_PER_SECOND));
        assert_eq!(bucket.reserve(SECOND, SLICE_BYTES), Duration::ZERO);
        assert_eq!(bucket.reserve(SECOND, SLICE_BYTES), SECOND / 4);
    }

    #[test]
    fn a_clock_that_steps_back_only_lengthens_the_wait() {
        let mut bucket = Bucket::new(bandwidth(1_000_000));
        bucket.reserve(10 * SECOND, 100_000);
        assert_eq!(bucket.reserve(9 * SECOND, 10_000), SECOND + Duration::from_millis(10));
    }

    /// Bytes that so much time is worth, in billionths.
    fn worth(rate: u64, time: Duration) -> u128 {
        u128::from(rate) * time.as_nanos()
    }

    fn rates() -> impl Strategy<Value = u64> {
        prop_oneof![
            MIN_BYTES_PER_SECOND..1_000_000,
            1_000_000_u64..1_000_000_000,
            1_000_000_000_u64..=1_000_000_000_000
        ]
    }

    proptest! {
        #[test]
        fn no_span_grants_more_than_its_worth_and_a_burst(
            rate in rates(),
            steps in prop::collection::vec((0_u64..300_000_000, 0..=SLICE_BYTES), 1..120),
        ) {
            let mut bucket = Bucket::new(bandwidth(rate));
            let burst = bandwidth(rate).burst();
            let (mut now, mut grants) = (Duration::ZERO, Vec::new());
            for (index, (nanos, bytes)) in steps.into_iter().enumerate() {
                // Three in a row at the same time, then a step.
                if index % 3 == 0 {
                    now += Duration::from_nanos(nanos);
                }
                grants.push((now + bucket.reserve(now, bytes), bytes));
            }
            for (first, (from, _)) in grants.iter().enumerate() {
                let mut granted = 0;
                for (to, bytes) in &grants[first..] {
                    granted += u128::from(*bytes);
                    prop_assert!(to >= from, "a later reservation is served later");
                    let most = worth(rate, *to - *from + burst);
                    prop_assert!(granted * 1_000_000_000 <= most, "{granted} bytes from {from:?} to {to:?}");
                }
            }
        }

        #[test]
        fn bodies_in_turn_get_the_whole_rate_in_equal_shares_and_wait_for_one_round_at_most(
            rate in rates(), bodies in 1_usize..40, rounds in 1_usize..40,
        ) {
            let bandwidth = bandwidth(rate);
            let mut bucket = Bucket::new(bandwidth);
            let slice = bandwidth.time_of(SLICE_BYTES);
            let (mut ready, mut got) = (vec![Duration::ZERO; bodies], vec![0_u128; bodies]);
            for _ in 0..bodies * rounds {
                // A body that has what it reserved comes again.
                let (body, now) = ready.iter().copied().enumerate().min_by_key(|(_, at)| *at).unwrap();
                let wait = bucket.reserve(now, SLICE_BYTES);
                prop_assert!(wait <= slice * u32::try_from(bodies).unwrap(), "{wait:?}");
                (ready[body], got[body]) = (now + wait, got[body] + u128::from(SLICE_BYTES));
            }
            // The burst at the beginning may have gone to one of them.
            let apart = got.iter().max().unwrap() - got.iter().min().unwrap();
            prop_assert!(apart * 1_000_000_000 <= worth(rate, bandwidth.burst() + slice), "{got:?}");
            // Nothing was left unused: it took exactly as long as the slices do, but for the burst.
            let all = slice * u32::try_from(bodies * rounds).unwrap();
            let last = ready.iter().max().unwrap();
            prop_assert_eq!(*last, all.saturating_sub(bandwidth.burst()));
        }

        #[test]
        fn a_quiet_time_of_any_length_saves_up_at_most_a_burst(
            rate in MIN_BYTES_PER_SECOND..1_000_000_000, before in prop::collection::vec(0..=SLICE_BYTES, 0..30), idle in 0_u64..1_000_000,
        ) {
            let mut bucket = Bucket::new(bandwidth(rate));
            let busy: Duration = before.iter().map(|bytes| bucket.reserve(SECOND, *bytes)).max().unwrap_or_default();
            let now = SECOND + busy + Duration::from_secs(idle);
            let mut granted = 0;
            while bucket.reserve(now, SLICE_BYTES).is_zero() {
                granted += u128::from(SLICE_BYTES);
            }
            let burst = worth(rate, bandwidth(rate).burst());
            prop_assert!(granted * 1_000_000_000 <= burst);
            if idle > 0 {
                let next = granted + u128::from(SLICE_BYTES);
                // Each slice's cost is rounded up to a nanosecond.
                let lost = next / u128::from(SLICE_BYTES) * u128::from(rate);
                prop_assert!(next * 1_000_000_000 + lost > burst, "the bucket was not full again");
            }
        }

        #[test]
        fn nothing_is_too_large(
            rate in MIN_BYTES_PER_SECOND.., calls in prop::collection::vec((any::<u64>(), 0_u32..1_000_000_000, any::<u64>()), 1..20),
        ) {
            let mut bucket = Bucket::new(bandwidth(rate));
            for (seconds, nanos, bytes) in calls {
                bucket.reserve(Duration::new(seconds, nanos), bytes);
            }
            bucket.reserve(Duration::MAX, u64::MAX);
            prop_assert_eq!(bucket.reserve(Duration::MAX, 1), Duration::ZERO);
        }
    }
}
