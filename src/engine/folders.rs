//! Work on the folders of exports, and the health of the disk they lie on.
//!
//! Whoever meets a fault of the disk puts it in doubt; then the disk itself is looked at, by nobody
//! else's work: a fault that is one export's own (a folder that is not ours) must not hold up the
//! others, and a store that is slow must not keep a disk closed that is well again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::JoinMap;

use super::children::{self, Panicked};
use super::chores::{Chore, ChoreEnd, ChoreKind, ChoreOrder};
use super::ids::EntryId;
use super::turns::Turns;
use crate::domain::gate::{Admission, Gate, Probe};
use crate::domain::ids::ExportPath;
use crate::domain::resume::CHECKPOINT_BYTES;
use crate::domain::stage::Cause;
use crate::domain::wait::Trouble;
use crate::domain::watch::PartOrder;
use crate::meters::Meters;
use crate::ports::Sink;
use crate::process::lock::LateLock;
use crate::sinks::AnySink;

/// Chores under way at once: they block, and a disk that hangs must not collect threads.
const MAX_CHORES: usize = 4;
/// How often the disk is looked at while it is ill or full, and chores are tried again that it
/// hindered.
pub(crate) const DISK_INTERVAL: Duration = Duration::from_secs(5);

/// Names a chore: of each kind an export has one at a time.
pub(crate) type ChoreId = (EntryId, ChoreKind);

#[derive(Debug)]
pub(crate) struct Folders {
    chores: HashMap<ChoreId, Work>,
    queue: Turns<ChoreId>,
    parked: BTreeSet<ChoreId>,
    /// What the log said that chores wait for.
    hindrances: BTreeSet<String>,
    /// When parked chores are tried again.
    parked_until: Option<Duration>,
    running: JoinMap<ChoreId, ChoreEnd>,
    disk: Disk,
    checks: JoinMap<(), Result<(), String>>,
    sink: AnySink,
    download_lock: Arc<LateLock>,
    blocking: Handle,
    meters: Meters,
}

#[derive(Debug)]
struct Work {
    chore: Chore,
    /// Why it had to be put off.
    trouble: Option<Trouble>,
}

#[derive(Debug, Default)]
struct Disk {
    gate: Gate,
    probe: Option<Probe>,
    /// Room that it needs to count as well.
    room_bytes: u64,
    /// What is wrong with it.
    illness: Option<Trouble>,
}

pub(crate) enum FolderEvent {
    Chore(ChoreId, Result<ChoreEnd, Panicked>),
    DiskChecked(Result<(), String>),
}

impl Folders {
    pub(crate) fn new(
        sink: AnySink,
        download_lock: Arc<LateLock>,
        blocking: Handle,
        meters: Meters,
    ) -> Self {
        let mut folders = Self {
            chores: HashMap::new(),
            queue: Turns::default(),
            parked: BTreeSet::new(),
            hindrances: BTreeSet::new(),
            parked_until: None,
            running: JoinMap::new(),
            disk: Disk::default(),
            checks: JoinMap::new(),
            sink,
            download_lock,
            blocking,
            meters,
        };
        if !folders.download_lock.is_held() {
            folders.doubt_disk(Duration::ZERO);
        }
        folders
    }

    /// Queues a chore. Returns `false` if one of its kind is queued or under way for the export.
    #[must_use]
    pub(crate) fn order(&mut self, entry: EntryId, chore: Chore) -> bool {
        let id = (entry, chore.kind());
        if self.chores.contains_key(&id) {
            return false;
        }
        self.chores.insert(id, Work { chore, trouble: None });
        self.queue.join(id);
        true
    }

    /// Calls off what the export only waits for. Returns whether there was anything.
    #[must_use]
    pub(crate) fn call_off(&mut self, entry: EntryId) -> bool {
        let id = (entry, ChoreKind::Prepare);
        if self.running.contains_key(&id) || !self.chores.contains_key(&id) {
            return false;
        }
        self.done(id);
        self.queue.leave(&id);
        self.parked.remove(&id);
        true
    }

    /// Queues parked chores again when their time has come.
    pub(crate) fn wake(&mut self, now: Duration) {
        if self.parked_until.is_some_and(|until| until <= now) {
            self.parked_until = None;
            for id in std::mem::take(&mut self.parked) {
                self.queue.join(id);
            }
        }
    }

    /// Begins chores while the disk is well. `needs` says where the folder of an export is, and
    /// which of its parts have no record.
    pub(crate) fn admit(
        &mut self,
        needs: impl Fn(EntryId) -> Option<(ExportPath, Vec<PartOrder>)>,
    ) {
        while self.disk.gate.is_open() && self.running.len() < MAX_CHORES {
            let Some(id) = self.queue.next() else { return };
            let Some(Work { chore, .. }) = self.chores.get(&id) else { continue };
            let Some((at, unrecorded)) = needs(id.0) else { continue };
            let (sink, chore) = (self.sink.clone(), chore.clone());
            let order = ChoreOrder { sink, at, chore, unrecorded };
            self.running.spawn(id, Box::pin(order.run()));
        }
    }

