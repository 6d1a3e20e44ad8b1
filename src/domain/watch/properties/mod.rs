//! Checks the machine's rules in every order of events, in a small world that obeys its commands.

mod world;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{
    committed, ended, gone, key, listing, point, policies, refusal, report, transient,
};
use super::*;
use crate::domain::failure::{Hold, PartFault};
use crate::domain::report::PartListing;
use world::{World, pick};

/// One drawn event: which of the possible ones, its variant, the seconds before it, the jitter.
type Draw = (u8, u8, u16, f64);

fn draws(most: usize) -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec((any::<u8>(), any::<u8>(), 0_u16..2000, 0.0_f64..=1.0), 1..most)
}

fn stage(watch: &Watch) -> &'static str {
    match watch.state() {
        WatchState::Polling(_) => "Polling",
        WatchState::Fetching(_) => "Fetching",
        WatchState::Sealing { .. } => "Sealing",
        WatchState::Completed { .. } => "Completed",
        WatchState::Failing { .. } => "Failing",
        WatchState::Failed { .. } => "Failed",
    }
}

/// Whether the diagram at the head of the module has this arrow.
fn is_drawn(from: &str, to: &str) -> bool {
    from == to
        || matches!(
            (from, to),
            ("Polling", "Fetching" | "Failing")
                | ("Fetching", "Sealing" | "Failing")
                | ("Sealing", "Completed" | "Failing" | "Polling")
                | ("Failing", "Failed")
                | ("Failed", "Polling")
        )
}

fn some_keys() -> Vec<PartKey> {
    let numbers = 1_u32..=4;
    numbers.flat_map(|number| ["a", "b", "c", "d"].map(|id| key(id, number))).collect()
}

fn some_view(how: u8) -> ViewOutcome {
    let numbered = |files: &[(&str, u32)]| {
        let files: Vec<PartListing> =
            files.iter().map(|(id, number)| listing(id, Some(*number))).collect();
        report("SUCCESS", Some(files))
    };
    match how % 20 {
        0 => report(["CREATED", "PENDING", "RUNNING"][usize::from(how / 20) % 3], None),
        1 => report("DREAMING", None),
        2 => report("ERROR", None),
        3 => report("SUCCESS", None),
        4 => report("SUCCESS", Some(vec![])),
        5 | 6 => ViewOutcome::NotFound(refusal("X")),
        7 => ViewOutcome::Rejected(refusal("X")),
        8 => ViewOutcome::Fault("cut".into()),
        9 => ViewOutcome::Held(Hold::RouteNotFound),
        10 => report("SUCCESS", Some(vec![listing("a", None), listing("b", Some(4))])),
        11 => numbered(&[("a", 1), ("c", 3)]),
        12 => numbered(&[("a", 1), ("b", 1)]),
        13 => numbered(&[("b", 1), ("a", 2)]),
        14 => numbered(&[("d", 1)]),
        15 => numbered(&[("a", 1)]),
        _ => numbered(&[("a", 1), ("b", 2), ("c", 3)]),
    }
}

fn some_end(how: u8, key: PartKey) -> Result<CommittedPart, PartFailure> {
    // With bytes that are kept, even if that makes no sense.
    let failed = |fault| {
        let kept = (how >= 128).then(|| Box::new(point(6)));
        Err(PartFailure::Failed { fault, progressed: kept.is_some(), kept })
    };
    match how % 16 {
        0..=5 => Ok(committed(key)),
        6 => Err(transient(None)),
        7 => Err(transient(Some(point(6)))),
        8 => failed(PartFault::Transient { cause: "length".into(), listing_in_doubt: true }),
        9 => failed(PartFault::LinkRefused { cause: "403".into() }),
        10 | 11 => Err(gone()),
        12 => failed(PartFault::Held(Hold::Disk { cause: "full".into() })),
        13 | 14 => failed(PartFault::Held(Hold::StoreWaits { host: "store.example".into() })),
        _ => failed(PartFault::Conflict { cause: "foreign".into() }),
    }
}

/// Any event at all, whether it is true or not.
fn some_event(which: u8, how: u8) -> WatchEvent {
    let part = pick(some_keys(), how / 16).unwrap();
    match which % 18 {
        0 | 1 => WatchEvent::Viewed(some_view(how)),
        2 => WatchEvent::RejectionConfirmed,
        3 => WatchEvent::RejectionWithdrawn,
        4 => WatchEvent::Prepared { adopted: vec![committed(part)], conflicts: vec![] },
        5 => WatchEvent::Prepared { adopted: vec![], conflicts: vec![(part, "foreign".into())] },
        6 => WatchEvent::PartStarted(part),
        7 => ended(&part.clone(), some_end(how, part)),
        8 => WatchEvent::PartCheckpointed(ResumablePart { key: part, point: point(4) }),
        9 => WatchEvent::PartRetryDue(part),
        10 => WatchEvent::Recorded(Recorded::PartCommitted(part)),
        11 => WatchEvent::Recorded(match how % 5 {
            0 => Recorded::Sealing,
            1 => Recorded::Completed,
            2 => Recorded::Failed,
            3 => Recorded::Watching,
            _ => Recorded::PartialSynced { key: part, bytes: 4 },
        }),
        12 => WatchEvent::ManifestDurable,
        13 => WatchEvent::ManifestConflict { cause: "foreign".into() },
        14 => WatchEvent::FailureNoticeDurable,
        15 => WatchEvent::FailureNoticeRemoved,
        16 => WatchEvent::PartsGone(vec![part]),
        _ => WatchEvent::Retry,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    /// Whatever happens in whatever order, with crashes: every live state has a wake-up, nothing
    /// committed is lost or fetched again, nothing is sealed before everything listed is on record,
    /// and every transition is in the diagram.
    #[test]
    fn every_live_state_has_a_wake_up_and_what_is_committed_stays(draws in draws(150)) {
        let mut world = World::new();
        for draw in draws {
            world.happens(draw);
        }
    }

    /// Events that fit no state break nothing; what is whole stays whole.
    #[test]
    fn no_event_breaks_a_rule_in_any_state(draws in draws(80)) {
        let policies = policies();
        let mut world = World::new();
        for (which, how, seconds, jitter) in draws {
            world.since_start += Duration::from_secs(seconds.into());
            world.jitter = Unit::clamped(jitter);
            let before = stage(&world.watch);
            let commands = world.watch.step(some_event(which, how), &world.cx(&policies));
            let after = stage(&world.watch);
            prop_assert!(is_drawn(before, after), "{before} became {after}");
            prop_assert!(before != "Completed" || commands.is_empty(), "{commands:?}");
            prop_assert!(world.watch.wake_commands().iter().all(Command::begins_work));
            prop_assert!(!world.watch.resume_commands().iter().any(Command::begins_work));
        }
    }
}

/// The properties mean something: every state is reached.
#[test]
fn the_world_gets_everywhere() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reached = BTreeMap::<&str, u32>::new();
    for _ in 0..300 {
        let drawn = draws(150).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for draw in drawn {
            let before = stage(&world.watch);
            world.happens(draw);
            let after = stage(&world.watch);
            if before != after {
                *reached.entry(after).or_default() += 1;
            }
        }
    }
    for stage in ["Polling", "Fetching", "Sealing", "Completed", "Failing", "Failed"] {
        assert!(reached.get(stage).copied().unwrap_or(0) >= 10, "{reached:?}");
    }
}
