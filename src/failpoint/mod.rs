//! Points at which a debug build can be told to die or to get an error from the disk, so that tests
//! can show that nothing is lost. In a release build the functions are empty.
//!
//! A point is an operation on a subject, such as `part.sync`: every system call of `durable` is
//! one, and so are other steps, such as the records of the state. An environment variable holds the
//! rules; `armed` describes them.

#[cfg(debug_assertions)]
mod armed;

use rustix::io::Errno;

/// Called before an operation on the file with this name.
#[inline]
pub(crate) fn before(operation: &'static str, name: &str) -> Result<(), Errno> {
    #[cfg(debug_assertions)]
    if let Some(errno) = armed::due(operation, name, false) {
        return Err(errno);
    }
    let _ = (operation, name);
    Ok(())
}

#[inline]
pub(crate) fn after(operation: &'static str, name: &str) {
    #[cfg(debug_assertions)]
    armed::due(operation, name, true);
    let _ = (operation, name);
}

#[inline]
pub(crate) fn pass(operation: &'static str, name: &str) {
    #[cfg(debug_assertions)]
    armed::due(operation, name, false);
    let _ = (operation, name);
}
