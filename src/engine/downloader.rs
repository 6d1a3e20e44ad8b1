//! One part, start to commit: local file -> fresh link -> request -> stream and hash -> verify -> commit.
//!
//! The part holds its slot from before the link is asked for, so that no link grows old waiting. What lies on the disk
//! is looked at first: a disk that is ill never costs the API a call. The link is asked on the control runtime; the
//! request to the store, every read and every write happen on the transfer runtime, whose workers may block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::LinkOutcome;
use crate::domain::checksum::PromisedChecksum;
use crate::domain::failure::{Hold, PartFailure};
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::part::CommittedPart;
use crate::domain::resume::{Plan, ResumePoint, StrongEtag, plan_resume};
use crate::domain::watch::PartOrder;
use crate::engine::access::{Access, KeyUse};
use crate::fetch::{Body, BodyError, FetchRefusal, Opening, StoreClient};
use crate::sink::{CommitError, LocalSink, PartWriter, SinkError};
use crate::transport::Link;

/// Links asked for in one attempt: the first, and a fresh one twice at once when the store refuses it.
const LINKS_PER_ATTEMPT: u32 = 3;

/// Longest wait for the local file. A disk that hangs then counts as ill: the slot and what the part probes are given back.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What a download tells while it is still under way, so that gates open as soon as they can.
#[derive(Debug)]
pub(crate) enum DownloadNews {
    /// The API gave a link.
    ApiAnswered { project: usize },
    /// The store sends bytes.
    StoreAnswered { project: usize, host: String },
}

/// Everything one attempt needs.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) project_index: usize,
    pub(crate) project: ProjectName,
    pub(crate) export: ExportId,
    pub(crate) order: PartOrder,
    pub(crate) key: KeyUse,
    pub(crate) access: Arc<Access>,
    pub(crate) store: StoreClient,
    pub(crate) sink: LocalSink,
    pub(crate) transfer: Handle,
    pub(crate) stop: CancellationToken,
    /// Hosts of stores that wait. Which one the part lies on is known once it has its link.
    pub(crate) waiting_hosts: Vec<String>,
    /// Bytes in the partial, for whoever watches.
    pub(crate) progress: Arc<AtomicU64>,
    pub(crate) news: mpsc::Sender<DownloadNews>,
}

/// How one request to the store ended; the writer comes back where the partial is still of use.
enum Transfer {
    /// Every byte is in the partial, none of it synced.
    Complete { writer: PartWriter, promised: Vec<PromisedChecksum> },
    /// The store refuses the link.
    LinkRefused { writer: PartWriter, cause: String },
    /// The partial cannot be continued; the next request asks for the whole file.
    StartOver { writer: PartWriter, reason: String },
    /// The program drains.
    Stopped { writer: PartWriter, origin: Option<BodyOrigin> },
    /// The attempt is over.
    Failed { writer: Option<PartWriter>, origin: Option<BodyOrigin>, failure: PartFailure },
}

/// What a resume needs to know of the answer the bytes came from.
#[derive(Debug, Clone)]
struct BodyOrigin {
    etag: StrongEtag,
    total_bytes: u64,
}

impl Download {
    /// Works on the part until it is committed or this attempt has failed.
    pub(crate) async fn run(self) -> Result<CommittedPart, PartFailure> {
        let mut plan = plan_resume(self.order.resume.clone(), self.order.declared_bytes);
        let first_byte = match &plan {
            Plan::Continue(point) => point.bytes,
            Plan::FromStart => 0,
        };
        let mut writer = self.begin(&plan).await?;
        if writer.bytes() != first_byte {
            // The partial is not what the resume point says any more: the sink has started it over.
            plan = Plan::FromStart;
        }
        let mut refusal = String::new();
        for _ in 0..LINKS_PER_ATTEMPT {
            let link = match self.link().await {
                Ok(link) => link,
                Err(PartFailure::Stopped { .. }) => return Err(self.stopped(writer, continued(&plan)).await),
                Err(failure) => return Err(self.keep_for_resume(writer, &plan, failure)),
            };
            match self.transfer(writer, link, plan.clone()).await? {
                Transfer::Complete { writer, promised } => {
                    return self.commit(writer, promised).await;
                }
                Transfer::LinkRefused { writer: back, cause } => (writer, refusal) = (back, cause),
                Transfer::StartOver { writer: back, reason } => {
                    tracing::debug!(project = %self.project, export = %self.export, part = self.order.key.number, "partial dropped: {reason}");
                    (writer, plan) = (self.restart(back).await?, Plan::FromStart);
                    refusal = reason;
                }
                Transfer::Stopped { writer, origin } => return Err(self.stopped(writer, origin).await),
                Transfer::Failed { writer, origin, failure } => {
                    return Err(self.failed(writer, origin, failure, first_byte).await);
                }
            }
        }
        drop(writer);
        Err(PartFailure::LinkRefused { cause: refusal })
    }

