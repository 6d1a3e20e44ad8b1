//! `demo`: the real daemon with a simulated API and object store on this machine. Needs no key.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::run::run_until_stopped;
use super::{Console, DemoArgs, console};
use crate::app::{RunOptions, Setup};
use crate::config::{self, Config, Environment};
use crate::domain::checksum::Algorithm;
use crate::domain::manifest::MANIFEST_FILE;
use crate::engine::Outcome;
use crate::exit;
use crate::process::runtimes::TransferRuntimes;
use crate::simulator::{
    Canned, ChecksumHeader, Script, SentChecksum, SimExport, SimFile, SimProject, Simulator,
    ViewStep,
};

const DEMO_KEY: &str = "demo-rest-api-key";
const DEMO_PROJECT: &str = "project_demo";
/// Slow enough for a person to watch.
const BYTES_PER_SECOND: u64 = 4_000_000;
/// The export whose manifest is printed at the end.
const SHOWN_EXPORT: &str = "export_customers";

pub(super) async fn demo(
    args: DemoArgs,
    transfer: TransferRuntimes,
    console: Console,
) -> Result<u8, u8> {
    let folder = args.dir.unwrap_or_else(|| {
        std::env::temp_dir().join(format!("batch-export-watcher-demo-{}", std::process::id()))
    });
    let simulator = Simulator::start(script()).await.map_err(|error| {
        tracing::error!(
            event = "start_failed", cause = %error,
            "the simulated API cannot listen on loopback: {error}"
        );
        exit::INTERNAL
    })?;
    let config = prepare(&folder, simulator.api_base_url()).map_err(|words| {
        console::complain(&format!("cannot set up the demo: {words}"));
        exit::CONFIGURATION
    })?;
    console::print(&format!(
        "A simulated Batch API listens at {}. The daemon works in {}.\n\n",
        simulator.api_base_url(),
        folder.display()
    ))?;
    let exports = config.download.directory.clone();
    let options = RunOptions { exit_when_settled: true, deadline: Some(Duration::from_mins(2)) };
    let environment = Environment::default();
    let setup = Setup { config, environment, options, transfer, hangups: None };
    let outcome = run_until_stopped(async { Ok(setup) }, console).await;
    simulator.stop().await;
    let Outcome::Settled { refused: 0, .. } = outcome? else { return Err(exit::UNFINISHED) };
    console::print(&closing_words(&folder, &exports))?;
    Ok(exit::DONE)
}

/// Four exports: one takes all steps, one is finished already, one meets a busy API, one fails.
fn script() -> Script {
    let slow = |id, part, bytes| {
        SimFile::generated(id, part, bytes).with_bytes_per_second(BYTES_PER_SECOND)
    };
    let md5 = SentChecksum::correct(ChecksumHeader::ContentMd5, Algorithm::Md5);
    let crc = SentChecksum::correct(ChecksumHeader::AmzChecksum, Algorithm::Crc64nvme);
    let files = vec![
        slow("file_customers_a", 1, 12_000_000).with_checksum(md5),
        slow("file_customers_b", 2, 12_000_000).with_checksum(md5),
        slow("file_customers_c", 3, 5_000_000).with_checksum(md5),
    ];
    let customers = SimExport::succeeding(SHOWN_EXPORT, files);
    let file = slow("file_events_a", 1, 9_000_000).with_checksum(crc);
    let events = SimExport::finished("export_events", vec![file]);
    let mut newsletter =
        SimExport::succeeding("export_newsletter", vec![slow("file_newsletter_a", 1, 3_000_000)]);
    newsletter.views.insert(1, ViewStep::Answer(Canned::throttled(Some("1"))));
    let broken = SimExport::failing("export_broken");
    let exports = vec![customers, events, newsletter, broken];
    Script::new(vec![SimProject::new(DEMO_PROJECT, DEMO_KEY, exports)])
}

/// Writes the key and the configuration as a user would, and loads them as `run` does.
fn prepare(folder: &Path, base_url: &str) -> Result<Config, String> {
    fs::create_dir_all(folder)
        .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    write_private(&folder.join("batch-rest-key"), DEMO_KEY)?;
    let config_file = folder.join("config.toml");
    let text = format!(
        r#"# Written by `batch-export-watcher demo`.
[api]
base_url = "{base_url}"
[poll]
min_interval = "500ms"
max_interval = "2s"
[retry]
initial = "500ms"
max = "5s"
[download]
directory = "exports"
reserve = "64MiB"
[state]
directory = "state"
[server]
listen = "127.0.0.1:0"
[[project]]
name = "shop"
project_key = "{DEMO_PROJECT}"
rest_api_key_file = "batch-rest-key"
exports = ["{SHOWN_EXPORT}", "export_events", "export_newsletter", "export_broken"]
"#
    );
    write_private(&config_file, &text)?;
    config::load(&config_file, &Environment::default()).map_err(|faults| faults.to_string())
}

fn write_private(path: &Path, text: &str) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn closing_words(folder: &Path, exports: &Path) -> String {
    let mut text = format!("\nThe files in {}:\n\n", exports.display());
    let mut files = Vec::new();
    collect(exports, &mut files);
    for (path, bytes) in files {
        let name = path.strip_prefix(exports).unwrap_or(&path).display();
        let size = bytesize::ByteSize(bytes).to_string();
        text.push_str(&format!("  {size:>10}  {name}\n"));
    }
    let manifest = exports.join("shop").join(SHOWN_EXPORT).join(MANIFEST_FILE);
    if let Ok(content) = fs::read_to_string(&manifest) {
        text.push_str(&format!("\nThe manifest of {SHOWN_EXPORT}:\n\n{content}"));
    }
    text.push_str(&format!(
        "\nOne export ends in ERROR, as planned: see its failed.json.\n\
         Everything is in {}. You can delete it.\n",
        folder.display()
    ));
    text
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => collect(&path, files),
            Ok(metadata) => files.push((path, metadata.len())),
            Err(_) => {}
        }
    }
}
