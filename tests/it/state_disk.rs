//! The disk of the state fails or fills up: downloads wait, polls go on, and nothing is lost.

use std::fs;
use std::path::Path;

use batch_export_watcher::simulator::{Recorded, SimExport, SimFile, ViewStep};

use rustix::process::Signal;
use tokio::process::Command;

use super::support::mount::{Mount, fill_bytes};
use super::support::process::Watcher;
use super::support::scrape::{LISTEN, bound};
use super::support::solo::{SHOP, Solo};
use super::support::strace;
use super::support::{FAULTS, PATIENCE, eventually, http, move_to};

const BYTES: u64 = 300_000;

fn file(number: u64) -> SimFile {
    SimFile::generated(&format!("file_{number}"), number, BYTES)
}

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

async fn polling_goes_on(solo: &Solo) {
    let polls = solo.views("export_pending").len();
    let polled = |seen: &[Recorded]| {
        seen.iter().filter(|request| request.is_view_of("export_pending")).count() >= polls + 3
    };
    solo.wait_for(polled).await;
}

async fn wait_for_whole(watcher: &Watcher, export: &str) {
    watcher
        .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
        .await;
}

/// Two exports of two files each, known to the state as under way, and one that stays so.
async fn stage() -> Solo {
    Solo::new(vec![pending("export_1"), pending("export_2"), pending("export_pending")]).await
}

fn finish(solo: &Solo, export: &str, files: [u64; 2]) {
    solo.sim
        .set_views(export, vec![ViewStep::Success(files.map(file).into())])
        .expect("an export of ours");
}

fn assert_whole(solo: &Solo, export: &str, files: [u64; 2]) {
    let files = files.map(file);
    solo.home.assert_whole(SHOP, export, &[&files[0].content, &files[1].content]);
}

#[tokio::test]
async fn a_full_disk_of_the_state_stops_downloads_and_loses_nothing() {
    let solo = stage().await;
    let state = solo.home.path().join("state");
    let Some(_mount) = Mount::tmpfs(state.clone(), "size=1m,mode=0700") else { return };
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "running").await;
    solo.wait_for(|seen| seen.iter().any(|request| request.is_view_of("export_1"))).await;
    let ballast = state.join("ballast");
    fill_bytes(&ballast);
    finish(&solo, "export_1", [1, 2]);
    watcher.wait_for_log(|line| line.contains("the state cannot be written; downloads wait")).await;
    let asked = [1, 2].map(|number| solo.fetches(&format!("file_{number}")).len());
    polling_goes_on(&solo).await;
    // What comes meanwhile waits as well.
    finish(&solo, "export_2", [3, 4]);
    let polls = solo.views("export_2").len();
    solo.wait_for(|seen| {
        seen.iter().filter(|request| request.is_view_of("export_2")).count() > polls
    })
    .await;
    polling_goes_on(&solo).await;
    assert!(
        solo.fetches("file_3").is_empty() && solo.links("file_3").is_empty(),
        "nothing new is fetched"
    );
    for export in ["export_1", "export_2"] {
        assert!(solo.home.try_manifest(SHOP, export).is_none(), "{export}");
    }
    fs::remove_file(&ballast).expect("the ballast goes");
    watcher.wait_for_log(|line| line.contains("the state can be written again")).await;
    wait_for_whole(&watcher, "export_1").await;
    wait_for_whole(&watcher, "export_2").await;
    assert_whole(&solo, "export_1", [1, 2]);
    assert_whole(&solo, "export_2", [3, 4]);
    for (number, before) in (1..).zip(asked) {
        let fetches = solo.fetches(&format!("file_{number}")).len();
        assert!(before <= 1 && fetches == 1, "file_{number} was fetched {fetches} times");
    }
    watcher.kill9().await;
}

