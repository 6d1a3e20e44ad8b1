//! `forget`: records and work in progress go, finished files stay, and what is configured begins
//! anew without wrong bytes.

use std::fs;

use batch_export_watcher::domain::manifest::MANIFEST_FILE;
use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Canned, Serving, SimExport, SimFile, ViewStep};
use futures::future::join_all;
use serde_json::Value;

use super::support::home::Home;
use super::support::process::{Output, Watcher};
use super::support::scene::{project_key, rest_key, scene, seen};
use super::support::solo::{SHOP, Solo};
use super::support::turns::in_a_crowd;
use super::support::{PATIENCE, eventually};

/// Large enough for a partial with a name, and for checkpoints.
const LARGE: u64 = 40_000_000;

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

fn file(number: u64) -> SimFile {
    SimFile::generated(&format!("file_{number}"), number, 100_000)
}

async fn ran(solo: &Solo, subcommand: &str, arguments: &[&str]) -> (i32, Output) {
    ran_at(&solo.home, subcommand, arguments).await
}

async fn ran_at(home: &Home, subcommand: &str, arguments: &[&str]) -> (i32, Output) {
    Watcher::spawn(home.command(subcommand, arguments)).wait_within(2 * PATIENCE).await
}

async fn forget(solo: &Solo, export: &str) {
    let (code, output) = ran(solo, "forget", &[export]).await;
    assert_eq!(
        (code, output.stdout),
        (0, vec![format!("{SHOP}/{export}: forgotten")]),
        "{:?}",
        output.stderr
    );
}

async fn running(solo: &Solo) -> Watcher {
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "running").await;
    watcher
}

/// The states of all exports, as `status --json` tells them.
async fn states(solo: &Solo) -> Vec<String> {
    let (_, output) = ran(solo, "status", &["--json"]).await;
    let status: Value = serde_json::from_str(&output.stdout[0]).expect("json");
    let exports = status["projects"][0]["exports"].as_array().expect("exports");
    exports
        .iter()
        .map(|of| {
            format!(
                "{} {}",
                of["id"].as_str().expect("an id"),
                of["state"].as_str().expect("a state")
            )
        })
        .collect()
}

fn partials(solo: &Solo) -> usize {
    solo.home.tree().keys().filter(|name| name.ends_with(".partial")).count()
}

/// A large file that stops half way until it is released.
fn large() -> SimFile {
    SimFile::generated("file_9", 9, LARGE).with_bytes_per_second(8_000_000)
}

#[tokio::test]
async fn forgetting_without_a_daemon_removes_partials_and_keeps_finished_files() {
    let mut solo = Solo::finished(vec![file(1), large()]).await;
    let watcher = running(&solo).await;
    watcher.wait_for_event(|event| event["message"] == "part committed").await;
    eventually("a partial", || partials(&solo) == 1).await;
    watcher.kill9().await;
    assert_eq!(states(&solo).await, ["export_1 fetching"]);
    solo.home.set_exports(SHOP, &[]);
    forget(&solo, "export_1").await;
    assert_eq!(partials(&solo), 0);
    assert!(solo.home.export(SHOP, "export_1").join("part-00001-file_1.json").exists());
    let (code, output) = ran(&solo, "forget", &["export_1"]).await;
    assert_eq!(code, i32::from(exit::EXPORTS_FAILED));
    assert!(output.stderr[0].starts_with("export_1 is not known to any project"), "{output:?}");
    solo.home.set_exports(SHOP, &["export_1"]);
    assert_eq!(states(&solo).await, ["export_1 new"]);
}

#[tokio::test]
async fn the_notice_of_a_failure_goes_with_its_record() {
    let solo = Solo::new(vec![SimExport::failing("export_1")]).await;
    solo.settle(1).await;
    let notice = solo.home.export(SHOP, "export_1").join("failed.json");
    assert!(notice.exists());
    // Cut short after the files: the record is there, and a second try finishes it.
    fs::remove_file(&notice).unwrap();
    forget(&solo, "export_1").await;
    assert_eq!(states(&solo).await, ["export_1 new"]);
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file(1)])]).unwrap();
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

