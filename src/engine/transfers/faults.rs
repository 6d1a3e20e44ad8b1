//! What each error of the API, the store, the sink and our own tasks means for the part.

use tokio::task::JoinError;

use crate::api::LinkOutcome;
use crate::domain::failure::{Hold, PartFault};
use crate::fetch::{BodyError, FetchRefusal};
use crate::sinks::local::{CommitError, SinkError};
use crate::transport::Link;

pub(super) fn link_of(outcome: LinkOutcome) -> Result<Link, PartFault> {
    match outcome {
        LinkOutcome::Link(link) => Ok(link),
        LinkOutcome::Gone { cause, error_code } => Err(PartFault::Gone { cause, error_code }),
        LinkOutcome::Held(hold) => Err(PartFault::Held(hold)),
        LinkOutcome::Fault(cause) => Err(PartFault::transient(cause)),
    }
}

pub(super) fn refusal_fault(refusal: FetchRefusal) -> PartFault {
    match refusal {
        FetchRefusal::Gone { cause } => PartFault::Gone { cause, error_code: None },
        FetchRefusal::Busy { host, retry_after } => {
            PartFault::Held(Hold::StoreBusy { host, retry_after })
        }
        FetchRefusal::Refused { cause, listing_in_doubt } => {
            PartFault::Transient { cause, listing_in_doubt }
        }
        FetchRefusal::Fault { cause } | FetchRefusal::LinkRefused { cause } => {
            PartFault::transient(cause)
        }
        FetchRefusal::StartOver { reason } => PartFault::transient(reason),
    }
}

pub(super) fn body_fault(host: &str, error: &BodyError) -> PartFault {
    PartFault::Transient {
        cause: format!("{host}: {error}"),
        listing_in_doubt: matches!(error, BodyError::TooLong { .. } | BodyError::EndedEarly { .. }),
    }
}

/// Whether the bytes that came before the error are bytes of the file.
pub(super) fn is_sound(error: &BodyError) -> bool {
    match error {
        BodyError::Transport(_)
        | BodyError::Stalled { .. }
        | BodyError::TooSlow { .. }
        | BodyError::EndedEarly { .. } => true,
        BodyError::TooLong { .. } | BodyError::NotJson => false,
    }
}

/// A conflict concerns one export. Every other error of the sink concerns the disk.
pub(super) fn sink_fault(error: &SinkError) -> PartFault {
    let cause = error.to_string();
    if error.is_conflict() {
        PartFault::Conflict { cause }
    } else if error.is_busy() {
        PartFault::transient(cause)
    } else {
        PartFault::Held(Hold::Disk { cause })
    }
}

/// Why a part that has all its bytes was not committed.
pub(crate) fn commit_fault(error: &CommitError) -> PartFault {
    match error {
        CommitError::Mismatch(cause) => PartFault::transient(cause),
        CommitError::Conflict(cause) => PartFault::Conflict { cause: cause.clone() },
        CommitError::Disk(error) => sink_fault(error),
    }
}

pub(super) fn task_fault(error: &JoinError) -> PartFault {
    let how = if error.is_panic() { "panicked" } else { "was stopped" };
    PartFault::transient(format!("the download task {how}"))
}
