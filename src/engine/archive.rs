//! What the state and the disk know beside the running work: exports are looked up there when they
//! are configured, and dropped there when somebody asks to forget them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use jiff::Timestamp;

use super::recovery::recover_unknown;
use crate::domain::ids::{ExportId, ExportKey, ProjectDigest, ProjectName};
use crate::domain::stage::PauseScope;
use crate::domain::watch::Watch;
use crate::ledgers::sqlite::{Change, Store, StoreError};
use crate::sinks::local::LocalSink;

/// Some exports of one project.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) project: ProjectDigest,
    pub(crate) name: ProjectName,
    pub(crate) exports: Vec<ExportId>,
}

/// What was found when exports were looked up.
#[derive(Debug, Default)]
pub struct Found {
    /// The exports that were looked up.
    pub looked_up: HashSet<ExportKey>,
    /// Those of them that are not new.
    pub watches: HashMap<ExportKey, Watch>,
    /// The pauses on record.
    pub pauses: HashMap<PauseScope, Timestamp>,
}

impl Found {
    /// Adds what a later look has found.
    pub(crate) fn merge(&mut self, later: Self) {
        self.looked_up.extend(later.looked_up);
        self.watches.extend(later.watches);
        self.pauses.extend(later.pauses);
    }
}

/// What became of an export that was to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    pub project: ProjectName,
    pub export: ExportId,
    /// Why it could not be; `None` if it was.
    pub hindrance: Option<String>,
}

/// Opens the state beside its writer, for one job at a time.
#[derive(Debug, Clone)]
pub struct Archive {
    pub state_directory: PathBuf,
    pub sink: LocalSink,
}

impl Archive {
    /// Looks exports up that the running program does not know.
    ///
    /// # Errors
    /// When the state cannot be read or written.
    pub(crate) async fn look_up(&self, wanted: &[Wanted]) -> Result<Found, StoreError> {
        let mut store = Store::beside(&self.state_directory);
        let watches = recover_unknown(&mut store, &self.sink, wanted).await?;
        let pauses = store.pauses().await?;
        store.close().await?;
        let keys = wanted.iter().flat_map(|Wanted { project, exports, .. }| {
            exports.iter().map(|export| ExportKey { project: *project, export: export.clone() })
        });
        Ok(Found { looked_up: keys.collect(), watches, pauses })
    }

    /// Forgets exports, of which nothing may be under way.
    ///
    /// # Errors
    /// When the state cannot be read or written.
    pub(crate) async fn forget(
        &self,
        names: &HashMap<ProjectDigest, ProjectName>,
        wanted: &BTreeSet<ExportId>,
        more: Vec<ExportKey>,
    ) -> Result<Vec<Forgotten>, StoreError> {
        let mut store = Store::beside(&self.state_directory);
        let forgotten = forget(&mut store, &self.sink, names, wanted, more).await;
        if let Err(error) = store.close().await {
            tracing::warn!(event = "state_close_failed", cause = %error, "the state was not closed cleanly: {error}");
        }
        forgotten
    }
}

/// Forgets those of the wanted exports that the state has, and those of `more`: the files first,
/// then the record, so that what is cut short in between is finished by a second try. Nobody may be
/// at work on them.
///
/// # Errors
/// When the state cannot be read or written.
pub async fn forget(
    store: &mut Store,
    sink: &LocalSink,
    names: &HashMap<ProjectDigest, ProjectName>,
    wanted: &BTreeSet<ExportId>,
    more: Vec<ExportKey>,
) -> Result<Vec<Forgotten>, StoreError> {
    let mut keys = store.recorded_exports(wanted).await?;
    keys.extend(more.into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>());
    let mut outcomes = Vec::new();
    for key in keys {
        let Some(project) = names.get(&key.project).cloned() else { continue };
        let export = key.export.clone();
        let (sink, name, id) = (sink.clone(), project.clone(), export.clone());
        let removed = tokio::task::spawn_blocking(move || sink.forget(&name, &id)).await;
        let hindrance = match removed {
            Ok(Ok(())) => None,
            Ok(Err(error)) if error.is_conflict() => {
                tracing::warn!(event = "foreign_file_kept", %project, %export, cause = %error, "what is not ours stays: {error}");
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the removal of its files panicked".to_owned()),
        };
        if hindrance.is_none() {
            store.apply(&[Change::Forgotten { export: key }]).await?;
        }
        outcomes.push(Forgotten { project, export, hindrance });
    }
    Ok(outcomes)
}
