//! One part being written: steps 1 to 3 of the order in `directory`.

use std::fmt;
use std::sync::Arc;

use super::SinkError;
use super::commit::{File, FinishedPart};
use super::digest::Digests;
use super::directory::{LocalSink, Reservation, working_name};
use crate::domain::checksum::{Algorithm, Check, PromisedChecksum};
use crate::domain::ids::ExportPath;
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::resume::{CHECKPOINT_BYTES, Plan, Prefix, is_small};
use crate::durable::{DataSync, Dir, ErrorClass, Partial};
use crate::failpoint;
use crate::ports::{Armed, SinkFault};

/// Bytes between two looks at the free space: few, and cheap even on a network file system.
const SPACE_CHECK_BYTES: u64 = 1024 * 1024;

/// A part being written. If it is dropped, its partial is not used again: `sync_and_keep` keeps it.
#[must_use]
pub struct PartWriter {
    pub(super) sink: LocalSink,
    at: ExportPath,
    key: PartKey,
    dir: Arc<Dir>,
    partial: Partial,
    pub(super) plan: Plan,
    pub(super) bytes: u64,
    /// Room on the disk that this part occupies.
    pub(super) allocated_bytes: u64,
    digests: Option<Digests>,
    until_space_check: u64,
    spoiled: bool,
    reservation: Reservation,
}

impl fmt::Debug for PartWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartWriter")
            .field("key", &self.key)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl LocalSink {
    /// Creates a part's partial, or opens it and cuts it to the resume point. If the bytes before
    /// the point are gone it starts over, and the writer's plan says so.
    pub(super) fn begin_part(
        &self,
        at: &ExportPath,
        key: &PartKey,
        plan: &Plan,
        declared_bytes: Option<u64>,
    ) -> Result<PartWriter, SinkError> {
        let dir = match self.open_export_dir(at) {
            Some(dir) => dir,
            None => self.make_export_dir(&self.root()?, at)?,
        };
        let busy = || SinkError::Busy { path: dir.path().join(key.file_name()) };
        let reservation = self.reserve(at, key).ok_or_else(busy)?;
        let name = working_name(&key.file_name());
        let kept = match plan {
            Plan::FromStart => None,
            Plan::Continue(point) => {
                Partial::reopen(&dir, &name, point.bytes, self.settings().modes.file)
                    .map_err(SinkError::below)?
                    .map(|kept| (kept, point))
            }
        };
        let (partial, plan, bytes) = match kept {
            Some((partial, point)) => (partial, plan.clone(), point.bytes),
            None => (self.create_partial(&dir, &name, declared_bytes)?, Plan::FromStart, 0),
        };
        let mut writer = PartWriter {
            sink: self.clone(),
            at: at.clone(),
            key: key.clone(),
            dir,
            partial,
            plan,
            bytes,
            allocated_bytes: bytes,
            digests: None,
            until_space_check: 0,
            spoiled: false,
            reservation,
        };
        if let Some(declared) = declared_bytes {
            writer.make_room(declared)?;
        }
        Ok(writer)
    }

    fn create_partial(
        &self,
        dir: &Arc<Dir>,
        name: &str,
        declared_bytes: Option<u64>,
    ) -> Result<Partial, SinkError> {
        let mode = self.settings().modes.file;
        let partial = if is_small(declared_bytes) && self.takes_unnamed(dir) {
            Partial::create_unnamed(dir, name, mode)
        } else {
            Partial::create(dir, name, mode)
        };
        partial.map_err(SinkError::below)
    }
}

impl PartWriter {
    /// Checks that the whole part has room. Reserves the room of a large one, so that nobody else
    /// can fill the disk meanwhile, and the file lies in one piece.
    fn make_room(&mut self, declared_bytes: u64) -> Result<(), SinkError> {
        let more_bytes = declared_bytes.saturating_sub(self.bytes);
        self.sink.check_reserve(&self.dir, more_bytes)?;
        self.until_space_check = more_bytes.min(CHECKPOINT_BYTES);
        if !is_small(Some(declared_bytes)) && self.partial.preallocate(declared_bytes)? {
            self.allocated_bytes = declared_bytes;
        }
        Ok(())
    }

    /// Names the promised checksums, before the first byte. The bytes that are there already are
    /// hashed from disk, which may take a moment, and compared with the resume point.
    pub(super) fn hash_from_start(&mut self, algorithms: &[Algorithm]) -> Result<Armed, SinkError> {
        let mut digests = Digests::new(algorithms);
        self.partial.read(self.bytes, &mut |bytes| digests.update(bytes))?;
        if let Plan::Continue(point) = &self.plan
            && point.bytes == self.bytes
            && point.sha256 != digests.so_far()
        {
            return Ok(Armed::OtherBytes);
        }
        self.digests = Some(digests);
        Ok(Armed::Ready)
    }

