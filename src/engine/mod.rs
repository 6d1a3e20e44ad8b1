//! Floor 3, the moving parts: one scheduler that owns every watch, and the children that poll,
//! download and tend folders.

mod access;
pub mod archive;
mod children;
mod chores;
pub mod control;
mod fleet;
mod folders;
mod gates;
mod ids;
mod journal;
mod narrator;
pub mod overview;
mod polls;
pub mod recovery;
mod scheduler;
mod timers;
mod transfers;
mod turns;
mod writer;

pub(crate) use access::Access;
pub use control::Control;
pub use scheduler::{EngineParts, Outcome, Scheduler};
pub use transfers::Lanes;
pub use writer::{LedgerEvent, Write, run_writer};
