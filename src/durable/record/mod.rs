//! Records what is done to a file system, so that a test can ask what a power cut would have left.
//! The functions have a body only in the tests of this crate.

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

/// Asked for before a sync begins: what comes later is not covered by it.
#[inline]
pub(super) fn position() -> Position {
    #[cfg(test)]
    return log::position();
    #[cfg(not(test))]
    0
}

#[inline]
pub(super) fn folder_made(parent: &OwnedFd, name: &OsStr) {
    #[cfg(test)]
    log::folder_made(parent, name);
    let _ = (parent, name);
}

/// A file was created, with or without a name.
#[inline]
pub(super) fn created(folder: &OwnedFd, name: Option<&str>, file: &OwnedFd) {
    #[cfg(test)]
    log::created(folder, name, file);
    let _ = (folder, name, file);
}

/// All of it was written, and the file's offset is behind it.
#[inline]
pub(super) fn wrote(file: &File, bytes: &[u8]) {
    #[cfg(test)]
    log::wrote(file, bytes);
    let _ = (file, bytes);
}

#[inline]
pub(super) fn cut(file: &File, bytes: u64) {
    #[cfg(test)]
    log::in_file(file, |file| Operation::Cut { file, bytes });
    let _ = (file, bytes);
}

/// A file was synced: what had been written to it by the time that the sync began.
#[inline]
pub(super) fn synced(file: &File, covers: Position) {
    #[cfg(test)]
    log::in_file(file, |file| Operation::Sync { file, covers });
    let _ = (file, covers);
}

/// A folder was synced, in the same sense.
#[inline]
pub(super) fn folder_synced(folder: &OwnedFd, covers: Position) {
    #[cfg(test)]
    log::in_file(folder, |folder| Operation::SyncFolder { folder, covers });
    let _ = (folder, covers);
}

/// A file has one more name.
#[inline]
pub(super) fn linked(folder: impl AsFd, name: &str) {
    #[cfg(test)]
    log::linked(&folder, name);
    let _ = (folder, name);
}

#[inline]
pub(super) fn renamed(folder: impl AsFd, old: &str, new: &str) {
    #[cfg(test)]
    log::renamed(&folder, old, new);
    let _ = (folder, old, new);
}

#[inline]
pub(super) fn removed(folder: &OwnedFd, name: &str) {
    #[cfg(test)]
    log::in_file(folder, |folder| Operation::Remove { folder, name: name.to_owned() });
    let _ = (folder, name);
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
