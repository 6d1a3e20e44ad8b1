//! The half of a download that lives on a lane, whose thread may block: request, stream, hash and
//! write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoints::{BodyOrigin, Checkpoints};
use super::downloader::DownloadNews;
use crate::domain::checksum::PromisedChecksum;
use crate::domain::failure::{Hold, PartFailure};
use crate::domain::ids::{ExportId, ExportPath, ProjectName};
use crate::domain::resume::Plan;
use crate::domain::watch::PartOrder;
use crate::fetch::{Body, BodyError, FetchRefusal, Opening, StoreClient};
use crate::meters::ByteCounter;
use crate::ports::{Armed, Sink, SinkFault, Upload};
use crate::sinks::{AnyFinished, AnySink, AnyUpload};
use crate::transport::Link;

/// How far a download has come, for whoever watches.
#[derive(Debug)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    allocated_bytes: AtomicU64,
    /// When the part got its slot.
    began: Instant,
    received: ByteCounter,
}

impl Progress {
    /// Of a part that has just got its slot; what it receives is counted there.
    pub(crate) fn new(received: ByteCounter) -> Self {
        let (bytes, allocated_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { bytes, allocated_bytes, began: Instant::now(), received }
    }

    /// When the part got its slot.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Bytes in the partial.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Room on the disk that the part has taken already.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    fn show(&self, writer: &AnyUpload) {
        self.bytes.store(writer.bytes(), Ordering::Relaxed);
        self.allocated_bytes.store(writer.allocated_bytes(), Ordering::Relaxed);
    }
}

/// How one request to the store ended; the writer comes back where the partial is still of use.
pub(super) enum Transfer {
    /// Every byte is in the partial, and agrees with all that was promised.
    Complete(AnyFinished),
    /// The store refuses the link.
    LinkRefused { writer: Option<AnyUpload>, cause: String },
    /// The partial cannot be continued; the next request asks for the whole file.
    StartOver { writer: AnyUpload, reason: String },
    /// The program drains.
    Stopped { writer: Option<AnyUpload>, origin: Option<BodyOrigin> },
    /// The attempt is over.
    Failed { writer: Option<AnyUpload>, origin: Option<BodyOrigin>, failure: PartFailure },
}

impl Transfer {
    fn failed(failure: PartFailure) -> Self {
        Self::Failed { writer: None, origin: None, failure }
    }
}

/// One request to the store.
pub(super) struct Stream {
    pub(super) entry: usize,
    pub(super) project_index: usize,
    pub(super) project: ProjectName,
    pub(super) export: ExportId,
    pub(super) order: PartOrder,
    pub(super) store: StoreClient,
    pub(super) sink: AnySink,
    pub(super) stop: CancellationToken,
    pub(super) progress: Arc<Progress>,
    pub(super) news: mpsc::Sender<DownloadNews>,
    /// The host that nothing needs to be told of.
    pub(super) open_host: Option<String>,
}

impl Stream {
    /// Brings what the partial lacks. Without a writer one is begun as soon as there is a body.
    pub(super) async fn run(self, writer: Option<AnyUpload>, link: Link, plan: Plan) -> Transfer {
        let opened = tokio::select! {
            () = self.stop.cancelled() => return Transfer::Stopped { writer, origin: continued(&plan) },
            opened = self.store.open(link, &plan, self.order.declared_bytes) => opened,
        };
        let body = match opened {
            Ok(body) => body,
            Err(refusal) => return refused(refusal, writer, &plan),
        };
        if self.open_host.as_ref() != Some(&body.host) {
            let (project, entry, host) = (self.project_index, self.entry, body.host.clone());
            let news = DownloadNews::StoreAnswered { project, entry, host };
            let _ = self.news.send(news).await;
        }
        let begun = match writer {
            Some(writer) => Ok(writer),
            None => self.begin().await,
        };
        let begun = match begun {
            Ok(writer) => ready(writer, is_whole(&body), &body.promised).await,
            Err(fault) => Err(fault),
        };
        match begun {
            Ok((writer, Armed::Ready)) => {
                if writer.bytes() > 0 {
                    tracing::debug!(event = "part_resumed", project = %self.project, export = %self.export, part = self.order.key.number, file = %self.order.key.file_id, bytes = writer.bytes(), "part goes on behind the bytes that are here");
                }
                self.copy(writer, body).await
            }
            Ok((writer, Armed::OtherBytes)) => {
                let reason = "the partial is not what its record says".to_owned();
                Transfer::StartOver { writer, reason }
            }
            Err(fault) => Transfer::failed(disk(fault)),
        }
    }

    async fn begin(&self) -> Result<AnyUpload, SinkFault> {
        let at = ExportPath { project: self.project.clone(), export: self.export.clone() };
        self.sink.begin(&at, &self.order, &Plan::FromStart).await
    }

