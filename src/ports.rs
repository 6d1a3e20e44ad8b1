//! What the engine needs of the outside: a place for the bytes ([`Sink`]) and a memory across
//! restarts ([`Ledger`]). Each implementation has to pass the suite beside it.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::runtime::Handle;

use crate::domain::checksum::{Algorithm, PromisedChecksum};
use crate::domain::failure::Failure;
use crate::domain::ids::{ExportId, ExportKey, ExportPath, ProjectDigest, ProjectName};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::report::RemoteStatus;
use crate::domain::resume::{Plan, Prefix, ResumablePart};
use crate::domain::stage::PauseScope;
use crate::domain::watch::{PartOrder, Totals};

/// Why a sink did not do something, in words that are safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkFault {
    /// Something that is not ours has the name. It stays untouched, and the export fails.
    #[error("{0}")]
    Conflict(String),
    /// Another upload is writing under this name, until that upload has ended.
    #[error("{0}")]
    Busy(String),
    /// The sink takes no file of this size now. Others may fit.
    #[error("{0}")]
    TooLarge(String),
    /// The bytes are not the promised ones, or their place was lost: fetch the part again.
    #[error("{0}")]
    Mismatch(String),
    /// The sink cannot be used now. Everything waits until [`Sink::health`] is good.
    #[error("{0}")]
    Unavailable(String),
}

/// Where the files of exports go.
///
/// A file appears under its name whole, or not at all, and nothing is ever overwritten. What a
/// method has confirmed survives a crash and a power cut. The manifest of an export appears last.
/// A method may be called again after any outcome.
pub trait Sink: Clone + Send + Sync + 'static {
    type Upload: Upload<Finished = Self::Finished>;
    type Finished: Finished;

    /// The same sink; what makes it wait happens on the threads of this runtime.
    #[must_use]
    fn on(&self, runtime: &Handle) -> Self;

    /// Makes an export ready for its parts, and finds out what is there already. `unrecorded` are
    /// the listed parts that the ledger does not know. What an earlier run left of other parts is
    /// removed.
    fn prepare(
        &self,
        at: &ExportPath,
        unrecorded: &[PartOrder],
    ) -> impl Future<Output = Result<Prepared, SinkFault>> + Send;

    /// Begins a part. If the bytes before a continuation are gone, it starts over: [`Upload::plan`]
    /// says which. A small part from its start may block the calling thread until it is finished.
    fn begin(
        &self,
        at: &ExportPath,
        order: &PartOrder,
        plan: &Plan,
    ) -> impl Future<Output = Result<Self::Upload, SinkFault>> + Send;

    /// Gives each part of a group its name. A file that has the name already counts as the part if
    /// it has the same bytes. The outcomes are in the order of the group.
    fn publish(
        &self,
        group: Vec<Self::Finished>,
    ) -> impl Future<Output = Vec<Result<CommittedPart, SinkFault>>> + Send;

    /// Writes a document of an export whose parts have all ended. Nothing is left of unfinished
    /// parts after that. A new manifest is written only if every part that it lists is there. A
    /// conflict if anything but an equal document has the name or, for a
    /// notice, anything but a notice of this export.
    fn put(
        &self,
        at: &ExportPath,
        document: Document,
    ) -> impl Future<Output = Result<Put, SinkFault>> + Send;

    /// Removes the notice of a failure, if there is one. A conflict if it is not ours.
    fn remove_notice(&self, at: &ExportPath) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// The manifests of these exports of a project, or of all its exports if none are named. An
    /// export without a manifest is left out. One that cannot be read is a fault in the list.
    fn manifests(
        &self,
        project: &ProjectName,
        only: Option<Vec<ExportId>>,
    ) -> impl Future<Output = Result<Vec<FoundManifest>, SinkFault>> + Send;

    /// Removes what is unfinished of an export, and then the notice of a failure, which is a
    /// conflict if it is not ours. Finished parts and the manifest stay.
    fn forget(&self, at: &ExportPath) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// Bytes that can still be written, the reserve included; `None` if the sink has no such limit.
    fn free_bytes(&self) -> impl Future<Output = Result<Option<u64>, SinkFault>> + Send;

    /// Bytes of [`Sink::free_bytes`] that are never used.
    fn reserve_bytes(&self) -> u64;

    /// Whether the sink can take a part of so many bytes. Writes something to find out.
    fn health(&self, room_bytes: u64) -> impl Future<Output = Result<(), SinkFault>> + Send;
}

