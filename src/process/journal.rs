//! systemd's journal: whether standard error goes there, and log events as entries with fields.
//!
//! Each entry is sent to the journal's socket by its path, so that a restarted journal is found
//! again. An entry that the journal does not take for a while is lost, and told later.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use rustix::fs::fstat;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::intake::Intake;

/// Where `tracing_journald` sends its entries, too.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The facility "daemon" of syslog, which systemd gives to the lines of a service.
const DAEMON: &str = "3";

/// The device and the inode of an open file, as `$JOURNAL_STREAM` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream(u64, u64);

impl Stream {
    /// Parses `device:inode`, both decimal.
    fn parse(text: &str) -> Option<Self> {
        let (device, inode) = text.split_once(':')?;
        Some(Self(device.parse().ok()?, inode.parse().ok()?))
    }

    fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = fstat(file)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
}

/// Whether standard error is connected to the journal.
pub fn takes_stderr() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| names(&named, io::stderr()))
}

/// The variable alone proves nothing: a process with another standard error inherits it.
fn names(journal_stream: &str, file: impl AsFd) -> bool {
    Stream::parse(journal_stream).is_some_and(|named| Stream::of(file).is_ok_and(|of| named == of))
}

/// Makes an entry of each event that the journal takes.
pub(super) struct Entries {
    layer: tracing_journald::Layer,
    /// Sends nothing: it shows whether the queue of the journal is full.
    probe: UnixDatagram,
    intake: Intake,
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Entries {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.layer.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.layer.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // Anew each time: the journal may have been restarted. If it is gone, nobody waits for it.
        if self.probe.connect(SOCKET).is_ok() {
            self.intake.recovers(&self.probe);
            if !self.intake.takes(&self.probe) {
                return;
            }
        }
        self.layer.on_event(event, context);
    }
}

/// The fields of the entries keep their names, in upper case.
pub(super) fn layer() -> io::Result<Entries> {
    let priorities = PriorityMappings {
        error: priority(Level::ERROR),
        warn: priority(Level::WARN),
        info: priority(Level::INFO),
        debug: priority(Level::DEBUG),
        trace: priority(Level::TRACE),
    };
    let (probe, intake) = (UnixDatagram::unbound()?, Intake::new());
    // The layer begins with a datagram, and would wait until that is taken.
    if probe.connect(SOCKET).is_ok() && !intake.takes(&probe) {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "it takes no entries"));
    }
    let layer = tracing_journald::Layer::new()?
        .with_field_prefix(None)
        .with_syslog_identifier(env!("CARGO_PKG_NAME").to_owned())
        .with_custom_fields([("SYSLOG_FACILITY", DAEMON)])
        .with_priority_mappings(priorities);
    Ok(Entries { layer, probe, intake })
}

/// Puts `<N>` before each line: the journal reads the priority of the line from it.
pub fn with_priority(level: Level, text: &[u8]) -> Vec<u8> {
    let prefix = [b'<', priority(level) as u8, b'>'];
    text.split_inclusive(|byte| *byte == b'\n').flat_map(|line| [&prefix, line].concat()).collect()
}

fn priority(level: Level) -> Priority {
    match level {
        Level::ERROR => Priority::Error,
        Level::WARN => Priority::Warning,
        Level::INFO => Priority::Informational,
        Level::DEBUG | Level::TRACE => Priority::Debug,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_stream_is_two_decimal_numbers() {
        assert_eq!(Stream::parse("8:24713"), Some(Stream(8, 24713)));
        let largest = format!("{0}:{0}", u64::MAX);
        assert_eq!(Stream::parse(&largest), Some(Stream(u64::MAX, u64::MAX)));
        let bad = ["", ":", "8", "8:", ":8", "8:9:10", "8;9", " 8:9", "8:9\n", "-8:9", "0x8:9"];
        for nonsense in bad.into_iter().chain(["8:18446744073709551616"]) {
            assert_eq!(Stream::parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn the_stream_must_be_the_same_file() {
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let metadata = one.metadata().unwrap();
        let (device, inode) = (metadata.dev(), metadata.ino());
        let named = format!("{device}:{inode}");
        assert!(names(&named, &one));
        assert!(!names(&named, &other));
        assert!(!names(&format!("{}:{inode}", device + 1), &one));
        assert!(!names(&format!("{device}:{}", inode + 1), &one));
        assert!(!names("", &one));
    }

    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(with_priority(Level::ERROR, b"one\ntwo\n"), b"<3>one\n<3>two\n");
        let levels = [Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        let prefixed = levels.map(|level| with_priority(level, b"word"));
        assert_eq!(prefixed, [b"<4>word", b"<6>word", b"<7>word", b"<7>word"]);
        assert_eq!(with_priority(Level::INFO, b""), b"");
    }
}
