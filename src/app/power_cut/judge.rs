//! After a power cut: compares the disk, the state, and what the recovery makes of both.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use hyper::body::Bytes;
use tempfile::TempDir;

use crate::config::Config;
use crate::domain::ids::{ExportId, ExportPath, ProjectDigest};
use crate::domain::manifest::{FAILED_FILE, MANIFEST_FILE, Manifest};
use crate::domain::part::{PartKey, Sha256};
use crate::domain::resume::Plan;
use crate::domain::watch::PartOrder;
use crate::engine::recovery;
use crate::ledgers::sqlite::SqliteLedger;
use crate::ports::{
    Armed, Document, Epoch, ExportRecord, Fact, Ledger, Put, RecordedState, Sink, Upload,
};
use crate::sinks::local::{Digests, LocalSink, Opened, SinkSettings};

/// The download directory, below whatever is recorded.
pub(super) const DOWNLOADS: &str = "exports";

#[derive(Debug, Clone)]
pub(super) struct TruePart {
    pub(super) key: PartKey,
    pub(super) content: Bytes,
    sha256: Sha256,
}

impl TruePart {
    pub(super) fn new(key: PartKey, content: Vec<u8>) -> Self {
        Self { key, sha256: sha256(&content), content: content.into() }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Demands {
    /// The bytes of every checkpoint on record are there. A file system that reorders the changes
    /// of names could lose them: that costs a download and is no fault.
    pub(super) checkpoints: bool,
    /// The notice of a failure on record is there.
    pub(super) notices: bool,
}

/// Judges one disk after the other, all below the same path.
pub(super) struct Judge {
    place: TempDir,
    config: Config,
    truth: BTreeMap<ExportId, Vec<TruePart>>,
    /// A state for each number of batches on record.
    states: HashMap<usize, PathBuf>,
}

type Verdict<T> = Result<T, String>;

fn faulty<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

fn sha256(bytes: &[u8]) -> Sha256 {
    let mut digests = Digests::new(&[]);
    digests.update(bytes);
    digests.so_far()
}

impl Judge {
    pub(super) fn new(config: Config, truth: BTreeMap<ExportId, Vec<TruePart>>) -> Self {
        // In memory if possible: thousands of disks are laid out, and none has to be durable.
        let memory = Path::new("/dev/shm");
        let place =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { place: place.unwrap(), config, truth, states: HashMap::new() }
    }

    /// Where to lay out the disk: empty.
    pub(super) fn clear(&self) -> &Path {
        for folder in [DOWNLOADS, "state"] {
            let _ = fs::remove_dir_all(self.place.path().join(folder));
        }
        self.place.path()
    }

    fn downloads(&self) -> PathBuf {
        self.place.path().join(DOWNLOADS)
    }

    fn at(&self, export: &ExportId) -> ExportPath {
        ExportPath { project: self.config.projects[0].name.clone(), export: export.clone() }
    }

    /// Replaces the state by one that has these batches on record.
    pub(super) async fn record(&mut self, batches: &[Vec<Fact>]) {
        let template = self.place.path().join(format!("state-{}", batches.len()));
        if !self.states.contains_key(&batches.len()) {
            let mut ledger = SqliteLedger::open(&template).await.unwrap();
            let epoch = ledger.claim(&[]).await.unwrap();
            for batch in batches {
                let moved: Vec<Fact> = batch.iter().map(|change| self.moved(change)).collect();
                ledger.commit(epoch, &moved).await.unwrap();
            }
            ledger.close().await.unwrap();
            self.states.insert(batches.len(), template.clone());
        }
        let state = self.place.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::copy(template.join("state.db"), state.join("state.db")).unwrap();
    }

    /// The marker is on record for the path of the directory, which differs here.
    fn moved(&self, change: &Fact) -> Fact {
        match change {
            Fact::SinkIdentified { identity, .. } => Fact::SinkIdentified {
                place: self.downloads().display().to_string(),
                identity: identity.clone(),
            },
            other => other.clone(),
        }
    }

    /// Checks the disk, recovers twice, and checks the outcome.
    pub(super) async fn judge(&self, demands: Demands) -> Verdict<()> {
        let mut ledger = SqliteLedger::beside(&self.place.path().join("state"));
        let epoch = ledger.claim(&[]).await.map_err(faulty("the state"))?;
        let judged = self.judge_with(&mut ledger, epoch, demands).await;
        drop(ledger.close().await);
        judged
    }

    async fn judge_with(
        &self,
        ledger: &mut SqliteLedger,
        epoch: Epoch,
        demands: Demands,
    ) -> Verdict<()> {
        self.look()?;
        self.hold_to_records(&load(ledger, &self.config).await?, demands)?;
        let first = self.recover(ledger, epoch, demands).await?;
        self.look()?;
        let tree = tree(&self.downloads());
        let second = self.recover(ledger, epoch, demands).await?;
        if first != second {
            return Err(format!("the second recovery differs: {first:#?}, then {second:#?}"));
        }
        let again = self::tree(&self.downloads());
        if tree != again {
            return Err(format!("the second recovery changed the disk: {tree:#?}, {again:#?}"));
        }
        Ok(())
    }

    /// Whether a consumer sees only valid files.
    fn look(&self) -> Verdict<()> {
        for (export, parts) in &self.truth {
            let folder = self.downloads().join(self.at(export).to_string());
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                if name == MANIFEST_FILE {
                    self.look_at_manifest(export)?;
                } else if name == FAILED_FILE {
                    let notice: serde_json::Value =
                        serde_json::from_slice(&fs::read(entry.path()).unwrap())
                            .map_err(faulty(&format!("the notice of {export}")))?;
                    if notice["export_id"] != export.as_str() {
                        return Err(format!("{export} has the notice {notice}"));
                    }
                } else if name.starts_with("part-") {
                    let part = parts.iter().find(|part| part.key.file_name() == name);
                    let part = part.ok_or_else(|| format!("{export}/{name} is not ours"))?;
                    if fs::read(entry.path()).unwrap() != part.content {
                        return Err(format!("{export}/{name} has other bytes"));
                    }
                }
            }
        }
        Ok(())
    }

    fn file(&self, export: &ExportId, name: &str) -> Option<Vec<u8>> {
        fs::read(self.downloads().join(self.at(export).to_string()).join(name)).ok()
    }

    fn has_part(&self, export: &ExportId, part: &TruePart) -> bool {
        self.file(export, &part.key.file_name()).is_some_and(|bytes| bytes == part.content)
    }

    fn has_all_parts(&self, export: &ExportId, although: &str) -> Verdict<()> {
        match self.truth[export].iter().find(|part| !self.has_part(export, part)) {
            Some(part) => Err(format!("{export} {although} without {}", part.key.file_name())),
            None => Ok(()),
        }
    }

    fn look_at_manifest(&self, export: &ExportId) -> Verdict<()> {
        let bytes =
            self.file(export, MANIFEST_FILE).ok_or_else(|| format!("{export} has no manifest"))?;
        let manifest =
            Manifest::parse(&bytes).map_err(faulty(&format!("the manifest of {export}")))?;
        let parts = &self.truth[export];
        let said: Vec<_> = manifest.parts.iter().map(|part| (part.key(), part.sha256)).collect();
        let expected: Vec<_> = parts.iter().map(|part| (part.key.clone(), part.sha256)).collect();
        if said != expected {
            return Err(format!("the manifest of {export} names other parts"));
        }
        self.has_all_parts(export, "has a manifest")
    }

    fn true_part(&self, export: &ExportId, key: &PartKey) -> Verdict<&TruePart> {
        let part = self.truth[export].iter().find(|part| part.key == *key);
        part.ok_or_else(|| format!("{export} has no {key:?}"))
    }

    /// Whether everything on record is on the disk.
    fn hold_to_records(&self, records: &[ExportRecord], demands: Demands) -> Verdict<()> {
        for record in records {
            let export = &record.key.export;
            for part in &record.parts {
                let truth = self.true_part(export, &part.key)?;
                if part.sha256 != truth.sha256 || !self.has_part(export, truth) {
                    let name = part.key.file_name();
                    return Err(format!("{export}/{name} is on record and not on the disk"));
                }
            }
            match &record.state {
                RecordedState::Completed { .. } => self.look_at_manifest(export)?,
                RecordedState::Sealing { .. } => self.has_all_parts(export, "is sealed")?,
                RecordedState::Failed(_) if demands.notices => {
                    self.file(export, FAILED_FILE)
                        .ok_or_else(|| format!("{export} has failed and has no notice"))?;
                }
                RecordedState::Failed(_) | RecordedState::Watching => {}
            }
        }
        Ok(())
    }

    /// Recovers as a start of the program does. Returns what it decided, in words.
    async fn recover(
        &self,
        ledger: &mut SqliteLedger,
        epoch: Epoch,
        demands: Demands,
    ) -> Verdict<Vec<String>> {
        let place = self.downloads().display().to_string();
        let known =
            ledger.sink_identity(&place).await.unwrap().map(|marker| marker.parse().unwrap());
        let (sink, opened) = LocalSink::open(&self.downloads(), known, SinkSettings::default())
            .map_err(faulty("the directory"))?;
        match opened {
            Opened::Away(cause) => return Err(format!("the directory is not believed: {cause}")),
            Opened::Created(marker) | Opened::Adopted(marker) => {
                let change = Fact::SinkIdentified { place, identity: marker.to_string() };
                ledger.commit(epoch, &[change]).await.unwrap();
            }
            Opened::Known => {}
        }
        let recovered = recovery::recover(ledger, epoch, &sink, &self.config.projects).await;
        recovered.map_err(faulty("the recovery"))?;
        let mut decisions = Vec::new();
        let mut records = load(ledger, &self.config).await?;
        for export in self.truth.keys() {
            let place = records.iter().position(|record| record.key.export == *export);
            match place.map(|place| records.swap_remove(place)) {
                Some(ExportRecord { state: RecordedState::Sealing { manifest }, .. }) => {
                    let manifest = Document::RecordedManifest(manifest.into());
                    match sink.put(&self.at(export), manifest).await {
                        Ok(Put::Written | Put::AlreadyThere) => self.look_at_manifest(export)?,
                        other => return Err(format!("{export} is not sealed: {other:?}")),
                    }
                    decisions.push(format!("{export} is sealed"));
                }
                Some(ExportRecord { state: RecordedState::Completed { .. }, .. }) => {
                    self.look_at_manifest(export)?;
                    decisions.push(format!("{export} is whole"));
                }
                Some(record) if matches!(record.state, RecordedState::Failed(_)) => {
                    decisions.push(format!("{export} has failed"));
                }
                record => decisions.push(self.prepare(&sink, export, record, demands).await?),
            }
        }
        Ok(decisions)
    }

    /// An export that is not fetched to its end yet.
    async fn prepare(
        &self,
        sink: &impl Sink,
        export: &ExportId,
        record: Option<ExportRecord>,
        demands: Demands,
    ) -> Verdict<String> {
        let (committed, partials) =
            record.map(|record| (record.parts, record.partials)).unwrap_or_default();
        let order = |part: &TruePart| {
            let partial = partials.iter().find(|partial| partial.key == part.key);
            PartOrder {
                key: part.key.clone(),
                declared_bytes: Some(part.content.len() as u64),
                resume: partial.map(|partial| partial.point.clone()),
            }
        };
        let unrecorded: Vec<_> = self.truth[export]
            .iter()
            .filter(|part| committed.iter().all(|committed| committed.key != part.key))
            .map(order)
            .collect();
        let at = self.at(export);
        let prepared =
            sink.prepare(&at, &unrecorded).await.map_err(faulty("the export's folder"))?;
        if !prepared.conflicts.is_empty() {
            return Err(format!("our own files are taken for foreign: {:?}", prepared.conflicts));
        }
        for part in &prepared.adopted {
            if part.sha256 != self.true_part(export, &part.key)?.sha256 {
                let name = part.key.file_name();
                return Err(format!("{export}/{name} is adopted with other bytes"));
            }
        }
        let mut resumed = Vec::new();
        for partial in prepared.resumable {
            let plan = Plan::Continue(partial.point.clone());
            let truth = self.true_part(export, &partial.key)?;
            let begun = sink.begin(&at, &order(truth), &plan).await;
            let mut writer = begun.map_err(faulty("a partial"))?;
            let armed = writer.arm(&[]).await.map_err(faulty("a partial"))?;
            if armed == Armed::Ready && writer.bytes() > 0 {
                let bytes = usize::try_from(partial.point.bytes).unwrap();
                let name = format!(".{}.partial", partial.key.file_name());
                let found = self.file(export, &name).unwrap_or_default();
                if found.get(..bytes) != truth.content.get(..bytes) {
                    return Err(format!("{export}/{name} is continued behind other bytes"));
                }
                resumed.push(partial.key);
            }
        }
        let is_there = |key: &PartKey| {
            resumed.contains(key) || prepared.adopted.iter().any(|adopted| adopted.key == *key)
        };
        match partials.iter().find(|partial| demands.checkpoints && !is_there(&partial.key)) {
            Some(partial) => Err(format!(
                "{export}/{} has a checkpoint on record that is not on the disk",
                partial.key.file_name()
            )),
            None => Ok(format!("{export} adopts {:?} and continues {resumed:?}", prepared.adopted)),
        }
    }
}

async fn load(ledger: &mut SqliteLedger, config: &Config) -> Verdict<Vec<ExportRecord>> {
    let digests: Vec<_> =
        config.projects.iter().map(|project| ProjectDigest::of(&project.project_key)).collect();
    ledger.load(&digests).await.map_err(faulty("the state"))
}

/// Every name below a folder, with its content.
fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                found.insert(path.clone(), "a folder".to_owned());
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                // Some pages of a large file: a change would show in its length or on every page.
                let pages = bytes.chunks(4096).step_by(1 + bytes.len() / (1 << 20));
                let pages = pages.collect::<Vec<_>>().concat();
                found.insert(path, format!("{} bytes, {}", bytes.len(), sha256(&pages)));
            }
        }
    }
    found
}