#[tokio::test]
async fn a_forgotten_whole_export_is_known_again_by_its_manifest_without_a_request() {
    let solo =
        Solo::new(vec![SimExport::finished("export_1", vec![file(1)]), pending("export_2")]).await;
    let watcher = running(&solo).await;
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    let manifest = fs::read(solo.home.export(SHOP, "export_1").join(MANIFEST_FILE)).unwrap();
    let views = solo.views("export_1").len();
    forget(&solo, "export_1").await;
    assert_eq!(states(&solo).await, ["export_1 whole", "export_2 polling"]);
    watcher.kill9().await;
    forget(&solo, "export_1").await;
    assert_eq!(states(&solo).await, ["export_1 new", "export_2 polling"]);
    let _watcher = running(&solo).await;
    assert_eq!(states(&solo).await, ["export_1 whole", "export_2 polling"]);
    assert_eq!((solo.views("export_1").len(), solo.fetches("file_1").len()), (views, 1));
    assert_eq!(fs::read(solo.home.export(SHOP, "export_1").join(MANIFEST_FILE)).unwrap(), manifest);
}

#[tokio::test]
async fn an_export_whose_files_were_taken_is_fetched_again() {
    let solo =
        Solo::new(vec![SimExport::finished("export_1", vec![file(1)]), pending("export_2")]).await;
    let watcher = running(&solo).await;
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    fs::remove_dir_all(solo.home.export(SHOP, "export_1")).unwrap();
    forget(&solo, "export_1").await;
    eventually("the manifest", || solo.home.try_manifest(SHOP, "export_1").is_some()).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
    assert_eq!(solo.fetches("file_1").len(), 2);
    drop(watcher);
}

#[tokio::test]
async fn parts_in_flight_are_stopped_and_begin_anew() {
    let held = SimFile::generated("file_9", 9, LARGE).on_fetch(Serving::well().held());
    let solo =
        Solo::new(vec![SimExport::finished("export_1", vec![file(1), held]), pending("export_2")])
            .await;
    let watcher = running(&solo).await;
    watcher.wait_for_event(|event| event["message"] == "part committed").await;
    solo.wait_for_fetches("file_9", 1).await;
    let views = solo.views("export_1").len();
    forget(&solo, "export_1").await;
    solo.wait_for(|seen| seen.iter().filter(|view| view.is_view_of("export_1")).count() > views)
        .await;
    solo.sim.release("file_9");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    solo.home.assert_whole(
        SHOP,
        "export_1",
        &[&file(1).content, &SimFile::generated("file_9", 9, LARGE).content],
    );
    assert_eq!(solo.fetches("file_1").len(), 1, "what was finished is adopted");
}

#[tokio::test]
async fn the_daemon_forgets_an_export_that_is_no_longer_configured() {
    let mut lost = file(2);
    lost.store_steps = vec![Canned::store_error(404, "NoSuchKey", "gone").into()];
    let exports = vec![SimExport::finished("export_1", vec![file(1), lost]), pending("export_2")];
    let settings = "[reload]\nwatch = false\n[poll]\nnot_found_grace = \"100ms\"";
    let mut solo = Solo::new(exports).await.with(settings);
    let watcher = running(&solo).await;
    watcher.wait_for_log(|line| line.contains("export failed")).await;
    solo.home.set_exports(SHOP, &["export_2"]);
    assert_eq!(ran(&solo, "reload", &[]).await.0, 0);
    let (code, output) = ran(&solo, "forget", &["export_1", "export_unknown"]).await;
    assert_eq!(
        (code, &output.stdout[..]),
        (1, &["shop/export_1: forgotten".to_owned()][..]),
        "{output:?}"
    );
    assert!(
        output.stderr[0].starts_with("export_unknown is not known to any project"),
        "{output:?}"
    );
    let left: Vec<_> =
        solo.home.tree().into_keys().filter(|path| path.contains("export_1/")).collect();
    assert_eq!(left, ["shop/export_1/part-00001-file_1.json"]);
    let (code, _) = ran(&solo, "forget", &["export_1"]).await;
    assert_eq!(code, 1, "nothing is known of it");
}

