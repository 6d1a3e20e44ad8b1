//! The transfers: parts that wait for a slot, and each part under way as one [`Attempt`], from its
//! slot to its final name.
//!
//! - `queue` parts that wait for a slot
//! - `attempt` one attempt: asks for links, and decides what is kept of the bytes
//! - `stream` one request to the store, on a lane
//! - `checkpoints` makes the bytes of a large part durable while more arrive
//! - `context` what one attempt works with, and what it tells
//! - `faults` what each error means for the part
//! - `publish` from the last byte to the final name
//! - `lanes` the runtimes that move bytes

mod attempt;
mod checkpoints;
mod context;
mod faults;
mod lanes;
mod publish;
mod queue;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use slotmap::SecondaryMap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;

use super::access::{Access, KeyUse};
use super::children::{self, Panicked};
use super::gates::{Gates, Pass, admitted};
use super::ids::{EntryId, PartId, ProjectId};
use super::timers::{Clock, Timers};
use crate::domain::capacity::Capacity;
use crate::domain::crowd::Crowd;
use crate::domain::failure::{PartFailure, PartFault};
use crate::domain::gate::{Admission, Probe};
use crate::domain::ids::ExportPath;
use crate::domain::retry::RetryPolicy;
use crate::domain::watch::PartOrder;
use crate::fetch::StoreClient;
use crate::meters::Meters;
use crate::ports::{Finished, Sink};
use crate::sinks::{AnyFinished, AnySink};
use attempt::fetch_part;
use context::{AttemptContext, Progress};
use faults::sink_fault;
use publish::{GroupEnd, Publisher};
use queue::{PartQueue, Refusal};

pub(crate) use context::News;
pub use lanes::Lanes;

/// From so many slots on the last one is kept for projects that have none.
const SPARING_SLOTS: usize = 4;

/// How a download ended: with all its bytes, or not.
pub(crate) type DownloadEnd = Result<AnyFinished, PartFailure>;
/// Whether the bytes of a large part are durable.
type SyncEnd = Result<AnyFinished, PartFault>;

#[derive(Debug)]
pub(crate) struct Transfers {
    capacity: Capacity,
    queue: PartQueue,
    /// Parts that wait after a failed attempt.
    pub(crate) retries: Timers<PartId>,
    attempts: HashMap<PartId, Attempt>,
    downloads: JoinMap<PartId, DownloadEnd>,
    syncs: JoinMap<PartId, SyncEnd>,
    publisher: Publisher,
    /// Slots in use by project; a project without any is not in here.
    slots: SecondaryMap<ProjectId, usize>,
    /// How the parts of an export fare, once one of them has failed.
    crowds: SecondaryMap<EntryId, Crowd>,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    stop: CancellationToken,
    lanes: Lanes,
    sink: AnySink,
    meters: Meters,
}

#[derive(Debug)]
struct Attempt {
    stage: Stage,
    path: ExportPath,
    declared_bytes: Option<u64>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    project: ProjectId,
}

#[derive(Debug)]
enum Stage {
    /// Holds a slot, and its passes through the gates.
    Downloading { pass: Pass, crowd: Option<Probe> },
    /// Every byte is here: it is synced, waits for its group, or gets its name.
    Publishing,
}

pub(crate) enum TransferEvent {
    Downloaded(PartId, Result<DownloadEnd, Panicked>),
    Synced(PartId, SyncEnd),
    Published(Result<GroupEnd, Panicked>),
    News(News),
}

/// A part that may begin now.
pub(crate) struct Turn {
    pub(crate) project: ProjectId,
    pub(crate) part: PartId,
    pass: Pass,
    crowd: Option<Probe>,
}

/// What a download gives back with its slot.
pub(crate) struct Freed {
    pub(crate) project: ProjectId,
    pub(crate) pass: Pass,
}

