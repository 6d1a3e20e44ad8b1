//! The world: what it owes a watch, what is on record, and the rules that hold after every event.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    View,
    Prepared,
    Started,
    Ended,
    Stopped,
    Checkpointed,
    RetryDue,
    Recorded,
    Sealed,
    Noticed,
    NoticeRemoved,
    Retry,
    Rejection,
    Stale,
    Wake,
    Crash,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) watch: Watch,
    pub(super) since_start: Duration,
    pub(super) jitter: Unit,
    owed: Owed,
    // On record.
    status: Option<RemoteStatus>,
    state: RecordedState,
    parts: BTreeMap<FileId, CommittedPart>,
    /// What the last view with SUCCESS listed.
    listed: BTreeSet<FileId>,
}

/// Every command becomes a debt, and an event pays it.
#[derive(Debug, Default)]
struct Owed {
    view: bool,
    prepare: usize,
    queued: BTreeSet<PartKey>,
    active: BTreeSet<PartKey>,
    waiting: BTreeSet<PartKey>,
    records: VecDeque<RecordChange>,
    seal: Option<Arc<str>>,
    notice: bool,
    removal: bool,
}

#[derive(Debug, Clone)]
enum RecordedState {
    Watching,
    Sealing(Arc<str>),
    Completed(Totals),
    Failed(Failure),
}

fn watch_in(state: WatchState) -> Watch {
    Watch::with_state(tests::path(), state)
}

