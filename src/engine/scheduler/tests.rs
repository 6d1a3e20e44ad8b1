//! The scheduler's decisions, driven event by event: what a sick disk, key or store costs everybody
//! else.

use std::io::Write as _;
use std::num::{NonZeroU32, NonZeroUsize};

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::api::{Api, ApiSettings};
use crate::config::{Environment, KeySource};
use crate::domain::cadence::Cadence;
use crate::domain::capacity::Capacity;
use crate::domain::failure::{ApiRefusal, Hold};
use crate::domain::gate::{Admission, Gate};
use crate::domain::report::{PartListing, RemoteStatus, Report, ReportFacts};
use crate::domain::retry::RetryPolicy;
use crate::domain::watch::WatchEvent;
use crate::fetch::{StoreClient, StorePolicy};
use crate::process::runtimes::TransferRuntimes;
use crate::sinks::local::{LocalSink, SinkSettings};
use crate::transport::testing::tls;

/// A scheduler whose API answers nothing: the tests bring the answers.
pub(super) struct Rig {
    pub(super) scheduler: Scheduler,
    writes: mpsc::Receiver<Write>,
    _store_events: mpsc::Sender<LedgerEvent>,
    folder: TempDir,
}

pub(super) fn rig(exports_of_projects: &[usize], max_parts: usize) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let (sink, _) = LocalSink::open(folder.path(), None, SinkSettings::default()).unwrap();
    let download_lock = Arc::new(LateLock::new(folder.path().join("lock")));
    download_lock.ensure().unwrap();
    let base_url: url::Url = "http://127.0.0.1:1/2.11".parse().unwrap();
    let timeout = Duration::from_secs(60);
    let settings = ApiSettings {
        base_url: base_url.clone(),
        connect_timeout: timeout,
        request_timeout: timeout,
    };
    let api = Api::new(&settings, &tls()).unwrap();
    let environment = Arc::new(Environment::from_pairs(std::iter::empty::<(String, String)>()));
    let project = |(index, exports): (usize, &usize)| {
        let (key, name) = (format!("project_{index}").parse().unwrap(), format!("p{index}"));
        let name: ProjectName = name.parse().unwrap();
        let client = api.project(&key, &"rest".to_owned().into()).unwrap();
        let source = KeySource::Env("NO_SUCH_KEY".to_owned());
        let watch =
            |export| Watch::new(name.clone(), format!("export_{index}_{export}").parse().unwrap());
        ProjectParts {
            digest: ProjectDigest::of(&key),
            access: Access::new(name.clone(), client, source, environment.clone()),
            pace: Pace::new(NonZeroU32::MAX),
            watches: (0..*exports).map(watch).collect(),
            name,
        }
    };
    let (write_sender, writes) = mpsc::channel(256);
    let (_store_events, store_events) = mpsc::channel(64);
    let (scheduler, _) = Scheduler::new(EngineParts {
        policies: Policies {
            cadence: Cadence::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap(),
            retry: RetryPolicy::try_new(Duration::from_secs(1), Duration::from_secs(600)).unwrap(),
            not_found_grace: Duration::from_secs(600),
        },
        capacity: Capacity::new(NonZeroUsize::new(max_parts).unwrap(), None),
        exit_when_settled: false,
        deadline: None,
        projects: exports_of_projects.iter().enumerate().map(project).collect(),
        pauses: HashMap::new(),
        sink: AnySink::Local(sink),
        download_lock,
        lanes: Lanes::new(
            TransferRuntimes { first: Handle::current(), others: Vec::new() },
            &store_client(),
        ),
        writes: write_sender,
        store_events,
        control: mpsc::channel(1).1,
        meters: Meters::default(),
    });
    Rig { scheduler, writes, _store_events, folder }
}

impl Rig {
    /// The API reports this status, and this many files.
    pub(super) fn viewed(&mut self, entry: usize, status: &str, files: u32) {
        let file = |number| PartListing {
            file_id: format!("file_{entry}_{number}").parse().unwrap(),
            number: Some(number),
            declared_bytes: Some(10),
        };
        let outcome = ViewOutcome::Report(Report {
            export: self.scheduler.entries[entry].watch.export().clone(),
            status: RemoteStatus::parse(status),
            files: Some((1..=files).map(file).collect()),
            facts: ReportFacts::default(),
        });
        self.scheduler.apply(Event::Poll(entry, Ok(outcome)));
    }

