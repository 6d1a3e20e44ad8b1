//! The tools, and how each gets the same job: every part of a set, eight at a time, into an empty
//! folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use toml::Table;

use super::data::{Set, write};
use super::measure::{Planned, environment};
use super::rig::{List, Rig, Scheme};
use super::trouble::{Doing as _, Trouble};

/// Transfers at once, for every tool.
pub(crate) const IN_FLIGHT: usize = 8;
/// The folder of the downloads, in a run's folder.
pub(crate) const OUT: &str = "out";
/// The project in the configuration that is written here; a folder in the downloads.
pub(crate) const PROJECT: &str = "bench";
/// The key's file; nginx does not check the key.
const KEY_VARIABLE: &str = "BENCH_REST_KEY";
/// The environment variable with the path of another build to compare with, if there is one.
const BEFORE: &str = "BATCH_EXPORT_WATCHER_BEFORE";
/// Longest wait for a tool's version.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `python3` runs: its arguments are the list, the authority, the number of threads.
const REQUESTS_SCRIPT: &str = r#"
import sys, threading, requests
from concurrent.futures import ThreadPoolExecutor
addresses, ca, threads = open(sys.argv[1]).read().split(), sys.argv[2], int(sys.argv[3])
local = threading.local()
def fetch(address):
    if not hasattr(local, "session"):
        local.session = requests.Session()
    with local.session.get(address, stream=True, verify=ca, timeout=60) as answer:
        answer.raise_for_status()
        with open(address.rsplit("=", 1)[1], "wb") as file:
            for chunk in answer.iter_content(1 << 20):
                file.write(chunk)
with ThreadPoolExecutor(threads) as pool:
    for _ in pool.map(fetch, addresses):
        pass
"#;

/// One way to download an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    Ours,
    /// Another build of this program, by its path in [`BEFORE`].
    Before,
    /// `curl --parallel`.
    Curl,
    /// The same, then `sync`.
    CurlSync,
    /// The same, then `openssl` over every file: what this program's run comes to.
    CurlSyncSums,
    /// `aria2c`.
    Aria2c,
    /// `wget2`.
    Wget2,
    /// `rclone copy` from the store.
    Rclone,
    /// Python's `requests` in threads.
    Requests,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) scheme: Scheme,
    pub(crate) set: Set,
    pub(crate) in_flight: usize,
    /// The run's own, empty folder.
    pub(crate) folder: &'a Path,
}

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "batch-export-watcher",
            Self::Before => "batch-export-watcher before",
            Self::Curl => "curl",
            Self::CurlSync => "curl, sync",
            Self::CurlSyncSums => "curl, sync, sha256",
            Self::Aria2c => "aria2c",
            Self::Wget2 => "wget2",
            Self::Rclone => "rclone",
            Self::Requests => "python requests",
        }
    }

    /// Whether it is a build of this program.
    pub(crate) fn is_this_program(self) -> bool {
        matches!(self, Self::Ours | Self::Before)
    }

    /// What is known of the files once it has ended with 0.
    pub(crate) fn proves(self) -> &'static str {
        match self {
            Self::Ours | Self::Before => {
                "every length as declared, every file durable before its name, SHA-256 in the manifest"
            }
            Self::Curl => "lengths as the store sent them; nothing is durable",
            Self::CurlSync => "lengths as the store sent them; durable at the end",
            Self::CurlSyncSums => {
                "lengths as the store sent them; durable at the end; SHA-256 in a list"
            }
            Self::Aria2c | Self::Wget2 | Self::Requests => {
                "lengths as the store sent them; nothing is durable"
            }
            Self::Rclone => {
                "lengths as the store sent them; nothing is durable; the API is not asked"
            }
        }
    }

    /// Whether a missing one is left out instead of ending the benchmark.
    pub(crate) fn optional(self) -> bool {
        matches!(self, Self::Before | Self::Wget2 | Self::Rclone | Self::Requests)
    }

    /// Its version; none when it is not installed.
    pub(crate) async fn version(self) -> Option<String> {
        match self {
            Self::Ours => Some(format!("{} {}", self.name(), env!("CARGO_PKG_VERSION"))),
            Self::Before => version_of(&std::env::var(BEFORE).ok()?, &["--version"]).await,
            Self::Curl | Self::CurlSync => version_of("curl", &["--version"]).await,
            Self::CurlSyncSums => version_of("openssl", &["version"]).await,
            Self::Aria2c => version_of("aria2c", &["--version"]).await,
            Self::Wget2 => version_of("wget2", &["--version"]).await,
            Self::Rclone => version_of("rclone", &["--version"]).await,
            Self::Requests => {
                let say = "import requests; print('python requests', requests.__version__)";
                version_of("python3", &["-c", say]).await
            }
        }
    }

    /// The command for a job; its folder gets what the command needs.
    pub(crate) fn plan(self, job: Job<'_>) -> Result<Planned, Trouble> {
        let out = job.folder.join(OUT);
        fs::create_dir_all(&out).doing(|| "a run's folder cannot be made".to_owned())?;
        let plan = |program: &str, arguments: Vec<String>| Planned {
            program: program.into(),
            arguments,
            variables: Vec::new(),
            starts_in: out.clone(),
        };
        Ok(match self {
            Self::Ours => ours(job)?,
            Self::Before => {
                let program = std::env::var_os(BEFORE).unwrap_or_default().into();
                Planned { program, ..ours(job)? }
            }
            Self::Curl => plan("curl", curl(job)),
            Self::CurlSync => plan("sh", and_then("curl", &curl(job), "sync -f .")),
            Self::CurlSyncSums => plan(
                "sh",
                and_then(
                    "curl",
                    &curl(job),
                    "sync -f . && ls | xargs -P2 -n1 openssl dgst -sha256 -r > ../SHA256",
                ),
            ),
            Self::Aria2c => plan("aria2c", aria2c(job)),
            Self::Wget2 => plan("wget2", wget2(job)),
            Self::Rclone => plan("rclone", rclone(job)),
            Self::Requests => plan("python3", requests(job)),
        })
    }
}

