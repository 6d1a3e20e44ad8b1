//! The sink on real files: the durable order, and every shape in which a crash can leave a folder.

mod disks;
mod modes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::domain::checksum::{Algorithm, Check, PromisedChecksum};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::manifest::{FAILED_FILE, MANIFEST_FILE, Manifest, failure_notice};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::report::ReportFacts;
use crate::domain::resume::{CHECKPOINT_BYTES, Plan, ResumablePart, ResumePoint, StrongEtag};

struct Bench {
    root: tempfile::TempDir,
    sink: LocalSink,
    project: ProjectName,
    export: ExportId,
}

fn bench() -> Bench {
    let root = tempfile::tempdir().unwrap();
    let (sink, _) =
        LocalSink::open(&root.path().join("exports"), None, SinkSettings::default()).unwrap();
    Bench { root, sink, project: "shop".parse().unwrap(), export: "export_1".parse().unwrap() }
}

fn key(number: u32) -> PartKey {
    PartKey { number, file_id: format!("file_{number}").parse().unwrap() }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::io::Write::write_all(&mut fs::File::create(path).unwrap(), bytes).unwrap();
}

/// Behind these bytes of ten.
fn point(before: &[u8]) -> ResumePoint {
    let mut digests = Digests::new(&[]);
    digests.update(before);
    let etag = StrongEtag::parse("\"v1\"").unwrap();
    ResumePoint { bytes: before.len() as u64, sha256: digests.so_far(), total_bytes: 10, etag }
}

/// The length of a part that is large enough for a name and for checkpoints.
const LARGE: u64 = CHECKPOINT_BYTES;

const SHA256_OF_12345: &str = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5";

/// MD5 of "0123456789".
fn md5_of_digits() -> PromisedChecksum {
    let value = (0..16)
        .map(|at| u8::from_str_radix(&"781e5e245d69b566979b86e28d23f2c7"[at * 2..at * 2 + 2], 16));
    PromisedChecksum { algorithm: Algorithm::Md5, value: value.map(Result::unwrap).collect() }
}

impl Bench {
    fn folder(&self) -> PathBuf {
        self.root.path().join("exports/shop/export_1")
    }

    fn begin(&self, number: u32, plan: &Plan) -> PartWriter {
        self.begin_declared(number, plan, None)
    }

    fn begin_declared(&self, number: u32, plan: &Plan, declared_bytes: Option<u64>) -> PartWriter {
        self.sink
            .begin_part(&self.project, &self.export, &key(number), plan, declared_bytes)
            .unwrap()
    }

    fn commit(&self, number: u32, bytes: &[u8]) -> CommittedPart {
        let mut writer = self.begin(number, &Plan::FromStart);
        writer.write(bytes).unwrap();
        writer.commit(Some(bytes.len().try_into().unwrap()), &[]).unwrap()
    }

    fn prepare(&self, listed: &[(PartKey, Option<u64>)], keep: &[ResumablePart]) -> Prepared {
        self.sink.prepare_export(&self.project, &self.export, listed, keep).unwrap()
    }

    fn manifest(&self, parts: Vec<CommittedPart>) -> Manifest {
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        Manifest::seal(self.project.clone(), self.export.clone(), ReportFacts::default(), parts, at)
    }

