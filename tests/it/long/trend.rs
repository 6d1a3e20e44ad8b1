//! Whether a number that was looked at now and then stays where it is.

/// Values in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Trend {
    /// Seconds, and the value then.
    points: Vec<(f64, f64)>,
}

impl Trend {
    pub(super) fn add(&mut self, at_seconds: f64, value: f64) {
        self.points.push((at_seconds, value));
    }

    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    pub(super) fn max(&self) -> f64 {
        self.points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
    }

    /// The medians of the three thirds.
    pub(super) fn thirds(&self) -> [f64; 3] {
        let length = self.points.len();
        [0, 1, 2].map(|third| {
            let part =
                self.points.get(length * third / 3..length * (third + 1) / 3).unwrap_or_default();
            let mut values: Vec<f64> = part.iter().map(|(_, value)| *value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        })
    }

    /// Growth an hour, by least squares.
    pub(super) fn slope_per_hour(&self) -> f64 {
        let count = self.points.iter().fold(0.0, |count, _| count + 1.0);
        let mean = |of: fn(&(f64, f64)) -> f64| {
            self.points.iter().map(of).sum::<f64>() / f64::max(count, 1.0)
        };
        let (mean_at, mean_value) = (mean(|point| point.0), mean(|point| point.1));
        let above: f64 =
            self.points.iter().map(|(at, value)| (at - mean_at) * (value - mean_value)).sum();
        let below: f64 = self.points.iter().map(|(at, _)| (at - mean_at).powi(2)).sum();
        if below > 0.0 { above / below * 3600.0 } else { 0.0 }
    }

    /// Whether the last third lies no more than a share and so much above the first.
    pub(super) fn is_flat(&self, share: f64, more: f64) -> bool {
        let [first, _, last] = self.thirds();
        last <= first * (1.0 + share) + more
    }
}

#[test]
fn what_grows_is_not_flat_and_what_wavers_is() {
    let trend = |value: fn(f64) -> f64| {
        let mut trend = Trend::default();
        (0..90_u32).map(f64::from).for_each(|at| trend.add(at * 10.0, value(at)));
        trend
    };
    let wavering = trend(|at| 100.0 + at % 7.0);
    assert!(wavering.is_flat(0.05, 0.0) && wavering.slope_per_hour().abs() < 20.0);
    let growing = trend(|at| 100.0 + at);
    assert!(!growing.is_flat(0.10, 0.0));
    assert!((growing.slope_per_hour() - 360.0).abs() < 1.0, "{}", growing.slope_per_hour());
    assert_eq!(growing.thirds(), [115.0, 145.0, 175.0]);
}
