//! The disk as a whole. Whoever meets a fault of the disk puts it in doubt; then the disk itself is
//! looked at, by nobody else's work: a fault that is one export's own (a folder that is not ours)
//! must not hold up the others, and a store that is slow must not keep a disk that is well again
//! closed.

use std::time::Duration;

use super::{DISK_INTERVAL, Scheduler};
use crate::domain::gate::Admission;
use crate::domain::resume::CHECKPOINT_BYTES;
use crate::engine::children::Panicked;
use crate::engine::scheduler::gates::Closed;
use crate::meters::PauseCause;
use crate::ports::Sink;

impl Scheduler {
    /// Some work could not use the disk: nothing new is written until it has been looked at.
    pub(super) fn doubt_disk(&mut self) {
        let now = self.now();
        if self.disk.is_open() {
            self.disk.refused(now, |_| Duration::ZERO);
        }
    }

    /// A part could not be written: the disk is not well before it has room for it, or it would be
    /// begun again and again. Of a large part only the first bytes count, because its room is taken
    /// before anybody is asked for it, and one that never fits must not keep the disk closed for
    /// all.
    pub(super) fn demand_room(&mut self, declared_bytes: Option<u64>) {
        self.disk_room_bytes =
            self.disk_room_bytes.max(declared_bytes.unwrap_or(0).min(CHECKPOINT_BYTES));
    }

    /// Looks at the disk where it is in doubt, and again while it is ill. Takes the directory's
    /// lock if that was away.
    pub(super) fn check_disk(&mut self, now: Duration) {
        match self.disk.admission(now) {
            Admission::Pass | Admission::WaitForProbe => {}
            Admission::WaitUntil(at) => self.look_again(Closed::Until(at)),
            Admission::Probe => {
                self.disk.probe_started();
                let (sink, lock, room_bytes) =
                    (self.sink.clone(), self.download_lock.clone(), self.disk_room_bytes);
                let blocking = self.lanes.for_blocking_work().clone();
                self.disk_checks.spawn((), async move {
                    sink.health(room_bytes).await.map_err(|fault| fault.to_string())?;
                    let locked = blocking.spawn_blocking(move || lock.ensure()).await;
                    let locked = locked.map_err(|error| error.to_string())?;
                    locked.map_err(|error| error.to_string())
                });
            }
        }
    }

    pub(super) fn disk_checked(&mut self, result: Result<Result<(), String>, Panicked>) {
        match result.unwrap_or_else(|Panicked| Err("the look at it panicked".to_owned())) {
            Ok(()) => {
                self.disk.opened();
                self.disk_room_bytes = 0;
                if std::mem::take(&mut self.disk_ill) {
                    tracing::info!(
                        event = "disk_recovered",
                        "the disk is well again; downloads go on"
                    );
                }
            }
            Err(cause) => {
                let now = self.now();
                self.disk.refused(now, |_| DISK_INTERVAL);
                if !std::mem::replace(&mut self.disk_ill, true) {
                    self.meters.paused(None, PauseCause::Disk);
                    tracing::error!(
                        event = "disk_failed",
                        cause,
                        "downloads wait for the disk: {cause}"
                    );
                }
            }
        }
    }
}
