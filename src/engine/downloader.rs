//! One part, from its slot to its last byte: fresh link -> request -> stream and hash -> verify.
//! What comes after that costs the network nothing, and needs no slot (`scheduler/commits.rs`).
//!
//! The part holds its slot from before the link is asked for, so that no link grows old waiting. A
//! large part's local file is begun before its link is asked for, so that a disk that has no room
//! for it costs the API no call; a small one's when there is a body, because then it costs a thread
//! no wait. The link is asked on the control runtime; the request to the store, every read and
//! every write happen on the part's lane, whose thread may block (`stream`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::checkpoints::BodyOrigin;
use super::lanes::Lane;
use super::stream::{Progress, Stream, Transfer, continued, disk, transient};
use crate::api::LinkOutcome;
use crate::domain::failure::{Hold, PartFailure};
use crate::domain::ids::{ExportId, ExportPath, ProjectName};
use crate::domain::resume::{Plan, ResumablePart, ResumePoint, is_small, plan_resume};
use crate::domain::watch::PartOrder;
use crate::engine::access::{Access, KeyUse};
use crate::meters::Meters;
use crate::ports::{Sink, Upload};
use crate::sinks::{AnyFinished, AnySink, AnyUpload};
use crate::transport::Link;

/// Links asked for in one attempt: the first, and a fresh one twice at once when the store refuses
/// it.
const LINKS_PER_ATTEMPT: u32 = 3;

/// Longest wait for the local file. A disk that hangs then counts as ill: the slot and what the
/// part probes are given back.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What a download tells while it is still under way, so that gates and slots open as soon as they
/// can.
#[derive(Debug)]
pub(crate) enum DownloadNews {
    /// The API gave a link.
    ApiAnswered { project: usize },
    /// The store sends bytes.
    StoreAnswered { project: usize, entry: usize, host: String },
    /// The first bytes of a part are durable.
    Checkpointed { entry: usize, partial: ResumablePart },
}

/// Everything one attempt needs.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) entry: usize,
    pub(crate) project_index: usize,
    pub(crate) project: ProjectName,
    pub(crate) export: ExportId,
    pub(crate) order: PartOrder,
    pub(crate) key: KeyUse,
    pub(crate) access: Arc<Access>,
    pub(crate) sink: AnySink,
    pub(crate) lane: Lane,
    pub(crate) stop: CancellationToken,
    /// Hosts of stores that wait. Which one the part lies on is known once it has its link.
    pub(crate) waiting_hosts: Vec<String>,
    /// The host that nothing needs to be told of when it answers.
    pub(crate) open_host: Option<String>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) news: mpsc::Sender<DownloadNews>,
    pub(crate) meters: Meters,
}

impl Download {
    /// Works on the part until all its bytes are there and checked, or this attempt has failed.
    pub(crate) async fn run(self) -> Result<AnyFinished, PartFailure> {
        let mut plan = plan_resume(self.order.resume.clone(), self.order.declared_bytes);
        let first_byte = match &plan {
            Plan::Continue(point) => point.bytes,
            Plan::FromStart => 0,
        };
        let mut writer = None;
        if plan != Plan::FromStart || !is_small(self.order.declared_bytes) {
            let begun = self.begin(&plan).await?;
            // Where the partial is not there any more, the sink has started it over.
            plan = begun.plan().clone();
            writer = Some(begun);
        }
        let mut refusal = String::new();
        let mut was_refused = false;
        for attempt in 1..=LINKS_PER_ATTEMPT {
            if std::mem::take(&mut was_refused) {
                self.meters.link_refreshed();
            }
            let link = match self.link().await {
                Ok(link) => link,
                Err(PartFailure::Stopped { .. }) => {
                    return Err(self.stopped(writer, continued(&plan)).await);
                }
                Err(failure) => return Err(keep_for_resume(&plan, failure)),
            };
            if attempt > 1 {
                tracing::debug!(event = "link_refreshed", project = %self.project, export = %self.export, part = self.order.key.number, file = %self.order.key.file_id, cause = refusal, "the store is asked again with a fresh link: {refusal}");
            }
            match self.transfer(writer, link, plan.clone()).await? {
                Transfer::Complete(finished) => return Ok(finished),
                Transfer::LinkRefused { writer: back, cause } => {
                    (writer, refusal, was_refused) = (back, cause, true);
                }
                Transfer::StartOver { writer: back, reason } => {
                    tracing::debug!(event = "partial_dropped", project = %self.project, export = %self.export, part = self.order.key.number, file = %self.order.key.file_id, cause = reason, "partial dropped: {reason}");
                    (writer, plan) = (Some(back.restart().await.map_err(disk)?), Plan::FromStart);
                    refusal = reason;
                }
                Transfer::Stopped { writer, origin } => {
                    return Err(self.stopped(writer, origin).await);
                }
                Transfer::Failed { writer, origin, failure } => {
                    return Err(self.failed(writer, origin, failure, first_byte).await);
                }
            }
        }
        drop(writer);
        Err(PartFailure::LinkRefused { cause: refusal })
    }

