//! A failed file system operation: operation, path, and the class that decides what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} {}: {}", .path.display(), io::Error::from(*.errno))]
pub struct DurableError {
    operation: &'static str,
    path: PathBuf,
    errno: Errno,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    NoSpace,
    /// The file would be larger than the file system or this process's limit allows.
    TooLarge,
    ReadOnly,
    Io,
    Occupied,
    Missing,
    /// A link, a folder, or a file instead of a folder has that name.
    WrongKind,
    Denied,
    /// This process, or the machine, has run out of descriptors or memory.
    Exhausted,
    /// The file system does not know the operation.
    Unsupported,
    Other,
}

impl DurableError {
    pub(super) fn new(operation: &'static str, path: impl Into<PathBuf>, errno: Errno) -> Self {
        Self { operation, path: path.into(), errno }
    }

    pub(super) fn from_io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        error: &io::Error,
    ) -> Self {
        Self::new(operation, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn class(&self) -> ErrorClass {
        ErrorClass::of(self.errno)
    }

    pub fn is_space(&self) -> bool {
        self.class() == ErrorClass::NoSpace
    }
}

impl ErrorClass {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            Errno::FBIG => Self::TooLarge,
            Errno::ROFS => Self::ReadOnly,
            Errno::IO => Self::Io,
            Errno::EXIST | Errno::NOTEMPTY => Self::Occupied,
            Errno::NOENT => Self::Missing,
            // NXIO: a socket, or a pipe without a reader.
            Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO => Self::WrongKind,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::Exhausted,
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => Self::Unsupported,
            _ => Self::Other,
        }
    }

    /// What an error of another library is about.
    pub fn of_io(error: &io::Error) -> Self {
        Errno::from_io_error(error).map_or(Self::Other, Self::of)
    }

    /// Whether the same may work later, although nobody changes what this program was told.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::NoSpace | Self::ReadOnly | Self::Io | Self::Exhausted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_operation_path_and_cause() {
        let error = DurableError::new("create", "/srv/x", Errno::NOSPC);
        let words = "cannot create /srv/x: No space left on device (os error 28)";
        assert_eq!(error.to_string(), words);
        assert!(error.is_space());
    }

    #[test]
    fn quota_counts_as_space_and_descriptors_do_not() {
        let class = |errno| DurableError::new("create", "/x", errno).class();
        assert_eq!(class(Errno::DQUOT), ErrorClass::NoSpace);
        assert_eq!(class(Errno::MFILE), ErrorClass::Exhausted);
        assert_eq!(class(Errno::EXIST), ErrorClass::Occupied);
        assert_eq!(class(Errno::BUSY), ErrorClass::Other);
    }
}
