//! A working file, from its creation to its fsync. It may have no name until it is committed.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use rustix::fs::{self, Advice};

use super::naming::{Synced, Working};
use super::{Dir, DurableError, ErrorClass, calls};
use crate::domain::modes::FileMode;

/// A working file whose bytes a power cut may lose. If dropped, it stays on disk and is not used.
#[derive(Debug)]
#[must_use]
pub struct Partial(Working);

/// A checkpoint: makes the bytes so far durable, while more are written. Blocks.
#[derive(Debug)]
#[must_use]
pub struct DataSync {
    dir: Arc<Dir>,
    name: String,
    file: Arc<File>,
    with_name: bool,
}

impl Partial {
    /// Creates the working file `name`, empty. Removes one that is left over from before.
    pub fn create(dir: &Arc<Dir>, name: &str, mode: FileMode) -> Result<Self, DurableError> {
        dir.remove(name)?;
        Ok(Self(Working::new(dir, name, true, dir.create_file(name, mode)?)))
    }

    /// Creates a working file without a name, which disappears when it is dropped, also in a crash,
    /// unless it was kept (as `name`) or committed. Only if [`super::probe_unnamed`] says so.
    pub fn create_unnamed(
        dir: &Arc<Dir>,
        name: &str,
        mode: FileMode,
    ) -> Result<Self, DurableError> {
        Ok(Self(Working::new(dir, name, false, dir.create_unnamed_file(name, mode)?)))
    }

    /// Opens the working file `name`, gives it this mode and cuts it to its first `keep_bytes`;
    /// `None` if it is missing, shorter, or has another owner.
    pub fn reopen(
        dir: &Arc<Dir>,
        name: &str,
        keep_bytes: u64,
        mode: FileMode,
    ) -> Result<Option<Self>, DurableError> {
        if !dir.exists(name)? {
            return Ok(None);
        }
        let Some(file) = dir.open_file(name, mode)? else { return Ok(None) };
        let mut partial = Self(Working::new(dir, name, true, file));
        let length =
            partial.0.file.metadata().map_err(|error| partial.io_error("look at", &error))?.len();
        if length < keep_bytes {
            return Ok(None);
        }
        partial.cut(keep_bytes)?;
        Ok(Some(partial))
    }

    /// Reserves room up to `bytes` from the file's start, without changing its length. Returns
    /// whether the file system can do that; if not, a lack of room shows when the file is written.
    pub fn preallocate(&self, bytes: u64) -> Result<bool, DurableError> {
        match calls::allocate(&self.0.file, &self.0.name, bytes) {
            Ok(()) => Ok(true),
            Err(errno) => {
                let error = self.0.failed("reserve room for", errno);
                match error.class() {
                    ErrorClass::NoSpace | ErrorClass::TooLarge => Err(error),
                    _ => Ok(false),
                }
            }
        }
    }

