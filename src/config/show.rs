//! The effective configuration as TOML, for a person: every key present, defaults filled in,
//! secrets hidden.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;

use serde::Serialize;

use crate::domain::ids::{ExportId, ProjectName};

use super::secret::KeySource;
use super::units::{format_duration, format_rate, format_size};
use super::{Config, ProjectConfig};

#[derive(Serialize)]
struct Shown<'a> {
    api: ShownApi<'a>,
    poll: ShownPoll,
    retry: ShownRetry,
    download: ShownDownload<'a>,
    state: ShownState,
    reload: ShownReload,
    server: ShownServer<'a>,
    project: Vec<ShownProject<'a>>,
}

#[derive(Serialize)]
struct ShownApi<'a> {
    base_url: &'a str,
    requests_per_second: NonZeroU32,
    connect_timeout: String,
    request_timeout: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
}

#[derive(Serialize)]
struct ShownPoll {
    min_interval: String,
    max_interval: String,
    not_found_grace: String,
}

#[derive(Serialize)]
struct ShownRetry {
    initial: String,
    max: String,
}

#[derive(Serialize)]
struct ShownDownload<'a> {
    directory: String,
    file_mode: String,
    dir_mode: String,
    max_parts: NonZeroUsize,
    reserve: String,
    stall_timeout: String,
    min_rate: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<String>,
    allowed_hosts: &'a [String],
}

#[derive(Serialize)]
struct ShownState {
    directory: String,
}

#[derive(Serialize)]
struct ShownServer<'a> {
    listen: String,
    allowed_hosts: &'a [String],
}

#[derive(Serialize)]
struct ShownReload {
    watch: bool,
    interval: String,
}

#[derive(Serialize)]
struct ShownProject<'a> {
    name: &'a ProjectName,
    project_key: String,
    #[serde(flatten)]
    key_source: ShownKeySource<'a>,
    exports: &'a [ExportId],
}

#[derive(Serialize)]
enum ShownKeySource<'a> {
    #[serde(rename = "rest_api_key_file")]
    File(String),
    #[serde(rename = "rest_api_key_env")]
    Env(&'a str),
    #[serde(rename = "rest_api_key_credential")]
    Credential(&'a str),
}

/// What this renders can be loaded again, apart from the project keys: they are shortened.
pub(super) fn render(config: &Config) -> String {
    let Config { api, poll, retry, download, server, .. } = config;
    let shown = Shown {
        api: ShownApi {
            base_url: api.base_url.as_str(),
            requests_per_second: api.requests_per_second,
            connect_timeout: format_duration(api.connect_timeout),
            request_timeout: format_duration(api.request_timeout),
            ca_file: api.ca_file.as_deref().map(text),
        },
        poll: ShownPoll {
            min_interval: format_duration(poll.cadence.min()),
            max_interval: format_duration(poll.cadence.max()),
            not_found_grace: format_duration(poll.not_found_grace),
        },
        retry: ShownRetry {
            initial: format_duration(retry.initial()),
            max: format_duration(retry.max()),
        },
        download: ShownDownload {
            directory: text(&download.directory),
            file_mode: download.modes.file.to_string(),
            dir_mode: download.modes.directory.to_string(),
            max_parts: download.max_parts,
            reserve: format_size(download.reserve_bytes),
            stall_timeout: format_duration(download.stall_timeout),
            min_rate: format_rate(download.min_rate_bytes_per_second),
            bandwidth: download
                .bandwidth
                .map(|bandwidth| format_rate(bandwidth.bytes_per_second())),
            allowed_hosts: &download.allowed_hosts,
        },
        state: ShownState { directory: text(&config.state_directory) },
        reload: ShownReload {
            watch: config.reload.watch,
            interval: format_duration(config.reload.interval),
        },
        server: ShownServer {
            listen: server.shown_address(),
            allowed_hosts: &server.allowed_hosts,
        },
        project: config.projects.iter().map(shown_project).collect(),
    };
    toml::to_string_pretty(&shown)
        .expect("plain structs of texts, numbers and lists always serialize")
}

fn shown_project(project: &ProjectConfig) -> ShownProject<'_> {
    ShownProject {
        name: &project.name,
        project_key: project.project_key.shortened(),
        key_source: match &project.key_source {
            KeySource::File(path) => ShownKeySource::File(text(path)),
            KeySource::Env(name) => ShownKeySource::Env(name),
            KeySource::Credential { name, .. } => ShownKeySource::Credential(name),
        },
        exports: &project.exports,
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
