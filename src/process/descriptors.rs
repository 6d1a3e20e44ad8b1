//! Open files: as many as the service manager or the shell allows at all.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one. Each part in flight takes two, a connection
/// and a file, and the usual soft limit of 1024 is there for programs that use `select(2)`, which
/// cannot name more; this one uses epoll.
///
/// # Errors
/// When the kernel refuses; the limit is as it was.
pub fn raise_limit() -> std::io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// How many files this process may have open; `None` without a limit.
#[must_use]
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
