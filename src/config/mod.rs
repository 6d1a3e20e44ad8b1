//! The configuration: turns a TOML file into types that hold only valid values, or says everything
//! that is wrong with it.
//!
//! [`load`] parses the file (`raw`), turns every value into its type and collects the faults
//! (`validate`, `project`). It also reads the other files that the configuration names, so that
//! `check` and a start come to the same result.

mod checker;
mod command;
mod endpoint;
mod environment;
mod fault;
mod file;
mod fingerprint;
mod ids_file;
mod project;
mod proxy;
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

/// The configuration file if the user names no other.
pub const DEFAULT_FILE: &str = "/etc/batch-export-watcher/config.toml";
/// Room for more than a hundred thousand export IDs.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The effective configuration. Every path is absolute unless the current directory is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub file: PathBuf,
    pub api: ApiConfig,
    pub poll: PollConfig,
    pub retry: RetryPolicy,
    pub download: DownloadConfig,
    /// Neither the download directory nor inside it.
    pub state_directory: PathBuf,
    pub reload: ReloadConfig,
    pub server: ServerConfig,
    /// At least one, in the order of the file; names and keys are unique.
    pub projects: Vec<ProjectConfig>,
    /// What is accepted but probably a mistake; each with file, line and key.
    pub warnings: Vec<String>,
    places: Places,
}

/// The lines of what a reload may refuse to change. They do not make configurations differ.
#[derive(Debug, Clone, Default)]
struct Places {
    download_directory: Option<usize>,
    state_directory: Option<usize>,
    server_listen: Option<usize>,
    server_allowed_hosts: Option<usize>,
    names: Vec<usize>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadConfig {
    pub watch: bool,
    pub interval: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where the status page listens; `None` if it is off. If this is not a loopback address,
    /// `allowed_hosts` is not empty.
    pub listen: Option<SocketAddr>,
    /// Host names that requests may use besides those of loopback, spelled as in
    /// [`DownloadConfig::allowed_hosts`].
    pub allowed_hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// With its version, and without a slash at its end. HTTPS, or HTTP on loopback.
    pub base_url: Url,
    /// View calls per second, for each project.
    pub requests_per_second: NonZeroU32,
    /// For the API and for the object store.
    pub connect_timeout: Duration,
    /// For a whole API call, and for the headers of a body.
    pub request_timeout: Duration,
    /// More certificate authorities besides the system's, in PEM form. It was valid when the
    /// configuration was loaded.
    pub ca_file: Option<PathBuf>,
}

impl ApiConfig {
    /// If so, the API is on this machine, no proxy is used, and links may be HTTP.
    pub fn is_loopback_http(&self) -> bool {
        self.base_url.scheme() == "http"
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollConfig {
    pub cadence: Cadence,
    /// How long to keep asking for an export that the API does not know; zero gives up at once.
    pub not_found_grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadConfig {
    pub directory: PathBuf,
    pub modes: Modes,
    /// Parts in flight, for all exports together.
    pub max_parts: NonZeroUsize,
    /// Free space that is never used.
    pub reserve_bytes: u64,
    /// The longest wait for the next byte of a body.
    pub stall_timeout: Duration,
    /// A body that is slower over a minute is given up; zero accepts any rate.
    pub min_rate_bytes_per_second: u64,
    pub bandwidth: Option<Bandwidth>,
    /// Hosts behind signed links that may have private addresses: lower-case host names in ASCII,
    /// or addresses in their canonical form, IPv6 without brackets.
    pub allowed_hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectConfig {
    pub name: ProjectName,
    pub project_key: ProjectKey,
    /// Where the REST API key is read from. It was readable when the configuration was loaded.
    pub key_source: KeySource,
    /// `exports`, then what `exports_file` adds, each once.
    pub exports: Vec<ExportId>,
    pub exports_file: Option<PathBuf>,
}

impl Config {
    /// As TOML with every key. Project keys are shortened, and there is no REST API key.
    pub fn show(&self) -> String {
        show::render(self)
    }

    /// Whether the file itself says where the status page listens.
    pub fn says_where_to_listen(&self) -> bool {
        self.places.server_listen.is_some()
    }

    /// Every file that this was read from. If one of them changes, a reload may be needed.
    pub fn files(&self) -> Vec<PathBuf> {
        let of_project = |of: &ProjectConfig| [of.key_source.file(), of.exports_file.clone()];
        let named = self.projects.iter().flat_map(of_project).flatten();
        std::iter::once(self.file.clone()).chain(self.api.ca_file.clone()).chain(named).collect()
    }
}

/// The state directory in the configuration file, or the default. The file may have faults: a
/// command that asks a running daemon must work while somebody edits the file. But it must be there,
/// or the command would ask the daemon of another configuration.
pub fn state_directory(path: &Path, environment: &Environment) -> Result<PathBuf, ConfigFaults> {
    let named = raw::state_directory(&String::from_utf8_lossy(&read(path)?));
    Ok(validate::state_directory(path, named.as_deref(), environment))
}

/// Reads and validates the configuration file and every file it names; blocks on the disk. The
/// error is the first fault of syntax, keys and types, or else every fault of the values.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigFaults> {
    judge(&read(path)?, path, environment)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigFaults> {
    let content = file::read(path, MAX_FILE_BYTES).map_err(|error| {
        let help = "name the configuration file with -c FILE or BATCH_EXPORT_WATCHER_CONFIG";
        Fault::new(path, None, format!("{error}; {help}"))
    })?;
    Ok(content.bytes)
}

/// Validates the content of the file `path`. Reads the files that it names, but not `path`.
pub(crate) fn judge(
    bytes: &[u8],
    path: &Path,
    environment: &Environment,
) -> Result<Config, ConfigFaults> {
    let lines = Lines::of(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = lines.line_at(error.valid_up_to());
        Fault::new(path, Some(line), "the line is not UTF-8 text")
    })?;
    let raw = raw::parse(text).map_err(|fault| Fault {
        column: fault.in_array.then(|| lines.column_at(fault.offset)),
        key: fault.key,
        ..Fault::new(path, Some(lines.line_at(fault.offset)), fault.message)
    })?;
    validate::validate(&raw, path, &lines, environment)
}

#[cfg(test)]
mod scene;
#[cfg(test)]
mod tests;
