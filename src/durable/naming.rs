//! A working file's way to its final name, alone or in a group.

use std::fs::File;
use std::sync::Arc;

use rustix::io::Errno;

use super::publish::Published;
use super::{Dir, DurableError, NoOverwrite};

#[derive(Debug)]
pub(super) struct Working {
    pub(super) dir: Arc<Dir>,
    /// The name that it has, or would have if it were kept.
    pub(super) name: String,
    pub(super) is_named: bool,
    pub(super) file: Arc<File>,
    pub(super) name_synced: bool,
}

#[derive(Debug)]
#[must_use]
pub struct Synced(Working);

/// A file under its final name, which a power cut may still undo before [`Named::settle`].
#[derive(Debug)]
#[must_use]
pub struct Named {
    dir: Arc<Dir>,
    name: String,
}

impl Working {
    pub(super) fn new(dir: &Arc<Dir>, name: &str, is_named: bool, file: File) -> Self {
        let (dir, name, file) = (Arc::clone(dir), name.to_owned(), Arc::new(file));
        Self { dir, name, is_named, file, name_synced: false }
    }

    pub(super) fn failed(&self, operation: &'static str, errno: Errno) -> DurableError {
        DurableError::new(operation, self.dir.path().join(&self.name), errno)
    }

    /// Removes the working file, unless its name now belongs to another file. If that fails, the
    /// next preparation of the export removes it.
    pub(super) fn discard(self) {
        if self.is_named && self.dir.names_file(&self.name, &self.file).unwrap_or(false) {
            drop(self.dir.remove(&self.name));
        }
    }
}

/// Why a synced file did not get its final name.
#[derive(Debug)]
pub enum CommitFailure {
    /// Something already has that name. The working file is unchanged.
    Occupied(Synced),
    /// The file system failed. Working file and final name are gone.
    Failed(DurableError),
}

impl Synced {
    pub(super) fn new(working: Working) -> Self {
        Self(working)
    }

    /// Gives the file its final name in the same directory, never over an existing file.
    pub fn name(self, final_name: &str, no_overwrite: NoOverwrite) -> Result<Named, CommitFailure> {
        let working = self.0;
        let published = if working.is_named {
            // The name could now belong to another file, whose bytes were not verified.
            if !working.dir.names_file(&working.name, &working.file).unwrap_or(false) {
                return Err(CommitFailure::Failed(working.failed("find again", Errno::STALE)));
            }
            let published = no_overwrite.publish(&working.dir, &working.name, final_name);
            // The same during the rename. If the final name is gone, a consumer took the file.
            if matches!(published, Ok(Published::Done))
                && !working.dir.names_file(final_name, &working.file).unwrap_or(true)
            {
                working.dir.remove(final_name).map_err(CommitFailure::Failed)?;
                return Err(CommitFailure::Failed(working.failed("find again", Errno::STALE)));
            }
            published
        } else {
            let named = working.dir.name_file(&working.file, final_name);
            named.map(|named| if named { Published::Done } else { Published::Occupied })
        };
        match published {
            Ok(Published::Done) => Ok(Named { dir: working.dir, name: final_name.to_owned() }),
            Ok(Published::Occupied) => Err(CommitFailure::Occupied(Self(working))),
            Err(error) => {
                working.discard();
                Err(CommitFailure::Failed(error))
            }
        }
    }

    /// [`Synced::name`] and [`Named::settle`] for a single file.
    pub fn commit(self, final_name: &str, no_overwrite: NoOverwrite) -> Result<(), CommitFailure> {
        let named = self.name(final_name, no_overwrite)?;
        Named::settle(vec![named]).map_err(CommitFailure::Failed)
    }

    /// Keeps the working file under its working name, durably. If that fails, it is deleted.
    pub fn keep(self) -> Result<(), DurableError> {
        let working = self.0;
        if !working.is_named {
            working.dir.remove(&working.name)?;
            if !working.dir.name_file(&working.file, &working.name)? {
                return Err(working.failed("name", Errno::EXIST));
            }
        }
        working
            .dir
            .sync_name(&working.name)
            .inspect_err(|_| drop(working.dir.remove(&working.name)))
    }

    pub fn discard(self) {
        self.0.discard();
    }
}

