//! Polling: asks the API until it reports SUCCESS or ERROR, or until the export is given up.

use std::time::Duration;

use super::{Command, Fetching, Kept, Notice, RecordChange, StepContext, Transition, WatchEvent};
use crate::domain::cadence::spread;
use crate::domain::failure::{ApiRefusal, EXPIRED, Failure, FailureKind, ViewOutcome};
use crate::domain::report::{RemoteStatus, Report};

#[derive(Debug, Default)]
pub struct Polling {
    seen: Option<RemoteStatus>,
    unchanged: u32,
    failures: u32,
    /// The last cause of failing polls that was logged.
    told: Option<String>,
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

    pub(super) fn step(
        &mut self,
        event: WatchEvent,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) -> Option<Transition> {
        match event {
            WatchEvent::Viewed(ViewOutcome::Report(report)) => self.reported(report, cx, commands),
            WatchEvent::Viewed(ViewOutcome::NotFound(refusal)) => {
                self.not_found(&refusal, cx, commands)
            }
            WatchEvent::Viewed(ViewOutcome::Rejected(refusal)) => {
                self.tell(refusal.words("the API refuses the request"), commands);
                self.rejected = Some(refusal);
                self.ask_again_after_fault(cx, commands);
                None
            }
            WatchEvent::Viewed(ViewOutcome::Held(_)) => {
                commands.push(Command::ViewAfter(Duration::ZERO));
                None
            }
            WatchEvent::Viewed(ViewOutcome::Fault(cause)) => {
                self.tell(cause, commands);
                self.ask_again_after_fault(cx, commands);
                None
            }
            WatchEvent::RejectionConfirmed => {
                let refusal = self.rejected.take()?;
                let cause = refusal.cause("the API refuses the request");
                Some(self.fail(FailureKind::Rejected, cause, Some(refusal.code), cx))
            }
            WatchEvent::RejectionWithdrawn => {
                self.rejected = None;
                None
            }
            _ => None,
        }
    }

    fn reported(
        &mut self,
        report: Report,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) -> Option<Transition> {
        self.rejected = None;
        self.not_found_since = None;
        if self.seen.as_ref() == Some(&report.status) {
            self.unchanged = self.unchanged.saturating_add(1);
        } else {
            self.unchanged = 0;
            let to = report.status.clone();
            commands.push(Command::Record(RecordChange::StatusSeen(to.clone())));
            commands.push(Command::Notify(Notice::StatusChanged {
                from: self.seen.replace(to.clone()),
                to,
            }));
        }
        let files_missing = report.status == RemoteStatus::Success && report.files.is_none();
        if files_missing {
            self.tell("the API reports SUCCESS without a list of files".to_owned(), commands);
            self.ask_again_after_fault(cx, commands);
            return None;
        }
        self.failures = 0;
        if self.told.take().is_some() {
            commands.push(Command::Notify(Notice::PollRecovered));
        }
        let cadence = &cx.policies.cadence;
        match report.status {
            RemoteStatus::Created | RemoteStatus::Pending | RemoteStatus::Running => {
                commands.push(Command::ViewAfter(cadence.interval(self.unchanged, cx.jitter)));
                None
            }
            RemoteStatus::Unrecognized(word) => {
                if self.unchanged == 0 {
                    let words =
                        format!("the API reports a status that this version does not know: {word}");
                    commands.push(Command::Notify(Notice::Surprise { words }));
                }
                commands.push(Command::ViewAfter(cadence.slow(cx.jitter)));
                None
            }
            RemoteStatus::Error => {
                let cause = "the API reports ERROR".to_owned();
                Some(self.fail(FailureKind::RemoteError, cause, None, cx))
            }
            RemoteStatus::Success => {
                let kept = std::mem::take(&mut self.kept);
                let files = report.files.unwrap_or_default();
                Some(Transition::Fetch(Fetching::begin(report.facts, files, kept, cx, commands)))
            }
        }
    }

    fn not_found(
        &mut self,
        refusal: &ApiRefusal,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) -> Option<Transition> {
        self.rejected = None;
        let policies = cx.policies;
        let first = self.not_found_since.is_none();
        let since = *self.not_found_since.get_or_insert(cx.now.since_start);
        let elapsed = cx.now.since_start.saturating_sub(since);
        // The export was finished once, so its ID is not mistyped: one confirmation is enough.
        if self.seen == Some(RemoteStatus::Success) {
            if first {
                self.tell(refusal.words("the API no longer knows the export"), commands);
                commands.push(Command::ViewAfter(spread(policies.cadence.min(), cx.jitter)));
                return None;
            }
            let code = Some(refusal.code.clone());
            return Some(self.fail(FailureKind::Expired, EXPIRED.to_owned(), code, cx));
        }
        if elapsed >= policies.not_found_grace {
            let grace = humantime::format_duration(policies.not_found_grace);
            let cause = refusal.cause(&format!("the API does not know the export after {grace}"));
            return Some(self.fail(FailureKind::NotFound, cause, Some(refusal.code.clone()), cx));
        }
        self.tell(refusal.words("the API does not know the export yet"), commands);
        self.failures = self.failures.saturating_add(1);
        let (retry, soonest) = (policies.retry, spread(policies.cadence.min(), cx.jitter));
        let delay = retry.delay(self.failures, cx.jitter).max(soonest);
        let left = policies.not_found_grace.saturating_sub(elapsed);
        commands.push(Command::ViewAfter(delay.min(left)));
        None
    }

    fn ask_again_after_fault(&mut self, cx: &StepContext<'_>, commands: &mut Vec<Command>) {
        self.failures = self.failures.saturating_add(1);
        commands.push(Command::ViewAfter(cx.policies.retry.delay(self.failures, cx.jitter)));
    }

    fn tell(&mut self, cause: String, commands: &mut Vec<Command>) {
        if self.told.as_ref() != Some(&cause) {
            commands.push(Command::Notify(Notice::PollFailing { cause: cause.clone() }));
            self.told = Some(cause);
        }
    }

    fn fail(
        &mut self,
        kind: FailureKind,
        cause: String,
        error_code: Option<String>,
        cx: &StepContext<'_>,
    ) -> Transition {
        let failure = Failure { kind, cause, error_code, at: cx.now.wall };
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
    use crate::domain::watch::{Watch, WatchState};

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
        let part_gone = part_gone.chain([listed()]).chain(lost()).collect();
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
