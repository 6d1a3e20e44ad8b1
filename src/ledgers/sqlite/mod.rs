//! The ledger in an embedded SQLite database, with one connection for each [`SqliteLedger`].
//!
//! A batch of facts is one transaction, and a transaction is synced before it counts (WAL,
//! `synchronous=FULL`). The SQL keeps to what PostgreSQL understands too.
//!
//! One epoch at a time may write: the `user_version` in the database's header, which earlier
//! versions of this program neither read nor change.

mod apply;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod load;
mod read_only;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlSafeStr, SqliteConnection};

pub(crate) use apply::Applying;
pub use read_only::look;

use crate::domain::ids::{ExportId, ExportKey, ProjectDigest};
use crate::domain::modes::DirectoryMode;
use crate::domain::stage::PauseScope;
use crate::durable::{Dir, DurableError, Entry, record};
use crate::ports::{Epoch, ExportRecord, Fact, Ledger, LedgerFault};

/// File name of the database in the state directory.
const DATABASE_FILE: &str = "state.db";
/// How long a statement waits for another process, such as `retry`, that holds the lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Every schema so far, in order: version, name, statements.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (1, "initial", include_str!("migrations/0001_initial.sql")),
    (2, "checkpoints", include_str!("migrations/0002_checkpoints.sql")),
    (3, "promises", include_str!("migrations/0003_promises.sql")),
];

#[derive(Debug)]
pub struct SqliteLedger {
    path: PathBuf,
    options: SqliteConnectOptions,
    /// Absent after a failure: a connection that met an I/O error is not reliable.
    connection: Option<SqliteConnection>,
}

impl SqliteLedger {
    /// Opens the state in `directory`, makes it (0700) if it is missing, and migrates it to the
    /// latest schema. A damaged or newer database is refused and left as it is.
    pub async fn open(directory: &Path) -> Result<Self, LedgerFault> {
        let path = directory.join(DATABASE_FILE);
        let place = directory.to_owned();
        let placed = tokio::task::spawn_blocking(move || make_place(&place));
        placed.await.map_err(|panic| error::unavailable("look for", &path, &panic))??;
        let mut ledger = Self::beside(directory);
        ledger.check().await?;
        ledger.migrate().await?;
        Ok(ledger)
    }

    /// Another connection to an open state: neither checked nor migrated again.
    pub fn beside(directory: &Path) -> Self {
        let path = directory.join(DATABASE_FILE);
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        Self { path, options, connection: None }
    }

    async fn check(&mut self) -> Result<(), LedgerFault> {
        let answer: Result<String, _> =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(self.connection().await?).await;
        match answer {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(cause) => Err(error::corrupt(&self.path, &cause)),
            Err(error) => Err(self.failed("check", &error)),
        }
    }

    async fn migrate(&mut self) -> Result<(), LedgerFault> {
        let migrator = Migrator::with_migrations(MIGRATIONS.map(migration).into());
        let migrated = migrator.run(self.connection().await?).await;
        migrated.map_err(|error| error::migration(&self.path, latest(), &error))
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, LedgerFault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(|error| self.failed("open", &error))?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Rolls back by closing, so that the next use begins with a new connection.
    async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.close().await);
        }
    }

    /// Answers an error by closing the connection.
    async fn settled<T>(
        &mut self,
        operation: &'static str,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, LedgerFault> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                self.disconnect().await;
                Err(self.failed(operation, &error))
            }
        }
    }

    fn failed(&self, operation: &'static str, error: &sqlx::Error) -> LedgerFault {
        error::database(operation, &self.path, error)
    }
}

impl Ledger for SqliteLedger {
    async fn claim(&mut self, _projects: &[ProjectDigest]) -> Result<Epoch, LedgerFault> {
        let claimed = apply::claim(self.connection().await?).await;
        self.settled("claim", claimed).await
    }

    async fn commit(&mut self, epoch: Epoch, facts: &[Fact]) -> Result<(), LedgerFault> {
        record::note(&self.path, || Applying::Begun(facts.to_vec()));
        let applied = apply::apply_all(self.connection().await?, epoch, facts).await;
        let holder = self.settled("write", applied).await?;
        if holder != epoch {
            return Err(LedgerFault::Refused { epoch, holder });
        }
        record::note(&self.path, || Applying::Durable);
        Ok(())
    }

    async fn load(&mut self, projects: &[ProjectDigest]) -> Result<Vec<ExportRecord>, LedgerFault> {
        let loaded = load::all(self.connection().await?, projects).await;
        self.settled("read", loaded).await
    }

    async fn load_exports(
        &mut self,
        project: ProjectDigest,
        exports: &[&ExportId],
    ) -> Result<Vec<ExportRecord>, LedgerFault> {
        let loaded = load::some(self.connection().await?, project, exports).await;
        self.settled("read", loaded).await
    }

    async fn find(
        &mut self,
        exports: &BTreeSet<ExportId>,
        only_failed: bool,
    ) -> Result<Vec<ExportKey>, LedgerFault> {
        let found = load::find(self.connection().await?, exports, only_failed).await;
        self.settled("read", found).await
    }

    async fn unrecovered(
        &mut self,
        projects: &[ProjectDigest],
    ) -> Result<Vec<ProjectDigest>, LedgerFault> {
        let unrecovered = load::unrecovered(self.connection().await?, projects).await;
        self.settled("read", unrecovered).await
    }

    async fn pauses(&mut self) -> Result<HashMap<PauseScope, Timestamp>, LedgerFault> {
        let pauses = load::pauses(self.connection().await?).await;
        self.settled("read", pauses).await
    }

    async fn sink_identity(&mut self, place: &str) -> Result<Option<String>, LedgerFault> {
        let identity = load::sink_identity(self.connection().await?, place).await;
        self.settled("read", identity).await
    }

    async fn close(mut self) -> Result<(), LedgerFault> {
        match self.connection.take() {
            Some(connection) => {
                connection.close().await.map_err(|error| self.failed("close", &error))
            }
            None => Ok(()),
        }
    }
}

/// Makes the state's folder, and an empty database: SQLite itself would not make it 0600.
fn make_place(directory: &Path) -> Result<(), LedgerFault> {
    let disk = |error: DurableError| LedgerFault::Unavailable(error.to_string());
    let dir = Dir::create_all(directory, DirectoryMode::PRIVATE, DirectoryMode::PRIVATE);
    let dir = dir.map_err(disk)?;
    match dir.entry(DATABASE_FILE).map_err(disk)? {
        Entry::Regular(..) => Ok(()),
        Entry::Other => Err(LedgerFault::Unavailable(format!(
            "{} is not a regular file: move it away, or choose another state directory",
            directory.join(DATABASE_FILE).display()
        ))),
        Entry::Absent => dir.create_empty(DATABASE_FILE).map_err(disk),
    }
}

fn migration((version, name, statements): (i64, &'static str, &'static str)) -> Migration {
    let sql = statements.into_sql_str();
    Migration::new(version, name.into(), MigrationType::Simple, sql, false)
}

/// The version of the latest schema.
fn latest() -> i64 {
    MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or_default()
}

/// SQL has no unsigned integers; a length beyond `i64` does not exist.
fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
