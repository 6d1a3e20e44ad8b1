//! Complete and checked parts get their final names: steps 4 to 6 of the order in `directory`. A
//! group of parts shares one check and one sync of each folder.

use std::fmt;
use std::sync::Arc;

use super::SinkError;
use super::adopt::hash;
use super::directory::{LocalSink, Reservation};
use crate::domain::ids::ExportPath;
use crate::domain::part::CommittedPart;
use crate::durable::{
    CommitFailure, Dir, DurableError, Entry, Named, NoOverwrite, Partial, Synced,
};
use crate::ports::SinkFault;

/// A complete part that matches all that was promised. If dropped, its partial is not used again.
#[must_use]
pub struct FinishedPart {
    pub(super) sink: LocalSink,
    pub(super) at: ExportPath,
    pub(super) dir: Arc<Dir>,
    pub(super) file: File,
    pub(super) part: CommittedPart,
    /// Held until the part has its name or is gone.
    pub(super) reservation: Reservation,
}

pub(super) enum File {
    Unsynced(Partial),
    Synced(Synced),
}

impl fmt::Debug for FinishedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishedPart").field("part", &self.part).finish_non_exhaustive()
    }
}

impl FinishedPart {
    fn is_in_folder_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.dir, &other.dir) && self.at == other.at
    }
}

impl File {
    /// Makes its bytes durable: step 4. After an error the partial is gone.
    pub(super) fn sync(self) -> Result<Synced, SinkError> {
        match self {
            Self::Unsynced(partial) => Ok(partial.sync()?),
            Self::Synced(synced) => Ok(synced),
        }
    }

    fn discard(self) {
        match self {
            Self::Unsynced(partial) => partial.discard(),
            Self::Synced(synced) => synced.discard(),
        }
    }
}

type Outcomes = Vec<Option<Result<CommittedPart, SinkFault>>>;

impl LocalSink {
    /// Gives each part of a group its final name, durable on return. A file that already has the
    /// name is adopted if it is identical. The outcomes are in the order of the group. The partial
    /// of a failed part is gone.
    pub(super) fn commit(&self, group: Vec<FinishedPart>) -> Vec<Result<CommittedPart, SinkFault>> {
        if group.len() > 1 {
            for finished in &group {
                if let File::Unsynced(partial) = &finished.file {
                    partial.start_writing_back();
                }
            }
        }
        let mut outcomes: Outcomes = group.iter().map(|_| None).collect();
        let mut left: Vec<(usize, FinishedPart)> = group.into_iter().enumerate().collect();
        while let Some((place, first)) = left.pop() {
            let (mut folder, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|(_, finished)| finished.is_in_folder_of(&first));
            folder.push((place, first));
            left = others;
            self.commit_folder(folder, &mut outcomes);
        }
        let lost = || Err(SinkFault::Mismatch("the part was lost in its group".to_owned()));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(lost)).collect()
    }

    /// The parts of a group that lie in one folder.
    fn commit_folder(&self, folder: Vec<(usize, FinishedPart)>, outcomes: &mut Outcomes) {
        let Some((_, first)) = folder.first() else { return };
        let no_overwrite = match self.check_place(first) {
            Ok(no_overwrite) => no_overwrite,
            Err(error) => {
                self.forget_export_dir(&first.at);
                for (place, finished) in folder {
                    finished.file.discard();
                    outcomes[place] = Some(Err(error.clone()));
                }
                return;
            }
        };
        let mut synced = Vec::with_capacity(folder.len());
        for (place, finished) in folder {
            match finished.file.sync() {
                Ok(file) => {
                    synced.push((place, finished.dir, file, finished.part, finished.reservation));
                }
                Err(error) => outcomes[place] = Some(Err(error.into())),
            }
        }
        let mut named = Vec::with_capacity(synced.len());
        let mut waiting = Vec::with_capacity(synced.len());
        for (place, dir, file, part, reservation) in synced {
            match name(&dir, file, &part, no_overwrite) {
                Ok(Some(name)) => {
                    named.push(name);
                    waiting.push((place, part, reservation));
                }
                Ok(None) => outcomes[place] = Some(Ok(part)),
                Err(error) => outcomes[place] = Some(Err(error)),
            }
        }
        let settled = Named::settle(named).map_err(|error| SinkFault::from(SinkError::from(error)));
        for (place, part, _reservation) in waiting {
            outcomes[place] = Some(settled.clone().map(|()| part));
        }
    }

    /// The folder must still be at its path, or no consumer would find the file.
    fn check_place(&self, finished: &FinishedPart) -> Result<NoOverwrite, SinkFault> {
        let root = self.root()?;
        let now = LocalSink::export_dir(&root, &finished.at)?;
        let now = now.map(|dir| dir.identity()).transpose().map_err(SinkError::from)?;
        if now == Some(finished.dir.identity().map_err(SinkError::from)?) {
            return Ok(self.no_overwrite(&root)?);
        }
        let path = finished.dir.path().display();
        let cause = format!("the folder {path} was moved or removed during the download");
        Err(SinkFault::Mismatch(cause))
    }
}

/// Gives a file its final name; `None` if an identical one already has it, durably.
fn name(
    dir: &Dir,
    file: Synced,
    part: &CommittedPart,
    no_overwrite: NoOverwrite,
) -> Result<Option<Named>, SinkFault> {
    let name = part.key.file_name();
    match file.name(&name, no_overwrite) {
        Ok(named) => Ok(Some(named)),
        Err(CommitFailure::Occupied(synced)) => settle(dir, &name, part, synced).map(|()| None),
        Err(CommitFailure::Failed(error)) => Err(SinkError::below(error).into()),
    }
}

/// The final name is taken. An identical file is adopted; another one stays untouched.
fn settle(dir: &Dir, name: &str, part: &CommittedPart, synced: Synced) -> Result<(), SinkFault> {
    let same = is_same(dir, name, part);
    synced.discard();
    match same.map_err(SinkError::below)? {
        true => Ok(dir.sync().map_err(SinkError::from)?),
        false => {
            let path = dir.path().join(name);
            let cause = format!("{} already exists with other content", path.display());
            Err(SinkFault::Conflict(cause))
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
