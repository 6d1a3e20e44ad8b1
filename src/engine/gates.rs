//! What has to wait as a whole: a project's budget, its key, its requests as such, the API origin,
//! a store's host. A call passes with a [`Pass`], which is given back when it is dropped.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use slotmap::SecondaryMap;

use super::hush::{Hush, Paused};
use super::ids::ProjectId;
use super::timers::Clock;
use crate::domain::cadence::spread;
use crate::domain::failure::Hold;
use crate::domain::gate::{Admission, Gate, Probe};
use crate::domain::ids::{ProjectDigest, ProjectName};
use crate::domain::retry::RetryPolicy;
use crate::domain::stage::{Cause, PauseScope};
use crate::meters::Meters;

/// From so many hosts on, those that nobody waits for are forgotten: a server that makes up hosts
/// must not fill the memory.
const HOSTS: usize = 64;

/// A call may not go out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed {
    /// When to look again; `None` if what opens it comes as an event, such as the end of a probe.
    pub(crate) until: Option<Duration>,
}

/// The right to make one call, with the gates that the call is the probe of.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    key: Option<Probe>,
    throttle: Option<Probe>,
    rejection: Option<Probe>,
    origin: Option<Probe>,
    host: Option<(String, Probe)>,
}

impl Pass {
    /// Whether the key has to be read again before the call.
    pub(crate) fn probes_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether the call finds out about this host.
    pub(crate) fn probes_host(&self, host: &str) -> bool {
        self.host.as_ref().is_some_and(|(probed, _)| probed == host)
    }

    fn probes_shared(&self) -> bool {
        self.origin.is_some() || self.host.is_some()
    }

    fn probes_project(&self) -> bool {
        self.key.is_some() || self.throttle.is_some() || self.rejection.is_some()
    }
}

/// Whose way may be open again.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    pub(crate) everybody: bool,
    pub(crate) projects: Vec<ProjectId>,
}

#[derive(Debug)]
pub(crate) struct ProjectGates {
    name: ProjectName,
    digest: ProjectDigest,
    pub(crate) throttle: Gate,
    pub(crate) key: Gate,
    /// Closed while the API refuses the request for every export.
    pub(crate) rejection: Gate,
    /// The host its last signed link pointed to.
    store_host: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Gates {
    projects: SecondaryMap<ProjectId, ProjectGates>,
    origin: Gate,
    hosts: HashMap<String, Gate>,
    hosts_limit: usize,
    retry: RetryPolicy,
    woken: Woken,
    hush: Hush,
    meters: Meters,
}

impl Gates {
    pub(crate) fn new(retry: RetryPolicy, meters: Meters) -> Self {
        Self {
            projects: SecondaryMap::new(),
            origin: Gate::default(),
            hosts: HashMap::new(),
            hosts_limit: HOSTS,
            retry,
            woken: Woken::default(),
            hush: Hush::default(),
            meters,
        }
    }

    pub(crate) fn add(&mut self, project: ProjectId, name: ProjectName, digest: ProjectDigest) {
        let (throttle, key, rejection) = Default::default();
        let gates = ProjectGates { name, digest, throttle, key, rejection, store_host: None };
        self.projects.insert(project, gates);
    }

    pub(crate) fn remove(&mut self, project: ProjectId) {
        self.projects.remove(project);
    }

    pub(crate) fn reconfigure(&mut self, retry: RetryPolicy) {
        self.retry = retry;
    }

    /// The API is another one: what was learnt of the old one does not hold for it.
    pub(crate) fn forget_api(&mut self) {
        self.origin = Gate::default();
        for gates in self.projects.values_mut() {
            (gates.throttle, gates.key, gates.rejection) = Default::default();
        }
        self.woken.everybody = true;
    }

    /// The key of the project is another one.
    pub(crate) fn key_changed(&mut self, project: ProjectId) {
        self.projects[project].key.probe_now();
        self.woken.projects.push(project);
    }

    pub(crate) fn of(&self, project: ProjectId) -> &ProjectGates {
        &self.projects[project]
    }

    pub(crate) fn origin(&self) -> &Gate {
        &self.origin
    }

    /// Whose way may have opened since this was asked last.
    pub(crate) fn take_woken(&mut self) -> Woken {
        std::mem::take(&mut self.woken)
    }

