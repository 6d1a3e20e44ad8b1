//! From a complete body to a final name. A part whose bytes are all there gives its slot back; a
//! large one is synced by itself, and then all that have come as far get their names as one group:
//! one look at each folder, one sync of it.
//!
//! Under load a group is what has come during the one before and a moment after it; a lone part
//! waits for nobody.

use std::time::Duration;

use super::{DownloadEnd, Entry, Scheduler, Timer};
use crate::domain::failure::{Hold, PartFailure};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::watch::{Command, PartState, WatchEvent, WatchState};
use crate::engine::children::Panicked;
use crate::engine::stream::{disk, transient};
use crate::meters::{RetryCause, Work};
use crate::ports::{Finished, Sink, SinkFault};
use crate::sinks::AnyFinished;

/// A group of so many is not waited for. 2,000 parts of 50 KB in groups of 16, 32, 64 and 128 took
/// this program 0.56, 0.54, 0.54 and 0.53 s, and the CPU 0.61, 0.60, 0.58 and 0.56 s.
const GROUP_PARTS: usize = 64;
/// How long a group gathers where the one before was one: it was made under load, and more will
/// come.
const GATHER: Duration = Duration::from_millis(10);

/// Parts on their way from a complete body to their names.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Parts that are ready for the next group.
    ready: Vec<((usize, PartKey), AnyFinished)>,
    /// Parts whose bytes are being synced, and parts of the group under way.
    under_way: usize,
    /// Whether the group before had more than one part.
    is_busy: bool,
    /// When the group that gathers begins at the latest.
    gathers_until: Option<Duration>,
}

impl Commits {
    /// Parts that are ready for the next group.
    pub(super) fn ready(&self) -> impl Iterator<Item = &(usize, PartKey)> {
        self.ready.iter().map(|(part, _)| part)
    }

    /// How many parts there are.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.under_way
    }
}

/// How the parts of a group came out, in its order.
pub(super) type GroupEnd = Vec<Result<CommittedPart, SinkFault>>;

impl Scheduler {
    /// A download came back.
    pub(super) fn download_ended(
        &mut self,
        part: (usize, PartKey),
        end: Result<DownloadEnd, Panicked>,
    ) {
        let (entry, key) = &part;
        let project = self.entries[*entry].project;
        self.stops.remove(&part);
        self.projects[project].slots = self.projects[project].slots.saturating_sub(1);
        let end =
            end.unwrap_or_else(|Panicked| Err(transient("the download task panicked".to_owned())));
        let faulted =
            matches!(end, Err(PartFailure::Transient { .. } | PartFailure::LinkRefused { .. }));
        if let Err(PartFailure::Held(hold)) = &end {
            self.hold(project, hold.clone());
        }
        self.probe_over(&super::Call::Part(*entry, key.clone()), project, faulted);
        self.learn_of_the_crowd(*entry, &end);
        match end {
            Ok(finished) if finished.syncs_with_group() => {
                self.commits.ready.push((part, finished))
            }
            Ok(finished) => {
                self.commits.under_way += 1;
                self.syncs.spawn(part, async move { finished.sync().await.map_err(disk) });
            }
            Err(failure) => self.part_ended(part, Err(failure)),
        }
    }

    /// What the end of a download says about the other parts of its export.
    fn learn_of_the_crowd(&mut self, entry: usize, end: &DownloadEnd) {
        let (now, retry, jitter) = (self.now(), self.policies.retry, Self::jitter());
        match end {
            Ok(_) | Err(PartFailure::Transient { progressed: true, .. }) => {
                self.crowd_fares_well(entry)
            }
            Err(PartFailure::Transient { .. } | PartFailure::LinkRefused { .. }) => {
                let Entry { watch, crowd, .. } = &mut self.entries[entry];
                if let Some(faults) = crowd.failed(now, |round| retry.delay(round, jitter)) {
                    tracing::warn!(event = "parts_wait", project = %watch.project(), export = %watch.export(), faults, "{faults} parts failed one after the other; the others wait, and one at a time is tried");
                }
            }
            Err(_) => self.entries[entry].crowd.undecided(now),
        }
    }

    /// A part of the export gains bytes.
    pub(super) fn crowd_fares_well(&mut self, entry: usize) {
        let Entry { watch, crowd, .. } = &mut self.entries[entry];
        if crowd.fared_well() {
            tracing::info!(event = "parts_resumed", project = %watch.project(), export = %watch.export(), "the parts of the export come again");
        }
    }

