//! Asking the API how exports stand: when a view is due, whether the budget has room for it, and
//! the calls under way. One call brings observations of one or more exports.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use slotmap::SecondaryMap;
use tokio::time::Instant;
use tokio_util::task::JoinMap;

use super::access::{Access, KeyUse};
use super::children::{self, Panicked};
use super::gates::{Gates, Pass};
use super::ids::{EntryId, ProjectId};
use super::timers::Timers;
use super::turns::Turns;
use crate::domain::failure::Observation;
use crate::domain::ids::ExportId;
use crate::domain::pace::Pace;
use crate::meters::Meters;

/// Calls under way at once, all projects together: bounds sockets and answers in memory. Each
/// project that is still at work gets an equal share, so that one whose calls hang cannot hold up
/// the others.
const MAX_CALLS: usize = 32;

pub(crate) type CallId = u64;

#[derive(Debug)]
pub(crate) struct Polls {
    due: Timers<EntryId>,
    projects: SecondaryMap<ProjectId, Budget>,
    /// Projects with views that are due take turns.
    turns: Turns<ProjectId>,
    /// How far each export is that has a view queued or under way.
    asked: SecondaryMap<EntryId, Asked>,
    calls: HashMap<CallId, Call>,
    running: JoinMap<CallId, Vec<Observation>>,
    next_call: CallId,
    /// The calls that each project may have had under way, when that was looked at last.
    share: usize,
    meters: Meters,
}

#[derive(Debug)]
struct Budget {
    pace: Pace,
    /// Exports whose view is due, in the order they came.
    ready: Turns<EntryId>,
    calls: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Queued,
    UnderWay,
}

/// A call that is back.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) project: ProjectId,
    pub(crate) exports: Vec<EntryId>,
    pub(crate) pass: Pass,
}

/// A view that may go out now.
#[derive(Debug)]
pub(crate) struct Turn {
    project: ProjectId,
    pub(crate) entry: EntryId,
    pass: Pass,
}

impl Polls {
    pub(crate) fn new(meters: Meters) -> Self {
        Self {
            due: Timers::default(),
            projects: SecondaryMap::new(),
            turns: Turns::default(),
            asked: SecondaryMap::new(),
            calls: HashMap::new(),
            running: JoinMap::new(),
            next_call: 0,
            share: 0,
            meters,
        }
    }

    pub(crate) fn add_project(&mut self, project: ProjectId, requests_per_second: NonZeroU32) {
        let pace = Pace::new(requests_per_second);
        self.projects.insert(project, Budget { pace, ready: Turns::default(), calls: 0 });
    }

    pub(crate) fn remove_project(&mut self, project: ProjectId) {
        self.projects.remove(project);
        self.turns.leave(&project);
    }

    /// Another budget. What was spent stays spent.
    pub(crate) fn reconfigure(&mut self, project: ProjectId, requests_per_second: NonZeroU32) {
        let budget = &mut self.projects[project];
        budget.pace = budget.pace.with_budget(requests_per_second);
        self.turns.call(&project);
    }

    /// Has the export asked about at this time; replaces an earlier wait.
    pub(crate) fn ask_at(&mut self, entry: EntryId, at: Duration) {
        self.due.set(entry, at);
    }

    /// When the export is asked about next, if that is only a matter of time.
    pub(crate) fn due_at(&self, entry: EntryId) -> Option<Duration> {
        self.due.due_at(&entry)
    }

