//! The store client: fetches bodies from signed links, without credentials and default headers.
//!
//! `hop` judges every hop before a request is sent, `resolver` every resolved address,
//! [`crate::domain::resume`] the answer's head, and `body` the bytes. Under a `bandwidth` cap the
//! body pays for them. Of a link only the host is shown.

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
