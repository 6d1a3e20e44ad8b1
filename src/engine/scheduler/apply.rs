//! What an event changes, and what the commands of a watch cost. Sync: nothing here waits.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use super::{Call, DISK_INTERVAL, Draining, Entry, Event, Scheduler, Ticket, Timer};
use crate::domain::failure::ViewOutcome;
use crate::domain::ids::ExportKey;
use crate::domain::report::RemoteStatus;
use crate::domain::watch::{
    Command, PartState, RecordChange, Recorded, StepContext, WatchEvent, WatchState,
};
use crate::engine::children::Panicked;
use crate::engine::chores::{Chore, ChoreEnd};
use crate::engine::downloader::DownloadNews;
use crate::engine::narrator::{narrate, prepared};
use crate::engine::snapshot::{ExportView, FetchProgress, Phase, Snapshot};
use crate::engine::writer::{LedgerEvent, Write};
use crate::meters::{PauseCause, PollOutcome, RetryCause, Work};
use crate::ports::Fact;

/// Shortest time between two snapshots.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

impl Scheduler {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Stop => self.drain(Draining::Signal),
            Event::Poll(entry, outcome) => self.view_ended(entry, outcome),
            Event::Downloaded(part, end) => self.download_ended(part, end),
            Event::Synced(part, synced) => self.part_synced(part, synced),
            Event::Group(parts, end) => self.group_ended(parts, end),
            Event::Chore((entry, chore), end) => self.chore_ended(entry, chore, end),
            Event::DiskChecked(result) => self.disk_checked(result),
            Event::News(news) => self.heard(news),
            Event::Control(control) => self.controlled(control),
            Event::Store(event) => self.store_said(event),
            Event::WriteSent => {}
            Event::Tick => self.timers_due(),
        }
    }

    /// News can be older than the end of what they come from.
    fn heard(&mut self, news: DownloadNews) {
        match news {
            DownloadNews::ApiAnswered { project } if self.projects.contains(project) => {
                self.api_answered(project);
            }
            DownloadNews::StoreAnswered { project, entry, host }
                if self.projects.contains(project) =>
            {
                self.store_answered(project, host);
                if self.entries.contains(entry) {
                    self.crowd_fares_well(entry);
                }
            }
            DownloadNews::Checkpointed { entry, partial } if self.entries.contains(entry) => {
                self.step(entry, WatchEvent::PartCheckpointed(partial));
            }
            _ => {}
        }
    }

    fn timers_due(&mut self) {
        let now = self.now();
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::View(entry) => {
                    if self.entries[entry].watch.wants_views()
                        && !self.entries[entry].view_under_way
                    {
                        self.entries[entry].view_under_way = true;
                        let project = self.entries[entry].project;
                        self.projects[project].ready.push_back(entry);
                    }
                }
                Timer::PartRetry(entry, key) => self.step(entry, WatchEvent::PartRetryDue(key)),
                Timer::Chores => self.chores.extend(std::mem::take(&mut self.parked_chores)),
                Timer::Deadline if self.draining.is_none() => {
                    tracing::warn!(
                        event = "deadline_passed",
                        "the deadline has passed before every export was settled"
                    );
                    self.drain(Draining::Deadline);
                }
                Timer::Watchdog => self.feed_watchdog(),
                Timer::Admit
                | Timer::Commits
                | Timer::Publish
                | Timer::Deadline
                | Timer::DrainGrace
                | Timer::Status => {}
            }
        }
    }

    fn view_ended(&mut self, entry: usize, outcome: Result<ViewOutcome, Panicked>) {
        let project = self.entries[entry].project;
        self.entries[entry].view_under_way = false;
        self.projects[project].views = self.projects[project].views.saturating_sub(1);
        let outcome = outcome
            .unwrap_or_else(|Panicked| ViewOutcome::Fault("the poll task panicked".to_owned()));
        self.meters.polled(PollOutcome::of(&outcome));
        if let Some(cause) = RetryCause::of_poll(&outcome) {
            self.meters.retried(Work::Poll, cause);
        }
        let faulted = matches!(outcome, ViewOutcome::Fault(_));
        match &outcome {
            ViewOutcome::Held(hold) => self.hold(project, hold.clone()),
            ViewOutcome::Report(_) | ViewOutcome::NotFound(_) => {
                self.api_answered(project);
                self.request_understood(project);
            }
            ViewOutcome::Rejected(_) => self.api_answered(project),
            ViewOutcome::Fault(_) => {}
        }
        let rejected = matches!(outcome, ViewOutcome::Rejected(_));
        let succeeded = matches!(outcome, ViewOutcome::Report(_));
        self.step(entry, WatchEvent::Viewed(outcome));
        if rejected || (succeeded && self.projects[project].rejections) {
            self.judge_rejections(project, succeeded);
        }
        self.probe_over(&Call::View(entry), project, faulted);
    }

    /// A refused request concerns one export when another of its project is answered well after it,
    /// or none is left to ask; it concerns the project when every export gets it, and then the
    /// project pauses.
    fn judge_rejections(&mut self, project: usize, succeeded: bool) {
        let exports = self.projects[project].exports.clone();
        let is_live = |entry: &usize| {
            let Entry { watch, retiring, .. } = &self.entries[*entry];
            !watch.is_settled() && !retiring
        };
        let live: Vec<_> = exports.into_iter().filter(is_live).collect();
        let (mut rejected, mut to_be_asked, mut fetching) = (Vec::new(), false, false);
        for entry in live {
            let watch = &self.entries[entry].watch;
            match watch.state() {
                WatchState::Polling(polling) if polling.is_rejected() => rejected.push(entry),
                _ if watch.wants_views() => to_be_asked = true,
                _ => fetching = true,
            }
        }
        self.projects[project].rejections = !rejected.is_empty();
        if succeeded || (!to_be_asked && (rejected.len() == 1 || fetching)) {
            self.projects[project].rejections = false;
            for entry in rejected {
                self.step(entry, WatchEvent::RejectionConfirmed);
            }
        } else if !to_be_asked && rejected.len() > 1 {
            self.pause_rejected_project(project);
        }
    }

    fn chore_ended(&mut self, entry: usize, chore: Chore, end: Result<ChoreEnd, Panicked>) {
        let told = self.entries[entry].chore_told.take();
        match end {
            Ok(ChoreEnd::Prepared { adopted, conflicts, needed_bytes, free_bytes }) => {
                // Said here, where no two exports can be told at the same time that the same room
                // is theirs.
                let needed_with_others = needed_bytes.saturating_add(self.claimed_bytes(entry));
                if needed_bytes > 0 && needed_with_others > free_bytes {
                    return self.wait_for_room(
                        entry,
                        chore,
                        told.as_deref(),
                        needed_with_others,
                        free_bytes,
                    );
                }
                let watch = &self.entries[entry].watch;
                prepared(watch, &adopted);
                self.step(entry, WatchEvent::Prepared { adopted, conflicts });
            }
            Ok(ChoreEnd::Sealed) => self.step(entry, WatchEvent::ManifestDurable),
            Ok(ChoreEnd::SealConflict { cause }) => {
                self.step(entry, WatchEvent::ManifestConflict { cause })
            }
            Ok(ChoreEnd::NoticeWritten) => self.step(entry, WatchEvent::FailureNoticeDurable),
            Ok(ChoreEnd::NoticeRemoved) => self.step(entry, WatchEvent::FailureNoticeRemoved),
            Ok(ChoreEnd::Disk { cause }) => {
                let Entry { watch, chore_told, .. } = &mut self.entries[entry];
                if told.as_ref() != Some(&cause) {
                    tracing::warn!(event = "folder_unusable", project = %watch.project(), export = %watch.export(), cause, "the export's folder cannot be used, will be tried again: {cause}");
                }
                *chore_told = Some(cause);
                self.doubt_disk();
                self.park(entry, chore);
            }
            Err(Panicked) => self.park(entry, chore),
        }
    }

    fn wait_for_room(
        &mut self,
        entry: usize,
        chore: Chore,
        told: Option<&str>,
        needed_bytes: u64,
        free_bytes: u64,
    ) {
        let words = "not enough room beside the reserve; the export waits before its first byte";
        let Entry { watch, chore_told, .. } = &mut self.entries[entry];
        if told != Some(words) {
            tracing::warn!(event = "room_short", project = %watch.project(), export = %watch.export(), needed_bytes, free_bytes, "{words}");
        }
        *chore_told = Some(words.to_owned());
        self.park(entry, chore);
    }

    fn park(&mut self, entry: usize, chore: Chore) {
        if self.entries[entry].retiring && chore == Chore::Prepare {
            return;
        }
        self.parked_chores.push((entry, chore));
        if self.timers.due_at(&Timer::Chores).is_none() {
            self.timers.set(Timer::Chores, self.now().saturating_add(DISK_INTERVAL));
        }
    }

    fn store_said(&mut self, event: LedgerEvent) {
        match event {
            LedgerEvent::Written(tickets) => {
                self.unwritten = self.unwritten.saturating_sub(tickets.len());
                for ticket in tickets {
                    self.written = self.written.max(ticket);
                    if let Some(Ticket { entry, recorded }) = self.tickets.remove(&ticket) {
                        self.step(entry, WatchEvent::Recorded(recorded));
                    }
                }
            }
            LedgerEvent::Failing { cause } => {
                if !std::mem::replace(&mut self.store_failing, true) {
                    self.meters.paused(None, PauseCause::State);
                }
                tracing::error!(
                    event = "state_failed",
                    cause,
                    "the state cannot be written, downloads wait: {cause}"
                );
            }
            LedgerEvent::Healthy => {
                self.store_failing = false;
                tracing::info!(
                    event = "state_recovered",
                    "the state can be written again; downloads go on"
                );
            }
        }
    }

    /// Hands an event to a watch and pays for its commands.
    pub(super) fn step(&mut self, entry: usize, event: WatchEvent) {
        let moment = self.moment();
        let cx = StepContext { now: moment, jitter: Self::jitter(), policies: &self.policies };
        let Entry { watch, shown, .. } = &mut self.entries[entry];
        let phase = discriminant(watch.state());
        let settled_before = watch.is_settled();
        let commands = watch.step(event, &cx);
        let settled = watch.is_settled();
        if discriminant(watch.state()) != phase {
            shown.moved(moment.wall);
        }
        let project = &mut self.projects[self.entries[entry].project];
        match (settled_before, settled) {
            (false, true) => {
                project.unsettled -= 1;
                project.succeeded(self.entries[entry].watch.state());
            }
            (true, false) => project.unsettled += 1,
            _ => {}
        }
        for command in commands {
            self.execute(entry, command, false);
        }
    }

    pub(super) fn execute(&mut self, entry: usize, command: Command, boot: bool) {
        if self.entries[entry].retiring && command.begins_work() {
            return;
        }
        match command {
            Command::ViewAfter(delay) => {
                self.timers.set(Timer::View(entry), self.now().saturating_add(delay));
            }
            Command::Prepare => self.chores.push_back((entry, Chore::Prepare)),
            Command::QueuePart(key) => self.parts.push(self.entries[entry].project, entry, key),
            Command::RetryPartAfter(key, delay) => {
                self.timers.set(Timer::PartRetry(entry, key), self.now().saturating_add(delay));
            }
            Command::Record(change) => self.record(entry, change),
            Command::Seal(manifest) => {
                self.chores.push_back((entry, Chore::Seal { manifest, boot }))
            }
            Command::WriteFailureNotice(failure) => {
                self.chores.push_back((entry, Chore::WriteNotice(failure)));
            }
            Command::RemoveFailureNotice => self.chores.push_back((entry, Chore::RemoveNotice)),
            Command::Notify(notice) => narrate(&self.entries[entry].watch, &notice),
        }
    }

    fn record(&mut self, entry: usize, change: RecordChange) {
        let recorded = match &change {
            RecordChange::PartCommitted(part) => Some(Recorded::PartCommitted(part.key.clone())),
            RecordChange::Sealing(_) => Some(Recorded::Sealing),
            RecordChange::Completed { .. } => Some(Recorded::Completed),
            RecordChange::Failed(_) => Some(Recorded::Failed),
            RecordChange::PartialSynced(part) => {
                Some(Recorded::PartialSynced { key: part.key.clone(), bytes: part.point.bytes })
            }
            RecordChange::Watching => Some(Recorded::Watching),
            RecordChange::StatusSeen(_) => None,
        };
        let export = ExportKey {
            project: self.projects[self.entries[entry].project].digest,
            export: self.entries[entry].watch.export().clone(),
        };
        let ticket = recorded.map(|recorded| Ticket { entry, recorded });
        let may_wait = match (&change, self.entries[entry].watch.state()) {
            (RecordChange::PartCommitted(_), WatchState::Fetching(fetching)) => {
                fetching.awaits_parts()
            }
            _ => false,
        };
        self.queue_write(change_of(export, change), ticket, may_wait);
    }

    /// Queues a write that nobody is told of.
    pub(super) fn write(&mut self, change: Fact) {
        self.queue_write(change, None, false);
    }

    /// Queues a write. The queue is bounded by the work under way: one record a part in flight, a
    /// few an export; while the state cannot be written, of what keeps changing only the last word
    /// waits.
    fn queue_write(&mut self, change: Fact, ticket: Option<Ticket>, may_wait: bool) {
        if matches!(
            change,
            Fact::StatusSeen { .. } | Fact::PartialSynced { .. } | Fact::Paused { .. }
        ) {
            let Self { outbox, tickets, unwritten, .. } = self;
            outbox.retain(|waiting| {
                let superseded = supersedes(&change, &waiting.fact);
                if superseded {
                    tickets.remove(&waiting.ticket);
                    *unwritten -= 1;
                }
                !superseded
            });
        }
        self.unwritten += 1;
        let number = self.next_ticket;
        self.next_ticket += 1;
        if let Some(ticket) = ticket {
            self.tickets.insert(number, ticket);
        }
        self.outbox.push_back(Write { fact: change, ticket: number, may_wait });
    }

    /// Publishes the read model where somebody looks, at most every 100 ms.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        if self.snapshot.receiver_count() == 0 || now < self.next_publish {
            return;
        }
        self.next_publish = now.saturating_add(PUBLISH_INTERVAL);
        self.timers.set(Timer::Publish, self.next_publish);
        let in_order = self.order.iter().flat_map(|project| &self.projects[*project].exports);
        let exports = in_order.map(|entry| self.export_view(*entry)).collect();
        self.snapshot.send_replace(Snapshot { exports, slots_in_use: self.downloads.len() });
    }

    fn export_view(&self, entry: usize) -> ExportView {
        let watch = &self.entries[entry].watch;
        let phase = match watch.state() {
            WatchState::Polling(polling) => Phase::Polling {
                remote_status: polling.seen().map(RemoteStatus::as_str).map(Arc::from),
            },
            WatchState::Fetching(fetching) => {
                let mut progress = FetchProgress::default();
                for (key, part) in fetching.parts() {
                    progress.parts_total += 1;
                    progress.bytes_total += part.declared_bytes.unwrap_or(0);
                    match &part.state {
                        PartState::Committed(done) | PartState::Recording(done) => {
                            progress.parts_done += 1;
                            progress.bytes_done += done.bytes;
                        }
                        PartState::Active => {
                            let under_way = self.progress.get(&(entry, key.clone()));
                            progress.bytes_done += under_way.map_or(0, |progress| progress.bytes());
                        }
                        _ => {}
                    }
                }
                Phase::Fetching(progress)
            }
            WatchState::Sealing { .. } => Phase::Sealing,
            WatchState::Completed { totals, .. } => {
                Phase::Completed { parts: totals.parts, bytes: totals.bytes }
            }
            WatchState::Failing { failure, .. } | WatchState::Failed { failure, .. } => {
                Phase::Failed { cause: failure.cause.as_str().into() }
            }
        };
        ExportView { project: watch.project().clone(), export: watch.export().clone(), phase }
    }
}

/// Whether nobody needs to know `earlier` once `later` is written.
fn supersedes(later: &Fact, earlier: &Fact) -> bool {
    match (later, earlier) {
        (Fact::StatusSeen { export, .. }, Fact::StatusSeen { export: earlier, .. }) => {
            export == earlier
        }
        (
            Fact::PartialSynced { export, part },
            Fact::PartialSynced { export: earlier, part: earlier_part },
        ) => export == earlier && part.key == earlier_part.key,
        (Fact::Paused { scope, .. }, Fact::Paused { scope: earlier, .. }) => scope == earlier,
        _ => false,
    }
}

/// A watch's record as the state keeps it.
fn change_of(export: ExportKey, change: RecordChange) -> Fact {
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
