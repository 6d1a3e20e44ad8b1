//! Killed at every point of the durable order and at random, started again, until everything is
//! home: nothing is wrong, nothing is lost, and nothing that was finished is fetched again.
//!
//! A thread of its own watches the folders all the while. `BATCH_EXPORT_WATCHER_TEST_SEED` draws
//! other moments, `BATCH_EXPORT_WATCHER_TEST_CRASHES` says how many the long variant is to have.

mod ledger;
mod points;
mod stage;

use batch_export_watcher::simulator::{SimExport, SimFile, ViewStep};
use futures::future::join_all;

use super::support::process::Watcher;
use super::support::solo::{SHOP, Solo};
use ledger::Ledger;
use points::Draw;
use stage::{End, Size, Stage};

/// The seed where nobody names another one.
const SEED: u64 = 20_261_124;
/// Names another seed.
const SEED_VARIABLE: &str = "BATCH_EXPORT_WATCHER_TEST_SEED";
/// Names another number of crashes for the long variant.
const CRASHES_VARIABLE: &str = "BATCH_EXPORT_WATCHER_TEST_CRASHES";
/// Crashes of the long variant where nobody names another number.
const CRASHES: u64 = 500;
/// Random crashes of the quick one.
const QUICK_CRASHES: u64 = 20;
/// New stages on which a point is tried before it counts as one that is not passed.
const NEW_STAGES: u32 = 5;
/// Daemons at work at the same time.
const LANES: u64 = 3;

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => otherwise,
    }
}

/// Crashes drawn at random, over as many stages as that takes.
async fn at_random(seed: u64, crashes: u64, size: Size) -> Ledger {
    let mut draw = Draw::new(seed);
    let mut total = Ledger::default();
    while total.crashes() < crashes {
        let mut stage = Stage::new(draw.seed(), size).await;
        while total.crashes() + stage.ledger.crashes() < crashes {
            if stage.run(&draw.crash()).await == End::Settled {
                break;
            }
        }
        total.add(stage.finish().await);
    }
    total
}

/// Crashes at these points, one after the other, on a stage that is made anew when it has come to
/// its end.
async fn at_points(seed: u64, crashes: &[Vec<String>]) -> Ledger {
    let mut total = Ledger::default();
    let mut stage = Stage::new(seed, Size::Quick).await;
    for points in crashes {
        let mut stages = 0;
        while !stage.crash_at(points).await {
            // What was to be killed at may be done already, and chance may have it that the first
            // of two points leaves nothing for the second.
            total.add(stage.finish().await);
            stage = Stage::new(seed, Size::Quick).await;
            stages += 1;
            assert!(stages <= NEW_STAGES, "{points:?} is not passed, not even on a new stage");
        }
    }
    total.add(stage.finish().await);
    total
}

#[expect(clippy::print_stderr, reason = "a test's own words")]
async fn lanes<F: Future<Output = Ledger>>(lane: impl Fn(u64) -> F) -> Ledger {
    let mut total = Ledger::default();
    for ledger in join_all((0..LANES).map(|number| Box::pin(lane(number)))).await {
        total.add(ledger);
    }
    eprintln!("{}", total.summary());
    total.assert_nothing_wrong();
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_once_at_every_point_nothing_is_wrong_or_lost() {
    let seed = number(SEED_VARIABLE, SEED);
    let crashes = points::crashes();
    let lane = |lane| usize::try_from(lane).expect("a few");
    let of_lane = |number| crashes.chunks(crashes.len().div_ceil(lane(LANES))).nth(lane(number));
    let total = lanes(|number| at_points(seed, of_lane(number).unwrap_or_default())).await;
    for point in points::all() {
        assert!(total.was_killed_at(&point), "no crash at {point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_nothing_is_wrong_or_lost() {
    let seed = number(SEED_VARIABLE, SEED);
    let share = QUICK_CRASHES.div_ceil(LANES);
    let total = lanes(|lane| at_random(seed + lane, share, Size::Quick)).await;
    assert!(total.crashes() >= QUICK_CRASHES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: five hundred crashes take minutes"]
async fn five_hundred_crashes_leave_nothing_wrong_or_lost() {
    let (seed, crashes) = (number(SEED_VARIABLE, SEED), number(CRASHES_VARIABLE, CRASHES));
    let total = lanes(|lane| at_random(seed + lane, crashes.div_ceil(LANES), Size::Long)).await;
    assert!(total.crashes() >= crashes);
}

#[tokio::test]
async fn the_table_has_every_point_there_is() {
    let told = Stage::new(SEED, Size::Quick).await.tell().await;
    let known = points::all();
    let missing: Vec<_> = told.difference(&known).collect();
    assert!(missing.is_empty(), "points that the table does not have: {missing:?}");
}

/// Kills the daemon or the command while it retries a failed export and removes the notice.
#[tokio::test]
async fn killed_while_a_failed_export_is_retried_it_can_be_retried_again() {
    let points = [
        "notice.open",
        "notice.unlink",
        "after:notice.unlink",
        "watching.record",
        "after:watching.record",
    ];
    for (point, by_daemon) in points.into_iter().flat_map(|point| [(point, true), (point, false)]) {
        let solo = Solo::new(vec![SimExport::failing("export_1")]).await;
        solo.settle(1).await;
        let file = SimFile::generated("file_1", 1, 10_000);
        solo.sim
            .set_views("export_1", vec![ViewStep::Success(vec![file.clone()])])
            .expect("an export of ours");
        solo.kill_at(point, "retry", by_daemon).await;
        let retry = solo.home.command("retry", &["export_1"]);
        let (code, output) = Watcher::spawn(retry).wait().await;
        // Once it is on record, there is nothing more to be retried.
        assert_eq!(
            code,
            i32::from(point == "after:watching.record"),
            "{point}, {by_daemon}: {output:?}"
        );
        solo.settle(0).await;
        solo.home.assert_whole(SHOP, "export_1", &[&file.content]);
    }
}
