//! batch-export-watcher.
pub mod domain;
