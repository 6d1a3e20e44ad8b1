//! The scheduler's decisions, driven event by event: what a sick disk, key or store costs everybody
//! else.

mod disk;
mod looks;
mod publish;
mod reconcile;
mod scale;
mod waits;

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};

use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::*;
use crate::api::{Api, ApiSettings};
use crate::config::{Environment, KeySource};
use crate::domain::failure::{ApiRefusal, Hold, ViewOutcome};
use crate::domain::gate::{Admission, Gate};
use crate::domain::ids::ProjectDigest;
use crate::domain::report::{PartListing, RemoteStatus, Report, ReportFacts};
use crate::domain::stage::PauseScope;
use crate::domain::watch::tests::policies;
use crate::domain::watch::{Recorded, WatchEvent};
use crate::engine::access::Access;
use crate::engine::chores::{ChoreEnd, ChoreKind};
use crate::engine::control::{Changes, DesiredProject};
use crate::engine::folders::ChoreId;
use crate::engine::ids::ProjectId;
use crate::fetch::{StoreClient, StorePolicy};
use crate::ports::Epoch;
use crate::process::runtimes::TransferRuntimes;
use crate::sinks::local::{LocalSink, SinkSettings};
use crate::transport::testing::tls;

/// A scheduler whose API answers nothing: the tests bring the answers. Exports are numbered over
/// all projects.
struct Rig {
    scheduler: Scheduler,
    writes: mpsc::Receiver<Write>,
    _ledger_events: mpsc::Sender<LedgerEvent>,
    folder: TempDir,
    projects: Vec<ProjectId>,
    exports: Vec<EntryId>,
    access: Access,
}

fn rig(exports_of_projects: &[usize], max_parts: usize) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let lock = Arc::new(LateLock::new(folder.path().join("lock")));
    lock.ensure().unwrap();
    locked_rig(exports_of_projects, max_parts, folder, lock)
}

fn locked_rig(
    exports_of_projects: &[usize],
    max_parts: usize,
    folder: TempDir,
    download_lock: Arc<LateLock>,
) -> Rig {
    let (sink, _) = LocalSink::open(folder.path(), None, SinkSettings::default()).unwrap();
    let base_url: url::Url = "http://127.0.0.1:1/2.11".parse().unwrap();
    let (connect_timeout, request_timeout) = (Duration::from_secs(60), Duration::from_secs(60));
    let settings = ApiSettings { base_url, connect_timeout, request_timeout };
    let api = Api::new(&settings, &tls()).unwrap();
    let environment = Arc::new(Environment::from_pairs(std::iter::empty::<(String, String)>()));
    let client = api.project(&"project_0".parse().unwrap(), &"rest".to_owned().into()).unwrap();
    let source = KeySource::Env("NO_SUCH_KEY".to_owned());
    let access = Access::new("p0".parse().unwrap(), client, source, environment);
    let (write_sender, writes) = mpsc::channel(256);
    let (_ledger_events, ledger_events) = mpsc::channel(64);
    let sink = AnySink::Local(sink);
    let state_directory = folder.path().join("state");
    let archive = Archive { state_directory, sink: sink.clone(), epoch: Epoch(1) };
    let runtimes = TransferRuntimes { first: Handle::current(), others: Vec::new() };
    let (scheduler, _) = Scheduler::new(EngineParts {
        policies: policies(),
        capacity: Capacity::new(NonZeroUsize::new(max_parts).unwrap(), None),
        retry_command: "batch-export-watcher retry".to_owned(),
        exit_when_settled: false,
        deadline: None,
        sink,
        download_lock,
        lanes: Lanes::new(runtimes, &store_client()),
        archive,
        writes: write_sender,
        ledger_events,
        control: mpsc::channel(1).1,
        meters: Meters::default(),
    });
    let (projects, exports) = (Vec::new(), Vec::new());
    let mut rig = Rig { scheduler, writes, _ledger_events, folder, projects, exports, access };
    let desired = rig.desired(exports_of_projects);
    rig.reconcile(desired);
    rig
}

impl Rig {
    /// What a configuration with so many exports in its projects wants.
    fn desired(&self, exports_of_projects: &[usize]) -> Desired {
        let max_parts = NonZeroUsize::new(self.scheduler.transfers.slots_max()).unwrap();
        let project = |(index, exports): (usize, &usize)| {
            let export = |export| format!("export_{index}_{export}").parse().unwrap();
            DesiredProject {
                name: format!("p{index}").parse().unwrap(),
                digest: ProjectDigest::of(&format!("project_{index}").parse().unwrap()),
                access: self.access.clone(),
                requests_per_second: NonZeroU32::MAX,
                exports: (0..*exports).map(export).collect(),
            }
        };
        Desired {
            policies: policies(),
            capacity: Capacity::new(max_parts, None),
            store: None,
            another_api: false,
            projects: exports_of_projects.iter().enumerate().map(project).collect(),
        }
    }

