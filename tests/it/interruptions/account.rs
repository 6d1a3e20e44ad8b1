//! What was done to the program, in numbers.

use std::collections::BTreeMap;
use std::fmt;

use super::plan::{Ending, Manner, Step};
use rustix::process::Signal;

/// Counts by kind, and bytes.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Interrupted transfers, by kind: as drawn, and ended sooner: by a signal that was another
    /// transfer's, or by the program, which reads no body whose head does not fit.
    transfers: BTreeMap<&'static str, [usize; 2]>,
    /// What else was done to the program.
    pub(super) beside: BTreeMap<&'static str, usize>,
    /// In which ways the store was odd besides.
    manners: BTreeMap<&'static str, usize>,
    /// Starts of the program.
    pub(super) runs: usize,
    /// Bytes that the store sent.
    pub(super) fetched_bytes: u64,
    /// Bytes of all files.
    pub(super) needed_bytes: u64,
}

impl Account {
    /// One interrupted transfer.
    pub(super) fn count(&mut self, step: &Step, as_drawn: bool, replaced: bool) {
        self.transfers.entry(ending_words(step.ending)).or_default()[usize::from(!as_drawn)] += 1;
        if replaced {
            *self.manners.entry("of another version than the one before").or_default() += 1;
        }
        if let Some(words) =
            manner_words(step.manner).filter(|_| !matches!(step.ending, Ending::Refused(_)))
        {
            *self.manners.entry(words).or_default() += 1;
        }
    }

    /// All interrupted transfers.
    pub(super) fn interruptions(&self) -> usize {
        self.transfers.values().flatten().sum()
    }

    /// Takes another one's numbers in.
    pub(super) fn add(&mut self, other: Self) {
        for (kind, [as_drawn, sooner]) in other.transfers {
            let counts = self.transfers.entry(kind).or_default();
            *counts = [counts[0] + as_drawn, counts[1] + sooner];
        }
        for (mine, theirs) in [(&mut self.beside, other.beside), (&mut self.manners, other.manners)]
        {
            for (kind, count) in theirs {
                *mine.entry(kind).or_default() += count;
            }
        }
        self.runs += other.runs;
        self.fetched_bytes += other.fetched_bytes;
        self.needed_bytes += other.needed_bytes;
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} interrupted transfers in {} runs:", self.interruptions(), self.runs)?;
        for (kind, [as_drawn, sooner]) in &self.transfers {
            let words =
                if *sooner > 0 { format!(", {sooner} of them overtaken") } else { String::new() };
            writeln!(f, "  {:3} {kind}{words}", as_drawn + sooner)?;
        }
        for (kind, count) in self.manners.iter().chain(&self.beside) {
            writeln!(f, "  {count:3} {kind}")?;
        }
        write!(f, "{} bytes fetched, {} needed", self.fetched_bytes, self.needed_bytes)
    }
}

fn ending_words(ending: Ending) -> &'static str {
    match ending {
        Ending::Closed => "closed",
        Ending::Reset => "reset",
        Ending::StalledThenClosed => "silent, then closed",
        Ending::Stalled => "silent until the program gave up",
        Ending::Signalled { signal: Signal::KILL, .. } => "SIGKILL",
        Ending::Signalled { .. } => "SIGTERM",
        Ending::Refused(200) => "a page instead of the file",
        Ending::Refused(403) => "403",
        Ending::Refused(410) => "410",
        Ending::Refused(416) => "416",
        Ending::Refused(429) => "429",
        Ending::Refused(500) => "500",
        Ending::Refused(503) => "503",
        Ending::Refused(_) => "another status",
    }
}

fn manner_words(manner: Manner) -> Option<&'static str> {
    match manner {
        Manner::Well => None,
        Manner::Chunked => Some("in chunks"),
        Manner::WeakEtag => Some("with a weak validator"),
        Manner::IgnoringRange => Some("the whole file whatever range was asked for"),
        Manner::IgnoringIfRange => Some("the range whatever version was asked for"),
    }
}
