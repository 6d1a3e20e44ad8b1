//! Signals, locks, deadlines, exit codes: how a run ends, and who else may run.

use std::time::{Duration, Instant};

use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Serving, SimExport, SimFile, ViewStep};
use rustix::process::Signal;
use sqlx::{Connection as _, SqliteConnection};

use super::support::eventually;
use super::support::machine::Machine;
use super::support::process::Watcher;
use super::support::solo::{SHOP, Solo};

/// A signal that finds nothing to do is obeyed within this.
const AT_ONCE: Duration = Duration::from_secs(1);
const BYTES: u64 = 200_000;

fn file(id: &str) -> SimFile {
    SimFile::generated(id, 1, BYTES)
}

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// Waits for the end: the exit code, and how long it took on a machine that is never late.
async fn ended(watcher: &mut Watcher) -> (i32, Duration) {
    let (machine, since) = (Machine::watch(), Instant::now());
    let (code, _) = watcher.wait().await;
    let late = machine.stretch(Duration::ZERO);
    (code, since.elapsed().saturating_sub(late))
}

#[tokio::test]
async fn an_idle_daemon_obeys_a_signal_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let solo = Solo::new(vec![pending("export_1")]).await;
        let mut watcher = solo.start();
        solo.wait_for(|seen| seen.iter().any(|request| request.ended_at.is_some())).await;
        watcher.signal(signal);
        let (code, took) = ended(&mut watcher).await;
        assert_eq!(code, i32::from(exit::DONE), "{signal:?}");
        assert!(took < AT_ONCE, "{signal:?} took {took:?}");
    }
}

#[tokio::test]
async fn a_view_call_that_hangs_does_not_delay_the_exit() {
    let held = ViewStep::Held(Box::new(ViewStep::status("RUNNING")));
    let solo = Solo::new(vec![SimExport::new("export_1", vec![held])]).await;
    let mut watcher = solo.start();
    solo.wait_for(|seen| !seen.is_empty()).await;
    watcher.signal(Signal::TERM);
    let (code, took) = ended(&mut watcher).await;
    assert_eq!(code, i32::from(exit::DONE));
    assert!(took < AT_ONCE, "it took {took:?}");
}

#[tokio::test]
async fn a_store_that_hangs_does_not_delay_the_exit() {
    let solo = Solo::finished(vec![file("file_1").on_fetch(Serving::well().held())]).await;
    let mut watcher = solo.start();
    solo.wait_for_fetches("file_1", 1).await;
    watcher.signal(Signal::TERM);
    let (code, took) = ended(&mut watcher).await;
    assert_eq!(code, i32::from(exit::DONE));
    assert!(took < AT_ONCE, "it took {took:?}");
}

#[tokio::test]
async fn exit_when_settled_ends_as_unfinished_if_stopped_early() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let mut watcher = solo.home.start(&["--exit-when-settled"]);
    solo.wait_for(|seen| !seen.is_empty()).await;
    watcher.signal(Signal::TERM);
    assert_eq!(ended(&mut watcher).await.0, i32::from(exit::UNFINISHED));
}

#[tokio::test]
async fn a_deadline_that_passes_leaves_the_work_unfinished_and_its_bytes_on_disk() {
    let slow =
        file("file_1").on_fetch(Serving::well().stall_after(50_000)).on_fetch(Serving::well());
    let solo = Solo::finished(vec![slow]).await;
    let mut watcher = solo.home.start(&["--exit-when-settled", "--deadline", "1s"]);
    let since = Instant::now();
    let (code, _) = watcher.wait().await;
    let took = since.elapsed();
    assert_eq!(code, i32::from(exit::UNFINISHED));
    assert!(took >= Duration::from_millis(900), "it took {took:?}");
    assert_eq!(solo.fetches("file_1").len(), 1);
    solo.settle(0).await;
    assert_eq!(solo.fetches("file_1")[1].header("range"), Some("bytes=50000-"));
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
}

#[tokio::test]
async fn a_deadline_that_is_kept_changes_nothing() {
    let solo = Solo::finished(vec![file("file_1")]).await;
    let watcher = solo.home.start(&["--exit-when-settled", "--deadline", "1m"]);
    solo.settled(watcher, i32::from(exit::DONE)).await;
}

#[tokio::test]
async fn the_exit_code_tells_whether_an_export_failed() {
    let solo = Solo::new(vec![
        SimExport::finished("export_1", vec![file("file_1")]),
        SimExport::failing("export_2"),
    ])
    .await;
    solo.settle(i32::from(exit::EXPORTS_FAILED)).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
    let idle = Solo::new(vec![]).await;
    idle.settle(i32::from(exit::DONE)).await;
}

/// Locks the state as another program would that reads it for long, until it is dropped.
async fn lock_database(solo: &Solo) -> SqliteConnection {
    let url = format!("sqlite://{}", solo.home.path().join("state/state.db").display());
    let mut connection = SqliteConnection::connect(&url).await.expect("the state");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.expect("its lock");
    connection
}

