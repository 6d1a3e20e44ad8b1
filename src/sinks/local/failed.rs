//! The notice beside the parts of an export that failed. It is ours to replace, unlike everything
//! else.

use std::sync::Arc;

use serde::Deserialize;

use super::SinkError;
use super::local::{LocalSink, Named, write_named};
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::manifest::FAILED_FILE;
use crate::durable::{Dir, Entry};

/// A notice is a few lines; what is longer is something else.
const MAX_NOTICE_BYTES: u64 = 64 * 1024;

impl LocalSink {
    /// Writes `failed.json`, in the place of an earlier one, and removes what is left of partials.
    /// A crash in between can leave neither: write it again at the next start.
    ///
    /// # Errors
    /// A conflict where the name is taken by something that is no notice of this export; otherwise
    /// the disk.
    pub fn write_failed(
        &self,
        project: &ProjectName,
        export: &ExportId,
        bytes: &[u8],
    ) -> Result<(), SinkError> {
        let root = self.root()?;
        let no_overwrite = self.no_overwrite(&root)?;
        let dir = self.make_export_dir(&root, project, export)?;
        self.tidy(&dir, project, export)?;
        self.forget_export_dir(project, export);
        remove_ours(&dir, export, Some(bytes))?;
        match write_named(&dir, FAILED_FILE, bytes, self.settings().modes.file, no_overwrite)
            .map_err(SinkError::below)?
        {
            Named::Written => Ok(()),
            Named::Occupied if content(&dir)?.as_deref() == Some(bytes) => Ok(dir.sync()?),
            Named::Occupied => Err(foreign(&dir)),
        }
    }

    /// Removes `failed.json`, if it is there.
    ///
    /// # Errors
    /// A conflict where it is no notice of this export; otherwise the disk.
    pub fn remove_failed(&self, project: &ProjectName, export: &ExportId) -> Result<(), SinkError> {
        match Self::export_dir(&self.root()?, project, export)? {
            Some(dir) => remove_ours(&dir, export, None),
            None => Ok(()),
        }
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