    fn reconcile(&mut self, desired: Desired) {
        self.scheduler.reconcile(desired, Recovered::default());
        let fleet = &self.scheduler.fleet;
        self.projects = fleet.projects().map(|(id, _)| id).collect();
        self.exports = fleet.projects().flat_map(|(_, project)| project.in_order()).collect();
    }

    fn watch(&self, export: usize) -> &crate::domain::watch::Watch {
        self.scheduler.fleet.export(self.exports[export]).unwrap().watch()
    }

    fn is_known(&self, export: usize) -> bool {
        self.scheduler.fleet.export(self.exports[export]).is_some()
    }

    fn now(&self) -> Duration {
        self.scheduler.clock.now()
    }

    fn step(&mut self, export: usize, event: WatchEvent) {
        self.scheduler.step(self.exports[export], event);
    }

    /// The API says this of an export, without having been asked.
    fn observed(&mut self, export: usize, outcome: ViewOutcome) {
        let entry = self.exports[export];
        let project = self.scheduler.fleet.export(entry).unwrap().project();
        self.scheduler.observed(project, entry, outcome);
    }

    /// Everything that is due happens, and what may start starts.
    fn goes_on(&mut self) {
        self.scheduler.apply(Event::Tick);
        self.scheduler.admit();
    }

    /// Every export wants to be asked about at once.
    fn all_ask(&mut self) {
        for entry in &self.exports {
            self.scheduler.polls.ask_at(*entry, Duration::ZERO);
        }
        self.scheduler.apply(Event::Tick);
    }

    fn call_of(&self, export: usize) -> CallId {
        self.scheduler.polls.call_of(self.exports[export]).expect("the view went out")
    }

    /// A call comes back and says this of an export.
    fn answered(&mut self, call: CallId, export: usize, outcome: ViewOutcome) {
        let export = self.watch(export).path().export.clone();
        let answer = Ok(vec![Observation { export, outcome }]);
        self.scheduler.apply(Event::Answered(call, answer));
    }

    /// Another configuration is asked for.
    fn asks_for(
        &mut self,
        desired: Result<Box<Desired>, String>,
    ) -> oneshot::Receiver<Result<Changes, String>> {
        let (reply, answer) = oneshot::channel();
        self.scheduler.controlled(Control::Reconcile { desired, reply });
        answer
    }

    fn report(&self, export: usize, status: &str, files: Option<Vec<PartListing>>) -> ViewOutcome {
        let (status, facts) = (RemoteStatus::parse(status), ReportFacts::default());
        let export = self.watch(export).path().export.clone();
        ViewOutcome::Report(Report { export, status, files, facts })
    }

    /// The API reports this status, and this many files.
    fn viewed(&mut self, export: usize, status: &str, files: u32) {
        let file = |number| PartListing {
            file_id: format!("file_{export}_{number}").parse().unwrap(),
            number: Some(number),
            declared_bytes: Some(10),
        };
        let report = self.report(export, status, Some((1..=files).map(file).collect()));
        self.observed(export, report);
    }

    /// The chore that would be begun next ends like this.
    fn chore_ends(&mut self, end: ChoreEnd) -> ChoreId {
        let id = self.scheduler.folders.take_next();
        self.scheduler.apply(Event::Folder(FolderEvent::Chore(id, Ok(end))));
        id
    }

    /// An export whose parts queue for slots.
    fn fetching(&mut self, export: usize, parts: u32) {
        self.viewed(export, "SUCCESS", parts);
        self.chore_ends(prepared(0, 0));
    }

    /// A view goes out and comes back like this.
    fn polled(&mut self, export: usize, outcome: ViewOutcome) {
        let entry = self.exports[export];
        self.scheduler.polls.ask_at(entry, Duration::ZERO);
        self.scheduler.apply(Event::Tick);
        self.scheduler.polls.call_all();
        self.scheduler.admit_views(Duration::from_hours(1000));
        self.answered(self.call_of(export), export, outcome);
    }

    /// Lets the disk be looked at, and takes the result in.
    async fn look_at_the_disk(&mut self) {
        self.scheduler.admit();
        let event = self.scheduler.folders.next().await;
        self.scheduler.apply(Event::Folder(event));
    }

