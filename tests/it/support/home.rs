//! A folder for one watcher: configuration and key files on the way in, exports and manifests on
//! the way out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use batch_export_watcher::domain::manifest::{MANIFEST_FILE, Manifest};
use batch_export_watcher::domain::part::Sha256;
use batch_export_watcher::simulator::Content;
use tempfile::TempDir;
use tokio::process::Command;
use toml::{Table, Value};

use super::look;
use super::process::Watcher;

/// Intervals at which a test does not wait for the clock. A body that a test holds back must not
/// count as stalled or slow before the test has looked, however busy the machine is.
const FAST: &str = r#"
    [poll]
    min_interval = "20ms"
    max_interval = "100ms"
    [retry]
    initial = "20ms"
    max = "200ms"
    [download]
    directory = "exports"
    reserve = "1MiB"
    stall_timeout = "10m"
    min_rate = "0B/s"
    [state]
    directory = "state"
    [server]
    listen = "off"
"#;

/// The folder; removed when dropped.
#[derive(Debug)]
pub(crate) struct Home {
    folder: TempDir,
    config: Table,
}

impl Home {
    /// An empty one whose watcher will ask this API.
    pub(crate) fn new(api_base_url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut home = Self { folder, config: Table::new() };
        home.merge(FAST);
        home.merge(&format!("[api]\nbase_url = {}", Value::from(api_base_url)));
        home
    }

    /// One more project; its REST key goes into a file of its own.
    pub(crate) fn project(
        mut self,
        name: &str,
        project_key: &str,
        rest_api_key: &str,
        exports: &[&str],
    ) -> Self {
        let mut table = Table::new();
        table.insert("name".to_owned(), name.into());
        table.insert("project_key".to_owned(), project_key.into());
        table.insert("rest_api_key_file".to_owned(), format!("{name}.key").into());
        table.insert("exports".to_owned(), exports.to_vec().into());
        match self.config.entry("project").or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(projects) => projects.push(table.into()),
            other => panic!("project is no list but {other}"),
        }
        self.write_key(name, rest_api_key);
        self
    }

    /// Lays this TOML over what is configured, key by key.
    pub(crate) fn with(mut self, toml: &str) -> Self {
        self.merge(toml);
        self
    }

    /// As [`Home::with`], for a later reload.
    pub(crate) fn merge(&mut self, toml: &str) {
        overlay(&mut self.config, toml.parse().expect("the test's own TOML"));
    }

    /// Takes a table out of the configuration.
    pub(crate) fn remove(&mut self, table: &str) {
        self.config.remove(table);
    }

    /// Configures other exports for a project, for a later reload.
    pub(crate) fn set_exports(&mut self, project: &str, exports: &[&str]) {
        let projects = self.config.get_mut("project").and_then(Value::as_array_mut);
        let table = projects
            .into_iter()
            .flatten()
            .filter_map(Value::as_table_mut)
            .find(|table| table.get("name").and_then(Value::as_str) == Some(project));
        let table = table.unwrap_or_else(|| panic!("no project {project} is configured"));
        table.insert("exports".to_owned(), exports.to_vec().into());
    }

    /// Writes a project's REST key to its file, 0600.
    pub(crate) fn write_key(&self, project: &str, rest_api_key: &str) {
        self.write(&format!("{project}.key"), &format!("{rest_api_key}\n"));
    }

    /// Writes the configuration as it stands; [`Home::start`] does so, too.
    pub(crate) fn write_config(&self) {
        self.write_config_as("config.toml");
    }

    /// Writes the configuration to another file of the folder, to be put in the first one's place.
    pub(crate) fn write_config_as(&self, name: &str) {
        self.write(name, &self.config.to_string());
    }

    /// Writes a file of the folder, 0600.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        let file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.path().join("config.toml")
    }

    /// Where the exports land.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.path().join("exports")
    }

    /// Where one export lands.
    pub(crate) fn export(&self, project: &str, export: &str) -> PathBuf {
        self.downloads().join(project).join(export)
    }

    /// The real program with this subcommand and its arguments, our configuration and an
    /// environment of our own.
    pub(crate) fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        self.write_config();
        let mut command = Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
        command
            .args(["--log-format", "json", subcommand, "-c"])
            .arg(self.config_path())
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("RUST_LOG", "batch_export_watcher=debug")
            .env("HOME", self.path());
        command
    }

    /// Starts `run` with these further arguments.
    pub(crate) fn start(&self, arguments: &[&str]) -> Watcher {
        Watcher::spawn(self.command("run", arguments))
    }

    /// Every file and folder where the exports land, by its path from there, with the permission
    /// bits of its mode.
    pub(crate) fn tree(&self) -> BTreeMap<String, u32> {
        let downloads = self.downloads();
        let found = look::below(&downloads).into_iter().map(|(path, metadata)| {
            let name = path.strip_prefix(&downloads).unwrap_or(&path).display().to_string();
            (name, metadata.permissions().mode() & 0o7777)
        });
        found.collect()
    }

    /// The manifest of an export, where it has one.
    pub(crate) fn try_manifest(&self, project: &str, export: &str) -> Option<Manifest> {
        let bytes = look::read(&self.export(project, export).join(MANIFEST_FILE))?;
        Some(Manifest::parse(&bytes).expect("a manifest that is there is whole"))
    }

    /// The manifest of an export that has one.
    pub(crate) fn manifest(&self, project: &str, export: &str) -> Manifest {
        self.try_manifest(project, export).unwrap_or_else(|| {
            panic!("no manifest for {project}/{export}; there are {:#?}", self.tree())
        })
    }

    /// SHA-256 of a file where the exports land, read from the disk.
    pub(crate) fn sha256(&self, path: &str) -> Sha256 {
        let bytes = fs::read(self.downloads().join(path));
        let bytes =
            bytes.unwrap_or_else(|error| panic!("{path}: {error}; there are {:#?}", self.tree()));
        Content::from(bytes).sha256()
    }

    /// Compares a finished export with what the store had: the manifest, each file's bytes, and
    /// nothing else beside them.
    pub(crate) fn assert_whole(&self, project: &str, export: &str, contents: &[&Content]) {
        let manifest = self.manifest(project, export);
        let promised: Vec<_> = manifest.parts.iter().map(|part| part.sha256).collect();
        let found: Vec<_> = manifest
            .parts
            .iter()
            .map(|part| self.sha256(&format!("{project}/{export}/{}", part.path)))
            .collect();
        let expected: Vec<_> = contents.iter().map(|content| content.sha256()).collect();
        assert_eq!(promised, expected, "the manifest of {project}/{export}");
        assert_eq!(found, expected, "the files of {project}/{export}");
        let beside = look::below(&self.export(project, export)).len();
        assert_eq!(beside, contents.len() + 1, "something else lies there: {:#?}", self.tree());
    }
}

/// Tables are merged, everything else is replaced.
fn overlay(base: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
