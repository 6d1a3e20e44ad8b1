//! Tells from metadata whether files have changed, also behind a link that now leads elsewhere,
//! as with a ConfigMap of Kubernetes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Look>)>);

/// Device, inode, bytes, and when content and inode last changed, in seconds and nanoseconds.
type Look = ([u64; 3], [i64; 4]);

impl Fingerprint {
    /// Blocks on the disk.
    pub fn of(files: Vec<PathBuf>) -> Self {
        let look = |path: PathBuf| {
            let look = fs::metadata(&path).ok().map(|found| {
                let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
                ([found.dev(), found.ino(), found.size()], times)
            });
            (path, look)
        };
        Self(files.into_iter().map(look).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_change_of_any_file_is_noticed_even_behind_a_swapped_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let append = |path: PathBuf| {
            let mut file = File::options().create(true).append(true).open(path).unwrap();
            file.write_all(b"text").unwrap();
        };
        for version in ["v1", "v2"] {
            fs::create_dir(path(version)).unwrap();
            append(path(version).join("c.toml"));
        }
        symlink("v1", path("..data")).unwrap();
        symlink("..data/c.toml", path("c.toml")).unwrap();
        let look = || Fingerprint::of(vec![path("c.toml"), path("key")]);
        let before = look();
        assert_eq!(before, look());
        fs::remove_file(path("..data")).unwrap();
        assert_ne!(before, look(), "gone");
        symlink("v2", path("..data")).unwrap();
        let swapped = look();
        assert_ne!(before, swapped);
        append(path("key"));
        let appeared = look();
        assert_ne!(swapped, appeared);
        append(path("key"));
        assert_ne!(appeared, look());
    }
}
