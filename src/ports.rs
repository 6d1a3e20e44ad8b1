//! What the engine needs of the outside: a place for the bytes ([`Sink`]) and a memory across
//! restarts ([`Ledger`]). Implementations live in `sinks` and `ledgers`, and each has to pass the
//! conformance suite beside it.

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
    /// Another upload is writing under this name. It is over when that upload has ended.
    #[error("{0}")]
    Busy(String),
    /// The bytes are not those that were promised, or their place was lost: fetch the part again.
    #[error("{0}")]
    Mismatch(String),
    /// The sink as a whole cannot be used now. Everything waits until [`Sink::health`] is good.
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
    /// the listed parts that the ledger does not know. What an earlier run has left of others is
    /// removed, unless a resume point of `unrecorded` speaks of it.
    ///
    /// # Errors
    /// A conflict when the export as a whole has no place.
    fn prepare(
        &self,
        at: &ExportPath,
        unrecorded: &[PartOrder],
    ) -> impl Future<Output = Result<Prepared, SinkFault>> + Send;

    /// Begins a part. If the plan is to continue and the bytes before that are gone, it starts
    /// over: [`Upload::plan`] says which. A small part from its start may be begun, written and
    /// finished on the calling thread, which then waits for a disk: call this where that may be.
    ///
    /// # Errors
    /// [`SinkFault::Busy`] while the part is being written by another upload.
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

    /// Writes a document of an export whose parts have all come to their end. Nothing is left of
    /// unfinished parts after that.
    ///
    /// # Errors
    /// A conflict when the name is taken by anything but an equal document, or, for a notice, by
    /// anything but a notice of this export.
    fn put(
        &self,
        at: &ExportPath,
        document: Document,
    ) -> impl Future<Output = Result<Put, SinkFault>> + Send;

    /// Removes the notice of a failure. That there is none is no fault.
    ///
    /// # Errors
    /// A conflict when it is not a notice of this export; it stays.
    fn remove_notice(&self, at: &ExportPath) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// The manifests of these exports of a project, or of all its exports if none are named. An
    /// export without a manifest is left out. One that cannot be read is a fault in the list.
    ///
    /// # Errors
    /// When the project cannot be searched at all.
    fn manifests(
        &self,
        project: &ProjectName,
        only: Option<Vec<ExportId>>,
    ) -> impl Future<Output = Result<Vec<FoundManifest>, SinkFault>> + Send;

    /// Removes what is unfinished of an export, and the notice of a failure. Finished parts and the
    /// manifest stay.
    ///
    /// # Errors
    /// A conflict when the notice is not ours; the rest is gone by then.
    fn forget(&self, at: &ExportPath) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// Bytes that can still be written, the reserve included; `None` if the sink has no such limit.
    ///
    /// # Errors
    /// When the sink cannot be asked.
    fn free_bytes(&self) -> impl Future<Output = Result<Option<u64>, SinkFault>> + Send;

    /// Bytes of [`Sink::free_bytes`] that are never used.
    fn reserve_bytes(&self) -> u64;

    /// Whether the sink is fit for a part of so many bytes. Writes something to find out.
    ///
    /// # Errors
    /// When it is not.
    fn health(&self, room_bytes: u64) -> impl Future<Output = Result<(), SinkFault>> + Send;
}

/// A part being written. If it is dropped, nothing of it is used again.
pub trait Upload: Send + Sized + 'static {
    type Finished: Finished;

    /// What it is ready for; may be [`Plan::FromStart`] when a continuation was wanted.
    fn plan(&self) -> &Plan;

    /// Bytes that it has.
    fn bytes(&self) -> u64;

    /// Bytes of the sink's room that the part has taken already, written or not.
    fn allocated_bytes(&self) -> u64;

    /// Names the checksums to compute, before the first byte. The bytes that are there already are
    /// compared with the resume point.
    fn arm(
        &mut self,
        algorithms: &[Algorithm],
    ) -> impl Future<Output = Result<Armed, SinkFault>> + Send;

    /// Appends. After a fault [`Upload::keep`] may still save what was written before.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), SinkFault>> + Send;

    /// Begins to make durable what was written, while more is written: the first bytes that a later
    /// upload can continue behind. `None` if this part cannot be continued after a crash. After a
    /// fault of the future the upload has to be discarded.
    fn checkpoint(&mut self) -> Option<BoxFuture<'static, Result<Prefix, SinkFault>>>;

    /// Drops every byte and starts over; [`Upload::arm`] comes again.
    fn restart(self) -> impl Future<Output = Result<Self, SinkFault>> + Send;

    /// Leaves what was written for a later upload; `None` if nothing can be continued.
    fn keep(self) -> impl Future<Output = Result<Option<Prefix>, SinkFault>> + Send;

    fn discard(self) -> impl Future<Output = ()> + Send;

    /// Checks the part against its declared length and the promised checksums. The caller knows
    /// that the body's framing was complete.
    ///
    /// # Errors
    /// [`SinkFault::Mismatch`] if they differ. Nothing of the part is left after a fault.
    fn finish(
        self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> impl Future<Output = Result<Self::Finished, SinkFault>> + Send;
}

