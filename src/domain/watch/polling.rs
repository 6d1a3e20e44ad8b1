//! Polling: the API is asked until it reports SUCCESS or ERROR, or is given up on.

use std::time::Duration;

use super::{Command, Fetching, Kept, Notice, RecordChange, StepContext, Transition, WatchEvent};
use crate::domain::cadence::spread;
use crate::domain::failure::{ApiRefusal, Failure, FailureKind, ViewOutcome};
use crate::domain::report::{RemoteStatus, Report};

/// What is remembered between polls.
#[derive(Debug, Default)]
pub struct Polling {
    seen: Option<RemoteStatus>,
    unchanged: u32,
    failures: u32,
    /// The last cause of failing polls that was told to people.
    told: Option<String>,
    /// Since when, on the monotonic clock, the API has not known this export.
    not_found_since: Option<Duration>,
    /// The API's refusal of the request, until it is known whom it concerns.
    rejected: Option<ApiRefusal>,
    kept: Kept,
}

impl Polling {
    /// Goes on where an earlier run stopped: the last status seen, and what must not be fetched
    /// again.
    #[must_use]
    pub fn resumed(seen: Option<RemoteStatus>, kept: Kept) -> Self {
        Self { seen, kept, ..Self::default() }
    }

    /// The last status the API reported.
    #[must_use]
    pub fn seen(&self) -> Option<&RemoteStatus> {
        self.seen.as_ref()
    }

    /// Whether nothing is known of the export yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.seen.is_none() && self.kept.committed.is_empty() && self.kept.partials.is_empty()
    }

    /// What earlier work left.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether the API refused the request and it is not yet known whether that concerns this
    /// export alone.
    #[must_use]
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
                self.tell(format!("the api refuses the request: {}", words(&refusal)), commands);
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
                let cause = format!("the api refuses the request: {}", words(&refusal));
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
            self.tell("the api reports SUCCESS without a list of files".to_owned(), commands);
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
                        format!("the api reports a status this version does not know: {word}");
                    commands.push(Command::Notify(Notice::Surprise { words }));
                }
                commands.push(Command::ViewAfter(cadence.slow(cx.jitter)));
                None
            }
            RemoteStatus::Error => Some(self.fail(
                FailureKind::RemoteError,
                "the api reports ERROR".to_owned(),
                None,
                cx,
            )),
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
        // An export that was finished once has not just been mistyped: one confirmation is enough.
        if self.seen == Some(RemoteStatus::Success) {
            if first {
                self.tell(
                    format!("the api no longer knows the export: {}", words(refusal)),
                    commands,
                );
                commands.push(Command::ViewAfter(spread(policies.cadence.min(), cx.jitter)));
                return None;
            }
            let cause =
                "the api no longer knows the export; it expired before all parts were fetched"
                    .to_owned();
            return Some(self.fail(FailureKind::Expired, cause, Some(refusal.code.clone()), cx));
        }
        if elapsed >= policies.not_found_grace {
            let grace = humantime::format_duration(policies.not_found_grace);
            let cause = format!("the api has not known the export for {grace}: {}", words(refusal));
            return Some(self.fail(FailureKind::NotFound, cause, Some(refusal.code.clone()), cx));
        }
        self.tell(format!("the api does not know the export yet: {}", words(refusal)), commands);
        self.failures = self.failures.saturating_add(1);
        let slow = policies
            .retry
            .delay(self.failures, cx.jitter)
            .max(spread(policies.cadence.min(), cx.jitter));
        commands
            .push(Command::ViewAfter(slow.min(policies.not_found_grace.saturating_sub(elapsed))));
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

/// A refusal in the API's own words.
pub(super) fn words(refusal: &ApiRefusal) -> String {
    match refusal.message.as_str() {
        "" => format!("{} (http {})", refusal.code, refusal.status),
        message => format!("{}: {message} (http {})", refusal.code, refusal.status),
    }
}
