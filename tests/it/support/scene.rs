//! A simulator and a home that watches all it has, and the questions that tests ask of the recorded
//! requests.

use std::time::Duration;

use batch_export_watcher::simulator::{Recorded, Script, SimExport, SimProject, Simulator};
use serde_json::Value;

use super::PATIENCE;
use super::home::Home;
use super::process::Output;

/// The `X-Batch-Project` of a project with this name.
pub(crate) fn project_key(name: &str) -> String {
    format!("project_of_{name}_0123456789")
}

/// The REST key of a project with this name.
pub(crate) fn rest_key(name: &str) -> String {
    format!("rest-key-of-{name}-0123456789")
}

/// A running simulator with these projects, and the home of a watcher that is to watch all their
/// exports.
pub(crate) async fn scene(projects: Vec<(&str, Vec<SimExport>)>) -> (Simulator, Home) {
    scene_with_latency(projects, Duration::ZERO).await
}

/// As [`scene`], with an API that takes its time for each answer.
pub(crate) async fn scene_with_latency(
    projects: Vec<(&str, Vec<SimExport>)>,
    latency: Duration,
) -> (Simulator, Home) {
    let ids: Vec<(String, Vec<String>)> = projects
        .iter()
        .map(|(name, exports)| {
            ((*name).to_owned(), exports.iter().map(|export| export.id.clone()).collect())
        })
        .collect();
    let projects = projects
        .into_iter()
        .map(|(name, exports)| SimProject::new(&project_key(name), &rest_key(name), exports));
    let script = Script::new(projects.collect()).with_latency(latency);
    let sim = Simulator::start(script).await.expect("two free ports on loopback");
    let mut home = Home::new(sim.api_base_url());
    for (name, exports) in &ids {
        let exports: Vec<_> = exports.iter().map(String::as_str).collect();
        home = home.project(name, &project_key(name), &rest_key(name), &exports);
    }
    (sim, home)
}

/// Waits until the requests so far satisfy `seen`, and returns them.
pub(crate) async fn seen(sim: &Simulator, seen: impl FnMut(&[Recorded]) -> bool) -> Vec<Recorded> {
    sim.wait_for(seen, PATIENCE).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Whether a request carries the credentials of the project with this name.
pub(crate) fn is_of(request: &Recorded, name: &str) -> bool {
    request.header("x-batch-project") == Some(&project_key(name))
}

/// How many requests are such ones.
pub(crate) fn count(requests: &[Recorded], such: impl Fn(&Recorded) -> bool) -> usize {
    requests.iter().filter(|request| such(request)).count()
}

/// The waits between such requests.
pub(crate) fn gaps(requests: &[Recorded], such: impl Fn(&Recorded) -> bool) -> Vec<Duration> {
    let instants: Vec<_> =
        requests.iter().filter(|request| such(request)).map(|request| request.at).collect();
    instants.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// The log lines of this level that say `words`.
pub(crate) fn told(output: &Output, level: &str, words: &str) -> Vec<String> {
    let is_told = |line: &&String| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        event["level"] == level
            && event["message"].as_str().is_some_and(|message| message.contains(words))
    };
    output.stderr.iter().filter(is_told).cloned().collect()
}

/// What `failed.json` of an export says.
pub(crate) fn failure(home: &Home, project: &str, export: &str) -> Value {
    let path = home.export(project, export).join("failed.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; there are {:#?}", path.display(), home.tree())
    });
    serde_json::from_str(&text).expect("failed.json is json")
}
