//! A working file, from its creation over fsync to its final name.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs;
use rustix::io::Errno;

use super::publish::Published;
use super::{Dir, DurableError, NoOverwrite};

/// Bytes read at a time when a file is hashed from disk.
const READ_BYTES: usize = 256 * 1024;

/// A working file that may lack anything. Dropped, it stays on disk, and nothing vouches for its bytes.
#[derive(Debug)]
#[must_use]
pub struct Partial(Working);

/// A working file whose bytes are durable.
#[derive(Debug)]
#[must_use]
pub struct Synced(Working);

#[derive(Debug)]
struct Working {
    dir: Arc<Dir>,
    name: String,
    file: File,
}

/// Why a synced file did not get its final name.
#[derive(Debug)]
pub enum CommitFailure {
    /// Something has that name already. The working file is as it was.
    Occupied(Synced),
    /// The file system failed. The working file is gone, and so is the final name.
    Failed(DurableError),
}

impl Working {
    fn failed(&self, operation: &'static str, errno: Errno) -> DurableError {
        DurableError::new(operation, self.dir.path().join(&self.name), errno)
    }

    /// Removes the working file, unless its name has passed to another one. What cannot be removed is found and removed
    /// when the export is prepared again.
    fn discard(self) {
        if self.dir.names_file(&self.name, &self.file).unwrap_or(false) {
            drop(self.dir.remove(&self.name));
        }
    }

    fn read(&self, length: u64, visit: &mut dyn FnMut(&[u8])) -> Result<(), DurableError> {
        read(&self.file, length, visit)
            .map_err(|error| DurableError::from_io("read", self.dir.path().join(&self.name), &error))
    }
}

impl Partial {
    /// Creates the working file `name`, empty; one that is left over from before is removed.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(dir: &Arc<Dir>, name: &str) -> Result<Self, DurableError> {
        dir.remove(name)?;
        let file = dir.create_file(name)?;
        Ok(Self(Working { dir: Arc::clone(dir), name: name.to_owned(), file }))
    }

    /// Opens the working file `name` and cuts it to its first `keep_bytes`; `None` where it is missing or shorter.
    ///
    /// # Errors
    /// When it is there and cannot be opened or cut.
    pub fn reopen(dir: &Arc<Dir>, name: &str, keep_bytes: u64) -> Result<Option<Self>, DurableError> {
        if !dir.exists(name)? {
            return Ok(None);
        }
        let file = dir.open_file(name)?;
        let mut partial = Self(Working { dir: Arc::clone(dir), name: name.to_owned(), file });
        let length = partial.0.file.metadata().map_err(|error| partial.io_error("look at", &error))?.len();
        if length < keep_bytes {
            return Ok(None);
        }
        partial.cut(keep_bytes)?;
        Ok(Some(partial))
    }

    /// Appends.
    ///
    /// # Errors
    /// When not all of it could be written; how much was is not known.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DurableError> {
        self.0.file.write_all(bytes).map_err(|error| self.io_error("write", &error))
    }

    /// Cuts the file to its first `keep_bytes` and goes on from there.
    ///
    /// # Errors
    /// When it cannot be cut.
    pub fn cut(&mut self, keep_bytes: u64) -> Result<(), DurableError> {
        fs::ftruncate(&self.0.file, keep_bytes).map_err(|errno| self.0.failed("cut", errno))?;
        self.0.file.seek(SeekFrom::Start(keep_bytes)).map_err(|error| self.io_error("seek in", &error))?;
        Ok(())
    }

    /// Shows `visit` the first `length` bytes, from disk.
    ///
    /// # Errors
    /// When they cannot be read, or are not there.
    pub fn read(&self, length: u64, visit: &mut dyn FnMut(&[u8])) -> Result<(), DurableError> {
        self.0.read(length, visit)
    }

    /// Makes the bytes durable. A working file that cannot be synced is thrown away: no later fsync could be believed.
    ///
    /// # Errors
    /// When fsync fails.
    pub fn sync(self) -> Result<Synced, DurableError> {
        match fs::fsync(&self.0.file) {
            Ok(()) => Ok(Synced(self.0)),
            Err(errno) => {
                let error = self.0.failed("sync", errno);
                self.0.discard();
                Err(error)
            }
        }
    }

    /// Removes the working file.
    pub fn discard(self) {
        self.0.discard();
    }

    fn io_error(&self, operation: &'static str, error: &std::io::Error) -> DurableError {
        DurableError::from_io(operation, self.0.dir.path().join(&self.0.name), error)
    }
}

impl Synced {
    /// Gives the file its final name in the same directory, never over an existing file, and makes the name durable.
    ///
    /// # Errors
    /// [`CommitFailure`]; after [`CommitFailure::Failed`] neither name is left, as far as the file system lets us.
    pub fn commit(self, final_name: &str, no_overwrite: NoOverwrite) -> Result<(), CommitFailure> {
        let working = self.0;
        // The name could have passed to another file, whose bytes nobody verified.
        if !working.dir.names_file(&working.name, &working.file).unwrap_or(false) {
            return Err(CommitFailure::Failed(working.failed("find again", Errno::STALE)));
        }
        match no_overwrite.publish(&working.dir, &working.name, final_name) {
            Ok(Published::Done) => {}
            Ok(Published::Occupied) => return Err(CommitFailure::Occupied(Self(working))),
            Err(error) => {
                working.discard();
                return Err(CommitFailure::Failed(error));
            }
        }
        working.dir.sync().map_err(|error| {
            // Whether the name would survive a power loss is not known, so it must not stay visible.
            drop(working.dir.remove(final_name));
            drop(working.dir.sync());
            CommitFailure::Failed(error)
        })
    }

