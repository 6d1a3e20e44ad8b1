//! The state machine of one export, from the first poll to a manifest or a failure. Sync, total,
//! without I/O.
//!
//! ```text
//! Polling ──SUCCESS──▶ Fetching ──all parts committed──▶ Sealing ──manifest durable──▶ Completed
//!    │                    │                                 │
//!    └──────ERROR, expired, refused, conflict───────────────┴──▶ Failing ──failed.json durable──▶ Failed
//!    ▲                                                                                             │
//!    └──────────────────────────────────────────retry──────────────────────────────────────────────┘
//! Sealing ──parts are gone, and there is no manifest──▶ Polling
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
pub(crate) mod tests;
mod view_faults;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cadence::{Cadence, spread};
use super::failure::{Failure, FailureKind, PartFailure, ViewOutcome};
use super::ids::{ExportPath, FileId};
use super::manifest::Manifest;
use super::moment::{Moment, Unit};
use super::part::{CommittedPart, PartKey};
use super::report::RemoteStatus;
use super::resume::{ResumablePart, ResumePoint};
use super::retry::RetryPolicy;
use super::stage::Stage;

pub use fetching::Fetching;
pub use part_state::{Part, PartState};
pub use polling::Polling;

#[derive(Debug, Clone, Copy)]
pub struct Policies {
    /// How often to ask while nothing is wrong.
    pub cadence: Cadence,
    pub retry: RetryPolicy,
    /// How long the API is asked about an export that it does not know, before the export fails.
    pub not_found_grace: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct StepContext<'a> {
    pub now: Moment,
    pub jitter: Unit,
    pub policies: &'a Policies,
}

#[derive(Debug)]
pub struct Watch {
    path: ExportPath,
    state: WatchState,
}

#[derive(Debug)]
pub enum WatchState {
    /// Asks the API until it reports SUCCESS or ERROR.
    Polling(Polling),
    /// Downloads the listed parts.
    Fetching(Fetching),
    /// All parts are committed; the manifest is not yet durable.
    Sealing { manifest: Arc<str>, totals: Totals },
    /// Whole. Terminal.
    Completed { totals: Totals, at: Timestamp },
    /// Failed for good; `failed.json` or its record is not yet durable.
    Failing { failure: Failure, kept: Kept },
    /// Failed for good. Terminal until `retry`.
    Failed { failure: Failure, kept: Kept },
}

impl WatchState {
    pub fn stage(&self) -> Stage {
        match self {
            Self::Polling(_) => Stage::Polling,
            Self::Fetching(_) => Stage::Fetching,
            Self::Sealing { .. } => Stage::Sealing,
            Self::Completed { .. } => Stage::Whole,
            Self::Failing { .. } => Stage::Failing,
            Self::Failed { .. } => Stage::Failed,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub parts: u64,
    pub bytes: u64,
}

impl Totals {
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a CommittedPart>) -> Self {
        parts.into_iter().fold(Self::default(), |sum, part| Self {
            parts: sum.parts + 1,
            bytes: sum.bytes.saturating_add(part.bytes),
        })
    }

    pub fn of_manifest(manifest: &Manifest) -> Self {
        // A manifest that was found may say anything of files that are no longer there.
        let bytes = manifest.parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add);
        Self { parts: manifest.parts.len() as u64, bytes }
    }
}

/// Verified parts and what is begun, by file: neither is downloaded again.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    pub committed: BTreeMap<FileId, CommittedPart>,
    pub partials: BTreeMap<FileId, ResumablePart>,
}

#[derive(Debug)]
pub enum WatchEvent {
    Viewed(ViewOutcome),
    /// The API refuses this export alone, not its whole project.
    RejectionConfirmed,
    /// The API refused the whole project, and no longer does.
    RejectionWithdrawn,
    /// Valid files without a record, and parts whose names foreign files have, with the cause.
    Prepared {
        adopted: Vec<CommittedPart>,
        conflicts: Vec<(PartKey, String)>,
    },
    PartStarted(PartKey),
    /// A part's attempt ended. If it succeeded, the file is durable under its final name.
    PartEnded {
        key: PartKey,
        outcome: Result<CommittedPart, PartFailure>,
    },
    /// The first bytes of a part under way are durable.
    PartCheckpointed(ResumablePart),
    PartRetryDue(PartKey),
    Recorded(Recorded),
    ManifestDurable,
    ManifestConflict {
        cause: String,
    },
    /// These parts are gone, and the manifest was not written.
    PartsGone(Vec<PartKey>),
    FailureNoticeDurable,
    Retry,
    FailureNoticeRemoved,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    PartCommitted(PartKey),
    PartialSynced { key: PartKey, bytes: u64 },
    Sealing,
    Completed,
    Failed,
    Watching,
}

#[derive(Debug)]
pub enum Command {
    /// Ask for a view after this delay; replaces an earlier wait.
    ViewAfter(Duration),
    /// Make the folder and look for files in it.
    Prepare,
    /// Give the part a slot when one is free.
    QueuePart(PartKey),
    RetryPartAfter(PartKey, Duration),
    Record(RecordChange),
    Seal(Arc<str>),
    WriteFailureNotice(Failure),
    RemoveFailureNotice,
    Notify(Notice),
}

