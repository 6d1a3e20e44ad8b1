//! The download directory: opening it, telling it from an empty mount point, and the folders of
//! exports in it.
//!
//! # Durable order of one part
//! 0. Make the folders of project and export with the configured modes, whatever the umask, and
//!    fsync each parent.
//! 1. Create the partial in that folder, with its final mode. A small part gets no name
//!    (`O_TMPFILE`) if the file system allows it. Any other is created with `O_EXCL` and
//!    `O_NOFOLLOW`, and its whole room is reserved.
//! 2. Append, counting and hashing. Sync a large part now and then, the first time with the folder;
//!    a record then says how many bytes are durable and what their SHA-256 is.
//! 3. Check: the length is the declared one, the framing was complete (the caller's part), and
//!    every promised checksum agrees.
//! 4. fsync the file. If that fails, throw the partial away; never sync it again and believe it.
//! 5. Give it its final name, never over an existing file: `linkat` for a file without a name,
//!    `renameat2(NOREPLACE)` for the others, else `linkat` and `unlinkat`. Which of them works is
//!    probed once. If neither does, the directory is refused.
//! 6. fsync the directory, once for all parts that have come this far. If that fails, unlink their
//!    names and report the disk.
//! 7. Record the part in the ledger (the engine's part).
//!
//! After step 6 of the last part the engine records the manifest's exact bytes as `sealing`, then
//! `manifest.json` goes through steps 1 to 6, then the export is recorded as completed.
//! **`manifest.json` present <=> the export is whole.**
//!
//! # On open
//! - Died in 0 to 4: nothing is left of a small part. The partial of a large one is cut to its
//!   recorded length, or removed if no record speaks of it: `prepare_export`. Its bytes are hashed
//!   before anything is appended, and if they differ from the record it is started over:
//!   `hash_from_start`.
//! - Died in 5 to 7: the final name is there without a record. A regular file of the declared
//!   length is hashed and adopted; anything else is a conflict and stays untouched:
//!   `prepare_export`.
//! - Died while sealing: `recover_sealing` finds the manifest, or writes it again, or finds nothing
//!   because a consumer took everything.
//! - State lost: `find_manifests`.

use std::collections::{HashMap, HashSet, hash_map};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use tokio::runtime::Handle;

use super::SinkError;
use super::marker::{MARKER_FILE, MAX_MARKER_BYTES, MarkerId};
use crate::domain::ids::ExportPath;
use crate::domain::modes::{FileMode, Modes};
use crate::domain::part::PartKey;
use crate::domain::text::shell_word;
use crate::durable::{
    CommitFailure, Dir, DurableError, Entry, ErrorClass, NoOverwrite, Partial, probe_unnamed,
};

/// Exists briefly while the disk is checked.
const CHECK_FILE: &str = ".batch-export-watcher.check";
const CHECK_BYTES: [u8; 4096] = [b' '; 4096];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkSettings {
    pub reserve_bytes: u64,
    /// Modes of new files and folders of exports.
    pub modes: Modes,
}

/// The download directory. Cheap to clone. Every operation first looks for the marker.
#[derive(Debug, Clone)]
pub struct LocalSink {
    pub(super) inner: Arc<Inner>,
    /// Blocking work runs on its threads; on those of the calling runtime if there is none.
    pub(super) blocking: Option<Handle>,
}

#[derive(Debug)]
pub(super) struct Inner {
    directory: PathBuf,
    marker: MarkerId,
    settings: RwLock<SinkSettings>,
    no_overwrite: OnceLock<NoOverwrite>,
    /// Whether working files can do without a name, once that is known.
    unnamed: Mutex<Option<bool>>,
    /// By [`folded`] path.
    in_flight: Mutex<HashMap<String, InFlight>>,
    /// Folders of exports whose names this run has made durable. They are not synced again for each
    /// part, nor looked up again while one of their parts is written.
    folders: Mutex<HashMap<ExportPath, Weak<Dir>>>,
}

type InFlight = (ExportPath, PartKey);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It got a new marker, to be recorded before the first download.
    Created(MarkerId),
    /// The state did not know it, but it has a marker, to be recorded before the first download.
    Adopted(MarkerId),
    Known,
    /// Missing, or another one; why, in words. Every operation fails until the right one is back.
    Away(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Written,
    Occupied,
}

