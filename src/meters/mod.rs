//! Every metric's name, unit, help and labels, in Prometheus' terms.
//!
//! Events are counted where they happen, through [`Meters`]. Gauges are made for each scrape from
//! the read model, through [`Moment`], so none can be stale. There is no label for an export.

mod exposition;
mod labels;
mod moment;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use exposition::Format;
pub use labels::{PollOutcome, Verdict, Work};
pub use moment::{Facts, Moment};

use crate::domain::ids::ProjectName;
use crate::domain::stage::Cause;
use labels::{OfBuild, OfOutcome, OfPause, OfProject, OfRetry, OfVerdict, Project};

const PREFIX: &str = "batch_export_watcher";
/// Seconds, from an immediate answer to the longest sensible `request_timeout`.
const POLL_SECONDS: [f64; 12] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds, from 50 KB nearby to gigabytes over a slow line.
const PART_SECONDS: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0];

/// The counters of this run; clones share them.
#[derive(Debug, Clone)]
pub struct Meters(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    registry: Registry,
    polls: Family<OfOutcome, Counter>,
    poll_seconds: Histogram,
    parts: Family<OfProject, Counter>,
    bytes: Family<OfProject, Counter>,
    part_seconds: Histogram,
    retries: Family<OfRetry, Counter>,
    link_refreshes: Counter,
    pauses: Family<OfPause, Counter>,
    reloads: Family<OfVerdict, Counter>,
}

impl Default for Meters {
    fn default() -> Self {
        let counted = Counted {
            registry: Registry::with_prefix(PREFIX),
            polls: Family::default(),
            poll_seconds: Histogram::new(POLL_SECONDS),
            parts: Family::default(),
            bytes: Family::default(),
            part_seconds: Histogram::new(PART_SECONDS),
            retries: Family::default(),
            link_refreshes: Counter::default(),
            pauses: Family::default(),
            reloads: Family::default(),
        };
        let counted = counted.registered();
        counted.begin();
        Self(Arc::new(counted))
    }
}

impl Counted {
    fn registered(mut self) -> Self {
        let to = &mut self.registry;
        let build = Info::new(OfBuild { version: env!("CARGO_PKG_VERSION") });
        to.register("build", "The running program", build);
        to.register("polls", "Finished polls, by outcome", self.polls.clone());
        let help = "Time from a poll's request to its answer";
        to.register_with_unit("poll_duration", help, Unit::Seconds, self.poll_seconds.clone());
        let help = "Parts that are durable under their names";
        to.register("parts_downloaded", help, self.parts.clone());
        let help = "Bytes of parts received from stores, including those not kept";
        to.register_with_unit("downloaded", help, Unit::Bytes, self.bytes.clone());
        let help = "Time from a part's slot until it is durable under its name";
        to.register_with_unit("part_duration", help, Unit::Seconds, self.part_seconds.clone());
        let help = "Polls and parts that have to be repeated, by cause";
        to.register("retries", help, self.retries.clone());
        let help = "Fresh signed links requested because the store refused the last one";
        to.register("link_refreshes", help, self.link_refreshes.clone());
        to.register("pauses", "Pauses that began, by cause", self.pauses.clone());
        to.register("reloads", "Reloads of the configuration, by verdict", self.reloads.clone());
        self
    }

    /// Every series without a project exists from the start: a rate over a series that begins with
    /// its first event would miss that event.
    fn begin(&self) {
        for &outcome in PollOutcome::ALL {
            drop(self.polls.get_or_create(&OfOutcome { outcome }));
        }
        for &cause in Cause::OF_POLLS {
            drop(self.retries.get_or_create(&OfRetry { work: Work::Poll, cause }));
        }
        for &cause in Cause::OF_PARTS {
            drop(self.retries.get_or_create(&OfRetry { work: Work::Part, cause }));
        }
        for &cause in Cause::OF_ALL {
            drop(self.pauses.get_or_create(&OfPause { project: None, cause }));
        }
        for &verdict in Verdict::ALL {
            drop(self.reloads.get_or_create(&OfVerdict { verdict }));
        }
    }
}

impl Meters {
    /// From now on this project has counters.
    pub fn project_came(&self, name: &ProjectName) {
        drop(self.0.parts.get_or_create(&of_project(name)));
        drop(self.0.bytes.get_or_create(&of_project(name)));
        for &cause in Cause::OF_PROJECTS {
            drop(self.0.pauses.get_or_create(&of_pause(Some(name), cause)));
        }
    }

