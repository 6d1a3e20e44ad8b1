//! From the file's texts to types, table by table: every value is judged, every fault is kept,
//! defaults fill the gaps.

use std::ffi::OsStr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use toml::Spanned;
use url::Url;

use crate::domain::bandwidth::Bandwidth;
use crate::domain::cadence::Cadence;
use crate::domain::modes::{DirectoryMode, FileMode, ModeError, Modes};
use crate::domain::retry::RetryPolicy;

use super::checker::{Checker, Setting};
use super::environment::Environment;
use super::fault::Lines;
use super::raw::{Raw, RawApi, RawDownload, RawPoll, RawReload, RawRetry, Text};
use super::{
    ApiConfig, Config, ConfigFaults, DownloadConfig, Places, PollConfig, ReloadConfig, endpoint,
    file, project, server, units,
};

/// The API, by the vendor's documentation, in the version that this program was written for.
const BASE_URL: &str = "https://api.batch.com/2.11";
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("10 is not zero");
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
const MIN_INTERVAL: Duration = Duration::from_secs(10);
const MAX_INTERVAL: Duration = Duration::from_mins(5);
const NOT_FOUND_GRACE: Duration = Duration::from_mins(10);
const RETRY_INITIAL: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(10);
const MAX_PARTS: NonZeroU32 = NonZeroU32::new(8).expect("8 is not zero");
const RESERVE_BYTES: u64 = bytesize::GIB;
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const MIN_RATE_BYTES_PER_SECOND: u64 = bytesize::KIB;
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Where the two directories lie when neither the file nor systemd says otherwise.
const HOME: &str = "/var/lib/batch-export-watcher";

/// Most parts in flight: each takes a socket and a file, and 4096 is a usual hard limit on
/// descriptors.
const MOST_PARTS: u32 = 1024;
/// Most bytes of a `ca_file`; the bundles of operating systems have a few hundred KiB.
const MAX_CA_FILE_BYTES: u64 = 8 << 20;

/// Turns the raw file into a configuration.
pub(super) fn validate(
    raw: &Raw,
    path: &Path,
    lines: &Lines,
    environment: &Environment,
) -> Result<Config, ConfigFaults> {
    // This fails only without a current directory; then the path as it was given is as good as it
    // gets.
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut checker =
        Checker { path, folder, lines, environment, faults: Vec::new(), warnings: Vec::new() };
    let api = api(&mut checker, &raw.api);
    let poll = poll(&mut checker, &raw.poll);
    let retry = retry(&mut checker, &raw.retry);
    let download = download(&mut checker, &raw.download);
    let state_directory = state(&mut checker, raw, &download.directory);
    let reload = reload(&mut checker, &raw.reload);
    let server = server::server(&mut checker, &raw.server);
    let projects = project::projects(&mut checker, &raw.project);
    let places = places(raw, lines);
    let Checker { faults, warnings, .. } = checker;
    match ConfigFaults::of(faults, path) {
        Some(faults) => Err(faults),
        None => Ok(Config {
            file,
            api,
            poll,
            retry,
            download,
            state_directory,
            reload,
            server,
            projects,
            warnings,
            places,
        }),
    }
}

fn api(checker: &mut Checker<'_>, raw: &RawApi) -> ApiConfig {
    let base_url = checker
        .parsed("api.base_url", raw.base_url.as_ref(), endpoint::parse_base_url)
        .unwrap_or_else(|| Url::parse(BASE_URL).expect("the default base url is a url"));
    let requests_per_second = checker.count(
        "api.requests_per_second",
        raw.requests_per_second.as_ref(),
        REQUESTS_PER_SECOND,
        u32::MAX,
    );
    let connect_timeout = checker.interval(&Setting {
        key: "api.connect_timeout",
        value: raw.connect_timeout.as_ref(),
        default: CONNECT_TIMEOUT,
    });
    let request_timeout = checker.interval(&Setting {
        key: "api.request_timeout",
        value: raw.request_timeout.as_ref(),
        default: REQUEST_TIMEOUT,
    });
    let ca_file = ca_file(checker, raw.ca_file.as_ref());
    ApiConfig { base_url, requests_per_second, connect_timeout, request_timeout, ca_file }
}

