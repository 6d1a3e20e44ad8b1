//! The effective configuration as TOML: every key present, defaults filled in, secrets hidden.

use std::path::Path;

use serde::{Serialize, Serializer};
use toml::Value;

use super::secret::KeySource;
use super::units::{format_duration, format_rate, format_size};
use super::{Config, ProjectConfig};

/// A table that keeps the order of its keys.
struct Table<T>(Vec<(&'static str, T)>);

impl<T: Serialize> Serialize for Table<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// What this renders can be loaded again, apart from the project keys: they are shortened.
pub(super) fn render(config: &Config) -> String {
    let Config { api, poll, retry, download, server, reload, .. } = config;
    let duration = |duration| Value::from(format_duration(duration));
    let number = |number| Value::Integer(number);
    let mut of_api = vec![
        ("base_url", api.base_url.as_str().into()),
        ("requests_per_second", number(api.requests_per_second.get().into())),
        ("connect_timeout", duration(api.connect_timeout)),
        ("request_timeout", duration(api.request_timeout)),
    ];
    of_api.extend(api.ca_file.as_deref().map(|file| ("ca_file", path(file))));
    let mut of_download = vec![
        ("directory", path(&download.directory)),
        ("file_mode", download.modes.file.to_string().into()),
        ("dir_mode", download.modes.directory.to_string().into()),
        ("max_parts", number(download.max_parts.get().try_into().unwrap_or(i64::MAX))),
        ("reserve", format_size(download.reserve_bytes).into()),
        ("stall_timeout", duration(download.stall_timeout)),
        ("min_rate", format_rate(download.min_rate_bytes_per_second).into()),
    ];
    let bandwidth = download.bandwidth.map(|limit| format_rate(limit.bytes_per_second()));
    of_download.extend(bandwidth.map(|limit| ("bandwidth", limit.into())));
    of_download.push(("allowed_hosts", list(&download.allowed_hosts)));
    let of_poll = vec![
        ("min_interval", duration(poll.cadence.min())),
        ("max_interval", duration(poll.cadence.max())),
        ("not_found_grace", duration(poll.not_found_grace)),
    ];
    let of_server = vec![
        ("listen", server.shown_address().into()),
        ("allowed_hosts", list(&server.allowed_hosts)),
    ];
    let tables = vec![
        ("api", of_api),
        ("poll", of_poll),
        ("retry", vec![("initial", duration(retry.initial())), ("max", duration(retry.max()))]),
        ("download", of_download),
        ("state", vec![("directory", path(&config.state_directory))]),
        ("reload", vec![("watch", reload.watch.into()), ("interval", duration(reload.interval))]),
        ("server", of_server),
    ];
    let tables = tables.into_iter().map(|(name, table)| (name, Table(table))).collect();
    let projects = config.projects.iter();
    let projects = projects.map(|of| format!("\n[[project]]\n{}", toml_of(&project(of))));
    toml_of(&Table(tables)) + &projects.collect::<String>()
}

fn project(project: &ProjectConfig) -> Table<Value> {
    let source = match &project.key_source {
        KeySource::File(file) => ("rest_api_key_file", path(file)),
        KeySource::Env(name) => ("rest_api_key_env", name.as_str().into()),
        KeySource::Credential { name, .. } => ("rest_api_key_credential", name.as_str().into()),
    };
    Table(vec![
        ("name", project.name.as_str().into()),
        ("project_key", project.project_key.shortened().into()),
        source,
        ("exports", list(&project.exports)),
    ])
}

fn path(path: &Path) -> Value {
    path.to_string_lossy().into_owned().into()
}

fn list(texts: &[impl ToString]) -> Value {
    texts.iter().map(|text| Value::from(text.to_string())).collect::<Vec<_>>().into()
}

fn toml_of(table: &impl Serialize) -> String {
    toml::to_string_pretty(table).expect("tables of texts, numbers and lists always serialize")
}
