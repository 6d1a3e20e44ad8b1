//! The scheduler: single owner of every watch. An async `select()` waits, sync code changes state,
//! children come back as events.
//!
//! Waiting exports are timers in one queue, not tasks. Nothing here awaits the disk or the store:
//! writes go through a bounded queue and come back as events, and so do polls, downloads and work
//! on folders.
//!
//! - `mod.rs` the loop, the drain and the end
//! - `admit.rs` what may start now: views, chores, parts
//! - `apply.rs` what an event changes, and what a watch's commands cost
//! - `commits.rs` from a complete body to a final name
//! - `forget.rs` exports that are let go of, and come back
//! - `gates.rs` what has to wait as a whole
//! - `disk.rs` when the disk is ill, and when it is well again
//! - `overview.rs` what the status page is told
//! - `reload.rs` another configuration, while everything runs
//! - `status.rs` what whoever asks and the service manager are told

mod admit;
mod apply;
mod commits;
mod disk;
mod forget;
mod gates;
mod overview;
mod reload;
mod status;
#[cfg(test)]
pub(in crate::engine) mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use commits::{Commits, GroupEnd};

use super::access::Access;
use super::children::{Children, Panicked};
use super::chores::{Chore, ChoreEnd};
use super::control::Control;
use super::downloader::DownloadNews;
use super::lanes::Lanes;
use super::narrator::introduce;
use super::part_queue::PartQueue;
use super::registry::Registry;
use super::snapshot::Snapshot;
use super::standing::Reloads;
use super::stream::Progress;
use super::timers::Timers;
use crate::domain::capacity::Capacity;
use crate::domain::crowd::Crowd;
use crate::domain::failure::{PartFailure, ViewOutcome};
use crate::domain::gate::Gate;
use crate::domain::ids::{ProjectDigest, ProjectName};
use crate::domain::moment::{Moment, Unit};
use crate::domain::pace::Pace;
use crate::domain::part::PartKey;
use crate::domain::stage::PauseScope;
use crate::domain::watch::{Policies, Recorded, Watch, WatchState};
use crate::engine::writer::{LedgerEvent, Write};
use crate::meters::Meters;
use crate::process::lock::LateLock;
use crate::sinks::{AnyFinished, AnySink};

/// Longest time a drain takes before what is left is given up; leaves a second of the promised ten
/// to the rest.
const DRAIN_GRACE: Duration = Duration::from_secs(9);
/// How often the disk is looked at while it is ill or full.
const DISK_INTERVAL: Duration = Duration::from_secs(5);
/// Refused probes in a row after which a project counts as refused for its key.
const REFUSED_PROBES: u32 = 3;

/// What the scheduler is made from.
pub struct EngineParts {
    /// The policies of every watch.
    pub policies: Policies,
    /// Parts in flight and parts that wait for their names, all exports together.
    pub capacity: Capacity,
    /// Whether to end once every export is settled.
    pub exit_when_settled: bool,
    /// When to give up on that, counted from the start.
    pub deadline: Option<Duration>,
    /// The projects with their exports.
    pub projects: Vec<ProjectParts>,
    /// Pauses that an earlier run recorded.
    pub pauses: HashMap<PauseScope, Timestamp>,
    /// Where bytes go.
    pub sink: AnySink,
    /// Keeps other instances out of there; nothing is written before it is held.
    pub download_lock: Arc<LateLock>,
    /// Where bytes move.
    pub lanes: Lanes,
    /// The queue of the state's writer.
    pub writes: mpsc::Sender<Write>,
    /// What the state's writer says.
    pub store_events: mpsc::Receiver<LedgerEvent>,
    /// What is asked of it while it runs.
    pub control: mpsc::Receiver<Control>,
    /// Where it counts what happens.
    pub meters: Meters,
}

/// One project of the configuration.
pub struct ProjectParts {
    /// Its name.
    pub name: ProjectName,
    /// What it is called in the state.
    pub digest: ProjectDigest,
    /// Its way to the API.
    pub(crate) access: Access,
    /// Its request budget.
    pub pace: Pace,
    /// Its exports, as recovery left them.
    pub watches: Vec<Watch>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every export is whole, failed, or refused for its key.
    Settled {
        /// Exports that failed.
        failed: usize,
        /// Projects whose key is refused while exports are still open.
        refused: usize,
    },
    /// Stopped by a signal.
    Drained {
        /// Whether everything under way came to an orderly end within the grace.
        clean: bool,
    },
    /// The deadline passed first.
    DeadlinePassed,
    /// The state's writer is gone: nothing that is finished could be recorded any more.
    StateLost,
}

