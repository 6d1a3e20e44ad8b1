//! The scheduler: a loop that waits, hands each event to the owner it concerns, and starts what may
//! start. Nothing here awaits the disk or the state: polls, downloads, work on folders and writes
//! come back as events.
//!
//! - `mod.rs` the loop, the drain and the end
//! - `route.rs` what an event changes, and where the commands of a watch go
//! - `reconcile.rs` another configuration
//! - `forget.rs` exports that somebody wants forgotten
//! - `overview.rs` what is shown to those who look
//! - `lasting.rs` what has waited for long
//! - `status.rs` what the service manager is told

mod forget;
mod lasting;
mod overview;
mod reconcile;
mod route;
mod status;
#[cfg(test)]
pub(in crate::engine) mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::children::Panicked;
use super::control::{Control, Desired};
use super::fleet::Fleet;
use super::folders::{FolderEvent, Folders};
use super::gates::Gates;
use super::ids::EntryId;
use super::journal::Journal;
use super::narrator::introduce;
use super::overview::{Overview, Reloads};
use super::polls::{CallId, Polls};
use super::recovery::Recovered;
use super::timers::{Clock, Timers};
use super::transfers::{Lanes, TransferEvent, Transfers};
use super::writer::{LedgerEvent, Write};
use crate::domain::capacity::Capacity;
use crate::domain::failure::Observation;
use crate::domain::watch::{Fetching, Policies};
use crate::meters::Meters;
use crate::process::lock::LateLock;
use crate::sinks::AnySink;
use reconcile::Reconciler;

/// Longest time a drain takes before what is left is given up; leaves a second of the promised ten
/// to the rest.
const DRAIN_GRACE: Duration = Duration::from_secs(9);
/// Refused probes in a row after which a project counts as refused for its key.
const REFUSED_PROBES: u32 = 3;

pub struct EngineParts {
    /// The command that retries exports, without their IDs.
    pub retry_command: String,
    /// Whether to end once every export is settled.
    pub exit_when_settled: bool,
    /// When to give up on that, counted from the start.
    pub deadline: Option<Duration>,
    pub policies: Policies,
    pub capacity: Capacity,
    pub sink: AnySink,
    /// Keeps other instances out of there; nothing is written before it is held.
    pub download_lock: Arc<LateLock>,
    pub lanes: Lanes,
    /// Where exports are looked up that come later.
    pub archive: Archive,
    /// The queue of the state's writer.
    pub writes: mpsc::Sender<Write>,
    /// What the state's writer says.
    pub ledger_events: mpsc::Receiver<LedgerEvent>,
    pub control: mpsc::Receiver<Control>,
    pub meters: Meters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every export is whole, failed, or refused for its key.
    Settled {
        failed: usize,
        /// Projects whose key is refused while exports are still open.
        refused: usize,
    },
    Drained {
        /// Whether everything under way came to an orderly end within the grace.
        clean: bool,
    },
    DeadlinePassed,
    /// The state's writer is gone: nothing that is finished could be recorded any more.
    StateLost,
}

/// The engine: its owners, and the loop that routes between them.
pub struct Scheduler {
    clock: Clock,
    policies: Policies,
    fleet: Fleet,
    gates: Gates,
    polls: Polls,
    transfers: Transfers,
    folders: Folders,
    journal: Journal,
    reconciler: Reconciler,
    timers: Timers<Timer>,
    control: mpsc::Receiver<Control>,
    exit_when_settled: bool,
    draining: Option<Draining>,
    audience: Audience,
    meters: Meters,
}

