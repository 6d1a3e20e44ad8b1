//! The read model of the status page: everything at one moment, made when somebody asks. Plain
//! data, without secrets.

use std::sync::Arc;

use jiff::Timestamp;

use super::standing::Standing;
use crate::domain::failure::Failure;
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::part::PartKey;

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Overview {
    /// When the program started.
    pub started_at: Timestamp,
    /// When this was made.
    pub now: Timestamp,
    /// How the work stands as a whole.
    pub standing: Standing,
    /// Parts in flight.
    pub slots_in_use: usize,
    /// Most parts in flight.
    pub slots_max: usize,
    /// Whether downloads wait for the disk.
    pub disk_ill: bool,
    /// Whether downloads wait because the state cannot be written.
    pub state_failing: bool,
    /// Whether parts wait for a store that asks for fewer requests.
    pub stores_wait: bool,
    /// What every project waits for.
    pub origin: Option<Pause>,
    /// The projects, in configuration order.
    pub projects: Vec<ProjectOverview>,
}

/// One project.
#[derive(Debug, Clone)]
pub struct ProjectOverview {
    /// Its name.
    pub name: ProjectName,
    /// When an export of it became whole last, in this run or an earlier one.
    pub last_success: Option<Timestamp>,
    /// What it waits for.
    pub pauses: Vec<Pause>,
    /// Its exports, in configuration order.
    pub exports: Vec<ExportOverview>,
}

/// Something waits as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Why.
    pub reason: PauseReason,
    /// Until when; `None` while it is found out whether it is over.
    pub until: Option<Timestamp>,
}

/// Why something waits as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PauseReason {
    /// The API is unavailable, or does not know its own route.
    Unavailable,
    /// The project's REST key is refused.
    Unauthorized {
        /// Where the key is read from.
        key_source: String,
    },
    /// The API asks for fewer requests.
    Throttled,
    /// The API refuses the request for every export of the project.
    Rejected,
}

impl PauseReason {
    /// The reason in one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Throttled => "throttled",
            Self::Rejected => "rejected",
        }
    }

    /// What happened.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Unavailable => "the api is unavailable",
            Self::Unauthorized { .. } => "the api refuses the rest api key",
            Self::Throttled => "the api asks for fewer requests",
            Self::Rejected => "the api refuses the request for every export of the project",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Unavailable => {
                "nothing to do while the api is down; if it stays so, check base_url in [api]".to_owned()
            }
            Self::Unauthorized { key_source } => {
                format!("put a valid REST API key into {key_source}; it is read again by itself")
            }
            Self::Throttled => {
                "nothing to do, it goes on by itself; if it comes often, lower requests_per_second in [api]"
                    .to_owned()
            }
            Self::Rejected => "check project_key of the project and base_url in [api]".to_owned(),
        }
    }
}

/// One export.
#[derive(Debug, Clone)]
pub struct ExportOverview {
    /// Its ID.
    pub id: ExportId,
    /// Where it stands.
    pub state: ExportState,
    /// The API's last word, as far as it is known; an export that is fetched or whole had SUCCESS.
    pub remote_status: Option<Arc<str>>,
    /// When it came to stand there, as far as this run knows.
    pub since: Timestamp,
    /// When it is asked about next.
    pub next_poll_at: Option<Timestamp>,
    /// How far its parts are.
    pub progress: Progress,
    /// Bytes that came in a second, lately.
    pub bytes_per_second: u64,
    /// Its parts in flight.
    pub active_parts: Vec<ActivePart>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// Where an export stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportState {
    /// The API is asked.
    Polling,
    /// Parts are on their way.
    Fetching,
    /// The manifest is being written.
    Sealing,
    /// Whole.
    Whole,
    /// Failed; the notice is being written.
    Failing,
    /// Failed for good.
    Failed,
}

/// How far the parts of an export are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Parts that are durable.
    pub parts_done: u64,
    /// Parts that are listed.
    pub parts_total: u64,
    /// Bytes that are here, those of partials included.
    pub bytes_done: u64,
    /// Bytes that are declared; `None` where that is not known of every part.
    pub bytes_total: Option<u64>,
}

/// A part in flight.
#[derive(Debug, Clone)]
pub struct ActivePart {
    /// Its number and its file.
    pub key: PartKey,
    /// Its bytes so far.
    pub bytes: u64,
    /// Its length, where the API declared one.
    pub total: Option<u64>,
}
