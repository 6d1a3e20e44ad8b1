//! The sink on real files: the durable order, and every state in which a crash can leave a folder.

mod disks;
mod modes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::domain::checksum::Check;
use crate::domain::ids::ExportPath;
use crate::domain::manifest::Manifest;
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::report::ReportFacts;
use crate::domain::resume::{CHECKPOINT_BYTES, Plan, ResumablePart, ResumePoint, StrongEtag};
use crate::domain::watch::PartOrder;
use crate::ports::{Armed, Found, Prepared, Put, SinkFault, Upload};
use crate::sinks::conformance::{Shelf, at, conforms, key, md5_of_digits};

impl Shelf for tempfile::TempDir {
    type Sink = LocalSink;

    async fn open(&self) -> LocalSink {
        let known = fs::read(self.path().join(MARKER_FILE)).ok();
        let known = known.and_then(|bytes| MarkerId::from_file(&bytes));
        LocalSink::open(self.path(), known, SinkSettings::default()).unwrap().0
    }

    fn names(&self, at: &ExportPath) -> Vec<String> {
        let folder = fs::read_dir(self.path().join(at.to_string()));
        let names = folder.into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    fn read(&self, at: &ExportPath, name: &str) -> Option<Vec<u8>> {
        fs::read(self.path().join(at.to_string()).join(name)).ok()
    }

    fn put(&self, at: &ExportPath, name: &str, bytes: &[u8]) {
        put(&self.path().join(at.to_string()).join(name), bytes);
    }

    fn take(&self, at: &ExportPath, name: &str) {
        fs::remove_file(self.path().join(at.to_string()).join(name)).unwrap();
    }
}

conforms!(tempfile::tempdir().unwrap());

struct Bench {
    root: tempfile::TempDir,
    sink: LocalSink,
    at: ExportPath,
}

fn bench() -> Bench {
    let root = tempfile::tempdir().unwrap();
    let (sink, _) =
        LocalSink::open(&root.path().join("exports"), None, SinkSettings::default()).unwrap();
    Bench { root, sink, at: at("export_1") }
}

fn order(number: u32, declared_bytes: Option<u64>, resume: Option<ResumePoint>) -> PartOrder {
    PartOrder { key: key(number), declared_bytes, resume }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::io::Write::write_all(&mut fs::File::create(path).unwrap(), bytes).unwrap();
}

fn point(before: &[u8]) -> ResumePoint {
    let mut digests = Digests::new(&[]);
    digests.update(before);
    let etag = StrongEtag::parse("\"v1\"").unwrap();
    let (bytes, sha256) = (before.len() as u64, digests.so_far());
    ResumePoint { bytes, sha256, total_bytes: 10, etag, promised: Vec::new() }
}

/// The length of a part that is large enough for a name and for checkpoints.
const LARGE: u64 = CHECKPOINT_BYTES;

const SHA256_OF_12345: &str = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5";

impl Bench {
    fn folder(&self) -> PathBuf {
        self.root.path().join("exports/shop/export_1")
    }

    fn begin(&self, number: u32, plan: &Plan) -> PartWriter {
        self.begin_declared(number, plan, None)
    }

    fn begin_declared(&self, number: u32, plan: &Plan, declared_bytes: Option<u64>) -> PartWriter {
        self.sink.begin_part(&self.at, &key(number), plan, declared_bytes).unwrap()
    }

    fn commit(&self, number: u32, bytes: &[u8]) -> CommittedPart {
        let mut writer = self.begin(number, &Plan::FromStart);
        writer.append(bytes).unwrap();
        writer.commit(Some(bytes.len().try_into().unwrap()), &[]).unwrap()
    }

    fn prepare(&self, unrecorded: &[PartOrder]) -> Prepared {
        self.sink.prepare_export(&self.at, unrecorded).unwrap()
    }

    fn manifest(&self, parts: Vec<CommittedPart>) -> Manifest {
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        Manifest::seal(self.at.clone(), ReportFacts::default(), parts, at)
    }

