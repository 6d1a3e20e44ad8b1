//! What is shown of the work, made when somebody looks: while nobody does, it costs nothing.

use std::collections::HashSet;
use std::time::Duration;

use super::{Scheduler, Timer};
use crate::domain::moment::Moment;
use crate::domain::stage::{Cause, Wait};
use crate::engine::ids::PartId;
use crate::engine::overview::{Counts, ExportOverview, Overview, ProjectOverview, Standing};

/// Shortest time between two looks for the progress bars.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Exports that the progress bars show. More would scroll the terminal away.
const PUBLISHED_EXPORTS: usize = 40;

impl Scheduler {
    /// Brings the progress bars up to date, if there are any.
    pub(super) fn publish(&mut self) {
        let now = self.clock.now();
        let audience = &mut self.audience;
        if audience.published.receiver_count() == 0 || now < audience.next_publish {
            return;
        }
        audience.next_publish = now.saturating_add(PUBLISH_INTERVAL);
        self.timers.set(Timer::Publish, audience.next_publish);
        let overview = self.overview(PUBLISHED_EXPORTS);
        self.audience.published.send_replace(overview);
    }

    /// With so many exports at most, the first of the configuration.
    pub(super) fn overview(&mut self, mut exports: usize) -> Overview {
        let clock = self.clock.moment();
        let standing = self.standing();
        let Self { fleet, polls, transfers, .. } = self;
        let ids: Vec<_> = fleet.projects().map(|(id, _)| id).collect();
        let mut projects = Vec::with_capacity(ids.len());
        for id in ids {
            let entries = if exports == 0 { Vec::new() } else { fleet.project(id).in_order() };
            let shown = entries.into_iter().take(exports).filter_map(|entry| {
                let due = polls.due_at(entry);
                let bytes = |key: &_| transfers.bytes(&PartId { entry, key: Clone::clone(key) });
                let (watch, shown) = fleet.shown_mut(entry)?;
                Some(ExportOverview::of(watch, shown, due, bytes, clock))
            });
            let shown: Vec<_> = shown.collect();
            exports -= shown.len();
            let project = fleet.project(id);
            let (name, last_success) = (project.name.clone(), project.last_success);
            projects.push(ProjectOverview { name, last_success, exports: shown });
        }
        Overview {
            projects,
            started_at: self.audience.started_at,
            standing,
            slots_in_use: self.transfers.slots_in_use(),
            slots_max: self.transfers.slots_max(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let clock = self.clock.moment();
        let downloading: HashSet<_> = self.transfers.exports().collect();
        let counts = Counts { downloading: downloading.len(), ..self.fleet.counts() };
        Standing {
            now: clock.wall,
            counts,
            polling: self.polls.under_way() > 0,
            next_poll_at: self.polls.next_due().map(|at| clock.wall_at(at)),
            waits: self.waits(clock),
            draining: self.draining.is_some(),
            reloads: self.audience.reloads.clone(),
        }
    }

    /// What everything or a project waits for. What holds up more comes first.
    fn waits(&self, clock: Moment) -> Vec<Wait> {
        let flags =
            [(self.folders.disk_is_ill(), Cause::Disk), (self.journal.is_failing(), Cause::State)];
        let flags = flags.into_iter().filter(|(waits, _)| *waits);
        let mut waits: Vec<_> = flags.map(|(_, cause)| Wait::on(cause)).collect();
        waits.extend(clock.wait(self.gates.origin(), || Wait::on(Cause::Unavailable)));
        // The store that is paused the longest. If no part is left to ask a store whether its pause
        // is over, nothing waits for it.
        let busy = self
            .gates
            .hosts()
            .filter(|(_, gate)| gate.paused_until().is_none_or(|until| until > clock.since_start));
        let busy = busy.filter_map(|(host, gate)| {
            let subject = Some(host.to_owned());
            clock.wait(gate, || Wait { subject, ..Wait::on(Cause::StoreBusy) })
        });
        waits.extend(busy.max_by_key(|wait| wait.until));
        for (id, project) in self.fleet.projects() {
            let of = self.gates.of(id);
            let gates = [
                (&of.key, Cause::Unauthorized),
                (&of.rejection, Cause::Rejected),
                (&of.throttle, Cause::Throttled),
            ];
            waits.extend(gates.into_iter().filter_map(|(gate, cause)| {
                clock.wait(gate, || Wait {
                    project: Some(project.name.clone()),
                    subject: (cause == Cause::Unauthorized)
                        .then(|| project.access.key_source().to_string()),
                    ..Wait::on(cause)
                })
            }));
        }
        waits
    }
}
