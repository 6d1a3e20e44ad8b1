//! The terminal: log lines, plain output and progress bars. Nothing panics if it is gone.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::MultiProgress;
use tracing::Level;

use super::{Cli, Command};
use crate::exit;
use crate::process::journal;
use crate::process::telemetry::{self, LogFormat, LogTarget};

#[derive(Debug, Clone)]
pub struct Console {
    /// `None` if nobody watches.
    pub(super) bars: Option<MultiProgress>,
}

/// Starts logging, with progress bars if the command shows some and standard error is a terminal.
pub fn start_console(cli: &Cli) -> Console {
    let watched = match &cli.command {
        Command::Run(args) => args.exit_when_settled,
        Command::Demo(_) => true,
        _ => false,
    };
    let bars = (watched && io::stderr().is_terminal()).then(MultiProgress::new);
    let target = bars.clone().map_or(LogTarget::Stderr, LogTarget::Above);
    let format = LogFormat::choose(cli.log_format, journal::takes_stderr());
    telemetry::init(format, target, std::env::var_os("RUST_LOG").as_deref());
    Console { bars }
}

/// Prints a result to standard output. If it cannot be written, returns the exit code.
pub(super) fn print(text: &str) -> Result<(), u8> {
    written(write(text))
}

pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether a result has reached standard output. It is not an error if nobody reads it. Any other
/// error is told: half a result must not look like success.
pub(super) fn written(done: io::Result<()>) -> Result<(), u8> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            Err(exit::UNFINISHED)
        }
        _ => Ok(()),
    }
}

/// Columns and rows of the terminal on standard output; 80 and 24 if it does not tell.
pub(super) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Prints lines to standard error as they are, for the person who typed the command. In the journal
/// they have the priority of errors.
pub(super) fn complain(text: &str) {
    let mut lines = text.trim_end().as_bytes().to_vec();
    lines.push(b'\n');
    if journal::takes_stderr() {
        lines = journal::with_priority(Level::ERROR, &lines);
    }
    let _ = io::stderr().lock().write_all(&lines);
}

/// The daemon's answer does not belong to the question.
pub(super) const OTHER_VERSION: &str =
    "the running daemon is another version and does not understand this command: restart it";

pub(super) fn complain_of_version() -> u8 {
    complain(OTHER_VERSION);
    exit::UNFINISHED
}

pub(super) fn unavailable(cause: &str) -> String {
    format!("the daemon cannot do this now: {cause}")
}
