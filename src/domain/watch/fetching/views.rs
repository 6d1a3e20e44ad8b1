//! Views during the download: parts join, missing ones are dropped, an odd listing is confirmed.

use std::collections::{BTreeMap, BTreeSet};

use super::Fetching;
use crate::domain::failure::{EXPIRED, FailureKind, ViewOutcome};
use crate::domain::part::PartKey;
use crate::domain::report::{PartListing, RemoteStatus, Report};
use crate::domain::stage::Cause;
use crate::domain::watch::view_faults::NO_FILES;
use crate::domain::watch::{Command, Kept, Notice, Part, PartState, Step};

impl Fetching {
    pub(super) fn viewed(&mut self, outcome: ViewOutcome, step: &mut Step<'_>) {
        match outcome {
            ViewOutcome::Report(report) => self.reported(report, step),
            ViewOutcome::NotFound(refusal) if self.missing_once => {
                self.doom(FailureKind::Expired, EXPIRED.to_owned(), Some(refusal.code), step);
            }
            ViewOutcome::NotFound(refusal) => {
                self.missing_once = true;
                let words = refusal.words("the API no longer knows the export");
                self.view_faults.tell(Cause::NotFound, words, step);
                self.view_wanted = true;
                step.view_after(step.soonest());
            }
            ViewOutcome::Held(hold) => self.view_faults.held(&hold, step),
            ViewOutcome::Rejected(refusal) => {
                let words = refusal.words("the API refuses the request");
                self.view_faulted(Cause::Rejected, words, step);
            }
            ViewOutcome::Fault(words) => self.view_faulted(Cause::Fault, words, step),
        }
    }

    fn reported(&mut self, report: Report, step: &mut Step<'_>) {
        self.missing_once = false;
        match (report.status, report.files) {
            (RemoteStatus::Success, Some(files)) => {
                self.view_faults.over(step);
                self.view_wanted = false;
                self.facts = report.facts;
                self.relisted(files, step);
            }
            (RemoteStatus::Success, None) => {
                self.view_faulted(Cause::Fault, NO_FILES.to_owned(), step);
            }
            (RemoteStatus::Error, _) => {
                let cause = "the API reports ERROR after SUCCESS".to_owned();
                self.doom(FailureKind::RemoteError, cause, None, step);
            }
            (status, _) => {
                if self.odd_status.as_ref() != Some(&status) {
                    let words = format!(
                        "the API reports {} after SUCCESS; the download continues",
                        status.as_str()
                    );
                    step.notify(Notice::Surprise { words });
                    self.odd_status = Some(status);
                }
                self.view_wanted = true;
                step.view_after(step.cx.policies.cadence.slow(step.cx.jitter));
            }
        }
    }

    fn view_faulted(&mut self, cause: Cause, words: String, step: &mut Step<'_>) {
        self.view_wanted = true;
        self.view_faults.met(cause, words, step);
    }

    fn relisted(&mut self, files: Vec<PartListing>, step: &mut Step<'_>) {
        let listed: BTreeSet<_> = files.iter().map(|file| file.file_id.clone()).collect();
        let known = self.parts.len();
        self.merge(files, &mut Kept::default(), step);
        if self.parts.len() > known {
            step.notify(self.listed());
        }
        let waiting = self.parts.iter().filter(|(_, part)| part.state == PartState::AwaitingView);
        let waiting: Vec<_> = waiting.map(|(key, _)| key.clone()).collect();
        for key in waiting {
            if listed.contains(&key.file_id) {
                // The listing may be ahead of the store: it is tried again, less and less often.
                if let Some(part) = self.parts.get_mut(&key) {
                    part.failures = part.failures.saturating_add(1);
                    self.tally.moves(part, PartState::Waiting);
                    let delay = step.backoff(part.failures);
                    step.order(Command::RetryPartAfter(key, delay));
                }
            } else {
                let part = format!("part {} is gone and the API no longer lists it", key.number);
                let words = format!("{part}; the export continues without it");
                step.notify(Notice::Surprise { words });
                if let Some(part) = self.parts.remove(&key) {
                    self.tally.leaves(&part);
                }
            }
        }
    }

    /// The file ID is the identity; a known part keeps its number.
    pub(super) fn merge(&mut self, files: Vec<PartListing>, kept: &mut Kept, step: &mut Step<'_>) {
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
                step.order(Command::QueuePart(key.clone()));
            }
            self.add(key, Part::queued(file.declared_bytes, partial.map(|partial| partial.point)));
        }
    }

    fn doom(
        &mut self,
        kind: FailureKind,
        cause: String,
        error_code: Option<String>,
        step: &Step<'_>,
    ) {
        self.view_wanted = false;
        self.doomed.get_or_insert(step.failure(kind, cause, error_code));
    }

    /// A second view comes after the shortest interval; requests for one share it.
    pub(super) fn want_view(&mut self, step: &mut Step<'_>) {
        if !self.view_wanted && self.doomed.is_none() {
            self.view_wanted = true;
            step.view_after(step.soonest());
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