    async fn begin(&self, plan: &Plan) -> Result<PartWriter, PartFailure> {
        let (sink, project, export) = (self.sink.clone(), self.project.clone(), self.export.clone());
        let (order, plan) = (self.order.clone(), plan.clone());
        let begun =
            self.blocking(move || sink.begin_part(&project, &export, &order.key, &plan).map_err(disk));
        tokio::time::timeout(BEGIN_TIMEOUT, begun).await.unwrap_or_else(|_| {
            Err(PartFailure::Held(Hold::Disk { cause: "the disk does not answer".to_owned() }))
        })
    }

    async fn link(&self) -> Result<Link, PartFailure> {
        let outcome = tokio::select! {
            () = self.stop.cancelled() => return Err(PartFailure::Stopped { resume: None }),
            outcome = self.access.link(&self.order.key.file_id, self.key) => outcome,
        };
        match outcome {
            LinkOutcome::Link(link) => {
                self.tell(DownloadNews::ApiAnswered { project: self.project_index }).await;
                let host = link.host();
                if self.waiting_hosts.contains(&host) {
                    return Err(PartFailure::Held(Hold::StoreWaits { host }));
                }
                Ok(link)
            }
            LinkOutcome::Gone { cause, error_code } => Err(PartFailure::Gone { cause, error_code }),
            LinkOutcome::Held(hold) => Err(PartFailure::Held(hold)),
            LinkOutcome::Fault(cause) => Err(transient(cause)),
        }
    }

    /// One request to the store, on the transfer runtime.
    async fn transfer(&self, writer: PartWriter, link: Link, plan: Plan) -> Result<Transfer, PartFailure> {
        let stream = Stream {
            store: self.store.clone(),
            declared_bytes: self.order.declared_bytes,
            project: self.project_index,
            stop: self.stop.clone(),
            progress: self.progress.clone(),
            news: self.news.clone(),
        };
        let task = AbortOnDropHandle::new(self.transfer.spawn(stream.run(writer, link, plan)));
        task.await.map_err(|error| died(&error))
    }

    async fn restart(&self, mut writer: PartWriter) -> Result<PartWriter, PartFailure> {
        self.blocking(move || writer.restart().map(|()| writer).map_err(disk)).await
    }

    async fn commit(
        &self,
        writer: PartWriter,
        promised: Vec<PromisedChecksum>,
    ) -> Result<CommittedPart, PartFailure> {
        let declared_bytes = self.order.declared_bytes;
        self.blocking(move || {
            writer.commit(declared_bytes, &promised).map_err(|error| match error {
                CommitError::Mismatch(cause) => transient(cause),
                CommitError::Conflict(cause) => PartFailure::Conflict { cause },
                CommitError::Disk(error) => disk(error),
            })
        })
        .await
    }

    /// A clean stop: the bytes become trustworthy for the next run.
    async fn stopped(&self, writer: PartWriter, origin: Option<BodyOrigin>) -> PartFailure {
        PartFailure::Stopped { resume: self.keep(writer, origin).await }
    }

    /// Adds to a passing failure from where the next attempt of this run may go on.
    async fn failed(
        &self,
        writer: Option<PartWriter>,
        origin: Option<BodyOrigin>,
        failure: PartFailure,
        first_byte: u64,
    ) -> PartFailure {
        match (failure, writer) {
            (PartFailure::Transient { cause, listing_in_doubt, .. }, Some(writer)) => {
                let resume = self.keep(writer, origin).await;
                let progressed = resume.as_ref().is_some_and(|point| point.bytes > first_byte);
                PartFailure::Transient { cause, resume, progressed, listing_in_doubt }
            }
            (failure, _) => failure,
        }
    }

    /// Syncs the partial where the store gave a validator to continue it by. Synced also within a run: a page that the
    /// kernel could not write would else go unnoticed once the file is closed.
    async fn keep(&self, writer: PartWriter, origin: Option<BodyOrigin>) -> Option<ResumePoint> {
        let origin = origin?;
        let bytes = self.blocking(move || writer.sync_and_keep().map_err(disk)).await.ok()?;
        (bytes > 0).then_some(ResumePoint { bytes, total_bytes: origin.total_bytes, etag: origin.etag })
    }

    /// The link could not be had; a partial that could be continued still can.
    fn keep_for_resume(&self, writer: PartWriter, plan: &Plan, failure: PartFailure) -> PartFailure {
        drop(writer);
        match (failure, plan) {
            (PartFailure::Transient { cause, progressed, listing_in_doubt, .. }, Plan::Continue(point)) => {
                PartFailure::Transient { cause, resume: Some(point.clone()), progressed, listing_in_doubt }
            }
            (failure, _) => failure,
        }
    }

