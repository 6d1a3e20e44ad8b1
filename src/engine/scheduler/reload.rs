//! Another configuration, while everything runs: exports that are new start, exports that are gone
//! retire, limits change, and nothing in flight is cut.
//!
//! An export that retires begins nothing new. What is under way for it comes to its end and into
//! the state, and it is forgotten when nothing names it any more; should it be configured again
//! before that, it goes on where it is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Call, Entry, Project, Scheduler, Timer};
use crate::domain::crowd::Crowd;
use crate::domain::gate::Gate;
use crate::domain::ids::{ExportId, ExportKey, ProjectName};
use crate::domain::pace::Pace;
use crate::domain::watch::{Command, Watch, WatchEvent, WatchState};
use crate::engine::chores::Chore;
use crate::engine::control::{Changes, Control, Known, Reload, ReloadedProject};
use crate::engine::narrator;
use crate::meters::Verdict;

impl Scheduler {
    pub(super) fn controlled(&mut self, control: Control) {
        match control {
            // Nothing begins any more: who asked hears nothing, and the stop is the reason.
            Control::Retry { .. } | Control::Reload { .. } | Control::Release { .. }
                if self.draining.is_some() => {}
            // Who asked may be gone; that changes nothing.
            Control::Status { reply } => _ = reply.send(self.standing()),
            // Those who look come every second: the service manager need not hear of it.
            Control::Overview { reply } => {
                let _ = reply.send(Box::new(self.overview()));
                return;
            }
            Control::Retry { exports, reply } => _ = reply.send(self.retry(&exports)),
            Control::Release { exports, reply } => self.release(exports, reply),
            Control::Begin { projects } => self.begin_released(projects),
            Control::ReloadBegun { reply } => {
                self.reloading = true;
                let _ = reply.send(self.known());
            }
            Control::ReloadRefused { cause, reply } => {
                self.reloading = false;
                self.reloads.refused += 1;
                self.meters.reloaded(Verdict::Refused);
                self.reloads.refusal = Some(cause);
                self.tell_status();
                let _ = reply.send(());
            }
            Control::Reload { reload, reply } => {
                self.reloading = false;
                self.reloads.accepted += 1;
                self.meters.reloaded(Verdict::Accepted);
                self.reloads.refusal = None;
                let _ = reply.send(self.reload(*reload));
            }
            #[cfg(debug_assertions)]
            Control::Hang => loop {
                std::thread::park();
            },
        }
        self.tell_status();
    }

    fn known(&self) -> Known {
        let key = |entry: &Entry| ExportKey {
            project: self.projects[entry.project].digest,
            export: entry.watch.export().clone(),
        };
        let projects = self.projects.values().map(|project| (project.digest, project.name.clone()));
        Known { exports: self.entries.values().map(key).collect(), projects: projects.collect() }
    }

    /// Failed exports are watched again. Returns those that were failed.
    fn retry(&mut self, wanted: &BTreeSet<ExportId>) -> Vec<(ProjectName, ExportId)> {
        let failed = |(_, entry): &(usize, &Entry)| {
            let is_failed = matches!(entry.watch.state(), WatchState::Failed { .. });
            is_failed && !entry.retiring && wanted.contains(entry.watch.export())
        };
        let found: Vec<usize> =
            self.entries.iter().filter(failed).map(|(entry, _)| entry).collect();
        for entry in &found {
            narrator::retried(&self.entries[*entry].watch);
            self.retry_failed(*entry);
        }
        let name = |entry: usize| {
            let watch = &self.entries[entry].watch;
            (watch.project().clone(), watch.export().clone())
        };
        found.into_iter().map(name).collect()
    }

    /// Begins to forget a failure: its notice is taken away first.
    fn retry_failed(&mut self, entry: usize) {
        let is_removal =
            |(of, chore): &&(usize, Chore)| *of == entry && *chore == Chore::RemoveNotice;
        let queued = self.chores.iter().chain(&self.parked_chores);
        let under_way = queued.chain(self.chores_running.names()).filter(is_removal).count();
        if under_way == 0 {
            self.entries[entry].crowd = Crowd::default();
            self.step(entry, WatchEvent::Retry);
        }
    }

