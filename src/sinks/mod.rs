//! Where bytes go: implementations of [`Sink`], the suite that each has to pass, and the choice
//! between them, made once for each part.

#[cfg(test)]
pub(crate) mod conformance;
pub mod local;

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use crate::domain::checksum::{Algorithm, PromisedChecksum};
use crate::domain::ids::{ExportId, ExportPath, ProjectName};
use crate::domain::part::CommittedPart;
use crate::domain::resume::{Plan, Prefix};
use crate::domain::watch::PartOrder;
use crate::ports::{
    Armed, Document, Finished, FoundManifest, Prepared, Put, Sink, SinkFault, Upload,
};

#[derive(Debug, Clone)]
pub enum AnySink {
    Local(local::LocalSink),
}

#[derive(Debug)]
pub enum AnyUpload {
    Local(local::PartWriter),
}

#[derive(Debug)]
pub enum AnyFinished {
    Local(local::FinishedPart),
}

impl Sink for AnySink {
    type Upload = AnyUpload;
    type Finished = AnyFinished;

    fn on(&self, runtime: &Handle) -> Self {
        let Self::Local(sink) = self;
        Self::Local(sink.on(runtime))
    }

    async fn prepare(
        &self,
        at: &ExportPath,
        unrecorded: &[PartOrder],
    ) -> Result<Prepared, SinkFault> {
        let Self::Local(sink) = self;
        sink.prepare(at, unrecorded).await
    }

    async fn begin(
        &self,
        at: &ExportPath,
        order: &PartOrder,
        plan: &Plan,
    ) -> Result<AnyUpload, SinkFault> {
        let Self::Local(sink) = self;
        sink.begin(at, order, plan).await.map(AnyUpload::Local)
    }

    async fn publish(&self, group: Vec<AnyFinished>) -> Vec<Result<CommittedPart, SinkFault>> {
        let Self::Local(sink) = self;
        let group = group.into_iter().map(|AnyFinished::Local(finished)| finished);
        sink.publish(group.collect()).await
    }

    async fn put(&self, at: &ExportPath, document: Document) -> Result<Put, SinkFault> {
        let Self::Local(sink) = self;
        sink.put(at, document).await
    }

    async fn remove_notice(&self, at: &ExportPath) -> Result<(), SinkFault> {
        let Self::Local(sink) = self;
        sink.remove_notice(at).await
    }

    async fn manifests(
        &self,
        project: &ProjectName,
        only: Option<Vec<ExportId>>,
    ) -> Result<Vec<FoundManifest>, SinkFault> {
        let Self::Local(sink) = self;
        sink.manifests(project, only).await
    }

    async fn forget(&self, at: &ExportPath) -> Result<(), SinkFault> {
        let Self::Local(sink) = self;
        Sink::forget(sink, at).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, SinkFault> {
        let Self::Local(sink) = self;
        sink.free_bytes().await
    }

    fn reserve_bytes(&self) -> u64 {
        let Self::Local(sink) = self;
        sink.reserve_bytes()
    }

    async fn health(&self, room_bytes: u64) -> Result<(), SinkFault> {
        let Self::Local(sink) = self;
        sink.health(room_bytes).await
    }
}

impl Upload for AnyUpload {
    type Finished = AnyFinished;

    fn plan(&self) -> &Plan {
        let Self::Local(upload) = self;
        upload.plan()
    }

    fn bytes(&self) -> u64 {
        let Self::Local(upload) = self;
        upload.bytes()
    }

    fn allocated_bytes(&self) -> u64 {
        let Self::Local(upload) = self;
        upload.allocated_bytes()
    }

    async fn arm(&mut self, algorithms: &[Algorithm]) -> Result<Armed, SinkFault> {
        let Self::Local(upload) = self;
        upload.arm(algorithms).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFault> {
        let Self::Local(upload) = self;
        upload.write(bytes).await
    }

    fn checkpoint(&mut self) -> Option<BoxFuture<'static, Result<Prefix, SinkFault>>> {
        let Self::Local(upload) = self;
        upload.checkpoint()
    }

    async fn restart(self) -> Result<Self, SinkFault> {
        let Self::Local(upload) = self;
        upload.restart().await.map(Self::Local)
    }

    async fn keep(self) -> Result<Option<Prefix>, SinkFault> {
        let Self::Local(upload) = self;
        upload.keep().await
    }

    async fn discard(self) {
        let Self::Local(upload) = self;
        upload.discard().await;
    }

    async fn finish(
        self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> Result<AnyFinished, SinkFault> {
        let Self::Local(upload) = self;
        upload.finish(declared_bytes, promised).await.map(AnyFinished::Local)
    }
}

impl Finished for AnyFinished {
    fn syncs_with_group(&self) -> bool {
        let Self::Local(finished) = self;
        finished.syncs_with_group()
    }

    async fn sync(self) -> Result<Self, SinkFault> {
        let Self::Local(finished) = self;
        finished.sync().await.map(Self::Local)
    }
}
