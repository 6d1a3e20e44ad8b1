//! What the scheduler can be asked from outside while it runs, and what it answers.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;

use tokio::sync::oneshot;

use super::access::Access;
use super::archive::Forgotten;
use super::overview::{Overview, Standing};
use crate::domain::capacity::Capacity;
use crate::domain::ids::{ExportId, ExportPath, ProjectDigest, ProjectName};
use crate::domain::watch::Policies;
use crate::fetch::StoreClient;

/// A question to the running scheduler. An asker that is gone does no harm.
#[derive(Debug)]
pub enum Control {
    /// How does the work stand?
    Status { reply: oneshot::Sender<Standing> },
    /// Everything at this moment.
    Overview { reply: oneshot::Sender<Box<Overview>> },
    /// Set failed exports to watching again, in whatever project. Answers which of them were
    /// failed.
    Retry { exports: BTreeSet<ExportId>, reply: oneshot::Sender<Vec<ExportPath>> },
    /// Forget exports, in whatever project: what is under way for them is stopped, then files and
    /// records go. Those that are configured begin anew. Answers what became of the known ones, or
    /// why nothing was forgotten.
    Forget { exports: BTreeSet<ExportId>, reply: oneshot::Sender<Result<Vec<Forgotten>, String>> },
    /// What are the projects called that are worked on?
    Projects { reply: oneshot::Sender<HashMap<ProjectDigest, ProjectName>> },
    /// Bring what runs to what is configured. A configuration that cannot be used comes as the
    /// cause, in one line: the one before stays in use.
    Reconcile {
        desired: Result<Box<Desired>, String>,
        reply: oneshot::Sender<Result<Changes, String>>,
    },
    /// Hang for good, to prove the watchdog.
    #[cfg(debug_assertions)]
    Hang,
}

#[derive(Debug)]
pub struct Desired {
    pub policies: Policies,
    pub capacity: Capacity,
    /// The client of parts that begin from now on, if it is another one.
    pub store: Option<StoreClient>,
    /// Whether the API is another one: what was learnt of the old one does not hold for it.
    pub another_api: bool,
    /// In configuration order.
    pub projects: Vec<DesiredProject>,
}

#[derive(Debug)]
pub struct DesiredProject {
    pub name: ProjectName,
    pub digest: ProjectDigest,
    pub(crate) access: Access,
    pub requests_per_second: NonZeroU32,
    /// In configuration order.
    pub exports: Vec<ExportId>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    pub exports_added: usize,
    pub exports_removed: usize,
    pub projects_added: usize,
    pub projects_removed: usize,
    /// Projects with another REST API key.
    pub keys_changed: usize,
}
