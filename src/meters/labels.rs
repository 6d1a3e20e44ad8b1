//! Every label and every value that it can have. No text from a server or a file becomes a label;
//! only the names of projects do, and the configuration bounds these.

use std::fmt::{Error, Write as _};

use prometheus_client::encoding::{
    EncodeLabel as _, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};

use crate::domain::failure::{Hold, PartFailure, ViewOutcome};
use crate::domain::ids::ProjectName;

/// A label whose values are few and known.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of_value:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$of_value])* $value,)+
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The value as it is exposed.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), Error> {
                encoder.write_str(self.as_str())
            }
        }
    };
}

words! {
    PollOutcome {
        /// The API told the export's status.
        Report = "report",
        /// The API does not know the export.
        NotFound = "not_found",
        Rejected = "rejected",
        /// The API asks for fewer requests.
        Throttled = "throttled",
        Unavailable = "unavailable",
        Unauthorized = "unauthorized",
        /// The API does not know its own route.
        RouteNotFound = "route_not_found",
        /// No answer, or none that can be understood.
        Fault = "fault",
    }
}

words! {
    Work {
        Poll = "poll",
        Part = "part",
    }
}

words! {
    RetryCause {
        /// The API asks for fewer requests.
        Throttled = "throttled",
        /// The API is unavailable, or does not know its own route.
        Unavailable = "unavailable",
        Unauthorized = "unauthorized",
        /// A passing fault: of the network, or an answer that is not what was promised.
        Fault = "fault",
        /// The store refused three fresh links in a row.
        LinkRefused = "link_refused",
        /// The file is gone: it is looked up whether it is still listed.
        Gone = "gone",
        /// The store asks for fewer requests.
        StoreBusy = "store_busy",
        Disk = "disk",
    }
}

words! {
    /// Why something waits as a whole.
    PauseCause {
        /// The API asks for fewer requests: a project waits.
        Throttled = "throttled",
        /// The API refuses the key: a project waits.
        Unauthorized = "unauthorized",
        /// The API refuses every request of a project: it waits.
        Rejected = "rejected",
        /// The API is unavailable, or does not know its own route: every project waits.
        Unavailable = "unavailable",
        /// A store asks for fewer requests: its parts wait.
        StoreBusy = "store_busy",
        /// The disk is ill: downloads wait.
        Disk = "disk",
        /// The state cannot be written: downloads wait.
        State = "state",
    }
}

words! {
    ExportState {
        Polling = "polling",
        Fetching = "fetching",
        Sealing = "sealing",
        Whole = "whole",
        /// Failed; the notice is being written.
        Failing = "failing",
        Failed = "failed",
    }
}

words! {
    Verdict {
        Accepted = "accepted",
        /// The previous configuration stays in use.
        Refused = "refused",
    }
}

impl PollOutcome {
    #[must_use]
    pub fn of(outcome: &ViewOutcome) -> Self {
        match outcome {
            ViewOutcome::Report(_) => Self::Report,
            ViewOutcome::NotFound(_) => Self::NotFound,
            ViewOutcome::Rejected(_) => Self::Rejected,
            ViewOutcome::Held(Hold::Throttled { .. }) => Self::Throttled,
            ViewOutcome::Held(Hold::Unavailable { .. }) => Self::Unavailable,
            ViewOutcome::Held(Hold::Unauthorized { .. } | Hold::KeyReplaced) => Self::Unauthorized,
            ViewOutcome::Held(Hold::RouteNotFound) => Self::RouteNotFound,
            // A poll meets neither a store nor the disk.
            ViewOutcome::Held(
                Hold::StoreBusy { .. } | Hold::StoreWaits { .. } | Hold::Disk { .. },
            )
            | ViewOutcome::Fault(_) => Self::Fault,
        }
    }
}

impl RetryCause {
    /// Causes that a poll can have.
    pub const OF_POLLS: &[Self] =
        &[Self::Throttled, Self::Unavailable, Self::Unauthorized, Self::Fault];

