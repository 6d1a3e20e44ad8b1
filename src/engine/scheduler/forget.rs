//! Exports that somebody wants forgotten: their work is stopped, their files and records go, and
//! then those that are configured begin anew.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::reconcile::{ForgetReply, Job, JobEnd, Work};
use super::{Scheduler, Timer};
use crate::domain::ids::ExportId;
use crate::engine::fleet::Presence;

/// Longest wait until nothing is under way for exports that are to be forgotten.
const FORGET_GRACE: Duration = Duration::from_secs(8);

impl Scheduler {
    /// Stops the work for exports that are to be forgotten.
    pub(super) fn forget(&mut self, wanted: BTreeSet<ExportId>, reply: ForgetReply) {
        let exports: Vec<_> = self.fleet.find_all(&wanted).collect();
        let keys = exports.iter().filter_map(|entry| self.fleet.key(*entry)).collect();
        self.retire(&exports, Presence::Forgetting);
        let left: HashSet<_> = exports.into_iter().collect();
        self.transfers.stop_exports(|entry| left.contains(&entry));
        self.timers.set(Timer::ForgetGrace, self.clock.now().saturating_add(FORGET_GRACE));
        self.reconciler.work = Work::Stopping { wanted, keys, left, reply };
    }

    /// Has files and records of exports dropped that are to be forgotten, once nothing is under way
    /// for any of them.
    pub(super) fn drop_stopped(&mut self) {
        let Work::Stopping { left, reply, .. } = &mut self.reconciler.work else { return };
        if reply.is_closed() {
            return self.give_up_forgetting();
        }
        left.retain(|entry| self.fleet.export(*entry).is_some());
        if !left.is_empty() {
            return;
        }
        self.timers.remove(&Timer::ForgetGrace);
        let Work::Stopping { wanted, keys, reply, .. } =
            std::mem::replace(&mut self.reconciler.work, Work::Idle)
        else {
            return;
        };
        let names: HashMap<_, _> = self
            .fleet
            .projects()
            .filter(|(_, project)| project.is_configured)
            .map(|(_, project)| (project.digest, project.name.clone()))
            .collect();
        let archive = self.reconciler.archive.clone();
        self.reconciler.jobs.spawn(Job::Forget, async move {
            let forgotten = archive.forget(&names, &wanted, keys).await;
            JobEnd::Forgotten(forgotten.map_err(|error| error.to_string()))
        });
        self.reconciler.work = Work::Dropping { reply };
    }

    /// What is under way does not come to its end, or nobody waits for it any more.
    pub(super) fn give_up_forgetting(&mut self) {
        let work = std::mem::replace(&mut self.reconciler.work, Work::Idle);
        let Work::Stopping { left, reply, .. } = work else {
            self.reconciler.work = work;
            return;
        };
        let cause = "work under way did not stop in time; nothing was forgotten";
        let outcome = Err(cause.to_owned());
        for entry in left {
            if self.fleet.is_configured(entry) {
                self.wake(entry);
            } else {
                self.fleet.set_presence(entry, Presence::Retiring);
            }
        }
        // Others may be gone by now.
        let missing = self.missing();
        if missing.is_empty() {
            let _ = reply.send(outcome);
        } else {
            self.reconciler.look_up(missing);
            self.reconciler.work = Work::Beginning { outcome, reply };
        }
    }
}
