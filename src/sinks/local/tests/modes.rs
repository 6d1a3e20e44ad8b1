//! Modes that let a group read, and settings that change while the sink is in use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::*;
use super::{LARGE, at, bench, key, order, point, put};
use crate::domain::manifest::{FAILED_FILE, MANIFEST_FILE};
use crate::domain::modes::{DirectoryMode, FileMode, Modes};
use crate::domain::resume::Plan;

fn shared() -> SinkSettings {
    let file = FileMode::try_new(0o640).unwrap();
    let directory = DirectoryMode::try_new(0o750).unwrap();
    SinkSettings { modes: Modes { file, directory }, ..SinkSettings::default() }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn other_modes_and_another_reserve_count_for_all_clones_and_for_what_is_begun_from_then_on() {
    let bench = bench();
    bench.commit(1, b"before");
    let mut kept = bench.begin_declared(2, &Plan::FromStart, Some(LARGE + 7));
    kept.append(b"0123456").unwrap();
    kept.sync_and_keep().unwrap().unwrap();
    let partial = bench.folder().join(".part-00002-file_2.json.partial");
    assert_eq!(mode(&partial), 0o600);
    bench.sink.clone().reconfigure(shared());
    bench.commit(3, b"after");
    let continued = bench.begin(2, &Plan::Continue(point(b"0123456")));
    assert_eq!((continued.bytes, mode(&partial)), (7, 0o640), "it is not finished");
    continued.throw_away();
    bench.begin_declared(4, &Plan::FromStart, Some(LARGE + 7)).append(b"x").unwrap();
    bench.seal(b"{}").unwrap();
    bench.sink.write_failed(&bench.at, b"{}").unwrap();
    bench.sink.prepare_export(&at("export_2"), &[]).unwrap();
    for (path, expected) in [
        (".", 0o700),
        ("part-00001-file_1.json", 0o600),
        ("part-00003-file_3.json", 0o640),
        (MANIFEST_FILE, 0o640),
        (FAILED_FILE, 0o640),
        ("../export_2", 0o750),
        ("../../.batch-export-watcher", 0o600),
    ] {
        assert_eq!(mode(&bench.folder().join(path)), expected, "{path}");
    }
    bench.sink.reconfigure(SinkSettings { reserve_bytes: u64::MAX, ..shared() });
    assert_eq!(bench.sink.clone().settings().reserve_bytes, u64::MAX);
    assert!(matches!(bench.sink.disk_check(0), Err(SinkError::Reserve { .. })));
}

#[test]
fn a_download_directory_that_is_missing_is_made_with_what_leads_to_it_for_those_who_may_read() {
    let root = tempfile::tempdir().unwrap();
    LocalSink::open(&root.path().join("a/exports"), None, shared()).unwrap();
    assert_eq!(mode(&root.path().join("a")), 0o750);
    assert_eq!(mode(&root.path().join("a/exports")), 0o750);
    assert_eq!(mode(&root.path().join("a/exports").join(MARKER_FILE)), 0o600);
}

#[test]
fn a_file_for_the_group_is_ours_where_that_is_configured() {
    let bench = bench();
    let listed: Vec<_> = (1..=4).map(|number| order(number, Some(5), None)).collect();
    for (number, mode) in [(1, 0o600), (2, 0o640), (3, 0o644), (4, 0o660)] {
        let path = bench.folder().join(key(number).file_name());
        put(&path, b"12345");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let adopted = || {
        let prepared = bench.prepare(&listed);
        assert_eq!(prepared.conflicts, []);
        prepared.adopted.iter().map(|part| part.key.number).collect::<Vec<_>>()
    };
    assert_eq!(adopted(), [1]);
    bench.sink.reconfigure(shared());
    assert_eq!(adopted(), [1, 2]);
    let finished = mode(&bench.folder().join(key(1).file_name()));
    assert_eq!(finished, 0o600, "what is finished keeps its mode");
}
