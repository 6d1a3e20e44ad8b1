//! The durable order as the kernel sees it: the real program under strace.

use std::path::Path;

use batch_export_watcher::simulator::{Content, Serving, SimExport, SimFile};

use super::support::process::Watcher;
use super::support::solo::{SHOP, Solo};
use super::support::strace::{self, Call};
use super::support::{PATIENCE, eventually, look, random_bytes};

/// Everything that changes a file or a name, and what makes it durable.
const TRACED: &str = "trace=openat,write,pwrite64,writev,pwritev,ftruncate,fallocate,fsync,fdatasync,rename,renameat,\
    renameat2,link,linkat,close";
/// Above the size from which a part has a name and checkpoints.
const LARGE_BYTES: usize = (17 << 20) + 1;

fn is_write(call: &Call) -> bool {
    ["write", "pwrite64", "writev", "pwritev", "ftruncate"].contains(&call.name.as_str())
}

fn is_sync(call: &Call) -> bool {
    call.name == "fsync" || call.name == "fdatasync"
}

/// The calls of one run, in order of their starts.
struct Trace {
    calls: Vec<Call>,
    folder: String,
}

impl Trace {
    fn only(&self, what: &str, wanted: impl Fn(&Call) -> bool) -> &Call {
        let found: Vec<_> = self.calls.iter().filter(|call| wanted(call)).collect();
        assert_eq!(found.len(), 1, "{what}: {found:#?}");
        found[0]
    }

    fn first(&self, what: &str, wanted: impl Fn(&Call) -> bool) -> &Call {
        self.calls.iter().find(|call| wanted(call)).unwrap_or_else(|| panic!("there is no {what}"))
    }

    /// The calls on one open file, whose descriptor leads to this path.
    fn on<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Call> {
        self.calls.iter().filter(move |call| call.descriptor_path() == Some(path))
    }

    /// The call that gives `name`, and the working file's path.
    fn naming(&self, name: &str) -> (&Call, String) {
        let naming = self.only(name, |call| {
            (call.name == "linkat" || call.name == "renameat2")
                && call.is_ok()
                && call.arguments.contains(&format!("\"{name}\""))
        });
        if naming.name == "renameat2" {
            assert!(naming.arguments.ends_with("RENAME_NOREPLACE"), "{naming:?}");
            let working = format!("{}/.{name}.partial", self.folder);
            return (naming, working);
        }
        let descriptor =
            naming.arguments.split_once("/proc/self/fd/").expect("a file without a name").1;
        let descriptor: String = descriptor.chars().take_while(char::is_ascii_digit).collect();
        let opened = self.calls.iter().rev().find(|call| {
            call.name == "openat"
                && call.is_before(naming)
                && call.result.starts_with(&format!("{descriptor}<"))
        });
        let path = opened.expect("it was opened").result.split_once('<').expect("a path").1;
        (naming, path.split('>').next().unwrap_or_default().to_owned())
    }

    /// Steps 2 to 6 of one file; returns the naming, and the sync of the folder that makes it
    /// durable.
    fn assert_order(&self, name: &str) -> (&Call, &Call) {
        let (naming, working) = self.naming(name);
        let writes: Vec<_> = self.on(&working).filter(|call| is_write(call)).collect();
        assert!(!writes.is_empty(), "{name} has no write by {working}");
        let sync = self.on(&working).filter(|call| is_sync(call)).last();
        let sync = sync.unwrap_or_else(|| panic!("{name} was never synced"));
        assert!(sync.is_ok() && sync.name == "fsync", "{sync:?}");
        for write in writes {
            assert!(
                write.is_before(sync),
                "{name}: written to after its sync: {write:?}, {sync:?}"
            );
        }
        assert!(sync.is_before(naming), "{name} was named before its sync: {naming:?}, {sync:?}");
        let by_name = format!("{}/{name}", self.folder);
        let late = self.on(&by_name).find(|call| is_write(call));
        assert!(late.is_none(), "{name} was written to under its name: {late:?}");
        let settled = self.first("sync of the folder", |call| {
            call.name == "fsync"
                && naming.is_before(call)
                && call.descriptor_path() == Some(&self.folder)
        });
        assert!(settled.is_ok(), "{settled:?}");
        (naming, settled)
    }

    /// The first write to the state that has these words; it is synced after that.
    fn record(&self, words: &str) -> &Call {
        let is_log =
            |call: &Call| call.descriptor_path().is_some_and(|path| path.ends_with("state.db-wal"));
        let record = self
            .first(words, |call| is_write(call) && is_log(call) && call.arguments.contains(words));
        let synced = self
            .calls
            .iter()
            .any(|call| is_sync(call) && is_log(call) && record.is_before(call) && call.is_ok());
        assert!(synced, "the record was never synced: {words}");
        record
    }

