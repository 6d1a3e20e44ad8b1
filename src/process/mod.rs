//! Floor 2, the process and its environment: locks, signals, the service manager, logs, runtimes,
//! limits, umask and core dumps.

mod intake;
pub mod journal;
pub mod limits;
pub mod lock;
pub mod runtimes;
pub mod service;
pub mod signals;
pub mod telemetry;
mod text_fields;
pub mod umask;
