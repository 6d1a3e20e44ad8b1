//! Ends and beginnings: crashes, restarts, retries. What was finished is never fetched again, what
//! was not never looks so.

use std::fs;

use batch_export_watcher::simulator::{
    Canned, Content, Serving, SimExport, SimFile, Simulator, StoreStep, ViewStep,
};
use rustix::process::Signal;
use tokio::process::Command;

use super::support::home::Home;
use super::support::process::Watcher;
use super::support::solo::{SHOP, Solo};
use super::support::{PATIENCE, eventually, look, move_to};

const BYTES: u64 = 300_000;

fn file(number: u64) -> SimFile {
    SimFile::generated(&format!("file_{number}"), number, BYTES)
}

/// The length of the working file that a part has by name, as a clean stop leaves it.
fn kept_bytes(solo: &Solo, name: &str) -> u64 {
    let path = solo.home.export(SHOP, "export_1").join(format!(".{name}.partial"));
    look::metadata(&path).map_or(0, |partial| partial.len())
}

/// Every request the simulator has seen, views and all.
fn requests(sim: &Simulator) -> usize {
    sim.requests().len()
}

#[tokio::test]
async fn after_a_crash_finished_parts_stay_and_the_rest_is_fetched() {
    let slow = file(2).on_fetch(Serving::well().stall_after(100_000)).on_fetch(Serving::well());
    let solo = Solo::finished(vec![file(1), slow, file(3)]).await;
    let watcher = solo.start();
    for part in [1, 3] {
        watcher
            .wait_for_event(|event| event["message"] == "part committed" && event["part"] == part)
            .await;
    }
    let folder = solo.home.export(SHOP, "export_1");
    eventually("bytes in the partial", || watcher.partial_bytes(&folder) == [100_000]).await;
    watcher.kill9().await;
    assert!(solo.home.try_manifest(SHOP, "export_1").is_none());
    solo.settle(0).await;
    solo.home.assert_whole(
        SHOP,
        "export_1",
        &[&file(1).content, &file(2).content, &file(3).content],
    );
    let counts = [1, 2, 3].map(|number| solo.fetches(&format!("file_{number}")).len());
    assert_eq!(counts, [1, 2, 1]);
    let second = &solo.fetches("file_2")[1];
    assert_eq!(second.header("range"), None, "after a crash no unsynced byte is trusted");
}

#[tokio::test]
async fn a_stop_in_mid_part_keeps_the_bytes_and_the_next_run_continues_from_there() {
    for signal in [Signal::TERM, Signal::INT] {
        let slow = file(1).on_fetch(Serving::well().stall_after(100_000)).on_fetch(Serving::well());
        let solo = Solo::finished(vec![slow]).await;
        let mut watcher = solo.start();
        let folder = solo.home.export(SHOP, "export_1");
        eventually("bytes in the partial", || watcher.partial_bytes(&folder) == [100_000]).await;
        watcher.signal(signal);
        assert_eq!(watcher.wait().await.0, 0, "{signal:?}");
        assert_eq!(kept_bytes(&solo, "part-00001-file_1.json"), 100_000);
        solo.settle(0).await;
        solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
        let fetches = solo.fetches("file_1");
        assert_eq!(fetches.len(), 2);
        assert_eq!(fetches[1].header("range"), Some("bytes=100000-"));
        assert_eq!(fetches[1].body_bytes, BYTES - 100_000);
    }
}

