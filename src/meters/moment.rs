//! Gauges, made anew for each scrape from the read model.

use jiff::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::labels::{OfCause, OfPause, OfProject, OfState, OfWait, Project};
use super::{PREFIX, of_pause, of_project};
use crate::domain::ids::ProjectName;
use crate::domain::stage::{Cause, Stage};

type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    pub slots_in_use: usize,
    pub slots_max: usize,
    /// Free bytes on the download directory's file system; `None` if it does not answer in time.
    pub free_bytes: Option<u64>,
    pub reserve_bytes: u64,
    /// Whether the last reload took effect, or there was none.
    pub reload_accepted: bool,
    pub started_at: Timestamp,
}

#[derive(Debug, Default)]
pub struct Moment {
    facts: Facts,
    exports: Family<OfState, Gauge>,
    oldest_seconds: Family<OfState, Seconds>,
    last_success: Family<OfProject, Seconds>,
    paused: Family<OfPause, Gauge>,
    waiting: Family<OfWait, Gauge>,
    oldest_wait: Family<OfCause, Seconds>,
}

impl Moment {
    pub fn new(facts: Facts) -> Self {
        let moment = Self { facts, ..Self::default() };
        for cause in Cause::ALL {
            drop(moment.oldest_wait.get_or_create(&OfCause { cause }));
        }
        moment
    }

    /// Adds a project, so that all its gauges exist.
    pub fn project(&self, name: &ProjectName) {
        for &state in Stage::LIVE {
            drop(self.exports.get_or_create(&of_state(name, state)));
            if !state.is_settled() {
                drop(self.oldest_seconds.get_or_create(&of_state(name, state)));
            }
        }
        for &cause in Cause::OF_PROJECTS {
            self.pause(Some(name), cause, false);
        }
        for cause in Cause::ALL {
            drop(self.waiting.get_or_create(&of_wait(name, cause)));
        }
    }

    /// Adds an export that has been in its state for this long.
    pub fn export(&self, project: &ProjectName, state: Stage, seconds: f64) {
        let labels = of_state(project, state);
        self.exports.get_or_create(&labels).inc();
        if !state.is_settled() {
            let oldest = self.oldest_seconds.get_or_create(&labels);
            oldest.set(oldest.get().max(seconds));
        }
    }

    /// Adds an export that waits for something, and has for this long.
    pub fn wait(&self, project: &ProjectName, cause: Cause, seconds: f64) {
        self.waiting.get_or_create(&of_wait(project, cause)).inc();
        let oldest = self.oldest_wait.get_or_create(&OfCause { cause });
        oldest.set(oldest.get().max(seconds));
    }

    pub fn success(&self, project: &ProjectName, at: Timestamp) {
        let seconds = at.as_duration().as_secs_f64();
        let last = self.last_success.get_or_create(&of_project(project));
        last.set(last.get().max(seconds));
    }

    /// Whether something waits as a whole.
    pub fn pause(&self, project: Option<&ProjectName>, cause: Cause, waits: bool) {
        let paused = self.paused.get_or_create(&of_pause(project, cause));
        paused.set(paused.get().max(i64::from(waits)));
    }

    pub(super) fn registry(&self) -> Registry {
        let (mut to, facts) = (Registry::with_prefix(PREFIX), self.facts);
        to.register("exports", "Exports by state", self.exports.clone());
        let help = "How long the oldest export has been in this state, as far as this run knows; \
                    0 if there is none";
        to.register_with_unit("oldest_export", help, Unit::Seconds, self.oldest_seconds.clone());
        let help = "When the last export became whole, in seconds since 1970; missing if none did";
        let last = self.last_success.clone();
        to.register_with_unit("last_success_timestamp", help, Unit::Seconds, last);
        let help = "1 while a project is paused, or, without that label, everything";
        to.register("paused", help, self.paused.clone());
        let help = "Exports that wait, by what holds them up most";
        to.register("waiting", help, self.waiting.clone());
        let help = "How long the export has waited that has waited the longest for this cause; 0 \
                    if none does";
        to.register_with_unit("oldest_wait", help, Unit::Seconds, self.oldest_wait.clone());
        to.register("slots_in_use", "Parts in flight", gauge(facts.slots_in_use));
        to.register("slots_max", "Most parts in flight", gauge(facts.slots_max));
        if let Some(free) = facts.free_bytes {
            let help = "Free bytes on the download directory's file system, including the reserve; \
                        missing while the disk does not answer";
            to.register_with_unit("disk_free", help, Unit::Bytes, gauge(free));
        }
        let help = "Bytes on the download directory's file system that must stay free";
        to.register_with_unit("disk_reserve", help, Unit::Bytes, gauge(facts.reserve_bytes));
        let help = "1 if the last reload took effect or there was none, 0 if it was refused";
        to.register("last_reload_successful", help, gauge(u8::from(facts.reload_accepted)));
        let help = "When the program started, in seconds since 1970";
        let started = ConstGauge::new(facts.started_at.as_duration().as_secs_f64());
        to.register_with_unit("start_time", help, Unit::Seconds, started);
        to
    }
}

/// A count as a gauge; none of ours exceeds an `i64`.
fn gauge(count: impl TryInto<i64>) -> ConstGauge<i64> {
    ConstGauge::new(count.try_into().unwrap_or(i64::MAX))
}

fn of_wait(project: &ProjectName, cause: Cause) -> OfWait {
    OfWait { project: Project(project.clone()), cause }
}

fn of_state(project: &ProjectName, state: Stage) -> OfState {
    OfState { project: Project(project.clone()), state }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::{Format, Meters};

    fn lines(moment: &Moment) -> Vec<String> {
        let text = Meters::default().expose(moment, Format::Text).unwrap();
        let ours = text.lines().filter_map(|line| line.strip_prefix("batch_export_watcher_"));
        ours.map(str::to_owned).collect()
    }

    #[test]
    fn the_oldest_export_of_each_state_counts_and_the_others_are_zero() {
        let shop: ProjectName = "shop".parse().unwrap();
        let moment = Moment::default();
        moment.project(&shop);
        moment.export(&shop, Stage::Polling, 2.5);
        moment.export(&shop, Stage::Polling, 7.5);
        moment.export(&shop, Stage::Whole, 1000.0);
        let lines = lines(&moment);
        for line in [
            "exports{project=\"shop\",state=\"polling\"} 2",
            "exports{project=\"shop\",state=\"whole\"} 1",
            "exports{project=\"shop\",state=\"failed\"} 0",
            "oldest_export_seconds{project=\"shop\",state=\"polling\"} 7.5",
            "paused{project=\"shop\",cause=\"rejected\"} 0",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line} is not in {lines:#?}");
        }
        let is_wrong = |line: &String| line.contains("oldest") && line.contains("whole");
        assert!(!lines.iter().any(is_wrong), "{lines:#?}");
    }

    #[test]
    fn an_unknown_value_is_missing_and_not_zero() {
        let moment = Moment::default();
        let known = |lines: &[String], name: &str| lines.iter().any(|line| line.starts_with(name));
        let without = lines(&moment);
        assert!(!known(&without, "disk_free_bytes"), "{without:#?}");
        assert!(!known(&without, "last_success"), "{without:#?}");
        moment.success(&"shop".parse().unwrap(), Timestamp::from_second(1_700_000_000).unwrap());
        let facts = Facts { free_bytes: Some(5), ..Facts::default() };
        let with = lines(&Moment { facts, ..moment });
        let success = "last_success_timestamp_seconds{project=\"shop\"} 1700000000";
        assert!(known(&with, "disk_free_bytes 5") && known(&with, success), "{with:#?}");
    }
}
