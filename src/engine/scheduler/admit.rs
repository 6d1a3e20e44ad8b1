//! What may start now: views within the budget, chores, and parts while slots are free. Nothing
//! that is closed takes a slot.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::gates::{Closed, pass};
use super::{Call, Probes, Scheduler};
use crate::domain::gate::Admission;
use crate::domain::ids::ExportPath;
use crate::domain::part::PartKey;
use crate::domain::watch::{WatchEvent, WatchState};
use crate::engine::access::KeyUse;
use crate::engine::chores::ChoreOrder;
use crate::engine::downloader::Download;
use crate::engine::narrator::part_started;
use crate::engine::stream::Progress;
use crate::ports::Sink;

/// View calls under way at once, all projects together: bounds sockets and answers in memory. Each
/// project that is still at work gets an equal share, so that one whose calls hang cannot hold up
/// the others.
const MAX_VIEWS: usize = 32;
/// From so many slots on the last one is kept for projects that have none.
const SPARING_SLOTS: usize = 4;
/// Chores under way at once: they block, and a disk that hangs must not collect threads.
const MAX_CHORES: usize = 4;

impl Scheduler {
    pub(super) fn admit(&mut self) {
        let now = self.now();
        let projects = self.order.len();
        let at_work = self.projects.values().filter(|project| project.unsettled > 0).count();
        let share = (MAX_VIEWS / at_work.max(1)).max(1);
        // Where there are more projects than calls, each is the first one in turn.
        self.first_in_turn = self.first_in_turn.wrapping_add(1);
        for step in 0..projects {
            let turn = self.first_in_turn.wrapping_add(step) % projects;
            self.admit_views(self.order[turn], share, now);
        }
        self.check_disk(now);
        if !self.store_failing {
            self.admit_chores();
            self.admit_parts(now);
        }
    }

    fn admit_views(&mut self, project: usize, share: usize, now: Duration) {
        while let Some(&entry) = self.projects[project].ready.front() {
            if !self.entries[entry].watch.wants_views() {
                self.projects[project].ready.pop_front();
                self.entries[entry].view_under_way = false;
                continue;
            }
            if self.polls.len() >= MAX_VIEWS || self.projects[project].views >= share {
                return;
            }
            let ready_at = self.projects[project].pace.ready_at();
            if ready_at > now {
                return self.look_again(Closed::Until(ready_at));
            }
            let probes = match self.api_admission(project, now) {
                Ok(probes) => probes,
                Err(closed) => return self.look_again(closed),
            };
            self.projects[project].ready.pop_front();
            self.projects[project].pace.spend(now);
            self.projects[project].views += 1;
            let key = key_use(&probes);
            self.probing(Call::View(entry), project, probes);
            let access = self.projects[project].access.clone();
            let export = self.entries[entry].watch.export().clone();
            let meters = self.meters.clone();
            self.polls.spawn(entry, async move {
                let began = Instant::now();
                let outcome = access.view(&export, key).await;
                meters.poll_took(began.elapsed());
                outcome
            });
        }
    }

    fn admit_chores(&mut self) {
        while self.disk.is_open() && self.chores_running.len() < MAX_CHORES {
            let Some((entry, chore)) = self.chores.pop_front() else { return };
            let watch = &self.entries[entry].watch;
            let unrecorded = match watch.state() {
                WatchState::Fetching(fetching) => fetching.unrecorded().collect(),
                _ => Vec::new(),
            };
            let order = ChoreOrder {
                sink: self.sink.clone(),
                at: ExportPath { project: watch.project().clone(), export: watch.export().clone() },
                chore: chore.clone(),
                unrecorded,
            };
            self.chores_running.spawn((entry, chore), order.run());
        }
    }