#[tokio::test]
async fn after_a_stop_and_a_crash_only_durable_bytes_are_trusted() {
    let stall = || Serving::well().stall_after(100_000);
    let slow = file(1).on_fetch(stall()).on_fetch(stall()).on_fetch(Serving::well());
    let solo = Solo::finished(vec![slow]).await;
    let mut watcher = solo.start();
    let folder = solo.home.export(SHOP, "export_1");
    eventually("bytes in the partial", || watcher.partial_bytes(&folder) == [100_000]).await;
    watcher.signal(Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
    let watcher = solo.start();
    eventually("more in the partial", || watcher.partial_bytes(&folder) == [200_000]).await;
    watcher.kill9().await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
    let ranges: Vec<_> = solo
        .fetches("file_1")
        .iter()
        .map(|fetch| fetch.header("range").map(str::to_owned))
        .collect();
    let after_the_stop = Some("bytes=100000-".to_owned());
    assert_eq!(ranges, [None, after_the_stop.clone(), after_the_stop]);
}

#[tokio::test]
async fn a_finished_export_is_never_requested_again_even_if_its_files_were_taken() {
    let solo = Solo::finished(vec![file(1)]).await;
    solo.settle(0).await;
    let asked = requests(&solo.sim);
    solo.settle(0).await;
    fs::remove_dir_all(solo.home.export(SHOP, "export_1")).unwrap();
    solo.settle(0).await;
    assert_eq!(requests(&solo.sim), asked);
    assert!(!solo.home.export(SHOP, "export_1").exists(), "what was taken does not come back");
}

#[tokio::test]
async fn a_failed_export_stays_failed_until_a_retry() {
    let solo = Solo::new(vec![SimExport::failing("export_1")]).await;
    solo.settle(1).await;
    let notice = solo.home.export(SHOP, "export_1").join("failed.json");
    let words: serde_json::Value = serde_json::from_slice(&fs::read(&notice).unwrap()).unwrap();
    assert_eq!((&words["kind"], &words["export_id"]), (&"remote_error".into(), &"export_1".into()));
    let asked = requests(&solo.sim);
    let output = solo.settle(1).await;
    assert_eq!(requests(&solo.sim), asked, "a failed export asks for nothing");
    let advice = "start the export again in Batch";
    let told = |line: &String| line.contains("failed on") && line.contains(advice);
    assert!(output.stderr.iter().any(told), "{:#?}", output.stderr);
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file(1)])]).unwrap();
    let mut retry = Watcher::spawn(solo.home.command("retry", &["export_1"]));
    let (code, output) = retry.wait().await;
    assert_eq!((code, output.stdout.len()), (0, 1), "{output:?}");
    assert!(!notice.exists(), "retry takes the notice away");
    assert_eq!(requests(&solo.sim), asked, "retry itself asks for nothing");
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

#[tokio::test]
async fn a_retry_fetches_only_what_was_missing() {
    let mut lost = file(2);
    lost.store_steps = vec![Canned::store_error(404, "NoSuchKey", "gone").into()];
    let solo = Solo::finished(vec![file(1), lost]).await;
    let solo = solo.with("[poll]\nnot_found_grace = \"100ms\"");
    solo.settle(1).await;
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file(1), file(2)])]).unwrap();
    assert_eq!(Watcher::spawn(solo.home.command("retry", &["export_1"])).wait().await.0, 0);
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content, &file(2).content]);
    assert_eq!(solo.fetches("file_1").len(), 1);
}

#[tokio::test]
async fn retry_says_what_it_cannot_do() {
    let views = vec![ViewStep::status("RUNNING")];
    let solo = Solo::new(vec![SimExport::new("export_1", views)]).await;
    let mut retry = Watcher::spawn(solo.home.command("retry", &["export_1", "export_other"]));
    let (code, output) = retry.wait().await;
    assert_eq!(code, 1);
    for export in ["export_1", "export_other"] {
        let told = |line: &String| line.contains(&format!("{export} is not a failed export"));
        assert!(output.stderr.iter().any(told), "{export}: {output:?}");
    }
    let watcher = solo.start();
    solo.wait_for(|seen| !seen.is_empty()).await;
    let mut retry = Watcher::spawn(solo.home.command("retry", &["export_1"]));
    let (code, output) = retry.wait().await;
    assert_eq!(code, 1, "the daemon says so as well: {output:?}");
    fs::remove_file(solo.home.path().join("state/control.sock")).unwrap();
    let mut retry = Watcher::spawn(solo.home.command("retry", &["export_1"]));
    let (code, output) = retry.wait().await;
    assert_eq!(code, 75, "while a daemon runs that cannot be asked, the state is its own");
    let holder = format!("process {}", watcher.id());
    assert!(output.stderr.iter().any(|line| line.contains(&holder)), "{output:?}");
}

#[tokio::test]
async fn a_failed_id_that_was_removed_and_added_again_is_polled_again() {
    let mut solo = Solo::new(vec![SimExport::failing("export_1")]).await;
    solo.settle(1).await;
    solo.home.set_exports(SHOP, &[]);
    solo.settle(0).await;
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file(1)])]).unwrap();
    solo.home.set_exports(SHOP, &["export_1"]);
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

