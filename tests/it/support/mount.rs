//! File systems of a test's own, and how they get full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system in the place of a folder; unmounted when dropped.
pub(crate) struct Mount {
    place: PathBuf,
}

impl Mount {
    /// Prints why and gives `None` if mounting is not allowed.
    pub(crate) fn new(place: PathBuf, arguments: &[&str]) -> Option<Self> {
        fs::create_dir_all(&place).expect("a folder to mount on");
        let mounted = Command::new("mount").args(arguments).arg(&place).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { place }),
            other => {
                // Not `eprintln!`, which a test that passes keeps to itself.
                let skipped = format!(
                    "SKIPPED: this test needs to mount a file system, and may not: {other:?}\n"
                );
                std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
                None
            }
        }
    }

    /// One in memory, with these options.
    pub(crate) fn tmpfs(place: PathBuf, options: &str) -> Option<Self> {
        Self::new(place, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a watcher of a test that failed may still have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// Fills a file system to its last byte.
pub(crate) fn fill_bytes(ballast: &Path) {
    let mut file = fs::File::create(ballast).expect("a file");
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
}

/// Fills a file system to its last name.
pub(crate) fn fill_names(ballast: &Path) {
    fs::create_dir(ballast).expect("a folder");
    for number in 0.. {
        if fs::File::create(ballast.join(format!("{number}"))).is_err() {
            return;
        }
    }
}
