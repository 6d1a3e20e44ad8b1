//! An open directory. Names are resolved against its descriptor, not against its path.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::mode::{correct, settle_file_mode};
use super::{DurableError, calls};
use crate::domain::modes::{DirectoryMode, FileMode};

#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// The identity of a directory, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

#[derive(Debug)]
pub enum Entry {
    Absent,
    /// A regular file, opened for reading, and its length in bytes.
    Regular(File, u64),
    /// A symbolic link, a folder, a pipe or whatever else.
    Other,
}

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens the directory that the operator named; links in the path are followed.
    pub fn open(path: &Path) -> Result<Self, DurableError> {
        calls::open(fs::CWD, path, OPEN_DIRECTORY)
            .map(|fd| Self { fd, path: path.to_owned() })
            .map_err(|errno| DurableError::new("open folder", path, errno))
    }

    /// A directory in which everything works but fsync.
    #[cfg(test)]
    pub(super) fn open_unsyncable(path: &Path) -> Self {
        let fd = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .unwrap();
        Self { fd, path: path.to_owned() }
    }

    /// Opens a directory and durably makes what is missing of its path: the directory itself with
    /// `mode`, its parents with `parents_mode`.
    pub fn create_all(
        path: &Path,
        mode: DirectoryMode,
        parents_mode: DirectoryMode,
    ) -> Result<Self, DurableError> {
        match Self::open(path) {
            Err(error) if error.class() == super::ErrorClass::Missing => {}
            opened => return opened,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Self::open(path);
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let parent = Self::create_all(parent, parents_mode, parents_mode)?;
        parent.make(name, mode)?;
        parent.sync()?;
        Self::open(path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory `name` in this one, if there is one.
    pub fn child(&self, name: &str) -> Result<Option<Self>, DurableError> {
        let path = self.path.join(name);
        match calls::open(self.fd.as_fd(), Path::new(name), OPEN_DIRECTORY | OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Some(Self { fd, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(DurableError::new("open folder", path, errno)),
        }
    }

    /// Opens or makes the directory `name` in this one. Its name is durable on return.
    pub fn make_child(&self, name: &str, mode: DirectoryMode) -> Result<Self, DurableError> {
        self.make(OsStr::new(name), mode)?;
        // If it was there before, the process that made it may have died before this.
        self.sync()?;
        let missing = || DurableError::new("open folder", self.path.join(name), Errno::NOENT);
        self.child(name)?.ok_or_else(missing)
    }

    fn make(&self, name: &OsStr, mode: DirectoryMode) -> Result<(), DurableError> {
        let failed = |errno| DurableError::new("create folder", self.path.join(name), errno);
        match calls::make_folder(&self.fd, name, Mode::from_raw_mode(mode.bits())) {
            Ok(()) => self.settle_mode(name, mode).map_err(failed),
            // An existing folder keeps the mode that its owner gave it.
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Gives a new folder the bits that a umask or a default ACL withheld.
    fn settle_mode(&self, name: &OsStr, mode: DirectoryMode) -> rustix::io::Result<()> {
        let found = fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let chmod = |mode| fs::chmodat(&self.fd, name, mode, AtFlags::empty());
        correct(Mode::from_raw_mode(found.st_mode), Mode::from_raw_mode(mode.bits()), chmod)
    }

    pub fn sync(&self) -> Result<(), DurableError> {
        self.sync_name("")
    }

    /// As [`Dir::sync`], for the sake of this name.
    pub(super) fn sync_name(&self, name: &str) -> Result<(), DurableError> {
        calls::sync_folder(&self.fd, name)
            .map_err(|errno| DurableError::new("sync folder", &self.path, errno))
    }

    /// The names in this directory that are UTF-8, without `.` and `..`, sorted.
    pub fn names(&self) -> Result<Vec<String>, DurableError> {
        let failed = |errno| DurableError::new("list folder", &self.path, errno);
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(failed)? {
            match entry.map_err(failed)?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    pub fn entry(&self, name: &str) -> Result<Entry, DurableError> {
        let failed = |errno| DurableError::new("open", self.path.join(name), errno);
        // Non-blocking, because opening a pipe without a writer would block for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match calls::open(self.fd.as_fd(), Path::new(name), flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Entry::Absent),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Entry::Other),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = fs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Entry::Other);
        }
        Ok(Entry::Regular(File::from(fd), u64::try_from(stat.st_size).unwrap_or_default()))
    }

    pub fn exists(&self, name: &str) -> Result<bool, DurableError> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(DurableError::new("look at", self.path.join(name), errno)),
        }
    }

    /// Removes the file `name`; whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool, DurableError> {
        calls::remove(&self.fd, name)
            .map_err(|errno| DurableError::new("remove", self.path.join(name), errno))
    }

    /// Makes the bytes of a file durable that another program wrote.
    pub fn sync_entry(&self, name: &str, file: &File) -> Result<(), DurableError> {
        calls::sync(file, name)
            .map_err(|errno| DurableError::new("sync", self.path.join(name), errno))
    }

    /// Shows `visit` the first `length` bytes of an existing file. It fails if they are not there.
    pub fn read_entry(
        &self,
        name: &str,
        file: &File,
        length: u64,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DurableError> {
        calls::read(file, length, visit)
            .map_err(|error| DurableError::from_io("read", self.path.join(name), &error))
    }

    /// Bytes that this process may still use on the file system.
    pub fn free_bytes(&self) -> Result<u64, DurableError> {
        calls::free_bytes(&self.fd, &self.path)
            .map_err(|errno| DurableError::new("query the free space of", &self.path, errno))
    }

    /// The file system's name if it is a usual one, else its number in Linux.
    pub fn file_system(&self) -> String {
        let Ok(stat) = fs::fstatfs(&self.fd) else { return "unknown file system".to_owned() };
        // linux/magic.h, the file systems that are known to lack a rename flag.
        match stat.f_type {
            0x6969 => "nfs".to_owned(),
            0x6573_5546 => "fuse".to_owned(),
            0x4d44 => "vfat".to_owned(),
            0x0102_1997 => "9p".to_owned(),
            other => format!("file system type {other:#x}"),
        }
    }

    /// An error about this directory, for a fault that is not a failed system call.
    pub fn failed(&self, operation: &'static str, errno: Errno) -> DurableError {
        DurableError::new(operation, &self.path, errno)
    }

    pub fn identity(&self) -> Result<Identity, DurableError> {
        fs::fstat(&self.fd)
            .map(|stat| Identity::of(&stat))
            .map_err(|errno| DurableError::new("look at", &self.path, errno))
    }

    /// Makes `name` a durable empty file, 0600, for a library. It must not exist yet.
    pub fn create_empty(&self, name: &str) -> Result<(), DurableError> {
        drop(self.create_file(name, FileMode::PRIVATE)?);
        self.sync()
    }

    /// Creates the file `name`, open for reading and writing; there must be none yet.
    pub(super) fn create_file(&self, name: &str, mode: FileMode) -> Result<File, DurableError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        self.create(name, flags, mode)
            .map_err(|errno| DurableError::new("create", self.path.join(name), errno))
    }

    /// Creates a file without a name, which is gone when it is closed. `name` is what it may get.
    pub(super) fn create_unnamed_file(
        &self,
        name: &str,
        mode: FileMode,
    ) -> Result<File, DurableError> {
        self.create(name, OFlags::TMPFILE, mode)
            .map_err(|errno| DurableError::new("create a file in", &self.path, errno))
    }

    fn create(&self, name: &str, flags: OFlags, mode: FileMode) -> rustix::io::Result<File> {
        let mode = Mode::from_raw_mode(mode.bits());
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = calls::create(&self.fd, name, flags, mode)?;
        settle_file_mode(&fd, mode)?;
        Ok(File::from(fd))
    }

    /// Gives a file without a name this one. Returns whether the name was free.
    pub(super) fn name_file(&self, file: &File, name: &str) -> Result<bool, DurableError> {
        match calls::link_file(file, &self.fd, name) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(DurableError::new("name", self.path.join(name), errno)),
        }
    }

    /// Opens the regular file `name` for reading and writing with this mode; `None` if another
    /// owner does not let the mode change.
    pub(super) fn open_file(
        &self,
        name: &str,
        mode: FileMode,
    ) -> Result<Option<File>, DurableError> {
        let failed = |errno| DurableError::new("open", self.path.join(name), errno);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = calls::open(self.fd.as_fd(), Path::new(name), flags).map_err(failed)?;
        let stat = fs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::ISDIR));
        }
        match settle_file_mode(&fd, Mode::from_raw_mode(mode.bits())) {
            Ok(()) => Ok(Some(File::from(fd))),
            Err(Errno::PERM) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Whether `name` is a name of exactly this open file.
    pub(super) fn names_file(&self, name: &str, file: &File) -> io::Result<bool> {
        let named = fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Identity::of(&named) == Identity::of(&fs::fstat(file)?))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Identity {
    fn of(stat: &fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::durable::ErrorClass;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn missing_folders_are_private() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        let dir = Dir::create_all(&path, DirectoryMode::PRIVATE, DirectoryMode::PRIVATE).unwrap();
        dir.make_child("d", DirectoryMode::PRIVATE).unwrap();
        for made in ["a", "a/b", "a/b/c", "a/b/c/d"] {
            assert_eq!(mode(&root.path().join(made)), 0o700, "{made}");
        }
    }

    #[test]
    fn a_folder_and_its_parents_get_the_requested_modes() {
        let root = tempfile::tempdir().unwrap();
        let shared = DirectoryMode::try_new(0o750).unwrap();
        Dir::create_all(&root.path().join("a/b"), DirectoryMode::PRIVATE, shared).unwrap();
        let dir =
            Dir::create_all(&root.path().join("a/c"), shared, DirectoryMode::PRIVATE).unwrap();
        dir.make_child("d", shared).unwrap();
        for (made, expected) in [("a", 0o750), ("a/b", 0o700), ("a/c", 0o750), ("a/c/d", 0o750)] {
            assert_eq!(mode(&root.path().join(made)), expected, "{made}");
        }
    }

    #[test]
    fn folders_below_a_setgid_one_inherit_the_bit_and_keep_it() {
        let root = tempfile::tempdir().unwrap();
        let set = |name: &str, bits| {
            std::fs::set_permissions(root.path().join(name), std::fs::Permissions::from_mode(bits))
                .unwrap();
        };
        set(".", 0o2700);
        let dir = Dir::open(root.path()).unwrap();
        let shared = DirectoryMode::try_new(0o750).unwrap();
        dir.make_child("a", shared).unwrap().make_child("b", shared).unwrap();
        let made = ["a", "a/b"].map(|name| mode(&root.path().join(name)));
        assert_eq!(made, [0o2750, 0o2750]);
        // As a umask of 077 would have left it.
        set("a", 0o2700);
        dir.settle_mode(OsStr::new("a"), shared).unwrap();
        assert_eq!(mode(&root.path().join("a")), 0o2750);
    }

    #[test]
    fn a_file_has_the_requested_mode_when_created_and_when_reopened() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let shared = FileMode::try_new(0o640).unwrap();
        drop(dir.create_file("shared", shared).unwrap());
        let unnamed = dir.create_unnamed_file("unnamed", shared).unwrap();
        assert!(dir.name_file(&unnamed, "unnamed").unwrap());
        for name in ["shared", "unnamed"] {
            assert_eq!(mode(&root.path().join(name)), 0o640, "{name}");
        }
        dir.open_file("shared", FileMode::PRIVATE).unwrap().unwrap();
        assert_eq!(mode(&root.path().join("shared")), 0o600);
        dir.create_empty("private").unwrap();
        assert_eq!(mode(&root.path().join("private")), 0o600);
    }

    #[test]
    fn an_existing_folder_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("shared");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        Dir::open(root.path()).unwrap().make_child("shared", DirectoryMode::PRIVATE).unwrap();
        assert_eq!(mode(&path), 0o750);
    }

    #[test]
    fn links_and_files_are_not_taken_for_folders() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", root.path().join("link")).unwrap();
        File::create(root.path().join("file")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        for name in ["link", "file"] {
            assert_eq!(dir.child(name).unwrap_err().class(), ErrorClass::WrongKind, "{name}");
            let error = dir.make_child(name, DirectoryMode::PRIVATE).unwrap_err();
            assert_eq!(error.class(), ErrorClass::WrongKind, "{name}");
        }
    }

    #[test]
    fn only_a_regular_file_is_a_regular_entry() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        std::fs::create_dir(root.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("file", root.path().join("link")).unwrap();
        fs::mknodat(&dir, "pipe", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        io::Write::write_all(&mut dir.create_file("file", FileMode::PRIVATE).unwrap(), b"12345")
            .unwrap();
        assert!(matches!(dir.entry("file").unwrap(), Entry::Regular(_, 5)));
        assert!(matches!(dir.entry("nothing").unwrap(), Entry::Absent));
        for name in ["folder", "link", "pipe"] {
            assert!(matches!(dir.entry(name).unwrap(), Entry::Other), "{name}");
            assert!(dir.open_file(name, FileMode::PRIVATE).is_err(), "{name}");
        }
        assert_eq!(dir.names().unwrap(), ["file", "folder", "link", "pipe"]);
    }
}
