//! What an event changes, and where the commands of a watch go. Sync: nothing here waits.

use std::time::Duration;

use jiff::Timestamp;

use super::{Draining, Event, Scheduler, Timer};
use crate::domain::failure::{Hold, Observation, PartFailure, PartFault, ViewOutcome};
use crate::domain::ids::{ExportKey, ExportPath};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::resume::ResumablePart;
use crate::domain::stage::Cause;
use crate::domain::wait::REJECTED;
use crate::domain::watch::{Command, Fetching, PartState, RecordChange, StepContext, WatchEvent};
use crate::engine::children::Panicked;
use crate::engine::chores::{Chore, ChoreEnd};
use crate::engine::fleet::{Export, Rejections};
use crate::engine::folders::{ChoreId, FolderEvent};
use crate::engine::ids::{EntryId, PartId, ProjectId};
use crate::engine::journal::Ticket;
use crate::engine::narrator::{narrate, part_started, prepared};
use crate::engine::polls::{Call, CallId};
use crate::engine::timers::Clock;
use crate::engine::transfers::{DownloadEnd, News, TransferEvent, Turn};
use crate::meters::{PollOutcome, Work};
use crate::ports::Fact;

const MIB: u64 = 1 << 20;
const NO_ROOM: &str = "not enough space above the reserve; the export waits before its first byte";

