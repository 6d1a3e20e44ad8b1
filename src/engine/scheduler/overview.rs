//! What the status page is told, made when somebody asks: while nobody looks it costs nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

use super::{Scheduler, Timer};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::gate::Gate;
use crate::domain::rate::Rate;
use crate::domain::report::RemoteStatus;
use crate::domain::watch::{Fetching, Kept, PartState, Totals, Watch, WatchState};
use crate::engine::fleet::Project;
use crate::engine::gates::ProjectGates;
use crate::engine::ids::{EntryId, PartId};
use crate::engine::overview::{
    ActivePart, ExportOverview, ExportState, Overview, Pause, PauseReason, Progress,
    ProjectOverview,
};
use crate::engine::snapshot::{ExportView, FetchProgress, Phase, Snapshot};
use crate::engine::transfers::Transfers;

/// Shortest time between two snapshots.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// What the page is told of an export beside its watch.
#[derive(Debug)]
pub(crate) struct Shown {
    /// When it came to stand where it stands.
    pub(super) since: Timestamp,
    pub(super) rate: Rate,
}

impl Shown {
    /// Of an export that recovery has found, or one that is new.
    pub(crate) fn of(watch: &Watch) -> Self {
        let since = match watch.state() {
            WatchState::Completed { at, .. } => *at,
            WatchState::Failing { failure, .. } | WatchState::Failed { failure, .. } => failure.at,
            WatchState::Polling(_) | WatchState::Fetching(_) | WatchState::Sealing { .. } => {
                Timestamp::now()
            }
        };
        Self { since, rate: Rate::default() }
    }

    /// It stands somewhere else from now on.
    pub(crate) fn moved(&mut self, now: Timestamp) {
        *self = Self { since: now, rate: Rate::default() };
    }
}

impl Scheduler {
    pub(super) fn overview(&mut self) -> Overview {
        let moment = self.clock.moment();
        let clock = Clock { since_start: moment.since_start, wall: moment.wall };
        let projects: Vec<_> = self.fleet.projects().map(|(id, _)| id).collect();
        let projects = projects.into_iter().map(|id| {
            let exports = self.fleet.project(id).in_order();
            let exports =
                exports.into_iter().filter_map(|entry| self.export_overview(entry, clock));
            let exports = exports.collect();
            let project = self.fleet.project(id);
            ProjectOverview {
                name: project.name.clone(),
                last_success: project.last_success,
                pauses: pauses(project, self.gates.of(id), clock),
                exports,
            }
        });
        let projects = projects.collect();
        Overview {
            started_at: self.audience.started_at,
            now: clock.wall,
            standing: self.standing(),
            slots_in_use: self.transfers.slots_in_use(),
            slots_max: self.transfers.slots_max(),
            disk_ill: self.folders.disk_is_ill(),
            state_failing: self.journal.is_failing(),
            stores_wait: self.gates.hosts().any(|(_, gate)| is_waited_for(gate, clock)),
            origin: pause(self.gates.origin(), PauseReason::Unavailable, clock),
            projects,
        }
    }

    fn export_overview(&mut self, entry: EntryId, clock: Clock) -> Option<ExportOverview> {
        let due = self.polls.due_at(entry);
        let (progress, active_parts) = match self.fleet.export(entry)?.watch().state() {
            WatchState::Fetching(fetching) => fetch_overview(entry, fetching, &self.transfers),
            state => (progress_of(state), Vec::new()),
        };
        let export = self.fleet.export_mut(entry)?;
        let success: Option<Arc<str>> = Some(RemoteStatus::Success.as_str().into());
        let (state, remote_status, failure) = match export.watch().state() {
            WatchState::Polling(polling) => {
                let seen = polling.seen().map(RemoteStatus::as_str).map(Arc::from);
                (ExportState::Polling, seen, None)
            }
            WatchState::Fetching(_) => (ExportState::Fetching, success.clone(), None),
            WatchState::Sealing { .. } => (ExportState::Sealing, success.clone(), None),
            WatchState::Completed { .. } => (ExportState::Whole, success.clone(), None),
            WatchState::Failing { failure, .. } => {
                (ExportState::Failing, last_word(failure), Some(failure.clone()))
            }
            WatchState::Failed { failure, .. } => {
                (ExportState::Failed, last_word(failure), Some(failure.clone()))
            }
        };
        let bytes_per_second = match state {
            ExportState::Fetching => {
                export.shown.rate.observe(progress.bytes_done, clock.since_start)
            }
            _ => 0,
        };
        Some(ExportOverview {
            id: export.watch().export().clone(),
            state,
            remote_status,
            since: export.shown.since,
            next_poll_at: due.map(|due| clock.wall_at(due)),
            progress,
            bytes_per_second,
            active_parts,
            failure,
        })
    }

    /// Publishes the read model if somebody looks, at most every 100 ms.
    pub(super) fn publish(&mut self) {
        let now = self.clock.now();
        let audience = &mut self.audience;
        if audience.snapshot.receiver_count() == 0 || now < audience.next_publish {
            return;
        }
        audience.next_publish = now.saturating_add(PUBLISH_INTERVAL);
        self.timers.set(Timer::Publish, audience.next_publish);
        let in_order = self.fleet.projects().flat_map(|(_, project)| project.in_order());
        let exports = in_order.filter_map(|entry| self.export_view(entry)).collect();
        let slots_in_use = self.transfers.slots_in_use();
        self.audience.snapshot.send_replace(Snapshot { exports, slots_in_use });
    }

