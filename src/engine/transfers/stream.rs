//! One request to the store: request, stream, hash and write. It runs on a lane, whose thread may
//! block.

use std::sync::Arc;

use super::checkpoints::{BodyOrigin, Checkpoints};
use super::context::{AttemptContext, News};
use super::faults::{body_fault, is_sound, refusal_fault, sink_fault};
use crate::domain::checksum::PromisedChecksum;
use crate::domain::failure::PartFault;
use crate::domain::resume::Plan;
use crate::fetch::{Body, BodyError, FetchRefusal, Opening};
use crate::ports::{Armed, SinkFault, Upload as _};
use crate::sinks::{AnyFinished, AnyUpload};
use crate::transport::Link;

/// How one request to the store ended.
pub(super) enum Transfer {
    /// Every byte is in the file and agrees with all that was promised.
    Complete(AnyFinished),
    /// The store refuses the link; another one may do.
    LinkRefused { writer: Option<AnyUpload>, cause: String },
    /// The bytes on disk cannot be continued; the next request asks for the whole file.
    StartOver { writer: AnyUpload, reason: String },
    /// No further request will help this attempt.
    Ended(Ended),
}

/// An attempt that has ended without all its bytes, and what it leaves.
pub(super) struct Ended {
    pub(super) why: Why,
    /// The file, if it may still be of use.
    pub(super) writer: Option<AnyUpload>,
    /// The answer that its bytes came from, if they can be continued.
    pub(super) origin: Option<BodyOrigin>,
}

pub(super) enum Why {
    /// The attempt was told to stop.
    Stopped,
    Fault(PartFault),
}

/// Without a file that could be of use.
impl From<PartFault> for Ended {
    fn from(fault: PartFault) -> Self {
        Self { why: Why::Fault(fault), writer: None, origin: None }
    }
}

/// Fetches what the file lacks. Without a writer one is begun as soon as there is a body.
pub(super) async fn run(
    cx: Arc<AttemptContext>,
    writer: Option<AnyUpload>,
    link: Link,
    plan: Plan,
) -> Transfer {
    let opened = tokio::select! {
        () = cx.stop.cancelled() => {
            let origin = BodyOrigin::of_plan(&plan);
            return Transfer::Ended(Ended { why: Why::Stopped, writer, origin });
        }
        opened = cx.lane.store.open(link, &plan, cx.order.declared_bytes) => opened,
    };
    let mut body = match opened {
        Ok(body) => body,
        Err(refusal) => return refused(refusal, writer, &plan),
    };
    if let Opening::Append { .. } = body.facts.opening {
        body.facts.promised = plan.promised(body.facts.promised);
    }
    if cx.open_host.as_ref() != Some(&body.facts.host) {
        let (project, entry, host) = (cx.project, cx.part.entry, body.facts.host.clone());
        cx.tell(News::StoreAnswered { project, entry, host }).await;
    }
    let begun = match writer {
        Some(writer) => Ok(writer),
        None => cx.begin(&Plan::FromStart).await,
    };
    let is_whole = matches!(body.facts.opening, Opening::Whole { .. });
    let armed = match begun {
        Ok(writer) => ready(writer, is_whole, &body.facts.promised).await.map_err(sink_fault),
        Err(fault) => Err(fault),
    };
    match armed {
        Ok((writer, Armed::Ready)) => {
            if writer.bytes() > 0 {
                tracing::debug!(
                    event = "part_resumed", project = %cx.path.project, export = %cx.path.export,
                    part = cx.part.key.number, file = %cx.part.key.file_id,
                    bytes = writer.bytes(), "the part resumes after the bytes on disk"
                );
            }
            copy(&cx, writer, body).await
        }
        Ok((writer, Armed::OtherBytes)) => {
            let reason = "the partial is not what its record says".to_owned();
            Transfer::StartOver { writer, reason }
        }
        Err(fault) => Transfer::Ended(fault.into()),
    }
}

/// Hashes and writes each chunk where it was received: nothing is handed over, and memory stays at
/// one read buffer.
async fn copy(cx: &AttemptContext, mut writer: AnyUpload, mut body: Body) -> Transfer {
    let origin = BodyOrigin::of(&body);
    let mut checkpoints = Checkpoints::new(cx, origin.clone(), writer.bytes());
    let end = loop {
        cx.progress.show(&writer);
        let chunk = tokio::select! {
            () = cx.stop.cancelled() => break End::Stopped,
            chunk = body.next_chunk() => chunk,
        };
        let written = match chunk {
            Ok(Some(chunk)) => {
                cx.progress.received(chunk.len());
                writer.write(&chunk).await
            }
            Ok(None) => break End::Complete,
            Err(error) => break End::Cut(error),
        };
        let written = match written {
            Ok(()) => checkpoints.written(&mut writer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            break End::Disk(error);
        }
    };
    // Even if the bytes are given up: nothing may write to a file that is being removed.
    let settled = checkpoints.settle().await;
    let ended = match (end, settled) {
        (End::Disk(error), _) | (_, Err(error)) => {
            writer.discard().await;
            sink_fault(error).into()
        }
        (End::Complete, Ok(())) => {
            match writer.finish(cx.order.declared_bytes, &body.facts.promised).await {
                Ok(finished) => return Transfer::Complete(finished),
                Err(fault) => sink_fault(fault).into(),
            }
        }
        (End::Stopped, Ok(())) => Ended { why: Why::Stopped, writer: Some(writer), origin },
        (End::Cut(error), Ok(())) => Ended {
            why: Why::Fault(body_fault(&body.facts.host, &error)),
            writer: Some(writer),
            origin: origin.filter(|_| is_sound(&error)),
        },
    };
    Transfer::Ended(ended)
}

enum End {
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

fn refused(refusal: FetchRefusal, writer: Option<AnyUpload>, plan: &Plan) -> Transfer {
    match (refusal, writer) {
        (FetchRefusal::LinkRefused { cause }, writer) => Transfer::LinkRefused { writer, cause },
        (FetchRefusal::StartOver { reason }, Some(writer)) => {
            Transfer::StartOver { writer, reason: reason.to_owned() }
        }
        (refusal, writer) => {
            let (why, origin) = (Why::Fault(refusal_fault(refusal)), BodyOrigin::of_plan(plan));
            Transfer::Ended(Ended { why, writer, origin })
        }
    }
}
