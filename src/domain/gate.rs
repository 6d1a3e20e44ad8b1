//! A gate in front of something that may have to wait as a whole: a project, its key, the API
//! origin, a store host, the disk.

use std::time::Duration;

/// Whether a call may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Go.
    Pass,
    /// Go, alone: this call finds out whether the pause is over.
    Probe,
    /// Not before this time, since the program's start.
    WaitUntil(Duration),
    /// Not before the probe is back.
    WaitForProbe,
}

/// Open, or paused until a time; after a pause one probe goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gate {
    state: State,
    refusals: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Paused {
        until: Duration,
    },
    Probing,
}

impl Gate {
    /// Whether a call may pass now. Does not change the gate: say [`Gate::probe_started`] when a
    /// probe is sent.
    #[must_use]
    pub fn admission(&self, now: Duration) -> Admission {
        match self.state {
            State::Open => Admission::Pass,
            State::Paused { until } if now < until => Admission::WaitUntil(until),
            State::Paused { .. } => Admission::Probe,
            State::Probing => Admission::WaitForProbe,
        }
    }

    /// A call was sent while [`Gate::admission`] said `Probe`.
    pub fn probe_started(&mut self) {
        if matches!(self.state, State::Paused { .. }) {
            self.state = State::Probing;
        }
    }

    /// A probe came back without an answer to what it asked: another one goes at `again_at`. No
    /// refusal is counted.
    pub fn probe_abandoned(&mut self, again_at: Duration) {
        if self.state == State::Probing {
            self.state = State::Paused { until: again_at };
        }
    }

    /// A call got through. Returns whether this ended a pause. A call that was sent before the
    /// pause proves nothing about it.
    pub fn opened(&mut self) -> bool {
        if matches!(self.state, State::Paused { .. }) {
            return false;
        }
        let ended = self.state == State::Probing;
        *self = Self::default();
        ended
    }

    /// A call was refused: pause for `delay`. Calls that were under way when the pause began only
    /// ever lengthen it. Returns whether this is news: the first refusal in a row, not one more of
    /// a pause that is known.
    pub fn refused(&mut self, now: Duration, delay: impl FnOnce(u32) -> Duration) -> bool {
        if let State::Paused { until } = self.state {
            let until = until.max(now.saturating_add(delay(self.refusals)));
            self.state = State::Paused { until };
            return false;
        }
        self.refusals = self.refusals.saturating_add(1);
        self.state = State::Paused { until: now.saturating_add(delay(self.refusals)) };
        self.refusals == 1
    }

    /// What the gate waits for has changed: if it is paused, a probe may go at once.
    pub fn probe_now(&mut self) {
        if let State::Paused { until } = &mut self.state {
            *until = Duration::ZERO;
        }
    }

    /// A pause from an earlier run.
    pub fn restore(&mut self, until: Duration) {
        self.state = State::Paused { until };
    }

    /// Refusals in a row, calls that overlapped counted once.
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Until when it is paused, if it is.
    #[must_use]
    pub fn paused_until(&self) -> Option<Duration> {
        match self.state {
            State::Paused { until } => Some(until),
            State::Open | State::Probing => None,
        }
    }

    /// Whether calls pass freely.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn after_a_pause_one_probe_goes_first() {
        let mut gate = Gate::default();
        assert_eq!(gate.admission(at(0)), Admission::Pass);
        assert!(gate.refused(at(0), |attempt| at(u64::from(attempt) * 10)));
        assert_eq!(gate.admission(at(9)), Admission::WaitUntil(at(10)));
        assert_eq!(gate.admission(at(10)), Admission::Probe);
        gate.probe_started();
        assert_eq!(gate.admission(at(11)), Admission::WaitForProbe);
        assert!(!gate.refused(at(12), |attempt| at(u64::from(attempt) * 10)), "known already");
        assert_eq!(
            gate.admission(at(12)),
            Admission::WaitUntil(at(32)),
            "the second refusal waits longer"
        );
        gate.probe_started();
        assert!(gate.opened());
        assert_eq!((gate.admission(at(33)), gate.refusals()), (Admission::Pass, 0));
    }

    #[test]
    fn a_pause_whose_cause_has_changed_is_probed_at_once() {
        let mut gate = Gate::default();
        gate.probe_now();
        assert_eq!(gate.admission(at(0)), Admission::Pass);
        gate.refused(at(0), |_| at(10));
        gate.probe_now();
        assert_eq!((gate.admission(at(1)), gate.refusals()), (Admission::Probe, 1));
        gate.probe_started();
        gate.probe_now();
        assert_eq!(gate.admission(at(1)), Admission::WaitForProbe);
    }

    #[test]
    fn a_probe_without_an_answer_is_no_refusal() {
        let mut gate = Gate::default();
        gate.refused(at(0), |_| at(10));
        gate.probe_started();
        gate.probe_abandoned(at(25));
        assert_eq!((gate.admission(at(24)), gate.refusals()), (Admission::WaitUntil(at(25)), 1));
        assert_eq!(gate.admission(at(25)), Admission::Probe);
    }

    #[test]
    fn answers_to_calls_sent_before_the_pause_neither_end_nor_escalate_it() {
        let mut gate = Gate::default();
        gate.refused(at(0), |_| at(10));
        assert!(!gate.refused(at(1), |_| at(2)), "a shorter pause changes nothing");
        assert!(!gate.refused(at(2), |_| at(30)), "a longer one lengthens it, and is no news");
        assert!(!gate.opened());
        assert_eq!((gate.admission(at(3)), gate.refusals()), (Admission::WaitUntil(at(32)), 1));
    }
}