/// The engine's one owner of state.
pub struct Scheduler {
    policies: Policies,
    capacity: Capacity,
    exit_when_settled: bool,
    started: Instant,
    started_at: Timestamp,
    projects: Registry<Project>,
    /// The projects in configuration order.
    order: Vec<usize>,
    /// Turns over the projects, for whoever comes first.
    first_in_turn: usize,
    entries: Registry<Entry>,
    origin: Gate,
    hosts: HashMap<String, Gate>,
    disk: Gate,
    /// Room that the disk needs to count as well.
    disk_room_bytes: u64,
    /// Whether people were told that the disk is ill.
    disk_ill: bool,
    timers: Timers<Timer>,
    parts: PartQueue,
    chores: VecDeque<(usize, Chore)>,
    parked_chores: Vec<(usize, Chore)>,
    polls: Children<usize, ViewOutcome>,
    downloads: Children<(usize, PartKey), DownloadEnd>,
    syncs: Children<(usize, PartKey), DownloadEnd>,
    groups: Children<Vec<(usize, PartKey)>, GroupEnd>,
    commits: Commits,
    chores_running: Children<(usize, Chore), ChoreEnd>,
    disk_checks: Children<(), Result<(), String>>,
    /// Which gates a call under way is the probe of.
    probes: HashMap<Call, Probes>,
    /// How far the downloads under way have come.
    progress: HashMap<(usize, PartKey), Arc<Progress>>,
    news: (mpsc::Sender<DownloadNews>, mpsc::Receiver<DownloadNews>),
    writes: mpsc::Sender<Write>,
    outbox: VecDeque<Write>,
    /// Writes that are not yet known to be durable, the outbox included.
    unwritten: usize,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    store_events: mpsc::Receiver<LedgerEvent>,
    store_failing: bool,
    control: mpsc::Receiver<Control>,
    /// Exports that are configured no more, and still have something under way.
    retiring: HashSet<usize>,
    /// Exports that are being let go of.
    release: Option<forget::Release>,
    /// Whether exports are away that may come back.
    forgetting: bool,
    /// Stops of the downloads under way.
    stops: HashMap<(usize, PartKey), CancellationToken>,
    /// The highest ticket of a write that is durable; they become so in their order.
    written: u64,
    /// Whether a configuration is being read.
    reloading: bool,
    reloads: Reloads,
    meters: Meters,
    service: status::Service,
    sink: AnySink,
    download_lock: Arc<LateLock>,
    lanes: Lanes,
    stop_downloads: CancellationToken,
    draining: Option<Draining>,
    snapshot: watch::Sender<Snapshot>,
    next_publish: Duration,
}

struct Project {
    /// Whether the configuration in force has it.
    is_configured: bool,
    name: ProjectName,
    digest: ProjectDigest,
    access: Arc<Access>,
    pace: Pace,
    throttle: Gate,
    key: Gate,
    /// Closed while the API refuses the request for every export.
    rejection: Gate,
    /// Exports whose view is due, in the order they came.
    ready: VecDeque<usize>,
    /// Views under way.
    views: usize,
    /// Parts whose bodies are on their way.
    slots: usize,
    /// The host its last signed link pointed to.
    store_host: Option<String>,
    /// Whether a refused request waits for its verdict: does it concern its export or the project?
    rejections: bool,
    /// The exports in configuration order.
    exports: Vec<usize>,
    unsettled: usize,
    /// When an export of it became whole last.
    last_success: Option<Timestamp>,
}

