//! Logs: text or JSON lines on stderr, or entries of the journal. `RUST_LOG` applies to our own
//! events. Other crates log only warnings and errors, because the debug lines of HTTP crates show
//! signed links.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::MultiProgress;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use super::intake::Intake;
use super::journal;
use super::text_fields::TextFields;
use crate::domain::text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Readable lines.
    Text,
    /// One JSON object per line.
    Json,
    /// One entry with fields in systemd's journal for each event.
    Journald,
}

impl LogFormat {
    /// The format that the user wants, else the one that fits standard error.
    pub fn choose(wanted: Option<Self>, journal_takes_stderr: bool) -> Self {
        wanted.unwrap_or(if journal_takes_stderr { Self::Journald } else { Self::Text })
    }
}

#[derive(Debug, Clone)]
pub enum LogTarget {
    Stderr,
    /// Standard error, above the progress bars there.
    Above(MultiProgress),
}

/// Installs the process-wide subscriber and a panic hook. The hook logs where a panic happened, but
/// not its payload, which may hold content. `rust_log` is the variable of that name; what is not
/// understood of it does not count, with a warning. If the journal cannot be reached, the log is
/// text, with a warning.
pub fn init(format: LogFormat, target: LogTarget, rust_log: Option<&OsStr>) {
    let shows_progress = matches!(target, LogTarget::Above(_));
    let (layer, quiet, unreachable) = match format {
        LogFormat::Text => (lines(target), shows_progress, None),
        LogFormat::Json => (json(target), shows_progress, None),
        LogFormat::Journald => match journal::layer() {
            Ok(layer) => (layer.boxed(), false, None),
            Err(error) => (lines(target), shows_progress, Some(error)),
        },
    };
    let default = if quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    let rust_log = rust_log.unwrap_or_default().to_string_lossy();
    let (wanted, doubtful) = understood(&rust_log, default);
    // A second call (tests in one process) keeps the first subscriber.
    let _ =
        tracing_subscriber::registry().with(layer.with_filter(ours_or_warnings(wanted))).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(event = "task_panicked", place, "internal error: a task panicked");
    }));
    for directive in doubtful {
        let cause = format!(
            "the environment variable RUST_LOG has `{}`, which does not count: write off, error, \
             warn, info, debug or trace, or TARGET=LEVEL",
            text::shown(directive, &[])
        );
        tracing::warn!(event = "configuration_doubtful", cause, "{cause}");
    }
    if let Some(error) = unreachable {
        tracing::warn!(
            event = "journal_unreachable", cause = %error,
            "cannot reach systemd's journal, so the log goes to standard error: {error}"
        );
    }
}

/// What `RUST_LOG` wants, and the directives in it that are not understood. Without a level for
/// everything `default` counts, so that no misspelling silences errors.
fn understood(rust_log: &str, default: LevelFilter) -> (Targets, Vec<&str>) {
    let is_target = |target: &str| {
        let plain = |byte| matches!(byte, b':' | b'_' | b'-') || u8::is_ascii_alphanumeric(&byte);
        !target.is_empty() && target.bytes().all(plain)
    };
    let (mut wanted, mut doubtful) = (Targets::new().with_default(default), Vec::new());
    for directive in rust_log.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        wanted = match directive.split_once('=') {
            Some((target, word)) => match level(word.trim()) {
                Some(level) if is_target(target.trim()) => wanted.with_target(target.trim(), level),
                _ => {
                    doubtful.push(directive);
                    wanted
                }
            },
            None => match level(directive) {
                Some(level) => wanted.with_default(level),
                None if directive.starts_with(env!("CARGO_CRATE_NAME")) => {
                    wanted.with_target(directive, LevelFilter::TRACE)
                }
                None => {
                    doubtful.push(directive);
                    wanted
                }
            },
        };
    }
    (wanted, doubtful)
}