/// Every such call on the database's log fails for a while, whatever SQLite makes of it.
async fn the_log_fails(call: &str, error: &str) {
    let solo = stage().await;
    let mut watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "status changed").await;
    let log = solo.home.path().join("state/state.db-wal");
    eventually("the log", || log.exists()).await;
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-o", "/dev/null", "-P"]).arg(&log).args(["-p", &watcher.id().to_string()]);
    tracer.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}")]);
    let mut tracer = Watcher::spawn(tracer);
    tracer.wait_for_log(|line| line.contains("attached")).await;
    finish(&solo, "export_1", [1, 2]);
    watcher.wait_for_log(|line| line.contains("the state cannot be written; downloads wait")).await;
    polling_goes_on(&solo).await;
    assert!(solo.home.try_manifest(SHOP, "export_1").is_none());
    // It lets the program go.
    tracer.signal(Signal::INT);
    tracer.end_within(PATIENCE).await;
    watcher.wait_for_log(|line| line.contains("the state can be written again")).await;
    wait_for_whole(&watcher, "export_1").await;
    assert_whole(&solo, "export_1", [1, 2]);
    assert_eq!(
        [1, 2].map(|number| solo.fetches(&format!("file_{number}")).len()),
        [1, 1],
        "{call} {error}"
    );
    finish(&solo, "export_2", [3, 4]);
    wait_for_whole(&watcher, "export_2").await;
    watcher.signal(Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
    // What it had recorded is there.
    let asked = solo.sim.requests().len();
    let mut solo = solo;
    solo.home.set_exports(SHOP, &["export_1", "export_2"]);
    solo.settle(0).await;
    assert_eq!(solo.sim.requests().len(), asked, "{call} {error}: nothing is asked for again");
}