    /// An export whose parts queue for slots.
    pub(super) fn fetching(&mut self, entry: usize, parts: u32) {
        self.viewed(entry, "SUCCESS", parts);
        self.scheduler.chores.retain(|(of, _)| *of != entry);
        self.scheduler
            .step(entry, WatchEvent::Prepared { adopted: Vec::new(), conflicts: Vec::new() });
    }

    fn held(&mut self, entry: usize, hold: Hold) {
        self.scheduler.apply(Event::Poll(entry, Ok(ViewOutcome::Held(hold))));
    }

    /// Lets the disk be looked at, and takes the result in.
    async fn look_at_the_disk(&mut self) {
        self.scheduler.admit();
        let ((), result) = self.scheduler.disk_checks.next().await;
        self.scheduler.apply(Event::DiskChecked(result));
    }

    fn parts_under_way(&self) -> Vec<usize> {
        let mut entries: Vec<_> =
            self.scheduler.downloads.names().map(|(entry, _)| *entry).collect();
        entries.sort_unstable();
        entries
    }
}

#[tokio::test]
async fn an_export_whose_folder_is_sick_does_not_keep_the_disk_from_the_others() {
    let mut rig = rig(&[2], 8);
    rig.viewed(0, "SUCCESS", 1);
    let chore = rig.scheduler.chores.pop_front().unwrap();
    let sick = || Ok(ChoreEnd::Disk { cause: "permission denied".to_owned() });
    rig.scheduler.apply(Event::Chore(chore.clone(), sick()));
    rig.fetching(1, 1);
    assert!(!rig.scheduler.disk.is_open(), "in doubt");
    rig.look_at_the_disk().await;
    assert!(rig.scheduler.disk.is_open(), "one look tells that the disk is well");
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [1]);
    assert!(rig.scheduler.timers.due_at(&Timer::Chores).is_some(), "the sick one is tried again");
}

#[tokio::test]
async fn an_ill_disk_is_looked_at_every_few_seconds_until_it_is_well() {
    let mut rig = rig(&[1], 8);
    rig.fetching(0, 1);
    let marker = rig.folder.path().join(crate::sinks::local::MARKER_FILE);
    let text = std::fs::read(&marker).unwrap();
    std::fs::remove_file(&marker).unwrap();
    rig.scheduler.doubt_disk();
    rig.look_at_the_disk().await;
    assert!(rig.scheduler.disk_ill);
    rig.scheduler.admit();
    assert!(rig.parts_under_way().is_empty());
    let due = rig.scheduler.timers.due_at(&Timer::Admit).unwrap();
    assert!(due > rig.scheduler.now() && due <= rig.scheduler.now() + DISK_INTERVAL);
    std::fs::File::create(&marker).unwrap().write_all(&text).unwrap();
    rig.scheduler.disk.restore(Duration::ZERO);
    rig.look_at_the_disk().await;
    assert!(!rig.scheduler.disk_ill && rig.scheduler.disk.is_open());
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0]);
}

#[tokio::test]
async fn nothing_is_written_before_the_download_directory_is_locked() {
    let mut rig = rig(&[2], 8);
    let path = rig.folder.path().join("late");
    let other = crate::process::lock::InstanceLock::acquire(&path).unwrap();
    rig.scheduler.download_lock = Arc::new(LateLock::new(path));
    rig.scheduler.doubt_disk();
    rig.fetching(0, 1);
    rig.viewed(1, "SUCCESS", 1);
    rig.look_at_the_disk().await;
    assert!(!rig.scheduler.disk.is_open());
    rig.scheduler.admit();
    assert!(rig.parts_under_way().is_empty() && rig.scheduler.chores_running.is_empty());
    drop(other);
    rig.scheduler.disk.restore(Duration::ZERO);
    rig.look_at_the_disk().await;
    assert!(rig.scheduler.disk.is_open() && rig.scheduler.download_lock.is_held());
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
    let (name, outcome) = rig.scheduler.downloads.next().await;
    let without_slot = if name.0 == 0 { 2 } else { 1 };
    rig.scheduler.apply(Event::Downloaded(name, outcome));
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
    rig.scheduler.step(1, WatchEvent::FailureNoticeDurable);
    rig.scheduler.step(1, WatchEvent::Recorded(Recorded::Failed));
    rig.fetching(0, 5);
    rig.scheduler.admit();
    assert_eq!(rig.parts_under_way(), [0, 0, 0, 0]);
}

