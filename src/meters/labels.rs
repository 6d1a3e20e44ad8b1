//! Every label and the values that it can have. Text of a server or of a file never becomes a
//! value, except the names of projects, which the configuration bounds.

use std::fmt::{Error, Write as _};

use prometheus_client::encoding::{
    EncodeLabel as _, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};

use crate::domain::failure::{Hold, ViewOutcome};
use crate::domain::ids::ProjectName;
use crate::domain::stage::{Cause, Stage};

/// A label whose values are few and known.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$of_value:meta])* $value:ident = $word:literal,)+
    })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$of_value])* $value,)+
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$value),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }
        }
    )+};
}

words! {
    PollOutcome {
        Report = "report",
        /// The API does not know the export.
        NotFound = "not_found",
        Rejected = "rejected",
        Throttled = "throttled",
        Unavailable = "unavailable",
        Unauthorized = "unauthorized",
        /// The API does not know its own route.
        RouteNotFound = "route_not_found",
        /// No answer, or one that breaks the protocol.
        Fault = "fault",
    }
    /// What is tried again.
    Work { Poll = "poll", Part = "part", }
    Verdict { Accepted = "accepted", Refused = "refused", }
}

impl PollOutcome {
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

macro_rules! values {
    ($($name:ty),+) => {
        $(impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), Error> {
                encoder.write_str(self.as_str())
            }
        })+
    };
}

values!(Cause, Stage, PollOutcome, Work, Verdict);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Project(pub(super) ProjectName);

impl EncodeLabelValue for Project {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), Error> {
        encoder.write_str(self.0.as_str())
    }
}

macro_rules! label_sets {
    ($($name:ident { $($label:ident: $type:ty),+ })+) => {$(
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name {
            $(pub(super) $label: $type,)+
        }
    )+};
}

label_sets! {
    OfProject { project: Project }
    OfOutcome { outcome: PollOutcome }
    OfRetry { work: Work, cause: Cause }
    OfVerdict { verdict: Verdict }
    OfState { project: Project, state: Stage }
    OfWait { project: Project, cause: Cause }
    OfCause { cause: Cause }
    OfBuild { version: &'static str }
}

/// A pause of one project, or of more than one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OfPause {
    pub(super) project: Option<Project>,
    pub(super) cause: Cause,
}

impl EncodeLabelSet for OfPause {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        if let Some(Project(name)) = &self.project {
            ("project", name.as_str()).encode(encoder.encode_label())?;
        }
        ("cause", self.cause.as_str()).encode(encoder.encode_label())
    }
}
