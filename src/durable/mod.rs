//! The only place that creates working files, renames and fsyncs: a file becomes visible whole and
//! durable, or not at all.
//!
//! The order is held by types: a [`Partial`] can be written, [`Partial::sync`] turns it into a
//! [`Synced`], only that can be given its final name and becomes a [`Named`], and only a group of
//! those is committed, with one sync of their directory. An fsync that fails is never repeated on
//! the same file: after it the kernel may call lost pages clean, so the partial is thrown away.
//! Everything blocks; call it from a worker thread.
//!
//! Every name is resolved against an open directory, and symbolic links are not followed below the
//! directory that the operator named.
//!
//! Files and folders get exactly the mode that was asked for, whatever the umask. The group, and a
//! folder's setgid bit, come from the kernel, which takes them from a setgid folder above.

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
