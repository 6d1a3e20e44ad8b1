//! The process and its surroundings: too few descriptors, PID 1, being frozen and woken.

use std::time::Duration;

use batch_export_watcher::simulator::{
    Canned, LinkStep, Recorded, Serving, SimExport, SimFile, ViewStep,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::support::machine::Machine;
use crate::support::process::{Watcher, in_namespace, process_status};
use crate::support::scene::count;
use crate::support::solo::{SHOP, Solo};

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// Changes how many descriptors a process may have.
fn limit_descriptors(watcher: &Watcher, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: Some(1024) };
    prlimit(Some(pid(watcher.id())), Resource::Nofile, limit)
        .expect("the limit of a child of ours");
}

#[tokio::test]
async fn without_a_free_descriptor_it_waits_without_spinning_and_resumes() {
    let held = |number| {
        SimFile::generated(&format!("file_{number}"), number, 20_000)
            .on_fetch(Serving::well().held())
    };
    let files: Vec<_> = (1..=4).map(held).collect();
    let late = |number: u64| SimFile::generated(&format!("late_{number}"), number, 20_000);
    let late: Vec<_> = (1..=20).map(late).collect();
    let waiting = SimExport::new("export_late", vec![ViewStep::status("RUNNING")]);
    let exports =
        vec![SimExport::finished("export_1", files.clone()), waiting, running("export_running")];
    let solo = Solo::new(exports).await;
    let solo =
        solo.with("[download]\nmax_parts = 24\n[retry]\ninitial = \"20ms\"\nmax = \"400ms\"");
    let watcher = solo.start();
    for file in &files {
        solo.wait_for_fetches(&file.id, 1).await;
    }
    // What is open stays; no further one can be had.
    limit_descriptors(&watcher, 3);
    solo.sim
        .set_views("export_late", vec![ViewStep::Success(late.clone())])
        .expect("an export of the script");
    watcher.wait_for_log(|line| line.contains("Too many open files")).await;
    let polls = solo.views("export_running").len();
    let links = || count(&solo.sim.requests(), |request| request.path.ends_with("/download"));
    let asked = links();
    let (before, since) = (watcher.cpu(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (used, took) = (watcher.cpu() - before, since.elapsed());
    assert!(used < took / 3, "{used:?} of CPU within {took:?}: it spins");
    // Each of the parts waits longer from one time to the next, up to 400 ms.
    let asked = links() - asked;
    let rounds = took.as_millis().div_ceil(125);
    assert!(asked as u128 <= 20 * rounds, "{asked} links within {took:?}: it spins");
    limit_descriptors(&watcher, 1024);
    for file in &files {
        solo.sim.release(&file.id);
    }
    for (export, files) in [("export_1", &files), ("export_late", &late)] {
        let whole = |line: &str| line.contains("export whole") && line.contains(export);
        watcher.wait_for_log(whole).await;
        let contents: Vec<_> = files.iter().map(|file| &file.content).collect();
        solo.home.assert_whole(SHOP, export, &contents);
    }
    solo.wait_for(|seen| count(seen, |request| request.is_view_of("export_running")) >= polls + 3)
        .await;
    let log = watcher.kill9().await.stderr.join("\n");
    assert!(!log.contains("panicked") && !log.contains("export failed"), "{log}");
}

/// What has an export's folder, and a way to the API, lacks the sockets for the store alone.
#[tokio::test]
async fn parts_that_get_no_socket_wait_and_complete_later() {
    const PARTS: usize = 20;
    let busy = || LinkStep::Answer(Canned::api_error(500, "INTERNAL", "Once more."));
    let file = |number: u64| {
        let file = SimFile::generated(&format!("file_{number}"), number, 20_000);
        file.on_link(busy()).on_link(LinkStep::Redirect)
    };
    let files: Vec<_> = (1..=PARTS as u64).map(file).collect();
    let solo = Solo::new(vec![SimExport::finished("export_1", files.clone())]).await;
    // Between the first link and the second there is time to take the descriptors away.
    let solo =
        solo.with("[download]\nmax_parts = 24\n[retry]\ninitial = \"800ms\"\nmax = \"800ms\"");
    let watcher = solo.start();
    let is_link = |request: &Recorded| request.path.ends_with("/download");
    solo.wait_for(|seen| {
        count(seen, |request| is_link(request) && request.status.is_some()) >= PARTS
    })
    .await;
    limit_descriptors(&watcher, 3);
    watcher
        .wait_for_log(|line| line.contains("part failed") && line.contains("Too many open files"))
        .await;
    let links = || count(&solo.sim.requests(), is_link);
    let (asked, before, since) = (links(), watcher.cpu(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (asked, used, took) = (links() - asked, watcher.cpu() - before, since.elapsed());
    assert!(used < took / 3, "{used:?} of CPU within {took:?}: it spins");
    // After so many faults they are tried alone, each 400 ms at least after the one before.
    let most = 1 + took.as_millis().div_ceil(400);
    assert!(asked as u128 <= most, "{asked} links within {took:?}: it spins");
    limit_descriptors(&watcher, 1024);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    let contents: Vec<_> = files.iter().map(|file| &file.content).collect();
    solo.home.assert_whole(SHOP, "export_1", &contents);
}

#[tokio::test]
async fn as_process_1_it_obeys_signals_and_reloads() {
    let mut solo = Solo::new(vec![running("export_1"), running("export_2")]).await;
    solo.home.set_exports(SHOP, &["export_1"]);
    let options = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let Some(command) = in_namespace(&solo.home.command("run", &[]), &options, "") else { return };
    let mut watcher = Watcher::spawn(command);
    solo.wait_for(|seen| seen.iter().any(|request| request.is_view_of("export_1"))).await;
    let inner = child_of(&watcher);
    let numbers = process_status(inner, "NSpid:").expect("its numbers");
    assert!(numbers.ends_with("\t1"), "{numbers}");
    solo.home.set_exports(SHOP, &["export_2"]);
    solo.home.write_config();
    send(inner, Signal::HUP);
    solo.wait_for(|seen| seen.iter().any(|request| request.is_view_of("export_2"))).await;
    let known = solo.views("export_1").len();
    let polls = solo.views("export_2").len();
    solo.wait_for(|seen| count(seen, |request| request.is_view_of("export_2")) >= polls + 5).await;
    assert!(solo.views("export_1").len() <= known + 1, "what was taken out is asked for");
    let (machine, since) = (Machine::watch(), std::time::Instant::now());
    send(inner, Signal::TERM);
    let (code, output) = watcher.wait().await;
    let took = since.elapsed();
    assert_eq!(code, 0, "{output:?}");
    assert!(took < machine.stretch(Duration::from_secs(2)), "{took:?}");
}

fn child_of(watcher: &Watcher) -> u32 {
    let children = watcher.proc_text(&format!("task/{}/children", watcher.id()));
    children.split_whitespace().next().and_then(|child| child.parse().ok()).expect("a child")
}

fn pid(process: u32) -> Pid {
    i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process ID")
}

fn send(process: u32, signal: Signal) {
    kill_process(pid(process), signal).expect("a signal to our own");
}

#[tokio::test]
async fn a_daemon_that_was_frozen_for_many_intervals_polls_each_export_once() {
    let exports: Vec<_> = (1..=8).map(|number| running(&format!("export_{number}"))).collect();
    let solo = Solo::new(exports).await.with(
        "[poll]\nmin_interval = \"400ms\"\nmax_interval = \"400ms\"\n[api]\nrequests_per_second = 1000",
    );
    let watcher = solo.start();
    for number in 1..=8 {
        let id = format!("export_{number}");
        solo.wait_for(|seen| count(seen, |request| request.is_view_of(&id)) >= 2).await;
    }
    watcher.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_millis(2400)).await;
    let known = solo.sim.requests().len();
    let woken = tokio::time::Instant::now();
    watcher.signal(Signal::CONT);
    solo.wait_for(|seen| seen.len() >= known + 16).await;
    let requests = solo.sim.requests();
    for number in 1..=8 {
        let id = format!("export_{number}");
        let soon = |request: &Recorded| {
            request.is_view_of(&id) && request.at < woken + Duration::from_millis(340)
        };
        let asked = count(&requests[known..], soon);
        assert!(
            asked <= 1,
            "{id} was asked about {asked} times for the intervals that it slept through"
        );
    }
}
