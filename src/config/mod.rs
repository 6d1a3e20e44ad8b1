//! The configuration: a TOML file in, types that cannot hold nonsense out, or everything that is
//! wrong with it.
//!
//! [`load`] reads the file's shape (`raw`), turns every value into its type and collects the faults
//! (`validate`, `project`), and looks at the other files it names, so that `check` and a start come
//! to the same verdict.

mod checker;
mod command;
mod endpoint;
mod environment;
mod fault;
mod file;
mod fingerprint;
mod ids_file;
mod project;
mod raw;
mod restart;
mod secret;
mod server;
mod show;
mod units;
mod validate;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::domain::bandwidth::Bandwidth;
use crate::domain::cadence::Cadence;
use crate::domain::ids::{ExportId, ProjectKey, ProjectName};
use crate::domain::modes::Modes;
use crate::domain::retry::RetryPolicy;

pub use command::command;
pub use environment::Environment;
pub use fault::{ConfigFaults, Fault};
pub use file::ReadError;
pub use fingerprint::Fingerprint;
pub use restart::restart_faults;
pub use secret::{KeyError, KeySource, RestKey};
pub use units::{UnitError, parse_duration};

use fault::Lines;

/// Where the configuration is looked for where nobody says where it is.
pub const DEFAULT_FILE: &str = "/etc/batch-export-watcher/config.toml";
/// Most bytes of a configuration file that are read: room for more than a hundred thousand export
/// IDs.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The effective configuration. Every path is absolute unless the current directory is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// `[api]`
    pub api: ApiConfig,
    /// `[poll]`
    pub poll: PollConfig,
    /// `[retry]`
    pub retry: RetryPolicy,
    /// `[download]`
    pub download: DownloadConfig,
    /// `state.directory`: where the records live; neither the download directory nor inside it.
    pub state_directory: PathBuf,
    /// `[reload]`
    pub reload: ReloadConfig,
    /// `[server]`
    pub server: ServerConfig,
    /// `[[project]]`, at least one, in the order of the file; names and keys are unique.
    pub projects: Vec<ProjectConfig>,
    /// What is accepted, but should be looked at; each with file, line and key.
    pub warnings: Vec<String>,
    places: Places,
}

/// The lines of what a reload may have to complain about. Where something stands is not what it
/// says: two configurations that differ in nothing else are equal.
#[derive(Debug, Clone, Default)]
struct Places {
    download_directory: Option<usize>,
    state_directory: Option<usize>,
    server_listen: Option<usize>,
    server_allowed_hosts: Option<usize>,
    /// Of each project.
    names: Vec<usize>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

/// `[reload]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadConfig {
    /// Whether changed files are noticed.
    pub watch: bool,
    /// How often they are looked at.
    pub interval: Duration,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where the status page listens; `None` where it is off. With other than a loopback address
    /// there are `allowed_hosts`.
    pub listen: Option<SocketAddr>,
    /// Hosts that it may be asked for by besides those of loopback, spelled as
    /// [`DownloadConfig::allowed_hosts`].
    pub allowed_hosts: Vec<String>,
}

/// `[api]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// The API with its version, without a slash at its end, userinfo, query or fragment; https, or
    /// http on loopback.
    pub base_url: Url,
    /// View calls of one project in a second.
    pub requests_per_second: NonZeroU32,
    /// The longest wait for a connection, of either client.
    pub connect_timeout: Duration,
    /// The longest wait for a whole API call, and for the headers of a body.
    pub request_timeout: Duration,
    /// More certificate authorities beside the system's, PEM; was readable and held a certificate
    /// when it was loaded.
    pub ca_file: Option<PathBuf>,
}

impl ApiConfig {
    /// Whether the API is a plain-http one, which by construction is on this machine: no proxy, and
    /// links may be http.
    #[must_use]
    pub fn is_loopback_http(&self) -> bool {
        self.base_url.scheme() == "http"
    }
}

