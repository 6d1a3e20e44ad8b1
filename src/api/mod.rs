//! The Batch API: its calls, their credentials, and what the answers mean.

mod client;
mod error;
mod link;
mod url;
mod wire;

pub use client::{Api, ApiClient, ApiSettings, KeyError, Probe, ProbeOutcome};
pub use link::LinkOutcome;
#[cfg(any(test, fuzzing))]
pub(crate) use {url::ApiUrl, wire::parse_view};
