//! One daemon after the other on the same folders, interrupted as a plan says, until everything is
//! home.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use batch_export_watcher::domain::manifest::MANIFEST_FILE;
use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Recorded, SimExport, SimFile, ViewStep};
use rustix::process::Signal;
use serde_json::Value;

use super::LIMIT;
use super::account::Account;
use super::plan::{Ending, FilePlan, LanePlan, Moment};
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::observer::{Folder, Observer};
use crate::support::process::{Output, Watcher};
use crate::support::solo::{RESTLESS, SHOP, Solo};
use crate::support::turns::in_a_crowd;

/// Soon weary of a silent store.
const SETTINGS: &str = "[download]\nmax_parts = 4\nstall_timeout = \"500ms\"";

/// Lines of the log that a report of a lane that is stuck ends with.
const LAST_LINES: usize = 20;

/// What the driver acts upon, once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Trigger {
    /// A transfer has got to its place: its file, and which of the file's transfers it is.
    Reached { file: String, index: usize },
    /// The file gets what it is to get at its end.
    AtEnd { file: String },
    /// The first manifest has appeared: the record that the export is whole is about to be written,
    /// or has just been.
    Whole,
    /// The program has asked for anything, in this run.
    Asked { run: usize },
}

/// The plan and how much of it is done.
#[derive(Debug)]
struct Script {
    exports: Vec<(String, Vec<FilePlan>)>,
    stillborn: usize,
    acted: BTreeSet<Trigger>,
    /// Starts of the program.
    runs: usize,
    /// What was there before this run: final names, requests, and transfers of each file.
    visible_before: BTreeSet<String>,
    requests_before: usize,
    transfers_before: BTreeMap<String, usize>,
}

impl Script {
    fn files(&self) -> impl Iterator<Item = &FilePlan> {
        self.exports.iter().flat_map(|(_, files)| files)
    }

    fn file(&self, id: &str) -> &FilePlan {
        self.files().find(|file| file.id == id).unwrap_or_else(|| panic!("{id} is not in the plan"))
    }

    fn begin_run(&mut self, requests: &[Recorded], visible: BTreeSet<String>) {
        self.runs += 1;
        self.visible_before = visible;
        self.requests_before = requests.len();
        self.transfers_before.clear();
        for file in requests.iter().filter_map(Recorded::fetched_file) {
            *self.transfers_before.entry(file.to_owned()).or_default() += 1;
        }
    }

    /// What this run's requests and the visible names ask for and is not done yet.
    fn due(&self, requests: &[Recorded], visible: &BTreeSet<String>) -> Option<Trigger> {
        let of_this_run = requests.get(self.requests_before..).unwrap_or_default();
        let asked = Trigger::Asked { run: self.runs };
        if self.runs <= self.stillborn && !of_this_run.is_empty() && !self.acted.contains(&asked) {
            return Some(asked);
        }
        let mut transfers = self.transfers_before.clone();
        if let Some(trigger) = self.published(visible).find(|trigger| !self.acted.contains(trigger))
        {
            return Some(trigger);
        }
        for request in of_this_run {
            let Some(id) = request.fetched_file() else { continue };
            let index = transfers.entry(id.to_owned()).or_default();
            let trigger = self.trigger_of(self.file(id), *index, request);
            *index += 1;
            if let Some(trigger) = trigger.filter(|trigger| !self.acted.contains(trigger)) {
                return Some(trigger);
            }
        }
        None
    }

    fn published(&self, visible: &BTreeSet<String>) -> impl Iterator<Item = Trigger> {
        let is_new = |name: &str| visible.contains(name) && !self.visible_before.contains(name);
        let files = self.files().filter(|file| file.is_signalled(Moment::Visible));
        let files = files.filter(move |file| is_new(&file.final_name()));
        let whole = is_new(MANIFEST_FILE).then_some(Trigger::Whole);
        files.map(|file| Trigger::AtEnd { file: file.id.clone() }).chain(whole)
    }

    fn trigger_of(&self, file: &FilePlan, index: usize, request: &Recorded) -> Option<Trigger> {
        let id = file.id.clone();
        match file.steps.get(index) {
            Some(step)
                if step.is_driven() && step.is_reached(request.body_bytes, request.whole_bytes) =>
            {
                Some(Trigger::Reached { file: id, index })
            }
            None if file.is_signalled(Moment::Sent) && request.is_complete() => {
                Some(Trigger::AtEnd { file: id })
            }
            _ => None,
        }
    }

    /// The signal that a trigger stands for; none where the store is to go on.
    fn signal(&self, trigger: &Trigger) -> Option<Signal> {
        match trigger {
            Trigger::Asked { .. } | Trigger::Whole => Some(Signal::KILL),
            Trigger::AtEnd { file } => self.file(file).at_end.map(|(_, signal)| signal),
            Trigger::Reached { file, index } => match self.file(file).steps[*index].ending {
                Ending::Signalled { signal, .. } => Some(signal),
                _ => None,
            },
        }
    }
}

