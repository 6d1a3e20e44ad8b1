//! What cannot change while the program runs. A configuration that changes it is refused whole.

use crate::domain::ids::{ProjectKey, ProjectName};

use super::checker::quoted_path;
use super::{Config, ConfigFaults, Fault};

/// The directories are locked, they and the folders of projects hold work in progress, and the
/// status page is bound once. `name_of` gives the current name of a project.
pub fn restart_faults(
    current: &Config,
    next: &Config,
    name_of: impl Fn(&ProjectKey) -> Option<ProjectName>,
) -> Option<ConfigFaults> {
    let mut faults = Vec::new();
    let mut compare = |key: &str, line, from: String, to: String| {
        if from != to {
            let words =
                format!("cannot change from {from} to {to} by a reload: restart the service");
            faults.push(Fault { key: Some(key.to_owned()), ..Fault::new(&next.file, line, words) });
        }
    };
    let places = &next.places;
    let [from, to] = [current, next].map(|config| quoted_path(&config.download.directory));
    compare("download.directory", places.download_directory, from, to);
    let [from, to] = [current, next].map(|config| quoted_path(&config.state_directory));
    compare("state.directory", places.state_directory, from, to);
    let [from, to] = [current, next].map(|config| format!("`{}`", config.server.shown_address()));
    compare("server.listen", places.server_listen, from, to);
    let [from, to] = [current, next].map(|config| format!("{:?}", config.server.allowed_hosts));
    compare("server.allowed_hosts", places.server_allowed_hosts, from, to);
    for (project, line) in next.projects.iter().zip(&places.names) {
        if let Some(name) = name_of(&project.project_key) {
            let (from, to) = (format!("`{name}`"), format!("`{}`", project.name));
            compare("project.name", Some(*line), from, to);
        }
    }
    ConfigFaults::of(faults, &next.file)
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Scene, holds, shop};
    use super::*;

    #[test]
    fn directories_and_names_stay_until_a_restart() {
        let scene = Scene::new();
        let project = shop("");
        let current = scene.load(&format!("{project}[download]\ndirectory = \"a\"\n")).unwrap();
        let faults = |text: &str| {
            let next = scene.load(text).unwrap();
            let name_of = |_: &ProjectKey| Some(current.projects[0].name.clone());
            let faults = restart_faults(&current, &next, name_of);
            let text = faults.map(|faults| faults.to_string()).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let fine = "\n[poll]\nmin_interval = \"1s\"\n[download]\ndirectory = \"a\"\n";
        assert_eq!(faults(&format!("{project}{fine}")), Vec::<String>::new());
        let moved = "[download]\ndirectory = \"b\"\n[state]\ndirectory = \"c\"\n";
        let renamed = project.replace("shop", "store");
        let found = faults(&format!("{renamed}{moved}"));
        assert_eq!(found.len(), 3, "{found:?}");
        let name = "c.toml:2: project.name: cannot change from `shop` to `store` by a reload";
        holds(&found[0], name);
        holds(&found[1], "c.toml:6: download.directory: cannot change");
        holds(&found[2], "c.toml:8: state.directory: cannot change");
        let server = "[server]\nlisten = \"[::1]:1\"\nallowed_hosts = [\"a\"]\n\
                      [download]\ndirectory = \"a\"\n";
        let found = faults(&format!("{project}{server}"));
        assert_eq!(found.len(), 2, "{found:?}");
        let listen = "server.listen: cannot change from `127.0.0.1:9847` to `[::1]:1` by a reload";
        holds(&found[0], listen);
        let hosts = "c.toml:7: server.allowed_hosts: cannot change from [] to [\"a\"] by a reload";
        holds(&found[1], hosts);
    }
}
