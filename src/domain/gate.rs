//! A gate in front of what may have to wait: a project, its key, the API, a store host, the disk.

use std::sync::{Arc, Weak};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Pass,
    /// Pass alone, with [`Gate::probe`]: this call finds out whether the pause is over.
    Probe,
    /// Not before this time, since the program's start.
    WaitUntil(Duration),
    WaitForProbe,
}

/// The right of one call to find out whether a pause is over. Until it is dropped, no other call
/// passes; if it is dropped without an answer, the next call probes.
#[derive(Debug)]
pub struct Probe(#[expect(dead_code, reason = "the gate watches whether it is alive")] Arc<()>);

/// Open, or paused until a time; after a pause one probe goes first.
#[derive(Debug, Default)]
pub struct Gate {
    state: State,
    refusals: u32,
    /// When the first refusal in a row came, or an earlier run's was read.
    since: Option<Duration>,
    /// What the last refusal said; safe to show.
    words: Option<String>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Paused {
        until: Duration,
    },
    Probing(Weak<()>),
}

impl Gate {
    /// Whether a call may pass now. Does not change the gate.
    pub fn admission(&self, now: Duration) -> Admission {
        match &self.state {
            State::Open => Admission::Pass,
            State::Paused { until } if now < *until => Admission::WaitUntil(*until),
            State::Probing(probe) if probe.strong_count() > 0 => Admission::WaitForProbe,
            State::Paused { .. } | State::Probing(_) => Admission::Probe,
        }
    }

    /// The probe that [`Gate::admission`] asks for; `None` if it does not ask for one now.
    pub fn probe(&mut self, now: Duration) -> Option<Probe> {
        if self.admission(now) != Admission::Probe {
            return None;
        }
        let probe = Arc::new(());
        self.state = State::Probing(Arc::downgrade(&probe));
        Some(Probe(probe))
    }

    /// The probe came back without an answer: another one goes at `again_at`. Counts no refusal.
    pub fn probe_unanswered(&mut self, again_at: Duration) {
        if self.is_probing() {
            self.state = State::Paused { until: again_at };
        }
    }

    /// A call got through. Returns whether this ended a pause; an earlier call never does.
    pub fn opened(&mut self) -> bool {
        if matches!(self.state, State::Paused { .. }) {
            return false;
        }
        let ended = self.is_probing();
        *self = Self::default();
        ended
    }

    /// A call was refused: pause for `delay`. Calls that were under way when the pause began can
    /// only lengthen it. Returns whether this is news: the first refusal in a row.
    pub fn refused(&mut self, now: Duration, delay: impl FnOnce(u32) -> Duration) -> bool {
        if let State::Paused { until } = self.state {
            let until = until.max(now.saturating_add(delay(self.refusals)));
            self.state = State::Paused { until };
            return false;
        }
        self.refusals = self.refusals.saturating_add(1);
        self.since.get_or_insert(now);
        self.state = State::Paused { until: now.saturating_add(delay(self.refusals)) };
        self.refusals == 1
    }

    /// The cause of a pause may be gone: a probe may go at once.
    pub fn probe_now(&mut self) {
        if let State::Paused { until } = &mut self.state {
            *until = Duration::ZERO;
        }
    }

    /// A pause that an earlier run met.
    pub fn restore(&mut self, now: Duration, until: Duration) {
        self.since.get_or_insert(now);
        self.state = State::Paused { until };
    }

    /// Keeps what the last refusal said.
    pub fn explain(&mut self, words: Option<String>) {
        self.words = words;
    }

    pub fn words(&self) -> Option<&str> {
        self.words.as_deref()
    }

    /// Refusals in a row. Calls that overlapped count once.
    pub fn refusals(&self) -> u32 {
        self.refusals
    }

    /// When the first refusal in a row came; for that of an earlier run, when this one began.
    pub fn since(&self) -> Option<Duration> {
        self.since
    }

    pub fn paused_until(&self) -> Option<Duration> {
        match self.state {
            State::Paused { until } => Some(until),
            State::Open | State::Probing(_) => None,
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether a probe was sent that has not said anything yet.
    pub fn is_probing(&self) -> bool {
        matches!(self.state, State::Probing(_))
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
        let probe = gate.probe(at(10)).unwrap();
        assert_eq!(gate.admission(at(11)), Admission::WaitForProbe);
        assert!(gate.probe(at(11)).is_none());
        assert!(!gate.refused(at(12), |attempt| at(u64::from(attempt) * 10)), "known already");
        let longer = Admission::WaitUntil(at(32));
        assert_eq!(gate.admission(at(12)), longer, "the second refusal waits longer");
        drop(probe);
        let _probe = gate.probe(at(32)).unwrap();
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
        let _probe = gate.probe(at(1)).unwrap();
        gate.probe_now();
        assert_eq!(gate.admission(at(1)), Admission::WaitForProbe);
    }

    #[test]
    fn a_probe_without_an_answer_is_no_refusal() {
        let mut gate = Gate::default();
        gate.refused(at(0), |_| at(10));
        drop(gate.probe(at(10)).unwrap());
        assert_eq!((gate.admission(at(10)), gate.refusals()), (Admission::Probe, 1), "dropped");
        let _probe = gate.probe(at(10)).unwrap();
        gate.probe_unanswered(at(25));
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
