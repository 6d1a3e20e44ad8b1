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
use crate::ports::Upload as _;
use crate::sinks::{AnyFinished, AnyUpload};
use crate::transport::Link;

/// Links asked for in one attempt: the first, and at once two fresh ones if the store refuses it.
const LINKS_PER_ATTEMPT: u32 = 3;

/// Longest wait for the local file. After it the disk counts as ill, and the part gives its slot
/// and its probes back.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Works on the part until all its bytes are here and checked, or the attempt has failed.
pub(crate) async fn fetch_part(cx: Arc<AttemptContext>) -> Result<AnyFinished, PartFailure> {
    let plan = plan_resume(cx.order.resume.clone(), cx.order.declared_bytes);
    let first_byte = match &plan {
        Plan::Continue(point) => point.bytes,
        Plan::FromStart => 0,
    };
    match download(&cx, plan).await {
        Ok(finished) => Ok(finished),
        Err(ended) => Err(conclude(ended, first_byte).await),
    }
}

async fn download(cx: &Arc<AttemptContext>, mut plan: Plan) -> Result<AnyFinished, Ended> {
    let mut writer = None;
    if plan != Plan::FromStart || !is_small(cx.order.declared_bytes) {
        let begun = begin(cx, &plan).await?;
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
                writer = Some(back.restart().await.map_err(sink_fault)?);
                plan = Plan::FromStart;
                refusal = reason;
            }
            Transfer::Ended(ended) => return Err(ended),
        }
    }
    let why = Why::Fault(PartFault::LinkRefused { cause: refusal });
    Err(Ended { why, writer, origin: BodyOrigin::of_plan(&plan) })
}

/// The only way from an attempt without a file to what its part does next.
async fn conclude(ended: Ended, first_byte: u64) -> PartFailure {
    let Ended { why, writer, origin } = ended;
    match why {
        Why::Stopped => PartFailure::Stopped { kept: keep(writer, origin).await },
        Why::Fault(fault) if fault.spares_bytes() => {
            let kept = keep(writer, origin).await.map(Box::new);
            let progressed = kept.as_ref().is_some_and(|point| point.bytes > first_byte);
            PartFailure::Failed { fault, kept, progressed }
        }
        Why::Fault(fault) => fault.into(),
    }
}

/// Syncs the bytes if the store gave a validator to resume them by. Otherwise they go, and give
/// their room back. They are synced within a run too: once the file is closed, nobody would notice
/// a page that the kernel could not write.
async fn keep(writer: Option<AnyUpload>, origin: Option<BodyOrigin>) -> Option<ResumePoint> {
    let writer = writer?;
    let Some(origin) = origin else {
        writer.discard().await;
        return None;
    };
    // A failed sync has thrown the file away.
    writer.keep().await.ok()?.map(|prefix| origin.resume_after(prefix))
}

