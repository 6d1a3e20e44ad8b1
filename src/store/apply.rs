//! Changes as statements.

use sqlx::{Connection, SqliteConnection};

use super::record::{Change, ExportKey};
use super::{Store, StoreError, to_sql};
use crate::domain::failure::Failure;
use crate::domain::part::CommittedPart;
use crate::domain::resume::ResumablePart;

impl Store {
    /// Makes a batch of changes durable, all or none. Applying a change again changes nothing.
    ///
    /// # Errors
    /// When the database fails; nothing of the batch has happened then.
    pub async fn apply(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        let connection = self.connection().await?;
        let applied = apply_all(connection, batch).await;
        if let Err(error) = applied {
            self.disconnect().await;
            return Err(self.failed("write", &error));
        }
        Ok(())
    }
}

async fn apply_all(connection: &mut SqliteConnection, batch: &[Change]) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    for change in batch {
        apply(&mut transaction, change).await?;
    }
    transaction.commit().await
}

async fn apply(on: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    match change {
        Change::StatusSeen { export, status } => {
            ensure(on, export).await?;
            let update = "UPDATE export SET remote_status = $3 WHERE project = $1 AND export_id = $2";
            one(on, update, export, &[status.as_str()]).await
        }
        Change::PartCommitted { export, part } => commit_part(on, export, part).await,
        Change::Sealing { export, manifest } => {
            ensure(on, export).await?;
            let update =
                "UPDATE export SET state = 'sealing', manifest = $3 WHERE project = $1 AND export_id = $2";
            one(on, update, export, &[manifest]).await
        }
        Change::Completed { export, parts, bytes, at } => {
            complete(on, export, to_sql(*parts), to_sql(*bytes), &at.to_string()).await
        }
        Change::Failed { export, failure } => fail(on, export, failure).await,
        Change::Watching { export } => {
            ensure(on, export).await?;
            let update = "UPDATE export SET state = 'watching', manifest = NULL, failure_kind = NULL, \
                          failure_cause = NULL, failure_code = NULL, failed_at = NULL \
                          WHERE project = $1 AND export_id = $2";
            one(on, update, export, &[]).await
        }
        Change::PartialSynced { export, part } => keep_partial(on, export, part).await,
        Change::Paused { scope, until } => {
            let upsert = "INSERT INTO pause (scope, until_at) VALUES ($1, $2) \
                          ON CONFLICT (scope) DO UPDATE SET until_at = excluded.until_at";
            done(sqlx::query(upsert).bind(scope).bind(until.to_string()).execute(on).await)
        }
        Change::PauseEnded { scope } => {
            done(sqlx::query("DELETE FROM pause WHERE scope = $1").bind(scope).execute(on).await)
        }
        Change::Marker { directory, marker } => {
            let upsert = "INSERT INTO marker (directory, marker) VALUES ($1, $2) \
                          ON CONFLICT (directory) DO UPDATE SET marker = excluded.marker";
            done(sqlx::query(upsert).bind(directory).bind(marker).execute(on).await)
        }
        Change::Recovered { project, at } => {
            let insert = "INSERT INTO project (project, recovered_at) VALUES ($1, $2) \
                          ON CONFLICT (project) DO NOTHING";
            done(sqlx::query(insert).bind(project.to_string()).bind(at.to_string()).execute(on).await)
        }
    }
}

async fn ensure(on: &mut SqliteConnection, export: &ExportKey) -> Result<(), sqlx::Error> {
    let insert = "INSERT INTO export (project, export_id, state) VALUES ($1, $2, 'watching') \
                  ON CONFLICT (project, export_id) DO NOTHING";
    one(on, insert, export, &[]).await
}

