//! What the status page is told, made when somebody asks: while nobody looks it costs nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

use super::{Entry, Project, Scheduler, Timer};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::gate::Gate;
use crate::domain::rate::Rate;
use crate::domain::report::RemoteStatus;
use crate::domain::watch::{Fetching, Kept, PartState, Totals, Watch, WatchState};
use crate::engine::overview::{
    ActivePart, ExportOverview, ExportState, Overview, Pause, PauseReason, Progress,
    ProjectOverview,
};

/// What the page is told of an export beside its watch.
#[derive(Debug)]
pub(super) struct Shown {
    /// When it came to stand where it stands.
    since: Timestamp,
    rate: Rate,
}

impl Shown {
    /// Of an export that recovery has found, or one that is new.
    pub(super) fn of(watch: &Watch) -> Self {
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
    pub(super) fn moved(&mut self, now: Timestamp) {
        *self = Self { since: now, rate: Rate::default() };
    }
}

impl Scheduler {
    pub(super) fn overview(&mut self) -> Overview {
        let clock = Clock { since_start: self.now(), wall: Timestamp::now() };
        let mut projects = Vec::with_capacity(self.order.len());
        for project in self.order.clone() {
            let exports = self.projects[project].exports.clone();
            let exports =
                exports.into_iter().map(|entry| self.export_overview(entry, clock)).collect();
            let project = &self.projects[project];
            projects.push(ProjectOverview {
                name: project.name.clone(),
                last_success: project.last_success,
                pauses: pauses(project, clock),
                exports,
            });
        }
        Overview {
            started_at: self.started_at,
            now: clock.wall,
            standing: self.standing(),
            slots_in_use: self.downloads.len(),
            slots_max: self.capacity.parts.get(),
            disk_ill: self.disk_ill,
            state_failing: self.store_failing,
            stores_wait: self.hosts.values().any(|gate| is_waited_for(gate, clock)),
            origin: pause(&self.origin, PauseReason::Unavailable, clock),
            projects,
        }
    }

    fn export_overview(&mut self, number: usize, clock: Clock) -> ExportOverview {
        let (progress, active_parts) = match self.entries[number].watch.state() {
            WatchState::Fetching(fetching) => self.fetch_overview(number, fetching),
            state => (progress_of(state), Vec::new()),
        };
        let due = self.timers.due_at(&Timer::View(number));
        let Entry { watch, shown, .. } = &mut self.entries[number];
        let success: Option<Arc<str>> = Some(RemoteStatus::Success.as_str().into());
        let (state, remote_status, failure) = match watch.state() {
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
            ExportState::Fetching => shown.rate.observe(progress.bytes_done, clock.since_start),
            _ => 0,
        };
        ExportOverview {
            id: watch.export().clone(),
            state,
            remote_status,
            since: shown.since,
            next_poll_at: due.map(|due| clock.wall_at(due)),
            progress,
            bytes_per_second,
            active_parts,
            failure,
        }
    }

    fn fetch_overview(&self, number: usize, fetching: &Fetching) -> (Progress, Vec<ActivePart>) {
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
                    let under_way = self.progress.get(&(number, key.clone()));
                    let bytes = under_way
                        .map_or(0, |progress| progress.bytes())
                        .max(part.resumable_bytes());
                    progress.bytes_done = progress.bytes_done.saturating_add(bytes);
                    active.push(ActivePart { key: key.clone(), bytes, total: declared });
                }
                PartState::Queued | PartState::Waiting | PartState::AwaitingView => {
                    progress.bytes_done =
                        progress.bytes_done.saturating_add(part.resumable_bytes());
                }
                PartState::Abandoned { .. } => {}
            }
        }
        (progress, active)
    }
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

fn pauses(project: &Project, clock: Clock) -> Vec<Pause> {
    let key_source = project.access.key_source().to_string();
    let gates = [
        (&project.key, PauseReason::Unauthorized { key_source }),
        (&project.rejection, PauseReason::Rejected),
        (&project.throttle, PauseReason::Throttled),
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
