//! What runs is brought to what is configured: new exports begin, others retire, limits change, and
//! nothing in flight is cut.
//!
//! An export that retires begins nothing new. What is under way for it comes to its end and into
//! the state, and then it is let go of; should it be configured again before that, it goes on.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio_util::task::JoinMap;

use super::Scheduler;
use crate::domain::ids::{ExportId, ExportKey, ExportPath};
use crate::domain::retry::RETRY_AFTER_CAP;
use crate::domain::stage::PauseScope;
use crate::domain::watch::{Command, Fetching, PartState, Watch, WatchEvent, WatchState};
use crate::engine::archive::{Archive, Forgotten};
use crate::engine::children::{self, Panicked};
use crate::engine::control::{Changes, Control, Desired, DesiredProject};
use crate::engine::fleet::{Export, Presence, Project};
use crate::engine::ids::{EntryId, PartId, ProjectId};
use crate::engine::narrator;
use crate::engine::recovery::{Recovered, Wanted};
use crate::engine::timers::Clock;
use crate::meters::Verdict;
use crate::ports::Fact;

pub(super) type ForgetReply = oneshot::Sender<Result<Vec<Forgotten>, String>>;

/// The one piece of work that needs the state or the disk before it can be finished.
#[derive(Debug)]
pub(super) struct Reconciler {
    pub(super) archive: Archive,
    pub(super) work: Work,
    pub(super) jobs: JoinMap<Job, JobEnd>,
    /// What was asked meanwhile. Bounded, because everybody who asks waits for the answer: the
    /// reloader, and the connections of the control socket.
    waiting: VecDeque<Control>,
}

#[derive(Debug)]
pub(super) enum Work {
    Idle,
    /// The exports that a configuration adds are looked up.
    LookingUp {
        desired: Box<Desired>,
        found: Recovered,
        reply: oneshot::Sender<Result<Changes, String>>,
    },
    /// What is under way for exports that are to be forgotten comes to its end.
    Stopping {
        wanted: BTreeSet<ExportId>,
        keys: Vec<ExportKey>,
        left: HashSet<EntryId>,
        reply: ForgetReply,
    },
    /// Their files and records go.
    Dropping {
        reply: ForgetReply,
    },
    /// Those that are configured are looked up again.
    Beginning {
        outcome: Result<Vec<Forgotten>, String>,
        reply: ForgetReply,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Job {
    LookUp,
    Forget,
}

#[derive(Debug)]
pub(super) enum JobEnd {
    LookedUp(Result<Recovered, String>),
    Forgotten(Result<Vec<Forgotten>, String>),
}

impl Reconciler {
    pub(super) fn new(archive: Archive) -> Self {
        Self { archive, work: Work::Idle, jobs: JoinMap::new(), waiting: VecDeque::new() }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.work, Work::Idle)
    }

    /// Begins nothing more. Who asked hears nothing, and the stop is the reason.
    pub(super) fn stop(&mut self) {
        self.waiting.clear();
        if !matches!(self.work, Work::Dropping { .. }) {
            self.work = Work::Idle;
        }
    }

    /// Waits for a job to end. Cancel-safe.
    pub(super) async fn next(&mut self) -> JobEnd {
        let (job, end) = children::next(&mut self.jobs).await;
        end.unwrap_or_else(|Panicked| {
            let cause = "the look at the state panicked".to_owned();
            match job {
                Job::LookUp => JobEnd::LookedUp(Err(cause)),
                Job::Forget => JobEnd::Forgotten(Err(cause)),
            }
        })
    }

    pub(super) fn look_up(&mut self, wanted: Vec<Wanted>) {
        let archive = self.archive.clone();
        self.jobs.spawn(Job::LookUp, async move {
            let found = archive.look_up(&wanted).await;
            JobEnd::LookedUp(found.map_err(|error| error.to_string()))
        });
    }
}

impl Scheduler {
    pub(super) fn controlled(&mut self, control: Control) {
        match control {
            // Nothing begins any more: who asked hears nothing, and the stop is the reason.
            Control::Retry { .. } | Control::Reconcile { .. } | Control::Forget { .. }
                if self.draining.is_some() => {}
            Control::Reconcile { .. } | Control::Forget { .. } if !self.reconciler.is_idle() => {
                self.reconciler.waiting.push_back(control);
            }
            // Who asked may be gone; that changes nothing.
            Control::Status { reply } => _ = reply.send(self.standing()),
            // Those who look come every second: the service manager need not hear of it.
            Control::Overview { reply } => {
                let _ = reply.send(Box::new(self.overview(usize::MAX)));
                return;
            }
            Control::Projects { reply } => {
                let name = |(_, project): (_, &Project)| (project.digest, project.name.clone());
                let _ = reply.send(self.fleet.projects().map(name).collect());
                return;
            }
            Control::Retry { exports, reply } => _ = reply.send(self.retry(&exports)),
            Control::Forget { exports, reply } => self.forget(exports, reply),
            Control::Reconcile { desired: Ok(desired), reply } => {
                self.look_up_new(desired, Recovered::default(), reply);
            }
            Control::Reconcile { desired: Err(cause), reply } => self.refuse(cause, reply),
            #[cfg(debug_assertions)]
            Control::Hang => loop {
                std::thread::park();
            },
        }
        self.tell_status();
    }

