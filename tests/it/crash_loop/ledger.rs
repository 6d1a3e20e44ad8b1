//! What the crashes came to.

use std::collections::BTreeMap;

use serde_json::json;

/// What went against the promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Bytes under a final name that are not the store's, or a manifest of an export that is not
    /// whole.
    Wrong,
    /// On record, or seen, and gone.
    Lost,
    /// Finished, and asked for again.
    FetchedAgain,
}

/// Crashes and faults.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    crashes: BTreeMap<String, u64>,
    faults: Vec<(Fault, String)>,
    stages: u64,
    runs: u64,
    fetched_bytes: u64,
    needed_bytes: u64,
    parts: u64,
}

impl Ledger {
    /// One more start of the program.
    pub(super) fn started(&mut self) {
        self.runs += 1;
    }

    /// One more crash, there.
    pub(super) fn crashed(&mut self, at: &str) {
        *self.crashes.entry(at.to_owned()).or_default() += 1;
    }

    /// Something is as it should never be.
    pub(super) fn fault(&mut self, fault: Fault, words: String) {
        self.faults.push((fault, words));
    }

    /// Everything of a stage is downloaded.
    pub(super) fn done(&mut self, parts: u64, fetched_bytes: u64, needed_bytes: u64) {
        self.stages += 1;
        self.parts += parts;
        self.fetched_bytes += fetched_bytes;
        self.needed_bytes += needed_bytes;
    }

    pub(super) fn crashes(&self) -> u64 {
        self.crashes.values().sum()
    }

    pub(super) fn was_killed_at(&self, point: &str) -> bool {
        self.crashes.contains_key(point)
    }

    pub(super) fn add(&mut self, other: Self) {
        for (at, count) in other.crashes {
            *self.crashes.entry(at).or_default() += count;
        }
        self.faults.extend(other.faults);
        self.runs += other.runs;
        self.stages += other.stages;
        self.parts += other.parts;
        self.fetched_bytes += other.fetched_bytes;
        self.needed_bytes += other.needed_bytes;
    }

    /// One line of JSON.
    pub(super) fn summary(&self) -> String {
        let count = |fault| self.faults.iter().filter(|(of, _)| *of == fault).count();
        let summary = json!({
            "case": "crash loop",
            "crashes": self.crashes(),
            "wrong": count(Fault::Wrong),
            "lost": count(Fault::Lost),
            "fetched_again": count(Fault::FetchedAgain),
            "stages": self.stages,
            "runs": self.runs,
            "parts": self.parts,
            "fetched_bytes": self.fetched_bytes,
            "needed_bytes": self.needed_bytes,
            "at": self.crashes,
        });
        summary.to_string()
    }

    pub(super) fn assert_nothing_wrong(&self) {
        let words: Vec<_> =
            self.faults.iter().map(|(fault, words)| format!("{fault:?}: {words}")).collect();
        assert!(words.is_empty(), "{}", words.join("\n"));
    }
}
