//! Fetching: the API reported SUCCESS, and every listed part is downloaded.

mod views;

use std::collections::BTreeMap;
use std::time::Duration;

use super::part_state::Tally;
use super::view_faults::ViewFaults;
use super::{
    Command, Kept, Notice, Part, PartOrder, PartState, RecordChange, Recorded, Step, Transition,
    WatchEvent,
};
use crate::domain::failure::{Failure, FailureKind, Hold, PartFailure, PartFault};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::report::{PartListing, RemoteStatus, ReportFacts};
use crate::domain::resume::ResumablePart;
use crate::domain::stage::Cause;
use crate::domain::wait::Trouble;

use views::listing_oddity;

/// Failed attempts in a row after which a part asks for a fresh view: its listing may be outdated.
const ATTEMPTS_PER_VIEW: u32 = 3;

#[derive(Debug, Default)]
pub struct Fetching {
    facts: ReportFacts,
    parts: BTreeMap<PartKey, Part>,
    tally: Tally,
    prepared: bool,
    /// Whether another view has to agree before the export may be sealed.
    view_wanted: bool,
    view_faults: ViewFaults,
    /// The API has answered 404 once since it reported SUCCESS.
    missing_once: bool,
    /// The status of the last view that was not SUCCESS, told once.
    odd_status: Option<RemoteStatus>,
    /// The verdict is in; only parts under way are awaited.
    doomed: Option<Failure>,
}

impl Fetching {
    pub(super) fn begin(
        facts: ReportFacts,
        files: Vec<PartListing>,
        mut kept: Kept,
        step: &mut Step<'_>,
    ) -> Self {
        let mut fetching = Self { facts, ..Self::default() };
        let (oddity, confirm) = listing_oddity(&files);
        fetching.merge(files, &mut kept, step);
        // Committed earlier, and no longer listed: what was finished stays finished.
        for part in kept.committed.into_values() {
            fetching.add(part.key.clone(), Part::committed(part));
        }
        step.notify(fetching.listed());
        if let Some(words) = oddity {
            step.notify(Notice::Surprise { words });
        }
        if confirm {
            fetching.want_view(step);
        }
        fetching
    }

    pub fn parts(&self) -> impl Iterator<Item = (&PartKey, &Part)> {
        self.parts.iter()
    }

    /// Views that fail in a row.
    pub fn view_trouble(&self) -> Option<&Trouble> {
        self.view_faults.trouble.as_ref()
    }

    pub fn part(&self, key: &PartKey) -> Option<&Part> {
        self.parts.get(key)
    }

