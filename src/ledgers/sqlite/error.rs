//! Why the state cannot be opened, read or written, and what is to be done about it.

use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;

use crate::durable::DurableError;

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`, <https://www.sqlite.org/rescode.html>: the low byte of an
/// extended code.
const DAMAGE_CODES: [i32; 2] = [11, 26];

/// The state failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state's folder or file cannot be made or looked at.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// Another thing than a file has the database's name.
    #[error("{} is not a regular file: move it away, or choose another state directory", .path.display())]
    NotAFile {
        /// The database.
        path: PathBuf,
    },
    /// The database is damaged. Nothing was changed in it.
    #[error(
        "{} is damaged ({cause}): move it and its -wal and -shm files away and start again, \
         the state is then rebuilt from the manifests on disk",
        .path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// A later version of this program has been here.
    #[error(
        "{} was written by a newer version (schema {found}, this one knows {known}): run that version, \
         or restore the state from before the upgrade",
        .path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The schema it has.
        found: i64,
        /// The latest schema this version knows.
        known: i64,
    },
    /// The database refused, for now.
    #[error("cannot {operation} the state {}: {cause}", .path.display())]
    Database {
        /// What was being done.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What it said.
        cause: String,
    },
}

impl StoreError {
    pub(super) fn database(operation: &'static str, path: &Path, error: &sqlx::Error) -> Self {
        let (path, cause) = (path.to_owned(), error.to_string());
        let damaged = match error {
            sqlx::Error::Database(error) => error
                .code()
                .and_then(|code| code.parse::<i32>().ok())
                .is_some_and(|code| DAMAGE_CODES.contains(&(code & 0xff))),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => true,
            _ => false,
        };
        if damaged {
            Self::Corrupt { path, cause }
        } else {
            Self::Database { operation, path, cause }
        }
    }

    pub(super) fn migration(path: &Path, known: i64, error: &MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(found) => {
                Self::Newer { path: path.to_owned(), found: *found, known }
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Self::database("migrate", path, error)
            }
            // Someone has changed the record of what was applied.
            MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => {
                Self::Corrupt { path: path.to_owned(), cause: error.to_string() }
            }
            error => Self::Database {
                operation: "migrate",
                path: path.to_owned(),
                cause: error.to_string(),
            },
        }
    }
}
