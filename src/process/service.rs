//! Messages to the service manager (sd_notify(3)). Without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Work has begun: lock, state and directories are ready, and the sockets answer.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is being read again, until [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(
            event = "clock_unreadable", cause = %error, "cannot read the monotonic clock: {error}"
        ),
    }
}

/// The start still waits for something. The service manager is not to give up before the next time
/// that this is said.
pub fn waiting(sentence: &str, at_most: Duration) {
    status(sentence);
    let usec = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

pub fn status(sentence: &str) {
    // A newline would begin another assignment.
    let line: String = sentence.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    notify(&[NotifyState::Status(&line)]);
}

/// The loop that does the work is alive.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How often [`alive`] must be called: half the timeout of the watchdog (sd_watchdog_enabled(3)).
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(
            event = "service_manager_unreachable", cause = %error,
            "cannot notify the service manager: {error}"
        );
    }
}