impl Command {
    /// Whether this begins something new, rather than finish what is under way.
    pub fn begins_work(&self) -> bool {
        match self {
            Self::ViewAfter(_) | Self::Prepare | Self::QueuePart(_) | Self::RetryPartAfter(..) => {
                true
            }
            Self::Record(_) | Self::Seal(_) | Self::Notify(_) => false,
            Self::WriteFailureNotice(_) | Self::RemoveFailureNotice => false,
        }
    }
}

/// A change to the state, which survives restarts. `Sealing` has the manifest's exact text.
#[derive(Debug, Clone)]
pub enum RecordChange {
    StatusSeen(RemoteStatus),
    PartCommitted(CommittedPart),
    PartialSynced(ResumablePart),
    Sealing(Arc<str>),
    Completed { totals: Totals, at: Timestamp },
    Failed(Failure),
    Watching,
}

impl RecordChange {
    /// What the watch is told when the change is durable.
    pub fn recorded(&self) -> Option<Recorded> {
        Some(match self {
            Self::StatusSeen(_) => return None,
            Self::PartCommitted(part) => Recorded::PartCommitted(part.key.clone()),
            Self::PartialSynced(part) => {
                Recorded::PartialSynced { key: part.key.clone(), bytes: part.point.bytes }
            }
            Self::Sealing(_) => Recorded::Sealing,
            Self::Completed { .. } => Recorded::Completed,
            Self::Failed(_) => Recorded::Failed,
            Self::Watching => Recorded::Watching,
        })
    }
}

/// A line for the log. Texts are safe to show. What fails is told once, until the cause changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    StatusChanged { from: Option<RemoteStatus>, to: RemoteStatus },
    PollFailing { cause: String },
    PollRecovered,
    Surprise { words: String },
    PartsListed { parts: u64, bytes: u64, committed: u64, partials: u64 },
    PartFailing { key: PartKey, cause: String },
    PartAbandoned { key: PartKey, cause: String },
    PartCheckpointed { key: PartKey, bytes: u64 },
    PartCommitted(CommittedPart),
    PartsGone(Vec<PartKey>),
    ExportSealed(Totals),
    ExportCompleted(Totals),
    ExportFailed(Failure),
    FailureForgotten,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOrder {
    pub key: PartKey,
    pub declared_bytes: Option<u64>,
    /// Where to continue; `None` from the start.
    pub resume: Option<ResumePoint>,
}

impl Watch {
    pub fn new(path: ExportPath) -> Self {
        Self::with_state(path, WatchState::Polling(Polling::default()))
    }

    pub fn with_state(path: ExportPath, state: WatchState) -> Self {
        Self { path, state }
    }

    pub fn path(&self) -> &ExportPath {
        &self.path
    }

    pub fn state(&self) -> &WatchState {
        &self.state
    }

    pub fn fetching(&self) -> Option<&Fetching> {
        if let WatchState::Fetching(fetching) = &self.state { Some(fetching) } else { None }
    }

    pub fn is_settled(&self) -> bool {
        matches!(self.state, WatchState::Completed { .. } | WatchState::Failed { .. })
    }

    pub fn wants_views(&self) -> bool {
        matches!(self.state, WatchState::Polling(_))
            || self.fetching().is_some_and(Fetching::wants_view)
    }

    /// The order for a queued part, if it may start now.
    pub fn part_order(&self, key: &PartKey) -> Option<PartOrder> {
        self.fetching()?.part_order(key)
    }

    pub fn declared_bytes(&self, key: &PartKey) -> Option<u64> {
        self.fetching()?.part(key)?.declared_bytes
    }

    /// Declared bytes that no room is taken for yet. Parts under way count whole.
    pub fn claimed_bytes(&self) -> u64 {
        let prepared = self.fetching().filter(|fetching| fetching.is_prepared());
        prepared.map_or(0, Fetching::missing_bytes)
    }

    /// What an earlier run left to do at once.
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

