//! What is shown of the work, made when somebody looks: while nobody does, it costs nothing.

use std::collections::HashSet;
use std::time::Duration;

use super::{Scheduler, Timer};
use crate::domain::gate::Gate;
use crate::domain::moment::Moment;
use crate::domain::part::PartKey;
use crate::domain::stage::{Cause, Stage};
use crate::domain::wait::{Concern, Wait};
use crate::domain::watch::Watch;
use crate::engine::fleet::Project;
use crate::engine::gates::ProjectGates;
use crate::engine::ids::{EntryId, PartId};
use crate::engine::overview::{
    Counts, ExportOverview, Overview, PartsUnderWay, ProjectOverview, Standing,
};
use crate::engine::transfers::Transfers;

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
    pub(super) fn overview(&mut self, exports: usize) -> Overview {
        self.overview_at(self.clock.moment(), exports)
    }

    pub(super) fn overview_at(&mut self, clock: Moment, mut exports: usize) -> Overview {
        let standing = self.standing_at(clock);
        let shared = Shared::of(self, clock);
        let Self { fleet, polls, transfers, gates, folders, .. } = self;
        let ids: Vec<_> = fleet.projects().map(|(id, _)| id).collect();
        let mut projects = Vec::with_capacity(ids.len());
        for id in ids {
            let of_project: Vec<_> =
                project_waits(fleet.project(id), gates.of(id), clock).collect();
            let store = gates.store_of(id).and_then(|(host, gate)| store_wait(host, gate, clock));
            let entries = if exports == 0 { Vec::new() } else { fleet.project(id).in_order() };
            let shown = entries.into_iter().take(exports).filter_map(|entry| {
                let due = polls.due_at(entry);
                let (watch, shown) = fleet.shown_mut(entry)?;
                let parts = Parts { transfers, entry };
                let mut overview = ExportOverview::of(watch, shown, due, &parts, clock);
                let folder = || {
                    let (trouble, next) = folders.trouble(entry)?;
                    let next_at = next.map(|at| clock.wall_at(at));
                    Some(Wait { next_at, ..Wait::of(trouble, Concern::Export, clock) })
                };
                let held_up = held_up(watch, &shared, &of_project, store.as_ref());
                let own = overview.waiting.take();
                let shared = held_up.cloned().or_else(folder);
                overview.waiting = Wait::longer_of(shared, own);
                Some(overview)
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
        self.standing_at(self.clock.moment())
    }

    fn standing_at(&self, clock: Moment) -> Standing {
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
        let mut waits: Vec<_> = Shared::of(self, clock).all().cloned().collect();
        // The store that is paused the longest. If no part is left to ask a store whether its pause
        // is over, nothing waits for it.
        let is_waited_for =
            |gate: &Gate| gate.paused_until().is_none_or(|until| until > clock.since_start);
        let busy = self.gates.hosts().filter(|(_, gate)| is_waited_for(gate));
        let busy = busy.filter_map(|(host, gate)| store_wait(host, gate, clock));
        waits.extend(busy.max_by_key(|wait| wait.next_at));
        for (id, project) in self.fleet.projects() {
            waits.extend(project_waits(project, self.gates.of(id), clock));
        }
        waits
    }
}

/// What holds up more than one project.
struct Shared {
    disk: Option<Wait>,
    state: Option<Wait>,
    api: Option<Wait>,
}

impl Shared {
    fn of(of: &Scheduler, clock: Moment) -> Self {
        let disk = of.folders.illness().map(|(trouble, next)| {
            let next_at = next.map(|at| clock.wall_at(at));
            Wait { next_at, ..Wait::of(trouble, Concern::Disk, clock) }
        });
        let state = of.journal.failure().map(|(trouble, next)| Wait {
            next_at: Some(clock.wall_at(next)),
            ..Wait::of(trouble, Concern::State, clock)
        });
        let api = closed(of.gates.origin(), Cause::Unavailable, Concern::Api, clock);
        Self { disk, state, api }
    }

    fn all(&self) -> impl Iterator<Item = &Wait> {
        [&self.disk, &self.state, &self.api].into_iter().flatten()
    }
}

/// The wait behind a gate, if it is closed.
fn closed(gate: &Gate, cause: Cause, concern: Concern, clock: Moment) -> Option<Wait> {
    if gate.is_open() {
        return None;
    }
    let next = gate.paused_until().filter(|until| *until > clock.since_start);
    Some(Wait {
        since: gate.since().map(|at| clock.wall_at(at)),
        detail: gate.words().map(str::to_owned),
        attempts: gate.refusals(),
        next_at: next.map(|at| clock.wall_at(at)),
        ..Wait::new(cause, concern)
    })
}

fn store_wait(host: &str, gate: &Gate, clock: Moment) -> Option<Wait> {
    closed(gate, Cause::StoreBusy, Concern::Store(host.to_owned()), clock)
}

/// What a project waits for as a whole. What holds it up more comes first.
fn project_waits(
    project: &Project,
    gates: &ProjectGates,
    clock: Moment,
) -> impl Iterator<Item = Wait> {
    let name = || project.name.clone();
    let place = project.access.key_source().to_string();
    let key = Concern::Key { project: name(), place };
    [
        closed(&gates.key, Cause::Unauthorized, key, clock),
        closed(&gates.rejection, Cause::Rejected, Concern::Project(name()), clock),
        closed(&gates.throttle, Cause::Throttled, Concern::Project(name()), clock),
    ]
    .into_iter()
    .flatten()
}

/// What an export waits for that is not its own trouble. What holds it up more comes first.
fn held_up<'a>(
    watch: &Watch,
    shared: &'a Shared,
    of_project: &'a [Wait],
    store: Option<&'a Wait>,
) -> Option<&'a Wait> {
    let stage = watch.state().stage();
    if stage.is_settled() {
        return None;
    }
    let writes = stage != Stage::Polling;
    let asks = matches!(stage, Stage::Polling | Stage::Fetching);
    let disk = [&shared.state, &shared.disk].into_iter().flatten().find(|_| writes);
    let api = of_project.iter().chain(&shared.api).find(|_| asks);
    disk.or(api).or(store.filter(|_| stage == Stage::Fetching))
}

/// The parts of one export as the transfers have them.
struct Parts<'a> {
    transfers: &'a Transfers,
    entry: EntryId,
}

impl Parts<'_> {
    fn part(&self, key: &PartKey) -> PartId {
        PartId { entry: self.entry, key: key.clone() }
    }
}

impl PartsUnderWay for Parts<'_> {
    fn bytes(&self, key: &PartKey) -> u64 {
        self.transfers.bytes(&self.part(key))
    }

    fn retry_at(&self, key: &PartKey) -> Option<Duration> {
        self.transfers.retries.due_at(&self.part(key))
    }
}