    pub(crate) fn api_pass(&mut self, project: ProjectId, now: Duration) -> Result<Pass, Closed> {
        let Self { projects, origin, .. } = self;
        let of = &mut projects[project];
        for gate in [&of.key, &of.throttle, &of.rejection, origin] {
            admitted(gate.admission(now))?;
        }
        Ok(Pass {
            key: of.key.probe(now),
            throttle: of.throttle.probe(now),
            rejection: of.rejection.probe(now),
            origin: origin.probe(now),
            host: None,
        })
    }

    /// A pass for a part: its store has a say, too.
    pub(crate) fn part_pass(&mut self, project: ProjectId, now: Duration) -> Result<Pass, Closed> {
        let host = self.projects[project].store_host.clone();
        let gate = host.as_ref().and_then(|host| self.hosts.get(host));
        if let Some(gate) = gate {
            admitted(gate.admission(now))?;
        }
        let mut pass = self.api_pass(project, now)?;
        pass.host = host.and_then(|host| {
            let probe = self.hosts.get_mut(&host)?.probe(now)?;
            Some((host, probe))
        });
        Ok(pass)
    }

    /// Hosts that a part with this pass must not ask. Which host a part lies on is known once it
    /// has its link.
    pub(crate) fn waiting_hosts(&self, pass: &Pass) -> Vec<String> {
        let closed =
            self.hosts.iter().filter(|(host, gate)| !gate.is_open() && !pass.probes_host(host));
        closed.map(|(host, _)| host.clone()).collect()
    }

    /// The host of the project's last link, if nothing is to be learnt from its answer.
    pub(crate) fn open_host(&self, project: ProjectId) -> Option<String> {
        self.projects[project].store_host.clone().filter(|host| !self.hosts.contains_key(host))
    }

    /// A call is back, and what it said about the gates has been applied. If it failed, gates that
    /// it was to probe and said nothing about are probed again after a wait, else at once.
    pub(crate) fn returned(
        &mut self,
        project: ProjectId,
        pass: Pass,
        faulted: bool,
        now: Duration,
    ) {
        if pass.probes_shared() {
            self.woken.everybody = true;
        } else if pass.probes_project() {
            self.woken.projects.push(project);
        }
        if !faulted {
            return;
        }
        let (retry, jitter) = (self.retry, Clock::jitter());
        let delay = |attempt| retry.delay(attempt, jitter);
        let slowly = spread(retry.max(), jitter);
        let refuse = |probes: bool, gate: &mut Gate, wait: &dyn Fn(u32) -> Duration| {
            if probes && gate.is_probing() {
                gate.refused(now, wait);
            }
        };
        let of = &mut self.projects[project];
        if pass.key.is_some() {
            // What never reached the API says nothing about the key: three refusals in a row have
            // to be the API's own.
            of.key.probe_unanswered(now.saturating_add(slowly));
        }
        refuse(pass.throttle.is_some(), &mut of.throttle, &delay);
        refuse(pass.rejection.is_some(), &mut of.rejection, &|_| slowly);
        refuse(pass.origin.is_some(), &mut self.origin, &delay);
        let host = pass.host.as_ref().and_then(|(host, _)| self.hosts.get_mut(host));
        if let Some(gate) = host {
            refuse(true, gate, &delay);
        }
        // Only now another call may probe.
        drop(pass);
    }

    /// The API answered a call of this project in earnest.
    pub(crate) fn api_answered(&mut self, project: ProjectId) {
        let of = &mut self.projects[project];
        if of.key.opened() {
            self.woken.projects.push(project);
            tracing::info!(event = "key_accepted", project = %of.name, "the API accepts the REST API key again");
        }
        if of.throttle.opened() {
            self.woken.projects.push(project);
            if self.hush.ends(&Paused::Project(project)) {
                tracing::info!(event = "project_resumed", project = %of.name, "the API accepts requests again");
            }
        }
        if self.reached_origin() && self.hush.ends(&Paused::Api) {
            tracing::info!(event = "api_resumed", "the API is available again");
        }
    }

    /// A store sends bytes.
    pub(crate) fn store_answered(&mut self, project: ProjectId, host: String) {
        if let Some(gate) = self.hosts.get_mut(&host)
            && gate.opened()
        {
            if self.hush.ends(&Paused::Store(host.clone())) {
                tracing::info!(event = "store_resumed", host, "the store accepts requests again");
            }
            self.hosts.remove(&host);
            self.woken.everybody = true;
        }
        self.lies_on(project, host);
    }