    /// The bytes of a large part are durable, or not.
    pub(super) fn part_synced(
        &mut self,
        part: (usize, PartKey),
        synced: Result<Result<AnyFinished, PartFailure>, Panicked>,
    ) {
        self.commits.under_way -= 1;
        match synced {
            Ok(Ok(finished)) => self.commits.ready.push((part, finished)),
            Ok(Err(failure)) => self.failed_to_commit(part, failure),
            Err(Panicked) => {
                self.failed_to_commit(part, transient("the sync of the part panicked".to_owned()));
            }
        }
    }

    /// Begins a group where there is one to begin.
    pub(super) fn admit_commits(&mut self) {
        if self.commits.ready.is_empty() || !self.groups.is_empty() {
            return;
        }
        let now = self.now();
        let more_may_come = self.commits.ready.len() < GROUP_PARTS && !self.downloads.is_empty();
        if self.commits.is_busy && more_may_come {
            let until = *self.commits.gathers_until.get_or_insert(now.saturating_add(GATHER));
            if now < until {
                return self.timers.set(Timer::Commits, until);
            }
        }
        self.commits.gathers_until = None;
        self.commits.is_busy = self.commits.ready.len() > 1;
        self.commits.under_way += self.commits.ready.len();
        let (names, group): (Vec<_>, Vec<_>) = self.commits.ready.drain(..).unzip();
        let sink = self.sink.clone();
        self.groups.spawn(names, async move { sink.publish(group).await });
    }

    /// A group came back.
    pub(super) fn group_ended(
        &mut self,
        names: Vec<(usize, PartKey)>,
        end: Result<GroupEnd, Panicked>,
    ) {
        self.commits.under_way -= names.len();
        let Ok(outcomes) = end else {
            for part in names {
                self.failed_to_commit(
                    part,
                    transient("the commit of the part panicked".to_owned()),
                );
            }
            return;
        };
        for (part, outcome) in names.into_iter().zip(outcomes) {
            match outcome {
                Ok(committed) => self.part_ended(part, Ok(committed)),
                Err(error) => self.failed_to_commit(part, disk(error)),
            }
        }
    }

    fn failed_to_commit(&mut self, part: (usize, PartKey), failure: PartFailure) {
        if let PartFailure::Held(hold) = &failure {
            self.hold(self.entries[part.0].project, hold.clone());
        }
        self.part_ended(part, Err(failure));
    }

    /// A part's attempt is over: its file is durable under its name, or not.
    fn part_ended(
        &mut self,
        (entry, key): (usize, PartKey),
        outcome: Result<CommittedPart, PartFailure>,
    ) {
        let progress = self.progress.remove(&(entry, key.clone()));
        if let Err(PartFailure::Held(Hold::Disk { .. })) = &outcome {
            self.demand_room(self.entries[entry].watch.declared_bytes(&key));
        }
        let retry = outcome.as_ref().err().and_then(RetryCause::of_part);
        if let (Ok(_), Some(progress)) = (&outcome, progress) {
            let project = &self.projects[self.entries[entry].project].name;
            self.meters.part_downloaded(project, progress.began().elapsed());
        }
        let stopped = matches!(outcome, Err(PartFailure::Stopped { .. }));
        self.step(entry, WatchEvent::PartEnded { key: key.clone(), outcome });
        if let Some(cause) = retry
            && self.is_to_be_fetched(entry, &key)
        {
            self.meters.retried(Work::Part, cause);
        }
        if stopped && self.draining.is_none() {
            // Stopped for an export that was to be forgotten; where that was called off, it takes
            // its turn again.
            self.execute(entry, Command::QueuePart(key), false);
        }
    }

