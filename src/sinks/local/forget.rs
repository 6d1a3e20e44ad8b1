//! What goes with the record of an export: work in progress and the notice of a failure. Finished
//! files stay.

use super::SinkError;
use super::local::LocalSink;
use crate::domain::ids::{ExportId, ProjectName};

impl LocalSink {
    /// Removes the partials of an export and its `failed.json`. Finished parts, the manifest, and
    /// whatever is not ours stay, and so does the folder. What is gone already is no error, so that
    /// a second try finishes a first one.
    ///
    /// # Errors
    /// A conflict where `failed.json` is no notice of this export; the partials are gone by then.
    /// Otherwise the disk.
    pub fn forget(&self, project: &ProjectName, export: &ExportId) -> Result<(), SinkError> {
        let Some(dir) = Self::export_dir(&self.root()?, project, export)? else { return Ok(()) };
        self.tidy(&dir, project, export)?;
        dir.sync()?;
        self.remove_failed(project, export)
    }
}
