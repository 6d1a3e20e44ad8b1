//! The only place that creates working files, renames and fsyncs: a file becomes visible whole and durable, or not at all.
//!
//! The order is held by types: a [`Partial`] can be written, [`Partial::sync`] turns it into a [`Synced`], only that can be
//! given its final name and becomes a [`Named`], and only a group of those is committed, with one sync of their directory. An fsync that fails is never repeated on the same file: after it the kernel may
//! call lost pages clean, so the partial is thrown away. Everything blocks; call it from a worker thread.
//!
//! Every name is resolved against an open directory, and symbolic links are not followed below the directory that the
//! operator named.

mod directory;
mod error;
mod partial;
mod publish;

pub use directory::{Dir, Entry, Identity};
pub use error::{DurableError, ErrorClass};
pub use partial::{CommitFailure, DataSync, Named, Partial, Synced};
pub use publish::{NoOverwrite, probe_unnamed};

/// Mode of every file: the owner alone.
const FILE_MODE: u32 = 0o600;
/// Mode of every directory: the owner alone.
const DIRECTORY_MODE: u32 = 0o700;
