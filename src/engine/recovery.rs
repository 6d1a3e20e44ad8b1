//! Boot: what the state records and what lies on disk become watches to go on with.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::config::ProjectConfig;
use crate::domain::ids::{ExportId, ExportKey, ExportPath, ProjectDigest, ProjectName};
use crate::domain::manifest::Manifest;
use crate::domain::part::CommittedPart;
use crate::domain::stage::PauseScope;
use crate::domain::watch::{Kept, Polling, Totals, Watch, WatchState};
use crate::ports::{
    Epoch, ExportRecord, Fact, Found, Ledger, LedgerFault, RecordedState, Sink, SinkFault,
};

/// Longest look for the manifests of exports that the state does not know.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Facts that go into one transaction while a lost state is made again.
const BATCH: usize = 256;

/// Some exports of one project.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) project: ProjectDigest,
    pub(crate) name: ProjectName,
    pub(crate) exports: Vec<ExportId>,
}

/// An export that the disk has whole, and since when.
type Whole = (ExportId, Totals, Timestamp);

impl Wanted {
    pub(crate) fn keys(&self) -> impl Iterator<Item = ExportKey> {
        self.exports.iter().map(|export| self.key(export))
    }

    fn key(&self, export: &ExportId) -> ExportKey {
        ExportKey { project: self.project, export: export.clone() }
    }

    fn path(&self, export: &ExportId) -> ExportPath {
        ExportPath { project: self.name.clone(), export: export.clone() }
    }

    fn completed(&self, whole: &[Whole]) -> Vec<Fact> {
        let completed = |&(ref export, Totals { parts, bytes }, at): &Whole| Fact::Completed {
            export: self.key(export),
            parts,
            bytes,
            at,
        };
        whole.iter().map(completed).collect()
    }
}

/// What was found when exports were looked up.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The exports that were looked up.
    pub looked_up: HashSet<ExportKey>,
    /// Those of them that are not new.
    pub watches: HashMap<ExportKey, Watch>,
    /// The pauses on record.
    pub pauses: HashMap<PauseScope, Timestamp>,
}

impl Recovered {
    /// Adds what a later look has found.
    pub(crate) fn merge(&mut self, later: Self) {
        self.looked_up.extend(later.looked_up);
        self.watches.extend(later.watches);
        self.pauses.extend(later.pauses);
    }
}

/// Reads the state once and decides how each configured export goes on. A project that the state
/// does not know is first looked for in the manifests on disk.
///
/// # Errors
/// When the state cannot be read or written.
pub async fn recover(
    ledger: &mut impl Ledger,
    epoch: Epoch,
    sink: &impl Sink,
    projects: &[ProjectConfig],
) -> Result<Recovered, LedgerFault> {
    let mut recovery = Recovery { ledger, epoch, sink };
    let wanted = |project: &ProjectConfig| Wanted {
        project: ProjectDigest::of(&project.project_key),
        name: project.name.clone(),
        exports: project.exports.clone(),
    };
    let wanted: Vec<_> = projects.iter().map(wanted).collect();
    let digests = recovery.rebuild_unrecovered(&wanted).await?;
    let pauses = recovery.ledger.pauses().await?;
    let records = recovery.ledger.load(&digests).await?.into_iter();
    let mut records: HashMap<_, _> = records.map(|record| (record.key.clone(), record)).collect();
    let mut found = Recovered { pauses, ..Recovered::default() };
    for wanted in &wanted {
        let known = wanted.keys().filter_map(|key| records.remove(&key)).collect();
        found.watches.extend(recovery.watches(wanted, known).await?);
    }
    let names: HashMap<_, _> = wanted.iter().map(|wanted| (wanted.project, &wanted.name)).collect();
    let withdrawn = records.into_values().filter_map(|record| {
        let failed = matches!(record.state, RecordedState::Failed(_));
        let name = names.get(&record.key.project).filter(|_| failed)?;
        Some((ProjectName::clone(name), record.key))
    });
    recovery.forget_withdrawn_failures(withdrawn.collect()).await?;
    Ok(found)
}