/// A part that is complete and checked, and has no name yet. If it is dropped, nothing of it is
/// used again.
pub trait Finished: Send + Sized + 'static {
    /// Whether it costs its group little. Another part has to be synced by itself before.
    fn syncs_with_group(&self) -> bool;

    /// Does what can be done before the part has its name.
    fn sync(self) -> impl Future<Output = Result<Self, SinkFault>> + Send;
}

/// What a sink has of an export.
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

/// What the bytes that are there already turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Armed {
    Ready,
    /// Other bytes than those that the resume point speaks of: start over.
    OtherBytes,
}

/// A small file beside the parts of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Manifest(Arc<str>),
    /// The manifest of an export that was being sealed when an earlier run ended. A consumer may
    /// have taken everything since: then it is not written again.
    RecordedManifest(Arc<str>),
    /// Says why the export failed. It replaces an earlier notice of the same export.
    Notice(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Written,
    /// These bytes were there, or another manifest of the very same files.
    AlreadyThere,
    /// Neither the manifest nor any part is left: it was published, and a consumer took it.
    Taken,
}

/// A manifest that was found, and its export.
pub type FoundManifest = Result<(ExportId, Found), SinkFault>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A manifest of this export, and every file that is still there has the length it says. A file
    /// that is not there was taken by a consumer.
    Whole { totals: Totals, sealed_at: Timestamp },
    /// It cannot be believed; why, in words.
    Rejected(String),
}

/// Who may write. Each claim gets a higher one than every claim before it, across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// Why a ledger did not do something, in words that say what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerFault {
    /// Somebody else has claimed it since. No write of this epoch will ever succeed again.
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

/// What is known across restarts. One value is one way in; an implementation may have several.
pub trait Ledger: Send + Sized + 'static {
    /// Makes the caller the only one who may write about these projects.
    fn claim(
        &mut self,
        projects: &[ProjectDigest],
    ) -> impl Future<Output = Result<Epoch, LedgerFault>> + Send;

    /// Makes facts durable, in their order, all or none. To commit them again changes nothing.
    ///
    /// # Errors
    /// [`LedgerFault::Refused`] if the epoch is not that of the last claim.
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

    /// What is known of these exports. Costs nothing for any other, however many there are.
    fn load_exports(
        &mut self,
        project: ProjectDigest,
        exports: &[&ExportId],
    ) -> impl Future<Output = Result<Vec<ExportRecord>, LedgerFault>> + Send;

    /// Those of these IDs that are on record, in whatever project; if wanted, only those that
    /// failed.
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

    /// What was committed is durable already.
    fn close(self) -> impl Future<Output = Result<(), LedgerFault>> + Send;
}

/// One fact to be made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    StatusSeen {
        export: ExportKey,
        status: RemoteStatus,
    },
    /// A part is durable under its final name.
    PartCommitted {
        export: ExportKey,
        part: CommittedPart,
    },
    /// Every part is committed and the manifest is about to be written.
    Sealing {
        export: ExportKey,
        /// The exact bytes of the manifest; JSON, so UTF-8.
        manifest: String,
    },
    /// The manifest is durable. The records of the parts end here.
    Completed {
        export: ExportKey,
        parts: u64,
        bytes: u64,
        at: Timestamp,
    },
    /// The export failed for good. The records of its parts stay.
    Failed {
        export: ExportKey,
        failure: Failure,
    },
    /// The export is watched, for the first time or again after a failure.
    Watching {
        export: ExportKey,
    },
    /// Nothing is known of the export any longer.
    Forgotten {
        export: ExportKey,
    },
    /// The first bytes of a part are durable.
    PartialSynced {
        export: ExportKey,
        part: ResumablePart,
    },
    /// Something waits as a whole, also over a restart.
    Paused {
        scope: PauseScope,
        until: Timestamp,
    },
    PauseEnded {
        scope: PauseScope,
    },
    /// By what the sink at this place can be told from another one.
    SinkIdentified {
        place: String,
        identity: String,
    },
    /// The manifests of a project in the sink have all been read.
    Recovered {
        project: ProjectDigest,
        at: Timestamp,
    },
}

/// The state in which an export was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedState {
    /// Polled or fetched.
    Watching,
    /// All parts committed; these are the exact bytes of the manifest, which the sink may or may
    /// not have.
    Sealing {
        manifest: String,
    },
    Completed {
        parts: u64,
        bytes: u64,
        at: Timestamp,
    },
    Failed(Failure),
}

/// What is known of one export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRecord {
    pub key: ExportKey,
    /// The remote status last seen.
    pub remote_status: Option<RemoteStatus>,
    pub state: RecordedState,
    /// The committed parts, in part order; empty once it is completed.
    pub parts: Vec<CommittedPart>,
    /// The unfinished parts that can be continued if their bytes still are what the record says.
    pub partials: Vec<ResumablePart>,
}

/// What a look at a ledger saw that nobody has opened for writing.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Partials only if the ledger has the latest format.
    pub exports: Vec<ExportRecord>,
    /// The pauses on record, with their ends; they may be over.
    pub pauses: HashMap<PauseScope, Timestamp>,
}
