//! Moments at which a debug build can be told to die, or to be refused by the disk: how the tests
//! find out that nothing is lost. A release build has nothing of it but functions without a body.
//!
//! A point is an operation on a subject, such as `part.sync`: every system call of `durable` is
//! one, and so are the steps that are none, such as the records of the state. What is to happen is
//! said in a variable of the environment; the words are in `armed`.

#[cfg(debug_assertions)]
mod armed;

use rustix::io::Errno;

/// An operation is about to be done on what has this name.
///
/// # Errors
/// The error that it is to fail with instead.
#[inline]
pub(crate) fn before(operation: &'static str, name: &str) -> Result<(), Errno> {
    #[cfg(debug_assertions)]
    armed::before(operation, name)?;
    let _ = (operation, name);
    Ok(())
}

#[inline]
pub(crate) fn after(operation: &'static str, name: &str) {
    #[cfg(debug_assertions)]
    armed::after(operation, name);
    let _ = (operation, name);
}

/// A step that no error can be made of.
#[inline]
pub(crate) fn pass(operation: &'static str, name: &str) {
    #[cfg(debug_assertions)]
    armed::pass(operation, name);
    let _ = (operation, name);
}
