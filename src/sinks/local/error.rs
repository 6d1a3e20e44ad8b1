//! What keeps bytes from getting to their place, in words that are safe to show.

use std::path::{Path, PathBuf};

use crate::durable::{DurableError, ErrorClass};

/// The sink could not do it. Ask [`SinkError::is_conflict`] first: a conflict is the export's own,
/// all else is the disk's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The file system refused.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The download directory or its marker is not there, or it is another one.
    #[error("{}: {found}: is its file system not mounted?", .directory.display())]
    Away {
        /// The download directory.
        directory: PathBuf,
        /// What was found instead.
        found: &'static str,
    },
    /// Going on would use space that the operator reserved.
    #[error(
        "{} has {free_bytes} bytes free; {needed_bytes} are needed beside the {reserve_bytes} that are reserved",
        .directory.display()
    )]
    Reserve {
        /// The download directory.
        directory: PathBuf,
        /// Bytes free.
        free_bytes: u64,
        /// Bytes that are to be written.
        needed_bytes: u64,
        /// Bytes that are not to be used.
        reserve_bytes: u64,
    },
    /// Something that is not ours stands where our file or folder belongs. It stays untouched.
    #[error("{} is in the way: {found}", .path.display())]
    Conflict {
        /// What stands in the way.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// The part is being written already, or another one whose name differs in case alone.
    #[error("{} is being written, under this name or one that differs in case alone", .path.display())]
    Busy {
        /// The part's file.
        path: PathBuf,
    },
    /// The marker cannot be read as one. Only from opening a directory that the state does not
    /// know.
    #[error(
        "{} is not a marker that this version can read: remove it if this is the right folder",
        .path.display()
    )]
    Marker {
        /// The marker file.
        path: PathBuf,
    },
    /// The file system can only rename over existing files.
    #[error(
        "{} lies on {file_system}, which can neither rename without replacing nor make hard links: choose another directory",
        .directory.display()
    )]
    Unsupported {
        /// The download directory.
        directory: PathBuf,
        /// The file system.
        file_system: String,
    },
}

impl SinkError {
    pub(super) fn conflict(path: impl Into<PathBuf>, found: impl Into<String>) -> Self {
        Self::Conflict { path: path.into(), found: found.into() }
    }

    /// An error below the download directory: there something of the wrong kind is a conflict, not
    /// a fault of the disk.
    pub(super) fn below(error: DurableError) -> Self {
        match error.class() {
            ErrorClass::WrongKind => {
                Self::conflict(error.path(), "neither a file nor a folder of ours")
            }
            _ => Self::Disk(error),
        }
    }

    /// Whether only this export is hit, for good. Otherwise the disk is, everything waits and it is
    /// looked at again, but for [`SinkError::is_busy`].
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether it is over as soon as another part has come to its end.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// The path it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Disk(error) => error.path(),
            Self::Conflict { path, .. } | Self::Busy { path } | Self::Marker { path } => path,
            Self::Away { directory, .. }
            | Self::Reserve { directory, .. }
            | Self::Unsupported { directory, .. } => directory,
        }
    }
}

/// Why a part was not committed. Its partial is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The bytes are not the file that was promised; fetch it again.
    #[error("{0}")]
    Mismatch(String),
    /// Something else has the final name; it stays untouched.
    #[error("{0}")]
    Conflict(String),
    /// The disk.
    #[error(transparent)]
    Disk(SinkError),
}

impl From<SinkError> for CommitError {
    fn from(error: SinkError) -> Self {
        if error.is_conflict() { Self::Conflict(error.to_string()) } else { Self::Disk(error) }
    }
}
