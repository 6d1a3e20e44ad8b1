//! The terminal: log lines, plain output and progress bars share it without tearing each other, and
//! nobody panics when it is gone.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::MultiProgress;
use tracing::Level;

use super::{Cli, Command};
use crate::exit;
use crate::process::journal;
use crate::process::telemetry::{self, LogFormat, LogTarget};

/// What of the terminal this run uses.
#[derive(Debug, Clone)]
pub struct Console {
    /// Progress bars, where somebody watches.
    pub(super) bars: Option<MultiProgress>,
}

/// Starts logging; with progress bars where the command shows some and standard error is a
/// terminal.
#[must_use]
pub fn start_console(cli: &Cli) -> Console {
    let watched = match &cli.command {
        Command::Run(args) => args.exit_when_settled,
        Command::Demo(_) => true,
        _ => false,
    };
    let bars = (watched && io::stderr().is_terminal()).then(MultiProgress::new);
    let target = bars.clone().map_or(LogTarget::Stderr, LogTarget::Above);
    let format = LogFormat::choose(cli.log_format, journal::takes_stderr());
    telemetry::init(format, target, std::env::var("RUST_LOG").ok().as_deref());
    Console { bars }
}

/// Prints to standard output; a reader that is gone is not an error.
pub(super) fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Columns and rows of the terminal on standard output; those of an old one where it does not say.
pub(super) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Prints lines to standard error as they are, for messages that are meant for whoever typed the
/// command; the journal is told that they are errors.
pub(super) fn complain(text: &str) {
    let mut lines = text.trim_end().as_bytes().to_vec();
    lines.push(b'\n');
    if journal::takes_stderr() {
        lines = journal::with_priority(Level::ERROR, &lines);
    }
    let _ = io::stderr().lock().write_all(&lines);
}

/// The daemon gave an answer that does not belong to the question. Returns the exit code for that.
pub(super) fn complain_of_version() -> u8 {
    complain("the daemon is of another version and does not know this question: restart it");
    exit::UNFINISHED
}