#[tokio::test]
async fn a_finished_id_that_was_removed_and_added_again_is_known_as_done() {
    let mut solo = Solo::finished(vec![file(1)]).await;
    solo.settle(0).await;
    let asked = requests(&solo.sim);
    solo.home.set_exports(SHOP, &[]);
    solo.settle(0).await;
    solo.home.set_exports(SHOP, &["export_1"]);
    solo.settle(0).await;
    assert_eq!(requests(&solo.sim), asked);
}

#[tokio::test]
async fn a_lost_state_is_rebuilt_from_the_manifests() {
    let solo = Solo::new(vec![
        SimExport::finished("export_1", vec![file(1), file(2)]),
        SimExport::finished("export_2", vec![file(3)]),
    ])
    .await;
    solo.settle(0).await;
    let asked = requests(&solo.sim);
    fs::remove_dir_all(solo.home.path().join("state")).unwrap();
    // A consumer has begun to take this one.
    fs::remove_file(solo.home.export(SHOP, "export_2").join("part-00003-file_3.json")).unwrap();
    solo.settle(0).await;
    assert_eq!(requests(&solo.sim), asked);
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content, &file(2).content]);
}

#[tokio::test]
async fn without_state_or_manifest_the_files_that_are_there_are_adopted() {
    let solo = Solo::finished(vec![file(1), file(2)]).await;
    solo.settle(0).await;
    fs::remove_dir_all(solo.home.path().join("state")).unwrap();
    fs::remove_file(solo.home.export(SHOP, "export_1").join("manifest.json")).unwrap();
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content, &file(2).content]);
    assert_eq!([solo.fetches("file_1").len(), solo.fetches("file_2").len()], [1, 1]);
}

#[tokio::test]
async fn a_renamed_project_and_a_moved_directory_fetch_nothing_again() {
    let solo = Solo::finished(vec![file(1)]).await;
    solo.settle(0).await;
    let asked = requests(&solo.sim);
    move_to(solo.home.downloads(), solo.home.path().join("elsewhere"));
    let solo = solo.with("[download]\ndirectory = \"elsewhere\"");
    solo.settle(0).await;
    solo.home.write_config();
    let config = fs::read_to_string(solo.home.config_path()).unwrap();
    solo.home.write("renamed.toml", &config.replace("name = \"shop\"", "name = \"boutique\""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
    command.args(["run", "--exit-when-settled", "-c"]).arg(solo.home.path().join("renamed.toml"));
    solo.settled(Watcher::spawn(command), 0).await;
    assert_eq!(requests(&solo.sim), asked);
}

/// The program as `home` would start it, by way of a shell that says this first.
fn by_shell(home: &Home, first: &str, arguments: &[&str]) -> Command {
    let inner = home.command("run", arguments);
    let inner = inner.as_std();
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{first}; exec \"$0\" \"$@\"")).arg(inner.get_program());
    command.args(inner.get_args()).current_dir(home.path()).env_clear();
    command
}

#[tokio::test]
async fn whatever_the_umask_files_are_private() {
    for umask in ["000", "077", "777"] {
        let solo = Solo::new(vec![
            SimExport::finished("export_1", vec![file(1)]),
            SimExport::failing("export_2"),
        ])
        .await;
        let command = by_shell(&solo.home, &format!("umask {umask}"), &["--exit-when-settled"]);
        solo.settled(Watcher::spawn(command), 1).await;
        let tree = solo.home.tree();
        assert!(tree.len() >= 8, "{tree:#?}");
        for (path, mode) in &tree {
            let expected = if solo.home.downloads().join(path).is_dir() { 0o700 } else { 0o600 };
            assert_eq!(*mode, expected, "{path} under umask {umask} has {mode:o}");
        }
        for (path, metadata) in look::below(&solo.home.path().join("state")) {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = metadata.permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{} under umask {umask} has {mode:o}", path.display());
        }
    }
}

