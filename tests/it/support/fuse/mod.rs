//! A disk whose speed and moods a test decides: a file system in memory, mounted over FUSE and
//! served by threads of the test's own process, so that a `write(2)` of the program really is slow,
//! really hangs in the kernel, or fails there.
//!
//! It does what the program needs: files and folders with their modes, `O_EXCL`, links,
//! `RENAME_NOREPLACE`, fsync of both, and room without end. Locks are the kernel's own. `O_TMPFILE`
//! and `fallocate` get EOPNOTSUPP, as from many a network.
//!
//! While something hangs, so does every thread that asks for it: a test does not touch the mount
//! itself then. A [`Disk`] is dropped before the folder it is mounted on, and ends what still waits
//! for it.

mod moods;
mod tree;

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use rustix::mount::{UnmountFlags, unmount};

use moods::Moods;
pub(crate) use moods::{Hang, Operation};
use tree::Tree;

/// Threads that answer the kernel. More than the program can have operations that hang: two that
/// write, and the blocking threads of both its runtimes.
const SERVERS: usize = 40;
/// Nothing is remembered by the kernel: it asks each time.
const TTL: Duration = Duration::ZERO;
/// Free blocks of 4 KiB: 4 TiB.
const FREE_BLOCKS: u64 = 1 << 30;
/// Longest wait for the serving threads to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    place: PathBuf,
    moods: Arc<Moods>,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// Mounts an empty disk there; the folder is made. Prints why and gives `None` if FUSE is
    /// not to be had.
    pub(crate) fn mount(place: PathBuf) -> Option<Self> {
        Self::mount_with(place, Tree::new())
    }

    /// As [`Disk::mount`], of a disk to which upper and lower case are the same, and that keeps
    /// what was given first.
    pub(crate) fn mount_without_case(place: PathBuf) -> Option<Self> {
        Self::mount_with(place, Tree::without_case())
    }

    fn mount_with(place: PathBuf, tree: Tree) -> Option<Self> {
        std::fs::create_dir_all(&place).expect("a folder to mount on");
        let moods = Arc::new(Moods::default());
        let served = Served { moods: moods.clone(), tree: Mutex::new(tree) };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("batch-export-watcher-test".to_owned())];
        config.n_threads = Some(SERVERS);
        match fuser::spawn_mount(served, &place, &config) {
            Ok(session) => Some(Self { place, moods, session: Some(session) }),
            Err(error) => {
                // Not `eprintln!`, which a test that passes keeps to itself.
                let skipped = format!(
                    "SKIPPED: this test needs /dev/fuse and the right to mount (or fusermount3): {error}\n"
                );
                std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
                None
            }
        }
    }

    /// How many bytes it writes in a second, all writers together; `None` is as many as there are.
    pub(crate) fn limit(&self, bytes_per_second: Option<u64>) {
        self.moods.limit(bytes_per_second);
    }

    /// From now on these operations hang, until [`Disk::release`].
    pub(crate) fn hang(&self, operations: &[Operation], hang: Hang) {
        self.moods.hang(operations, hang);
    }

    /// Lets everything go that hangs.
    pub(crate) fn release(&self) {
        self.moods.release();
    }

    /// From now on these operations fail with this error, until [`Disk::heal`].
    pub(crate) fn fail(&self, operations: &[Operation], errno: rustix::io::Errno) {
        self.moods.fail(operations, errno.raw_os_error());
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        self.moods.heal();
    }

    /// Operations that have failed so far.
    pub(crate) fn failed(&self) -> usize {
        self.moods.failed()
    }

    /// Operations that hang now.
    pub(crate) fn hanging(&self) -> usize {
        self.moods.hanging()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.moods.retire();
        // By force, which fails whatever still waits, and lazily, because a watcher of a test that
        // failed may have files open there. Without the right to do so, by the helper that mounted
        // it.
        if unmount(&self.place, UnmountFlags::FORCE | UnmountFlags::DETACH).is_err() {
            drop(
                Command::new("fusermount3")
                    .args(["-u", "-q", "-z", "--"])
                    .arg(&self.place)
                    .status(),
            );
        }
        let Some(session) = self.session.take() else { return };
        let until = Instant::now() + END_PATIENCE;
        while !session.guard.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        if session.guard.is_finished() {
            // How it ended is of no interest any more.
            drop(session.join());
        } else {
            drop(
                std::io::stderr().write_all(b"the threads that serve a disk did not end with it\n"),
            );
        }
    }
}

