//! What is shown of the work, made when somebody looks: while nobody does, it costs nothing.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use super::{Entry, Scheduler, Timer};
use crate::domain::stage::{Cause, Stage, Wait};
pub(super) use crate::engine::overview::Shown;
use crate::engine::overview::{Clock, Counts, ExportOverview, Overview, ProjectOverview, Standing};

/// Shortest time between two looks for the progress bars.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Exports that the progress bars show. More would scroll the terminal away.
const PUBLISHED_EXPORTS: usize = 40;

impl Scheduler {
    /// Brings the progress bars up to date, if there are any.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        if self.published.receiver_count() == 0 || now < self.next_publish {
            return;
        }
        self.next_publish = now.saturating_add(PUBLISH_INTERVAL);
        self.timers.set(Timer::Publish, self.next_publish);
        let overview = self.overview_of(PUBLISHED_EXPORTS);
        self.published.send_replace(overview);
    }

    pub(super) fn overview(&mut self) -> Overview {
        self.overview_of(usize::MAX)
    }

    /// With so many exports at most, the first of the configuration.
    fn overview_of(&mut self, mut exports: usize) -> Overview {
        let clock = self.clock();
        let standing = self.standing();
        let Self { order, projects, entries, timers, progress, .. } = self;
        let projects = order.iter().map(|number| {
            let project = &projects[*number];
            let shown = project.exports.iter().take(exports).map(|number| {
                let Entry { watch, shown, .. } = &mut entries[*number];
                let due = timers.due_at(&Timer::View(*number));
                let bytes = |key: &_| {
                    progress.get(&(*number, Clone::clone(key))).map_or(0, |part| part.bytes())
                };
                ExportOverview::of(watch, shown, due, bytes, clock)
            });
            let shown: Vec<_> = shown.collect();
            exports -= shown.len();
            let (name, last_success) = (project.name.clone(), project.last_success);
            ProjectOverview { name, last_success, exports: shown }
        });
        Overview {
            projects: projects.collect(),
            started_at: self.started_at,
            standing,
            slots_in_use: self.downloads.len(),
            slots_max: self.capacity.parts.get(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let clock = self.clock();
        let next_poll = self.timers.iter().find(|(_, timer)| matches!(timer, Timer::View(_)));
        Standing {
            now: clock.wall,
            counts: self.counts(),
            polling: !self.polls.is_empty(),
            next_poll_at: next_poll.map(|(at, _)| clock.wall_at(*at)),
            waits: self.waits(clock),
            draining: self.draining.is_some(),
            reloads: self.reloads.clone(),
        }
    }

    fn clock(&self) -> Clock {
        Clock { since_start: self.now(), wall: Timestamp::now() }
    }

    fn counts(&self) -> Counts {
        let (mut whole, mut failed) = (0, 0);
        for entry in self.entries.values() {
            match Stage::of(entry.watch.state()) {
                Stage::Whole => whole += 1,
                Stage::Failed => failed += 1,
                _ => {}
            }
        }
        let parts =
            self.downloads.names().chain(self.syncs.names()).chain(self.groups.names().flatten());
        let downloading: HashSet<usize> =
            parts.chain(self.commits.ready()).map(|(entry, _)| *entry).collect();
        let watching = self.entries.len() - whole - failed;
        Counts { watching, downloading: downloading.len(), whole, failed }
    }

    /// What everything or a project waits for. What holds up more comes first.
    fn waits(&self, clock: Clock) -> Vec<Wait> {
        let flags = [(self.disk_ill, Cause::Disk), (self.store_failing, Cause::State)];
        let flags = flags.into_iter().filter(|(waits, _)| *waits);
        let mut waits: Vec<_> = flags.map(|(_, cause)| Wait::on(cause)).collect();
        waits.extend(clock.wait(&self.origin, || Wait::on(Cause::Unavailable)));
        // The store that is paused the longest. If no part is left to ask a store whether its pause
        // is over, nothing waits for it.
        let busy = self
            .hosts
            .iter()
            .filter(|(_, gate)| gate.paused_until().is_none_or(|until| until > clock.since_start));
        let busy = busy.filter_map(|(host, gate)| {
            let subject = Some(host.clone());
            clock.wait(gate, || Wait { subject, ..Wait::on(Cause::StoreBusy) })
        });
        waits.extend(busy.max_by_key(|wait| wait.until));
        for project in self.order.iter().map(|number| &self.projects[*number]) {
            let gates = [
                (&project.key, Cause::Unauthorized),
                (&project.rejection, Cause::Rejected),
                (&project.throttle, Cause::Throttled),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::Hold;
    use crate::engine::scheduler::tests::{Rig, rig};

    #[tokio::test]
    async fn progress_bars_cost_the_first_exports_and_nothing_while_nobody_looks() {
        let mut rig = rig(&[30, 30], 8);
        rig.scheduler.publish();
        assert_eq!(rig.scheduler.next_publish, Duration::ZERO, "nobody looks");
        let bars = rig.scheduler.published.subscribe();
        rig.scheduler.publish();
        let shown = |overview: &Overview| {
            overview.projects.iter().map(|project| project.exports.len()).collect::<Vec<_>>()
        };
        assert_eq!(shown(&bars.borrow()), [30, 10]);
        assert!(rig.scheduler.next_publish > Duration::ZERO);
        assert_eq!(shown(&rig.scheduler.overview()), [30, 30], "the page shows all");
    }

    fn causes(rig: &Rig) -> Vec<(Cause, Option<&str>, Option<String>)> {
        let waits = rig.scheduler.standing().waits;
        let project = |wait: &Wait| {
            rig.scheduler.projects.values().find(|of| Some(&of.name) == wait.project.as_ref())
        };
        waits
            .into_iter()
            .map(|wait| (wait.cause, project(&wait).map(|of| of.name.as_str()), wait.subject))
            .collect()
    }

    #[tokio::test]
    async fn what_is_waited_for_is_told_as_data_and_the_store_that_pauses_longest_by_its_host() {
        let mut rig = rig(&[1, 1], 8);
        assert_eq!(causes(&rig), []);
        rig.scheduler.disk_ill = true;
        rig.scheduler.store_failing = true;
        rig.scheduler.hold(1, Hold::Unauthorized { status: 401 });
        rig.scheduler.hold(0, Hold::Throttled { retry_after: None });
        for (host, seconds) in [("a.example", 5), ("b.example", 50), ("c.example", 6)] {
            let retry_after = Some(Duration::from_secs(seconds));
            rig.scheduler.hold(0, Hold::StoreBusy { host: host.to_owned(), retry_after });
        }
        rig.scheduler.hold(0, Hold::Unavailable { retry_after: None });
        let key = "environment variable NO_SUCH_KEY".to_owned();
        assert_eq!(
            causes(&rig),
            [
                (Cause::Disk, None, None),
                (Cause::State, None, None),
                (Cause::Unavailable, None, None),
                (Cause::StoreBusy, None, Some("b.example".to_owned())),
                (Cause::Throttled, Some("p0"), None),
                (Cause::Unauthorized, Some("p1"), Some(key)),
            ]
        );
        rig.scheduler.origin.restore(Duration::ZERO);
        let origin = rig.scheduler.standing().waits.swap_remove(2);
        assert!(origin.is_asking() && origin.until.is_none(), "{origin:?}");
    }
}