/// A stage, and the program at work on it.
#[derive(Debug)]
pub(super) struct Lane {
    solo: Solo,
    script: Script,
    observer: Observer,
    _resetting: FaultProxy,
    /// Requests for each file by the time it was told that it is committed.
    committed: BTreeMap<String, usize>,
    last_lines: Vec<String>,
}

impl Lane {
    /// Everything ready, nothing started.
    pub(super) async fn new(plan: LanePlan) -> Self {
        let exports = plan.exports.iter().map(|(id, _)| SimExport::new(id, Vec::new())).collect();
        let solo = Solo::new(exports).await.with(RESTLESS).with(SETTINGS);
        // It resets when the store closes; the connection of a whole answer stays open.
        let fault = Fault::ResetAfter { response_bytes: u64::MAX };
        let resetting = FaultProxy::start(solo.sim.store_address(), vec![fault]).await;
        let mut folders = Vec::new();
        for (export, files) in &plan.exports {
            let rows: Vec<SimFile> =
                files.iter().map(|file| file.script(&resetting.origin())).collect();
            solo.sim.set_views(export, vec![ViewStep::Success(rows)]).expect("an export of ours");
            let parts =
                files.iter().map(|file| (file.final_name(), file.content().clone())).collect();
            folders.push(Folder::new(solo.home.export(SHOP, export), parts));
        }
        let script = Script {
            exports: plan.exports,
            stillborn: plan.stillborn,
            acted: BTreeSet::new(),
            runs: 0,
            visible_before: BTreeSet::new(),
            requests_before: 0,
            transfers_before: BTreeMap::new(),
        };
        let observer = Observer::new(folders);
        let committed = BTreeMap::new();
        Self { solo, script, observer, _resetting: resetting, committed, last_lines: Vec::new() }
    }

    /// Starts the program again and again until it ends by itself, and holds what is there against
    /// what the store has.
    pub(super) async fn run(&mut self) -> Account {
        while !self.run_once().await {}
        self.check_the_end();
        let account = self.account();
        let asked = self.solo.sim.requests().len();
        assert!(self.run_once().await, "a run with nothing to do ends by itself");
        assert_eq!(
            self.solo.sim.requests().len(),
            asked,
            "whatever is finished is not asked for again"
        );
        self.check_the_end();
        account
    }

    /// One start of the program, up to its end; whether it had settled everything.
    async fn run_once(&mut self) -> bool {
        let _turn = in_a_crowd().await;
        self.script.begin_run(&self.solo.sim.requests(), self.observer.visible());
        let watcher = self.solo.home.start(&["--exit-when-settled"]);
        let mut lines = 0;
        let signal = loop {
            let (script, visible) = (&self.script, self.observer.visible());
            let due = |requests: &[Recorded]| script.due(requests, &visible);
            tokio::select! {
                () = self.observer.changed() => {}
                news = watcher.log_after(lines) => {
                    lines += news.len();
                    self.heard(&news);
                    if news.is_empty() {
                        break None;
                    }
                }
                requests = self.solo.sim.wait_for(|requests| due(requests).is_some(), LIMIT) => {
                    let Some(trigger) = requests.ok().and_then(|requests| due(&requests)) else { continue };
                    if let Some(signal) = self.act(trigger).await {
                        break Some(signal);
                    }
                }
            }
        };
        let (code, output) = self.end(watcher, signal).await;
        self.heard(output.stderr.get(lines..).unwrap_or_default());
        code == Some(exit::DONE.into())
    }

    /// Does what a trigger stands for, apart from the signal that it returns.
    async fn act(&mut self, trigger: Trigger) -> Option<Signal> {
        let signal = self.script.signal(&trigger);
        if let (None, Trigger::Reached { file, index }) = (signal, &trigger) {
            self.end_silence(file, *index).await;
        }
        self.script.acted.insert(trigger);
        signal
    }

    /// Sends the signal, if any, and waits for the end under observation; a killed program has no
    /// exit code.
    async fn end(&mut self, mut watcher: Watcher, signal: Option<Signal>) -> (Option<i32>, Output) {
        let ended = async {
            match signal {
                Some(Signal::KILL) => return (None, watcher.kill9().await),
                Some(signal) => watcher.signal(signal),
                None => {}
            }
            let (code, output) = watcher.wait().await;
            (Some(code), output)
        };
        tokio::pin!(ended);
        let (code, output) = loop {
            tokio::select! {
                () = self.observer.changed() => {}
                ended = &mut ended => break ended,
            }
        };
        self.observer.look();
        let fitting = match signal {
            None => vec![Some(exit::DONE.into())],
            Some(Signal::KILL) => vec![None],
            // It may have settled everything just before.
            Some(_) => vec![Some(exit::UNFINISHED.into()), Some(exit::DONE.into())],
        };
        assert!(fitting.contains(&code), "{code:?} after {signal:?}: {self}");
        (code, output)
    }