async fn commit_part(
    on: &mut SqliteConnection,
    export: &ExportKey,
    part: &CommittedPart,
) -> Result<(), sqlx::Error> {
    ensure(on, export).await?;
    let upsert = "INSERT INTO part \
                  (project, export_id, number, file_id, bytes, declared_bytes, sha256, verified_by) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                  ON CONFLICT (project, export_id, number, file_id) DO UPDATE SET bytes = excluded.bytes, \
                  declared_bytes = excluded.declared_bytes, sha256 = excluded.sha256, \
                  verified_by = excluded.verified_by";
    let verified_by =
        serde_json::to_string(&part.verified_by).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let inserted = sqlx::query(upsert)
        .bind(export.project.to_string())
        .bind(export.export.as_str())
        .bind(i64::from(part.key.number))
        .bind(part.key.file_id.as_str())
        .bind(to_sql(part.bytes))
        .bind(part.declared_bytes.map(to_sql))
        .bind(part.sha256.to_string())
        .bind(verified_by);
    done(inserted.execute(&mut *on).await)?;
    let delete = "DELETE FROM partial \
                  WHERE project = $1 AND export_id = $2 AND number = $3 AND file_id = $4";
    let deleted = sqlx::query(delete)
        .bind(export.project.to_string())
        .bind(export.export.as_str())
        .bind(i64::from(part.key.number))
        .bind(part.key.file_id.as_str());
    done(deleted.execute(on).await)
}

async fn complete(
    on: &mut SqliteConnection,
    export: &ExportKey,
    parts: i64,
    bytes: i64,
    at: &str,
) -> Result<(), sqlx::Error> {
    ensure(on, export).await?;
    let update = "UPDATE export SET state = 'completed', manifest = NULL, parts = $3, bytes = $4, \
                  completed_at = $5, failure_kind = NULL, failure_cause = NULL, failure_code = NULL, \
                  failed_at = NULL WHERE project = $1 AND export_id = $2";
    let updated = sqlx::query(update)
        .bind(export.project.to_string())
        .bind(export.export.as_str())
        .bind(parts)
        .bind(bytes)
        .bind(at);
    done(updated.execute(&mut *on).await)?;
    one(on, "DELETE FROM part WHERE project = $1 AND export_id = $2", export, &[]).await?;
    one(on, "DELETE FROM partial WHERE project = $1 AND export_id = $2", export, &[]).await
}

async fn fail(on: &mut SqliteConnection, export: &ExportKey, failure: &Failure) -> Result<(), sqlx::Error> {
    ensure(on, export).await?;
    let update = "UPDATE export SET state = 'failed', manifest = NULL, failure_kind = $3, failure_cause = $4, \
                  failure_code = $5, failed_at = $6 WHERE project = $1 AND export_id = $2";
    let updated = sqlx::query(update)
        .bind(export.project.to_string())
        .bind(export.export.as_str())
        .bind(failure.kind.as_str())
        .bind(&failure.cause)
        .bind(failure.error_code.as_deref())
        .bind(failure.at.to_string());
    done(updated.execute(on).await)
}

async fn keep_partial(
    on: &mut SqliteConnection,
    export: &ExportKey,
    part: &ResumablePart,
) -> Result<(), sqlx::Error> {
    ensure(on, export).await?;
    let upsert = "INSERT INTO partial (project, export_id, number, file_id, bytes, total_bytes, etag) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7) \
                  ON CONFLICT (project, export_id, number, file_id) DO UPDATE SET bytes = excluded.bytes, \
                  total_bytes = excluded.total_bytes, etag = excluded.etag";
    let inserted = sqlx::query(upsert)
        .bind(export.project.to_string())
        .bind(export.export.as_str())
        .bind(i64::from(part.key.number))
        .bind(part.key.file_id.as_str())
        .bind(to_sql(part.point.bytes))
        .bind(to_sql(part.point.total_bytes))
        .bind(part.point.etag.as_str());
    done(inserted.execute(on).await)
}

/// A statement about one export: `$1` is its project, `$2` its ID, then the given texts.
async fn one(
    on: &mut SqliteConnection,
    statement: &'static str,
    export: &ExportKey,
    texts: &[&str],
) -> Result<(), sqlx::Error> {
    let mut query = sqlx::query(statement).bind(export.project.to_string()).bind(export.export.as_str());
    for text in texts {
        query = query.bind(*text);
    }
    done(query.execute(on).await)
}

fn done<T>(result: Result<T, sqlx::Error>) -> Result<(), sqlx::Error> {
    result.map(drop)
}
