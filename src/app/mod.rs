//! Composition root: a configuration becomes a running program, and a running program comes to an
//! orderly end.
//!
//! - `mod.rs` building, running, ending
//! - `clients.rs` the two HTTP clients and who may use them
//! - `desk.rs` who answers what is asked over the control socket
//! - `file_watch.rs` when the configuration's files have changed
//! - `offline.rs` what can be done while no daemon runs
//! - `patience.rs` a start that waits for a disk, and says so
//! - `reload.rs` another configuration for the running program

mod clients;
mod desk;
mod file_watch;
mod offline;
mod patience;
#[cfg(test)]
mod power_cut;
mod reload;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use clients::Clients;
use desk::Desk;
use patience::{patiently, while_told};
use reload::Reloader;

use crate::config::{Config, Environment, ProjectConfig, command};
use crate::control::ControlSocket;
use crate::domain::capacity::Capacity;
use crate::domain::ids::{ProjectDigest, ProjectName};
use crate::domain::modes::DirectoryMode;
use crate::domain::watch::Policies;
use crate::durable::{Dir, DurableError, ErrorClass};
use crate::engine::archive::Archive;
use crate::engine::control::{Desired, DesiredProject};
use crate::engine::overview::Overview;
use crate::engine::recovery::{self, Recovered};
use crate::engine::{Access, EngineParts, Lanes, Outcome, Scheduler, run_writer};
use crate::exit;
use crate::fetch::StoreClient;
use crate::ledgers::sqlite::SqliteLedger;
use crate::meters::Meters;
use crate::ports::{Epoch, Fact, Ledger, LedgerFault, Sink as _, SinkFault};
use crate::process::lock::{InstanceLock, LateLock, LockError};
use crate::process::runtimes::TransferRuntimes;
use crate::process::signals::Hangups;
use crate::process::{limits, service, umask};
use crate::sinks::AnySink;
use crate::sinks::local::{LocalSink, MarkerId, Opened as SinkOpened, SinkError, SinkSettings};
use crate::transport::{ClientError, TlsError};
use crate::web::{Sources, StatusServer};

pub use clients::api_clients;
pub use offline::{forget, recorded_status, retry};

/// Writes to the state that may wait; more than the parts in flight and the exports that can change
/// at once.
const WRITE_QUEUE: usize = 256;
/// Answers of the state's writer that may wait; each speaks of a whole transaction.
const LEDGER_EVENT_QUEUE: usize = 64;
/// Questions to the scheduler that may wait.
const CONTROL_QUEUE: usize = 16;
/// Longest wait for the state to be closed at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// File in the state directory that the running instance locks.
const STATE_LOCK: &str = "lock";
/// File in the download directory that the running instance locks.
const DOWNLOAD_LOCK: &str = ".batch-export-watcher.lock";

#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    pub exit_when_settled: bool,
    /// Give up on that after so long.
    pub deadline: Option<Duration>,
}

#[derive(Debug)]
pub struct Setup {
    pub config: Config,
    /// The environment, in which later ones are read, too.
    pub environment: Environment,
    pub options: RunOptions,
    pub transfer: TransferRuntimes,
    /// SIGHUP, where it asks for a reload.
    pub hangups: Option<Hangups>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another instance holds a lock, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Directory(#[from] DurableError),
    #[error("failed.json cannot be removed: {0}")]
    Removal(SinkFault),
    #[error("project {project}: the REST API key cannot be used: {cause}")]
    Key { project: ProjectName, cause: String },
    #[error("server.listen: the status page cannot listen at {address}: {cause}")]
    Listen { address: SocketAddr, cause: io::Error },
    #[error("a worker ended unexpectedly while the program was starting")]
    Worker,
}

impl StartError {
    /// The exit code that tells a service manager what to make of it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Lock(LockError::Held { .. }) => exit::UNFINISHED,
            _ if self.is_passing() => exit::UNFINISHED,
            Self::Lock(_)
            | Self::Sink(_)
            | Self::Tls(_)
            | Self::Key { .. }
            | Self::Directory(_)
            | Self::Removal(_)
            | Self::Listen { .. } => exit::CONFIGURATION,
            Self::Ledger(_) | Self::Client(_) | Self::Worker => exit::INTERNAL,
        }
    }

    /// Whether a disk is to blame that may be fit later: full, read-only or failing.
    fn is_passing(&self) -> bool {
        match self {
            Self::Lock(LockError::Failed { source, .. }) => ErrorClass::of_io(source).is_passing(),
            Self::Ledger(fault) => matches!(fault, LedgerFault::Unavailable(_)),
            Self::Sink(error) => error.is_passing(),
            Self::Directory(error) => error.class().is_passing(),
            _ => false,
        }
    }
}

