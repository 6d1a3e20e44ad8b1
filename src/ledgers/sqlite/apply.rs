//! Facts as statements.

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Connection, QueryBuilder, Sqlite, SqliteConnection};

use super::to_sql;
use crate::domain::failure::Failure;
use crate::domain::ids::ExportKey;
use crate::domain::part::CommittedPart;
use crate::domain::resume::ResumablePart;
use crate::failpoint;
use crate::ports::{Epoch, Fact};

const MAX_ROWS: usize = 64;
/// Takes the lock before the epoch is read: it cannot change until the transaction ends.
const IMMEDIATE: &str = "BEGIN IMMEDIATE";

/// What the recording of a test is told of a batch: it may be durable from now on, or it is.
#[derive(Debug)]
pub(crate) enum Applying {
    #[cfg_attr(not(test), expect(dead_code, reason = "nobody records but tests"))]
    Begun(Vec<Fact>),
    Durable,
}

async fn holder(on: &mut SqliteConnection) -> Result<Epoch, sqlx::Error> {
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(on).await?;
    let version = u64::try_from(version).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(Epoch(version))
}

pub(super) async fn claim(connection: &mut SqliteConnection) -> Result<Epoch, sqlx::Error> {
    let mut transaction = connection.begin_with(IMMEDIATE).await?;
    let Epoch(earlier) = holder(&mut transaction).await?;
    // The number has 31 bits. Beyond them SQLite would silently start over.
    let next = i32::try_from(earlier + 1).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let claim = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {next}"));
    sqlx::query(claim).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Epoch(earlier + 1))
}

/// Makes a batch durable, all or none. Returns the epoch that may write: if it differs, none is.
pub(super) async fn apply_all(
    connection: &mut SqliteConnection,
    epoch: Epoch,
    batch: &[Fact],
) -> Result<Epoch, sqlx::Error> {
    let mut transaction = connection.begin_with(IMMEDIATE).await?;
    let holder = holder(&mut transaction).await?;
    if holder != epoch {
        transaction.rollback().await?;
        return Ok(holder);
    }
    let mut left = batch;
    while let Some((fact, rest)) = left.split_first() {
        left = rest;
        if let Fact::PartCommitted { export, part } = fact {
            let mut parts = vec![part];
            while let Some((Fact::PartCommitted { export: of, part }, rest)) = left.split_first()
                && of == export
                // A statement cannot insert a row and then update it.
                && parts.iter().all(|earlier| earlier.key != part.key)
            {
                parts.push(part);
                left = rest;
            }
            commit_parts(&mut transaction, export, &parts).await?;
        } else {
            apply(&mut transaction, fact).await?;
        }
    }
    for fact in batch {
        failpoint::before("record", point(fact)).map_err(|errno| sqlx::Error::Io(errno.into()))?;
    }
    transaction.commit().await?;
    for fact in batch {
        failpoint::after("record", point(fact));
    }
    Ok(holder)
}

/// The name of a fact's failpoint.
fn point(fact: &Fact) -> &'static str {
    match fact {
        Fact::StatusSeen { .. } => "record:status",
        Fact::PartCommitted { .. } => "record:part",
        Fact::Sealing { .. } => "record:sealing",
        Fact::Completed { .. } => "record:completed",
        Fact::Failed { .. } => "record:failed",
        Fact::Watching { .. } => "record:watching",
        Fact::PartialSynced { .. } => "record:partial",
        Fact::Paused { .. } | Fact::PauseEnded { .. } => "record:pause",
        Fact::SinkIdentified { .. } => "record:marker",
        Fact::Recovered { .. } => "record:recovered",
        Fact::Forgotten { .. } => "record:forgotten",
    }
}

