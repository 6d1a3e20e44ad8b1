//! `status`: from the daemon, from the state where none runs, again and again on a terminal, and as
//! a health probe.

use std::process::Stdio;

use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Serving, SimExport, SimFile, ViewStep};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::support::http::get;
use super::support::process::{Output, Watcher};
use super::support::solo::Solo;
use super::support::turns::alone;
use super::support::{PATIENCE, eventually, look};

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

fn file() -> SimFile {
    SimFile::generated("file_1", 1, 100_000)
}

async fn ran(solo: &Solo, arguments: &[&str]) -> (i32, Output) {
    Watcher::spawn(solo.home.command("status", arguments)).wait().await
}

async fn document(solo: &Solo) -> Value {
    let (code, output) = ran(solo, &["--json"]).await;
    assert_eq!((code, output.stdout.len()), (0, 1), "{output:?}");
    serde_json::from_str(&output.stdout[0]).expect("json")
}

/// Every key of a document, by its path; of lists the first element.
fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.push(format!("{path}.{key}"));
                keys(value, &format!("{path}.{key}"), found);
            }
        }
        Value::Array(list) => {
            if let Some(first) = list.first() {
                keys(first, path, found);
            }
        }
        _ => {}
    }
}

fn keys_of(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    keys(value, "", &mut found);
    found
}

#[tokio::test]
async fn the_daemon_serves_the_whole_document_and_the_table_shows_it() {
    let held = file().on_fetch(Serving::well().held());
    let exports = vec![
        SimExport::finished("export_with_a_name_that_takes_more_room_than_there_is", vec![held]),
        pending("export_2"),
        SimExport::failing("export_3"),
    ];
    let solo = Solo::new(exports).await.with("[server]\nlisten = \"127.0.0.1:0\"");
    let watcher = solo.start();
    let told = watcher.wait_for_log(|line| line.contains("status page at http://")).await;
    let address =
        told.split("http://").nth(1).and_then(|rest| rest.split('"').next()).expect("an address");
    watcher.wait_for_log(|line| line.contains("export failed")).await;
    solo.wait_for_fetches("file_1", 1).await;
    solo.wait_for(|seen| {
        seen.iter().any(|view| view.is_view_of("export_2") && view.ended_at.is_some())
    })
    .await;
    let status = document(&solo).await;
    let page = get(&format!("http://{address}/api/v1/status"), &[]).await.json();
    assert_eq!(keys_of(&status), keys_of(&page));
    assert_eq!(status["source"], "daemon");
    let config = solo.home.config_path().display().to_string();
    assert_eq!(status["config_file"], config);
    let (code, output) = ran(&solo, &[]).await;
    assert_eq!(code, 0);
    let text = output.stdout.join("\n");
    for words in ["export_wit…_there_is", "fetching", "RUNNING", "failed", "0/1", "shop"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let too_wide = |line: &&String| line.chars().count() > 80;
    assert!(!output.stdout.iter().any(|line| too_wide(&line)) && !text.contains('\x1b'), "{text}");
    solo.sim.release("file_1");
}

#[tokio::test]
async fn the_table_of_eighty_thousand_exports_arrives() {
    const COUNT: usize = 80_000;
    // The command waits for half a minute, and a debug build takes a third of that on a calm machine.
    let _turn = alone().await;
    let solo = Solo::new(Vec::new()).await;
    let ids: String = (0..COUNT).map(|number| format!("export_{number:032}\n")).collect();
    solo.home.write("ids.txt", &ids);
    solo.home.write_config();
    let config = solo.home.config_path();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    solo.home.write("config.toml", &text.replace("exports = []", "exports_file = \"ids.txt\""));
    let ran = |subcommand: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
        command.args([subcommand, "-c"]).arg(&config).args(arguments).current_dir(solo.home.path());
        command.env_clear();
        Watcher::spawn(command)
    };
    let watcher = ran("run", &[]);
    watcher.wait_for_log_within(|line| line.contains("running"), 2 * PATIENCE).await;
    // The table is made from the document that the daemon sends.
    let (code, output) = ran("status", &[]).wait_within(3 * PATIENCE).await;
    assert_eq!(code, 0, "{:?}", output.stderr);
    let rows = output.stdout.iter().filter(|line| line.starts_with("  export_")).count();
    assert_eq!(rows, COUNT);
}

