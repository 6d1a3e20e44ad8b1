//! The process and its surroundings: too few descriptors, PID 1, being frozen and woken.

use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::Duration;

use batch_export_watcher::simulator::{
    Canned, LinkStep, Recorded, Serving, SimExport, SimFile, ViewStep,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use tokio::process::Command;

use crate::support::home::Home;
use crate::support::look;
use crate::support::machine::Machine;
use crate::support::process::{Watcher, copy_program, in_namespace, process_status};
use crate::support::scene::count;
use crate::support::solo::{SHOP, Solo};
use crate::support::strace;

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

/// Sends every signal that nobody means when he sends it to this program.
#[tokio::test]
async fn signals_that_mean_nothing_to_it_end_nothing() {
    let solo = Solo::new(vec![running("export_1")]).await;
    let mut watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "running").await;
    for signal in [
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::STKFLT,
        Signal::XFSZ,
    ] {
        watcher.signal(signal);
    }
    let polls = solo.views("export_1").len();
    solo.wait_for(|seen| count(seen, |request| request.is_view_of("export_1")) >= polls + 3).await;
    watcher.signal(Signal::TERM);
    let (code, output) = watcher.wait().await;
    assert_eq!(code, 0, "{output:?}");
}

/// The CPU time that a service may have is used up: that is a stop, not a death.
#[tokio::test]
async fn at_its_limit_of_cpu_time_it_stops_in_order() {
    let solo = Solo::new(vec![running("export_1")]).await;
    let mut watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "running").await;
    watcher.signal(Signal::XCPU);
    let (code, output) = watcher.wait().await;
    assert_eq!(code, 0, "{output:?}");
    assert!(output.stderr.iter().any(|line| line.contains("SIGXCPU")), "{output:?}");
}

/// strace sends the signal at the first call of the start that only the main thread makes.
#[tokio::test]
async fn a_signal_in_the_first_moment_waits_until_it_can_be_obeyed() {
    if !strace::is_possible() {
        return;
    }
    let file = || SimFile::generated("file_1", 1, 20_000);
    for (signal, whole, words) in
        [("HUP", true, "configuration reloaded"), ("USR1", true, ""), ("TERM", false, "stopping")]
    {
        // Its end waits for what the signal asks for.
        let success = ViewStep::Success(vec![file()]);
        let export = SimExport::new("export_1", vec![ViewStep::Held(Box::new(success))]);
        let solo = Solo::new(vec![export]).await;
        let arguments: &[_] = if whole { &["--exit-when-settled"] } else { &[] };
        let plain = solo.home.command("run", arguments);
        let plain = plain.as_std();
        let mut command = Command::new("strace");
        let at = format!("inject=prctl:signal={signal}:when=1");
        command.args(["-o", "/dev/null", "-e", "trace=prctl", "-e", &at]);
        command.arg(plain.get_program()).args(plain.get_args());
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(solo.home.path());
        let mut watcher = Watcher::spawn(command);
        if signal == "HUP" {
            watcher.wait_for_log(|line| line.contains(words)).await;
        }
        solo.sim.release("export_1");
        let (code, output) = watcher.wait().await;
        assert_eq!(code, 0, "SIG{signal}: {output:#?}");
        assert!(output.stderr.iter().any(|line| line.contains(words)), "SIG{signal}: {output:#?}");
        assert_eq!(solo.home.try_manifest(SHOP, "export_1").is_some(), whole, "SIG{signal}");
    }
}

