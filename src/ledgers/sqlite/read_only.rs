//! A look at the state that leaves no trace: it makes nothing, migrates nothing, blocks nobody.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::load::{load_project, pauses};
use super::{BUSY_TIMEOUT, DATABASE_FILE, error, latest};
use crate::domain::ids::ProjectDigest;
use crate::ports::{LedgerFault, Seen};

/// Reads the state in `directory`; `None` if there is none yet.
pub async fn look(
    directory: &Path,
    projects: &[ProjectDigest],
) -> Result<Option<Seen>, LedgerFault> {
    let path = directory.join(DATABASE_FILE);
    let failed = |operation| move |error: sqlx::Error| (operation, error);
    let bytes_of = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error::unavailable("look for", path, &error)),
    };
    let wal = bytes_of(&directory.join(format!("{DATABASE_FILE}-wal")))?.unwrap_or(0);
    // A start that was cut short leaves an empty file.
    if bytes_of(&path)?.unwrap_or(0) == 0 && wal == 0 {
        return Ok(None);
    }
    let looked = async {
        // A state that was closed cleanly has no -wal, and can be read without a -shm.
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(false)
            .read_only(true)
            .immutable(wal == 0)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(failed("open"))?;
        let seen = seen(&mut connection, projects).await.map_err(failed("read"));
        drop(connection.close().await);
        seen
    };
    let (version, seen) =
        looked.await.map_err(|(operation, error)| error::database(operation, &path, &error))?;
    let known = latest();
    if version > known {
        return Err(error::newer(&path, version, known));
    }
    Ok((version > 0).then_some(seen))
}

/// The version of the schema, 0 if there is none, and what is in it if that can be understood.
async fn seen(
    on: &mut SqliteConnection,
    projects: &[ProjectDigest],
) -> Result<(i64, Seen), sqlx::Error> {
    let mut transaction = on.begin().await?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut *transaction)
            .await?;
    if tables == 0 {
        return Ok((0, Seen::default()));
    }
    let version: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut *transaction)
        .await?;
    let version = version.unwrap_or(0);
    if version == 0 || version > latest() {
        return Ok((version, Seen::default()));
    }
    let mut exports = Vec::new();
    for project in projects {
        exports.extend(load_project(&mut transaction, *project, &[], version == latest()).await?);
    }
    let pauses = pauses(&mut transaction).await?;
    Ok((version, Seen { exports, pauses }))
}
