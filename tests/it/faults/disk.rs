//! Disks that fail in the system call itself, and disks to which upper and lower case are the same.

use batch_export_watcher::simulator::{Recorded, Serving, SimExport, SimFile, ViewStep};
use rustix::io::Errno;
use serde_json::Value;

use crate::support::eventually;
use crate::support::fuse::{Disk, Operation};
use crate::support::scene::{count, failure, told};
use crate::support::solo::{SHOP, Solo};

fn file(id: &str, number: u64) -> SimFile {
    SimFile::generated(id, number, 200_000)
}

fn running() -> SimExport {
    SimExport::new("export_running", vec![ViewStep::status("RUNNING")])
}

/// The disk refuses one kind of operation for a while: polling goes on, nothing is seen before its
/// time, nothing that was finished is fetched again, and once the disk works the rest downloads
/// by itself.
async fn is_waited_for(operation: Operation, errno: Errno, words: &str) {
    let waiting = SimExport::new("export_1", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![
        SimExport::finished("export_0", vec![file("file_0", 1)]),
        waiting,
        running(),
    ])
    .await;
    let Some(disk) = Disk::mount(solo.home.downloads()) else { return };
    let watcher = solo.start();
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    let files =
        [file("file_1", 1), file("file_2", 2)].map(|file| file.on_fetch(Serving::well().held()));
    solo.sim
        .set_views("export_1", vec![ViewStep::Success(files.to_vec())])
        .expect("an export of the script");
    for file in &files {
        // Its folder is made; what is left to do is the part's own.
        solo.wait_for_fetches(&file.id, 1).await;
    }
    disk.fail(&[operation], errno);
    for file in &files {
        solo.sim.release(&file.id);
    }
    watcher.wait_for_log(|line| line.contains(words)).await;
    eventually("a failing disk", || disk.failed() > 0).await;
    let is_poll = |request: &Recorded| request.is_view_of("export_running");
    let polls = count(&solo.sim.requests(), is_poll);
    solo.wait_for(|seen| count(seen, is_poll) >= polls + 5).await;
    let folder = format!("{SHOP}/export_1/");
    let visible = |path: &String| path.starts_with(&folder) && path.ends_with(".json");
    assert_eq!(
        solo.home.tree().into_keys().filter(visible).count(),
        0,
        "a name on a disk that fails"
    );
    let failed = disk.failed();
    assert!(failed < 200, "{failed} operations on a disk that fails: no pause between them");
    disk.heal();
    watcher
        .wait_for_event(|event| event["message"] == "export whole" && event["export"] == "export_1")
        .await;
    solo.home.assert_whole(SHOP, "export_1", &[&files[0].content, &files[1].content]);
    for fetch in ["file_1", "file_2"].map(|id| solo.fetches(id)).concat() {
        assert_eq!(fetch.header("range"), None, "bytes of a disk that failed were believed");
    }
    assert_eq!(solo.fetches("file_0").len(), 1);
    let output = watcher.kill9().await;
    assert_eq!(told(&output, "ERROR", "export failed"), [""; 0], "no export fails for its disk");
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_exceeded_quota_downloads_resume() {
    is_waited_for(Operation::Write, Errno::DQUOT, "quota").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_write_error_downloads_resume_and_do_not_trust_the_partial() {
    is_waited_for(Operation::Write, Errno::IO, "Input/output error").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_synced_is_fetched_again_and_never_synced_twice() {
    is_waited_for(Operation::Sync, Errno::IO, "Input/output error").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_goes_if_its_folder_cannot_be_synced() {
    is_waited_for(Operation::SyncFolder, Errno::IO, "Input/output error").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_differ_only_in_case_conflict_on_a_disk_that_ignores_case() {
    let exports = vec![
        SimExport::finished(
            "export_files",
            vec![file("file_a", 1), SimFile::generated("FILE_A", 1, 150_000)],
        ),
        SimExport::finished("export_folder", vec![file("file_1", 1)]),
        SimExport::finished("EXPORT_folder", vec![SimFile::generated("file_2", 2, 100_000)]),
        SimExport::finished("export_good", vec![file("file_good", 1)]),
    ];
    let solo = Solo::new(exports).await;
    let Some(disk) = Disk::mount_without_case(solo.home.downloads()) else { return };
    let output = solo.settle(1).await;
    solo.home.assert_whole(SHOP, "export_good", &[&file("file_good", 1).content]);
    let failed: Vec<Value> = output
        .stderr
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| {
            event["message"].as_str().is_some_and(|words| words.contains("export failed"))
        })
        .collect();
    let mut names: Vec<_> = failed.iter().filter_map(|event| event["export"].as_str()).collect();
    names.sort_unstable_by_key(|name| name.to_lowercase());
    assert_eq!(names.len(), 2, "{names:?}: {:#?}", output.stderr);
    assert!(
        names[0] == "export_files" && names[1].eq_ignore_ascii_case("export_folder"),
        "{names:?}"
    );
    assert_eq!(failure(&solo.home, SHOP, "export_files")["kind"], "conflict");
    // The folder is the one's that was first, whole as if there were no other.
    let first = if names[1] == "EXPORT_folder" { "export_folder" } else { "EXPORT_folder" };
    let manifest = solo.home.manifest(SHOP, first);
    assert_eq!((manifest.export_id.as_str(), manifest.parts.len()), (first, 1));
    let part = &manifest.parts[0];
    assert_eq!(solo.home.sha256(&format!("{SHOP}/{first}/{}", part.path)), part.sha256);
    drop(disk);
}
