//! Where the bytes of exports go. A local directory today; an object store would be a second file
//! beside `local`.

mod adopt;
mod commit;
mod digest;
mod error;
mod failed;
mod forget;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod local;
mod marker;
mod part_writer;
mod seal;
#[cfg(test)]
mod tests;

pub use adopt::Prepared;
pub use commit::FinishedPart;
pub use digest::{Digests, Mismatch};
pub use error::{CommitError, SinkError};
pub use local::{LocalSink, Opened, SinkSettings};
pub use marker::{MARKER_FILE, MarkerId, MarkerIdError};
pub use part_writer::{Armed, Checkpoint, PartWriter};
pub use seal::{OnDisk, Recovered, Sealed};
