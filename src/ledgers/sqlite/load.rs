//! Rows as records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::str::FromStr;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::domain::checksum::{Check, PromisedChecksum};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{ExportId, ExportKey, ProjectDigest};
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::report::RemoteStatus;
use crate::domain::resume::{ResumablePart, ResumePoint, StrongEtag};
use crate::domain::stage::PauseScope;
use crate::ports::{ExportRecord, RecordedState};

const MAX_IDS: usize = 64;

pub(super) async fn all(
    connection: &mut SqliteConnection,
    projects: &[ProjectDigest],
) -> Result<Vec<ExportRecord>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut records = Vec::new();
    for project in projects {
        records.extend(load_project(&mut transaction, *project, &[], true).await?);
    }
    transaction.commit().await?;
    Ok(records)
}

pub(super) async fn find(
    on: &mut SqliteConnection,
    exports: &BTreeSet<ExportId>,
    only_failed: bool,
) -> Result<Vec<ExportKey>, sqlx::Error> {
    let query = match only_failed {
        true => "SELECT project, export_id FROM export WHERE state = 'failed' ORDER BY export_id",
        false => "SELECT project, export_id FROM export ORDER BY export_id",
    };
    let mut keys = Vec::new();
    for row in sqlx::query(query).fetch_all(on).await? {
        let export = parsed(&row, "export_id")?;
        if exports.contains(&export) {
            keys.push(ExportKey { project: parsed(&row, "project")?, export });
        }
    }
    Ok(keys)
}

pub(super) async fn unrecovered(
    on: &mut SqliteConnection,
    projects: &[ProjectDigest],
) -> Result<Vec<ProjectDigest>, sqlx::Error> {
    let known: Vec<String> =
        sqlx::query_scalar("SELECT project FROM project").fetch_all(on).await?;
    let is_unknown = |project: &&ProjectDigest| !known.contains(&project.to_string());
    Ok(projects.iter().filter(is_unknown).copied().collect())
}

pub(super) async fn sink_identity(
    on: &mut SqliteConnection,
    place: &str,
) -> Result<Option<String>, sqlx::Error> {
    let query = sqlx::query_scalar("SELECT marker FROM marker WHERE directory = $1");
    query.bind(place).fetch_optional(on).await
}

pub(super) async fn pauses(
    on: &mut SqliteConnection,
) -> Result<HashMap<PauseScope, Timestamp>, sqlx::Error> {
    let rows =
        sqlx::query("SELECT scope, until_at FROM pause ORDER BY scope").fetch_all(on).await?;
    rows.iter().map(|row| Ok((parsed(row, "scope")?, parsed(row, "until_at")?))).collect()
}

/// By a few statements with 1, 2, 4 … 64 IDs each.
pub(super) async fn some(
    connection: &mut SqliteConnection,
    project: ProjectDigest,
    exports: &[&ExportId],
) -> Result<Vec<ExportRecord>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut records = Vec::new();
    let mut left = exports;
    while !left.is_empty() {
        let (some, rest) = left.split_at(1 << left.len().min(MAX_IDS).ilog2());
        records.extend(load_project(&mut transaction, project, some, true).await?);
        left = rest;
    }
    transaction.commit().await?;
    Ok(records)
}

/// The rows of a table that belong to these exports of a project, or to all if none is named.
async fn rows_of(
    on: &mut SqliteConnection,
    table: &str,
    order: &str,
    digest: &str,
    only: &[&ExportId],
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM ");
    query.push(table).push(" WHERE project = ").push_bind(digest);
    if !only.is_empty() {
        query.push(" AND export_id IN (");
        let mut ids = query.separated(", ");
        for export in only {
            ids.push_bind(export.as_str());
        }
        query.push(")");
    }
    query.push(order).build().fetch_all(on).await
}

