//! Floor 2, the process and its surroundings: locks, signals, the service manager, logs, runtimes,
//! limits, umask, core dumps.

pub mod descriptors;
pub mod hardening;
pub mod journal;
pub mod lock;
pub mod runtimes;
pub mod service;
pub mod signals;
pub mod telemetry;
mod text_fields;
pub mod umask;
