//! What can be done while no daemon runs: under its locks, and with the same records.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::{StartError, lock_state, open_ledger, open_sink};
use crate::config::{Config, ProjectConfig};
use crate::control::{Forgotten, Retried};
use crate::domain::ids::{ExportId, ExportKey, ExportPath, ProjectDigest, ProjectName};
use crate::engine::archive;
use crate::ledgers::sqlite;
use crate::ports::{Fact, Ledger as _, Sink as _, SinkFault};
use crate::process::umask;
use crate::status::{self, Stamped};

/// Sets failed exports to watching again, while no daemon runs. Returns those that were failed.
pub async fn retry(
    config: &Config,
    wanted: &BTreeSet<ExportId>,
) -> Result<Vec<Retried>, StartError> {
    umask::permit(config.download.modes);
    let _state_lock = lock_state(config).await?;
    let (mut ledger, epoch) = open_ledger(config).await?;
    let (sink, _download_lock) = open_sink(config, &mut ledger, epoch).await?;
    let names = names(config);
    let failed = ledger.find(wanted, true).await?;
    let mut retried = Vec::new();
    for ExportKey { project: digest, export } in failed {
        let Some(project) = names.get(&digest) else { continue };
        // The notice first: should this stop half way, the export is still failed and can be
        // retried once more.
        let at = ExportPath { project: project.clone(), export: export.clone() };
        match sink.remove_notice(&at).await {
            Err(fault @ SinkFault::Conflict(_)) => {
                tracing::warn!(
                    event = "notice_kept", %project, %export, cause = %fault,
                    "failed.json stays: {fault}"
                );
            }
            removed => removed.map_err(StartError::Removal)?,
        }
        let key = ExportKey { project: digest, export: export.clone() };
        ledger.commit(epoch, &[Fact::Watching { export: key }]).await?;
        retried.push(Retried::from(at));
    }
    ledger.close().await?;
    Ok(retried)
}

fn names(config: &Config) -> HashMap<ProjectDigest, ProjectName> {
    let name =
        |project: &ProjectConfig| (ProjectDigest::of(&project.project_key), project.name.clone());
    config.projects.iter().map(name).collect()
}

/// Drops what is known of exports, and what is half done of them, while no daemon runs. Finished
/// files stay.
pub async fn forget(
    config: &Config,
    wanted: &BTreeSet<ExportId>,
) -> Result<Vec<Forgotten>, StartError> {
    umask::permit(config.download.modes);
    let _state_lock = lock_state(config).await?;
    let (mut ledger, epoch) = open_ledger(config).await?;
    let (sink, _download_lock) = open_sink(config, &mut ledger, epoch).await?;
    let outcomes =
        archive::forget(&mut ledger, epoch, &sink, &names(config), wanted, Vec::new()).await?;
    ledger.close().await?;
    Ok(outcomes.into_iter().map(Forgotten::from).collect())
}

/// How everything is where no daemon runs, as the state has it. Nothing is made, changed or locked
/// for that.
pub async fn recorded_status(config: &Config) -> Result<Stamped, StartError> {
    let digests: Vec<_> =
        config.projects.iter().map(|project| ProjectDigest::of(&project.project_key)).collect();
    let seen = sqlite::look(&config.state_directory, &digests).await?;
    Ok(status::recorded(config, seen, Timestamp::now()))
}
