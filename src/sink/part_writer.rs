//! One part on its way to its final name: steps 1 to 6 of the order in `local`.

use std::fmt;
use std::sync::Arc;

use super::adopt::hash;
use super::digest::Digests;
use super::local::{LocalSink, Reservation, working_name};
use super::{CommitError, SinkError};
use crate::domain::checksum::{Algorithm, Check, PromisedChecksum};
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::resume::Plan;
use crate::durable::{CommitFailure, Dir, DurableError, Entry, ErrorClass, NoOverwrite, Partial, Synced};

/// Bytes between two looks at the free space: little against any sensible reserve, and rare enough to cost nothing even
/// where the question goes over a network.
const SPACE_CHECK_BYTES: u64 = 1024 * 1024;

/// A part being written. Dropped, its partial stays on disk and is not trusted again: say [`PartWriter::sync_and_keep`]
/// to go on later, [`PartWriter::discard`] to start over.
#[must_use]
pub struct PartWriter {
    sink: LocalSink,
    project: ProjectName,
    export: ExportId,
    key: PartKey,
    dir: Arc<Dir>,
    partial: Partial,
    plan: Plan,
    bytes: u64,
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
    /// Creates a part's partial, or opens it and cuts it to the resume point. Where the point's bytes are not there any
    /// more it starts over: [`PartWriter::plan`] says what it is ready for.
    ///
    /// # Errors
    /// When the disk fails, something is in the way, or the part is already being written.
    pub fn begin_part(
        &self,
        project: &ProjectName,
        export: &ExportId,
        key: &PartKey,
        plan: &Plan,
    ) -> Result<PartWriter, SinkError> {
        let root = self.root()?;
        let dir = self.make_export_dir(&root, project, export)?;
        let busy = || dir.failed("write a part twice at once in", rustix::io::Errno::BUSY);
        let reservation = self.reserve(project, export, key).ok_or_else(busy)?;
        let name = working_name(&key.file_name());
        let kept = match plan {
            Plan::FromStart => None,
            Plan::Continue(point) => {
                Partial::reopen(&dir, &name, point.bytes).map_err(SinkError::below)?.map(|kept| (kept, point))
            }
        };
        let (partial, plan, bytes) = match kept {
            Some((partial, point)) => (partial, plan.clone(), point.bytes),
            None => (Partial::create(&dir, &name).map_err(SinkError::below)?, Plan::FromStart, 0),
        };
        Ok(PartWriter {
            sink: self.clone(),
            project: project.clone(),
            export: export.clone(),
            key: key.clone(),
            dir,
            partial,
            plan,
            bytes,
            digests: None,
            until_space_check: 0,
            spoiled: false,
            reservation,
        })
    }
}

impl PartWriter {
    /// What the partial is ready for; may be [`Plan::FromStart`] where a continuation was wanted.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes in the partial.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Names the checksums that the store promised, before the first byte; the bytes that are already there are hashed
    /// from disk, which may take a moment. Without this only SHA-256 is computed.
    ///
    /// # Errors
    /// When the kept bytes cannot be read.
    pub fn arm(&mut self, algorithms: &[Algorithm]) -> Result<(), SinkError> {
        let mut digests = Digests::new(algorithms);
        self.partial.read(self.bytes, &mut |bytes| digests.update(bytes))?;
        self.digests = Some(digests);
        Ok(())
    }