    fn seal(&self, bytes: &[u8]) -> Result<Sealed, SinkError> {
        self.sink.seal(&self.project, &self.export, bytes)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_part_gets_its_name_whole_and_checked() {
    let bench = bench();
    let mut writer = bench.begin(1, &Plan::FromStart);
    writer.arm(&[Algorithm::Md5]).unwrap();
    writer.write(b"01234").unwrap();
    assert_eq!(bench.names(), [".part-00001-file_1.json.partial"]);
    writer.write(b"56789").unwrap();
    let part = writer.commit(Some(10), &[md5_of_digits()]).unwrap();
    assert_eq!(bench.names(), ["part-00001-file_1.json"]);
    assert_eq!((part.bytes, part.declared_bytes), (10, Some(10)));
    assert_eq!(part.verified_by, [Check::Size, Check::Md5]);
    assert!(part.sha256.to_string().starts_with("84d89877f0d4041e"), "{}", part.sha256);
    for (path, mode) in
        [("part-00001-file_1.json", 0o600), (".", 0o700), ("..", 0o700), ("../..", 0o700)]
    {
        let found = fs::metadata(bench.folder().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{path}");
    }
    let marker = bench.root.path().join("exports").join(MARKER_FILE);
    assert_eq!(fs::metadata(marker).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_small_part_has_no_name_before_its_last_and_leaves_nothing_behind() {
    let bench = bench();
    let mut writer = bench.begin_declared(1, &Plan::FromStart, Some(10));
    writer.write(b"01234").unwrap();
    assert_eq!(bench.names(), [""; 0]);
    assert!(writer.checkpoint().is_none(), "it is fetched again instead");
    drop(writer);
    let mut writer = bench.begin_declared(1, &Plan::FromStart, Some(10));
    writer.write(b"0123456").unwrap();
    let kept = writer.sync_and_keep().unwrap().unwrap();
    assert_eq!(bench.names(), [".part-00001-file_1.json.partial"], "a clean stop gives it one");
    assert_eq!((kept.bytes, kept.sha256), (7, point(b"0123456").sha256));
    let mut writer = bench.begin_declared(1, &Plan::Continue(point(b"0123456")), Some(10));
    assert_eq!(writer.arm(&[]).unwrap(), Armed::Ready);
    writer.write(b"789").unwrap();
    writer.commit(Some(10), &[md5_of_digits()]).unwrap_err();
    assert_eq!(bench.names(), [""; 0], "a checksum that was not computed is not one that agrees");
    bench.commit(2, b"0123456789");
    assert_eq!(bench.names(), ["part-00002-file_2.json"]);
}

#[test]
fn a_checkpoint_says_what_is_durable_while_more_is_written() {
    let bench = bench();
    let mut writer = bench.begin_declared(1, &Plan::FromStart, Some(LARGE));
    assert_eq!(writer.allocated_bytes(), LARGE, "its room is taken at once");
    writer.write(b"01234").unwrap();
    let checkpoint = writer.checkpoint().unwrap();
    writer.write(b"56").unwrap();
    let prefix = checkpoint.run().unwrap();
    assert_eq!((prefix.bytes, prefix.sha256), (5, point(b"01234").sha256));
    drop(writer);
    let path = bench.folder().join(".part-00001-file_1.json.partial");
    assert_eq!(fs::read(&path).unwrap(), b"0123456");
    let mut writer = bench.begin_declared(1, &Plan::Continue(point(b"01234")), Some(LARGE));
    assert_eq!(writer.arm(&[]).unwrap(), Armed::Ready);
    writer.write(b"x").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"01234x");
}

#[test]
fn bytes_that_are_not_those_of_the_record_are_not_continued() {
    let bench = bench();
    let mut writer = bench.begin(1, &Plan::FromStart);
    writer.write(b"another version").unwrap();
    writer.sync_and_keep().unwrap();
    let mut writer = bench.begin(1, &Plan::Continue(point(b"0123456")));
    assert_eq!(writer.bytes(), 7);
    assert_eq!(writer.arm(&[Algorithm::Md5]).unwrap(), Armed::OtherBytes);
    writer.restart().unwrap();
    assert_eq!(writer.arm(&[Algorithm::Md5]).unwrap(), Armed::Ready);
    writer.write(b"0123456789").unwrap();
    writer.commit(Some(10), &[md5_of_digits()]).unwrap();
}

#[test]
fn a_group_is_committed_together_and_each_part_has_its_own_outcome() {
    let bench = bench();
    let finished = |number, bytes: &[u8]| {
        let mut writer = bench.begin_declared(number, &Plan::FromStart, Some(bytes.len() as u64));
        writer.write(bytes).unwrap();
        writer.finish(None, &[]).unwrap()
    };
    put(&bench.folder().join("part-00002-file_2.json"), b"something else");
    put(&bench.folder().join("part-00003-file_3.json"), b"the same");
    let group = vec![
        finished(1, b"one"),
        finished(2, b"two"),
        finished(3, b"the same"),
        finished(4, b"four"),
    ];
    let synced = finished(5, b"five").sync().unwrap();
    let outcomes = bench.sink.commit(group.into_iter().chain([synced]).collect());
    let numbers: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().ok().map(|part| part.key.number)).collect();
    assert_eq!(numbers, [Some(1), None, Some(3), Some(4), Some(5)]);
    assert!(matches!(&outcomes[1], Err(CommitError::Conflict(_))), "{outcomes:?}");
    assert_eq!(bench.names().len(), 5);
    assert_eq!(fs::read(bench.folder().join("part-00004-file_4.json")).unwrap(), b"four");
    assert_eq!(fs::read(bench.folder().join("part-00002-file_2.json")).unwrap(), b"something else");

    let group = vec![finished(6, b"six"), finished(7, b"seven")];
    Command::new("mv").arg(bench.folder()).arg(bench.root.path().join("taken")).status().unwrap();
    for outcome in bench.sink.commit(group) {
        assert!(
            matches!(&outcome, Err(CommitError::Mismatch(words)) if words.contains("moved")),
            "{outcome:?}"
        );
    }
    bench.commit(6, b"six");
    assert_eq!(bench.names(), ["part-00006-file_6.json"], "the folder is found anew");
}

#[test]
fn an_empty_part_is_a_file_too() {
    let bench = bench();
    let part = bench.begin(1, &Plan::FromStart).commit(Some(0), &[]).unwrap();
    assert_eq!((part.bytes, part.verified_by), (0, vec![Check::Size]));
    assert_eq!(fs::read(bench.folder().join("part-00001-file_1.json")).unwrap(), b"");
}

#[test]
fn what_was_not_promised_leaves_nothing() {
    let bench = bench();
    let mut wrong = md5_of_digits();
    wrong.value[15] ^= 1;
    for (declared, promised) in [(Some(9), vec![]), (Some(11), vec![]), (Some(10), vec![wrong])] {
        let mut writer = bench.begin(1, &Plan::FromStart);
        writer.arm(&[Algorithm::Md5]).unwrap();
        writer.write(b"0123456789").unwrap();
        let error = writer.commit(declared, &promised).unwrap_err();
        assert!(matches!(error, CommitError::Mismatch(_)), "{error:?}");
        assert_eq!(bench.names(), [""; 0]);
    }
}

#[test]
fn a_continued_part_is_hashed_from_its_first_byte() {
    let bench = bench();
    let mut writer = bench.begin(1, &Plan::FromStart);
    writer.write(b"0123456xx").unwrap();
    assert_eq!(writer.sync_and_keep().unwrap().unwrap().bytes, 9);
    let plan = Plan::Continue(point(b"0123456"));
    let mut writer = bench.begin(1, &plan);
    assert_eq!((writer.plan(), writer.bytes()), (&plan, 7));
    writer.arm(&[Algorithm::Md5]).unwrap();
    writer.write(b"789").unwrap();
    let part = writer.commit(None, &[md5_of_digits()]).unwrap();
    assert_eq!((part.bytes, part.verified_by), (10, vec![Check::Framing, Check::Md5]));
}

#[test]
fn a_restart_and_a_lost_partial_begin_at_zero() {
    let bench = bench();
    let mut writer = bench.begin(1, &Plan::Continue(point(b"0123456")));
    assert_eq!(
        (writer.plan(), writer.bytes()),
        (&Plan::FromStart, 0),
        "there is nothing to continue"
    );
    writer.write(b"garbage that is longer").unwrap();
    writer.restart().unwrap();
    writer.arm(&[Algorithm::Md5]).unwrap();
    writer.write(b"0123456789").unwrap();
    writer.commit(Some(10), &[md5_of_digits()]).unwrap();
    assert_eq!(fs::read(bench.folder().join("part-00001-file_1.json")).unwrap(), b"0123456789");

    let mut writer = bench.begin(2, &Plan::FromStart);
    writer.write(b"something else").unwrap();
    writer.restart().unwrap();
    writer.write(b"12345").unwrap();
    assert_eq!(
        writer.commit(Some(5), &[]).unwrap().sha256.to_string(),
        SHA256_OF_12345,
        "not of what was dropped"
    );
}

#[test]
fn an_identical_file_at_the_final_name_is_adopted_and_another_is_a_conflict() {
    let bench = bench();
    let path = bench.folder().join("part-00001-file_1.json");
    put(&path, b"same");
    assert_eq!(bench.commit(1, b"same").bytes, 4);
    for other in [b"diff".as_slice(), b"longer"] {
        put(&path, other);
        let mut writer = bench.begin(1, &Plan::FromStart);
        writer.write(b"same").unwrap();
        let error = writer.commit(Some(4), &[]).unwrap_err();
        assert!(
            matches!(&error, CommitError::Conflict(words) if words.contains("part-00001")),
            "{error:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), other, "untouched");
        assert_eq!(bench.names(), ["part-00001-file_1.json"], "and no partial is left");
    }
}

#[test]
fn two_writers_of_one_part_are_refused_and_a_dropped_one_frees_it() {
    let bench = bench();
    let first = bench.begin(1, &Plan::FromStart);
    let second =
        bench.sink.begin_part(&bench.project, &bench.export, &key(1), &Plan::FromStart, None);
    assert!(second.is_err());
    drop(first);
    bench.begin(1, &Plan::FromStart).discard();
    assert_eq!(bench.names(), [""; 0]);
}

/// To some disks their working files would be one, and one of them would get its final name with
/// the bytes of the other.
#[test]
fn parts_whose_names_differ_in_case_alone_are_written_one_after_the_other() {
    let bench = bench();
    let begin = |id: &str| {
        let key = PartKey { number: 1, file_id: id.parse().unwrap() };
        bench.sink.begin_part(&bench.project, &bench.export, &key, &Plan::FromStart, None)
    };
    let mut first = begin("file_a").unwrap();
    let busy = begin("FILE_A").unwrap_err();
    assert!(busy.is_busy() && !busy.is_conflict(), "{busy}");
    first.write(b"[1]").unwrap();
    first.commit(None, &[]).unwrap();
    let mut second = begin("FILE_A").unwrap();
    second.write(b"[2]").unwrap();
    second.commit(None, &[]).unwrap();
    assert_eq!(bench.names(), ["part-00001-FILE_A.json", "part-00001-file_a.json"]);
}

#[test]
fn a_folder_that_moved_away_gets_nothing() {
    let bench = bench();
    let mut writer = bench.begin(1, &Plan::FromStart);
    writer.write(b"1234").unwrap();
    Command::new("mv").arg(bench.folder()).arg(bench.root.path().join("taken")).status().unwrap();
    let error = writer.commit(Some(4), &[]).unwrap_err();
    assert!(matches!(&error, CommitError::Mismatch(words) if words.contains("moved")), "{error:?}");
    assert_eq!(fs::read_dir(bench.root.path().join("taken")).unwrap().count(), 0);
}

#[test]
fn leftovers_are_removed_unless_a_record_or_a_writer_vouches_for_them() {
    let bench = bench();
    let folder = bench.folder();
    for number in 1..=4 {
        put(&folder.join(format!(".part-0000{number}-file_{number}.json.partial")), b"0123456789");
    }
    let probe = ".batch-export-watcher.probe-1";
    for name in [".manifest.json.partial", ".failed.json.partial", probe, "notes.txt", ".hidden"] {
        put(&folder.join(name), b"x");
    }
    let _writing = bench.begin(4, &Plan::FromStart);
    let keep = |number, bytes| ResumablePart { key: key(number), point: point(&vec![0; bytes]) };
    let prepared = bench
        .prepare(&[(key(1), Some(10)), (key(2), None)], &[keep(1, 7), keep(2, 11), keep(9, 1)]);
    assert_eq!(prepared, Prepared { resumable: vec![keep(1, 7)], ..Prepared::default() });
    let left = [
        ".hidden",
        ".part-00001-file_1.json.partial",
        ".part-00004-file_4.json.partial",
        "notes.txt",
    ];
    assert_eq!(bench.names(), left);
}

#[test]
fn a_final_name_without_a_record_is_adopted_or_a_conflict() {
    let bench = bench();
    let folder = bench.folder();
    for (number, bytes) in
        [(1, "12345"), (2, "123"), (3, "{\"a\":1}"), (4, "<html>"), (5, ""), (6, "")]
    {
        let path = folder.join(key(number).file_name());
        put(&path, bytes.as_bytes());
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    // Of the right length, and a stranger's by its mode: neither believed nor refused before its
    // content is known.
    let strangers = folder.join(key(9).file_name());
    put(&strangers, b"x");
    fs::set_permissions(strangers, fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(folder.join(key(7).file_name())).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join(key(8).file_name())).unwrap();
    let declared = [Some(5), Some(5), None, None, None, Some(0), Some(1), None, Some(1)];
    let listed: Vec<_> = (1..).map(key).zip(declared).collect();
    let prepared = bench.prepare(&listed, &[]);
    let adopted: Vec<_> =
        prepared.adopted.iter().map(|part| (part.key.number, part.verified_by[0])).collect();
    assert_eq!(adopted, [(1, Check::Size), (3, Check::Framing), (6, Check::Size)]);
    assert_eq!(prepared.adopted[0].sha256.to_string(), SHA256_OF_12345);
    let conflicts: Vec<_> = prepared.conflicts.iter().map(|(key, _)| key.number).collect();
    assert_eq!(conflicts, [2, 4, 5, 7, 8]);
    assert_eq!(bench.names().len(), 9, "all untouched");
}

#[test]
fn a_file_under_its_final_name_and_its_working_name_is_there_once() {
    let bench = bench();
    let mut writer = bench.begin_declared(1, &Plan::FromStart, Some(LARGE));
    writer.write(b"01234").unwrap();
    let kept = writer.sync_and_keep().unwrap().unwrap();
    let partial = bench.folder().join(".part-00001-file_1.json.partial");
    fs::hard_link(&partial, bench.folder().join("part-00001-file_1.json")).unwrap();
    let record = ResumablePart { key: key(1), point: point(b"01234") };
    assert_eq!(kept.bytes, record.point.bytes);
    let prepared = bench.prepare(&[(key(1), Some(5))], &[record]);
    assert_eq!((prepared.adopted.len(), prepared.resumable), (1, vec![]));
}

#[test]
fn what_stands_where_a_folder_belongs_is_that_exports_conflict() {
    let bench = bench();
    put(&bench.root.path().join("exports/shop/export_1"), b"a file");
    let error = bench.sink.prepare_export(&bench.project, &bench.export, &[], &[]).unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert!(bench.seal(b"{}").unwrap_err().is_conflict());
    let found = bench.sink.read_manifest(&bench.project, &bench.export).unwrap();
    assert!(matches!(found, OnDisk::Rejected(_)), "{found:?}");
    let other: ExportId = "export_2".parse().unwrap();
    bench.sink.prepare_export(&bench.project, &other, &[], &[]).unwrap();
}

#[test]
fn a_manifest_is_written_once_and_never_over_another() {
    let bench = bench();
    let part = bench.commit(1, b"1234");
    let bytes = bench.manifest(vec![part.clone()]).to_text().into_bytes();
    assert_eq!(bench.seal(&bytes).unwrap(), Sealed::Written);
    assert_eq!(bench.seal(&bytes).unwrap(), Sealed::AlreadyThere);
    let mut later = bench.manifest(vec![part]);
    later.sealed_at = "2027-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(
        bench.seal(&later.to_text().into_bytes()).unwrap(),
        Sealed::AlreadyThere,
        "of the same files"
    );
    let other = bench.manifest(vec![]).to_text().into_bytes();
    assert!(bench.seal(&other).unwrap_err().is_conflict());
    assert_eq!(fs::read(bench.folder().join(MANIFEST_FILE)).unwrap(), bytes);
    assert_eq!(bench.names(), [MANIFEST_FILE, "part-00001-file_1.json"]);
}

#[test]
fn a_folder_that_nothing_more_is_written_to_is_not_remembered() {
    let bench = bench();
    let part = bench.commit(1, b"[1]");
    assert_eq!(bench.sink.known_folders(), 1);
    bench.seal(&bench.manifest(vec![part]).to_text().into_bytes()).unwrap();
    assert_eq!(bench.sink.known_folders(), 0);
    let failed: ExportId = "export_failed".parse().unwrap();
    bench.sink.write_failed(&bench.project, &failed, b"{}").unwrap();
    assert_eq!(bench.sink.known_folders(), 0);
}

#[test]
fn sealing_is_finished_after_a_crash_whatever_a_consumer_took() {
    let bench = bench();
    let manifest = bench.manifest(vec![bench.commit(1, b"1234"), bench.commit(2, b"5")]);
    let bytes = manifest.to_text().into_bytes();
    let recover =
        || bench.sink.recover_sealing(&bench.project, &bench.export, &manifest, &bytes).unwrap();
    assert_eq!(recover(), Recovered::Sealed(Sealed::Written), "died before the manifest");
    assert_eq!(recover(), Recovered::Sealed(Sealed::AlreadyThere), "died after it");
    fs::remove_file(bench.folder().join(MANIFEST_FILE)).unwrap();
    fs::remove_file(bench.folder().join("part-00001-file_1.json")).unwrap();
    assert_eq!(recover(), Recovered::Sealed(Sealed::Written), "one part is left");
    fs::remove_file(bench.folder().join(MANIFEST_FILE)).unwrap();
    fs::remove_file(bench.folder().join("part-00002-file_2.json")).unwrap();
    assert_eq!(recover(), Recovered::Taken);
    assert_eq!(bench.names(), [""; 0]);
    fs::remove_dir(bench.folder()).unwrap();
    assert_eq!(recover(), Recovered::Taken);
    assert!(!bench.folder().exists(), "not made again");
    let nothing = bench.manifest(vec![]);
    bench.prepare(&[], &[]);
    let recovered = bench.sink.recover_sealing(
        &bench.project,
        &bench.export,
        &nothing,
        &nothing.to_text().into_bytes(),
    );
    assert_eq!(recovered.unwrap(), Recovered::Sealed(Sealed::Written), "an export without parts");
}

#[test]
fn manifests_are_found_again_and_believed_only_where_the_files_agree() {
    let bench = bench();
    let exports = ["taken", "whole", "short", "renamed", "cut", "none"];
    for name in exports {
        let of = Bench { export: name.parse().unwrap(), sink: bench.sink.clone(), ..self::bench() };
        let mut writer =
            of.sink.begin_part(&of.project, &of.export, &key(1), &Plan::FromStart, None).unwrap();
        writer.write(b"1234").unwrap();
        let part = writer.commit(Some(4), &[]).unwrap();
        if name != "none" {
            of.seal(&of.manifest(vec![part]).to_text().into_bytes()).unwrap();
        }
    }
    let shop = bench.root.path().join("exports/shop");
    fs::remove_file(shop.join("taken/part-00001-file_1.json")).unwrap();
    put(&shop.join("short/part-00001-file_1.json"), b"123");
    Command::new("mv").arg(shop.join("renamed")).arg(shop.join("renamed2")).status().unwrap();
    put(&shop.join("cut").join(MANIFEST_FILE), b"{\"version\": 1,");
    put(&shop.join("a file"), b"");
    put(&shop.join("file"), b"");
    let mut found: Vec<(String, bool)> = bench
        .sink
        .scan_manifests(&bench.project)
        .unwrap()
        .map(|found| found.unwrap())
        .map(|(export, found)| (export.to_string(), matches!(found, OnDisk::Whole { .. })))
        .collect();
    found.sort();
    let expected = [
        ("cut", false),
        ("file", false),
        ("renamed2", false),
        ("short", false),
        ("taken", true),
        ("whole", true),
    ];
    assert_eq!(found, expected.map(|(name, whole)| (name.to_owned(), whole)));
    let other: ProjectName = "other".parse().unwrap();
    assert_eq!(bench.sink.scan_manifests(&other).unwrap().count(), 0);
}

#[test]
fn the_failure_notice_is_ours_to_replace_and_to_remove_and_nobody_elses() {
    let bench = bench();
    let notice = |cause: &str| {
        let failure = Failure {
            kind: FailureKind::Expired,
            cause: cause.to_owned(),
            error_code: None,
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
        };
        failure_notice(&bench.project, &bench.export, &failure)
    };
    let write = |cause: &str| {
        bench.sink.write_failed(&bench.project, &bench.export, notice(cause).as_bytes())
    };
    let remove = || bench.sink.remove_failed(&bench.project, &bench.export);
    remove().unwrap();
    write("one").unwrap();
    write("one").unwrap();
    write("two").unwrap();
    assert_eq!(fs::read_to_string(bench.folder().join(FAILED_FILE)).unwrap(), notice("two"));
    assert_eq!(bench.names(), [FAILED_FILE]);
    remove().unwrap();
    assert_eq!(bench.names(), [""; 0]);
    put(&bench.folder().join(FAILED_FILE), b"{\"export_id\": \"export_2\", \"kind\": \"x\"}");
    assert!(write("three").unwrap_err().is_conflict());
    assert!(remove().unwrap_err().is_conflict());
}

#[test]
fn a_directory_that_is_not_the_one_on_record_is_away_until_it_is_back() {
    let root = tempfile::tempdir().unwrap();
    let (path, aside) = (root.path().join("a/exports"), root.path().join("aside"));
    let (_, Opened::Created(marker)) =
        LocalSink::open(&path, None, SinkSettings::default()).unwrap()
    else {
        panic!("not created")
    };
    assert_eq!(
        LocalSink::open(&path, None, SinkSettings::default()).unwrap().1,
        Opened::Adopted(marker),
        "the state was lost"
    );
    let (sink, opened) = LocalSink::open(&path, Some(marker), SinkSettings::default()).unwrap();
    assert_eq!(opened, Opened::Known);
    let (project, export) = ("shop".parse().unwrap(), "export_1".parse().unwrap());
    let mv = |from: &Path, to: &Path| {
        assert!(Command::new("mv").arg(from).arg(to).status().unwrap().success())
    };

    mv(&path, &aside);
    let (late, opened) = LocalSink::open(&path, Some(marker), SinkSettings::default()).unwrap();
    assert!(matches!(&opened, Opened::Away(words) if words.contains("not mounted?")), "{opened:?}");
    for sink in [&sink, &late] {
        assert!(matches!(sink.free_bytes(), Err(SinkError::Away { .. })));
        assert!(matches!(sink.disk_check(0), Err(SinkError::Away { .. })));
        assert!(matches!(
            sink.prepare_export(&project, &export, &[], &[]),
            Err(SinkError::Away { .. })
        ));
        assert!(matches!(
            sink.begin_part(&project, &export, &key(1), &Plan::FromStart, None),
            Err(SinkError::Away { .. })
        ));
        assert!(matches!(sink.seal(&project, &export, b"{}"), Err(SinkError::Away { .. })));
    }
    assert!(!path.exists(), "never made again");

    fs::create_dir(&path).unwrap();
    assert!(matches!(sink.free_bytes(), Err(SinkError::Away { .. })), "an empty mount point");
    put(&path.join(MARKER_FILE), b"batch-export-watcher 1\n00000000000000000000000000000000\n");
    assert!(matches!(sink.free_bytes(), Err(SinkError::Away { .. })), "another disk");
    put(&path.join(MARKER_FILE), b"");
    assert!(matches!(sink.free_bytes(), Err(SinkError::Away { .. })), "a damaged marker");
    assert!(matches!(
        LocalSink::open(&path, None, SinkSettings::default()),
        Err(SinkError::Marker { .. })
    ));
    fs::remove_dir_all(&path).unwrap();
    mv(&aside, &path);
    late.disk_check(0).unwrap();
    late.prepare_export(&project, &export, &[], &[]).unwrap();
}
