//! Blocking work on an export's folder: prepare it, seal it, leave or take away the notice of a
//! failure.

use std::sync::Arc;

use crate::domain::failure::Failure;
use crate::domain::ids::ExportPath;
use crate::domain::manifest::{Manifest, failure_notice};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::resume::ResumablePart;
use crate::domain::watch::PartOrder;
use crate::sinks::local::{LocalSink, Recovered, SinkError};

/// One piece of work on one export's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Make the folder, see what lies in it, and how much room there is.
    Prepare,
    /// Write `manifest.json`.
    Seal { manifest: Arc<str>, boot: bool },
    /// Write `failed.json`.
    WriteNotice(Failure),
    /// Take `failed.json` away.
    RemoveNotice,
}

/// A kind of chore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ChoreKind {
    Prepare,
    Seal,
    WriteNotice,
    RemoveNotice,
}

impl Chore {
    pub(crate) fn kind(&self) -> ChoreKind {
        match self {
            Self::Prepare => ChoreKind::Prepare,
            Self::Seal { .. } => ChoreKind::Seal,
            Self::WriteNotice(_) => ChoreKind::WriteNotice,
            Self::RemoveNotice => ChoreKind::RemoveNotice,
        }
    }
}

/// What a chore is done with.
#[derive(Debug)]
pub(crate) struct ChoreOrder {
    pub(crate) sink: LocalSink,
    pub(crate) path: ExportPath,
    pub(crate) chore: Chore,
    /// Parts without a record, for [`Chore::Prepare`].
    pub(crate) unrecorded: Vec<PartOrder>,
}

/// How a chore ended.
#[derive(Debug)]
pub(crate) enum ChoreEnd {
    /// The folder is ready; whether the export fits beside the others is for the scheduler to say.
    Prepared {
        adopted: Vec<CommittedPart>,
        conflicts: Vec<(PartKey, String)>,
        /// Declared bytes that are still to come.
        needed_bytes: u64,
        /// Free bytes above the reserve.
        free_bytes: u64,
    },
    /// `manifest.json` is durable.
    Sealed,
    /// Something foreign holds the manifest's name.
    SealConflict { cause: String },
    /// `failed.json` is durable.
    NoticeWritten,
    /// `failed.json` is gone.
    NoticeRemoved,
    /// The disk is ill.
    Disk { cause: String },
}

impl ChoreOrder {
    /// Does the work. Blocks.
    pub(crate) fn run(self) -> ChoreEnd {
        let done = match &self.chore {
            Chore::Prepare => self.prepare(),
            Chore::Seal { manifest, boot } => self.seal(manifest, *boot),
            Chore::WriteNotice(failure) => {
                let notice = failure_notice(&self.path.project, &self.path.export, failure);
                self.sink
                    .write_failed(&self.path.project, &self.path.export, notice.as_bytes())
                    .map(|()| ChoreEnd::NoticeWritten)
            }
            Chore::RemoveNotice => self
                .sink
                .remove_failed(&self.path.project, &self.path.export)
                .map(|()| ChoreEnd::NoticeRemoved),
        };
        done.unwrap_or_else(|error| self.hindered(&error))
    }

    /// A conflict concerns this export alone; everything else is the disk, and is tried again.
    fn hindered(&self, error: &SinkError) -> ChoreEnd {
        let cause = error.to_string();
        if !error.is_conflict() {
            return ChoreEnd::Disk { cause };
        }
        match &self.chore {
            Chore::Prepare => {
                let conflicts =
                    self.unrecorded.iter().map(|part| (part.key.clone(), cause.clone())).collect();
                ChoreEnd::Prepared {
                    adopted: Vec::new(),
                    conflicts,
                    needed_bytes: 0,
                    free_bytes: 0,
                }
            }
            Chore::Seal { .. } => ChoreEnd::SealConflict { cause },
            Chore::WriteNotice(_) => {
                let (project, export) = (&self.path.project, &self.path.export);
                tracing::warn!(event = "notice_unwritable", %project, %export, cause, "failed.json cannot be written: {cause}");
                ChoreEnd::NoticeWritten
            }
            Chore::RemoveNotice => ChoreEnd::NoticeRemoved,
        }
    }

    fn prepare(&self) -> Result<ChoreEnd, SinkError> {
        let listed: Vec<_> =
            self.unrecorded.iter().map(|part| (part.key.clone(), part.declared_bytes)).collect();
        let partials: Vec<_> = self
            .unrecorded
            .iter()
            .filter_map(|part| {
                let point = part.resume.clone()?;
                Some(ResumablePart { key: part.key.clone(), point })
            })
            .collect();
        let prepared =
            self.sink.prepare_export(&self.path.project, &self.path.export, &listed, &partials)?;
        let adopted_bytes: u64 = prepared.adopted.iter().map(|part| part.bytes).sum();
        let kept_bytes: u64 = prepared.resumable.iter().map(|part| part.point.bytes).sum();
        let declared: u64 =
            listed.iter().filter_map(|(_, bytes)| *bytes).fold(0, u64::saturating_add);
        let needed_bytes = declared.saturating_sub(adopted_bytes).saturating_sub(kept_bytes);
        let free_bytes = self.sink.free_bytes()?.saturating_sub(self.sink.reserve_bytes());
        let (adopted, conflicts) = (prepared.adopted, prepared.conflicts);
        Ok(ChoreEnd::Prepared { adopted, conflicts, needed_bytes, free_bytes })
    }

    fn seal(&self, manifest: &str, boot: bool) -> Result<ChoreEnd, SinkError> {
        if !boot {
            self.sink.seal(&self.path.project, &self.path.export, manifest.as_bytes())?;
            return Ok(ChoreEnd::Sealed);
        }
        let parsed = match Manifest::parse(manifest.as_bytes()) {
            Ok(parsed) => parsed,
            Err(error) => {
                return Ok(ChoreEnd::SealConflict {
                    cause: format!("the recorded manifest: {error}"),
                });
            }
        };
        if self.sink.recover_sealing(
            &self.path.project,
            &self.path.export,
            &parsed,
            manifest.as_bytes(),
        )? == Recovered::Taken
        {
            let (project, export) = (&self.path.project, &self.path.export);
            tracing::info!(event = "export_taken", %project, %export, "sealed by an earlier run, and taken by its consumer since");
        }
        Ok(ChoreEnd::Sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::part::Sha256;
    use crate::domain::resume::{ResumePoint, StrongEtag};
    use crate::sinks::local::SinkSettings;

    #[test]
    fn a_resume_point_whose_bytes_are_gone_saves_no_room() {
        let root = tempfile::tempdir().unwrap();
        let (sink, _) =
            LocalSink::open(&root.path().join("exports"), None, SinkSettings::default()).unwrap();
        let etag = StrongEtag::parse("\"v1\"").unwrap();
        let part = PartOrder {
            key: PartKey { number: 1, file_id: "file_1".parse().unwrap() },
            declared_bytes: Some(100),
            resume: Some(ResumePoint {
                bytes: 90,
                sha256: Sha256::new([0; 32]),
                total_bytes: 100,
                etag,
            }),
        };
        let order = ChoreOrder {
            sink,
            path: ExportPath {
                project: "shop".parse().unwrap(),
                export: "export_1".parse().unwrap(),
            },
            chore: Chore::Prepare,
            unrecorded: vec![part],
        };
        let end = order.run();
        assert!(matches!(end, ChoreEnd::Prepared { needed_bytes: 100, .. }), "{end:?}");
    }
}