pub(super) fn pick<T: Clone>(from: impl IntoIterator<Item = T>, how: u8) -> Option<T> {
    let from: Vec<_> = from.into_iter().collect();
    from.get(usize::from(how) % from.len().max(1)).cloned()
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            watch: watch_in(WatchState::Polling(Polling::default())),
            since_start: Duration::ZERO,
            jitter: Unit::HALF,
            owed: Owed { view: true, ..Owed::default() },
            status: None,
            state: RecordedState::Watching,
            parts: BTreeMap::new(),
            listed: BTreeSet::new(),
        }
    }

    fn possible(&self) -> Vec<Happening> {
        let failed = matches!(self.watch.state(), WatchState::Failed { .. });
        let all = [
            (Happening::View, self.owed.view),
            (Happening::Prepared, self.owed.prepare > 0),
            (Happening::Started, !self.owed.queued.is_empty()),
            (Happening::Ended, !self.owed.active.is_empty()),
            (Happening::Ended, !self.owed.active.is_empty()),
            (Happening::Stopped, !self.owed.active.is_empty()),
            (Happening::Checkpointed, !self.owed.active.is_empty()),
            (Happening::RetryDue, !self.owed.waiting.is_empty()),
            (Happening::Recorded, !self.owed.records.is_empty()),
            (Happening::Sealed, self.owed.seal.is_some()),
            (Happening::Noticed, self.owed.notice),
            (Happening::NoticeRemoved, self.owed.removal),
            (Happening::Retry, failed),
            (Happening::Rejection, true),
            (Happening::Stale, true),
            (Happening::Wake, true),
            (Happening::Crash, true),
        ];
        all.into_iter().filter_map(|(happening, possible)| possible.then_some(happening)).collect()
    }

    pub(super) fn happens(&mut self, (which, how, seconds, jitter): Draw) {
        let happening = pick(self.possible(), which).expect("something is always possible");
        self.since_start += Duration::from_secs(seconds.into());
        self.jitter = Unit::clamped(jitter);
        match happening {
            Happening::View => {
                self.owed.view = false;
                let outcome = some_view(how);
                if let ViewOutcome::Report(report) = &outcome
                    && report.status == RemoteStatus::Success
                    && let Some(files) = &report.files
                    && self.watch.wants_views()
                {
                    self.listed = files.iter().map(|file| file.file_id.clone()).collect();
                }
                self.step(WatchEvent::Viewed(outcome));
            }
            Happening::Prepared => {
                self.owed.prepare -= 1;
                let event = self.prepared(how);
                self.step(event);
            }
            Happening::Started => {
                let key = pick(self.owed.queued.iter().cloned(), how).unwrap();
                self.owed.queued.remove(&key);
                let Some(order) = self.watch.part_order(&key) else { return };
                assert_eq!(order.key, key);
                let on_record = self.parts.contains_key(&key.file_id);
                assert!(!on_record, "{key:?} is fetched although it is on record");
                assert!(self.owed.active.insert(key.clone()), "{key:?} is fetched twice at once");
                self.step(WatchEvent::PartStarted(key));
            }
            Happening::Ended => {
                let key = pick(self.owed.active.iter().cloned(), how / 16).unwrap();
                self.owed.active.remove(&key);
                self.step(ended(&key, some_end(how, key.clone())));
            }
            Happening::Stopped => {
                // The program drains: what is under way stops and is recorded. A new run begins.
                for key in std::mem::take(&mut self.owed.active) {
                    let kept = (how % 2 == 0).then(|| point(5));
                    self.step(ended(&key, Err(PartFailure::Stopped { kept })));
                }
                while let Some(change) = self.owed.records.pop_front() {
                    self.record(change);
                }
                self.crash();
            }
            Happening::Checkpointed => {
                let key = pick(self.owed.active.iter().cloned(), how).unwrap();
                self.step(WatchEvent::PartCheckpointed(ResumablePart { key, point: point(4) }));
            }
            Happening::RetryDue => {
                let key = pick(self.owed.waiting.iter().cloned(), how).unwrap();
                self.owed.waiting.remove(&key);
                self.step(WatchEvent::PartRetryDue(key));
            }
            Happening::Recorded => {
                let change = self.owed.records.pop_front().unwrap();
                self.record(change);
            }
            Happening::Sealed => {
                self.owed.seal = None;
                self.step(match how % 4 {
                    0 => WatchEvent::ManifestConflict { cause: "foreign".into() },
                    _ => WatchEvent::ManifestDurable,
                });
            }
            Happening::Noticed => {
                self.owed.notice = false;
                self.step(WatchEvent::FailureNoticeDurable);
            }
            Happening::NoticeRemoved => {
                self.owed.removal = false;
                self.step(WatchEvent::FailureNoticeRemoved);
            }
            Happening::Retry => self.step(WatchEvent::Retry),
            Happening::Rejection => self.step(match how % 2 {
                0 => WatchEvent::RejectionConfirmed,
                _ => WatchEvent::RejectionWithdrawn,
            }),
            Happening::Stale => self.stale(how),
            Happening::Wake => {
                // Every wait and turn is cancelled; work under way continues.
                (self.owed.view, self.owed.prepare) = (false, 0);
                self.owed.queued.clear();
                self.owed.waiting.clear();
                let commands = self.watch.wake_commands();
                assert!(commands.iter().all(Command::begins_work), "{commands:?}");
                self.owe(commands);
            }
            Happening::Crash => self.crash(),
        }
        self.check();
    }

    /// What is found in the folder: sometimes a finished file without a record, or a foreign file.
    fn prepared(&self, how: u8) -> WatchEvent {
        let Some(fetching) = self.watch.fetching() else {
            return WatchEvent::Prepared { adopted: vec![], conflicts: vec![] };
        };
        let free = |order: &PartOrder| !self.owed.active.contains(&order.key);
        let found: Vec<_> = fetching.unrecorded().filter(free).map(|order| order.key).collect();
        let found = pick(found, how / 8).into_iter();
        let (mut adopted, mut conflicts) = (vec![], vec![]);
        match how % 8 {
            0 | 1 => adopted = found.map(committed).collect(),
            2 => conflicts = found.map(|key| (key, "foreign".to_owned())).collect(),
            _ => {}
        }
        WatchEvent::Prepared { adopted, conflicts }
    }

    pub(super) fn cx<'a>(&self, policies: &'a Policies) -> StepContext<'a> {
        let wall = Timestamp::from_second(1_700_000_000).unwrap() + self.since_start;
        StepContext {
            now: Moment { since_start: self.since_start, wall },
            jitter: self.jitter,
            policies,
        }
    }

    fn step(&mut self, event: WatchEvent) {
        let policies = policies();
        let before = stage(&self.watch);
        let said = format!("{event:?}");
        let commands = self.watch.step(event, &self.cx(&policies));
        let after = stage(&self.watch);
        assert!(is_drawn(before, after), "{before} became {after} by {said}");
        if self.watch.is_settled() && before == after {
            let removes = matches!(commands.as_slice(), [Command::RemoveFailureNotice]);
            let fits = commands.is_empty() || (removes && said == "Retry");
            assert!(fits, "{after} does {commands:?} by {said}");
        }
        self.owe(commands);
    }

    fn owe(&mut self, commands: Vec<Command>) {
        let policies = policies();
        let longest = (policies.cadence.max().mul_f64(1.1))
            .max(policies.retry.max())
            .max(policies.not_found_grace);
        for command in commands {
            match command {
                Command::ViewAfter(delay) => {
                    assert!(delay <= longest, "{delay:?}");
                    self.owed.view = true;
                }
                Command::Prepare => self.owed.prepare += 1,
                Command::QueuePart(key) => {
                    let on_record = self.parts.contains_key(&key.file_id);
                    assert!(!on_record, "{key:?} is queued although it is on record");
                    self.owed.queued.insert(key);
                }
                Command::RetryPartAfter(key, delay) => {
                    assert!(delay <= policies.retry.max(), "{delay:?}");
                    self.owed.waiting.insert(key);
                }
                Command::Record(change) => self.owed.records.push_back(change),
                Command::Seal(manifest) => {
                    self.check_manifest(&manifest);
                    self.owed.seal = Some(manifest);
                }
                Command::WriteFailureNotice(_) => self.owed.notice = true,
                Command::RemoveFailureNotice => self.owed.removal = true,
                Command::Notify(_) => {}
            }
        }
    }

    fn record(&mut self, change: RecordChange) {
        let recorded = change.recorded();
        match change {
            RecordChange::StatusSeen(status) => self.status = Some(status),
            RecordChange::PartCommitted(part) => {
                let earlier = self.parts.insert(part.key.file_id.clone(), part);
                assert!(earlier.is_none(), "{earlier:?} is committed twice");
            }
            RecordChange::PartialSynced(part) => {
                let on_record = self.parts.contains_key(&part.key.file_id);
                assert!(!on_record, "{part:?} is on record as a whole");
            }
            RecordChange::Sealing(manifest) => {
                self.check_manifest(&manifest);
                self.state = RecordedState::Sealing(manifest);
            }
            RecordChange::Completed { totals, .. } => self.state = RecordedState::Completed(totals),
            RecordChange::Failed(failure) => self.state = RecordedState::Failed(failure),
            RecordChange::Watching => self.state = RecordedState::Watching,
        }
        if let Some(recorded) = recorded {
            self.step(WatchEvent::Recorded(recorded));
        }
    }

    /// A new run begins with what is on record.
    fn crash(&mut self) {
        let kept = Kept { committed: self.parts.clone(), partials: BTreeMap::new() };
        let state = match self.state.clone() {
            RecordedState::Watching => {
                WatchState::Polling(Polling::resumed(self.status.clone(), kept))
            }
            RecordedState::Sealing(manifest) => {
                WatchState::Sealing { manifest, totals: Totals::of(self.parts.values()) }
            }
            RecordedState::Completed(totals) => {
                WatchState::Completed { totals, at: Timestamp::UNIX_EPOCH }
            }
            RecordedState::Failed(failure) => WatchState::Failed { failure, kept },
        };
        self.watch = watch_in(state);
        self.owed = Owed::default();
        let mut commands = self.watch.resume_commands();
        commands.extend(self.watch.wake_commands());
        self.owe(commands);
    }

    /// News that comes too late, twice, or for another state changes nothing.
    fn stale(&mut self, how: u8) {
        let key = pick(some_keys(), how / 16).unwrap();
        let part = self.watch.fetching().and_then(|fetching| fetching.part(&key));
        let part = part.map(|part| part.state.clone());
        let stage = stage(&self.watch);
        let event = match how % 16 {
            0 if part != Some(PartState::Queued) => WatchEvent::PartStarted(key),
            1 if part != Some(PartState::Active) => ended(&key, some_end(how / 16, key.clone())),
            2 if part != Some(PartState::Waiting) => WatchEvent::PartRetryDue(key),
            3 if part != Some(PartState::Active) => {
                WatchEvent::PartCheckpointed(ResumablePart { key, point: point(3) })
            }
            4 if !matches!(part, Some(PartState::Recording(_))) => {
                WatchEvent::Recorded(Recorded::PartCommitted(key))
            }
            5 if stage != "Fetching" => {
                WatchEvent::Prepared { adopted: vec![committed(key)], conflicts: vec![] }
            }
            6 if stage != "Sealing" => WatchEvent::ManifestDurable,
            7 if stage != "Sealing" => WatchEvent::ManifestConflict { cause: "foreign".into() },
            8 if stage != "Failing" => WatchEvent::FailureNoticeDurable,
            9 if stage != "Failed" => WatchEvent::FailureNoticeRemoved,
            10 if stage != "Failed" => WatchEvent::Retry,
            11 if stage != "Sealing" => WatchEvent::Recorded(Recorded::Sealing),
            12 if stage != "Sealing" => WatchEvent::Recorded(Recorded::Completed),
            13 if stage != "Failing" => WatchEvent::Recorded(Recorded::Failed),
            14 => WatchEvent::Recorded(Recorded::Watching),
            15 if !matches!(stage, "Polling" | "Fetching") => {
                WatchEvent::Viewed(some_view(how / 16))
            }
            _ => return,
        };
        let before = format!("{:?}", self.watch);
        let said = format!("{event:?}");
        let policies = policies();
        let commands = self.watch.step(event, &self.cx(&policies));
        assert!(commands.is_empty(), "{said} brought {commands:?} in {before}");
        assert_eq!(format!("{:?}", self.watch), before, "{said}");
    }

    /// A manifest has exactly the parts on record, and all that are listed.
    fn check_manifest(&self, text: &str) {
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        let sealed: BTreeMap<_, _> = manifest
            .parts
            .into_iter()
            .map(|part| (part.file_id.clone(), CommittedPart::from(part)))
            .collect();
        assert_eq!(sealed, self.parts, "the manifest is what is committed");
        for file in &self.listed {
            assert!(sealed.contains_key(file), "{file} is listed and not in the manifest");
        }
    }

    fn check(&self) {
        assert!(self.watch.is_settled() || self.is_awake(), "asleep: {self:#?}");
        // What is on record is never forgotten.
        match self.watch.state() {
            WatchState::Fetching(fetching) => {
                for part in self.parts.values() {
                    let state = fetching.part(&part.key).map(|part| &part.state);
                    let committed = PartState::Committed(part.clone());
                    assert_eq!(state, Some(&committed), "a committed part was lost");
                }
                self.check_parts(fetching);
            }
            WatchState::Sealing { manifest, totals } => {
                self.check_manifest(manifest);
                assert_eq!(*totals, Totals::of(self.parts.values()));
            }
            WatchState::Failing { kept, .. } | WatchState::Failed { kept, .. } => {
                assert_eq!(kept.committed, self.parts, "a committed part was lost");
            }
            WatchState::Completed { totals, .. } => {
                assert_eq!(*totals, Totals::of(self.parts.values()));
            }
            WatchState::Polling(_) => {}
        }
    }

    /// Whether something is owed that moves the watch on.
    fn is_awake(&self) -> bool {
        let queued = self.owed.queued.iter().any(|key| self.watch.part_order(key).is_some());
        (self.owed.view && self.watch.wants_views())
            || self.owed.prepare > 0
            || queued
            || !(self.owed.active.is_empty()
                && self.owed.waiting.is_empty()
                && self.owed.records.is_empty())
            || self.owed.seal.is_some()
            || self.owed.notice
    }

    /// Whether each part is awake, and the counts match the parts.
    fn check_parts(&self, fetching: &Fetching) {
        assert!(
            !self.watch.wants_views() || self.owed.view,
            "no view is due although one is wanted"
        );
        assert!(fetching.is_prepared() || self.owed.prepare > 0, "the folder is never prepared");
        let doomed = fetching.is_doomed();
        let is_busy = !self.owed.active.is_empty() || !self.owed.records.is_empty();
        assert!(!doomed || is_busy, "nothing is left to wait for");
        let mut open = 0;
        for (key, part) in fetching.parts() {
            let owed = match &part.state {
                PartState::Queued => {
                    doomed || !fetching.is_prepared() || self.owed.queued.contains(key)
                }
                PartState::Active => self.owed.active.contains(key),
                PartState::Waiting => self.owed.waiting.contains(key),
                PartState::AwaitingView => doomed || (self.owed.view && self.watch.wants_views()),
                PartState::Recording(part) => {
                    self.owed.records.iter().any(
                        |change| matches!(change, RecordChange::PartCommitted(of) if of == part),
                    )
                }
                PartState::Committed(_) | PartState::Abandoned { .. } => true,
            };
            assert!(owed, "{key:?} waits for nothing: {part:?}");
            open +=
                usize::from(!part.is_terminal() && !matches!(part.state, PartState::Recording(_)));
            assert_eq!(part.state == PartState::Active, self.owed.active.contains(key), "{key:?}");
        }
        assert_eq!(fetching.awaits_parts(), open > 0);
    }
}