    /// Everything that waits to be written becomes durable.
    fn all_written(&mut self) {
        self.scheduler.journal.flush();
        while let Ok(write) = self.writes.try_recv() {
            let written = LedgerEvent::Written(vec![write.ticket]);
            self.scheduler.apply(Event::Journal(Some(written)));
            self.scheduler.journal.flush();
        }
    }

    fn parts_under_way(&self) -> Vec<usize> {
        let number = |entry| self.exports.iter().position(|known| *known == entry).unwrap();
        let mut exports: Vec<_> = self.scheduler.transfers.exports().map(number).collect();
        exports.sort_unstable();
        exports
    }
}

fn prepared(needed_bytes: u64, free_bytes: u64) -> ChoreEnd {
    let (adopted, conflicts) = (Vec::new(), Vec::new());
    ChoreEnd::Prepared { adopted, conflicts, needed_bytes, free_bytes }
}

fn refusal() -> ViewOutcome {
    let (status, code) = (400, "MALFORMED_PARAMETER".into());
    ViewOutcome::Rejected(ApiRefusal { status, code, message: String::new() })
}

#[tokio::test]
async fn one_project_cannot_take_every_slot() {
    let mut rig = rig(&[1, 1, 1], 4);
    rig.fetching(0, 9);
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0, 0, 0], "one slot is kept for the others");
    rig.fetching(1, 9);
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0, 0, 0, 1]);
    rig.fetching(2, 9);
    // Nobody listens there, so each attempt ends by itself.
    let event = rig.scheduler.transfers.next().await;
    let TransferEvent::Downloaded(part, _) = &event else { panic!("a download ends") };
    let without_slot = if part.entry == rig.exports[0] { 2 } else { 1 };
    rig.scheduler.apply(Event::Transfer(event));
    rig.scheduler.admit();
    let under_way = rig.parts_under_way();
    assert!(under_way.contains(&without_slot), "who has none comes first: {under_way:?}");
}

#[tokio::test]
async fn of_a_few_slots_none_is_kept() {
    let mut rig = rig(&[1, 1], 2);
    rig.fetching(0, 5);
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0, 0]);
}

#[tokio::test]
async fn the_last_project_at_work_may_use_every_slot() {
    let mut rig = rig(&[1, 1], 4);
    rig.viewed(1, "ERROR", 0);
    rig.chore_ends(ChoreEnd::NoticeWritten);
    rig.step(1, WatchEvent::Recorded(Recorded::Failed));
    rig.fetching(0, 5);
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0, 0, 0, 0]);
}

#[tokio::test]
async fn views_that_hang_take_no_more_than_the_share_of_their_project() {
    let mut rig = rig(&[100, 2], 8);
    rig.all_ask();
    rig.scheduler.admit();
    let under_way = |export: usize| rig.scheduler.polls.call_of(rig.exports[export]).is_some();
    assert!(under_way(100) && under_way(101));
    assert_eq!(rig.scheduler.polls.under_way(), 18, "half of the calls for each");
}

#[tokio::test]
async fn a_probe_that_found_no_network_does_not_count_against_the_key() {
    let mut rig = rig(&[1], 8);
    let refused = |status| ViewOutcome::Held(Hold::Unauthorized { status });
    rig.observed(0, refused(401));
    for _ in 0..5 {
        rig.polled(0, ViewOutcome::Fault("refused".to_owned()));
        let key = &rig.scheduler.gates.of(rig.projects[0]).key;
        assert!(matches!(key.admission(rig.now()), Admission::WaitUntil(_)));
        assert_eq!(rig.scheduler.settled(), None);
    }
    for _ in 0..2 {
        assert_eq!(rig.scheduler.settled(), None);
        rig.polled(0, refused(403));
    }
    assert_eq!(rig.scheduler.settled(), Some(Outcome::Settled { failed: 0, refused: 1 }));
}

#[tokio::test]
async fn a_drain_waits_until_every_record_is_durable() {
    let mut rig = rig(&[1], 8);
    rig.viewed(0, "PENDING", 0);
    rig.viewed(0, "RUNNING", 0);
    rig.scheduler.apply(Event::Stop);
    assert_eq!(rig.scheduler.finished(), None);
    rig.scheduler.journal.flush();
    assert_eq!(rig.scheduler.finished(), None, "handed over is not yet durable");
    let write = rig.writes.try_recv().unwrap();
    assert!(rig.writes.try_recv().is_err(), "only the last word of a status waits");
    let written = LedgerEvent::Written(vec![write.ticket]);
    rig.scheduler.apply(Event::Journal(Some(written)));
    assert_eq!(rig.scheduler.finished(), Some(Outcome::Drained { clean: true }));
}