    fn admit_parts(&mut self, now: Duration) {
        let capacity = self.capacity;
        while self.downloads.len() < capacity.parts.get()
            && self.commits.len() < capacity.commits.get()
        {
            let (mut closed_gates, mut waiting_crowds) = (Vec::new(), Vec::new());
            let mut queue = std::mem::take(&mut self.parts);
            let admission = |project| {
                if !self.may_take_slot(project) {
                    return None;
                }
                self.part_admission(project, now).map_err(|closed| closed_gates.push(closed)).ok()
            };
            let may_begin = |entry| {
                let crowd = pass(self.entries[entry].crowd.admission(now));
                crowd.map_err(|closed| waiting_crowds.push(closed)).is_ok()
            };
            let next = queue.pop(admission, may_begin);
            self.parts = queue;
            for closed in closed_gates.into_iter().chain(waiting_crowds) {
                self.look_again(closed);
            }
            let Some((entry, key, probes)) = next else { return };
            self.start_part(entry, key, probes);
        }
    }

    /// The last free slot is kept for projects that have none: a store that drips could hold every
    /// slot for hours. Of a few slots none is kept: there an idle one costs more than it saves.
    fn may_take_slot(&self, project: usize) -> bool {
        let others_at_work = || {
            let mut others = self.projects.iter().filter(|(other, _)| *other != project);
            others.any(|(_, other)| other.unsettled > 0)
        };
        let slots = self.capacity.parts.get();
        let free = slots.saturating_sub(self.downloads.len());
        slots < SPARING_SLOTS || free > 1 || self.projects[project].slots == 0 || !others_at_work()
    }

    fn start_part(&mut self, entry: usize, key: PartKey, probes: Probes) {
        let project = self.entries[entry].project;
        let Some(order) = self.entries[entry].watch.part_order(&key) else { return };
        let key_use = key_use(&probes);
        let closed = self
            .hosts
            .iter()
            .filter(|(host, gate)| !gate.is_open() && probes.host.as_ref() != Some(host));
        let waiting_hosts = closed.map(|(host, _)| host.clone()).collect();
        // What that host says of itself is no news: its gate is open.
        let open_host =
            self.projects[project].store_host.clone().filter(|host| !self.hosts.contains_key(host));
        // Others may wait for this one: they go when the store answers, and not only when this part
        // has come to its end.
        let open_host = open_host
            .filter(|_| self.entries[entry].crowd.admission(self.now()) == Admission::Pass);
        self.entries[entry].crowd.began();
        self.probing(Call::Part(entry, key.clone()), project, probes);
        let progress = Arc::new(Progress::new(self.meters.received(&self.projects[project].name)));
        self.progress.insert((entry, key.clone()), progress.clone());
        let stop = self.stop_downloads.child_token();
        self.stops.insert((entry, key.clone()), stop.clone());
        let lane = self.lanes.least_busy();
        let download = Download {
            entry,
            project_index: project,
            project: self.projects[project].name.clone(),
            export: self.entries[entry].watch.export().clone(),
            order,
            key: key_use,
            access: self.projects[project].access.clone(),
            sink: self.sink.on(&lane.runtime),
            lane,
            stop,
            waiting_hosts,
            open_host,
            progress,
            news: self.news.0.clone(),
            meters: self.meters.clone(),
        };
        self.downloads.spawn((entry, key.clone()), download.run());
        self.projects[project].slots += 1;
        part_started(&self.entries[entry].watch, &key);
        self.step(entry, WatchEvent::PartStarted(key));
    }

    /// Bytes that prepared exports other than this one still have to find room for.
    pub(super) fn claimed_bytes(&self, but: usize) -> u64 {
        let others = self.entries.iter().filter(|(entry, _)| *entry != but);
        others.fold(0, |sum, (entry, of)| match of.watch.state() {
            WatchState::Fetching(fetching) if fetching.is_prepared() => {
                let allocated_bytes = |key: &PartKey| {
                    let progress = self.progress.get(&(entry, key.clone()));
                    progress.map_or(0, |progress| progress.allocated_bytes())
                };
                sum.saturating_add(fetching.missing_bytes(allocated_bytes))
            }
            _ => sum,
        })
    }
}

fn key_use(probes: &Probes) -> KeyUse {
    if probes.key { KeyUse::ReadAgain } else { KeyUse::AtHand }
}