    /// Waits for a chore, or a look at the disk, to end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> FolderEvent {
        tokio::select! {
            (id, end) = children::next(&mut self.running) => FolderEvent::Chore(id, end),
            ((), result) = children::next(&mut self.checks) => {
                let panicked = |_| Err("the look at it panicked".to_owned());
                FolderEvent::DiskChecked(result.unwrap_or_else(panicked))
            }
        }
    }

    pub(crate) fn done(&mut self, id: ChoreId) {
        if let Some(Work { trouble: Some(before), .. }) = self.chores.remove(&id) {
            self.hindrances.remove(&before.words);
        }
    }

    /// Whether no chore was hindered by this before: what is in the way of many exports is told
    /// once, and again after one of them got past it.
    pub(crate) fn is_new_hindrance(&mut self, cause: &str) -> bool {
        self.hindrances.insert(cause.to_owned())
    }

    /// A chore cannot be done yet: it is tried again. Returns whether that is news to it.
    pub(crate) fn park(&mut self, id: ChoreId, cause: Cause, words: String, now: Duration) -> bool {
        let Some(work) = self.chores.get_mut(&id) else { return false };
        if let Some(before) = work.trouble.as_ref().filter(|before| before.words != words) {
            self.hindrances.remove(&before.words);
        }
        let is_news = Trouble::met(&mut work.trouble, cause, words, now);
        self.parked.insert(id);
        self.parked_until.get_or_insert(now.saturating_add(DISK_INTERVAL));
        is_news
    }

    /// What an export's folder waits for, and when it is tried again.
    pub(crate) fn trouble(&self, entry: EntryId) -> Option<(&Trouble, Option<Duration>)> {
        let mut works = ChoreKind::ALL.iter().map(|kind| (entry, *kind));
        works.find_map(|id| {
            let trouble = self.chores.get(&id)?.trouble.as_ref()?;
            Some((trouble, self.parked_until.filter(|_| self.parked.contains(&id))))
        })
    }

    /// Some work could not use the disk: nothing new is written until it has been looked at.
    pub(crate) fn doubt_disk(&mut self, now: Duration) {
        if self.disk.gate.is_open() {
            self.disk.gate.refused(now, |_| Duration::ZERO);
        }
    }

    /// A part could not be written: the disk is not well before it has room for it, or the part
    /// would be begun again and again. Of a large part only the first bytes count, because its
    /// room is taken before anybody is asked for it, and one that never fits must not keep the
    /// disk closed for all.
    pub(crate) fn demand_room(&mut self, declared_bytes: Option<u64>) {
        let bytes = declared_bytes.unwrap_or(0).min(CHECKPOINT_BYTES);
        self.disk.room_bytes = self.disk.room_bytes.max(bytes);
    }

    /// Looks at the disk if it is in doubt, and again while it is ill. Takes the directory's lock
    /// if that was away.
    pub(crate) fn check_disk(&mut self, now: Duration) {
        let Some(probe) = self.disk.gate.probe(now) else { return };
        self.disk.probe = Some(probe);
        let (sink, room_bytes) = (self.sink.clone(), self.disk.room_bytes);
        let (lock, blocking) = (self.download_lock.clone(), self.blocking.clone());
        self.checks.spawn((), async move {
            sink.health(room_bytes).await.map_err(|fault| fault.to_string())?;
            let locked = blocking.spawn_blocking(move || lock.ensure()).await;
            locked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        });
    }

    pub(crate) fn disk_checked(&mut self, result: Result<(), String>, now: Duration) {
        let disk = &mut self.disk;
        match result {
            Ok(()) => {
                disk.gate.opened();
                disk.room_bytes = 0;
                if disk.illness.take().is_some() {
                    tracing::info!(
                        event = "disk_recovered",
                        "the disk works again; downloads continue"
                    );
                }
            }
            Err(cause) => {
                disk.gate.refused(now, |_| DISK_INTERVAL);
                let is_new = disk.illness.is_none();
                Trouble::met(&mut disk.illness, Cause::Disk, cause.clone(), now);
                if is_new {
                    self.meters.paused(None, Cause::Disk);
                    tracing::error!(
                        event = "disk_failed",
                        cause,
                        "downloads wait for the disk: {cause}"
                    );
                }
            }
        }
        disk.probe = None;
    }

    /// Whether the disk may be written to.
    pub(crate) fn disk_is_open(&self) -> bool {
        self.disk.gate.is_open()
    }

    /// What is wrong with the disk that downloads wait for, and when it is looked at again.
    pub(crate) fn illness(&self) -> Option<(&Trouble, Option<Duration>)> {
        Some((self.disk.illness.as_ref()?, self.disk.gate.paused_until()))
    }

    /// Chores that a thread is at work on.
    pub(crate) fn under_way(&self) -> usize {
        self.running.len()
    }

    /// When something is to be done next.
    pub(crate) fn wakes_at(&self, now: Duration) -> Option<Duration> {
        let disk = match self.disk.gate.admission(now) {
            Admission::WaitUntil(at) => Some(at),
            Admission::Pass | Admission::Probe | Admission::WaitForProbe => None,
        };
        self.parked_until.into_iter().chain(disk).min()
    }
}

#[cfg(test)]
impl Folders {
    /// The chores that wait to be tried again.
    pub(crate) fn parked(&self) -> Vec<ChoreId> {
        self.parked.iter().copied().collect()
    }

    /// Takes the chore out that would be begun next, as if it were under way.
    pub(crate) fn take_next(&mut self) -> ChoreId {
        self.queue.next().expect("a chore is queued")
    }

    /// A thread is at work on this chore until [`Folders::pretend_ended`].
    pub(crate) fn pretend_running(&mut self, id: ChoreId) {
        self.running.spawn(id, std::future::pending());
    }

    pub(crate) fn pretend_ended(&mut self) {
        self.running = JoinMap::new();
    }

    /// Another look at the disk is due at once.
    pub(crate) fn look_now(&mut self) {
        self.disk.gate.restore(Duration::ZERO, Duration::ZERO);
    }
}
