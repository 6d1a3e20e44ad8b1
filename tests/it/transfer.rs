//! The transfer itself: checkpoints that a crash goes on from, slots that are shared fairly,
//! connections that are used again, room that is promised once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use batch_export_watcher::simulator::{Origin, Recorded, Serving, SimExport, SimFile, ViewStep};

use super::support::eventually;
use super::support::machine::Machine;
use super::support::process::Watcher;
use super::support::scene::told;
use super::support::solo::{SHOP, Solo};

const MIB: u64 = 1 << 20;

/// The first byte that the second request for a file asks for.
fn resumed_at(solo: &Solo, file: &str) -> Option<u64> {
    let fetches = solo.fetches(file);
    let range = fetches.get(1)?.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?;
    range.parse().ok()
}

/// A part of 40 MiB that has brought 30 MiB, and a daemon that is then killed.
async fn killed_in_mid_part() -> (Solo, SimFile) {
    let part = SimFile::generated("file_1", 1, 40 * MIB)
        .on_fetch(Serving::well().stall_after(30 * MIB))
        .on_fetch(Serving::well());
    let solo = Solo::finished(vec![part.clone()]).await;
    let watcher = solo.start();
    let folder = solo.home.export(SHOP, "export_1");
    eventually("thirty MiB", || watcher.partial_bytes(&folder) == [30 * MIB]).await;
    // The last checkpoint may still be on its way to the disk; the one before is on record when
    // this is there.
    eventually("a checkpoint on record", || checkpointed_bytes(&watcher) >= 16 * MIB).await;
    watcher.kill9().await;
    (solo, part)
}

/// How far the log says that a part is safe.
fn checkpointed_bytes(watcher: &Watcher) -> u64 {
    let lines = watcher.output().stderr;
    let event = |line: &String| serde_json::from_str::<serde_json::Value>(line).ok();
    let checkpoints =
        lines.iter().filter_map(event).filter(|event| event["message"] == "checkpoint");
    checkpoints.filter_map(|event| event["bytes"].as_u64()).max().unwrap_or(0)
}

#[tokio::test]
async fn a_crash_costs_a_large_part_only_the_bytes_since_its_last_checkpoint() {
    let (solo, part) = killed_in_mid_part().await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&part.content]);
    let resumed_at = resumed_at(&solo, "file_1").expect("a range was asked for");
    assert!((14 * MIB..=30 * MIB).contains(&resumed_at), "went on from {resumed_at}");
}

#[tokio::test]
async fn a_checkpoint_whose_bytes_have_changed_on_disk_is_not_trusted() {
    let (solo, part) = killed_in_mid_part().await;
    let partial = solo.home.export(SHOP, "export_1").join(".part-00001-file_1.json.partial");
    let mut file = fs::File::options().write(true).open(&partial).unwrap();
    file.seek(SeekFrom::Start(5 * MIB)).unwrap();
    file.write_all(&[0; 100]).unwrap();
    drop(file);
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&part.content]);
    let last = solo.fetches("file_1").pop().unwrap();
    assert_eq!((last.header("range"), last.body_bytes), (None, 40 * MIB));
}

#[tokio::test]
async fn a_partial_that_is_gone_after_a_crash_is_fetched_from_its_start() {
    let (solo, part) = killed_in_mid_part().await;
    fs::remove_file(solo.home.export(SHOP, "export_1").join(".part-00001-file_1.json.partial"))
        .unwrap();
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&part.content]);
    assert_eq!(resumed_at(&solo, "file_1"), None);
}

#[tokio::test]
async fn an_export_of_a_thousand_parts_delays_one_of_one_part_by_one_slot_at_most() {
    let held = |number| {
        SimFile::generated(&format!("file_{number}"), number, 2000).on_fetch(Serving::well().held())
    };
    let many = SimExport::finished("export_many", (1..=1000).map(held).collect());
    let late = SimExport::new("export_late", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![many, late]).await.with("[download]\nmax_parts = 3");
    let watcher = solo.start();
    let fetched =
        |seen: &[Recorded]| seen.iter().filter(|request| request.origin == Origin::Store).count();
    let first = solo.wait_for(|seen| fetched(seen) == 3).await;
    let single = SimFile::generated("file_single", 1, 2000);
    solo.sim.set_views("export_late", vec![ViewStep::Success(vec![single.clone()])]).unwrap();
    watcher
        .wait_for_event(|event| {
            event["message"] == "folder ready" && event["export"] == "export_late"
        })
        .await;
    // One slot becomes free, then another: one of the two is the other export's.
    let mut under_way = first.into_iter().filter(|request| request.origin == Origin::Store);
    for _ in 0..2 {
        let file = under_way.next().unwrap().path.replace("/blob/", "");
        solo.sim.release(&file);
    }
    watcher
        .wait_for_event(|event| {
            event["message"] == "export whole" && event["export"] == "export_late"
        })
        .await;
    solo.home.assert_whole(SHOP, "export_late", &[&single.content]);
    let before: Vec<_> = solo.sim.requests();
    let single_at = before.iter().position(|request| request.is_fetch_of("file_single")).unwrap();
    assert!(
        fetched(&before[..single_at]) <= 4,
        "{} parts of the other export came first",
        fetched(&before[..single_at])
    );
    watcher.kill9().await;
}

