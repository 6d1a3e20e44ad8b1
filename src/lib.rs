//! batch-export-watcher.
pub mod api;
pub mod config;
pub mod domain;
pub mod fetch;
pub mod transport;