impl Transfers {
    pub(crate) fn new(capacity: Capacity, lanes: Lanes, sink: AnySink, meters: Meters) -> Self {
        Self {
            capacity,
            queue: PartQueue::default(),
            retries: Timers::default(),
            attempts: HashMap::new(),
            downloads: JoinMap::new(),
            syncs: JoinMap::new(),
            publisher: Publisher::default(),
            slots: SecondaryMap::new(),
            crowds: SecondaryMap::new(),
            news: mpsc::channel(capacity.parts.get().saturating_mul(2).min(1024)),
            stop: CancellationToken::new(),
            lanes,
            sink,
            meters,
        }
    }

    /// Other limits, and another client for parts that begin from now on.
    pub(crate) fn reconfigure(&mut self, capacity: Capacity, store: Option<&StoreClient>) {
        self.capacity = capacity;
        if let Some(store) = store {
            self.lanes.use_store(store);
        }
    }

    pub(crate) fn queue(&mut self, project: ProjectId, part: PartId) {
        self.queue.push(project, part);
    }

    /// Calls off what only waits of an export; `waiting` are its parts after a failed attempt.
    pub(crate) fn call_off(
        &mut self,
        project: ProjectId,
        entry: EntryId,
        waiting: impl IntoIterator<Item = PartId>,
    ) {
        self.queue.remove_export(project, entry);
        for part in waiting {
            self.retries.remove(&part);
        }
    }

    /// Stops the downloads of these exports: each comes to an orderly end.
    pub(crate) fn stop_exports(&self, is_meant: impl Fn(EntryId) -> bool) {
        for (_, attempt) in self.attempts.iter().filter(|(part, _)| is_meant(part.entry)) {
            attempt.stop.cancel();
        }
    }

    pub(crate) fn stop_all(&self) {
        self.stop.cancel();
    }

    /// The way of a project may be open again.
    pub(crate) fn call(&mut self, project: ProjectId) {
        self.queue.turns.call(&project);
    }

    pub(crate) fn call_all(&mut self) {
        self.queue.turns.call_all();
    }

    /// Forgets how the parts of an export fared: those that wait for that may go.
    pub(crate) fn forget_crowd(&mut self, project: ProjectId, entry: EntryId) {
        if self.crowds.remove(entry).is_some() {
            self.queue.call_export(project, entry);
        }
    }

    pub(crate) fn remove_project(&mut self, project: ProjectId) {
        self.queue.remove_project(project);
        self.slots.remove(project);
    }

    /// Calls the projects whose time to wait is over.
    pub(crate) fn wake(&mut self, now: Duration) {
        self.queue.turns.call_due(now);
    }

    /// The next part that slots and gates let begin. `at_work` says how many projects are not
    /// done.
    pub(crate) fn next_turn(
        &mut self,
        gates: &mut Gates,
        at_work: usize,
        now: Duration,
    ) -> Option<Turn> {
        let Self { queue, crowds, slots, .. } = self;
        let capacity = self.capacity.parts.get();
        let free = capacity.saturating_sub(self.downloads.len());
        if free == 0 || self.publisher.len() + self.syncs.len() >= self.capacity.commits.get() {
            return None;
        }
        // A store that drips could hold every slot for hours. Of a few slots none is kept: there
        // an idle one costs more than it saves.
        let is_kept = capacity >= SPARING_SLOTS && free == 1 && at_work > 1;
        let may_begin = |entry| {
            let crowd: Option<&Crowd> = crowds.get(entry);
            crowd.map_or(Ok(false), |crowd| admitted(crowd.admission(now)))
        };
        let admit = |project| {
            if is_kept && slots.contains_key(project) {
                return Err(Refusal::NoSlot);
            }
            gates.part_pass(project, now).map_err(Refusal::Closed)
        };
        let (project, part, pass, probes) = queue.pop(now, may_begin, admit)?;
        let crowd = probes.then(|| crowds.get_mut(part.entry)?.probe(now)).flatten();
        Some(Turn { project, part, pass, crowd })
    }

