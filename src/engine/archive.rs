//! What the state and the disk know beside the running work: exports are looked up there when they
//! are configured, and dropped there when somebody asks to forget them.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use super::recovery::{Recovered, Wanted, recover_unknown};
use crate::domain::ids::{ExportId, ExportKey, ExportPath, ProjectDigest, ProjectName};
use crate::ledgers::sqlite::SqliteLedger;
use crate::ports::{Epoch, Fact, Ledger, LedgerFault, Sink, SinkFault};
use crate::sinks::AnySink;

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
    pub sink: AnySink,
    pub epoch: Epoch,
}

impl Archive {
    /// Looks exports up that the running program does not know.
    ///
    /// # Errors
    /// When the state cannot be read or written.
    pub(crate) async fn look_up(&self, wanted: &[Wanted]) -> Result<Recovered, LedgerFault> {
        let mut ledger = SqliteLedger::beside(&self.state_directory);
        let watches = recover_unknown(&mut ledger, self.epoch, &self.sink, wanted).await?;
        let pauses = ledger.pauses().await?;
        ledger.close().await?;
        let looked_up = wanted.iter().flat_map(Wanted::keys).collect();
        Ok(Recovered { looked_up, watches, pauses })
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
    ) -> Result<Vec<Forgotten>, LedgerFault> {
        let mut ledger = SqliteLedger::beside(&self.state_directory);
        let forgotten = forget(&mut ledger, self.epoch, &self.sink, names, wanted, more).await;
        if let Err(error) = ledger.close().await {
            tracing::warn!(
                event = "state_close_failed", cause = %error,
                "the state was not closed cleanly: {error}"
            );
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
    ledger: &mut impl Ledger,
    epoch: Epoch,
    sink: &impl Sink,
    names: &HashMap<ProjectDigest, ProjectName>,
    wanted: &BTreeSet<ExportId>,
    more: Vec<ExportKey>,
) -> Result<Vec<Forgotten>, LedgerFault> {
    let mut keys = ledger.find(wanted, false).await?;
    keys.extend(more.into_iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>());
    let mut outcomes = Vec::new();
    for key in keys {
        let Some(project) = names.get(&key.project).cloned() else { continue };
        let export = key.export.clone();
        let at = ExportPath { project: project.clone(), export: export.clone() };
        let hindrance = match sink.forget(&at).await {
            Ok(()) => None,
            Err(fault @ SinkFault::Conflict(_)) => {
                tracing::warn!(
                    event = "foreign_file_kept", %project, %export, cause = %fault,
                    "a file that is not ours stays: {fault}"
                );
                None
            }
            Err(fault) => Some(fault.to_string()),
        };
        if hindrance.is_none() {
            ledger.commit(epoch, &[Fact::Forgotten { export: key }]).await?;
        }
        outcomes.push(Forgotten { project, export, hindrance });
    }
    Ok(outcomes)
}