fn ca_file(checker: &mut Checker<'_>, value: Option<&Text>) -> Option<PathBuf> {
    const KEY: &str = "api.ca_file";
    let path = checker.path(KEY, value)?;
    let span = value.map_or(0..0, Spanned::span);
    match file::read(&path, MAX_CA_FILE_BYTES) {
        Err(error) => checker.fault(KEY, span, error),
        Ok(content) if !holds_certificates(&content.bytes) => {
            checker.fault(
                KEY,
                span,
                "must hold certificates in pem form, at least one, and only valid ones",
            );
        }
        Ok(_) => {}
    }
    Some(path)
}

fn holds_certificates(pem: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    let added = CertificateDer::pem_slice_iter(pem)
        .all(|certificate| certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()));
    added && !roots.is_empty()
}

fn poll(checker: &mut Checker<'_>, raw: &RawPoll) -> PollConfig {
    let (min, max) = checker.ordered(
        &Setting {
            key: "poll.min_interval",
            value: raw.min_interval.as_ref(),
            default: MIN_INTERVAL,
        },
        &Setting {
            key: "poll.max_interval",
            value: raw.max_interval.as_ref(),
            default: MAX_INTERVAL,
        },
    );
    let cadence = Cadence::try_new(min, max).expect("both are above zero and in order");
    // Unlike an interval, a grace may be zero: an unknown export then fails at once.
    let grace =
        checker.parsed("poll.not_found_grace", raw.not_found_grace.as_ref(), units::parse_duration);
    PollConfig { cadence, not_found_grace: grace.unwrap_or(NOT_FOUND_GRACE) }
}

fn retry(checker: &mut Checker<'_>, raw: &RawRetry) -> RetryPolicy {
    let (initial, max) = checker.ordered(
        &Setting { key: "retry.initial", value: raw.initial.as_ref(), default: RETRY_INITIAL },
        &Setting { key: "retry.max", value: raw.max.as_ref(), default: RETRY_MAX },
    );
    crate::transport::retry_policy(initial, max).expect("both are above zero and in order")
}

fn download(checker: &mut Checker<'_>, raw: &RawDownload) -> DownloadConfig {
    let max_parts =
        checker.count("download.max_parts", raw.max_parts.as_ref(), MAX_PARTS, MOST_PARTS);
    let reserve = checker.parsed("download.reserve", raw.reserve.as_ref(), units::parse_size);
    let stall_timeout = checker.interval(&Setting {
        key: "download.stall_timeout",
        value: raw.stall_timeout.as_ref(),
        default: STALL_TIMEOUT,
    });
    let min_rate = checker.parsed("download.min_rate", raw.min_rate.as_ref(), units::parse_rate);
    let bandwidth = checker.parsed("download.bandwidth", raw.bandwidth.as_ref(), parse_bandwidth);
    let hosts = raw.allowed_hosts.iter();
    DownloadConfig {
        directory: directory(checker, "download.directory", raw.directory.as_ref(), "exports"),
        modes: modes(checker, raw),
        max_parts: NonZeroUsize::try_from(max_parts).expect("a u32 fits into a usize on linux"),
        reserve_bytes: reserve.unwrap_or(RESERVE_BYTES),
        stall_timeout,
        min_rate_bytes_per_second: min_rate.unwrap_or(MIN_RATE_BYTES_PER_SECOND),
        bandwidth,
        allowed_hosts: hosts
            .filter_map(|host| {
                checker.parsed("download.allowed_hosts", Some(host), endpoint::parse_host)
            })
            .collect(),
    }
}

fn reload(checker: &mut Checker<'_>, raw: &RawReload) -> ReloadConfig {
    let interval = checker.interval(&Setting {
        key: "reload.interval",
        value: raw.interval.as_ref(),
        default: RELOAD_INTERVAL,
    });
    ReloadConfig { watch: raw.watch.unwrap_or(true), interval }
}

