//! What the integration tests are built on. It tests nothing of the program itself.

pub(crate) mod browser;
pub(crate) mod fault_proxy;
pub(crate) mod fuse;
pub(crate) mod home;
pub(crate) mod http;
pub(crate) mod journal;
pub(crate) mod look;
pub(crate) mod machine;
pub(crate) mod mount;
pub(crate) mod observer;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod scene;
pub(crate) mod scrape;
mod selftest;
pub(crate) mod solo;
pub(crate) mod strace;
pub(crate) mod tls_front;
pub(crate) mod turns;

use std::path::Path;
use std::time::Duration;

/// How long a test waits for what has to happen: far longer than it takes, so that only a fault
/// takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Tells a debug build where to die or to fail: `src/failpoint/armed.rs`.
pub(crate) const FAULTS: &str = "BATCH_EXPORT_WATCHER_FAULTS";

/// Waits until `reached`, for what shows in no log line and no request: a file that grows, a name
/// that appears.
pub(crate) async fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let looking = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, looking).await.is_err() {
        panic!("{what}: not within {PATIENCE:?}");
    }
}

/// Random bytes. An unoptimised build takes long to draw them: copies of one block follow each
/// other, each with its number. The block's length is prime, so that no power of two fits.
pub(crate) fn random_bytes(rng: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    let mut block = [0; 65_521];
    rng.fill(&mut block);
    let mut content = Vec::with_capacity(bytes + block.len());
    for number in 0_u64.. {
        if content.len() >= bytes {
            break;
        }
        block[..8].copy_from_slice(&number.to_le_bytes());
        content.extend_from_slice(&block);
    }
    content.truncate(bytes);
    content
}

/// Moves a file or a folder, as an operator would.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is there to be overwritten, and nothing has to be durable"
)]
pub(crate) fn move_to(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    std::fs::rename(&from, &to)
        .unwrap_or_else(|error| panic!("{} cannot be moved: {error}", from.as_ref().display()));
}
