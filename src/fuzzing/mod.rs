//! What is fuzzed: each target takes bytes from outside to the code that reads them, and holds what
//! comes out to its rules.
//!
//! The same functions run under `cargo fuzz` (`fuzz/fuzz_targets`, one line each) and, over the
//! committed inputs, in the ordinary tests (`replay`). This module is not part of the program: it
//! exists in tests and where `cfg(fuzzing)` is set. Inputs are texts of lines wherever the code
//! under test does not say otherwise, so that a seed can be written by hand.

mod configuration;
mod content_range;
mod location;
mod manifest;
#[cfg(test)]
mod replay;
mod retry_after;
mod state_rows;
mod view_answer;
mod world;

pub use configuration::configuration;
pub use content_range::content_range;
pub use location::location;
pub use manifest::manifest;
pub use retry_after::retry_after;
pub use state_rows::state_rows;
pub use view_answer::view_answer;

use std::path::{Component, Path};

/// A name that stays in its folder, whatever the folder is.
fn is_safe_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single =
        matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    single && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

/// A line as a number, where it is one.
fn number<T: std::str::FromStr>(line: Option<&str>) -> Option<T> {
    line?.trim().parse().ok()
}