    async fn begin(&self, plan: &Plan) -> Result<AnyUpload, PartFailure> {
        let at = ExportPath { project: self.project.clone(), export: self.export.clone() };
        let begun = self.sink.begin(&at, &self.order, plan);
        match tokio::time::timeout(BEGIN_TIMEOUT, begun).await {
            Ok(begun) => begun.map_err(disk),
            Err(_) => {
                Err(PartFailure::Held(Hold::Disk { cause: "the disk does not answer".to_owned() }))
            }
        }
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

    /// One request to the store, on the part's lane.
    async fn transfer(
        &self,
        writer: Option<AnyUpload>,
        link: Link,
        plan: Plan,
    ) -> Result<Transfer, PartFailure> {
        let stream = Stream {
            entry: self.entry,
            project_index: self.project_index,
            project: self.project.clone(),
            export: self.export.clone(),
            order: self.order.clone(),
            store: self.lane.store.clone(),
            sink: self.sink.clone(),
            stop: self.stop.clone(),
            progress: self.progress.clone(),
            news: self.news.clone(),
            open_host: self.open_host.clone(),
        };
        // Boxed, because a runtime moves a task's future more than once and this one is large.
        let task = AbortOnDropHandle::new(
            self.lane.runtime.spawn(Box::pin(stream.run(writer, link, plan))),
        );
        task.await.map_err(|error| died(&error))
    }

    /// A clean stop: the bytes become trustworthy for the next run.
    async fn stopped(&self, writer: Option<AnyUpload>, origin: Option<BodyOrigin>) -> PartFailure {
        PartFailure::Stopped { resume: self.keep(writer, origin).await }
    }

    /// Adds to a passing failure from where the next attempt of this run may go on.
    async fn failed(
        &self,
        writer: Option<AnyUpload>,
        origin: Option<BodyOrigin>,
        failure: PartFailure,
        first_byte: u64,
    ) -> PartFailure {
        match failure {
            PartFailure::Transient { cause, listing_in_doubt, .. } => {
                let resume = self.keep(writer, origin).await;
                let progressed = resume.as_ref().is_some_and(|point| point.bytes > first_byte);
                PartFailure::Transient { cause, resume, progressed, listing_in_doubt }
            }
            failure => failure,
        }
    }

    /// Syncs the partial where the store gave a validator to continue it by; else it goes, and its
    /// room with it. Synced also within a run: a page that the kernel could not write would else go
    /// unnoticed once the file is closed.
    async fn keep(
        &self,
        writer: Option<AnyUpload>,
        origin: Option<BodyOrigin>,
    ) -> Option<ResumePoint> {
        let writer = writer?;
        let Some(origin) = origin else {
            writer.discard().await;
            return None;
        };
        writer.keep().await.ok()?.map(|prefix| origin.resume_after(prefix))
    }

    async fn tell(&self, news: DownloadNews) {
        // The receiver is gone only when the engine is: nobody is left to tell.
        let _ = self.news.send(news).await;
    }
}

/// The link could not be had; a partial that could be continued still can.
fn keep_for_resume(plan: &Plan, failure: PartFailure) -> PartFailure {
    match (failure, plan) {
        (
            PartFailure::Transient { cause, progressed, listing_in_doubt, .. },
            Plan::Continue(point),
        ) => PartFailure::Transient {
            cause,
            resume: Some(point.clone()),
            progressed,
            listing_in_doubt,
        },
        (failure, _) => failure,
    }
}

fn died(error: &JoinError) -> PartFailure {
    let how = if error.is_panic() { "panicked" } else { "was stopped" };
    transient(format!("the download task {how}"))
}
