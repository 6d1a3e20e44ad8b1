//! Writing, finding and reading back the manifest, the file that says an export is whole.

use std::sync::Arc;

use super::SinkError;
use super::local::{LocalSink, Named, write_named};
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::manifest::{MANIFEST_FILE, Manifest};
use crate::durable::{Dir, DurableError, Entry};

/// Longest manifest that is read back: 100,000 parts take a quarter of it, the request's definition
/// at most another.
const MAX_MANIFEST_BYTES: u64 = 128 * 1024 * 1024;

/// What sealing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The manifest was written.
    Written,
    /// It was there: these bytes, or another manifest of the very same files.
    AlreadyThere,
}

/// What became of an export that was recorded as being sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// The manifest is on disk, now or since before.
    Sealed(Sealed),
    /// Neither manifest nor any part is left: it was published, and a consumer took it.
    Taken,
}

/// The manifest of an export, as it lies on disk.
#[derive(Debug, Clone)]
pub enum OnDisk {
    /// There is none.
    Absent,
    /// A manifest of this export, and every file that is still there has the length it says.
    Whole {
        /// What it says.
        manifest: Box<Manifest>,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// There is one that cannot be believed; why, in words.
    Rejected(String),
}

impl LocalSink {
    /// Writes `manifest.json`; before that, whatever is left of partials goes, such as that of a
    /// part that was delisted.
    ///
    /// # Errors
    /// A conflict where another manifest, or something else, has the name; otherwise the disk.
    pub fn seal(
        &self,
        project: &ProjectName,
        export: &ExportId,
        bytes: &[u8],
    ) -> Result<Sealed, SinkError> {
        let root = self.root()?;
        let no_overwrite = self.no_overwrite(&root)?;
        let dir = self.make_export_dir(&root, project, export)?;
        self.tidy(&dir, project, export)?;
        match write_named(&dir, MANIFEST_FILE, bytes, self.settings().modes.file, no_overwrite)
            .map_err(SinkError::below)?
        {
            Named::Written => {
                self.forget_export_dir(project, export);
                Ok(Sealed::Written)
            }
            Named::Occupied => {
                settle(&dir, bytes)?;
                self.forget_export_dir(project, export);
                Ok(Sealed::AlreadyThere)
            }
        }
    }

    /// Finishes the sealing of an export that an earlier run had recorded: its manifest, and the
    /// exact bytes of it.
    ///
    /// # Errors
    /// As [`LocalSink::seal`].
    pub fn recover_sealing(
        &self,
        project: &ProjectName,
        export: &ExportId,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<Recovered, SinkError> {
        let root = self.root()?;
        // The folder was made before the first part, also for an export without parts.
        let Some(dir) = Self::export_dir(&root, project, export)? else {
            return Ok(Recovered::Taken);
        };
        let mut left = dir.exists(MANIFEST_FILE)? || manifest.parts.is_empty();
        for part in &manifest.parts {
            left = left || dir.exists(&part.path)?;
        }
        if !left {
            return Ok(Recovered::Taken);
        }
        self.seal(project, export, bytes).map(Recovered::Sealed)
    }

    /// Reads the manifest of an export. A file that it lists and that is not there was taken by a
    /// consumer.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read_manifest(
        &self,
        project: &ProjectName,
        export: &ExportId,
    ) -> Result<OnDisk, SinkError> {
        match Self::export_dir(&self.root()?, project, export) {
            Ok(Some(dir)) => Ok(examine(&dir, export)?),
            Ok(None) => Ok(OnDisk::Absent),
            Err(error) if error.is_conflict() => Ok(OnDisk::Rejected(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Every export of a project that has a manifest, one after the other, for a state that is
    /// lost.
    ///
    /// # Errors
    /// When the project's folder cannot be listed, and for each export when the disk fails.
    pub fn scan_manifests(
        &self,
        project: &ProjectName,
    ) -> Result<impl Iterator<Item = Result<(ExportId, OnDisk), SinkError>>, SinkError> {
        let names = match self.root()?.child(project.as_str()).map_err(SinkError::below)? {
            Some(dir) => dir.names()?,
            None => Vec::new(),
        };
        let (sink, project) = (self.clone(), project.clone());
        Ok(names.into_iter().filter_map(|name| name.parse().ok()).filter_map(
            move |export: ExportId| match sink.read_manifest(&project, &export) {
                Ok(OnDisk::Absent) => None,
                Ok(found) => Some(Ok((export, found))),
                Err(error) => Some(Err(error)),
            },
        ))
    }
}

/// A manifest is there already. Another one of the same files is as good: the state may be older
/// than the disk.
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
    // Whoever wrote it may have died before its name was durable.
    dir.sync_entry(MANIFEST_FILE, &file)?;
    Ok(dir.sync()?)
}

fn examine(dir: &Arc<Dir>, export: &ExportId) -> Result<OnDisk, DurableError> {
    let (file, length) = match dir.entry(MANIFEST_FILE)? {
        Entry::Absent => return Ok(OnDisk::Absent),
        Entry::Other => {
            return Ok(OnDisk::Rejected(format!("{MANIFEST_FILE} is not a regular file")));
        }
        Entry::Regular(file, length) => (file, length),
    };
    let Some(bytes) = read(dir, &file, length)? else {
        return Ok(OnDisk::Rejected(format!(
            "{MANIFEST_FILE} has {length} bytes, too many for a manifest"
        )));
    };
    let manifest = match Manifest::parse(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => return Ok(OnDisk::Rejected(error.to_string())),
    };
    if manifest.export_id != *export {
        return Ok(OnDisk::Rejected(format!("the manifest is that of {}", manifest.export_id)));
    }
    for part in &manifest.parts {
        let right = match dir.entry(&part.path)? {
            Entry::Absent => true,
            Entry::Regular(_, length) => length == part.bytes,
            Entry::Other => false,
        };
        if !right {
            let found = format!(
                "{} is not the file of {} bytes that the manifest lists",
                part.path, part.bytes
            );
            return Ok(OnDisk::Rejected(found));
        }
    }
    dir.sync()?;
    Ok(OnDisk::Whole { manifest: Box::new(manifest), bytes })
}

fn read(dir: &Dir, file: &std::fs::File, length: u64) -> Result<Option<Vec<u8>>, DurableError> {
    if length > MAX_MANIFEST_BYTES {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    dir.read_entry(MANIFEST_FILE, file, length, &mut |read| bytes.extend_from_slice(read))?;
    Ok(Some(bytes))
}
