//! What takes too long for every run: `tests/long/run.sh` runs it, with a seed, and keeps the
//! report.

mod budget;
mod cast;
mod daemon;
mod load;
mod soak;
mod trend;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Names the seed; another one is drawn where it is missing.
const SEED_VARIABLE: &str = "BATCH_EXPORT_WATCHER_TEST_SEED";

fn seed() -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no number")),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs()),
    }
}

/// A number of seconds from the environment.
fn seconds(variable: &str, default: u64) -> Duration {
    let seconds = match std::env::var(variable) {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number of seconds"))
        }
        Err(_) => default,
    };
    Duration::from_secs(seconds)
}

/// One line for the report.
#[expect(clippy::print_stdout, reason = "the script that runs it reads it")]
fn summarize(summary: &serde_json::Value) {
    println!("{summary}");
}