    fn reload(&mut self, reload: Reload) -> Changes {
        self.policies = reload.policies;
        self.capacity = reload.capacity;
        if let Some(store) = &reload.store {
            self.lanes.use_store(store);
        }
        if reload.another_api {
            self.origin = Gate::default();
        }
        let mut changes = Changes::default();
        let mut order = Vec::with_capacity(reload.projects.len());
        for project in reload.projects {
            let known = self.projects.iter().find(|(_, known)| known.digest == project.digest);
            let number = match known.map(|(number, _)| number) {
                Some(number) => number,
                None => {
                    changes.projects_added += 1;
                    self.meters.project_came(&project.name);
                    let pace = Pace::new(project.requests_per_second);
                    let access = project.access.clone();
                    self.projects.add(Project::new(
                        project.name.clone(),
                        project.digest,
                        access,
                        pace,
                    ))
                }
            };
            order.push(number);
            self.reload_project(number, project, reload.another_api, &mut changes);
        }
        let gone: Vec<_> =
            self.order.iter().copied().filter(|number| !order.contains(number)).collect();
        for number in gone {
            let exports = self.projects[number].exports.clone();
            let retired = self.retire(&exports);
            changes.exports_removed += retired;
            changes.projects_removed += usize::from(self.projects[number].is_configured);
            self.projects[number].is_configured = false;
            order.push(number);
        }
        self.order = order;
        // Those with exports go when their exports do.
        let is_empty = |number: &usize| {
            let project = &self.projects[*number];
            !project.is_configured && project.exports.is_empty()
        };
        for number in self.order.iter().copied().filter(is_empty).collect::<Vec<_>>() {
            self.forget_project(number);
        }
        self.restore_pauses(reload.pauses);
        self.shorten_waits();
        changes
    }

    fn reload_project(
        &mut self,
        number: usize,
        reloaded: ReloadedProject,
        another_api: bool,
        changes: &mut Changes,
    ) {
        let project = &mut self.projects[number];
        project.is_configured = true;
        project.pace = project.pace.with_budget(reloaded.requests_per_second);
        if !project.access.has_key_of(&reloaded.access) {
            changes.keys_changed += 1;
            project.key.probe_now();
        }
        if another_api {
            (project.throttle, project.key, project.rejection) = Default::default();
        }
        project.access = Arc::new(reloaded.access);
        let mut known: HashMap<ExportId, usize> = project
            .exports
            .iter()
            .map(|entry| (self.entries[*entry].watch.export().clone(), *entry))
            .collect();
        let mut exports = Vec::with_capacity(reloaded.exports.len());
        let (mut woken, mut new) = (Vec::new(), Vec::new());
        let mut watches = reloaded.watches;
        for export in reloaded.exports {
            match known.remove(&export) {
                Some(entry) => {
                    if std::mem::take(&mut self.entries[entry].retiring) {
                        woken.push(entry);
                    }
                    exports.push(entry);
                }
                None => {
                    let fresh = || Watch::new(reloaded.name.clone(), export.clone());
                    let entry =
                        self.add_entry(number, watches.remove(&export).unwrap_or_else(fresh));
                    new.push(entry);
                    exports.push(entry);
                }
            }
        }
        let gone: Vec<usize> = known.into_values().collect();
        changes.exports_removed += self.retire(&gone);
        changes.exports_added += woken.len() + new.len();
        exports.extend(gone);
        self.projects[number].exports = exports;
        self.begin_exports(&new);
        for entry in woken {
            self.wake(entry);
        }
    }

