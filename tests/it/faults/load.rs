//! Numbers: thousands of exports, of parts, of rows. Spread, within the budget, and flat.

use std::time::{Duration, Instant};

use batch_export_watcher::simulator::{LinkStep, Recorded, SimExport, SimFile, ViewStep};

use crate::support::PATIENCE;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::machine::Machine;
use crate::support::process::Watcher;
use crate::support::scene::count;
use crate::support::solo::{SHOP, Solo};

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

#[tokio::test]
async fn five_thousand_exports_that_start_together_are_spread_within_the_budget() {
    const RATE: u32 = 400;
    let ids: Vec<_> = (0..5_000).map(|number| format!("export_{number}")).collect();
    let solo = Solo::new(ids.iter().map(|id| running(id)).collect()).await;
    let solo = solo.with(&format!(
        "[api]\nrequests_per_second = {RATE}\n[poll]\nmin_interval = \"5s\"\nmax_interval = \"60s\""
    ));
    let machine = Machine::watch();
    let watcher = solo.start();
    let requests = solo.wait_for(|seen| seen.len() >= 800).await;
    let instants: Vec<_> = requests.iter().map(|request| request.at).collect();
    let late = machine.worst();
    for (first, from) in instants.iter().enumerate() {
        for last in (first + 20..instants.len()).step_by(20) {
            let (calls, span) = (last - first + 1, instants[last] - *from);
            // A tenth more, and some: calls that were delayed on their way arrive closer together
            // than they were sent.
            let span_when_sent = late.stretch(span);
            let budget = 10.0 + 1.1 * f64::from(RATE) * span_when_sent.as_secs_f64() + 40.0;
            assert!(calls as f64 <= budget, "{calls} calls within {span:?}");
        }
    }
    let peak = watcher.peak_bytes();
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
                open = open.max(watcher.descriptors().len());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = whole => {}
            () = looking => {}
        }
        assert_eq!(solo.home.manifest(SHOP, "export_1").parts.len() as u64, parts);
        most.push((open, watcher.peak_bytes()));
    }
    // Parts that have their bytes wait for their name with others; there are never more than so
    // many of those.
    assert!(most[1].0 <= most[0].0 + 2 * 192, "{most:?}");
    assert!(most[1].1 <= most[0].1 + (16 << 20), "{most:?}");
}

#[tokio::test]
async fn a_hundred_thousand_files_in_one_export_download_and_delay_no_poll() {
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
    let peak = watcher.peak_bytes();
    assert!(peak <= 160 << 20, "{peak} bytes of memory");
}

/// 600 parts on a store that ends every connection, beside an export whose store is well.
#[tokio::test]
async fn only_a_few_of_many_parts_try_and_report_a_store_that_is_gone() {
    const PARTS: u64 = 600;
    let files: Vec<_> =
        (1..=PARTS).map(|number| SimFile::new(&format!("file_{number}"), number, "[1]")).collect();
    let solo = Solo::new(vec![running("export_sick"), running("export_well")]).await;
    let solo = solo.with("[retry]\ninitial = \"200ms\"\nmax = \"400ms\"");
    let proxy = FaultProxy::start(solo.sim.store_address(), vec![Fault::RefuseConnection]).await;
    solo.sim.set_link_origin(&proxy.origin());
    let watcher = solo.start();
    let set = |export: &str, files: Vec<SimFile>| {
        solo.sim.set_views(export, vec![ViewStep::Success(files)]).expect("an export of ours");
    };
    set("export_sick", files.clone());
    watcher
        .wait_for_event(|event| event["event"] == "parts_wait" && event["export"] == "export_sick")
        .await;
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let links = count(&solo.sim.requests(), |request| request.path.ends_with("/download"));
    // Two rounds of eight slots, what was under way meanwhile, and one each 200 ms at least.
    let most = || 16 + 7 + 1 + since.elapsed().as_millis().div_ceil(200);
    assert!(links as u128 <= most(), "{links} links were asked for");
    // Other parts do not wait: those on another store download at once.
    let well = LinkStep::RedirectWith {
        status: 307,
        location: format!("http://{}{{path}}", solo.sim.store_address()),
    };
    let well: Vec<_> = (1..=40)
        .map(|number| SimFile::new(&format!("well_{number}"), number, "[2]").on_link(well.clone()))
        .collect();
    set("export_well", well);
    watcher
        .wait_for_event(|event| {
            event["event"] == "export_completed" && event["export"] == "export_well"
        })
        .await;
    let told = count_events(&watcher, "part_failed");
    assert!(told as u128 <= most(), "{told} failures were told");
    proxy.set_faults(vec![Fault::Pass]);
    watcher
        .wait_for_event(|event| {
            event["event"] == "export_completed" && event["export"] == "export_sick"
        })
        .await;
    solo.home.assert_whole(
        SHOP,
        "export_sick",
        &files.iter().map(|file| &file.content).collect::<Vec<_>>(),
    );
    assert_eq!(
        (count_events(&watcher, "parts_wait"), count_events(&watcher, "parts_resumed")),
        (1, 1)
    );
}

fn count_events(watcher: &Watcher, name: &str) -> usize {
    let is_such = |line: &&String| {
        serde_json::from_str::<serde_json::Value>(line).is_ok_and(|event| event["event"] == name)
    };
    watcher.output().stderr.iter().filter(is_such).count()
}