    fn export_view(&self, entry: EntryId) -> Option<ExportView> {
        let watch = self.fleet.export(entry)?.watch();
        let phase = match watch.state() {
            WatchState::Polling(polling) => Phase::Polling {
                remote_status: polling.seen().map(RemoteStatus::as_str).map(Arc::from),
            },
            WatchState::Fetching(fetching) => {
                let (progress, _) = fetch_overview(entry, fetching, &self.transfers);
                Phase::Fetching(FetchProgress {
                    parts_done: progress.parts_done,
                    parts_total: progress.parts_total,
                    bytes_done: progress.bytes_done,
                    bytes_total: progress.bytes_total.unwrap_or(0),
                })
            }
            WatchState::Sealing { .. } => Phase::Sealing,
            WatchState::Completed { totals, .. } => {
                Phase::Completed { parts: totals.parts, bytes: totals.bytes }
            }
            WatchState::Failing { failure, .. } | WatchState::Failed { failure, .. } => {
                Phase::Failed { cause: failure.cause.as_str().into() }
            }
        };
        Some(ExportView { project: watch.project().clone(), export: watch.export().clone(), phase })
    }
}

fn fetch_overview(
    entry: EntryId,
    fetching: &Fetching,
    transfers: &Transfers,
) -> (Progress, Vec<ActivePart>) {
    let mut progress = Progress { bytes_total: Some(0), ..Progress::default() };
    let mut active = Vec::new();
    for (key, part) in fetching.parts() {
        progress.parts_total += 1;
        let (sum, declared) = (progress.bytes_total, part.declared_bytes);
        progress.bytes_total = sum.and_then(|sum| sum.checked_add(declared?));
        match &part.state {
            PartState::Committed(done) | PartState::Recording(done) => {
                progress.parts_done += 1;
                progress.bytes_done = progress.bytes_done.saturating_add(done.bytes);
            }
            PartState::Active => {
                // Until its partial is opened, a part has what an earlier attempt has left.
                let part_id = PartId { entry, key: key.clone() };
                let bytes = transfers.bytes(&part_id).max(part.resumable_bytes());
                progress.bytes_done = progress.bytes_done.saturating_add(bytes);
                active.push(ActivePart { key: key.clone(), bytes, total: declared });
            }
            PartState::Queued | PartState::Waiting | PartState::AwaitingView => {
                progress.bytes_done = progress.bytes_done.saturating_add(part.resumable_bytes());
            }
            PartState::Abandoned { .. } => {}
        }
    }
    (progress, active)
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Clock {
    since_start: Duration,
    wall: Timestamp,
}

impl Clock {
    /// What the wall clock will say at this time since the start. In tenths of a second, so that
    /// the same moment looks the same from one second to the next.
    fn wall_at(self, at: Duration) -> Timestamp {
        let left = at.saturating_sub(self.since_start);
        let wall = self.wall.checked_add(left).unwrap_or(Timestamp::MAX);
        let tenths = TimestampRound::new()
            .smallest(Unit::Millisecond)
            .increment(100)
            .mode(RoundMode::HalfExpand);
        wall.round(tenths).unwrap_or(wall)
    }
}

/// How far an export is that fetches nothing.
/// The API's last word on an export that failed, where the failure tells it.
fn last_word(failure: &Failure) -> Option<Arc<str>> {
    (failure.kind == FailureKind::RemoteError).then(|| RemoteStatus::Error.as_str().into())
}

fn progress_of(state: &WatchState) -> Progress {
    match state {
        WatchState::Polling(_) | WatchState::Fetching(_) => Progress::default(),
        WatchState::Sealing { totals, .. } | WatchState::Completed { totals, .. } => Progress {
            parts_done: totals.parts,
            parts_total: totals.parts,
            bytes_done: totals.bytes,
            bytes_total: Some(totals.bytes),
        },
        WatchState::Failing { kept: Kept { committed, .. }, .. }
        | WatchState::Failed { kept: Kept { committed, .. }, .. } => {
            let totals = Totals::of(committed.values());
            let (parts, bytes) = (totals.parts, totals.bytes);
            Progress { parts_done: parts, parts_total: parts, bytes_done: bytes, bytes_total: None }
        }
    }
}

fn pauses(project: &Project, gates: &ProjectGates, clock: Clock) -> Vec<Pause> {
    let key_source = project.access.key_source().to_string();
    let gates = [
        (&gates.key, PauseReason::Unauthorized { key_source }),
        (&gates.rejection, PauseReason::Rejected),
        (&gates.throttle, PauseReason::Throttled),
    ];
    gates.into_iter().filter_map(|(gate, reason)| pause(gate, reason, clock)).collect()
}

/// Whether a store's pause is not over, or it is found out whether it is. Where no part is left,
/// nobody finds out.
fn is_waited_for(gate: &Gate, clock: Clock) -> bool {
    !gate.is_open() && gate.paused_until().is_none_or(|until| until > clock.since_start)
}

fn pause(gate: &Gate, reason: PauseReason, clock: Clock) -> Option<Pause> {
    if gate.is_open() {
        return None;
    }
    let until = gate.paused_until().filter(|until| *until > clock.since_start);
    Some(Pause { reason, until: until.map(|until| clock.wall_at(until)) })
}