/// Who is told how it is going, and what they were told last.
#[derive(Debug)]
struct Audience {
    started_at: Timestamp,
    /// For the progress bars.
    published: watch::Sender<Overview>,
    retry_command: String,
    next_publish: Duration,
    service: status::Service,
    reloads: Reloads,
    told_waits: lasting::Told,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    Publish,
    Deadline,
    DrainGrace,
    /// What is under way for exports that are to be forgotten has to have ended.
    ForgetGrace,
    /// What has waited for long is told again.
    LastingWaits,
    /// The service manager is told how it is going.
    Status,
    /// The service manager is told that the loop is alive.
    Watchdog,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draining {
    Signal,
    Deadline,
}

enum Event {
    Stop,
    Answered(CallId, Result<Vec<Observation>, Panicked>),
    Transfer(TransferEvent),
    Folder(FolderEvent),
    /// News of the state's writer, if there are any.
    Journal(Option<LedgerEvent>),
    Reconciler(reconcile::JobEnd),
    Control(Control),
    Tick,
}

impl Scheduler {
    /// Makes an engine without any project.
    #[must_use]
    pub fn new(parts: EngineParts) -> (Self, watch::Receiver<Overview>) {
        let (published, reader) = watch::channel(Overview::default());
        let EngineParts { policies, capacity, sink, download_lock, lanes, meters, .. } = parts;
        let blocking = lanes.for_blocking_work().clone();
        let mut scheduler = Self {
            clock: Clock::start(),
            policies,
            fleet: Fleet::default(),
            gates: Gates::new(policies.retry, meters.clone()),
            polls: Polls::new(meters.clone()),
            transfers: Transfers::new(capacity, lanes, sink.clone(), meters.clone()),
            folders: Folders::new(sink, download_lock, blocking, meters.clone()),
            journal: Journal::new(parts.writes, parts.ledger_events, meters.clone()),
            reconciler: Reconciler::new(parts.archive),
            timers: Timers::default(),
            control: parts.control,
            exit_when_settled: parts.exit_when_settled,
            draining: None,
            audience: Audience {
                started_at: Timestamp::now(),
                published,
                retry_command: parts.retry_command,
                next_publish: Duration::ZERO,
                service: status::Service::from_environment(),
                reloads: Reloads::default(),
                told_waits: lasting::Told::default(),
            },
            meters,
        };
        if let Some(deadline) = parts.deadline {
            scheduler.timers.set(Timer::Deadline, deadline);
        }
        (scheduler, reader)
    }

    /// Runs what is configured first, as recovery found it, until the work is settled, the deadline
    /// passes, or `stop` is cancelled and everything under way has ended.
    pub async fn run(
        mut self,
        first: Desired,
        found: Recovered,
        stop: CancellationToken,
    ) -> Outcome {
        self.feed_watchdog();
        self.reconcile(first, found);
        self.tell_lasting_waits(self.clock.moment());
        loop {
            self.admit();
            self.publish();
            self.report();
            if let Some(outcome) = self.finished() {
                // Whoever watches sees the end, too.
                self.audience.next_publish = Duration::ZERO;
                self.publish();
                return outcome;
            }
            let event = self.select(&stop).await;
            self.apply(event);
        }
    }

    async fn select(&mut self, stop: &CancellationToken) -> Event {
        let wakes_at = self.wakes_at();
        tokio::select! {
            () = stop.cancelled(), if self.draining.is_none() => Event::Stop,
            (call, answer) = self.polls.next() => Event::Answered(call, answer),
            event = self.transfers.next() => Event::Transfer(event),
            event = self.folders.next() => Event::Folder(event),
            event = self.journal.next() => Event::Journal(event),
            end = self.reconciler.next() => Event::Reconciler(end),
            Some(control) = self.control.recv() => Event::Control(control),
            () = self.clock.sleep_until(wakes_at) => Event::Tick,
        }
    }

    /// When something is to be done, if nothing happens before.
    fn wakes_at(&self) -> Option<Duration> {
        let now = self.clock.now();
        let always = [self.timers.next_due(), self.transfers.gathers_until()];
        let while_working =
            [self.polls.wakes_at(), self.transfers.wakes_at(), self.folders.wakes_at(now)];
        let while_working = while_working.into_iter().filter(|_| self.draining.is_none());
        always.into_iter().chain(while_working).flatten().min()
    }

    /// Starts what may start: views within the budget, chores, and parts while slots are free.
    /// Nothing that is closed takes a slot.
    fn admit(&mut self) {
        let now = self.clock.now();
        if self.draining.is_none() {
            self.call_woken();
            self.polls.wake(now);
            self.transfers.wake(now);
            self.folders.wake(now);
            self.admit_views(now);
            self.folders.check_disk(now);
            if !self.journal.is_failing() {
                self.admit_chores();
                self.admit_parts(now);
            }
        }
        self.transfers.admit_group(now);
        self.journal.flush();
    }

