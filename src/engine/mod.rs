//! Floor 3, the moving parts: one scheduler that owns every watch, and the children that poll,
//! download and tend folders.

mod access;
mod checkpoints;
mod children;
mod chores;
pub mod control;
mod downloader;
mod ids;
mod lanes;
mod narrator;
pub mod overview;
mod part_queue;
pub mod recovery;
mod registry;
mod scheduler;
pub mod snapshot;
pub mod standing;
mod stream;
mod timers;
mod writer;

pub(crate) use access::Access;
pub use control::Control;
pub use lanes::Lanes;
pub use scheduler::{EngineParts, Outcome, ProjectParts, Scheduler};
pub use writer::{LedgerEvent, Write, run_writer};
