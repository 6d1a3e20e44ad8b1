//! One run of a command as a whole process: wall time, CPU time of it and its children, largest
//! memory of one of them.
//!
//! The kernel tells these of children that were waited for, all together. So each run gets a parent
//! of its own: this binary once more, which starts the command, waits, writes one line and ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rustix::process::{Pid, Signal, kill_current_process_group, kill_process_group};
use serde::{Deserialize, Serialize};

use super::trouble::{Doing as _, Trouble};

/// First argument of the parent of a run.
pub(crate) const RUN_PARENT: &str = "--run-parent";
/// Longest that one run may take: far more than any has to, also on a slow disk.
const LONGEST_RUN: Duration = Duration::from_secs(300);
/// Where a run's standard error goes, in its folder.
const STDERR: &str = "stderr.log";
/// How much of it is told when a run fails, in bytes.
const LAST_WORDS_BYTES: usize = 600;

/// A command to be measured.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Its variables beside those of [`environment`].
    pub(crate) variables: Vec<(&'static str, String)>,
    /// The folder it starts in.
    pub(crate) starts_in: PathBuf,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Run {
    /// From its start to its end.
    pub(crate) wall_seconds: f64,
    /// User and system time of it and of its children.
    pub(crate) cpu_seconds: f64,
    /// The largest resident set of one process.
    pub(crate) peak_kib: i64,
    /// Its exit code; none when a signal ended it.
    code: Option<i32>,
}

impl Run {
    /// The largest resident set of one process, in MiB.
    pub(crate) fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }
}

/// The parent of a run: `arguments` are the command.
pub(crate) fn be_run_parent(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<String, Trouble> {
    thread::spawn(end_with_the_bench);
    let (program, arguments) =
        arguments.split_first().ok_or(Trouble::Wrong("no command".to_owned()))?;
    let started = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .doing(|| format!("{program} does not start"))?;
    let wall_seconds = started.elapsed().as_secs_f64();
    let usage =
        getrusage(UsageWho::RUSAGE_CHILDREN).doing(|| "cannot read the usage".to_owned())?;
    let cpu_seconds = seconds(usage.user_time()) + seconds(usage.system_time());
    let run = Run { wall_seconds, cpu_seconds, peak_kib: usage.max_rss(), code: status.code() };
    serde_json::to_string(&run).doing(|| "the report cannot be written".to_owned())
}

/// Its end of our standard input closes when the benchmark ends, however it does: then the command
/// ends, and so do we.
fn end_with_the_bench() {
    // An error says the same as the end.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    let _ = kill_current_process_group(Signal::KILL);
}

fn seconds(time: TimeVal) -> f64 {
    time.num_microseconds() as f64 / 1e6
}

/// A process group; killed when dropped, unless it has ended before.
#[derive(Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group that was made for a child.
    pub(crate) fn of(child: &tokio::process::Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// All of it has ended: the number may belong to others now.
    pub(crate) fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may end by itself just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a command that has to succeed, with a folder of its own, and measures it. What others wrote
/// goes to the disk before, not meanwhile.
pub(crate) async fn measure(planned: &Planned, folder: &Path) -> Result<Run, Trouble> {
    settle(folder)?;
    let itself = std::env::current_exe().doing(|| "cannot find this program".to_owned())?;
    let stderr =
        File::create(folder.join(STDERR)).doing(|| "cannot create the log file".to_owned())?;
    let mut child = tokio::process::Command::new(itself)
        .arg(RUN_PARENT)
        .arg(&planned.program)
        .args(&planned.arguments)
        .current_dir(&planned.starts_in)
        .env_clear()
        .envs(environment(folder))
        .envs(planned.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .doing(|| "cannot start the parent of a run".to_owned())?;
    let mut group = Group::of(&child);
    // Held, not written to.
    let _leash = child.stdin.take();
    let Ok(output) = tokio::time::timeout(LONGEST_RUN, child.wait_with_output()).await else {
        return Err(Trouble::Wrong(format!(
            "a run took longer than {LONGEST_RUN:?}{}",
            last_words(folder)
        )));
    };
    let output = output.doing(|| "cannot wait for a run".to_owned())?;
    let run: Option<Run> = serde_json::from_slice(&output.stdout).ok();
    if run.is_some() {
        group.ended();
    }
    match run {
        Some(run) if run.code == Some(0) => Ok(run),
        Some(run) => {
            let code = run
                .code
                .map_or_else(|| "by a signal".to_owned(), |code| format!("with code {code}"));
            Err(Trouble::Wrong(format!("it ended {code}{}", last_words(folder))))
        }
        None => Err(Trouble::Wrong(format!("it was not measured{}", last_words(folder)))),
    }
}

/// The variables of every command, without anyone's own settings.
pub(crate) fn environment(home: &Path) -> [(&'static str, std::ffi::OsString); 3] {
    [
        ("PATH", std::env::var_os("PATH").unwrap_or_default()),
        ("LANG", "C".into()),
        ("HOME", home.as_os_str().to_owned()),
    ]
}

/// Waits until this folder's file system has written what it holds back.
pub(crate) fn settle(folder: &Path) -> Result<(), Trouble> {
    let words = || format!("{} cannot be synced", folder.display());
    rustix::fs::syncfs(File::open(folder).doing(words)?).doing(words)
}

/// The end of what a run wrote to its standard error.
fn last_words(folder: &Path) -> String {
    let log = fs::read(folder.join(STDERR)).unwrap_or_default();
    let end = &log[log.len().saturating_sub(LAST_WORDS_BYTES)..];
    if end.is_empty() {
        String::new()
    } else {
        format!("; its last words:\n{}", String::from_utf8_lossy(end))
    }
}