#[tokio::test]
async fn a_database_whose_calls_fail_for_a_while_loses_nothing() {
    if !strace::is_possible() {
        return;
    }
    let calls =
        [("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("pwrite64", "EROFS"), ("fsync", "EIO")];
    let runs = calls.map(async |(call, error)| Box::pin(the_log_fails(call, error)).await);
    futures::future::join_all(runs).await;
}

#[tokio::test]
async fn a_crash_while_the_state_is_full_loses_nothing() {
    let solo = stage().await;
    let state = solo.home.path().join("state");
    let Some(_mount) = Mount::tmpfs(state.clone(), "size=1m,mode=0700") else { return };
    let watcher = solo.start();
    finish(&solo, "export_1", [1, 2]);
    wait_for_whole(&watcher, "export_1").await;
    let ballast = state.join("ballast");
    fill_bytes(&ballast);
    finish(&solo, "export_2", [3, 4]);
    watcher.wait_for_log(|line| line.contains("the state cannot be written; downloads wait")).await;
    watcher.kill9().await;
    // Whether it starts on a full disk is its own affair; it must not make anything worse.
    let started = solo.start();
    started.log_after(0).await;
    started.kill9().await;
    fs::remove_file(&ballast).expect("the ballast goes");
    let watcher = solo.start();
    wait_for_whole(&watcher, "export_2").await;
    assert_whole(&solo, "export_1", [1, 2]);
    assert_whole(&solo, "export_2", [3, 4]);
    for number in 1..=2 {
        assert_eq!(
            solo.fetches(&format!("file_{number}")).len(),
            1,
            "what was whole is not fetched again"
        );
    }
    watcher.kill9().await;
}

#[tokio::test]
async fn a_state_directory_that_is_moved_away_and_back_loses_nothing() {
    let mut solo = stage().await;
    let mut watcher = solo.start();
    finish(&solo, "export_1", [1, 2]);
    wait_for_whole(&watcher, "export_1").await;
    let (state, away) = (solo.home.path().join("state"), solo.home.path().join("away"));
    move_to(&state, &away);
    finish(&solo, "export_2", [3, 4]);
    wait_for_whole(&watcher, "export_2").await;
    assert_whole(&solo, "export_2", [3, 4]);
    polling_goes_on(&solo).await;
    // Another instance would make a state of its own there; the download directory tells it of the
    // first.
    let (code, output) = Watcher::spawn(solo.home.command("run", &[])).wait().await;
    assert_eq!(code, i32::from(batch_export_watcher::exit::UNFINISHED), "{output:?}");
    fs::remove_dir_all(&state).expect("the state that the other has made");
    move_to(&away, &state);
    watcher.signal(Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
    // Nothing but the state knows of them any more.
    for export in ["export_1", "export_2"] {
        fs::remove_dir_all(solo.home.export(SHOP, export)).expect("a consumer takes it away");
    }
    let asked = solo.sim.requests().len();
    solo.home.set_exports(SHOP, &["export_1", "export_2"]);
    solo.settle(0).await;
    assert_eq!(solo.sim.requests().len(), asked, "nothing is asked for again");
}

#[tokio::test]
async fn a_state_that_cannot_be_written_for_a_while_stops_downloads_and_loses_nothing() {
    for record in ["status", "part", "sealing", "completed"] {
        let solo = stage().await;
        solo.home.write("ill", "");
        let ill = solo.home.path().join("ill");
        let mut command = solo.home.command("run", &[]);
        command.env(FAULTS, format!("{record}.record=EIOwhile:{}", ill.display()));
        let watcher = Watcher::spawn(command);
        finish(&solo, "export_1", [1, 2]);
        watcher
            .wait_for_log(|line| line.contains("the state cannot be written; downloads wait"))
            .await;
        polling_goes_on(&solo).await;
        let is_whole = solo.home.try_manifest(SHOP, "export_1").is_some();
        assert_eq!(
            is_whole,
            record == "completed",
            "{record}: a manifest comes after its record, and before the end's"
        );
        fs::remove_file(&ill).expect("it was there");
        wait_for_whole(&watcher, "export_1").await;
        assert_whole(&solo, "export_1", [1, 2]);
        assert_eq!(
            [1, 2].map(|number| solo.fetches(&format!("file_{number}")).len()),
            [1, 1],
            "{record}"
        );
        watcher.kill9().await;
    }
}

/// A state that is known already, or the first start.
async fn stopped(solo: &Solo, is_known: bool) {
    if is_known {
        let mut watcher = solo.start();
        finish(solo, "export_1", [1, 2]);
        wait_for_whole(&watcher, "export_1").await;
        watcher.signal(Signal::TERM);
        assert_eq!(watcher.wait().await.0, 0);
    }
}

/// It waits whether it is told to end when all is done, or by when, or not at all; and it goes on
/// once the disk is fit.
async fn waits_until(solo: &Solo, is_fit: impl FnOnce()) {
    let waits = |line: &str| line.contains("the start waits for the disk");
    let mut in_time = solo.home.start(&["--exit-when-settled", "--deadline", "1s"]);
    let (code, output) = in_time.wait().await;
    assert_eq!(code, i32::from(batch_export_watcher::exit::UNFINISHED), "{output:?}");
    assert!(output.stderr.iter().any(|line| waits(line)), "{output:?}");
    let mut stopped = solo.start();
    stopped.wait_for_log(waits).await;
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.wait().await.0, 0);
    let watcher = solo.start();
    watcher.wait_for_log(waits).await;
    is_fit();
    finish(solo, "export_2", [3, 4]);
    wait_for_whole(&watcher, "export_2").await;
    assert_whole(solo, "export_2", [3, 4]);
    let told = watcher.output().stderr.iter().filter(|line| waits(line)).count();
    assert_eq!(told, 1, "{:#?}", watcher.output().stderr);
    watcher.kill9().await;
}

#[tokio::test]
async fn a_full_disk_of_the_state_is_waited_for_at_the_start() {
    for is_known in [false, true] {
        let solo = stage().await;
        let state = solo.home.path().join("state");
        let Some(_mount) = Mount::tmpfs(state.clone(), "size=1m,mode=0700") else { return };
        stopped(&solo, is_known).await;
        let ballast = state.join("ballast");
        fill_bytes(&ballast);
        waits_until(&solo, || fs::remove_file(&ballast).expect("the ballast goes")).await;
    }
}

#[tokio::test]
async fn a_read_only_disk_of_the_state_is_waited_for_at_the_start() {
    for is_known in [false, true] {
        let solo = stage().await;
        let state = solo.home.path().join("state");
        let Some(_mount) = Mount::tmpfs(state.clone(), "size=1m,mode=0700") else { return };
        stopped(&solo, is_known).await;
        remount(&state, "remount,ro");
        waits_until(&solo, || remount(&state, "remount,rw")).await;
    }
}

/// Nobody who asks is told that no daemon runs.
#[tokio::test]
async fn a_start_that_waits_says_so_to_whoever_asks() {
    let solo = stage().await.with(LISTEN);
    let state = solo.home.path().join("state");
    let Some(_mount) = Mount::tmpfs(state.clone(), "size=1m,mode=0700") else { return };
    let ballast = state.join("ballast");
    fill_bytes(&ballast);
    let watcher = solo.start();
    watcher.wait_for_log(|line| line.contains("the start waits for the disk")).await;
    let words = "it is starting and waits for the disk, ";
    let page = http::get(&format!("http://{}/", bound(&watcher).await), &[]).await;
    assert!(page.status == 503 && page.text().contains(words), "{}", page.text());
    for arguments in [&["--json"][..], &[]] {
        let said = solo.home.command("status", arguments).output().await.expect("it starts");
        let complaint = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(75), "{complaint}");
        assert!(complaint.contains(words) && said.stdout.is_empty(), "{said:?}");
    }
    fs::remove_file(&ballast).expect("the ballast goes");
    watcher.wait_for_event(|event| event["message"] == "running").await;
    let status = solo.home.command("status", &[]).output().await.expect("it starts");
    assert!(status.status.success(), "{status:?}");
}

fn remount(place: &Path, options: &str) {
    let status = std::process::Command::new("mount").args(["-o", options]).arg(place).status();
    assert!(status.expect("mount").success(), "{options}");
}
