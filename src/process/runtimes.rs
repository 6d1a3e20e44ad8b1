//! The runtimes of the process: one for control, and lanes that move bytes and may block in
//! write(2).
//!
//! A lane is a runtime of one thread that watches its own connections. On a runtime of several
//! threads one of them watches all connections: while it blocks in write(2), nobody sees what
//! arrives. A disk that hangs stops only transfers: polls, signals and timers run on the control
//! runtime.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// A lane hashes and writes what it receives. More than two gain nothing on the usual hardware.
const LANES: usize = 2;
/// For fsync, rename and the like, for each runtime. A disk that hangs must not take more.
const BLOCKING_THREADS: usize = 16;
/// The longest wait for threads at exit. One that is stuck in the kernel is abandoned.
const EXIT_WAIT: Duration = Duration::from_millis(200);
/// A thread that blocks is kept for good: the system may refuse another one.
const KEEP_THREADS: Duration = Duration::from_hours(24 * 365);

#[derive(Debug)]
pub struct Runtimes {
    control: Runtime,
    lanes: Vec<LaneThread>,
    stop_lanes: CancellationToken,
}

/// The runtimes that move bytes; there is at least one.
#[derive(Debug, Clone)]
pub struct TransferRuntimes {
    pub first: Handle,
    pub others: Vec<Handle>,
}

#[derive(Debug)]
struct LaneThread {
    runtime: Handle,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl Runtimes {
    pub fn start() -> io::Result<Self> {
        let stop_lanes = CancellationToken::new();
        // Runs on the thread that calls block_on, so its tasks need not wake another thread.
        let control = one_thread("control")?;
        let lanes = (0..LANES).map(|_| LaneThread::start(stop_lanes.clone()));
        let lanes = lanes.collect::<io::Result<_>>()?;
        // The database of the state takes a thread of its own.
        try_thread()?;
        Ok(Self { control, lanes, stop_lanes })
    }

    pub fn transfer(&self) -> TransferRuntimes {
        let mut lanes = self.lanes.iter().map(|lane| lane.runtime.clone());
        // LANES is not zero; without a lane, bytes would move on the control runtime.
        let first = lanes.next().unwrap_or_else(|| self.control.handle().clone());
        TransferRuntimes { first, others: lanes.collect() }
    }

    /// Runs a future to its end on the control runtime; `None` if it panicked.
    pub fn block_on<F: Future>(&self, future: F) -> Option<F::Output> {
        // Nothing uses the future after a panic.
        catch_unwind(AssertUnwindSafe(|| self.control.block_on(future))).ok()
    }

    /// Ends all runtimes, without waiting for a thread that is stuck.
    pub fn shut_down(self) {
        self.stop_lanes.cancel();
        let until = Instant::now() + EXIT_WAIT;
        for lane in self.lanes {
            // Nothing is ever sent: the thread ends or takes too long.
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

/// A runtime whose pool has a thread from the start. While the system refuses more of them, work
/// waits for those that are there; without any, `spawn_blocking` would panic.
fn one_thread(blocking_threads_name: &str) -> io::Result<Runtime> {
    let runtime = Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(KEEP_THREADS)
        .thread_name(blocking_threads_name)
        .enable_all()
        .build()?;
    // This has words for an error. The pool panics instead.
    try_thread()?;
    catch_unwind(AssertUnwindSafe(|| runtime.spawn_blocking(|| {})))
        .map_err(|_| io::ErrorKind::WouldBlock)?;
    Ok(runtime)
}

/// Whether the system lets this process start one more thread.
fn try_thread() -> io::Result<()> {
    thread::Builder::new().spawn(|| {})?.join().map_err(|_| io::ErrorKind::Other.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_main_future_is_caught() {
        let runtimes = Runtimes::start().unwrap();
        assert_eq!(runtimes.block_on(async { 7 }), Some(7));
        let panicking = async {
            assert_eq!(1, 2, "expected by this test");
        };
        assert_eq!(runtimes.block_on(panicking), None);
        runtimes.shut_down();
    }

    #[test]
    fn a_stuck_lane_blocks_neither_the_others_nor_the_exit() {
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
            // A timer needs a running thread.
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
