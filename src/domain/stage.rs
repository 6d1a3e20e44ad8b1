//! The vocabulary of where an export stands and why it waits. The state, the read model, the status
//! document, the table, the page and the metrics all use these words.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::failure::{Hold, PartFailure, PartFault, ViewOutcome};
use super::ids::ProjectDigest;

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

/// Why something waits or is tried again, explained by [`Wait`](super::wait::Wait). `as_str` is its stable
/// word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    Throttled,
    Unavailable,
    Unauthorized,
    /// The API refuses the request: that of one export, or those of every export of a project.
    Rejected,
    /// The API does not know the export yet, or no longer.
    NotFound,
    /// A call or a download failed in a way that may pass.
    Fault,
    LinkRefused,
    /// The file of a part is not there.
    Gone,
    StoreBusy,
    /// The disk of the download directory.
    Disk,
    /// The folder of one export.
    Folder,
    /// The room that an export needs above the reserve.
    Room,
    State,
    /// Other parts have every slot.
    Slots,
}

impl Cause {
    pub const ALL: [Self; 14] = [
        Self::Throttled,
        Self::Unavailable,
        Self::Unauthorized,
        Self::Rejected,
        Self::NotFound,
        Self::Fault,
        Self::LinkRefused,
        Self::Gone,
        Self::StoreBusy,
        Self::Disk,
        Self::Folder,
        Self::Room,
        Self::State,
        Self::Slots,
    ];
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

    pub(super) fn of_hold(hold: &Hold) -> Option<Self> {
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
            Self::NotFound => "not_found",
            Self::Fault => "fault",
            Self::LinkRefused => "link_refused",
            Self::Gone => "gone",
            Self::StoreBusy => "store_busy",
            Self::Disk => "disk",
            Self::Folder => "folder",
            Self::Room => "room",
            Self::State => "state",
            Self::Slots => "slots",
        }
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
        let busy = Hold::StoreBusy { host: "store.example".into(), status: 503, retry_after: None };
        assert_eq!(Cause::of_part(&PartFault::Held(busy).into()), Some(Cause::StoreBusy));
    }

    #[test]
    fn the_list_of_causes_is_complete() {
        let places: Vec<_> = Cause::ALL.iter().map(|cause| *cause as usize).collect();
        assert_eq!(places, (0..=Cause::Slots as usize).collect::<Vec<_>>());
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
