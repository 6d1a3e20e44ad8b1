//! One attempt at a part: fresh link → request → stream and hash → verify.
//!
//! The part holds its slot from before the link is asked for, so that no link grows old while it
//! waits. The local file of a large part is begun before its link is asked for: a disk without
//! room for it then costs the API no call. That of a small part is begun once there is a body: no
//! thread has to wait for that. The link is asked for on the control runtime. The request to the
//! store, every read and every write happen on the part's lane, whose thread may block.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::checkpoints::BodyOrigin;
use super::context::{AttemptContext, News};
use super::faults::{link_of, sink_fault, task_fault};
use super::stream::{self, Ended, Transfer, Why};
use crate::domain::failure::{Hold, PartFailure, PartFault};
use crate::domain::resume::{Plan, ResumePoint, is_small, plan_resume};
use crate::sinks::local::{FinishedPart, PartWriter};
use crate::transport::Link;

/// Links asked for in one attempt: the first, and at once two fresh ones if the store refuses it.
const LINKS_PER_ATTEMPT: u32 = 3;

/// Longest wait for the local file. After it the disk counts as ill, and the part gives its slot
/// and its probes back.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Works on the part until all its bytes are here and checked, or the attempt has failed.
pub(crate) async fn fetch_part(cx: Arc<AttemptContext>) -> Result<FinishedPart, PartFailure> {
    let plan = plan_resume(cx.resume.clone(), cx.declared_bytes);
    let first_byte = match &plan {
        Plan::Continue(point) => point.bytes,
        Plan::FromStart => 0,
    };
    match download(&cx, plan).await {
        Ok(finished) => Ok(finished),
        Err(ended) => Err(conclude(&cx, ended, first_byte).await),
    }
}

async fn download(cx: &Arc<AttemptContext>, mut plan: Plan) -> Result<FinishedPart, Ended> {
    let mut writer = None;
    if plan != Plan::FromStart || !is_small(cx.declared_bytes) {
        let begun = begin(cx, plan).await?;
        // If the bytes are no longer there, the sink has started the file over.
        plan = begun.plan().clone();
        writer = Some(begun);
    }
    let mut refusal = String::new();
    for attempt in 1..=LINKS_PER_ATTEMPT {
        let link = match link(cx).await {
            Ok(link) => link,
            Err(why) => return Err(Ended { why, writer, origin: BodyOrigin::of_plan(&plan) }),
        };
        if attempt > 1 {
            tracing::debug!(
                event = "link_refreshed", project = %cx.path.project, export = %cx.path.export,
                part = cx.part.key.number, file = %cx.part.key.file_id, cause = refusal,
                "asking the store again with a fresh link: {refusal}"
            );
        }
        match transfer(cx, writer, link, plan.clone()).await? {
            Transfer::Complete(finished) => return Ok(finished),
            Transfer::LinkRefused { writer: back, cause } => {
                (writer, refusal) = (back, cause);
                if attempt < LINKS_PER_ATTEMPT {
                    cx.meters.link_refreshed();
                }
            }
            Transfer::StartOver { writer: back, reason } => {
                tracing::debug!(
                    event = "partial_dropped", project = %cx.path.project,
                    export = %cx.path.export, part = cx.part.key.number,
                    file = %cx.part.key.file_id, cause = reason,
                    "partial file dropped: {reason}"
                );
                (writer, plan) = (Some(restart(cx, back).await?), Plan::FromStart);
                refusal = reason;
            }
            Transfer::Ended(ended) => return Err(ended),
        }
    }
    let why = Why::Fault(PartFault::LinkRefused { cause: refusal });
    Err(Ended { why, writer, origin: BodyOrigin::of_plan(&plan) })
}

/// The only way from an attempt without a file to what its part does next.
async fn conclude(cx: &AttemptContext, ended: Ended, first_byte: u64) -> PartFailure {
    let Ended { why, writer, origin } = ended;
    match why {
        Why::Stopped => PartFailure::Stopped { kept: keep(cx, writer, origin).await },
        Why::Fault(fault) if fault.spares_bytes() => {
            let kept = keep(cx, writer, origin).await;
            let progressed = kept.as_ref().is_some_and(|point| point.bytes > first_byte);
            PartFailure::Failed { fault, kept, progressed }
        }
        Why::Fault(fault) => fault.into(),
    }
}

/// Syncs the bytes if the store gave a validator to resume them by. Otherwise they go, and give
/// their room back. They are synced within a run too: once the file is closed, nobody would notice
/// a page that the kernel could not write.
async fn keep(
    cx: &AttemptContext,
    writer: Option<PartWriter>,
    origin: Option<BodyOrigin>,
) -> Option<ResumePoint> {
    let writer = writer?;
    let kept = blocking(cx, move || {
        let Some(origin) = origin else {
            writer.discard();
            return Ok(None);
        };
        let prefix = writer.sync_and_keep().map_err(|error| sink_fault(&error))?;
        Ok(prefix.map(|prefix| origin.resume_after(prefix)))
    });
    // A failed sync has thrown the file away.
    kept.await.ok().flatten()
}

async fn begin(cx: &Arc<AttemptContext>, plan: Plan) -> Result<PartWriter, PartFault> {
    let begun = blocking(cx, {
        let cx = Arc::clone(cx);
        move || cx.begin(&plan)
    });
    tokio::time::timeout(BEGIN_TIMEOUT, begun).await.unwrap_or_else(|_| {
        Err(PartFault::Held(Hold::Disk { cause: "the disk does not answer".to_owned() }))
    })
}

async fn link(cx: &AttemptContext) -> Result<Link, Why> {
    let outcome = tokio::select! {
        () = cx.stop.cancelled() => return Err(Why::Stopped),
        outcome = cx.access.link(&cx.part.key.file_id, cx.key_use) => outcome,
    };
    let link = link_of(outcome).map_err(Why::Fault)?;
    cx.tell(News::ApiAnswered { project: cx.project }).await;
    let host = link.host();
    if cx.waiting_hosts.contains(&host) {
        return Err(Why::Fault(PartFault::Held(Hold::StoreWaits { host })));
    }
    Ok(link)
}

/// One request to the store, on the part's lane.
async fn transfer(
    cx: &Arc<AttemptContext>,
    writer: Option<PartWriter>,
    link: Link,
    plan: Plan,
) -> Result<Transfer, PartFault> {
    // Boxed, because a runtime moves a task's future more than once and this one is large.
    let request = Box::pin(stream::run(Arc::clone(cx), writer, link, plan));
    let task = AbortOnDropHandle::new(cx.lane.runtime.spawn(request));
    task.await.map_err(|error| task_fault(&error))
}

async fn restart(cx: &AttemptContext, mut writer: PartWriter) -> Result<PartWriter, PartFault> {
    blocking(cx, move || match writer.restart() {
        Ok(()) => Ok(writer),
        Err(error) => Err(sink_fault(&error)),
    })
    .await
}

async fn blocking<T: Send + 'static>(
    cx: &AttemptContext,
    work: impl FnOnce() -> Result<T, PartFault> + Send + 'static,
) -> Result<T, PartFault> {
    cx.lane.runtime.spawn_blocking(work).await.map_err(|error| task_fault(&error))?
}
