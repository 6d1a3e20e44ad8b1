//! The usual stage: one project, `shop`, its simulator, and a home whose watcher is told of every
//! export.

use batch_export_watcher::simulator::{
    Recorded, Script, SimExport, SimFile, SimProject, Simulator,
};
use tokio::process::Command;

use super::home::Home;
use super::process::{Output, Watcher};
use super::{FAULTS, PATIENCE};

/// The project's name, and its folder's.
pub(crate) const SHOP: &str = "shop";
/// What `X-Batch-Project` says.
pub(crate) const PROJECT_KEY: &str = "project_shop";
const REST_KEY: &str = "key-of-the-shop";

/// Settings for a daemon that is interrupted all the time: soon again at work, and with a budget
/// that does not count.
pub(crate) const RESTLESS: &str = r#"
    [api]
    requests_per_second = 1000
    [retry]
    initial = "10ms"
    max = "40ms"
"#;

/// The simulator and the home.
#[derive(Debug)]
pub(crate) struct Solo {
    pub(crate) sim: Simulator,
    pub(crate) home: Home,
}

impl Solo {
    /// A simulator that has these exports, and a configuration that lists them.
    pub(crate) async fn new(exports: Vec<SimExport>) -> Self {
        let ids: Vec<_> = exports.iter().map(|export| export.id.clone()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let script = Script::new(vec![SimProject::new(PROJECT_KEY, REST_KEY, exports)]);
        let sim = Simulator::start(script).await.expect("two free ports on loopback");
        let home = Home::new(sim.api_base_url()).project(SHOP, PROJECT_KEY, REST_KEY, &ids);
        Self { sim, home }
    }

    /// One export, `export_1`, that has succeeded with these files.
    pub(crate) async fn finished(files: Vec<SimFile>) -> Self {
        Self::new(vec![SimExport::finished("export_1", files)]).await
    }

    /// Lays this TOML over the configuration.
    pub(crate) fn with(mut self, toml: &str) -> Self {
        self.home.merge(toml);
        self
    }

    /// Starts the daemon as a service would.
    pub(crate) fn start(&self) -> Watcher {
        self.home.start(&[])
    }

    /// Starts it from a shell that says something first.
    pub(crate) fn start_after(&self, words: &str, arguments: &[&str]) -> Watcher {
        let plain = self.home.command("run", arguments);
        let plain = plain.as_std();
        let mut command = Command::new("sh");
        command.env_clear();
        command
            .args(["-c", &format!("{words}; exec \"$0\" \"$@\"")])
            .arg(plain.get_program())
            .args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(self.home.path());
        Watcher::spawn(command)
    }

    /// Lets the daemon, or the command itself, run this subcommand for `export_1`, and kills it at a
    /// point.
    pub(crate) async fn kill_at(&self, point: &str, subcommand: &str, by_daemon: bool) {
        let asking = || self.home.command(subcommand, &["export_1"]);
        let mut killed = if by_daemon { self.home.command("run", &[]) } else { asking() };
        killed.env(FAULTS, format!("{point}=kill"));
        let mut killed = Watcher::spawn(killed);
        if by_daemon {
            killed.wait_for_event(|event| event["message"] == "running").await;
            Watcher::spawn(asking()).wait().await;
        }
        let code = killed.end_within(PATIENCE).await;
        assert_eq!(code, None, "{point} is not passed, by the daemon: {by_daemon}");
    }

    /// Runs it until every export is settled, and demands this exit code.
    pub(crate) async fn settle(&self, code: i32) -> Output {
        self.settled(self.home.start(&["--exit-when-settled"]), code).await
    }

    /// Waits for the end of a run that was started with `--exit-when-settled`.
    pub(crate) async fn settled(&self, mut watcher: Watcher, code: i32) -> Output {
        let (ended, output) = watcher.wait_within(2 * PATIENCE).await;
        assert_eq!(ended, code, "the exit code; the log:\n{}", output.stderr.join("\n"));
        output
    }

    /// Waits until the requests satisfy `seen`.
    pub(crate) async fn wait_for(&self, seen: impl FnMut(&[Recorded]) -> bool) -> Vec<Recorded> {
        self.sim.wait_for(seen, PATIENCE).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until the store was asked so often for a file.
    pub(crate) async fn wait_for_fetches(&self, file: &str, count: usize) -> Vec<Recorded> {
        self.wait_for(|seen| {
            seen.iter().filter(|request| request.is_fetch_of(file)).count() >= count
        })
        .await;
        self.fetches(file)
    }

    /// The requests to the store for a file.
    pub(crate) fn fetches(&self, file: &str) -> Vec<Recorded> {
        self.requests(|request| request.is_fetch_of(file))
    }

    /// The download calls for a file.
    pub(crate) fn links(&self, file: &str) -> Vec<Recorded> {
        self.requests(|request| request.is_link_of(file))
    }

    /// The view calls for an export.
    pub(crate) fn views(&self, export: &str) -> Vec<Recorded> {
        self.requests(|request| request.is_view_of(export))
    }

    fn requests(&self, wanted: impl Fn(&Recorded) -> bool) -> Vec<Recorded> {
        self.sim.requests().into_iter().filter(wanted).collect()
    }
}
