//! The port on a directory. What may take long runs on threads that may block. For small work the
//! switch of threads would cost more.

use std::panic::resume_unwind;

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use super::commit::File;
use super::{FinishedPart, LocalSink, PartWriter, SinkError};
use crate::domain::checksum::{Algorithm, PromisedChecksum};
use crate::domain::ids::{ExportId, ExportPath, ProjectName};
use crate::domain::part::CommittedPart;
use crate::domain::resume::{Plan, Prefix, is_small};
use crate::domain::watch::PartOrder;
use crate::ports::{
    Armed, Document, Finished, FoundManifest, Prepared, Put, Sink, SinkFault, Upload,
};

impl LocalSink {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkFault> {
        let sink = self.clone();
        self.may_block(move || Ok(work(&sink)?)).await
    }

    /// The work begins at once, and ends even if nobody waits for it any longer.
    fn may_block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SinkFault> + Send + 'static,
    ) -> impl Future<Output = Result<T, SinkFault>> + Send + 'static {
        let runtime = self.blocking.clone().unwrap_or_else(Handle::current);
        let working = runtime.spawn_blocking(work);
        async move {
            match working.await.map_err(tokio::task::JoinError::try_into_panic) {
                Ok(done) => done,
                Err(Ok(panic)) => resume_unwind(panic),
                Err(Err(_)) => Err(SinkFault::Unavailable("the program ends".to_owned())),
            }
        }
    }
}

impl Sink for LocalSink {
    type Upload = PartWriter;
    type Finished = FinishedPart;

    fn on(&self, runtime: &Handle) -> Self {
        Self { blocking: Some(runtime.clone()), ..self.clone() }
    }

    async fn prepare(
        &self,
        at: &ExportPath,
        unrecorded: &[PartOrder],
    ) -> Result<Prepared, SinkFault> {
        let (at, unrecorded) = (at.clone(), unrecorded.to_vec());
        let prepare = move |sink: &Self| {
            let prepared = sink.prepare_export(&at, &unrecorded)?;
            let room_bytes = Some(sink.room()?.saturating_sub(sink.reserve_bytes()));
            Ok(Prepared { room_bytes, ..prepared })
        };
        self.blocking(prepare).await
    }

    async fn begin(
        &self,
        at: &ExportPath,
        order: &PartOrder,
        plan: &Plan,
    ) -> Result<PartWriter, SinkFault> {
        let PartOrder { key, declared_bytes, .. } = order.clone();
        if *plan == Plan::FromStart && is_small(declared_bytes) {
            return Ok(self.begin_part(at, &key, plan, declared_bytes)?);
        }
        let (at, plan) = (at.clone(), plan.clone());
        self.blocking(move |sink| sink.begin_part(&at, &key, &plan, declared_bytes)).await
    }

    async fn publish(&self, group: Vec<FinishedPart>) -> Vec<Result<CommittedPart, SinkFault>> {
        let (sink, count) = (self.clone(), group.len());
        match self.may_block(move || Ok(sink.commit(group))).await {
            Ok(outcomes) => outcomes,
            Err(fault) => vec![Err(fault); count],
        }
    }

    async fn put(&self, at: &ExportPath, document: Document) -> Result<Put, SinkFault> {
        let at = at.clone();
        let put = move |sink: &Self| match &document {
            Document::Manifest(text) => sink.seal(&at, text.as_bytes()),
            Document::RecordedManifest(text) => sink.recover_sealing(&at, text),
            Document::Notice(text) => {
                sink.write_failed(&at, text.as_bytes()).map(|()| Put::Written)
            }
        };
        self.blocking(put).await
    }

    async fn remove_notice(&self, at: &ExportPath) -> Result<(), SinkFault> {
        let at = at.clone();
        self.blocking(move |sink| sink.remove_failed(&at)).await
    }

    async fn manifests(
        &self,
        project: &ProjectName,
        only: Option<Vec<ExportId>>,
    ) -> Result<Vec<FoundManifest>, SinkFault> {
        let project = project.clone();
        self.blocking(move |sink| sink.find_manifests(&project, only)).await
    }

    async fn forget(&self, at: &ExportPath) -> Result<(), SinkFault> {
        let at = at.clone();
        self.blocking(move |sink| sink.forget(&at)).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, SinkFault> {
        self.blocking(|sink| sink.room().map(Some)).await
    }

    fn reserve_bytes(&self) -> u64 {
        self.settings().reserve_bytes
    }

    async fn health(&self, room_bytes: u64) -> Result<(), SinkFault> {
        self.blocking(move |sink| sink.disk_check(room_bytes)).await
    }
}

impl Upload for PartWriter {
    type Finished = FinishedPart;

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.max(self.bytes)
    }

    async fn arm(&mut self, algorithms: &[Algorithm]) -> Result<Armed, SinkFault> {
        Ok(self.hash_from_start(algorithms)?)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFault> {
        Ok(self.append(bytes)?)
    }

    fn checkpoint(&mut self) -> Option<BoxFuture<'static, Result<Prefix, SinkFault>>> {
        let (sync, prefix) = self.begin_checkpoint()?;
        let sync = move || sync.run().map(|()| prefix).map_err(SinkError::from);
        Some(Box::pin(self.sink.may_block(move || Ok(sync()?))))
    }

    async fn restart(mut self) -> Result<Self, SinkFault> {
        let sink = self.sink.clone();
        sink.may_block(move || Ok(self.start_over().map(|()| self)?)).await
    }

    async fn keep(self) -> Result<Option<Prefix>, SinkFault> {
        self.sink.clone().may_block(move || Ok(self.sync_and_keep()?)).await
    }

    async fn discard(self) {
        let sink = self.sink.clone();
        let discard = move || {
            self.throw_away();
            Ok(())
        };
        drop(sink.may_block(discard).await);
    }

    async fn finish(
        self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> Result<FinishedPart, SinkFault> {
        self.verified(declared_bytes, promised)
    }
}

impl Finished for FinishedPart {
    /// A large part is synced before, or its group would wait.
    fn syncs_with_group(&self) -> bool {
        is_small(Some(self.part.bytes)) || matches!(self.file, File::Synced(_))
    }

    async fn sync(self) -> Result<Self, SinkFault> {
        let sink = self.sink.clone();
        sink.may_block(|| Ok(Self { file: File::Synced(self.file.sync()?), ..self })).await
    }
}
