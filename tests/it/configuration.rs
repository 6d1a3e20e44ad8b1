//! Configuration through the real program: what is wrong is named with file, line and key, and
//! nothing is touched for it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use batch_export_watcher::simulator::{Canned, Origin, SimExport, SimFile, Simulator, ViewStep};
use tempfile::TempDir;
use tokio::process::Command;

use super::support::process::{Output, Watcher};
use super::support::scene::{project_key, rest_key, scene, told};

/// What no message may repeat.
const SECRET: &str = "s3cret-rest-key";

const SHOP: &str = "[[project]]\nname = \"shop\"\nproject_key = \"project_0123456789\"\nrest_api_key_file = \"key\"\n";

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
    command.args(arguments).current_dir(folder).env_clear();
    command
}

async fn outcome(command: Command) -> (i32, Output) {
    Watcher::spawn(command).wait().await
}

/// A folder with a key and this configuration, whose directories are in it, too.
fn folder_with(config: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    put(&folder, "key", &format!("{SECRET}\n"));
    put(&folder, "c.toml", config);
    folder
}

#[expect(clippy::disallowed_methods, reason = "a test's own file need not be durable")]
fn put(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).expect("a file can be written");
}

/// `check` and `run` both end with 78, say the same, and leave nothing behind; `faults` begin the
/// lines they say.
async fn assert_refused(config: &str, faults: &[&str]) {
    let folder = folder_with(config);
    for command in ["check", "run"] {
        let (code, output) = outcome(program(folder.path(), &[command, "-c", "c.toml"])).await;
        assert_eq!(code, 78, "{command}: {output:#?}");
        assert_eq!(output.stderr.len(), faults.len(), "{command}: {output:#?}");
        for (line, fault) in output.stderr.iter().zip(faults) {
            assert!(line.starts_with(fault), "{command}: {line}\nwanted: {fault}");
        }
        assert!(output.stdout.is_empty(), "{output:#?}");
        assert!(!format!("{output:?}").contains("s3cret"), "{output:#?}");
    }
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["c.toml", "key"]);
}

/// A good configuration up to here, whose directories would be made in its folder.
fn with_directories(rest: &str) -> String {
    format!("[download]\ndirectory = \"exports\"\n[state]\ndirectory = \"state\"\n{rest}")
}

#[tokio::test]
async fn a_syntax_fault_is_named_with_its_line() {
    let config = with_directories(&format!("{SHOP}exports = [\"export_1\"\nname = 3\n"));
    assert_refused(&config, &["c.toml:10: project.name: invalid TOML: "]).await;
}

#[tokio::test]
async fn an_unknown_key_is_named_with_the_known_ones() {
    let config = with_directories(&format!("[poll]\nintervall = \"{SECRET}\"\n{SHOP}"));
    assert_refused(
        &config,
        &["c.toml:6: poll.intervall: unknown key; expected one of: min_interval, "],
    )
    .await;
}

#[tokio::test]
async fn a_wrong_type_is_named_with_the_right_one() {
    let config = with_directories(&format!("[api]\nrequests_per_second = \"{SECRET}\"\n{SHOP}"));
    let fault =
        "c.toml:6: api.requests_per_second: wrong type: expected a whole number, found a string";
    assert_refused(&config, &[fault]).await;
}

#[tokio::test]
async fn every_fault_of_a_value_is_named_in_one_go() {
    let config = with_directories(&format!(
        "[api]\nbase_url = \"http://api.example/2.11\"\n[poll]\nmin_interval = \"0s\"\n[retry]\ninitial = \"2m\"\nmax = \"1m\"\n{SHOP}exports = [\n  \"export_1\",\n  \"../export\", \"export_1\",\n]\n"
    ));
    let faults = [
        "c.toml:6: api.base_url: `http://api.example/2.11` must begin with https://",
        "c.toml:8: poll.min_interval: `0s` is too short: the minimum is 10ms",
        "c.toml:10: retry.initial: `2m` is longer than retry.max, which is 1m",
        "c.toml:18:3: project.exports: `../export` ",
        "c.toml:18:16: project.exports: `export_1` is already on line 17: list each export once",
    ];
    assert_refused(&config, &faults).await;
}

