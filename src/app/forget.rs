//! Forgetting exports: the files first, then the record, so that what is cut short in between is
//! finished by a second try.

use std::collections::{BTreeSet, HashMap};

use super::StartError;
use crate::config::ProjectConfig;
use crate::domain::ids::{ExportId, ExportKey, ExportPath, ProjectDigest, ProjectName};
use crate::ports::{Epoch, Fact, Ledger, Sink, SinkFault};

/// What became of an export that was to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetOutcome {
    /// Its project.
    pub project: ProjectName,
    /// Its ID.
    pub export: ExportId,
    /// Why it could not be; `None` where it was.
    pub hindrance: Option<String>,
}

/// Forgets those that the state has, and those of `more`. Nobody may be at work on them.
pub(super) async fn forget_records(
    ledger: &mut impl Ledger,
    epoch: Epoch,
    sink: &impl Sink,
    projects: &[ProjectConfig],
    wanted: &BTreeSet<ExportId>,
    more: Vec<ExportKey>,
) -> Result<Vec<ForgetOutcome>, StartError> {
    let names: HashMap<_, _> = projects
        .iter()
        .map(|project| (ProjectDigest::of(&project.project_key), project.name.clone()))
        .collect();
    let mut keys = ledger.find(wanted, false).await?;
    keys.extend(more.into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>());
    let mut outcomes = Vec::new();
    for key in keys {
        let Some(project) = names.get(&key.project).cloned() else { continue };
        let export = key.export.clone();
        let at = ExportPath { project: project.clone(), export: export.clone() };
        let hindrance = match sink.forget(&at).await {
            Ok(()) => None,
            Err(error @ SinkFault::Conflict(_)) => {
                tracing::warn!(
                    event = "foreign_file_kept",
                    %project,
                    %export,
                    cause = %error,
                    "what is not ours stays: {error}"
                );
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if hindrance.is_none() {
            ledger.commit(epoch, &[Fact::Forgotten { export: key }]).await?;
        }
        outcomes.push(ForgetOutcome { project, export, hindrance });
    }
    Ok(outcomes)
}
