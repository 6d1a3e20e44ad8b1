//! The download directory: finding it, telling it from an empty mount point, and the folders of
//! exports in it.
//!
//! # Durable order of one part
//! 0. Make the folders of project and export, with the modes of the settings whatever the umask,
//!    fsync each parent.
//! 1. Create the partial beside its final place, with the mode that it keeps: a small part without
//!    a name (`O_TMPFILE`), where the file system can; else `O_EXCL`, `O_NOFOLLOW`, with room
//!    reserved for all of it.
//! 2. Append, counting and hashing. Of a large part the bytes so far are synced now and then, the
//!    first time with the folder, and a record then says how many they are and what their SHA-256
//!    is.
//! 3. Length is what was declared, the framing was complete (the caller's part), every promised
//!    checksum agrees.
//! 4. fsync the file. Should that fail, the partial is thrown away; it is never synced again and
//!    believed.
//! 5. Give it its final name, never over an existing file: `linkat` for a file without a name,
//!    `renameat2(NOREPLACE)` for the others, else `linkat` and `unlinkat`; which of them works is
//!    probed once, and where neither does the directory is refused.
//! 6. fsync the directory, once for all parts that have come as far as this at the same time.
//!    Should that fail, their names are unlinked and the disk is reported.
//! 7. Record the part in the store (the engine's part).
//!
//! After the last part's step 6 the engine records the manifest's exact bytes as `sealing`, then
//! `manifest.json` goes through steps 1 to 6, then the export is recorded as completed.
//! **`manifest.json` present <=> the export is whole.**
//!
//! # On open
//! - Died in 0 to 4: nothing is left of a small part. Of a large one a partial is there: it is cut
//!   to its recorded length where a record speaks of it, else removed:
//!   [`LocalSink::prepare_export`]. Before anything is appended its bytes are hashed, and where
//!   they are not those of the record it is started over:
//!   [`PartWriter::arm`](super::PartWriter::arm).
//! - Died in 5 to 7: the final name is there without a record. A regular file of the declared
//!   length is hashed and adopted; anything else is a conflict and stays untouched:
//!   [`LocalSink::prepare_export`].
//! - Died while sealing: [`LocalSink::recover_sealing`] finds the manifest, finds nothing because a
//!   consumer took it all, or writes it again.
//! - State lost: [`LocalSink::scan_manifests`].

use std::collections::{HashMap, HashSet, hash_map};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use super::SinkError;
use super::marker::{MARKER_FILE, MAX_MARKER_BYTES, MarkerId};
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::modes::{FileMode, Modes};
use crate::domain::part::PartKey;
use crate::durable::{
    CommitFailure, Dir, DurableError, Entry, ErrorClass, NoOverwrite, Partial, probe_unnamed,
};

/// Exists for a moment while the disk is checked.
const CHECK_FILE: &str = ".batch-export-watcher.check";
/// Written to find out whether the disk takes bytes: one block of most file systems.
const CHECK_BYTES: [u8; 4096] = [b' '; 4096];

/// What a running sink can be told to do otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkSettings {
    /// Free space that is never used.
    pub reserve_bytes: u64,
    /// Modes of the files and folders of exports. What is there already keeps its own.
    pub modes: Modes,
}

/// The download directory. Cheap to clone; every operation blocks, and begins by looking for the
/// marker.
#[derive(Debug, Clone)]
pub struct LocalSink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    marker: MarkerId,
    settings: RwLock<SinkSettings>,
    no_overwrite: OnceLock<NoOverwrite>,
    /// Whether working files can do without a name, once that is found out.
    unnamed: Mutex<Option<bool>>,
    /// By what [`folded`] makes of them.
    in_flight: Mutex<HashMap<String, InFlight>>,
    /// Folders of exports whose names this run has made durable: they need not be synced again for
    /// every part, nor looked up again while a part of theirs is being written.
    folders: Mutex<HashMap<Folder, Weak<Dir>>>,
}

type Folder = (ProjectName, ExportId);
type InFlight = (ProjectName, ExportId, PartKey);