/// A file that is larger than this process may write is the matter of its part.
#[tokio::test]
async fn a_part_above_the_limit_of_file_sizes_waits_alone_and_completes_after_it() {
    const LIMIT: u64 = 8 << 20;
    // One that has its room reserved, one that is written until it fails, one that fits.
    let files = [
        SimFile::generated("file_large", 1, 17 << 20),
        SimFile::generated("file_medium", 1, 9 << 20),
        SimFile::generated("file_small", 1, 20_000),
    ];
    let exports: Vec<_> = ["export_large", "export_medium"]
        .iter()
        .zip(&files)
        .map(|(id, file)| SimExport::finished(id, vec![file.clone()]))
        .collect();
    let late = SimExport::new(
        "export_small",
        vec![ViewStep::Held(Box::new(ViewStep::Success(vec![files[2].clone()])))],
    );
    let solo = Solo::new([exports, vec![late]].concat()).await;
    let watcher = solo.start_after(&format!("ulimit -S -f {}", LIMIT / 512), &[]);
    for export in ["export_large", "export_medium"] {
        let told = watcher
            .wait_for_event(|event| event["event"] == "part_failed" && event["export"] == export)
            .await;
        let cause = told["cause"].as_str().unwrap_or_default();
        assert!(cause.contains("File too large") && cause.contains("LimitFSIZE"), "{told}");
    }
    solo.sim.release("export_small");
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    solo.home.assert_whole(SHOP, "export_small", &[&files[2].content]);
    let limit = Rlimit { current: None, maximum: None };
    prlimit(Some(pid(watcher.id())), Resource::Fsize, limit).expect("the limit of our child");
    for (export, file) in ["export_large", "export_medium"].iter().zip(&files) {
        watcher.wait_for_log(|line| line.contains("export whole") && line.contains(export)).await;
        solo.home.assert_whole(SHOP, export, &[&file.content]);
    }
    let log = watcher.kill9().await.stderr.join("\n");
    assert!(!log.contains("disk_failed") && !log.contains("panicked"), "{log}");
}

/// A user of nobody else, whose threads the kernel counts.
const CROWDED: u32 = 61_403;

/// Runs a command of a home as that user, who may have so many threads.
fn crowded(home: &Home, plain: &Command, most: u64) -> Command {
    let program = home.path().join("program");
    copy_program(&program);
    for path in look::files_below(home.path()).iter().map(PathBuf::as_path).chain([home.path()]) {
        chown(path, Some(CROWDED), Some(CROWDED)).expect("root may give files away");
    }
    let plain = plain.as_std();
    let mut command = Command::new("prlimit");
    // The limit counts once the user is no longer root.
    command.arg(format!("--nproc={most}")).args(["setpriv", "--clear-groups", "--reuid"]);
    command.arg(CROWDED.to_string()).arg("--regid").arg(CROWDED.to_string());
    command.arg(program).args(plain.get_args()).current_dir(home.path());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// The number of threads that a user may have is used up, at the start or later.
#[tokio::test]
async fn without_a_free_thread_it_does_not_start_and_a_running_one_goes_on() {
    if !rustix::process::geteuid().is_root() {
        std::io::stderr().write_all(b"SKIPPED: this test needs root\n").expect("stderr");
        return;
    }
    let large: Vec<_> =
        (1..=3).map(|part| SimFile::generated(&format!("file_{part}"), part, 17 << 20)).collect();
    let views = vec![ViewStep::Held(Box::new(ViewStep::Success(large.clone())))];
    let solo = Solo::new(vec![SimExport::new("export_1", views)]).await;
    for most in [1, 2, 4, 6] {
        let command = crowded(&solo.home, &solo.home.command("run", &[]), most);
        let (code, output) = Watcher::spawn(command).wait().await;
        let said = output.stderr.iter().any(|line| line.contains("enough threads"));
        assert!(code == 75 && said, "{most} threads: {code} {output:#?}");
    }
    let command = crowded(&solo.home, &solo.home.command("run", &["--exit-when-settled"]), 14);
    let watcher = Watcher::spawn(command);
    watcher.wait_for_event(|event| event["message"] == "running").await;
    // Others of this user take the rest.
    let mut others = Command::new("setpriv");
    others.args(["--clear-groups", "--reuid", &CROWDED.to_string(), "sh", "-c"]);
    others.arg("for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 600 & done; echo all; wait");
    let others = Watcher::spawn(others);
    others.said(|line| (line == "all").then_some(())).await.expect("all of them run");
    solo.sim.release("export_1");
    let output = solo.settled(watcher, 0).await;
    let contents: Vec<_> = large.iter().map(|file| &file.content).collect();
    solo.home.assert_whole(SHOP, "export_1", &contents);
    assert!(!output.stderr.iter().any(|line| line.contains("panicked")), "{output:#?}");
    for child in others.proc_text(&format!("task/{}/children", others.id())).split_whitespace() {
        send(child.parse().expect("a process ID"), Signal::KILL);
    }
}
