//! Fetching: the API reported SUCCESS; every listed part is brought home, and the listing itself is
//! confirmed where it looks odd.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::part_state::Tally;
use super::polling::words;
use super::{
    Command, Kept, Notice, Part, PartOrder, PartState, RecordChange, Recorded, StepContext,
    Transition, WatchEvent,
};
use crate::domain::cadence::spread;
use crate::domain::failure::{Failure, FailureKind, Hold, PartFailure, PartFault, ViewOutcome};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::report::{PartListing, RemoteStatus, Report, ReportFacts};
use crate::domain::resume::ResumablePart;

/// After how many failed attempts in a row a part asks for a fresh view: its listing may have
/// changed, or expired.
const ATTEMPTS_PER_VIEW: u32 = 3;

/// A finished export whose parts are on their way.
#[derive(Debug)]
pub struct Fetching {
    facts: ReportFacts,
    parts: BTreeMap<PartKey, Part>,
    tally: Tally,
    prepared: bool,
    /// Whether another view has to agree before the export may be sealed.
    view_wanted: bool,
    view_failures: u32,
    told: Option<String>,
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
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) -> Self {
        let mut fetching = Self {
            facts,
            parts: BTreeMap::new(),
            tally: Tally::default(),
            prepared: false,
            view_wanted: false,
            view_failures: 0,
            told: None,
            missing_once: false,
            odd_status: None,
            doomed: None,
        };
        let (oddity, confirm) = listing_oddity(&files);
        fetching.merge(files, &mut kept, commands);
        // Committed earlier, and no longer listed: what was finished stays finished.
        for part in kept.committed.into_values() {
            fetching.add(part.key.clone(), Part::committed(part));
        }
        commands.push(Command::Notify(fetching.listed()));
        if let Some(words) = oddity {
            commands.push(Command::Notify(Notice::Surprise { words }));
        }
        if confirm {
            fetching.want_view(cx, commands);
        }
        fetching
    }

    /// Every part and where it stands, in part order.
    pub fn parts(&self) -> impl Iterator<Item = (&PartKey, &Part)> {
        self.parts.iter()
    }

    /// One part, where it is listed.
    #[must_use]
    pub fn part(&self, key: &PartKey) -> Option<&Part> {
        self.parts.get(key)
    }

    /// Parts that are neither recorded nor under way, with their resume points: what a look at the
    /// folder concerns.
    pub fn unrecorded(&self) -> impl Iterator<Item = PartOrder> + '_ {
        self.parts
            .iter()
            .filter(|(_, part)| part.state == PartState::Queued)
            .map(|(key, part)| order(key, part))
    }

    /// Declared bytes that no room is taken for yet. Parts under way count whole.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        u64::try_from(self.tally.missing_bytes).unwrap_or(u64::MAX)
    }

    /// Whether the folder was made and looked at.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// Whether there are parts that are not yet durable under their names. As long as there are,
    /// nobody waits for the record of one that is.
    #[must_use]
    pub fn awaits_parts(&self) -> bool {
        self.tally.open > self.tally.recording
    }

    /// See [`super::Watch::wake_commands`].
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

    /// Whether only parts under way are awaited any more.
    #[cfg(test)]
    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.is_some()
    }

    pub(super) fn declared_bytes(&self, key: &PartKey) -> Option<u64> {
        self.parts.get(key)?.declared_bytes
    }

    pub(super) fn part_order(&self, key: &PartKey) -> Option<PartOrder> {
        let part = self.parts.get(key)?;
        let startable = self.prepared && self.doomed.is_none() && part.state == PartState::Queued;
        startable.then(|| order(key, part))
    }

    pub(super) fn step(
        &mut self,
        event: WatchEvent,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) -> Option<Transition> {
        match event {
            WatchEvent::Viewed(outcome) => self.viewed(outcome, cx, commands),
            WatchEvent::Prepared { adopted, conflicts } => {
                self.prepared(adopted, conflicts, commands)
            }
            WatchEvent::PartStarted(key) => {
                if let Some(part) =
                    self.parts.get_mut(&key).filter(|part| part.state == PartState::Queued)
                {
                    self.tally.moves(part, PartState::Active);
                }
            }
            WatchEvent::PartEnded { key, outcome } => self.part_ended(key, outcome, cx, commands),
            // News of an attempt that has ended since is of no use: its end said from where to go
            // on.
            WatchEvent::PartCheckpointed(partial) if self.is_active(&partial.key) => {
                commands.push(Command::Record(RecordChange::PartialSynced(partial)));
            }
            WatchEvent::PartRetryDue(key) => {
                if let Some(part) =
                    self.parts.get_mut(&key).filter(|part| part.state == PartState::Waiting)
                {
                    self.tally.moves(part, PartState::Queued);
                    commands.push(Command::QueuePart(key));
                }
            }
            WatchEvent::Recorded(Recorded::PartialSynced { key, bytes }) => {
                commands.push(Command::Notify(Notice::PartCheckpointed { key, bytes }));
            }
            WatchEvent::Recorded(Recorded::PartCommitted(key)) => {
                if let Some(part) = self.parts.get_mut(&key)
                    && let PartState::Recording(committed) = part.state.clone()
                {
                    commands.push(Command::Notify(Notice::PartCommitted(committed.clone())));
                    self.tally.moves(part, PartState::Committed(committed));
                }
            }
            _ => {}
        }
        self.end(cx)
    }

    /// The way out of this state, once nothing is under way that could still change it.
    fn end(&mut self, cx: &StepContext<'_>) -> Option<Transition> {
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
            PartState::Abandoned { kind, cause, error_code } => Some(Failure {
                kind: *kind,
                cause: format!("part {}: {cause}", key.number),
                error_code: error_code.clone(),
                at: cx.now.wall,
            }),
            _ => None,
        });
        if let Some(failure) = abandoned {
            return Some(Transition::Fail(failure, self.take_kept()));
        }
        let parts = self.take_kept().committed.into_values().collect();
        Some(Transition::Seal { facts: std::mem::take(&mut self.facts), parts })
    }

    /// What is known of the files, for people.
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

    fn viewed(&mut self, outcome: ViewOutcome, cx: &StepContext<'_>, commands: &mut Vec<Command>) {
        match outcome {
            ViewOutcome::Report(report) => self.reported(report, cx, commands),
            ViewOutcome::NotFound(refusal) if self.missing_once => {
                let cause =
                    "the api no longer knows the export; it expired before all parts were fetched"
                        .to_owned();
                self.doom(FailureKind::Expired, cause, Some(refusal.code), cx);
            }
            ViewOutcome::NotFound(refusal) => {
                self.missing_once = true;
                self.tell(
                    format!("the api no longer knows the export: {}", words(&refusal)),
                    commands,
                );
                self.view_wanted = true;
                commands.push(Command::ViewAfter(spread(cx.policies.cadence.min(), cx.jitter)));
            }
            ViewOutcome::Held(_) => commands.push(Command::ViewAfter(Duration::ZERO)),
            ViewOutcome::Rejected(refusal) => {
                self.view_faulted(
                    format!("the api refuses the request: {}", words(&refusal)),
                    cx,
                    commands,
                );
            }
            ViewOutcome::Fault(cause) => self.view_faulted(cause, cx, commands),
        }
    }

    fn reported(&mut self, report: Report, cx: &StepContext<'_>, commands: &mut Vec<Command>) {
        self.missing_once = false;
        match (report.status, report.files) {
            (RemoteStatus::Success, Some(files)) => {
                self.view_failures = 0;
                if self.told.take().is_some() {
                    commands.push(Command::Notify(Notice::PollRecovered));
                }
                self.view_wanted = false;
                self.facts = report.facts;
                self.relisted(files, commands);
            }
            (RemoteStatus::Success, None) => {
                self.view_faulted(
                    "the api reports SUCCESS without a list of files".to_owned(),
                    cx,
                    commands,
                );
            }
            (RemoteStatus::Error, _) => {
                self.doom(
                    FailureKind::RemoteError,
                    "the api reports ERROR after SUCCESS".to_owned(),
                    None,
                    cx,
                );
            }
            (status, _) => {
                if self.odd_status.as_ref() != Some(&status) {
                    let words = format!(
                        "the api reports {} after SUCCESS; the fetch goes on",
                        status.as_str()
                    );
                    commands.push(Command::Notify(Notice::Surprise { words }));
                    self.odd_status = Some(status);
                }
                self.view_wanted = true;
                commands.push(Command::ViewAfter(spread(cx.policies.cadence.max(), cx.jitter)));
            }
        }
    }

    fn view_faulted(&mut self, cause: String, cx: &StepContext<'_>, commands: &mut Vec<Command>) {
        self.tell(cause, commands);
        self.view_wanted = true;
        self.view_failures = self.view_failures.saturating_add(1);
        commands.push(Command::ViewAfter(cx.policies.retry.delay(self.view_failures, cx.jitter)));
    }

    /// A view while parts are on their way: new parts join, parts that were missing get their
    /// verdict.
    fn relisted(&mut self, files: Vec<PartListing>, commands: &mut Vec<Command>) {
        let listed: BTreeSet<_> = files.iter().map(|file| file.file_id.clone()).collect();
        let known = self.parts.len();
        self.merge(files, &mut Kept::default(), commands);
        if self.parts.len() > known {
            commands.push(Command::Notify(self.listed()));
        }
        let waiting: Vec<_> = self
            .parts
            .iter()
            .filter(|(_, part)| part.state == PartState::AwaitingView)
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            if listed.contains(&key.file_id) {
                if let Some(part) = self.parts.get_mut(&key) {
                    part.gone_before = true;
                    self.tally.moves(part, PartState::Queued);
                }
                commands.push(Command::QueuePart(key));
            } else {
                let words = format!(
                    "part {} is gone, and the api lists it no more; it is left out",
                    key.number
                );
                commands.push(Command::Notify(Notice::Surprise { words }));
                if let Some(part) = self.parts.remove(&key) {
                    self.tally.leaves(&part);
                }
            }
        }
    }

    /// Takes a listing in: identity is the file ID, a part that is known keeps its number.
    fn merge(&mut self, files: Vec<PartListing>, kept: &mut Kept, commands: &mut Vec<Command>) {
        let known: BTreeMap<_, _> =
            self.parts.keys().map(|key| (key.file_id.clone(), key.clone())).collect();
        for (place, file) in files.into_iter().enumerate() {
            if let Some(part) = known.get(&file.file_id).and_then(|key| self.parts.get_mut(key)) {
                if !part.is_terminal()
                    && !part.is_in_flight()
                    && part.declared_bytes != file.declared_bytes
                {
                    self.tally.changes(part, |part| part.declared_bytes = file.declared_bytes);
                }
                continue;
            }
            if let Some(part) = kept.committed.remove(&file.file_id) {
                self.add(part.key.clone(), Part::committed(part));
                continue;
            }
            let number =
                file.number.unwrap_or_else(|| u32::try_from(place + 1).unwrap_or(u32::MAX));
            let partial =
                kept.partials.remove(&file.file_id).filter(|partial| partial.key.number == number);
            let key = PartKey { number, file_id: file.file_id };
            if self.prepared {
                commands.push(Command::QueuePart(key.clone()));
            }
            self.add(key, Part::queued(file.declared_bytes, partial.map(|partial| partial.point)));
        }
    }

    fn prepared(
        &mut self,
        adopted: Vec<CommittedPart>,
        conflicts: Vec<(PartKey, String)>,
        commands: &mut Vec<Command>,
    ) {
        self.prepared = true;
        for committed in adopted {
            if let Some(part) =
                self.parts.get_mut(&committed.key).filter(|part| part.state == PartState::Queued)
            {
                commands.push(Command::Record(RecordChange::PartCommitted(committed.clone())));
                self.tally.moves(part, PartState::Recording(committed));
            }
        }
        for (key, cause) in conflicts {
            self.abandon(key, FailureKind::Conflict, cause, None, commands);
        }
        let queued = self.parts.iter().filter(|(_, part)| part.state == PartState::Queued);
        commands.extend(queued.map(|(key, _)| Command::QueuePart(key.clone())));
    }

    fn part_ended(
        &mut self,
        key: PartKey,
        outcome: Result<CommittedPart, PartFailure>,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) {
        let Some(part) = self.parts.get_mut(&key).filter(|part| part.state == PartState::Active)
        else {
            return;
        };
        match outcome {
            Ok(committed) => {
                commands.push(Command::Record(RecordChange::PartCommitted(committed.clone())));
                self.tally.moves(part, PartState::Recording(committed));
            }
            Err(PartFailure::Stopped { kept }) => {
                self.tally.moves(part, PartState::Queued);
                self.tally.resumes(part, kept.clone());
                if let Some(point) = kept {
                    commands.push(Command::Record(RecordChange::PartialSynced(ResumablePart {
                        key,
                        point,
                    })));
                }
            }
            Err(PartFailure::Failed { fault, kept, progressed }) => {
                self.tally.resumes(part, kept.filter(|_| fault.spares_bytes()));
                if progressed {
                    part.failures = 0;
                }
                self.part_failed(key, fault, cx, commands);
            }
        }
    }

    fn part_failed(
        &mut self,
        key: PartKey,
        fault: PartFault,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) {
        let Some(part) = self.parts.get_mut(&key) else { return };
        match fault {
            PartFault::Transient { cause, listing_in_doubt } => {
                let fresh_view =
                    listing_in_doubt || (part.failures + 1).is_multiple_of(ATTEMPTS_PER_VIEW);
                self.wait(key, cause, cx, commands);
                if fresh_view {
                    self.want_view(cx, commands);
                }
            }
            PartFault::LinkRefused { cause } => {
                self.wait(key, cause, cx, commands);
                self.want_view(cx, commands);
            }
            // The fault may be this part's own. Without a wait it would be the first in the queue
            // each time the disk is found to be well.
            PartFault::Held(Hold::Disk { cause }) => self.wait(key, cause, cx, commands),
            PartFault::Held(_) => {
                self.tally.moves(part, PartState::Queued);
                commands.push(Command::QueuePart(key));
            }
            PartFault::Gone { cause, error_code } if part.gone_before => {
                self.abandon(key, FailureKind::PartGone, cause, error_code, commands);
            }
            PartFault::Gone { cause, .. } => {
                self.tally.moves(part, PartState::AwaitingView);
                part.tell(&key, cause, commands);
                self.want_view(cx, commands);
            }
            PartFault::Conflict { cause } => {
                self.abandon(key, FailureKind::Conflict, cause, None, commands);
            }
        }
    }

    fn wait(
        &mut self,
        key: PartKey,
        cause: String,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) {
        let Some(part) = self.parts.get_mut(&key) else { return };
        self.tally.moves(part, PartState::Waiting);
        part.failures = part.failures.saturating_add(1);
        part.tell(&key, cause, commands);
        commands
            .push(Command::RetryPartAfter(key, cx.policies.retry.delay(part.failures, cx.jitter)));
    }

    fn abandon(
        &mut self,
        key: PartKey,
        kind: FailureKind,
        cause: String,
        error_code: Option<String>,
        commands: &mut Vec<Command>,
    ) {
        let Some(part) = self.parts.get_mut(&key).filter(|part| !part.is_terminal()) else {
            return;
        };
        let state = PartState::Abandoned { kind, cause: cause.clone(), error_code };
        self.tally.changes(part, |part| (part.resume, part.state) = (None, state));
        commands.push(Command::Notify(Notice::PartAbandoned { key, cause }));
    }

    fn doom(
        &mut self,
        kind: FailureKind,
        cause: String,
        error_code: Option<String>,
        cx: &StepContext<'_>,
    ) {
        self.view_wanted = false;
        self.doomed.get_or_insert(Failure { kind, cause, error_code, at: cx.now.wall });
    }

    /// A second view comes after the shortest interval; wishes that meet share one view.
    fn want_view(&mut self, cx: &StepContext<'_>, commands: &mut Vec<Command>) {
        if !self.view_wanted && self.doomed.is_none() {
            self.view_wanted = true;
            commands.push(Command::ViewAfter(spread(cx.policies.cadence.min(), cx.jitter)));
        }
    }

    fn tell(&mut self, cause: String, commands: &mut Vec<Command>) {
        if self.told.as_ref() != Some(&cause) {
            commands.push(Command::Notify(Notice::PollFailing { cause: cause.clone() }));
            self.told = Some(cause);
        }
    }
}

