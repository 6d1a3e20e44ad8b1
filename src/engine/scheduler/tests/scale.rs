//! An event costs what it touches, however many projects and exports there are.

use rustix::time::{ClockId, clock_gettime};

use super::*;

/// The processor's time of this thread: what other processes take does not count.
fn cpu() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

/// What a hundred events cost while every project waits for the API with views that are due.
fn cost_of_events(exports_of_projects: &[usize]) -> Duration {
    let mut rig = rig(exports_of_projects, 8);
    let unavailable = Hold::Unavailable { retry_after: Some(Duration::from_hours(1)) };
    rig.scheduler.gates.hold(rig.projects[0], unavailable, rig.now());
    rig.goes_on();
    let round = |status: &str| {
        let began = cpu();
        for export in 0..50 {
            rig.viewed(export, status, 0);
            rig.goes_on();
            assert!(rig.scheduler.wakes_at().is_some());
            assert_eq!(rig.scheduler.finished(), None);
        }
        cpu() - began
    };
    // The best of a few: the machine does other things as well.
    ["PENDING", "RUNNING", "PENDING", "RUNNING"].map(round).into_iter().min().unwrap()
}

#[tokio::test]
async fn an_event_does_not_cost_a_look_at_every_project_or_export() {
    let few = cost_of_events(&[10; 10]);
    let many = cost_of_events(&[50; 1000]);
    assert!(many < few * 10, "{few:?} among 100 exports, {many:?} among 50,000");
}

/// What it costs to take a project out of the configuration whose views are all due.
fn cost_of_leaving(exports: usize) -> Duration {
    let leaving = |_| {
        let mut rig = rig(&[exports], 8);
        rig.all_ask();
        let began = cpu();
        rig.leave(&[0]);
        assert_eq!(rig.scheduler.fleet.counts().watching, 0);
        cpu() - began
    };
    // The best of a few, as above.
    (0..3).map(leaving).min().unwrap()
}

#[tokio::test]
async fn an_export_that_leaves_does_not_cost_a_look_at_those_that_wait() {
    let (few, many) = (cost_of_leaving(1_000), cost_of_leaving(16_000));
    assert!(many < few * 64, "{few:?} for 1,000 exports, {many:?} for 16,000");
}
