//! How a disk is at the moment: how fast it writes, what hangs, and what fails.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::support::process::process_status;

/// Longest that anything hangs, whatever a test forgets.
const LONGEST_HANG: Duration = Duration::from_secs(30);
/// How often a hanging operation checks whether the thread that asked for it is being killed.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The bit of SIGKILL, signal 9, in a mask of `/proc/PID/status`.
const SIGKILL_BIT: u64 = 1 << 8;

/// What is asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `write(2)`.
    Write,
    /// `fsync(2)` of a file.
    Sync,
    /// `fsync(2)` of a folder. The kernel sends one at a time for each folder.
    SyncFolder,
    /// `statfs(2)`.
    Space,
    /// Everything about names and attributes, and reading.
    Other,
}

impl Operation {
    /// A disk that does not answer at all.
    pub(crate) const ALL: [Self; 5] =
        [Self::Write, Self::Sync, Self::SyncFolder, Self::Space, Self::Other];
}

/// What becomes of a process that is killed while it waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hang {
    /// It is let go, as by NFS.
    Killable,
    /// It stays until the disk answers, as with a broken device: no process can end while one of
    /// its threads is in there.
    Deaf,
}

/// Shared by the test and the threads that serve the disk.
#[derive(Debug, Default)]
pub(super) struct Moods {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes_per_second: Option<u64>,
    /// When the one head will have written what it was given.
    head_free_at: Option<Instant>,
    hang: Option<(Vec<Operation>, Hang)>,
    hanging: usize,
    failing: Option<(Vec<Operation>, i32)>,
    failed: usize,
    retired: bool,
}

impl Moods {
    pub(super) fn limit(&self, bytes_per_second: Option<u64>) {
        self.state().bytes_per_second = bytes_per_second;
    }

    pub(super) fn hang(&self, operations: &[Operation], hang: Hang) {
        let mut state = self.state();
        state.hang = Some((operations.to_vec(), hang)).filter(|_| !state.retired);
    }

    pub(super) fn release(&self) {
        self.state().hang = None;
        self.changed.notify_all();
    }

    pub(super) fn fail(&self, operations: &[Operation], errno: i32) {
        let mut state = self.state();
        state.failing = Some((operations.to_vec(), errno)).filter(|_| !state.retired);
    }

    pub(super) fn heal(&self) {
        self.state().failing = None;
    }

    /// Operations that have failed so far.
    pub(super) fn failed(&self) -> usize {
        self.state().failed
    }

    /// Nothing is slow, hangs or fails any more, for good.
    pub(super) fn retire(&self) {
        self.state().retired = true;
        self.limit(None);
        self.heal();
        self.release();
    }

    /// Operations that hang now.
    pub(super) fn hanging(&self) -> usize {
        self.state().hanging
    }

    /// Waits until the operation may go on; `thread` is who asked for it.
    pub(super) fn pass(&self, operation: Operation, thread: u32) -> Result<(), Errno> {
        let until = Instant::now() + LONGEST_HANG;
        let mut state = self.state();
        state.hanging += 1;
        let passed = loop {
            match &state.hang {
                Some((operations, hang))
                    if operations.contains(&operation) && Instant::now() < until =>
                {
                    if *hang == Hang::Killable && is_being_killed(thread) {
                        break Err(Errno::EINTR);
                    }
                }
                _ => break Ok(()),
            }
            let waited = self.changed.wait_timeout(state, LOOK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.hanging -= 1;
        passed?;
        match &state.failing {
            Some((operations, errno)) if operations.contains(&operation) => {
                let errno = Errno::from_i32(*errno);
                state.failed += 1;
                Err(errno)
            }
            _ => Ok(()),
        }
    }

    /// Takes as long as the one head of the disk needs for so many bytes, after what it was given
    /// before.
    pub(super) fn write_with_head(&self, bytes: usize) {
        let mut state = self.state();
        let Some(rate) = state.bytes_per_second else { return };
        let now = Instant::now();
        let needed = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX)
            / u32::try_from(rate).unwrap_or(u32::MAX).max(1);
        let done_at = state.head_free_at.unwrap_or(now).max(now) + needed;
        state.head_free_at = Some(done_at);
        drop(state);
        thread::sleep(done_at - now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole by itself, also where a test panicked after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a fatal signal waits for this thread: SIGKILL, or the end of its process.
fn is_being_killed(thread: u32) -> bool {
    let pending = process_status(thread, "SigPnd:");
    let pending = pending.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    pending.is_some_and(|mask| mask & SIGKILL_BIT != 0)
}
