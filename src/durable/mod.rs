//! The only place that creates working files, renames and syncs: a file becomes visible whole and
//! durable, or not at all.
//!
//! Types hold the order: a [`Partial`] can be written, [`Partial::sync`] turns it into a
//! [`Synced`], only that can get its final name and becomes a [`Named`], and a group of those is
//! committed with one sync of their directory. A failed fsync is never repeated on the same file:
//! the kernel may then call lost pages clean, so the partial is thrown away. Everything blocks;
//! call it from a worker thread.
//!
//! Every name is resolved against an open directory. Below the directory that the operator named,
//! symbolic links are not followed.
//!
//! Files and folders get exactly the requested mode, whatever the umask. The group, and a folder's
//! setgid bit, come from the kernel, which takes them from a setgid folder above.

mod calls;
mod directory;
mod error;
mod mode;
mod naming;
mod partial;
mod publish;
pub(crate) mod record;

pub use directory::{Dir, Entry, Identity};
pub use error::{DurableError, ErrorClass};
pub use naming::{CommitFailure, Named, Synced};
pub use partial::{DataSync, Partial};
pub use publish::{NoOverwrite, is_probe_name, probe_unnamed};
