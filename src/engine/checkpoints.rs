//! A large part's bytes become durable while more of them come, so that neither a crash nor a power
//! cut costs much.

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::downloader::DownloadNews;
use crate::domain::part::PartKey;
use crate::domain::resume::{CHECKPOINT_BYTES, Prefix, ResumablePart, ResumePoint, StrongEtag};
use crate::ports::{SinkFault, Upload};

/// Bytes from the start of one checkpoint to the next. One is under way at most, and the next one
/// waits for it: so what is not durable is never more than [`CHECKPOINT_BYTES`], in the page cache
/// neither.
const INTERVAL_BYTES: u64 = CHECKPOINT_BYTES / 2;

/// What a resume needs to know of the answer the bytes came from.
#[derive(Debug, Clone)]
pub(super) struct BodyOrigin {
    pub(super) etag: StrongEtag,
    pub(super) total_bytes: u64,
}

impl BodyOrigin {
    /// Where the next attempt goes on, behind these bytes of that answer.
    pub(super) fn resume_after(self, prefix: Prefix) -> ResumePoint {
        let Prefix { bytes, sha256 } = prefix;
        ResumePoint { bytes, sha256, total_bytes: self.total_bytes, etag: self.etag }
    }
}

/// The checkpoints of one body.
pub(super) struct Checkpoints {
    entry: usize,
    key: PartKey,
    /// Without a validator nothing could be continued, and nothing is worth a checkpoint.
    origin: Option<BodyOrigin>,
    news: mpsc::Sender<DownloadNews>,
    next_at_bytes: u64,
    /// One at most.
    under_way: JoinSet<Result<(), SinkFault>>,
}

impl Checkpoints {
    pub(super) fn new(
        entry: usize,
        key: PartKey,
        origin: Option<BodyOrigin>,
        first_byte: u64,
        news: mpsc::Sender<DownloadNews>,
    ) -> Self {
        let next_at_bytes = first_byte.saturating_add(INTERVAL_BYTES);
        Self { entry, key, origin, news, next_at_bytes, under_way: JoinSet::new() }
    }

    /// Begins a checkpoint where one is due; first waits for the one before.
    ///
    /// # Errors
    /// When that one failed: the writer has to be discarded.
    pub(super) async fn written(&mut self, writer: &mut impl Upload) -> Result<(), SinkFault> {
        let Some(origin) = self.origin.as_ref().filter(|_| writer.bytes() >= self.next_at_bytes)
        else {
            return Ok(());
        };
        let origin = origin.clone();
        self.settle().await?;
        self.next_at_bytes = writer.bytes().saturating_add(INTERVAL_BYTES);
        let Some(checkpoint) = writer.checkpoint() else { return Ok(()) };
        let (entry, key, news) = (self.entry, self.key.clone(), self.news.clone());
        self.under_way.spawn(async move {
            let point = origin.resume_after(checkpoint.await?);
            let partial = ResumablePart { key, point };
            // Only an engine that has ended no longer listens.
            drop(news.send(DownloadNews::Checkpointed { entry, partial }).await);
            Ok(())
        });
        Ok(())
    }

    /// Waits for the checkpoint under way.
    ///
    /// # Errors
    /// When it failed: the writer has to be discarded.
    pub(super) async fn settle(&mut self) -> Result<(), SinkFault> {
        match self.under_way.join_next().await {
            // One that panicked has proven nothing, and recorded nothing.
            Some(ended) => ended.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}
