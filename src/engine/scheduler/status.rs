//! What whoever asks and the service manager are told: how the work stands, and that the loop is
//! alive.

use std::collections::HashSet;
use std::time::Duration;

use super::{Scheduler, Timer};
use crate::domain::gate::Gate;
use crate::engine::standing::{Standing, rounded};
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

    pub(super) fn standing(&self) -> Standing {
        let now = self.clock.now();
        let counts = self.fleet.counts();
        let downloading: HashSet<_> = self.transfers.exports().collect();
        Standing {
            watching: counts.exports - counts.whole - counts.failed,
            downloading: downloading.len(),
            whole: counts.whole,
            failed: counts.failed,
            polling: self.polls.under_way() > 0,
            next_poll: self.polls.next_due().map(|at| at.saturating_sub(now)),
            waits: self.waits(now),
            draining: self.draining.is_some(),
            reloads: self.audience.reloads.clone(),
        }
    }

    /// What everything or a project waits for. The most general comes first.
    fn waits(&self, now: Duration) -> Vec<String> {
        let mut waits = Vec::new();
        if self.folders.disk_is_ill() {
            waits.push("downloads wait for the disk".to_owned());
        }
        if self.journal.is_failing() {
            waits.push("downloads wait because the state cannot be written".to_owned());
        }
        if let Some(wait) = wait_of(self.gates.origin(), now) {
            waits.push(format!("the api is unavailable, {wait}"));
        }
        for (id, project) in self.fleet.projects() {
            let of = self.gates.of(id);
            let gates = [
                (&of.key, "its rest api key is refused"),
                (&of.rejection, "its requests are refused"),
                (&of.throttle, "the api asks for fewer requests"),
            ];
            for (gate, reason) in gates {
                if let Some(wait) = wait_of(gate, now) {
                    waits.push(format!("project {}: {reason}, {wait}", project.name));
                }
            }
        }
        waits
    }
}

fn wait_of(gate: &Gate, now: Duration) -> Option<String> {
    if gate.is_open() {
        return None;
    }
    let left =
        gate.paused_until().map(|until| until.saturating_sub(now)).filter(|left| !left.is_zero());
    Some(left.map_or("asking now".to_owned(), |left| format!("next try in {}", rounded(left))))
}
