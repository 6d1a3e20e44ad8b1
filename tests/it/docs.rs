//! The documents are right: every link leads somewhere, and every command, configuration and path
//! that they show works.

mod commands;
mod markdown;
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batch_export_watcher::cli::Cli;
use batch_export_watcher::exit;
use batch_export_watcher::simulator::{SimExport, ViewStep};
use clap::CommandFactory as _;
use serde_json::Value;
use tempfile::TempDir;

use super::support::http::{client, get};
use super::support::scrape::{LISTEN, address};
use super::support::solo::Solo;
use markdown::{Block, Document};

const SHIPPED: &str = include_str!("../../config/batch-export-watcher.toml");

/// Where the status page listens if nothing else is configured.
const DEFAULT_PAGE: &str = "http://127.0.0.1:9847";
/// The README is for a newcomer.
const MOST_LINES: usize = 180;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file of the project, by its path from the root.
fn documents() -> BTreeMap<PathBuf, Document> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the project").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let skipped = name == "target" || name.as_encoded_bytes().starts_with(b".");
            if path.is_dir() && !skipped {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), &mut found);
    assert!(found.len() >= 10, "the documents were not found: {found:?}");
    let parse = |path: PathBuf| {
        let document = Document::parse(&read(&path));
        let document = document.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        (path.strip_prefix(root()).expect("below the root").to_owned(), document)
    };
    found.into_iter().map(parse).collect()
}

