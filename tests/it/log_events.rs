//! The log's events: the code names those that `docs/log-events.md` lists and no others, and an
//! export's ID alone brings out its whole story.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use batch_export_watcher::simulator::{Canned, Serving, SimExport, SimFile, StoreStep, ViewStep};
use rustix::process::Signal;
use serde_json::Value;

use super::support::journal::Journal;
use super::support::process::{Output, Watcher};
use super::support::solo::{SHOP, Solo};
use super::tidy::sources;

const PAGE: &str = "docs/log-events.md";
/// What `tracing` itself puts into a line of JSON.
const FRAME: [&str; 4] = ["timestamp", "level", "message", "target"];
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// What is known of one event: its levels, and the fields that it may have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    levels: BTreeSet<String>,
    fields: BTreeSet<String>,
}

type Events = BTreeMap<String, Event>;

/// The tables of the page: every event, and the names of the fields that it explains.
fn documented() -> (Events, BTreeSet<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut events, mut explained) = (Events::new(), BTreeSet::new());
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        match cells[..] {
            [event, levels, fields, meaning] => {
                assert!(meaning.len() > 10, "{row}");
                let levels = levels.split(", ").map(str::to_owned).collect();
                let known = events.insert(
                    quoted(event).remove(0),
                    Event { levels, fields: quoted(fields).into_iter().collect() },
                );
                assert_eq!(known, None, "twice on the page: {row}");
            }
            [names, _] => explained.extend(quoted(names)),
            // How an event looks in each format.
            _ => {}
        }
    }
    (events, explained)
}

/// The words in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The calls of logging macros in a source text: level and arguments.
fn calls(text: &str) -> Vec<(&str, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("tracing::") {
        rest = &rest[at + "tracing::".len()..];
        let Some(level) = LEVELS.into_iter().find(|level| rest.starts_with(&format!("{level}!(")))
        else {
            continue;
        };
        found.push((level, arguments(&rest[level.len() + 2..])));
    }
    found
}

/// Splits what follows an opening bracket at the commas of its own depth, up to its end. Texts may
/// hold anything.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut in_text, mut escaped) =
        (vec![String::new()], 0, false, false);
    for character in text.chars() {
        match character {
            '"' if !escaped => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' | ']' | '}' if !in_text && depth == 0 => break,
            ')' | ']' | '}' if !in_text => depth -= 1,
            ',' if !in_text && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = character == '\\' && !escaped;
        arguments.last_mut().expect("never empty").push(character);
    }
    let trimmed = arguments.iter().map(|argument| argument.trim().to_owned());
    trimmed.filter(|argument| !argument.is_empty()).collect()
}

/// The name of the field that an argument sets: `name = value`, or `%name`, `?name` and `name`
/// alone.
fn field(argument: &str) -> &str {
    argument.split(" = ").next().unwrap_or(argument).trim_start_matches(['%', '?'])
}

/// Every event of the code, and what is wrong with a call.
fn in_code(sources: &[(String, String)]) -> (Events, Vec<String>) {
    let (mut events, mut faults) = (Events::new(), Vec::new());
    for (path, text) in sources {
        // Debug builds alone have it: what it says is for tests.
        if path.starts_with("failpoint/") {
            continue;
        }
        // Tests log what they like.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
        let all: usize =
            LEVELS.iter().map(|level| code.matches(&format!("{level}!(")).count()).sum();
        let calls = calls(code);
        if all != calls.len() {
            faults.push(format!("{path}: a macro without `tracing::` before it"));
        }
        for (level, arguments) in calls {
            let said = arguments.iter().position(|argument| argument.starts_with('"'));
            let name =
                arguments[0].strip_prefix("event = \"").and_then(|name| name.strip_suffix('"'));
            let (Some(name), Some(said)) = (name, said) else {
                faults.push(format!("{path}: {arguments:?}"));
                continue;
            };
            let is_snake = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                && name.contains('_');
            if !is_snake {
                faults.push(format!("{path}: {name}"));
            }
            let event = events.entry(name.to_owned()).or_default();
            event.levels.insert(level.to_owned());
            event
                .fields
                .extend(arguments[1..said].iter().map(|argument| field(argument).to_owned()));
        }
    }
    (events, faults)
}

