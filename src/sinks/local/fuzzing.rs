//! The doors through which `crate::fuzzing` reaches what is private here.

use super::{adopt, directory};

/// The name of the working file of `final_name`.
pub(crate) fn working_name(final_name: &str) -> String {
    directory::working_name(final_name)
}

/// Whether a file by this name is removed as a leftover of ours.
pub(crate) fn is_working_name(name: &str) -> bool {
    adopt::is_working_name(name)
}
