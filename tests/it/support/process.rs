//! The real program as a child process: what it says while it says it, signals, and how it ended.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{PATIENCE, look};

/// What a process has written so far, line by line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    /// Its results.
    pub(crate) stdout: Vec<String>,
    /// Its log.
    pub(crate) stderr: Vec<String>,
}

/// The same command in new namespaces, by `unshare` with these options, after a shell has done
/// this. Prints why and gives `None` if that is not allowed.
pub(crate) fn in_namespace(plain: &Command, options: &[&str], first: &str) -> Option<Command> {
    let unshared = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(options).arg("--").arg(program);
        command
    };
    let possible = unshared("true").as_std_mut().output();
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        // Not `eprintln!`, which a test that passes keeps to itself.
        let skipped =
            format!("SKIPPED: this test needs `unshare {}`: {possible:?}\n", options.join(" "));
        std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
        return None;
    }
    let plain = plain.as_std();
    let mut command = unshared("sh");
    command
        .arg("-c")
        .arg(format!("{first}\nexec \"$0\" \"$@\""))
        .arg(plain.get_program())
        .args(plain.get_args());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = plain.get_current_dir() {
        command.current_dir(folder);
    }
    Some(command)
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    child: Child,
    output: watch::Receiver<Output>,
    readers: JoinSet<()>,
}

