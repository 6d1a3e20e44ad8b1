//! Eyes on the folders of exports while the program works in them: what a consumer could see at any
//! moment has to be right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::PathBuf;

use batch_export_watcher::domain::manifest::{MANIFEST_FILE, Manifest};
use batch_export_watcher::simulator::Content;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::look;

/// Room for some dozens of events.
const EVENT_BYTES: usize = 4096;

/// One export's folder, and what is to be there in the end.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    parts: BTreeMap<String, Content>,
    visible: BTreeSet<String>,
    /// Of what is visible. A file that had no name at first is still called by this number when it
    /// is written to.
    inodes: BTreeMap<String, u64>,
    /// Whether a name that could not be made durable may go again: the manifest's, or a part's
    /// while there is no manifest.
    may_withdraw: bool,
    /// Names that were gone when the observer looked at what had appeared. The news that they were
    /// withdrawn is still to come.
    unseen: BTreeSet<String>,
    withdrawn: BTreeSet<String>,
}

/// Watches folders through inotify. Every fault is a panic that names the file.
#[derive(Debug)]
pub(crate) struct Observer {
    events: AsyncFd<OwnedFd>,
    /// By watch descriptor.
    folders: BTreeMap<i32, Folder>,
}

impl Folder {
    /// A folder that will hold these files beside its manifest; it is made where it is missing.
    pub(crate) fn new(path: PathBuf, parts: BTreeMap<String, Content>) -> Self {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .expect("a folder in the test's own");
        Self {
            path,
            parts,
            visible: BTreeSet::new(),
            inodes: BTreeMap::new(),
            may_withdraw: false,
            unseen: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
        }
    }

    /// On a disk that fails, the program takes away a name that could not be made durable, and may
    /// give it again. Ask [`Observer::withdrawn`] whether it had to.
    pub(crate) fn with_withdrawals(mut self) -> Self {
        self.may_withdraw = true;
        self
    }

    /// A name has appeared: once in a lifetime, and of the right bytes.
    fn appeared(&mut self, name: &str) {
        let path = self.path.join(name);
        assert!(self.visible.insert(name.to_owned()), "{} was published twice", path.display());
        // Opened once: a second look could meet another file, or none.
        let Some(mut file) = look::open(&path) else {
            assert!(self.may_withdraw, "{} appeared and is gone", path.display());
            self.unseen.insert(name.to_owned());
            return;
        };
        let inode = file.metadata().expect("an open file has metadata").ino();
        let mut found = Vec::new();
        file.read_to_end(&mut found).expect("an open file can be read");
        self.inodes.insert(name.to_owned(), inode);
        if name == MANIFEST_FILE {
            self.check_manifest(&found);
            return;
        }
        let expected =
            self.parts.get(name).unwrap_or_else(|| panic!("{} is not ours", path.display()));
        let (bytes, expected_bytes) = (found.len() as u64, expected.len_bytes());
        assert_eq!(bytes, expected_bytes, "the length of {} when it appeared", path.display());
        assert!(Content::from(found) == *expected, "{} appeared with other bytes", path.display());
    }

    /// A name has gone.
    fn vanished(&mut self, name: &str) {
        let may_go =
            self.may_withdraw && (name == MANIFEST_FILE || !self.visible.contains(MANIFEST_FILE));
        assert!(may_go, "{} was taken away", self.path.join(name).display());
        self.visible.remove(name);
        self.unseen.remove(name);
        self.withdrawn.insert(name.to_owned());
        // The number is free for another file.
        self.inodes.remove(name);
    }

    /// A file was written to, which has this name, or `#` and its inode's number.
    fn written(&self, name: &str) {
        let inode = name.strip_prefix('#').and_then(|number| number.parse().ok());
        let is_visible = self.visible.contains(name)
            || inode.is_some_and(|it: u64| self.inodes.values().any(|known| *known == it));
        assert!(
            !is_visible,
            "{} was written to when it was visible",
            self.path.join(name).display()
        );
    }

    fn check_manifest(&self, bytes: &[u8]) {
        let names: BTreeSet<_> =
            self.parts.keys().chain([&MANIFEST_FILE.to_owned()]).cloned().collect();
        assert_eq!(self.visible, names, "{} has a manifest", self.path.display());
        let manifest = Manifest::parse(bytes).expect("a manifest that has appeared is whole");
        for part in &manifest.parts {
            let sha256 = self.parts.get(&part.path).map(Content::sha256);
            assert_eq!(Some(part.sha256), sha256, "{} in the manifest", part.path);
        }
        assert_eq!(manifest.parts.len(), self.parts.len());
    }
}

impl Observer {
    /// Watches these from now on.
    pub(crate) fn new(folders: Vec<Folder>) -> Self {
        let queue =
            inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("an inotify queue");
        let wanted = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE_SELF;
        let watched = folders.into_iter().map(|folder| {
            let number = inotify::add_watch(&queue, &folder.path, wanted).expect("a watch");
            (number, folder)
        });
        let folders = watched.collect();
        #[expect(
            deprecated,
            reason = "its heir is unsafe; an owned descriptor is open for as long as it is here"
        )]
        let events = AsyncFd::new(queue).expect("a queue that can be waited for");
        Self { events, folders }
    }

    /// Waits for changes and looks at them. May be dropped and said again at any time: what
    /// happened meanwhile is in the queue.
    pub(crate) async fn changed(&mut self) {
        // Cleared before the look, which reads to the end: what comes after that makes it ready
        // again.
        self.events.readable().await.expect("the queue of an open descriptor").clear_ready();
        self.look();
    }

    /// The final names that have appeared, manifests included.
    pub(crate) fn visible(&self) -> BTreeSet<String> {
        self.folders.values().flat_map(|folder| folder.visible.iter().cloned()).collect()
    }

    /// The names that appeared and were taken away again. Call it when no name is about to go: then
    /// a name that could not be opened when it appeared has to be among them.
    pub(crate) fn withdrawn(&mut self) -> BTreeSet<String> {
        self.look();
        for folder in self.folders.values() {
            let (path, unseen) = (folder.path.display(), &folder.unseen);
            assert!(unseen.is_empty(), "{path}: nobody saw or withdrew {unseen:?}");
        }
        self.folders.values().flat_map(|folder| folder.withdrawn.iter().cloned()).collect()
    }

    /// Looks at every change so far.
    pub(crate) fn look(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = inotify::Reader::new(self.events.get_ref(), &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return,
                Err(error) => panic!("inotify: {error}"),
            };
            let what = event.events();
            assert!(
                !what.contains(ReadFlags::QUEUE_OVERFLOW),
                "more changes than inotify remembers"
            );
            let name = event
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let folder = self.folders.get_mut(&event.wd()).expect("a watch of ours");
            if what.intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED) {
                panic!("the folder {} was removed", folder.path.display());
            } else if what.contains(ReadFlags::MODIFY) {
                folder.written(&name);
            } else if name.starts_with('.') {
                // Work in progress.
            } else if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                folder.appeared(&name);
            } else {
                folder.vanished(&name);
            }
        }
    }
}
