//! Power cuts: the real program runs while everything it does to the disk is recorded. Then every
//! prefix of the recording is laid out again, without what was not synced, and recovered. `kill -9`
//! cannot show a missing fsync: the page cache stays.

mod disk;
mod judge;
mod scenes;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fastrand::Rng;

use crate::domain::ids::ExportId;
use crate::durable::record::{Log, Operation};
use crate::ledgers::sqlite::Applying;
use crate::ports::Fact;

use disk::{Data, Disk, Names};
use judge::{DOWNLOADS, Demands, Judge, TruePart};
use scenes::{Played, Scene};

/// What is left of data and names. The long run tries each of these for each prefix.
const CUTS: [(Data, Names); 8] = [
    (Data::Dropped, Names::Kept),
    (Data::Dropped, Names::Dropped),
    (Data::Zeros, Names::Kept),
    (Data::Torn, Names::Random),
    (Data::Kept, Names::Dropped),
    (Data::Torn, Names::Kept),
    (Data::Dropped, Names::Random),
    (Data::Kept, Names::Kept),
];
const SEED_VARIABLE: &str = "BATCH_EXPORT_WATCHER_TEST_SEED";

#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Of consecutive writes to one file, every n-th ends a prefix, and so does the last.
    writes: usize,
    /// How many of [`CUTS`] are tried for each prefix. The first two always are.
    cuts: usize,
    seed: u64,
}

const QUICK: Effort = Effort { writes: 1000, cuts: 3, seed: 20_260_105 };
/// A large part takes longer to lay out and to hash.
const QUICK_LARGE: Effort = Effort { cuts: 2, ..QUICK };

#[derive(Debug, Default)]
struct Account {
    operations: usize,
    beginnings: usize,
    replays: usize,
}

/// Whether a prefix ends behind this operation.
fn is_end(log: &Log, at: usize, effort: Effort) -> bool {
    let is_write = |at: usize| matches!(log.get(at), Some((_, Operation::Write { .. })));
    !is_write(at) || !is_write(at + 1) || at.is_multiple_of(effort.writes)
}

async fn replay(played: Played, effort: Effort) -> Result<Account, String> {
    let Played { log, config, truth, first_is_failure } = played;
    let mut judge = Judge::new(config, truth);
    let mut random = Rng::with_seed(effort.seed);
    let (mut disk, mut batches, mut durable) = (Disk::default(), Vec::<Vec<Fact>>::new(), 0);
    let mut account = Account { operations: log.len(), ..Account::default() };
    for (at, (position, operation)) in log.iter().enumerate() {
        disk.apply(*position, operation);
        if let Operation::Note(note) = operation {
            match note.downcast_ref::<Applying>() {
                Some(Applying::Begun(batch)) => batches.push(batch.clone()),
                Some(Applying::Durable) => durable = batches.len(),
                None => {}
            }
        }
        if !is_end(&log, at, effort) {
            continue;
        }
        account.beginnings += 1;
        // What is being recorded may already be on record.
        for recorded in durable..=batches.len() {
            for turn in 0..effort.cuts {
                let cut = if turn < 2 {
                    turn
                } else {
                    2 + (at * (effort.cuts - 2) + turn - 2) % (CUTS.len() - 2)
                };
                let (data, names) = CUTS[cut];
                let place = judge.clear();
                disk.leave(DOWNLOADS, place, data, names, &mut random);
                judge.record(&batches[..recorded]).await;
                let demands = Demands {
                    checkpoints: names != Names::Random,
                    notices: first_is_failure && !disk.was_removed("failed.json"),
                };
                judge.judge(demands).await.map_err(|fault| {
                    let mut told = format!(
                        "{fault}\n{data:?} data, {names:?} names, {recorded} batches, after"
                    );
                    for (_, operation) in &log[at.saturating_sub(12)..=at] {
                        let _ = write!(told, "\n  {}", scenes::words(operation));
                    }
                    told
                })?;
                account.replays += 1;
            }
        }
    }
    Ok(account)
}

fn survive(scene: Scene, effort: Effort) -> Account {
    let runtimes = crate::process::runtimes::Runtimes::start().unwrap();
    let transfer = runtimes.transfer();
    let account = runtimes.block_on(async {
        let played = scene.play(transfer).await;
        replay(played, effort).await
    });
    runtimes.shut_down();
    match account.expect("it ends without a panic") {
        Ok(account) => account,
        Err(fault) => panic!("{scene:?}, seed {}: {fault}", effort.seed),
    }
}

#[test]
fn small_parts_survive_a_power_cut_at_any_moment() {
    survive(Scene::Small { without_rename: false }, QUICK);
}

#[test]
fn small_parts_survive_it_where_files_are_linked() {
    survive(Scene::Small { without_rename: true }, QUICK);
}

#[test]
fn a_large_part_survives_a_power_cut_at_any_moment() {
    survive(Scene::Large { without_rename: false }, QUICK_LARGE);
}

#[test]
fn a_part_that_was_stopped_and_continued_survives_a_power_cut_at_any_moment() {
    survive(Scene::Stopped, QUICK_LARGE);
}

#[test]
fn a_failure_and_its_retry_survive_a_power_cut_at_any_moment() {
    survive(Scene::Failed, QUICK);
}

#[test]
#[ignore = "long: run by tests/long/run.sh"]
fn every_scene_survives_a_power_cut_after_every_operation() {
    let seed =
        std::env::var(SEED_VARIABLE).map_or(QUICK.seed, |text| text.parse().expect("a number"));
    let effort = Effort { writes: 1, cuts: CUTS.len(), seed };
    let mut told = BTreeMap::new();
    for scene in Scene::ALL {
        let Account { operations, beginnings, replays } = survive(scene, effort);
        told.insert(
            format!("{scene:?}"),
            serde_json::json!({ "operations": operations, "beginnings": beginnings, "replays": replays }),
        );
    }
    println!("{}", serde_json::json!({ "case": "power cut", "seed": seed, "scenes": told }));
}
