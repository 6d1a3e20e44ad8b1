//! The status document, key by key as docs/operations.md has it. New keys may come, none is renamed; a
//! reader puts up with keys that it does not know and with those that it misses.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::advice::advice;
use crate::domain::failure::Failure;
use crate::engine::overview::{
    ActivePart, ExportOverview, ExportState, Overview, Pause, ProjectOverview,
};

/// Made by the running daemon.
pub(super) const DAEMON: &str = "daemon";
/// Made of what the state has.
pub(super) const STATE: &str = "state";

/// The document with the time at which it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stamped {
    pub(super) now: String,
    #[serde(flatten)]
    pub(super) document: Document,
}

impl Stamped {
    /// The document of the engine's read model. `config_file` is the one that the daemon reads.
    #[must_use]
    pub fn of(overview: &Overview, config_file: &Path) -> Self {
        Self { now: text(overview.now), document: Document::of(overview, config_file) }
    }

    /// Everything but the time.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }
}

/// Everything but the time: two that are equal have nothing new for anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    pub(super) source: String,
    pub(super) version: String,
    pub(super) config_file: String,
    pub(super) started_at: Option<String>,
    /// Whether a stop has begun.
    pub draining: bool,
    pub(super) sentence: String,
    pub(super) slots: Slots,
    pub(super) bytes_per_second: u64,
    pub(super) disk: Disk,
    pub(super) origin: Option<Waits>,
    pub(super) reloads: ReloadCounts,
    pub(super) projects: Vec<Project>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Slots {
    pub(super) in_use: usize,
    pub(super) max: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Disk {
    pub(super) ill: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ReloadCounts {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) last_refusal: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Waits {
    pub(super) reason: String,
    pub(super) words: String,
    pub(super) advice: String,
    pub(super) until: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Project {
    pub(super) name: String,
    pub(super) pauses: Vec<Waits>,
    pub(super) exports: Vec<Export>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Export {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) remote_status: Option<String>,
    pub(super) since: Option<String>,
    pub(super) next_poll_at: Option<String>,
    pub(super) parts: Parts,
    pub(super) bytes: Bytes,
    pub(super) bytes_per_second: u64,
    pub(super) active_parts: Vec<Active>,
    pub(super) failure: Option<Failed>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Parts {
    pub(super) done: u64,
    pub(super) total: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Bytes {
    pub(super) done: u64,
    pub(super) total: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Active {
    pub(super) part: u32,
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) total: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Failed {
    pub(super) kind: String,
    pub(super) cause: String,
    pub(super) code: Option<String>,
    pub(super) at: String,
    pub(super) advice: String,
    pub(super) command: Option<String>,
}

impl Document {
    fn of(overview: &Overview, config_file: &Path) -> Self {
        let Overview { standing, projects, .. } = overview;
        let exports = projects.iter().flat_map(|project| &project.exports);
        Self {
            source: DAEMON.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_file: config_file.display().to_string(),
            started_at: Some(text(overview.started_at)),
            draining: standing.draining,
            sentence: standing.to_string(),
            slots: Slots { in_use: overview.slots_in_use, max: overview.slots_max },
            bytes_per_second: exports
                .map(|export| export.bytes_per_second)
                .fold(0, u64::saturating_add),
            disk: Disk { ill: overview.disk_ill },
            origin: overview.origin.as_ref().map(waits),
            reloads: ReloadCounts {
                accepted: standing.reloads.accepted,
                refused: standing.reloads.refused,
                last_refusal: standing.reloads.refusal.clone(),
            },
            projects: projects.iter().map(|of| project(of, config_file)).collect(),
        }
    }
}

fn project(project: &ProjectOverview, config_file: &Path) -> Project {
    Project {
        name: project.name.to_string(),
        pauses: project.pauses.iter().map(waits).collect(),
        exports: project.exports.iter().map(|of| export(of, config_file)).collect(),
    }
}

pub(super) fn waits(pause: &Pause) -> Waits {
    Waits {
        reason: pause.reason.word().to_owned(),
        words: pause.reason.words().to_owned(),
        advice: pause.reason.advice(),
        until: pause.until.map(text),
    }
}

fn export(export: &ExportOverview, config_file: &Path) -> Export {
    let progress = export.progress;
    Export {
        id: export.id.to_string(),
        state: state(export.state).to_owned(),
        remote_status: export.remote_status.as_deref().map(str::to_owned),
        since: Some(text(export.since)),
        next_poll_at: export.next_poll_at.map(text),
        parts: Parts { done: progress.parts_done, total: Some(progress.parts_total) },
        bytes: Bytes { done: progress.bytes_done, total: progress.bytes_total },
        bytes_per_second: export.bytes_per_second,
        active_parts: export.active_parts.iter().map(active).collect(),
        failure: export
            .failure
            .as_ref()
            .map(|failure| failed(failure, export.id.as_str(), config_file)),
    }
}

fn state(state: ExportState) -> &'static str {
    match state {
        ExportState::Polling => "polling",
        ExportState::Fetching => "fetching",
        ExportState::Sealing => "sealing",
        ExportState::Whole => "whole",
        ExportState::Failing => "failing",
        ExportState::Failed => "failed",
    }
}

fn active(part: &ActivePart) -> Active {
    Active {
        part: part.key.number,
        file: part.key.file_id.to_string(),
        bytes: part.bytes,
        total: part.total,
    }
}

pub(super) fn failed(failure: &Failure, export: &str, config_file: &Path) -> Failed {
    let (advice, command) = advice(failure.kind, export, config_file);
    Failed {
        kind: failure.kind.as_str().to_owned(),
        cause: failure.cause.clone(),
        code: failure.error_code.clone(),
        at: text(failure.at),
        advice,
        command,
    }
}

/// A time to the millisecond.
pub(super) fn text(at: Timestamp) -> String {
    format!("{at:.3}")
}
