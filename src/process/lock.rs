//! One instance for each directory: an advisory lock that the kernel releases at exit.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

const MAX_HOLDER_BYTES: u64 = 4096;

/// Holds the lock until it is dropped. The file stays: if it were removed, two instances could lock
/// two files with the same name.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

/// The lock of a directory that may be missing: taken when the directory is there, and then held.
#[derive(Debug)]
pub struct LateLock {
    path: PathBuf,
    held: OnceLock<InstanceLock>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process ID on its host or in its container.
    pub pid: u32,
    pub host: String,
    pub started_at: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is locked by another instance: {}", .path.display(), describe(.holder.as_ref()))]
    /// The holder is `None` if the file does not tell.
    Held { path: PathBuf, holder: Option<Holder> },
    #[error("cannot lock {}: {source}", .path.display())]
    Failed { path: PathBuf, source: io::Error },
}

impl InstanceLock {
    /// Takes the lock without waiting. The directory must exist.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::Failed { path: path.to_owned(), source };
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = open(path, flags, mode).map_err(|errno| failed(errno.into()))?;
        // The umask may have removed the owner's bits, and the next start could not open the file.
        fchmod(&fd, mode).map_err(|errno| failed(errno.into()))?;
        let mut file = File::from(fd);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held { path: path.to_owned(), holder: read(&file) });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // The flock is the lock: on a full disk the program still starts without the note.
        if let Err(error) = note(&mut file) {
            tracing::debug!(
                event = "lock_holder_unnoted", path = %path.display(), cause = %error,
                "the lock is taken, but its holder cannot be written into the lock file: {error}"
            );
        }
        Ok(Self { _file: file })
    }
}

impl LateLock {
    pub fn new(path: PathBuf) -> Self {
        Self { path, held: OnceLock::new() }
    }

    /// Takes the lock unless it is already held. Blocks; must not be called by two threads at once.
    pub fn ensure(&self) -> Result<(), LockError> {
        if !self.is_held() {
            let lock = InstanceLock::acquire(&self.path)?;
            self.held.get_or_init(|| lock);
        }
        Ok(())
    }

    pub fn is_held(&self) -> bool {
        self.held.get().is_some()
    }
}

fn note(file: &mut File) -> io::Result<()> {
    let holder = Holder {
        pid: std::process::id(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        started_at: Timestamp::now(),
    };
    let mut line = serde_json::to_vec(&holder)?;
    line.push(b'\n');
    file.set_len(0)?;
    file.write_all(&line)
}

fn read(file: &File) -> Option<Holder> {
    let mut bytes = Vec::new();
    file.take(MAX_HOLDER_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn describe(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, host, started_at }) => {
            format!("process {pid} on {host:?}, since {started_at:.0}")
        }
        None => "its process is unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_second_instance_learns_who_holds_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let first = InstanceLock::acquire(&path).unwrap();
        let refused = InstanceLock::acquire(&path).unwrap_err();
        let LockError::Held { holder: Some(holder), .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(holder.pid, std::process::id());
        let message = refused.to_string();
        let started_at = format!("{:.0}", holder.started_at);
        for part in [holder.pid.to_string(), holder.host.clone(), started_at] {
            assert!(message.contains(&part), "{message}");
        }
        drop(first);
        InstanceLock::acquire(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_late_lock_is_taken_once_its_folder_is_there() {
        let root = tempfile::tempdir().unwrap();
        let late = LateLock::new(root.path().join("disk/lock"));
        assert!(matches!(late.ensure(), Err(LockError::Failed { .. })));
        std::fs::create_dir(root.path().join("disk")).unwrap();
        let other = InstanceLock::acquire(&root.path().join("disk/lock")).unwrap();
        assert!(matches!(late.ensure(), Err(LockError::Held { .. })));
        drop(other);
        late.ensure().unwrap();
        late.ensure().unwrap();
        assert!(late.is_held());
        assert!(InstanceLock::acquire(&root.path().join("disk/lock")).is_err());
    }

    #[test]
    fn the_note_of_an_earlier_holder_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        Write::write_all(&mut File::create(&path).unwrap(), &[b'x'; 500]).unwrap();
        let _first = InstanceLock::acquire(&path).unwrap();
        let noted: Holder = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(noted.pid, std::process::id());
    }

    #[test]
    fn a_link_is_not_followed_and_a_missing_folder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path().join("target"), &link).unwrap();
        assert!(matches!(InstanceLock::acquire(&link), Err(LockError::Failed { .. })));
        assert!(!root.path().join("target").exists());
        let error = InstanceLock::acquire(&root.path().join("no/lock")).unwrap_err();
        assert!(error.to_string().contains("no/lock"), "{error}");
    }
}