    async fn tell(&self, news: DownloadNews) {
        // The receiver is gone only when the engine is: nobody is left to tell.
        let _ = self.news.send(news).await;
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PartFailure> + Send + 'static,
    ) -> Result<T, PartFailure> {
        self.transfer.spawn_blocking(work).await.map_err(|error| died(&error))?
    }
}

/// The part of a download that lives on the transfer runtime.
struct Stream {
    store: StoreClient,
    declared_bytes: Option<u64>,
    project: usize,
    stop: CancellationToken,
    progress: Arc<AtomicU64>,
    news: mpsc::Sender<DownloadNews>,
}

impl Stream {
    async fn run(self, mut writer: PartWriter, link: Link, plan: Plan) -> Transfer {
        let opened = tokio::select! {
            () = self.stop.cancelled() => return Transfer::Stopped { writer, origin: continued(&plan) },
            opened = self.store.open(link, &plan, self.declared_bytes) => opened,
        };
        let body = match opened {
            Ok(body) => body,
            Err(refusal) => return refused(refusal, writer, &plan),
        };
        let news = DownloadNews::StoreAnswered { project: self.project, host: body.host.clone() };
        let _ = self.news.send(news).await;
        let total_bytes = match body.opening {
            Opening::Append { total_bytes } => Some(total_bytes),
            Opening::Whole { total_bytes } => {
                if writer.bytes() > 0
                    && let Err(error) = writer.restart()
                {
                    return Transfer::Failed { writer: None, origin: None, failure: disk(error) };
                }
                total_bytes
            }
        };
        let origin =
            body.etag.clone().zip(total_bytes).map(|(etag, total_bytes)| BodyOrigin { etag, total_bytes });
        let algorithms: Vec<_> = body.promised.iter().map(|promised| promised.algorithm).collect();
        if let Err(error) = writer.arm(&algorithms) {
            return Transfer::Failed { writer: None, origin: None, failure: disk(error) };
        }
        self.copy(writer, body, origin).await
    }

    /// Hash and write each chunk where it was received: no hand-over, and memory stays at one read buffer.
    async fn copy(self, mut writer: PartWriter, mut body: Body, origin: Option<BodyOrigin>) -> Transfer {
        loop {
            self.progress.store(writer.bytes(), Ordering::Relaxed);
            let chunk = tokio::select! {
                () = self.stop.cancelled() => return Transfer::Stopped { writer, origin },
                chunk = body.next_chunk() => chunk,
            };
            match chunk {
                Ok(Some(chunk)) => {
                    if let Err(error) = writer.write(&chunk) {
                        return Transfer::Failed { writer: None, origin: None, failure: disk(error) };
                    }
                }
                Ok(None) => {
                    return Transfer::Complete { writer, promised: body.promised };
                }
                Err(error) => {
                    let keep = is_sound(&error);
                    let origin = origin.filter(|_| keep);
                    return Transfer::Failed {
                        writer: Some(writer),
                        origin,
                        failure: body_failure(&body.host, &error),
                    };
                }
            }
        }
    }
}

fn continued(plan: &Plan) -> Option<BodyOrigin> {
    match plan {
        Plan::Continue(point) => {
            Some(BodyOrigin { etag: point.etag.clone(), total_bytes: point.total_bytes })
        }
        Plan::FromStart => None,
    }
}

fn refused(refusal: FetchRefusal, writer: PartWriter, plan: &Plan) -> Transfer {
    let origin = continued(plan);
    let failure = match refusal {
        FetchRefusal::LinkRefused { cause } => return Transfer::LinkRefused { writer, cause },
        FetchRefusal::StartOver { reason } => {
            return Transfer::StartOver { writer, reason: reason.to_owned() };
        }
        FetchRefusal::Gone { cause } => PartFailure::Gone { cause, error_code: None },
        FetchRefusal::Busy { host, retry_after } => PartFailure::Held(Hold::StoreBusy { host, retry_after }),
        FetchRefusal::Refused { cause, listing_in_doubt } => {
            PartFailure::Transient { cause, resume: None, progressed: false, listing_in_doubt }
        }
        FetchRefusal::Fault { cause } => transient(cause),
    };
    Transfer::Failed { writer: Some(writer), origin, failure }
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

fn transient(cause: String) -> PartFailure {
    PartFailure::Transient { cause, resume: None, progressed: false, listing_in_doubt: false }
}

/// A conflict is the export's own; everything else is the disk's.
#[expect(clippy::needless_pass_by_value, reason = "the adapter of map_err")]
fn disk(error: SinkError) -> PartFailure {
    let cause = error.to_string();
    if error.is_conflict() {
        PartFailure::Conflict { cause }
    } else {
        PartFailure::Held(Hold::Disk { cause })
    }
}

fn died(error: &JoinError) -> PartFailure {
    let how = if error.is_panic() { "panicked" } else { "was stopped" };
    transient(format!("the download task {how}"))
}
