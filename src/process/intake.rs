//! Patience with whatever takes the log. A reader that is stuck must not stop the program: the first
//! entry that it does not take waits a moment, and those after it are lost until it takes some.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Shorter than half the watchdog's time and than the time to stop, longer than a reader on a busy
/// machine takes.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Intake {
    lost: AtomicU64,
}

impl Intake {
    pub(super) const fn new() -> Self {
        Self { lost: AtomicU64::new(0) }
    }

    /// Whether another entry is taken at once. If not, it counts as lost.
    pub(super) fn takes(&self, reader: impl AsFd) -> bool {
        let patience =
            if self.lost.load(Ordering::Relaxed) == 0 { PATIENCE } else { Duration::ZERO };
        let is_ready = is_ready(reader, patience);
        if !is_ready {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        is_ready
    }

    /// Logs how many entries were lost, once the reader takes some again.
    pub(super) fn recovers(&self, reader: impl AsFd) {
        if self.lost.load(Ordering::Relaxed) == 0 || !is_ready(reader, Duration::ZERO) {
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                event = "log_lost",
                entries = lost,
                "{lost} entries of the log were lost, because nobody took them"
            );
        }
    }
}

/// A reader that is gone counts as ready: writing says so at once.
fn is_ready(reader: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap_or_default();
    poll(&mut [PollFd::new(&reader, PollFlags::OUT)], Some(&timeout)) != Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_takes_nothing_until_somebody_does() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let intake = Intake::new();
        let mut written = 0;
        while is_ready(&writer, Duration::ZERO) {
            writer.write_all(&[b'x'; 4096]).unwrap();
            written += 4096;
        }
        intake.lost.store(1, Ordering::Relaxed);
        assert!(!intake.takes(&writer));
        intake.recovers(&writer);
        assert_eq!(intake.lost.load(Ordering::Relaxed), 2);
        std::io::Read::read_exact(&mut reader, &mut vec![0; written]).unwrap();
        assert!(intake.takes(&writer));
        intake.recovers(&writer);
        assert_eq!(intake.lost.load(Ordering::Relaxed), 0);
        drop(reader);
        assert!(intake.takes(&writer), "whoever writes is told that the reader is gone");
    }
}