    fn call_woken(&mut self) {
        let woken = self.gates.take_woken();
        if woken.everybody {
            self.polls.call_all();
            self.transfers.call_all();
        }
        for project in woken.projects {
            self.polls.call(project);
            self.transfers.call(project);
        }
    }

    fn admit_views(&mut self, now: Duration) {
        let at_work = self.fleet.at_work().len();
        while let Some(turn) = self.polls.next_turn(&mut self.gates, at_work, now) {
            let entry = turn.entry;
            match self.fleet.export(entry) {
                Some(export) if export.watch().wants_views() => {
                    let access = self.fleet.project(export.project()).access.clone();
                    let id = export.path().export.clone();
                    self.polls.send(turn, access, id, now);
                    self.fleet.begin_work(entry);
                }
                _ => self.polls.unwanted(&turn),
            }
        }
    }

    fn admit_chores(&mut self) {
        let Self { folders, fleet, .. } = self;
        folders.admit(|entry| {
            let export = fleet.export(entry)?;
            let unrecorded = export.watch().fetching().into_iter().flat_map(Fetching::unrecorded);
            Some((export.path().clone(), unrecorded.collect()))
        });
    }

    fn admit_parts(&mut self, now: Duration) {
        let at_work = self.fleet.at_work().len();
        while self.folders.disk_is_open()
            && let Some(turn) = self.transfers.next_turn(&mut self.gates, at_work, now)
        {
            self.begin_part(turn, now);
        }
    }

    fn drain(&mut self, why: Draining) {
        self.draining = Some(why);
        self.polls.abort_all();
        self.transfers.stop_all();
        self.reconciler.stop();
        self.timers.set(Timer::DrainGrace, self.clock.now().saturating_add(DRAIN_GRACE));
        tracing::info!(
            event = "drain_started",
            parts = self.transfers.slots_in_use(),
            "draining: no new work"
        );
    }

    /// The outcome, once there is nothing left to wait for.
    fn finished(&mut self) -> Option<Outcome> {
        let parts = self.transfers.len();
        let quiet = parts == 0 && self.folders.under_way() == 0 && self.journal.is_idle();
        let grace_over =
            self.draining.is_some() && self.timers.due_at(&Timer::DrainGrace).is_none();
        match self.draining {
            Some(Draining::Deadline) if quiet || grace_over => Some(Outcome::DeadlinePassed),
            Some(Draining::Signal) if quiet => Some(Outcome::Drained { clean: true }),
            Some(Draining::Signal) if grace_over => {
                tracing::warn!(
                    event = "drain_cut",
                    parts,
                    "the time to stop is over: work that is still under way is dropped"
                );
                Some(Outcome::Drained { clean: false })
            }
            Some(_) => None,
            None if self.exit_when_settled && quiet && self.reconciler.is_idle() => self.settled(),
            None => None,
        }
    }

    fn settled(&self) -> Option<Outcome> {
        let at_work = self.fleet.at_work();
        let is_refused = |project| self.gates.of(project).key.refusals() >= REFUSED_PROBES;
        at_work.iter().copied().all(is_refused).then(|| Outcome::Settled {
            failed: self.fleet.counts().failed,
            refused: at_work.len(),
        })
    }

    /// The first views of some exports of one project: one at once, the others spread over
    /// min(min_interval, n × 100 ms).
    fn begin_exports(&mut self, exports: &[EntryId]) {
        let wants_views = |entry: &EntryId| {
            self.fleet.export(*entry).is_some_and(|export| export.watch().wants_views())
        };
        let live: Vec<_> = exports.iter().copied().filter(wants_views).collect();
        let count = u32::try_from(live.len()).unwrap_or(u32::MAX).max(1);
        let window =
            self.policies.cadence.min().min(Duration::from_millis(100).saturating_mul(count));
        let now = self.clock.now();
        for (place, entry) in (0_u32..).zip(live) {
            self.polls.ask_at(entry, now.saturating_add(window * place / count));
        }
        for &entry in exports {
            let Some(export) = self.fleet.export(entry) else { continue };
            introduce(export.watch(), &self.audience.retry_command);
            for command in export.watch().resume_commands() {
                self.execute(entry, command, true);
            }
        }
    }
}
