//! The real program under strace: its system calls with files, each with where it began and where
//! it ended.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// One call. Calls of several threads overlap: one came before another where its end is before the
/// other's start.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// As strace shows them, descriptors with the paths that they lead to.
    pub(crate) arguments: String,
    pub(crate) result: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Call {
    pub(crate) fn is_ok(&self) -> bool {
        !self.result.starts_with('-') && self.result != "?"
    }

    /// The path of its first argument, a descriptor.
    pub(crate) fn descriptor_path(&self) -> Option<&str> {
        let first =
            self.arguments.split_once('<').filter(|(number, _)| number.parse::<i32>().is_ok())?.1;
        first.split_once('>').map(|(path, _)| path)
    }

    /// Whether it was over before the other one began.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.end < other.start
    }
}

/// Whether a program can be traced here. If not, it says so.
pub(crate) fn is_possible() -> bool {
    let output =
        std::process::Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let possible = output.as_ref().is_ok_and(|output| output.status.success());
    if !possible {
        // Not `eprintln!`, which a test that passes keeps to itself.
        let skipped =
            format!("SKIPPED: this test needs strace and the right to trace: {output:?}\n");
        std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
    }
    possible
}

/// The same command, traced into this file. `arguments` are strace's own.
pub(crate) fn traced(plain: &Command, trace: &Path, arguments: &[&str]) -> Command {
    let plain = plain.as_std();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-o"])
        .arg(trace)
        .args(arguments)
        .arg(plain.get_program())
        .args(plain.get_args());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = plain.get_current_dir() {
        command.current_dir(folder);
    }
    command.stdin(Stdio::null());
    command
}

/// Reads what strace wrote.
pub(crate) fn read(trace: &Path) -> Vec<Call> {
    let text = String::from_utf8_lossy(&fs::read(trace).expect("a trace")).into_owned();
    let mut calls = Vec::new();
    // By thread: what was begun there and is not finished.
    let mut open = std::collections::HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (start, whole) = if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread.to_owned(), (number, begun.to_owned()));
            continue;
        } else if rest.starts_with("<... ") {
            let (Some((start, begun)), Some((_, ended))) =
                (open.remove(thread), rest.split_once(" resumed>"))
            else {
                continue;
            };
            (start, format!("{begun}{ended}"))
        } else {
            (number, rest.to_owned())
        };
        let Some((call, result)) = whole.rsplit_once(" = ") else { continue };
        let Some((name, arguments)) = call.trim_end().split_once('(') else { continue };
        let result = result.split(' ').next().unwrap_or_default().to_owned();
        let arguments = arguments.strip_suffix(')').unwrap_or(arguments).to_owned();
        calls.push(Call { name: name.to_owned(), arguments, result, start, end: number });
    }
    calls
}
