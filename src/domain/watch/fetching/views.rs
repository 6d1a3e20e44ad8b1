//! Views during the download: parts join, missing ones are dropped, an odd listing is confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Fetching;
use crate::domain::cadence::spread;
use crate::domain::failure::{EXPIRED, Failure, FailureKind, ViewOutcome};
use crate::domain::part::PartKey;
use crate::domain::report::{PartListing, RemoteStatus, Report};
use crate::domain::watch::{Command, Kept, Notice, Part, PartState, StepContext};

impl Fetching {
    pub(super) fn viewed(
        &mut self,
        outcome: ViewOutcome,
        cx: &StepContext<'_>,
        commands: &mut Vec<Command>,
    ) {
        match outcome {
            ViewOutcome::Report(report) => self.reported(report, cx, commands),
            ViewOutcome::NotFound(refusal) if self.missing_once => {
                self.doom(FailureKind::Expired, EXPIRED.to_owned(), Some(refusal.code), cx);
            }
            ViewOutcome::NotFound(refusal) => {
                self.missing_once = true;
                self.tell(refusal.words("the API no longer knows the export"), commands);
                self.view_wanted = true;
                commands.push(Command::ViewAfter(spread(cx.policies.cadence.min(), cx.jitter)));
            }
            ViewOutcome::Held(_) => commands.push(Command::ViewAfter(Duration::ZERO)),
            ViewOutcome::Rejected(refusal) => {
                self.view_faulted(refusal.words("the API refuses the request"), cx, commands);
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
                let cause = "the API reports SUCCESS without a list of files".to_owned();
                self.view_faulted(cause, cx, commands);
            }
            (RemoteStatus::Error, _) => {
                let cause = "the API reports ERROR after SUCCESS".to_owned();
                self.doom(FailureKind::RemoteError, cause, None, cx);
            }
            (status, _) => {
                if self.odd_status.as_ref() != Some(&status) {
                    let words = format!(
                        "the API reports {} after SUCCESS; the download continues",
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
                let part = format!("part {} is gone and the API no longer lists it", key.number);
                let words = format!("{part}; the export continues without it");
                commands.push(Command::Notify(Notice::Surprise { words }));
                if let Some(part) = self.parts.remove(&key) {
                    self.tally.leaves(&part);
                }
            }
        }
    }

    /// The file ID is the identity; a known part keeps its number.
    pub(super) fn merge(
        &mut self,
        files: Vec<PartListing>,
        kept: &mut Kept,
        commands: &mut Vec<Command>,
    ) {
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

    /// A second view comes after the shortest interval; requests for one share it.
    pub(super) fn want_view(&mut self, cx: &StepContext<'_>, commands: &mut Vec<Command>) {
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

/// What is odd about a listing, and whether a second view has to confirm it.
pub(super) fn listing_oddity(files: &[PartListing]) -> (Option<String>, bool) {
    if files.is_empty() {
        let words = "the API reports SUCCESS without any file; a second view has to confirm this";
        return (Some(words.to_owned()), true);
    }
    let numbers: Vec<u32> = files.iter().filter_map(|file| file.number).collect();
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    let unnumbered = files.len() - numbers.len();
    let mut oddities = Vec::new();
    if unnumbered > 0 {
        let words = format!("{unnumbered} of {} files have no part number", files.len());
        oddities.push(format!("{words}; each is numbered by its place in the list"));
    }
    if distinct.len() < numbers.len() {
        oddities.push("part numbers are repeated; all files are kept".to_owned());
    }
    // A file without a number may be any of those that are missing.
    let highest = distinct.last().copied().unwrap_or(0);
    let missing = (highest as usize).saturating_sub(distinct.len() + unnumbered);
    if missing > 0 {
        oddities.push(format!(
            "{missing} part numbers below {highest} are missing; a second view has to confirm this"
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
            (&[], &["without any file"], true),
            (&[u32::MAX], &["part numbers below 4294967295 are missing"], true),
        ] {
            let (told, confirms) = oddity(numbers);
            let told = told.unwrap_or_default();
            let expected = (words.is_empty(), confirm);
            assert_eq!((told.is_empty(), confirms), expected, "{numbers:?}: {told}");
            assert!(words.iter().all(|word| told.contains(word)), "{numbers:?}: {told}");
        }
    }
}
