//! The status document, key by key as docs/operations.md promises it. New keys may come, none is
//! renamed; a reader accepts keys that it does not know, and does without those that are missing.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::command;
use crate::domain::failure::Failure;
use crate::domain::ids::ProjectName;
use crate::domain::stage::Cause;
use crate::domain::wait::Wait;
use crate::engine::overview::{ActivePart, ExportOverview, Overview, ProjectOverview};

/// The source of a document that the running daemon made.
const DAEMON: &str = "daemon";
/// The source of a document that was made from the state.
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
    /// Made from the engine's read model. `config_file` is the one that the daemon reads.
    pub fn of(overview: &Overview, config_file: &Path) -> Self {
        Self { now: text(overview.standing.now), document: Document::of(overview, config_file) }
    }

    /// Everything but the time.
    pub fn document(&self) -> &Document {
        &self.document
    }
}

/// Everything but the time. Two that are equal have no news for a reader.
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
    /// The part of the sentence that does not change with time alone; what follows it there is in
    /// `polls`, `waits`, `pauses` and `reloads`.
    pub(super) summary: String,
    pub(super) polls: Polls,
    pub(super) slots: Slots,
    pub(super) bytes_per_second: u64,
    pub(super) disk: Disk,
    pub(super) origin: Option<Waits>,
    /// What more than one project waits for, that of `disk` and `origin` included.
    pub(super) waits: Vec<Waits>,
    pub(super) reloads: ReloadCounts,
    pub(super) commands: Commands,
    pub(super) projects: Vec<Project>,
}

/// The objects within the document.
macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $key:ident: $type:ty,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $($(#[$of])* pub(super) $key: $type,)+
        }
    )+};
}

objects! {
    Slots { in_use: usize, max: usize, }
    Polls { under_way: bool, next_at: Option<String>, }
    /// Commands that work as they are pasted; export IDs follow `retry`.
    Commands { retry: String, check: String, }
    Disk { ill: bool, }
    ReloadCounts { accepted: u64, refused: u64, last_refusal: Option<String>, }
    Waits {
        reason: String,
        words: String,
        advice: String,
        until: Option<String>,
        /// Whether a call is under way that finds out if the wait is over.
        asking: bool,
        since: Option<String>,
        attempts: u32,
    }
    /// What holds an export up most.
    Waiting {
        cause: String,
        /// What the wait concerns: the part, the export, its project, the API, …
        concerns: String,
        words: String,
        since: Option<String>,
        attempts: u32,
        next_at: Option<String>,
        /// Whether a try is under way.
        asking: bool,
        advice: String,
        command: Option<String>,
        /// Whether it goes on for so long that a person should look.
        needs_attention: bool,
    }
    Project { name: String, pauses: Vec<Waits>, exports: Vec<Export>, }
    Export {
        id: String,
        state: String,
        remote_status: Option<String>,
        since: Option<String>,
        next_poll_at: Option<String>,
        parts: Amount,
        bytes: Amount,
        bytes_per_second: u64,
        active_parts: Vec<Active>,
        failure: Option<Failed>,
        waiting: Option<Waiting>,
    }
    /// Of parts or of bytes.
    Amount { done: u64, total: Option<u64>, }
    Active { part: u32, file: String, bytes: u64, total: Option<u64>, }
    Failed {
        kind: String,
        cause: String,
        code: Option<String>,
        at: String,
        advice: String,
        command: Option<String>,
    }
}

impl Document {
    fn of(overview: &Overview, config_file: &Path) -> Self {
        let Overview { standing, projects, .. } = overview;
        let exports = projects.iter().flat_map(|project| &project.exports);
        let of_all = || standing.waits.iter().filter(|wait| wait.concern.project().is_none());
        let mut pauses: HashMap<&ProjectName, Vec<Waits>> = HashMap::new();
        for wait in &standing.waits {
            if let Some(project) = wait.concern.project() {
                pauses.entry(project).or_default().push(waits(wait));
            }
        }
        let commands = Commands::of(config_file);
        let project = |of: &ProjectOverview| Project {
            name: of.name.to_string(),
            pauses: pauses.remove(&of.name).unwrap_or_default(),
            exports: of.exports.iter().map(|of| export(of, &commands, standing.now)).collect(),
        };
        Self {
            source: DAEMON.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_file: config_file.display().to_string(),
            started_at: Some(text(overview.started_at)),
            draining: standing.draining,
            sentence: standing.to_string(),
            summary: standing.summary() + &waiting_words(overview),
            polls: Polls { under_way: standing.polling, next_at: standing.next_poll_at.map(text) },
            slots: Slots { in_use: overview.slots_in_use, max: overview.slots_max },
            bytes_per_second: exports.fold(0, |sum, of| of.bytes_per_second.saturating_add(sum)),
            disk: Disk { ill: of_all().any(|wait| wait.cause == Cause::Disk) },
            origin: of_all().find(|wait| wait.cause == Cause::Unavailable).map(waits),
            waits: of_all().map(waits).collect(),
            reloads: ReloadCounts {
                accepted: standing.reloads.accepted,
                refused: standing.reloads.refused,
                last_refusal: standing.reloads.refusal.clone(),
            },
            projects: projects.iter().map(project).collect(),
            commands,
        }
    }
}