/// What the kernel talks to. It may ask on every serving thread at once.
struct Served {
    moods: Arc<Moods>,
    tree: Mutex<Tree>,
}

impl Served {
    /// The tree, after whatever this operation has to wait for.
    fn enter(
        &self,
        request: &Request,
        operation: Operation,
    ) -> Result<MutexGuard<'_, Tree>, Errno> {
        self.moods.pass(operation, request.pid())?;
        Ok(self.tree.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn entry(answer: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match answer {
        Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn attributes(answer: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match answer {
        Ok(attributes) => reply.attr(&TTL, &attributes),
        Err(errno) => reply.error(errno),
    }
}

fn done(answer: Result<(), Errno>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Served {
    fn lookup(&self, request: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(
            self.enter(request, Operation::Other).and_then(|tree| tree.lookup(folder, name)),
            reply,
        );
    }

    fn getattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _file: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        attributes(
            self.enter(request, Operation::Other).and_then(|tree| tree.attributes(inode)),
            reply,
        );
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let tree = self.enter(request, Operation::Other);
        attributes(tree.and_then(|mut tree| tree.change(inode, mode, size)), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let tree = self.enter(request, Operation::Other);
        entry(tree.and_then(|mut tree| tree.make_folder(folder, name, mode)), reply);
    }

    fn create(
        &self,
        request: &Request,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let tree = self.enter(request, Operation::Other);
        match tree.and_then(|mut tree| tree.make_file(folder, name, mode)) {
            Ok(attributes) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn link(
        &self,
        request: &Request,
        inode: INodeNo,
        folder: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let tree = self.enter(request, Operation::Other);
        entry(tree.and_then(|mut tree| tree.link(inode, folder, name)), reply);
    }

    fn unlink(&self, request: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(
            self.enter(request, Operation::Other).and_then(|mut tree| tree.remove(folder, name)),
            reply,
        );
    }

    fn rmdir(&self, request: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let tree = self.enter(request, Operation::Other);
        done(tree.and_then(|mut tree| tree.remove_folder(folder, name)), reply);
    }

    fn rename(
        &self,
        request: &Request,
        folder: INodeNo,
        name: &OsStr,
        new_folder: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let tree = self.enter(request, Operation::Other);
        let (from, to) = ((folder, name), (new_folder, new_name));
        done(tree.and_then(|mut tree| tree.rename(from, to, flags.is_empty())), reply);
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.enter(request, Operation::Other) {
            Ok(tree) => match tree.read(inode, offset, size) {
                Ok(bytes) => reply.data(bytes),
                Err(errno) => reply.error(errno),
            },
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _file: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.moods.write_with_head(data.len());
        let tree = self.enter(request, Operation::Write);
        match tree.and_then(|mut tree| tree.write(inode, offset, data)) {
            Ok(bytes) => reply.written(bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(
        &self,
        request: &Request,
        _inode: INodeNo,
        _file: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        done(self.enter(request, Operation::Sync).map(drop), reply);
    }

    fn fsyncdir(
        &self,
        request: &Request,
        _inode: INodeNo,
        _file: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        done(self.enter(request, Operation::SyncFolder).map(drop), reply);
    }

    fn statfs(&self, request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        match self.enter(request, Operation::Space) {
            Ok(_) => {
                reply.statfs(
                    2 * FREE_BLOCKS,
                    FREE_BLOCKS,
                    FREE_BLOCKS,
                    1 << 20,
                    1 << 20,
                    4096,
                    255,
                    4096,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        folder: INodeNo,
        _file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries =
            match self.enter(request, Operation::Other).and_then(|tree| tree.entries(folder)) {
                Ok(entries) => entries,
                Err(errno) => return reply.error(errno),
            };
        let dots = [".", ".."].map(|name| (name.into(), folder, FileType::Directory));
        for (next, (name, inode, kind)) in (1..).zip(dots.into_iter().chain(entries)) {
            // `next` is where the kernel goes on when this entry was the last that fitted.
            if next > offset && reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