    /// Removes a project's metrics, so that reloads do not fill the memory of the scraper.
    pub fn project_went(&self, name: &ProjectName) {
        self.0.parts.remove(&of_project(name));
        self.0.bytes.remove(&of_project(name));
        for &cause in Cause::OF_PROJECTS {
            self.0.pauses.remove(&of_pause(Some(name), cause));
        }
    }

    pub fn polled(&self, outcome: PollOutcome) {
        self.0.polls.get_or_create(&OfOutcome { outcome }).inc();
    }

    pub fn poll_took(&self, duration: Duration) {
        self.0.poll_seconds.observe(duration.as_secs_f64());
    }

    /// The counter for the bytes of a project's parts.
    pub fn received(&self, project: &ProjectName) -> ByteCounter {
        ByteCounter(self.0.bytes.get_or_create_owned(&of_project(project)))
    }

    pub fn part_downloaded(&self, project: &ProjectName, duration: Duration) {
        self.0.parts.get_or_create(&of_project(project)).inc();
        self.0.part_seconds.observe(duration.as_secs_f64());
    }

    pub fn retried(&self, work: Work, cause: Cause) {
        self.0.retries.get_or_create(&OfRetry { work, cause }).inc();
    }

    /// A fresh link was requested because the store refused the last one.
    pub fn link_refreshed(&self) {
        self.0.link_refreshes.inc();
    }

    /// A pause has begun; `project` is `None` if it is for all.
    pub fn paused(&self, project: Option<&ProjectName>, cause: Cause) {
        self.0.pauses.get_or_create(&of_pause(project, cause)).inc();
    }

    pub fn reloaded(&self, verdict: Verdict) {
        self.0.reloads.get_or_create(&OfVerdict { verdict }).inc();
    }

    /// All counters and the gauges of this moment, as text.
    pub fn expose(&self, moment: &Moment, format: Format) -> Result<String, std::fmt::Error> {
        exposition::expose(&[&self.0.registry, &moment.registry()], format)
    }
}

/// Counts received bytes, at the cost of one addition.
#[derive(Debug, Clone, Default)]
pub struct ByteCounter(Counter);

impl ByteCounter {
    pub fn add(&self, bytes: u64) {
        self.0.inc_by(bytes);
    }
}

fn of_project(name: &ProjectName) -> OfProject {
    OfProject { project: Project(name.clone()) }
}

fn of_pause(project: Option<&ProjectName>, cause: Cause) -> OfPause {
    OfPause { project: project.cloned().map(Project), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(meters: &Meters) -> String {
        meters.expose(&Moment::default(), Format::Text).unwrap()
    }

    #[test]
    fn every_possible_series_exists_from_the_start() {
        let meters = Meters::default();
        let before = text(&meters);
        for &cause in Cause::OF_ALL {
            meters.paused(None, cause);
        }
        for &outcome in PollOutcome::ALL {
            meters.polled(outcome);
        }
        for &verdict in Verdict::ALL {
            meters.reloaded(verdict);
        }
        for &cause in Cause::OF_PARTS {
            meters.retried(Work::Part, cause);
        }
        assert_eq!(text(&meters).lines().count(), before.lines().count(), "{before}");
    }

    #[test]
    fn a_removed_project_takes_its_series_with_it() {
        let meters = Meters::default();
        let before = text(&meters);
        let shop: ProjectName = "shop".parse().unwrap();
        meters.project_came(&shop);
        let with = text(&meters);
        for line in [
            "batch_export_watcher_parts_downloaded_total{project=\"shop\"} 0",
            "batch_export_watcher_downloaded_bytes_total{project=\"shop\"} 0",
            "batch_export_watcher_pauses_total{project=\"shop\",cause=\"unauthorized\"} 0",
        ] {
            assert!(with.lines().any(|found| found == line), "{line} is not in\n{with}");
        }
        meters.project_went(&shop);
        let mut after: Vec<_> = text(&meters).lines().map(str::to_owned).collect();
        let mut expected: Vec<_> = before.lines().map(str::to_owned).collect();
        after.sort();
        expected.sort();
        // A family that is empty is not exposed.
        assert_eq!(after, expected);
    }
}