    /// Hash and write each chunk where it was received: no hand-over, and memory stays at one read
    /// buffer.
    async fn copy(self, mut writer: AnyUpload, mut body: Body) -> Transfer {
        let origin = origin(&body);
        let key = self.order.key.clone();
        let news = self.news.clone();
        let mut checkpoints =
            Checkpoints::new(self.entry, key, origin.clone(), writer.bytes(), news);
        let ended = loop {
            self.progress.show(&writer);
            let chunk = tokio::select! {
                () = self.stop.cancelled() => break Ended::Stopped,
                chunk = body.next_chunk() => chunk,
            };
            let written = match chunk {
                Ok(Some(chunk)) => {
                    self.progress.received.add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                    writer.write(&chunk).await
                }
                Ok(None) => break Ended::Complete,
                Err(error) => break Ended::Cut(error),
            };
            let written = match written {
                Ok(()) => checkpoints.written(&mut writer).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                break Ended::Disk(error);
            }
        };
        // Also where the bytes are given up: nothing may still be written to a file that is
        // removed.
        let settled = checkpoints.settle().await;
        match (ended, settled) {
            (Ended::Disk(error), _) | (_, Err(error)) => {
                writer.discard().await;
                Transfer::failed(disk(error))
            }
            (Ended::Stopped, Ok(())) => Transfer::Stopped { writer: Some(writer), origin },
            (Ended::Complete, Ok(())) => {
                match writer.finish(self.order.declared_bytes, &body.promised).await {
                    Ok(finished) => Transfer::Complete(finished),
                    Err(fault) => Transfer::failed(disk(fault)),
                }
            }
            (Ended::Cut(error), Ok(())) => Transfer::Failed {
                writer: Some(writer),
                origin: origin.filter(|_| is_sound(&error)),
                failure: body_failure(&body.host, &error),
            },
        }
    }
}

enum Ended {
    Complete,
    Stopped,
    Cut(BodyError),
    Disk(SinkFault),
}

/// Makes the writer ready for the body's first byte.
async fn ready(
    mut writer: AnyUpload,
    is_whole: bool,
    promised: &[PromisedChecksum],
) -> Result<(AnyUpload, Armed), SinkFault> {
    if is_whole && writer.bytes() > 0 {
        writer = writer.restart().await?;
    }
    let algorithms: Vec<_> = promised.iter().map(|promised| promised.algorithm).collect();
    let armed = writer.arm(&algorithms).await?;
    Ok((writer, armed))
}

fn is_whole(body: &Body) -> bool {
    matches!(body.opening, Opening::Whole { .. })
}

fn origin(body: &Body) -> Option<BodyOrigin> {
    let total_bytes = match body.opening {
        Opening::Append { total_bytes } => Some(total_bytes),
        Opening::Whole { total_bytes } => total_bytes,
    };
    body.etag.clone().zip(total_bytes).map(|(etag, total_bytes)| BodyOrigin { etag, total_bytes })
}

/// The answer that the bytes of a continued partial came from.
pub(super) fn continued(plan: &Plan) -> Option<BodyOrigin> {
    match plan {
        Plan::Continue(point) => {
            Some(BodyOrigin { etag: point.etag.clone(), total_bytes: point.total_bytes })
        }
        Plan::FromStart => None,
    }
}

fn refused(refusal: FetchRefusal, writer: Option<AnyUpload>, plan: &Plan) -> Transfer {
    match (refusal, writer) {
        (FetchRefusal::LinkRefused { cause }, writer) => Transfer::LinkRefused { writer, cause },
        (FetchRefusal::StartOver { reason }, Some(writer)) => {
            Transfer::StartOver { writer, reason: reason.to_owned() }
        }
        (refusal, writer) => {
            Transfer::Failed { writer, origin: continued(plan), failure: failure_of(refusal) }
        }
    }
}

fn failure_of(refusal: FetchRefusal) -> PartFailure {
    match refusal {
        FetchRefusal::Gone { cause } => PartFailure::Gone { cause, error_code: None },
        FetchRefusal::Busy { host, retry_after } => {
            PartFailure::Held(Hold::StoreBusy { host, retry_after })
        }
        FetchRefusal::Refused { cause, listing_in_doubt } => {
            PartFailure::Transient { cause, resume: None, progressed: false, listing_in_doubt }
        }
        FetchRefusal::Fault { cause } | FetchRefusal::LinkRefused { cause } => transient(cause),
        FetchRefusal::StartOver { reason } => transient(reason.to_owned()),
    }
}

/// Whether the bytes that came before the error are bytes of the file.
fn is_sound(error: &BodyError) -> bool {
    match error {
        BodyError::Transport(_)
        | BodyError::Stalled { .. }
        | BodyError::TooSlow { .. }
        | BodyError::EndedEarly { .. } => true,
        BodyError::TooLong { .. } | BodyError::NotJson => false,
    }
}

fn body_failure(host: &str, error: &BodyError) -> PartFailure {
    PartFailure::Transient {
        cause: format!("{host}: {error}"),
        resume: None,
        progressed: false,
        listing_in_doubt: matches!(error, BodyError::TooLong { .. } | BodyError::EndedEarly { .. }),
    }
}

/// A passing failure that says nothing about the listing.
pub(super) fn transient(cause: String) -> PartFailure {
    PartFailure::Transient { cause, resume: None, progressed: false, listing_in_doubt: false }
}

/// A conflict is the export's own, and what is wrong with this upload alone passes; everything else
/// is the disk's.
pub(super) fn disk(fault: SinkFault) -> PartFailure {
    match fault {
        SinkFault::Conflict(cause) => PartFailure::Conflict { cause },
        SinkFault::Busy(cause) | SinkFault::Mismatch(cause) => transient(cause),
        SinkFault::Unavailable(cause) => PartFailure::Held(Hold::Disk { cause }),
    }
}
