//! Floor 3, the moving parts: one scheduler that owns every watch, and the children that poll, download and tend folders.

mod access;
mod checkpoints;
mod children;
mod chores;
mod downloader;
mod lanes;
mod narrator;
mod part_queue;
pub mod recovery;
mod scheduler;
pub mod snapshot;
mod stream;
mod timers;

pub(crate) use access::Access;
pub use lanes::Lanes;
pub use scheduler::{EngineParts, Outcome, ProjectParts, Scheduler};
