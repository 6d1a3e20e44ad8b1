//! What has to wait as a whole: a project's budget, its key, its requests as such, the API origin,
//! a store's host, the disk.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{Call, Probes, Scheduler, Timer};
use crate::domain::cadence::spread;
use crate::domain::failure::Hold;
use crate::domain::gate::{Admission, Gate};
use crate::domain::retry::RETRY_AFTER_CAP;
use crate::domain::stage::PauseScope;
use crate::domain::watch::WatchEvent;
use crate::meters::PauseCause;
use crate::ports::Fact;

/// Why a call may not go out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Look again at this time.
    Until(Duration),
    /// What opens it comes as an event: the end of a probe, or of a look at the disk.
    UntilEvent,
}

impl Scheduler {
    /// Whether a call to the API for this project may go out, and which gates it would probe.
    pub(super) fn api_admission(&self, project: usize, now: Duration) -> Result<Probes, Closed> {
        let gates = &self.projects[project];
        Ok(Probes {
            key: pass(gates.key.admission(now))?,
            throttle: pass(gates.throttle.admission(now))?,
            rejection: pass(gates.rejection.admission(now))?,
            origin: pass(self.origin.admission(now))?,
            ..Probes::default()
        })
    }

    /// The same for a part: its store and the disk have a say, too.
    pub(super) fn part_admission(&self, project: usize, now: Duration) -> Result<Probes, Closed> {
        let mut probes = self.api_admission(project, now)?;
        if !self.disk.is_open() {
            return Err(Closed::UntilEvent);
        }
        if let Some(host) = &self.projects[project].store_host
            && let Some(gate) = self.hosts.get(host)
            && pass(gate.admission(now))?
        {
            probes.host = Some(host.clone());
        }
        Ok(probes)
    }

    /// Remembers which gates a call that goes out now is the probe of.
    pub(super) fn probing(&mut self, call: Call, project: usize, probes: Probes) {
        let project = &mut self.projects[project];
        if probes.key {
            project.key.probe_started();
        }
        if probes.throttle {
            project.throttle.probe_started();
        }
        if probes.rejection {
            project.rejection.probe_started();
        }
        if probes.origin {
            self.origin.probe_started();
        }
        if let Some(gate) = probes.host.as_ref().and_then(|host| self.hosts.get_mut(host)) {
            gate.probe_started();
        }
        self.probes.insert(call, probes);
    }

    /// A call is back, and what it said about the gates has been applied: gates that it was to
    /// probe and said nothing about are probed again, after a wait where it failed.
    pub(super) fn probe_over(&mut self, call: &Call, project: usize, faulted: bool) {
        let Some(probes) = self.probes.remove(call) else { return };
        let now = self.now();
        let (retry, jitter) = (self.policies.retry, Self::jitter());
        let close = |gate: &mut Gate, delay: &dyn Fn(u32) -> Duration| {
            if gate.admission(now) != Admission::WaitForProbe {
                return;
            }
            if faulted {
                gate.refused(now, delay);
            } else {
                gate.probe_abandoned(now);
            }
        };
        let project = &mut self.projects[project];
        if probes.key {
            // What never reached the API says nothing about the key: three refusals in a row have
            // to be the API's own.
            let again = if faulted { spread(retry.max(), jitter) } else { Duration::ZERO };
            project.key.probe_abandoned(now.saturating_add(again));
        }
        if probes.throttle {
            close(&mut project.throttle, &|attempt| retry.delay(attempt, jitter));
        }
        if probes.rejection {
            close(&mut project.rejection, &|_| spread(retry.max(), jitter));
        }
        if probes.origin {
            close(&mut self.origin, &|attempt| retry.delay(attempt, jitter));
        }
        if let Some(gate) = probes.host.as_ref().and_then(|host| self.hosts.get_mut(host)) {
            close(gate, &|attempt| retry.delay(attempt, jitter));
        }
    }

    /// The API answered a call of this project in earnest.
    pub(super) fn api_answered(&mut self, project: usize) {
        let project = &mut self.projects[project];
        if project.key.opened() {
            tracing::info!(event = "key_accepted", project = %project.name, "the rest api key is accepted again");
        }
        if project.throttle.opened() {
            tracing::info!(event = "project_resumed", project = %project.name, "the api takes requests again");
        }
        if self.origin.opened() {
            tracing::info!(event = "api_resumed", "the api is available again");
        }
    }

    /// A store sends bytes.
    pub(super) fn store_answered(&mut self, project: usize, host: String) {
        if let Some(gate) = self.hosts.get_mut(&host)
            && gate.opened()
        {
            tracing::info!(event = "store_resumed", host, "the store takes requests again");
            self.hosts.remove(&host);
        }
        self.projects[project].store_host = Some(host);
    }