/// While it lives, this part is being written and its partial must not be removed.
#[derive(Debug)]
pub(super) struct Reservation {
    sink: LocalSink,
    part: InFlight,
}

impl LocalSink {
    /// Opens the download directory. `known` is its marker in the state. Without one, the directory
    /// is made and marked, or its marker adopted; a known directory is never made again. Missing
    /// parent folders get the same mode, so that its readers can reach it.
    ///
    /// It is an error if a new directory cannot be made or marked, or its file system cannot do
    /// step 5.
    pub fn open(
        directory: &Path,
        known: Option<MarkerId>,
        settings: SinkSettings,
    ) -> Result<(Self, Opened), SinkError> {
        let sink = |marker| {
            let inner = Arc::new(Inner {
                directory: directory.to_owned(),
                marker,
                settings: RwLock::new(settings),
                no_overwrite: OnceLock::new(),
                unnamed: Mutex::default(),
                in_flight: Mutex::default(),
                folders: Mutex::default(),
            });
            Self { inner, blocking: None }
        };
        let Some(marker) = known else {
            let mode = settings.modes.directory;
            let root = Arc::new(Dir::create_all(directory, mode, mode)?);
            let no_overwrite = probe(&root)?;
            let (marker, written) = mark(&root, no_overwrite)?;
            let sink = sink(marker);
            sink.inner.no_overwrite.get_or_init(|| no_overwrite);
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
            // A full or read-only disk is no reason not to start: the first operation finds it.
            Ok(_) | Err(_) => Ok((sink, Opened::Known)),
        }
    }