#[tokio::test]
async fn views_that_hang_take_no_more_than_the_share_of_their_project() {
    let mut rig = rig(&[100, 2], 8);
    for entry in 0..102 {
        rig.scheduler.timers.set(Timer::View(entry), Duration::ZERO);
    }
    rig.scheduler.apply(Event::Tick);
    rig.scheduler.admit();
    let under_way: Vec<_> = rig.scheduler.polls.names().copied().collect();
    assert!(under_way.contains(&100) && under_way.contains(&101), "{under_way:?}");
    assert_eq!(under_way.len(), 18, "half of the calls for each: {under_way:?}");
}

#[tokio::test]
async fn a_probe_that_found_no_network_does_not_count_against_the_key() {
    let mut rig = rig(&[1], 8);
    rig.held(0, Hold::Unauthorized { status: 401 });
    for _ in 0..5 {
        rig.scheduler.probing(Call::View(0), 0, Probes { key: true, ..Probes::default() });
        rig.scheduler.apply(Event::Poll(0, Ok(ViewOutcome::Fault("refused".to_owned()))));
        assert!(matches!(
            rig.scheduler.projects[0].key.admission(rig.scheduler.now()),
            Admission::WaitUntil(_)
        ));
        assert_eq!(rig.scheduler.settled(), None);
    }
    for _ in 0..2 {
        rig.scheduler.probing(Call::View(0), 0, Probes { key: true, ..Probes::default() });
        assert_eq!(rig.scheduler.settled(), None);
        rig.held(0, Hold::Unauthorized { status: 403 });
    }
    assert_eq!(rig.scheduler.settled(), Some(Outcome::Settled { failed: 0, refused: 1 }));
}

#[tokio::test]
async fn a_drain_waits_until_every_record_is_durable() {
    let mut rig = rig(&[1], 8);
    rig.viewed(0, "PENDING", 0);
    rig.viewed(0, "RUNNING", 0);
    assert_eq!(rig.scheduler.outbox.len(), 1, "only the last word of a status waits");
    rig.scheduler.apply(Event::Stop);
    assert_eq!(rig.scheduler.finished(), None);
    while !rig.scheduler.outbox.is_empty() {
        let event = rig.scheduler.select(&CancellationToken::new()).await;
        rig.scheduler.apply(event);
    }
    assert_eq!(rig.scheduler.finished(), None, "handed over is not yet durable");
    let write = rig.writes.recv().await.unwrap();
    rig.scheduler.apply(Event::Store(LedgerEvent::Written(vec![write.ticket])));
    assert_eq!(rig.scheduler.finished(), Some(Outcome::Drained { clean: true }));
}

#[tokio::test]
async fn room_is_promised_once() {
    let mut rig = rig(&[2], 8);
    for entry in 0..2 {
        rig.viewed(entry, "SUCCESS", 6);
        let chore = rig.scheduler.chores.pop_front().unwrap();
        let (adopted, conflicts) = (Vec::new(), Vec::new());
        let end = ChoreEnd::Prepared { adopted, conflicts, needed_bytes: 60, free_bytes: 100 };
        rig.scheduler.apply(Event::Chore(chore, Ok(end)));
    }
    rig.scheduler.admit();
    assert!(!rig.parts_under_way().contains(&1), "the second one waits before its first byte");
    assert_eq!(rig.scheduler.parked_chores, [(1, Chore::Prepare)]);
}

