//! Floor 4, the status document: the status of everything, from the running daemon or from the
//! state, as JSON and as text.

mod document;
mod recorded;
mod table;
mod text;

pub use document::{Document, Stamped};
pub use recorded::recorded;
pub use table::{Look, table};
