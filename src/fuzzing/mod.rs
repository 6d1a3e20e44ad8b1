//! Fuzz targets: each passes bytes to the code that reads them in production, and checks the rules.
//!
//! The same functions run under `cargo fuzz` (`fuzz/fuzz_targets`, one line each) and, over the
//! committed inputs, in the ordinary tests (`replay`). This module exists only in tests and under
//! `cfg(fuzzing)`. Inputs are lines of text unless the code under test needs another form, so that
//! a seed can be written by hand.

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

/// A line as a number, if it is one.
fn number<T: std::str::FromStr>(line: Option<&str>) -> Option<T> {
    line?.trim().parse().ok()
}