/// What is known of these exports of one project, or of all of them if none is named.
pub(super) async fn load_project(
    on: &mut SqliteConnection,
    project: ProjectDigest,
    only: &[&ExportId],
    with_partials: bool,
) -> Result<Vec<ExportRecord>, sqlx::Error> {
    const IN_PART_ORDER: &str = " ORDER BY export_id, number, file_id";
    let digest = project.to_string();
    let mut exports: BTreeMap<String, ExportRecord> = BTreeMap::new();
    for row in &rows_of(on, "export", "", &digest, only).await? {
        let export: ExportId = parsed(row, "export_id")?;
        let status: Option<String> = row.try_get("remote_status")?;
        let record = ExportRecord {
            key: ExportKey { project, export },
            remote_status: status.as_deref().map(RemoteStatus::parse),
            state: state(row)?,
            parts: Vec::new(),
            partials: Vec::new(),
        };
        exports.insert(record.key.export.to_string(), record);
    }
    for row in &rows_of(on, "part", IN_PART_ORDER, &digest, only).await? {
        if let Some(record) = exports.get_mut(row.try_get::<&str, _>("export_id")?) {
            record.parts.push(part(row)?);
        }
    }
    if with_partials {
        for row in &rows_of(on, "partial", IN_PART_ORDER, &digest, only).await? {
            if let Some(record) = exports.get_mut(row.try_get::<&str, _>("export_id")?) {
                record.partials.push(partial(row)?);
            }
        }
    }
    Ok(exports.into_values().collect())
}

fn state(row: &SqliteRow) -> Result<RecordedState, sqlx::Error> {
    match row.try_get("state")? {
        "watching" => Ok(RecordedState::Watching),
        "sealing" => Ok(RecordedState::Sealing { manifest: row.try_get("manifest")? }),
        "completed" => Ok(RecordedState::Completed {
            parts: unsigned(row, "parts")?,
            bytes: unsigned(row, "bytes")?,
            at: parsed(row, "completed_at")?,
        }),
        "failed" => Ok(RecordedState::Failed(Failure {
            kind: FailureKind::parse(row.try_get("failure_kind")?)
                .ok_or_else(|| damaged("failure_kind", "an unknown word"))?,
            cause: row.try_get("failure_cause")?,
            error_code: row.try_get("failure_code")?,
            at: parsed(row, "failed_at")?,
        })),
        _ => Err(damaged("state", "an unknown word")),
    }
}

fn part(row: &SqliteRow) -> Result<CommittedPart, sqlx::Error> {
    let declared: Option<i64> = row.try_get("declared_bytes")?;
    let checks: &str = row.try_get("verified_by")?;
    let verified_by: Vec<Check> =
        serde_json::from_str(checks).map_err(|error| damaged("verified_by", error))?;
    Ok(CommittedPart {
        key: key(row)?,
        bytes: unsigned(row, "bytes")?,
        declared_bytes: declared.map(|_| unsigned(row, "declared_bytes")).transpose()?,
        sha256: sha256(row)?,
        verified_by,
    })
}

fn partial(row: &SqliteRow) -> Result<ResumablePart, sqlx::Error> {
    let etag =
        StrongEtag::parse(row.try_get("etag")?).ok_or_else(|| damaged("etag", "no strong etag"))?;
    let point = ResumePoint {
        bytes: unsigned(row, "bytes")?,
        sha256: sha256(row)?,
        total_bytes: unsigned(row, "total_bytes")?,
        etag,
        promised: promised(row)?,
    };
    Ok(ResumablePart { key: key(row)?, point })
}

fn promised(row: &SqliteRow) -> Result<Vec<PromisedChecksum>, sqlx::Error> {
    let promised: Vec<PromisedChecksum> = serde_json::from_str(row.try_get("promised")?)
        .map_err(|error| damaged("promised", error))?;
    match promised.iter().all(|of| of.value.len() == of.algorithm.value_bytes()) {
        true => Ok(promised),
        false => Err(damaged("promised", "a checksum of another length")),
    }
}

fn sha256(row: &SqliteRow) -> Result<Sha256, sqlx::Error> {
    Sha256::from_hex(row.try_get("sha256")?).ok_or_else(|| damaged("sha256", "no digest"))
}

fn key(row: &SqliteRow) -> Result<PartKey, sqlx::Error> {
    let number: i64 = row.try_get("number")?;
    Ok(PartKey {
        number: u32::try_from(number).map_err(|error| damaged("number", error))?,
        file_id: parsed(row, "file_id")?,
    })
}

fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|error| damaged(column, error))
}

fn parsed<T: FromStr<Err: Display>>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    row.try_get::<&str, _>(column)?.parse().map_err(|error| damaged(column, error))
}

fn damaged(column: &str, found: impl Display) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column}: {found}").into())
}