fn level(word: &str) -> Option<LevelFilter> {
    match word {
        "" => None,
        _ if word.eq_ignore_ascii_case("warning") => Some(LevelFilter::WARN),
        _ => word.parse().ok(),
    }
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn lines(target: LogTarget) -> BoxedLayer {
    let writer = StderrWriter { target, priorities: journal::takes_stderr() };
    let layer = fmt::layer().with_writer(writer).with_ansi(console_wants_color());
    layer.log_internal_errors(false).with_target(false).fmt_fields(TextFields).boxed()
}

fn json(target: LogTarget) -> BoxedLayer {
    let layer =
        fmt::layer().with_writer(StderrWriter { target, priorities: false }).with_ansi(false);
    let layer = layer.log_internal_errors(false).json();
    layer.flatten_event(true).with_current_span(false).with_span_list(false).boxed()
}

fn ours_or_warnings(wanted: Targets) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    FilterFn::new(move |metadata: &Metadata<'_>| {
        if metadata.target().starts_with(env!("CARGO_CRATE_NAME")) {
            wanted.would_enable(metadata.target(), metadata.level())
        } else {
            *metadata.level() <= Level::WARN
        }
    })
}

fn console_wants_color() -> bool {
    use std::io::IsTerminal as _;
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[derive(Debug, Clone)]
struct StderrWriter {
    target: LogTarget,
    /// Whether each line begins with its priority, for the journal.
    priorities: bool,
}

#[derive(Debug)]
struct Line<'a> {
    target: &'a LogTarget,
    priority_of: Option<Level>,
}

impl<'a> MakeWriter<'a> for StderrWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { target: &self.target, priority_of: None }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { target: &self.target, priority_of: self.priorities.then(|| *metadata.level()) }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let prefixed = self.priority_of.map(|level| journal::with_priority(level, text));
        let line = prefixed.as_deref().unwrap_or(text);
        match self.target {
            LogTarget::Stderr => to_stderr(line)?,
            LogTarget::Above(bars) => bars.suspend(|| io::stderr().lock().write_all(line))?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// A pipe that is ready takes so many bytes without waiting (PIPE_BUF).
const PIPE_BYTES: usize = 4096;
static STDERR: Intake = Intake::new();
/// Whether the last line was cut, because nobody took its rest.
static CUT: AtomicBool = AtomicBool::new(false);

fn to_stderr(line: &[u8]) -> io::Result<()> {
    // Nobody else of this process may fill the pipe between the look and the write.
    let mut stderr = io::stderr().lock();
    if CUT.load(Ordering::Relaxed) && STDERR.takes(&stderr) {
        CUT.store(false, Ordering::Relaxed);
        stderr.write_all(b"\n")?;
    }
    STDERR.recovers(&stderr);
    let mut left = line;
    while let Some((piece, rest)) = left.split_at_checked(left.len().min(PIPE_BYTES))
        && !piece.is_empty()
        && STDERR.takes(&stderr)
    {
        stderr.write_all(piece)?;
        left = rest;
    }
    if left.len() < line.len() && !left.is_empty() {
        CUT.store(true, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_format_wins_and_else_the_journal_decides() {
        for wanted in [LogFormat::Text, LogFormat::Json, LogFormat::Journald] {
            for journal_takes_stderr in [false, true] {
                assert_eq!(LogFormat::choose(Some(wanted), journal_takes_stderr), wanted);
            }
        }
        assert_eq!(LogFormat::choose(None, true), LogFormat::Journald);
        assert_eq!(LogFormat::choose(None, false), LogFormat::Text);
    }

    #[test]
    fn other_crates_log_at_most_warnings() {
        let wanted: Targets = "trace".parse().unwrap();
        let filter = ours_or_warnings(wanted);
        let subscriber = tracing_subscriber::registry()
            .with(fmt::layer().with_writer(io::sink).with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::enabled!(target: "batch_export_watcher::engine", Level::TRACE));
            assert!(tracing::enabled!(target: "hyper_util::client", Level::WARN));
            assert!(!tracing::enabled!(target: "hyper_util::client", Level::INFO));
            assert!(!tracing::enabled!(target: "reqwest::connect", Level::TRACE));
        });
    }
}
