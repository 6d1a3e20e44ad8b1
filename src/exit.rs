//! The exit codes. Users and service managers rely on them.

/// Drained after a signal, or settled with every export whole.
pub const DONE: u8 = 0;
/// Settled with at least one failed export.
pub const EXPORTS_FAILED: u8 = 1;
/// Of `status --check`: no daemon answers.
pub const UNHEALTHY: u8 = 1;
pub const USAGE: u8 = 2;
/// A fault of this program or of the machine (`EX_SOFTWARE` of sysexits.h).
pub const INTERNAL: u8 = 70;
/// Try again later (`EX_TEMPFAIL`): a second signal, a drain over its grace, the deadline, or
/// another instance that runs.
pub const UNFINISHED: u8 = 75;
/// Settled, but the API refuses the credentials of a project (`EX_NOPERM`).
pub const CREDENTIALS_REFUSED: u8 = 77;
/// The configuration is wrong (`EX_CONFIG`).
pub const CONFIGURATION: u8 = 78;
