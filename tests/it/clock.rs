//! A wall clock that jumps under the running daemon, as by a first synchronisation or a virtual
//! machine that is restored: waits are as long as they were, polls are neither more nor fewer, and
//! nothing is given up early.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use batch_export_watcher::simulator::{Canned, Recorded, SimExport, ViewStep};
use serde_json::Value;

use super::support::machine::Machine;
use super::support::process::Watcher;
use super::support::scene::{count, gaps, is_of, project_key, scene, seen};
use super::support::turns::punctual;

/// Where Debian keeps the library that tells a program another time; for programs with threads.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// Whether a program can be given another time here. If not, it says so.
fn is_possible() -> bool {
    let possible = Path::new(LIBRARY).exists();
    if !possible {
        // Not `eprintln!`, which a test that passes keeps to itself.
        let skipped = b"SKIPPED: this test needs libfaketime for another wall clock\n";
        std::io::stderr().write_all(skipped).expect("stderr");
    }
    possible
}

/// The year in which an event was written down.
fn year(event: &Value) -> i32 {
    event["timestamp"].as_str().and_then(|at| at.get(..4)?.parse().ok()).expect("a date")
}

/// The clock is moved by so many years while one project is told to wait for two seconds, and an
/// export is not known yet.
async fn a_jump_changes_nothing(years: i32) {
    let jump = format!("{:+}d", years * 365);
    let wait = Duration::from_secs(2);
    let (sim, mut home) =
        scene(vec![("shop", vec![running("shop_1")]), ("blog", vec![running("blog_1")])]).await;
    home.set_exports("shop", &["shop_1", "shop_unknown"]);
    home.write("clock", "+0d\n");
    let mut command = home.command("run", &[]);
    command.env("LD_PRELOAD", LIBRARY).env("FAKETIME_TIMESTAMP_FILE", home.path().join("clock"));
    command
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let machine = Machine::watch();
    let watcher = Watcher::spawn(command);
    let before = year(&watcher.wait_for_event(|event| event["message"] == "running").await);
    // By then the interval has grown as long as it gets.
    let of = |export: &'static str| move |request: &Recorded| request.is_view_of(export);
    seen(&sim, |seen| count(seen, of("shop_1")) >= 8 && count(seen, of("shop_unknown")) >= 1).await;
    sim.set_project_outage(&project_key("blog"), Some(Canned::throttled(Some("2"))))
        .expect("a project of the script");
    watcher.wait_for_log(|line| line.contains("the API asks for fewer requests (429)")).await;
    sim.set_project_outage(&project_key("blog"), None).expect("a project of the script");
    let known = sim.requests().len();
    home.write("clock", &format!("{jump}\n"));
    let again = |event: &Value| {
        event["message"].as_str().is_some_and(|told| told.contains("accepts requests again"))
    };
    let told = watcher.wait_for_event(again).await;
    // Leap days may make it a year less, or more.
    assert!((year(&told) - before - years).abs() <= 1, "the clock has jumped: {told}");
    let requests = seen(&sim, |seen| count(&seen[known..], of("shop_1")) >= 30).await;
    let refused =
        requests.iter().rfind(|request| request.status == Some(429)).expect("a refusal").at;
    let after = requests
        .iter()
        .find(|request| is_of(request, "blog") && request.at > refused)
        .expect("a call")
        .at;
    let waited = after - refused;
    assert!(
        waited >= wait && waited < machine.stretch(wait + Duration::from_secs(1)),
        "{jump}: asked again after {waited:?}"
    );
    // Every 100 ms, give or take a tenth, and what the machine takes.
    let gaps = gaps(&requests[known..], of("shop_1"));
    let usual = Duration::from_millis(60)..machine.stretch(Duration::from_millis(500));
    assert!(gaps.iter().all(|gap| usual.contains(gap)), "{jump}: {gaps:?}");
    assert!(
        !home.export("shop", "shop_unknown").exists(),
        "{jump}: the grace of ten minutes is not over"
    );
    assert_eq!(
        watcher.kill9().await.stderr.iter().filter(|line| line.contains("panicked")).count(),
        0
    );
}

#[tokio::test]
async fn a_wall_clock_that_jumps_ahead_causes_no_burst_and_ends_no_wait() {
    let _turn = punctual().await;
    if is_possible() {
        a_jump_changes_nothing(10).await;
    }
}

#[tokio::test]
async fn a_wall_clock_that_jumps_back_causes_no_stall_and_no_longer_wait() {
    let _turn = punctual().await;
    if is_possible() {
        a_jump_changes_nothing(-10).await;
    }
}
