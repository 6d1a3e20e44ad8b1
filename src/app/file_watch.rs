//! When the configuration's files have changed: they are looked at now and then, which needs
//! nothing of the file system and sees the end of every link.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::config::{Config, Fingerprint};

/// Longest wait for a look; on a share that hangs it takes as long as it takes, and nobody waits
/// for it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct FileWatch {
    /// How often they are looked at; `None` where nobody wants to know.
    interval: Option<Duration>,
    files: Vec<PathBuf>,
    /// What they looked like when they were read last; `None` before that is known.
    read: Option<Fingerprint>,
    /// Whether the last look found them otherwise than they were read.
    found_changed: bool,
    /// The look under way: a share that hangs gets one thread and no more.
    looking: Option<JoinHandle<Fingerprint>>,
}

impl FileWatch {
    /// Of files that were read before anybody looked: they count as changed once.
    pub(super) fn new(config: &Config) -> Self {
        let interval = config.reload.watch.then_some(config.reload.interval);
        Self { interval, files: config.files(), read: None, found_changed: false, looking: None }
    }

    /// Watches the files of a configuration, in place of those before.
    pub(super) fn follow(&mut self, config: &Config) {
        self.interval = config.reload.watch.then_some(config.reload.interval);
        self.files = config.files();
    }

    /// What the files look like. To be asked before they are read: what changes while they are read
    /// is found afterwards. `None` where that cannot be found out in time. Cancel-safe.
    pub(super) async fn look(&mut self) -> Option<Fingerprint> {
        let files = &self.files;
        let looking = self.looking.get_or_insert_with(|| {
            let files = files.clone();
            tokio::task::spawn_blocking(move || Fingerprint::of(files))
        });
        let found = tokio::time::timeout(LOOK_TIMEOUT, looking).await.ok()?;
        self.looking = None;
        found.ok()
    }

    /// The files were read when they looked like this.
    pub(super) fn was_read(&mut self, look: Option<Fingerprint>) {
        self.read = look;
    }

    /// Waits until two looks in a row find the files otherwise than they were read. A change is
    /// given one interval to come to its end, but files that never rest are read all the same.
    /// Cancel-safe.
    pub(super) async fn changed(&mut self) {
        let Some(interval) = self.interval else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval).await;
            let Some(look) = self.look().await else { continue };
            let has_changed = Some(look) != self.read;
            if std::mem::replace(&mut self.found_changed, has_changed) && has_changed {
                self.found_changed = false;
                return;
            }
        }
    }
}
