//! Floor 3, the moving parts: one loop (`scheduler`), and the owners that it routes between.
//!
//! | owner | owns |
//! | --- | --- |
//! | `fleet` | projects and exports |
//! | `gates` | what has to wait as a whole |
//! | `polls` | calls about exports |
//! | `transfers` | parts, from the queue to their names |
//! | `folders` | work on folders, the disk's health |
//! | `journal` | writes, until they are durable |
//!
//! `recovery` and `archive` ask and change what earlier runs left; `overview` is what is shown of
//! all this; `control` is how it is asked.

mod access;
pub mod archive;
mod children;
mod chores;
pub mod control;
mod fleet;
mod folders;
mod gates;
mod hush;
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
pub(crate) use folders::DISK_INTERVAL;
pub use scheduler::{EngineParts, Outcome, Scheduler};
pub use transfers::Lanes;
pub use writer::{LedgerEvent, Write, run_writer};
