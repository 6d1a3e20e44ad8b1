//! Polling: asks the API until it reports SUCCESS or ERROR, or until the export is given up.

use std::time::Duration;

use super::view_faults::{NO_FILES, ViewFaults};
use super::{Fetching, Kept, Notice, RecordChange, Step, Transition, WatchEvent};
use crate::domain::failure::{ApiRefusal, EXPIRED, FailureKind, ViewOutcome};
use crate::domain::report::{RemoteStatus, Report};
use crate::domain::stage::Cause;
use crate::domain::wait::Trouble;

#[derive(Debug, Default)]
pub struct Polling {
    seen: Option<RemoteStatus>,
    unchanged: u32,
    faults: ViewFaults,
    /// Since when (on the monotonic clock) the API has not known this export.
    not_found_since: Option<Duration>,
    /// The API refused the request, and it is open whether that concerns this export alone.
    rejected: Option<ApiRefusal>,
    kept: Kept,
}

impl Polling {
    pub fn resumed(seen: Option<RemoteStatus>, kept: Kept) -> Self {
        Self { seen, kept, ..Self::default() }
    }

    pub fn seen(&self) -> Option<&RemoteStatus> {
        self.seen.as_ref()
    }

    pub fn is_new(&self) -> bool {
        self.seen.is_none() && self.kept.committed.is_empty() && self.kept.partials.is_empty()
    }

    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether the API refused the request, and it is open whether that concerns this export alone.
    pub fn is_rejected(&self) -> bool {
        self.rejected.is_some()
    }

