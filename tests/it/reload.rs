//! Another configuration while the daemon runs: what is new starts, what is gone stops, nothing in
//! flight is cut, and a file with a fault changes nothing.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Recorded, Serving, SimExport, SimFile, ViewStep};
use rustix::process::Signal;

use super::support::process::{Output, Watcher};
use super::support::scene::{project_key, scene, seen, told};
use super::support::solo::{PROJECT_KEY, SHOP, Solo};
use super::support::{eventually, move_to};

/// Only who asks is heard.
const BY_HAND: &str = "[reload]\nwatch = false";
/// Changed files are noticed at once.
const WATCHED: &str = "[reload]\ninterval = \"20ms\"";
/// For how long the daemon gathers signals into one reload.
const GATHER: Duration = Duration::from_millis(100);

fn file(id: &str) -> SimFile {
    SimFile::generated(id, 1, 100_000)
}

fn second_file(id: &str) -> SimFile {
    SimFile::generated(id, 2, 100_000)
}

fn held(file: SimFile) -> SimFile {
    file.on_fetch(Serving::well().held())
}

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

async fn ran(solo: &Solo, subcommand: &str, arguments: &[&str]) -> (i32, Output) {
    Watcher::spawn(solo.home.command(subcommand, arguments)).wait().await
}

/// Reloads, and says in which words it was done.
async fn reload(solo: &Solo) -> String {
    let (code, output) = ran(solo, "reload", &[]).await;
    assert_eq!((code, output.stdout.len()), (0, 1), "{output:?}");
    output.stdout[0].clone()
}

async fn running(solo: &Solo) -> Watcher {
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "running").await;
    watcher
}

#[tokio::test]
async fn exports_that_come_start_and_exports_that_go_stop() {
    let exports = vec![
        pending("export_1"),
        pending("export_2"),
        SimExport::finished("export_3", vec![file("file_3")]),
    ];
    let mut solo = Solo::new(exports).await.with(BY_HAND);
    solo.home.set_exports(SHOP, &["export_1", "export_2"]);
    let watcher = running(&solo).await;
    solo.wait_for(|seen| seen.iter().any(|view| view.is_view_of("export_1"))).await;
    solo.home.set_exports(SHOP, &["export_3", "export_2"]);
    solo.home.write_config();
    watcher.signal(Signal::HUP);
    watcher
        .wait_for_log(|line| {
            line.contains("configuration reloaded: 1 export added, 1 export removed")
        })
        .await;
    let asked = solo.views("export_1").len();
    watcher
        .wait_for_event(|event| event["message"] == "export whole" && event["export"] == "export_3")
        .await;
    solo.home.assert_whole(SHOP, "export_3", &[&file("any").content]);
    let polls = solo.views("export_2").len();
    solo.wait_for(|seen| {
        seen.iter().filter(|view| view.is_view_of("export_2")).count() >= polls + 5
    })
    .await;
    assert!(solo.views("export_1").len() <= asked + 1, "it is asked for no more");
    let (_, output) = ran(&solo, "status", &[]).await;
    assert!(output.stdout[0].starts_with("watching 1 export, 1 whole"), "{output:?}");
}

#[tokio::test]
async fn parts_in_flight_finish_and_no_other_starts() {
    let files = vec![held(file("file_1")), second_file("file_2")];
    let mut solo = Solo::finished(files).await.with(BY_HAND).with("[download]\nmax_parts = 1");
    let watcher = running(&solo).await;
    solo.wait_for_fetches("file_1", 1).await;
    solo.home.set_exports(SHOP, &[]);
    assert_eq!(reload(&solo).await, "configuration reloaded: 1 export removed");
    solo.sim.release("file_1");
    watcher
        .wait_for_event(|event| event["message"] == "part committed" && event["part"] == 1)
        .await;
    assert!(solo.links("file_2").is_empty(), "a part of an export that is gone was begun");
    // Until it is forgotten it is counted.
    let mut sentence = String::new();
    while sentence != "nothing left to watch" {
        sentence = ran(&solo, "status", &[]).await.1.stdout.remove(0);
    }
    solo.home.set_exports(SHOP, &["export_1"]);
    assert_eq!(reload(&solo).await, "configuration reloaded: 1 export added");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content, &second_file("any").content]);
    assert_eq!((solo.fetches("file_1").len(), solo.fetches("file_2").len()), (1, 1));
}

