//! Every system call on a file's way to its final name; each is a failpoint, named after its file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::record;
use crate::failpoint;

fn call<T>(
    operation: &'static str,
    name: &str,
    run: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    failpoint::before(operation, name)?;
    let result = run();
    failpoint::after(operation, name);
    result
}

/// Opens a path, or a name in a directory.
pub(super) fn open(at: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    call("open", &path.to_string_lossy(), || fs::openat(at, path, flags, Mode::empty()))
}

/// Creates the file `name`, or an unnamed file that could get this name.
pub(super) fn create(
    dir: &OwnedFd,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let path = if flags.contains(OFlags::TMPFILE) { "." } else { name };
    let name_kept = (path == name).then_some(name);
    call("create", name, || fs::openat(dir, path, flags, mode))
        .inspect(|file| record::created(dir, name_kept, file))
}

pub(super) fn make_folder(dir: &OwnedFd, name: &OsStr, mode: Mode) -> rustix::io::Result<()> {
    call("mkdir", &name.to_string_lossy(), || fs::mkdirat(dir, name, mode))
        .inspect(|()| record::folder_made(dir, name))
}

/// Writes all of it at the file's offset. After an error it is unknown how much was written.
pub(super) fn write(mut file: &File, name: &str, bytes: &[u8]) -> io::Result<()> {
    if let Err(errno) = failpoint::before("write", name) {
        file.write_all(&bytes[..bytes.len() / 2])?;
        return Err(errno.into());
    }
    let written = file.write_all(bytes).inspect(|()| record::wrote(file, bytes));
    failpoint::after("write", name);
    written
}

pub(super) fn truncate(file: &File, name: &str, bytes: u64) -> rustix::io::Result<()> {
    call("truncate", name, || fs::ftruncate(file, bytes)).inspect(|()| record::cut(file, bytes))
}

/// Reserves room from the file's start, without changing its length.
pub(super) fn allocate(file: &File, name: &str, bytes: u64) -> rustix::io::Result<()> {
    call("allocate", name, || fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes))
}

pub(super) fn sync(file: &File, name: &str) -> rustix::io::Result<()> {
    let covers = record::position();
    call("sync", name, || fs::fsync(file)).inspect(|()| record::synced(file, covers))
}

pub(super) fn sync_data(file: &File, name: &str) -> rustix::io::Result<()> {
    let covers = record::position();
    call("datasync", name, || fs::fdatasync(file)).inspect(|()| record::synced(file, covers))
}

/// fsync of a directory, to make a name in it durable.
pub(super) fn sync_folder(dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let covers = record::position();
    call("dirsync", name, || fs::fsync(dir)).inspect(|()| record::folder_synced(dir, covers))
}

/// Gives an open file a name, which must be free.
pub(super) fn link_file(file: &File, dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    // Through /proc: linkat on the descriptor itself needs a capability on most kernels (open(2)).
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    call("link", name, || fs::linkat(fs::CWD, descriptor, dir, name, AtFlags::SYMLINK_FOLLOW))
        .inspect(|()| record::linked(dir, name))
}

/// Gives a file a second name, which must be free.
pub(super) fn link(dir: impl AsFd + Copy, old: &str, new: &str) -> rustix::io::Result<()> {
    call("link", new, || fs::linkat(dir, old, dir, new, AtFlags::empty()))
        .inspect(|()| record::linked(dir, new))
}

/// Renames a file; the new name must be free.
pub(super) fn rename(dir: impl AsFd + Copy, old: &str, new: &str) -> rustix::io::Result<()> {
    record::knows_rename(dir)?;
    call("rename", new, || fs::renameat_with(dir, old, dir, new, RenameFlags::NOREPLACE))
        .inspect(|()| record::renamed(dir, old, new))
}

/// Removes a name; returns whether there was one.
pub(super) fn remove(dir: &OwnedFd, name: &str) -> rustix::io::Result<bool> {
    match call("unlink", name, || fs::unlinkat(dir, name, AtFlags::empty())) {
        Ok(()) => {
            record::removed(dir, name);
            Ok(true)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Bytes that this process can still use on the file system.
pub(super) fn free_bytes(dir: &OwnedFd, path: &Path) -> rustix::io::Result<u64> {
    let stat = call("statvfs", &path.to_string_lossy(), || fs::fstatvfs(dir))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes read at a time when a file is hashed from disk.
const READ_BYTES: usize = 256 * 1024;

/// Shows `visit` the first `length` bytes of a file. It fails if they are not there.
pub(super) fn read(file: &File, length: u64, visit: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < length {
        let wanted = usize::try_from(length - offset).unwrap_or(usize::MAX).min(READ_BYTES);
        match file.read_at(&mut buffer[..wanted], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                visit(&buffer[..count]);
                offset += u64::try_from(count).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
