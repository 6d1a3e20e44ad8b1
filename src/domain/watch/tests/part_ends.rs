//! How an attempt at a part ends without a file: every fault, with and without kept bytes.

use super::*;
use crate::domain::stage::Cause;

/// Where the part resumes, once its turn has come again; `None` if it never does.
fn next_start(driver: &mut Driver, part: &PartKey) -> Option<Option<ResumePoint>> {
    driver.step(WatchEvent::PartRetryDue(part.clone()));
    driver.view(success(&[("a", 1)]));
    driver.step(WatchEvent::PartRetryDue(part.clone()));
    driver.watch.part_order(part).map(|order| order.resume)
}

#[test]
fn each_fault_has_its_way_back_and_its_rule_for_the_bytes() {
    let cause = || "why".to_owned();
    let retried = &["say failing a", "retry a 0.75"][..];
    let with_view = &["say failing a", "retry a 0.75", "view 10.0"][..];
    let host = || "store.example".to_owned();
    let cases = [
        (PartFault::transient("why"), retried, Some(true)),
        (PartFault::Transient { cause: cause(), listing_in_doubt: true }, with_view, Some(true)),
        (PartFault::LinkRefused { cause: cause() }, with_view, Some(true)),
        (
            PartFault::Gone { cause: cause(), error_code: None },
            &["say failing a", "view 10.0"],
            Some(false),
        ),
        (PartFault::Held(Hold::Throttled { retry_after: None }), &["queue a"], Some(true)),
        (PartFault::Held(Hold::Unavailable { retry_after: None }), &["queue a"], Some(true)),
        (PartFault::Held(Hold::Unauthorized { status: 401 }), &["queue a"], Some(true)),
        (PartFault::Held(Hold::KeyReplaced), &["queue a"], Some(true)),
        (PartFault::Held(Hold::RouteNotFound), &["queue a"], Some(true)),
        (
            PartFault::Held(Hold::StoreBusy {
                host: host().into(),
                status: 503,
                retry_after: None,
            }),
            &["queue a"],
            Some(true),
        ),
        (PartFault::Held(Hold::StoreWaits { host: host() }), &["queue a"], Some(true)),
        (PartFault::Held(Hold::Disk { cause: cause() }), retried, Some(false)),
        (
            PartFault::Conflict { cause: cause() },
            &["say abandoned a", "failed.json conflict"],
            None,
        ),
    ];
    for (fault, says, comes_back_with_bytes) in cases {
        for kept in [None, Some(point(5))] {
            let (mut driver, part) = fetching();
            let failure = PartFailure::Failed {
                fault: fault.clone(),
                kept: kept.clone().map(Box::new),
                progressed: false,
            };
            assert_eq!(driver.says(ended(&part, Err(failure))), says, "{fault:?}");
            let expected = comes_back_with_bytes.map(|sound| kept.clone().filter(|_| sound));
            assert_eq!(next_start(&mut driver, &part), expected, "{fault:?}, {kept:?}");
        }
    }
}

#[test]
fn a_part_that_was_stopped_resumes_in_a_later_run_if_bytes_are_kept() {
    for (kept, says) in [(None, &[][..]), (Some(point(5)), &["record partial a"])] {
        let (mut driver, part) = fetching();
        let stopped = PartFailure::Stopped { kept: kept.clone() };
        assert_eq!(driver.says(ended(&part, Err(stopped))), says);
        assert_eq!(next_start(&mut driver, &part), Some(kept));
    }
}

#[test]
fn bytes_that_were_gained_let_the_backoff_start_over() {
    for (progressed, waits) in [(false, "retry a 1.50"), (true, "retry a 0.75")] {
        let (mut driver, part) = fetching();
        driver.step(ended(&part, Err(transient(None))));
        driver.step(WatchEvent::PartRetryDue(part.clone()));
        driver.step(WatchEvent::PartStarted(part.clone()));
        let fault = PartFault::transient("cut");
        let failure = PartFailure::Failed { fault, kept: Some(Box::new(point(5))), progressed };
        assert_eq!(driver.says(ended(&part, Err(failure))), [waits]);
    }
}

/// Whatever its siblings get meanwhile: their success ends the pause, not this part's row.
#[test]
fn answers_that_pause_more_than_a_part_count_for_the_part_as_well() {
    let (mut driver, part) = fetching();
    for _ in 0..3 {
        let busy = Hold::StoreBusy { host: "store.example".into(), status: 503, retry_after: None };
        driver.step(ended(&part, Err(PartFault::Held(busy).into())));
        driver.step(WatchEvent::PartStarted(part.clone()));
    }
    let waits = Hold::StoreWaits { host: "store.example".to_owned() };
    driver.step(ended(&part, Err(PartFault::Held(waits).into())));
    let trouble = driver.watch.fetching().unwrap().part(&part).unwrap().trouble.clone().unwrap();
    assert_eq!(
        (trouble.cause, trouble.attempts),
        (Cause::StoreBusy, 3),
        "it was asked three times"
    );
    assert_eq!(trouble.words, "the store store.example asks for fewer requests (HTTP 503)");
}