    pub fn unrecorded(&self) -> impl Iterator<Item = PartOrder> + '_ {
        self.parts
            .iter()
            .filter(|(_, part)| part.state == PartState::Queued)
            .map(|(key, part)| order(key, part))
    }

    /// Declared bytes that no room is taken for yet. Parts under way count whole.
    pub fn missing_bytes(&self) -> u64 {
        u64::try_from(self.tally.missing_bytes).unwrap_or(u64::MAX)
    }

    pub fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// Whether parts are still to come. If not, only records are awaited.
    pub fn awaits_parts(&self) -> bool {
        self.tally.open > self.tally.recording
    }

    pub(super) fn wake_commands(&self) -> Vec<Command> {
        let part = |(key, part): (&PartKey, &Part)| match part.state {
            PartState::Queued if self.prepared => Some(Command::QueuePart(key.clone())),
            PartState::Waiting => Some(Command::RetryPartAfter(key.clone(), Duration::ZERO)),
            _ => None,
        };
        let mut commands: Vec<_> = self.parts.iter().filter_map(part).collect();
        if !self.prepared {
            commands.push(Command::Prepare);
        }
        if self.wants_view() {
            commands.push(Command::ViewAfter(Duration::ZERO));
        }
        commands
    }

    pub(super) fn wants_view(&self) -> bool {
        self.view_wanted && self.doomed.is_none()
    }

    /// Whether the export has failed and only waits for the parts under way.
    #[cfg(test)]
    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.is_some()
    }

    pub(super) fn part_order(&self, key: &PartKey) -> Option<PartOrder> {
        let part = self.parts.get(key)?;
        let startable = self.prepared && self.doomed.is_none() && part.state == PartState::Queued;
        startable.then(|| order(key, part))
    }

    pub(super) fn step(&mut self, event: WatchEvent, step: &mut Step<'_>) -> Option<Transition> {
        match event {
            WatchEvent::Viewed(outcome) => self.viewed(outcome, step),
            WatchEvent::Prepared { adopted, conflicts } => self.prepared(adopted, conflicts, step),
            WatchEvent::PartStarted(key) => {
                self.moves_on(&key, &PartState::Queued, PartState::Active);
            }
            WatchEvent::PartEnded { key, outcome } => self.part_ended(key, outcome, step),
            // If the attempt has ended since, its end said where to continue.
            WatchEvent::PartCheckpointed(partial) if self.is_active(&partial.key) => {
                step.record(RecordChange::PartialSynced(partial));
            }
            WatchEvent::PartRetryDue(key) => {
                let was_waiting = self.moves_on(&key, &PartState::Waiting, PartState::Queued);
                if was_waiting {
                    step.order(Command::QueuePart(key));
                }
            }
            WatchEvent::Recorded(Recorded::PartialSynced { key, bytes }) => {
                step.notify(Notice::PartCheckpointed { key, bytes });
            }
            WatchEvent::Recorded(Recorded::PartCommitted(key)) => {
                if let Some(part) = self.parts.get_mut(&key)
                    && let PartState::Recording(committed) = part.state.clone()
                {
                    step.notify(Notice::PartCommitted(committed.clone()));
                    self.tally.moves(part, PartState::Committed(committed));
                }
            }
            _ => {}
        }
        self.end(step)
    }

    /// Moves a part on that is in the state `from`. Returns whether it was.
    fn moves_on(&mut self, key: &PartKey, from: &PartState, to: PartState) -> bool {
        let part = self.parts.get_mut(key).filter(|part| part.state == *from);
        part.map(|part| self.tally.moves(part, to)).is_some()
    }

    /// How this state ends, once no part is under way.
    fn end(&mut self, step: &Step<'_>) -> Option<Transition> {
        if self.tally.in_flight > 0 {
            return None;
        }
        if let Some(failure) = self.doomed.take() {
            return Some(Transition::Fail(failure, self.take_kept()));
        }
        if !self.prepared || self.view_wanted || self.tally.open > 0 {
            return None;
        }
        let abandoned = self.parts.iter().find_map(|(key, part)| match &part.state {
            PartState::Abandoned { kind, cause, error_code } => {
                let cause = format!("part {}: {cause}", key.number);
                Some(step.failure(*kind, cause, error_code.clone()))
            }
            _ => None,
        });
        if let Some(failure) = abandoned {
            return Some(Transition::Fail(failure, self.take_kept()));
        }
        let parts = self.take_kept().committed.into_values().collect();
        Some(Transition::Seal { facts: std::mem::take(&mut self.facts), parts })
    }

    fn listed(&self) -> Notice {
        let (mut bytes, mut committed, mut partials) = (0_u64, 0, 0);
        for part in self.parts.values() {
            bytes = bytes.saturating_add(part.declared_bytes.unwrap_or(0));
            committed +=
                u64::from(matches!(part.state, PartState::Committed(_) | PartState::Recording(_)));
            partials += u64::from(part.resume.is_some());
        }
        Notice::PartsListed { parts: self.parts.len() as u64, bytes, committed, partials }
    }

    fn is_active(&self, key: &PartKey) -> bool {
        self.parts.get(key).is_some_and(|part| part.state == PartState::Active)
    }

    fn add(&mut self, key: PartKey, part: Part) {
        self.tally.enters(&part);
        self.parts.insert(key, part);
    }

    fn take_kept(&mut self) -> Kept {
        self.tally = Tally::default();
        let mut kept = Kept::default();
        for (key, part) in std::mem::take(&mut self.parts) {
            if let PartState::Committed(part) = part.state {
                kept.committed.insert(key.file_id, part);
            }
        }
        kept
    }

    fn prepared(
        &mut self,
        adopted: Vec<CommittedPart>,
        conflicts: Vec<(PartKey, String)>,
        step: &mut Step<'_>,
    ) {
        self.prepared = true;
        for part in adopted {
            if self.moves_on(&part.key, &PartState::Queued, PartState::Recording(part.clone())) {
                step.record(RecordChange::PartCommitted(part));
            }
        }
        for (key, cause) in conflicts {
            self.abandon(key, FailureKind::Conflict, cause, None, step);
        }
        let queued = self.parts.iter().filter(|(_, part)| part.state == PartState::Queued);
        queued.for_each(|(key, _)| step.order(Command::QueuePart(key.clone())));
    }

    fn part_ended(
        &mut self,
        key: PartKey,
        outcome: Result<CommittedPart, PartFailure>,
        step: &mut Step<'_>,
    ) {
        let Some(part) = self.parts.get_mut(&key).filter(|part| part.state == PartState::Active)
        else {
            return;
        };
        match outcome {
            Ok(committed) => {
                step.record(RecordChange::PartCommitted(committed.clone()));
                self.tally.moves(part, PartState::Recording(committed));
            }
            Err(PartFailure::Stopped { kept }) => {
                self.tally.moves(part, PartState::Queued);
                self.tally.resumes(part, kept.clone());
                if let Some(point) = kept {
                    step.record(RecordChange::PartialSynced(ResumablePart { key, point }));
                }
            }
            Err(PartFailure::Failed { fault, kept, progressed }) => {
                let before = part.resumable_bytes();
                let kept = kept.filter(|_| fault.spares_bytes());
                self.tally.resumes(part, kept.map(|point| *point));
                if progressed {
                    (part.failures, part.gone_since) = (0, None);
                }
                // What gains bytes and loses them again gets nowhere.
                if part.resumable_bytes() > before
                    && let Some(trouble) = &mut part.trouble
                {
                    trouble.begin_anew(step.cx.now.since_start);
                }
                self.part_failed(key, fault, step);
            }
        }
    }

    fn part_failed(&mut self, key: PartKey, fault: PartFault, step: &mut Step<'_>) {
        let Some(part) = self.parts.get_mut(&key) else { return };
        match fault {
            PartFault::Transient { cause, listing_in_doubt } => {
                let fresh_view =
                    listing_in_doubt || (part.failures + 1).is_multiple_of(ATTEMPTS_PER_VIEW);
                self.wait(key, Cause::Fault, cause, step);
                if fresh_view {
                    self.want_view(step);
                }
            }
            PartFault::LinkRefused { cause } => {
                self.wait(key, Cause::LinkRefused, cause, step);
                self.want_view(step);
            }
            // The fault may be this part's own: without a wait it would come first each time.
            PartFault::Held(Hold::Disk { cause }) => self.wait(key, Cause::Disk, cause, step),
            PartFault::Held(hold) => {
                if let (Some(cause), Some(words)) = (Cause::of_hold(&hold), hold.words()) {
                    Trouble::held(&mut part.trouble, cause, words, step.cx.now.since_start);
                }
                self.tally.moves(part, PartState::Queued);
                step.order(Command::QueuePart(key));
            }
            PartFault::Gone { cause, error_code } => self.gone(key, cause, error_code, step),
            PartFault::Conflict { cause } => {
                self.abandon(key, FailureKind::Conflict, cause, None, step);
            }
        }
    }

    fn wait(&mut self, key: PartKey, cause: Cause, words: String, step: &mut Step<'_>) {
        let Some(part) = self.parts.get_mut(&key) else { return };
        self.tally.moves(part, PartState::Waiting);
        part.failures = part.failures.saturating_add(1);
        part.tell(&key, cause, words, step);
        step.order(Command::RetryPartAfter(key, step.backoff(part.failures)));
    }

    /// A store may know a file later than the API lists it. Only what is still missing after the
    /// grace, and is still listed, is given up.
    fn gone(
        &mut self,
        key: PartKey,
        cause: String,
        error_code: Option<String>,
        step: &mut Step<'_>,
    ) {
        let Some(part) = self.parts.get_mut(&key) else { return };
        let (now, grace) = (step.cx.now.since_start, step.cx.policies.not_found_grace);
        let was_gone = part.gone_since.is_some();
        let since = *part.gone_since.get_or_insert(now);
        if was_gone && now.saturating_sub(since) >= grace {
            return self.abandon(key, FailureKind::PartGone, cause, error_code, step);
        }
        self.tally.moves(part, PartState::AwaitingView);
        part.tell(&key, Cause::Gone, with_code(cause, error_code.as_deref()), step);
        self.want_view(step);
    }

    fn abandon(
        &mut self,
        key: PartKey,
        kind: FailureKind,
        cause: String,
        error_code: Option<String>,
        step: &mut Step<'_>,
    ) {
        let Some(part) = self.parts.get_mut(&key).filter(|part| !part.is_terminal()) else {
            return;
        };
        let words = with_code(cause.clone(), error_code.as_deref());
        let state = PartState::Abandoned { kind, cause, error_code };
        self.tally.changes(part, |part| (part.resume, part.state) = (None, state));
        step.notify(Notice::PartAbandoned { key, cause: words });
    }
}

impl Part {
    fn tell(&mut self, key: &PartKey, cause: Cause, words: String, step: &mut Step<'_>) {
        if Trouble::met(&mut self.trouble, cause, words.clone(), step.cx.now.since_start) {
            step.notify(Notice::PartFailing { key: key.clone(), cause: words });
        }
    }
}

/// A notice has no field for the API's code, unlike a [`Failure`].
fn with_code(cause: String, error_code: Option<&str>) -> String {
    if let Some(code) = error_code { format!("{cause} ({code})") } else { cause }
}

fn order(key: &PartKey, part: &Part) -> PartOrder {
    PartOrder { key: key.clone(), declared_bytes: part.declared_bytes, resume: part.resume.clone() }
}
