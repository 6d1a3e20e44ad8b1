//! Logs: readable text or JSON lines on stderr, or entries of the journal. `RUST_LOG` rules our own
//! events; every other crate is capped at warnings, because the debug lines of HTTP crates print
//! signed links.

use std::borrow::Cow;
use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use super::journal;
use super::text_fields::TextFields;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// One entry of systemd's journal an event, with fields.
    Journald,
}

impl LogFormat {
    /// What was asked for; else what fits where standard error leads.
    #[must_use]
    pub fn choose(wanted: Option<Self>, journal_takes_stderr: bool) -> Self {
        wanted.unwrap_or(if journal_takes_stderr { Self::Journald } else { Self::Text })
    }
}

/// Where log lines go that do not go to the journal.
#[derive(Debug, Clone)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard error, above the progress bars that are drawn there.
    Above(MultiProgress),
}

/// Installs the process-wide subscriber and a panic hook that logs where a panic happened, without
/// its payload: that may hold content. `rust_log` is the variable of that name; what it holds and
/// cannot be read counts as `info`. Where the journal is wanted and cannot be reached, the log is
/// text, and says so.
pub fn init(format: LogFormat, target: LogTarget, rust_log: Option<&str>) {
    let shows_progress = matches!(target, LogTarget::Above(_));
    let (layer, quiet, unreachable) = match format {
        LogFormat::Text => (text(target), shows_progress, None),
        LogFormat::Json => (json(target), shows_progress, None),
        LogFormat::Journald => match journal::layer() {
            Ok(layer) => (layer.boxed(), false, None),
            Err(error) => (text(target), shows_progress, Some(error)),
        },
    };
    let default = if quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    let wanted = rust_log
        // Set and empty is how a container says unset.
        .filter(|directives| !directives.trim().is_empty())
        .and_then(|directives| directives.parse::<Targets>().ok())
        .unwrap_or_else(|| Targets::new().with_default(default));
    // A second call (tests in one process) keeps the first subscriber.
    let _ =
        tracing_subscriber::registry().with(layer.with_filter(ours_or_warnings(wanted))).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(event = "task_panicked", place, "internal error: a task panicked");
    }));
    if let Some(error) = unreachable {
        tracing::warn!(event = "journal_unreachable", cause = %error, "the journal cannot be reached, the log goes to standard error: {error}");
    }
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn text(target: LogTarget) -> BoxedLayer {
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

/// Writes lines to stderr and does not mind when nobody takes them.
#[derive(Debug, Clone)]
struct StderrWriter {
    target: LogTarget,
    /// Whether each line begins with its priority, for the journal.
    priorities: bool,
}

/// One event on its way to stderr.
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
        let line = self
            .priority_of
            .map_or(Cow::Borrowed(text), |level| Cow::Owned(journal::with_priority(level, text)));
        match self.target {
            LogTarget::Stderr => io::stderr().lock().write_all(&line)?,
            LogTarget::Above(bars) => bars.suspend(|| io::stderr().lock().write_all(&line))?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wins_and_else_the_journal_decides() {
        for wanted in [LogFormat::Text, LogFormat::Json, LogFormat::Journald] {
            for journal_takes_stderr in [false, true] {
                assert_eq!(LogFormat::choose(Some(wanted), journal_takes_stderr), wanted);
            }
        }
        assert_eq!(LogFormat::choose(None, true), LogFormat::Journald);
        assert_eq!(LogFormat::choose(None, false), LogFormat::Text);
    }

    #[test]
    fn other_crates_never_get_below_warnings() {
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
