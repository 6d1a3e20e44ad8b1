//! Keys: where they come from, what a refusal pauses and what heals it, and that nothing ever shows
//! one.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::time::Duration;

use batch_export_watcher::simulator::{
    Canned, LinkStep, Origin, Recorded, Serving, SimExport, SimFile, ViewStep,
};
use tokio::process::Command;

use super::support::home::Home;
use super::support::look;
use super::support::machine::Machine;
use super::support::process::{Output, Watcher, copy_program};
use super::support::scene::{
    count, failure, gaps, is_of, project_key, rest_key, scene, scene_with_latency, seen, told,
};

/// A user without rights of its own.
const NOBODY: u32 = 65534;
/// In no file's content but the one that is searched for.
const CONTENT_MARKER: &str = "marker-of-personal-data-4711";

fn finished(number: usize) -> SimExport {
    let file = SimFile::generated(&format!("file_{number}"), 1, 1000);
    SimExport::finished(&format!("export_{number}"), vec![file])
}

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

fn is_refused(request: &Recorded) -> bool {
    request.status == Some(401)
}

#[tokio::test]
async fn a_refused_key_pauses_only_its_project_until_there_is_a_new_key_file() {
    let (sim, home) =
        scene(vec![("shop", vec![finished(1), finished(2)]), ("blog", vec![running("blog_1")])])
            .await;
    sim.rotate_key(&project_key("shop"), "another-key-987").unwrap();
    let watcher = home.start(&[]);
    let requests = seen(&sim, |seen| count(seen, is_refused) >= 5).await;
    assert!(
        requests.iter().all(|request| is_refused(request) == is_of(request, "shop")),
        "{requests:#?}"
    );
    // Two may be under way before the first refusal is back; after that there are probes, one each
    // retry.max.
    let probes = gaps(&requests, is_refused).split_off(1);
    assert!(probes.iter().all(|gap| *gap >= Duration::from_millis(175)), "{probes:?}");
    assert!(
        count(&requests, |request| is_of(request, "blog")) > 5,
        "the other project was held up"
    );
    home.write_key("shop", "another-key-987");
    for export in ["export_1", "export_2"] {
        watcher
            .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
            .await;
    }
    let output = watcher.output();
    assert_eq!(told(&output, "ERROR", "").len(), 1, "{:#?}", output.stderr);
    assert_eq!(told(&output, "ERROR", "the API refuses the REST API key").len(), 1);
    assert_eq!(told(&output, "INFO", "the API accepts the REST API key again").len(), 1);
}

#[tokio::test]
async fn calls_refused_together_are_all_repeated_at_once_if_the_source_has_another_key() {
    // The latency brings the refusals together; a pause would outlast the test.
    let exports: Vec<_> = (0..8).map(|number| running(&format!("export_{number}"))).collect();
    let latency = Duration::from_millis(200);
    let (sim, home) = scene_with_latency(vec![("shop", exports)], latency).await;
    let home = home.with("[retry]\nmax = \"1h\"\n[api]\nrequests_per_second = 1000");
    let watcher = home.start(&[]);
    seen(&sim, |seen| count(seen, |request| request.status == Some(200)) >= 16).await;
    home.write_key("shop", "another-key-987");
    sim.rotate_key(&project_key("shop"), "another-key-987").unwrap();
    let refused = seen(&sim, |seen| seen.iter().any(is_refused)).await.len();
    seen(&sim, |seen| count(&seen[refused..], |request| request.status == Some(200)) >= 16).await;
    assert_eq!(told(&watcher.output(), "ERROR", ""), [""; 0]);
}

#[tokio::test]
async fn views_repeated_with_another_key_count_against_the_request_budget() {
    let exports: Vec<_> = (0..10).map(|number| running(&format!("export_{number}"))).collect();
    let latency = Duration::from_millis(300);
    let (sim, home) = scene_with_latency(vec![("shop", exports)], latency).await;
    let home = home.with("[reload]\nwatch = false\n[api]\nrequests_per_second = 2");
    sim.rotate_key(&project_key("shop"), "another-key-987").unwrap();
    let (machine, watcher) = (Machine::watch(), home.start(&[]));
    seen(&sim, |seen| seen.len() >= 10).await;
    home.write_key("shop", "another-key-987");
    let views = seen(&sim, |seen| seen.len() >= 12).await;
    let took = views[11].at - views[0].at;
    // The burst is spent; what comes on top may take a moment from the program to the simulator.
    let least = Duration::from_millis(900);
    assert!(machine.stretch(took) >= least, "twelve view calls in {took:?}");
    seen(&sim, |seen| seen.iter().any(|request| request.status == Some(200))).await;
    assert_eq!(told(&watcher.output(), "ERROR", ""), [""; 0]);
}

