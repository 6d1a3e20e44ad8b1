//! The state machine of one export, from the first poll to a manifest or a failure. Sync, total,
//! without I/O.
//!
//! ```text
//! Polling ──SUCCESS──▶ Fetching ──all parts committed──▶ Sealing ──manifest durable──▶ Completed
//!    │                    │                                 │
//!    └──────ERROR, expired, refused, conflict───────────────┴──▶ Failing ──failed.json durable──▶ Failed
//!    ▲                                                                                             │
//!    └──────────────────────────────────────────retry──────────────────────────────────────────────┘
//! ```
//!
//! Events come in, [`Command`]s go out. Every live state has a wake-up under way: a view, a timer,
//! a part, a write.

mod fetching;
mod part_state;
mod polling;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cadence::Cadence;
use super::failure::{Failure, FailureKind, PartFailure, ViewOutcome};
use super::ids::{ExportId, FileId, ProjectName};
use super::manifest::Manifest;
use super::moment::{Moment, Unit};
use super::part::{CommittedPart, PartKey};
use super::report::RemoteStatus;
use super::resume::{ResumablePart, ResumePoint};
use super::retry::RetryPolicy;

pub use fetching::Fetching;
pub use part_state::{Part, PartState};
pub use polling::Polling;

/// The policies that a step follows.
#[derive(Debug, Clone, Copy)]
pub struct Policies {
    /// How often to ask while nothing is wrong.
    pub cadence: Cadence,
    /// How long to wait after a fault.
    pub retry: RetryPolicy,
    /// For how long an unknown export is asked for before it counts as not found.
    pub not_found_grace: Duration,
}

/// What a step is given besides its event.
#[derive(Debug, Clone, Copy)]
pub struct StepContext<'a> {
    /// Now.
    pub now: Moment,
    /// The chance that spreads the delays of this step.
    pub jitter: Unit,
    /// The policies.
    pub policies: &'a Policies,
}

/// One export and what we know of it.
#[derive(Debug)]
pub struct Watch {
    project: ProjectName,
    export: ExportId,
    state: WatchState,
}

/// Where the work on one export stands.
#[derive(Debug)]
pub enum WatchState {
    /// The API is asked until it reports SUCCESS or ERROR.
    Polling(Polling),
    /// The parts are being fetched.
    Fetching(Fetching),
    /// All parts are committed; the manifest is not yet durable.
    Sealing {
        /// The manifest's exact text.
        manifest: Arc<str>,
        /// How many parts, and their bytes together.
        totals: Totals,
    },
    /// Whole. Terminal.
    Completed {
        /// How many parts, and their bytes together.
        totals: Totals,
        /// When the manifest became durable.
        at: Timestamp,
    },
    /// Failed for good; `failed.json` or its record is not yet durable.
    Failing {
        /// Why.
        failure: Failure,
        /// Verified parts, which stay on disk.
        kept: Kept,
    },
    /// Failed for good. Terminal until `retry`.
    Failed {
        /// Why.
        failure: Failure,
        /// Verified parts, which stay on disk.
        kept: Kept,
    },
}

/// Size of an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of parts.
    pub parts: u64,
    /// Bytes of all parts together.
    pub bytes: u64,
}

impl Totals {
    /// The sum over committed parts.
    #[must_use]
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a CommittedPart>) -> Self {
        parts.into_iter().fold(Self::default(), |sum, part| Self {
            parts: sum.parts + 1,
            bytes: sum.bytes.saturating_add(part.bytes),
        })
    }

    #[must_use]
    pub fn of_manifest(manifest: &Manifest) -> Self {
        // A manifest that was found may say anything of files that are no longer there.
        let bytes = manifest.parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add);
        Self { parts: manifest.parts.len() as u64, bytes }
    }
}

/// What earlier work left that must not be fetched again, by file.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Parts that are committed and recorded.
    pub committed: BTreeMap<FileId, CommittedPart>,
    /// Partials that can be continued.
    pub partials: BTreeMap<FileId, ResumablePart>,
}

