//! What the integration tests stand on; no test of the program itself.

pub(crate) mod fault_proxy;
pub(crate) mod home;
pub(crate) mod http;
pub(crate) mod process;
mod selftest;

use std::time::Duration;

/// How long a test waits for what has to happen: far more than it takes, so that only a fault gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
