//! What has waited for long is told again: its first line in the log may be days old.

use std::collections::HashMap;
use std::time::Duration;

use super::{Scheduler, Timer};
use crate::domain::ids::{ExportPath, ProjectName};
use crate::domain::moment::Moment;
use crate::domain::stage::Cause;
use crate::domain::wait::Wait;
use crate::engine::narrator::waits_long;

/// Time between two lines about the same project and cause, and the age of the first one.
const INTERVAL: Duration = Duration::from_hours(1);
/// How often it is looked at.
const LOOK: Duration = Duration::from_mins(5);

/// When a line was logged, by project and cause.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<(ProjectName, Cause), Duration>);

/// The exports of a project that wait for the same cause.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) exports: usize,
    longest: (Duration, ExportPath, Wait),
}

impl Scheduler {
    /// Logs one line for each project and cause whose export has waited the longest.
    pub(super) fn tell_lasting_waits(&mut self, clock: Moment) {
        self.timers.set(Timer::LastingWaits, clock.since_start.saturating_add(LOOK));
        for Waiting { exports, longest: (age, path, wait) } in self.lasting_waits(clock) {
            waits_long(&path, &wait, exports, age);
        }
    }

    /// What has to be told now.
    pub(super) fn lasting_waits(&mut self, clock: Moment) -> Vec<Waiting> {
        let now = clock.since_start;
        let mut waiting = self.waiting(clock);
        let told = &mut self.audience.told_waits.0;
        told.retain(|of, _| waiting.contains_key(of));
        waiting.retain(|of, Waiting { longest: (age, ..), .. }| {
            let is_due = told.get(of).is_none_or(|at| now.saturating_sub(*at) >= INTERVAL);
            *age >= INTERVAL && is_due
        });
        told.extend(waiting.keys().map(|of| (of.clone(), now)));
        waiting.into_values().collect()
    }

    fn waiting(&mut self, clock: Moment) -> HashMap<(ProjectName, Cause), Waiting> {
        let mut waiting: HashMap<_, Waiting> = HashMap::new();
        for project in self.overview_at(clock, usize::MAX).projects {
            for export in project.exports {
                let Some(wait) = export.waiting else { continue };
                let (age, name) = (wait.age(clock.wall), project.name.clone());
                let cause = wait.cause;
                let path = ExportPath { project: name.clone(), export: export.id };
                let longest = (age, path, wait);
                waiting
                    .entry((name, cause))
                    .and_modify(|of| {
                        of.exports += 1;
                        if of.longest.0 < age {
                            of.longest = longest.clone();
                        }
                    })
                    .or_insert(Waiting { exports: 1, longest });
            }
        }
        waiting
    }
}