/// What happened.
#[derive(Debug)]
pub enum WatchEvent {
    /// A view call came back.
    Viewed(ViewOutcome),
    /// The API's refusal of the request holds for this export alone, not for its whole project.
    RejectionConfirmed,
    /// The API's refusal of the request was one of the whole project, and that is over.
    RejectionWithdrawn,
    /// The folder is ready; what was found in it.
    Prepared {
        /// Files without a record that are what they should be.
        adopted: Vec<CommittedPart>,
        /// Names that something foreign holds, with the cause in words.
        conflicts: Vec<(PartKey, String)>,
    },
    /// A part got a slot.
    PartStarted(PartKey),
    /// A part's attempt ended: its file is durable under its final name, or not.
    PartEnded {
        /// Which part.
        key: PartKey,
        /// How.
        outcome: Result<CommittedPart, PartFailure>,
    },
    /// The first bytes of a part under way are durable.
    PartCheckpointed(ResumablePart),
    /// A part's retry wait is over.
    PartRetryDue(PartKey),
    /// A record has become durable.
    Recorded(Recorded),
    /// `manifest.json` is durable.
    ManifestDurable,
    /// Something foreign holds the manifest's name.
    ManifestConflict {
        /// The cause in words.
        cause: String,
    },
    /// `failed.json` is durable.
    FailureNoticeDurable,
    /// Someone asked for a failed export to be tried again.
    Retry,
    /// `failed.json` is gone.
    FailureNoticeRemoved,
}

/// Which record has become durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// A committed part.
    PartCommitted(PartKey),
    /// From where a part can be continued.
    PartialSynced {
        /// Which part.
        key: PartKey,
        /// How many of its bytes are safe.
        bytes: u64,
    },
    /// The manifest's text.
    Sealing,
    /// The end of an export that is whole.
    Completed,
    /// The end of an export that failed.
    Failed,
    /// That a failed export is watched again.
    Watching,
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Ask for a view after this delay; replaces an earlier wait.
    ViewAfter(Duration),
    /// Make the folder and look at what lies in it.
    Prepare,
    /// Give the part a slot when one is free.
    QueuePart(PartKey),
    /// Wake the part after this delay.
    RetryPartAfter(PartKey, Duration),
    /// Write a record.
    Record(RecordChange),
    /// Write `manifest.json`.
    Seal(Arc<str>),
    /// Write `failed.json`.
    WriteFailureNotice(Failure),
    /// Take `failed.json` away.
    RemoveFailureNotice,
    /// Tell people.
    Notify(Notice),
}

impl Command {
    /// Whether this begins something new, rather than bring to its end what is under way.
    #[must_use]
    pub fn begins_work(&self) -> bool {
        match self {
            Self::ViewAfter(_) | Self::Prepare | Self::QueuePart(_) | Self::RetryPartAfter(..) => {
                true
            }
            Self::Record(_)
            | Self::Seal(_)
            | Self::WriteFailureNotice(_)
            | Self::RemoveFailureNotice
            | Self::Notify(_) => false,
        }
    }
}

/// A change to what is known across restarts.
#[derive(Debug, Clone)]
pub enum RecordChange {
    /// The API reported another status.
    StatusSeen(RemoteStatus),
    /// A part is committed.
    PartCommitted(CommittedPart),
    /// A partial is durable up to its resume point.
    PartialSynced(ResumablePart),
    /// All parts are committed; the manifest's exact text.
    Sealing(Arc<str>),
    /// The export is whole.
    Completed {
        /// How many parts, and their bytes together.
        totals: Totals,
        /// When.
        at: Timestamp,
    },
    /// The export failed for good.
    Failed(Failure),
    /// The export is watched again.
    Watching,
}