#[test]
fn the_document_lists_every_event_of_the_code_with_its_fields() {
    let sources: Vec<_> =
        sources().into_iter().map(|(path, text)| (path.display().to_string(), text)).collect();
    let (events, faults) = in_code(&sources);
    assert_eq!(faults, [""; 0]);
    let (documented, explained) = documented();
    let names = |events: &Events| events.keys().cloned().collect::<BTreeSet<_>>();
    assert!(events.len() > 60, "the events were not found");
    assert_eq!(names(&events), names(&documented));
    for (name, event) in &events {
        assert_eq!(Some(event), documented.get(name), "{name}");
        assert_eq!(event.levels.len(), 1, "{name} has one level");
    }
    let mut used: BTreeSet<_> = events.values().flat_map(|event| event.fields.clone()).collect();
    used.insert("event".to_owned());
    let explained: BTreeSet<_> =
        explained.into_iter().filter(|name| !LogFormats::names(name)).collect();
    assert_eq!(used, explained);
}

/// The first table of the page, which is about formats.
struct LogFormats;

impl LogFormats {
    fn names(name: &str) -> bool {
        ["text", "json", "journald"].contains(&name)
    }
}

#[test]
fn a_call_without_a_name_and_a_bare_macro_are_found() {
    let found = |text: &str| in_code(&[("it.rs".to_owned(), text.to_owned())]);
    let (events, faults) = found(
        "tracing::info!(\n event = \"a_b\",\n %x,\n n = f(1, \"),\"),\n s.len = 3, \"said, {x}\", x\n);",
    );
    assert_eq!(faults, [""; 0]);
    let fields = ["n", "s.len", "x"].map(str::to_owned);
    assert_eq!(events["a_b"].fields, BTreeSet::from(fields));
    for text in [
        "tracing::warn!(\"no name\");",
        "info!(event = \"a_b\", \"x\");",
        "tracing::info!(event = \"AB\", \"x\");",
    ] {
        assert_eq!(found(text).1.len(), 1, "{text}");
    }
}

/// The program's own lines, each held to the page.
fn own_lines(output: &Output) -> Vec<Value> {
    let (documented, _) = documented();
    let lines = output
        .stderr
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of json"));
    let own = lines.filter(|line| {
        line["target"].as_str().is_some_and(|target| target.starts_with("batch_export_watcher"))
    });
    let own: Vec<_> = own.collect();
    for line in &own {
        let name = line["event"].as_str().unwrap_or_else(|| panic!("no name: {line}"));
        let event = documented.get(name).unwrap_or_else(|| panic!("not on the page: {line}"));
        let level = line["level"].as_str().unwrap_or_default().to_lowercase();
        assert!(event.levels.contains(&level), "{line}");
        for field in line.as_object().expect("an object").keys() {
            let known =
                event.fields.contains(field) || field == "event" || FRAME.contains(&field.as_str());
            assert!(known, "{field} is not on the page: {line}");
        }
    }
    own
}

/// What `jq 'select(.export == "…") | .event'` says of a log, with the part where the event has
/// one.
fn story(lines: &[Value], export: &str, levels: &[&str]) -> Vec<String> {
    let of_export = lines.iter().filter(|line| line["export"] == export);
    let told =
        of_export.filter(|line| levels.contains(&line["level"].as_str().unwrap_or_default()));
    told.map(|line| {
        assert_eq!(line["project"], SHOP, "{line}");
        let event = line["event"].as_str().unwrap_or_default();
        match line["part"].as_u64() {
            Some(part) => format!("{event} {part}"),
            None => event.to_owned(),
        }
    })
    .collect()
}

