//! Another configuration for the running program: read, judged and, where it is right, put in force
//! as a whole. Whatever goes wrong, the one before goes on.
//!
//! SIGHUP, a changed file and a question over the control socket all come here; those that come
//! together are one reload.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::clients::Clients;
use super::file_watch::FileWatch;
use super::forget::{ForgetOutcome, forget_records};
use super::{StartError, capacity, policies, sink_settings};
use crate::config::{self, Config, ConfigFaults, Environment, restart_faults};
use crate::domain::ids::{ExportId, ExportKey, ProjectDigest, ProjectKey, ProjectName};
use crate::domain::stage::PauseScope;
use crate::domain::watch::Watch;
use crate::engine::control::{Begun, Changes, Known, Reload, ReloadedProject};
use crate::engine::recovery::recover_unknown;
use crate::engine::{Access, Control};
use crate::fetch::StoreClient;
use crate::ledgers::sqlite::SqliteLedger;
use crate::ports::{Epoch, Ledger, LedgerFault};
use crate::process::signals::Hangups;
use crate::process::{service, umask};
use crate::sinks::local::LocalSink;

/// For how long requests for a reload gather: a storm of signals is one.
const GATHER: Duration = Duration::from_millis(100);
/// Longest wait for the configuration to be read; it may lie on a share that hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait until nothing is under way for exports that are to be forgotten.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(8);

/// What the reloader is asked: one thing after the other, since both decide what is watched.
#[derive(Debug)]
pub(super) enum Request {
    /// Read the configuration again.
    Reload(oneshot::Sender<Verdict>),
    /// Forget exports.
    Forget {
        /// Those that are wanted.
        exports: BTreeSet<ExportId>,
        /// Where it goes what became of those that are known, or why nothing did.
        reply: oneshot::Sender<Result<Vec<ForgetOutcome>, String>>,
    },
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in force.
    Reloaded {
        /// What changed.
        words: String,
        /// The file.
        file: PathBuf,
    },
    /// The one before goes on.
    Refused {
        /// Why, one fault a line.
        faults: String,
    },
}

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
}

/// A configuration that was read and found right, and what it takes to use it.
struct Prepared {
    config: Config,
    /// The clients, where they are others.
    clients: Option<Clients>,
    accesses: Vec<Access>,
}

/// What the state has of exports that are not known yet, and the pauses on record.
type LookedUp = (HashMap<ProjectDigest, HashMap<ExportId, Watch>>, HashMap<PauseScope, Timestamp>);

/// Exports to be forgotten, and who waits for that.
type Forget = (BTreeSet<ExportId>, oneshot::Sender<Result<Vec<ForgetOutcome>, String>>);

