//! The latency of an export: from the answer with SUCCESS to its manifest on disk.
//!
//! nginx cannot change its answers, so this uses the project's own simulator. It holds the answer
//! with SUCCESS until it is released: that starts the clock.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use batch_export_watcher::domain::manifest::{MANIFEST_FILE, Manifest};
use batch_export_watcher::simulator::{
    Recorded, Script, SimExport, SimFile, SimProject, Simulator, ViewStep,
};

use super::measure::measure;
use super::peers::{IN_FLIGHT, OUT, PROJECT, our_config, start_ours};
use super::trouble::{Doing as _, Trouble};

/// Views that say RUNNING before the one that is held.
const RUNNING_VIEWS: usize = 3;
/// Length of the export's only part.
const PART_BYTES: u64 = 1_000_000;
/// Between two looks for the manifest: how exact the clock is.
const LOOK: Duration = Duration::from_micros(200);
/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(20);
const EXPORT: &str = "export_late";

/// One measurement in milliseconds, by a fresh program in an empty folder.
pub(crate) async fn measure_once(folder: &Path) -> Result<f64, Trouble> {
    let mut views = vec![ViewStep::status("RUNNING"); RUNNING_VIEWS];
    let success = ViewStep::Success(vec![SimFile::generated("file_late", 1, PART_BYTES)]);
    views.push(ViewStep::Held(Box::new(success.clone())));
    views.push(success);
    let export = SimExport::new(EXPORT, views);
    let script = Script::new(vec![SimProject::new(
        "project_of_the_bench",
        "rest-key-of-the-bench",
        vec![export],
    )]);
    let sim = Simulator::start(script).await.doing(|| "cannot start the simulator".to_owned())?;
    let config = our_config(sim.api_base_url(), EXPORT, IN_FLIGHT);
    let config = config.parse().map_err(std::io::Error::other).doing(|| "toml".to_owned())?;
    let planned = start_ours(folder, &config)?;
    let manifest = folder.join(OUT).join(PROJECT).join(EXPORT).join(MANIFEST_FILE);
    // The program ends by itself once the export is whole.
    let (_, waited) =
        tokio::try_join!(measure(&planned, folder), from_success_to(&manifest, &sim))?;
    let bytes = std::fs::read(&manifest).doing(|| "cannot read the manifest".to_owned())?;
    Manifest::parse(&bytes).map_err(|error| Trouble::Wrong(error.to_string()))?;
    sim.stop().await;
    Ok(waited.as_secs_f64() * 1000.0)
}

/// Releases the answer with SUCCESS once it was asked for, and waits for the manifest.
async fn from_success_to(manifest: &Path, sim: &Simulator) -> Result<Duration, Trouble> {
    let held = |requests: &[Recorded]| {
        requests.iter().filter(|request| request.is_view_of(EXPORT)).count() > RUNNING_VIEWS
    };
    sim.wait_for(held, PATIENCE).await.map_err(|error| Trouble::Wrong(error.to_string()))?;
    let manifest = manifest.to_owned();
    let watching = tokio::task::spawn_blocking(move || appears(&manifest));
    let released = Instant::now();
    sim.release(EXPORT);
    let seen =
        watching.await.map_err(std::io::Error::other).doing(|| "the watch ended".to_owned())?;
    let seen = seen.ok_or_else(|| Trouble::Wrong(format!("no manifest within {PATIENCE:?}")))?;
    Ok(seen - released)
}

/// When a file was first seen.
fn appears(path: &Path) -> Option<Instant> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if path.exists() {
            return Some(Instant::now());
        }
        thread::sleep(LOOK);
    }
    None
}
