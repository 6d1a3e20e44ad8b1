//! What a disk may hold after a power cut: everything that was synced, and any part of the rest.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::durable::record::{Node, Operation};

/// The unit in which a disk writes.
const PAGE_BYTES: usize = 4096;

/// What happens to bytes that were written after the last sync of their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    Dropped,
    Kept,
    /// The file has its length, and nothing in the new part: its blocks were not allocated yet.
    Zeros,
    /// Some pages are there and some are not, and the length is any.
    Torn,
}

/// What happens to names that were given or taken after the last sync of their folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Dropped,
    Kept,
    Random,
}

#[derive(Default)]
pub(super) struct Disk {
    folders: HashMap<Node, Folder>,
    files: HashMap<Node, Content>,
    removed: Vec<String>,
}

#[derive(Default)]
struct Folder {
    durable: BTreeMap<String, Node>,
    pending: Vec<(u64, Naming)>,
}

#[derive(Clone)]
enum Naming {
    Added(String, Node),
    Moved(String, String),
    Removed(String),
}

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    pending: Vec<(u64, Change)>,
}

enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

impl Disk {
    pub(super) fn apply(&mut self, position: u64, operation: &Operation) {
        match operation {
            Operation::MakeFolder { parent, name, folder } => {
                self.name(*parent, position, Naming::Added(name.clone(), *folder));
                self.folders.insert(*folder, Folder::default());
            }
            Operation::Create { folder, name, file } => {
                if let Some(name) = name {
                    self.name(*folder, position, Naming::Added(name.clone(), *file));
                }
                self.files.insert(*file, Content::default());
            }
            Operation::Write { file, offset, bytes } => {
                self.file(*file).pending.push((position, Change::Write(*offset, bytes.clone())));
            }
            Operation::Cut { file, bytes } => {
                self.file(*file).pending.push((position, Change::Cut(*bytes)));
            }
            Operation::Sync { file, covers } => self.file(*file).sync(*covers),
            Operation::SyncFolder { folder, covers } => {
                self.folders.entry(*folder).or_default().sync(*covers);
            }
            Operation::Link { folder, name, file } => {
                self.name(*folder, position, Naming::Added(name.clone(), *file));
            }
            Operation::Rename { folder, old, new } => {
                self.name(*folder, position, Naming::Moved(old.clone(), new.clone()));
            }
            Operation::Remove { folder, name } => {
                self.removed.push(name.clone());
                self.name(*folder, position, Naming::Removed(name.clone()));
            }
            Operation::Note(_) => {}
        }
    }

    pub(super) fn was_removed(&self, name: &str) -> bool {
        self.removed.iter().any(|removed| removed == name)
    }

    fn name(&mut self, folder: Node, position: u64, naming: Naming) {
        self.folders.entry(folder).or_default().pending.push((position, naming));
    }

    fn file(&mut self, file: Node) -> &mut Content {
        self.files.entry(file).or_default()
    }

    /// Lays out below `target` what may be left of the folder `name`.
    pub(super) fn leave(
        &self,
        name: &str,
        target: &Path,
        data: Data,
        names: Names,
        random: &mut Rng,
    ) {
        let mut written = HashMap::new();
        if let Some(node) = self.surviving(0, names, random).get(name) {
            self.leave_node(*node, &target.join(name), (data, names), random, &mut written);
        }
    }

    fn leave_node(
        &self,
        node: Node,
        path: &Path,
        cut: (Data, Names),
        random: &mut Rng,
        written: &mut HashMap<Node, PathBuf>,
    ) {
        if let Some(content) = self.files.get(&node) {
            match written.get(&node) {
                Some(other) => fs::hard_link(other, path).unwrap(),
                None => {
                    write(path, content, cut.0, random);
                    written.insert(node, path.to_owned());
                }
            }
            return;
        }
        DirBuilder::new().mode(0o700).create(path).unwrap();
        for (name, child) in self.surviving(node, cut.1, random) {
            self.leave_node(child, &path.join(name), cut, random, written);
        }
    }

    fn surviving(&self, folder: Node, names: Names, random: &mut Rng) -> BTreeMap<String, Node> {
        let Some(Folder { durable, pending }) = self.folders.get(&folder) else {
            return BTreeMap::new();
        };
        let mut left = durable.clone();
        for (_, naming) in pending {
            let survives = match names {
                Names::Dropped => false,
                Names::Kept => true,
                Names::Random => random.bool(),
            };
            if survives {
                // If what a change needs was lost, it can only have been written as a whole.
                naming.apply(&mut left, pending);
            }
        }
        left
    }
}

