//! What those are shown who look.

use super::*;
use crate::domain::stage::{Cause, Wait};
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

fn causes(rig: &Rig) -> Vec<(Cause, Option<String>, Option<String>)> {
    let told = |wait: Wait| (wait.cause, wait.project.map(|name| name.to_string()), wait.subject);
    rig.scheduler.standing().waits.into_iter().map(told).collect()
}

#[tokio::test]
async fn what_is_waited_for_is_told_as_data_and_the_store_that_pauses_longest_by_its_host() {
    let mut rig = rig(&[1, 1], 8);
    assert_eq!(causes(&rig), []);
    std::fs::remove_file(rig.folder.path().join(crate::sinks::local::MARKER_FILE)).unwrap();
    rig.scheduler.folders.doubt_disk(rig.now());
    rig.look_at_the_disk().await;
    let failing = LedgerEvent::Failing { cause: "disk full".to_owned() };
    rig.scheduler.apply(Event::Journal(Some(failing)));
    let held = |hold| ViewOutcome::Held(hold);
    rig.observed(1, held(Hold::Unauthorized { status: 401 }));
    rig.observed(0, held(Hold::Throttled { retry_after: None }));
    for (host, seconds) in [("a.example", 5), ("b.example", 50), ("c.example", 6)] {
        let retry_after = Some(Duration::from_secs(seconds));
        rig.observed(0, held(Hold::StoreBusy { host: host.to_owned(), retry_after }));
    }
    rig.observed(0, held(Hold::Unavailable { retry_after: None }));
    let key = "environment variable NO_SUCH_KEY".to_owned();
    assert_eq!(
        causes(&rig),
        [
            (Cause::Disk, None, None),
            (Cause::State, None, None),
            (Cause::Unavailable, None, None),
            (Cause::StoreBusy, None, Some("b.example".to_owned())),
            (Cause::Throttled, Some("p0".to_owned()), None),
            (Cause::Unauthorized, Some("p1".to_owned()), Some(key)),
        ]
    );
    rig.scheduler.gates.restore(PauseScope::Origin, Duration::ZERO);
    let origin = rig.scheduler.standing().waits.swap_remove(2);
    assert!(origin.is_asking() && origin.until.is_none(), "{origin:?}");
}