    /// The configuration before stays in use.
    fn refuse(&mut self, cause: String, reply: oneshot::Sender<Result<Changes, String>>) {
        let reloads = &mut self.audience.reloads;
        reloads.refused += 1;
        reloads.refusal = Some(cause.clone());
        self.meters.reloaded(Verdict::Refused);
        // The service manager hears why before it hears that it is over.
        self.tell_status();
        let _ = reply.send(Err(cause));
    }

    /// Failed exports are watched again. Returns those that were failed.
    fn retry(&mut self, wanted: &BTreeSet<ExportId>) -> Vec<ExportPath> {
        let is_failed = |entry: &EntryId| {
            self.fleet.export(*entry).is_some_and(|export| {
                export.is_wanted() && matches!(export.watch().state(), WatchState::Failed { .. })
            })
        };
        let failed: Vec<_> = self.fleet.find_all(wanted).filter(is_failed).collect();
        let mut retried = Vec::new();
        for entry in failed {
            let Some(export) = self.fleet.export(entry) else { continue };
            narrator::retried(export.path());
            retried.push(export.path().clone());
            self.retry_failed(entry);
        }
        retried
    }

    /// Begins to forget a failure: its notice is taken away first.
    fn retry_failed(&mut self, entry: EntryId) {
        let Some(export) = self.fleet.export(entry) else { return };
        self.transfers.forget_crowd(export.project(), entry);
        self.step(entry, WatchEvent::Retry);
    }

    /// Looks up what is configured and not known, and then puts the configuration into use. What
    /// was let go of since an earlier look is looked up as well.
    fn look_up_new(
        &mut self,
        desired: Box<Desired>,
        found: Recovered,
        reply: oneshot::Sender<Result<Changes, String>>,
    ) {
        let is_unknown = |project: &DesiredProject, export: &ExportId| {
            let known = self.fleet.find_project(&project.digest);
            let key = ExportKey { project: project.digest, export: export.clone() };
            known.is_none_or(|known| self.fleet.find(known, export).is_none())
                && !found.looked_up.contains(&key)
        };
        let unknown = |project: &DesiredProject| {
            let exports = project.exports.iter().filter(|export| is_unknown(project, export));
            let exports: Vec<_> = exports.cloned().collect();
            let name = project.name.clone();
            (!exports.is_empty()).then_some(Wanted { project: project.digest, name, exports })
        };
        let wanted: Vec<_> = desired.projects.iter().filter_map(unknown).collect();
        if wanted.is_empty() {
            let changes = self.reconcile(*desired, found);
            self.audience.reloads.accepted += 1;
            self.audience.reloads.refusal = None;
            self.meters.reloaded(Verdict::Accepted);
            let _ = reply.send(Ok(changes));
            return;
        }
        self.reconciler.look_up(wanted);
        self.reconciler.work = Work::LookingUp { desired, found, reply };
    }

    pub(super) fn job_ended(&mut self, end: JobEnd) {
        match (std::mem::replace(&mut self.reconciler.work, Work::Idle), end) {
            (Work::LookingUp { desired, mut found, reply }, JobEnd::LookedUp(Ok(more))) => {
                found.merge(more);
                self.look_up_new(desired, found, reply);
            }
            (Work::LookingUp { reply, .. }, JobEnd::LookedUp(Err(why))) => self.refuse(why, reply),
            (Work::Dropping { reply }, JobEnd::Forgotten(outcome)) => {
                for Forgotten { project, export, .. } in
                    outcome.iter().flatten().filter(|forgotten| forgotten.hindrance.is_none())
                {
                    tracing::info!(event = "record_dropped", %project, %export, "the export is forgotten, as requested");
                }
                if self.draining.is_some() {
                    let _ = reply.send(outcome);
                } else {
                    self.reconciler.look_up(self.missing());
                    self.reconciler.work = Work::Beginning { outcome, reply };
                }
            }
            (Work::Beginning { outcome, reply }, JobEnd::LookedUp(found)) => {
                let found = found.unwrap_or_else(|cause| {
                    tracing::error!(
                        event = "forgotten_unrecovered",
                        cause,
                        "forgotten exports start as new ones: {cause}"
                    );
                    Recovered::default()
                });
                self.begin_missing(found.watches);
                let _ = reply.send(outcome);
            }
            (work, _) => self.reconciler.work = work,
        }
        self.tell_status();
    }