    pub(crate) fn begin(
        &mut self,
        turn: Turn,
        order: PartOrder,
        path: ExportPath,
        access: Arc<Access>,
        gates: &Gates,
        now: Duration,
    ) {
        let Turn { project, part, pass, crowd } = turn;
        // Others may wait for this one: they go when the store answers, and not only when this
        // part has come to its end.
        let crowd_of = self.crowds.get(part.entry);
        let is_awaited = crowd_of.is_some_and(|crowd| crowd.admission(now) != Admission::Pass);
        let stop = self.stop.child_token();
        let progress = Arc::new(Progress::new(self.meters.received(&path.project)));
        let declared_bytes = order.declared_bytes;
        let lane = self.lanes.least_busy();
        let attempt = AttemptContext {
            part: part.clone(),
            project,
            path: path.clone(),
            order,
            access,
            key_use: KeyUse::of(&pass),
            sink: self.sink.on(&lane.runtime),
            lane,
            stop: stop.clone(),
            waiting_hosts: gates.waiting_hosts(&pass),
            open_host: gates.open_host(project).filter(|_| !is_awaited),
            progress: progress.clone(),
            news: self.news.0.clone(),
            meters: self.meters.clone(),
        };
        // Boxed: a runtime moves a task's future more than once, and this one is large.
        self.downloads.spawn(part.clone(), Box::pin(fetch_part(Arc::new(attempt))));
        if let Some(slots) = self.slots.entry(project) {
            *slots.or_default() += 1;
        }
        let stage = Stage::Downloading { pass, crowd };
        let attempt = Attempt { stage, path, declared_bytes, progress, stop, project };
        self.attempts.insert(part, attempt);
    }

    /// Waits for news of the parts under way. Cancel-safe.
    pub(crate) async fn next(&mut self) -> TransferEvent {
        tokio::select! {
            (part, end) = children::next(&mut self.downloads) => {
                TransferEvent::Downloaded(part, end)
            }
            (part, end) = children::next(&mut self.syncs) => {
                let panicked = |_| Err(PartFault::transient("the sync of the part panicked"));
                TransferEvent::Synced(part, end.unwrap_or_else(panicked))
            }
            end = self.publisher.next() => TransferEvent::Published(end),
            Some(news) = self.news.1.recv() => TransferEvent::News(news),
        }
    }

    /// A download is back: it gives its slot back, and tells how the other parts of its export
    /// may fare.
    pub(crate) fn download_ended(
        &mut self,
        part: &PartId,
        end: &DownloadEnd,
        retry: &RetryPolicy,
        now: Duration,
    ) -> Option<Freed> {
        let attempt = self.attempts.get_mut(part)?;
        let stage = std::mem::replace(&mut attempt.stage, Stage::Publishing);
        let Stage::Downloading { pass, crowd: probe } = stage else { return None };
        let (project, path) = (attempt.project, attempt.path.clone());
        if let Some(slots) = self.slots.get_mut(project) {
            *slots -= 1;
            if *slots == 0 {
                self.slots.remove(project);
            }
        }
        match end {
            Ok(_) | Err(PartFailure::Failed { progressed: true, .. }) => {
                self.fares_well(project, part.entry, &path);
            }
            Err(failure) if failure.is_faulted() => {
                self.fares_badly(part.entry, &path, retry, now);
            }
            Err(_) => {}
        }
        if probe.is_some() {
            self.queue.call_export(project, part.entry);
        }
        Some(Freed { project, pass })
    }

    /// A part of the export gains bytes: the others may go, too.
    pub(crate) fn fares_well(&mut self, project: ProjectId, entry: EntryId, path: &ExportPath) {
        let Some(mut crowd) = self.crowds.remove(entry) else { return };
        if crowd.fared_well() {
            let ExportPath { project, export } = path;
            tracing::info!(event = "parts_resumed", %project, %export, "parts of the export arrive again");
        }
        self.queue.call_export(project, entry);
    }