    /// The commands that resume an export whose waits and turns were cancelled.
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
        let mut step = Step { cx, commands: Vec::new() };
        let next = match (&mut self.state, event) {
            (WatchState::Polling(polling), event) => polling.step(event, &mut step),
            (WatchState::Fetching(fetching), event) => fetching.step(event, &mut step),
            (WatchState::Sealing { manifest, .. }, WatchEvent::Recorded(Recorded::Sealing)) => {
                step.order(Command::Seal(manifest.clone()));
                None
            }
            (WatchState::Sealing { totals, .. }, WatchEvent::ManifestDurable) => {
                step.notify(Notice::ExportSealed(*totals));
                step.record(RecordChange::Completed { totals: *totals, at: cx.now.wall });
                None
            }
            (WatchState::Sealing { totals, .. }, WatchEvent::Recorded(Recorded::Completed)) => {
                step.notify(Notice::ExportCompleted(*totals));
                Some(Transition::Complete(*totals))
            }
            (WatchState::Sealing { manifest, .. }, WatchEvent::ManifestConflict { cause }) => {
                let failure = step.failure(FailureKind::Conflict, cause, None);
                Some(Transition::Fail(failure, kept_of_manifest(manifest)))
            }
            (WatchState::Sealing { manifest, .. }, WatchEvent::PartsGone(gone)) => {
                let mut kept = kept_of_manifest(manifest);
                kept.committed.retain(|_, part| !gone.contains(&part.key));
                step.notify(Notice::PartsGone(gone));
                Some(Transition::FetchAgain(kept))
            }
            (WatchState::Failing { failure, .. }, WatchEvent::FailureNoticeDurable) => {
                step.record(RecordChange::Failed(failure.clone()));
                None
            }
            (WatchState::Failing { .. }, WatchEvent::Recorded(Recorded::Failed)) => {
                Some(Transition::Settle)
            }
            // First the notice: an export with a notice is still failed, and can be retried again.
            (WatchState::Failed { .. }, WatchEvent::Retry) => {
                step.order(Command::RemoveFailureNotice);
                None
            }
            (WatchState::Failed { kept, .. }, WatchEvent::FailureNoticeRemoved) => {
                Some(Transition::WatchAgain(kept.clone()))
            }
            _ => None,
        };
        if let Some(transition) = next {
            self.enter(transition, &mut step);
        }
        step.commands
    }

    fn enter(&mut self, transition: Transition, step: &mut Step<'_>) {
        self.state = match transition {
            Transition::Fetch(fetching) => {
                step.order(Command::Prepare);
                WatchState::Fetching(*fetching)
            }
            Transition::Seal { facts, parts } => {
                let totals = Totals::of(&parts);
                let manifest = Manifest::seal(self.path.clone(), facts, parts, step.cx.now.wall);
                let manifest: Arc<str> = manifest.to_text().into();
                step.record(RecordChange::Sealing(manifest.clone()));
                WatchState::Sealing { manifest, totals }
            }
            Transition::Complete(totals) => WatchState::Completed { totals, at: step.cx.now.wall },
            Transition::Fail(failure, kept) => {
                step.order(Command::WriteFailureNotice(failure.clone()));
                WatchState::Failing { failure, kept }
            }
            Transition::Settle => {
                match std::mem::replace(&mut self.state, WatchState::Polling(Polling::default())) {
                    WatchState::Failing { failure, kept } => {
                        step.notify(Notice::ExportFailed(failure.clone()));
                        WatchState::Failed { failure, kept }
                    }
                    other => other,
                }
            }
            // By a fresh view, so that parts which vanish each time cost a view each time.
            Transition::FetchAgain(kept) => {
                step.record(RecordChange::Watching);
                step.view_after(step.soonest());
                WatchState::Polling(Polling::resumed(Some(RemoteStatus::Success), kept))
            }
            Transition::WatchAgain(kept) => {
                step.notify(Notice::FailureForgotten);
                step.record(RecordChange::Watching);
                step.view_after(Duration::ZERO);
                WatchState::Polling(Polling::resumed(None, kept))
            }
        };
    }
}

/// What a step is given, and the commands that it leads to.
struct Step<'a> {
    cx: &'a StepContext<'a>,
    commands: Vec<Command>,
}

impl Step<'_> {
    fn order(&mut self, command: Command) {
        self.commands.push(command);
    }

    fn notify(&mut self, notice: Notice) {
        self.order(Command::Notify(notice));
    }

    fn record(&mut self, change: RecordChange) {
        self.order(Command::Record(change));
    }

    fn view_after(&mut self, delay: Duration) {
        self.order(Command::ViewAfter(delay));
    }

    /// The wait after this many faults in a row.
    fn backoff(&self, faults: u32) -> Duration {
        self.cx.policies.retry.delay(faults, self.cx.jitter)
    }

    /// The shortest interval between two views.
    fn soonest(&self) -> Duration {
        spread(self.cx.policies.cadence.min(), self.cx.jitter)
    }

    fn failure(&self, kind: FailureKind, cause: String, error_code: Option<String>) -> Failure {
        Failure { kind, cause, error_code, at: self.cx.now.wall }
    }
}

/// A change of state; [`Watch::enter`] carries it out.
#[derive(Debug)]
enum Transition {
    Fetch(Box<Fetching>),
    Seal { facts: super::report::ReportFacts, parts: Vec<CommittedPart> },
    Complete(Totals),
    Fail(Failure, Kept),
    Settle,
    FetchAgain(Kept),
    WatchAgain(Kept),
}

fn kept_of_manifest(manifest: &str) -> Kept {
    let parts =
        Manifest::parse(manifest.as_bytes()).map(|manifest| manifest.parts).unwrap_or_default();
    let committed =
        parts.into_iter().map(|part| (part.file_id.clone(), CommittedPart::from(part))).collect();
    Kept { committed, partials: BTreeMap::new() }
}
