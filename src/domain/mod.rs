//! The pure core: exports, parts, failures, and the decisions about them. Nothing here does I/O,
//! reads a clock or rolls dice: time and jitter come in as arguments, decisions go out as values.

pub mod bandwidth;
pub mod cadence;
pub mod capacity;
pub mod checksum;
pub mod crowd;
pub mod digest;
pub mod failure;
pub mod gate;
pub mod ids;
pub mod manifest;
pub mod modes;
pub mod moment;
pub mod pace;
pub mod part;
pub mod rate;
pub mod report;
pub mod resume;
pub mod retry;
pub mod stage;
pub mod text;
pub mod wait;
pub mod watch;