/// A line for people. Texts are safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The API reports another status than before.
    StatusChanged {
        /// The status before, if any.
        from: Option<RemoteStatus>,
        /// The status now.
        to: RemoteStatus,
    },
    /// Polls of this export fail; said once until the cause changes.
    PollFailing {
        /// Why.
        cause: String,
    },
    /// Polls of this export work again.
    PollRecovered,
    /// The server said something odd that is dealt with; said once.
    Surprise {
        /// What.
        words: String,
    },
    /// The files of a finished export are known.
    PartsListed {
        /// How many.
        parts: u64,
        /// Their declared bytes together.
        bytes: u64,
        /// Parts of them that are on disk and recorded already.
        committed: u64,
        /// Parts of them that an earlier attempt left half done.
        partials: u64,
    },
    /// An attempt at a part failed and will be repeated; said once until the cause changes.
    PartFailing {
        /// Which part.
        key: PartKey,
        /// Why.
        cause: String,
    },
    /// A part will not be tried again.
    PartAbandoned {
        /// Which part.
        key: PartKey,
        /// Why.
        cause: String,
    },
    /// The first bytes of a part are on disk and recorded.
    PartCheckpointed {
        /// Which part.
        key: PartKey,
        /// How many.
        bytes: u64,
    },
    /// A part is on disk and recorded.
    PartCommitted(CommittedPart),
    /// `manifest.json` is in its place.
    ExportSealed(Totals),
    /// The export is whole.
    ExportCompleted(Totals),
    /// The export failed for good.
    ExportFailed(Failure),
    /// The notice of the failure is gone; the export is as if it had never failed.
    FailureForgotten,
}

/// What a part needs to be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOrder {
    /// Which part.
    pub key: PartKey,
    /// Its length, where the API declared one.
    pub declared_bytes: Option<u64>,
    /// From where to go on, if anywhere.
    pub resume: Option<ResumePoint>,
}

impl Watch {
    /// An export that nothing is known of yet.
    #[must_use]
    pub fn new(project: ProjectName, export: ExportId) -> Self {
        Self::with_state(project, export, WatchState::Polling(Polling::default()))
    }

    /// An export in a state that an earlier run has left.
    #[must_use]
    pub fn with_state(project: ProjectName, export: ExportId, state: WatchState) -> Self {
        Self { project, export, state }
    }

    /// The export's ID.
    #[must_use]
    pub fn export(&self) -> &ExportId {
        &self.export
    }

    /// The project's name.
    #[must_use]
    pub fn project(&self) -> &ProjectName {
        &self.project
    }

