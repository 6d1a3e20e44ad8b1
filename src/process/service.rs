//! What the service manager is told; without one, nothing happens.

use sd_notify::NotifyState;

/// Work has begun: lock, state and directories are at hand.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The drain has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}