    /// Changes the settings of this sink and all its clones, for what begins from now on. The
    /// process's umask has to allow the modes, or folders may lose an inherited setgid bit.
    pub fn reconfigure(&self, settings: SinkSettings) {
        *self.inner.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// A copy, so that slow work on the disk does not hold up [`LocalSink::reconfigure`].
    pub(super) fn settings(&self) -> SinkSettings {
        *self.inner.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Free bytes of the disk, the reserve included.
    pub(super) fn room(&self) -> Result<u64, SinkError> {
        Ok(self.root()?.free_bytes()?)
    }

    /// Whether the disk is fit for downloads: the marker is there, `room_bytes` are free above the
    /// reserve, and a small file can go through all steps of a part.
    pub(super) fn disk_check(&self, room_bytes: u64) -> Result<(), SinkError> {
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
        let away = |found: &str, mend: &str| SinkError::Away {
            directory: self.inner.directory.clone(),
            found: format!("{found}; is its file system not mounted?{mend}"),
        };
        let without_marker = |found: &str| {
            let (lines, path) = (self.inner.marker.lines(), self.inner.directory.join(MARKER_FILE));
            let path = shell_word(&path.to_string_lossy());
            away(found, &format!(" If this is the right folder, run: printf {lines} >{path}"))
        };
        let root = match Dir::open(&self.inner.directory) {
            Ok(root) => root,
            Err(error) if error.class() == ErrorClass::Missing => {
                return Err(away("the folder is missing", ""));
            }
            Err(error) => return Err(error.into()),
        };
        match read_marker(&root)? {
            Found::Marker(marker) if marker == self.inner.marker => Ok(root),
            Found::Marker(_) => Err(away("its marker is not the one on record", "")),
            Found::Nothing => Err(without_marker("it has no marker .batch-export-watcher")),
            Found::Damaged => Err(without_marker("its marker .batch-export-watcher is damaged")),
        }
    }

    /// How to rename in here; probed if that was not possible before.
    pub(super) fn no_overwrite(&self, root: &Dir) -> Result<NoOverwrite, SinkError> {
        match self.inner.no_overwrite.get() {
            Some(way) => Ok(*way),
            None => probe(root).map(|way| *self.inner.no_overwrite.get_or_init(|| way)),
        }
    }

    /// Whether working files can do without a name here; no, if that cannot be probed now.
    pub(super) fn takes_unnamed(&self, dir: &Dir) -> bool {
        // Parts that begin at once would disturb each other's probe: one probes, the others wait.
        let mut unnamed = self.inner.unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        if unnamed.is_none() {
            *unnamed = probe_unnamed(dir).ok();
        }
        unnamed.unwrap_or(false)
    }

    /// Whether the free space stays above the reserve when these bytes are written.
    pub(super) fn check_reserve(&self, dir: &Dir, needed_bytes: u64) -> Result<(), SinkError> {
        let (free_bytes, reserve_bytes) = (dir.free_bytes()?, self.settings().reserve_bytes);
        if free_bytes > reserve_bytes.saturating_add(needed_bytes) {
            return Ok(());
        }
        let directory = self.inner.directory.clone();
        Err(SinkError::Reserve { directory, free_bytes, needed_bytes, reserve_bytes })
    }

    pub(super) fn export_dir(root: &Dir, at: &ExportPath) -> Result<Option<Arc<Dir>>, SinkError> {
        let Some(project) = root.child(at.project.as_str()).map_err(SinkError::below)? else {
            return Ok(None);
        };
        Ok(project.child(at.export.as_str()).map_err(SinkError::below)?.map(Arc::new))
    }

    /// The folder of an export, made if it is missing; its name is durable on return.
    pub(super) fn make_export_dir(
        &self,
        root: &Dir,
        at: &ExportPath,
    ) -> Result<Arc<Dir>, SinkError> {
        if self.folders().contains_key(at)
            && let Some(dir) = Self::export_dir(root, at)?
        {
            self.folders().insert(at.clone(), Arc::downgrade(&dir));
            return Ok(dir);
        }
        let mode = self.settings().modes.directory;
        let made = root.make_child(at.project.as_str(), mode).map_err(SinkError::below)?;
        let dir = made.make_child(at.export.as_str(), mode);
        let dir = dir.map(Arc::new).map_err(SinkError::below)?;
        self.folders().insert(at.clone(), Arc::downgrade(&dir));
        Ok(dir)
    }

    /// The folder of an export, if a part that is being written has it open. Its path is checked
    /// before anything gets its final name.
    pub(super) fn open_export_dir(&self, at: &ExportPath) -> Option<Arc<Dir>> {
        self.folders().get(at).and_then(Weak::upgrade)
    }

    /// Forgets an open folder that has moved, or that nothing more is written to.
    pub(super) fn forget_export_dir(&self, at: &ExportPath) {
        self.folders().remove(at);
    }

    #[cfg(test)]
    pub(super) fn known_folders(&self) -> usize {
        self.folders().len()
    }

    fn folders(&self) -> MutexGuard<'_, HashMap<ExportPath, Weak<Dir>>> {
        // A map is whole after any panic: an insertion happened or it did not.
        self.inner.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a part as being written; `None` if it already is, or another one whose name differs
    /// only in case. A disk that ignores case has one working file for both, and one part would get
    /// its final name with the bytes of the other.
    pub(super) fn reserve(&self, at: &ExportPath, key: &PartKey) -> Option<Reservation> {
        let part = (at.clone(), key.clone());
        match self.in_flight().entry(folded(&part)) {
            hash_map::Entry::Occupied(_) => None,
            hash_map::Entry::Vacant(place) => {
                place.insert(part.clone());
                Some(Reservation { sink: self.clone(), part })
            }
        }
    }

    pub(super) fn partials_in_flight(&self, at: &ExportPath) -> HashSet<String> {
        self.in_flight()
            .values()
            .filter(|(of, _)| of == at)
            .map(|(_, key)| working_name(&key.file_name()))
            .collect()
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<String, InFlight>> {
        self.inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.sink.in_flight().remove(&folded(&self.part));
    }
}

/// The path of a part's file as a disk that ignores case sees it.
fn folded((at, key): &InFlight) -> String {
    format!("{at}/{}", key.file_name()).to_ascii_lowercase()
}

pub(crate) fn working_name(final_name: &str) -> String {
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
        let (text, mode) = (marker.to_file(), FileMode::PRIVATE);
        let written = write_named(root, MARKER_FILE, text.as_bytes(), mode, no_overwrite)?;
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