struct Entry {
    watch: Watch,
    project: usize,
    /// Whether it is configured no more: nothing is begun for it.
    retiring: bool,
    /// Whether a view of it is queued or under way.
    view_under_way: bool,
    /// What people were told that its folder waits for.
    chore_told: Option<String>,
    /// How its parts fare, and whether they all have to wait.
    crowd: Crowd,
    shown: overview::Shown,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    View(usize),
    PartRetry(usize, PartKey),
    /// A gate or a budget may open.
    Admit,
    /// A group of parts has gathered.
    Commits,
    /// Parked chores are tried again.
    Chores,
    Publish,
    Deadline,
    DrainGrace,
    /// The service manager is told how it is going.
    Status,
    /// The service manager is told that the loop is alive.
    Watchdog,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Call {
    View(usize),
    Part(usize, PartKey),
}

/// Which gates a call is the probe of.
#[derive(Debug, Clone, Default)]
struct Probes {
    key: bool,
    throttle: bool,
    rejection: bool,
    origin: bool,
    host: Option<String>,
}

/// Whom a write is to be told to when it is durable.
#[derive(Debug)]
struct Ticket {
    entry: usize,
    recorded: Recorded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draining {
    Signal,
    Deadline,
}

/// How a download ended: with all its bytes, or not.
type DownloadEnd = Result<AnyFinished, PartFailure>;

enum Event {
    Stop,
    Poll(usize, Result<ViewOutcome, Panicked>),
    Downloaded((usize, PartKey), Result<DownloadEnd, Panicked>),
    Synced((usize, PartKey), Result<DownloadEnd, Panicked>),
    Group(Vec<(usize, PartKey)>, Result<GroupEnd, Panicked>),
    Chore((usize, Chore), Result<ChoreEnd, Panicked>),
    DiskChecked(Result<Result<(), String>, Panicked>),
    News(DownloadNews),
    Store(LedgerEvent),
    Control(Control),
    WriteSent,
    Tick,
}

impl Scheduler {
    /// Takes over what recovery has found.
    #[must_use]
    pub fn new(parts: EngineParts) -> (Self, watch::Receiver<Snapshot>) {
        let (snapshot, reader) = watch::channel(Snapshot::default());
        let mut scheduler = Self {
            policies: parts.policies,
            capacity: parts.capacity,
            exit_when_settled: parts.exit_when_settled,
            started: Instant::now(),
            started_at: Timestamp::now(),
            projects: Registry::new(),
            order: Vec::new(),
            first_in_turn: 0,
            entries: Registry::new(),
            origin: Gate::default(),
            hosts: HashMap::new(),
            disk: Gate::default(),
            disk_room_bytes: 0,
            disk_ill: false,
            timers: Timers::new(),
            parts: PartQueue::default(),
            chores: VecDeque::new(),
            parked_chores: Vec::new(),
            polls: Children::new(),
            downloads: Children::new(),
            syncs: Children::new(),
            groups: Children::new(),
            commits: Commits::default(),
            chores_running: Children::new(),
            disk_checks: Children::new(),
            probes: HashMap::new(),
            progress: HashMap::new(),
            news: mpsc::channel(parts.capacity.parts.get().saturating_mul(2).min(1024)),
            writes: parts.writes,
            outbox: VecDeque::new(),
            unwritten: 0,
            tickets: HashMap::new(),
            next_ticket: 0,
            store_events: parts.store_events,
            store_failing: false,
            control: parts.control,
            retiring: HashSet::new(),
            release: None,
            forgetting: false,
            stops: HashMap::new(),
            written: 0,
            reloading: false,
            reloads: Reloads::default(),
            meters: parts.meters,
            service: status::Service::from_environment(),
            sink: parts.sink,
            download_lock: parts.download_lock,
            lanes: parts.lanes,
            stop_downloads: CancellationToken::new(),
            draining: None,
            snapshot,
            next_publish: Duration::ZERO,
        };
        for project in parts.projects {
            scheduler.take_over(project);
        }
        scheduler.restore_pauses(parts.pauses);
        if !scheduler.download_lock.is_held() {
            scheduler.doubt_disk();
        }
        if let Some(deadline) = parts.deadline {
            scheduler.timers.set(Timer::Deadline, deadline);
        }
        (scheduler, reader)
    }

    /// Runs until the work is settled, the deadline passes or `stop` is cancelled and everything
    /// under way has ended.
    pub async fn run(mut self, stop: CancellationToken) -> Outcome {
        self.begin();
        loop {
            if self.draining.is_none() {
                self.admit();
            }
            self.admit_commits();
            self.send_writes();
            self.publish();
            self.report();
            if let Some(outcome) = self.finished() {
                // Whoever watches sees the end, too.
                self.next_publish = Duration::ZERO;
                self.publish();
                return outcome;
            }
            let event = self.select(&stop).await;
            self.apply(event);
            self.forget_retired();
            self.tell_released();
        }
    }

    fn begin(&mut self) {
        self.feed_watchdog();
        for project in self.order.clone() {
            self.begin_exports(&self.projects[project].exports.clone());
        }
    }

    /// The first views of some exports of one project: one at once, the others spread over
    /// min(min_interval, n × 100 ms).
    fn begin_exports(&mut self, exports: &[usize]) {
        let wants_views = |entry: &usize| self.entries[*entry].watch.wants_views();
        let live: Vec<_> = exports.iter().copied().filter(wants_views).collect();
        let count = u32::try_from(live.len()).unwrap_or(u32::MAX).max(1);
        let window =
            self.policies.cadence.min().min(Duration::from_millis(100).saturating_mul(count));
        let now = self.now();
        for (place, entry) in (0_u32..).zip(live) {
            self.timers.set(Timer::View(entry), now.saturating_add(window * place / count));
        }
        for &entry in exports {
            introduce(&self.entries[entry].watch);
            for command in self.entries[entry].watch.resume_commands() {
                self.execute(entry, command, true);
            }
        }
    }

