//! Logs: readable text or JSON lines on stderr. `RUST_LOG` rules our own events; every other crate is capped at warnings,
//! because the debug lines of HTTP crates print signed links.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where log lines go.
#[derive(Debug, Clone)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard error, above the progress bars that are drawn there.
    Above(MultiProgress),
}

/// Installs the process-wide subscriber and a panic hook that logs where a panic happened, without its payload: that may
/// hold content. `rust_log` is the variable of that name; what it holds and cannot be read counts as `info`.
pub fn init(format: LogFormat, target: LogTarget, rust_log: Option<&str>) {
    let shows_progress = matches!(target, LogTarget::Above(_));
    let default = if shows_progress { LevelFilter::WARN } else { LevelFilter::INFO };
    let wanted = rust_log
        // Set and empty is how a container says unset.
        .filter(|directives| !directives.trim().is_empty())
        .and_then(|directives| directives.parse::<Targets>().ok())
        .unwrap_or_else(|| Targets::new().with_default(default));
    let color = matches!(format, LogFormat::Text) && console_wants_color();
    let layer = fmt::layer().with_writer(StderrWriter(target)).with_ansi(color).log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(layer.with_filter(ours_or_warnings(wanted))).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "internal error: a task panicked");
    }));
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
struct StderrWriter(LogTarget);

impl<'a> MakeWriter<'a> for StderrWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for StderrWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.0 {
            LogTarget::Stderr => io::stderr().lock().write_all(line)?,
            LogTarget::Above(bars) => bars.suspend(|| io::stderr().lock().write_all(line))?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_crates_never_get_below_warnings() {
        let wanted: Targets = "trace".parse().unwrap();
        let filter = ours_or_warnings(wanted);
        let subscriber =
            tracing_subscriber::registry().with(fmt::layer().with_writer(io::sink).with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::enabled!(target: "batch_export_watcher::engine", Level::TRACE));
            assert!(tracing::enabled!(target: "hyper_util::client", Level::WARN));
            assert!(!tracing::enabled!(target: "hyper_util::client", Level::INFO));
            assert!(!tracing::enabled!(target: "reqwest::connect", Level::TRACE));
        });
    }
}
