//! A world in which everything succeeds: it does what a watch commands until the watch settles.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use super::is_safe_name;
use crate::domain::cadence::Cadence;
use crate::domain::checksum::Check;
use crate::domain::failure::ViewOutcome;
use crate::domain::ids::FileId;
use crate::domain::manifest::Manifest;
use crate::domain::moment::{Moment, Unit};
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::report::Report;
use crate::domain::watch::{Command, Policies, StepContext, Watch, WatchEvent, WatchState};

/// A watch, and the one report that the API always gives.
pub(super) struct World {
    pub(super) watch: Watch,
    policies: Policies,
    seconds: u64,
    pub(super) fetched: BTreeMap<FileId, CommittedPart>,
    pub(super) sealed: Option<String>,
}

impl World {
    pub(super) fn new(watch: Watch) -> Self {
        let policies = Policies {
            cadence: Cadence::try_new(Duration::from_secs(10), Duration::from_mins(5))
                .expect("in order"),
            retry: crate::transport::retry_policy(Duration::from_secs(1), Duration::from_mins(10))
                .expect("in order"),
            not_found_grace: Duration::from_mins(10),
        };
        Self { watch, policies, seconds: 0, fetched: BTreeMap::new(), sealed: None }
    }

    pub(super) fn step(&mut self, event: WatchEvent) -> Vec<Command> {
        self.seconds += 1;
        let wall = Timestamp::from_second(1_700_000_000).expect("a moment of 2023");
        let now = Moment { since_start: Duration::from_secs(self.seconds), wall };
        self.watch.step(event, &StepContext { now, jitter: Unit::HALF, policies: &self.policies })
    }

    /// Executes commands, and those that follow, until nothing is left to do. Panics if that does
    /// not end, or if a committed part is fetched again.
    pub(super) fn settle(&mut self, commands: Vec<Command>, report: &Report) {
        let parts = report.files.as_ref().map_or(0, Vec::len);
        let mut left = 100 + 20 * parts;
        let mut orders = VecDeque::from(commands);
        while let Some(command) = orders.pop_front() {
            left = left.checked_sub(1).expect("the work ends");
            for event in self.answers(command, report) {
                orders.extend(self.step(event));
            }
        }
        assert!(self.watch.is_settled(), "asleep: {:?}", self.watch);
    }

    fn answers(&mut self, command: Command, report: &Report) -> Vec<WatchEvent> {
        match command {
            Command::ViewAfter(_) if self.watch.wants_views() => {
                vec![WatchEvent::Viewed(ViewOutcome::Report(report.clone()))]
            }
            Command::ViewAfter(_) | Command::Notify(_) => Vec::new(),
            Command::Prepare => {
                vec![WatchEvent::Prepared { adopted: Vec::new(), conflicts: Vec::new() }]
            }
            Command::QueuePart(key) => self.fetch(key),
            Command::RetryPartAfter(key, _) => vec![WatchEvent::PartRetryDue(key)],
            Command::Record(change) => {
                change.recorded().into_iter().map(WatchEvent::Recorded).collect()
            }
            Command::Seal(text) => {
                self.sealed = Some(text.to_string());
                vec![WatchEvent::ManifestDurable]
            }
            Command::WriteFailureNotice(_) => vec![WatchEvent::FailureNoticeDurable],
            Command::RemoveFailureNotice => vec![WatchEvent::FailureNoticeRemoved],
        }
    }

    fn fetch(&mut self, key: PartKey) -> Vec<WatchEvent> {
        let Some(order) = self.watch.part_order(&key) else { return Vec::new() };
        assert!(is_safe_name(&key.file_name()), "{key:?}");
        let part = CommittedPart {
            key: key.clone(),
            bytes: order.declared_bytes.unwrap_or(1),
            declared_bytes: order.declared_bytes,
            sha256: Sha256::new([7; 32]),
            verified_by: vec![Check::Size],
        };
        let earlier = self.fetched.insert(key.file_id.clone(), part.clone());
        assert!(earlier.is_none(), "{key:?} was fetched twice");
        vec![WatchEvent::PartStarted(key.clone()), WatchEvent::PartEnded { key, outcome: Ok(part) }]
    }

    /// The manifest of the export. Panics if the export is not whole.
    pub(super) fn manifest(&self) -> Manifest {
        let WatchState::Completed { totals, .. } = self.watch.state() else {
            panic!("{:?}", self.watch)
        };
        let text = self.sealed.as_deref().expect("a whole export was sealed");
        let manifest = Manifest::parse(text.as_bytes()).expect("what was sealed reads back");
        assert_eq!(manifest.export_id, self.watch.path().export, "a manifest of another export");
        assert_eq!(totals.parts, manifest.parts.len() as u64);
        assert!(manifest.parts.iter().all(|part| is_safe_name(&part.path)), "{text}");
        manifest
    }
}
