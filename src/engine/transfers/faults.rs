//! What each error of the API, the store, the sink and our own tasks means for the part.

use tokio::task::JoinError;

use crate::api::LinkOutcome;
use crate::domain::failure::{Hold, PartFault};
use crate::fetch::{BodyError, FetchRefusal};
use crate::ports::SinkFault;
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
        FetchRefusal::Busy { host, status, retry_after } => {
            PartFault::Held(Hold::StoreBusy { host: host.into(), status, retry_after })
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
        cause: format!("the store {host}: {error}"),
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

/// A conflict concerns one export, and what is wrong with this upload alone passes. Every other
/// fault of the sink concerns the disk.
pub(crate) fn sink_fault(fault: SinkFault) -> PartFault {
    match fault {
        SinkFault::Conflict(cause) => PartFault::Conflict { cause },
        SinkFault::Busy(cause) | SinkFault::TooLarge(cause) | SinkFault::Mismatch(cause) => {
            PartFault::transient(cause)
        }
        SinkFault::Unavailable(cause) => PartFault::Held(Hold::Disk { cause }),
    }
}

pub(super) fn task_fault(error: &JoinError) -> PartFault {
    let how = if error.is_panic() { "panicked" } else { "was stopped" };
    PartFault::transient(format!("the download task {how}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::TransportError;

    #[test]
    fn a_fault_says_whether_it_is_the_listing_the_part_the_store_or_the_disk() {
        let cause = || "why".to_owned();
        let transient =
            |listing_in_doubt| PartFault::Transient { cause: cause(), listing_in_doubt };
        let gone = |error_code| PartFault::Gone { cause: cause(), error_code };
        let retry_after = Some(Duration::from_secs(5));
        let busy = FetchRefusal::Busy { host: cause(), status: 429, retry_after };
        let busy_store = Hold::StoreBusy { host: cause().into(), status: 429, retry_after };
        let refused = |listing_in_doubt| {
            refusal_fault(FetchRefusal::Refused { cause: cause(), listing_in_doubt })
        };
        let disk = PartFault::Held(Hold::Disk { cause: cause() });
        let code = || Some("CODE".to_owned());
        let asked = |outcome| link_of(outcome).unwrap_err();
        for (fault, expected) in [
            (asked(LinkOutcome::Gone { cause: cause(), error_code: code() }), gone(code())),
            (asked(LinkOutcome::Held(Hold::RouteNotFound)), PartFault::Held(Hold::RouteNotFound)),
            (asked(LinkOutcome::Fault(cause())), transient(false)),
            (refusal_fault(FetchRefusal::Gone { cause: cause() }), gone(None)),
            (refusal_fault(busy), PartFault::Held(busy_store)),
            (refused(true), transient(true)),
            (refused(false), transient(false)),
            (refusal_fault(FetchRefusal::Fault { cause: cause() }), transient(false)),
            (refusal_fault(FetchRefusal::LinkRefused { cause: cause() }), transient(false)),
            (refusal_fault(FetchRefusal::StartOver { reason: "why" }), transient(false)),
            (sink_fault(SinkFault::Busy(cause())), transient(false)),
            (sink_fault(SinkFault::Mismatch(cause())), transient(false)),
            (sink_fault(SinkFault::TooLarge(cause())), transient(false)),
            (sink_fault(SinkFault::Conflict(cause())), PartFault::Conflict { cause: cause() }),
            (sink_fault(SinkFault::Unavailable(cause())), disk),
        ] {
            assert_eq!(fault, expected);
        }
    }

    #[tokio::test]
    async fn a_download_that_panicked_is_told_from_one_that_was_stopped() {
        for (panics, expected) in [(true, "panicked"), (false, "was stopped")] {
            let mut tasks = tokio::task::JoinSet::new();
            let task = tasks.spawn(async move {
                assert!(!panics);
                std::future::pending::<()>().await;
            });
            if !panics {
                task.abort();
            }
            let fault = task_fault(&tasks.join_next().await.unwrap().unwrap_err());
            assert_eq!(fault, PartFault::transient(format!("the download task {expected}")));
        }
    }

    #[test]
    fn bytes_of_a_body_that_lies_about_itself_are_not_sound() {
        for (error, sound, listing_in_doubt) in [
            (BodyError::Transport(TransportError::no_request()), true, false),
            (BodyError::Stalled { after: Duration::from_secs(1) }, true, false),
            (BodyError::TooSlow { bytes: 1 }, true, false),
            (BodyError::EndedEarly { bytes: 1, total_bytes: 2 }, true, true),
            (BodyError::TooLong { total_bytes: 2 }, false, true),
            (BodyError::NotJson, false, false),
        ] {
            assert_eq!(is_sound(&error), sound, "{error}");
            let cause = format!("the store store.example: {error}");
            let fault = PartFault::Transient { cause, listing_in_doubt };
            assert_eq!(body_fault("store.example", &error), fault);
        }
    }
}