impl Named {
    /// Makes the names of a group of files durable, with one sync of each directory. If one fails,
    /// its names might not survive a power cut, so none of the group stays visible.
    #[expect(clippy::needless_pass_by_value, reason = "the names are spent, whatever comes of it")]
    pub fn settle(group: Vec<Self>) -> Result<(), DurableError> {
        let mut synced: Vec<&Arc<Dir>> = Vec::new();
        let mut outcome = Ok(());
        for named in &group {
            if outcome.is_ok() && !synced.iter().any(|dir| Arc::ptr_eq(dir, &named.dir)) {
                outcome = named.dir.sync_name(&named.name);
                synced.push(&named.dir);
            }
        }
        if outcome.is_err() {
            for named in &group {
                drop(named.dir.remove(&named.name));
            }
            for dir in synced {
                drop(dir.sync());
            }
        }
        outcome
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::modes::FileMode;
    use crate::durable::Partial;

    pub(in crate::durable) fn dir() -> (tempfile::TempDir, Arc<Dir>) {
        let root = tempfile::tempdir().unwrap();
        let dir = Arc::new(Dir::open(root.path()).unwrap());
        (root, dir)
    }

    pub(in crate::durable) fn synced(dir: &Arc<Dir>, bytes: &[u8]) -> Synced {
        let mut partial = Partial::create(dir, ".work", FileMode::PRIVATE).unwrap();
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
            let Err(CommitFailure::Occupied(synced)) = synced(&dir, b"new").commit("final", way)
            else {
                panic!("{way:?}: committed over an existing file");
            };
            assert_eq!(dir.names().unwrap(), [".work", "final"]);
            synced.discard();
            assert_eq!(dir.names().unwrap(), ["final"]);
            assert_eq!(std::fs::read(root.path().join("final")).unwrap(), b"");
        }
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
    fn an_unnamed_file_leaves_nothing_behind_and_never_replaces_a_file() {
        let (root, dir) = dir();
        let unnamed = |bytes: &[u8]| {
            let mut partial = Partial::create_unnamed(&dir, ".work", FileMode::PRIVATE).unwrap();
            partial.write(bytes).unwrap();
            assert!(partial.checkpoint().is_none(), "its bytes could not be found again");
            partial.start_writing_back();
            partial.sync().unwrap()
        };
        drop(unnamed(b"crash"));
        assert!(dir.names().unwrap().is_empty());
        unnamed(b"whole").commit("final", NoOverwrite::Rename).unwrap();
        let path = root.path().join("final");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let Err(CommitFailure::Occupied(synced)) =
            unnamed(b"other").commit("final", NoOverwrite::Rename)
        else {
            panic!("committed over an existing file");
        };
        synced.discard();
        assert_eq!(dir.names().unwrap(), ["final"]);
        assert_eq!(std::fs::read(path).unwrap(), b"whole");
        unnamed(b"12345").keep().unwrap();
        let mut kept = Partial::reopen(&dir, ".work", 3, FileMode::PRIVATE).unwrap().unwrap();
        kept.write(b"x").unwrap();
        assert_eq!(std::fs::read(root.path().join(".work")).unwrap(), b"123x");
    }

    #[test]
    fn a_group_is_settled_together_or_not_at_all() {
        let (_root, dir) = dir();
        let named = |name: &str, way| {
            let partial = Partial::create_unnamed(&dir, ".work", FileMode::PRIVATE).unwrap();
            partial.sync().unwrap().name(name, way).unwrap()
        };
        Named::settle(vec![named("a", NoOverwrite::Rename), named("b", NoOverwrite::Link)])
            .unwrap();
        assert_eq!(dir.names().unwrap(), ["a", "b"]);

        let (other_root, _) = self::dir();
        let unsyncable = Arc::new(Dir::open_unsyncable(other_root.path()));
        let lost = synced(&unsyncable, b"whole").name("c", NoOverwrite::Rename).unwrap();
        Named::settle(vec![named("d", NoOverwrite::Rename), lost]).unwrap_err();
        assert_eq!(dir.names().unwrap(), ["a", "b"], "what is not committed is not visible");
        assert!(unsyncable.names().is_err() || !unsyncable.exists("c").unwrap());
    }

    #[test]
    fn unverified_bytes_never_get_the_final_name() {
        let (root, dir) = dir();
        let verified = synced(&dir, b"verified");
        std::fs::remove_file(root.path().join(".work")).unwrap();
        File::create(root.path().join(".work")).unwrap();
        let committed = verified.commit("final", NoOverwrite::Rename);
        assert!(matches!(committed, Err(CommitFailure::Failed(_))));
        assert_eq!(dir.names().unwrap(), [".work"], "the other file stays");
    }

    /// Another thread uses the moment between the check of the working name and its rename.
    #[test]
    fn a_working_name_taken_over_by_another_file_at_any_moment_gets_no_final_name() {
        let (root, dir) = dir();
        let (work, other) = (root.path().join(".work"), root.path().join(".other"));
        // Ends with the loop, also if that panics.
        let running = Arc::new(());
        let until = Arc::downgrade(&running);
        std::thread::scope(|scope| {
            let _running = running;
            scope.spawn(move || {
                while until.strong_count() > 0 {
                    File::create(&other).unwrap();
                    #[expect(clippy::disallowed_methods, reason = "a stranger's doing")]
                    std::fs::rename(&other, &work).unwrap();
                }
            });
            for _ in 0..300 {
                let _ = std::fs::remove_file(root.path().join(".work"));
                let Ok(mut partial) = Partial::create(&dir, ".work", FileMode::PRIVATE) else {
                    continue;
                };
                partial.write(b"verified").unwrap();
                let Ok(verified) = partial.sync() else { continue };
                let named = verified.name("final", NoOverwrite::Rename).is_ok();
                let found = std::fs::read(root.path().join("final")).ok();
                assert_eq!(found.as_deref(), named.then_some(b"verified".as_slice()));
                let _ = std::fs::remove_file(root.path().join("final"));
            }
        });
    }
}
