//! Recordings: every operation below a folder, in order. Each file and folder has a unique number.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::Position;

/// A file or a folder; 0 is the one that is recorded.
pub(crate) type Node = usize;

#[derive(Clone)]
pub(crate) enum Operation {
    MakeFolder { parent: Node, name: String, folder: Node },
    Create { folder: Node, name: Option<String>, file: Node },
    Write { file: Node, offset: u64, bytes: Vec<u8> },
    Cut { file: Node, bytes: u64 },
    Sync { file: Node, covers: Position },
    SyncFolder { folder: Node, covers: Position },
    Link { folder: Node, name: String, file: Node },
    Rename { folder: Node, old: String, new: String },
    Remove { folder: Node, name: String },
    Note(Arc<dyn Any + Send + Sync>),
}

/// The operations so far, each with its position.
pub(crate) type Log = Vec<(Position, Operation)>;

pub(crate) struct Recording(Arc<Mutex<Records>>);

struct Records {
    root: PathBuf,
    /// By device and inode. A new file on the inode of a removed one gets a new number.
    nodes: HashMap<(u64, u64), Node>,
    next: Node,
    log: Log,
    without_rename: bool,
}

static RECORDINGS: Mutex<Vec<Weak<Mutex<Records>>>> = Mutex::new(Vec::new());
static DONE: AtomicU64 = AtomicU64::new(1);

impl Recording {
    /// Records what happens below this folder, on request as if it could not rename.
    pub(crate) fn start(root: &Path, without_rename: bool) -> Self {
        let identity = identity(File::open(root).unwrap()).unwrap();
        let nodes = HashMap::from([(identity, 0)]);
        let (root, log) = (root.to_owned(), Log::new());
        let records = Arc::new(Mutex::new(Records { root, nodes, next: 1, log, without_rename }));
        let mut recordings = lock(&RECORDINGS);
        recordings.retain(|recording| recording.strong_count() > 0);
        recordings.push(Arc::downgrade(&records));
        Self(records)
    }

    pub(crate) fn log(&self) -> Log {
        lock(&self.0).log.clone()
    }
}

impl Records {
    fn node(&self, of: impl AsFd) -> Option<Node> {
        self.nodes.get(&identity(of).ok()?).copied()
    }

    fn new_node(&mut self, identity: (u64, u64)) -> Node {
        let node = self.next;
        self.next += 1;
        self.nodes.insert(identity, node);
        node
    }

    fn push(&mut self, operation: Operation) {
        self.log.push((DONE.fetch_add(1, Ordering::SeqCst), operation));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(of: impl AsFd) -> rustix::io::Result<(u64, u64)> {
    fs::fstat(of).map(|stat| (stat.st_dev, stat.st_ino))
}

fn identity_at(folder: impl AsFd, name: impl rustix::path::Arg) -> Option<(u64, u64)> {
    let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn each(mut visit: impl FnMut(&mut Records)) {
    let recordings: Vec<_> = lock(&RECORDINGS).iter().filter_map(Weak::upgrade).collect();
    for recording in recordings {
        visit(&mut lock(&recording));
    }
}

pub(super) fn position() -> Position {
    DONE.load(Ordering::SeqCst)
}

pub(super) fn folder_made(parent: &OwnedFd, name: &OsStr) {
    let Some(made) = identity_at(parent, name) else { return };
    each(|records| {
        records.nodes.remove(&made);
        let Some(parent) = records.node(parent) else { return };
        let folder = records.new_node(made);
        let name = name.to_string_lossy().into_owned();
        records.push(Operation::MakeFolder { parent, name, folder });
    });
}

pub(super) fn created(folder: &OwnedFd, name: Option<&str>, file: &OwnedFd) {
    let Ok(made) = identity(file) else { return };
    each(|records| {
        records.nodes.remove(&made);
        let Some(folder) = records.node(folder) else { return };
        let file = records.new_node(made);
        records.push(Operation::Create { folder, name: name.map(ToOwned::to_owned), file });
    });
}

pub(super) fn wrote(mut file: &File, bytes: &[u8]) {
    let Ok(behind) = std::io::Seek::stream_position(&mut file) else { return };
    let offset = behind - bytes.len() as u64;
    in_file(file, |file| Operation::Write { file, offset, bytes: bytes.to_vec() });
}

pub(super) fn in_file(of: impl AsFd, operation: impl Fn(Node) -> Operation) {
    each(|records| {
        if let Some(node) = records.node(&of) {
            records.push(operation(node));
        }
    });
}

pub(super) fn linked(folder: impl AsFd, name: &str) {
    let Some(named) = identity_at(&folder, name) else { return };
    each(|records| {
        if let (Some(folder), Some(file)) =
            (records.node(&folder), records.nodes.get(&named).copied())
        {
            records.push(Operation::Link { folder, name: name.to_owned(), file });
        }
    });
}

pub(super) fn renamed(folder: impl AsFd, old: &str, new: &str) {
    let (old, new) = (old.to_owned(), new.to_owned());
    in_file(folder, |folder| Operation::Rename { folder, old: old.clone(), new: new.clone() });
}

pub(super) fn knows_rename(folder: impl AsFd) -> Result<(), Errno> {
    let mut refused = false;
    each(|records| refused |= records.without_rename && records.node(&folder).is_some());
    if refused { Err(Errno::INVAL) } else { Ok(()) }
}

pub(super) fn note(place: &Path, note: impl FnOnce() -> Arc<dyn Any + Send + Sync>) {
    let mut note = Some(note);
    each(|records| {
        if place.starts_with(&records.root)
            && let Some(note) = note.take()
        {
            records.push(Operation::Note(note()));
        }
    });
}