const ALL: [&str; 4] = ["ERROR", "WARN", "INFO", "DEBUG"];
const USUAL: [&str; 3] = ["ERROR", "WARN", "INFO"];

const BYTES: u64 = 200_000;

fn file(number: u64) -> SimFile {
    SimFile::generated(&format!("file_{number}"), number, BYTES)
}

/// The API asks for fewer requests once, the first link is refused, the first body is cut.
async fn troubled() -> Solo {
    let first = file(1)
        .on_fetch(StoreStep::ExpiredLink)
        .on_fetch(Serving::well().cut_after(50_000))
        .on_fetch(Serving::well());
    let views = vec![
        ViewStep::Answer(Canned::throttled(Some("1"))),
        ViewStep::status("RUNNING"),
        ViewStep::Success(vec![first]),
    ];
    Solo::new(vec![SimExport::new("export_1", views)]).await
}

#[tokio::test]
async fn throttling_a_stale_link_and_a_cut_body_are_part_of_the_story() {
    let lines = own_lines(&troubled().await.settle(0).await);
    let told = [
        "export_watched",
        "status_changed",
        "status_changed",
        "parts_listed",
        "folder_prepared",
        "part_started 1",
        "link_refreshed 1",
        "part_failed 1",
        "part_started 1",
        "part_resumed 1",
        "part_committed 1",
        "export_sealed",
        "export_completed",
    ];
    assert_eq!(story(&lines, "export_1", &ALL), told);
    let told = [
        "export_watched",
        "status_changed",
        "status_changed",
        "parts_listed",
        "part_failed 1",
        "export_sealed",
        "export_completed",
    ];
    assert_eq!(story(&lines, "export_1", &USUAL), told);
    let resumed = lines.iter().find(|line| line["event"] == "part_resumed").expect("it was told");
    assert_eq!((&resumed["bytes"], &resumed["file"]), (&50_000.into(), &"file_1".into()));
    let of_project: Vec<_> =
        lines.iter().filter(|line| line["project"] == SHOP && line["export"].is_null()).collect();
    let events: Vec<_> =
        of_project.iter().map(|line| line["event"].as_str().unwrap_or_default()).collect();
    assert_eq!(events, ["project_throttled", "project_resumed"]);
    assert_eq!(of_project[0]["seconds"], 1);
}

#[tokio::test]
async fn a_crash_and_the_way_back_are_part_of_the_story() {
    let slow = file(2).on_fetch(Serving::well().stall_after(100_000)).on_fetch(Serving::well());
    let solo = Solo::finished(vec![file(1), slow]).await;
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["event"] == "part_committed" && event["part"] == 1).await;
    solo.wait_for_fetches("file_2", 1).await;
    let lines = own_lines(&watcher.kill9().await);
    let first = [
        "export_watched",
        "status_changed",
        "parts_listed",
        "folder_prepared",
        "part_started 1",
        "part_started 2",
        "part_committed 1",
    ];
    assert_eq!(story(&lines, "export_1", &ALL), first);
    let lines = own_lines(&solo.settle(0).await);
    let second = [
        "export_recovered",
        "parts_listed",
        "folder_prepared",
        "part_started 2",
        "part_committed 2",
        "export_sealed",
        "export_completed",
    ];
    assert_eq!(story(&lines, "export_1", &ALL), second);
    let recovered =
        lines.iter().find(|line| line["event"] == "export_recovered").expect("it was told");
    assert_eq!((&recovered["status"], &recovered["committed"]), (&"SUCCESS".into(), &1.into()));
    let lines = own_lines(&solo.settle(0).await);
    assert_eq!(story(&lines, "export_1", &ALL), ["completion_recovered"]);
}