    /// When the next export is asked about.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.next_due()
    }

    /// Calls off what only waits. A call under way comes back once more.
    pub(crate) fn call_off(&mut self, project: ProjectId, entry: EntryId) {
        self.due.remove(&entry);
        if self.asked.get(entry) == Some(&Asked::Queued) {
            self.asked.remove(entry);
            self.projects[project].ready.leave(&entry);
        }
    }

    /// Whether a call about the export is queued or under way.
    pub(crate) fn is_asking(&self, entry: EntryId) -> bool {
        self.asked.contains_key(entry)
    }

    /// No wait is longer than this.
    pub(crate) fn shorten_waits(&mut self, now: Duration, longest: Duration, spread: f64) {
        let late = self.due.iter().filter(|(_, at)| *at > now + longest).map(|(entry, _)| *entry);
        for entry in late.collect::<Vec<_>>() {
            let wait = longest.mul_f64(spread).max(Duration::from_millis(1));
            self.due.set(entry, now.saturating_add(wait));
        }
    }

    /// Exports whose time has come, each to be queued with [`Polls::queue`] if it still wants a
    /// view.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<EntryId> {
        self.due.pop_due(now)
    }

    pub(crate) fn queue(&mut self, project: ProjectId, entry: EntryId) {
        if !self.asked.contains_key(entry) {
            self.asked.insert(entry, Asked::Queued);
            self.projects[project].ready.join(entry);
            self.turns.join(project);
        }
    }

    /// Calls the projects whose time to wait is over.
    pub(crate) fn wake(&mut self, now: Duration) {
        self.turns.call_due(now);
    }

    /// The next view that the budgets and the gates let through, of `at_work` projects that are
    /// not done. It has to go out, or to be dropped with [`Polls::unwanted`].
    pub(crate) fn next_turn(
        &mut self,
        gates: &mut Gates,
        at_work: usize,
        now: Duration,
    ) -> Option<Turn> {
        let share = (MAX_CALLS / at_work.max(1)).max(1);
        if share > std::mem::replace(&mut self.share, share) {
            self.turns.call_all();
        }
        while self.running.len() < MAX_CALLS {
            let project = self.turns.next()?;
            let budget = &mut self.projects[project];
            if budget.ready.is_empty() {
                continue;
            }
            if budget.calls >= share {
                self.turns.stand_aside(project, None);
                continue;
            }
            let ready_at = budget.pace.ready_at();
            if ready_at > now {
                self.turns.stand_aside(project, Some(ready_at));
                continue;
            }
            match gates.api_pass(project, now) {
                Err(closed) => self.turns.stand_aside(project, closed.until),
                Ok(pass) => {
                    self.turns.join(project);
                    let entry = budget.ready.next()?;
                    return Some(Turn { project, entry, pass });
                }
            }
        }
        None
    }

    /// The export of this turn is not asked about any more.
    pub(crate) fn unwanted(&mut self, turn: &Turn) {
        self.asked.remove(turn.entry);
    }

    pub(crate) fn send(
        &mut self,
        turn: Turn,
        access: Arc<Access>,
        export: ExportId,
        now: Duration,
    ) {
        let Turn { project, entry, pass } = turn;
        let key = KeyUse::of(&pass);
        let budget = &mut self.projects[project];
        budget.pace.spend(now);
        budget.calls += 1;
        self.asked.insert(entry, Asked::UnderWay);
        let call = self.next_call;
        self.next_call += 1;
        self.calls.insert(call, Call { project, exports: vec![entry], pass });
        let meters = self.meters.clone();
        // Boxed: a runtime moves a task's future more than once, and this one is large.
        self.running.spawn(
            call,
            Box::pin(async move {
                let began = Instant::now();
                let observations = access.view(&export, key).await;
                meters.poll_took(began.elapsed());
                observations
            }),
        );
    }

    /// Waits for a call to come back. Cancel-safe.
    pub(crate) async fn next(&mut self) -> (CallId, Result<Vec<Observation>, Panicked>) {
        children::next(&mut self.running).await
    }

    /// A call is back: its exports may be asked about again.
    pub(crate) fn ended(&mut self, call: CallId) -> Option<Call> {
        let call = self.calls.remove(&call)?;
        for entry in &call.exports {
            self.asked.remove(*entry);
        }
        if let Some(budget) = self.projects.get_mut(call.project) {
            budget.calls = budget.calls.saturating_sub(1);
        }
        self.turns.call(&call.project);
        Some(call)
    }

    /// The way of a project may be open again.
    pub(crate) fn call(&mut self, project: ProjectId) {
        self.turns.call(&project);
    }

    pub(crate) fn call_all(&mut self) {
        self.turns.call_all();
    }

    /// When something is to be done next.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        [self.due.next_due(), self.turns.next_due()].into_iter().flatten().min()
    }

    pub(crate) fn under_way(&self) -> usize {
        self.running.len()
    }

    /// Ends every call; what comes back of them says nothing.
    pub(crate) fn abort_all(&mut self) {
        self.calls.clear();
        self.running.abort_all();
    }
}

#[cfg(test)]
impl Polls {
    /// The call under way about an export.
    pub(crate) fn call_of(&self, entry: EntryId) -> Option<CallId> {
        let mut calls = self.calls.iter();
        calls.find(|(_, call)| call.exports.contains(&entry)).map(|(id, _)| *id)
    }
}
