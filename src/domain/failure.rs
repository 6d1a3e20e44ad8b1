//! What can go wrong, classified by what the program does about it.

use std::time::Duration;

use jiff::Timestamp;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use super::resume::ResumePoint;

/// Why an export ended without becoming whole. Stays until someone says `retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// For people; already safe to show. Does not repeat `error_code`.
    pub cause: String,
    /// The API's own `error_code`, if it sent one; already safe to show.
    pub error_code: Option<String>,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    RemoteError,
    /// The API no longer knows an export that it had finished.
    Expired,
    /// The API has not known the export for longer than the grace.
    NotFound,
    Rejected,
    /// A file that is not ours has the name of a part or of the manifest.
    Conflict,
    /// The export is listed, but one of its files is gone.
    PartGone,
}

impl FailureKind {
    /// The word used in `failed.json` and the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RemoteError => "remote_error",
            Self::Expired => "expired",
            Self::NotFound => "not_found",
            Self::Rejected => "rejected",
            Self::Conflict => "conflict",
            Self::PartGone => "part_gone",
        }
    }

    /// What a person can do, and whether a retry is part of it.
    pub fn advice(self) -> (&'static str, bool) {
        match self {
            Self::RemoteError | Self::PartGone => {
                ("start the export again in Batch, and replace its ID in the configuration", false)
            }
            Self::Expired => (
                "Batch no longer has the export: start it again there, and replace its ID in the \
                 configuration",
                false,
            ),
            Self::NotFound => {
                ("check the ID and the project_key of its project, then retry the export", true)
            }
            Self::Rejected => ("check the ID, then retry the export", true),
            Self::Conflict => {
                ("move the foreign file to another folder, then retry the export", true)
            }
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::deserialize(StrDeserializer::<serde::de::value::Error>::new(word)).ok()
    }
}

/// The cause of a failure that both polling and fetching can find.
pub(super) const EXPIRED: &str =
    "the export expired before all parts were downloaded: the API no longer knows it";

/// The API's own refusal: a JSON error with a code. Both texts are already safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiRefusal {
    pub status: u16,
    pub code: String,
    /// `error_message`, empty if it is missing.
    pub message: String,
}

impl ApiRefusal {
    /// `what` with the status, the API's code and its message.
    pub fn words(&self, what: &str) -> String {
        self.with_message(format!("{what} (HTTP {}, {})", self.status, self.code))
    }

    /// As [`ApiRefusal::words`], without the code: a [`Failure`] shows it in a field of its own.
    pub fn cause(&self, what: &str) -> String {
        self.with_message(format!("{what} (HTTP {})", self.status))
    }

    fn with_message(&self, words: String) -> String {
        match self.message.as_str() {
            "" => words,
            message => format!("{words}: {message}"),
        }
    }
}

/// Why more than the one call that found out has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// 429: the project waits.
    Throttled { retry_after: Option<Duration> },
    /// 503: the whole API origin waits.
    Unavailable { retry_after: Option<Duration> },
    /// 401 or 403: the project's key waits and is probed slowly.
    Unauthorized { status: u16 },
    /// 401 or 403 for a key that is no longer in use: nothing waits, and the call is made again.
    KeyReplaced,
    /// The API does not know the route: `base_url` is wrong, the origin waits.
    RouteNotFound,
    /// 429 or 503 from an object store: that host waits.
    StoreBusy { host: Box<str>, status: u16, retry_after: Option<Duration> },
    /// The part's store already waits; it was not asked.
    StoreWaits { host: String },
    /// The disk: downloads wait, and it is checked again every few seconds.
    Disk { cause: String },
}

impl Hold {
    /// What was answered, in words that are safe to show; `None` if that is known from elsewhere,
    /// or if nobody was asked.
    pub fn words(&self) -> Option<String> {
        match self {
            Self::Throttled { .. } => Some("the API asks for fewer requests (HTTP 429)".to_owned()),
            Self::Unavailable { .. } => Some("the API is unavailable (HTTP 503)".to_owned()),
            Self::Unauthorized { status } => {
                let proxy = if *status == 403 { ", which a proxy may send as well" } else { "" };
                Some(format!("the API refuses the REST API key (HTTP {status}{proxy})"))
            }
            Self::RouteNotFound => {
                Some("the API does not know the route: check base_url in [api]".to_owned())
            }
            Self::StoreBusy { host, status, .. } => {
                Some(format!("the store {host} asks for fewer requests (HTTP {status})"))
            }
            Self::KeyReplaced | Self::StoreWaits { .. } | Self::Disk { .. } => None,
        }
    }
}

/// What a call to the API says about one export.
#[derive(Debug)]
pub struct Observation {
    pub export: super::ids::ExportId,
    pub outcome: ViewOutcome,
}

#[derive(Debug, Clone)]
pub enum ViewOutcome {
    /// A well-formed answer for the export that was asked for.
    Report(super::report::Report),
    NotFound(ApiRefusal),
    /// 400 or another 4xx with the API's own error.
    Rejected(ApiRefusal),
    /// Nothing was learnt about this export; the hold says what waits.
    Held(Hold),
    /// A passing fault, in words that are safe to show.
    Fault(String),
}

/// What went wrong with a part. Causes are in words and safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartFault {
    /// The same part is tried again after a backoff, with a fresh view if the listing is in doubt.
    Transient { cause: String, listing_in_doubt: bool },
    /// The store refused three fresh links in a row.
    LinkRefused { cause: String },
    /// The file is gone, according to the store (404) or the API (its own 4xx, with its code).
    Gone { cause: String, error_code: Option<String> },
    /// The part did nothing wrong; the hold says what waits.
    Held(Hold),
    /// A file that is not ours has the final name.
    Conflict { cause: String },
}

/// How an attempt at a part ended, if it did not commit its file. The next one resumes from `kept`,
/// and its backoff starts over if this one `progressed`, that is, gained bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartFailure {
    Failed { fault: PartFault, kept: Option<Box<ResumePoint>>, progressed: bool },
    Stopped { kept: Option<ResumePoint> },
}

impl PartFault {
    /// A passing fault that says nothing about the listing.
    pub fn transient(cause: impl Into<String>) -> Self {
        Self::Transient { cause: cause.into(), listing_in_doubt: false }
    }

    /// Whether the part's bytes on disk can still be trusted, and are still wanted.
    pub fn spares_bytes(&self) -> bool {
        match self {
            Self::Transient { .. } | Self::LinkRefused { .. } => true,
            Self::Held(hold) => !matches!(hold, Hold::Disk { .. }),
            Self::Gone { .. } | Self::Conflict { .. } => false,
        }
    }
}

impl PartFailure {
    /// Whether the attempt failed by a fault that may come again with other parts.
    pub fn is_faulted(&self) -> bool {
        let Self::Failed { fault, .. } = self else { return false };
        matches!(fault, PartFault::Transient { .. } | PartFault::LinkRefused { .. })
    }

    /// What has to wait, if that is what ended the attempt.
    pub fn hold(&self) -> Option<&Hold> {
        let Self::Failed { fault: PartFault::Held(hold), .. } = self else { return None };
        Some(hold)
    }
}

impl From<PartFault> for PartFailure {
    fn from(fault: PartFault) -> Self {
        Self::Failed { fault, kept: None, progressed: false }
    }
}
