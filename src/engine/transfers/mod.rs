//! The transfer of one part, from its slot to its last byte.
//!
//! - `attempt` one attempt: asks for links, and decides what is kept of the bytes
//! - `stream` one request to the store, on a lane
//! - `checkpoints` makes the bytes of a large part durable while more arrive
//! - `context` what one attempt works with, and what it tells
//! - `faults` what each error means for the part
//! - `lanes` the runtimes that move bytes
//!
//! A file uses those below it only. What follows the last byte needs neither the network
//! nor a slot (`scheduler/commits.rs`).

mod attempt;
mod checkpoints;
mod context;
mod faults;
mod lanes;
mod stream;

pub(crate) use attempt::fetch_part;
pub(crate) use context::{AttemptContext, News, Progress};
pub(crate) use faults::commit_fault;
pub use lanes::Lanes;
