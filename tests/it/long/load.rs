//! Much at once, and a bad network: a thousand parts, five thousand exports, 300 ms there and back
//! with 2 % of packets lost.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batch_export_watcher::simulator::{Origin, Script, SimExport, SimFile, SimProject, Simulator};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, interval, timeout};

use super::budget::{Budget, Stalls};
use super::daemon::{Daemon, Tally, Vitals, heard, program};
use super::summarize;
use super::trend::Trend;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::home::Home;
use crate::support::scene::{project_key, rest_key};

const SHOP: &str = "shop";
/// Parts between their last byte and their name are 192 at most, each with its file and perhaps a
/// folder of its own; the rest is connections.
const MOST_DESCRIPTORS: f64 = 500.0;
/// Longest time that any of these may take, but for the hundred thousand parts.
const LIMIT: Duration = Duration::from_secs(300);
/// Set in the network namespace.
const INSIDE: &str = "BATCH_EXPORT_WATCHER_TEST_BAD_NETWORK";

/// A simulator with these exports, and a daemon that ends when it has them all.
struct Load {
    sim: Simulator,
    home: Home,
    tally: Arc<Mutex<Tally>>,
    exports: Vec<(String, Vec<SimFile>)>,
    requests: HashMap<Origin, u64>,
    limit: Duration,
}

/// What was seen while the daemon worked.
struct Seen {
    took: Duration,
    rss_kib: Trend,
    descriptors: Trend,
}

impl Load {
    async fn new(exports: Vec<(String, Vec<SimFile>)>, settings: &str) -> Self {
        let scripted =
            exports.iter().map(|(id, files)| SimExport::finished(id, files.clone())).collect();
        let project = SimProject::new(&project_key(SHOP), &rest_key(SHOP), scripted);
        let sim =
            Simulator::start(Script::new(vec![project])).await.expect("two free ports on loopback");
        let mut home = Home::new(sim.api_base_url()).with(settings);
        home.write_key(SHOP, &rest_key(SHOP));
        home.write("ids", &exports.iter().map(|(id, _)| format!("{id}\n")).collect::<String>());
        home.merge(&format!(
            "[[project]]\nname = \"{SHOP}\"\nproject_key = \"{}\"\nrest_api_key_file = \"{SHOP}.key\"\n\
             exports_file = \"ids\"",
            project_key(SHOP)
        ));
        Self { sim, home, tally: Arc::default(), exports, requests: HashMap::new(), limit: LIMIT }
    }

    /// Runs it to its end, looking at it all the while; what the simulator was asked is shown to
    /// `see`.
    async fn run(
        &mut self,
        mut see: impl FnMut(&batch_export_watcher::simulator::Recorded),
    ) -> Seen {
        self.home.write_config();
        let command = program(&self.home, "run", &["--exit-when-settled"]);
        let mut daemon = Daemon::start_command(command, &self.tally);
        let (mut rss_kib, mut descriptors) = (Trend::default(), Trend::default());
        let (began, mut ticks) = (Instant::now(), interval(Duration::from_millis(50)));
        while daemon.has_ended().is_none() {
            ticks.tick().await;
            if let Some(Vitals { rss_kib: kib, descriptors: open, .. }) = daemon.vitals() {
                rss_kib.add(began.elapsed().as_secs_f64(), kib.into());
                descriptors.add(began.elapsed().as_secs_f64(), open.into());
            }
            for request in self.sim.take_ended_requests() {
                *self.requests.entry(request.origin).or_default() += 1;
                see(&request);
            }
            assert!(
                began.elapsed() < self.limit,
                "not done; the log:\n{}",
                heard(&self.tally).last_lines()
            );
        }
        let took = began.elapsed();
        daemon.ended().await;
        assert!(heard(&self.tally).panics.is_empty());
        for request in self.sim.take_ended_requests() {
            *self.requests.entry(request.origin).or_default() += 1;
            see(&request);
        }
        for (export, files) in &self.exports {
            let contents: Vec<_> = files.iter().map(|file| &file.content).collect();
            let manifest = self.home.manifest(SHOP, export);
            assert_eq!(manifest.parts.len(), contents.len());
            for (part, content) in manifest.parts.iter().zip(contents) {
                let found = self.home.sha256(&format!("{SHOP}/{export}/{}", part.path));
                assert_eq!(found, content.sha256(), "{export}/{}", part.path);
            }
        }
        Seen { took, rss_kib, descriptors }
    }

