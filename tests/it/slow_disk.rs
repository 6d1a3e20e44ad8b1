//! Slow disks and disks that hang: polls stay on time, memory stays flat, signals work, and
//! everything is whole in the end.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Content, Recorded, SimExport, SimFile, ViewStep};
use rustix::process::Signal;

use super::support::eventually;
use super::support::fuse::{Disk, Hang, Operation};
use super::support::machine::Machine;
use super::support::process::{Watcher, process_status};
use super::support::scene::{count, gaps};
use super::support::solo::{SHOP, Solo};
use super::support::turns::{Turn, alone, in_a_crowd};

/// An export that is never finished: its views show whether polling goes on.
const RUNNING: &str = "export_running";
/// Between two views of an export, by configuration.
const INTERVAL: Duration = Duration::from_millis(200);
/// Longest wait between two views: the interval with its jitter of ten percent, and what is
/// promised on top.
const LONGEST_GAP: Duration = Duration::from_millis(200 + 20 + 100);
/// Views that are watched while something hangs: two seconds of them.
const VIEWS: usize = 10;
/// Threads of the program that move bytes; while so many writes hang, no body is read.
const WRITERS: usize = 2;
/// Bytes that the slow disk takes in a second.
const SLOW_BYTES_PER_SECOND: u64 = 20_000_000;
/// Bytes that a disk takes in a second that is to be caught in mid-file.
const CRAWL_BYTES_PER_SECOND: u64 = 4_000_000;
/// What the program may ever have of memory here. A debug build needs about 20 MiB, whatever the
/// disk.
const MOST_MEMORY_BYTES: u64 = 32 << 20;
/// By how much the peaks of two runs may differ: where threads and buffers come to lie is chance.
const MEMORY_CHANCE_BYTES: u64 = 5 << 20;
/// Longest time from the first signal to the end.
const GRACE: Duration = Duration::from_secs(10);

/// A signal that has nothing to wait for is obeyed within this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The daemon's world, with exports landing on a disk with moods.
struct Stage {
    // Dropped first: removing the folder that it is mounted on would wait for what hangs.
    disk: Disk,
    solo: Solo,
    machine: Machine,
    _turn: Turn,
}

impl Stage {
    /// `None`, loudly, if there can be no such disk.
    async fn new(turn: Turn, exports: Vec<SimExport>) -> Option<Self> {
        let interval = INTERVAL.as_millis();
        let poll =
            format!("[poll]\nmin_interval = \"{interval}ms\"\nmax_interval = \"{interval}ms\"");
        let solo = Solo::new(exports).await.with(&poll);
        let disk = Disk::mount(solo.home.downloads())?;
        Some(Self { disk, solo, machine: Machine::watch(), _turn: turn })
    }

    /// Starts the daemon and waits until it polls: its marker and its lock are on the disk then.
    async fn start(&self) -> Watcher {
        let watcher = self.solo.start();
        self.solo.wait_for(|seen| seen.iter().any(|request| request.ended_at.is_some())).await;
        watcher
    }

    /// The API says from now on that this export is finished.
    fn finish(&self, export: &str, files: &[SimFile]) {
        self.solo
            .sim
            .set_views(export, vec![ViewStep::Success(files.to_vec())])
            .expect("a scripted export");
    }

    async fn wait_until_hanging(&self, operations: usize) {
        eventually("operations that hang", || self.disk.hanging() >= operations).await;
    }

    /// Waits until so many more views of an export were asked for.
    async fn wait_for_views(&self, export: &str, more: usize) {
        let is_view = |request: &Recorded| request.is_view_of(export);
        let until = count(&self.solo.sim.requests(), is_view) + more;
        self.solo.wait_for(|seen| count(seen, is_view) >= until).await;
    }

    /// Holds the waits between all views of an export so far against the promise. A machine that is
    /// itself late is not the program's fault.
    fn assert_on_time(&self, export: &str) {
        self.assert_on_time_after(0, export);
    }

    /// As [`Stage::assert_on_time`], without the first `known` requests.
    fn assert_on_time_after(&self, known: usize, export: &str) {
        let gaps = gaps(&self.solo.sim.requests()[known..], |request| request.is_view_of(export));
        let longest = gaps.iter().max().expect("two views");
        let late = self.machine.worst();
        assert!(
            *longest <= self.machine.stretch(LONGEST_GAP),
            "views of {export} came after {gaps:?}, where the machine was late by {late:?}"
        );
    }

    async fn assert_whole(&self, watcher: &Watcher, export: &str, files: &[SimFile]) {
        watcher
            .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
            .await;
        self.solo.home.assert_whole(SHOP, export, &contents(files));
    }

