//! Whole runs on real file systems in an image: parts below and above the size from which they are
//! continued, a crash in between, a full disk.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use batch_export_watcher::simulator::{Serving, SimExport, SimFile, ViewStep};

use super::support::mount::{Mount, fill_bytes};
use super::support::process::Watcher;
use super::support::solo::{SHOP, Solo};

const SMALL_BYTES: u64 = 300_000;
const LARGE_BYTES: u64 = 20 << 20;
/// Behind the first checkpoint.
const STALL_BYTES: u64 = 12 << 20;

fn small(number: u64) -> SimFile {
    SimFile::generated(&format!("file_{number}"), number, SMALL_BYTES)
}

fn large() -> SimFile {
    SimFile::generated("file_large", 2, LARGE_BYTES)
}

/// A file system of this kind, in an image, in the place of the downloads. Prints why and gives
/// `None` if this machine has no such thing.
fn mounted(solo: &Solo, make: &[&str], mebibytes: u64) -> Option<Mount> {
    let image = solo.home.path().join("image");
    let file = fs::File::create(&image).expect("an image");
    file.set_len(mebibytes << 20).expect("an image");
    let made = Command::new(make[0]).args(&make[1..]).arg(&image).output();
    if !made.as_ref().is_ok_and(|output| output.status.success()) {
        // Not `eprintln!`, which a test that passes keeps to itself.
        let skipped = format!("SKIPPED: this test needs `{}`: {made:?}\n", make.join(" "));
        std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
        return None;
    }
    let image = image.display().to_string();
    Mount::new(solo.home.downloads(), &["-o", "loop", &image])
}

async fn wait_for_whole(watcher: &Watcher, export: &str) {
    watcher
        .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
        .await;
}

async fn works_on(make: &[&str], mebibytes: u64) {
    let stalled =
        large().on_fetch(Serving::well().stall_after(STALL_BYTES)).on_fetch(Serving::well());
    let solo = Solo::new(vec![
        SimExport::finished("export_1", vec![small(1), stalled]),
        SimExport::new("export_2", vec![ViewStep::status("RUNNING")]),
    ])
    .await;
    let Some(_mount) = mounted(&solo, make, mebibytes) else { return };
    let watcher = solo.start();
    watcher
        .wait_for_event(|event| event["message"] == "part committed" && event["part"] == 1)
        .await;
    watcher.wait_for_event(|event| event["event"] == "part_checkpointed").await;
    watcher.kill9().await;
    let watcher = solo.start();
    wait_for_whole(&watcher, "export_1").await;
    solo.home.assert_whole(SHOP, "export_1", &[&small(1).content, &large().content]);
    let again = &solo.fetches("file_large")[1];
    assert!(again.header("range").is_some(), "it continues behind its checkpoint");
    let ballast = solo.home.downloads().join("ballast");
    fill_bytes(&ballast);
    solo.sim.set_views("export_2", vec![ViewStep::Success(vec![small(3)])]).expect("ours");
    // Which of them is told depends on what is full first.
    let waits = ["room_short", "disk_failed"].map(serde_json::Value::from);
    watcher.wait_for_event(|event| waits.contains(&event["event"])).await;
    assert!(solo.links("file_3").is_empty(), "no link is asked for without room");
    fs::remove_file(&ballast).expect("the ballast goes");
    wait_for_whole(&watcher, "export_2").await;
    solo.home.assert_whole(SHOP, "export_2", &[&small(3).content]);
    watcher.kill9().await;
}

#[tokio::test]
async fn a_whole_run_on_xfs() {
    works_on(&["mkfs.xfs", "-q"], 320).await;
}

#[tokio::test]
async fn a_whole_run_on_vfat() {
    works_on(&["mkfs.vfat"], 96).await;
}