/// A watcher whose part lies under its final name, while its record cannot be written.
async fn with_a_record_under_way(solo: &Solo) -> (Watcher, SqliteConnection) {
    let watcher = solo.start();
    solo.wait_for_fetches("file_1", 1).await;
    let lock = lock_database(solo).await;
    solo.sim.release("file_1");
    let part = solo.home.export(SHOP, "export_1").join("part-00001-file_1.json");
    eventually("the part's final name", || part.exists()).await;
    (watcher, lock)
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once_and_loses_nothing() {
    for second in [Signal::TERM, Signal::INT] {
        let solo = Solo::finished(vec![file("file_1").on_fetch(Serving::well().held())]).await;
        let (mut watcher, lock) = with_a_record_under_way(&solo).await;
        watcher.signal(Signal::TERM);
        watcher.wait_for_log(|line| line.contains("draining")).await;
        watcher.signal(second);
        let (code, took) = ended(&mut watcher).await;
        assert_eq!(code, i32::from(exit::UNFINISHED), "{second:?}");
        assert!(took < AT_ONCE, "{second:?} took {took:?}");
        drop(lock);
        solo.settle(0).await;
        solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
        assert_eq!(solo.fetches("file_1").len(), 1, "the file without a record is adopted");
    }
}

#[tokio::test]
async fn a_drain_waits_for_the_record_being_written() {
    let solo = Solo::finished(vec![file("file_1").on_fetch(Serving::well().held())]).await;
    let (mut watcher, lock) = with_a_record_under_way(&solo).await;
    watcher.signal(Signal::TERM);
    watcher.wait_for_log(|line| line.contains("draining")).await;
    drop(lock);
    assert_eq!(ended(&mut watcher).await.0, i32::from(exit::DONE));
    let committed = |line: &String| line.contains("part committed");
    assert!(watcher.output().stderr.iter().any(committed), "the record was written before the end");
}

#[tokio::test]
async fn a_drain_ends_after_its_grace_period() {
    let solo = Solo::finished(vec![file("file_1").on_fetch(Serving::well().held())]).await;
    let (mut watcher, _lock) = with_a_record_under_way(&solo).await;
    watcher.signal(Signal::TERM);
    let (code, took) = ended(&mut watcher).await;
    assert_eq!(code, i32::from(exit::UNFINISHED));
    assert!(took < Duration::from_secs(10), "a service manager would have killed it by now");
}

#[tokio::test]
async fn a_state_that_cannot_be_written_stops_downloads_but_not_polls() {
    let held = file("file_1").on_fetch(Serving::well().held());
    let exports =
        vec![SimExport::finished("export_1", vec![held]), pending("export_2"), pending("export_3")];
    let solo = Solo::new(exports).await;
    let (watcher, lock) = with_a_record_under_way(&solo).await;
    watcher.wait_for_log(|line| line.contains("the state cannot be written; downloads wait")).await;
    solo.sim.set_views("export_2", vec![ViewStep::Success(vec![file("file_2")])]).unwrap();
    watcher.wait_for_event(|event| event["export"] == "export_2" && event["to"] == "SUCCESS").await;
    let polls = solo.views("export_3").len();
    solo.wait_for(|seen| {
        seen.iter().filter(|view| view.is_view_of("export_3")).count() >= polls + 3
    })
    .await;
    assert!(solo.links("file_2").is_empty(), "a download began");
    drop(lock);
    watcher.wait_for_log(|line| line.contains("the state can be written again")).await;
    for export in ["export_1", "export_2"] {
        watcher
            .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
            .await;
        solo.home.assert_whole(SHOP, export, &[&file("any").content]);
    }
    assert_eq!(solo.fetches("file_1").len(), 1);
}

#[tokio::test]
async fn a_second_instance_is_refused_and_learns_of_the_first() {
    let mut solo = Solo::new(vec![pending("export_1")]).await;
    let mut first = solo.start();
    solo.wait_for(|seen| !seen.is_empty()).await;
    let process = format!("process {}", first.id());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let refused = |line: &String| {
        line.contains("is locked by another instance") && line.contains(&process) && line.contains(&host)
            // The year of its start is enough to see that the moment is told.
            && line.contains("since 20")
    };
    let output = solo.settle(i32::from(exit::UNFINISHED)).await;
    assert!(output.stderr.iter().any(refused), "{output:?}");
    solo.home.merge("[state]\ndirectory = \"another-state\"");
    let output = solo.settle(i32::from(exit::UNFINISHED)).await;
    assert!(output.stderr.iter().any(refused), "the same download directory: {output:?}");
    first.signal(Signal::TERM);
    assert_eq!(ended(&mut first).await.0, i32::from(exit::DONE));
    let mut third = solo.start();
    third.wait_for_log(|line| line.contains("\"running\"")).await;
    third.signal(Signal::TERM);
    assert_eq!(ended(&mut third).await.0, i32::from(exit::DONE), "the locks went with the first");
}

#[tokio::test]
async fn a_crashed_instance_leaves_no_lock_behind() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let watcher = solo.start();
    solo.wait_for(|seen| !seen.is_empty()).await;
    watcher.kill9().await;
    let mut watcher = solo.start();
    watcher.wait_for_log(|line| line.contains("\"running\"")).await;
    watcher.signal(Signal::TERM);
    assert_eq!(ended(&mut watcher).await.0, i32::from(exit::DONE));
}