    /// The disk continues, and another run downloads the rest.
    async fn assert_finished_by_another_run(&self, export: &str, files: &[SimFile]) {
        self.disk.release();
        self.solo.settle(i32::from(exit::DONE)).await;
        self.solo.home.assert_whole(SHOP, export, &contents(files));
    }
}

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// Files of so many bytes each, made beforehand: generating them on the way would hold up the
/// simulator's other answers.
fn files(export: &str, numbers: RangeInclusive<u64>, bytes: usize) -> Vec<SimFile> {
    let file = |number: u64| {
        let line = format!("[{export}, {number}]\n");
        let mut content = line.repeat(bytes.div_ceil(line.len())).into_bytes();
        content.truncate(bytes);
        SimFile::new(&format!("file_{number}_of_{export}"), number, content)
    };
    numbers.map(file).collect()
}

fn contents(files: &[SimFile]) -> Vec<&Content> {
    files.iter().map(|file| &file.content).collect()
}

/// Downloads 42 MB to a disk of that speed, with polls on time. Gives how long it took, and the
/// program's peak memory.
async fn bring_home(bytes_per_second: Option<u64>) -> Option<(Duration, u64)> {
    let stage = Stage::new(alone().await, vec![running("export_1"), running(RUNNING)]).await?;
    stage.disk.limit(bytes_per_second);
    let watcher = stage.start().await;
    let files = files("export_1", 1..=3, 14_000_000);
    let since = Instant::now();
    stage.finish("export_1", &files);
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    let (took, peak) = (since.elapsed(), watcher.peak_bytes());
    stage.assert_on_time(RUNNING);
    stage.assert_whole(&watcher, "export_1", &files).await;
    Some((took, peak))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_costs_neither_memory_nor_polls() {
    let Some((_, fast_peak)) = bring_home(None).await else { return };
    let Some((took, slow_peak)) = bring_home(Some(SLOW_BYTES_PER_SECOND)).await else { return };
    assert!(took >= Duration::from_millis(2100), "42 MB went to a disk of 20 MB/s in {took:?}");
    assert!(slow_peak <= MOST_MEMORY_BYTES, "{slow_peak} bytes of memory");
    assert!(
        slow_peak <= fast_peak + MEMORY_CHANCE_BYTES,
        "{slow_peak} bytes of memory, not {fast_peak}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_hang_in_mid_body_stop_only_downloads() {
    let exports = ["export_1", "export_2", RUNNING].map(running);
    let Some(mut stage) = Stage::new(alone().await, exports.into()).await else { return };
    // Shorter than the hang: a store whose bytes nobody takes does not stall.
    stage.solo.home.merge("[download]\nstall_timeout = \"1s\"");
    let watcher = stage.start().await;
    stage.disk.limit(Some(CRAWL_BYTES_PER_SECOND));
    let (large, small) = (files("export_1", 1..=4, 6_000_000), files("export_2", 1..=1, 1000));
    stage.finish("export_1", &large);
    let flows = |seen: &[Recorded], file: &SimFile| {
        seen.iter().any(|request| request.is_fetch_of(&file.id) && request.body_bytes > 0)
    };
    stage.solo.wait_for(|seen| large.iter().all(|file| flows(seen, file))).await;
    stage.disk.hang(&[Operation::Write], Hang::Deaf);
    stage.wait_until_hanging(WRITERS).await;
    stage.wait_for_views(RUNNING, VIEWS / 2).await;
    stage.finish("export_2", &small);
    watcher.wait_for_event(|event| event["export"] == "export_2" && event["to"] == "SUCCESS").await;
    stage.wait_for_views(RUNNING, VIEWS / 2).await;
    assert!(stage.disk.hanging() >= WRITERS, "the writes did not hang all the while");
    for polled in [RUNNING, "export_2"] {
        stage.assert_on_time(polled);
    }
    let peak = watcher.peak_bytes();
    assert!(peak <= MOST_MEMORY_BYTES, "{peak} bytes of memory");
    stage.disk.limit(None);
    stage.disk.release();
    stage.assert_whole(&watcher, "export_1", &large).await;
    stage.assert_whole(&watcher, "export_2", &small).await;
    for file in large.iter().chain(&small) {
        assert_eq!(stage.solo.fetches(&file.id).len(), 1, "{} is fetched once", file.id);
    }
}

/// Polls continue while these operations hang, at least `hanging` of them at once. Everything is
/// whole after they no longer do.
async fn polls_go_on_while(operations: &[Operation], hanging: usize) {
    let ids = ["export_1", "export_2", "export_3", "export_4", "export_5", "export_6"];
    let exports = ids.into_iter().chain([RUNNING]).map(running);
    let Some(stage) = Stage::new(alone().await, exports.collect()).await else { return };
    let watcher = stage.start().await;
    stage.disk.hang(operations, Hang::Deaf);
    for id in ids {
        stage.finish(id, &files(id, 1..=2, 100_000));
    }
    stage.wait_until_hanging(hanging).await;
    // Before that the stage itself is busy: it makes the contents of all files.
    let known = stage.solo.sim.requests().len();
    stage.wait_for_views(RUNNING, VIEWS).await;
    stage.assert_on_time_after(known, RUNNING);
    stage.disk.release();
    for id in ids {
        stage.assert_whole(&watcher, id, &files(id, 1..=2, 100_000)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_go_on_while_files_cannot_be_synced() {
    polls_go_on_while(&[Operation::Sync], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_go_on_while_folders_cannot_be_synced() {
    polls_go_on_while(&[Operation::SyncFolder], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_go_on_while_the_free_space_cannot_be_asked_for() {
    polls_go_on_while(&[Operation::Space], 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_go_on_while_the_disk_answers_nothing() {
    polls_go_on_while(&Operation::ALL, 4).await;
}

/// A daemon whose writers are all stuck in `write(2)`, and what it was to write to `export_1`.
async fn stuck_in_write(hang: Hang) -> Option<(Stage, Watcher, Vec<SimFile>)> {
    // It only waits, and for many times longer than a busy machine is late.
    let turn = in_a_crowd().await;
    let stage = Stage::new(turn, vec![running("export_1")]).await?;
    let watcher = stage.start().await;
    stage.disk.hang(&[Operation::Write], hang);
    let files = files("export_1", 1..=3, 2_000_000);
    stage.finish("export_1", &files);
    stage.wait_until_hanging(WRITERS).await;
    Some((stage, watcher, files))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_daemon_whose_writes_hang_within_the_grace_period() {
    let Some((stage, mut watcher, files)) = stuck_in_write(Hang::Killable).await else { return };
    watcher.signal(Signal::TERM);
    let since = Instant::now();
    let (code, _) = watcher.wait_within(2 * GRACE).await;
    let took = since.elapsed();
    assert_eq!(code, i32::from(exit::UNFINISHED));
    assert!(took < GRACE, "it took {took:?}");
    stage.assert_finished_by_another_run("export_1", &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_daemon_whose_writes_hang_at_once() {
    let Some((stage, mut watcher, files)) = stuck_in_write(Hang::Killable).await else { return };
    watcher.signal(Signal::TERM);
    watcher.wait_for_log(|line| line.contains("draining")).await;
    watcher.signal(Signal::TERM);
    let since = Instant::now();
    let (code, _) = watcher.wait().await;
    let took = since.elapsed();
    assert_eq!(code, i32::from(exit::UNFINISHED));
    assert!(took < stage.machine.stretch(AT_ONCE), "it took {took:?}");
    stage.assert_finished_by_another_run("export_1", &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_the_kernel_keeps_is_done_within_its_grace_period() {
    let Some((stage, mut watcher, files)) = stuck_in_write(Hang::Deaf).await else { return };
    watcher.signal(Signal::TERM);
    let since = Instant::now();
    watcher.wait_for_log_within(|line| line.contains("the time to stop is over"), GRACE).await;
    // All that is left are the threads in write(2); nothing can end those but the disk.
    let process = watcher.id();
    eventually("the end of all other threads", || {
        process_status(process, "State:").is_some_and(|state| state.starts_with('Z'))
            && process_status(process, "Threads:") == Some((1 + WRITERS).to_string())
    })
    .await;
    let took = since.elapsed();
    assert!(took < GRACE, "it took {took:?}");
    stage.disk.release();
    assert_eq!(watcher.wait().await.0, i32::from(exit::UNFINISHED));
    stage.assert_finished_by_another_run("export_1", &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_disk_that_answers_nothing_can_be_stopped() {
    let turn = alone().await;
    let Some(stage) = Stage::new(turn, vec![running("export_1")]).await else { return };
    stage.disk.hang(&Operation::ALL, Hang::Killable);
    let mut watcher = stage.solo.start();
    stage.wait_until_hanging(1).await;
    watcher.signal(Signal::TERM);
    let since = Instant::now();
    let (code, _) = watcher.wait().await;
    let took = since.elapsed();
    assert_eq!(code, i32::from(exit::DONE));
    assert!(took < stage.machine.stretch(AT_ONCE), "it took {took:?}");
    stage.disk.release();
}