#[tokio::test]
async fn without_a_daemon_status_reads_the_state_and_creates_nothing() {
    let mut solo = Solo::new(vec![
        SimExport::finished("export_1", vec![file()]),
        SimExport::failing("export_2"),
        pending("export_3"),
    ])
    .await;
    let (code, output) = ran(&solo, &[]).await;
    assert_eq!(code, 0);
    assert!(
        output.stdout[0].starts_with("no daemon runs, and there is no state yet: 3 exports"),
        "{output:?}"
    );
    assert!(!solo.home.path().join("state").exists() && !solo.home.downloads().exists());
    solo.home.set_exports("shop", &["export_1", "export_2"]);
    solo.settle(1).await;
    solo.home.set_exports("shop", &["export_3", "export_2", "export_1"]);
    let files = || {
        let files = look::below(&solo.home.path().join("state")).into_iter();
        files.map(|(path, metadata)| (path, metadata.modified().unwrap())).collect::<Vec<_>>()
    };
    let before = files();
    let status = document(&solo).await;
    assert_eq!(files(), before, "a look changes nothing");
    assert_eq!(status["source"], "state");
    let exports = status["projects"][0]["exports"].as_array().unwrap();
    let told: Vec<_> = exports
        .iter()
        .map(|of| (of["id"].as_str().unwrap(), of["state"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("export_3", "new"), ("export_2", "failed"), ("export_1", "whole")]);
    assert_eq!(exports[2]["bytes"]["done"], 100_000);
    let (code, output) = ran(&solo, &[]).await;
    let text = output.stdout.join(" ");
    assert_eq!(code, 0);
    assert!(text.contains("not asked"), "{text}");
    assert!(
        text.starts_with(
            "no daemon runs, the state has: 1 export to watch, 1 not asked yet, 1 whole, 1 failed"
        ),
        "{text}"
    );
    let (code, output) = ran(&solo, &["--check"]).await;
    assert_eq!(
        (code, output.stdout.len(), output.stderr.len()),
        (i32::from(exit::UNHEALTHY), 0, 1)
    );
}

#[tokio::test]
async fn status_reads_a_state_that_a_kill_left_behind_as_it_is() {
    let solo =
        Solo::new(vec![SimExport::finished("export_1", vec![file()]), pending("export_2")]).await;
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    watcher.kill9().await;
    let status = document(&solo).await;
    assert_eq!(status["source"], "state");
    assert_eq!(status["projects"][0]["exports"][0]["state"], "whole");
}

#[tokio::test]
async fn options_that_cannot_be_combined_are_refused() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    for arguments in [&["--check", "--json"][..], &["--check", "--watch"], &["--watch"]] {
        let (code, output) = ran(&solo, arguments).await;
        assert_eq!(code, i32::from(exit::USAGE), "{arguments:?}: {output:?}");
    }
    solo.home.write_config();
    let command = solo.home.command("status", &[]);
    solo.home.write("config.toml", "[[project");
    assert_eq!(Watcher::spawn(command).wait().await.0, i32::from(exit::CONFIGURATION));
}

#[tokio::test]
async fn a_watch_for_programs_follows_the_daemon_over_its_end() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let mut watch = Watcher::spawn(solo.home.command("status", &["--watch", "--json"]));
    let saw = |watch: &Watcher, source: &str, after: usize| {
        let output = watch.output().stdout;
        output[after.min(output.len())..]
            .iter()
            .any(|line| line.contains(&format!("\"source\":\"{source}\"")))
    };
    eventually("the state", || saw(&watch, "state", 0)).await;
    let mut daemon = solo.start();
    daemon.wait_for_event(|event| event["message"] == "running").await;
    eventually("the daemon", || saw(&watch, "daemon", 0)).await;
    let lines = watch.output().stdout.len();
    daemon.signal(Signal::TERM);
    daemon.wait().await;
    eventually("the state again", || saw(&watch, "state", lines)).await;
    watch.signal(Signal::TERM);
    assert_eq!(watch.wait().await.0, 0);
}

/// The command on a terminal of its own, of so many columns; what came over it until the end.
async fn on_a_terminal(
    solo: &Solo,
    arguments: &str,
    environment: &[(&str, &str)],
    end: Option<Signal>,
) -> (i32, String) {
    let plain = solo.home.command("status", &[]);
    let program = plain.as_std().get_program().to_string_lossy().into_owned();
    let line = format!(
        "exec sh -c 'echo pid $$; stty rows 30 cols 100; exec {program} status -c {} {arguments}'",
        solo.home.config_path().display()
    );
    let mut command = Command::new("script");
    command.args(["-qefc", &line, "/dev/null"]);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm")
        .envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("script of util-linux");
    let mut out = child.stdout.take().expect("stdout is piped");
    let mut seen = Vec::new();
    let mut told = end.is_none();
    let reading = async {
        let mut buffer = [0; 4096];
        loop {
            let bytes = out.read(&mut buffer).await.expect("output");
            if bytes == 0 {
                return;
            }
            seen.extend_from_slice(&buffer[..bytes]);
            let text = String::from_utf8_lossy(&seen);
            // Two frames.
            if !told && text.matches("\x1b[H").count() >= 2 {
                told = true;
                let id = text.split("pid ").nth(1).and_then(|rest| rest.split_whitespace().next());
                let id = id.and_then(|id| id.parse().ok()).and_then(rustix::process::Pid::from_raw);
                rustix::process::kill_process(id.expect("its id"), end.expect("a signal"))
                    .expect("sent");
            }
        }
    };
    tokio::time::timeout(2 * PATIENCE, reading).await.expect("an end in time");
    let status = child.wait().await.expect("an end");
    (status.code().expect("a code"), String::from_utf8_lossy(&seen).into_owned())
}

#[tokio::test]
async fn on_a_terminal_it_has_colours_unless_they_are_off() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let (code, text) = on_a_terminal(&solo, "", &[], None).await;
    assert!(code == 0 && text.contains("\x1b[1m"), "{text:?}");
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (code, text) = on_a_terminal(&solo, "", &[variable], None).await;
        assert!(code == 0 && !text.contains('\x1b') && text.contains("not asked"), "{text:?}");
    }
    let (_, text) = on_a_terminal(&solo, "", &[("NO_COLOR", "")], None).await;
    assert!(text.contains("\x1b[1m"), "an empty variable is none: {text:?}");
}

#[tokio::test]
async fn a_watch_draws_and_gives_the_terminal_back() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let _daemon = {
        let watcher = solo.start();
        watcher.wait_for_event(|event| event["message"] == "running").await;
        watcher
    };
    for signal in [Signal::INT, Signal::TERM] {
        let (code, text) =
            on_a_terminal(&solo, "--watch", &[("NO_COLOR", "1")], Some(signal)).await;
        assert_eq!(code, 0, "{text:?}");
        assert!(
            text.contains("\x1b[?1049h") && text.contains("\x1b[?25l") && text.contains("export_1"),
            "{text:?}"
        );
        assert!(text.trim_end().ends_with("\x1b[?25h\x1b[?1049l"), "{text:?}");
        assert!(!text.contains("\x1b[1m"), "{text:?}");
    }
}
