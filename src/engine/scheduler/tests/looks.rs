//! What those are shown who look.

use super::*;
use crate::domain::moment::Moment;
use crate::domain::stage::Cause;
use crate::domain::wait::{Concern, Wait};
use crate::engine::overview::Overview;

#[tokio::test]
async fn progress_bars_cost_the_first_exports_and_nothing_while_nobody_looks() {
    let mut rig = rig(&[30, 30], 8);
    rig.scheduler.publish();
    assert_eq!(rig.scheduler.audience.next_publish, Duration::ZERO, "nobody looks");
    let bars = rig.scheduler.audience.published.subscribe();
    rig.scheduler.publish();
    let shown = |overview: &Overview| {
        overview.projects.iter().map(|project| project.exports.len()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&bars.borrow()), [30, 10]);
    assert!(rig.scheduler.audience.next_publish > Duration::ZERO);
    assert_eq!(shown(&rig.scheduler.overview(usize::MAX)), [30, 30], "the page shows all");
}

fn causes(rig: &Rig) -> Vec<(Cause, Concern)> {
    let told = |wait: Wait| (wait.cause, wait.concern);
    rig.scheduler.standing().waits.into_iter().map(told).collect()
}

#[tokio::test]
async fn what_is_waited_for_is_told_as_data_and_the_store_that_pauses_longest_by_its_host() {
    let mut rig = rig(&[1, 1], 8);
    assert_eq!(causes(&rig), []);
    std::fs::remove_file(rig.folder.path().join(crate::sinks::local::MARKER_FILE)).unwrap();
    rig.scheduler.folders.doubt_disk(rig.now());
    rig.look_at_the_disk().await;
    let failing =
        LedgerEvent::Failing { cause: "disk full".to_owned(), pause: Duration::from_secs(1) };
    rig.scheduler.apply(Event::Journal(Some(failing)));
    let held = |hold| ViewOutcome::Held(hold);
    rig.observed(1, held(Hold::Unauthorized { status: 401 }));
    rig.observed(0, held(Hold::Throttled { retry_after: None }));
    for (host, seconds) in [("a.example", 5), ("b.example", 50), ("c.example", 6)] {
        let retry_after = Some(Duration::from_secs(seconds));
        rig.observed(0, held(Hold::StoreBusy { host: host.into(), status: 503, retry_after }));
    }
    rig.observed(0, held(Hold::Unavailable { retry_after: None }));
    let place = "environment variable NO_SUCH_KEY".to_owned();
    let [p0, p1] = ["p0", "p1"].map(|name| name.parse().unwrap());
    assert_eq!(
        causes(&rig),
        [
            (Cause::Disk, Concern::Disk),
            (Cause::State, Concern::State),
            (Cause::Unavailable, Concern::Api),
            (Cause::StoreBusy, Concern::Store("b.example".to_owned())),
            (Cause::Throttled, Concern::Project(p0)),
            (Cause::Unauthorized, Concern::Key { project: p1, place }),
        ]
    );
    rig.scheduler.gates.restore(PauseScope::Origin, Duration::ZERO, Duration::ZERO);
    let origin = rig.scheduler.standing().waits.swap_remove(2);
    assert!(origin.is_asking() && origin.next_at.is_none(), "{origin:?}");
}

/// How many exports wait, of each line that is logged this many minutes after the start.
fn told_after(rig: &mut Rig, minutes: u64) -> Vec<usize> {
    let since_start = Duration::from_mins(minutes);
    let clock = Moment { since_start, wall: Timestamp::now() };
    rig.scheduler.lasting_waits(clock).iter().map(|waiting| waiting.exports).collect()
}

#[tokio::test]
async fn what_waits_for_hours_is_told_once_an_hour_for_all_exports_that_wait_for_the_same() {
    let mut rig = rig(&[2, 1], 8);
    for export in 0..2 {
        rig.observed(export, ViewOutcome::Fault("connection refused".to_owned()));
    }
    assert_eq!(told_after(&mut rig, 59), [0; 0]);
    assert_eq!(told_after(&mut rig, 61), [2]);
    assert_eq!(told_after(&mut rig, 120), [0; 0], "an hour is not over");
    assert_eq!(told_after(&mut rig, 121), [2]);
    rig.viewed(0, "RUNNING", 0);
    assert_eq!(told_after(&mut rig, 182), [1]);
    rig.viewed(1, "RUNNING", 0);
    assert_eq!(told_after(&mut rig, 243), [0; 0]);
}
