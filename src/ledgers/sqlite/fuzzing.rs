//! A state in memory, into which `crate::fuzzing` puts rows that this program never writes.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, QueryBuilder, Sqlite, SqliteConnection};

use super::SqliteLedger;
use crate::ports::LedgerFault;

/// Renames a table: from then on a transaction that needs it fails.
#[cfg(test)]
pub(crate) async fn rename_table(directory: &std::path::Path, from: &str, to: &str) {
    let mut ledger = SqliteLedger::beside(directory);
    let statement = sqlx::AssertSqlSafe(format!("ALTER TABLE {from} RENAME TO {to}"));
    sqlx::query(statement).execute(ledger.connection().await.unwrap()).await.unwrap();
    ledger.disconnect().await;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

/// A state that is gone with its last connection, which is `writer`.
pub(crate) struct Memory {
    pub(crate) ledger: SqliteLedger,
    writer: SqliteConnection,
}

impl Memory {
    pub(crate) async fn new() -> Result<Self, LedgerFault> {
        let options: SqliteConnectOptions = "sqlite::memory:".parse().expect("sqlx knows the word");
        let options = options.disable_statement_logging();
        let mut ledger = SqliteLedger {
            path: "memory".into(),
            options: options.clone().foreign_keys(true),
            connection: None,
        };
        let connected =
            options.foreign_keys(false).pragma("ignore_check_constraints", "1").connect().await;
        let writer = connected.map_err(|error| ledger.failed("open", &error))?;
        ledger.migrate().await?;
        Ok(Self { ledger, writer })
    }

    pub(crate) async fn clear(&mut self) -> Result<(), sqlx::Error> {
        let statement =
            "DELETE FROM partial; DELETE FROM part; DELETE FROM export; DELETE FROM pause";
        sqlx::raw_sql(statement).execute(&mut self.writer).await.map(drop)
    }

    /// Puts a row into a table; whether it was taken.
    pub(crate) async fn insert(&mut self, table: &'static str, values: &[Value]) -> bool {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO ");
        insert.push(table).push(" VALUES (");
        let mut list = insert.separated(", ");
        for value in values {
            match value {
                Value::Null => list.push_bind(Option::<String>::None),
                Value::Integer(number) => list.push_bind(*number),
                Value::Text(text) => list.push_bind(text.clone()),
                Value::Blob(bytes) => list.push_bind(bytes.clone()),
            };
        }
        insert.push(")");
        insert.build().execute(&mut self.writer).await.is_ok()
    }
}
