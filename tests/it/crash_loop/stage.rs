//! A store with parts of all sizes, a home, and eyes on it; the program is started and killed
//! there, and judged after each crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use batch_export_watcher::domain::ids::ProjectDigest;
use batch_export_watcher::domain::manifest::MANIFEST_FILE;
use batch_export_watcher::domain::part::Sha256;
use batch_export_watcher::ledgers::sqlite::SqliteLedger;
use batch_export_watcher::ports::{ExportRecord, Ledger as _, RecordedState};
use batch_export_watcher::simulator::{Content, SimExport, SimFile, ViewStep};
use fastrand::Rng;
use hyper::body::Bytes;
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::ledger::{Fault, Ledger};
use super::points::{BY_A_POINT, Crash};
use crate::support::observer::{Folder, Observer};
use crate::support::process::Watcher;
use crate::support::solo::{PROJECT_KEY, RESTLESS, SHOP, Solo};
use crate::support::turns::in_a_crowd;
use crate::support::{FAULTS, look, random_bytes};

/// Far more than a run takes: who is not done by then is stuck.
const LIMIT: Duration = Duration::from_secs(240);
/// Random bytes that all contents are cut from.
const QUARRY_BYTES: usize = 32 << 20;
/// An export that fails, for the sake of its notice.
const FAILING: &str = "export_failing";

/// Two parts at once, so that one run does not bring everything.
const SETTINGS: &str = "[download]\nmax_parts = 2";

/// How much there is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Quick,
    Long,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Crashed,
    Settled,
}

/// One file of an export.
#[derive(Debug)]
struct Part {
    export: String,
    id: String,
    name: String,
    content: Content,
    sha256: Sha256,
    /// The file that was found to be right: its inode and when it was last changed. It need not be
    /// read again.
    judged: Option<(u64, SystemTime)>,
}

impl Part {
    /// Whether it is there, and right.
    fn judge(&mut self, path: &Path) -> Option<bool> {
        let metadata = look::metadata(path)?;
        let file = (metadata.ino(), metadata.modified().expect("a time"));
        if self.judged == Some(file) && metadata.len() == self.content.len_bytes() {
            return Some(true);
        }
        let is_right = look::read(path).is_some_and(|bytes| Content::from(bytes) == self.content);
        self.judged = is_right.then_some(file);
        Some(is_right)
    }
}

#[derive(Debug)]
pub(super) struct Stage {
    solo: Solo,
    parts: Vec<Part>,
    eyes: Option<Eyes>,
    /// Requests to the store for each file, by the time when it was found to be finished.
    finished: BTreeMap<String, usize>,
    pub(super) ledger: Ledger,
}

/// A thread that looks at the folders whenever something changes there. A fault is its panic.
#[derive(Debug)]
struct Eyes {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Eyes {
    async fn on(folders: Vec<Folder>) -> Self {
        let stop = CancellationToken::new();
        let told = stop.clone();
        let (open, opened) = tokio::sync::oneshot::channel();
        let look = async move {
            let mut observer = Observer::new(folders);
            let _ = open.send(());
            while told.run_until_cancelled(observer.changed()).await.is_some() {}
            observer.look();
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(look);
        });
        opened.await.expect("eyes that are open");
        Self { stop, thread }
    }

    /// Whether they have seen anything wrong so far.
    fn are_alarmed(&self) -> bool {
        self.thread.is_finished()
    }

    /// What they have seen that is wrong.
    fn close(self) -> Option<String> {
        self.stop.cancel();
        let panic = self.thread.join().err()?;
        let words = panic.downcast_ref::<String>().cloned();
        Some(words.unwrap_or_else(|| "the observer panicked".to_owned()))
    }
}

impl Stage {
    pub(super) async fn new(seed: u64, size: Size) -> Self {
        let mut rng = Rng::with_seed(seed);
        let quarry = Bytes::from(random_bytes(&mut rng, QUARRY_BYTES));
        let mut parts = Vec::new();
        for (export, sizes) in sizes(size) {
            for (number, (least, most)) in (1..).zip(sizes) {
                let bytes = rng.usize(least..=most);
                let from = rng.usize(..QUARRY_BYTES - bytes);
                let id = format!("file_{export}_{number}");
                let name = format!("part-{number:05}-{id}.json");
                let content = Content::Bytes(quarry.slice(from..from + bytes));
                let (export, sha256) = (format!("export_{export}"), content.sha256());
                parts.push(Part { export, id, name, content, sha256, judged: None });
            }
        }
        let exports: BTreeSet<_> = parts.iter().map(|part| part.export.clone()).collect();
        let of = |export: &str| {
            parts.iter().filter(move |part| part.export == export).collect::<Vec<_>>()
        };
        let script = |export: &String| {
            let files = (1..).zip(of(export));
            let files =
                files.map(|(number, part)| SimFile::new(&part.id, number, part.content.clone()));
            SimExport::finished(export, files.collect())
        };
        let mut exports_of_sim: Vec<_> = exports.iter().map(script).collect();
        exports_of_sim.push(SimExport::new(FAILING, vec![ViewStep::status("ERROR")]));
        let solo = Solo::new(exports_of_sim).await.with(RESTLESS).with(SETTINGS);
        let folder = |export: &String| {
            let contents =
                of(export).into_iter().map(|part| (part.name.clone(), part.content.clone()));
            Folder::new(solo.home.export(SHOP, export), contents.collect())
        };
        // One folder is the program's to make, so that it is looked at after each crash only.
        let eyes =
            Eyes::on(exports.iter().filter(|export| *export != "export_c").map(folder).collect())
                .await;
        Self { solo, parts, eyes: Some(eyes), finished: BTreeMap::new(), ledger: Ledger::default() }
    }

