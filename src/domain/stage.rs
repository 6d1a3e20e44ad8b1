//! The vocabulary of where an export stands and what it waits for. The state, the read model, the
//! status document, the table, the page and the metrics all use these words.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::failure::{Hold, PartFailure, PartFault, ViewOutcome};
use super::ids::{ProjectDigest, ProjectName};
use super::watch::WatchState;

/// Where an export stands. `as_str` is its word in the status document and in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Configured, but no daemon has asked the API about it yet.
    New,
    /// The API is asked until it reports SUCCESS or ERROR.
    Polling,
    Fetching,
    /// Every part is here; `manifest.json` is not yet durable.
    Sealing,
    /// Complete. Terminal.
    Whole,
    /// Failed; `failed.json` or its record is not yet durable.
    Failing,
    /// Failed. Terminal until somebody retries it.
    Failed,
}

impl Stage {
    /// The stages that an export of a running daemon can be in.
    pub const LIVE: &[Self] =
        &[Self::Polling, Self::Fetching, Self::Sealing, Self::Whole, Self::Failing, Self::Failed];

    pub fn of(state: &WatchState) -> Self {
        match state {
            WatchState::Polling(_) => Self::Polling,
            WatchState::Fetching(_) => Self::Fetching,
            WatchState::Sealing { .. } => Self::Sealing,
            WatchState::Completed { .. } => Self::Whole,
            WatchState::Failing { .. } => Self::Failing,
            WatchState::Failed { .. } => Self::Failed,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Polling => "polling",
            Self::Fetching => "fetching",
            Self::Sealing => "sealing",
            Self::Whole => "whole",
            Self::Failing => "failing",
            Self::Failed => "failed",
        }
    }

    /// Reads [`Stage::as_str`] back; `None` if a later version of this program wrote it.
    pub fn parse(word: &str) -> Option<Self> {
        let mut all = Self::LIVE.iter().copied().chain([Self::New]);
        all.find(|stage| stage.as_str() == word)
    }

    /// Whether an export leaves this stage only if a person asks for it.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Whole | Self::Failed)
    }
}

/// Why something waits or is tried again, explained by [`Wait::words`]. `as_str` is its stable
/// word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Throttled,
    Unavailable,
    Unauthorized,
    Rejected,
    Fault,
    LinkRefused,
    Gone,
    StoreBusy,
    Disk,
    State,
}

impl Cause {
    /// What pauses one project.
    pub const OF_PROJECTS: &[Self] = &[Self::Throttled, Self::Unauthorized, Self::Rejected];
    /// What pauses more than one project.
    pub const OF_ALL: &[Self] = &[Self::Unavailable, Self::StoreBusy, Self::Disk, Self::State];
    /// Why a poll is tried again.
    pub const OF_POLLS: &[Self] =
        &[Self::Throttled, Self::Unavailable, Self::Unauthorized, Self::Fault];
    /// Why a part is tried again.
    pub const OF_PARTS: &[Self] = &[
        Self::Throttled,
        Self::Unavailable,
        Self::Unauthorized,
        Self::Fault,
        Self::LinkRefused,
        Self::Gone,
        Self::StoreBusy,
        Self::Disk,
    ];

    /// Why a poll with this outcome is tried again; `None` if it did what it had to do.
    pub fn of_poll(outcome: &ViewOutcome) -> Option<Self> {
        match outcome {
            ViewOutcome::Report(_) | ViewOutcome::NotFound(_) | ViewOutcome::Rejected(_) => None,
            ViewOutcome::Held(hold) => Self::of_hold(hold),
            ViewOutcome::Fault(_) => Some(Self::Fault),
        }
    }

    /// Why a part that ended so is tried again; `None` if it is not, or if nothing was tried.
    pub fn of_part(failure: &PartFailure) -> Option<Self> {
        let PartFailure::Failed { fault, .. } = failure else { return None };
        match fault {
            PartFault::Transient { .. } => Some(Self::Fault),
            PartFault::LinkRefused { .. } => Some(Self::LinkRefused),
            PartFault::Gone { .. } => Some(Self::Gone),
            PartFault::Held(hold) => Self::of_hold(hold),
            PartFault::Conflict { .. } => None,
        }
    }

