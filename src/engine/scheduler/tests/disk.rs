//! What a sick or full disk costs everybody else.

use std::io::Write as _;

use super::*;
use crate::engine::folders::DISK_INTERVAL;
use crate::sinks::local::MARKER_FILE;

#[tokio::test]
async fn an_export_whose_folder_is_sick_does_not_keep_the_disk_from_the_others() {
    let mut rig = rig(&[2], 8);
    rig.viewed(0, "SUCCESS", 1);
    rig.chore_ends(ChoreEnd::Disk { cause: "permission denied".to_owned() });
    rig.fetching(1, 1);
    assert!(!rig.scheduler.folders.disk_is_open(), "in doubt");
    rig.look_at_the_disk().await;
    assert!(rig.scheduler.folders.disk_is_open(), "one look tells that the disk is well");
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [1]);
    let due = rig.scheduler.folders.wakes_at(rig.now()).unwrap();
    assert!(due <= rig.now() + DISK_INTERVAL, "the sick one is tried again");
}

#[tokio::test]
async fn an_ill_disk_is_looked_at_every_few_seconds_until_it_is_well() {
    let mut rig = rig(&[1], 8);
    rig.fetching(0, 1);
    let marker = rig.folder.path().join(MARKER_FILE);
    let text = std::fs::read(&marker).unwrap();
    std::fs::remove_file(&marker).unwrap();
    rig.scheduler.folders.doubt_disk(rig.now());
    rig.look_at_the_disk().await;
    assert!(rig.scheduler.folders.illness().is_some());
    rig.scheduler.admit();
    assert!(rig.parts_under_way().is_empty());
    let due = rig.scheduler.folders.wakes_at(rig.now()).unwrap();
    assert!(due > rig.now() && due <= rig.now() + DISK_INTERVAL);
    std::fs::File::create(&marker).unwrap().write_all(&text).unwrap();
    rig.scheduler.folders.look_now();
    rig.look_at_the_disk().await;
    assert!(rig.scheduler.folders.illness().is_none() && rig.scheduler.folders.disk_is_open());
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0]);
}

#[tokio::test]
async fn nothing_is_written_before_the_download_directory_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late");
    let other = crate::process::lock::InstanceLock::acquire(&path).unwrap();
    let lock = Arc::new(LateLock::new(path));
    let mut rig = locked_rig(&[2], 8, folder, lock.clone());
    rig.fetching(0, 1);
    rig.viewed(1, "SUCCESS", 1);
    rig.look_at_the_disk().await;
    assert!(!rig.scheduler.folders.disk_is_open());
    rig.scheduler.admit();
    assert!(rig.parts_under_way().is_empty() && rig.scheduler.folders.under_way() == 0);
    drop(other);
    rig.scheduler.folders.look_now();
    rig.look_at_the_disk().await;
    assert!(rig.scheduler.folders.disk_is_open() && lock.is_held());
}

#[tokio::test]
async fn room_is_promised_once() {
    let mut rig = rig(&[2], 8);
    for export in 0..2 {
        rig.viewed(export, "SUCCESS", 6);
        rig.chore_ends(prepared(60, 100));
    }
    rig.scheduler.admit();
    assert!(!rig.parts_under_way().contains(&1), "the second one waits before its first byte");
    assert_eq!(rig.scheduler.folders.parked(), [(rig.exports[1], ChoreKind::Prepare)]);
}