#[tokio::test]
async fn a_failure_its_retry_and_a_removal_are_part_of_the_story() {
    let mut solo = Solo::new(vec![SimExport::failing("export_1")]).await;
    let lines = own_lines(&solo.settle(1).await);
    assert_eq!(
        story(&lines, "export_1", &ALL),
        ["export_watched", "status_changed", "status_changed", "status_changed", "export_failed"]
    );
    solo.sim
        .set_views("export_1", vec![ViewStep::Success(vec![file(1)])])
        .expect("an export of the script");
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["event"] == "daemon_started").await;
    assert_eq!(Watcher::spawn(solo.home.command("retry", &["export_1"])).wait().await.0, 0);
    watcher.wait_for_event(|event| event["event"] == "export_completed").await;
    solo.home.set_exports(SHOP, &[]);
    solo.home.write_config();
    watcher.signal(Signal::HUP);
    watcher.wait_for_event(|event| event["event"] == "export_forgotten").await;
    let lines = own_lines(&watcher.kill9().await);
    let told = [
        "failure_recovered",
        "export_retried",
        "failure_forgotten",
        "status_changed",
        "parts_listed",
        "export_sealed",
        "export_completed",
        "export_removed",
    ];
    assert_eq!(story(&lines, "export_1", &USUAL), told);
}

/// Reads `name=value` and `name="a \"value\""` from a line of text, from `event` on.
fn text_fields(line: &str) -> Option<(String, BTreeSet<String>)> {
    let mut rest = &line[line.find(" event=")? + 1..];
    let (mut event, mut names) = (String::new(), BTreeSet::new());
    while let Some((name, value)) = rest.split_once('=') {
        let mut escaped = false;
        let end = |at: char| {
            let is_end = at == '"' && !escaped;
            escaped = at == '\\' && !escaped;
            is_end
        };
        let length = match value.strip_prefix('"') {
            Some(text) => text.find(end).expect("a quote that ends") + 2,
            None => value.find(' ').unwrap_or(value.len()),
        };
        if name == "event" {
            value[..length].clone_into(&mut event);
        }
        names.insert(name.to_owned());
        rest = value[length..].strip_prefix(' ').unwrap_or_default();
    }
    Some((event, names))
}

#[tokio::test]
async fn every_format_has_the_same_events_with_the_same_fields() {
    let mut formats: Vec<BTreeMap<String, BTreeSet<String>>> = Vec::new();
    for format in ["json", "text", "journald"] {
        let solo = troubled().await;
        let plain = solo.home.command("run", &["--exit-when-settled"]);
        let plain = plain.as_std();
        let mut command = tokio::process::Command::new(plain.get_program());
        command.args(["--log-format", format]).args(plain.get_args().skip(2)).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let Some(journal) = Journal::new(&solo.home).await else { return };
        let journal = journal.listen(&solo.home);
        let (code, output) = journal.start(&solo.home, "", &command).wait().await;
        assert_eq!(code, 0, "{:#?}", output.stderr);
        let of_journal = || {
            let names = |name: &str| {
                !["PRIORITY", "MESSAGE", "TARGET", "CODE_FILE", "CODE_LINE"].contains(&name)
                    && !name.starts_with("SYSLOG_")
            };
            journal.entries().into_iter().map(move |entry| {
                let fields =
                    entry.names().filter(|name| names(name)).map(str::to_lowercase).collect();
                (entry.field("EVENT").to_owned(), fields)
            })
        };
        formats.push(match format {
            "json" => own_lines(&output)
                .iter()
                .map(|line| {
                    let fields = line
                        .as_object()
                        .expect("an object")
                        .keys()
                        .filter(|name| !FRAME.contains(&name.as_str()));
                    (
                        line["event"].as_str().unwrap_or_default().to_owned(),
                        fields.cloned().collect(),
                    )
                })
                .collect(),
            "text" => output.stderr.iter().filter_map(|line| text_fields(line)).collect(),
            _ => of_journal().collect(),
        });
    }
    assert!(formats[0].len() > 10, "{formats:?}");
    assert_eq!(formats[0], formats[1], "json and text");
    assert_eq!(formats[0], formats[2], "json and the journal");
}
