//! What SQLite says, as faults of the port that name the file and say what to do about it.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use sqlx::migrate::MigrateError;

use crate::ports::LedgerFault;

/// Low bytes of `SQLITE_CORRUPT` and `SQLITE_NOTADB`, <https://www.sqlite.org/rescode.html>.
const DAMAGE_CODES: [i32; 2] = [11, 26];

pub(super) fn corrupt(path: &Path, cause: &str) -> LedgerFault {
    LedgerFault::Corrupt(format!(
        "the state {} is damaged ({cause}): move it and its -wal and -shm files away and start \
         again, the state is then rebuilt from the manifests on disk",
        path.display()
    ))
}

pub(super) fn newer(path: &Path, found: i64, known: i64) -> LedgerFault {
    LedgerFault::Newer(format!(
        "the state {} was written by a newer version of this program (schema {found}, this one \
         knows {known}): run that version, or restore the state from before the upgrade",
        path.display()
    ))
}

pub(super) fn unavailable(operation: &str, path: &Path, cause: &dyn Display) -> LedgerFault {
    LedgerFault::Unavailable(format!("cannot {operation} the state {}: {cause}", path.display()))
}

pub(super) fn database(operation: &str, path: &Path, error: &sqlx::Error) -> LedgerFault {
    let damaged = match error {
        sqlx::Error::Database(error) => error
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| DAMAGE_CODES.contains(&(code & 0xff))),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => true,
        _ => false,
    };
    match error {
        _ if damaged => corrupt(path, &error.to_string()),
        // A connection has a thread of its own.
        sqlx::Error::Io(cause) if cause.kind() == ErrorKind::WouldBlock => {
            unavailable(operation, path, &format_args!("no thread can be started: {cause}"))
        }
        _ => unavailable(operation, path, error),
    }
}

pub(super) fn migration(path: &Path, known: i64, error: &MigrateError) -> LedgerFault {
    match error {
        MigrateError::VersionMissing(found) => newer(path, *found, known),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            database("migrate", path, error)
        }
        // Someone has changed the record of what was applied.
        MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => {
            corrupt(path, &error.to_string())
        }
        error => unavailable("migrate", path, error),
    }
}
