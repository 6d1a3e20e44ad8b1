//! The contract of the configuration, through [`load`].

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;

use super::raw::TABLES;
use super::scene::{Scene, begins, fault, fault_before_shop, holds};
use super::*;

mod secrets;

#[test]
fn missing_keys_have_their_documented_defaults() {
    let scene = Scene::new();
    let config = scene.load_with_shop("").unwrap();
    assert_eq!(config.file, scene.path("c.toml"));
    assert_eq!(config.api.base_url.as_str(), "https://api.batch.com/2.11");
    assert_eq!(config.api.requests_per_second.get(), 10);
    assert_eq!(config.api.connect_timeout, Duration::from_secs(10));
    assert_eq!(config.api.request_timeout, Duration::from_secs(60));
    assert_eq!(config.api.ca_file, None);
    assert!(!config.api.is_loopback_http());
    let (min, max) = (config.poll.cadence.min(), config.poll.cadence.max());
    assert_eq!((min, max), (Duration::from_secs(10), Duration::from_secs(300)));
    assert_eq!(config.poll.not_found_grace, Duration::from_secs(600));
    assert_eq!(config.retry.initial(), Duration::from_secs(1));
    assert_eq!(config.retry.max(), Duration::from_secs(600));
    assert_eq!(config.download.directory, Path::new("/var/lib/batch-export-watcher/exports"));
    assert_eq!(config.download.modes, Modes::PRIVATE);
    assert_eq!(config.download.max_parts.get(), 8);
    assert_eq!(config.download.reserve_bytes, 1 << 30);
    assert_eq!(config.download.stall_timeout, Duration::from_secs(30));
    assert_eq!(config.download.min_rate_bytes_per_second, 1024);
    assert_eq!(config.download.bandwidth, None);
    assert_eq!(config.download.allowed_hosts, Vec::<String>::new());
    assert_eq!(config.state_directory, Path::new("/var/lib/batch-export-watcher/state"));
    assert_eq!(config.reload, ReloadConfig { watch: true, interval: Duration::from_secs(5) });
    let listen = Some("127.0.0.1:9847".parse().unwrap());
    assert_eq!(config.server, ServerConfig { listen, allowed_hosts: Vec::new() });
    assert!(!config.says_where_to_listen());
    assert_eq!(config.warnings, Vec::<String>::new());
    let [project] = config.projects.as_slice() else { panic!("{:?}", config.projects) };
    let identity = (project.name.as_str(), project.project_key.expose());
    assert_eq!(identity, ("shop", "project_0123456789"));
    assert_eq!(project.key_source, KeySource::File(scene.path("key")));
    assert_eq!(project.exports, [], "a project without exports is fine");
}

/// The keys that lines of TOML set, with their tables.
fn stated<'l>(lines: impl Iterator<Item = &'l str>) -> BTreeSet<String> {
    let mut table = "";
    let mut stated = BTreeSet::new();
    for line in lines {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            stated.insert(format!("{table}.{key}"));
        }
    }
    stated
}

#[test]
fn the_shipped_example_has_every_key_and_every_default() {
    let example = include_str!("../../config/batch-export-watcher.toml");
    let scene = Scene::new();
    let example_project = example.replace("/run/secrets/batch-rest-key", "key");
    let (_, project) = example_project.split_once("[[project]]").unwrap();
    let bare = scene.load(&format!("[[project]]{project}")).unwrap();
    assert_eq!(scene.load(&example_project).unwrap(), bare);

    let keys = TABLES.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (table, key)));
    let every_key: BTreeSet<_> = keys.map(|(table, key)| format!("{table}.{key}")).collect();
    let with_commented = example.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
    assert_eq!(stated(with_commented), every_key);
    let without_a_default = [
        "api.ca_file",
        "download.bandwidth",
        "project.exports_file",
        "project.rest_api_key_credential",
        "project.rest_api_key_env",
    ];
    let mut uncommented = stated(example.lines());
    uncommented.extend(without_a_default.map(str::to_owned));
    assert_eq!(uncommented, every_key);
}

