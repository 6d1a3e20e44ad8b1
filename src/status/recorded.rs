//! The document while no daemon runs: the configured exports, as the state has them.

use std::collections::HashMap;

use jiff::Timestamp;

use super::document::{
    Amount, Commands, Document, Export, Project, STATE, Slots, Stamped, failed, text, waits,
};
use crate::config::Config;
use crate::domain::ids::{ExportKey, ProjectDigest};
use crate::domain::report::RemoteStatus;
use crate::domain::stage::{Cause, PauseScope, Stage};
use crate::domain::wait::{Concern, Wait};
use crate::engine::overview::exports;
use crate::ports::{ExportRecord, RecordedState, Seen};

/// `seen` is `None` if there is no state yet.
pub fn recorded(config: &Config, seen: Option<Seen>, now: Timestamp) -> Stamped {
    let is_there = seen.is_some();
    let Seen { exports, pauses } = seen.unwrap_or_default();
    let mut records: HashMap<ExportKey, ExportRecord> =
        exports.into_iter().map(|record| (record.key.clone(), record)).collect();
    let pause = |scope: &PauseScope, cause: Cause, concern: Concern| {
        let until = pauses.get(scope).filter(|until| **until > now)?;
        Some(waits(&Wait { next_at: Some(*until), ..Wait::new(cause, concern) }))
    };
    let commands = Commands::of(&config.file);
    let mut counts = Counts::default();
    let projects = config.projects.iter().map(|project| {
        let digest = ProjectDigest::of(&project.project_key);
        let exports = project.exports.iter().map(|id| {
            let record = records.remove(&ExportKey { project: digest, export: id.clone() });
            let stage = record.as_ref().map_or(Stage::New, stage);
            *counts.entry(stage).or_default() += 1;
            Export {
                id: id.to_string(),
                state: stage.as_str().to_owned(),
                ..record.map(|record| export(record, stage, &commands)).unwrap_or_default()
            }
        });
        let exports = exports.collect();
        let concern = Concern::Project(project.name.clone());
        let paused = pause(&PauseScope::Project(digest), Cause::Throttled, concern);
        Project { exports, name: project.name.to_string(), pauses: paused.into_iter().collect() }
    });
    let projects: Vec<Project> = projects.collect();
    let sentence = sentence(&counts, is_there);
    let origin = pause(&PauseScope::Origin, Cause::Unavailable, Concern::Api);
    let document = Document {
        source: STATE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_file: config.file.display().to_string(),
        summary: sentence.clone(),
        sentence,
        slots: Slots { in_use: 0, max: config.download.max_parts.get() },
        waits: origin.iter().cloned().collect(),
        origin,
        commands,
        projects,
        ..Document::default()
    };
    Stamped { now: text(now), document }
}

type Counts = HashMap<Stage, usize>;

fn sentence(counts: &Counts, is_there: bool) -> String {
    let all: usize = counts.values().sum();
    if !is_there {
        return format!("no daemon runs, and there is no state yet: {} configured", exports(all));
    }
    let count = |stage| counts.get(&stage).copied().unwrap_or_default();
    let settled = counts.iter().filter(|(stage, _)| stage.is_settled());
    let settled: usize = settled.map(|(_, count)| count).sum();
    let mut words = format!("no daemon runs, the state has: {} to watch", exports(all - settled));
    let named = [(Stage::New, "not asked yet"), (Stage::Whole, "whole"), (Stage::Failed, "failed")];
    for (stage, word) in named.into_iter().filter(|(stage, _)| count(*stage) > 0) {
        words.push_str(&format!(", {} {word}", count(stage)));
    }
    words
}

fn stage(record: &ExportRecord) -> Stage {
    let ExportRecord { remote_status, state, parts, partials, .. } = record;
    match state {
        RecordedState::Watching => {
            let is_waiting = *remote_status != Some(RemoteStatus::Success);
            let has_nothing = parts.is_empty() && partials.is_empty();
            if is_waiting && has_nothing { Stage::Polling } else { Stage::Fetching }
        }
        RecordedState::Sealing { .. } => Stage::Sealing,
        RecordedState::Completed { .. } => Stage::Whole,
        RecordedState::Failed(_) => Stage::Failed,
    }
}

fn export(record: ExportRecord, stage: Stage, commands: &Commands) -> Export {
    let ExportRecord { key, remote_status, state, parts, partials } = record;
    let done =
        parts.iter().map(|part| part.bytes).chain(partials.iter().map(|part| part.point.bytes));
    let total = (stage == Stage::Polling).then_some(0);
    let known = Export {
        remote_status: remote_status.as_ref().map(|status| status.as_str().to_owned()),
        parts: Amount { done: parts.len() as u64, total },
        bytes: Amount { done: done.fold(0, u64::saturating_add), total: None },
        ..Export::default()
    };
    let succeeded = || Some(RemoteStatus::Success.as_str().to_owned());
    match state {
        RecordedState::Watching => known,
        RecordedState::Sealing { .. } => Export { remote_status: succeeded(), ..known },
        RecordedState::Completed { parts, bytes, at } => Export {
            remote_status: succeeded(),
            since: Some(text(at)),
            parts: Amount { done: parts, total: Some(parts) },
            bytes: Amount { done: bytes, total: Some(bytes) },
            ..known
        },
        RecordedState::Failed(failure) => Export {
            since: Some(text(failure.at)),
            failure: Some(failed(&failure, key.export.as_str(), commands)),
            ..known
        },
    }
}