async fn apply(on: &mut SqliteConnection, fact: &Fact) -> Result<(), sqlx::Error> {
    match fact {
        Fact::StatusSeen { export, status } => {
            ensure(on, export).await?;
            let update =
                "UPDATE export SET remote_status = $3 WHERE project = $1 AND export_id = $2";
            one(on, update, export, &[Some(status.as_str())]).await
        }
        Fact::PartCommitted { export, part } => commit_parts(on, export, &[part]).await,
        Fact::Sealing { export, manifest } => {
            ensure(on, export).await?;
            let update = "UPDATE export SET state = 'sealing', manifest = $3 WHERE project = $1 \
                          AND export_id = $2";
            one(on, update, export, &[Some(manifest)]).await
        }
        Fact::Completed { export, parts, bytes, at } => {
            ensure(on, export).await?;
            let update = "UPDATE export SET state = 'completed', manifest = NULL, parts = $3, \
                          bytes = $4, completed_at = $5, failure_kind = NULL, failure_cause = \
                          NULL, failure_code = NULL, failed_at = NULL WHERE project = $1 AND \
                          export_id = $2";
            let updated = about(update, export).bind(to_sql(*parts)).bind(to_sql(*bytes));
            updated.bind(at.to_string()).execute(&mut *on).await?;
            delete_parts(on, export).await
        }
        Fact::Failed { export, failure } => fail(on, export, failure).await,
        Fact::Watching { export } => {
            ensure(on, export).await?;
            let update = "UPDATE export SET state = 'watching', manifest = NULL, failure_kind = \
                          NULL, failure_cause = NULL, failure_code = NULL, failed_at = NULL WHERE \
                          project = $1 AND export_id = $2";
            one(on, update, export, &[]).await
        }
        Fact::Forgotten { export } => {
            delete_parts(on, export).await?;
            one(on, "DELETE FROM export WHERE project = $1 AND export_id = $2", export, &[]).await
        }
        Fact::PartialSynced { export, part } => keep_partial(on, export, part).await,
        Fact::Paused { scope, until } => {
            let upsert = "INSERT INTO pause (scope, until_at) VALUES ($1, $2) ON CONFLICT (scope) \
                          DO UPDATE SET until_at = excluded.until_at";
            run(on, upsert, &[&scope.to_string(), &until.to_string()]).await
        }
        Fact::PauseEnded { scope } => {
            run(on, "DELETE FROM pause WHERE scope = $1", &[&scope.to_string()]).await
        }
        Fact::SinkIdentified { place, identity } => {
            let upsert = "INSERT INTO marker (directory, marker) VALUES ($1, $2) ON CONFLICT \
                          (directory) DO UPDATE SET marker = excluded.marker";
            run(on, upsert, &[place, identity]).await
        }
        Fact::Recovered { project, at } => {
            let insert = "INSERT INTO project (project, recovered_at) VALUES ($1, $2) ON CONFLICT \
                          (project) DO NOTHING";
            run(on, insert, &[&project.to_string(), &at.to_string()]).await
        }
    }
}

async fn ensure(on: &mut SqliteConnection, export: &ExportKey) -> Result<(), sqlx::Error> {
    let insert = "INSERT INTO export (project, export_id, state) VALUES ($1, $2, 'watching') ON \
                  CONFLICT (project, export_id) DO NOTHING";
    one(on, insert, export, &[]).await
}

/// Parts of one export in a few statements: a statement costs two switches between threads, a row
/// next to nothing. Of 23 parts 16, 4, 2 and 1 share one, so that there are few different
/// statements and each is parsed once.
async fn commit_parts(
    on: &mut SqliteConnection,
    export: &ExportKey,
    parts: &[&CommittedPart],
) -> Result<(), sqlx::Error> {
    ensure(on, export).await?;
    let mut left = parts;
    while !left.is_empty() {
        let (rows, rest) = left.split_at(1 << left.len().min(MAX_ROWS).ilog2());
        insert_parts(on, export, rows).await?;
        left = rest;
    }
    let delete = "DELETE FROM partial WHERE project = $1 AND export_id = $2 AND EXISTS (SELECT 1 \
                  FROM part WHERE part.project = partial.project AND part.export_id = \
                  partial.export_id AND part.number = partial.number AND part.file_id = \
                  partial.file_id)";
    one(on, delete, export, &[]).await
}