pub struct App {
    scheduler: Scheduler,
    /// What is configured first, and what recovery found of it.
    first: Desired,
    found: Recovered,
    overviews: watch::Receiver<Overview>,
    writer: JoinSet<Vec<u64>>,
    stop_writer: CancellationToken,
    /// What answers and reloads while the scheduler works.
    services: JoinSet<()>,
    /// Held for as long as the program runs.
    _locks: (InstanceLock, Arc<LateLock>),
}

impl App {
    /// Takes the locks, opens state and directory, recovers what an earlier run left, and puts
    /// everything together.
    pub async fn build(setup: Setup) -> Result<Self, StartError> {
        let began = Instant::now();
        let Setup { config, environment, options, transfer, hangups } = setup;
        umask::permit(config.download.modes);
        let environment = Arc::new(environment);
        let clients = Clients::new(&config)?;
        let accesses = clients.accesses(&config, &environment)?;
        // Without the lock there is no socket and no page yet that could say the words.
        let unheard = watch::Sender::default();
        let state_lock = patiently(&unheard, async || lock_state(&config).await).await?;
        let status_server = status_server(&config).await?;
        let opened = while_told(&config.state_directory, status_server.as_ref(), async || {
            open(&config, &transfer).await
        });
        let opened = opened.await?;
        let Opened { ledger, epoch, sink, download_lock, found } = opened;
        let stop_writer = CancellationToken::new();
        let (writes, write_queue) = mpsc::channel(WRITE_QUEUE);
        let (events, ledger_events) = mpsc::channel(LEDGER_EVENT_QUEUE);
        let mut writer = JoinSet::new();
        writer.spawn(run_writer(ledger, epoch, write_queue, events, stop_writer.clone()));
        let (engine, control) = mpsc::channel(CONTROL_QUEUE);
        let first = desired(&config, accesses, None, false);
        let archive = Archive {
            state_directory: config.state_directory.clone(),
            sink: AnySink::Local(sink.clone()),
            epoch,
        };
        let meters = Meters::default();
        let (scheduler, overviews) = Scheduler::new(EngineParts {
            policies: first.policies,
            capacity: first.capacity,
            retry_command: command("retry", &config.file),
            exit_when_settled: options.exit_when_settled,
            deadline: options.deadline.map(|deadline| deadline.saturating_sub(began.elapsed())),
            sink: AnySink::Local(sink.clone()),
            download_lock: download_lock.clone(),
            lanes: Lanes::new(transfer, &clients.store),
            archive,
            writes,
            ledger_events,
            control,
            meters: meters.clone(),
        });
        let mut services = JoinSet::new();
        let (reloads, requests) = mpsc::channel(CONTROL_QUEUE);
        let desk = Desk { engine: engine.clone(), reloads, config_file: config.file.clone() };
        answer_questions(&mut services, &config.state_directory, desk);
        if let Some(server) = status_server {
            let (engine, config_file) = (engine.clone(), config.file.clone());
            let sink = AnySink::Local(sink.clone());
            services.spawn(server.serve(Sources { engine, config_file, meters, sink }));
        }
        let reloader = Reloader { config, clients, environment, sink, engine, requests, hangups };
        services.spawn(reloader.run());
        let _locks = (state_lock, download_lock);
        Ok(Self { scheduler, first, found, overviews, writer, stop_writer, services, _locks })
    }