    fn start(&mut self, faults: &str) -> Watcher {
        self.ledger.started();
        let mut command = self.solo.home.command("run", &["--exit-when-settled"]);
        command.env(FAULTS, faults);
        Watcher::spawn(command)
    }

    /// Starts the program, crashes it there if it gets there, and looks at what is left.
    pub(super) async fn run(&mut self, crash: &Crash) -> End {
        let _turn = in_a_crowd().await;
        let served = |requests: &[batch_export_watcher::simulator::Recorded]| {
            requests.iter().map(|request| request.body_bytes).sum::<u64>()
        };
        let before = self.solo.sim.requests();
        let (asked_before, served_before) = (before.len() as u64, served(&before));
        let mut watcher = self.start(&crash.faults());
        let moment = self.solo.sim.wait_for(
            |requests| {
                crash.is_due(
                    requests.len() as u64 - asked_before,
                    served(requests).saturating_sub(served_before),
                )
            },
            LIMIT,
        );
        let mut at = crash.to_string();
        let code = tokio::select! {
            code = watcher.end_within(LIMIT) => code,
            seen = moment => {
                seen.unwrap_or_else(|error| panic!("{error}"));
                if matches!(crash, Crash::Point { .. }) {
                    at = BY_A_POINT.to_owned();
                }
                watcher.signal(Signal::KILL);
                watcher.end_within(LIMIT).await
            }
        };
        let end = match code {
            None => {
                self.ledger.crashed(&at);
                End::Crashed
            }
            // One export fails.
            Some(1) => End::Settled,
            Some(code) => panic!("it ended with {code}:\n{}", watcher.output().stderr.join("\n")),
        };
        self.judge(before.len()).await;
        end
    }

    /// Crashes at each of these points, in this order, in one run each.
    pub(super) async fn crash_at(&mut self, points: &[String]) -> bool {
        for point in points {
            if self.run(&Crash::at(point)).await == End::Settled {
                return false;
            }
        }
        true
    }

    /// Every point that a run passes; one that was killed before has left it something to do.
    pub(super) async fn tell(mut self) -> BTreeSet<String> {
        drop(self.eyes.take().map(Eyes::close));
        let mut told = BTreeSet::new();
        for faults in ["part.record=kill", "after:partial.record=kill@2", ""] {
            let mut watcher = self.start(&format!("*.*=tell,after:*.*=tell,{faults}"));
            watcher.end_within(LIMIT).await;
            for line in watcher.output().stderr {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "point passed" {
                    told.insert(event["point"].as_str().expect("its name").to_owned());
                }
            }
        }
        told
    }