    /// Calls off what these exports wait for. Returns how many began to retire.
    pub(super) fn retire(&mut self, exports: &[usize]) -> usize {
        let fresh: HashSet<usize> =
            exports.iter().copied().filter(|entry| !self.entries[*entry].retiring).collect();
        if fresh.is_empty() {
            return 0;
        }
        self.timers.retain(|timer| match timer {
            Timer::View(entry) | Timer::PartRetry(entry, _) => !fresh.contains(entry),
            _ => true,
        });
        let stays =
            |(entry, chore): &(usize, Chore)| !(fresh.contains(entry) && *chore == Chore::Prepare);
        self.chores.retain(stays);
        self.parked_chores.retain(stays);
        for &entry in &fresh {
            narrator::removed(&self.entries[entry].watch);
            let project = self.entries[entry].project;
            let waits_for_view = self.projects[project].ready.contains(&entry);
            self.projects[project].ready.retain(|waiting| *waiting != entry);
            self.parts.remove_export(project, entry);
            let Entry { retiring, view_under_way, .. } = &mut self.entries[entry];
            *retiring = true;
            *view_under_way &= !waits_for_view;
        }
        self.retiring.extend(&fresh);
        fresh.len()
    }

    /// An export that began to retire is configured again.
    pub(super) fn wake(&mut self, entry: usize) {
        self.retiring.remove(&entry);
        self.entries[entry].crowd = Crowd::default();
        narrator::restored(&self.entries[entry].watch);
        for command in self.entries[entry].watch.wake_commands() {
            let is_prepare =
                |(of, chore): &&(usize, Chore)| *of == entry && *chore == Chore::Prepare;
            let prepares = matches!(command, Command::Prepare)
                && self.chores_running.names().filter(is_prepare).count() > 0;
            let asks =
                matches!(command, Command::ViewAfter(_)) && self.entries[entry].view_under_way;
            if !prepares && !asks {
                self.execute(entry, command, false);
            }
        }
    }

    /// Forgets what has retired, and projects that have nothing left. While a configuration is
    /// being read nothing is forgotten: it was told what is known, and does not look that up in the
    /// state.
    pub(super) fn forget_retired(&mut self) {
        if self.retiring.is_empty() || self.reloading {
            return;
        }
        let busy = self.named();
        let idle: Vec<usize> =
            self.retiring.iter().copied().filter(|entry| !busy.contains(entry)).collect();
        for entry in idle {
            // Taken out and put back, a failed export is watched again.
            if matches!(self.entries[entry].watch.state(), WatchState::Failed { .. }) {
                self.retry_failed(entry);
                continue;
            }
            self.retiring.remove(&entry);
            let Some(Entry { watch, project, .. }) = self.entries.remove(entry) else { continue };
            narrator::forgotten(&watch);
            let of = &mut self.projects[project];
            of.exports.retain(|export| *export != entry);
            of.unsettled -= usize::from(!watch.is_settled());
            if of.exports.is_empty() && !of.is_configured {
                self.forget_project(project);
            }
        }
    }

    /// Forgets a project that has no export left, and its counters, unless another one has its name
    /// by now.
    fn forget_project(&mut self, number: usize) {
        self.order.retain(|known| *known != number);
        let Some(Project { name, .. }) = self.projects.remove(number) else { return };
        if self.projects.values().all(|project| project.name != name) {
            self.meters.project_went(&name);
        }
    }

    /// Every export that something under way will come back for.
    fn named(&self) -> HashSet<usize> {
        let parts =
            self.downloads.names().chain(self.syncs.names()).chain(self.groups.names().flatten());
        let chores =
            self.chores.iter().chain(&self.parked_chores).chain(self.chores_running.names());
        let calls = self.probes.keys().map(|call| match call {
            Call::View(entry) | Call::Part(entry, _) => *entry,
        });
        let parts = parts.chain(self.commits.ready()).map(|(entry, _)| *entry);
        let tickets = self.tickets.values().map(|ticket| ticket.entry);
        let polls = self.polls.names().copied();
        parts
            .chain(chores.map(|(entry, _)| *entry))
            .chain(calls)
            .chain(tickets)
            .chain(polls)
            .collect()
    }