    /// Brings what runs to what is configured. Exports that are not known begin as they were found,
    /// else as new ones.
    pub(super) fn reconcile(&mut self, desired: Desired, found: Recovered) -> Changes {
        self.policies = desired.policies;
        self.gates.reconfigure(desired.policies.retry);
        self.transfers.reconfigure(desired.capacity, desired.store.as_ref());
        if desired.another_api {
            self.gates.forget_api();
        }
        let Recovered { mut watches, mut pauses, .. } = found;
        let is_first = self.fleet.projects().next().is_none();
        pauses.retain(|scope, _| match scope {
            PauseScope::Project(digest) => self.fleet.find_project(digest).is_none(),
            PauseScope::Origin | PauseScope::Host(_) | PauseScope::Unknown(_) => is_first,
        });
        let mut changes = Changes::default();
        let mut configured = Vec::with_capacity(desired.projects.len());
        for project in desired.projects {
            configured.push(self.reconcile_project(project, &mut watches, &mut changes));
        }
        let kept: HashSet<_> = configured.iter().copied().collect();
        let known: Vec<_> = self.fleet.projects().map(|(id, _)| id).collect();
        for id in known.into_iter().filter(|id| !kept.contains(id)) {
            let gone = self.fleet.configure(id, &[]);
            changes.exports_removed += self.retire(&gone, Presence::Retiring);
            let project = self.fleet.project_mut(id);
            changes.projects_removed += usize::from(project.is_configured);
            project.is_configured = false;
            self.let_go_of_project(id);
        }
        self.fleet.arrange(&configured);
        self.restore_pauses(pauses);
        let longest = self.policies.cadence.max().max(self.policies.retry.max());
        self.polls.shorten_waits(self.clock.now(), longest, Clock::jitter().get());
        changes
    }

    fn reconcile_project(
        &mut self,
        desired: DesiredProject,
        watches: &mut HashMap<ExportKey, Watch>,
        changes: &mut Changes,
    ) -> ProjectId {
        let DesiredProject { name, digest, access, requests_per_second, exports } = desired;
        let id = match self.fleet.find_project(&digest) {
            Some(id) => {
                self.polls.reconfigure(id, requests_per_second);
                let project = self.fleet.project_mut(id);
                project.is_configured = true;
                if !project.access.has_key_of(&access) {
                    changes.keys_changed += 1;
                    self.gates.key_changed(id);
                }
                project.access = Arc::new(access);
                id
            }
            None => {
                changes.projects_added += 1;
                self.meters.project_came(&name);
                let id = self.fleet.add_project(name.clone(), digest, access);
                self.gates.add(id, name.clone(), digest);
                self.polls.add_project(id, requests_per_second);
                id
            }
        };
        let gone = self.fleet.configure(id, &exports);
        changes.exports_removed += self.retire(&gone, Presence::Retiring);
        let retiring = |entry: &EntryId| {
            let presence = self.fleet.export(*entry).map(Export::presence);
            presence == Some(Presence::Retiring)
        };
        let known = exports.iter().filter_map(|export| self.fleet.find(id, export));
        let woken: Vec<_> = known.filter(retiring).collect();
        changes.exports_added += woken.len() + self.begin_missing_of(id, watches);
        for entry in woken {
            self.wake(entry);
        }
        id
    }

    /// Exports that are configured and not known, by project.
    pub(super) fn missing(&self) -> Vec<Wanted> {
        let missing = |(id, project): (ProjectId, &Project)| {
            let (name, exports) = (project.name.clone(), self.fleet.missing(id));
            (!exports.is_empty()).then_some(Wanted { project: project.digest, name, exports })
        };
        self.fleet.projects().filter_map(missing).collect()
    }

