//! Floor 4, the status document: how everything is, from the running daemon or from what the state
//! has, as JSON and as text.
//!
//! - `document.rs` the document, and how it is made of the engine's read model
//! - `advice.rs` what a person can do about a failure
//! - `recorded.rs` the document where no daemon runs
//! - `table.rs` the document as text
//! - `text.rs` texts of a certain width

mod advice;
mod document;
mod recorded;
mod table;
mod text;

pub use document::{Document, Stamped};
pub use recorded::recorded;
pub use table::{Look, table};