#[test]
fn every_value_can_be_set() {
    let scene = Scene::new();
    let text = r#"
        [api]
        base_url = "http://localhost:8080/2.11/"
        requests_per_second = 3
        connect_timeout = "1s"
        request_timeout = "2m"
        [poll]
        min_interval = "10ms"
        max_interval = "10ms"
        not_found_grace = "0s"
        [retry]
        initial = "20ms"
        max = "1h"
        [download]
        directory = "out"
        file_mode = "0640"
        dir_mode = "750"
        max_parts = 1024
        reserve = "0B"
        stall_timeout = "7d"
        min_rate = "0B/s"
        bandwidth = "50MB/s"
        allowed_hosts = ["MinIO.internal", "10.0.0.1", "FD00::1"]
        [state]
        directory = "/srv/state"
        [reload]
        watch = false
        interval = "1m"
        [server]
        listen = "0.0.0.0:80"
        allowed_hosts = ["Watcher.internal", "10.0.0.7"]
    "#;
    let config = scene.load_with_shop(text).unwrap();
    assert_eq!(config.api.base_url.as_str(), "http://localhost:8080/2.11");
    assert!(config.api.is_loopback_http());
    assert_eq!(config.api.requests_per_second.get(), 3);
    assert_eq!(config.api.connect_timeout.as_secs(), 1);
    assert_eq!(config.api.request_timeout.as_secs(), 120);
    assert_eq!(config.poll.cadence.min(), Duration::from_millis(10));
    assert_eq!(config.poll.cadence.max(), Duration::from_millis(10));
    assert_eq!(config.poll.not_found_grace, Duration::ZERO);
    assert_eq!((config.retry.initial().as_millis(), config.retry.max().as_secs()), (20, 3600));
    assert_eq!(config.download.directory, scene.path("out"), "relative to the file's folder");
    assert_eq!(config.download.modes.file.bits(), 0o640);
    assert_eq!(config.download.modes.directory.bits(), 0o750);
    assert_eq!((config.download.max_parts.get(), config.download.reserve_bytes), (1024, 0));
    assert_eq!(config.download.stall_timeout.as_secs(), 604_800);
    assert_eq!(config.download.min_rate_bytes_per_second, 0);
    assert_eq!(config.download.bandwidth, Some(Bandwidth::try_new(50_000_000).unwrap()));
    assert_eq!(config.download.allowed_hosts, ["minio.internal", "10.0.0.1", "fd00::1"]);
    assert_eq!(config.state_directory, Path::new("/srv/state"));
    assert_eq!(config.reload, ReloadConfig { watch: false, interval: Duration::from_secs(60) });
    assert_eq!(config.server.listen, Some("0.0.0.0:80".parse().unwrap()));
    assert_eq!(config.server.allowed_hosts, ["watcher.internal", "10.0.0.7"]);
    assert!(config.says_where_to_listen());
}

#[test]
fn under_systemd_the_default_directories_are_in_its_state_directory() {
    for list in ["/srv/first", "/srv/first:/srv/second"] {
        let scene = Scene::with_environment(&[("STATE_DIRECTORY", list)]);
        let config = scene.load_with_shop("").unwrap();
        assert_eq!(config.download.directory, Path::new("/srv/first/exports"));
        assert_eq!(config.state_directory, Path::new("/srv/first/state"));
        let config = scene.load_with_shop("[state]\ndirectory = \"/elsewhere\"").unwrap();
        assert_eq!(config.state_directory, Path::new("/elsewhere"), "what the file says wins");
    }
    let config = Scene::with_environment(&[("STATE_DIRECTORY", "")]).load_with_shop("").unwrap();
    assert_eq!(config.state_directory, Path::new("/var/lib/batch-export-watcher/state"));
}