    /// Something answered that it has to be left alone for a while.
    pub(super) fn hold(&mut self, project: usize, hold: Hold) {
        let now = self.now();
        let jitter = Self::jitter();
        let retry = self.policies.retry;
        let wait = |retry_after: Option<Duration>| {
            move |n| retry_after.unwrap_or_else(|| retry.delay(n, jitter))
        };
        match hold {
            Hold::Throttled { retry_after } => {
                self.origin.opened();
                let gates = &mut self.projects[project];
                if gates.throttle.refused(now, wait(retry_after)) {
                    self.meters.paused(Some(&gates.name), PauseCause::Throttled);
                    let seconds = seconds_left(&gates.throttle, now);
                    tracing::warn!(event = "project_throttled", project = %gates.name, seconds, "the api asks for fewer requests (429); the project waits");
                }
                if retry_after.is_some() {
                    let (digest, until) = (gates.digest, gates.throttle.paused_until());
                    self.remember_pause(PauseScope::Project(digest), until);
                }
            }
            Hold::Unavailable { retry_after } => {
                if self.origin.refused(now, wait(retry_after)) {
                    self.meters.paused(None, PauseCause::Unavailable);
                    let seconds = seconds_left(&self.origin, now);
                    tracing::warn!(
                        event = "api_unavailable",
                        seconds,
                        "the api is unavailable (503); every project waits"
                    );
                }
                if retry_after.is_some() {
                    self.remember_pause(PauseScope::Origin, self.origin.paused_until());
                }
            }
            Hold::RouteNotFound => {
                if self.origin.refused(now, |n| retry.delay(n, jitter)) {
                    self.meters.paused(None, PauseCause::Unavailable);
                    tracing::error!(
                        event = "route_not_found",
                        "the api does not know the route that was asked for: check base_url in [api]; every project waits"
                    );
                }
            }
            Hold::Unauthorized { status } => {
                self.origin.opened();
                let gates = &mut self.projects[project];
                if gates.key.refused(now, |_| spread(retry.max(), jitter)) {
                    self.meters.paused(Some(&gates.name), PauseCause::Unauthorized);
                    let seconds = seconds_left(&gates.key, now);
                    tracing::error!(event = "key_refused", project = %gates.name, http_status = status, seconds, "the api refuses the rest api key; the project waits, and the key is read again before the next try");
                }
            }
            // The view is asked for anew; what it was the probe of is probed by that.
            Hold::KeyReplaced => {}
            Hold::StoreWaits { host } => self.projects[project].store_host = Some(host),
            Hold::StoreBusy { host, retry_after } => {
                self.forget_idle_hosts();
                let gate = self.hosts.entry(host.clone()).or_default();
                if gate.refused(now, wait(retry_after)) {
                    self.meters.paused(None, PauseCause::StoreBusy);
                    let seconds = seconds_left(gate, now);
                    tracing::warn!(
                        event = "store_throttled",
                        host,
                        seconds,
                        "the store asks for fewer requests; its parts wait"
                    );
                }
                let until = gate.paused_until();
                if retry_after.is_some() {
                    self.remember_pause(PauseScope::Host(host.clone()), until);
                }
                self.projects[project].store_host = Some(host);
            }
            Hold::Disk { .. } => self.doubt_disk(),
        }
    }

    /// Hosts that nobody waits for any more; a server that makes up hosts must not fill the memory.
    fn forget_idle_hosts(&mut self) {
        let now = self.now();
        let Self { hosts, projects, .. } = self;
        hosts.retain(|host, gate| {
            gate.paused_until().is_none_or(|until| until > now)
                || projects.values().any(|project| project.store_host.as_ref() == Some(host))
        });
    }

    /// Every export of a project is refused: that says something about the project.
    pub(super) fn pause_rejected_project(&mut self, project: usize) {
        let (now, jitter, max) = (self.now(), Self::jitter(), self.policies.retry.max());
        let gates = &mut self.projects[project];
        if gates.rejection.refused(now, |_| spread(max, jitter)) {
            self.meters.paused(Some(&gates.name), PauseCause::Rejected);
            tracing::error!(event = "project_rejected", project = %gates.name, "the api refuses the request for every export of the project: check project_key and base_url; the project waits");
        }
    }

    /// The API understands a request of the project: what it refused while it refused every export
    /// is asked anew.
    pub(super) fn request_understood(&mut self, project: usize) {
        let gates = &mut self.projects[project];
        if gates.rejection.refusals() == 0 {
            return;
        }
        if gates.rejection.opened() {
            tracing::info!(event = "project_accepted", project = %gates.name, "the api no longer refuses the request for every export of the project");
        }
        for entry in gates.exports.clone() {
            self.step(entry, WatchEvent::RejectionWithdrawn);
        }
    }

    fn remember_pause(&mut self, scope: PauseScope, until: Option<Duration>) {
        let Some(until) = until else { return };
        let left = until.saturating_sub(self.now());
        let wall = Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX);
        self.write(Fact::Paused { scope, until: wall });
    }

    /// Pauses of an earlier run hold on, cut to one hour.
    pub(super) fn restore_pauses(&mut self, pauses: HashMap<PauseScope, Timestamp>) {
        let (now, wall) = (self.now(), Timestamp::now());
        for (scope, ends) in pauses {
            let left = Duration::try_from(ends.duration_since(wall)).unwrap_or_default();
            if left.is_zero() {
                self.write(Fact::PauseEnded { scope });
                continue;
            }
            let until = now + left.min(RETRY_AFTER_CAP);
            match scope {
                PauseScope::Origin => self.origin.restore(until),
                PauseScope::Project(digest) => {
                    let mut projects = self.projects.values_mut();
                    if let Some(project) = projects.find(|project| project.digest == digest) {
                        project.throttle.restore(until);
                    }
                }
                PauseScope::Host(host) => self.hosts.entry(host).or_default().restore(until),
                PauseScope::Unknown(_) => {}
            }
        }
    }

    /// Wakes the loop when a closed gate may open.
    pub(super) fn look_again(&mut self, closed: Closed) {
        if let Closed::Until(at) = closed
            && self.timers.due_at(&Timer::Admit).is_none_or(|set| at < set)
        {
            self.timers.set(Timer::Admit, at);
        }
    }
}

/// `true` where the call would be the gate's probe.
pub(super) fn pass(admission: Admission) -> Result<bool, Closed> {
    match admission {
        Admission::Pass => Ok(false),
        Admission::Probe => Ok(true),
        Admission::WaitUntil(at) => Err(Closed::Until(at)),
        Admission::WaitForProbe => Err(Closed::UntilEvent),
    }
}

fn seconds_left(gate: &Gate, now: Duration) -> u64 {
    let left = gate.paused_until().unwrap_or(now).saturating_sub(now);
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}
