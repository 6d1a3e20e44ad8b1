//! The sink in a local directory.

mod adopt;
mod commit;
mod digest;
mod directory;
mod error;
mod failed;
mod marker;
mod part_writer;
mod port;
mod seal;
#[cfg(test)]
mod tests;

pub use commit::FinishedPart;
pub use digest::{Digests, Mismatch};
pub use directory::{LocalSink, Opened, SinkSettings};
pub use error::SinkError;
pub use marker::{MARKER_FILE, MarkerId, MarkerIdError};
pub use part_writer::PartWriter;
#[cfg(any(test, fuzzing))]
pub(crate) use {adopt::is_working_name, directory::working_name};