/// How the download directory was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It got a new marker. Record it before the first download.
    Created(MarkerId),
    /// The state did not know it, but it has a marker. Record that before the first download.
    Adopted(MarkerId),
    /// It is the one that the state knows.
    Known,
    /// It is not there, or it is another one. Every operation fails until the right one is back;
    /// the text says why.
    Away(String),
}

/// What became of a small file that was to be written whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Written,
    Occupied,
}

/// While it lives, the partial of this part is being written and must not be tidied away.
#[derive(Debug)]
pub(super) struct Reservation {
    sink: LocalSink,
    part: InFlight,
}

impl LocalSink {
    /// Opens the download directory. `known` is the marker that the state has for it: where there
    /// is none, the directory is made and marked, or its marker adopted; a known one is never made
    /// again. What is missing of its path gets its mode, too: who may enter it has to get there.
    ///
    /// # Errors
    /// When a new directory cannot be made or marked, or its file system cannot do what step 5
    /// needs. That a known directory is missing is not an error but [`Opened::Away`].
    pub fn open(
        directory: &Path,
        known: Option<MarkerId>,
        settings: SinkSettings,
    ) -> Result<(Self, Opened), SinkError> {
        let sink = |marker| {
            Self(Arc::new(Inner {
                directory: directory.to_owned(),
                marker,
                settings: RwLock::new(settings),
                no_overwrite: OnceLock::new(),
                unnamed: Mutex::default(),
                in_flight: Mutex::default(),
                folders: Mutex::default(),
            }))
        };
        let Some(marker) = known else {
            let mode = settings.modes.directory;
            let root = Arc::new(Dir::create_all(directory, mode, mode)?);
            let no_overwrite = probe(&root)?;
            let (marker, written) = mark(&root, no_overwrite)?;
            let sink = sink(marker);
            sink.0.no_overwrite.get_or_init(|| no_overwrite);
            let opened = match written {
                Named::Written => Opened::Created(marker),
                Named::Occupied => Opened::Adopted(marker),
            };
            return Ok((sink, opened));
        };
        let sink = sink(marker);
        match sink.root().and_then(|root| sink.no_overwrite(&root)) {
            Err(error @ SinkError::Unsupported { .. }) => Err(error),
            Err(error @ SinkError::Away { .. }) => Ok((sink, Opened::Away(error.to_string()))),
            // A full or read-only disk is no reason not to start: it is found again by the first
            // operation.
            Ok(_) | Err(_) => Ok((sink, Opened::Known)),
        }
    }

