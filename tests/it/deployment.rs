//! The files that put the program into a container say the truth: their configuration is accepted,
//! their paths are the program's, and nobody kills it before its drain is over.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const COMPOSE: &str = include_str!("../../config/compose.yaml");
const CONFIG_MAP: &str = include_str!("../../config/kubernetes/configmap.yaml");
const DEPLOYMENT: &str = include_str!("../../config/kubernetes/deployment.yaml");
const DOCKERFILE: &str = include_str!("../../Dockerfile");
const KUSTOMIZATION: &str = include_str!("../../config/kubernetes/kustomization.yaml");
const SECRET: &str = include_str!("../../config/kubernetes/secret.yaml");
const SHIPPED: &str = include_str!("../../config/batch-export-watcher.toml");

/// The longest drain in seconds.
const DRAIN_SECONDS: u32 = 10;
/// Where the image keeps what is written.
const DATA: &str = "/var/lib/batch-export-watcher";
/// Where the program looks for its configuration.
const ETC: &str = "/etc/batch-export-watcher";

/// The text under `key: |`, without its indentation.
fn block(yaml: &str, key: &str) -> String {
    let head = format!("{key}: |");
    let mut lines = yaml.lines().skip_while(|line| line.trim_start() != head);
    let indentation =
        lines.next().map(|line| line.len() - line.trim_start().len()).expect("the block's head");
    let inside =
        |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indentation;
    let body: Vec<_> = lines.take_while(inside).collect();
    assert!(!body.is_empty(), "{key} is empty");
    let cut = |line: &&str| format!("{}\n", line.get(indentation + 2..).unwrap_or_default());
    body.iter().map(cut).collect()
}

/// The rest of the first line that begins with `key`, spaces aside.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.trim_start().strip_prefix(key));
    found.unwrap_or_else(|| panic!("no {key}")).trim()
}

#[expect(clippy::disallowed_methods, reason = "a test's own file need not be durable")]
fn put(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).expect("a file can be written");
}

fn check(folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batch-export-watcher"));
    command.args(["check", "-c", "config.toml"]).current_dir(folder).env_clear();
    command.output().expect("the program runs")
}

/// What `check` shows of a configuration whose key file, at `key_path`, is put beside it.
fn shown(config: &str, key_path: &str, more: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    put(&folder, "key", "a-key\n");
    assert!(config.contains(key_path), "{config}");
    put(&folder, "config.toml", &config.replace(key_path, "key"));
    for (name, text) in more {
        put(&folder, name, text);
    }
    let output = check(folder.path());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("check prints text")
}

fn assert_default_directories(shown: &str) {
    for directory in ["exports", "state"] {
        assert!(shown.contains(&format!("directory = \"{DATA}/{directory}\"")), "{shown}");
    }
}

#[test]
fn the_config_map_is_a_configuration_with_the_paths_of_the_deployment() {
    let config = block(CONFIG_MAP, "config.toml");
    let key_path = value(&config, "rest_api_key_file =").trim_matches('"');
    let ids = format!("{}export_1\n", block(CONFIG_MAP, "exports.txt"));
    assert_eq!(value(&config, "exports_file ="), "\"exports.txt\"");
    let shown = shown(&config, key_path, &[("exports.txt", &ids)]);
    assert!(shown.contains("export_1"), "{shown}");
    assert_default_directories(&shown);

    let (key_folder, key_name) = key_path.rsplit_once('/').expect("an absolute path");
    for mounted in [ETC, DATA, key_folder] {
        let line = format!("mountPath: {mounted}\n");
        assert!(DEPLOYMENT.contains(&line), "{mounted} is not mounted");
    }
    assert!(SECRET.contains(&format!("\n  {key_name}: ")), "the secret has another name");
    assert!(!DEPLOYMENT.contains("subPath"), "a file that is mounted alone is never updated");
}

#[test]
fn the_shipped_configuration_has_the_paths_of_the_compose_file() {
    let key_path = "/run/secrets/batch-rest-key";
    assert_default_directories(&shown(SHIPPED, key_path, &[]));
    let secret = key_path.rsplit('/').next().expect("a name");
    assert!(COMPOSE.contains(&format!("\n  {secret}:\n    file: ")), "the secret has another name");
    for mounted in
        [format!(":{ETC}:ro\n"), format!(":{DATA}/exports\n"), format!(":{DATA}/state\n")]
    {
        assert!(COMPOSE.contains(&mounted), "{mounted} is not mounted");
    }
}

#[test]
fn no_shipped_deployment_kills_the_program_before_its_drain_ends() {
    let compose = value(COMPOSE, "stop_grace_period:").trim_end_matches('s');
    for seconds in [compose, value(DEPLOYMENT, "terminationGracePeriodSeconds:")] {
        assert!(seconds.parse::<u32>().expect("seconds") > DRAIN_SECONDS, "{seconds}");
    }
}

#[test]
fn the_image_has_the_version_of_the_program() {
    assert_eq!(value(DOCKERFILE, "ARG VERSION="), env!("CARGO_PKG_VERSION"));
    assert_eq!(value(KUSTOMIZATION, "newTag:"), env!("CARGO_PKG_VERSION"));
    for written in [format!("VOLUME [\"{DATA}\"]\n"), "USER 65532:65532\n".to_owned()] {
        assert!(DOCKERFILE.contains(&written), "no {written}");
    }
}