    /// The parts of the project lie on this host. If it is another one, they need not wait for what
    /// they waited for.
    fn lies_on(&mut self, project: ProjectId, host: String) {
        if self.projects[project].store_host.replace(host.clone()) != Some(host) {
            self.woken.projects.push(project);
        }
    }

    /// Something answered that it has to be left alone for a while. Returns a pause that is to be
    /// recorded, and until when it lasts.
    pub(crate) fn hold(
        &mut self,
        project: ProjectId,
        hold: Hold,
        now: Duration,
    ) -> Option<(PauseScope, Duration)> {
        let (retry, jitter) = (self.retry, Clock::jitter());
        let wait = |retry_after: Option<Duration>| {
            move |n| retry_after.unwrap_or_else(|| retry.delay(n, jitter))
        };
        let lasting = |scope, retry_after: Option<Duration>, gate: &Gate| {
            retry_after.and(gate.paused_until()).map(|until| (scope, until))
        };
        let words = hold.words();
        let of = &mut self.projects[project];
        match hold {
            Hold::Throttled { retry_after } => {
                if of.throttle.refused(now, wait(retry_after)) {
                    self.meters.paused(Some(&of.name), Cause::Throttled);
                    if self.hush.begins(Paused::Project(project), now) {
                        let seconds = seconds_left(&of.throttle, now);
                        tracing::warn!(event = "project_throttled", project = %of.name, seconds, "the API asks for fewer requests (429); the project waits");
                    }
                }
                of.throttle.explain(words);
                let lasting = lasting(PauseScope::Project(of.digest), retry_after, &of.throttle);
                self.reached_origin();
                lasting
            }
            Hold::Unavailable { retry_after } => {
                if self.origin.refused(now, wait(retry_after)) {
                    self.meters.paused(None, Cause::Unavailable);
                    if self.hush.begins(Paused::Api, now) {
                        let seconds = seconds_left(&self.origin, now);
                        tracing::warn!(
                            event = "api_unavailable",
                            seconds,
                            "the API is unavailable (503); every project waits"
                        );
                    }
                }
                self.origin.explain(words);
                lasting(PauseScope::Origin, retry_after, &self.origin)
            }
            Hold::RouteNotFound => {
                if self.origin.refused(now, wait(None)) {
                    self.meters.paused(None, Cause::Unavailable);
                    tracing::error!(
                        event = "route_not_found",
                        "the API does not know the route: check base_url in [api]; every project \
                         waits"
                    );
                }
                self.origin.explain(words);
                None
            }
            Hold::Unauthorized { status } => {
                if of.key.refused(now, |_| spread(retry.max(), jitter)) {
                    self.meters.paused(Some(&of.name), Cause::Unauthorized);
                    let seconds = seconds_left(&of.key, now);
                    tracing::error!(event = "key_refused", project = %of.name, http_status = status, seconds, "the API refuses the REST API key; the project waits, and the key is read again before the next try");
                }
                of.key.explain(words);
                self.reached_origin();
                None
            }
            Hold::StoreWaits { host } => {
                self.lies_on(project, host);
                None
            }
            Hold::StoreBusy { host, retry_after, .. } => {
                let host = String::from(host);
                self.lies_on(project, host.clone());
                self.forget_idle_hosts(now);
                let gate = self.hosts.entry(host.clone()).or_default();
                if gate.refused(now, wait(retry_after)) {
                    self.meters.paused(None, Cause::StoreBusy);
                    if self.hush.begins(Paused::Store(host.clone()), now) {
                        let seconds = seconds_left(gate, now);
                        tracing::warn!(
                            event = "store_throttled",
                            host,
                            seconds,
                            "the store asks for fewer requests; its parts wait"
                        );
                    }
                }
                gate.explain(words);
                lasting(PauseScope::Host(host), retry_after, gate)
            }
            // The call is made anew. What it was the probe of is probed by that.
            Hold::KeyReplaced => None,
            // The folders look at the disk.
            Hold::Disk { .. } => None,
        }
    }

    /// The origin is there. Returns whether this ended a pause.
    fn reached_origin(&mut self) -> bool {
        let opened = self.origin.opened();
        self.woken.everybody |= opened;
        opened
    }