#[test]
fn the_state_must_be_outside_the_download_directory() {
    let scene = Scene::new();
    fs::create_dir(scene.path("real")).unwrap();
    std::os::unix::fs::symlink("real", scene.path("link")).unwrap();
    let load = |download: &str, state: &str| {
        let state = format!("[state]\ndirectory = \"{state}\"");
        scene.load_with_shop(&format!("[download]\ndirectory = \"{download}\"\n{state}"))
    };
    let inside = [("d", "d"), ("d", "d/state"), ("d", "./x/../d/state")];
    for (download, state) in inside.into_iter().chain([("real", "link/state"), ("link", "real")]) {
        let faults = load(download, state).unwrap_err();
        let [fault] = faults.faults() else { panic!("{faults}") };
        let place = (fault.line, fault.key.as_deref());
        assert_eq!(place, (Some(4), Some("state.directory")), "{fault}");
    }
    for (download, state) in [("d", "s"), ("d", "d2"), ("s/exports", "s"), ("d/x", "d/y")] {
        assert!(load(download, state).is_ok(), "{download} {state}");
    }
    let by_default = fault_before_shop("[download]\ndirectory = \"/var/lib/batch-export-watcher\"");
    let expected = "the state directory `/var/lib/batch-export-watcher/state` must not";
    begins(&by_default, &format!("c.toml:2: download.directory: {expected}"));
}

#[test]
fn a_missing_file_is_one_fault_that_says_how_to_name_another() {
    let scene = Scene::new();
    for path in [scene.path("none.toml"), scene.folder.path().to_owned()] {
        let faults = load(&path, &scene.environment).unwrap_err();
        let [fault] = faults.faults() else { panic!("{faults}") };
        assert_eq!((fault.file.as_path(), fault.line), (path.as_path(), None));
        assert!(fault.message.contains("-c FILE"), "{fault}");
    }
}

#[test]
fn a_file_that_is_not_text_is_refused_with_the_line() {
    let scene = Scene::new();
    let path = scene.path("c.toml");
    File::create(&path).unwrap().write_all(b"[api]\n\n# \xff\n").unwrap();
    let shown = load(&path, &scene.environment).unwrap_err().to_string();
    assert!(shown.ends_with("c.toml:3: the line is not UTF-8 text"), "{shown}");
}

#[test]
fn shape_faults_come_with_file_line_and_key() {
    let key = fault("[api]\r\n\r\nbase_uri = \"s3cret\"\r\n");
    begins(&key, "c.toml:3: api.base_uri: unknown key; expected one of: base_url, ");
    let value = fault("[poll]\nmin_interval = 5");
    begins(&value, "c.toml:2: poll.min_interval: wrong type: expected a string");
    let syntax = fault("[[project]]\nrest_api_key_file = s3cret\n");
    begins(&syntax, "c.toml:2: project.rest_api_key_file: invalid TOML: ");
}

#[test]
fn all_value_faults_are_reported_together() {
    let text = r#"[download]
max_parts = 0
reserve = "1GB "
min_rate = "1KiB"
bandwidth = "50MB"
allowed_hosts = [
  "https://minio"]
file_mode = "0644"
dir_mode = "rwx"
[api]
base_url = "https://u:s3cret@api.batch.com/"
requests_per_second = -1
connect_timeout = "0s"
ca_file = "none.pem"
[[project]]
name = "Shop"
exports = ["../export"]
exports_file = "none.txt"
[[project]]
name = "b"
project_key = "with space s3cret"
rest_api_key_env = "s3cret"
"#;
    let faults = Scene::new().faults(text);
    let expected = [
        "2: download.max_parts: `0` is not a whole number from 1 to 1024",
        "3: download.reserve: `1GB ` is not a size",
        "4: download.min_rate: ",
        "5: download.bandwidth: ",
        "7:3: download.allowed_hosts: ",
        "8: download.file_mode: ",
        "9: download.dir_mode: ",
        "11: api.base_url: `…@api.batch.com/` must not contain a user name",
        "12: api.requests_per_second: `-1` is not a whole number",
        "13: api.connect_timeout: ",
        "14: api.ca_file: the file `none.pem` cannot be read: No such file",
        "15: project.project_key: ",
        "15: project: ",
        "16: project.name: `Shop` ",
        "17:12: project.exports: `../export` ",
        "18: project.exports_file: the exports file `none.txt` cannot be read: No such file",
        "21: project.project_key: `with …` ",
        "22: project.rest_api_key_env: the environment variable `s3…` is not set",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        begins(fault, &format!("c.toml:{expected}"));
    }
}