    /// Appends. After an error it is unknown how much was written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DurableError> {
        calls::write(&self.0.file, &self.0.name, bytes)
            .map_err(|error| self.io_error("write", &error))
    }

    /// Cuts the file to its first `keep_bytes` and continues from there.
    pub fn cut(&mut self, keep_bytes: u64) -> Result<(), DurableError> {
        calls::truncate(&self.0.file, &self.0.name, keep_bytes)
            .map_err(|errno| self.0.failed("cut", errno))?;
        (&*self.0.file)
            .seek(SeekFrom::Start(keep_bytes))
            .map_err(|error| self.io_error("seek in", &error))?;
        Ok(())
    }

    /// Shows `visit` the first `length` bytes, from disk. It fails if they are not there.
    pub fn read(&self, length: u64, visit: &mut dyn FnMut(&[u8])) -> Result<(), DurableError> {
        calls::read(&self.0.file, length, visit).map_err(|error| self.io_error("read", &error))
    }

    /// A checkpoint of the bytes so far. `None` for a file that has no name to be found again by.
    pub fn checkpoint(&mut self) -> Option<DataSync> {
        let with_name = !self.0.name_synced;
        // If that fails, the file is thrown away. So from here on the name counts as durable.
        self.0.name_synced = true;
        self.0.is_named.then(|| DataSync {
            dir: Arc::clone(&self.0.dir),
            name: self.0.name.clone(),
            file: Arc::clone(&self.0.file),
            with_name,
        })
    }

    /// Asks the kernel to begin writing to the disk, and does not wait. A group of files that are
    /// on their way already is synced with one commit of the journal instead of one each: 2,000
    /// files of 50 KB in groups of 32 took 0.38 s instead of 0.72 s on ext4.
    pub fn start_writing_back(&self) {
        // Only advice: if the kernel ignores it, the sync does all the work.
        let _ = fs::fadvise(&self.0.file, 0, None, Advice::DontNeed);
    }

    /// Makes the bytes durable, or throws the file away: no later fsync is reliable.
    pub fn sync(self) -> Result<Synced, DurableError> {
        match calls::sync(&self.0.file, &self.0.name) {
            Ok(()) => Ok(Synced::new(self.0)),
            Err(errno) => {
                let error = self.0.failed("sync", errno);
                self.0.discard();
                Err(error)
            }
        }
    }

    pub fn discard(self) {
        self.0.discard();
    }

    fn io_error(&self, operation: &'static str, error: &std::io::Error) -> DurableError {
        DurableError::from_io(operation, self.0.dir.path().join(&self.0.name), error)
    }
}

impl DataSync {
    /// Syncs, the first time with the file's name. If that fails, throw the file away.
    pub fn run(self) -> Result<(), DurableError> {
        let failed = |errno| DurableError::new("sync", self.dir.path().join(&self.name), errno);
        calls::sync_data(&self.file, &self.name).map_err(failed)?;
        if self.with_name { self.dir.sync_name(&self.name) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NoOverwrite;
    use super::super::naming::tests::{dir, synced};
    use super::*;

    #[test]
    fn a_file_that_cannot_be_synced_is_deleted() {
        let (root, dir) = dir();
        // A pipe refuses fsync, and a named one has a name to be thrown away.
        fs::mknodat(&*dir, ".work", fs::FileType::Fifo, fs::Mode::RUSR | fs::Mode::WUSR, 0)
            .unwrap();
        let file = File::options().read(true).write(true).open(root.path().join(".work")).unwrap();
        let partial = Partial(Working::new(&dir, ".work", true, file));
        partial.sync().unwrap_err();
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn a_checkpoint_syncs_while_more_is_written() {
        let (root, dir) = dir();
        let mut partial = Partial::create(&dir, ".work", FileMode::PRIVATE).unwrap();
        partial.preallocate(1 << 20).unwrap();
        partial.write(b"12345").unwrap();
        let first = partial.checkpoint().unwrap();
        partial.write(b"678").unwrap();
        first.run().unwrap();
        partial.checkpoint().unwrap().run().unwrap();
        assert_eq!(std::fs::read(root.path().join(".work")).unwrap(), b"12345678");
    }

    #[test]
    fn a_partial_is_continued_from_its_trusted_bytes() {
        let (root, dir) = dir();
        synced(&dir, b"12345678").keep().unwrap();
        for (name, keep_bytes, why) in [(".work", 9, "too short"), (".other", 1, "missing")] {
            let reopened = Partial::reopen(&dir, name, keep_bytes, FileMode::PRIVATE).unwrap();
            assert!(reopened.is_none(), "{why}");
        }
        let mut partial = Partial::reopen(&dir, ".work", 5, FileMode::PRIVATE).unwrap().unwrap();
        let mut seen = Vec::new();
        partial.read(5, &mut |bytes| seen.extend_from_slice(bytes)).unwrap();
        assert_eq!(seen, b"12345");
        assert!(partial.read(6, &mut |_| {}).is_err(), "the rest is cut off");
        partial.write(b"abc").unwrap();
        partial.sync().unwrap().commit("final", NoOverwrite::Rename).unwrap();
        assert_eq!(std::fs::read(root.path().join("final")).unwrap(), b"12345abc");
    }
}
