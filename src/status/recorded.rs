//! The document where no daemon runs: the configured exports, as the state has them.

use std::collections::HashMap;

use jiff::Timestamp;

use super::document::{
    Bytes, Document, Export, Parts, Project, STATE, Slots, Stamped, failed, text, waits,
};
use crate::config::Config;
use crate::domain::ids::{ExportId, ExportKey, ProjectDigest};
use crate::domain::report::RemoteStatus;
use crate::domain::stage::PauseScope;
use crate::engine::overview::{Pause, PauseReason};
use crate::ports::{ExportRecord, RecordedState, Seen};

/// The document of what was seen of the state; `None` where there is none yet.
#[must_use]
pub fn recorded(config: &Config, seen: Option<Seen>, now: Timestamp) -> Stamped {
    let is_there = seen.is_some();
    let Seen { exports, pauses } = seen.unwrap_or_default();
    let mut records: HashMap<ExportKey, ExportRecord> =
        exports.into_iter().map(|record| (record.key.clone(), record)).collect();
    let pause = |scope: &PauseScope, reason: PauseReason| {
        let until = pauses.get(scope).filter(|until| **until > now)?;
        Some(waits(&Pause { reason, until: Some(*until) }))
    };
    let config_file = config.file.as_path();
    let projects = config.projects.iter().map(|project| {
        let digest = ProjectDigest::of(&project.project_key);
        let exports = project.exports.iter().map(|id| {
            match records.remove(&ExportKey { project: digest, export: id.clone() }) {
                Some(record) => export(record, config_file),
                None => Export { id: id.to_string(), state: "new".to_owned(), ..Export::default() },
            }
        });
        Project {
            name: project.name.to_string(),
            exports: exports.collect(),
            pauses: pause(&PauseScope::Project(digest), PauseReason::Throttled)
                .into_iter()
                .collect(),
        }
    });
    let projects: Vec<Project> = projects.collect();
    let sentence = sentence(&projects, is_there);
    let document = Document {
        source: STATE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_file: config_file.display().to_string(),
        sentence,
        slots: Slots { in_use: 0, max: config.download.max_parts.get() },
        origin: pause(&PauseScope::Origin, PauseReason::Unavailable),
        projects,
        ..Document::default()
    };
    Stamped { now: text(now), document }
}

fn sentence(projects: &[Project], is_there: bool) -> String {
    let count = |state: &str| {
        projects
            .iter()
            .flat_map(|project| &project.exports)
            .filter(|export| export.state == state)
            .count()
    };
    let all: usize = projects.iter().map(|project| project.exports.len()).sum();
    let (whole, failed, new) = (count("whole"), count("failed"), count("new"));
    let plural =
        |count: usize| if count == 1 { "1 export".to_owned() } else { format!("{count} exports") };
    if !is_there {
        return format!("no daemon runs, and there is no state yet: {} configured", plural(all));
    }
    let mut words =
        format!("no daemon runs, the state has: {} to watch", plural(all - whole - failed));
    for (count, word) in [(new, "not asked yet"), (whole, "whole"), (failed, "failed")] {
        if count > 0 {
            words.push_str(&format!(", {count} {word}"));
        }
    }
    words
}

fn export(record: ExportRecord, config_file: &std::path::Path) -> Export {
    let ExportRecord { key: ExportKey { export: id, .. }, remote_status, state, parts, partials } =
        record;
    let done =
        parts.iter().map(|part| part.bytes).chain(partials.iter().map(|part| part.point.bytes));
    let bytes = Bytes { done: done.fold(0, u64::saturating_add), total: None };
    let known = Export {
        id: ExportId::to_string(&id),
        remote_status: remote_status.as_ref().map(|status| status.as_str().to_owned()),
        parts: Parts { done: parts.len() as u64, total: None },
        bytes,
        ..Export::default()
    };
    let succeeded = || Some(RemoteStatus::Success.as_str().to_owned());
    match state {
        RecordedState::Watching => {
            let is_success = remote_status == Some(RemoteStatus::Success);
            let is_fetched = is_success || !parts.is_empty() || !partials.is_empty();
            let state = if is_fetched { "fetching" } else { "polling" };
            let parts = if is_fetched { known.parts } else { Parts { done: 0, total: Some(0) } };
            Export { state: state.to_owned(), parts, ..known }
        }
        RecordedState::Sealing { .. } => {
            Export { state: "sealing".to_owned(), remote_status: succeeded(), ..known }
        }
        RecordedState::Completed { parts, bytes, at } => Export {
            state: "whole".to_owned(),
            remote_status: succeeded(),
            since: Some(text(at)),
            parts: Parts { done: parts, total: Some(parts) },
            bytes: Bytes { done: bytes, total: Some(bytes) },
            ..known
        },
        RecordedState::Failed(failure) => Export {
            state: "failed".to_owned(),
            since: Some(text(failure.at)),
            failure: Some(failed(&failure, id.as_str(), config_file)),
            ..known
        },
    }
}
