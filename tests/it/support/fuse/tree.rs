//! Folders and files in memory. Inodes are numbered in the order they were made, from the root's 1,
//! and never forgotten: a file that was removed while it is open can still be read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::UNIX_EPOCH;

use fuser::{Errno, FileAttr, FileType, INodeNo};

/// What is asked of a file system, on plain values.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    owner: (u32, u32),
    /// Whether upper and lower case are the same.
    folds_case: bool,
}

#[derive(Debug)]
struct Node {
    mode: u16,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder(BTreeMap<OsString, INodeNo>),
    File(Vec<u8>),
}

impl Tree {
    /// An empty root that belongs, as everything in it will, to this process's user.
    pub(super) fn new() -> Self {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self {
            nodes: vec![Node { mode: 0o700, kind: Kind::Folder(BTreeMap::new()) }],
            owner,
            folds_case: false,
        }
    }

    /// As [`Tree::new`], where upper and lower case are the same.
    pub(super) fn without_case() -> Self {
        Self { folds_case: true, ..Self::new() }
    }

    /// The name of an entry as it was given first.
    fn known_as(&self, folder: INodeNo, name: &OsStr) -> Result<Option<OsString>, Errno> {
        let names = self.names(folder)?;
        if names.contains_key(name) || !self.folds_case {
            return Ok(names.contains_key(name).then(|| name.to_owned()));
        }
        Ok(names.keys().find(|known| known.eq_ignore_ascii_case(name)).cloned())
    }

    pub(super) fn lookup(&self, folder: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let known = self.known_as(folder, name)?.ok_or(Errno::ENOENT)?;
        let inode = self.names(folder)?.get(&known).copied().ok_or(Errno::ENOENT)?;
        self.attributes(inode)
    }

    pub(super) fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        let node = self.node(inode)?;
        let (kind, size) = match &node.kind {
            Kind::Folder(_) => (FileType::Directory, 0),
            Kind::File(bytes) => (FileType::RegularFile, bytes.len() as u64),
        };
        Ok(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: node.mode,
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    pub(super) fn make_file(
        &mut self,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        self.make(folder, name, mode, Kind::File(Vec::new()))
    }

    pub(super) fn make_folder(
        &mut self,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        self.make(folder, name, mode, Kind::Folder(BTreeMap::new()))
    }

    fn make(
        &mut self,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
        kind: Kind,
    ) -> Result<FileAttr, Errno> {
        let inode = INodeNo(self.nodes.len() as u64 + 1);
        self.put(folder, name, inode)?;
        self.nodes.push(Node { mode: permissions(mode), kind });
        self.attributes(inode)
    }

    /// A further name for a file.
    pub(super) fn link(
        &mut self,
        inode: INodeNo,
        folder: INodeNo,
        name: &OsStr,
    ) -> Result<FileAttr, Errno> {
        self.put(folder, name, inode)?;
        self.attributes(inode)
    }

    fn put(&mut self, folder: INodeNo, name: &OsStr, inode: INodeNo) -> Result<(), Errno> {
        if self.known_as(folder, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.names_mut(folder)?.insert(name.to_owned(), inode);
        Ok(())
    }

    pub(super) fn remove(&mut self, folder: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let known = self.known_as(folder, name)?.ok_or(Errno::ENOENT)?;
        let removed = self.names_mut(folder)?.remove(&known);
        removed.map(drop).ok_or(Errno::ENOENT)
    }

    pub(super) fn remove_folder(&mut self, folder: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let inode = self.lookup(folder, name)?.ino;
        if self.names(inode)?.is_empty() {
            self.remove(folder, name)
        } else {
            Err(Errno::ENOTEMPTY)
        }
    }

    /// Moves a name; one that is there already is replaced only where `replace` says so.
    pub(super) fn rename(
        &mut self,
        (from, name): (INodeNo, &OsStr),
        (to, new_name): (INodeNo, &OsStr),
        replace: bool,
    ) -> Result<(), Errno> {
        let inode = self.lookup(from, name)?.ino;
        if !replace && self.known_as(to, new_name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.remove(from, name)?;
        self.names_mut(to)?.insert(new_name.to_owned(), inode);
        Ok(())
    }

    pub(super) fn change(
        &mut self,
        inode: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
    ) -> Result<FileAttr, Errno> {
        let node = self.node_mut(inode)?;
        if let Some(mode) = mode {
            node.mode = permissions(mode);
        }
        if let Some(size) = size {
            node.bytes_mut()?.resize(offset(size)?, 0);
        }
        self.attributes(inode)
    }

    pub(super) fn read(&self, inode: INodeNo, from: u64, length: u32) -> Result<&[u8], Errno> {
        let Kind::File(bytes) = &self.node(inode)?.kind else { return Err(Errno::EISDIR) };
        let from = offset(from)?.min(bytes.len());
        let to = from.saturating_add(offset(length.into())?).min(bytes.len());
        Ok(&bytes[from..to])
    }

    pub(super) fn write(&mut self, inode: INodeNo, from: u64, data: &[u8]) -> Result<u32, Errno> {
        let bytes = self.node_mut(inode)?.bytes_mut()?;
        let from = offset(from)?;
        let to = from.checked_add(data.len()).ok_or(Errno::EFBIG)?;
        if bytes.len() < to {
            bytes.resize(to, 0);
        }
        bytes[from..to].copy_from_slice(data);
        u32::try_from(data.len()).map_err(|_| Errno::EINVAL)
    }

    /// The names in a folder, each with what it stands for.
    pub(super) fn entries(
        &self,
        folder: INodeNo,
    ) -> Result<Vec<(OsString, INodeNo, FileType)>, Errno> {
        let entry = |(name, inode): (&OsString, &INodeNo)| {
            Ok((name.clone(), *inode, self.attributes(*inode)?.kind))
        };
        self.names(folder)?.iter().map(entry).collect()
    }

    fn names(&self, folder: INodeNo) -> Result<&BTreeMap<OsString, INodeNo>, Errno> {
        match &self.node(folder)?.kind {
            Kind::Folder(names) => Ok(names),
            Kind::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, folder: INodeNo) -> Result<&mut BTreeMap<OsString, INodeNo>, Errno> {
        match &mut self.node_mut(folder)?.kind {
            Kind::Folder(names) => Ok(names),
            Kind::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn node(&self, inode: INodeNo) -> Result<&Node, Errno> {
        self.nodes.get(index(inode)?).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, inode: INodeNo) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(index(inode)?).ok_or(Errno::ENOENT)
    }
}

impl Node {
    fn bytes_mut(&mut self) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.kind {
            Kind::File(bytes) => Ok(bytes),
            Kind::Folder(_) => Err(Errno::EISDIR),
        }
    }
}

fn index(inode: INodeNo) -> Result<usize, Errno> {
    inode.0.checked_sub(1).and_then(|index| usize::try_from(index).ok()).ok_or(Errno::ENOENT)
}

fn offset(bytes: u64) -> Result<usize, Errno> {
    usize::try_from(bytes).map_err(|_| Errno::EFBIG)
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or_default()
}
