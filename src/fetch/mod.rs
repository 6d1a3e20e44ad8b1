//! The other client: fetches bodies from signed links, with no credentials and no default headers
//! of its own.
//!
//! Every hop is judged by `hop` before it is asked, every resolved address by `resolver`, the
//! answer's head by [`crate::domain::resume`], and the bytes by `body`, which pays for them where
//! `bandwidth` is capped. What is shown of a link is its host.

mod answer;
mod bandwidth;
mod body;
mod connector;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hop;
mod pace;
mod pool;
mod resolver;
mod store;
mod wire;

pub use body::{Body, BodyError, Opening};
pub use store::{FetchRefusal, StoreClient, StorePolicy};
