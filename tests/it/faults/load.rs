//! Numbers: thousands of exports, of parts, of rows. Spread, within the budget, and flat.

use std::fs;
use std::time::Duration;

use batch_export_watcher::simulator::{Recorded, SimExport, SimFile, ViewStep};

use crate::support::PATIENCE;
use crate::support::process::Watcher;
use crate::support::scene::count;
use crate::support::solo::{SHOP, Solo};

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// The most memory that a process ever had.
fn peak_bytes(watcher: &Watcher) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", watcher.id())).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn descriptors(watcher: &Watcher) -> usize {
    fs::read_dir(format!("/proc/{}/fd", watcher.id())).map_or(0, Iterator::count)
}

#[tokio::test]
async fn five_thousand_exports_that_start_together_are_spread_within_the_budget() {
    const RATE: u32 = 400;
    let ids: Vec<_> = (0..5_000).map(|number| format!("export_{number}")).collect();
    let solo = Solo::new(ids.iter().map(|id| running(id)).collect()).await;
    let solo = solo.with(&format!(
        "[api]\nrequests_per_second = {RATE}\n[poll]\nmin_interval = \"5s\"\nmax_interval = \"60s\""
    ));
    let watcher = solo.start();
    let requests = solo.wait_for(|seen| seen.len() >= 800).await;
    let instants: Vec<_> = requests.iter().map(|request| request.at).collect();
    for (first, from) in instants.iter().enumerate() {
        for last in (first + 20..instants.len()).step_by(20) {
            let (calls, span) = (last - first + 1, instants[last] - *from);
            // A tenth more, and some: calls that were delayed on their way arrive closer together than they were sent.
            let budget = 10.0 + 1.1 * f64::from(RATE) * span.as_secs_f64() + 40.0;
            assert!(calls as f64 <= budget, "{calls} calls within {span:?}");
        }
    }
    let peak = peak_bytes(&watcher);
    assert!(peak <= 64 << 20, "{peak} bytes of memory");
}

#[tokio::test]
async fn a_thousand_parts_take_no_more_memory_and_descriptors_than_ten() {
    let exports = |id: &str, parts: u64| {
        let part = |number| SimFile::generated(&format!("{id}_{number}"), number, 20_000);
        SimExport::finished(id, (1..=parts).map(part).collect())
    };
    let mut most = Vec::new();
    for parts in [10, 1_000] {
        let solo = Solo::new(vec![exports("export_1", parts), running("export_running")]).await;
        let watcher = solo.start();
        let mut open = 0;
        let whole = watcher.wait_for_log_within(|line| line.contains("export whole"), 3 * PATIENCE);
        let looking = async {
            loop {
                open = open.max(descriptors(&watcher));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = whole => {}
            () = looking => {}
        }
        assert_eq!(solo.home.manifest(SHOP, "export_1").parts.len() as u64, parts);
        most.push((open, peak_bytes(&watcher)));
    }
    // Parts that have their bytes wait for their name with others; there are never more than so many of those.
    assert!(most[1].0 <= most[0].0 + 2 * 192, "{most:?}");
    assert!(most[1].1 <= most[0].1 + (16 << 20), "{most:?}");
}

#[tokio::test]
async fn a_hundred_thousand_files_in_one_export_are_worked_on_and_hold_up_no_poll() {
    let rows = (1..=100_000).map(|number| SimFile::new(&format!("file_{number}"), number, "[]"));
    let many = SimExport::finished("export_many", rows.collect());
    let solo = Solo::new(vec![many, running("export_running")]).await;
    let watcher = solo.start();
    let is_fetch = |request: &Recorded| request.fetched_file().is_some();
    solo.sim
        .wait_for(
            |seen| seen.iter().filter(|request| is_fetch(request)).take(300).count() == 300,
            3 * PATIENCE,
        )
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let is_poll = |request: &Recorded| request.is_view_of("export_running");
    let polls = count(&solo.sim.requests(), is_poll);
    solo.wait_for(|seen| count(seen, is_poll) >= polls + 5).await;
    assert_eq!(solo.views("export_many").len(), 1);
    let peak = peak_bytes(&watcher);
    assert!(peak <= 160 << 20, "{peak} bytes of memory");
}