    fn fares_badly(
        &mut self,
        entry: EntryId,
        path: &ExportPath,
        retry: &RetryPolicy,
        now: Duration,
    ) {
        let Some(crowd) = self.crowds.entry(entry) else { return };
        let jitter = Clock::jitter();
        if let Some(faults) = crowd.or_default().failed(now, |round| retry.delay(round, jitter)) {
            let ExportPath { project, export } = path;
            tracing::warn!(event = "parts_wait", %project, %export, faults, "{faults} parts failed one after the other; the others wait, and one at a time is tried");
        }
    }

    /// Every byte of the part is here. A large part is synced by itself, then it waits for its
    /// name with the others that are as far.
    pub(crate) fn publish(&mut self, part: PartId, finished: AnyFinished) {
        if finished.syncs_with_group() {
            self.publisher.push(part, finished);
            return;
        }
        self.syncs.spawn(part, async move { finished.sync().await.map_err(sink_fault) });
    }

    /// The bytes of a large part are durable, or not.
    pub(crate) fn synced(&mut self, part: PartId, end: SyncEnd) -> Option<(PartId, PartFault)> {
        match end {
            Ok(finished) => self.publisher.push(part, finished),
            Err(fault) => return Some((part, fault)),
        }
        None
    }

    /// Begins a group of final names if there is one to begin.
    pub(crate) fn admit_group(&mut self, now: Duration) {
        self.publisher.admit(!self.downloads.is_empty(), now, &self.sink);
    }

    pub(crate) fn published(&mut self, end: Result<GroupEnd, Panicked>) -> publish::Outcomes {
        self.publisher.ended(end)
    }

    /// An attempt is over. Returns the project of the part.
    pub(crate) fn ended(&mut self, part: &PartId, is_committed: bool) -> Option<ProjectId> {
        let attempt = self.attempts.remove(part)?;
        if is_committed {
            self.meters.part_downloaded(&attempt.path.project, attempt.progress.began().elapsed());
        }
        Some(attempt.project)
    }

    /// Bytes of a part under way that are here.
    pub(crate) fn bytes(&self, part: &PartId) -> u64 {
        self.attempts.get(part).map_or(0, |attempt| attempt.progress.bytes())
    }

    /// Room on the disk that the parts under way have taken already, of what the API declared;
    /// those of one export do not count.
    pub(crate) fn allocated_bytes(&self, but: EntryId) -> u64 {
        let others = self.attempts.iter().filter(|(part, _)| part.entry != but);
        others.fold(0, |sum, (_, attempt)| {
            let declared_bytes = attempt.declared_bytes.unwrap_or(0);
            sum.saturating_add(attempt.progress.allocated_bytes().min(declared_bytes))
        })
    }

    /// Parts that hold a slot.
    pub(crate) fn slots_in_use(&self) -> usize {
        self.downloads.len()
    }

    pub(crate) fn slots_max(&self) -> usize {
        self.capacity.parts.get()
    }

    pub(crate) fn len(&self) -> usize {
        self.attempts.len()
    }

    /// The exports that parts are under way of, each once for each part.
    pub(crate) fn exports(&self) -> impl Iterator<Item = EntryId> {
        self.attempts.keys().map(|part| part.entry)
    }

    /// When something is to be done next.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        [self.retries.next_due(), self.queue.turns.next_due()].into_iter().flatten().min()
    }

    /// When the group that gathers begins at the latest.
    pub(crate) fn gathers_until(&self) -> Option<Duration> {
        self.publisher.gathers_until
    }
}

#[cfg(test)]
impl Transfers {
    pub(crate) fn parts(&self) -> impl Iterator<Item = &PartId> {
        self.attempts.keys()
    }

    pub(crate) fn group_len(&self) -> usize {
        self.publisher.group.len()
    }

    pub(crate) async fn group_end(&mut self) -> Result<GroupEnd, Panicked> {
        self.publisher.next().await
    }
}