#[tokio::test]
async fn an_export_that_comes_back_while_it_retires_continues_where_it_is() {
    let files = vec![held(file("file_1")), second_file("file_2")];
    let mut solo = Solo::finished(files).await.with(BY_HAND).with("[download]\nmax_parts = 1");
    let watcher = running(&solo).await;
    solo.wait_for_fetches("file_1", 1).await;
    solo.home.set_exports(SHOP, &[]);
    reload(&solo).await;
    solo.home.set_exports(SHOP, &["export_1"]);
    assert_eq!(reload(&solo).await, "configuration reloaded: 1 export added");
    let views = solo.views("export_1").len();
    solo.sim.release("file_1");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content, &second_file("any").content]);
    assert_eq!((solo.fetches("file_1").len(), solo.fetches("file_2").len()), (1, 1));
    assert_eq!(solo.views("export_1").len(), views, "what was known is not asked for again");
}

#[tokio::test]
async fn a_faulty_configuration_changes_nothing_and_is_reported_with_file_line_and_key() {
    let mut solo = Solo::new(vec![pending("export_1"), pending("export_2")]).await.with(BY_HAND);
    let watcher = running(&solo).await;
    solo.home.set_exports(SHOP, &["export_2"]);
    solo.home.merge("[poll]\nmax_interval = \"5 seconds\"");
    let (code, output) = ran(&solo, "reload", &[]).await;
    assert_eq!(code, i32::from(exit::CONFIGURATION), "{output:?}");
    let text = fs::read_to_string(solo.home.config_path()).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with("max_interval")).unwrap();
    let place = format!("config.toml:{line}: poll.max_interval: ");
    assert!(output.stderr[0].contains(&place), "{output:?}");
    let log = watcher.wait_for_log(|line| line.contains("reload refused")).await;
    assert!(log.contains(&place), "{log}");
    let polls = solo.views("export_1").len();
    solo.wait_for(|seen| {
        seen.iter().filter(|view| view.is_view_of("export_1")).count() >= polls + 2
    })
    .await;
    let (code, output) = ran(&solo, "status", &[]).await;
    assert_eq!(code, 0);
    let words = output.stdout.join(" ");
    assert!(
        words.contains("the last reload was refused: ") && words.contains(&place),
        "{output:?}"
    );
    solo.home.merge("[poll]\nmax_interval = \"5s\"");
    assert_eq!(reload(&solo).await, "configuration reloaded: 1 export removed");
    assert!(!ran(&solo, "status", &[]).await.1.stdout.join(" ").contains("refused"));
}

#[tokio::test]
async fn a_change_that_needs_a_restart_is_refused_as_a_whole() {
    let mut solo = Solo::new(vec![pending("export_1")]).await.with(BY_HAND);
    let _watcher = running(&solo).await;
    solo.home.merge("[download]\ndirectory = \"elsewhere\"");
    let (code, output) = ran(&solo, "reload", &[]).await;
    assert_eq!(code, i32::from(exit::CONFIGURATION));
    assert!(
        output.stderr[0].contains("download.directory: cannot change from `")
            && output.stderr[0].contains("by a reload: restart the service"),
        "{output:?}"
    );
    assert!(!solo.home.path().join("elsewhere").exists());
}

