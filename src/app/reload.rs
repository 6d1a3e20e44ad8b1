//! Another configuration for the running program: read, judged and, where it is right, put in force
//! as a whole. Whatever goes wrong, the one before goes on.
//!
//! SIGHUP, a changed file and a question over the control socket all come here; those that come
//! together are one reload.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::clients::Clients;
use super::file_watch::FileWatch;
use super::{StartError, desired, sink_settings};
use crate::config::{self, Config, ConfigFaults, Environment, restart_faults};
use crate::control::Answer;
use crate::domain::ids::{ProjectDigest, ProjectKey, ProjectName};
use crate::engine::control::Changes;
use crate::engine::{Access, Control};
use crate::process::signals::Hangups;
use crate::process::{service, umask};
use crate::sinks::local::LocalSink;

/// For how long requests for a reload gather: a storm of signals is one.
const GATHER: Duration = Duration::from_millis(100);
/// Longest wait for the configuration to be read; it may lie on a share that hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Who asks for a reload, and waits for what becomes of it.
pub(super) type Request = oneshot::Sender<Answer>;

/// Why a configuration is not put in force.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Faults(#[from] ConfigFaults),
    #[error(transparent)]
    Unusable(#[from] StartError),
    #[error("the configuration was not read within {} s", READ_TIMEOUT.as_secs())]
    Slow,
    #[error("the program is stopping")]
    Stopping,
    #[error("{0}")]
    Unreconciled(String),
}

/// A configuration that was read and found right, its clients if they are others, and the accesses.
type Prepared = (Config, Option<Clients>, Vec<Access>);

pub(super) struct Reloader {
    pub(super) config: Config,
    pub(super) clients: Clients,
    pub(super) environment: Arc<Environment>,
    pub(super) sink: LocalSink,
    pub(super) engine: mpsc::Sender<Control>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) hangups: Option<Hangups>,
}