async fn begin(cx: &AttemptContext, plan: &Plan) -> Result<AnyUpload, PartFault> {
    tokio::time::timeout(BEGIN_TIMEOUT, cx.begin(plan)).await.unwrap_or_else(|_| {
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
    writer: Option<AnyUpload>,
    link: Link,
    plan: Plan,
) -> Result<Transfer, PartFault> {
    // Boxed, because a runtime moves a task's future more than once and this one is large.
    let request = Box::pin(stream::run(Arc::clone(cx), writer, link, plan));
    let task = AbortOnDropHandle::new(cx.lane.runtime.spawn(request));
    task.await.map_err(|error| task_fault(&error))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::runtime::Handle;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::super::{Lanes, Progress};
    use super::*;
    use crate::api::{Api, ApiSettings};
    use crate::config::{Environment, KeySource};
    use crate::domain::ids::ExportPath;
    use crate::domain::part::{PartKey, Sha256};
    use crate::domain::resume::StrongEtag;
    use crate::domain::watch::PartOrder;
    use crate::engine::access::{Access, KeyUse};
    use crate::engine::ids::{EntryId, PartId, ProjectId};
    use crate::engine::scheduler::tests::store_client;
    use crate::meters::Meters;
    use crate::process::runtimes::TransferRuntimes;
    use crate::sinks::AnySink;
    use crate::sinks::local::{LocalSink, SinkSettings};
    use crate::transport::testing::tls;

    const WRITTEN: &[u8] = b"[1234";

    /// An attempt that asks nobody, and its folder.
    fn context() -> (AttemptContext, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (sink, _) = LocalSink::open(folder.path(), None, SinkSettings::default()).unwrap();
        let timeout = Duration::from_secs(5);
        let settings = ApiSettings {
            base_url: "http://127.0.0.1:1/2.11".parse().unwrap(),
            connect_timeout: timeout,
            request_timeout: timeout,
        };
        let (project, export) = ("shop".parse().unwrap(), "export_1".parse().unwrap());
        let path = ExportPath { project, export };
        let api = Api::new(&settings, &tls()).unwrap();
        let client = api.project(&"project_1".parse().unwrap(), &"rest".to_owned().into()).unwrap();
        let environment = Environment::from_pairs(std::iter::empty::<(String, String)>());
        let source = KeySource::Env("NO_SUCH_KEY".to_owned());
        let access = Access::new(path.project.clone(), client, source, Arc::new(environment));
        let runtimes = TransferRuntimes { first: Handle::current(), others: Vec::new() };
        let meters = Meters::default();
        let key = PartKey { number: 1, file_id: "file_1".parse().unwrap() };
        let cx = AttemptContext {
            part: PartId { entry: EntryId::default(), key: key.clone() },
            project: ProjectId::default(),
            order: PartOrder { key, declared_bytes: Some(10), resume: None },
            access: Arc::new(access),
            key_use: KeyUse::AtHand,
            sink: AnySink::Local(sink),
            lane: Lanes::new(runtimes, &store_client()).least_busy(),
            stop: CancellationToken::new(),
            waiting_hosts: Vec::new(),
            open_host: None,
            progress: Arc::new(Progress::new(meters.received(&path.project))),
            news: mpsc::channel(1).0,
            meters,
            path,
        };
        (cx, folder)
    }

    fn origin() -> BodyOrigin {
        let etag = StrongEtag::parse("\"v1\"").unwrap();
        let (sha256, promised) = (Sha256::new([0; 32]), Vec::new());
        let point = ResumePoint { bytes: 1, sha256, total_bytes: 10, etag, promised };
        BodyOrigin::of_plan(&Plan::Continue(point)).unwrap()
    }

    /// How an attempt with these bytes on disk is concluded: the failure, and whether it has left
    /// a file.
    async fn concluded(
        (cx, folder): &(AttemptContext, TempDir),
        why: Why,
        (written, resumable): (bool, bool),
        first_byte: u64,
    ) -> (PartFailure, bool) {
        let partial = folder.path().join("shop/export_1/.part-00001-file_1.json.partial");
        drop(std::fs::remove_file(&partial));
        let mut writer = None;
        if written {
            let begun = writer.insert(cx.begin(&Plan::FromStart).await.unwrap());
            begun.write(WRITTEN).await.unwrap();
        }
        let ended = Ended { why, writer, origin: resumable.then(origin) };
        let failure = conclude(ended, first_byte).await;
        (failure, std::fs::metadata(partial).is_ok_and(|file| file.len() == 5))
    }

    #[tokio::test]
    async fn bytes_are_kept_if_the_fault_spares_them_and_they_can_be_resumed() {
        let host = || "store.example".to_owned();
        let faults = [
            (PartFault::transient("cut"), true),
            (PartFault::Transient { cause: "long".into(), listing_in_doubt: true }, true),
            (PartFault::LinkRefused { cause: "403".into() }, true),
            (PartFault::Held(Hold::StoreWaits { host: host() }), true),
            (
                PartFault::Held(Hold::StoreBusy {
                    host: host().into(),
                    status: 503,
                    retry_after: None,
                }),
                true,
            ),
            (PartFault::Held(Hold::Throttled { retry_after: None }), true),
            (PartFault::Held(Hold::Disk { cause: "full".into() }), false),
            (PartFault::Gone { cause: "404".into(), error_code: None }, false),
            (PartFault::Conflict { cause: "foreign".into() }, false),
        ];
        let attempt = context();
        for (fault, spares) in faults {
            for written_resumable in [(false, false), (false, true), (true, false), (true, true)] {
                for first_byte in [4, 5] {
                    let (written, resumable) = written_resumable;
                    let why = Why::Fault(fault.clone());
                    let (failure, has_file) =
                        concluded(&attempt, why, written_resumable, first_byte).await;
                    let PartFailure::Failed { fault: told, kept, progressed } = failure else {
                        panic!("{failure:?}")
                    };
                    let case = format!("{fault:?}, {written}, {resumable}, {first_byte}");
                    let is_kept = spares && written && resumable;
                    assert_eq!(told, fault, "{case}");
                    assert_eq!(kept.map(|point| point.bytes), is_kept.then_some(5), "{case}");
                    assert_eq!(progressed, is_kept && first_byte < 5, "{case}");
                    assert!(!spares || has_file == is_kept, "{case}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_stop_keeps_what_can_be_resumed() {
        let attempt = context();
        for (written, resumable, bytes) in
            [(false, true, None), (true, false, None), (true, true, Some(5))]
        {
            let (failure, has_file) =
                concluded(&attempt, Why::Stopped, (written, resumable), 0).await;
            let PartFailure::Stopped { kept } = failure else { panic!("{failure:?}") };
            assert_eq!((kept.map(|point| point.bytes), has_file), (bytes, bytes.is_some()));
        }
    }
}