    fn begin_missing(&mut self, mut watches: HashMap<ExportKey, Watch>) {
        let projects: Vec<_> = self.fleet.projects().map(|(id, _)| id).collect();
        for id in projects {
            self.begin_missing_of(id, &mut watches);
        }
    }

    /// Begins the exports of a project that are configured and not known. Returns how many.
    fn begin_missing_of(
        &mut self,
        id: ProjectId,
        watches: &mut HashMap<ExportKey, Watch>,
    ) -> usize {
        let (name, project) = (self.fleet.project(id).name.clone(), self.fleet.project(id).digest);
        let mut new = Vec::new();
        for export in self.fleet.missing(id) {
            let watch = watches.remove(&ExportKey { project, export: export.clone() });
            let new_one = || Watch::new(ExportPath { project: name.clone(), export });
            new.push(self.fleet.add_export(id, watch.unwrap_or_else(new_one)));
        }
        self.begin_exports(&new);
        new.len()
    }

    /// Calls off what these exports wait for: they are let go of when nothing is under way.
    /// Returns how many were wanted.
    pub(super) fn retire(&mut self, exports: &[EntryId], presence: Presence) -> usize {
        let mut retired = 0;
        for &entry in exports {
            let Some(export) = self.fleet.export(entry) else { continue };
            if export.is_wanted() {
                retired += 1;
                narrator::removed(export.path());
                self.call_off(entry);
            }
            self.fleet.set_presence(entry, presence);
        }
        retired
    }

    fn call_off(&mut self, entry: EntryId) {
        let Some(export) = self.fleet.export(entry) else { return };
        let project = export.project();
        let parts = export.watch().fetching().into_iter().flat_map(Fetching::parts);
        let waiting = parts.filter(|(_, part)| part.state == PartState::Waiting);
        let waiting: Vec<_> = waiting.map(|(key, _)| PartId { entry, key: key.clone() }).collect();
        self.polls.call_off(project, entry);
        self.transfers.call_off(project, entry, waiting);
        if self.folders.call_off(entry) {
            self.fleet.end_work(entry);
        }
    }

    /// An export that was on its way out is configured again.
    pub(super) fn wake(&mut self, entry: EntryId) {
        self.fleet.set_presence(entry, Presence::Wanted);
        let Some(export) = self.fleet.export(entry) else { return };
        self.transfers.forget_crowd(export.project(), entry);
        narrator::restored(export.path());
        for command in export.watch().wake_commands() {
            let asks = matches!(command, Command::ViewAfter(_)) && self.polls.is_asking(entry);
            if !asks {
                self.execute(entry, command, false);
            }
        }
    }

    /// Lets go of exports that are not wanted and for which nothing is under way.
    pub(super) fn let_go(&mut self) {
        while let Some(entry) = self.fleet.pop_idle() {
            let Some(export) = self.fleet.export(entry) else { continue };
            let is_failed = matches!(export.watch().state(), WatchState::Failed { .. });
            if is_failed && export.presence() == Presence::Retiring {
                // Taken out and put back, a failed export is watched again.
                self.retry_failed(entry);
                continue;
            }
            let project = export.project();
            narrator::forgotten(export.path());
            self.transfers.forget_crowd(project, entry);
            self.fleet.remove_export(entry);
            self.let_go_of_project(project);
        }
        self.drop_stopped();
        while self.reconciler.is_idle()
            && let Some(control) = self.reconciler.waiting.pop_front()
        {
            self.controlled(control);
        }
    }

    /// Lets go of a project that is not configured and has no export left, and of its counters,
    /// unless another one has its name by now.
    fn let_go_of_project(&mut self, id: ProjectId) {
        let project = self.fleet.project(id);
        if project.is_configured || !project.is_empty() {
            return;
        }
        self.gates.remove(id);
        self.polls.remove_project(id);
        self.transfers.remove_project(id);
        if let Some(name) = self.fleet.remove_project(id) {
            self.meters.project_went(&name);
        }
    }

    /// Pauses of an earlier run hold on, cut to one hour.
    pub(super) fn restore_pauses(&mut self, pauses: HashMap<PauseScope, Timestamp>) {
        let (now, wall) = (self.clock.now(), Timestamp::now());
        for (scope, ends) in pauses {
            let left = Duration::try_from(ends.duration_since(wall)).unwrap_or_default();
            if left.is_zero() {
                self.journal.note(Fact::PauseEnded { scope });
                continue;
            }
            self.gates.restore(scope, now, now + left.min(RETRY_AFTER_CAP));
        }
    }
}