/// The fenced blocks of every document in this language.
fn blocks<'a>(
    documents: &'a BTreeMap<PathBuf, Document>,
    language: &'a str,
) -> impl Iterator<Item = (String, &'a Block)> {
    documents.iter().flat_map(move |(path, document)| {
        let here = document.blocks.iter().filter(move |block| block.language == language);
        here.map(move |block| (format!("{}:{}", path.display(), block.line), block))
    })
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let documents = documents();
    let mut faults = Vec::new();
    let mut links = 0;
    for (path, document) in &documents {
        for (line, target) in &document.links {
            if target.starts_with("https://") || target.starts_with("http://") {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = path.parent().expect("a file has a folder");
            let linked =
                if file.is_empty() { path.clone() } else { markdown::normal(&folder.join(file)) };
            let problem = if !root().join(&linked).exists() {
                "no such file"
            } else if !anchor.is_empty()
                && !documents.get(&linked).is_some_and(|it| it.anchors.contains(anchor))
            {
                "no such heading"
            } else {
                continue;
            };
            faults.push(format!("{}:{line}: {target}: {problem}", path.display()));
        }
    }
    assert!(links > 30, "only {links} links were found");
    assert_none(&faults);
}

#[test]
fn every_path_that_is_named_exists() {
    let mut faults = Vec::new();
    for (path, document) in documents() {
        // The changelog tells of files that were there once.
        if path.ends_with("CHANGELOG.md") {
            continue;
        }
        for (line, code) in &document.code {
            if markdown::is_repository_path(code, root())
                && ![root(), &root().join("src")].iter().any(|folder| folder.join(code).exists())
            {
                faults.push(format!("{}:{line}: {code}: no such file", path.display()));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_command_is_right() {
    let documents = documents();
    let mut faults = Vec::new();
    let mut count = 0;
    for (place, block) in blocks(&documents, "sh") {
        let commands = shell::commands(&block.text).unwrap_or_else(|why| panic!("{place}: {why}"));
        count += commands.len();
        for words in commands {
            if let Err(why) = commands::check(&words) {
                faults.push(format!("{place}: {}: {why}", words.join(" ")));
            }
        }
    }
    assert!(count > 60, "only {count} commands were found");
    // Commands in running text and in tables.
    for (path, document) in &documents {
        for (line, code) in &document.code {
            let code = code.replace('…', "");
            if !["batch-export-watcher ", "systemctl ", "journalctl "]
                .iter()
                .any(|program| code.starts_with(program))
            {
                continue;
            }
            for words in shell::commands(&code).unwrap_or_default() {
                if let Err(why) = commands::check(&words) {
                    faults.push(format!("{}:{line}: {code}: {why}", path.display()));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn every_configuration_that_is_shown_is_accepted() {
    let documents = documents();
    let mut faults = Vec::new();
    let mut count = 0;
    for (place, block) in blocks(&documents, "toml") {
        count += 1;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = block.text.clone();
        if !config.contains("[[project]]") {
            config.push_str(
                "\n[[project]]\nname = \"shop\"\nproject_key = \"project_1\"\n\
                 rest_api_key_file = \"batch-rest-key\"\n",
            );
        }
        for (name, text) in
            [("config.toml", config.as_str()), ("batch-rest-key", "a-key\n"), ("ids.txt", "id_1\n")]
        {
            put(&folder, name, text);
        }
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
        command.args(["check", "-c", "config.toml"]).current_dir(folder.path()).env_clear();
        let output = command.output().expect("the program runs");
        if !output.status.success() {
            faults.push(format!("{place}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(count >= 5, "only {count} configurations were found");
    assert_none(&faults);
}

#[expect(clippy::disallowed_methods, reason = "a test's own file need not be durable")]
fn put(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).expect("a file can be written");
}

/// The cells of each row of a document's tables that begins with a code span.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn the_table_of_keys_has_every_key_with_its_default() {
    let mut shipped = BTreeMap::new();
    let mut table = "";
    for line in SHIPPED.lines() {
        let line = line.split("  # ").next().unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']);
        } else if let Some((key, value)) = line.trim_start_matches("# ").split_once(" = ") {
            let default = if line.starts_with('#') { "–" } else { value.trim_matches('"') };
            shipped.insert(format!("{table}.{key}"), default.to_owned());
        }
    }
    let document = read("docs/configuration.md");
    let documented: BTreeMap<_, _> = rows(&document)
        .iter()
        .map(|row| (row[0].split('`').nth(1).unwrap_or_default(), row[1].trim_matches('`')))
        .collect();
    // One row has the three ways to name a key.
    shipped.retain(|key, _| {
        !["project.rest_api_key_env", "project.rest_api_key_credential"].contains(&key.as_str())
    });
    let keys = |map: BTreeSet<&str>| map.into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        keys(documented.keys().copied().collect()),
        keys(shipped.keys().map(String::as_str).collect())
    );
    for (key, default) in &shipped {
        let of_the_example =
            ["project.name", "project.project_key", "project.rest_api_key_file"].contains(&&**key);
        if !of_the_example {
            assert_eq!(documented[&**key], default, "{key}");
        }
    }
}

#[test]
fn every_command_of_the_program_and_every_exit_code_has_its_row() {
    let readme = read("README.md");
    let documented: BTreeSet<_> = rows(&readme)
        .iter()
        .map(|row| row[0].trim_matches('`').split(' ').next().unwrap_or_default().to_owned())
        .collect();
    let command = Cli::command();
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let shown: BTreeSet<_> = shown.map(|command| command.get_name().to_owned()).collect();
    assert_eq!(documented, shown, "the table of commands in README.md");

    let operations = read("docs/operations.md");
    let codes = operations.split("\n## Exit codes\n").nth(1).expect("the chapter");
    let codes = codes.split("\n## ").next().unwrap_or(codes).lines();
    let codes: BTreeSet<u8> =
        codes.filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    let known = [
        exit::DONE,
        exit::EXPORTS_FAILED,
        exit::USAGE,
        exit::INTERNAL,
        exit::UNFINISHED,
        exit::CREDENTIALS_REFUSED,
        exit::CONFIGURATION,
    ];
    assert_eq!(codes, BTreeSet::from(known), "the table of exit codes");
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= MOST_LINES, "README.md has {lines} lines");
}

/// Every URL that a document gives to `curl`.
fn curled() -> BTreeSet<String> {
    let documents = documents();
    let mut urls = BTreeSet::new();
    for (_, block) in blocks(&documents, "sh") {
        let commands = shell::commands(&block.text).expect("checked by another test");
        for words in commands.iter().filter(|words| words[0] == "curl") {
            urls.extend(words.iter().filter(|word| word.starts_with("http")).cloned());
        }
    }
    urls
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a status page has no secret links")]
async fn every_address_and_key_of_the_status_page_is_as_documented() {
    assert!(SHIPPED.contains(&format!("listen = \"{}\"", &DEFAULT_PAGE["http://".len()..])));
    let running = SimExport::new("export_1", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![running]).await.with(LISTEN);
    let watcher = solo.start();
    let page = format!("http://{}", address(&watcher).await);
    let urls = curled();
    assert!(urls.len() >= 3, "{urls:?}");
    for url in urls {
        let path = url.strip_prefix(DEFAULT_PAGE).expect("a document names the default address");
        // Only the head: a stream of events has no end.
        let answer = client(Duration::from_secs(10)).get(format!("{page}{path}")).send().await;
        assert_eq!(answer.expect("an answer").status(), 200, "{url}");
    }

    let documents = documents();
    let shown = blocks(&documents, "jsonc").map(|(place, block)| {
        let without_comments = block.text.lines().map(|line| line.split("  //").next());
        let text: Vec<_> = without_comments.flatten().collect();
        let text: Vec<_> = text.iter().filter(|line| !line.trim().starts_with("//")).collect();
        let text = text.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{place}: {error}\n{text}"))
    });
    let shown: Vec<Value> = shown.collect();
    assert_eq!(shown.len(), 1, "one document is shown");
    let real = get(&format!("{page}/api/v1/status"), &[]).await.json();
    assert_same_keys(&shown[0], &real, "the document");
}

/// Objects have the same keys, as deep as both sides have objects.
fn assert_same_keys(shown: &Value, real: &Value, place: &str) {
    match (shown, real) {
        (Value::Object(shown), Value::Object(real)) => {
            let keys = |map: &serde_json::Map<_, _>| map.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(shown), keys(real), "{place}");
            for (key, value) in shown {
                assert_same_keys(value, &real[key], &format!("{place}.{key}"));
            }
        }
        (Value::Array(shown), Value::Array(real)) => {
            if let (Some(shown), Some(real)) = (shown.first(), real.first()) {
                assert_same_keys(shown, real, &format!("{place}[0]"));
            }
        }
        _ => {}
    }
}