/// How many exports something holds up, a full set of slots apart.
fn waiting_words(overview: &Overview) -> String {
    let exports = overview.projects.iter().flat_map(|project| &project.exports);
    let waits = exports.filter_map(|export| export.waiting.as_ref());
    let waits = waits.filter(|wait| wait.cause != Cause::Slots);
    let counts = waits.fold((0, 0), |(count, attention), wait| {
        (count + 1, attention + usize::from(wait.needs_attention(overview.standing.now)))
    });
    match counts {
        (0, _) => String::new(),
        (count, 0) => format!(", {count} held up"),
        (count, 1) => format!(", {count} held up (1 needs attention)"),
        (count, attention) => format!(", {count} held up ({attention} need attention)"),
    }
}

impl Commands {
    pub(super) fn of(config_file: &Path) -> Self {
        Self { retry: command("retry", config_file), check: command("check", config_file) }
    }
}

pub(super) fn waits(wait: &Wait) -> Waits {
    Waits {
        reason: wait.cause.as_str().to_owned(),
        words: wait.words(),
        advice: wait.advice(),
        until: wait.next_at.map(text),
        asking: wait.is_asking(),
        since: wait.since.map(text),
        attempts: wait.attempts,
    }
}

fn waiting(wait: &Wait, commands: &Commands, now: Timestamp) -> Waiting {
    Waiting {
        cause: wait.cause.as_str().to_owned(),
        concerns: wait.concern.to_string(),
        words: wait.words(),
        since: wait.since.map(text),
        attempts: wait.attempts,
        next_at: wait.next_at.map(text),
        asking: wait.is_asking(),
        advice: wait.advice(),
        command: wait.probe_helps().then(|| format!("{} --probe", commands.check)),
        needs_attention: wait.needs_attention(now),
    }
}

fn export(export: &ExportOverview, commands: &Commands, now: Timestamp) -> Export {
    let ExportOverview { id, progress, .. } = export;
    Export {
        id: id.to_string(),
        state: export.stage.as_str().to_owned(),
        remote_status: export.remote_status.as_deref().map(str::to_owned),
        since: Some(text(export.since)),
        next_poll_at: export.next_poll_at.map(text),
        parts: Amount { done: progress.parts_done, total: Some(progress.parts_total) },
        bytes: Amount { done: progress.bytes_done, total: progress.bytes_total },
        bytes_per_second: export.bytes_per_second,
        active_parts: export.active_parts.iter().map(active).collect(),
        failure: export.failure.as_ref().map(|failure| failed(failure, id.as_str(), commands)),
        waiting: export.waiting.as_ref().map(|wait| waiting(wait, commands, now)),
    }
}

fn active(ActivePart { key, bytes, total }: &ActivePart) -> Active {
    let file = key.file_id.to_string();
    Active { part: key.number, file, bytes: *bytes, total: *total }
}

pub(super) fn failed(failure: &Failure, export: &str, commands: &Commands) -> Failed {
    let (advice, helps) = failure.kind.advice();
    Failed {
        kind: failure.kind.as_str().to_owned(),
        cause: failure.cause.clone(),
        code: failure.error_code.clone(),
        at: text(failure.at),
        advice: advice.to_owned(),
        command: helps.then(|| format!("{} {export}", commands.retry)),
    }
}

/// To the millisecond.
pub(super) fn text(at: Timestamp) -> String {
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::FailureKind;

    #[test]
    fn only_a_failure_that_a_retry_can_mend_has_a_command() {
        let commands = Commands::of(Path::new("/srv/c.toml"));
        let failed = |kind| {
            let (cause, error_code) = ("a cause".to_owned(), None);
            let failure = Failure { kind, cause, error_code, at: Timestamp::UNIX_EPOCH };
            failed(&failure, "export_1", &commands)
        };
        let expired = failed(FailureKind::Expired);
        assert!(expired.advice.starts_with("Batch no longer has the export: start"));
        assert_eq!(expired.command, None);
        let retry = "batch-export-watcher retry -c /srv/c.toml export_1";
        assert_eq!(failed(FailureKind::Rejected).command.as_deref(), Some(retry));
    }
}
