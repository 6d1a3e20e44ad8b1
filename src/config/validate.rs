//! Turns texts into types, table by table, and collects every fault. A missing key has a default.

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

use super::checker::{Checker, quoted_path};
use super::endpoint::{parse_base_url, parse_host};
use super::environment::Environment;
use super::fault::Lines;
use super::raw::{Raw, RawApi, RawDownload, RawPoll, RawReload, RawRetry, Text};
use super::{
    ApiConfig, Config, ConfigFaults, DownloadConfig, Places, PollConfig, ReloadConfig, file,
    project, proxy, server, units,
};

/// From the vendor's documentation, in the version that this program was written for.
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
/// The folder of the two directories if neither the file nor systemd names others.
const HOME: &str = "/var/lib/batch-export-watcher";

/// Each part in flight takes a socket and a file, and 4096 is a usual hard limit of descriptors.
const MOST_PARTS: u32 = 1024;
/// The bundles of operating systems have a few hundred KiB.
const MAX_CA_FILE_BYTES: u64 = 8 << 20;

pub(super) fn validate(
    raw: &Raw,
    path: &Path,
    lines: &Lines<'_>,
    environment: &Environment,
) -> Result<Config, ConfigFaults> {
    let file = absolute(path);
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut checker =
        Checker { path, folder, lines, environment, faults: Vec::new(), warnings: Vec::new() };
    let api = api(&mut checker, &raw.api);
    if !api.is_loopback_http() {
        proxy::check(&mut checker);
    }
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
        .parsed("api.base_url", raw.base_url.as_ref(), parse_base_url)
        .unwrap_or_else(|| Url::parse(BASE_URL).expect("the default base URL is a URL"));
    let requests_per_second = checker.count(
        "api.requests_per_second",
        raw.requests_per_second.as_ref(),
        REQUESTS_PER_SECOND,
        u32::MAX,
    );
    let connect_timeout =
        checker.interval(("api.connect_timeout", &raw.connect_timeout, CONNECT_TIMEOUT));
    let request_timeout =
        checker.interval(("api.request_timeout", &raw.request_timeout, REQUEST_TIMEOUT));
    let ca_file = ca_file(checker, raw.ca_file.as_ref());
    ApiConfig { base_url, requests_per_second, connect_timeout, request_timeout, ca_file }
}

fn ca_file(checker: &mut Checker<'_>, value: Option<&Text>) -> Option<PathBuf> {
    const KEY: &str = "api.ca_file";
    let path = checker.path(KEY, value)?;
    let fault = match file::read(&path, MAX_CA_FILE_BYTES) {
        Err(error) => Err(error.to_string()),
        Ok(content) => check_certificates(&content.bytes).map_err(str::to_owned),
    };
    if let Err(fault) = fault {
        let span = value.map_or(0..0, Spanned::span);
        checker.fault(KEY, span, format!("the file {} {fault}", quoted_path(&path)));
    }
    Some(path)
}

fn check_certificates(pem: &[u8]) -> Result<(), &'static str> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate.is_ok_and(|certificate| roots.add(certificate).is_ok());
        added.then_some(()).ok_or("holds a certificate that is not valid")?;
    }
    if roots.is_empty() { Err("holds no certificate in PEM form") } else { Ok(()) }
}

fn poll(checker: &mut Checker<'_>, raw: &RawPoll) -> PollConfig {
    let [min, max] = checker.ordered(
        ("poll.min_interval", &raw.min_interval, MIN_INTERVAL),
        ("poll.max_interval", &raw.max_interval, MAX_INTERVAL),
    );
    let cadence = Cadence::try_new(min, max).expect("both are above zero and in order");
    // Unlike an interval, the grace may be zero: then an unknown export fails at once.
    let grace =
        checker.parsed("poll.not_found_grace", raw.not_found_grace.as_ref(), units::parse_duration);
    PollConfig { cadence, not_found_grace: grace.unwrap_or(NOT_FOUND_GRACE) }
}

fn retry(checker: &mut Checker<'_>, raw: &RawRetry) -> RetryPolicy {
    let [initial, max] = checker.ordered(
        ("retry.initial", &raw.initial, RETRY_INITIAL),
        ("retry.max", &raw.max, RETRY_MAX),
    );
    crate::transport::retry_policy(initial, max).expect("both are above zero and in order")
}