fn places(raw: &Raw, lines: &Lines) -> Places {
    let line = |value: &Text| lines.line_at(value.span().start);
    Places {
        download_directory: raw.download.directory.as_ref().map(line),
        state_directory: raw.state.directory.as_ref().map(line),
        server_listen: raw.server.listen.as_ref().map(line),
        server_allowed_hosts: raw.server.allowed_hosts.first().map(line),
        names: raw
            .project
            .iter()
            .filter_map(|project| project.get_ref().name.as_ref())
            .map(line)
            .collect(),
    }
}

/// Each key by itself, and then what the two say together.
fn modes(checker: &mut Checker<'_>, raw: &RawDownload) -> Modes {
    let file =
        checker.parsed("download.file_mode", raw.file_mode.as_ref(), parse_mode(FileMode::try_new));
    let directory = checker.parsed(
        "download.dir_mode",
        raw.dir_mode.as_ref(),
        parse_mode(DirectoryMode::try_new),
    );
    let modes = Modes { file: file.unwrap_or_default(), directory: directory.unwrap_or_default() };
    if modes.shut_readers_out() {
        let span = raw.file_mode.as_ref().map_or(0..0, Spanned::span);
        let message = format!(
            "lets the group read files in folders that it may not enter: download.dir_mode is {}",
            modes.directory
        );
        checker.warn("download.file_mode", span, message);
    }
    modes
}

fn parse_mode<T>(
    judge: impl FnOnce(u32) -> Result<T, ModeError>,
) -> impl FnOnce(&str) -> Result<T, String> {
    |text| {
        let bits = units::parse_mode(text).map_err(|error| error.to_string())?;
        judge(bits).map_err(|error| error.to_string())
    }
}

fn parse_bandwidth(text: &str) -> Result<Bandwidth, String> {
    let bytes_per_second = units::parse_rate(text).map_err(|error| error.to_string())?;
    Bandwidth::try_new(bytes_per_second).map_err(|error| error.to_string())
}

/// The state may not lie in the download directory: consumers move and delete files there, and a
/// project could have its name. The other way round, nobody is in anybody's way.
fn state(checker: &mut Checker<'_>, raw: &Raw, download_directory: &Path) -> PathBuf {
    const KEY: &str = "state.directory";
    let directory = directory(checker, KEY, raw.state.directory.as_ref(), "state");
    if resolved(&directory).starts_with(resolved(download_directory)) {
        let (key, value) = match &raw.state.directory {
            Some(value) => (KEY, Some(value)),
            None => ("download.directory", raw.download.directory.as_ref()),
        };
        let message = "the state directory must not be the download directory or lie inside it, \
                       because consumers move and delete files there";
        checker.fault(key, value.map_or(0..0, Spanned::span), message);
    }
    directory
}

/// A directory, or its default.
fn directory(checker: &mut Checker<'_>, key: &str, value: Option<&Text>, default: &str) -> PathBuf {
    let path = checker.path(key, value);
    path.unwrap_or_else(|| checker.folder.join(home(checker.environment)).join(default))
}

/// Where the directories lie by default: `$STATE_DIRECTORY`, where systemd sets it, or else a
/// folder in `/var/lib`.
fn home(environment: &Environment) -> &Path {
    // systemd separates several directories with colons; the first is the one of this service.
    let list = environment.get_os("STATE_DIRECTORY").unwrap_or_default().as_bytes();
    let first = OsStr::from_bytes(list.split(|byte| *byte == b':').next().unwrap_or_default());
    if first.is_empty() { Path::new(HOME) } else { Path::new(first) }
}

/// `state.directory` by the value that the file at `path` has for it, if any.
pub(super) fn state_directory(
    path: &Path,
    value: Option<&str>,
    environment: &Environment,
) -> PathBuf {
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = file.parent().unwrap_or(Path::new("/"));
    match value.filter(|value| !value.is_empty()) {
        Some(value) => folder.join(value),
        None => folder.join(home(environment)).join("state"),
    }
}

/// Where a path leads: links followed as far as it exists, the rest without `.` and `..`.
fn resolved(path: &Path) -> PathBuf {
    let found =
        path.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let (start, mut resolved) = found.unwrap_or((Path::new(""), PathBuf::new()));
    for component in path.strip_prefix(start).unwrap_or(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                resolved.push(component)
            }
        }
    }
    resolved
}
