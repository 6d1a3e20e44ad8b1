//! A folder with a configuration file and the files it names, for tests of the loader.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::{Config, ConfigFaults, Environment, load};

/// Marks a value that no fault, warning or rendering may show.
pub(super) const SECRET: &str = "s3cret";
/// A project in three lines; more lines can follow.
pub(super) const SHOP: &str =
    "[[project]]\nname = \"shop\"\nproject_key = \"project_0123456789\"\n";

pub(super) struct Scene {
    pub(super) folder: TempDir,
    pub(super) environment: Environment,
}

impl Scene {
    pub(super) fn new() -> Self {
        let scene =
            Self { folder: tempfile::tempdir().unwrap(), environment: Environment::default() };
        scene.file("key", "s3cret\n");
        scene
    }

    pub(super) fn with_environment(pairs: &[(&str, &str)]) -> Self {
        Self { environment: Environment::from_pairs(pairs.iter().copied()), ..Self::new() }
    }

    /// Creates a file that only its owner can read and that was not changed for a minute.
    pub(super) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        path
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn load(&self, text: &str) -> Result<Config, ConfigFaults> {
        load(&self.file("c.toml", text), &self.environment)
    }

    /// Loads `text` followed by a valid project.
    pub(super) fn load_with_shop(&self, text: &str) -> Result<Config, ConfigFaults> {
        self.load(&format!("{text}\n{}", shop("")))
    }

    /// The faults of `text`, without the path of the folder. None of them holds [`SECRET`].
    pub(super) fn faults(&self, text: &str) -> Vec<String> {
        let shown = self.load(text).unwrap_err().to_string();
        assert!(!shown.contains(SECRET), "{shown}");
        let folder = format!("{}/", self.folder.path().display());
        shown.lines().map(|line| line.replace(&folder, "")).collect()
    }
}

/// A configuration that begins with a valid project; `rest` continues its table.
pub(super) fn shop(rest: &str) -> String {
    format!("{SHOP}rest_api_key_file = \"key\"\n{rest}")
}

#[track_caller]
pub(super) fn begins(text: &str, expected: &str) {
    assert!(text.starts_with(expected), "{text}");
}

#[track_caller]
pub(super) fn holds(text: &str, expected: &str) {
    assert!(text.contains(expected), "{text}");
}

/// The single fault of `text` in a fresh scene.
pub(super) fn fault(text: &str) -> String {
    let mut faults = Scene::new().faults(text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0)
}

/// The single fault of a text that is followed by a valid project.
pub(super) fn fault_before_shop(text: &str) -> String {
    fault(&format!("{text}\n{}", shop("")))
}
