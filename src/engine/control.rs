//! What the scheduler can be asked from outside while it runs, and what it answers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroU32;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::access::Access;
use super::overview::{Overview, Standing};
use crate::domain::capacity::Capacity;
use crate::domain::ids::{ExportId, ExportKey, ProjectDigest, ProjectName};
use crate::domain::stage::PauseScope;
use crate::domain::watch::{Policies, Watch};
use crate::fetch::StoreClient;

/// A question to the running scheduler. An asker that is gone does no harm.
#[derive(Debug)]
pub enum Control {
    /// How is it going?
    Status {
        /// Where the answer goes.
        reply: oneshot::Sender<Standing>,
    },
    /// How is everything?
    Overview {
        /// Where the answer goes.
        reply: oneshot::Sender<Box<Overview>>,
    },
    /// Set failed exports to watching again.
    Retry {
        /// Those that are wanted, in whatever project.
        exports: BTreeSet<ExportId>,
        /// Where those go that were failed.
        reply: oneshot::Sender<Vec<(ProjectName, ExportId)>>,
    },
    /// Let go of exports, in whatever project: what is under way for them is stopped, and nothing
    /// is begun. [`Control::Begin`] follows in any case.
    Release {
        /// Those that are wanted.
        exports: BTreeSet<ExportId>,
        /// Where those go that were known, once nothing is under way for any of them.
        reply: oneshot::Sender<Vec<ExportKey>>,
    },
    /// What was let go of goes on where it is configured.
    Begin {
        /// By project.
        projects: Vec<Begun>,
    },
    /// The configuration is being read: until the verdict nothing that is known is forgotten.
    ReloadBegun {
        /// Where it goes what is known.
        reply: oneshot::Sender<Known>,
    },
    /// It cannot be used: the one in force goes on.
    ReloadRefused {
        /// Why, in one line.
        cause: String,
        /// Hears that this is known.
        reply: oneshot::Sender<()>,
    },
    /// This is in force from now on.
    Reload {
        /// Everything that may change.
        reload: Box<Reload>,
        /// Where it goes what that changed.
        reply: oneshot::Sender<Changes>,
    },
    /// Hang for good, to prove the watchdog.
    #[cfg(debug_assertions)]
    Hang,
}

/// What the scheduler knows, whether it is configured or about to be forgotten.
#[derive(Debug)]
pub struct Known {
    /// The exports.
    pub exports: HashSet<ExportKey>,
    /// The projects, and what their folders are called.
    pub projects: HashMap<ProjectDigest, ProjectName>,
}

/// A configuration that is to be in force.
#[derive(Debug)]
pub struct Reload {
    /// The policies of every watch.
    pub policies: Policies,
    /// Parts in flight and parts that wait for their names, all exports together.
    pub capacity: Capacity,
    /// The client of parts that begin from now on, where it is another one.
    pub store: Option<StoreClient>,
    /// Whether the API is another one: what was learnt of the old one does not hold for it.
    pub another_api: bool,
    /// The projects, in configuration order.
    pub projects: Vec<ReloadedProject>,
    /// Recorded pauses of projects that are new.
    pub pauses: HashMap<PauseScope, Timestamp>,
}

/// One project of a configuration that is to be in force.
#[derive(Debug)]
pub struct ReloadedProject {
    /// Its name.
    pub name: ProjectName,
    /// What it is called in the state.
    pub digest: ProjectDigest,
    /// Its way to the API.
    pub(crate) access: Access,
    /// View calls in a second.
    pub requests_per_second: NonZeroU32,
    /// Its exports, in configuration order.
    pub exports: Vec<ExportId>,
    /// Those of them that were not known, as the state has them.
    pub watches: HashMap<ExportId, Watch>,
}

/// Exports of one project that go on after [`Control::Release`].
#[derive(Debug)]
pub struct Begun {
    /// The project.
    pub project: ProjectDigest,
    /// Its name.
    pub name: ProjectName,
    /// All its exports, in configuration order.
    pub configured: Vec<ExportId>,
    /// Those that go on.
    pub exports: Vec<ExportId>,
    /// Those of them that were found, as they are.
    pub watches: HashMap<ExportId, Watch>,
}

/// What a reload changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Exports that are watched from now on.
    pub exports_added: usize,
    /// Exports that are not watched any more.
    pub exports_removed: usize,
    /// Projects that came.
    pub projects_added: usize,
    /// Projects that went.
    pub projects_removed: usize,
    /// Projects with another key.
    pub keys_changed: usize,
}