#[tokio::test]
async fn a_project_listed_twice_is_named_with_both_lines() {
    let config = with_directories(&format!("{SHOP}{SHOP}"));
    let faults = [
        "c.toml:10: project.name: `shop` is already on line 6: give each project its own name",
        "c.toml:11: project.project_key: `projec…` is already on line 7: write one [[project]]",
    ];
    assert_refused(&config, &faults).await;
}

#[tokio::test]
async fn an_inline_key_is_refused_with_the_three_ways_and_not_repeated() {
    let config = with_directories(
        &SHOP.replace("rest_api_key_file = \"key\"", &format!("rest_api_key = \"{SECRET}\"")),
    );
    let fault = "c.toml:8: project.rest_api_key: the REST API key must not be in this file: name its \
                 source with rest_api_key_file = \"PATH\", rest_api_key_env = \"VARIABLE\" or \
                 rest_api_key_credential = \"NAME\"";
    assert_refused(&config, &[fault]).await;
}

#[tokio::test]
async fn a_missing_key_file_is_a_fault_of_its_line() {
    let config = with_directories(&SHOP.replace("\"key\"", "\"/no/such/file\""));
    let fault = "c.toml:8: project.rest_api_key_file: the key file `/no/such/file` cannot be read: No \
                 such file";
    assert_refused(&config, &[fault]).await;
}

#[tokio::test]
async fn a_configuration_without_a_project_is_refused() {
    assert_refused(&with_directories(""), &["c.toml:1: project: the file has no project"]).await;
}