#[tokio::test]
async fn a_storm_of_signals_is_one_reload() {
    let mut solo = Solo::new(vec![pending("export_1"), pending("export_2")]).await.with(BY_HAND);
    solo.home.set_exports(SHOP, &["export_1"]);
    let watcher = running(&solo).await;
    solo.home.set_exports(SHOP, &["export_1", "export_2"]);
    solo.home.write_config();
    let since = Instant::now();
    // Each by itself: those that come at once are one signal already.
    for _ in 0..15 {
        watcher.signal(Signal::HUP);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gatherings = since.elapsed().as_millis().div_ceil(GATHER.as_millis());
    watcher.wait_for_log(|line| line.contains("configuration reloaded: 1 export added")).await;
    assert_eq!(reload(&solo).await, "configuration reloaded: nothing has changed");
    let reloads = told(&watcher.output(), "INFO", "configuration reloaded");
    // One for each time that signals were gathered, and the one that was asked for.
    assert!(
        (2..=2 + gatherings).contains(&(reloads.len() as u128)),
        "the storm's, and the one that was asked for: {reloads:#?}"
    );
}

#[tokio::test]
async fn changed_limits_apply_to_parts_that_already_wait() {
    let exports = vec![
        pending("export_1"),
        SimExport::finished("export_2", vec![held(file("file_1")), held(second_file("file_2"))]),
    ];
    let slow = "[poll]\nmin_interval = \"1h\"\nmax_interval = \"1h\"\n[download]\nmax_parts = 1";
    let mut solo = Solo::new(exports).await.with(BY_HAND).with(slow);
    let watcher = running(&solo).await;
    solo.wait_for_fetches("file_1", 1).await;
    solo.wait_for(|seen| {
        seen.iter().any(|view| view.is_view_of("export_1") && view.ended_at.is_some())
    })
    .await;
    let fast = "[poll]\nmin_interval = \"20ms\"\nmax_interval = \"50ms\"\n[download]\nmax_parts = 2\nfile_mode = \"0640\"";
    solo.home.merge(fast);
    assert_eq!(reload(&solo).await, "configuration reloaded: settings changed");
    solo.wait_for_fetches("file_2", 1).await;
    solo.wait_for(|seen| seen.iter().filter(|view| view.is_view_of("export_1")).count() >= 3).await;
    solo.sim.release("file_1");
    solo.sim.release("file_2");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    assert_eq!(solo.fetches("file_1").len(), 1, "nothing in flight is cut");
    assert_eq!(solo.home.tree()["shop/export_2/manifest.json"], 0o640);
}

#[tokio::test]
async fn a_changed_key_file_is_noticed_and_ends_the_pause_of_its_project() {
    let solo =
        Solo::new(vec![pending("export_1")]).await.with(WATCHED).with("[retry]\nmax = \"1h\"");
    let watcher = running(&solo).await;
    solo.sim.rotate_key(PROJECT_KEY, "another-key-of-the-shop").unwrap();
    watcher.wait_for_log(|line| line.contains("the API refuses the REST API key")).await;
    solo.home.write_key(SHOP, "another-key-of-the-shop");
    watcher.wait_for_log(|line| line.contains("configuration reloaded: 1 key changed")).await;
    watcher.wait_for_log(|line| line.contains("the API accepts the REST API key again")).await;
    let log = watcher.output().stderr.join("\n");
    assert!(!log.contains("another-key"), "{log}");
}

#[tokio::test]
async fn appended_ids_and_files_swapped_behind_a_link_are_noticed() {
    let finished = |number: u32| {
        SimExport::finished(&format!("export_{number}"), vec![file(&format!("file_{number}"))])
    };
    let mut solo = Solo::new((1..=3).map(finished).collect()).await.with(WATCHED);
    solo.home.set_exports(SHOP, &[]);
    for (version, ids) in [("v1", "export_1\n"), ("v2", "export_1\nexport_2\nexport_3\n")] {
        fs::create_dir(solo.home.path().join(version)).unwrap();
        solo.home.write(&format!("{version}/ids.txt"), ids);
    }
    let path = |name: &str| solo.home.path().join(name);
    symlink("v1", path("..data")).unwrap();
    symlink("..data/ids.txt", path("ids.txt")).unwrap();
    let mut command = solo.home.command("run", &[]);
    let text = fs::read_to_string(solo.home.config_path()).unwrap();
    solo.home.write("config.toml", &text.replace("exports = []", "exports_file = \"ids.txt\""));
    command.kill_on_drop(true);
    let watcher = Watcher::spawn(command);
    let whole = async |export: &str| {
        watcher
            .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
            .await;
    };
    whole("export_1").await;
    solo.home.write("v1/ids.txt", "export_1\nexport_2\n");
    whole("export_2").await;
    symlink("v2", path("..data_tmp")).unwrap();
    move_to(path("..data_tmp"), path("..data"));
    whole("export_3").await;
    let (code, _) = ran_as_it_is(&solo, "status").await;
    assert_eq!(code, 0);
}

/// A file that never rests while this runs: a line is added every 20 ms.
async fn appends(path: PathBuf, line: &str) {
    loop {
        let file = fs::OpenOptions::new().append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("one more line");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_file_that_is_written_all_the_time_is_read_all_the_same() {
    let solo = Solo::new(vec![pending("export_1"), pending("export_2")]).await;
    let mut solo = solo.with("[reload]\ninterval = \"200ms\"");
    solo.home.set_exports(SHOP, &[]);
    solo.home.write("ids.txt", "");
    let command = solo.home.command("run", &[]);
    let text = fs::read_to_string(solo.home.config_path()).unwrap();
    let text = text.replace("exports = []", "exports = []\nexports_file = \"ids.txt\"");
    solo.home.write("config.toml", &text);
    let watcher = Watcher::spawn(command);
    watcher.wait_for_event(|event| event["message"] == "running").await;
    let asked = async |export: &str| {
        let is_asked = |seen: &[Recorded]| seen.iter().any(|view| view.is_view_of(export));
        drop(solo.wait_for(is_asked).await);
    };
    tokio::select! {
        () = appends(solo.home.path().join("ids.txt"), "export_1\n") => {}
        () = asked("export_1") => {}
    }
    let with_another = text.replace("exports = []", "exports = [\"export_2\"]");
    solo.home.write("config.toml", &with_another);
    tokio::select! {
        () = appends(solo.home.config_path(), "# still at work\n") => {}
        () = asked("export_2") => {}
    }
    watcher.kill9().await;
}

/// As `ran`, with the configuration as it lies there.
async fn ran_as_it_is(solo: &Solo, subcommand: &str) -> (i32, Output) {
    let text = fs::read_to_string(solo.home.config_path()).expect("a configuration");
    let command = solo.home.command(subcommand, &[]);
    solo.home.write("config.toml", &text);
    Watcher::spawn(command).wait().await
}

#[tokio::test]
async fn a_broken_file_is_tried_once_and_its_next_version_again() {
    let mut solo = Solo::new(vec![pending("export_1"), pending("export_2")]).await.with(WATCHED);
    solo.home.set_exports(SHOP, &["export_1"]);
    let watcher = running(&solo).await;
    solo.home.write("config.toml", "[[project");
    watcher
        .wait_for_log(|line| line.contains("reload refused") && line.contains("config.toml:1"))
        .await;
    let polls = solo.views("export_1").len();
    solo.wait_for(|seen| {
        seen.iter().filter(|view| view.is_view_of("export_1")).count() >= polls + 5
    })
    .await;
    assert_eq!(told(&watcher.output(), "ERROR", "reload refused").len(), 1, "once is enough");
    solo.home.set_exports(SHOP, &["export_1", "export_2"]);
    solo.home.write_config();
    watcher.wait_for_log(|line| line.contains("configuration reloaded: 1 export added")).await;
}

#[tokio::test]
async fn a_running_daemon_takes_a_retry_at_once() {
    let solo =
        Solo::new(vec![SimExport::failing("export_1"), pending("export_2")]).await.with(BY_HAND);
    let watcher = running(&solo).await;
    watcher.wait_for_log(|line| line.contains("export failed")).await;
    let notice = solo.home.export(SHOP, "export_1").join("failed.json");
    assert!(notice.exists());
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file("file_1")])]).unwrap();
    let (code, output) = ran(&solo, "retry", &["export_1", "export_2"]).await;
    assert_eq!(code, i32::from(exit::EXPORTS_FAILED), "{output:?}");
    assert_eq!(output.stdout, ["shop/export_1: watched again"]);
    assert!(output.stderr[0].starts_with("export_2 is not a failed export"), "{output:?}");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    assert!(!notice.exists());
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
}