    fn seal(&self, bytes: &[u8]) -> Result<Put, SinkError> {
        self.sink.seal(&self.at, bytes)
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
fn a_part_has_a_working_name_until_it_is_whole_and_all_modes_are_private() {
    let bench = bench();
    let mut writer = bench.begin(1, &Plan::FromStart);
    writer.append(b"0123456789").unwrap();
    assert_eq!(bench.names(), [".part-00001-file_1.json.partial"]);
    let part = writer.commit(Some(10), &[]).unwrap();
    assert_eq!(bench.names(), ["part-00001-file_1.json"]);
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
    writer.append(b"01234").unwrap();
    assert_eq!(bench.names(), [""; 0]);
    assert!(writer.begin_checkpoint().is_none(), "it is fetched again instead");
    drop(writer);
    let mut writer = bench.begin_declared(1, &Plan::FromStart, Some(10));
    writer.append(b"0123456").unwrap();
    let kept = writer.sync_and_keep().unwrap().unwrap();
    assert_eq!(bench.names(), [".part-00001-file_1.json.partial"], "a clean stop gives it one");
    assert_eq!((kept.bytes, kept.sha256), (7, point(b"0123456").sha256));
    let mut writer = bench.begin_declared(1, &Plan::Continue(point(b"0123456")), Some(10));
    assert_eq!(writer.hash_from_start(&[]).unwrap(), Armed::Ready);
    writer.append(b"789").unwrap();
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
    writer.append(b"01234").unwrap();
    let (sync, prefix) = writer.begin_checkpoint().unwrap();
    writer.append(b"56").unwrap();
    sync.run().unwrap();
    assert_eq!((prefix.bytes, prefix.sha256), (5, point(b"01234").sha256));
    drop(writer);
    let path = bench.folder().join(".part-00001-file_1.json.partial");
    assert_eq!(fs::read(&path).unwrap(), b"0123456");
    let mut writer = bench.begin_declared(1, &Plan::Continue(point(b"01234")), Some(LARGE));
    assert_eq!(writer.hash_from_start(&[]).unwrap(), Armed::Ready);
    writer.append(b"x").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"01234x");
}

#[test]
fn a_group_whose_folder_moved_away_gets_no_name_and_a_conflict_leaves_no_partial() {
    let bench = bench();
    let finished = |number, bytes: &[u8]| {
        let mut writer = bench.begin_declared(number, &Plan::FromStart, Some(bytes.len() as u64));
        writer.append(bytes).unwrap();
        writer.verified(None, &[]).unwrap()
    };
    put(&bench.folder().join(key(2).file_name()), b"something else");
    let outcomes = bench.sink.commit(vec![finished(1, b"one"), finished(2, b"two")]);
    assert!(matches!(&outcomes[..], [Ok(_), Err(SinkFault::Conflict(_))]), "{outcomes:?}");
    assert_eq!(bench.names(), [1, 2].map(|number| key(number).file_name()));

    let elsewhere = ExportPath { export: "export_2".parse().unwrap(), ..bench.at.clone() };
    let stays = bench.sink.begin_part(&elsewhere, &key(8), &Plan::FromStart, Some(1)).unwrap();
    let stays = stays.verified(None, &[]).unwrap();
    let group = vec![finished(6, b"six"), stays, finished(7, b"seven")];
    let taken = bench.root.path().join("taken");
    Command::new("mv").arg(bench.folder()).arg(&taken).status().unwrap();
    let mut outcomes = bench.sink.commit(group);
    assert!(outcomes.remove(1).is_ok(), "a part in another folder is");
    for outcome in outcomes {
        let Err(SinkFault::Mismatch(words)) = &outcome else { panic!("{outcome:?}") };
        assert!(words.contains("moved"), "{words}");
    }
    assert_eq!(fs::read_dir(taken).unwrap().count(), 2, "nothing is added");
    bench.commit(6, b"six");
    assert_eq!(bench.names(), ["part-00006-file_6.json"], "the folder is found anew");
}

/// A disk that ignores case has one working file for both: one would get the bytes of the other.
#[test]
fn parts_whose_names_differ_in_case_alone_are_written_one_after_the_other() {
    let bench = bench();
    let begin = |id: &str| {
        let key = PartKey { number: 1, file_id: id.parse().unwrap() };
        bench.sink.begin_part(&bench.at, &key, &Plan::FromStart, None)
    };
    let mut first = begin("file_a").unwrap();
    let busy = begin("FILE_A").unwrap_err();
    assert!(matches!(busy, SinkError::Busy { .. }), "{busy}");
    first.append(b"[1]").unwrap();
    first.commit(None, &[]).unwrap();
    let mut second = begin("FILE_A").unwrap();
    second.append(b"[2]").unwrap();
    second.commit(None, &[]).unwrap();
    assert_eq!(bench.names(), ["part-00001-FILE_A.json", "part-00001-file_a.json"]);
}

#[test]
fn a_folder_that_moved_away_gets_nothing() {
    let bench = bench();
    let mut writer = bench.begin(1, &Plan::FromStart);
    writer.append(b"1234").unwrap();
    Command::new("mv").arg(bench.folder()).arg(bench.root.path().join("taken")).status().unwrap();
    let error = writer.commit(Some(4), &[]).unwrap_err();
    assert!(matches!(&error, SinkFault::Mismatch(words) if words.contains("moved")), "{error:?}");
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
    let keep = |number, bytes| order(number, None, Some(point(&vec![0; bytes])));
    let prepared = bench.prepare(&[keep(1, 7), keep(2, 11), keep(9, 1)]);
    let resumable = ResumablePart { key: key(1), point: point(&[0; 7]) };
    assert_eq!(prepared, Prepared { resumable: vec![resumable], ..Prepared::default() });
    let (kept, open) = (".part-00001-file_1.json.partial", ".part-00004-file_4.json.partial");
    assert_eq!(bench.names(), [".hidden", kept, open, "notes.txt"]);
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
    // Of the right length, but another program's by its mode: its content decides later.
    let strangers = folder.join(key(9).file_name());
    put(&strangers, b"x");
    fs::set_permissions(strangers, fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(folder.join(key(7).file_name())).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join(key(8).file_name())).unwrap();
    let declared = [Some(5), Some(5), None, None, None, Some(0), Some(1), None, Some(1)];
    let listed: Vec<_> =
        (1..).zip(declared).map(|(number, bytes)| order(number, bytes, None)).collect();
    let prepared = bench.prepare(&listed);
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
    writer.append(b"01234").unwrap();
    let kept = writer.sync_and_keep().unwrap().unwrap();
    let partial = bench.folder().join(".part-00001-file_1.json.partial");
    fs::hard_link(&partial, bench.folder().join("part-00001-file_1.json")).unwrap();
    assert_eq!(kept.bytes, 5);
    let prepared = bench.prepare(&[order(1, Some(5), Some(point(b"01234")))]);
    assert_eq!((prepared.adopted.len(), prepared.resumable), (1, vec![]));
}

#[test]
fn what_stands_where_a_folder_belongs_is_waited_for() {
    let bench = bench();
    put(&bench.root.path().join("exports/shop/export_1"), b"a file");
    let error = bench.sink.prepare_export(&bench.at, &[]).unwrap_err();
    assert!(matches!(error, SinkError::Obstructed { .. }), "{error:?}");
    let fault = SinkFault::from(bench.seal(b"{}").unwrap_err());
    assert!(matches!(fault, SinkFault::Unavailable(_)), "{fault:?}");
    put(&bench.root.path().join("exports/shop/not an ID"), b"");
    for only in [None, Some(vec![bench.at.export.clone()])] {
        let found = bench.sink.find_manifests(&bench.at.project, only).unwrap();
        assert!(matches!(&found[..], [Ok((_, Found::Rejected(_)))]), "{found:?}");
    }
    bench.sink.prepare_export(&at("export_2"), &[]).unwrap();
}

#[test]
fn a_folder_that_nothing_more_is_written_to_is_not_remembered() {
    let bench = bench();
    let part = bench.commit(1, b"[1]");
    assert_eq!(bench.sink.known_folders(), 1);
    bench.seal(&bench.manifest(vec![part]).to_text().into_bytes()).unwrap();
    assert_eq!(bench.sink.known_folders(), 0);
    bench.sink.write_failed(&at("export_failed"), b"{}").unwrap();
    assert_eq!(bench.sink.known_folders(), 0);
}

#[test]
fn sealing_is_finished_without_making_a_folder_that_was_taken() {
    let bench = bench();
    let text = bench.manifest(vec![bench.commit(1, b"1234")]).to_text();
    let recover = |text: &str| bench.sink.recover_sealing(&bench.at, text).unwrap();
    fs::remove_file(bench.folder().join("part-00001-file_1.json")).unwrap();
    assert_eq!(recover(&text), Put::Taken);
    fs::remove_dir(bench.folder()).unwrap();
    assert_eq!(recover(&text), Put::Taken);
    assert!(!bench.folder().exists(), "not made again");
    let nothing = bench.manifest(vec![]).to_text();
    assert_eq!(recover(&nothing), Put::Taken, "its folder was made before it was sealed");
    bench.prepare(&[]);
    assert_eq!(recover(&nothing), Put::Written, "an export without parts");
}

#[test]
fn a_directory_that_is_not_the_one_on_record_is_away_until_it_is_back() {
    let root = tempfile::tempdir().unwrap();
    let (path, aside) = (root.path().join("a/exports"), root.path().join("aside"));
    let open = |known| LocalSink::open(&path, known, SinkSettings::default());
    let (_, Opened::Created(marker)) = open(None).unwrap() else { panic!("not created") };
    assert_eq!(open(None).unwrap().1, Opened::Adopted(marker), "the state was lost");
    let (sink, opened) = open(Some(marker)).unwrap();
    assert_eq!(opened, Opened::Known);
    let at = at("export_1");
    let mv = |from: &Path, to: &Path| {
        assert!(Command::new("mv").arg(from).arg(to).status().unwrap().success());
    };

    mv(&path, &aside);
    let (late, opened) = open(Some(marker)).unwrap();
    assert!(matches!(&opened, Opened::Away(words) if words.contains("not mounted?")), "{opened:?}");
    for sink in [&sink, &late] {
        assert!(matches!(sink.room(), Err(SinkError::Away { .. })));
        assert!(matches!(sink.disk_check(0), Err(SinkError::Away { .. })));
        assert!(matches!(sink.prepare_export(&at, &[]), Err(SinkError::Away { .. })));
        let begun = sink.begin_part(&at, &key(1), &Plan::FromStart, None);
        assert!(matches!(begun, Err(SinkError::Away { .. })));
        assert!(matches!(sink.seal(&at, b"{}"), Err(SinkError::Away { .. })));
    }
    assert!(!path.exists(), "never made again");

    fs::create_dir(&path).unwrap();
    assert!(matches!(sink.room(), Err(SinkError::Away { .. })), "an empty mount point");
    put(&path.join(MARKER_FILE), b"batch-export-watcher 1\n00000000000000000000000000000000\n");
    assert!(matches!(sink.room(), Err(SinkError::Away { .. })), "another disk");
    put(&path.join(MARKER_FILE), b"");
    assert!(matches!(sink.room(), Err(SinkError::Away { .. })), "a damaged marker");
    assert!(matches!(open(None), Err(SinkError::Marker { .. })));
    fs::remove_dir_all(&path).unwrap();
    mv(&aside, &path);
    late.disk_check(0).unwrap();
    late.prepare_export(&at, &[]).unwrap();
}