    /// Appends.
    ///
    /// # Errors
    /// When the disk fails or the reserve would be touched; [`PartWriter::sync_and_keep`] may still save what was
    /// written before.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        if self.digests.is_none() {
            self.arm(&[])?;
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.until_space_check < length {
            self.sink.check_reserve(&self.dir)?;
            self.until_space_check = SPACE_CHECK_BYTES;
        }
        self.until_space_check = self.until_space_check.saturating_sub(length);
        self.partial.write(bytes).inspect_err(|error| self.spoiled |= error.class() == ErrorClass::Io)?;
        self.bytes += length;
        if let Some(digests) = &mut self.digests {
            digests.update(bytes);
        }
        Ok(())
    }

    /// Drops every byte and starts over; [`PartWriter::arm`] has to be said again.
    ///
    /// # Errors
    /// When the partial cannot be cut.
    pub fn restart(&mut self) -> Result<(), SinkError> {
        self.partial.cut(0)?;
        self.bytes = 0;
        self.plan = Plan::FromStart;
        self.digests = None;
        Ok(())
    }

    /// Makes what was written durable and leaves it for later; returns the bytes that can be trusted, 0 where the
    /// device failed while they were written.
    ///
    /// # Errors
    /// When it cannot be synced; the partial is thrown away then.
    pub fn sync_and_keep(mut self) -> Result<u64, SinkError> {
        if self.spoiled {
            self.partial.discard();
            return Ok(0);
        }
        // A write that failed half way may have left bytes that were not counted.
        self.partial.cut(self.bytes)?;
        self.partial.sync()?.keep()?;
        Ok(self.bytes)
    }

    /// Removes the partial.
    pub fn discard(self) {
        self.partial.discard();
    }

    /// Checks the file against the declared length and every promised checksum and gives it its final name. That the
    /// body's framing was complete is for the caller to know. A file that already has the name is adopted where it is
    /// identical.
    ///
    /// # Errors
    /// [`CommitError`]; the partial is gone in every case.
    pub fn commit(
        mut self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> Result<CommittedPart, CommitError> {
        let verified = self.verify(declared_bytes, promised);
        let ((sha256, verified_by), no_overwrite) =
            match verified.and_then(|verified| Ok((verified, self.check_place()?))) {
                Ok(fit) => fit,
                Err(error) => {
                    self.partial.discard();
                    return Err(error);
                }
            };
        let part = CommittedPart { key: self.key, bytes: self.bytes, declared_bytes, sha256, verified_by };
        let name = part.key.file_name();
        let synced = self.partial.sync().map_err(SinkError::from)?;
        match synced.commit(&name, no_overwrite) {
            Ok(()) => {}
            Err(CommitFailure::Occupied(synced)) => settle(&self.dir, &name, &part, synced)?,
            Err(CommitFailure::Failed(error)) => return Err(SinkError::below(error).into()),
        }
        drop(self.reservation);
        Ok(part)
    }

    fn verify(
        &mut self,
        declared_bytes: Option<u64>,
        promised: &[PromisedChecksum],
    ) -> Result<(Sha256, Vec<Check>), CommitError> {
        if let Some(declared) = declared_bytes.filter(|declared| *declared != self.bytes) {
            let cause = format!("the file has {} bytes, the api declares {declared}", self.bytes);
            return Err(CommitError::Mismatch(cause));
        }
        if self.digests.is_none() {
            let algorithms: Vec<Algorithm> = promised.iter().map(|promised| promised.algorithm).collect();
            self.arm(&algorithms)?;
        }
        let digests = self.digests.take().unwrap_or_else(|| Digests::new(&[]));
        let (sha256, mut checks) =
            digests.finish(promised).map_err(|mismatch| CommitError::Mismatch(mismatch.to_string()))?;
        checks.insert(0, if declared_bytes.is_some() { Check::Size } else { Check::Framing });
        Ok((sha256, checks))
    }

    /// The folder must still be the one that its path leads to, or the file would be published where nobody looks.
    fn check_place(&self) -> Result<NoOverwrite, CommitError> {
        let root = self.sink.root()?;
        let now = LocalSink::export_dir(&root, &self.project, &self.export)?;
        let now = now.map(|dir| dir.identity()).transpose().map_err(SinkError::from)?;
        if now == Some(self.dir.identity().map_err(SinkError::from)?) {
            return Ok(self.sink.no_overwrite(&root)?);
        }
        let cause =
            format!("the folder {} was moved or removed during the download", self.dir.path().display());
        Err(CommitError::Mismatch(cause))
    }
}

/// The final name is taken: by the same file, which is adopted, or by another one, which stays untouched.
fn settle(dir: &Dir, name: &str, part: &CommittedPart, synced: Synced) -> Result<(), CommitError> {
    let same = is_same(dir, name, part);
    synced.discard();
    match same.map_err(SinkError::below)? {
        true => Ok(dir.sync().map_err(SinkError::from)?),
        false => {
            let cause = format!("{} is there already with other content", dir.path().join(name).display());
            Err(CommitError::Conflict(cause))
        }
    }
}

fn is_same(dir: &Dir, name: &str, part: &CommittedPart) -> Result<bool, DurableError> {
    let Entry::Regular(file, length) = dir.entry(name)? else { return Ok(false) };
    if length != part.bytes || hash(dir, name, &file, length)?.0 != part.sha256 {
        return Ok(false);
    }
    dir.sync_entry(name, &file)?;
    Ok(true)
}
