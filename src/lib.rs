//! batch-export-watcher.
pub mod config;
pub mod domain;