/// The same for exports that come while the program runs, as the state has them.
///
/// # Errors
/// When the state cannot be read or written.
pub(crate) async fn recover_unknown(
    ledger: &mut impl Ledger,
    epoch: Epoch,
    sink: &impl Sink,
    wanted: &[Wanted],
) -> Result<HashMap<ExportKey, Watch>, LedgerFault> {
    let mut recovery = Recovery { ledger, epoch, sink };
    recovery.rebuild_unrecovered(wanted).await?;
    let mut watches = HashMap::new();
    for wanted in wanted {
        let exports: Vec<_> = wanted.exports.iter().collect();
        // Not all that was ever finished: a reload must not take the longer the more that is.
        let known = recovery.ledger.load_exports(wanted.project, &exports).await?;
        watches.extend(recovery.watches(wanted, known).await?);
    }
    Ok(watches)
}

struct Recovery<'a, L, S> {
    ledger: &'a mut L,
    epoch: Epoch,
    sink: &'a S,
}

impl<L: Ledger, S: Sink> Recovery<'_, L, S> {
    async fn commit(&mut self, facts: &[Fact]) -> Result<(), LedgerFault> {
        for batch in facts.chunks(BATCH) {
            self.ledger.commit(self.epoch, batch).await?;
        }
        Ok(())
    }

    /// How exports go on: by these records, or by what lies on disk.
    async fn watches(
        &mut self,
        wanted: &Wanted,
        records: Vec<ExportRecord>,
    ) -> Result<HashMap<ExportKey, Watch>, LedgerFault> {
        let known = records.into_iter().map(|record| {
            let key = record.key.clone();
            (key, watch(wanted.path(&record.key.export), record))
        });
        let mut watches: HashMap<_, _> = known.collect();
        let is_new = |export: &&ExportId| !watches.contains_key(&wanted.key(export));
        let new = wanted.exports.iter().filter(is_new).cloned().collect();
        watches.extend(self.look_for(wanted, new).await?);
        Ok(watches)
    }

    /// Exports without a record that have a manifest all the same are whole: they were forgotten,
    /// or come from elsewhere.
    async fn look_for(
        &mut self,
        wanted: &Wanted,
        exports: Vec<ExportId>,
    ) -> Result<Vec<(ExportKey, Watch)>, LedgerFault> {
        if exports.is_empty() {
            return Ok(Vec::new());
        }
        let project = &wanted.name;
        let looking = self.sink.manifests(project, Some(exports));
        let Ok(Ok(manifests)) = tokio::time::timeout(LOOK_TIMEOUT, looking).await else {
            tracing::warn!(
                event = "manifests_unread", %project,
                "the disk does not answer: no manifests were looked for"
            );
            return Ok(Vec::new());
        };
        let whole = manifests.into_iter().filter_map(|found| match found {
            Ok((export, Found::Whole { totals, sealed_at })) => Some((export, totals, sealed_at)),
            // Whatever is wrong there, it is met again when the export is fetched.
            Ok((_, Found::Rejected(_))) | Err(_) => None,
        });
        let whole: Vec<_> = whole.collect();
        self.commit(&wanted.completed(&whole)).await?;
        let watch = |(export, totals, at)| {
            let state = WatchState::Completed { totals, at };
            (wanted.key(&export), Watch::with_state(wanted.path(&export), state))
        };
        Ok(whole.into_iter().map(watch).collect())
    }

    /// An ID that was taken out of the configuration and put back is watched again; what was
    /// finished stays finished. The notices first: an export whose notice is still there is still
    /// failed, and the next start tries again.
    async fn forget_withdrawn_failures(
        &mut self,
        withdrawn: Vec<(ProjectName, ExportKey)>,
    ) -> Result<(), LedgerFault> {
        let mut facts = Vec::new();
        for (project, key) in withdrawn {
            let at = ExportPath { project, export: key.export.clone() };
            let ExportPath { project, export } = &at;
            match self.sink.remove_notice(&at).await {
                // A stranger's file at that name says nothing about this export.
                Ok(()) | Err(SinkFault::Conflict(_)) => {
                    tracing::info!(
                        event = "failure_forgotten", %project, %export,
                        "the failure is forgotten, the export is no longer configured"
                    );
                    facts.push(Fact::Watching { export: key });
                }
                Err(error) => tracing::warn!(
                    event = "notice_kept", %project, %export, cause = %error,
                    "the export is no longer configured; its failed.json cannot be removed: {error}"
                ),
            }
        }
        self.commit(&facts).await
    }

    /// Looks on disk for the exports of projects that the state does not know: every one with a
    /// manifest that can be believed is recorded as whole. If the disk cannot be read to the end,
    /// the next start looks again. Returns all projects.
    async fn rebuild_unrecovered(
        &mut self,
        wanted: &[Wanted],
    ) -> Result<Vec<ProjectDigest>, LedgerFault> {
        let digests: Vec<_> = wanted.iter().map(|wanted| wanted.project).collect();
        let unrecovered = self.ledger.unrecovered(&digests).await?;
        for wanted in wanted.iter().filter(|wanted| unrecovered.contains(&wanted.project)) {
            let project = &wanted.name;
            let (whole, to_its_end) = whole_exports(self.sink, project).await;
            let mut facts = wanted.completed(&whole);
            if to_its_end {
                facts.push(Fact::Recovered { project: wanted.project, at: Timestamp::now() });
            }
            self.commit(&facts).await?;
            if !whole.is_empty() {
                tracing::info!(
                    event = "state_rebuilt", %project, exports = whole.len(),
                    "the state did not know the project; finished exports were found on disk"
                );
            }
        }
        Ok(digests)
    }
}

