//! What one attempt at a part works with, and what it tells while it is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::faults::sink_fault;
use super::lanes::Lane;
use crate::domain::failure::PartFault;
use crate::domain::ids::ExportPath;
use crate::domain::resume::{Plan, ResumePoint};
use crate::domain::watch::PartOrder;
use crate::engine::access::{Access, KeyUse};
use crate::engine::ids::{EntryId, PartId, ProjectId};
use crate::meters::{ByteCounter, Meters};
use crate::ports::{Sink as _, Upload as _};
use crate::sinks::{AnySink, AnyUpload};

/// Everything that one attempt needs. It stays the same from start to end.
#[derive(Debug)]
pub(crate) struct AttemptContext {
    pub(crate) part: PartId,
    pub(crate) project: ProjectId,
    pub(crate) path: ExportPath,
    pub(crate) order: PartOrder,
    pub(crate) access: Arc<Access>,
    pub(crate) key_use: KeyUse,
    pub(crate) sink: AnySink,
    pub(crate) lane: Lane,
    pub(crate) stop: CancellationToken,
    /// Store hosts that take no requests now. A part's host is known once it has its link.
    pub(crate) waiting_hosts: Vec<String>,
    /// The host whose answer is no news.
    pub(crate) open_host: Option<String>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) meters: Meters,
}

/// What an attempt tells while it is still under way, so that gates and slots open as soon as they
/// can.
#[derive(Debug)]
pub(crate) enum News {
    /// The API gave a link.
    ApiAnswered { project: ProjectId },
    /// The store sends bytes.
    StoreAnswered { project: ProjectId, entry: EntryId, host: String },
    /// The bytes before this point are durable.
    Checkpointed { part: PartId, point: ResumePoint },
}

/// How far an attempt has come.
#[derive(Debug)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    allocated_bytes: AtomicU64,
    began: Instant,
    received: ByteCounter,
}

impl AttemptContext {
    /// Begins the part. For a small one from its start this may wait for a disk.
    pub(super) async fn begin(&self, plan: &Plan) -> Result<AnyUpload, PartFault> {
        self.sink.begin(&self.path, &self.order, plan).await.map_err(sink_fault)
    }

    pub(super) async fn tell(&self, news: News) {
        // The receiver is gone only if the engine is, and then nobody listens.
        let _ = self.news.send(news).await;
    }
}

impl Progress {
    /// The progress of a part that has just got its slot. `received` counts what arrives.
    pub(crate) fn new(received: ByteCounter) -> Self {
        let (bytes, allocated_bytes) = Default::default();
        Self { bytes, allocated_bytes, began: Instant::now(), received }
    }

    /// When the part got its slot.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Bytes in the part's local file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Disk space that the part already occupies.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn show(&self, writer: &AnyUpload) {
        self.bytes.store(writer.bytes(), Ordering::Relaxed);
        self.allocated_bytes.store(writer.allocated_bytes(), Ordering::Relaxed);
    }
}
