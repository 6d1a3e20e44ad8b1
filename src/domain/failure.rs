//! What can go wrong, classified by what the program does about it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Why an export failed. It stays failed until someone runs `retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// For people; already safe to show. Does not repeat `error_code`.
    pub cause: String,
    /// The API's own `error_code`, if it sent one; already safe to show.
    pub error_code: Option<String>,
    pub at: Timestamp,
}

/// The cases in which an export fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The API reports ERROR.
    RemoteError,
    /// The API no longer knows an export that it had finished.
    Expired,
    /// The API has not known the export for longer than the grace.
    NotFound,
    /// The API refuses the request itself.
    Rejected,
    /// A file that is not ours has the name of a part or of the manifest.
    Conflict,
    /// The export is listed, but one of its files is gone.
    PartGone,
}

impl FailureKind {
    /// The word used in `failed.json` and the state.
    #[must_use]
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

    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::RemoteError,
            Self::Expired,
            Self::NotFound,
            Self::Rejected,
            Self::Conflict,
            Self::PartGone,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == word)
    }
}

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
    #[must_use]
    pub fn words(&self, what: &str) -> String {
        self.with_message(format!("{what} (HTTP {}, {})", self.status, self.code))
    }

    /// As [`ApiRefusal::words`], without the code: a [`Failure`] has it in a field of its own, and
    /// it is shown beside the cause.
    #[must_use]
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
    Throttled {
        /// `Retry-After`, if the answer had a usable one.
        retry_after: Option<Duration>,
    },
    /// 503: the whole API origin waits.
    Unavailable {
        /// `Retry-After`, if the answer had a usable one.
        retry_after: Option<Duration>,
    },
    /// 401 or 403: the project's key waits and is probed slowly.
    Unauthorized { status: u16 },
    /// 401 or 403 for a key that is no longer in use: nothing waits, and the call is made again. It
    /// counts as another call in the request budget.
    KeyReplaced,
    /// The API does not know the route: `base_url` is wrong, the origin waits.
    RouteNotFound,
    /// 429 or 503 from an object store: that host waits.
    StoreBusy {
        host: String,
        /// `Retry-After`, if the answer had a usable one.
        retry_after: Option<Duration>,
    },
    /// The part's store already waits; it was not asked.
    StoreWaits { host: String },
    /// The disk: downloads wait, and it is checked again every few seconds.
    Disk { cause: String },
}

#[derive(Debug, Clone)]
pub enum ViewOutcome {
    /// A well-formed answer for the export that was asked for.
    Report(super::report::Report),
    /// 404 with the API's own error.
    NotFound(ApiRefusal),
    /// 400 or another 4xx with the API's own error.
    Rejected(ApiRefusal),
    /// Nothing was learnt about this export; the hold says what waits.
    Held(Hold),
    /// A passing fault, in words that are safe to show.
    Fault(String),
}

/// Why a part did not get committed this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartFailure {
    /// A passing fault: the same part is tried again after a backoff.
    Transient {
        cause: String,
        /// Where the next attempt of this run can continue; the bytes need not be synced.
        resume: Option<super::resume::ResumePoint>,
        /// Whether this attempt gained bytes; then the wait starts over from its shortest.
        progressed: bool,
        /// Whether the answer contradicts the listing; then a fresh view is asked for.
        listing_in_doubt: bool,
    },
    /// The store refused three fresh links in a row.
    LinkRefused { cause: String },
    /// The store (404) or the API (a 4xx with its own error) says that the file no longer exists.
    Gone {
        cause: String,
        /// The API's `error_code`, if the API said it.
        error_code: Option<String>,
    },
    /// The part did nothing wrong; the hold says what waits.
    Held(Hold),
    /// A file that is not ours has the final name.
    Conflict { cause: String },
    /// The program is draining; the partial is synced up to its [`super::resume::ResumePoint`].
    Stopped {
        /// Where a later run may continue.
        resume: Option<super::resume::ResumePoint>,
    },
}
