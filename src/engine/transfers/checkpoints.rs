//! The bytes of a large part become durable while more of them arrive, so that neither a crash nor
//! a power cut costs much.

use tokio::task::JoinSet;

use super::context::{AttemptContext, News};
use crate::domain::checksum::PromisedChecksum;
use crate::domain::resume::{CHECKPOINT_BYTES, Plan, Prefix, ResumePoint, StrongEtag};
use crate::fetch::{Body, Opening};
use crate::ports::{SinkFault, Upload};

/// Bytes from the start of one checkpoint to the next. At most one is under way, and the next one
/// waits for it. So no more than [`CHECKPOINT_BYTES`] are ever not durable, and no more than that
/// are in the page cache.
const INTERVAL_BYTES: u64 = CHECKPOINT_BYTES / 2;

/// What a resume needs to know about the answer that the bytes came from.
#[derive(Debug, Clone)]
pub(super) struct BodyOrigin {
    etag: StrongEtag,
    total_bytes: u64,
    promised: Vec<PromisedChecksum>,
}

impl BodyOrigin {
    /// `None` if the bytes of this body could not be continued.
    pub(super) fn of(body: &Body) -> Option<Self> {
        let total_bytes = match body.facts.opening {
            Opening::Append { total_bytes } => Some(total_bytes),
            Opening::Whole { total_bytes } => total_bytes,
        };
        let (etag, promised) = (body.facts.etag.clone()?, body.facts.promised.clone());
        Some(Self { etag, total_bytes: total_bytes?, promised })
    }

    /// The answer that the bytes on disk came from.
    pub(super) fn of_plan(plan: &Plan) -> Option<Self> {
        let Plan::Continue(point) = plan else { return None };
        let (etag, promised) = (point.etag.clone(), point.promised.clone());
        Some(Self { etag, total_bytes: point.total_bytes, promised })
    }

    /// Where the next attempt resumes, if it has these bytes of that answer.
    pub(super) fn resume_after(self, prefix: Prefix) -> ResumePoint {
        let (Prefix { bytes, sha256 }, Self { etag, total_bytes, promised }) = (prefix, self);
        ResumePoint { bytes, sha256, total_bytes, etag, promised }
    }
}

/// The checkpoints of one body.
pub(super) struct Checkpoints<'a> {
    cx: &'a AttemptContext,
    /// Without a validator nothing could be continued, so that nothing is worth a checkpoint.
    origin: Option<BodyOrigin>,
    next_at_bytes: u64,
    /// One at most.
    under_way: JoinSet<Result<(), SinkFault>>,
}

impl<'a> Checkpoints<'a> {
    pub(super) fn new(cx: &'a AttemptContext, origin: Option<BodyOrigin>, first_byte: u64) -> Self {
        let next_at_bytes = first_byte.saturating_add(INTERVAL_BYTES);
        Self { cx, origin, next_at_bytes, under_way: JoinSet::new() }
    }

    /// Begins a checkpoint if one is due; first waits for the one before.
    ///
    /// # Errors
    /// If that one failed: the writer has to be discarded.
    pub(super) async fn written(&mut self, writer: &mut impl Upload) -> Result<(), SinkFault> {
        let Some(origin) = self.origin.as_ref().filter(|_| writer.bytes() >= self.next_at_bytes)
        else {
            return Ok(());
        };
        let origin = origin.clone();
        self.settle().await?;
        self.next_at_bytes = writer.bytes().saturating_add(INTERVAL_BYTES);
        let Some(checkpoint) = writer.checkpoint() else { return Ok(()) };
        let (part, news) = (self.cx.part.clone(), self.cx.news.clone());
        self.under_way.spawn(async move {
            let point = origin.resume_after(checkpoint.await?);
            // The receiver is gone only if the engine is, and then nobody listens.
            drop(news.send(News::Checkpointed { part, point }).await);
            Ok(())
        });
        Ok(())
    }

    /// Waits for the checkpoint under way.
    ///
    /// # Errors
    /// If it failed: the writer has to be discarded.
    pub(super) async fn settle(&mut self) -> Result<(), SinkFault> {
        match self.under_way.join_next().await {
            // One that panicked has proven nothing, and recorded nothing.
            Some(ended) => ended.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}