#[test]
fn numbers_have_bounds() {
    for (text, key) in [
        ("[api]\nrequests_per_second = 0", "api.requests_per_second"),
        ("[api]\nrequests_per_second = 4294967296", "api.requests_per_second"),
        ("[download]\nmax_parts = 1025", "download.max_parts"),
        ("[download]\nmax_parts = 9223372036854775807", "download.max_parts"),
    ] {
        let fault = fault_before_shop(text);
        let value = text.rsplit(' ').next().unwrap();
        begins(&fault, &format!("c.toml:2: {key}: `{value}` is not a whole number from 1 to"));
    }
}

#[test]
fn intervals_have_bounds_and_an_order() {
    for (key, value, expected) in [
        ("poll.min_interval", "0s", "is too short: the minimum is 10ms"),
        ("poll.min_interval", "9ms", "is too short"),
        ("poll.max_interval", "0s", "is too short"),
        ("retry.initial", "0ms", "is too short"),
        ("download.stall_timeout", "0s", "is too short"),
        ("poll.max_interval", "366d", "is too long"),
        ("poll.not_found_grace", "5", "is not a duration"),
        ("poll.min_interval", "6m", "is longer than poll.max_interval, which is 5m by default"),
        ("poll.max_interval", "9s", "is shorter than poll.min_interval, which is 10s by default"),
    ] {
        let (table, name) = key.split_once('.').unwrap();
        let fault = fault_before_shop(&format!("[{table}]\n{name} = \"{value}\""));
        begins(&fault, &format!("c.toml:2: {key}: `{value}` {expected}"));
    }
    let first = fault_before_shop("[retry]\ninitial = \"2s\"\nmax = \"1500ms\"");
    begins(&first, "c.toml:2: retry.initial: `2s` is longer than retry.max, which is 1500ms");
    // Alone: the default in its place says nothing about the order.
    let alone = fault_before_shop("[poll]\nmin_interval = \"9ms\"\nmax_interval = \"5s\"");
    begins(&alone, "c.toml:2: poll.min_interval: `9ms` is too short");
    let later = fault_before_shop("[poll]\nmax_interval = \"1m\"\nmin_interval = \"2m\"");
    let expected = "`2m` is longer than poll.max_interval, which is 1m";
    begins(&later, &format!("c.toml:3: poll.min_interval: {expected}"));
}

fn shown(text: &str) -> String {
    Scene::new().load_with_shop(text).unwrap().show()
}

#[test]
fn a_bandwidth_that_is_too_low_is_refused() {
    for (value, expected) in [
        ("0B/s", "must not be zero"),
        ("0MiB/s", "must not be zero"),
        ("50B/s", "is too low"),
        ("65535B/s", "is too low"),
        ("50MB", "is not a rate"),
        ("50 MB/s", "is not a rate"),
        ("1048577TiB/s", "is too large"),
    ] {
        let fault = fault_before_shop(&format!("[download]\nbandwidth = \"{value}\""));
        begins(&fault, &format!("c.toml:2: download.bandwidth: `{value}` {expected}"));
    }
    for value in ["64KiB/s", "1048576TiB/s"] {
        let line = format!("\nbandwidth = \"{value}\"\n");
        holds(&shown(&format!("[download]{line}")), &line);
    }
    assert!(!shown("").contains("bandwidth"));
}

#[test]
fn modes_let_at_most_a_group_read() {
    for (key, value, expected) in [
        ("file_mode", "rw-r-----", "is not a mode: write three or four octal digits"),
        ("file_mode", "0o640", "is not a mode"),
        ("file_mode", "2640", "must not have the setuid, setgid or sticky bit"),
        ("file_mode", "0644", "must give nothing to others"),
        ("file_mode", "0660", "must not let the group write"),
        ("file_mode", "0440", "must let the owner read and write"),
        ("file_mode", "0750", "must not make files executable"),
        ("dir_mode", "", "is not a mode"),
        ("dir_mode", "2750", "must not have the setuid, setgid or sticky bit"),
        ("dir_mode", "0755", "must give nothing to others"),
        ("dir_mode", "0770", "must not let the group write"),
        ("dir_mode", "0650", "must let the owner list, change and enter"),
    ] {
        let fault = fault_before_shop(&format!("[download]\n{key} = \"{value}\""));
        let subject = if value.is_empty() { "the value".to_owned() } else { format!("`{value}`") };
        begins(&fault, &format!("c.toml:2: download.{key}: {subject} {expected}"));
    }
    let number = fault_before_shop("[download]\ndir_mode = 0750");
    begins(&number, "c.toml:2: download.dir_mode: invalid TOML");
    let set = shown("[download]\nfile_mode = \"640\"\ndir_mode = \"750\"");
    holds(&set, "\nfile_mode = \"0640\"\ndir_mode = \"0750\"\n");
    holds(&shown(""), "\nfile_mode = \"0600\"\ndir_mode = \"0700\"\n");
}