#[tokio::test]
async fn exit_when_settled_gives_a_refused_key_three_probes_and_ends_with_77() {
    // The project that fails an export beside it would end with 1.
    let (sim, home) =
        scene(vec![("shop", vec![finished(1)]), ("blog", vec![SimExport::failing("blog_1")])])
            .await;
    sim.rotate_key(&project_key("shop"), "another-key-987").unwrap();
    let (code, _) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 77);
    assert_eq!(failure(&home, "blog", "blog_1")["kind"], "remote_error");
    let requests = sim.requests();
    assert_eq!(count(&requests, is_refused), 3);
    let probes = gaps(&requests, is_refused);
    assert!(probes.iter().all(|gap| *gap >= Duration::from_millis(175)), "{probes:?}");
    assert!(home.try_manifest("shop", "export_1").is_none());
    assert!(
        !home.export("shop", "export_1").join("failed.json").exists(),
        "a refused key fails no export"
    );
}

/// Runs one export whose key comes by this line of the configuration and this variable.
async fn run_with_key_from(source: &str, variable: &str, value: impl Fn(&Home) -> OsString) {
    let (_sim, home) = scene(vec![("shop", vec![finished(1)])]).await;
    fs::create_dir(home.path().join("credentials")).expect("a folder can be made");
    home.write("credentials/batch-key", &rest_key("shop"));
    let mut command = home.command("run", &["--exit-when-settled"]);
    let config = fs::read_to_string(home.config_path()).expect("the configuration");
    home.write("config.toml", &config.replace("rest_api_key_file = \"shop.key\"", source));
    fs::remove_file(home.path().join("shop.key")).expect("the key file");
    command.env(variable, value(&home));
    let (code, output) = Watcher::spawn(command).wait().await;
    assert_eq!(code, 0, "{:#?}", output.stderr);
    home.manifest("shop", "export_1");
}

#[tokio::test]
async fn the_key_may_be_a_credential_of_the_service_manager() {
    let folder = |home: &Home| home.path().join("credentials").into_os_string();
    run_with_key_from("rest_api_key_credential = \"batch-key\"", "CREDENTIALS_DIRECTORY", folder)
        .await;
}

#[tokio::test]
async fn the_key_may_be_in_the_environment() {
    run_with_key_from("rest_api_key_env = \"SHOP_KEY\"", "SHOP_KEY", |_| rest_key("shop").into())
        .await;
}

/// Whether any of the secrets stands in this place; the text itself is not shown in full.
fn assert_silent(place: &str, text: &[u8], secrets: &[String]) {
    for secret in secrets {
        let found = text.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} is shown in {place}");
    }
}

/// A whole job with one of each fault, whose words repeat both keys.
fn a_job_with_every_fault() -> Vec<SimExport> {
    let words = format!("{} of {}", rest_key("shop"), project_key("shop"));
    let error =
        |status| Canned::api_error(status, &format!("CODE_{words}"), &format!("not good: {words}"));
    let content = format!("[\"{CONTENT_MARKER}\"]");
    let page = Canned::new(500, "application/json", content.clone());
    let file = SimFile::new("file_1", 1, content.as_str())
        .on_link(LinkStep::Answer(error(500)))
        .on_link(LinkStep::RedirectWith {
            status: 307,
            location: format!("http://{}@{{authority}}{{path}}", rest_key("shop")),
        })
        .on_link(LinkStep::RedirectWith {
            status: 307,
            location: "https://{authority}{path}".to_owned(),
        })
        .on_link(LinkStep::RedirectWith {
            status: 307,
            location: "ftp://{authority}{path}".to_owned(),
        })
        .on_link(LinkStep::RelativeHop)
        .on_link(LinkStep::Redirect)
        .on_fetch(Canned::store_error(403, "AccessDenied", CONTENT_MARKER))
        .on_fetch(Canned::store_error(500, "InternalError", CONTENT_MARKER))
        .on_fetch(Canned::store_error(503, "SlowDown", CONTENT_MARKER))
        .on_fetch(Serving::well().cut_after(10))
        .on_fetch(Serving::well());
    let views = vec![
        ViewStep::Answer(error(500)),
        ViewStep::Answer(error(429)),
        ViewStep::Answer(error(503)),
        ViewStep::Answer(error(404)),
        ViewStep::Answer(page),
        ViewStep::Answer(Canned::new(200, "application/json", content)),
        ViewStep::Answer(Canned::redirect(307, &format!("/?{}", rest_key("shop")))),
        ViewStep::status(&format!("STATUS_{words}")),
        ViewStep::Success(vec![file]),
    ];
    vec![
        SimExport::new("export_1", views),
        SimExport::new("export_2", vec![ViewStep::Answer(error(400))]),
    ]
}