    fn requests(&self, origin: Origin) -> u64 {
        self.requests.get(&origin).copied().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: run by tests/long/run.sh"]
async fn a_thousand_parts_of_one_export_take_as_much_as_a_hundred() {
    const PARTS: u64 = 1000;
    let part = |number| SimFile::generated(&format!("file_{number}"), number, 300_000);
    let files = (1..=PARTS).map(part).collect();
    let mut load = Load::new(vec![("export_1".to_owned(), files)], "").await;
    let seen = load.run(|_| {}).await;
    let fetches = load.requests(Origin::Store);
    summarize(&json!({
        "case": "1,000 parts in one export", "seconds": seen.took.as_secs_f64(), "bytes": PARTS * 300_000,
        "fetches": fetches, "rss_kib": { "thirds": seen.rss_kib.thirds(), "max": seen.rss_kib.max() },
        "descriptors": { "max": seen.descriptors.max() },
    }));
    assert_eq!(fetches, PARTS, "each part was fetched once");
    assert!(seen.rss_kib.is_flat(0.2, 4096.0), "{:?}", seen.rss_kib);
    assert!(seen.rss_kib.max() < 65_536.0, "{} KiB", seen.rss_kib.max());
    assert!(seen.descriptors.max() < MOST_DESCRIPTORS, "{} descriptors", seen.descriptors.max());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: run by tests/long/run.sh"]
async fn a_hundred_thousand_parts_of_one_export_download_the_last_as_fast_as_the_first() {
    const PARTS: u64 = 100_000;
    let part = |number: u64| {
        SimFile::new(&format!("file_{number}"), number, format!("[{number}]\n").as_str())
    };
    let mut load =
        Load::new(vec![("export_1".to_owned(), (1..=PARTS).map(part).collect())], "").await;
    load.limit = Duration::from_secs(1800);
    let (began, mut fetched) = (Instant::now(), Vec::new());
    let seen = load
        .run(|request| {
            if request.fetched_file().is_some() {
                fetched.push((request.at - began).as_secs_f64());
            }
        })
        .await;
    fetched.sort_by(f64::total_cmp);
    let tenth = fetched.len() / 10;
    let (first, last) =
        (fetched[2 * tenth] - fetched[tenth], fetched[9 * tenth] - fetched[8 * tenth]);
    summarize(&json!({
        "case": "100,000 parts in one export", "seconds": seen.took.as_secs_f64(), "fetches": fetched.len(),
        "seconds_of_the_second_and_the_ninth_tenth": [first, last],
        "rss_kib": { "thirds": seen.rss_kib.thirds(), "max": seen.rss_kib.max() },
        "descriptors": { "max": seen.descriptors.max() },
    }));
    assert_eq!(fetched.len() as u64, PARTS, "each part was fetched once");
    assert!(last < first * 2.0 + 5.0, "a tenth took {first} s at first and {last} s in the end");
    assert!(seen.rss_kib.max() < 262_144.0, "{} KiB", seen.rss_kib.max());
    assert!(seen.descriptors.max() < MOST_DESCRIPTORS, "{} descriptors", seen.descriptors.max());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: run by tests/long/run.sh"]
async fn five_thousand_exports_that_start_at_once_keep_the_budget_and_are_all_polled_in_turn() {
    const EXPORTS: u64 = 5000;
    const RATE: u64 = 200;
    let export = |number: u64| {
        let file = SimFile::generated(&format!("file_{number}"), 1, 500 + number % 1000);
        (format!("export_{number}"), vec![file])
    };
    // As they are by default, but for the rate: the first views of so many are spread over ten
    // seconds at least.
    let settings =
        "[api]\nrequests_per_second = 200\n[poll]\nmin_interval = \"10s\"\nmax_interval = \"5m\"";
    let mut load = Load::new((0..EXPORTS).map(export).collect(), settings).await;
    let (stalls, began) = (Stalls::watch(), Instant::now());
    let (mut budget, mut first, mut fault) = (Budget::new(RATE), HashMap::new(), None);
    let seen = load
        .run(|request| {
            if let Err(words) = budget.see(request, stalls.longest()) {
                fault.get_or_insert(words);
            }
            if request.path.ends_with("/exports/view") {
                first.entry(request.parameter("id")).or_insert(request.at);
            }
        })
        .await;
    let last_first = first.values().max().map_or(0.0, |at| (*at - began).as_secs_f64());
    let expected = Duration::from_secs(EXPORTS / RATE).as_secs_f64();
    summarize(&json!({
        "case": "5,000 exports at once", "seconds": seen.took.as_secs_f64(), "views": budget.views,
        "last_first_view_after_seconds": last_first, "seconds_by_the_budget": expected,
        "most_views_in_1_and_10_s": budget.busiest, "views_allowed_in_1_and_10_s": budget.allowed(),
        "rss_kib": { "max": seen.rss_kib.max() }, "descriptors": { "max": seen.descriptors.max() },
        "log_bytes_per_export": heard(&load.tally).bytes / EXPORTS,
    }));
    assert_eq!(fault, None);
    assert_eq!(first.len() as u64, EXPORTS);
    assert!(last_first < expected * 1.5 + 15.0, "the last first view came after {last_first} s");
    assert!(seen.rss_kib.max() < 131_072.0, "{} KiB", seen.rss_kib.max());
    assert!(seen.descriptors.max() < MOST_DESCRIPTORS, "{} descriptors", seen.descriptors.max());
}

/// Runs a command of the system; whether it is there and has worked.
async fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// Drops 2 % of the packets to and from these ports, each way.
async fn lose_packets(ports: [u16; 2]) {
    let [api, store] = ports;
    let mut rules = vec![
        "add table inet bad".to_owned(),
        "add chain inet bad input { type filter hook input priority 0 ; }".to_owned(),
    ];
    for side in ["sport", "dport"] {
        rules.push(format!(
            "add rule inet bad input tcp {side} {{ {api}, {store} }} numgen random mod 100 < 2 counter drop"
        ));
    }
    for rule in rules {
        assert!(runs("nft", &[&rule]).await, "nft {rule}");
    }
}

async fn lost_packets() -> u64 {
    let output =
        Command::new("nft").args(["list", "table", "inet", "bad"]).output().await.expect("nft");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let counts = text.split("counter packets ").skip(1);
    counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: run by tests/long/run.sh"]
async fn a_distant_network_that_loses_packets_only_delays() {
    if std::env::var_os(INSIDE).is_some() {
        return in_a_bad_network().await;
    }
    let possible =
        runs("unshare", &["--net", "sh", "-c", "ip link set lo up && nft list tables"]).await;
    if !possible {
        eprintln!(
            "SKIPPED: a network namespace with nft takes root, unshare, iproute2 and nftables"
        );
        summarize(
            &json!({ "case": "300 ms and 2 % loss", "skipped": "no network namespace with nft" }),
        );
        return;
    }
    // This very test, in a namespace that has nothing but a loopback with packets of an ordinary
    // size.
    let test = std::env::current_exe().expect("the test's own binary");
    let mut command = Command::new("unshare");
    let script = "ip link set lo mtu 1500 up; ip link set lo gso_max_size 1500 gso_max_segs 1 2>/dev/null; \
                  exec \"$0\" --ignored --exact --nocapture \
                  long::load::a_distant_network_that_loses_packets_only_delays";
    command.args(["--net", "sh", "-c", script]).arg(test).env(INSIDE, "1").kill_on_drop(true);
    let status =
        timeout(2 * LIMIT, command.status()).await.expect("an end").expect("unshare starts");
    assert!(status.success(), "in its namespace: {status}");
}

async fn in_a_bad_network() {
    const ONE_WAY: Duration = Duration::from_millis(150);
    const SLOTS: u32 = 8;
    let file = |export: u64, part: u64| {
        let bytes = if (export, part) == (0, 1) { 20_000_000 } else { 100_000 };
        SimFile::generated(&format!("file_{export}_{part}"), part, bytes)
    };
    let export = |number: u64| {
        (format!("export_{number}"), (1..=10).map(|part| file(number, part)).collect())
    };
    let exports: Vec<(String, Vec<SimFile>)> = (0..20).map(export).collect();
    let parts =
        u32::try_from(exports.iter().map(|(_, files)| files.len()).sum::<usize>()).expect("a few");
    let mut load = Load::new(exports, "").await;
    let late = || vec![Fault::Late { one_way: ONE_WAY }];
    let api = FaultProxy::start(load.sim.api_address(), late()).await;
    let store = FaultProxy::start(load.sim.store_address(), late()).await;
    load.sim.set_link_origin(&store.origin());
    load.home.merge(&format!("[api]\nbase_url = \"{}/2.11\"", api.origin()));
    lose_packets([api.address().port(), store.address().port()]).await;
    let seen = load.run(|_| {}).await;
    // A view, and for each part of a slot its link and its body.
    let ideal = 2 * ONE_WAY + 4 * ONE_WAY * parts.div_ceil(SLOTS);
    let lost = lost_packets().await;
    let repeated: u64 = {
        let tally = heard(&load.tally);
        let such = tally.by_message.iter().filter(|(words, _)| words.contains("will be repeated"));
        such.map(|(_, count)| count).sum()
    };
    summarize(&json!({
        "case": "300 ms and 2 % loss", "seconds": seen.took.as_secs_f64(),
        "ideal_seconds": ideal.as_secs_f64(), "parts": parts, "packets_lost": lost,
        "fetches": load.requests(Origin::Store), "repeated": repeated,
        "rss_kib": { "max": seen.rss_kib.max() }, "descriptors": { "max": seen.descriptors.max() },
    }));
    assert!(lost > 50, "{lost} packets were lost");
    assert!(seen.took < ideal * 3 + Duration::from_secs(20), "{:?}, ideally {ideal:?}", seen.took);
}
