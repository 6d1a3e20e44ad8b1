//! How fast a count grows, over the last few seconds.

use std::collections::VecDeque;
use std::time::Duration;

/// The span that the rate is taken over.
const WINDOW: Duration = Duration::from_secs(5);
/// An observation this soon after another replaces it, so that a window holds few.
const SPACING: Duration = Duration::from_millis(500);

/// The rate of a count that is observed now and then. A count that falls subtracts nothing.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    count: u64,
    /// When the count was observed, and what had been added until then.
    looks: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Takes the count at `now`. Returns the rate per second; zero without a recent observation.
    pub fn observe(&mut self, count: u64, now: Duration) -> u64 {
        let gained = count.saturating_sub(self.count);
        let added = self.looks.back().map_or(0, |(_, sum)| sum.saturating_add(gained));
        self.count = count;
        while self.looks.front().is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW) {
            self.looks.pop_front();
        }
        let first = self.looks.front().copied();
        if let Some(before_last) = self.looks.len().checked_sub(2)
            && self.looks.get(before_last).is_some_and(|(at, _)| now.saturating_sub(*at) < SPACING)
        {
            self.looks.pop_back();
        }
        self.looks.push_back((now, added));
        let Some((since, sum)) = first else { return 0 };
        let millis = now.saturating_sub(since).as_millis();
        let per_second = u128::from(added.saturating_sub(sum)) * 1000;
        per_second.checked_div(millis).map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        for (what, looks, expected) in [
            ("one look says nothing", vec![(0, 1_000)], 0),
            ("two looks do", vec![(0, 1_000), (1_000, 3_000)], 2_000),
            ("at the same moment they do not", vec![(0, 1_000), (0, 3_000)], 0),
            ("it is smooth", vec![(0, 0), (1_000, 4_000), (2_000, 4_000)], 2_000),
            (
                "what is long ago does not count",
                vec![(0, 0), (4_000, 100_000), (8_000, 104_000)],
                1_000,
            ),
            ("nobody looked for an hour", vec![(0, 0), (3_600_000, 1 << 40)], 0),
            ("a part starts over", vec![(0, 5_000), (1_000, 0), (2_000, 2_000)], 1_000),
            ("more than can be", vec![(0, 0), (1, u64::MAX)], u64::MAX),
        ] {
            let mut rate = Rate::default();
            let said =
                looks.iter().map(|(at, count)| rate.observe(*count, Duration::from_millis(*at)));
            assert_eq!(said.last(), Some(expected), "{what}");
        }
    }

    #[test]
    fn many_looks_cost_little() {
        let mut rate = Rate::default();
        let said =
            (0..10_000_u64).map(|at| rate.observe(at * 10, Duration::from_millis(at))).last();
        assert_eq!(said, Some(10_000));
        assert!(rate.looks.len() <= 13, "{}", rate.looks.len());
    }
}