/// A part being written. If it is dropped, nothing of it is used again.
pub trait Upload: Send + Sized + 'static {
    type Finished: Finished;

    /// What it is ready for; may be [`Plan::FromStart`] when a continuation was wanted.
    fn plan(&self) -> &Plan;

    fn bytes(&self) -> u64;

    /// Bytes of the sink's room that the part occupies already, written or not.
    fn allocated_bytes(&self) -> u64;

    /// Names the checksums to compute, before the first byte. Checks the bytes of a continuation.
    fn arm(
        &mut self,
        algorithms: &[Algorithm],
    ) -> impl Future<Output = Result<Armed, SinkFault>> + Send;

    /// Appends. After a fault [`Upload::keep`] may still save what was written before.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// Begins to make durable what was written, while more is written: a prefix that can be
    /// continued after a crash, or `None`. If the future fails, discard the upload.
    fn checkpoint(&mut self) -> Option<BoxFuture<'static, Result<Prefix, SinkFault>>>;

    /// Drops every byte and starts over; [`Upload::arm`] comes again.
    fn restart(self) -> impl Future<Output = Result<Self, SinkFault>> + Send;

    /// Leaves what was written for a later upload; `None` if nothing can be continued.
    fn keep(self) -> impl Future<Output = Result<Option<Prefix>, SinkFault>> + Send;

    fn discard(self) -> impl Future<Output = ()> + Send;

    /// Checks the part against its declared length and the promised checksums; a mismatch leaves
    /// nothing. The caller knows that the body's framing was complete.
    fn finish(
        self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> impl Future<Output = Result<Self::Finished, SinkFault>> + Send;
}

/// A part that is complete and checked, and has no name yet. A dropped one is never used again.
pub trait Finished: Send + Sized + 'static {
    /// Whether it costs its group little. Any other part is synced by itself first.
    fn syncs_with_group(&self) -> bool;

    /// Does what can be done before the part has its name.
    fn sync(self) -> impl Future<Output = Result<Self, SinkFault>> + Send;
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Finished parts that the ledger does not know: record them, do not fetch them.
    pub adopted: Vec<CommittedPart>,
    /// Parts whose names something else has, and what; it stays untouched.
    pub conflicts: Vec<(PartKey, String)>,
    /// The resume points that still have their bytes.
    pub resumable: Vec<ResumablePart>,
    /// Bytes that can still be written above the reserve; `None` if the sink has no such limit.
    pub room_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Armed {
    Ready,
    /// The bytes are not those of the resume point: start over.
    OtherBytes,
}

/// A small file beside the parts of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Manifest(Arc<str>),
    /// The manifest that an earlier run was writing. If a consumer has taken all, it stays away.
    RecordedManifest(Arc<str>),
    /// Says why the export failed. It replaces an earlier notice of the same export.
    Notice(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Written,
    /// Nothing was written: these parts are gone, and there was no manifest yet to take them by.
    PartsGone(Vec<PartKey>),
    /// These bytes were there, or another manifest of the same files.
    AlreadyThere,
    /// Neither the manifest nor any part is left: a consumer took them.
    Taken,
}

/// A manifest that was found, and its export.
pub type FoundManifest = Result<(ExportId, Found), SinkFault>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A manifest of this export. Every file that is still there has the length it says.
    Whole { totals: Totals, sealed_at: Timestamp },
    /// It is not valid; why, in words.
    Rejected(String),
}

/// Who may write. Each claim gets a higher one than every claim before it, across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Why a ledger did not do something, in words that say what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerFault {
    /// Another process has claimed it since. No write of this epoch will succeed again.
    #[error(
        "another process has claimed the state (its claim is {}, the one of this process {})",
        .holder.0, .epoch.0
    )]
    Refused { epoch: Epoch, holder: Epoch },
    #[error("{0}")]
    Unavailable(String),
    /// It holds what this program never writes. Nothing was changed in it.
    #[error("{0}")]
    Corrupt(String),
    /// A later version of this program has written it.
    #[error("{0}")]
    Newer(String),
}