/// The exports that are whole, and whether everything could be looked at.
async fn whole_exports(sink: &impl Sink, project: &ProjectName) -> (Vec<Whole>, bool) {
    let manifests = match sink.manifests(project, None).await {
        Ok(manifests) => manifests,
        Err(error) => {
            tracing::warn!(
                event = "rebuild_incomplete", %project, cause = %error,
                "the manifests on disk cannot be read: {error}"
            );
            return (Vec::new(), false);
        }
    };
    let (mut found, mut to_its_end) = (Vec::new(), true);
    for manifest in manifests {
        match manifest {
            Ok((export, Found::Whole { totals, sealed_at })) => {
                found.push((export, totals, sealed_at));
            }
            Ok((export, Found::Rejected(cause))) => tracing::warn!(
                event = "manifest_rejected", %project, %export, %cause,
                "a manifest on disk is not accepted: {cause}"
            ),
            Err(error) => {
                to_its_end = false;
                tracing::warn!(
                    event = "rebuild_incomplete", %project, cause = %error,
                    "a finished export cannot be read: {error}"
                );
            }
        }
    }
    (found, to_its_end)
}

/// How an export goes on, by its record.
pub(crate) fn watch(at: ExportPath, record: ExportRecord) -> Watch {
    let ExportPath { project, export } = &at;
    let (parts, partials) = (record.parts.into_iter(), record.partials.into_iter());
    let kept = Kept {
        committed: parts.map(|part| (part.key.file_id.clone(), part)).collect(),
        partials: partials.map(|part| (part.key.file_id.clone(), part)).collect(),
    };
    let state = match record.state {
        RecordedState::Watching => {
            WatchState::Polling(Polling::resumed(record.remote_status, kept))
        }
        RecordedState::Sealing { manifest } => {
            match recorded_manifest(&manifest, export, &kept) {
                Ok(totals) => WatchState::Sealing { manifest: manifest.into(), totals },
                // Its parts are on record one by one: the listing is asked for again, and the
                // manifest made anew.
                Err(error) => {
                    tracing::error!(
                        event = "manifest_unreadable", %project, %export, cause = %error,
                        "the manifest on record is damaged; the export is polled again: {error}"
                    );
                    WatchState::Polling(Polling::resumed(record.remote_status, kept))
                }
            }
        }
        RecordedState::Completed { parts, bytes, at } => {
            WatchState::Completed { totals: Totals { parts, bytes }, at }
        }
        RecordedState::Failed(failure) => WatchState::Failed { failure, kept },
    };
    Watch::with_state(at, state)
}

