//! The process's runtimes: one for control, and lanes that move bytes and may block in write(2).
//!
//! A lane is a runtime of one thread, with an eye on its own connections. On a runtime of several
//! threads one of them watches the connections of all: where it blocks in write(2), nobody sees
//! what comes until that write is over. A disk that hangs holds up transfers only: polls, signals
//! and timers live on the control runtime.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// Lanes. They hash and write where they receive; more than two bring nothing on the hardware this
/// runs on.
const LANES: usize = 2;
/// Threads of each runtime for fsync, rename and other blocking work; a disk that hangs must not
/// collect more.
const BLOCKING_THREADS: usize = 16;
/// Longest wait for threads to end at exit; one that is stuck in the kernel is left to it.
const EXIT_WAIT: Duration = Duration::from_millis(200);

/// The process's runtimes.
#[derive(Debug)]
pub struct Runtimes {
    control: Runtime,
    lanes: Vec<LaneThread>,
    stop_lanes: CancellationToken,
}

/// The runtimes that move bytes; there is at least one.
#[derive(Debug, Clone)]
pub struct TransferRuntimes {
    /// One of them.
    pub first: Handle,
    /// The others.
    pub others: Vec<Handle>,
}

/// The thread of a lane.
#[derive(Debug)]
struct LaneThread {
    runtime: Handle,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl Runtimes {
    /// Starts all of them.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start() -> io::Result<Self> {
        let stop_lanes = CancellationToken::new();
        Ok(Self {
            // The thread that calls block_on: what its tasks tell each other wakes nobody.
            control: one_thread("control")?,
            lanes: (0..LANES)
                .map(|_| LaneThread::start(stop_lanes.clone()))
                .collect::<io::Result<_>>()?,
            stop_lanes,
        })
    }

    /// Those that move bytes.
    #[must_use]
    pub fn transfer(&self) -> TransferRuntimes {
        let mut lanes = self.lanes.iter().map(|lane| lane.runtime.clone());
        // Without a lane bytes would move on the control runtime; LANES is not zero.
        let first = lanes.next().unwrap_or_else(|| self.control.handle().clone());
        TransferRuntimes { first, others: lanes.collect() }
    }

    /// Runs a future to its end on the control runtime; `None` where it panicked.
    pub fn block_on<F: Future>(&self, future: F) -> Option<F::Output> {
        // Nothing of the future is looked at after a panic.
        catch_unwind(AssertUnwindSafe(|| self.control.block_on(future))).ok()
    }

    /// Ends all of them without waiting for a thread that is stuck.
    pub fn shut_down(self) {
        self.stop_lanes.cancel();
        let until = Instant::now() + EXIT_WAIT;
        for lane in self.lanes {
            // Nothing is ever sent: it ends or it takes too long.
            let _ = lane.ended.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
        self.control.shutdown_timeout(EXIT_WAIT);
    }
}

impl LaneThread {
    fn start(stop: CancellationToken) -> io::Result<Self> {
        let runtime = one_thread("transfer-blocking")?;
        let handle = runtime.handle().clone();
        let (alive, ended) = sync_channel(0);
        thread::Builder::new().name("transfer".to_owned()).spawn(move || {
            let _alive: std::sync::mpsc::SyncSender<()> = alive;
            runtime.block_on(stop.cancelled());
            runtime.shutdown_timeout(EXIT_WAIT);
        })?;
        Ok(Self { runtime: handle, ended })
    }
}

fn one_thread(blocking_threads_name: &str) -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    builder
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name(blocking_threads_name)
        .enable_all()
        .build()
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

    #[test]
    fn a_lane_that_is_stuck_holds_up_neither_the_others_nor_the_end() {
        let runtimes = Runtimes::start().unwrap();
        let TransferRuntimes { first, others } = runtimes.transfer();
        assert_eq!(others.len() + 1, LANES);
        let (stuck, is_stuck) = sync_channel(0);
        let (release, until) = sync_channel::<()>(0);
        let blocks = first.spawn(async move {
            stuck.send(()).unwrap();
            let _ = until.recv();
        });
        is_stuck.recv().unwrap();
        for other in others {
            // A timer needs a thread that looks after it.
            let ticked = other.spawn(async { tokio::time::sleep(Duration::from_millis(1)).await });
            runtimes.block_on(async { ticked.await.unwrap() }).unwrap();
        }
        let since = Instant::now();
        runtimes.shut_down();
        assert!(since.elapsed() < 2 * EXIT_WAIT + Duration::from_secs(1), "{:?}", since.elapsed());
        assert!(!blocks.is_finished());
        drop(release);
    }
}