    /// Lets a silent store close the connection, and be silent again next time.
    async fn end_silence(&self, file: &str, index: usize) {
        self.solo.sim.release(file);
        let ended = |requests: &[Recorded]| {
            let transfer = requests.iter().filter(|request| request.is_fetch_of(file)).nth(index);
            transfer.is_some_and(|transfer| transfer.ended_at.is_some())
        };
        self.solo.wait_for(ended).await;
        self.solo.sim.hold(file);
    }

    /// Reads the log: a part that is logged as committed is never requested again.
    fn heard(&mut self, lines: &[String]) {
        for line in lines {
            assert!(!line.contains("panicked") && !line.contains("given up"), "{line}");
            if line.contains("\"part committed\"") {
                let event: Value = serde_json::from_str(line).expect("a line of json");
                let file = event["file"].as_str().expect("the file's id").to_owned();
                let asked = self.requests_for(&file);
                let before = self.committed.insert(file, asked);
                assert_eq!(before, None, "committed twice: {line}");
            }
        }
        self.last_lines.extend_from_slice(lines);
        let surplus = self.last_lines.len().saturating_sub(LAST_LINES);
        self.last_lines.drain(..surplus);
    }

    fn requests_for(&self, file: &str) -> usize {
        let is_for = |request: &&Recorded| request.is_fetch_of(file) || request.is_link_of(file);
        self.solo.sim.requests().iter().filter(is_for).count()
    }

    fn check_the_end(&self) {
        let mut names = BTreeSet::from([SHOP.to_owned()]);
        for (export, files) in &self.script.exports {
            let contents: Vec<_> = files.iter().map(FilePlan::content).collect();
            self.solo.home.assert_whole(SHOP, export, &contents);
            let folder = format!("{SHOP}/{export}");
            names.extend(files.iter().map(|file| format!("{folder}/{}", file.final_name())));
            names.extend([format!("{folder}/{MANIFEST_FILE}"), folder]);
        }
        // The marker and the lock are the program's own.
        let found: BTreeSet<_> =
            self.solo.home.tree().into_keys().filter(|name| !name.starts_with('.')).collect();
        assert_eq!(found, names, "everything that lies there");
        for (file, asked) in &self.committed {
            assert_eq!(
                self.requests_for(file),
                *asked,
                "{file} was asked for again after its commit"
            );
        }
    }

    fn account(&self) -> Account {
        let requests = self.solo.sim.requests();
        let mut account = Account::default();
        account.runs = self.script.runs;
        for file in self.script.files() {
            let transfers: Vec<_> =
                requests.iter().filter(|request| request.is_fetch_of(&file.id)).collect();
            let (sent, steps) = (transfers.len(), file.steps.len());
            assert!(
                sent > steps,
                "{}: {sent} transfers of {steps} interruptions and a whole one",
                file.id
            );
            account.needed_bytes += file.content().len_bytes();
            account.fetched_bytes +=
                transfers.iter().map(|transfer| transfer.body_bytes).sum::<u64>();
            for (index, (step, transfer)) in file.steps.iter().zip(transfers).enumerate() {
                let trigger = Trigger::Reached { file: file.id.clone(), index };
                let happened = match step.is_driven() {
                    true => self.script.acted.contains(&trigger),
                    false => step.is_reached(transfer.body_bytes, transfer.whole_bytes),
                };
                account.count(step, happened, step.version != file.version_before(index));
            }
        }
        for trigger in &self.script.acted {
            let kind = match trigger {
                Trigger::Asked { .. } => "SIGKILL at a run's first request",
                Trigger::Whole => "SIGKILL at a manifest",
                Trigger::Reached { .. } => continue,
                Trigger::AtEnd { file } => match self.script.file(file).at_end {
                    Some((Moment::Sent, Signal::KILL)) => "SIGKILL at a last byte",
                    Some((Moment::Sent, _)) => "SIGTERM at a last byte",
                    Some((Moment::Visible, Signal::KILL)) => "SIGKILL at a final name",
                    _ => "SIGTERM at a final name",
                },
            };
            *account.beside.entry(kind).or_default() += 1;
        }
        account
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = self.solo.sim.requests();
        writeln!(f, "run {}, {} requests", self.script.runs, requests.len())?;
        for file in self.script.files() {
            let transfers: Vec<_> =
                requests.iter().filter(|request| request.is_fetch_of(&file.id)).collect();
            let (count, steps) = (transfers.len(), file.steps.len());
            let last =
                transfers.last().map(|last| (last.status, last.body_bytes, last.whole_bytes));
            let committed = self.committed.contains_key(&file.id);
            writeln!(
                f,
                "  {}: {count} transfers of {steps} + 1, the last {last:?}; committed: {committed}",
                file.id
            )?;
        }
        write!(f, "{}", self.last_lines.join("\n"))
    }
}
