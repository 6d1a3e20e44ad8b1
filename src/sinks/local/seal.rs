//! Writes, finds and reads back the manifest, the file that says that an export is whole.

use std::collections::HashSet;
use std::sync::Arc;

use super::SinkError;
use super::directory::{LocalSink, Named, write_named};
use crate::domain::ids::{ExportId, ExportPath, ProjectName};
use crate::domain::manifest::{MANIFEST_FILE, Manifest, ManifestPart};
use crate::domain::watch::Totals;
use crate::durable::{Dir, DurableError, Entry};
use crate::ports::{Found, FoundManifest, Put, SinkFault};

/// Longest manifest that is read back: 100,000 parts take a quarter of it.
const MAX_MANIFEST_BYTES: u64 = 128 * 1024 * 1024;

impl LocalSink {
    /// Writes `manifest.json`, after it has removed all partials. Nobody may take a part before
    /// there is a manifest: one that is gone by then was lost.
    pub(super) fn seal(&self, at: &ExportPath, bytes: &[u8]) -> Result<Put, SinkError> {
        let dir = self.make_export_dir(&self.root()?, at)?;
        let names: HashSet<String> = dir.names()?.into_iter().collect();
        if !names.contains(MANIFEST_FILE)
            && let Ok(manifest) = Manifest::parse(bytes)
        {
            let gone = manifest.parts.iter().filter(|part| !names.contains(&part.path));
            let gone: Vec<_> = gone.map(ManifestPart::key).collect();
            if !gone.is_empty() {
                self.forget_export_dir(at);
                return Ok(Put::PartsGone(gone));
            }
        }
        self.write_manifest(at, bytes)
    }

    fn write_manifest(&self, at: &ExportPath, bytes: &[u8]) -> Result<Put, SinkError> {
        let root = self.root()?;
        let no_overwrite = self.no_overwrite(&root)?;
        let dir = self.make_export_dir(&root, at)?;
        self.tidy(&dir, at)?;
        let mode = self.settings().modes.file;
        let written = write_named(&dir, MANIFEST_FILE, bytes, mode, no_overwrite);
        let put = match written.map_err(SinkError::below)? {
            Named::Written => Put::Written,
            Named::Occupied => settle(&dir, bytes).map(|()| Put::AlreadyThere)?,
        };
        self.forget_export_dir(at);
        Ok(put)
    }

    /// Finishes the sealing of an export that an earlier run had recorded.
    pub(super) fn recover_sealing(&self, at: &ExportPath, text: &str) -> Result<Put, SinkError> {
        let manifest = Manifest::parse(text.as_bytes()).map_err(|error| {
            SinkError::conflict(MANIFEST_FILE, format!("the recorded one is damaged: {error}"))
        })?;
        let root = self.root()?;
        // The folder was made before the first part, also for an export without parts.
        let Some(dir) = Self::export_dir(&root, at)? else { return Ok(Put::Taken) };
        let mut left = dir.exists(MANIFEST_FILE)? || manifest.parts.is_empty();
        for part in &manifest.parts {
            left = left || dir.exists(&part.path)?;
        }
        if left { self.write_manifest(at, text.as_bytes()) } else { Ok(Put::Taken) }
    }

    pub(super) fn find_manifests(
        &self,
        project: &ProjectName,
        only: Option<Vec<ExportId>>,
    ) -> Result<Vec<FoundManifest>, SinkError> {
        let exports = match only {
            Some(exports) => exports,
            None => match self.root()?.child(project.as_str()).map_err(SinkError::below)? {
                Some(dir) => dir.names()?.iter().filter_map(|name| name.parse().ok()).collect(),
                None => Vec::new(),
            },
        };
        let found = exports.into_iter().filter_map(|export| {
            let at = ExportPath { project: project.clone(), export };
            let found = self.find_manifest(&at).transpose()?;
            Some(found.map(|found| (at.export, found)).map_err(SinkFault::from))
        });
        Ok(found.collect())
    }

    fn find_manifest(&self, at: &ExportPath) -> Result<Option<Found>, SinkError> {
        match Self::export_dir(&self.root()?, at) {
            Ok(Some(dir)) => Ok(examine(&dir, &at.export)?),
            Ok(None) => Ok(None),
            Err(error @ SinkError::Obstructed { .. }) => {
                Ok(Some(Found::Rejected(error.to_string())))
            }
            Err(error) => Err(error),
        }
    }
}

/// The name is taken. A manifest of the same files will do: the state may be older than the disk.
fn settle(dir: &Arc<Dir>, ours: &[u8]) -> Result<(), SinkError> {
    let conflict = |found: &str| SinkError::conflict(dir.path().join(MANIFEST_FILE), found);
    let Entry::Regular(file, length) = dir.entry(MANIFEST_FILE)? else {
        return Err(conflict("not a regular file"));
    };
    let theirs = read(dir, &file, length)?.ok_or_else(|| conflict("too long for a manifest"))?;
    if theirs != ours {
        let (Ok(theirs), Ok(ours)) = (Manifest::parse(&theirs), Manifest::parse(ours)) else {
            return Err(conflict("not a manifest of this export"));
        };
        let files = |manifest: &Manifest| -> Vec<_> {
            manifest.parts.iter().map(|part| (part.key(), part.bytes, part.sha256)).collect()
        };
        if theirs.export_id != ours.export_id || files(&theirs) != files(&ours) {
            return Err(conflict("a manifest of other files"));
        }
    }
    // Its writer may have died before its name was durable.
    dir.sync_entry(MANIFEST_FILE, &file)?;
    Ok(dir.sync()?)
}

fn examine(dir: &Arc<Dir>, export: &ExportId) -> Result<Option<Found>, DurableError> {
    let rejected = |why: String| Ok(Some(Found::Rejected(why)));
    let (file, length) = match dir.entry(MANIFEST_FILE)? {
        Entry::Absent => return Ok(None),
        Entry::Other => return rejected(format!("{MANIFEST_FILE} is not a regular file")),
        Entry::Regular(file, length) => (file, length),
    };
    let Some(bytes) = read(dir, &file, length)? else {
        return rejected(format!("{MANIFEST_FILE} has {length} bytes, too many for a manifest"));
    };
    let manifest = match Manifest::parse(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => return rejected(error.to_string()),
    };
    if manifest.export_id != *export {
        return rejected(format!("the manifest is that of {}", manifest.export_id));
    }
    for part in &manifest.parts {
        let right = match dir.entry(&part.path)? {
            Entry::Absent => true,
            Entry::Regular(_, length) => length == part.bytes,
            Entry::Other => false,
        };
        if !right {
            let listed = format!("file of {} bytes that the manifest lists", part.bytes);
            return rejected(format!("{} is not the {listed}", part.path));
        }
    }
    dir.sync()?;
    let (totals, sealed_at) = (Totals::of_manifest(&manifest), manifest.sealed_at);
    Ok(Some(Found::Whole { totals, sealed_at }))
}

fn read(dir: &Dir, file: &std::fs::File, length: u64) -> Result<Option<Vec<u8>>, DurableError> {
    if length > MAX_MANIFEST_BYTES {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    dir.read_entry(MANIFEST_FILE, file, length, &mut |read| bytes.extend_from_slice(read))?;
    Ok(Some(bytes))
}