    /// Where the work stands.
    #[must_use]
    pub fn state(&self) -> &WatchState {
        &self.state
    }

    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.state, WatchState::Completed { .. } | WatchState::Failed { .. })
    }

    /// Whether views of this export are wanted at all.
    #[must_use]
    pub fn wants_views(&self) -> bool {
        match &self.state {
            WatchState::Polling(_) => true,
            WatchState::Fetching(fetching) => fetching.wants_view(),
            _ => false,
        }
    }

    /// The order for a queued part that may start now; `None` where its time is past or not yet
    /// come.
    #[must_use]
    pub fn part_order(&self, key: &PartKey) -> Option<PartOrder> {
        match &self.state {
            WatchState::Fetching(fetching) => fetching.part_order(key),
            _ => None,
        }
    }

    /// The declared length of a part that is being fetched.
    #[must_use]
    pub fn declared_bytes(&self, key: &PartKey) -> Option<u64> {
        match &self.state {
            WatchState::Fetching(fetching) => fetching.declared_bytes(key),
            _ => None,
        }
    }

    /// What an earlier run left to be done at once.
    #[must_use]
    pub fn resume_commands(&self) -> Vec<Command> {
        match &self.state {
            WatchState::Sealing { manifest, .. } => vec![Command::Seal(manifest.clone())],
            WatchState::Failing { failure, .. } => {
                vec![Command::WriteFailureNotice(failure.clone())]
            }
            _ => Vec::new(),
        }
    }

    /// What gets an export going again whose waits and turns were called off; what is under way
    /// comes back by itself.
    #[must_use]
    pub fn wake_commands(&self) -> Vec<Command> {
        match &self.state {
            WatchState::Polling(_) => vec![Command::ViewAfter(Duration::ZERO)],
            WatchState::Fetching(fetching) => fetching.wake_commands(),
            _ => Vec::new(),
        }
    }

    /// Takes one event. Total: an event that does not fit the state is ignored.
    pub fn step(&mut self, event: WatchEvent, cx: &StepContext<'_>) -> Vec<Command> {
        let mut commands = Vec::new();
        let next = match (&mut self.state, event) {
            (WatchState::Polling(polling), event) => polling.step(event, cx, &mut commands),
            (WatchState::Fetching(fetching), event) => fetching.step(event, cx, &mut commands),
            (WatchState::Sealing { manifest, .. }, WatchEvent::Recorded(Recorded::Sealing)) => {
                commands.push(Command::Seal(manifest.clone()));
                None
            }
            (WatchState::Sealing { totals, .. }, WatchEvent::ManifestDurable) => {
                commands.push(Command::Notify(Notice::ExportSealed(*totals)));
                commands.push(Command::Record(RecordChange::Completed {
                    totals: *totals,
                    at: cx.now.wall,
                }));
                None
            }
            (WatchState::Sealing { totals, .. }, WatchEvent::Recorded(Recorded::Completed)) => {
                commands.push(Command::Notify(Notice::ExportCompleted(*totals)));
                Some(Transition::Complete(*totals))
            }
            (WatchState::Sealing { manifest, .. }, WatchEvent::ManifestConflict { cause }) => {
                let failure = Failure {
                    kind: FailureKind::Conflict,
                    cause,
                    error_code: None,
                    at: cx.now.wall,
                };
                Some(Transition::Fail(failure, kept_of_manifest(manifest)))
            }
            (WatchState::Failing { failure, .. }, WatchEvent::FailureNoticeDurable) => {
                commands.push(Command::Record(RecordChange::Failed(failure.clone())));
                None
            }
            (WatchState::Failing { .. }, WatchEvent::Recorded(Recorded::Failed)) => {
                Some(Transition::Settle)
            }
            // The notice first: an export whose notice is still there is still failed, and can be
            // retried once more.
            (WatchState::Failed { .. }, WatchEvent::Retry) => {
                commands.push(Command::RemoveFailureNotice);
                None
            }
            (WatchState::Failed { kept, .. }, WatchEvent::FailureNoticeRemoved) => {
                Some(Transition::WatchAgain(kept.clone()))
            }
            _ => None,
        };
        if let Some(transition) = next {
            self.enter(transition, cx, &mut commands);
        }
        commands
    }

    fn enter(&mut self, transition: Transition, cx: &StepContext<'_>, commands: &mut Vec<Command>) {
        self.state = match transition {
            Transition::Fetch(fetching) => {
                commands.push(Command::Prepare);
                WatchState::Fetching(fetching)
            }
            Transition::Seal { facts, parts } => {
                let totals = Totals::of(&parts);
                let manifest = Manifest::seal(
                    self.project.clone(),
                    self.export.clone(),
                    facts,
                    parts,
                    cx.now.wall,
                );
                let manifest: Arc<str> = manifest.to_text().into();
                commands.push(Command::Record(RecordChange::Sealing(manifest.clone())));
                WatchState::Sealing { manifest, totals }
            }
            Transition::Complete(totals) => WatchState::Completed { totals, at: cx.now.wall },
            Transition::Fail(failure, kept) => {
                commands.push(Command::WriteFailureNotice(failure.clone()));
                WatchState::Failing { failure, kept }
            }
            Transition::Settle => {
                match std::mem::replace(&mut self.state, WatchState::Polling(Polling::default())) {
                    WatchState::Failing { failure, kept } => {
                        commands.push(Command::Notify(Notice::ExportFailed(failure.clone())));
                        WatchState::Failed { failure, kept }
                    }
                    other => other,
                }
            }
            Transition::WatchAgain(kept) => {
                commands.push(Command::Notify(Notice::FailureForgotten));
                commands.push(Command::Record(RecordChange::Watching));
                commands.push(Command::ViewAfter(Duration::ZERO));
                WatchState::Polling(Polling::resumed(None, kept))
            }
        };
    }
}

/// A change of state; what it costs is written once, in [`Watch::enter`].
#[derive(Debug)]
enum Transition {
    Fetch(Fetching),
    Seal { facts: super::report::ReportFacts, parts: Vec<CommittedPart> },
    Complete(Totals),
    Fail(Failure, Kept),
    Settle,
    WatchAgain(Kept),
}

fn kept_of_manifest(manifest: &str) -> Kept {
    let parts =
        Manifest::parse(manifest.as_bytes()).map(|manifest| manifest.parts).unwrap_or_default();
    let committed =
        parts.into_iter().map(|part| (part.file_id.clone(), CommittedPart::from(part))).collect();
    Kept { committed, partials: BTreeMap::new() }
}