/// The size of an export by the manifest on record. One that speaks of another export, or not of
/// every part on record, is not what this program has written: it must not come to lie beside these
/// parts as their manifest.
fn recorded_manifest(text: &str, export: &ExportId, kept: &Kept) -> Result<Totals, String> {
    let manifest = Manifest::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    if manifest.export_id != *export {
        return Err("it is of another export".to_owned());
    }
    let parts = manifest.parts.iter();
    let listed: HashMap<_, _> =
        parts.map(|part| (&part.file_id, (part.part, part.bytes, part.sha256))).collect();
    let is_listed = |part: &CommittedPart| {
        listed.get(&part.key.file_id) == Some(&(part.key.number, part.bytes, part.sha256))
    };
    match kept.committed.values().find(|part| !is_listed(part)) {
        Some(part) => Err(format!("part {} is on record, and not in it", part.key.number)),
        None => Ok(Totals::of_manifest(&manifest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checksum::Check;
    use crate::domain::ids::ProjectKey;
    use crate::domain::part::{PartKey, Sha256};
    use crate::domain::report::ReportFacts;

    fn part(number: u32, id: &str, bytes: u64) -> CommittedPart {
        CommittedPart {
            key: PartKey { number, file_id: id.parse().unwrap() },
            bytes,
            declared_bytes: None,
            sha256: Sha256::new([7; 32]),
            verified_by: vec![Check::Framing],
        }
    }

    fn manifest(export: &str, parts: Vec<CommittedPart>) -> Manifest {
        let at = ExportPath { project: "shop".parse().unwrap(), export: export.parse().unwrap() };
        Manifest::seal(at, ReportFacts::default(), parts, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_manifest_on_record_is_believed_where_it_is_of_this_export_and_all_its_parts() {
        let export: ExportId = "export_1".parse().unwrap();
        let of = |parts: Vec<CommittedPart>| Kept {
            committed: parts.into_iter().map(|part| (part.key.file_id.clone(), part)).collect(),
            ..Kept::default()
        };
        let judged = |of_export: &str, listed: Vec<CommittedPart>, recorded: Vec<CommittedPart>| {
            recorded_manifest(&manifest(of_export, listed).to_text(), &export, &of(recorded))
        };
        let (a, b) = (part(1, "a", 3), part(2, "b", 4));
        let both = Totals { parts: 2, bytes: 7 };
        let parts = || vec![a.clone(), b.clone()];
        assert_eq!(judged("export_1", parts(), parts()), Ok(both));
        let other = judged("export_2", vec![a.clone()], vec![a.clone()]).unwrap_err();
        assert_eq!(other, "it is of another export");
        let fewer = judged("export_1", vec![a.clone()], parts()).unwrap_err();
        assert_eq!(fewer, "part 2 is on record, and not in it");
        assert!(judged("export_1", vec![part(1, "a", 9)], vec![a]).is_err(), "of other bytes");
    }

    #[test]
    fn a_manifest_whose_sum_is_beyond_all_numbers_is_no_reason_to_panic() {
        let huge = manifest("export_1", vec![part(1, "a", u64::MAX), part(2, "b", 1)]);
        assert_eq!(Totals::of_manifest(&huge), Totals { parts: 2, bytes: u64::MAX });
    }

    #[test]
    fn a_damaged_manifest_on_record_costs_its_export_a_view_and_the_others_nothing() {
        let key: ProjectKey = "project_1".parse().unwrap();
        let export: ExportId = "export_1".parse().unwrap();
        let record = ExportRecord {
            key: ExportKey { project: ProjectDigest::of(&key), export: export.clone() },
            remote_status: None,
            state: RecordedState::Sealing { manifest: "{\"version\": 1".to_owned() },
            parts: Vec::new(),
            partials: Vec::new(),
        };
        let watch = watch(ExportPath { project: "shop".parse().unwrap(), export }, record);
        assert!(watch.wants_views() && !watch.is_settled());
    }
}