    /// Why a poll with this outcome is repeated; `None` if it did what it should.
    #[must_use]
    pub fn of_poll(outcome: &ViewOutcome) -> Option<Self> {
        match outcome {
            ViewOutcome::Report(_) | ViewOutcome::NotFound(_) | ViewOutcome::Rejected(_) => None,
            ViewOutcome::Held(hold) => Self::of_hold(hold),
            ViewOutcome::Fault(_) => Some(Self::Fault),
        }
    }

    /// Why a part with this outcome is repeated; `None` if it is not, or if nothing was tried.
    #[must_use]
    pub fn of_part(failure: &PartFailure) -> Option<Self> {
        match failure {
            PartFailure::Transient { .. } => Some(Self::Fault),
            PartFailure::LinkRefused { .. } => Some(Self::LinkRefused),
            PartFailure::Gone { .. } => Some(Self::Gone),
            PartFailure::Held(hold) => Self::of_hold(hold),
            PartFailure::Conflict { .. } | PartFailure::Stopped { .. } => None,
        }
    }

    fn of_hold(hold: &Hold) -> Option<Self> {
        match hold {
            Hold::Throttled { .. } => Some(Self::Throttled),
            Hold::Unavailable { .. } | Hold::RouteNotFound => Some(Self::Unavailable),
            Hold::Unauthorized { .. } | Hold::KeyReplaced => Some(Self::Unauthorized),
            Hold::StoreBusy { .. } => Some(Self::StoreBusy),
            // No request was sent to the store.
            Hold::StoreWaits { .. } => None,
            Hold::Disk { .. } => Some(Self::Disk),
        }
    }
}

impl PauseCause {
    /// Causes for which a project waits by itself.
    pub const OF_PROJECTS: &[Self] = &[Self::Throttled, Self::Unauthorized, Self::Rejected];
    /// Causes for which all wait, or some of all.
    pub const OF_ALL: &[Self] = &[Self::Unavailable, Self::StoreBusy, Self::Disk, Self::State];
}

impl ExportState {
    /// Those that an export is to leave by itself.
    pub const PASSING: &[Self] = &[Self::Polling, Self::Fetching, Self::Sealing, Self::Failing];
}

/// A project's name as a label's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Project(pub(super) ProjectName);

impl EncodeLabelValue for Project {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), Error> {
        encoder.write_str(self.0.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfProject {
    pub(super) project: Project,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfOutcome {
    pub(super) outcome: PollOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfRetry {
    pub(super) work: Work,
    pub(super) cause: RetryCause,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfVerdict {
    pub(super) verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfState {
    pub(super) project: Project,
    pub(super) state: ExportState,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfBuild {
    pub(super) version: &'static str,
}

/// A pause, of one project or without a project.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OfPause {
    pub(super) project: Option<Project>,
    pub(super) cause: PauseCause,
}

impl EncodeLabelSet for OfPause {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        if let Some(Project(name)) = &self.project {
            ("project", name.as_str()).encode(encoder.encode_label())?;
        }
        ("cause", self.cause.as_str()).encode(encoder.encode_label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let cause = RetryCause::of_poll(&outcome).unwrap();
            assert!(RetryCause::OF_POLLS.contains(&cause), "{outcome:?}");
        }
    }

    #[test]
    fn every_pause_is_of_projects_or_of_all() {
        for cause in PauseCause::ALL {
            let of_projects = PauseCause::OF_PROJECTS.contains(cause);
            assert!(of_projects != PauseCause::OF_ALL.contains(cause), "{}", cause.as_str());
        }
    }

    #[test]
    fn a_part_that_waits_for_its_store_is_no_retry() {
        let waits = PartFailure::Held(Hold::StoreWaits { host: "store.example".to_owned() });
        assert_eq!(RetryCause::of_part(&waits), None);
        let busy = Hold::StoreBusy { host: "store.example".to_owned(), retry_after: None };
        assert_eq!(RetryCause::of_part(&PartFailure::Held(busy)), Some(RetryCause::StoreBusy));
    }
}
