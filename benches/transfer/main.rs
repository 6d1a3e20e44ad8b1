//! The transfer benchmark: this program against common downloaders, on an nginx of its own on
//! loopback.
//!
//! ```sh
//! cargo bench --bench transfer
//! cargo bench --bench transfer -- --only big-http,latency --runs 3
//! BATCH_EXPORT_WATCHER_BEFORE=/path/to/another/build cargo bench --bench transfer
//! ```
//!
//! Needs nginx, curl, openssl and aria2c; wget2, rclone and Python's requests take part if they
//! are installed. Tables go to standard output, progress to standard error. All files are under
//! `target/`: about 6 GB at a time. The generated data stays for the next run.
//!
//! | file | holds |
//! | --- | --- |
//! | `data` | the files that are served |
//! | `rig` | nginx, as API and store |
//! | `peers` | the tools and their commands |
//! | `measure` | one run of a command, measured |
//! | `scenario` | rounds, and whether the right bytes arrived |
//! | `latency` | from SUCCESS to the manifest |
//! | `bars` | what has to be reached |
//! | `report`, `table` | numbers into Markdown |
//! | `machine` | what it was measured on |
//! | `trouble` | why there is no result |

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints results on one stream and progress on the other"
)]

mod bars;
mod data;
mod latency;
mod machine;
mod measure;
mod peers;
mod report;
mod rig;
mod scenario;
mod table;
mod trouble;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};
use tokio::signal::unix::{SignalKind, signal};

use data::Data;
use peers::Tool;
use rig::Rig;
use scenario::Scenario;
use trouble::{Doing as _, Trouble};

/// All tools, in the order in which they are looked for.
const TOOLS: [Tool; 9] = [
    Tool::Ours,
    Tool::Before,
    Tool::Curl,
    Tool::CurlSync,
    Tool::CurlSyncSums,
    Tool::Aria2c,
    Tool::Wget2,
    Tool::Rclone,
    Tool::Requests,
];
/// Bytes in a GB.
const GB: u64 = 1_000_000_000;

/// Measures batch-export-watcher against common downloaders.
#[derive(Debug, Parser)]
struct Options {
    /// Counted runs of each tool, after one to warm up.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// Run only these scenarios.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// List the scenarios and exit.
    #[arg(long)]
    list: bool,
    /// Exit with 1 if a bar is missed.
    #[arg(long)]
    check: bool,
    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((mode, rest)) if mode == measure::RUN_PARENT => return measure::be_run_parent(rest),
        Some((mode, rest)) if mode == rig::SERVER_LEASH => return failed(&rig::be_leashed(rest)),
        // `cargo test --all-targets` starts it so.
        None => {
            println!("measures nothing without --bench: cargo bench --bench transfer");
            return ExitCode::SUCCESS;
        }
        Some(_) => {}
    }
    let options = Options::parse();
    if options.list {
        for scenario in Scenario::value_variants() {
            println!("{:12} {}", name(*scenario), scenario.title());
        }
        return ExitCode::SUCCESS;
    }
    match bench(&options) {
        Ok(missed) if missed > 0 && options.check => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(trouble) => failed(&trouble),
    }
}

fn failed(trouble: &Trouble) -> ExitCode {
    eprintln!("error: {trouble}");
    ExitCode::FAILURE
}

fn name(scenario: Scenario) -> String {
    scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Builds the program as it is installed. What `cargo bench` has built beside us has the tests'
/// features in it, such as a clock that can be stopped: that costs 2,000 small parts a tenth of
/// their CPU time.
fn build_the_program() -> Result<(), Trouble> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let built = std::process::Command::new(cargo)
        .args(["build", "--locked", "--profile", profile, "--bin", env!("CARGO_PKG_NAME")])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .status()
        .doing(|| "cannot start cargo".to_owned())?;
    if built.success() {
        Ok(())
    } else {
        Err(Trouble::Wrong("cannot build the program".to_owned()))
    }
}