    /// Appends. After an error `sync_and_keep` may still save what was written before.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let beyond = self.bytes.saturating_add(length) > self.allocated_bytes;
        if beyond && self.until_space_check < length {
            self.sink.check_reserve(&self.dir, 0)?;
            self.until_space_check = SPACE_CHECK_BYTES;
        }
        self.until_space_check = self.until_space_check.saturating_sub(length);
        self.partial
            .write(bytes)
            .inspect_err(|error| self.spoiled |= error.class() == ErrorClass::Io)?;
        self.bytes += length;
        self.digests.get_or_insert_with(|| Digests::new(&[])).update(bytes);
        Ok(())
    }

    /// `None` for a small part: without a name its bytes could not be found again.
    pub(super) fn begin_checkpoint(&mut self) -> Option<(DataSync, Prefix)> {
        let prefix = self.prefix()?;
        Some((self.partial.checkpoint()?, prefix))
    }

    /// The bytes so far; `None` if there are none, or they have not been hashed.
    fn prefix(&self) -> Option<Prefix> {
        let sha256 = match (&self.digests, &self.plan) {
            (Some(digests), _) => digests.so_far(),
            (None, Plan::Continue(point)) if point.bytes == self.bytes => point.sha256,
            (None, _) => return None,
        };
        (self.bytes > 0).then_some(Prefix { bytes: self.bytes, sha256 })
    }

    pub(super) fn start_over(&mut self) -> Result<(), SinkError> {
        self.partial.cut(0)?;
        self.bytes = 0;
        self.allocated_bytes = 0;
        self.plan = Plan::FromStart;
        self.digests = None;
        Ok(())
    }

    /// Makes what was written durable and keeps it; `None` if there are no bytes yet, or the device
    /// failed during a write. If the sync fails, the partial is thrown away.
    pub(super) fn sync_and_keep(mut self) -> Result<Option<Prefix>, SinkError> {
        let prefix = self.prefix().filter(|_| !self.spoiled);
        if prefix.is_none() {
            self.partial.discard();
            return Ok(None);
        }
        // A failed write may have left bytes that were not counted.
        self.partial.cut(self.bytes)?;
        self.partial.sync()?.keep()?;
        Ok(prefix)
    }

    pub(super) fn throw_away(self) {
        self.partial.discard();
    }

    /// Checks the length and every promised checksum: step 3. After an error the partial is gone.
    pub(super) fn verified(
        mut self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> Result<FinishedPart, SinkFault> {
        let (sha256, verified_by) = match self.verify(declared_bytes, promised) {
            Ok(verified) => verified,
            Err(error) => {
                self.partial.discard();
                return Err(error);
            }
        };
        failpoint::pass("verify", &self.key.file_name());
        let part =
            CommittedPart { key: self.key, bytes: self.bytes, declared_bytes, sha256, verified_by };
        let Self { sink, at, dir, partial, reservation, .. } = self;
        Ok(FinishedPart { sink, at, dir, file: File::Unsynced(partial), part, reservation })
    }

    /// [`PartWriter::verified`], and then [`LocalSink::commit`] for this part alone.
    #[cfg(test)]
    pub(super) fn commit(
        self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> Result<CommittedPart, SinkFault> {
        let sink = self.sink.clone();
        let finished = self.verified(declared_bytes, promised)?;
        sink.commit(vec![finished]).remove(0)
    }

    fn verify(
        &mut self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> Result<(Sha256, Vec<Check>), SinkFault> {
        if let Some(declared) = declared_bytes.filter(|declared| *declared != self.bytes) {
            let cause = format!("the file has {} bytes, the API declares {declared}", self.bytes);
            return Err(SinkFault::Mismatch(cause));
        }
        if self.digests.is_none() {
            let algorithms: Vec<Algorithm> =
                promised.iter().map(|promised| promised.algorithm).collect();
            if self.hash_from_start(&algorithms)? == Armed::OtherBytes {
                let cause = "the partial is not what its record says".to_owned();
                return Err(SinkFault::Mismatch(cause));
            }
        }
        let digests = self.digests.take().unwrap_or_else(|| Digests::new(&[]));
        let finished = digests.finish(promised);
        let (sha256, mut checks) =
            finished.map_err(|mismatch| SinkFault::Mismatch(mismatch.to_string()))?;
        checks.insert(0, if declared_bytes.is_some() { Check::Size } else { Check::Framing });
        Ok((sha256, checks))
    }
}
