//! Looks from outside at what a running program changes.
//!
//! A program may take away a file, or end, between the moment when a test learns a name and the
//! moment when the test looks at it. Every function here answers that with "gone" instead of a
//! failure. Any other error is a panic that names the path.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What a look found; `None` if the file, or the process it belongs to, is gone.
#[track_caller]
pub(crate) fn if_there<T>(path: &Path, looked: io::Result<T>) -> Option<T> {
    match looked {
        Ok(found) => Some(found),
        // The kernel says ESRCH for files in /proc of a process that has ended since they were
        // opened.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || Errno::from_io_error(&error) == Some(Errno::SRCH) =>
        {
            None
        }
        Err(error) => panic!("{} cannot be looked at: {error}", path.display()),
    }
}

/// The bytes of a file that may be gone.
#[track_caller]
pub(crate) fn read(path: &Path) -> Option<Vec<u8>> {
    if_there(path, fs::read(path))
}

/// The text of a file that may be gone.
#[track_caller]
pub(crate) fn text(path: &Path) -> Option<String> {
    if_there(path, fs::read_to_string(path))
}

/// A file that may be gone. Once it is open, it stays readable whatever becomes of its name.
#[track_caller]
pub(crate) fn open(path: &Path) -> Option<File> {
    if_there(path, File::open(path))
}

/// The metadata of a file or folder that may be gone. Symbolic links are not followed.
#[track_caller]
pub(crate) fn metadata(path: &Path) -> Option<Metadata> {
    if_there(path, fs::symlink_metadata(path))
}

/// The paths of a folder's entries; none if the folder is gone.
#[track_caller]
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = if_there(folder, fs::read_dir(folder)).into_iter().flatten();
    listed.filter_map(|entry| Some(if_there(folder, entry)?.path())).collect()
}

/// Every file and folder below this one. Symbolic links are not followed.
#[track_caller]
pub(crate) fn below(folder: &Path) -> BTreeMap<PathBuf, Metadata> {
    let mut found = BTreeMap::new();
    let mut paths = entries(folder);
    while let Some(path) = paths.pop() {
        let Some(metadata) = metadata(&path) else { continue };
        if metadata.is_dir() {
            paths.extend(entries(&path));
        }
        found.insert(path, metadata);
    }
    found
}

/// Every regular file below this folder: neither folders nor sockets.
#[track_caller]
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let files = below(folder).into_iter().filter(|(_, metadata)| metadata.is_file());
    files.map(|(path, _)| path).collect()
}