#[tokio::test]
async fn a_failed_export_that_is_removed_and_added_again_is_watched_again() {
    let mut solo = Solo::new(vec![SimExport::failing("export_1")]).await.with(BY_HAND);
    let watcher = running(&solo).await;
    watcher.wait_for_log(|line| line.contains("export failed")).await;
    let notice = solo.home.export(SHOP, "export_1").join("failed.json");
    solo.home.set_exports(SHOP, &[]);
    reload(&solo).await;
    eventually("the notice is gone", || !notice.exists()).await;
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file("file_1")])]).unwrap();
    solo.home.set_exports(SHOP, &["export_1"]);
    reload(&solo).await;
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
}

#[tokio::test]
async fn a_reload_that_the_state_refuses_changes_no_mode() {
    let exports =
        vec![SimExport::finished("export_1", vec![held(file("file_1"))]), pending("export_2")];
    let mut solo = Solo::new(exports).await.with(BY_HAND);
    solo.home.set_exports(SHOP, &["export_1"]);
    let watcher = running(&solo).await;
    solo.wait_for_fetches("file_1", 1).await;
    // The export that is new cannot be looked up.
    let state = solo.home.path().join("state/state.db");
    let away = state.with_extension("away");
    move_to(&state, &away);
    solo.home.set_exports(SHOP, &["export_1", "export_2"]);
    solo.home.merge("[download]\nfile_mode = \"0640\"");
    assert_eq!(ran(&solo, "reload", &[]).await.0, i32::from(exit::CONFIGURATION));
    move_to(&away, &state);
    solo.sim.release("file_1");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    assert_eq!(solo.home.tree()["shop/export_1/manifest.json"], 0o600);
}

