//! Crowd: the parts of one export that fail one after the other. There may be thousands. Without
//! this, all of them would be tried, and logged, in one rush.

use std::time::Duration;

use super::gate::{Admission, Gate, Probe};

/// Faults in a row, without a part that gained a byte, after which the rest waits as well. With the
/// default eight slots that is two rounds: one of them may be an accident.
const FAULTS: u32 = 16;

/// How the latest attempts at the parts of one export ended.
#[derive(Debug, Default)]
pub struct Crowd {
    faults: u32,
    gate: Gate,
}

impl Crowd {
    /// Whether one more part may begin now: freely, alone, or not.
    pub fn admission(&self, now: Duration) -> Admission {
        self.gate.admission(now)
    }

    /// The probe of the part that begins alone.
    pub fn probe(&mut self, now: Duration) -> Option<Probe> {
        self.gate.probe(now)
    }

    /// A part failed and gained nothing. The rest waits for `delay` of the number of such rounds in
    /// a row. Returns the number of faults if this is news.
    pub fn failed(&mut self, now: Duration, delay: impl FnOnce(u32) -> Duration) -> Option<u32> {
        self.faults = self.faults.saturating_add(1);
        let is_news = self.faults >= FAULTS && self.gate.refused(now, delay);
        is_news.then_some(self.faults)
    }

    /// A part gains bytes, so the others may start again. Returns whether they had to wait.
    pub fn fared_well(&mut self) -> bool {
        let waited = !self.gate.is_open();
        *self = Self::default();
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn delay(round: u32) -> Duration {
        at(u64::from(round) * 10)
    }

    /// A crowd that has just been closed, at second 0.
    fn closed() -> Crowd {
        let mut crowd = Crowd::default();
        for _ in 1..FAULTS {
            assert_eq!(crowd.failed(at(0), delay), None);
            assert_eq!(crowd.admission(at(0)), Admission::Pass);
        }
        assert_eq!(crowd.failed(at(0), delay), Some(FAULTS));
        crowd
    }

    #[test]
    fn after_a_row_of_faults_one_part_at_a_time_is_tried_less_and_less_often() {
        let mut crowd = closed();
        assert_eq!(crowd.admission(at(9)), Admission::WaitUntil(at(10)));
        // What was under way counts as the same round.
        assert_eq!(crowd.failed(at(0), delay), None);
        assert_eq!(crowd.admission(at(10)), Admission::Probe);
        let _probe = crowd.probe(at(10)).unwrap();
        assert_eq!(crowd.admission(at(10)), Admission::WaitForProbe);
        assert_eq!(crowd.failed(at(11), delay), None, "told already");
        assert_eq!(crowd.admission(at(30)), Admission::WaitUntil(at(31)));
    }

    #[test]
    fn a_part_that_fares_well_lets_all_go() {
        let mut crowd = closed();
        assert!(crowd.fared_well(), "also one that was under way before");
        assert_eq!(crowd.admission(at(0)), Admission::Pass);
        assert!(!crowd.fared_well());
        let mut crowd = closed();
        let _probe = crowd.probe(at(10)).unwrap();
        assert!(crowd.fared_well());
        assert_eq!(crowd.failed(at(50), delay), None, "it counts from the beginning");
    }

    #[test]
    fn a_part_that_says_nothing_is_followed_by_another_one() {
        let mut crowd = closed();
        assert_eq!(crowd.admission(at(10)), Admission::Probe);
        drop(crowd.probe(at(10)).unwrap());
        assert_eq!(crowd.admission(at(12)), Admission::Probe);
        assert!(Crowd::default().probe(at(0)).is_none());
    }
}
