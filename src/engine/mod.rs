//! Floor 3, the moving parts: one scheduler that owns every watch, and the children that poll,
//! download and tend folders.

mod access;
mod children;
mod chores;
pub mod control;
mod ids;
mod narrator;
pub mod overview;
mod part_queue;
pub mod recovery;
mod registry;
mod scheduler;
pub mod snapshot;
pub mod standing;
mod timers;
mod transfers;

pub(crate) use access::Access;
pub use control::Control;
pub use scheduler::{EngineParts, Outcome, ProjectParts, Scheduler};
pub use transfers::Lanes;