#[tokio::test]
async fn no_secret_leaks_in_a_whole_job_with_every_fault() {
    let (sim, home) = scene(vec![("shop", a_job_with_every_fault())]).await;
    let home = home.with("[retry]\nmax = \"60ms\"");
    let mut command = home.command("run", &[]);
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    let mut watcher = Watcher::spawn(command);
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    watcher.wait_for_log(|line| line.contains("export failed")).await;
    let command_line = watcher.proc_text("cmdline");
    watcher.signal(rustix::process::Signal::TERM);
    let (code, Output { stdout, stderr }) = watcher.wait().await;
    assert_eq!(code, 0);
    let requests = sim.requests();
    let signatures: Vec<_> =
        requests.iter().filter_map(|request| request.parameter("signature")).collect();
    assert!(signatures.len() >= 4, "the links were not followed");
    let mut secrets = vec![rest_key("shop"), CONTENT_MARKER.to_owned()];
    secrets.extend(signatures);
    let state = look::files_below(&home.path().join("state"));
    assert!(!state.is_empty());
    for path in state {
        assert_silent(&path.display().to_string(), &fs::read(&path).unwrap(), &secrets);
    }
    // The state and the folders may know the project key by its digest only; logs and notices not
    // at all.
    secrets.push(project_key("shop"));
    assert_silent("the log", stderr.join("\n").as_bytes(), &secrets);
    assert_silent("stdout", stdout.join("\n").as_bytes(), &secrets);
    assert_silent("the command line", command_line.as_bytes(), &secrets);
    let notice = fs::read(home.export("shop", "export_2").join("failed.json")).unwrap();
    assert_silent("failed.json", &notice, &secrets);
    let store = requests.iter().filter(|request| request.origin == Origin::Store);
    let credentials = [rest_key("shop"), project_key("shop")];
    for request in store {
        assert_silent("a request to the store", format!("{request:?}").as_bytes(), &credentials);
    }
    let log = stderr.join("\n");
    assert!(log.contains("[hidden]"), "the faults' words were not told at all:\n{log}");
}

#[tokio::test]
async fn the_process_leaves_no_core_dump_and_lets_no_one_attach() {
    let (_sim, home) = scene(vec![("shop", vec![running("export_1")])]).await;
    let mut command = home.command("run", &[]);
    if rustix::process::geteuid().is_root() {
        command = as_nobody(&home, &command);
    }
    let watcher = Watcher::spawn(command);
    watcher.wait_for_log(|line| line.contains("status changed")).await;
    let limits = watcher.proc_text("limits");
    let core =
        limits.lines().find(|line| line.starts_with("Max core file size")).expect("such a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The kernel gives the files of a process that is not dumpable to root.
    let limits = look::metadata(&watcher.proc("limits")).expect("a process that runs");
    assert_eq!(limits.uid(), 0, "the process is dumpable");
}

/// The same command by a user whose processes' files are not root's anyway.
fn as_nobody(home: &Home, command: &Command) -> Command {
    let command = command.as_std();
    // Where the program was built need not be open to everybody.
    let program = home.path().join("program");
    copy_program(&program);
    let files = look::files_below(home.path());
    for path in files.iter().map(PathBuf::as_path).chain([home.path()]) {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
    }
    let mut command_of_nobody = Command::new(program);
    command_of_nobody
        .args(command.get_args())
        .current_dir(home.path())
        .env_clear()
        .uid(NOBODY)
        .gid(NOBODY);
    command_of_nobody
}
