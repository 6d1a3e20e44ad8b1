//! Core dumps off: the memory holds keys and personal data.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Sets RLIMIT_CORE to zero and PR_SET_DUMPABLE to off, which also keeps other processes of the
/// user from attaching.
///
/// # Errors
/// When the kernel refuses either.
pub fn disable_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
