//! Floor 4, the status document: the status of everything, from the running daemon or from the
//! state, as JSON and as text.
//!
//! - `document.rs` the document, and how it is made from the engine's read model
//! - `recorded.rs` the document while no daemon runs
//! - `table.rs` the document as text
//! - `text.rs` text that fits a number of columns

mod document;
mod recorded;
mod table;
mod text;

pub use document::{Document, Stamped};
pub use recorded::recorded;
pub use table::{Look, table};
