//! What the service manager is told (sd_notify(3)); without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Work has begun: lock, state and directories are at hand, and who asks is answered.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            tracing::debug!(event = "clock_unreadable", cause = %error, "the clock cannot be read: {error}");
        }
    }
}

/// The drain has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How it is going, in one sentence.
pub fn status(sentence: &str) {
    // A line end would begin another assignment.
    let line: String = sentence.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    notify(&[NotifyState::Status(&line)]);
}

/// The loop that does the work is alive.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// Whether there is a service manager that listens.
#[must_use]
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How often [`alive`] has to be said: half the time after which the service manager gives the
/// process up (sd_watchdog_enabled(3)).
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(event = "service_manager_unreachable", cause = %error, "the service manager could not be told: {error}");
    }
}