impl Reloader {
    /// Reloads when there is cause to. Never returns, except when nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut files = FileWatch::new(&self.config);
        loop {
            let mut waiting = Vec::new();
            let by_file = tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => { waiting.push(request); false }
                    None => return,
                },
                () = hung_up(&mut self.hangups) => false,
                () = files.changed() => true,
            };
            self.gather(&mut waiting).await;
            let look = files.look().await;
            let verdict = self.reload(by_file).await;
            files.follow(&self.config);
            files.was_read(look);
            for request in waiting {
                // Who asked may be gone.
                let _ = request.send(verdict.clone());
            }
        }
    }

    /// What comes within a moment is the same reload.
    async fn gather(&mut self, waiting: &mut Vec<Request>) {
        let until = Instant::now() + GATHER;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                Some(request) = self.requests.recv() => waiting.push(request),
                () = hung_up(&mut self.hangups) => {}
            }
        }
    }

    /// `by_file` tells that nobody asked for it.
    async fn reload(&mut self, by_file: bool) -> Answer {
        service::reloading();
        let verdict = match self.try_reload().await {
            Ok(changes) => {
                let words = words(changes);
                let counts = changes.unwrap_or_default();
                match changes {
                    None if by_file => tracing::debug!(
                        event = "reload_unneeded",
                        "the configuration files say what is already active"
                    ),
                    _ => tracing::info!(
                        event = "reload_done",
                        exports_added = counts.exports_added,
                        exports_removed = counts.exports_removed,
                        projects_added = counts.projects_added,
                        projects_removed = counts.projects_removed,
                        keys_changed = counts.keys_changed,
                        "configuration reloaded: {words}"
                    ),
                }
                Answer::Reloaded { words, file: self.config.file.clone() }
            }
            Err(error) => {
                let faults = error.to_string();
                for fault in faults.lines() {
                    tracing::error!(
                        event = "reload_refused",
                        cause = fault,
                        "reload refused, the current configuration stays active: {fault}"
                    );
                }
                let cause = faults.lines().next().unwrap_or_default().to_owned();
                // What the engine itself refused is known there.
                if !matches!(error, ReloadError::Unreconciled(_)) {
                    let refused = |reply| Control::Reconcile { desired: Err(cause), reply };
                    drop(self.ask(refused).await);
                }
                Answer::Refused { faults }
            }
        };
        service::ready();
        verdict
    }

    /// `None` if what was read is in use already.
    async fn try_reload(&mut self) -> Result<Option<Changes>, ReloadError> {
        let names = self.ask(|reply| Control::Projects { reply }).await?;
        let (config, clients, accesses) = self.read(names).await?;
        for warning in
            config.warnings.iter().filter(|warning| !self.config.warnings.contains(warning))
        {
            tracing::warn!(event = "configuration_doubtful", cause = warning, "{warning}");
        }
        let store = clients.as_ref().map(|clients| clients.store.clone());
        let another_api = config.api.base_url != self.config.api.base_url;
        let desired = Ok(Box::new(desired(&config, accesses, store, another_api)));
        // What the file system is to allow comes before what is asked of it.
        self.permit(&config);
        let changes = self.ask(|reply| Control::Reconcile { desired, reply }).await?;
        let changes = changes.map_err(|cause| {
            self.permit(&self.config);
            ReloadError::Unreconciled(cause)
        })?;
        let unchanged = config == self.config && changes == Changes::default();
        self.config = config;
        if let Some(clients) = clients {
            self.clients = clients;
        }
        Ok((!unchanged).then_some(changes))
    }

    fn permit(&self, config: &Config) {
        umask::permit(config.download.modes);
        self.sink.reconfigure(sink_settings(config));
    }

    /// Reads the configuration and everything it names, and judges it. `names` are those of the
    /// projects that are known.
    async fn read(
        &self,
        names: HashMap<ProjectDigest, ProjectName>,
    ) -> Result<Prepared, ReloadError> {
        let (current, clients) = (self.config.clone(), self.clients.clone());
        let environment = Arc::clone(&self.environment);
        let reading = tokio::task::spawn_blocking(move || {
            let config = config::load(&current.file, &environment)?;
            let name_of = |key: &ProjectKey| names.get(&ProjectDigest::of(key)).cloned();
            if let Some(faults) = restart_faults(&current, &config, name_of) {
                return Err(faults.into());
            }
            let successor = clients.successor(&current, &config)?;
            let accesses =
                successor.as_ref().unwrap_or(&clients).accesses(&config, &environment)?;
            Ok::<_, ReloadError>((config, successor, accesses))
        });
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err(StartError::Worker.into()),
            Err(_) => Err(ReloadError::Slow),
        }
    }

    async fn ask<T>(
        &self,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<T, ReloadError> {
        let (reply, answer) = oneshot::channel();
        // A scheduler that is gone drops what it is told.
        drop(self.engine.send(control(reply)).await);
        answer.await.map_err(|_| ReloadError::Stopping)
    }
}

async fn hung_up(hangups: &mut Option<Hangups>) {
    match hangups {
        Some(hangups) => hangups.next().await,
        None => std::future::pending().await,
    }
}

fn words(changes: Option<Changes>) -> String {
    let Some(changes) = changes else { return "nothing has changed".to_owned() };
    let counts = [
        (changes.exports_added, "export", "added"),
        (changes.exports_removed, "export", "removed"),
        (changes.projects_added, "project", "added"),
        (changes.projects_removed, "project", "removed"),
        (changes.keys_changed, "key", "changed"),
    ];
    let plural = |count| if count == 1 { "" } else { "s" };
    let counted = counts.into_iter().filter(|(count, ..)| *count > 0);
    let counted =
        counted.map(|(count, what, how)| format!("{count} {what}{} {how}", plural(count)));
    let counted: Vec<_> = counted.collect();
    if counted.is_empty() { "settings changed".to_owned() } else { counted.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_count_what_changed() {
        assert_eq!(words(None), "nothing has changed");
        assert_eq!(words(Some(Changes::default())), "settings changed");
        let changes =
            Changes { exports_added: 2, exports_removed: 1, keys_changed: 1, ..Changes::default() };
        assert_eq!(words(Some(changes)), "2 exports added, 1 export removed, 1 key changed");
    }
}
