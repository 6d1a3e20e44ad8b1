//! Records what is done to a file system, so that a test can ask what a power cut would leave. The
//! functions have a body only in the tests of this crate.

#[cfg(test)]
mod log;

use std::any::Any;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

#[cfg(test)]
pub(crate) use log::{Log, Node, Operation, Recording};

/// How much had been done by then.
pub(super) type Position = u64;

/// Asked for before a sync begins: the sync does not cover what comes later.
#[inline]
pub(super) fn position() -> Position {
    #[cfg(test)]
    return log::position();
    #[cfg(not(test))]
    0
}

/// Functions that do this in the tests of this crate, and nothing elsewhere.
macro_rules! recorded {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),*) = $record:expr;)*) => {$(
        $(#[$doc])*
        #[inline]
        pub(super) fn $name($($argument: $kind),*) {
            #[cfg(test)]
            $record;
            let _ = ($($argument,)*);
        }
    )*};
}

recorded! {
    fn folder_made(parent: &OwnedFd, name: &OsStr) = log::folder_made(parent, name);
    /// A file was created, with or without a name.
    fn created(folder: &OwnedFd, name: Option<&str>, file: &OwnedFd) = log::created(folder, name, file);
    /// All of it was written, and the file's offset is behind it.
    fn wrote(file: &File, bytes: &[u8]) = log::wrote(file, bytes);
    fn cut(file: &File, bytes: u64) = log::in_file(file, |file| Operation::Cut { file, bytes });
    /// What had been written to the file when the sync began is durable.
    fn synced(file: &File, covers: Position) =
        log::in_file(file, |file| Operation::Sync { file, covers });
    fn folder_synced(folder: &OwnedFd, covers: Position) =
        log::in_file(folder, |folder| Operation::SyncFolder { folder, covers });
    /// A file has one more name.
    fn linked(folder: impl AsFd, name: &str) = log::linked(&folder, name);
    fn renamed(folder: impl AsFd, old: &str, new: &str) = log::renamed(&folder, old, new);
    fn removed(folder: &OwnedFd, name: &str) =
        log::in_file(folder, |folder| Operation::Remove { folder, name: name.to_owned() });
}

/// Whether a file system knows `RENAME_NOREPLACE`.
#[inline]
pub(super) fn knows_rename(folder: impl AsFd) -> Result<(), Errno> {
    #[cfg(test)]
    log::knows_rename(&folder)?;
    let _ = folder;
    Ok(())
}

/// Notes another event in the recording of this place.
#[inline]
pub(crate) fn note<T: Any + Send + Sync>(place: &Path, note: impl FnOnce() -> T) {
    #[cfg(test)]
    log::note(place, || std::sync::Arc::new(note()));
    #[cfg(not(test))]
    drop((place, note));
}