#[tokio::test]
async fn a_whole_export_that_is_added_again_stays_known() {
    let mut solo = Solo::finished(vec![file("file_1")]).await.with(BY_HAND);
    let watcher = running(&solo).await;
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    solo.home.set_exports(SHOP, &[]);
    reload(&solo).await;
    let asked = solo.sim.requests().len();
    solo.home.set_exports(SHOP, &["export_1"]);
    reload(&solo).await;
    assert_eq!(ran(&solo, "status", &[]).await.1.stdout[0], "nothing left to watch, 1 whole");
    assert_eq!(solo.sim.requests().len(), asked);
}

#[tokio::test]
async fn projects_come_and_go() {
    let finished = |name: &str| {
        vec![SimExport::finished(&format!("export_{name}"), vec![file(&format!("file_{name}"))])]
    };
    let (sim, home) = scene(vec![("a", finished("a")), ("b", vec![pending("export_b")])]).await;
    let home = home.with(BY_HAND);
    let watcher = home.start(&[]);
    watcher
        .wait_for_event(|event| event["message"] == "export whole" && event["export"] == "export_a")
        .await;
    seen(&sim, |seen| seen.iter().any(|view| view.is_view_of("export_b"))).await;
    let both = fs::read_to_string(home.config_path()).unwrap();
    let (head, projects) = both.split_once("[[project]]").unwrap();
    let of = |name: &str| {
        let project = projects
            .split("[[project]]")
            .find(|project| project.contains(&format!("name = \"{name}\"")));
        format!("[[project]]{}", project.unwrap())
    };
    let third =
        of("b").replace("name = \"b\"", "name = \"c\"").replace(&project_key("b"), "project_of_c");
    home.write(
        "config.toml",
        &format!("{head}{}{}", of("a"), third.replace("export_b", "export_c")),
    );
    watcher.signal(Signal::HUP);
    watcher
        .wait_for_log(|line| {
            line.contains("1 export added, 1 export removed, 1 project added, 1 project removed")
        })
        .await;
    seen(&sim, |seen| seen.iter().any(|view| view.is_view_of("export_c"))).await;
    home.write("config.toml", &both.replace("name = \"b\"", "name = \"bee\""));
    watcher.signal(Signal::HUP);
    eventually("the second reload", || {
        told(&watcher.output(), "INFO", "configuration reloaded").len() == 2
    })
    .await;
    home.write("config.toml", &both);
    watcher.signal(Signal::HUP);
    let refused = watcher.wait_for_log(|line| line.contains("reload refused")).await;
    assert!(refused.contains("project.name: cannot change from `bee` to `"), "{refused}");
}

/// Exports come and go at random while they are fetched; at the end all are configured.
#[tokio::test]
async fn reloads_at_random_lose_nothing_and_fetch_nothing_twice() {
    const EXPORTS: usize = 8;
    const RELOADS: usize = 24;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let id = |number: usize| format!("export_{number}");
    let files = |number: usize| -> Vec<SimFile> {
        let part = |part: u64| {
            SimFile::generated(&format!("file_{number}_{part}"), part, 60_000)
                .with_bytes_per_second(600_000)
        };
        (1..=3).map(part).collect()
    };
    let exports =
        (0..EXPORTS).map(|number| SimExport::finished(&id(number), files(number))).collect();
    let mut solo = Solo::new(exports).await.with(BY_HAND).with("[download]\nmax_parts = 3");
    let ids: Vec<String> = (0..EXPORTS).map(id).collect();
    solo.home.set_exports(SHOP, &[]);
    let watcher = running(&solo).await;
    for _ in 0..RELOADS {
        let mut some: Vec<&str> =
            ids.iter().map(String::as_str).filter(|_| random.bool()).collect();
        random.shuffle(&mut some);
        solo.home.set_exports(SHOP, &some);
        reload(&solo).await;
    }
    solo.home.set_exports(SHOP, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    reload(&solo).await;
    for (number, export) in ids.iter().enumerate() {
        eventually(&format!("seed {seed}: {export} is whole"), || {
            solo.home.try_manifest(SHOP, export).is_some()
        })
        .await;
        let files = files(number);
        solo.home.assert_whole(
            SHOP,
            export,
            &files.iter().map(|file| &file.content).collect::<Vec<_>>(),
        );
        for file in files {
            let fetched = solo.fetches(&file.id).len();
            assert_eq!(fetched, 1, "seed {seed}: {} was fetched {fetched} times", file.id);
        }
    }
    let log = watcher.output().stderr.join("\n");
    assert!(!log.contains("panicked") && !log.contains("will be repeated"), "seed {seed}: {log}");
}