    /// No wait is longer than what is in force now makes any.
    fn shorten_waits(&mut self) {
        let now = self.now();
        let longest = self.policies.cadence.max().max(self.policies.retry.max());
        let views = self.entries.iter().map(|(entry, _)| Timer::View(entry));
        let late =
            views.filter(|timer| self.timers.due_at(timer).is_some_and(|at| at > now + longest));
        for timer in late.collect::<Vec<_>>() {
            let wait = longest.mul_f64(Self::jitter().get());
            self.timers.set(timer, now.saturating_add(wait).max(now + Duration::from_millis(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::super::tests::{Rig, rig};
    use super::*;
    use crate::domain::failure::ViewOutcome;
    use crate::engine::chores::ChoreEnd;

    impl Rig {
        /// Takes the exports out of the configuration, and forgets what can be forgotten.
        fn take_out(&mut self, exports: &[usize]) {
            self.scheduler.retire(exports);
            self.scheduler.forget_retired();
        }

        fn known(&self) -> Vec<usize> {
            self.scheduler.entries.iter().map(|(entry, _)| entry).collect()
        }
    }

    #[tokio::test]
    async fn what_only_waits_is_forgotten_at_once_with_everything_that_names_it() {
        let mut rig = rig(&[3], 8);
        rig.scheduler.begin();
        rig.fetching(1, 4);
        rig.scheduler.timers.set(Timer::View(2), Duration::ZERO);
        rig.scheduler.apply(Event::Tick);
        assert_eq!(rig.scheduler.projects[0].ready.len(), 2);
        rig.take_out(&[0, 1, 2]);
        assert_eq!(rig.known(), Vec::<usize>::new());
        assert!(
            rig.scheduler.projects[0].ready.is_empty()
                && rig.scheduler.projects[0].exports.is_empty()
        );
        assert_eq!(rig.scheduler.projects[0].unsettled, 0);
        let of_exports = |timer: &Timer| matches!(timer, Timer::View(_) | Timer::PartRetry(..));
        assert_eq!(rig.scheduler.timers.iter().filter(|(_, timer)| of_exports(timer)).count(), 0);
        rig.scheduler.admit();
        assert!(rig.scheduler.downloads.is_empty() && rig.scheduler.polls.is_empty());
    }

    #[tokio::test]
    async fn a_view_under_way_comes_back_once_more_and_begins_nothing() {
        let mut rig = rig(&[1], 8);
        rig.scheduler.begin();
        rig.scheduler.apply(Event::Tick);
        rig.scheduler.admit();
        assert_eq!(rig.scheduler.polls.len(), 1);
        rig.take_out(&[0]);
        assert_eq!(rig.known(), [0], "its view is under way");
        let (entry, _) = rig.scheduler.polls.next().await;
        rig.scheduler.apply(Event::Poll(entry, Ok(ViewOutcome::Fault("gone".to_owned()))));
        assert!(rig.scheduler.timers.due_at(&Timer::View(0)).is_none());
        rig.scheduler.forget_retired();
        assert_eq!(rig.known(), Vec::<usize>::new());
    }

    #[tokio::test]
    async fn a_folder_that_has_no_room_is_not_waited_for_any_more() {
        let mut rig = rig(&[1], 8);
        rig.viewed(0, "SUCCESS", 1);
        let chore = rig.scheduler.chores.pop_front().unwrap();
        rig.scheduler.retire(&[0]);
        let (adopted, conflicts) = (Vec::new(), Vec::new());
        let end = ChoreEnd::Prepared { adopted, conflicts, needed_bytes: 10, free_bytes: 0 };
        rig.scheduler.apply(Event::Chore(chore, Ok(end)));
        assert!(rig.scheduler.parked_chores.is_empty());
    }

    #[tokio::test]
    async fn while_a_configuration_is_read_nothing_is_forgotten() {
        let mut rig = rig(&[1], 8);
        let (reply, known) = tokio::sync::oneshot::channel();
        rig.scheduler.controlled(Control::ReloadBegun { reply });
        assert_eq!(known.await.unwrap().exports.len(), 1);
        rig.take_out(&[0]);
        assert_eq!(rig.known(), [0]);
        let (reply, _) = tokio::sync::oneshot::channel();
        rig.scheduler.controlled(Control::ReloadRefused { cause: "wrong".to_owned(), reply });
        rig.scheduler.forget_retired();
        assert_eq!(rig.known(), Vec::<usize>::new());
        assert_eq!(rig.scheduler.standing().reloads.refusal.as_deref(), Some("wrong"));
    }
}