    fn of_hold(hold: &Hold) -> Option<Self> {
        match hold {
            Hold::Throttled { .. } => Some(Self::Throttled),
            Hold::Unavailable { .. } | Hold::RouteNotFound => Some(Self::Unavailable),
            Hold::Unauthorized { .. } | Hold::KeyReplaced => Some(Self::Unauthorized),
            Hold::StoreBusy { .. } => Some(Self::StoreBusy),
            // The store was not asked.
            Hold::StoreWaits { .. } => None,
            Hold::Disk { .. } => Some(Self::Disk),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Unauthorized => "unauthorized",
            Self::Rejected => "rejected",
            Self::Fault => "fault",
            Self::LinkRefused => "link_refused",
            Self::Gone => "gone",
            Self::StoreBusy => "store_busy",
            Self::Disk => "disk",
            Self::State => "state",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub cause: Cause,
    /// The project that waits; `None` if the cause is not one project's own.
    pub project: Option<ProjectName>,
    /// The thing behind the cause, if it has a name: the store's host, or the place of the key.
    pub subject: Option<String>,
    /// When it is tried next; `None` while a try is under way, or if the next one has no set time.
    pub until: Option<Timestamp>,
}

impl Wait {
    /// A wait for something that has no name, and whose next try has no set time.
    #[must_use]
    pub fn on(cause: Cause) -> Self {
        Self { cause, project: None, subject: None, until: None }
    }

    /// Whether a call is under way that finds out if the wait is over.
    pub fn is_asking(&self) -> bool {
        self.until.is_none() && !matches!(self.cause, Cause::Disk | Cause::State)
    }

    pub fn words(&self) -> String {
        let words = match self.cause {
            Cause::Throttled => "the API asks for fewer requests",
            Cause::Unavailable => "the API is unavailable",
            Cause::Unauthorized => "the API refuses the REST API key",
            Cause::Rejected => "the API refuses the request for every export of the project",
            Cause::Fault => "the last attempt failed",
            Cause::LinkRefused => "the store refuses the signed link",
            Cause::Gone => "the store no longer has the file",
            Cause::StoreBusy => match &self.subject {
                Some(host) => return format!("the store {host} asks for fewer requests"),
                None => "the store asks for fewer requests",
            },
            Cause::Disk => "downloads wait because the download directory cannot be used",
            Cause::State => "downloads wait because the state cannot be written",
        };
        words.to_owned()
    }

    /// What a person can do about it.
    pub fn advice(&self) -> String {
        let words = match self.cause {
            Cause::Throttled => {
                "nothing to do, it continues by itself; if it happens often, lower \
                 requests_per_second in [api]"
            }
            Cause::Unavailable => {
                "nothing to do while the API is down; if it lasts, check base_url in [api]"
            }
            Cause::Unauthorized => {
                let place = self.subject.as_deref().unwrap_or("the place that [[project]] names");
                return format!(
                    "put a valid REST API key into {place}; it is read again by itself"
                );
            }
            Cause::Rejected => "check project_key of the project and base_url in [api]",
            Cause::Fault | Cause::LinkRefused | Cause::Gone => {
                "nothing to do, it is tried again by itself"
            }
            Cause::StoreBusy => {
                "nothing to do, it continues by itself; if it happens often, lower max_parts in \
                 [download]"
            }
            Cause::Disk => {
                "check the mount, the permissions and the free space of the download directory; \
                 downloads continue by themselves"
            }
            Cause::State => {
                "check the mount, the permissions and the free space of the state directory; \
                 downloads continue by themselves"
            }
        };
        words.to_owned()
    }
}

/// What waits because something answered `Retry-After`. `Display` is its key in the state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PauseScope {
    Project(ProjectDigest),
    /// The API, and with it every project.
    Origin,
    Host(String),
    /// A scope that a later version of this program recorded.
    Unknown(String),
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(digest) => write!(f, "project:{digest}"),
            Self::Origin => f.write_str("origin"),
            Self::Host(host) => write!(f, "host:{host}"),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

impl FromStr for PauseScope {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let known = match text.split_once(':') {
            None => (text == "origin").then_some(Self::Origin),
            Some(("project", digest)) => digest.parse().ok().map(Self::Project),
            Some(("host", host)) => Some(Self::Host(host.to_owned())),
            Some(_) => None,
        };
        Ok(known.unwrap_or_else(|| Self::Unknown(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_read_back_as_it_was_written() {
        for stage in Stage::LIVE.iter().copied().chain([Stage::New]) {
            assert_eq!(Stage::parse(stage.as_str()), Some(stage));
        }
        assert_eq!(Stage::parse("requested"), None);
    }

    #[test]
    fn every_cause_of_a_polls_retry_is_among_those_that_are_exposed_from_the_start() {
        let none = None;
        let holds = [
            Hold::Throttled { retry_after: none },
            Hold::Unavailable { retry_after: none },
            Hold::Unauthorized { status: 401 },
            Hold::RouteNotFound,
        ];
        let outcomes =
            holds.into_iter().map(ViewOutcome::Held).chain([ViewOutcome::Fault(String::new())]);
        for outcome in outcomes {
            let cause = Cause::of_poll(&outcome).unwrap();
            assert!(Cause::OF_POLLS.contains(&cause), "{outcome:?}");
        }
    }

    #[test]
    fn no_pause_is_both_of_one_project_and_of_all() {
        for cause in Cause::OF_PROJECTS {
            assert!(!Cause::OF_ALL.contains(cause), "{}", cause.as_str());
        }
    }

    #[test]
    fn a_part_that_asked_nothing_of_a_waiting_store_is_no_retry() {
        let waits = PartFault::Held(Hold::StoreWaits { host: "store.example".to_owned() });
        assert_eq!(Cause::of_part(&waits.into()), None);
        let busy = Hold::StoreBusy { host: "store.example".to_owned(), retry_after: None };
        assert_eq!(Cause::of_part(&PartFault::Held(busy).into()), Some(Cause::StoreBusy));
    }

    #[test]
    fn advice_names_the_thing_to_mend() {
        let subject = Some("file /srv/shop.key".to_owned());
        let wait = Wait { subject, ..Wait::on(Cause::Unauthorized) };
        assert!(wait.advice().contains("file /srv/shop.key"), "{}", wait.advice());
        let wait = Wait { subject: Some("store.example".to_owned()), ..Wait::on(Cause::StoreBusy) };
        assert_eq!(wait.words(), "the store store.example asks for fewer requests");
    }

    #[test]
    fn a_scope_is_read_back_as_it_was_written() {
        let digest = ProjectDigest::of(&"project_1".parse().unwrap());
        let scopes = [
            PauseScope::Project(digest),
            PauseScope::Origin,
            PauseScope::Host("store.example:8443".to_owned()),
            PauseScope::Unknown("bucket:exports".to_owned()),
            PauseScope::Unknown("project:1".to_owned()),
        ];
        for scope in scopes {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
    }
}
