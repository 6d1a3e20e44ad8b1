//! The Batch API and nothing else: what is asked, with which credentials, and what the answers mean.

mod client;
mod error;
mod link;
mod wire;

pub use client::{Api, ApiClient, ApiSettings, KeyError, ProbeOutcome};
pub use link::LinkOutcome;
