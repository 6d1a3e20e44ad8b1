//! Disks that are small, full or read-only.

use std::fs;
use std::process::Command;

use super::super::*;
use super::{at, key, point, put};
use crate::domain::resume::{Plan, ResumePoint};

#[test]
fn the_reserve_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let settings = SinkSettings { reserve_bytes: u64::MAX, ..SinkSettings::default() };
    let (sink, _) = LocalSink::open(root.path(), None, settings).unwrap();
    assert!(matches!(sink.disk_check(0), Err(SinkError::Reserve { .. })));
    let at = at("export_1");
    let mut writer = sink.begin_part(&at, &key(1), &Plan::FromStart, None).unwrap();
    assert!(matches!(writer.append(b"x"), Err(SinkError::Reserve { .. })));
    assert_eq!(writer.sync_and_keep().unwrap(), None);
}

/// A small file system, unmounted at the end. `None` if this process may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let mounted = rustix::process::geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", options, "tmpfs"])
                .arg(root.path())
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: this test needs to mount a tmpfs, and this process may not");
        }
        mounted.then_some(Self(root))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[test]
fn a_full_disk_keeps_what_was_written_and_heals() {
    let Some(disk) = SmallDisk::mount("size=256k,mode=700") else { return };
    let (sink, _) = LocalSink::open(disk.0.path(), None, SinkSettings::default()).unwrap();
    let at = at("export_1");
    put(&disk.0.path().join("ballast"), &[0; 100 * 1024]);
    let mut writer = sink.begin_part(&at, &key(1), &Plan::FromStart, None).unwrap();
    let error = loop {
        if let Err(error) = writer.append(&[b'x'; 10_000]) {
            break error;
        }
    };
    assert!(matches!(&error, SinkError::Disk(error) if error.is_space()), "{error:?}");
    assert!(!error.is_conflict());
    let kept = writer.sync_and_keep().unwrap().unwrap().bytes;
    assert!(kept > 0 && kept.is_multiple_of(10_000), "{kept}: half a block does not count");
    let partial = disk.0.path().join("shop/export_1/.part-00001-file_1.json.partial");
    assert_eq!(fs::metadata(partial).unwrap().len(), kept);
    let mut rest = fs::File::create(disk.0.path().join("ballast-2")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    assert!(matches!(sink.disk_check(0), Err(SinkError::Disk(_) | SinkError::Reserve { .. })));
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    sink.disk_check(0).unwrap();
    let before = vec![b'x'; usize::try_from(kept).unwrap()];
    let plan = Plan::Continue(ResumePoint { total_bytes: kept + 5, ..point(&before) });
    let mut writer = sink.begin_part(&at, &key(1), &plan, None).unwrap();
    assert_eq!(writer.bytes, kept);
    writer.append(b"tail!").unwrap();
    assert_eq!(writer.commit(Some(kept + 5), &[]).unwrap().bytes, kept + 5);
}

#[test]
fn no_inodes_and_a_read_only_disk_are_the_disks_fault() {
    let Some(disk) = SmallDisk::mount("size=1m,nr_inodes=8,mode=700") else { return };
    let (sink, opened) = LocalSink::open(disk.0.path(), None, SinkSettings::default()).unwrap();
    let Opened::Created(marker) = opened else { panic!("{opened:?}") };
    for number in 0..8 {
        drop(fs::File::create(disk.0.path().join(format!("ballast-{number}"))));
    }
    assert!(matches!(sink.disk_check(0), Err(SinkError::Disk(error)) if error.is_space()));
    let remount = |options: &str| {
        Command::new("mount").args(["-o", options]).arg(disk.0.path()).status().unwrap();
    };
    remount("remount,ro");
    let SinkError::Disk(error) = sink.disk_check(0).unwrap_err() else { panic!("not the disk") };
    assert_eq!(error.class(), crate::durable::ErrorClass::ReadOnly);
    let (late, opened) =
        LocalSink::open(disk.0.path(), Some(marker), SinkSettings::default()).unwrap();
    assert_eq!(opened, Opened::Known, "a start on a read-only disk waits for it to heal");
    remount("remount,rw");
    for number in 0..3 {
        fs::remove_file(disk.0.path().join(format!("ballast-{number}"))).unwrap();
    }
    late.disk_check(0).unwrap();
}