fn text(path: impl Into<PathBuf>) -> String {
    path.into().to_string_lossy().into_owned()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The release program with a configuration of its own and all else as it comes, its log included.
fn ours(job: Job<'_>) -> Result<Planned, Trouble> {
    let config = our_config(&job.rig.api_base_url(job.scheme), job.set.name, job.in_flight);
    let mut config: Table =
        config.parse().map_err(std::io::Error::other).doing(|| "toml".to_owned())?;
    if let (Scheme::Https, Some(api)) =
        (job.scheme, config.get_mut("api").and_then(|api| api.as_table_mut()))
    {
        api.insert("ca_file".to_owned(), text(job.rig.ca_file()).into());
    }
    start_ours(job.folder, &config)
}

/// Differs from the defaults in paths and in the shortest poll interval.
pub(crate) fn our_config(api_base_url: &str, export: &str, in_flight: usize) -> String {
    format!(
        r#"
        [api]
        base_url = "{api_base_url}"
        [poll]
        min_interval = "10ms"
        max_interval = "20ms"
        [download]
        directory = "{OUT}"
        max_parts = {in_flight}
        reserve = "0B"
        [state]
        directory = "state"
        [server]
        listen = "off"
        [[project]]
        name = "{PROJECT}"
        project_key = "project_of_the_bench"
        rest_api_key_env = "{KEY_VARIABLE}"
        exports = ["{export}"]
        "#
    )
}

/// The command that runs this configuration until it is settled.
pub(crate) fn start_ours(folder: &Path, config: &Table) -> Result<Planned, Trouble> {
    write(&folder.join("config.toml"), config.to_string().as_bytes())?;
    Ok(Planned {
        program: env!("CARGO_BIN_EXE_batch-export-watcher").into(),
        arguments: words(&["run", "--exit-when-settled", "-c", "config.toml"]),
        variables: vec![(KEY_VARIABLE, "rest-key-of-the-bench".to_owned())],
        starts_in: folder.to_owned(),
    })
}

fn curl(job: Job<'_>) -> Vec<String> {
    let mut curl =
        words(&["-q", "-f", "-sS", "--no-progress-meter", "-L", "--parallel", "--parallel-max"]);
    curl.push(job.in_flight.to_string());
    if job.scheme == Scheme::Https {
        curl.extend(["--cacert".to_owned(), text(job.rig.ca_file())]);
    }
    curl.extend(["-K".to_owned(), text(job.rig.list(job.scheme, job.set, List::Curl))]);
    curl
}

/// The arguments of `sh` for a command and then more.
fn and_then(program: &str, first: &[String], more: &str) -> Vec<String> {
    let mut arguments = words(&["-c", &format!("\"$@\" && {more}"), "sh", program]);
    arguments.extend_from_slice(first);
    arguments
}

fn aria2c(job: Job<'_>) -> Vec<String> {
    let mut arguments = words(&["--no-conf", "-q", "-x1", "-s1", "--file-allocation=prealloc"]);
    arguments.push(format!("-j{}", job.in_flight));
    if job.scheme == Scheme::Https {
        arguments.push(format!("--ca-certificate={}", text(job.rig.ca_file())));
    }
    arguments.extend(["-i".to_owned(), text(job.rig.list(job.scheme, job.set, List::Aria2))]);
    arguments
}

fn wget2(job: Job<'_>) -> Vec<String> {
    let mut arguments = words(&["--no-config", "-q", "--no-hsts"]);
    arguments.push(format!("--max-threads={}", job.in_flight));
    if job.scheme == Scheme::Https {
        arguments.push(format!("--ca-certificate={}", text(job.rig.ca_file())));
    }
    arguments.extend(["-i".to_owned(), text(job.rig.list(job.scheme, job.set, List::Addresses))]);
    arguments
}

/// It cannot follow a list of addresses through the API, so it goes to the store at once.
fn rclone(job: Job<'_>) -> Vec<String> {
    let mut arguments = words(&["copy", "-q", "--config", "", "--no-traverse", "--retries", "1"]);
    arguments.extend(["--transfers".to_owned(), job.in_flight.to_string()]);
    if job.scheme == Scheme::Https {
        arguments.extend(["--ca-cert".to_owned(), text(job.rig.ca_file())]);
    }
    arguments.extend(["--http-url".to_owned(), job.rig.store_url(job.scheme)]);
    arguments
        .extend(["--files-from".to_owned(), text(job.rig.list(job.scheme, job.set, List::Ids))]);
    arguments.extend(words(&[":http:", "."]));
    arguments
}

fn requests(job: Job<'_>) -> Vec<String> {
    vec![
        "-c".to_owned(),
        REQUESTS_SCRIPT.to_owned(),
        text(job.rig.list(job.scheme, job.set, List::Addresses)),
        text(job.rig.ca_file()),
        job.in_flight.to_string(),
    ]
}

/// The first line that a program says of itself, on either stream.
pub(crate) async fn version_of(program: &str, arguments: &[&str]) -> Option<String> {
    let asked = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment(Path::new("/")))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let line = String::from_utf8_lossy(&said).lines().next()?.trim().to_owned();
    output.status.success().then_some(line)
}