    pub fn overviews(&self) -> watch::Receiver<Overview> {
        self.overviews.clone()
    }

    /// Runs until the work is settled or `stop` is cancelled and everything under way has come to
    /// its end.
    pub async fn run(self, stop: CancellationToken) -> Outcome {
        let Self {
            scheduler,
            first,
            found,
            overviews,
            mut writer,
            stop_writer,
            mut services,
            _locks,
        } = self;
        drop(overviews);
        service::ready();
        tracing::info!(event = "daemon_started", version = env!("CARGO_PKG_VERSION"), "running");
        let told = stop.clone();
        let tell = async move {
            told.cancelled().await;
            service::stopping();
            std::future::pending::<()>().await;
        };
        // Boxed, because it is large and whoever runs the program moves this future.
        let scheduler = Box::pin(scheduler.run(first, found, stop));
        let outcome = tokio::select! {
            // In this order: an idle scheduler ends in the very poll in which it learns of the
            // stop.
            biased;
            () = tell => unreachable!("it only ever tells"),
            outcome = scheduler => outcome,
            // It ends by itself only after the scheduler.
            _ = writer.join_next() => {
                tracing::error!(
                    event = "state_writer_ended",
                    "internal error: the task that writes the state has ended"
                );
                return Outcome::StateLost;
            }
        };
        services.shutdown().await;
        // The scheduler is gone, and its end of the queue with it: the writer closes the state and
        // ends.
        if tokio::time::timeout(CLOSE_TIMEOUT, writer.join_next()).await.is_err() {
            tracing::warn!(
                event = "state_close_late",
                "the state could not be closed in time; what it has confirmed is safe"
            );
            stop_writer.cancel();
        }
        outcome
    }
}

/// What a configuration wants of the engine. `accesses` are those of its projects, in their order.
fn desired(
    config: &Config,
    accesses: Vec<Access>,
    store: Option<StoreClient>,
    another_api: bool,
) -> Desired {
    let project = |(project, access): (&ProjectConfig, Access)| DesiredProject {
        name: project.name.clone(),
        digest: ProjectDigest::of(&project.project_key),
        access,
        requests_per_second: config.api.requests_per_second,
        exports: project.exports.clone(),
    };
    Desired {
        policies: Policies {
            cadence: config.poll.cadence,
            retry: config.retry,
            not_found_grace: config.poll.not_found_grace,
        },
        capacity: capacity(config),
        store,
        another_api,
        projects: config.projects.iter().zip(accesses).map(project).collect(),
    }
}

/// What may be under way at once, with a warning where that is less than what is configured.
fn capacity(config: &Config) -> Capacity {
    let max_parts = config.download.max_parts;
    let limit = limits::open_files();
    let capacity = Capacity::new(max_parts, limit);
    if let Some(limit) = limit.filter(|limit| *limit < Capacity::open_files(max_parts)) {
        let cause = format!(
            "{limit} files can be open, and download.max_parts = {max_parts} may need {}",
            Capacity::open_files(max_parts)
        );
        tracing::warn!(
            event = "file_limit_low",
            cause,
            "{cause}; parts at once: {}; raise LimitNOFILE of the service (ulimit -n in a shell), or lower download.max_parts",
            capacity.parts
        );
    }
    capacity
}

/// Listens on the control socket. A state directory that can hold none is no reason not to do the
/// work.
fn answer_questions(services: &mut JoinSet<()>, state_directory: &Path, desk: Desk) {
    match ControlSocket::listen(state_directory) {
        Ok(socket) => {
            services.spawn(socket.serve(move |question| desk.clone().answer(question)));
        }
        Err(error) => {
            tracing::warn!(
                event = "control_socket_missing", cause = %error,
                "there is no control socket, so `status`, `reload`, `retry` and `forget` do not reach this process: {error}"
            );
        }
    }
}

