//! Where bytes go: a local directory.

pub mod local;
