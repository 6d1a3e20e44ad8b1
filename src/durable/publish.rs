//! Gives a file a name that must be free, in the way that a probe of its directory found.

use rustix::io::Errno;

use super::{Dir, DurableError, ErrorClass, calls};
use crate::domain::modes::FileMode;

/// How a rename that never replaces a file is done here. There is no fallback to a plain rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoOverwrite {
    Rename,
    /// `linkat`, which refuses an existing name, then `unlinkat`. A crash may leave both names.
    Link,
}

pub(super) enum Published {
    Done,
    Occupied,
}

/// The names that the probe uses; they exist only while it runs.
const PROBE_NAMES: [&str; 3] = [
    ".batch-export-watcher.probe-1",
    ".batch-export-watcher.probe-2",
    ".batch-export-watcher.probe-3",
];

impl NoOverwrite {
    /// Finds out what the directory's file system supports; `None` if it supports neither.
    pub fn probe(dir: &Dir) -> Result<Option<Self>, DurableError> {
        for way in [Self::Rename, Self::Link] {
            let works = way.works(dir);
            for name in PROBE_NAMES {
                dir.remove(name)?;
            }
            if works? {
                return Ok(Some(way));
            }
        }
        Ok(None)
    }

    /// Both halves are tried: some file systems ignore the flag and would replace the file.
    fn works(self, dir: &Dir) -> Result<bool, DurableError> {
        let [working, occupied, free] = PROBE_NAMES;
        for name in PROBE_NAMES {
            dir.remove(name)?;
        }
        drop(dir.create_file(working, FileMode::PRIVATE)?);
        drop(dir.create_file(occupied, FileMode::PRIVATE)?);
        let refuses = self.publish(dir, working, occupied);
        if !matches!(refuses, Ok(Published::Occupied)) {
            return unsupported_or(refuses);
        }
        match self.publish(dir, working, free) {
            Ok(Published::Done) => Ok(dir.exists(free)? && !dir.exists(working)?),
            other => unsupported_or(other),
        }
    }

    pub(super) fn publish(
        self,
        dir: &Dir,
        working: &str,
        name: &str,
    ) -> Result<Published, DurableError> {
        let answer = match self {
            Self::Rename => calls::rename(dir, working, name),
            Self::Link => calls::link(dir, working, name),
        };
        match answer {
            Ok(()) => {
                if self == Self::Link {
                    // A working name that stays does no harm: the next preparation removes it.
                    drop(dir.remove(working));
                }
                Ok(Published::Done)
            }
            Err(Errno::EXIST) => Ok(Published::Occupied),
            Err(errno) => Err(DurableError::new("name", dir.path().join(name), errno)),
        }
    }
}

/// Whether a probe uses this name: it is running, or a crash has left the file.
pub fn is_probe_name(name: &str) -> bool {
    PROBE_NAMES.contains(&name)
}

/// Whether files can be made without a name here and be named later: then a crash leaves nothing
/// behind. An error says nothing about that; ask again.
pub fn probe_unnamed(dir: &Dir) -> Result<bool, DurableError> {
    let name = PROBE_NAMES[0];
    dir.remove(name)?;
    let named = dir
        .create_unnamed_file(name, FileMode::PRIVATE)
        .and_then(|file| dir.name_file(&file, name));
    let found = dir.remove(name)?;
    match named {
        Ok(named) => Ok(named && found),
        Err(error) => match error.class() {
            ErrorClass::NoSpace | ErrorClass::ReadOnly | ErrorClass::Io => Err(error),
            // EOPNOTSUPP: not by the file system. EISDIR: not by the kernel. ENOENT: no /proc.
            _ => Ok(false),
        },
    }
}

/// A way that replaced the file, or is not supported (some answer EPERM to a hard link).
fn unsupported_or(answer: Result<Published, DurableError>) -> Result<bool, DurableError> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if matches!(error.class(), ErrorClass::Unsupported | ErrorClass::Denied) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_work_on_an_ordinary_file_system_and_the_probe_tidies_up() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        std::fs::File::create(root.path().join(PROBE_NAMES[2])).unwrap();
        assert_eq!(NoOverwrite::probe(&dir).unwrap(), Some(NoOverwrite::Rename));
        assert!(NoOverwrite::Rename.works(&dir).unwrap());
        assert!(NoOverwrite::Link.works(&dir).unwrap());
        NoOverwrite::probe(&dir).unwrap();
        assert!(dir.names().unwrap().is_empty());
    }

    #[test]
    fn the_probe_for_unnamed_files_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        assert!(probe_unnamed(&dir).unwrap());
        assert!(dir.names().unwrap().is_empty());
        let procfs = Dir::open(std::path::Path::new("/proc/self/fdinfo")).unwrap();
        assert!(!probe_unnamed(&procfs).unwrap_or(false), "no file can be made there");
    }
}