    /// The download directory's path.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Other settings for this sink and all its clones, for what is begun from now on. The
    /// process's umask has to let the modes through, or folders may lose the setgid bit that they
    /// inherit.
    pub fn reconfigure(&self, settings: SinkSettings) {
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// A copy, so that nobody who works on the disk holds up [`LocalSink::reconfigure`].
    pub(super) fn settings(&self) -> SinkSettings {
        *self.0.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Free space that is never used.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.settings().reserve_bytes
    }

    /// Bytes that this process may still use, the reserve included.
    ///
    /// # Errors
    /// When the directory is away or its file system does not say.
    pub fn free_bytes(&self) -> Result<u64, SinkError> {
        Ok(self.root()?.free_bytes()?)
    }

    /// Whether the disk is fit for downloads: marker, `room_bytes` of free space above the reserve,
    /// and a small file that can go all the way of a part: who finds less is sent back here by
    /// every part that was fetched in vain.
    ///
    /// # Errors
    /// The first of these that is not so.
    pub fn disk_check(&self, room_bytes: u64) -> Result<(), SinkError> {
        let root = Arc::new(self.root()?);
        self.check_reserve(&root, room_bytes)?;
        let no_overwrite = self.no_overwrite(&root)?;
        // A crash may have left it.
        root.remove(CHECK_FILE)?;
        write_named(&root, CHECK_FILE, &CHECK_BYTES, FileMode::PRIVATE, no_overwrite)?;
        root.remove(CHECK_FILE)?;
        Ok(())
    }

    /// The open download directory, after a look at its marker.
    pub(super) fn root(&self) -> Result<Dir, SinkError> {
        let away = |found| SinkError::Away { directory: self.0.directory.clone(), found };
        let root = match Dir::open(&self.0.directory) {
            Ok(root) => root,
            Err(error) if error.class() == ErrorClass::Missing => {
                return Err(away("the folder is missing"));
            }
            Err(error) => return Err(error.into()),
        };
        match read_marker(&root)? {
            Found::Marker(marker) if marker == self.0.marker => Ok(root),
            Found::Marker(_) => Err(away("its marker is not the one on record")),
            Found::Nothing => Err(away("it has no marker .batch-export-watcher")),
            Found::Damaged => Err(away("its marker is damaged")),
        }
    }

    /// How to rename in here; probed where that could not be done yet.
    pub(super) fn no_overwrite(&self, root: &Dir) -> Result<NoOverwrite, SinkError> {
        match self.0.no_overwrite.get() {
            Some(way) => Ok(*way),
            None => probe(root).map(|way| *self.0.no_overwrite.get_or_init(|| way)),
        }
    }

    /// Whether working files can do without a name here; where that cannot be found out now, they
    /// have one.
    pub(super) fn takes_unnamed(&self, dir: &Dir) -> bool {
        // Parts that begin at the same time would find each other's probe in the way: one looks,
        // the others wait for it.
        let mut unnamed = self.0.unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        if unnamed.is_none() {
            *unnamed = probe_unnamed(dir).ok();
        }
        unnamed.unwrap_or(false)
    }

    /// Whether the free space is above the reserve, also when these bytes are written.
    pub(super) fn check_reserve(&self, dir: &Dir, needed_bytes: u64) -> Result<(), SinkError> {
        let (free_bytes, reserve_bytes) = (dir.free_bytes()?, self.reserve_bytes());
        if free_bytes > reserve_bytes.saturating_add(needed_bytes) {
            return Ok(());
        }
        let directory = self.0.directory.clone();
        Err(SinkError::Reserve { directory, free_bytes, needed_bytes, reserve_bytes })
    }

    /// The folder of an export, if there is one.
    pub(super) fn export_dir(
        root: &Dir,
        project: &ProjectName,
        export: &ExportId,
    ) -> Result<Option<Arc<Dir>>, SinkError> {
        let Some(project) = root.child(project.as_str()).map_err(SinkError::below)? else {
            return Ok(None);
        };
        Ok(project.child(export.as_str()).map_err(SinkError::below)?.map(Arc::new))
    }

    /// The folder of an export, made where it is missing; its name is durable on return.
    pub(super) fn make_export_dir(
        &self,
        root: &Dir,
        project: &ProjectName,
        export: &ExportId,
    ) -> Result<Arc<Dir>, SinkError> {
        let folder = (project.clone(), export.clone());
        if self.folders().contains_key(&folder)
            && let Some(dir) = Self::export_dir(root, project, export)?
        {
            self.folders().insert(folder, Arc::downgrade(&dir));
            return Ok(dir);
        }
        let mode = self.settings().modes.directory;
        let made = root.make_child(project.as_str(), mode).map_err(SinkError::below)?;
        let dir = made.make_child(export.as_str(), mode).map(Arc::new).map_err(SinkError::below)?;
        self.folders().insert(folder, Arc::downgrade(&dir));
        Ok(dir)
    }

    /// The folder of an export as a part that is being written has it open. Whether its path still
    /// leads there is asked before anything gets its final name.
    pub(super) fn open_export_dir(
        &self,
        project: &ProjectName,
        export: &ExportId,
    ) -> Option<Arc<Dir>> {
        self.folders().get(&(project.clone(), export.clone())).and_then(Weak::upgrade)
    }

    /// Forgets an open folder that its path no longer leads to, or that nothing more will be
    /// written to.
    pub(super) fn forget_export_dir(&self, project: &ProjectName, export: &ExportId) {
        self.folders().remove(&(project.clone(), export.clone()));
    }

    /// How many folders are remembered.
    #[cfg(test)]
    pub(super) fn known_folders(&self) -> usize {
        self.folders().len()
    }

    fn folders(&self) -> MutexGuard<'_, HashMap<Folder, Weak<Dir>>> {
        // A map is whole after any panic: an insertion happened or it did not.
        self.0.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a part as being written; `None` where it already is, or one whose name differs in case
    /// alone: where case is nothing both have the same working file, and one would get its final
    /// name with the bytes of the other.
    pub(super) fn reserve(
        &self,
        project: &ProjectName,
        export: &ExportId,
        key: &PartKey,
    ) -> Option<Reservation> {
        let part = (project.clone(), export.clone(), key.clone());
        match self.in_flight().entry(folded(&part)) {
            hash_map::Entry::Occupied(_) => None,
            hash_map::Entry::Vacant(place) => {
                place.insert(part.clone());
                Some(Reservation { sink: self.clone(), part })
            }
        }
    }

    /// The names of the partials of an export that are being written.
    pub(super) fn partials_in_flight(
        &self,
        project: &ProjectName,
        export: &ExportId,
    ) -> HashSet<String> {
        self.in_flight()
            .values()
            .filter(|(of, in_export, _)| of == project && in_export == export)
            .map(|(_, _, key)| working_name(&key.file_name()))
            .collect()
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<String, InFlight>> {
        // A map is whole after any panic: an insertion happened or it did not.
        self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.sink.in_flight().remove(&folded(&self.part));
    }
}

/// The path of a part's file as a disk sees it to which upper and lower case are the same.
fn folded((project, export, key): &InFlight) -> String {
    format!("{project}/{export}/{}", key.file_name()).to_ascii_lowercase()
}

/// The name of the working file of `final_name`.
pub(super) fn working_name(final_name: &str) -> String {
    format!(".{final_name}.partial")
}

/// Writes a small file whole and durable, unless its name is taken: steps 1 to 6.
pub(super) fn write_named(
    dir: &Arc<Dir>,
    name: &str,
    bytes: &[u8],
    mode: FileMode,
    no_overwrite: NoOverwrite,
) -> Result<Named, DurableError> {
    let mut partial = Partial::create(dir, &working_name(name), mode)?;
    if let Err(error) = partial.write(bytes) {
        partial.discard();
        return Err(error);
    }
    match partial.sync()?.commit(name, no_overwrite) {
        Ok(()) => Ok(Named::Written),
        Err(CommitFailure::Occupied(synced)) => {
            synced.discard();
            Ok(Named::Occupied)
        }
        Err(CommitFailure::Failed(error)) => Err(error),
    }
}

fn probe(root: &Dir) -> Result<NoOverwrite, SinkError> {
    NoOverwrite::probe(root)?.ok_or_else(|| SinkError::Unsupported {
        directory: root.path().to_owned(),
        file_system: root.file_system(),
    })
}

enum Found {
    Marker(MarkerId),
    Nothing,
    Damaged,
}

fn read_marker(root: &Dir) -> Result<Found, DurableError> {
    match root.entry(MARKER_FILE)? {
        Entry::Absent => Ok(Found::Nothing),
        Entry::Regular(file, length) if length <= MAX_MARKER_BYTES => {
            let mut bytes = Vec::new();
            root.read_entry(MARKER_FILE, &file, length, &mut |read| bytes.extend_from_slice(read))?;
            Ok(MarkerId::from_file(&bytes).map_or(Found::Damaged, Found::Marker))
        }
        Entry::Regular(..) | Entry::Other => Ok(Found::Damaged),
    }
}

/// Marks a directory that the state does not know, or finds the marker that it has.
fn mark(root: &Arc<Dir>, no_overwrite: NoOverwrite) -> Result<(MarkerId, Named), SinkError> {
    if let Found::Nothing = read_marker(root)? {
        let marker =
            MarkerId::random().map_err(|errno| root.failed("draw a random marker for", errno))?;
        let written = write_named(
            root,
            MARKER_FILE,
            marker.to_file().as_bytes(),
            FileMode::PRIVATE,
            no_overwrite,
        )?;
        if written == Named::Written {
            return Ok((marker, Named::Written));
        }
    }
    match read_marker(root)? {
        Found::Marker(marker) => Ok((marker, Named::Occupied)),
        Found::Nothing | Found::Damaged => {
            Err(SinkError::Marker { path: root.path().join(MARKER_FILE) })
        }
    }
}