#[tokio::test]
async fn a_missing_configuration_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["check", "run"] {
        let (code, output) = outcome(program(folder.path(), &[command, "-c", "none.toml"])).await;
        assert_eq!(code, 78);
        assert!(
            output.stderr.len() == 1 && output.stderr[0].starts_with("none.toml: "),
            "{output:#?}"
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn check_shows_the_effective_settings_without_secrets_and_touches_nothing() {
    let folder = folder_with(&with_directories(&format!("{SHOP}exports = [\"export_1\"]\n")));
    let mut command = program(folder.path(), &["check"]);
    command.env("BATCH_EXPORT_WATCHER_CONFIG", "c.toml");
    let (code, output) = outcome(command).await;
    assert_eq!(code, 0, "{output:#?}");
    let text = output.stdout.join("\n");
    let shown: toml::Table = text.parse().expect("what is shown is toml");
    assert_eq!(shown["poll"]["min_interval"].as_str(), Some("10s"), "a default is filled in");
    assert_eq!(shown["project"][0]["exports"][0].as_str(), Some("export_1"));
    assert!(shown["download"]["directory"].as_str().unwrap().ends_with("/exports"));
    assert!(!text.contains(SECRET) && !text.contains("project_0123456789"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn the_flag_comes_before_the_variable() {
    let folder = folder_with(&with_directories(SHOP));
    let mut command = program(folder.path(), &["check", "-c", "c.toml"]);
    command.env("BATCH_EXPORT_WATCHER_CONFIG", "none.toml");
    assert_eq!(outcome(command).await.0, 0);
}

#[tokio::test]
async fn the_shipped_configuration_is_valid_except_for_its_key_file() {
    let shipped = include_str!("../../config/batch-export-watcher.toml");
    let folder = folder_with(&shipped.replace("/run/secrets/batch-rest-key", "key"));
    let (code, output) = outcome(program(folder.path(), &["check", "-c", "c.toml"])).await;
    assert_eq!(code, 0, "{output:#?}");
    // The file lists every key with its default, so that it has the same effect without them.
    let bare = folder_with(&SHOP.replace("project_0123456789", "project_0123456789abcdef"));
    let (_, defaults) = outcome(program(bare.path(), &["check", "-c", "c.toml"])).await;
    let in_force = |output: &Output, folder: &TempDir| {
        output.stdout.join("\n").replace(&folder.path().display().to_string(), "")
    };
    assert_eq!(in_force(&output, &folder), in_force(&defaults, &bare));
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["watch"][..],
        &[],
        &["run", "--deadline", "5m"],
        &["run", "--exit-when-settled", "--deadline", "soon"],
        &["retry"],
        &["check", "--nonsense"],
    ] {
        assert_eq!(outcome(program(folder.path(), arguments)).await.0, 2, "{arguments:?}");
    }
}

/// `check --probe` against an API in this state: how it ends, and the line about the first project.
async fn assert_probe(prepare: impl Fn(&Simulator), code: i32, words: &str) {
    let (sim, home) =
        scene(vec![("shop", vec![SimExport::new("export_1", vec![])]), ("blog", vec![])]).await;
    prepare(&sim);
    let (ended, output) = outcome(home.command("check", &["--probe"])).await;
    assert_eq!(ended, code, "{output:#?}");
    let line = format!("# project shop: {words}");
    assert!(output.stdout.iter().any(|shown| shown.starts_with(&line)), "{line}: {output:#?}");
    assert!(
        output.stdout.iter().any(|shown| shown.starts_with("# project blog: ")),
        "each project is asked"
    );
    for name in ["shop", "blog"] {
        let text = format!("{output:?}");
        assert!(!text.contains(&rest_key(name)) && !text.contains(&project_key(name)), "{text}");
    }
    let calls: Vec<_> = sim.requests().into_iter().map(|request| request.path).collect();
    let list = "/2.11/exports/list";
    let again = calls.get(1).is_some_and(|path| path.ends_with("/view"));
    let expected: &[_] = if again { &[list, "/2.11/exports/view", list] } else { &[list, list] };
    assert_eq!(calls, expected, "one call a project, and one more where the list is not there");
    assert_eq!(again, words.contains("at http"), "{calls:?}");
    assert!(!home.downloads().exists() && !home.path().join("state").exists());
}

#[tokio::test]
async fn a_probe_that_is_accepted_ends_with_0() {
    assert_probe(|_| {}, 0, "the API accepts the key").await;
}

#[tokio::test]
async fn a_probe_that_is_refused_ends_with_77() {
    let rotated = |sim: &Simulator| sim.rotate_key(&project_key("shop"), "another").unwrap();
    assert_probe(rotated, 77, "the API refuses the key from file /").await;
}

#[tokio::test]
async fn a_probe_of_an_unreachable_api_ends_with_75() {
    assert_probe(
        |sim| sim.set_outage(Origin::Api, Some(Canned::unavailable(None))),
        75,
        "the API is busy or down: try again later",
    )
    .await;
    assert_probe(
        |sim| sim.set_outage(Origin::Api, Some(Canned::html(502))),
        75,
        "the API gave no valid answer: ",
    )
    .await;
}

#[tokio::test]
async fn a_probe_of_a_wrong_base_url_ends_with_78() {
    let lost = Canned::api_error(404, "ROUTE_NOT_FOUND", "The route does not exist.");
    assert_probe(
        move |sim| sim.set_outage(Origin::Api, Some(lost.clone())),
        78,
        "the API at http://127.0.0.1:",
    )
    .await;
}

/// With an API that is not on this machine, a proxy of the environment counts.
async fn checked_with(variables: &[(&str, &str)]) -> (i32, Output) {
    let folder = folder_with(&with_directories(SHOP));
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.path().join("key"), private).expect("a key of our own");
    let mut command = program(folder.path(), &["check", "-c", "c.toml"]);
    command.envs(variables.iter().copied());
    outcome(command).await
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_a_fault_that_names_its_variable() {
    for (name, value) in [
        ("https_proxy", "http://user:p#s3cret@host:1"),
        ("https_proxy", "http://us#er:s3cret@host:1"),
        ("HTTPS_PROXY", "http://user:s3/cret@host:1"),
        ("HTTPS_PROXY", "http://user:s3@cret@host:1"),
        ("HTTPS_PROXY", "garbage"),
        ("HTTPS_PROXY", "two words"),
        ("HTTPS_PROXY", "http://"),
        ("all_proxy", "ftp://user:s3cret@host:21"),
        ("ALL_PROXY", "http://host:99999"),
        ("ALL_PROXY", "http://host:port"),
        ("HTTPS_PROXY", "http://host:3128/proxy.pac"),
    ] {
        let (code, output) = checked_with(&[(name, value)]).await;
        assert_eq!(code, 78, "{value}: {output:#?}");
        let text = output.stderr.join("\n");
        assert!(text.contains(name) && text.lines().count() == 1, "{value}: {text}");
        assert!(!text.contains("s3") && !text.contains("cret"), "{text}");
    }
    let folder = folder_with(&with_directories(SHOP));
    let mut run = program(folder.path(), &["run", "-c", "c.toml"]);
    run.env("HTTPS_PROXY", "garbage");
    let (code, output) = outcome(run).await;
    assert_eq!(code, 78, "{output:#?}");
    assert!(!folder.path().join("state").exists());
    // Each of these makes the library go direct, past the proxy that somebody has set.
    let proxy = "http://host:3128";
    for variables in [
        [("HTTPS_PROXY", ""), ("https_proxy", proxy)],
        [("REQUEST_METHOD", "GET"), ("all_proxy", proxy)],
    ] {
        let (code, output) = checked_with(&variables).await;
        assert_eq!(code, 78, "{output:#?}");
        assert!(output.stderr[0].contains(variables[0].0), "{output:#?}");
    }
}

#[tokio::test]
async fn a_proxy_that_can_be_used_or_is_not_is_no_fault() {
    for (name, value) in [
        ("HTTPS_PROXY", "http://user:p%23w@host:3128"),
        ("https_proxy", "host:3128"),
        ("https_proxy", "HTTP://host"),
        ("ALL_PROXY", "socks5h://[::1]:1080/"),
        ("all_proxy", "https://host"),
        ("HTTPS_PROXY", ""),
        // It serves plain HTTP only, which this program does not speak to others.
        ("http_proxy", "garbage"),
    ] {
        let (code, output) = checked_with(&[(name, value)]).await;
        assert_eq!((code, output.stderr.len()), (0, 0), "{value}: {output:#?}");
    }
    // An API on this machine has no proxy.
    let (_sim, home) = scene(vec![("shop", vec![])]).await;
    let mut command = home.command("check", &["--probe"]);
    command.env("HTTPS_PROXY", "garbage");
    assert_eq!(outcome(command).await.0, 0);
}

#[tokio::test]
async fn an_exception_that_no_host_matches_is_doubtful() {
    let variables = [
        ("HTTPS_PROXY", "http://host:3128"),
        ("NO_PROXY", "*, 10.0.0.0/8, ::1, .corp.example, host.example,*.b.example, c.example:8443"),
    ];
    let (code, output) = checked_with(&variables).await;
    let text = output.stderr.join("\n");
    assert_eq!((code, output.stderr.len()), (0, 2), "{text}");
    assert!(text.contains("NO_PROXY") && text.contains("*.b.example"), "{text}");
    assert!(text.contains("c.example:8443"), "{text}");
}

#[tokio::test]
async fn rust_log_is_understood_in_any_case_and_what_is_not_is_told() {
    for (value, debug, info, doubts) in [
        ("WARNING", false, false, 0),
        ("Off", false, false, 0),
        ("DEBUG", true, true, 0),
        ("info,", false, true, 0),
        ("batch_export_watcher=Debug", true, true, 0),
        ("batch_export_watcher::engine=error", false, true, 0),
        ("hyper=trace", false, true, 0),
        ("warn,batch_export_watcher=debug", true, true, 0),
        ("verbose", false, true, 1),
        ("debug=", false, true, 1),
        ("debug,hyper=loud", true, true, 1),
        ("", false, true, 0),
    ] {
        let export = SimExport::finished("export_1", vec![SimFile::generated("file_1", 1, 100)]);
        let (_sim, home) = scene(vec![("shop", vec![export])]).await;
        let mut command = home.command("run", &["--exit-when-settled"]);
        command.env("RUST_LOG", value);
        let (code, output) = outcome(command).await;
        let logs = |level| output.stderr.iter().any(|line| line.contains(level));
        let seen = (code, logs("\"DEBUG\""), logs("\"INFO\""));
        assert_eq!(seen, (0, debug, info), "{value}: {output:#?}");
        assert_eq!(told(&output, "WARN", "RUST_LOG").len(), doubts, "{value}: {output:#?}");
    }
}

#[tokio::test]
async fn a_key_as_it_stands_in_a_header_or_a_shell_is_a_fault_and_not_shown() {
    let folder = folder_with(&with_directories(SHOP));
    let header = format!("Bearer {SECRET}");
    for (key, words) in [
        (format!("\"{SECRET}\"\n"), "quotes"),
        (format!("'{SECRET}'"), "quotes"),
        (format!("`{SECRET}`\n"), "quotes"),
        (format!("{header}\n"), "Bearer"),
        (header.to_lowercase(), "Bearer"),
        (format!("Authorization: {header}"), "Bearer"),
        (format!("REST_API_KEY={SECRET}\n"), "NAME="),
    ] {
        put(&folder, "key", &key);
        let (code, output) = outcome(program(folder.path(), &["check", "-c", "c.toml"])).await;
        assert_eq!(code, 78, "{key}: {output:#?}");
        let text = output.stderr.join("\n");
        assert!(text.starts_with("c.toml:8: project.rest_api_key_file: "), "{text}");
        assert!(text.contains(words) && !text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn ids_whose_lines_end_in_cr_alone_are_a_fault_that_says_so() {
    let folder = folder_with(&with_directories(&format!("{SHOP}exports_file = \"ids.txt\"\n")));
    for ids in ["export_1\rexport_2\r", "# all of today\rexport_1\rexport_2\r"] {
        put(&folder, "ids.txt", ids);
        let (code, output) = outcome(program(folder.path(), &["check", "-c", "c.toml"])).await;
        assert_eq!((code, output.stderr.len()), (78, 1), "{output:#?}");
        let text = &output.stderr[0];
        assert!(text.contains("ids.txt:1: ") && text.contains("CR alone"), "{text}");
    }
}

#[tokio::test]
async fn every_command_says_that_the_file_it_is_told_to_use_cannot_be_read() {
    let (_sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", vec![])])]).await;
    for (arguments, expected) in [
        (&["check"][..], 78),
        (&["run"], 78),
        (&["reload"], 78),
        (&["retry", "export_1"], 78),
        (&["forget", "export_1"], 78),
        (&["status"], 78),
        (&["status", "--json"], 78),
        (&["status", "--watch", "--json"], 78),
        (&["status", "--check"], 1),
    ] {
        let mut command = program(home.path(), arguments);
        command.env("BATCH_EXPORT_WATCHER_CONFIG", "none.toml");
        let (code, output) = outcome(command).await;
        assert_eq!((code, output.stderr.len()), (expected, 1), "{arguments:?}: {output:#?}");
        let text = &output.stderr[0];
        assert!(text.starts_with("none.toml: cannot be read: "), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn a_probe_of_an_api_that_has_no_list_call_views_an_export_and_says_so() {
    let export = || SimExport::new("export_1", vec![ViewStep::status("RUNNING")]);
    let unknown = Canned::api_error(404, "EXPORT_NOT_FOUND", "The export does not exist.");
    let gone = SimExport::new("export_1", vec![ViewStep::Answer(unknown)]);
    let no_route = || Canned::api_error(404, "ROUTE_NOT_FOUND", "The route does not exist.");
    for (listing, export, code, words) in [
        (Canned::html(404), export(), 0, "the API accepts the key"),
        (Canned::html(405), export(), 0, "the API accepts the key"),
        (Canned::html(501), export(), 0, "the API accepts the key"),
        (no_route(), export(), 0, "the API accepts the key"),
        (no_route(), gone, 0, "the API accepts the key, but does not know export_1"),
    ] {
        let (sim, home) = scene(vec![("shop", vec![export])]).await;
        sim.set_listing(&project_key("shop"), Some(listing)).expect("a project of the script");
        let (ended, output) = outcome(home.command("check", &["--probe"])).await;
        assert_eq!(ended, code, "{output:#?}");
        let line = output.stdout.iter().find(|line| line.starts_with("# project shop: "));
        let line = line.unwrap_or_else(|| panic!("{output:#?}"));
        assert!(line.contains(words) && line.contains("exports/view of export_1"), "{line}");
        let calls: Vec<_> = sim.requests().into_iter().map(|request| request.path).collect();
        assert_eq!(calls, ["/2.11/exports/list", "/2.11/exports/view"]);
    }
    // Without an ID there is nothing to view.
    let (sim, home) = scene(vec![("shop", vec![])]).await;
    sim.set_listing(&project_key("shop"), Some(Canned::html(404))).expect("a project");
    let (code, output) = outcome(home.command("check", &["--probe"])).await;
    assert_eq!(code, 75, "{output:#?}");
    let line = "# project shop: the API gave no valid answer: ";
    let told = |shown: &String| shown.starts_with(line) && shown.contains("exports/list");
    assert!(output.stdout.iter().any(told), "{output:#?}");
}
