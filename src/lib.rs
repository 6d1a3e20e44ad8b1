//! batch-export-watcher.
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod durable;
pub mod engine;
pub mod exit;
pub mod fetch;
pub mod process;
pub mod simulator;
pub mod sink;
pub mod store;
pub mod transport;