fn download(checker: &mut Checker<'_>, raw: &RawDownload) -> DownloadConfig {
    let max_parts =
        checker.count("download.max_parts", raw.max_parts.as_ref(), MAX_PARTS, MOST_PARTS);
    let reserve = checker.parsed("download.reserve", raw.reserve.as_ref(), units::parse_size);
    let stall_timeout =
        checker.interval(("download.stall_timeout", &raw.stall_timeout, STALL_TIMEOUT));
    let min_rate = checker.parsed("download.min_rate", raw.min_rate.as_ref(), units::parse_rate);
    let bandwidth = checker.parsed("download.bandwidth", raw.bandwidth.as_ref(), parse_bandwidth);
    DownloadConfig {
        directory: directory(checker, "download.directory", raw.directory.as_ref(), "exports"),
        modes: modes(checker, raw),
        max_parts: NonZeroUsize::try_from(max_parts).expect("a u32 fits into a usize on linux"),
        reserve_bytes: reserve.unwrap_or(RESERVE_BYTES),
        stall_timeout,
        min_rate_bytes_per_second: min_rate.unwrap_or(MIN_RATE_BYTES_PER_SECOND),
        bandwidth,
        allowed_hosts: checker.all("download.allowed_hosts", &raw.allowed_hosts, parse_host),
    }
}

fn reload(checker: &mut Checker<'_>, raw: &RawReload) -> ReloadConfig {
    let interval = checker.interval(("reload.interval", &raw.interval, RELOAD_INTERVAL));
    ReloadConfig { watch: raw.watch.unwrap_or(true), interval }
}

fn places(raw: &Raw, lines: &Lines<'_>) -> Places {
    let line = |value: &Text| lines.line_at(value.span().start);
    let names = raw.project.iter().filter_map(|project| project.get_ref().name.as_ref());
    Places {
        download_directory: raw.download.directory.as_ref().map(line),
        state_directory: raw.state.directory.as_ref().map(line),
        server_listen: raw.server.listen.as_ref().map(line),
        server_allowed_hosts: raw.server.allowed_hosts.first().map(line),
        names: names.map(line).collect(),
    }
}

fn modes(checker: &mut Checker<'_>, raw: &RawDownload) -> Modes {
    let judge = parse_mode(FileMode::try_new);
    let file = checker.parsed("download.file_mode", raw.file_mode.as_ref(), judge);
    let judge = parse_mode(DirectoryMode::try_new);
    let directory = checker.parsed("download.dir_mode", raw.dir_mode.as_ref(), judge);
    let modes = Modes { file: file.unwrap_or_default(), directory: directory.unwrap_or_default() };
    if modes.shut_readers_out() {
        let span = raw.file_mode.as_ref().map_or(0..0, Spanned::span);
        let Modes { file, directory } = modes;
        let message = format!(
            "`{file}` lets the group read files, but download.dir_mode `{directory}` does not let \
             it enter their folders"
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

/// The state directory must not be inside the download directory: consumers move and delete files
/// there, and a project could have its name. The other way round is fine.
fn state(checker: &mut Checker<'_>, raw: &Raw, download_directory: &Path) -> PathBuf {
    const KEY: &str = "state.directory";
    let directory = directory(checker, KEY, raw.state.directory.as_ref(), "state");
    if resolved(&directory).starts_with(resolved(download_directory)) {
        let (key, value) = match &raw.state.directory {
            Some(value) => (KEY, Some(value)),
            None => ("download.directory", raw.download.directory.as_ref()),
        };
        let message = format!(
            "the state directory {} must not be the download directory {} or inside it: consumers \
             move and delete files there",
            quoted_path(&directory),
            quoted_path(download_directory)
        );
        checker.fault(key, value.map_or(0..0, Spanned::span), message);
    }
    directory
}

fn directory(checker: &mut Checker<'_>, key: &str, value: Option<&Text>, default: &str) -> PathBuf {
    let path = checker.path(key, value);
    path.unwrap_or_else(|| checker.folder.join(home(checker.environment)).join(default))
}

/// `$STATE_DIRECTORY` if systemd sets it, else [`HOME`].
fn home(environment: &Environment) -> &Path {
    // systemd separates several directories with colons; the first belongs to this service.
    let list = environment.get_os("STATE_DIRECTORY").unwrap_or_default().as_bytes();
    let first = OsStr::from_bytes(list.split(|byte| *byte == b':').next().unwrap_or_default());
    if first.is_empty() { Path::new(HOME) } else { Path::new(first) }
}

/// Fails only without a current directory; then the path stays as it is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// `state.directory` from its value in the file at `path`, or the default.
pub(super) fn state_directory(
    path: &Path,
    value: Option<&str>,
    environment: &Environment,
) -> PathBuf {
    let file = absolute(path);
    let folder = file.parent().unwrap_or(Path::new("/"));
    match value.filter(|value| !value.is_empty()) {
        Some(value) => folder.join(value),
        None => folder.join(home(environment)).join("state"),
    }
}

/// Follows links as far as the path exists, and removes `.` and `..` from the rest.
fn resolved(path: &Path) -> PathBuf {
    let real = |ancestor: &Path| Some((ancestor.to_owned(), ancestor.canonicalize().ok()?));
    let (start, mut resolved) = path.ancestors().find_map(real).unwrap_or_default();
    for component in path.strip_prefix(start).unwrap_or(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                resolved.push(component);
            }
        }
    }
    resolved
}