/// What is known across restarts. A value is one connection; an implementation may have several.
pub trait Ledger: Send + Sized + 'static {
    /// Makes the caller the only one who may write about these projects.
    fn claim(
        &mut self,
        projects: &[ProjectDigest],
    ) -> impl Future<Output = Result<Epoch, LedgerFault>> + Send;

    /// Makes facts durable, in their order, all or none: [`LedgerFault::Refused`] if the epoch is
    /// not that of the last claim. To commit them again changes nothing.
    fn commit(
        &mut self,
        epoch: Epoch,
        facts: &[Fact],
    ) -> impl Future<Output = Result<(), LedgerFault>> + Send;

    /// Everything known of the exports of these projects.
    fn load(
        &mut self,
        projects: &[ProjectDigest],
    ) -> impl Future<Output = Result<Vec<ExportRecord>, LedgerFault>> + Send;

    /// What is known of these exports, at a cost that does not depend on other exports.
    fn load_exports(
        &mut self,
        project: ProjectDigest,
        exports: &[&ExportId],
    ) -> impl Future<Output = Result<Vec<ExportRecord>, LedgerFault>> + Send;

    /// Those of these IDs that are on record in any project, or only those that failed.
    fn find(
        &mut self,
        exports: &BTreeSet<ExportId>,
        only_failed: bool,
    ) -> impl Future<Output = Result<Vec<ExportKey>, LedgerFault>> + Send;

    /// Those of these projects for which [`Fact::Recovered`] is not on record.
    fn unrecovered(
        &mut self,
        projects: &[ProjectDigest],
    ) -> impl Future<Output = Result<Vec<ProjectDigest>, LedgerFault>> + Send;

    /// The pauses on record, with their ends; they may be over.
    fn pauses(
        &mut self,
    ) -> impl Future<Output = Result<HashMap<PauseScope, Timestamp>, LedgerFault>> + Send;

    /// The identity on record of the sink at this place.
    fn sink_identity(
        &mut self,
        place: &str,
    ) -> impl Future<Output = Result<Option<String>, LedgerFault>> + Send;

    fn close(self) -> impl Future<Output = Result<(), LedgerFault>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The API reported this status.
    StatusSeen { export: ExportKey, status: RemoteStatus },
    /// A part is durable under its final name.
    PartCommitted { export: ExportKey, part: CommittedPart },
    /// Every part is committed and the manifest is about to be written.
    Sealing { export: ExportKey, manifest: String },
    /// The manifest is durable. The records of the parts end here.
    Completed { export: ExportKey, parts: u64, bytes: u64, at: Timestamp },
    /// The export failed for good. The records of its parts stay.
    Failed { export: ExportKey, failure: Failure },
    /// The export is watched, for the first time or again after a failure.
    Watching { export: ExportKey },
    /// Nothing is known of the export any longer.
    Forgotten { export: ExportKey },
    /// The first bytes of a part are durable.
    PartialSynced { export: ExportKey, part: ResumablePart },
    /// A pause, which survives a restart.
    Paused { scope: PauseScope, until: Timestamp },
    /// The pause is over.
    PauseEnded { scope: PauseScope },
    /// How to tell the sink at this place from another one.
    SinkIdentified { place: String, identity: String },
    /// The manifests of a project in the sink have all been read.
    Recovered { project: ProjectDigest, at: Timestamp },
}

/// The state in which an export was recorded. The sink may not have a recorded manifest yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedState {
    Watching,
    Sealing { manifest: String },
    Completed { parts: u64, bytes: u64, at: Timestamp },
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRecord {
    pub key: ExportKey,
    pub remote_status: Option<RemoteStatus>,
    pub state: RecordedState,
    /// The committed parts, in part order; empty once it is completed.
    pub parts: Vec<CommittedPart>,
    /// The unfinished parts that can be continued if their bytes still match the record.
    pub partials: Vec<ResumablePart>,
}

/// What a read-only look at a ledger saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Partials only if the ledger has the latest format.
    pub exports: Vec<ExportRecord>,
    /// The pauses on record, with their ends; they may be over.
    pub pauses: HashMap<PauseScope, Timestamp>,
}