/// How many bars were missed.
fn bench(options: &Options) -> Result<usize, Trouble> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not the release program: its numbers mean nothing");
    }
    build_the_program()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("transfer");
    fs::create_dir_all(&folder).doing(|| "cannot create the benchmark's folder".to_owned())?;
    let lock =
        File::create(folder.join("lock")).doing(|| "cannot create the lock file".to_owned())?;
    lock.try_lock().doing(|| "another benchmark is running in this target folder".to_owned())?;
    // Left by a run that was killed.
    let work = folder.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).doing(|| "cannot remove the work folder".to_owned())?;
    }
    let scenarios =
        if options.only.is_empty() { Scenario::value_variants() } else { &options.only };
    // One thread starts all children: they end with it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "cannot start the runtime".to_owned())?;
    let result = runtime.block_on(async {
        let installed = installed().await?;
        require_space(&folder, scenarios, options, &installed)?;
        let mut sets: Vec<_> =
            scenarios.iter().flat_map(|scenario| scenario.sets()).copied().collect();
        sets.dedup();
        let data = Data::prepare(&folder.join("data"), &sets)?;
        let stopped = stopped()?;
        fs::create_dir(&work).doing(|| "cannot create the work folder".to_owned())?;
        tokio::select! {
            missed = run(scenarios, options, &data, &work, &installed) => missed,
            () = stopped => Err(Trouble::Stopped),
        }
    });
    // A thread that still looks for a file may do so until the process ends.
    runtime.shutdown_background();
    let removed = if work.exists() { fs::remove_dir_all(&work) } else { Ok(()) };
    let missed = result?;
    removed.doing(|| "cannot remove the work folder".to_owned())?;
    Ok(missed)
}

async fn run(
    scenarios: &[Scenario],
    options: &Options,
    data: &Data,
    work: &Path,
    installed: &[Tool],
) -> Result<usize, Trouble> {
    println!("{}\n", machine::describe(work, installed).await);
    println!(
        "{} counted runs of each tool after one to warm up, in turns; memory is the largest process's; \
         aria2c allocates files as it does by default (prealloc).\n",
        options.runs
    );
    let mut sets: Vec<_> = scenarios.iter().flat_map(|scenario| scenario.sets()).copied().collect();
    sets.dedup();
    let rig = Rig::start(&work.join("rig"), data, &sets).await?;
    let mut missed = 0;
    for &scenario in scenarios {
        let folder = work.join(name(scenario));
        let measured = scenario.run(&rig, data, &folder, options.runs.into(), installed).await?;
        let (bars, missed_here) = bars::judge(scenario, &measured);
        missed += missed_here;
        println!("### {}\n\n{}\n{bars}", scenario.title(), report::table(scenario, &measured));
    }
    rig.stop().await?;
    Ok(missed)
}

/// The tools that are there; says which optional ones are not.
async fn installed() -> Result<Vec<Tool>, Trouble> {
    let mut installed = Vec::new();
    for (program, argument) in [("nginx", "-v"), ("curl", "--version"), ("openssl", "version")] {
        if peers::version_of(program, &[argument]).await.is_none() {
            return Err(Trouble::Wrong(format!(
                "{program} is not installed, and nothing works without it"
            )));
        }
    }
    for tool in TOOLS {
        match tool.version().await {
            Some(_) => installed.push(tool),
            None if tool.optional() => println!("{} is not installed: left out.\n", tool.name()),
            None => return Err(Trouble::Wrong(format!("{} is not installed", tool.name()))),
        }
    }
    Ok(installed)
}

/// Refuses to fill a disk.
fn require_space(
    folder: &Path,
    scenarios: &[Scenario],
    options: &Options,
    installed: &[Tool],
) -> Result<(), Trouble> {
    let rounds = usize::from(options.runs) + 1;
    let runs =
        scenarios.iter().map(|scenario| scenario.disk_bytes(rounds, installed)).max().unwrap_or(0);
    let sets: u64 = data::ALL.iter().map(|set| set.distinct_bytes()).sum();
    let needed = runs + sets;
    let disk = rustix::fs::statvfs(folder).doing(|| "cannot query the free space".to_owned())?;
    if disk.f_bavail * disk.f_frsize < needed {
        return Err(Trouble::Wrong(format!(
            "the disk needs {} GB of free space",
            needed.div_ceil(GB)
        )));
    }
    Ok(())
}

/// Returns at the first SIGINT or SIGTERM.
fn stopped() -> Result<impl Future<Output = ()>, Trouble> {
    let words = || "cannot catch signals".to_owned();
    let mut interrupt = signal(SignalKind::interrupt()).doing(words)?;
    let mut terminate = signal(SignalKind::terminate()).doing(words)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