    /// The sync that makes a record durable.
    fn recorded(&self, words: &str) -> &Call {
        let record = self.record(words);
        self.first("sync of the state", |call| {
            is_sync(call)
                && record.is_before(call)
                && call.descriptor_path().is_some_and(|path| path.ends_with("state.db-wal"))
        })
    }
}

fn trace(path: &Path, folder: &Path) -> Trace {
    let mut calls = strace::read(path);
    calls.sort_by_key(|call| call.start);
    Trace { calls, folder: folder.display().to_string() }
}

#[tokio::test]
async fn bytes_before_name_before_folder_before_record_and_the_manifest_last() {
    if !strace::is_possible() {
        return;
    }
    let large = random_bytes(&mut fastrand::Rng::with_seed(1), LARGE_BYTES);
    // It pauses behind its first checkpoint, until that is on record.
    let held =
        SimFile::new("file_large", 2, large.clone()).on_fetch(Serving::well().stall_after(9 << 20));
    let files = [SimFile::generated("file_small", 1, 100_000), held];
    let solo = Solo::new(vec![SimExport::finished("export_1", files.to_vec())]).await;
    let place = solo.home.path().join("trace");
    let plain = solo.home.command("run", &["--exit-when-settled"]);
    let mut watcher = Watcher::spawn(strace::traced(&plain, &place, &["-s", "4200", "-e", TRACED]));
    let checkpoint = watcher.wait_for_event(|event| event["message"] == "checkpoint").await;
    let safe = checkpoint["bytes"]
        .as_u64()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .expect("how many bytes");
    let prefix = Content::from(large[..safe].to_vec()).sha256().to_string();
    let log = solo.home.path().join("state/state.db-wal");
    let has_record = || {
        look::read(&log).is_some_and(|log| log.windows(64).any(|words| words == prefix.as_bytes()))
    };
    eventually("the record of the checkpoint", has_record).await;
    solo.sim.release("file_large");
    let (code, output) = watcher.wait_within(6 * PATIENCE).await;
    assert_eq!(code, 0, "{}", output.stderr.join("\n"));
    solo.home.assert_whole(SHOP, "export_1", &[&files[0].content, &files[1].content]);
    let trace = trace(&place, &solo.home.export(SHOP, "export_1"));

    for call in &trace.calls {
        let plain = ["rename", "renameat", "link"].contains(&call.name.as_str());
        let replaces = call.name == "renameat2" && !call.arguments.contains("RENAME_NOREPLACE");
        assert!(!plain && !replaces, "this may replace a file: {call:?}");
    }
    let mut last = 0;
    for (file, name) in
        files.iter().zip(["part-00001-file_small.json", "part-00002-file_large.json"])
    {
        let (_, settled) = trace.assert_order(name);
        let record = trace.record(&file.content.sha256().to_string());
        assert!(
            settled.is_before(record),
            "{name} was recorded before its folder was synced: {record:?}"
        );
        last = last.max(settled.end);
    }
    let (created, sealed) = (
        trace.first("working file of the manifest", |call| {
            call.name == "openat"
                && call.is_ok()
                && call.arguments.contains("\".manifest.json.partial\"")
        }),
        trace.recorded("export_1sealing"),
    );
    assert!(
        last < trace.record("export_1sealing").start,
        "sealing was recorded before the last part was durable"
    );
    assert!(sealed.is_before(created), "the manifest was begun before its record was durable");
    let (naming, settled) = trace.assert_order("manifest.json");
    assert!(last < naming.start, "the manifest came before the last part");
    let completed = trace.record("export_1completed");
    assert!(settled.is_before(completed), "the end was recorded before the manifest was durable");

    let created = trace.first("working file of the large part", |call| {
        call.name == "openat"
            && call.is_ok()
            && call.arguments.contains("\".part-00002-file_large.json.partial\"")
    });
    let record = trace.record(&prefix);
    let working = format!("{}/.part-00002-file_large.json.partial", trace.folder);
    let is_sync_before = |call: &Call| {
        is_sync(call) && call.is_ok() && created.is_before(call) && call.is_before(record)
    };
    assert!(
        trace.on(&working).any(is_sync_before),
        "a checkpoint was recorded before its bytes were synced"
    );
    assert!(
        trace.on(&trace.folder).any(is_sync_before),
        "a checkpoint was recorded before its name was synced"
    );
}