    /// Views that fail in a row.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.faults.trouble.as_ref()
    }

    pub(super) fn step(&mut self, event: WatchEvent, step: &mut Step<'_>) -> Option<Transition> {
        match event {
            WatchEvent::Viewed(ViewOutcome::Report(report)) => return self.reported(report, step),
            WatchEvent::Viewed(ViewOutcome::NotFound(refusal)) => {
                return self.not_found(&refusal, step);
            }
            WatchEvent::Viewed(ViewOutcome::Rejected(refusal)) => {
                let words = refusal.words("the API refuses the request");
                self.faults.met(Cause::Rejected, words, step);
                self.rejected = Some(refusal);
            }
            WatchEvent::Viewed(ViewOutcome::Held(hold)) => self.faults.held(&hold, step),
            WatchEvent::Viewed(ViewOutcome::Fault(words)) => {
                self.faults.met(Cause::Fault, words, step);
            }
            WatchEvent::RejectionConfirmed => {
                let refusal = self.rejected.take()?;
                let cause = refusal.cause("the API refuses the request");
                return Some(self.fail(FailureKind::Rejected, cause, Some(refusal.code), step));
            }
            WatchEvent::RejectionWithdrawn => self.rejected = None,
            _ => {}
        }
        None
    }

    fn reported(&mut self, report: Report, step: &mut Step<'_>) -> Option<Transition> {
        self.rejected = None;
        self.not_found_since = None;
        if self.seen.as_ref() == Some(&report.status) {
            self.unchanged = self.unchanged.saturating_add(1);
        } else {
            self.unchanged = 0;
            let to = report.status.clone();
            step.record(RecordChange::StatusSeen(to.clone()));
            step.notify(Notice::StatusChanged { from: self.seen.replace(to.clone()), to });
        }
        if report.status == RemoteStatus::Success && report.files.is_none() {
            self.faults.met(Cause::Fault, NO_FILES.to_owned(), step);
            return None;
        }
        self.faults.over(step);
        let cadence = &step.cx.policies.cadence;
        match report.status {
            RemoteStatus::Created | RemoteStatus::Pending | RemoteStatus::Running => {
                step.view_after(cadence.interval(self.unchanged, step.cx.jitter));
                None
            }
            RemoteStatus::Unrecognized(word) => {
                if self.unchanged == 0 {
                    let words =
                        format!("the API reports a status that this version does not know: {word}");
                    step.notify(Notice::Surprise { words });
                }
                step.view_after(cadence.slow(step.cx.jitter));
                None
            }
            RemoteStatus::Error => {
                let cause = "the API reports ERROR".to_owned();
                Some(self.fail(FailureKind::RemoteError, cause, None, step))
            }
            RemoteStatus::Success => {
                let kept = std::mem::take(&mut self.kept);
                let files = report.files.unwrap_or_default();
                let fetching = Fetching::begin(report.facts, files, kept, step);
                Some(Transition::Fetch(Box::new(fetching)))
            }
        }
    }

    fn not_found(&mut self, refusal: &ApiRefusal, step: &mut Step<'_>) -> Option<Transition> {
        self.rejected = None;
        let grace = step.cx.policies.not_found_grace;
        let first = self.not_found_since.is_none();
        let since = *self.not_found_since.get_or_insert(step.cx.now.since_start);
        let elapsed = step.cx.now.since_start.saturating_sub(since);
        // The export was finished once, so its ID is not mistyped: one confirmation is enough.
        if self.seen == Some(RemoteStatus::Success) {
            if first {
                let words = refusal.words("the API no longer knows the export");
                self.faults.tell(Cause::NotFound, words, step);
                step.view_after(step.soonest());
                return None;
            }
            let code = Some(refusal.code.clone());
            return Some(self.fail(FailureKind::Expired, EXPIRED.to_owned(), code, step));
        }
        if elapsed >= grace {
            let grace = humantime::format_duration(grace);
            let cause = refusal.cause(&format!("the API does not know the export after {grace}"));
            return Some(self.fail(FailureKind::NotFound, cause, Some(refusal.code.clone()), step));
        }
        let words = refusal.words("the API does not know the export yet");
        self.faults.tell(Cause::NotFound, words, step);
        let delay = self.faults.delay(step).max(step.soonest());
        step.view_after(delay.min(grace.saturating_sub(elapsed)));
        None
    }

    fn fail(
        &mut self,
        kind: FailureKind,
        cause: String,
        error_code: Option<String>,
        step: &Step<'_>,
    ) -> Transition {
        let failure = step.failure(kind, cause, error_code);
        Transition::Fail(failure, std::mem::take(&mut self.kept))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::tests::{key, policies, report};
    use super::*;
    use crate::domain::failure::PartFault;
    use crate::domain::moment::{Moment, Unit};
    use crate::domain::watch::tests::{ended, listing, path};
    use crate::domain::watch::{Command, StepContext, Watch, WatchState};

    /// A failure shows its code beside the cause: in the cause the code would appear twice.
    #[test]
    fn a_cause_leaves_the_code_to_its_field_and_a_notice_has_it_once() {
        let code = || Some("SOME_CODE".to_owned());
        let refusal =
            || ApiRefusal { status: 404, code: "SOME_CODE".into(), message: "its words".into() };
        let not_found = || WatchEvent::Viewed(ViewOutcome::NotFound(refusal()));
        let listed = || WatchEvent::Viewed(report("SUCCESS", Some(vec![listing("a", Some(1))])));
        let lost = || {
            let gone = PartFault::Gone { cause: refusal().cause("no"), error_code: code() };
            [WatchEvent::PartStarted(key("a", 1)), ended(&key("a", 1), Err(gone.into()))]
        };
        let prepared = || WatchEvent::Prepared { adopted: vec![], conflicts: vec![] };
        let part_gone = [listed(), prepared()].into_iter().chain(lost());
        let part_gone = part_gone
            .chain([listed(), WatchEvent::PartRetryDue(key("a", 1))])
            .chain(lost())
            .collect();
        for (kind, words, events) in [
            (FailureKind::NotFound, "its words", vec![not_found(), not_found()]),
            (
                FailureKind::Rejected,
                "its words",
                vec![
                    WatchEvent::Viewed(ViewOutcome::Rejected(refusal())),
                    WatchEvent::RejectionConfirmed,
                ],
            ),
            (FailureKind::Expired, "expired", vec![listed(), not_found(), not_found()]),
            (FailureKind::PartGone, "its words", part_gone),
        ] {
            let mut watch = Watch::new(path());
            for (event, seconds) in events.into_iter().zip((0..).step_by(700)) {
                let since_start = Duration::from_secs(seconds);
                let now = Moment { since_start, wall: Timestamp::UNIX_EPOCH };
                let cx = StepContext { now, jitter: Unit::HALF, policies: &policies() };
                for command in watch.step(event, &cx) {
                    if let Command::Notify(
                        Notice::PollFailing { cause }
                        | Notice::PartFailing { cause, .. }
                        | Notice::PartAbandoned { cause, .. },
                    ) = command
                    {
                        assert_eq!(cause.matches("SOME_CODE").count(), 1, "{cause}");
                    }
                }
            }
            let WatchState::Failing { failure, .. } = watch.state() else { panic!("{watch:?}") };
            assert_eq!((failure.kind, &failure.error_code), (kind, &code()));
            assert!(failure.cause.contains(words), "{failure:?}");
            assert!(!failure.cause.contains("SOME_CODE"), "{failure:?}");
        }
    }
}