    fn forget_idle_hosts(&mut self, now: Duration) {
        if self.hosts.len() < self.hosts_limit {
            return;
        }
        let used: HashSet<&String> =
            self.projects.values().filter_map(|of| of.store_host.as_ref()).collect();
        self.hosts.retain(|host, gate| {
            used.contains(host) || gate.paused_until().is_none_or(|until| until > now)
        });
        self.hosts_limit = HOSTS.max(self.hosts.len() * 2);
    }

    /// Every export of the project is refused: that says something about the project. `words` are
    /// those of the last refusal.
    pub(crate) fn rejected(&mut self, project: ProjectId, words: String, now: Duration) {
        let wait = spread(self.retry.max(), Clock::jitter());
        let of = &mut self.projects[project];
        if of.rejection.refused(now, |_| wait) {
            self.meters.paused(Some(&of.name), Cause::Rejected);
            tracing::error!(event = "project_rejected", project = %of.name, "the API refuses the request for every export of the project: check project_key and base_url; the project waits");
        }
        of.rejection.explain(Some(words));
    }

    /// The API understands a request of the project. Returns whether it refused every one before.
    pub(crate) fn request_understood(&mut self, project: ProjectId) -> bool {
        let of = &mut self.projects[project];
        if of.rejection.refusals() == 0 {
            return false;
        }
        if of.rejection.opened() {
            self.woken.projects.push(project);
            tracing::info!(event = "project_accepted", project = %of.name, "the API no longer refuses the request for every export of the project");
        }
        true
    }

    /// A pause that an earlier run met.
    pub(crate) fn restore(&mut self, scope: PauseScope, now: Duration, until: Duration) {
        match scope {
            PauseScope::Origin => self.origin.restore(now, until),
            PauseScope::Project(digest) => {
                for of in self.projects.values_mut().filter(|of| of.digest == digest) {
                    of.throttle.restore(now, until);
                }
            }
            PauseScope::Host(host) => {
                self.hosts.entry(host).or_default().restore(now, until);
            }
            PauseScope::Unknown(_) => {}
        }
    }

    /// The gate of the store that the parts of a project lie on, if anything waits for it.
    pub(crate) fn store_of(&self, project: ProjectId) -> Option<(&str, &Gate)> {
        let host = self.projects[project].store_host.as_ref()?;
        Some((host, self.hosts.get(host)?))
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&str, &Gate)> {
        self.hosts.iter().map(|(host, gate)| (host.as_str(), gate))
    }
}

/// `true` if the call would be the gate's probe.
pub(crate) fn admitted(admission: Admission) -> Result<bool, Closed> {
    match admission {
        Admission::Pass => Ok(false),
        Admission::Probe => Ok(true),
        Admission::WaitUntil(at) => Err(Closed { until: Some(at) }),
        Admission::WaitForProbe => Err(Closed { until: None }),
    }
}

fn seconds_left(gate: &Gate, now: Duration) -> u64 {
    let left = gate.paused_until().unwrap_or(now).saturating_sub(now);
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Of = fn(&mut Gates, ProjectId) -> &mut Gate;

    #[test]
    fn each_refusal_in_a_row_waits_longer_and_that_of_a_key_the_longest_time() {
        let seconds = Duration::from_secs;
        let retry = crate::transport::retry_policy(seconds(1), seconds(600)).unwrap();
        let mut gates = Gates::new(retry, Meters::default());
        let project = slotmap::SlotMap::<ProjectId, ()>::with_key().insert(());
        let digest = ProjectDigest::of(&"project_1".parse().unwrap());
        gates.add(project, "shop".parse().unwrap(), digest);
        let cases: [(Hold, Of, _); 3] = [
            (Hold::Throttled { retry_after: None }, |g, p| &mut g.projects[p].throttle, [1, 2, 4]),
            (Hold::Unavailable { retry_after: None }, |g, _| &mut g.origin, [1, 2, 4]),
            (Hold::Unauthorized { status: 401 }, |g, p| &mut g.projects[p].key, [660, 660, 660]),
        ];
        for (hold, gate, waits) in cases {
            let mut now = Duration::ZERO;
            for longest in waits {
                let _probe = gate(&mut gates, project).probe(now);
                gates.hold(project, hold.clone(), now);
                let wait = gate(&mut gates, project).paused_until().unwrap() - now;
                assert!((seconds(longest) / 2..=seconds(longest)).contains(&wait), "{wait:?}");
                now += wait;
            }
        }
    }
}
