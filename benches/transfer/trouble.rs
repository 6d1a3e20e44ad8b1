//! Why the benchmark has no result.

use std::io;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    /// A run that cannot be counted: a tool is missing, failed, was too slow, or downloaded other
    /// bytes.
    #[error("{0}")]
    Wrong(String),
    #[error("stopped by a signal")]
    Stopped,
}

/// Says what was tried when it failed.
pub(crate) trait Doing<T> {
    /// Adds the words; they read well in front of a colon.
    fn doing(self, words: impl FnOnce() -> String) -> Result<T, Trouble>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, words: impl FnOnce() -> String) -> Result<T, Trouble> {
        self.map_err(|error| Trouble::Io { doing: words(), source: error.into() })
    }
}
