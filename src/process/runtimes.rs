//! Two runtimes: one for control, one that moves bytes and whose workers may block in write(2).
//!
//! A disk that hangs then holds up transfers only: polls, signals and timers live elsewhere.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// Workers that move bytes. They hash and write where they receive; more than two bring nothing on the hardware this runs on.
const TRANSFER_WORKERS: usize = 2;
/// Threads for fsync, rename and other blocking work; a disk that hangs must not collect more.
const BLOCKING_THREADS: usize = 16;
/// Longest wait for threads to end at exit; one that is stuck in the kernel is left to it.
const EXIT_WAIT: Duration = Duration::from_millis(200);

/// The process's runtimes.
#[derive(Debug)]
pub struct Runtimes {
    control: Runtime,
    transfer: Runtime,
}

impl Runtimes {
    /// Starts both.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start() -> io::Result<Self> {
        // Control is one thread, the one that calls block_on: what its tasks tell each other wakes nobody.
        let mut control = Builder::new_current_thread();
        let mut transfer = Builder::new_multi_thread();
        let build = |builder: &mut Builder, name: &'static str| {
            builder.max_blocking_threads(BLOCKING_THREADS).thread_name(name).enable_all().build()
        };
        Ok(Self {
            control: build(&mut control, "control")?,
            transfer: build(transfer.worker_threads(TRANSFER_WORKERS), "transfer")?,
        })
    }

    /// The one that moves bytes.
    #[must_use]
    pub fn transfer(&self) -> Handle {
        self.transfer.handle().clone()
    }

    /// Runs a future to its end on the control runtime; `None` where it panicked.
    pub fn block_on<F: Future>(&self, future: F) -> Option<F::Output> {
        // Nothing of the future is looked at after a panic.
        catch_unwind(AssertUnwindSafe(|| self.control.block_on(future))).ok()
    }

    /// Ends both without waiting for a thread that is stuck.
    pub fn shut_down(self) {
        self.transfer.shutdown_timeout(EXIT_WAIT);
        self.control.shutdown_timeout(EXIT_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_main_future_does_not_unwind_further() {
        let runtimes = Runtimes::start().unwrap();
        assert_eq!(runtimes.block_on(async { 7 }), Some(7));
        let panicking = async {
            assert_eq!(1, 2, "expected by this test");
        };
        assert_eq!(runtimes.block_on(panicking), None);
        runtimes.shut_down();
    }
}