/// Binds the status page. Where it listens by default somebody else may, such as another instance
/// of this program: that is no reason not to do the work.
async fn status_server(config: &Config) -> Result<Option<StatusServer>, StartError> {
    let Some(address) = config.server.listen else { return Ok(None) };
    match StatusServer::bind(address, &config.server.allowed_hosts).await {
        Ok(server) => {
            let address = server.address();
            tracing::info!(event = "page_started", %address, "status page at http://{address}");
            Ok(Some(server))
        }
        Err(cause) if config.says_where_to_listen() => Err(StartError::Listen { address, cause }),
        Err(cause) => {
            tracing::warn!(
                event = "page_missing", %address, %cause,
                "there is no status page: cannot listen at {address} (server.listen): {cause}"
            );
            Ok(None)
        }
    }
}

/// Locks the state directory, and makes it where it is missing: for the owner alone. What leads to
/// it may lead to the downloads as well, and is no obstacle to whoever may read those.
async fn lock_state(config: &Config) -> Result<InstanceLock, StartError> {
    let (path, parents_mode) = (config.state_directory.clone(), config.download.modes.directory);
    let lock = tokio::task::spawn_blocking(move || {
        Dir::create_all(&path, DirectoryMode::PRIVATE, parents_mode)?;
        Ok::<_, StartError>(InstanceLock::acquire(&path.join(STATE_LOCK))?)
    });
    lock.await.map_err(|_| StartError::Worker)?
}

/// What is known across restarts, and the place for the bytes.
struct Opened {
    ledger: SqliteLedger,
    epoch: Epoch,
    sink: LocalSink,
    download_lock: Arc<LateLock>,
    found: Recovered,
}

async fn open(config: &Config, transfer: &TransferRuntimes) -> Result<Opened, StartError> {
    let (mut ledger, epoch) = open_ledger(config).await?;
    let (sink, download_lock) = open_sink(config, &mut ledger, epoch).await?;
    let sink = sink.on(&transfer.first);
    let found = recovery::recover(&mut ledger, epoch, &sink, &config.projects).await?;
    Ok(Opened { ledger, epoch, sink, download_lock, found })
}

/// Opens the state and claims it: whatever had it open before cannot write from now on.
async fn open_ledger(config: &Config) -> Result<(SqliteLedger, Epoch), StartError> {
    let digests: Vec<_> =
        config.projects.iter().map(|project| ProjectDigest::of(&project.project_key)).collect();
    let mut ledger = SqliteLedger::open(&config.state_directory).await?;
    let epoch = ledger.claim(&digests).await?;
    Ok((ledger, epoch))
}

/// Opens the download directory as the state knows it, and locks it. One that is known and away, or
/// cannot be written now, is locked when it is found to be well.
async fn open_sink(
    config: &Config,
    ledger: &mut impl Ledger,
    epoch: Epoch,
) -> Result<(LocalSink, Arc<LateLock>), StartError> {
    let directory = config.download.directory.clone();
    let place = directory.display().to_string();
    // A marker on record that cannot be read is as good as none: the directory's own is adopted.
    let known =
        ledger.sink_identity(&place).await?.and_then(|marker| marker.parse::<MarkerId>().ok());
    let settings = sink_settings(config);
    let lock = Arc::new(LateLock::new(directory.join(DOWNLOAD_LOCK)));
    let opened = tokio::task::spawn_blocking(move || LocalSink::open(&directory, known, settings));
    let (sink, opened) = opened.await.map_err(|_| StartError::Worker)??;
    if let SinkOpened::Away(_) = opened {
        return Ok((sink, lock));
    }
    if let SinkOpened::Created(marker) | SinkOpened::Adopted(marker) = opened {
        let identified = Fact::SinkIdentified { place, identity: marker.to_string() };
        ledger.commit(epoch, &[identified]).await?;
    }
    let taking = lock.clone();
    let taken = tokio::task::spawn_blocking(move || taking.ensure()).await;
    match taken.map_err(|_| StartError::Worker)? {
        Err(LockError::Failed { .. }) if opened == SinkOpened::Known => {}
        taken => taken?,
    }
    Ok((sink, lock))
}

fn sink_settings(config: &Config) -> SinkSettings {
    SinkSettings { reserve_bytes: config.download.reserve_bytes, modes: config.download.modes }
}