    /// Whether a part has still to come, and is not given up.
    fn is_to_be_fetched(&self, entry: usize, key: &PartKey) -> bool {
        let WatchState::Fetching(fetching) = self.entries[entry].watch.state() else {
            return false;
        };
        fetching.part(key).is_some_and(|part| !matches!(part.state, PartState::Abandoned { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::super::tests::{Rig, rig};
    use super::*;
    use crate::domain::ids::ExportPath;
    use crate::domain::resume::Plan;
    use crate::domain::watch::PartOrder;
    use crate::ports::Upload;

    impl Rig {
        /// A part of the export that has all its bytes.
        async fn finished(
            &self,
            entry: usize,
            number: u32,
            bytes: &[u8],
        ) -> ((usize, PartKey), AnyFinished) {
            let key =
                PartKey { number, file_id: format!("file_{entry}_{number}").parse().unwrap() };
            let watch = &self.scheduler.entries[entry].watch;
            let length = Some(bytes.len().try_into().unwrap());
            let sink = &self.scheduler.sink;
            let at =
                ExportPath { project: watch.project().clone(), export: watch.export().clone() };
            let order = PartOrder { key: key.clone(), declared_bytes: length, resume: None };
            let mut writer = sink.begin(&at, &order, &Plan::FromStart).await.unwrap();
            writer.write(bytes).await.unwrap();
            ((entry, key), writer.finish(length, &[]).await.unwrap())
        }

        /// Ends the downloads of an export's parts with all their bytes.
        async fn downloaded(&mut self, entry: usize, numbers: std::ops::RangeInclusive<u32>) {
            for number in numbers {
                let (part, finished) = self.finished(entry, number, b"[123456789").await;
                self.scheduler.step(entry, WatchEvent::PartStarted(part.1.clone()));
                self.scheduler.apply(Event::Downloaded(part, Ok(Ok(finished))));
            }
        }

        fn states(&self, entry: usize) -> Vec<&'static str> {
            let WatchState::Fetching(fetching) = self.scheduler.entries[entry].watch.state() else {
                panic!("not fetching")
            };
            let word = |state: &PartState| match state {
                PartState::Queued => "queued",
                PartState::Active => "active",
                PartState::Waiting => "waiting",
                PartState::Recording(_) => "recording",
                _ => "other",
            };
            fetching.parts().map(|(_, part)| word(&part.state)).collect()
        }

        async fn end_of_group(&mut self) {
            let (names, end) = self.scheduler.groups.next().await;
            self.scheduler.apply(Event::Group(names, end));
        }
    }

    #[tokio::test]
    async fn a_lone_part_waits_for_nobody_and_what_comes_meanwhile_is_one_group() {
        let mut rig = rig(&[1, 1], 8);
        rig.fetching(0, 4);
        rig.fetching(1, 2);
        rig.downloaded(0, 1..=1).await;
        rig.scheduler.admit_commits();
        assert_eq!(rig.scheduler.groups.len(), 1);
        rig.downloaded(0, 2..=4).await;
        rig.downloaded(1, 1..=2).await;
        rig.scheduler.admit_commits();
        assert_eq!((rig.scheduler.groups.len(), rig.scheduler.commits.len()), (1, 6));
        rig.end_of_group().await;
        assert_eq!(rig.states(0), ["recording", "active", "active", "active"]);
        rig.scheduler.admit_commits();
        let names: Vec<_> = rig.scheduler.groups.names().map(Vec::len).collect();
        assert_eq!(names, [5], "of both exports");
        rig.end_of_group().await;
        assert_eq!((rig.states(0), rig.states(1)), (vec!["recording"; 4], vec!["recording"; 2]));
        assert_eq!(rig.scheduler.commits.len(), 0);
    }

    #[tokio::test]
    async fn under_load_a_group_gathers_for_a_moment_and_no_longer() {
        let mut rig = rig(&[1], 8);
        rig.fetching(0, 9);
        rig.scheduler.admit();
        rig.downloaded(0, 1..=2).await;
        rig.scheduler.admit_commits();
        rig.end_of_group().await;
        rig.downloaded(0, 3..=3).await;
        rig.scheduler.admit_commits();
        assert!(rig.scheduler.groups.is_empty(), "more parts are on their way");
        let due = rig.scheduler.timers.due_at(&Timer::Commits).unwrap();
        assert!(due <= rig.scheduler.now() + GATHER);
        tokio::time::sleep(GATHER).await;
        rig.scheduler.admit_commits();
        assert_eq!(rig.scheduler.groups.len(), 1);
    }

    #[tokio::test]
    async fn a_group_that_panics_costs_its_parts_an_attempt() {
        let mut rig = rig(&[1], 8);
        rig.fetching(0, 2);
        rig.downloaded(0, 1..=2).await;
        rig.scheduler.admit_commits();
        let (names, _) = rig.scheduler.groups.next().await;
        rig.scheduler.apply(Event::Group(names, Err(Panicked)));
        assert_eq!(rig.states(0), ["waiting", "waiting"]);
        assert_eq!(rig.scheduler.commits.len(), 0);
    }
}