    async fn select(&mut self, stop: &CancellationToken) -> Event {
        let next_due = self.timers.next_due();
        let started = self.started;
        let tick = async move {
            match next_due {
                Some(at) => tokio::time::sleep_until(started + at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled(), if self.draining.is_none() => Event::Stop,
            (entry, outcome) = self.polls.next() => Event::Poll(entry, outcome),
            (part, end) = self.downloads.next() => Event::Downloaded(part, end),
            (part, synced) = self.syncs.next() => Event::Synced(part, synced),
            (parts, end) = self.groups.next() => Event::Group(parts, end),
            (chore, end) = self.chores_running.next() => Event::Chore(chore, end),
            ((), result) = self.disk_checks.next() => Event::DiskChecked(result),
            Some(news) = self.news.1.recv() => Event::News(news),
            Some(event) = self.store_events.recv() => Event::Store(event),
            Some(control) = self.control.recv() => Event::Control(control),
            Ok(permit) = self.writes.reserve(), if !self.outbox.is_empty() => {
                if let Some(write) = self.outbox.pop_front() {
                    permit.send(write);
                }
                Event::WriteSent
            }
            () = tick => Event::Tick,
        }
    }

    /// Hands over what the queue takes, all at once: the writer makes one transaction of it.
    fn send_writes(&mut self) {
        while !self.outbox.is_empty()
            && let Ok(permit) = self.writes.try_reserve()
            && let Some(write) = self.outbox.pop_front()
        {
            permit.send(write);
        }
    }

    fn drain(&mut self, why: Draining) {
        self.draining = Some(why);
        self.polls.abort_all();
        self.stop_downloads.cancel();
        self.timers.set(Timer::DrainGrace, self.now().saturating_add(DRAIN_GRACE));
        tracing::info!(
            event = "drain_started",
            parts = self.downloads.len(),
            "draining: no new work"
        );
    }

    /// The outcome, once there is nothing left to wait for.
    fn finished(&mut self) -> Option<Outcome> {
        let parts = self.downloads.len() + self.commits.len();
        let quiet = parts == 0 && self.chores_running.is_empty() && self.unwritten == 0;
        let grace_over =
            self.draining.is_some() && self.timers.due_at(&Timer::DrainGrace).is_none();
        match self.draining {
            Some(Draining::Deadline) if quiet || grace_over => Some(Outcome::DeadlinePassed),
            Some(Draining::Signal) if quiet => Some(Outcome::Drained { clean: true }),
            Some(Draining::Signal) if grace_over => {
                tracing::warn!(
                    event = "drain_cut",
                    parts,
                    "the grace is over: what is still under way is given up"
                );
                Some(Outcome::Drained { clean: false })
            }
            Some(_) => None,
            None if self.exit_when_settled && quiet && !self.forgetting => self.settled(),
            None => None,
        }
    }

    fn settled(&self) -> Option<Outcome> {
        let open = |project: &&Project| project.unsettled > 0;
        let all_settled =
            self.projects.values().filter(open).all(|p| p.key.refusals() >= REFUSED_PROBES);
        all_settled.then(|| Outcome::Settled {
            failed: self
                .entries
                .values()
                .filter(|e| matches!(e.watch.state(), WatchState::Failed { .. }))
                .count(),
            refused: self.projects.values().filter(open).count(),
        })
    }

    /// Adds a project and one entry for each of its exports.
    fn take_over(&mut self, parts: ProjectParts) {
        self.meters.project_came(&parts.name);
        let project =
            self.projects.add(Project::new(parts.name, parts.digest, parts.access, parts.pace));
        self.order.push(project);
        for watch in parts.watches {
            let entry = self.add_entry(project, watch);
            self.projects[project].exports.push(entry);
        }
    }

    /// Adds an entry; whoever does that gives it a place among its project's exports.
    fn add_entry(&mut self, project: usize, watch: Watch) -> usize {
        self.projects[project].unsettled += usize::from(!watch.is_settled());
        self.projects[project].succeeded(watch.state());
        let shown = overview::Shown::of(&watch);
        self.entries.add(Entry {
            watch,
            project,
            retiring: false,
            view_under_way: false,
            chore_told: None,
            crowd: Crowd::default(),
            shown,
        })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn moment(&self) -> Moment {
        Moment { since_start: self.now(), wall: Timestamp::now() }
    }

    fn jitter() -> Unit {
        Unit::clamped(fastrand::f64())
    }
}

impl Project {
    /// Remembers when an export became whole, if it is that.
    fn succeeded(&mut self, state: &WatchState) {
        if let WatchState::Completed { at, .. } = state {
            self.last_success = self.last_success.max(Some(*at));
        }
    }

    fn new(name: ProjectName, digest: ProjectDigest, access: Access, pace: Pace) -> Self {
        Self {
            is_configured: true,
            name,
            digest,
            access: Arc::new(access),
            pace,
            throttle: Gate::default(),
            key: Gate::default(),
            rejection: Gate::default(),
            ready: VecDeque::new(),
            views: 0,
            slots: 0,
            store_host: None,
            rejections: false,
            exports: Vec::new(),
            unsettled: 0,
            last_success: None,
        }
    }
}