#[tokio::test]
async fn forget_leaves_parts_of_a_removed_project_alone() {
    let held = file(1).on_fetch(Serving::well().held());
    let exports = vec![SimExport::finished("export_a", vec![held])];
    let (sim, home) = scene(vec![("a", exports), ("b", vec![pending("export_b")])]).await;
    let mut home = home.with("[reload]\nwatch = false");
    let watcher = home.start(&[]);
    seen(&sim, |seen| seen.iter().any(|request| request.is_fetch_of("file_1"))).await;
    home.remove("project");
    let home = home.project("b", &project_key("b"), &rest_key("b"), &["export_b"]);
    assert_eq!(ran_at(&home, "reload", &[]).await.0, 0);
    let (code, output) = ran_at(&home, "forget", &["export_a"]).await;
    assert_eq!((code, output.stdout.len()), (1, 0), "{output:?}");
    assert!(output.stderr[0].starts_with("export_a is not known to any project"), "{output:?}");
    sim.release("file_1");
    watcher.wait_for_event(|event| event["message"] == "part committed").await;
    let fetched = sim.requests().iter().filter(|request| request.is_fetch_of("file_1")).count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn exit_when_settled_waits_for_an_export_that_starts_anew() {
    let held = file(1).on_fetch(Serving::well().held());
    let solo = Solo::finished(vec![held]).await;
    let watcher = solo.home.start(&["--exit-when-settled"]);
    solo.wait_for_fetches("file_1", 1).await;
    forget(&solo, "export_1").await;
    solo.sim.release("file_1");
    solo.settled(watcher, 0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

/// Kills the daemon or the command while it forgets `export_1` there, and lets a second try finish
/// it.
async fn killed_at(solo: &Solo, point: &str, by_daemon: bool) {
    solo.kill_at(point, "forget", by_daemon).await;
    let (code, output) = ran(solo, "forget", &["export_1"]).await;
    // Once it is off the record, there is nothing more to be forgotten.
    assert_eq!(
        code,
        i32::from(point == "after:forgotten.record"),
        "{point}, {by_daemon}: {output:?}"
    );
    assert_eq!(states(solo).await, ["export_1 new"], "{point}, {by_daemon}");
}

#[tokio::test]
async fn a_kill_while_forgetting_work_in_progress_leaves_it_to_a_second_try() {
    let points = ["part.unlink", "after:part.unlink", "forgotten.record", "after:forgotten.record"];
    let of_point = async |point| {
        let _turn = in_a_crowd().await;
        let slow = SimFile::generated("file_9", 9, 17_000_000).with_bytes_per_second(20_000_000);
        let contents = [file(1).content, slow.content.clone()];
        let solo = Solo::finished(vec![file(1), slow]).await;
        let watcher = running(&solo).await;
        watcher.wait_for_event(|event| event["message"] == "part committed").await;
        eventually("a partial", || partials(&solo) == 1).await;
        watcher.kill9().await;
        killed_at(&solo, point, false).await;
        assert_eq!(partials(&solo), 0, "{point}");
        solo.settle(0).await;
        solo.home.assert_whole(SHOP, "export_1", &contents.each_ref());
        assert_eq!(solo.fetches("file_1").len(), 1, "{point}: what was finished is adopted");
    };
    join_all(points.map(of_point)).await;
}

#[tokio::test]
async fn a_kill_while_forgetting_a_failure_leaves_it_to_a_second_try() {
    let points = [
        "notice.open",
        "notice.unlink",
        "after:notice.unlink",
        "forgotten.record",
        "after:forgotten.record",
    ];
    let of_point = async |(point, by_daemon)| {
        let _turn = in_a_crowd().await;
        let solo = Solo::new(vec![SimExport::failing("export_1")]).await;
        solo.settle(1).await;
        killed_at(&solo, point, by_daemon).await;
        solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file(1)])]).unwrap();
        solo.settle(0).await;
        solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
    };
    join_all(points.into_iter().flat_map(|point| [(point, true), (point, false)]).map(of_point))
        .await;
}
