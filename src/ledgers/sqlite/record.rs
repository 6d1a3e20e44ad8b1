//! What the store keeps, as the rest of the program sees it.

use jiff::Timestamp;

use crate::domain::failure::Failure;
use crate::domain::ids::{ExportKey, ProjectDigest};
use crate::domain::part::CommittedPart;
use crate::domain::report::RemoteStatus;
use crate::domain::resume::ResumablePart;
use crate::domain::stage::PauseScope;

/// One fact to be made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The remote status moved.
    StatusSeen {
        /// Of which export.
        export: ExportKey,
        /// To what.
        status: RemoteStatus,
    },
    /// A part is durable under its final name.
    PartCommitted {
        /// Of which export.
        export: ExportKey,
        /// Which part.
        part: CommittedPart,
    },
    /// Every part is committed and the manifest is about to be written.
    Sealing {
        /// Which export.
        export: ExportKey,
        /// The exact bytes of the manifest; JSON, so UTF-8.
        manifest: String,
    },
    /// The manifest is durable. The records of the parts end here.
    Completed {
        /// Which export.
        export: ExportKey,
        /// How many parts it has.
        parts: u64,
        /// How many bytes they have together.
        bytes: u64,
        /// When.
        at: Timestamp,
    },
    /// The export failed for good. The records of its parts stay.
    Failed {
        /// Which export.
        export: ExportKey,
        /// Why.
        failure: Failure,
    },
    /// The export is watched, for the first time or again after a failure.
    Watching {
        /// Which export.
        export: ExportKey,
    },
    /// Nothing is known of the export any more.
    Forgotten {
        /// Which export.
        export: ExportKey,
    },
    /// The first bytes of a partial are durable.
    PartialSynced {
        /// Of which export.
        export: ExportKey,
        /// Which part, and from where it may go on.
        part: ResumablePart,
    },
    /// Something waits as a whole, also over a restart.
    Paused {
        scope: PauseScope,
        /// Until when.
        until: Timestamp,
    },
    /// It waits no longer.
    PauseEnded { scope: PauseScope },
    /// The marker of a download directory.
    Marker {
        /// The directory's path.
        directory: String,
        /// The marker's identity.
        marker: String,
    },
    /// The manifests of a project on disk have all been read.
    Recovered {
        /// Which project.
        project: ProjectDigest,
        /// When.
        at: Timestamp,
    },
}

/// The state in which an export was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedState {
    /// Polled or fetched.
    Watching,
    /// All parts committed; these are the exact bytes of the manifest, which may or may not be on
    /// disk.
    Sealing {
        /// The bytes.
        manifest: String,
    },
    /// Whole.
    Completed {
        /// How many parts it has.
        parts: u64,
        /// How many bytes they have together.
        bytes: u64,
        /// When it was sealed.
        at: Timestamp,
    },
    /// Failed for good.
    Failed(Failure),
}

/// What is known of one export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRecord {
    /// Which export.
    pub key: ExportKey,
    /// The remote status last seen.
    pub remote_status: Option<RemoteStatus>,
    /// Its state.
    pub state: RecordedState,
    /// The committed parts, in part order; empty once it is completed.
    pub parts: Vec<CommittedPart>,
    /// The partials that can be continued, should their bytes still be what the record says.
    pub partials: Vec<ResumablePart>,
}