#[tokio::test]
async fn nobody_has_to_listen() {
    for first in ["exec >&- 2>&-", "exec 2>&1; exec >/dev/full 2>/dev/full"] {
        let solo = Solo::finished(vec![file(1)]).await;
        let command = by_shell(&solo.home, first, &["--exit-when-settled"]);
        solo.settled(Watcher::spawn(command), 0).await;
        solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
    }
    let solo = Solo::finished(vec![file(1)]).await;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = solo.home.command("run", &["--exit-when-settled"]);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    drop(reader);
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    // The command keeps its ends of the pipe.
    drop(command);
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{ended}");
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

/// Whatever is printed is the result of a command: without it, the command has not succeeded.
#[tokio::test]
async fn a_result_that_cannot_be_written_is_told_and_one_that_nobody_reads_is_not() {
    let solo = Solo::new(vec![
        SimExport::failing("export_1"),
        SimExport::failing("export_2"),
        SimExport::new("export_3", vec![ViewStep::status("RUNNING")]),
    ])
    .await;
    let mut daemon = solo.start();
    for export in ["export_1", "export_2"] {
        daemon.wait_for_log(|line| line.contains("export failed") && line.contains(export)).await;
    }
    let demo = tempfile::tempdir().unwrap();
    let demo = demo.path().to_str().unwrap();
    for (subcommand, arguments) in [
        ("check", &[][..]),
        ("check", &["--probe"]),
        ("status", &[]),
        ("status", &["--json"]),
        ("status", &["--watch", "--json"]),
        ("reload", &[]),
        ("retry", &["export_1"]),
        ("forget", &["export_2"]),
        ("--help", &[]),
        ("--version", &[]),
        ("demo", &["--dir", demo]),
    ] {
        let command = || {
            let mut command = solo.home.command(subcommand, arguments);
            if subcommand == "demo" || subcommand.starts_with("--") {
                command = Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
                command.arg(subcommand).args(arguments).env_clear();
            }
            command
        };
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (code, said) = ended_with_stdout(command(), full.into()).await;
        let told = said.contains("cannot write to standard output: No space left on device");
        assert!(code == Some(75) && told, "{subcommand} {arguments:?}: {code:?} {said}");
        // Watched again, or forgotten, in spite of that; a demo takes a while.
        if ["retry", "forget", "demo"].contains(&subcommand) {
            continue;
        }
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, said) = ended_with_stdout(command(), writer.into()).await;
        assert_eq!((code, said.as_str()), (Some(0), ""), "{subcommand} {arguments:?}");
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().await.0, 0);
}

/// How a command ends whose results go there, and what it says on stderr.
async fn ended_with_stdout(
    mut command: Command,
    stdout: std::process::Stdio,
) -> (Option<i32>, String) {
    command.env("RUST_LOG", "off").stdout(stdout).stderr(std::process::Stdio::piped());
    let child = command.kill_on_drop(true).spawn().expect("the program starts");
    drop(command);
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = ended.expect("it ends in time").expect("it can be waited for");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn three_hundred_exports_download_without_a_panic() {
    let export = |number: u64| {
        let files = (1..=3)
            .map(|part| SimFile::new(&format!("file_{number}_{part}"), part, "[1,2,3]"))
            .collect();
        SimExport::succeeding(&format!("export_{number}"), files)
    };
    let solo =
        Solo::new((0..300).map(export).collect()).await.with("[api]\nrequests_per_second = 100000");
    let output = solo.settle(0).await;
    assert!(!output.stderr.iter().any(|line| line.contains("panicked")));
    let content = Content::from("[1,2,3]");
    for number in 0..300 {
        solo.home.assert_whole(SHOP, &format!("export_{number}"), &[&content, &content, &content]);
    }
}

#[tokio::test]
async fn a_pending_link_refusal_is_not_carried_into_the_next_run() {
    let refused = file(1)
        .on_fetch(StoreStep::ExpiredLink)
        .on_fetch(StoreStep::ExpiredLink)
        .on_fetch(StoreStep::ExpiredLink)
        .on_fetch(Serving::well());
    let solo = Solo::finished(vec![refused]).await.with("[retry]\ninitial = \"1m\"\nmax = \"1m\"");
    let mut watcher = solo.start();
    watcher.wait_for_log(|line| line.contains("part failed")).await;
    watcher.signal(Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}
