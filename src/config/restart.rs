//! What cannot change while the program runs: another configuration that says so is refused whole.

use crate::domain::ids::{ProjectKey, ProjectName};

use super::{Config, ConfigFaults, Fault};

/// What of `next` could only take effect with a restart, if anything: the directories are locked
/// and hold what is under way, and so do the folders of projects; the status page is bound once.
/// `name_of` says what a project that is worked on is called.
#[must_use]
pub fn restart_faults(
    current: &Config,
    next: &Config,
    name_of: impl Fn(&ProjectKey) -> Option<ProjectName>,
) -> Option<ConfigFaults> {
    let mut faults = Vec::new();
    let mut fault = |line, key: &str, what: &str| {
        let message = format!("{what} takes a restart of the service; a reload cannot do it");
        faults.push(Fault { file: next.file.clone(), line, key: Some(key.to_owned()), message });
    };
    if current.download.directory != next.download.directory {
        fault(next.places.download_directory, "download.directory", "another download directory");
    }
    if current.state_directory != next.state_directory {
        fault(next.places.state_directory, "state.directory", "another state directory");
    }
    if current.server.listen != next.server.listen {
        fault(next.places.server_listen, "server.listen", "another address of the status page");
    }
    if current.server.allowed_hosts != next.server.allowed_hosts {
        fault(next.places.server_allowed_hosts, "server.allowed_hosts", "another list of hosts");
    }
    for (project, line) in next.projects.iter().zip(&next.places.names) {
        if let Some(name) = name_of(&project.project_key).filter(|name| *name != project.name) {
            fault(Some(*line), "project.name", &format!("renaming {name}"));
        }
    }
    ConfigFaults::of(faults, &next.file)
}

#[cfg(test)]
mod tests {
    use super::super::scene::{SHOP, Scene};
    use super::*;

    #[test]
    fn directories_and_names_stay_until_a_restart() {
        let scene = Scene::new();
        let project = format!("{SHOP}rest_api_key_file = \"key\"\n");
        let current = scene.load(&format!("{project}[download]\ndirectory = \"a\"\n")).unwrap();
        let faults = |text: &str| {
            let next = scene.load(text).unwrap();
            let name_of = |_: &ProjectKey| Some(current.projects[0].name.clone());
            restart_faults(&current, &next, name_of).map_or(Vec::new(), |faults| {
                faults
                    .to_string()
                    .lines()
                    .map(|line| line.rsplit_once('/').unwrap().1.to_owned())
                    .collect()
            })
        };
        let fine = "\n[poll]\nmin_interval = \"1s\"\n[download]\ndirectory = \"a\"\n";
        assert_eq!(faults(&format!("{project}{fine}")), Vec::<String>::new());
        let moved = "[download]\ndirectory = \"b\"\n[state]\ndirectory = \"c\"\n";
        let renamed = project.replace("shop", "store");
        let found = faults(&format!("{renamed}{moved}"));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("c.toml:2: project.name: renaming shop takes a restart"),
            "{found:?}"
        );
        assert!(found[1].starts_with("c.toml:6: download.directory: "), "{found:?}");
        assert!(found[2].starts_with("c.toml:8: state.directory: "), "{found:?}");
        let server = "[server]\nlisten = \"[::1]:1\"\nallowed_hosts = [\"a\"]\n[download]\ndirectory = \"a\"\n";
        let found = faults(&format!("{project}{server}"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("c.toml:6: server.listen: another address"), "{found:?}");
        assert!(found[1].starts_with("c.toml:7: server.allowed_hosts: another list"), "{found:?}");
    }
}