async fn insert_parts(
    on: &mut SqliteConnection,
    export: &ExportKey,
    parts: &[&CommittedPart],
) -> Result<(), sqlx::Error> {
    let project = export.project.to_string();
    let mut checks = Vec::with_capacity(parts.len());
    for part in parts {
        let words = serde_json::to_string(&part.verified_by);
        checks.push(words.map_err(|error| sqlx::Error::Encode(error.into()))?);
    }
    let mut upsert = QueryBuilder::<Sqlite>::new(
        "INSERT INTO part (project, export_id, number, file_id, bytes, declared_bytes, sha256, \
         verified_by) ",
    );
    upsert.push_values(parts.iter().zip(checks), |mut row, (part, verified_by)| {
        row.push_bind(project.as_str())
            .push_bind(export.export.as_str())
            .push_bind(i64::from(part.key.number))
            .push_bind(part.key.file_id.as_str())
            .push_bind(to_sql(part.bytes))
            .push_bind(part.declared_bytes.map(to_sql))
            .push_bind(part.sha256.to_string())
            .push_bind(verified_by);
    });
    upsert.push(
        " ON CONFLICT (project, export_id, number, file_id) DO UPDATE SET bytes = excluded.bytes, \
         declared_bytes = excluded.declared_bytes, sha256 = excluded.sha256, verified_by = \
         excluded.verified_by",
    );
    upsert.build().execute(on).await.map(drop)
}

async fn delete_parts(on: &mut SqliteConnection, export: &ExportKey) -> Result<(), sqlx::Error> {
    one(on, "DELETE FROM part WHERE project = $1 AND export_id = $2", export, &[]).await?;
    one(on, "DELETE FROM partial WHERE project = $1 AND export_id = $2", export, &[]).await
}

async fn fail(
    on: &mut SqliteConnection,
    export: &ExportKey,
    failure: &Failure,
) -> Result<(), sqlx::Error> {
    ensure(on, export).await?;
    let update = "UPDATE export SET state = 'failed', manifest = NULL, failure_kind = $3, \
                  failure_cause = $4, failure_code = $5, failed_at = $6 WHERE project = $1 AND \
                  export_id = $2";
    let (kind, cause, code) = (failure.kind.as_str(), &failure.cause, &failure.error_code);
    let at = failure.at.to_string();
    one(on, update, export, &[Some(kind), Some(cause), code.as_deref(), Some(&at)]).await
}

async fn keep_partial(
    on: &mut SqliteConnection,
    export: &ExportKey,
    part: &ResumablePart,
) -> Result<(), sqlx::Error> {
    ensure(on, export).await?;
    let upsert = "INSERT INTO partial (project, export_id, number, file_id, bytes, sha256, \
                  total_bytes, etag, promised) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON \
                  CONFLICT (project, export_id, number, file_id) DO UPDATE SET bytes = \
                  excluded.bytes, sha256 = excluded.sha256, total_bytes = excluded.total_bytes, \
                  etag = excluded.etag, promised = excluded.promised";
    let promised = serde_json::to_string(&part.point.promised);
    let promised = promised.map_err(|error| sqlx::Error::Encode(error.into()))?;
    let inserted = about(upsert, export)
        .bind(i64::from(part.key.number))
        .bind(part.key.file_id.as_str())
        .bind(to_sql(part.point.bytes))
        .bind(part.point.sha256.to_string())
        .bind(to_sql(part.point.total_bytes))
        .bind(part.point.etag.as_str())
        .bind(promised);
    inserted.execute(on).await.map(drop)
}

/// A statement about one export: `$1` is its project, `$2` its ID.
fn about<'a>(statement: &'static str, export: &'a ExportKey) -> Query<'a, Sqlite, SqliteArguments> {
    sqlx::query(statement).bind(export.project.to_string()).bind(export.export.as_str())
}

/// As [`about`], then the given texts.
async fn one(
    on: &mut SqliteConnection,
    statement: &'static str,
    export: &ExportKey,
    texts: &[Option<&str>],
) -> Result<(), sqlx::Error> {
    let query = texts.iter().fold(about(statement, export), |query, text| query.bind(*text));
    query.execute(on).await.map(drop)
}

async fn run(
    on: &mut SqliteConnection,
    statement: &'static str,
    texts: &[&str],
) -> Result<(), sqlx::Error> {
    let query = texts.iter().fold(sqlx::query(statement), |query, text| query.bind(*text));
    query.execute(on).await.map(drop)
}