    /// Brings the rest home without any crash, and holds everything against what was promised.
    pub(super) async fn finish(mut self) -> Ledger {
        assert_eq!(self.run(&Crash::never()).await, End::Settled);
        let exports: BTreeSet<_> = self.parts.iter().map(|part| part.export.as_str()).collect();
        for export in exports {
            let contents: Vec<_> = self
                .parts
                .iter()
                .filter(|part| part.export == export)
                .map(|part| &part.content)
                .collect();
            self.solo.home.assert_whole(SHOP, export, &contents);
        }
        let notice =
            fs::read(self.solo.home.export(SHOP, FAILING).join("failed.json")).expect("a notice");
        let notice: serde_json::Value = serde_json::from_slice(&notice).expect("a notice is whole");
        assert_eq!(notice["export_id"], FAILING);
        let asked = self.solo.sim.requests();
        assert_eq!(self.run(&Crash::never()).await, End::Settled);
        assert_eq!(
            self.solo.sim.requests().len(),
            asked.len(),
            "what is settled is not asked for again"
        );
        if let Some(words) = self.eyes.take().and_then(Eyes::close) {
            self.ledger.fault(Fault::Wrong, words);
        }
        let fetched = asked.iter().filter(|request| request.fetched_file().is_some());
        let fetched_bytes = fetched.map(|request| request.body_bytes).sum();
        let needed_bytes = self.parts.iter().map(|part| part.content.len_bytes()).sum();
        self.ledger.done(self.parts.len() as u64, fetched_bytes, needed_bytes);
        self.ledger
    }
    /// What may be said whenever no program is at work; so many requests are older than the last
    /// run.
    async fn judge(&mut self, asked_before: usize) {
        if self.eyes.as_ref().is_some_and(Eyes::are_alarmed)
            && let Some(words) = self.eyes.take().and_then(Eyes::close)
        {
            self.ledger.fault(Fault::Wrong, words);
        }
        let records = self.records().await;
        let record_of =
            |export: &str| records.iter().find(|record| record.key.export.as_str() == export);
        let asked = self.solo.sim.requests();
        let mut whole: BTreeMap<String, bool> = BTreeMap::new();
        for part in &mut self.parts {
            let path = self.solo.home.export(SHOP, &part.export).join(&part.name);
            let found = part.judge(&path);
            let is_right = found == Some(true);
            if found == Some(false) {
                self.ledger.fault(Fault::Wrong, format!("{} has other bytes", path.display()));
            }
            *whole.entry(part.export.clone()).or_insert(true) &= is_right;
            let record = record_of(&part.export);
            let row = record
                .and_then(|of| of.parts.iter().find(|row| row.key.file_id.as_str() == part.id));
            let is_recorded = row.is_some() || record.is_some_and(is_completed);
            if row.is_some_and(|row| row.sha256 != part.sha256) {
                self.ledger
                    .fault(Fault::Wrong, format!("the record of {} has another digest", part.id));
            }
            let fetches = asked.iter().filter(|request| request.is_fetch_of(&part.id)).count();
            let earlier = asked[..asked_before]
                .iter()
                .filter(|request| request.is_fetch_of(&part.id))
                .count();
            if fetches > earlier + 1 {
                // The store sends what it is asked for, so that there is no reason to ask twice.
                self.ledger.fault(Fault::FetchedAgain, format!("{} in one run", path.display()));
            }
            let was_finished = self.finished.get(&part.id);
            if found.is_none() && (is_recorded || was_finished.is_some()) {
                self.ledger.fault(Fault::Lost, format!("{} was finished", path.display()));
            }
            if was_finished.is_some_and(|before| *before < fetches) {
                self.ledger.fault(Fault::FetchedAgain, format!("{} was finished", path.display()));
            }
            if found.is_some() {
                self.finished.insert(part.id.clone(), fetches);
            }
        }
        for (export, is_whole) in whole {
            let state = record_of(&export).map(|record| &record.state);
            let has_manifest = self.solo.home.export(SHOP, &export).join(MANIFEST_FILE).exists();
            let sealing = matches!(
                state,
                Some(RecordedState::Sealing { .. } | RecordedState::Completed { .. })
            );
            if has_manifest && !(is_whole && sealing) {
                self.ledger.fault(Fault::Wrong, format!("{export} has a manifest and {state:?}"));
            }
            if matches!(state, Some(RecordedState::Completed { .. })) && !has_manifest {
                self.ledger.fault(Fault::Lost, format!("{export} is on record as whole"));
            }
        }
    }

    /// What the state knows, read from a copy: the program has to find its own as the crash left
    /// it.
    async fn records(&self) -> Vec<ExportRecord> {
        let copy = tempfile::tempdir().expect("a temporary folder");
        let state = self.solo.home.path().join("state");
        for name in ["state.db", "state.db-wal"] {
            // There may be none yet.
            let _ = fs::copy(state.join(name), copy.path().join(name));
        }
        load(copy.path()).await
    }
}

async fn load(state: &Path) -> Vec<ExportRecord> {
    let mut store = SqliteLedger::open(state).await.expect("the state is never damaged");
    let digest = ProjectDigest::of(&PROJECT_KEY.parse().expect("a key"));
    let records = store.load(&[digest]).await.expect("the state is never damaged");
    store.close().await.expect("a copy is closed");
    records
}

fn is_completed(record: &ExportRecord) -> bool {
    matches!(record.state, RecordedState::Completed { .. })
}

/// Sizes of the parts of each export, least and most bytes. From 16 MiB on a part has checkpoints,
/// every 8 MiB.
fn sizes(size: Size) -> Vec<(&'static str, Vec<(usize, usize)>)> {
    let large = (17 << 20, 18 << 20);
    let small = [(0, 0), (1, 1), (100, 8_000), (8_000, 100_000), (700_000, 1_500_000)];
    let many = |count| small.into_iter().cycle().take(count);
    match size {
        Size::Quick => vec![
            ("a", many(15).collect()),
            ("b", [large, (100, 100), large].into()),
            ("c", [(5_000, 5_000)].into()),
        ],
        Size::Long => vec![
            ("a", many(20).collect()),
            ("b", [large, (100, 100), large, (0, 0), (17 << 20, 26 << 20)].into()),
            ("c", many(3).collect()),
            ("d", [(0, 0)].into()),
        ],
    }
}