/// `[poll]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollConfig {
    /// `min_interval` and `max_interval`.
    pub cadence: Cadence,
    /// For how long an export that the API does not know is asked for again; zero gives up at once.
    pub not_found_grace: Duration,
}

/// `[download]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadConfig {
    /// Where finished exports go.
    pub directory: PathBuf,
    /// `file_mode` and `dir_mode`.
    pub modes: Modes,
    /// Parts in flight, all exports together.
    pub max_parts: NonZeroUsize,
    /// Free space that is never used.
    pub reserve_bytes: u64,
    /// The longest wait for the next byte of a body.
    pub stall_timeout: Duration,
    /// The slowest body that is put up with, measured over a minute; zero puts up with any.
    pub min_rate_bytes_per_second: u64,
    /// The cap on all bodies together; `None` without one.
    pub bandwidth: Option<Bandwidth>,
    /// Hosts behind signed links that may have private addresses: lower-case host names in ASCII,
    /// or addresses in their canonical text, IPv6 without brackets.
    pub allowed_hosts: Vec<String>,
}

/// `[[project]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectConfig {
    /// The folder's name.
    pub name: ProjectName,
    /// What names the project to the API.
    pub project_key: ProjectKey,
    /// Where the REST key is read from; it could be read when the configuration was loaded.
    pub key_source: KeySource,
    /// `exports`, then what `exports_file` adds, each once.
    pub exports: Vec<ExportId>,
    /// The file that adds exports.
    pub exports_file: Option<PathBuf>,
}

impl Config {
    /// The effective configuration as TOML, every key present, with the project keys shortened; no
    /// REST key is in it.
    #[must_use]
    pub fn show(&self) -> String {
        show::render(self)
    }

    /// Whether the file itself says where the status page listens.
    #[must_use]
    pub fn says_where_to_listen(&self) -> bool {
        self.places.server_listen.is_some()
    }

    /// Every file that this was read from: should one of them change, it is worth reading again.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let of_project = |project: &ProjectConfig| {
            let key = project.key_source.file();
            [key, project.exports_file.clone()]
        };
        let named = self.projects.iter().flat_map(of_project).flatten();
        std::iter::once(self.file.clone()).chain(self.api.ca_file.clone()).chain(named).collect()
    }
}

/// Where the state is, by the configuration file or, where it does not say, by default. The file
/// need not be right: who asks a running daemon how it is must not depend on what somebody is
/// writing at the moment.
#[must_use]
pub fn state_directory(path: &Path, environment: &Environment) -> PathBuf {
    let text = file::read(path, MAX_FILE_BYTES).map(|content| content.bytes).unwrap_or_default();
    let named = raw::state_directory(&String::from_utf8_lossy(&text));
    validate::state_directory(path, named.as_deref(), environment)
}

/// Reads and validates the configuration file and everything it names. Blocks on the disk; changes
/// nothing.
///
/// # Errors
/// With the first fault of the file's shape, or with every fault of its values.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigFaults> {
    let content = file::read(path, MAX_FILE_BYTES).map_err(|error| {
        let help =
            "give the configuration with -c FILE or the variable BATCH_EXPORT_WATCHER_CONFIG";
        Fault { file: path.to_owned(), line: None, key: None, message: format!("{error}; {help}") }
    })?;
    judge(&content.bytes, path, environment)
}

/// The configuration that these bytes of `path` are. Looks at the files that they name, and at
/// nothing else.
pub(crate) fn judge(
    bytes: &[u8],
    path: &Path,
    environment: &Environment,
) -> Result<Config, ConfigFaults> {
    let lines = Lines::of(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| Fault {
        file: path.to_owned(),
        line: Some(lines.line_at(error.valid_up_to())),
        key: None,
        message: "is not utf-8 text".to_owned(),
    })?;
    let raw = raw::parse(text).map_err(|fault| Fault {
        file: path.to_owned(),
        line: Some(lines.line_at(fault.offset)),
        key: fault.key,
        message: fault.message,
    })?;
    validate::validate(&raw, path, &lines, environment)
}

#[cfg(test)]
mod scene;
#[cfg(test)]
mod tests;
