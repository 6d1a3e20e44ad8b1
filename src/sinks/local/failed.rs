//! The notice beside the parts of a failed export. Unlike everything else, it is ours to replace.

use std::sync::Arc;

use serde::Deserialize;

use super::SinkError;
use super::directory::{LocalSink, Named, write_named};
use crate::domain::ids::{ExportId, ExportPath};
use crate::domain::manifest::FAILED_FILE;
use crate::durable::{Dir, Entry};

/// A notice is a few lines; what is longer is something else.
const MAX_NOTICE_BYTES: u64 = 64 * 1024;

impl LocalSink {
    /// Writes `failed.json`, replaces an earlier one, and removes all partials. A crash in between
    /// can leave neither: write it again at the next start.
    pub(super) fn write_failed(&self, at: &ExportPath, bytes: &[u8]) -> Result<(), SinkError> {
        let root = self.root()?;
        let no_overwrite = self.no_overwrite(&root)?;
        let dir = self.make_export_dir(&root, at)?;
        self.tidy(&dir, at)?;
        self.forget_export_dir(at);
        remove_ours(&dir, &at.export, Some(bytes))?;
        let mode = self.settings().modes.file;
        let written = write_named(&dir, FAILED_FILE, bytes, mode, no_overwrite);
        match written.map_err(SinkError::below)? {
            Named::Written => Ok(()),
            Named::Occupied if content(&dir)?.as_deref() == Some(bytes) => Ok(dir.sync()?),
            Named::Occupied => Err(foreign(&dir)),
        }
    }

    pub(super) fn remove_failed(&self, at: &ExportPath) -> Result<(), SinkError> {
        match Self::export_dir(&self.root()?, at)? {
            Some(dir) => remove_ours(&dir, &at.export, None),
            None => Ok(()),
        }
    }

    /// Removes the partials of an export, then its `failed.json`. What is gone already is no error,
    /// so that a second try finishes a first one.
    pub(super) fn forget(&self, at: &ExportPath) -> Result<(), SinkError> {
        let Some(dir) = Self::export_dir(&self.root()?, at)? else { return Ok(()) };
        self.tidy(&dir, at)?;
        dir.sync()?;
        self.remove_failed(at)
    }
}

/// Removes a notice of this export, unless it already says `except`.
fn remove_ours(dir: &Arc<Dir>, export: &ExportId, except: Option<&[u8]>) -> Result<(), SinkError> {
    #[derive(Deserialize)]
    struct Notice {
        export_id: ExportId,
        #[serde(rename = "kind")]
        _kind: String,
    }
    if !dir.exists(FAILED_FILE)? {
        return Ok(());
    }
    let content = content(dir)?.ok_or_else(|| foreign(dir))?;
    if except == Some(&content) {
        return Ok(());
    }
    match serde_json::from_slice::<Notice>(&content) {
        Ok(notice) if notice.export_id == *export => {
            dir.remove(FAILED_FILE)?;
            Ok(dir.sync()?)
        }
        Ok(_) | Err(_) => Err(foreign(dir)),
    }
}

fn content(dir: &Dir) -> Result<Option<Vec<u8>>, SinkError> {
    match dir.entry(FAILED_FILE)? {
        Entry::Regular(file, length) if length <= MAX_NOTICE_BYTES => {
            let mut bytes = Vec::new();
            dir.read_entry(FAILED_FILE, &file, length, &mut |read| bytes.extend_from_slice(read))?;
            Ok(Some(bytes))
        }
        Entry::Absent | Entry::Regular(..) | Entry::Other => Ok(None),
    }
}

fn foreign(dir: &Dir) -> SinkError {
    SinkError::conflict(dir.path().join(FAILED_FILE), "not a notice of this export")
}