/// Reads configurations for the running program.
pub(super) struct Reloader {
    /// The one in force.
    pub(super) config: Config,
    pub(super) clients: Clients,
    pub(super) environment: Arc<Environment>,
    pub(super) sink: LocalSink,
    pub(super) epoch: Epoch,
    pub(super) engine: mpsc::Sender<Control>,
    /// Who asks for a reload.
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
                    Some(Request::Reload(request)) => { waiting.push(request); false }
                    Some(Request::Forget { exports, reply }) => {
                        // Who asked may be gone.
                        let _ = reply.send(self.forget(exports).await);
                        continue;
                    }
                    None => return,
                },
                () = hung_up(&mut self.hangups) => false,
                () = files.changed() => true,
            };
            let forgets = self.gather(&mut waiting).await;
            let look = files.look().await;
            let verdict = self.reload(by_file).await;
            files.follow(&self.config);
            files.was_read(look);
            for request in waiting {
                // Who asked may be gone.
                let _ = request.send(verdict.clone());
            }
            for (exports, reply) in forgets {
                let _ = reply.send(self.forget(exports).await);
            }
        }
    }

    /// What comes within a moment is the same reload. Returns what else was asked meanwhile.
    async fn gather(&mut self, waiting: &mut Vec<oneshot::Sender<Verdict>>) -> Vec<Forget> {
        let mut forgets = Vec::new();
        let until = Instant::now() + GATHER;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return forgets,
                Some(request) = self.requests.recv() => match request {
                    Request::Reload(reply) => waiting.push(reply),
                    Request::Forget { exports, reply } => forgets.push((exports, reply)),
                },
                () = hung_up(&mut self.hangups) => {}
            }
        }
    }

    /// `by_file` tells that nobody asked for it.
    async fn reload(&mut self, by_file: bool) -> Verdict {
        service::reloading();
        let outcome = self.try_reload().await;
        let verdict = match outcome {
            Ok(changes) => {
                let words = words(changes);
                let Changes {
                    exports_added,
                    exports_removed,
                    projects_added,
                    projects_removed,
                    keys_changed,
                } = changes.unwrap_or_default();
                match changes {
                    None if by_file => tracing::debug!(
                        event = "reload_unneeded",
                        "the configuration's files say what is in force"
                    ),
                    _ => tracing::info!(
                        event = "reload_done",
                        exports_added,
                        exports_removed,
                        projects_added,
                        projects_removed,
                        keys_changed,
                        "configuration reloaded: {words}"
                    ),
                }
                Verdict::Reloaded { words, file: self.config.file.clone() }
            }
            Err(error) => {
                let faults = error.to_string();
                for fault in faults.lines() {
                    tracing::error!(
                        event = "reload_refused",
                        cause = fault,
                        "reload refused, the configuration in force goes on: {fault}"
                    );
                }
                let cause = faults.lines().next().unwrap_or_default().to_owned();
                // The service manager hears why before it hears that it is over.
                drop(self.ask(|reply| Control::ReloadRefused { cause, reply }).await);
                Verdict::Refused { faults }
            }
        };
        service::ready();
        verdict
    }

    /// `None` where what was read is in force already.
    async fn try_reload(&mut self) -> Result<Option<Changes>, ReloadError> {
        let known = self.ask(|reply| Control::ReloadBegun { reply }).await?;
        let Prepared { config, clients, accesses } = self.read(known.projects.clone()).await?;
        for warning in
            config.warnings.iter().filter(|warning| !self.config.warnings.contains(warning))
        {
            tracing::warn!(event = "configuration_doubtful", cause = warning, "{warning}");
        }
        let store = clients.as_ref().map(|clients| clients.store.clone());
        let reload = self.prepare(&config, store, accesses, &known).await?;
        // What the file system is to allow comes before what is asked of it.
        umask::permit(config.download.modes);
        self.sink.reconfigure(sink_settings(&config));
        let changes = self.ask(|reply| Control::Reload { reload: Box::new(reload), reply }).await?;
        let unchanged = config == self.config && changes == Changes::default();
        self.config = config;
        if let Some(clients) = clients {
            self.clients = clients;
        }
        Ok((!unchanged).then_some(changes))
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
            Ok::<_, ReloadError>(Prepared { config, clients: successor, accesses })
        });
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err(StartError::Worker.into()),
            Err(_) => Err(ReloadError::Slow),
        }
    }

    /// Looks up in the state what is not known yet.
    async fn prepare(
        &self,
        config: &Config,
        store_client: Option<StoreClient>,
        accesses: Vec<Access>,
        known: &Known,
    ) -> Result<Reload, ReloadError> {
        let (mut unknown, pauses) = self.look_up(config, known).await.map_err(StartError::from)?;
        let is_new = |scope: &PauseScope| match scope {
            PauseScope::Project(digest) => !known.projects.contains_key(digest),
            PauseScope::Origin | PauseScope::Host(_) | PauseScope::Unknown(_) => false,
        };
        let projects = config.projects.iter().zip(accesses).map(|(project, access)| {
            let digest = ProjectDigest::of(&project.project_key);
            ReloadedProject {
                name: project.name.clone(),
                digest,
                access,
                requests_per_second: config.api.requests_per_second,
                exports: project.exports.clone(),
                watches: unknown.remove(&digest).unwrap_or_default(),
            }
        });
        Ok(Reload {
            projects: projects.collect(),
            policies: policies(config),
            capacity: capacity(config),
            store: store_client,
            another_api: config.api.base_url != self.config.api.base_url,
            pauses: pauses.into_iter().filter(|(scope, _)| is_new(scope)).collect(),
        })
    }

    async fn look_up(&self, config: &Config, known: &Known) -> Result<LookedUp, LedgerFault> {
        let mut ledger = SqliteLedger::beside(&config.state_directory);
        let unknown =
            recover_unknown(&mut ledger, self.epoch, &self.sink, &config.projects, &known.exports)
                .await?;
        let pauses = ledger.pauses().await?;
        ledger.close().await?;
        Ok((unknown, pauses))
    }

    /// Has exports let go of, forgets them, and has those that are configured begin as they are on
    /// disk by then.
    async fn forget(&self, wanted: BTreeSet<ExportId>) -> Result<Vec<ForgetOutcome>, String> {
        let exports = wanted.clone();
        let released = self.ask(|reply| Control::Release { exports, reply });
        let released = match tokio::time::timeout(RELEASE_TIMEOUT, released).await {
            Ok(Ok(released)) => Ok(released),
            Ok(Err(stopping)) => return Err(stopping.to_string()),
            Err(_) => {
                Err("what is under way does not come to its end; nothing was forgotten".to_owned())
            }
        };
        let mut ledger = SqliteLedger::beside(&self.config.state_directory);
        let outcomes = match released {
            Ok(more) => forget_records(
                &mut ledger,
                self.epoch,
                &self.sink,
                &self.config.projects,
                &wanted,
                more,
            )
            .await
            .map_err(|error| error.to_string()),
            Err(cause) => Err(cause),
        };
        for ForgetOutcome { project, export, .. } in
            outcomes.iter().flatten().filter(|outcome| outcome.hindrance.is_none())
        {
            tracing::info!(event = "record_dropped", %project, %export, "what was known of the export is dropped, as somebody asked");
        }
        let projects = self.begun(&mut ledger, &wanted).await;
        if let Err(error) = ledger.close().await {
            tracing::warn!(event = "state_close_failed", cause = %error, "the state was not closed cleanly: {error}");
        }
        // A scheduler that is gone drops what it is told.
        drop(self.engine.send(Control::Begin { projects }).await);
        outcomes
    }

    /// Those of the wanted exports that are configured, as state and disk have them.
    async fn begun(&self, ledger: &mut SqliteLedger, wanted: &BTreeSet<ExportId>) -> Vec<Begun> {
        let keys = self.config.projects.iter().flat_map(|project| {
            let digest = ProjectDigest::of(&project.project_key);
            project
                .exports
                .iter()
                .map(move |export| ExportKey { project: digest, export: export.clone() })
        });
        let others: HashSet<ExportKey> = keys.filter(|key| !wanted.contains(&key.export)).collect();
        let found =
            recover_unknown(ledger, self.epoch, &self.sink, &self.config.projects, &others).await;
        let mut found = found.unwrap_or_else(|error| {
            tracing::error!(event = "forgotten_unrecovered", cause = %error, "forgotten exports begin as new ones: {error}");
            HashMap::new()
        });
        let begun = self.config.projects.iter().map(|project| {
            let digest = ProjectDigest::of(&project.project_key);
            Begun {
                project: digest,
                name: project.name.clone(),
                configured: project.exports.clone(),
                exports: project
                    .exports
                    .iter()
                    .filter(|export| wanted.contains(export))
                    .cloned()
                    .collect(),
                watches: found.remove(&digest).unwrap_or_default(),
            }
        });
        begun.collect()
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
    let Changes { exports_added, exports_removed, projects_added, projects_removed, keys_changed } =
        changes;
    let counts = [
        (exports_added, "export", "added"),
        (exports_removed, "export", "removed"),
        (projects_added, "project", "added"),
        (projects_removed, "project", "removed"),
        (keys_changed, "key", "changed"),
    ];
    let counted = counts.into_iter().filter(|(count, ..)| *count > 0);
    let counted: Vec<_> = counted
        .map(|(count, what, how)| {
            format!("{count} {what}{} {how}", if count == 1 { "" } else { "s" })
        })
        .collect();
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
