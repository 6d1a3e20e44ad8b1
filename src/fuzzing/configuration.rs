//! Fuzzed: the configuration file.

use std::path::Path;

use crate::config::{self, Config, ConfigFaults, Environment};

/// In a folder that does not exist, so that no relative path leads to a file.
const PATH: &str = "/nonexistent/batch-export-watcher/c.toml";
const REST_KEY: &str = "r3st-k3y";

pub fn configuration(data: &[u8]) {
    // Names and paths are shown, also to somebody who writes a key there.
    if data.windows(REST_KEY.len()).any(|bytes| bytes == REST_KEY.as_bytes()) {
        return;
    }
    match judge(data) {
        Ok(config) => {
            check(&config);
            reads_back(&config);
        }
        Err(faults) => check_faults(&faults, data),
    }
}

fn judge(bytes: &[u8]) -> Result<Config, ConfigFaults> {
    let environment = Environment::from_pairs([("KEY", REST_KEY), ("EMPTY", "")]);
    config::judge(bytes, Path::new(PATH), &environment)
}

/// Every fault names the file, an existing line, and the key.
fn check_faults(faults: &ConfigFaults, data: &[u8]) {
    let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
    assert!(!faults.faults().is_empty());
    for fault in faults.faults() {
        let shown = fault.to_string();
        assert!(!shown.contains('\n') && !shown.contains(REST_KEY), "{shown:?}");
        assert!(!fault.message.is_empty(), "{shown}");
        if fault.file == Path::new(PATH) {
            let line = fault.line.expect("a fault of the file stands on a line");
            assert!((1..=lines).contains(&line), "{shown} of {lines} lines");
        }
    }
}

fn check(config: &Config) {
    assert!(!config.projects.is_empty());
    let (min, max) = (config.poll.cadence.min(), config.poll.cadence.max());
    assert!(min <= max && !min.is_zero());
    let base = &config.api.base_url;
    assert!(base.scheme() == "https" || config.api.is_loopback_http(), "{base}");
    let is_bare = base.username().is_empty() && base.password().is_none();
    assert!(is_bare && base.query().is_none(), "{base}");
    assert!(config.download.directory.is_absolute() && config.state_directory.is_absolute());
    let is_among = config.state_directory.starts_with(&config.download.directory);
    assert!(!is_among, "the state among the exports");
    for (index, project) in config.projects.iter().enumerate() {
        for other in &config.projects[..index] {
            assert!(project.name != other.name && project.project_key != other.project_key);
        }
        let mut exports: Vec<_> = project.exports.iter().collect();
        exports.sort();
        assert!(exports.windows(2).all(|two| two[0] != two[1]), "an export twice");
    }
    let shown = format!("{} {config:?} {}", config.show(), config.warnings.join(" "));
    assert!(!shown.contains(REST_KEY), "{shown}");
}

/// What is shown is the same configuration, once the keys of the projects are put back.
fn reads_back(config: &Config) {
    let shown = config.show();
    let mut table: toml::Table = shown.parse().expect("what is shown is TOML");
    let projects =
        table.get_mut("project").and_then(toml::Value::as_array_mut).expect("there are projects");
    for (shown, project) in projects.iter_mut().zip(&config.projects) {
        shown["project_key"] = project.project_key.expose().into();
    }
    let text = toml::to_string(&table).expect("a table is TOML");
    let again = judge(text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let bare = |config: &Config| {
        let mut config = config.clone();
        // Warnings name lines; the IDs of a file appear among the others.
        config.warnings.clear();
        config.projects.iter_mut().for_each(|project| project.exports_file = None);
        config
    };
    assert_eq!(bare(&again), bare(config), "{shown}");
    assert_eq!(again.show(), shown);
}