impl Scheduler {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Stop => self.drain(Draining::Signal),
            Event::Answered(call, answer) => self.answered(call, answer),
            Event::Transfer(TransferEvent::Downloaded(part, end)) => self.downloaded(part, end),
            Event::Transfer(TransferEvent::Synced(part, end)) => {
                if let Some((part, fault)) = self.transfers.synced(part, end) {
                    self.part_ended(part, Err(fault));
                }
            }
            Event::Transfer(TransferEvent::Published(end)) => {
                for (part, outcome) in self.transfers.published(end) {
                    self.part_ended(part, outcome);
                }
            }
            Event::Transfer(TransferEvent::News(news)) => self.heard(news),
            Event::Folder(FolderEvent::Chore(id, end)) => self.chore_ended(id, end),
            Event::Folder(FolderEvent::DiskChecked(result)) => {
                self.folders.disk_checked(result, self.clock.now());
            }
            Event::Journal(news) => {
                let now = self.clock.now();
                for ticket in news.map_or(Vec::new(), |news| self.journal.apply(news, now)) {
                    self.written(ticket);
                }
            }
            Event::Reconciler(end) => self.job_ended(end),
            Event::Control(control) => self.controlled(control),
            Event::Tick => self.timers_due(),
        }
        self.let_go();
    }

    fn timers_due(&mut self) {
        let now = self.clock.now();
        while let Some(entry) = self.polls.pop_due(now) {
            if let Some(export) = self.fleet.export(entry).filter(|e| e.watch().wants_views()) {
                self.polls.queue(export.project(), entry);
            }
        }
        while let Some(PartId { entry, key }) = self.transfers.retries.pop_due(now) {
            self.step(entry, WatchEvent::PartRetryDue(key));
        }
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Deadline if self.draining.is_none() => {
                    tracing::warn!(
                        event = "deadline_passed",
                        "the deadline has passed before every export was settled"
                    );
                    self.drain(Draining::Deadline);
                }
                Timer::Watchdog => self.feed_watchdog(),
                Timer::ForgetGrace => self.give_up_forgetting(),
                Timer::LastingWaits => self.tell_lasting_waits(self.clock.moment()),
                Timer::Publish | Timer::Deadline | Timer::DrainGrace | Timer::Status => {}
            }
        }
    }

    /// A call to the API is back, with what it says about exports.
    fn answered(&mut self, call: CallId, answer: Result<Vec<Observation>, Panicked>) {
        let Some(Call { project, exports, pass }) = self.polls.ended(call) else { return };
        let mut unanswered = exports.clone();
        let mut faulted = false;
        for Observation { export, outcome } in answer.unwrap_or_else(|Panicked| Vec::new()) {
            let Some(entry) = self.fleet.find(project, &export) else { continue };
            unanswered.retain(|asked| *asked != entry);
            faulted |= matches!(outcome, ViewOutcome::Fault(_));
            self.observed(project, entry, outcome);
        }
        for entry in unanswered {
            faulted = true;
            let fault = ViewOutcome::Fault("the poll task panicked".to_owned());
            self.observed(project, entry, fault);
        }
        self.gates.returned(project, pass, faulted, self.clock.now());
        for entry in exports {
            self.fleet.end_work(entry);
        }
    }

    pub(super) fn observed(&mut self, project: ProjectId, entry: EntryId, outcome: ViewOutcome) {
        self.meters.polled(PollOutcome::of(&outcome));
        if let Some(cause) = Cause::of_poll(&outcome) {
            self.meters.retried(Work::Poll, cause);
        }
        match &outcome {
            ViewOutcome::Held(hold) => self.hold(project, hold.clone()),
            ViewOutcome::Report(_) | ViewOutcome::NotFound(_) => {
                self.gates.api_answered(project);
                if self.gates.request_understood(project) {
                    for entry in self.fleet.rejected(project) {
                        self.step(entry, WatchEvent::RejectionWithdrawn);
                    }
                }
            }
            ViewOutcome::Rejected(_) => self.gates.api_answered(project),
            ViewOutcome::Fault(_) => {}
        }
        let understood = match &outcome {
            ViewOutcome::Report(_) => Some(Ok(())),
            ViewOutcome::Rejected(refusal) => Some(Err(refusal.words(REJECTED))),
            _ => None,
        };
        self.step(entry, WatchEvent::Viewed(outcome));
        let Some(understood) = understood else { return };
        match self.fleet.rejections(project, understood.is_ok()) {
            Rejections::Undecided => {}
            Rejections::TheirOwn(exports) => {
                for entry in exports {
                    self.step(entry, WatchEvent::RejectionConfirmed);
                }
            }
            Rejections::OfTheProject => {
                let words = understood.err().unwrap_or_else(|| REJECTED.to_owned());
                self.gates.rejected(project, words, self.clock.now());
            }
        }
    }

    /// Something answered that it has to be left alone for a while.
    fn hold(&mut self, project: ProjectId, hold: Hold) {
        let now = self.clock.now();
        if let Hold::Disk { .. } = hold {
            return self.folders.doubt_disk(now);
        }
        let Some((scope, until)) = self.gates.hold(project, hold, now) else { return };
        let left = until.saturating_sub(now);
        let until = Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX);
        self.journal.note(Fact::Paused { scope, until });
    }

    pub(super) fn begin_part(&mut self, turn: Turn, now: Duration) {
        let PartId { entry, key } = turn.part.clone();
        let Some(export) = self.fleet.export(entry) else { return };
        let Some(order) = export.watch().part_order(&key) else { return };
        let access = self.fleet.project(turn.project).access.clone();
        part_started(export.path(), &key);
        self.transfers.begin(turn, order, export.path().clone(), access, &self.gates, now);
        self.fleet.begin_work(entry);
        self.step(entry, WatchEvent::PartStarted(key));
    }

    /// A download is back: its slot is free, and it has all its bytes or not.
    fn downloaded(&mut self, part: PartId, end: Result<DownloadEnd, Panicked>) {
        let panicked = || PartFault::transient("the download task panicked").into();
        let end = end.unwrap_or_else(|Panicked| Err(panicked()));
        let now = self.clock.now();
        let retry = &self.policies.retry;
        let Some(freed) = self.transfers.download_ended(&part, &end, retry, now) else { return };
        let failure = end.as_ref().err();
        if let Some(hold) = failure.and_then(PartFailure::hold) {
            self.hold(freed.project, hold.clone());
        }
        let faulted = failure.is_some_and(PartFailure::is_faulted);
        self.gates.returned(freed.project, freed.pass, faulted, now);
        match end {
            Ok(finished) => self.transfers.publish(part, finished),
            Err(failure) => self.attempt_ended(part, Err(failure)),
        }
    }

    /// A part whose bytes are all here got its name, or not.
    fn part_ended(&mut self, part: PartId, outcome: Result<CommittedPart, PartFault>) {
        if let Err(PartFault::Held(hold)) = &outcome
            && let Some(export) = self.fleet.export(part.entry)
        {
            self.hold(export.project(), hold.clone());
        }
        self.attempt_ended(part, outcome.map_err(PartFailure::from));
    }

    fn attempt_ended(&mut self, part: PartId, outcome: Result<CommittedPart, PartFailure>) {
        let Some(project) = self.transfers.ended(&part, outcome.is_ok()) else { return };
        let PartId { entry, key } = part;
        let failure = outcome.as_ref().err();
        if let Some(Hold::Disk { .. }) = failure.and_then(PartFailure::hold) {
            let watch = self.fleet.export(entry).map(Export::watch);
            self.folders.demand_room(watch.and_then(|watch| watch.declared_bytes(&key)));
        }
        let retry = failure.and_then(Cause::of_part);
        let stopped = matches!(failure, Some(PartFailure::Stopped { .. }));
        self.step(entry, WatchEvent::PartEnded { key: key.clone(), outcome });
        if let Some(cause) = retry
            && self.is_to_be_fetched(entry, &key)
        {
            self.meters.retried(Work::Part, cause);
        }
        let is_wanted = self.fleet.export(entry).is_some_and(Export::is_wanted);
        if stopped && self.draining.is_none() && is_wanted {
            // Stopped for an export that was to be forgotten, and that was called off.
            self.transfers.queue(project, PartId { entry, key });
        }
        self.fleet.end_work(entry);
    }

    /// Whether a part has still to come, and is not given up.
    fn is_to_be_fetched(&self, entry: EntryId, key: &PartKey) -> bool {
        let fetching = self.fleet.export(entry).and_then(|export| export.watch().fetching());
        let part = fetching.and_then(|fetching| fetching.part(key));
        part.is_some_and(|part| !matches!(part.state, PartState::Abandoned { .. }))
    }

    /// News can be older than the end of what they come from.
    fn heard(&mut self, news: News) {
        match news {
            News::ApiAnswered { project } if self.fleet.has_project(project) => {
                self.gates.api_answered(project);
            }
            News::StoreAnswered { project, entry, host } if self.fleet.has_project(project) => {
                self.gates.store_answered(project, host);
                if let Some(export) = self.fleet.export(entry) {
                    self.transfers.fares_well(project, entry, export.path());
                }
            }
            News::Checkpointed { part: PartId { entry, key }, point } => {
                self.step(entry, WatchEvent::PartCheckpointed(ResumablePart { key, point }));
            }
            _ => {}
        }
    }

    /// Queues a chore, unless one of its kind is queued or under way for the export.
    fn order_chore(&mut self, entry: EntryId, chore: Chore) {
        if self.folders.order(entry, chore) {
            self.fleet.begin_work(entry);
        }
    }

    fn chore_ended(&mut self, id: ChoreId, end: Result<ChoreEnd, Panicked>) {
        let (entry, _) = id;
        let event = match end {
            Ok(ChoreEnd::Prepared { adopted, conflicts, needed_bytes, free_bytes }) => {
                // Said here, so that no two exports are told that the same room is theirs.
                let claimed_bytes = self
                    .fleet
                    .claimed_bytes(entry)
                    .saturating_sub(self.transfers.allocated_bytes(entry));
                let needed_with_others = needed_bytes.saturating_add(claimed_bytes);
                if needed_bytes > 0 && needed_with_others > free_bytes {
                    return self.wait_for_room(id, needed_with_others, free_bytes);
                }
                if let Some(export) = self.fleet.export(entry) {
                    prepared(export.path(), &adopted);
                }
                WatchEvent::Prepared { adopted, conflicts }
            }
            Ok(ChoreEnd::Sealed) => WatchEvent::ManifestDurable,
            Ok(ChoreEnd::SealConflict { cause }) => WatchEvent::ManifestConflict { cause },
            Ok(ChoreEnd::PartsGone(gone)) => WatchEvent::PartsGone(gone),
            Ok(ChoreEnd::NoticeWritten) => WatchEvent::FailureNoticeDurable,
            Ok(ChoreEnd::NoticeRemoved) => WatchEvent::FailureNoticeRemoved,
            Ok(ChoreEnd::Disk { cause }) => {
                self.folders.doubt_disk(self.clock.now());
                let is_news = self.folders.is_new_hindrance(&cause);
                let parked = self.park(id, Cause::Folder, cause.clone()).filter(|_| is_news);
                if let Some(ExportPath { project, export }) = parked {
                    tracing::warn!(
                        event = "folder_unusable", %project, %export, cause,
                        "the export's folder cannot be used, will be tried again: {cause}"
                    );
                }
                return;
            }
            Err(Panicked) => {
                self.park(id, Cause::Fault, "the work on the folder panicked".to_owned());
                return;
            }
        };
        self.folders.done(id);
        self.step(entry, event);
        self.fleet.end_work(entry);
    }

    fn wait_for_room(&mut self, id: ChoreId, needed_bytes: u64, free_bytes: u64) {
        let words = format!(
            "not enough space above the reserve: {} MiB are needed, {} MiB are free",
            needed_bytes.div_ceil(MIB),
            free_bytes / MIB
        );
        if let Some(ExportPath { project, export }) = self.park(id, Cause::Room, words) {
            tracing::warn!(
                event = "room_short", %project, %export, needed_bytes, free_bytes, "{NO_ROOM}"
            );
        }
    }

    /// Has a chore tried again, if it is still wanted. Returns its export if that is news.
    fn park(&mut self, id: ChoreId, cause: Cause, words: String) -> Option<&ExportPath> {
        let is_news = self.folders.park(id, cause, words, self.clock.now());
        let is_wanted = self.fleet.export(id.0).is_some_and(Export::is_wanted);
        if !is_wanted && self.folders.call_off(id.0) {
            self.fleet.end_work(id.0);
        }
        self.fleet.export(id.0).filter(|_| is_news).map(Export::path)
    }

    fn written(&mut self, ticket: Ticket) {
        let Ticket { entry: Some(entry), recorded } = ticket else { return };
        if let Some(recorded) = recorded {
            self.step(entry, WatchEvent::Recorded(recorded));
        }
        self.fleet.end_work(entry);
    }

    /// Hands an event to a watch and sees to its commands.
    pub(super) fn step(&mut self, entry: EntryId, event: WatchEvent) {
        let (now, jitter) = (self.clock.moment(), Clock::jitter());
        let cx = StepContext { now, jitter, policies: &self.policies };
        for command in self.fleet.step(entry, event, &cx) {
            self.execute(entry, command, false);
        }
    }

    /// Has a command of a watch done. `boot` says that it is about what an earlier run left.
    pub(super) fn execute(&mut self, entry: EntryId, command: Command, boot: bool) {
        let Some(export) = self.fleet.export(entry) else { return };
        if !export.is_wanted() && command.begins_work() {
            return;
        }
        let (project, now) = (export.project(), self.clock.now());
        match command {
            Command::ViewAfter(delay) => self.polls.ask_at(entry, now.saturating_add(delay)),
            Command::Prepare => self.order_chore(entry, Chore::Prepare),
            Command::QueuePart(key) => self.transfers.queue(project, PartId { entry, key }),
            Command::RetryPartAfter(key, delay) => {
                self.transfers.retries.set(PartId { entry, key }, now.saturating_add(delay));
            }
            Command::Record(change) => self.record(entry, change),
            Command::Seal(manifest) => self.order_chore(entry, Chore::Seal { manifest, boot }),
            Command::WriteFailureNotice(failure) => {
                self.order_chore(entry, Chore::WriteNotice(failure));
            }
            Command::RemoveFailureNotice => self.order_chore(entry, Chore::RemoveNotice),
            Command::Notify(notice) => {
                narrate(export.path(), &notice, &self.audience.retry_command);
            }
        }
    }

    fn record(&mut self, entry: EntryId, change: RecordChange) {
        let (Some(key), Some(export)) = (self.fleet.key(entry), self.fleet.export(entry)) else {
            return;
        };
        let may_wait = matches!(change, RecordChange::PartCommitted(_))
            && export.watch().fetching().is_some_and(Fetching::awaits_parts);
        let ticket = Ticket { entry: Some(entry), recorded: change.recorded() };
        self.fleet.begin_work(entry);
        if self.journal.record(fact_of(key, change), ticket, may_wait).is_some() {
            // Of the same export: what it replaces will not come back.
            self.fleet.end_work(entry);
        }
    }
}

/// A watch's record as the state keeps it.
fn fact_of(export: ExportKey, change: RecordChange) -> Fact {
    match change {
        RecordChange::StatusSeen(status) => Fact::StatusSeen { export, status },
        RecordChange::PartCommitted(part) => Fact::PartCommitted { export, part },
        RecordChange::PartialSynced(part) => Fact::PartialSynced { export, part },
        RecordChange::Sealing(manifest) => Fact::Sealing { export, manifest: manifest.to_string() },
        RecordChange::Completed { totals, at } => {
            Fact::Completed { export, parts: totals.parts, bytes: totals.bytes, at }
        }
        RecordChange::Failed(failure) => Fact::Failed { export, failure },
        RecordChange::Watching => Fact::Watching { export },
    }
}
