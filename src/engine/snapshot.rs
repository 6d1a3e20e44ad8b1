//! The read model: what is going on, as one immutable value on a watch channel. Readers clone it,
//! nobody locks.

use std::sync::Arc;

use crate::domain::ids::{ExportId, ProjectName};

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The exports, in configuration order.
    pub exports: Vec<ExportView>,
    /// Parts in flight.
    pub slots_in_use: usize,
}

/// One export at one moment.
#[derive(Debug, Clone)]
pub struct ExportView {
    /// Its project.
    pub project: ProjectName,
    /// Its ID.
    pub export: ExportId,
    /// Where it stands.
    pub phase: Phase,
}

/// Where an export stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The API is asked.
    Polling {
        /// Its last word, if it said one.
        remote_status: Option<Arc<str>>,
    },
    /// Parts are on their way.
    Fetching(FetchProgress),
    /// The manifest is being written.
    Sealing,
    /// Whole.
    Completed {
        /// Number of parts.
        parts: u64,
        /// Bytes of all parts.
        bytes: u64,
    },
    /// Failed for good.
    Failed {
        /// Why, in words.
        cause: Arc<str>,
    },
}

/// How far the parts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// Parts committed.
    pub parts_done: u64,
    /// Parts listed.
    pub parts_total: u64,
    /// Bytes on disk, partials included.
    pub bytes_done: u64,
    /// Bytes declared by the API.
    pub bytes_total: u64,
}