    /// Leaves the working file where it is, its name durable too.
    ///
    /// # Errors
    /// When the directory cannot be synced; the working file is thrown away then.
    pub fn keep(self) -> Result<(), DurableError> {
        self.0.dir.sync().inspect_err(|_| drop(self.0.dir.remove(&self.0.name)))
    }

    /// Removes the working file.
    pub fn discard(self) {
        self.0.discard();
    }
}

/// Shows `visit` the first `length` bytes of a file.
///
/// # Errors
/// When they cannot be read, or the file is shorter.
pub(super) fn read(file: &File, length: u64, visit: &mut dyn FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < length {
        let wanted = usize::try_from(length - offset).unwrap_or(usize::MAX).min(READ_BYTES);
        match file.read_at(&mut buffer[..wanted], offset) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                visit(&buffer[..count]);
                offset += u64::try_from(count).unwrap_or_default();
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn dir() -> (tempfile::TempDir, Arc<Dir>) {
        let root = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open(root.path()).unwrap());
        (root, dir)
    }

    fn synced(dir: &Arc<Dir>, bytes: &[u8]) -> Synced {
        let mut partial = Partial::create(dir, ".work").unwrap();
        partial.write(bytes).unwrap();
        partial.sync().unwrap()
    }

    #[test]
    fn a_commit_moves_the_file_and_leaves_nothing_behind() {
        for way in [NoOverwrite::Rename, NoOverwrite::Link] {
            let (root, dir) = dir();
            synced(&dir, b"whole").commit("final", way).unwrap();
            assert_eq!(dir.names().unwrap(), ["final"], "{way:?}");
            let path = root.path().join("final");
            assert_eq!(std::fs::read(&path).unwrap(), b"whole");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        for way in [NoOverwrite::Rename, NoOverwrite::Link] {
            let (root, dir) = dir();
            File::create(root.path().join("final")).unwrap();
            let Err(CommitFailure::Occupied(synced)) = synced(&dir, b"new").commit("final", way) else {
                panic!("{way:?}: committed over an existing file");
            };
            assert_eq!(dir.names().unwrap(), [".work", "final"]);
            synced.discard();
            assert_eq!(dir.names().unwrap(), ["final"]);
            assert_eq!(std::fs::read(root.path().join("final")).unwrap(), b"");
        }
    }

    #[test]
    fn bytes_that_nobody_verified_cannot_slip_under_the_final_name() {
        let (root, dir) = dir();
        let verified = synced(&dir, b"verified");
        std::fs::remove_file(root.path().join(".work")).unwrap();
        File::create(root.path().join(".work")).unwrap();
        assert!(matches!(verified.commit("final", NoOverwrite::Rename), Err(CommitFailure::Failed(_))));
        assert_eq!(dir.names().unwrap(), [".work"], "and the other one's file stays");
    }

    #[test]
    fn what_cannot_be_synced_is_thrown_away() {
        let (root, dir) = dir();
        // A pipe refuses fsync, and a named one has a name to be thrown away.
        fs::mknodat(&*dir, ".work", fs::FileType::Fifo, fs::Mode::RUSR | fs::Mode::WUSR, 0).unwrap();
        let file = File::options().read(true).write(true).open(root.path().join(".work")).unwrap();
        let partial = Partial(Working { dir: Arc::clone(&dir), name: ".work".to_owned(), file });
        partial.sync().unwrap_err();
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn a_name_that_cannot_be_made_durable_does_not_stay_visible() {
        let (root, dir) = dir();
        let unsyncable = Arc::new(Dir::open_unsyncable(root.path()));
        let commit = synced(&unsyncable, b"whole").commit("final", NoOverwrite::Rename);
        assert!(matches!(commit, Err(CommitFailure::Failed(_))));
        assert!(dir.names().unwrap().is_empty());
        synced(&unsyncable, b"some").keep().unwrap_err();
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn a_partial_is_continued_from_where_it_is_trusted() {
        let (root, dir) = dir();
        synced(&dir, b"12345678").keep().unwrap();
        assert!(Partial::reopen(&dir, ".work", 9).unwrap().is_none(), "shorter than recorded");
        assert!(Partial::reopen(&dir, ".other", 1).unwrap().is_none());
        let mut partial = Partial::reopen(&dir, ".work", 5).unwrap().unwrap();
        let mut seen = Vec::new();
        partial.read(5, &mut |bytes| seen.extend_from_slice(bytes)).unwrap();
        assert_eq!(seen, b"12345");
        assert!(partial.read(6, &mut |_| {}).is_err(), "the rest is cut off");
        partial.write(b"abc").unwrap();
        partial.sync().unwrap().commit("final", NoOverwrite::Rename).unwrap();
        assert_eq!(std::fs::read(root.path().join("final")).unwrap(), b"12345abc");
    }
}
