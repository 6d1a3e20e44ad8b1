//! What the directory refuses, in words that are safe to show.

use std::path::PathBuf;

use crate::durable::{DurableError, ErrorClass};
use crate::ports::SinkFault;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The download directory or its marker is not there, or it is another one.
    #[error(
        "the download directory {} cannot be used: {found}",
        .directory.display()
    )]
    Away { directory: PathBuf, found: String },
    /// The download would use space that the operator reserved.
    #[error(
        "{} has {free_bytes} bytes free; {needed_bytes} are needed besides the {reserve_bytes} \
         that download.reserve keeps free",
        .directory.display()
    )]
    Reserve { directory: PathBuf, free_bytes: u64, needed_bytes: u64, reserve_bytes: u64 },
    /// Something that is not ours has the name of our file or folder. It stays untouched.
    #[error("{} is in the way: {found}", .path.display())]
    Conflict { path: PathBuf, found: String },
    /// Something that is not ours stands where a folder or a working file of ours belongs. It stays
    /// untouched, and work waits until it has been moved away.
    #[error(
        "{} is in the way: it is neither a folder nor a file of this program (links are not \
         followed); move it away, or mount a disk there",
        .path.display()
    )]
    Obstructed { path: PathBuf },
    /// This part, or one whose name differs only in case, is already being written.
    #[error(
        "{} is already being written, under this name or one that differs only in case",
        .path.display()
    )]
    Busy { path: PathBuf },
    /// The marker of a directory that the state does not know cannot be read.
    #[error(
        "{} is not a marker that this version can read; if the folder is the right one, remove it",
        .path.display()
    )]
    Marker { path: PathBuf },
    /// The file system can only rename over existing files.
    #[error(
        "{} is on {file_system}, which can neither rename without replacing nor make hard links: \
         choose another directory",
        .directory.display()
    )]
    Unsupported { directory: PathBuf, file_system: String },
}

impl SinkError {
    pub(super) fn conflict(path: impl Into<PathBuf>, found: impl Into<String>) -> Self {
        Self::Conflict { path: path.into(), found: found.into() }
    }

    /// An error below the download directory, where something of the wrong kind is in the way.
    pub(super) fn below(error: DurableError) -> Self {
        match error.class() {
            ErrorClass::WrongKind => Self::Obstructed { path: error.path().to_owned() },
            _ => Self::Disk(error),
        }
    }

    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the disk may be fit by itself: it is full, read-only or failing, or the process has
    /// run out of something.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Disk(error) if error.class().is_passing())
    }
}

impl From<SinkError> for SinkFault {
    fn from(error: SinkError) -> Self {
        let words = error.to_string();
        match error {
            SinkError::Conflict { .. } => Self::Conflict(words),
            SinkError::Busy { .. } => Self::Busy(words),
            SinkError::Disk(error) if error.class() == ErrorClass::TooLarge => {
                Self::TooLarge(format!(
                    "{words}; see the limit of file sizes (LimitFSIZE of the service, ulimit -f) and that of the file system"
                ))
            }
            _ => Self::Unavailable(words),
        }
    }
}
