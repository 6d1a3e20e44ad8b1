//! What is known across restarts, in an embedded SQLite database with one connection.
//!
//! The store may lag the bytes on disk, never lead them: a change is sent here after what it speaks
//! of is durable. A batch of changes is one transaction, and a transaction is synced before it
//! counts (WAL, `synchronous=FULL`). The SQL keeps to what PostgreSQL understands too.

mod apply;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod load;
mod read_only;
mod record;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlSafeStr, SqliteConnection};

#[cfg(test)]
pub(crate) use apply::Applying;
pub use error::StoreError;
pub use read_only::{Seen, look};
pub use record::{ExportRecord, Fact, RecordedState};
pub use writer::{LedgerEvent, Write, run_writer};

use crate::domain::modes::DirectoryMode;
use crate::durable::{Dir, Entry};

/// File name of the database in the state directory.
const DATABASE_FILE: &str = "state.db";
/// How long a statement waits for another process (the `retry` command) that has the database
/// locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Every schema there has been, in order: version, name, statements.
const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "initial", include_str!("migrations/0001_initial.sql")),
    (2, "checkpoints", include_str!("migrations/0002_checkpoints.sql")),
];

/// The open state.
#[derive(Debug)]
pub struct SqliteLedger {
    path: PathBuf,
    options: SqliteConnectOptions,
    /// Absent after a failure: the next use connects anew, because a connection that met an I/O
    /// error is not trusted.
    connection: Option<SqliteConnection>,
}

impl SqliteLedger {
    /// Opens the state in `directory`, which is made (0700) where it is missing, and brings it to
    /// the latest schema. A database that is damaged or newer is refused as it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(DATABASE_FILE);
        let place = directory.to_owned();
        let placed = tokio::task::spawn_blocking(move || make_place(&place));
        placed.await.map_err(|panic| StoreError::Database {
            operation: "look for",
            path: path.clone(),
            cause: panic.to_string(),
        })??;
        let mut store = Self::beside(directory);
        store.check().await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Another way into a state that this process has open already: it is neither checked nor
    /// migrated again.
    #[must_use]
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

    /// Ends the connection; what was applied is durable already.
    ///
    /// # Errors
    /// When the database cannot be closed cleanly.
    pub async fn close(mut self) -> Result<(), StoreError> {
        match self.connection.take() {
            Some(connection) => {
                connection.close().await.map_err(|error| self.failed("close", &error))
            }
            None => Ok(()),
        }
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        let answer: Result<String, _> =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(self.connection().await?).await;
        match answer {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(cause) => Err(StoreError::Corrupt { path: self.path.clone(), cause }),
            Err(error) => Err(self.failed("check", &error)),
        }
    }

    async fn migrate(&mut self) -> Result<(), StoreError> {
        let migrations = MIGRATIONS.map(|(version, name, statements)| {
            Migration::new(
                version,
                name.into(),
                MigrationType::Simple,
                statements.into_sql_str(),
                false,
            )
        });
        let known = MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or_default();
        let migrator = Migrator::with_migrations(migrations.into());
        let migrated = migrator.run(self.connection().await?).await;
        migrated.map_err(|error| StoreError::migration(&self.path, known, &error))
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(|error| self.failed("open", &error))?,
        };
        Ok(self.connection.insert(connection))
    }

    /// After a failure: rolls back by closing, so that the next use begins with a new connection.
    async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // It failed already; what closing it says adds nothing.
            drop(connection.close().await);
        }
    }

    fn failed(&self, operation: &'static str, error: &sqlx::Error) -> StoreError {
        StoreError::database(operation, &self.path, error)
    }
}

/// Makes the state's folder, and the database as an empty file: SQLite itself would not make it
/// 0600.
fn make_place(directory: &Path) -> Result<(), StoreError> {
    let dir = Dir::create_all(directory, DirectoryMode::PRIVATE, DirectoryMode::PRIVATE)?;
    match dir.entry(DATABASE_FILE)? {
        Entry::Regular(..) => Ok(()),
        Entry::Other => Err(StoreError::NotAFile { path: directory.join(DATABASE_FILE) }),
        Entry::Absent => Ok(dir.create_empty(DATABASE_FILE)?),
    }
}

/// SQL has no unsigned integers; a length beyond `i64` does not exist.
fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
