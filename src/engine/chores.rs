//! Work on an export as a whole: prepare it, seal it, leave or take away the notice of a failure.

use std::sync::Arc;

use crate::domain::failure::Failure;
use crate::domain::ids::ExportPath;
use crate::domain::manifest::failure_notice;
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::watch::PartOrder;
use crate::ports::{Document, Put, Sink, SinkFault};
use crate::sinks::AnySink;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Make a place for the parts, see what is there, and how much room there is.
    Prepare,
    /// Write `manifest.json`.
    Seal { manifest: Arc<str>, boot: bool },
    /// Write `failed.json`.
    WriteNotice(Failure),
    /// Take `failed.json` away.
    RemoveNotice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChoreKind {
    Prepare,
    Seal,
    WriteNotice,
    RemoveNotice,
}

impl ChoreKind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Prepare, Self::Seal, Self::WriteNotice, Self::RemoveNotice];
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
    pub(crate) sink: AnySink,
    pub(crate) at: ExportPath,
    pub(crate) chore: Chore,
    /// Parts without a record, for [`Chore::Prepare`].
    pub(crate) unrecorded: Vec<PartOrder>,
}

#[derive(Debug)]
pub(crate) enum ChoreEnd {
    /// The place is ready; whether the export fits beside the others is for the scheduler to say.
    Prepared {
        adopted: Vec<CommittedPart>,
        conflicts: Vec<(PartKey, String)>,
        /// Declared bytes that are still to come.
        needed_bytes: u64,
        /// Free bytes above the reserve.
        free_bytes: u64,
    },
    Sealed,
    /// Something foreign holds the manifest's name.
    SealConflict {
        cause: String,
    },
    /// Parts are gone that the manifest lists.
    PartsGone(Vec<PartKey>),
    NoticeWritten,
    NoticeRemoved,
    /// The disk is ill.
    Disk {
        cause: String,
    },
}

impl ChoreOrder {
    pub(crate) async fn run(self) -> ChoreEnd {
        let Self { sink, at, .. } = &self;
        let done = match &self.chore {
            Chore::Prepare => self.prepare().await,
            Chore::Seal { manifest, boot } => self.seal(manifest.clone(), *boot).await,
            Chore::WriteNotice(failure) => {
                let notice = failure_notice(at, failure);
                sink.put(at, Document::Notice(notice)).await.map(|_| ChoreEnd::NoticeWritten)
            }
            Chore::RemoveNotice => sink.remove_notice(at).await.map(|()| ChoreEnd::NoticeRemoved),
        };
        done.unwrap_or_else(|fault| self.hindered(fault))
    }

    /// A conflict concerns this export alone; everything else is the disk, and is tried again.
    fn hindered(&self, fault: SinkFault) -> ChoreEnd {
        let SinkFault::Conflict(cause) = fault else {
            return ChoreEnd::Disk { cause: fault.to_string() };
        };
        let parts = self.unrecorded.iter();
        match &self.chore {
            Chore::Prepare => ChoreEnd::Prepared {
                adopted: Vec::new(),
                conflicts: parts.map(|part| (part.key.clone(), cause.clone())).collect(),
                needed_bytes: 0,
                free_bytes: 0,
            },
            Chore::Seal { .. } => ChoreEnd::SealConflict { cause },
            Chore::WriteNotice(_) => {
                let ExportPath { project, export } = &self.at;
                tracing::warn!(
                    event = "notice_unwritable", %project, %export, cause,
                    "failed.json cannot be written: {cause}"
                );
                ChoreEnd::NoticeWritten
            }
            Chore::RemoveNotice => ChoreEnd::NoticeRemoved,
        }
    }

    async fn prepare(&self) -> Result<ChoreEnd, SinkFault> {
        let prepared = self.sink.prepare(&self.at, &self.unrecorded).await?;
        let adopted_bytes: u64 = prepared.adopted.iter().map(|part| part.bytes).sum();
        let kept_bytes: u64 = prepared.resumable.iter().map(|part| part.point.bytes).sum();
        let declared = self.unrecorded.iter().filter_map(|part| part.declared_bytes);
        let needed_bytes = declared
            .fold(0, u64::saturating_add)
            .saturating_sub(adopted_bytes)
            .saturating_sub(kept_bytes);
        let free_bytes = prepared.room_bytes.unwrap_or(u64::MAX);
        let (adopted, conflicts) = (prepared.adopted, prepared.conflicts);
        Ok(ChoreEnd::Prepared { adopted, conflicts, needed_bytes, free_bytes })
    }

    async fn seal(&self, manifest: Arc<str>, boot: bool) -> Result<ChoreEnd, SinkFault> {
        let document = match boot {
            true => Document::RecordedManifest(manifest),
            false => Document::Manifest(manifest),
        };
        match self.sink.put(&self.at, document).await? {
            Put::Written | Put::AlreadyThere => {}
            Put::PartsGone(gone) => return Ok(ChoreEnd::PartsGone(gone)),
            Put::Taken => {
                let ExportPath { project, export } = &self.at;
                tracing::info!(
                    event = "export_taken", %project, %export,
                    "an earlier run sealed the export, and its consumer has taken it since"
                );
            }
        }
        Ok(ChoreEnd::Sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::part::Sha256;
    use crate::domain::resume::{ResumePoint, StrongEtag};
    use crate::sinks::local::{LocalSink, SinkSettings};

    #[tokio::test]
    async fn a_resume_point_whose_bytes_are_gone_saves_no_room() {
        let root = tempfile::tempdir().unwrap();
        let (sink, _) =
            LocalSink::open(&root.path().join("exports"), None, SinkSettings::default()).unwrap();
        let etag = StrongEtag::parse("\"v1\"").unwrap();
        let sha256 = Sha256::new([0; 32]);
        let part = PartOrder {
            key: PartKey { number: 1, file_id: "file_1".parse().unwrap() },
            declared_bytes: Some(100),
            resume: Some(ResumePoint {
                bytes: 90,
                sha256,
                total_bytes: 100,
                etag,
                promised: Vec::new(),
            }),
        };
        let (project, export) = ("shop".parse().unwrap(), "export_1".parse().unwrap());
        let order = ChoreOrder {
            sink: AnySink::Local(sink),
            at: ExportPath { project, export },
            chore: Chore::Prepare,
            unrecorded: vec![part],
        };
        let end = order.run().await;
        assert!(matches!(end, ChoreEnd::Prepared { needed_bytes: 100, .. }), "{end:?}");
    }
}