impl Part {
    fn tell(&mut self, key: &PartKey, cause: String, commands: &mut Vec<Command>) {
        if self.told.as_ref() != Some(&cause) {
            commands.push(Command::Notify(Notice::PartFailing {
                key: key.clone(),
                cause: cause.clone(),
            }));
            self.told = Some(cause);
        }
    }
}

fn order(key: &PartKey, part: &Part) -> PartOrder {
    PartOrder { key: key.clone(), declared_bytes: part.declared_bytes, resume: part.resume.clone() }
}

/// What is odd about a listing, in words, and whether a second view has to agree before the export
/// is sealed.
fn listing_oddity(files: &[PartListing]) -> (Option<String>, bool) {
    if files.is_empty() {
        return (
            Some(
                "the api reports SUCCESS without a single file; a second view has to agree"
                    .to_owned(),
            ),
            true,
        );
    }
    let numbers: Vec<u32> = files.iter().filter_map(|file| file.number).collect();
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    let unnumbered = files.len() - numbers.len();
    let mut oddities = Vec::new();
    if unnumbered > 0 {
        let words = format!("{unnumbered} of {} files have no part number", files.len());
        oddities.push(format!("{words}; each takes its place in the list as its number"));
    }
    if distinct.len() < numbers.len() {
        oddities.push("part numbers are repeated; every file is kept".to_owned());
    }
    // A file without a number may be any of those that are missing.
    let highest = distinct.last().copied().unwrap_or(0);
    let missing = (highest as usize).saturating_sub(distinct.len() + unnumbered);
    if missing > 0 {
        oddities.push(format!(
            "{missing} part numbers below {highest} are missing; a second view has to agree"
        ));
    }
    let words = (!oddities.is_empty()).then(|| oddities.join("; "));
    (words, missing > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_numbers_is_seen_beside_every_other_oddity() {
        let oddity = |numbers: &[u32]| {
            let file = |(place, number): (usize, &u32)| PartListing {
                file_id: format!("file_{place}").parse().unwrap(),
                number: Some(*number).filter(|number| *number > 0),
                declared_bytes: None,
            };
            listing_oddity(&numbers.iter().enumerate().map(file).collect::<Vec<_>>())
        };
        for (numbers, words, confirm) in [
            (&[1, 2, 3][..], &[][..], false),
            (&[1, 3], &["1 part numbers below 3 are missing"], true),
            (&[2], &["1 part numbers below 2 are missing"], true),
            (&[1, 1, 2], &["part numbers are repeated"], false),
            (
                &[1, 1, 3],
                &["part numbers are repeated", "1 part numbers below 3 are missing"],
                true,
            ),
            (&[0, 0], &["2 of 2 files have no part number"], false),
            (&[1, 0, 3], &["1 of 3 files have no part number"], false),
            (
                &[1, 0, 5],
                &["1 of 3 files have no part number", "2 part numbers below 5 are missing"],
                true,
            ),
            (&[], &["without a single file"], true),
            (&[u32::MAX], &["part numbers below 4294967295 are missing"], true),
        ] {
            let (told, confirms) = oddity(numbers);
            let told = told.unwrap_or_default();
            assert_eq!(
                (told.is_empty(), confirms),
                (words.is_empty(), confirm),
                "{numbers:?}: {told}"
            );
            assert!(words.iter().all(|word| told.contains(word)), "{numbers:?}: {told}");
        }
    }
}
