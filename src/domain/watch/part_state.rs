//! The state of one part.

use std::time::Duration;

use crate::domain::failure::FailureKind;
use crate::domain::part::CommittedPart;
use crate::domain::resume::ResumePoint;
use crate::domain::wait::Trouble;

/// A part of an export that is being fetched.
#[derive(Debug, Clone)]
pub struct Part {
    pub declared_bytes: Option<u64>,
    pub state: PartState,
    /// Failed attempts in a row, without progress between them: the backoff.
    pub(super) failures: u32,
    /// What has failed in a row, counted anew once an attempt keeps more bytes than before.
    pub trouble: Option<Trouble>,
    /// Since when (on the monotonic clock) the file has been missing, although it is listed.
    pub(super) gone_since: Option<Duration>,
    pub(super) resume: Option<ResumePoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartState {
    /// Waits for a slot.
    Queued,
    /// An attempt is under way.
    Active,
    /// Waits after a failed attempt.
    Waiting,
    /// The file is gone; the next view decides.
    AwaitingView,
    /// Durable under its final name; its record is not yet.
    Recording(CommittedPart),
    /// Durable and recorded. Terminal.
    Committed(CommittedPart),
    /// Will not be tried again. Terminal.
    Abandoned { kind: FailureKind, cause: String, error_code: Option<String> },
}

/// Counts of parts by state: every event needs them, and an export may have 100,000 parts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) in_flight: usize,
    /// Parts that are neither committed nor abandoned.
    pub(super) open: usize,
    /// Open parts that only wait for their record.
    pub(super) recording: usize,
    /// Declared bytes that are still to come.
    pub(super) missing_bytes: u128,
}

impl Tally {
    pub(super) fn enters(&mut self, part: &Part) {
        self.in_flight += usize::from(part.is_in_flight());
        self.open += usize::from(!part.is_terminal());
        self.recording += usize::from(part.is_recording());
        self.missing_bytes += u128::from(part.missing_bytes());
    }

    pub(super) fn leaves(&mut self, part: &Part) {
        self.in_flight -= usize::from(part.is_in_flight());
        self.open -= usize::from(!part.is_terminal());
        self.recording -= usize::from(part.is_recording());
        self.missing_bytes -= u128::from(part.missing_bytes());
    }

    /// The one way in which a part of an export changes.
    pub(super) fn changes(&mut self, part: &mut Part, change: impl FnOnce(&mut Part)) {
        self.leaves(part);
        change(part);
        self.enters(part);
    }

    pub(super) fn moves(&mut self, part: &mut Part, to: PartState) {
        self.changes(part, |part| part.state = to);
    }

    pub(super) fn resumes(&mut self, part: &mut Part, from: Option<ResumePoint>) {
        self.changes(part, |part| part.resume = from);
    }
}

impl Part {
    /// Bytes of earlier attempts that the next attempt continues from.
    pub fn resumable_bytes(&self) -> u64 {
        self.resume.as_ref().map_or(0, |point| point.bytes)
    }

    pub(super) fn queued(declared_bytes: Option<u64>, resume: Option<ResumePoint>) -> Self {
        Self {
            declared_bytes,
            state: PartState::Queued,
            failures: 0,
            trouble: None,
            gone_since: None,
            resume,
        }
    }

    pub(super) fn committed(part: CommittedPart) -> Self {
        Self {
            declared_bytes: part.declared_bytes,
            state: PartState::Committed(part),
            ..Self::queued(None, None)
        }
    }

    /// Whether work is under way that has to be awaited.
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, PartState::Active | PartState::Recording(_))
    }

    /// Declared bytes that are still to come; all of them while an attempt is under way.
    fn missing_bytes(&self) -> u64 {
        let declared_bytes = self.declared_bytes.unwrap_or(0);
        match self.state {
            PartState::Recording(_) | PartState::Committed(_) | PartState::Abandoned { .. } => 0,
            PartState::Active => declared_bytes,
            PartState::Queued | PartState::Waiting | PartState::AwaitingView => {
                declared_bytes.saturating_sub(self.resumable_bytes())
            }
        }
    }

    fn is_recording(&self) -> bool {
        matches!(self.state, PartState::Recording(_))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.state, PartState::Committed(_) | PartState::Abandoned { .. })
    }
}
