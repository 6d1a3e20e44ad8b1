//! What whoever asks and the service manager are told: how the work stands, and that the loop is
//! alive.

use std::collections::HashSet;
use std::time::Duration;

use super::{Scheduler, Timer};
use crate::domain::gate::Gate;
use crate::domain::watch::WatchState;
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
        if let Some(interval) = self.service.watchdog {
            service::alive();
            self.timers.set(Timer::Watchdog, self.now().saturating_add(interval));
        }
    }

    /// Tells the service manager how the work stands, now and then.
    pub(super) fn report(&mut self) {
        let now = self.now();
        if self.service.listens && now >= self.service.next {
            self.tell_status();
        }
    }

    /// The same at once.
    pub(super) fn tell_status(&mut self) {
        if !self.service.listens {
            return;
        }
        let now = self.now();
        self.service.next = now.saturating_add(STATUS_INTERVAL);
        self.timers.set(Timer::Status, now.saturating_add(STATUS_AGE));
        let sentence = self.standing().to_string();
        if sentence != self.service.told {
            service::status(&sentence);
            self.service.told = sentence;
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let now = self.now();
        let (mut whole, mut failed) = (0, 0);
        for entry in self.entries.values() {
            match entry.watch.state() {
                WatchState::Completed { .. } => whole += 1,
                WatchState::Failed { .. } => failed += 1,
                _ => {}
            }
        }
        let parts =
            self.downloads.names().chain(self.syncs.names()).chain(self.groups.names().flatten());
        let downloading: HashSet<usize> =
            parts.chain(self.commits.ready()).map(|(entry, _)| *entry).collect();
        let next_poll = self.timers.iter().find(|(_, timer)| matches!(timer, Timer::View(_)));
        Standing {
            watching: self.entries.len() - whole - failed,
            downloading: downloading.len(),
            whole,
            failed,
            polling: !self.polls.is_empty(),
            next_poll: next_poll.map(|(at, _)| at.saturating_sub(now)),
            waits: self.waits(now),
            draining: self.draining.is_some(),
            reloads: self.reloads.clone(),
        }
    }

    /// What everything or a project waits for. The most general comes first.
    fn waits(&self, now: Duration) -> Vec<String> {
        let mut waits = Vec::new();
        if self.disk_ill {
            waits.push("downloads wait for the disk".to_owned());
        }
        if self.store_failing {
            waits.push("downloads wait because the state cannot be written".to_owned());
        }
        if let Some(wait) = wait_of(&self.origin, now) {
            waits.push(format!("the api is unavailable, {wait}"));
        }
        for project in self.projects.values() {
            let gates = [
                (&project.key, "its rest api key is refused"),
                (&project.rejection, "its requests are refused"),
                (&project.throttle, "the api asks for fewer requests"),
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