impl Watcher {
    /// Starts a command and reads what it writes.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (sender, output) = watch::channel(Output::default());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut readers = JoinSet::new();
        readers.spawn(read_lines(stdout.expect("stdout is piped"), sender.clone(), |output| {
            &mut output.stdout
        }));
        readers.spawn(read_lines(stderr.expect("stderr is piped"), sender, |output| {
            &mut output.stderr
        }));
        Self { child, output, readers }
    }

    /// Its process ID, while it runs.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or_else(|| self.fail("the process has ended already"))
    }

    /// Bytes in the working files that it has open in this folder, those without a name included.
    pub(crate) fn partial_bytes(&self, folder: &Path) -> Vec<u64> {
        let open = self.descriptors().into_iter().filter(|descriptor| {
            let file = look::if_there(descriptor, std::fs::read_link(descriptor));
            let file = file.unwrap_or_default();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // The kernel shows a file without a name as "#inode (deleted)".
            file.parent() == Some(folder) && (name.ends_with(".partial") || name.starts_with('#'))
        });
        // Through the descriptor: the file itself may have no name.
        let length = |descriptor: PathBuf| {
            Some(look::if_there(&descriptor, std::fs::metadata(&descriptor))?.len())
        };
        open.filter_map(length).collect()
    }

    /// Its open descriptors, as paths in `/proc`; each may be closed by now.
    pub(crate) fn descriptors(&self) -> Vec<PathBuf> {
        look::entries(&self.proc("fd"))
    }

    /// The most memory that it ever had.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let peak = process_status(self.id(), "VmHWM:");
        let peak = peak.unwrap_or_else(|| self.fail("the process has ended already"));
        peak.trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// CPU time that it has used, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc_text("stat");
        let fields: Vec<_> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("clock ticks");
        // Fields 14 and 15, counted from the process ID; a tick is a hundredth of a second on every
        // Linux.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    /// A file about it in `/proc`.
    pub(crate) fn proc_text(&self, name: &str) -> String {
        let text = look::text(&self.proc(name));
        text.unwrap_or_else(|| self.fail("the process has ended already"))
    }

    /// The path of a file about it in `/proc`.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.id().to_string()).join(name)
    }

    /// Everything it has written so far.
    pub(crate) fn output(&self) -> Output {
        self.output.borrow().clone()
    }

    /// Waits for a line of the log; one that was written before counts.
    pub(crate) async fn wait_for_log(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_for_log_within(wanted, PATIENCE).await
    }

    /// As [`Watcher::wait_for_log`], with a bound of its own.
    pub(crate) async fn wait_for_log_within(
        &self,
        wanted: impl Fn(&str) -> bool,
        bound: Duration,
    ) -> String {
        let mut output = self.output.clone();
        let found = |output: &Output| output.stderr.iter().find(|line| wanted(line)).cloned();
        let line = match timeout(bound, output.wait_for(|output| found(output).is_some())).await {
            Ok(Ok(output)) => found(&output),
            Ok(Err(_)) => self.fail("the process ended without that line"),
            Err(_) => self.fail(&format!("no such line within {bound:?}")),
        };
        line.unwrap_or_else(|| self.fail("the line is gone"))
    }

    /// Waits for a line on stdout, and gives what is made of it; none means that it has ended
    /// without one.
    pub(crate) async fn said<T>(&self, wanted: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut output = self.output.clone();
        let found = |output: &Output| output.stdout.iter().find_map(|line| wanted(line));
        match timeout(PATIENCE, output.wait_for(|output| found(output).is_some())).await {
            Ok(Ok(output)) => found(&output),
            Ok(Err(_)) => None,
            Err(_) => self.fail(&format!("no such line on stdout within {PATIENCE:?}")),
        }
    }

    /// Waits for the lines of the log after the first `known` ones; none means that it has ended.
    pub(crate) async fn log_after(&self, known: usize) -> Vec<String> {
        let mut output = self.output.clone();
        // An error means that nothing more will come; what is there may still be new.
        let _ = output.wait_for(|output| output.stderr.len() > known).await;
        output.borrow().stderr.get(known..).unwrap_or_default().to_vec()
    }

    /// As [`Watcher::wait_for_log`], for lines of JSON.
    pub(crate) async fn wait_for_event(
        &self,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
        let line = self.wait_for_log(|line| parse(line).is_some_and(|event| wanted(&event))).await;
        parse(&line).unwrap_or_default()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(id) = id else { self.fail("the process has ended already") };
        if let Err(error) = kill_process(id, signal) {
            self.fail(&format!("no signal could be sent: {error}"));
        }
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub(crate) async fn kill9(mut self) -> Output {
        self.signal(Signal::KILL);
        self.ended(PATIENCE).await;
        self.output()
    }

    /// Waits for its end: the exit code, and all that it wrote. A death by signal has no code and
    /// fails the test.
    pub(crate) async fn wait(&mut self) -> (i32, Output) {
        self.wait_within(PATIENCE).await
    }

    /// As [`Watcher::wait`], with a bound of its own.
    pub(crate) async fn wait_within(&mut self, bound: Duration) -> (i32, Output) {
        let status = self.ended(bound).await;
        let code = status.code().unwrap_or_else(|| self.fail(&format!("it ended by {status}")));
        (code, self.output())
    }

    /// As [`Watcher::wait_within`], for one that may be killed by whatever it meets: then there is
    /// no exit code.
    pub(crate) async fn end_within(&mut self, bound: Duration) -> Option<i32> {
        self.ended(bound).await.code()
    }

    async fn ended(&mut self, bound: Duration) -> std::process::ExitStatus {
        let status = match timeout(bound, self.child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => self.fail(&format!("it cannot be waited for: {error}")),
            Err(_) => self.fail(&format!("it has not ended within {bound:?}")),
        };
        // The pipes close with the process, unless a child of its own holds them.
        let read_out = async { while self.readers.join_next().await.is_some() {} };
        if timeout(PATIENCE, read_out).await.is_err() {
            self.fail("its output does not end");
        }
        status
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let output = self.output();
        panic!(
            "{what}\n--- stdout\n{}\n--- stderr\n{}",
            output.stdout.join("\n"),
            output.stderr.join("\n")
        );
    }
}

/// Copies the program, for a user to whom the folder of the build may be closed.
pub(crate) fn copy_program(to: &Path) {
    // By another process: a file that is open for writing in one that forks cannot be run for a
    // moment.
    let copied = std::process::Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_batch-export-watcher"))
        .arg(to)
        .status();
    assert!(copied.expect("cp").success(), "the program cannot be copied to {}", to.display());
}

/// What the kernel says of a process under this name; `None` if it says nothing, or the process is
/// gone.
pub(crate) fn process_status(process: u32, name: &str) -> Option<String> {
    let status = look::text(Path::new(&format!("/proc/{process}/status")))?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}

async fn read_lines(
    stream: impl AsyncRead + Unpin,
    sender: watch::Sender<Output>,
    list: fn(&mut Output) -> &mut Vec<String>,
) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    // Not `lines()`: that ends at the first byte that is no UTF-8.
    while stream.read_until(b'\n', &mut line).await.is_ok_and(|bytes| bytes > 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        sender.send_modify(|output| list(output).push(text));
        line.clear();
    }
}
