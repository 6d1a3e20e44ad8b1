//! What is known across restarts: SQLite.

pub mod sqlite;
