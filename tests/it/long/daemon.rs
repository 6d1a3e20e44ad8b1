//! The daemon over a long time: its log is counted and not kept, and its vital signs are read from
//! /proc.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::home::Home;
use crate::support::process::process_status;
use crate::support::{PATIENCE, look};

/// Lines of the log that a failure is told with.
const LAST_LINES: usize = 60;
/// Different messages that are counted.
const MESSAGES: usize = 200;

/// What a log has said.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) bytes: u64,
    pub(super) by_level: BTreeMap<String, u64>,
    pub(super) by_message: BTreeMap<String, u64>,
    pub(super) panics: Vec<String>,
    last: VecDeque<String>,
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    pid: u32,
    tally: Arc<Mutex<Tally>>,
    reader: JoinSet<()>,
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Vitals {
    pub(super) rss_kib: u32,
    pub(super) descriptors: u32,
    pub(super) threads: u32,
}

impl Vitals {
    /// Those of a process; none where it is gone.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let number =
            |name: &str| process_status(pid, name)?.split_whitespace().next()?.parse().ok();
        let descriptors = look::entries(Path::new(&format!("/proc/{pid}/fd"))).len();
        Some(Self {
            rss_kib: number("VmRSS:")?,
            descriptors: u32::try_from(descriptors).ok()?,
            threads: number("Threads:")?,
        })
    }
}

impl Tally {
    fn hear(&mut self, line: &str) {
        self.bytes += line.len() as u64 + 1;
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let level = event["level"].as_str().unwrap_or("NONE").to_owned();
        *self.by_level.entry(level).or_default() += 1;
        let message = event["message"].as_str().unwrap_or(line);
        let kind: String = message
            .split(':')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|letter| !letter.is_ascii_digit())
            .take(70)
            .collect();
        if self.by_message.len() < MESSAGES || self.by_message.contains_key(&kind) {
            *self.by_message.entry(kind).or_default() += 1;
        }
        if line.contains("panicked") && self.panics.len() < LAST_LINES {
            self.panics.push(line.to_owned());
        }
        self.last.push_back(line.to_owned());
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
    }

    /// The last lines of the log.
    pub(super) fn last_lines(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// The real program on this home's folder, whose configuration stays as it is written.
pub(super) fn program(home: &Home, subcommand: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
    command
        .args(["--log-format", "json", subcommand, "-c"])
        .arg(home.config_path())
        .args(arguments);
    command.current_dir(home.path()).env_clear().env("HOME", home.path()).stdin(Stdio::null());
    command.kill_on_drop(true);
    command
}

impl Daemon {
    /// Starts it; what it logs goes into the tally, which outlives it.
    pub(super) fn start(home: &Home, tally: &Arc<Mutex<Tally>>) -> Self {
        Self::start_command(program(home, "run", &[]), tally)
    }

    /// As [`Daemon::start`], by a command of one's own.
    pub(super) fn start_command(mut command: Command, tally: &Arc<Mutex<Tally>>) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let pid = child.id().expect("it has just been started");
        let mut reader = JoinSet::new();
        reader.spawn(listen(child.stderr.take().expect("stderr is piped"), Arc::clone(tally)));
        Self { child, pid, tally: Arc::clone(tally), reader }
    }

    pub(super) fn vitals(&self) -> Option<Vitals> {
        Vitals::of(self.pid)
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process ID");
        kill_process(pid, signal).expect("it runs");
    }

    /// How it has ended, if it did by itself.
    pub(super) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Ends it in good order.
    pub(super) async fn stop(self) {
        self.signal(Signal::TERM);
        self.ended().await;
    }

    /// Waits for its end, which has to be a good one and near.
    pub(super) async fn ended(mut self) {
        let Ok(status) = timeout(2 * PATIENCE, self.child.wait()).await else {
            panic!("it has not drained; the log ends with\n{}", heard(&self.tally).last_lines());
        };
        let code = status.expect("a child of ours").code();
        assert_eq!(code, Some(0), "the log ends with\n{}", heard(&self.tally).last_lines());
        let read_out = async { while self.reader.join_next().await.is_some() {} };
        timeout(Duration::from_secs(5), read_out).await.expect("its log ends with it");
    }
}

/// The tally as it is now.
pub(super) fn heard(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(stream: ChildStderr, tally: Arc<Mutex<Tally>>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await.is_ok_and(|bytes| bytes > 0) {
        heard(&tally).hear(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
