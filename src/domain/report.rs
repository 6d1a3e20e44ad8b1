//! What one poll said about an export: untrusted data, already of the right shape.

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::ids::{ExportId, FileId};

/// The status the API reports for an export request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteStatus {
    /// Accepted, not yet pending.
    Created,
    /// Ready to execute.
    Pending,
    /// Being produced.
    Running,
    /// Finished; `files` can be fetched.
    Success,
    /// Ended without a result.
    Error,
    /// A word that was not in the API's documentation when this was written; safe to show.
    Unrecognized(String),
}

impl RemoteStatus {
    /// Reads the API's word. An unknown one is escaped and cut.
    pub fn parse(word: &str) -> Self {
        match word {
            "CREATED" => Self::Created,
            "PENDING" => Self::Pending,
            "RUNNING" => Self::Running,
            "SUCCESS" => Self::Success,
            "ERROR" => Self::Error,
            other => Self::Unrecognized(super::text::shown(other, &[])),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Created => "CREATED",
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Success => "SUCCESS",
            Self::Error => "ERROR",
            Self::Unrecognized(word) => word,
        }
    }
}

/// One file of an export, as a view lists it. Its `url` is not kept: the ID is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartListing {
    pub file_id: FileId,
    /// The part number, from 1, if the API gave one.
    pub number: Option<u32>,
    pub declared_bytes: Option<u64>,
}

/// What a report says about an export besides its status and files; goes into the manifest.
#[derive(Debug, Clone, Default)]
pub struct ReportFacts {
    /// PROFILE_ATTRIBUTES or PROFILE_EVENTS, verbatim.
    pub scope: Option<String>,
    /// The export request's definition, verbatim JSON.
    pub request: Option<Box<RawValue>>,
    pub request_date: Option<Timestamp>,
    pub start_date: Option<Timestamp>,
    pub completion_date: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct Report {
    pub export: ExportId,
    pub status: RemoteStatus,
    /// The files; `None` if the field is absent or null. Rows with equal IDs are already merged.
    pub files: Option<Vec<PartListing>>,
    pub facts: ReportFacts,
}
