//! What the service manager is told: how the work stands, and that the loop is alive.

use std::time::Duration;

use super::{Scheduler, Timer};
use crate::process::service;

/// Shortest time between two sentences for the service manager.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How old a sentence may be: it says how long until the next poll.
const STATUS_AGE: Duration = Duration::from_secs(5);

/// The service manager, and what it was told last.
#[derive(Debug)]
pub(super) struct Service {
    listens: bool,
    /// How often it wants to hear that the loop is alive.
    watchdog: Option<Duration>,
    told: String,
    next: Duration,
}

impl Service {
    pub(super) fn from_environment() -> Self {
        let (listens, watchdog) = (service::listens(), service::watchdog_interval());
        Self { listens, watchdog, told: String::new(), next: Duration::ZERO }
    }
}

impl Scheduler {
    /// Tells the service manager that this loop runs, and will do so again.
    pub(super) fn feed_watchdog(&mut self) {
        if let Some(interval) = self.audience.service.watchdog {
            service::alive();
            self.timers.set(Timer::Watchdog, self.clock.now().saturating_add(interval));
        }
    }

    /// Tells the service manager how the work stands, now and then.
    pub(super) fn report(&mut self) {
        let now = self.clock.now();
        if self.audience.service.listens && now >= self.audience.service.next {
            self.tell_status();
        }
    }

    /// The same at once.
    pub(super) fn tell_status(&mut self) {
        if !self.audience.service.listens {
            return;
        }
        let now = self.clock.now();
        self.audience.service.next = now.saturating_add(STATUS_INTERVAL);
        self.timers.set(Timer::Status, now.saturating_add(STATUS_AGE));
        let sentence = self.standing().to_string();
        if sentence != self.audience.service.told {
            service::status(&sentence);
            self.audience.service.told = sentence;
        }
    }
}
