//! The JSON of the status, key by key as README.md promises it. New keys may come, none is renamed.

use jiff::Timestamp;
use serde::Serialize;

use crate::domain::failure::Failure;
use crate::domain::ids::ExportId;
use crate::engine::overview::{
    ActivePart, ExportOverview, ExportState, Overview, Pause, ProjectOverview, advice,
};

/// The document with the time at which it was made.
#[derive(Serialize)]
pub(super) struct Stamped<'a> {
    now: String,
    #[serde(flatten)]
    document: &'a Document,
}

impl<'a> Stamped<'a> {
    pub(super) fn new(document: &'a Document, now: Timestamp) -> Self {
        Self { now: text(now), document }
    }
}

/// Everything but the time: two that are equal have nothing new for anybody.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Document {
    version: &'static str,
    started_at: String,
    pub(super) draining: bool,
    sentence: String,
    slots: Slots,
    bytes_per_second: u64,
    disk: Disk,
    origin: Option<Waits>,
    reloads: ReloadCounts,
    projects: Vec<Project>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Slots {
    in_use: usize,
    max: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Disk {
    ill: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ReloadCounts {
    accepted: u64,
    refused: u64,
    last_refusal: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Waits {
    reason: &'static str,
    words: &'static str,
    advice: String,
    until: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Project {
    name: String,
    pauses: Vec<Waits>,
    exports: Vec<Export>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Export {
    id: String,
    state: &'static str,
    remote_status: Option<String>,
    since: String,
    next_poll_at: Option<String>,
    parts: Parts,
    bytes: Bytes,
    bytes_per_second: u64,
    active_parts: Vec<Active>,
    failure: Option<Failed>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Parts {
    done: u64,
    total: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Bytes {
    done: u64,
    total: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Active {
    part: u32,
    file: String,
    bytes: u64,
    total: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Failed {
    kind: &'static str,
    cause: String,
    code: Option<String>,
    at: String,
    advice: String,
}

impl Document {
    pub(super) fn of(overview: &Overview) -> Self {
        let Overview { standing, projects, .. } = overview;
        let exports = projects.iter().flat_map(|project| &project.exports);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started_at: text(overview.started_at),
            draining: standing.draining,
            sentence: standing.to_string(),
            slots: Slots { in_use: overview.slots_in_use, max: overview.slots_max },
            bytes_per_second: exports.map(|export| export.bytes_per_second).fold(0, u64::saturating_add),
            disk: Disk { ill: overview.disk_ill },
            origin: overview.origin.as_ref().map(waits),
            reloads: ReloadCounts {
                accepted: standing.reloads.accepted,
                refused: standing.reloads.refused,
                last_refusal: standing.reloads.refusal.clone(),
            },
            projects: projects.iter().map(project).collect(),
        }
    }
}

fn project(project: &ProjectOverview) -> Project {
    Project {
        name: project.name.to_string(),
        pauses: project.pauses.iter().map(waits).collect(),
        exports: project.exports.iter().map(export).collect(),
    }
}

fn waits(pause: &Pause) -> Waits {
    Waits {
        reason: pause.reason.word(),
        words: pause.reason.words(),
        advice: pause.reason.advice(),
        until: pause.until.map(text),
    }
}

fn export(export: &ExportOverview) -> Export {
    let progress = export.progress;
    Export {
        id: export.id.to_string(),
        state: state(export.state),
        remote_status: export.remote_status.as_deref().map(str::to_owned),
        since: text(export.since),
        next_poll_at: export.next_poll_at.map(text),
        parts: Parts { done: progress.parts_done, total: progress.parts_total },
        bytes: Bytes { done: progress.bytes_done, total: progress.bytes_total },
        bytes_per_second: export.bytes_per_second,
        active_parts: export.active_parts.iter().map(active).collect(),
        failure: export.failure.as_ref().map(|failure| failed(failure, &export.id)),
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
    Active { part: part.key.number, file: part.key.file_id.to_string(), bytes: part.bytes, total: part.total }
}

fn failed(failure: &Failure, export: &ExportId) -> Failed {
    Failed {
        kind: failure.kind.as_str(),
        cause: failure.cause.clone(),
        code: failure.error_code.clone(),
        at: text(failure.at),
        advice: advice(failure.kind, export),
    }
}

/// A time to the millisecond.
fn text(at: Timestamp) -> String {
    format!("{at:.3}")
}
