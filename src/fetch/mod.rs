//! The store client: fetches bodies from signed links, without credentials and default headers.
//! Shows only the host of a link.
//!
//! `hop` judges every hop before a request is sent, `resolver` every resolved address,
//! [`crate::domain::resume`] the answer's head, and `body` the bytes.

mod answer;
mod bandwidth;
mod body;
mod connector;
mod hop;
mod pace;
mod pool;
mod resolver;
mod store;
mod wire;

pub use body::{Body, BodyError, Opening};
#[cfg(any(test, fuzzing))]
pub(crate) use hop::HopRules;
pub use store::{FetchRefusal, StoreClient, StorePolicy};
