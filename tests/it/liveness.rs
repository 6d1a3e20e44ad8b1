//! What a restart and a hindrance must not undo: pauses hold, and work goes on when its hindrance
//! is over.

use std::time::Duration;

use batch_export_watcher::process::lock::{InstanceLock, LockError};
use batch_export_watcher::simulator::{
    Canned, Origin, Script, Serving, SimExport, SimFile, SimProject, Simulator, StoreStep,
};
use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::home::Home;

const PROJECT: &str = "project_0123456789abcdef";
const KEY: &str = "rest-key-0123456789abcdef";

#[tokio::test]
async fn a_store_that_asked_to_be_left_alone_is_left_alone_over_a_restart() {
    let file = SimFile::generated("file_a", 1, 1000)
        .on_fetch(StoreStep::Answer(
            Canned::store_error(503, "SlowDown", "later").with_header("retry-after", "3"),
        ))
        .on_fetch(Serving::well());
    let export = SimExport::finished("export_a", vec![file]);
    let script = Script::new(vec![SimProject::new(PROJECT, KEY, vec![export])]);
    let sim = Simulator::start(script).await.expect("the simulator starts");
    let home = Home::new(sim.api_base_url()).project("shop", PROJECT, KEY, &["export_a"]);
    let mut first = home.start(&[]);
    first.wait_for_log(|line| line.contains("the store asks for fewer requests")).await;
    first.signal(Signal::TERM);
    assert_eq!(first.wait().await.0, 0);

    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0, "{output:?}");
    let asked: Vec<_> = sim
        .requests()
        .into_iter()
        .filter(|request| request.origin == Origin::Store)
        .map(|r| r.at)
        .collect();
    assert_eq!(asked.len(), 2, "once refused, once served");
    // The window is kept by the wall clock and begins when the answer has come.
    assert!(asked[1] - asked[0] >= Duration::from_millis(2900), "{:?}", asked[1] - asked[0]);
    assert!(asked[1] - asked[0] < Duration::from_secs(3) + PATIENCE);
}

#[tokio::test]
async fn a_download_directory_that_comes_back_is_locked_and_used() {
    let exports = |id: &str| {
        SimExport::finished(id, vec![SimFile::generated(&format!("file_{id}"), 1, 1000)])
    };
    let script = Script::new(vec![SimProject::new(
        PROJECT,
        KEY,
        vec![exports("export_a"), exports("export_b")],
    )]);
    let sim = Simulator::start(script).await.expect("the simulator starts");
    let mut home = Home::new(sim.api_base_url()).project("shop", PROJECT, KEY, &["export_a"]);
    assert_eq!(home.start(&["--exit-when-settled"]).wait().await.0, 0);

    let away = home.path().join("away");
    #[expect(clippy::disallowed_methods, reason = "plays the operator who unmounts the disk")]
    let unmounted = std::fs::rename(home.downloads(), &away);
    unmounted.unwrap();
    home.set_exports("shop", &["export_a", "export_b"]);
    let watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("downloads wait for the disk")).await;
    #[expect(clippy::disallowed_methods, reason = "plays the operator who mounts the disk")]
    let mounted = std::fs::rename(&away, home.downloads());
    mounted.unwrap();
    watcher.wait_for_log(|line| line.contains("the disk works again")).await;
    watcher.wait_for_log(|line| line.contains("export whole") && line.contains("export_b")).await;
    let lock = InstanceLock::acquire(&home.downloads().join(".batch-export-watcher.lock"));
    assert!(matches!(lock, Err(LockError::Held { .. })), "{lock:?}");
}