#[tokio::test]
async fn connections_to_both_origins_are_used_again() {
    let parts: Vec<_> = (1..=200)
        .map(|number| SimFile::generated(&format!("file_{number}"), number, 50_000))
        .collect();
    let solo = Solo::finished(parts).await.with("[download]\nmax_parts = 4");
    solo.settle(0).await;
    for (origin, at_most) in [(Origin::Api, 5), (Origin::Store, 5)] {
        let requests = solo.sim.requests();
        let of_origin: Vec<_> =
            requests.iter().filter(|request| request.origin == origin).collect();
        assert!(of_origin.len() >= 200);
        let connections: BTreeSet<_> = of_origin.iter().map(|request| request.connection).collect();
        assert!(connections.len() <= at_most, "{} connections to {origin:?}", connections.len());
    }
}

#[tokio::test]
async fn a_small_soft_limit_of_open_files_does_not_delay_many_parts() {
    const AT_ONCE: usize = 64;
    let held = |number| {
        SimFile::generated(&format!("file_{number}"), number, 2000).on_fetch(Serving::well().held())
    };
    let parts: Vec<_> = (1..=64).map(held).collect();
    let solo =
        Solo::finished(parts.clone()).await.with(&format!("[download]\nmax_parts = {AT_ONCE}"));
    let watcher = solo.start_after("ulimit -S -n 48", &["--exit-when-settled"]);
    let fetched =
        |seen: &[Recorded]| seen.iter().filter(|request| request.origin == Origin::Store).count();
    solo.wait_for(|seen| fetched(seen) == AT_ONCE).await;
    for part in &parts {
        solo.sim.release(&part.id);
    }
    let output = solo.settled(watcher, 0).await;
    assert!(
        !output.stderr.iter().any(|line| line.contains("will be repeated")),
        "{:?}",
        output.stderr
    );
    let contents: Vec<_> = parts.iter().map(|part| &part.content).collect();
    solo.home.assert_whole(SHOP, "export_1", &contents);
}

/// With a slot for each part, calls of the API would take all descriptors, and keep them.
#[tokio::test]
async fn a_small_hard_limit_of_open_files_is_logged_and_costs_no_file() {
    let parts: Vec<_> = (1..=48)
        .map(|number| SimFile::generated(&format!("file_{number}"), number, 2000))
        .collect();
    let solo = Solo::finished(parts.clone()).await.with("[download]\nmax_parts = 48");
    let watcher = solo.start_after("ulimit -n 48", &["--exit-when-settled"]);
    let output = solo.settled(watcher, 0).await;
    let told = told(
        &output,
        "WARN",
        "48 files can be open, and download.max_parts = 48 may need 400; parts at once: 1;",
    );
    assert_eq!(told.len(), 1, "{:?}", output.stderr);
    let contents: Vec<_> = parts.iter().map(|part| &part.content).collect();
    assert!(
        !output.stderr.iter().any(|line| line.contains("will be repeated")),
        "{:?}",
        output.stderr
    );
    solo.home.assert_whole(SHOP, "export_1", &contents);
}

#[tokio::test]
async fn from_success_to_the_manifest_it_takes_a_moment() {
    let part = SimFile::generated("file_1", 1, 1_000_000);
    let held = ViewStep::Held(Box::new(ViewStep::Success(vec![part.clone()])));
    let solo = Solo::new(vec![SimExport::new("export_1", vec![held])]).await;
    let mut watcher = solo.home.start(&["--exit-when-settled"]);
    solo.wait_for(|seen| seen.iter().any(|request| request.is_view_of("export_1"))).await;
    let (machine, released) = (Machine::watch(), tokio::time::Instant::now());
    solo.sim.release("export_1");
    let manifest = solo.home.export(SHOP, "export_1").join("manifest.json");
    eventually("the manifest", || manifest.exists()).await;
    let took = released.elapsed();
    assert_eq!(watcher.wait().await.0, 0);
    solo.home.assert_whole(SHOP, "export_1", &[&part.content]);
    // A debug build beside other tests: the benchmark holds the release build to 50 ms.
    assert!(took < machine.stretch(Duration::from_secs(2)), "{took:?}");
}