#[tokio::test]
async fn a_project_that_is_refused_as_a_whole_stays_paused_while_probes_are_refused_too() {
    let mut rig = rig(&[2], 8);
    let rejected = || {
        let refusal =
            ApiRefusal { status: 400, code: "MALFORMED_PARAMETER".into(), message: String::new() };
        Event::Poll(0, Ok(ViewOutcome::Rejected(refusal)))
    };
    rig.scheduler.apply(rejected());
    assert!(rig.scheduler.projects[0].rejection.is_open(), "the other one has not been heard");
    let Event::Poll(_, other) = rejected() else { return };
    rig.scheduler.apply(Event::Poll(1, other));
    for refusals in 1..4 {
        assert_eq!(rig.scheduler.projects[0].rejection.refusals(), refusals);
        assert!(!rig.scheduler.projects[0].rejection.is_open());
        rig.scheduler.probing(Call::View(0), 0, Probes { rejection: true, ..Probes::default() });
        rig.scheduler.apply(rejected());
    }
    rig.scheduler.probing(Call::View(0), 0, Probes { rejection: true, ..Probes::default() });
    rig.viewed(0, "RUNNING", 0);
    assert!(rig.scheduler.projects[0].rejection.is_open());
    assert!(
        rig.scheduler.entries[1].watch.wants_views(),
        "what was refused with the project is asked anew"
    );
}

#[tokio::test]
async fn a_refusal_is_the_exports_own_only_when_another_one_is_answered_well_after_it() {
    let refusal =
        || ApiRefusal { status: 400, code: "MALFORMED_PARAMETER".into(), message: String::new() };
    let rejected = |entry| Event::Poll(entry, Ok(ViewOutcome::Rejected(refusal())));
    let failing = |rig: &Rig, entry: usize| !rig.scheduler.entries[entry].watch.wants_views();

    let mut rig_of_one = rig(&[2], 8);
    rig_of_one.viewed(0, "RUNNING", 0);
    rig_of_one.viewed(1, "RUNNING", 0);
    rig_of_one.scheduler.apply(rejected(0));
    assert!(!failing(&rig_of_one, 0), "what was answered before the refusal proves nothing");
    rig_of_one.viewed(1, "RUNNING", 0);
    assert!(failing(&rig_of_one, 0) && !failing(&rig_of_one, 1));

    let mut rig_of_all = rig(&[2], 8);
    rig_of_all.viewed(0, "RUNNING", 0);
    rig_of_all.viewed(1, "RUNNING", 0);
    rig_of_all.scheduler.apply(rejected(0));
    rig_of_all.scheduler.apply(rejected(1));
    assert!(!failing(&rig_of_all, 0) && !failing(&rig_of_all, 1));
    assert!(!rig_of_all.scheduler.projects[0].rejection.is_open(), "the project pauses");
}

#[tokio::test]
async fn work_that_panics_is_done_again() {
    let mut rig = rig(&[1], 8);
    rig.scheduler.timers.set(Timer::View(0), Duration::ZERO);
    rig.scheduler.apply(Event::Tick);
    assert_eq!(rig.scheduler.timers.due_at(&Timer::View(0)), None);
    rig.scheduler.apply(Event::Poll(0, Err(Panicked)));
    assert!(rig.scheduler.timers.due_at(&Timer::View(0)).is_some(), "the view is asked for again");

    rig.viewed(0, "SUCCESS", 1);
    let chore = rig.scheduler.chores.pop_front().unwrap();
    rig.scheduler.apply(Event::Chore(chore, Err(Panicked)));
    assert_eq!(rig.scheduler.parked_chores, [(0, Chore::Prepare)]);

    let mut rig = self::rig(&[1], 8);
    rig.fetching(0, 1);
    rig.scheduler.admit();
    let part = rig.scheduler.downloads.names().next().unwrap().clone();
    rig.scheduler.apply(Event::Downloaded(part.clone(), Err(Panicked)));
    let retry = Timer::PartRetry(part.0, part.1);
    assert!(rig.scheduler.timers.due_at(&retry).is_some(), "the part waits its backoff");
    assert!(!rig.scheduler.entries[0].watch.is_settled());
}

#[tokio::test]
async fn a_pause_of_an_earlier_run_is_cut_to_an_hour_whatever_the_clock_has_done() {
    for (hours, expected) in [(-1, None), (0, None), (1000, Some(1)), (500_000, Some(1))] {
        let mut rig = rig(&[1], 8);
        let scope = PauseScope::Host(format!("{hours}.example"));
        let ends = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        rig.scheduler.restore_pauses(HashMap::from([(scope, ends)]));
        let now = rig.scheduler.now();
        let gate = rig.scheduler.hosts.get(&format!("{hours}.example"));
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