#[tokio::test]
async fn a_project_that_is_refused_as_a_whole_stays_paused_while_probes_are_refused_too() {
    let mut rig = rig(&[2], 8);
    rig.observed(0, refusal());
    let is_open = |rig: &Rig| rig.scheduler.gates.of(rig.projects[0]).rejection.is_open();
    assert!(is_open(&rig), "the other one has not been heard");
    rig.observed(1, refusal());
    for refusals in 1..4 {
        assert_eq!(rig.scheduler.gates.of(rig.projects[0]).rejection.refusals(), refusals);
        assert!(!is_open(&rig));
        rig.polled(0, refusal());
    }
    let running = rig.report(0, "RUNNING", None);
    rig.polled(0, running);
    assert!(is_open(&rig));
    assert!(rig.watch(1).wants_views(), "what was refused with the project is asked anew");
}

#[tokio::test]
async fn a_refusal_is_the_exports_own_only_when_another_one_is_answered_well_after_it() {
    let failing = |rig: &Rig, export: usize| !rig.watch(export).wants_views();

    let first_refused = || {
        let mut rig = rig(&[2], 8);
        rig.viewed(0, "RUNNING", 0);
        rig.viewed(1, "RUNNING", 0);
        rig.observed(0, refusal());
        assert!(!failing(&rig, 0), "what was answered before the refusal proves nothing");
        rig
    };

    let mut rig_of_one = first_refused();
    rig_of_one.viewed(1, "RUNNING", 0);
    assert!(failing(&rig_of_one, 0) && !failing(&rig_of_one, 1));

    let mut rig_of_all = first_refused();
    rig_of_all.observed(1, refusal());
    assert!(!failing(&rig_of_all, 0) && !failing(&rig_of_all, 1));
    let gates = rig_of_all.scheduler.gates.of(rig_of_all.projects[0]);
    assert!(!gates.rejection.is_open(), "the project pauses");
}

#[tokio::test]
async fn work_that_panics_is_done_again() {
    let mut rig = rig(&[1], 8);
    let entry = rig.exports[0];
    rig.all_ask();
    rig.scheduler.admit();
    assert_eq!(rig.scheduler.polls.due_at(entry), None);
    rig.scheduler.apply(Event::Answered(rig.call_of(0), Err(Panicked)));
    assert!(rig.scheduler.polls.due_at(entry).is_some(), "the view is asked for again");

    rig.viewed(0, "SUCCESS", 1);
    let chore = rig.scheduler.folders.take_next();
    rig.scheduler.apply(Event::Folder(FolderEvent::Chore(chore, Err(Panicked))));
    assert_eq!(rig.scheduler.folders.parked(), [(entry, ChoreKind::Prepare)]);

    let mut rig = self::rig(&[1], 8);
    rig.fetching(0, 1);
    rig.scheduler.admit();
    let part = rig.scheduler.transfers.parts().next().unwrap().clone();
    let end = TransferEvent::Downloaded(part, Err(Panicked));
    rig.scheduler.apply(Event::Transfer(end));
    assert!(rig.scheduler.transfers.wakes_at().is_some(), "the part waits its backoff");
    assert!(rig.parts_under_way().is_empty() && !rig.watch(0).is_settled());
}

#[tokio::test]
async fn a_pause_of_an_earlier_run_is_cut_to_an_hour_whatever_the_clock_has_done() {
    for (hours, expected) in [(-1, None), (0, None), (1000, Some(1)), (500_000, Some(1))] {
        let mut rig = rig(&[1], 8);
        let scope = PauseScope::Host("store.example".to_owned());
        let ends = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        rig.scheduler.restore_pauses(HashMap::from([(scope, ends)]));
        let now = rig.now();
        let gate = rig.scheduler.gates.hosts().next().map(|(_, gate)| gate);
        let left = gate.and_then(Gate::paused_until).map(|until| until.saturating_sub(now));
        let cap = expected.map(Duration::from_hours);
        assert!(left <= cap && left.is_some() == cap.is_some(), "{hours} hours became {left:?}");
    }
}

/// A client of a store that nobody asks.
pub(in crate::engine) fn store_client() -> StoreClient {
    let timeout = Duration::from_secs(5);
    let policy = StorePolicy {
        api_origin: "http://127.0.0.1:1/2.11".parse().unwrap(),
        allowed_hosts: Vec::new(),
        connect_timeout: timeout,
        headers_timeout: timeout,
        stall_timeout: timeout,
        min_rate_bytes_per_second: 1,
        bandwidth: None,
    };
    StoreClient::new(&tls(), &policy)
}
