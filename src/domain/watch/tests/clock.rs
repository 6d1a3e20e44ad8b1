//! The wall clock names moments and decides nothing: whatever it jumps to, every wait is the same.

use super::*;

/// What a watch does during faults, a grace and a fetch, by this wall clock.
fn told_by(wall: impl Fn(i64) -> i64) -> Vec<Vec<String>> {
    let mut d = Driver::new();
    let policies = policies();
    let part = key("a", 1);
    let not_found = || WatchEvent::Viewed(ViewOutcome::NotFound(refusal("EXPORT_NOT_FOUND")));
    let fault = || WatchEvent::Viewed(ViewOutcome::Fault("cut".to_owned()));
    let cut = PartFault::transient("cut").into();
    let events = [
        not_found(),
        not_found(),
        WatchEvent::Viewed(report("RUNNING", None)),
        fault(),
        fault(),
        WatchEvent::Viewed(report("RUNNING", None)),
        WatchEvent::Viewed(success(&[("a", 1)])),
        prepared(),
        WatchEvent::PartStarted(part.clone()),
        WatchEvent::PartEnded { key: part.clone(), outcome: Err(cut) },
        WatchEvent::PartRetryDue(part.clone()),
        WatchEvent::PartStarted(part.clone()),
        WatchEvent::PartEnded { key: part.clone(), outcome: Ok(committed(part.clone())) },
        WatchEvent::Recorded(Recorded::PartCommitted(part)),
    ];
    let step = |(number, event): (i64, WatchEvent)| {
        let since_start = Duration::from_secs(30 * u64::try_from(number).unwrap());
        let now = Moment { since_start, wall: Timestamp::from_second(wall(number)).unwrap() };
        let cx = StepContext { now, jitter: Unit::HALF, policies: &policies };
        d.watch.step(event, &cx).iter().map(brief).collect()
    };
    (0..).zip(events).map(step).collect()
}

#[test]
fn whatever_the_wall_clock_jumps_to_every_wait_is_the_same() {
    let steady = told_by(|number| 1_700_000_000 + 30 * number);
    assert!(steady.last().unwrap().contains(&"record sealing".to_owned()), "{steady:#?}");
    let year = 365 * 24 * 3600;
    assert_eq!(told_by(|number| 1_700_000_000 - year * number), steady, "backwards");
    assert_eq!(told_by(|number| 1_700_000_000 + 100 * year * number), steady, "forwards");
    assert_eq!(told_by(|number| 1_700_000_000 + (number % 2) * year), steady, "to and fro");
    assert_eq!(told_by(|_| 0), steady, "stopped in 1970");
}

#[test]
fn the_64th_fault_in_a_row_and_those_after_it_wait_the_longest_time() {
    let mut d = Driver::new();
    for fault in 1..=200_u32 {
        let told = d.view(ViewOutcome::Fault("cut".to_owned()));
        if fault >= 64 {
            assert_eq!(told, ["view 450.0"], "fault {fault}");
        }
    }
}