#[test]
fn files_for_a_group_in_folders_it_cannot_enter_cause_a_warning() {
    let warnings =
        |text: &str| Scene::new().load_with_shop(&format!("[download]\n{text}")).unwrap().warnings;
    for text in ["file_mode = \"0640\"", "file_mode = \"0640\"\ndir_mode = \"0740\""] {
        let found = warnings(text);
        let [warning] = found.as_slice() else { panic!("{found:?}") };
        holds(warning, "c.toml:2: download.file_mode: `0640` lets the group read files, but");
    }
    for text in ["dir_mode = \"0750\"", "file_mode = \"0640\"\ndir_mode = \"0710\""] {
        assert_eq!(warnings(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn the_base_url_is_bare_and_plain_http_is_only_for_this_machine() {
    for (url, expected) in [
        ("http://api.batch.com/2.11", "`http://api.batch.com/2.11` must begin with https://"),
        ("https://s3cret:s3cret@api.batch.com/", "must not contain a user name or password"),
        ("https://api.batch.com/?s3cret=1", "must not contain a query"),
        ("https://api.batch.com/#s3cret", "must not contain a fragment"),
        ("api.batch.com", "`api.batch.com` is not a URL"),
    ] {
        let fault = fault_before_shop(&format!("[api]\nbase_url = \"{url}\""));
        begins(&fault, "c.toml:2: api.base_url: ");
        holds(&fault, expected);
    }
}

/// Self-signed, made with `openssl req -x509 -newkey ec`; nobody has its private key.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBezCCASGgAwIBAgIUQjgldDFQ4sCSFHvTcYe1V9SU63wwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHdGVzdCBjYTAgFw0yNjExMjMxNjA2MTRaGA8yMTI2MTAzMDE2
MDYxNFowEjEQMA4GA1UEAwwHdGVzdCBjYTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABAfwplnv477Ko7e7FRnvgtO1BO6H1l4b7WS+EFykkAlh57OnzJ4vR2nOUrlG
1S2al5tCNSndUE2OpFcMgZ7qEHSjUzBRMB0GA1UdDgQWBBSsEtSuE2LJtcFwdIlJ
Qxa9C+e2gzAfBgNVHSMEGDAWgBSsEtSuE2LJtcFwdIlJQxa9C+e2gzAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCIWfe/0BZ0cMytb63BaCKoYp/l
94W9L1EFIiGfLQ+vHQIgcSmpoIiC91sZDJK8GBFfGhQdrYr7iJ+NSIAa/k5yHvQ=
-----END CERTIFICATE-----
";

#[test]
fn a_ca_file_must_hold_a_certificate() {
    let scene = Scene::new();
    let path = scene.file("ca.pem", CERTIFICATE);
    let config = scene.load_with_shop("[api]\nca_file = \"ca.pem\"").unwrap();
    assert_eq!(config.api.ca_file, Some(path));
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (name, text, expected) in [
        ("empty.pem", "", "holds no certificate in PEM form"),
        ("prose.pem", "hello", "holds no certificate in PEM form"),
        ("bad.pem", bad, "holds a certificate that is not valid"),
    ] {
        scene.file(name, text);
        let faults = scene.load_with_shop(&format!("[api]\nca_file = \"{name}\"")).unwrap_err();
        let path = scene.path(name).display().to_string();
        let expected = format!("c.toml:2: api.ca_file: the file `{path}` {expected}");
        holds(&faults.to_string(), &expected);
    }
}