impl Folder {
    fn sync(&mut self, covers: u64) {
        let covered = self.pending.partition_point(|(position, _)| *position < covers);
        let before: Vec<_> = self.pending.drain(..covered).collect();
        for (_, naming) in &before {
            naming.apply(&mut self.durable, &before);
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, Node>, pending: &[(u64, Self)]) {
        match self {
            Self::Added(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Removed(name) => drop(names.remove(name)),
            Self::Moved(old, new) => {
                let moved = names.remove(old).or_else(|| {
                    // Its creation was not kept by itself, but the move brings it whole.
                    pending.iter().rev().find_map(|(_, other)| match other {
                        Self::Added(name, node) if name == old => Some(*node),
                        _ => None,
                    })
                });
                if let Some(node) = moved {
                    names.insert(new.clone(), node);
                }
            }
        }
    }
}

impl Content {
    fn sync(&mut self, covers: u64) {
        let covered = self.pending.partition_point(|(position, _)| *position < covers);
        for (_, change) in self.pending.drain(..covered) {
            change.apply(&mut self.durable);
        }
    }

    fn kept(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.pending.iter().for_each(|(_, change)| change.apply(&mut bytes));
        bytes
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let from = usize::try_from(*offset).unwrap();
                content.resize(content.len().max(from + bytes.len()), 0);
                content[from..from + bytes.len()].copy_from_slice(bytes);
            }
            Self::Cut(bytes) => content.resize(usize::try_from(*bytes).unwrap(), 0),
        }
    }
}

fn write(path: &Path, content: &Content, data: Data, random: &mut Rng) {
    let durable = &content.durable;
    let left = match data {
        _ if content.pending.is_empty() => None,
        Data::Dropped => None,
        Data::Kept => Some(content.kept()),
        Data::Zeros => {
            let mut zeros = durable.clone();
            zeros.resize(content.kept().len(), 0);
            Some(zeros)
        }
        Data::Torn => Some(torn(durable, content.kept(), random)),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(left.as_ref().unwrap_or(durable)).unwrap();
}

/// Some of the new pages. In place of a missing one there is the old one, or nothing.
fn torn(durable: &[u8], mut kept: Vec<u8>, random: &mut Rng) -> Vec<u8> {
    let changed: Vec<usize> = (0..kept.len().div_ceil(PAGE_BYTES))
        .filter(|page| {
            let from = page * PAGE_BYTES;
            let to = (from + PAGE_BYTES).min(kept.len());
            durable.get(from..to) != Some(&kept[from..to])
        })
        .collect();
    for page in changed.into_iter().filter(|_| !random.bool()) {
        let from = page * PAGE_BYTES;
        let to = (from + PAGE_BYTES).min(kept.len());
        let old = durable.get(from..to.min(durable.len())).unwrap_or_default();
        kept[from..from + old.len()].copy_from_slice(old);
        kept[from + old.len()..to].fill(0);
    }
    let (shorter, longer) = (durable.len().min(kept.len()), durable.len().max(kept.len()));
    kept.resize(random.usize(shorter..=longer), 0);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that was written, synced, written again and renamed.
    fn disk() -> Disk {
        let mut disk = Disk::default();
        let write = |offset, byte| Operation::Write { file: 2, offset, bytes: vec![byte; 5000] };
        let operations = [
            Operation::MakeFolder { parent: 0, name: "a".to_owned(), folder: 1 },
            Operation::SyncFolder { folder: 0, covers: 2 },
            Operation::Create { folder: 1, name: Some("old".to_owned()), file: 2 },
            write(0, b'1'),
            Operation::Sync { file: 2, covers: 5 },
            write(5000, b'2'),
            Operation::Rename { folder: 1, old: "old".to_owned(), new: "new".to_owned() },
        ];
        (1..).zip(&operations).for_each(|(position, operation)| disk.apply(position, operation));
        disk
    }

    fn left(disk: &Disk, data: Data, names: Names, seed: u64) -> Vec<(String, Vec<u8>)> {
        let root = tempfile::tempdir().unwrap();
        disk.leave("a", root.path(), data, names, &mut Rng::with_seed(seed));
        let files = fs::read_dir(root.path().join("a")).into_iter().flatten().flatten();
        let name = |file: &fs::DirEntry| file.file_name().into_string().unwrap();
        files.map(|file| (name(&file), fs::read(file.path()).unwrap())).collect()
    }

    #[test]
    fn what_was_synced_is_there_and_the_rest_as_it_is_drawn() {
        let disk = disk();
        assert_eq!(left(&disk, Data::Kept, Names::Dropped, 1), [], "the name was never synced");
        let new = ("new".to_owned(), vec![b'1'; 5000]);
        assert_eq!(left(&disk, Data::Dropped, Names::Kept, 1), [new]);
        let kept = left(&disk, Data::Kept, Names::Kept, 1)[0].1.clone();
        assert_eq!((kept.len(), kept[4999], kept[5000]), (10_000, b'1', b'2'));
        let zeros = left(&disk, Data::Zeros, Names::Kept, 1)[0].1.clone();
        assert_eq!((zeros.len(), zeros[4999], zeros[5000]), (10_000, b'1', 0));
        for seed in 0..50 {
            let torn = left(&disk, Data::Torn, Names::Kept, seed)[0].1.clone();
            assert!(torn[..5000].iter().all(|byte| *byte == b'1'));
            assert!((5000..=10_000).contains(&torn.len()));
            let names = left(&disk, Data::Kept, Names::Random, seed);
            assert!(names.len() <= 1, "a rename is whole: {names:?}");
        }
    }

    #[test]
    fn a_sync_covers_what_came_before_it_began() {
        let mut disk = disk();
        disk.apply(8, &Operation::Sync { file: 2, covers: 6 });
        disk.apply(9, &Operation::SyncFolder { folder: 1, covers: 7 });
        let old = ("old".to_owned(), vec![b'1'; 5000]);
        assert_eq!(left(&disk, Data::Dropped, Names::Dropped, 1), [old]);
    }
}
