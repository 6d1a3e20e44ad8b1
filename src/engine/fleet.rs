//! The projects and their exports: which there are, which are wanted, how many are where, and what
//! is under way for each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use slotmap::SlotMap;

use super::access::Access;
use super::ids::{EntryId, ProjectId};
use super::overview::{Counts, Shown};
use crate::domain::ids::{ExportId, ExportKey, ExportPath, ProjectDigest, ProjectName};
use crate::domain::watch::{Command, StepContext, Watch, WatchEvent, WatchState};

#[derive(Debug, Default)]
pub(crate) struct Fleet {
    projects: SlotMap<ProjectId, Project>,
    exports: SlotMap<EntryId, Export>,
    by_digest: HashMap<ProjectDigest, ProjectId>,
    /// The projects in configuration order; those that are no longer configured come last.
    order: Vec<ProjectId>,
    /// Projects with exports that are not at their end.
    at_work: BTreeSet<ProjectId>,
    counts: Counts,
    /// Declared bytes that no room is taken for yet, of all exports whose folder is prepared.
    claimed_bytes: u128,
    /// Exports that are not wanted and for which nothing is under way.
    idle: Vec<EntryId>,
}

#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) name: ProjectName,
    pub(crate) digest: ProjectDigest,
    pub(crate) access: Arc<Access>,
    pub(crate) is_configured: bool,
    /// When an export of it became whole last.
    pub(crate) last_success: Option<Timestamp>,
    exports: HashMap<ExportId, Place>,
    unsettled: usize,
    /// Wanted exports whose request the API refuses.
    rejected: BTreeSet<EntryId>,
    /// Wanted exports that the API has still to be asked about.
    to_be_asked: usize,
    /// Other wanted exports that are not at their end.
    busy: usize,
}

/// Where an export stands in the configuration.
#[derive(Debug, Default)]
struct Place {
    /// Its place in the configuration, if it is configured.
    number: Option<usize>,
    /// `None` while it is looked up in the state.
    entry: Option<EntryId>,
}

#[derive(Debug)]
pub(crate) struct Export {
    watch: Watch,
    project: ProjectId,
    presence: Presence,
    /// Calls, chores, parts and writes that will come back for it.
    under_way: usize,
    shown: Shown,
}

/// Whether an export is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Wanted,
    /// No longer configured: nothing begins, and it goes when nothing is under way.
    Retiring,
    /// Somebody asked to forget it: nothing begins, what is under way is stopped, and it goes.
    Forgetting,
}

impl Export {
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    pub(crate) fn project(&self) -> ProjectId {
        self.project
    }

    pub(crate) fn presence(&self) -> Presence {
        self.presence
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.presence == Presence::Wanted
    }

    pub(crate) fn path(&self) -> &ExportPath {
        self.watch.path()
    }
}

impl Project {
    #[cfg(test)]
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Whether no export is configured or under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.exports.is_empty()
    }

    /// The exports in configuration order; those that are no longer configured come last.
    pub(crate) fn in_order(&self) -> Vec<EntryId> {
        let mut exports: Vec<_> = self
            .exports
            .values()
            .filter_map(|place| Some((place.number.unwrap_or(usize::MAX), place.entry?)))
            .collect();
        exports.sort_unstable();
        exports.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// What is counted of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    class: Class,
    is_wanted: bool,
    claimed_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Whole,
    Failed,
    Rejected,
    ToBeAsked,
    Busy,
}

impl Standing {
    fn of(export: &Export) -> Self {
        let class = match export.watch.state() {
            WatchState::Completed { .. } => Class::Whole,
            WatchState::Failed { .. } => Class::Failed,
            WatchState::Polling(polling) if polling.is_rejected() => Class::Rejected,
            _ if export.watch.wants_views() => Class::ToBeAsked,
            _ => Class::Busy,
        };
        let claimed_bytes = export.watch.claimed_bytes();
        Self { class, is_wanted: export.is_wanted(), claimed_bytes }
    }
}

impl Fleet {
    pub(crate) fn add_project(
        &mut self,
        name: ProjectName,
        digest: ProjectDigest,
        access: Access,
    ) -> ProjectId {
        let id = self.projects.insert(Project {
            name,
            digest,
            access: Arc::new(access),
            is_configured: true,
            last_success: None,
            exports: HashMap::new(),
            unsettled: 0,
            rejected: BTreeSet::new(),
            to_be_asked: 0,
            busy: 0,
        });
        self.by_digest.insert(digest, id);
        self.order.push(id);
        id
    }

    /// Removes a project without exports. Returns its name if no other one has it.
    pub(crate) fn remove_project(&mut self, id: ProjectId) -> Option<ProjectName> {
        let project = self.projects.remove(id)?;
        self.by_digest.remove(&project.digest);
        self.order.retain(|other| *other != id);
        let is_taken = self.projects.values().any(|other| other.name == project.name);
        (!is_taken).then_some(project.name)
    }

    /// Says in which order the projects are configured; others come last.
    pub(crate) fn arrange(&mut self, configured: &[ProjectId]) {
        let places: BTreeMap<_, _> =
            configured.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        self.order.sort_by_key(|id| places.get(id).copied().unwrap_or(usize::MAX));
    }

    pub(crate) fn find_project(&self, digest: &ProjectDigest) -> Option<ProjectId> {
        self.by_digest.get(digest).copied()
    }

    pub(crate) fn project(&self, id: ProjectId) -> &Project {
        &self.projects[id]
    }

    pub(crate) fn project_mut(&mut self, id: ProjectId) -> &mut Project {
        &mut self.projects[id]
    }

    /// Whether the project is still there. News can be older than the end of what they come from.
    pub(crate) fn has_project(&self, id: ProjectId) -> bool {
        self.projects.contains_key(id)
    }

    /// The projects in configuration order.
    pub(crate) fn projects(&self) -> impl Iterator<Item = (ProjectId, &Project)> {
        self.order.iter().map(|id| (*id, &self.projects[*id]))
    }

    /// Projects with exports that are not at their end.
    pub(crate) fn at_work(&self) -> &BTreeSet<ProjectId> {
        &self.at_work
    }

    /// How many exports are where; those with a part under way are not counted here.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn export(&self, id: EntryId) -> Option<&Export> {
        self.exports.get(id)
    }

    /// An export, with what is remembered of it from one look to the next.
    pub(crate) fn shown_mut(&mut self, id: EntryId) -> Option<(&Watch, &mut Shown)> {
        self.exports.get_mut(id).map(|export| (&export.watch, &mut export.shown))
    }

    /// The export of a project by its ID.
    pub(crate) fn find(&self, project: ProjectId, export: &ExportId) -> Option<EntryId> {
        self.projects.get(project)?.exports.get(export)?.entry
    }

    /// These exports in whatever project is configured.
    pub(crate) fn find_all<'a>(
        &'a self,
        wanted: impl IntoIterator<Item = &'a ExportId, IntoIter: Clone> + 'a,
    ) -> impl Iterator<Item = EntryId> + 'a {
        let wanted = wanted.into_iter();
        let configured = self.order.iter().filter(|id| self.projects[**id].is_configured);
        configured.flat_map(move |project| {
            wanted.clone().filter_map(|export| self.find(*project, export))
        })
    }

    /// Whether the export is configured.
    pub(crate) fn is_configured(&self, entry: EntryId) -> bool {
        let Some(export) = self.exports.get(entry) else { return false };
        let places = &self.projects[export.project].exports;
        places.get(&export.watch.path().export).is_some_and(|place| place.number.is_some())
    }

    pub(crate) fn key(&self, entry: EntryId) -> Option<ExportKey> {
        let export = self.exports.get(entry)?;
        let project = self.projects[export.project].digest;
        Some(ExportKey { project, export: export.watch.path().export.clone() })
    }

    /// Says which exports of the project are configured, in their order. Returns the known ones
    /// that no longer are.
    pub(crate) fn configure(&mut self, project: ProjectId, exports: &[ExportId]) -> Vec<EntryId> {
        let places = &mut self.projects[project].exports;
        for place in places.values_mut() {
            place.number = None;
        }
        for (number, export) in exports.iter().enumerate() {
            places.entry(export.clone()).or_default().number = Some(number);
        }
        places.retain(|_, place| place.number.is_some() || place.entry.is_some());
        let gone = places.values().filter(|place| place.number.is_none());
        gone.filter_map(|place| place.entry).collect()
    }

    /// Exports that are configured and not known yet.
    pub(crate) fn missing(&self, project: ProjectId) -> Vec<ExportId> {
        let missing = self.projects[project].exports.iter();
        let mut missing: Vec<_> = missing
            .filter(|(_, place)| place.entry.is_none())
            .map(|(export, place)| (place.number, export.clone()))
            .collect();
        missing.sort_unstable();
        missing.into_iter().map(|(_, export)| export).collect()
    }

    pub(crate) fn add_export(&mut self, project: ProjectId, watch: Watch) -> EntryId {
        let id = watch.path().export.clone();
        let shown = Shown::of(&watch);
        let (presence, under_way) = (Presence::Wanted, 0);
        let entry = self.exports.insert(Export { watch, project, presence, under_way, shown });
        self.projects[project].exports.entry(id).or_default().entry = Some(entry);
        self.moved(entry, None);
        entry
    }

    /// Removes an export for which nothing is under way.
    pub(crate) fn remove_export(&mut self, entry: EntryId) {
        let Some(export) = self.exports.remove(entry) else { return };
        self.count(entry, export.project, Standing::of(&export), false);
        let places = &mut self.projects[export.project].exports;
        if let Some(place) = places.get_mut(&export.watch.path().export) {
            place.entry = None;
            if place.number.is_none() {
                places.remove(&export.watch.path().export);
            }
        }
    }

    pub(crate) fn set_presence(&mut self, entry: EntryId, presence: Presence) {
        let Some(export) = self.exports.get_mut(entry) else { return };
        let before = Standing::of(export);
        export.presence = presence;
        if presence != Presence::Wanted && export.under_way == 0 {
            self.idle.push(entry);
        }
        self.moved(entry, Some(before));
    }

    /// Something is under way for the export that will come back.
    pub(crate) fn begin_work(&mut self, entry: EntryId) {
        if let Some(export) = self.exports.get_mut(entry) {
            export.under_way += 1;
        }
    }

    /// It came back.
    pub(crate) fn end_work(&mut self, entry: EntryId) {
        let Some(export) = self.exports.get_mut(entry) else { return };
        export.under_way -= 1;
        if export.under_way == 0 && export.presence != Presence::Wanted {
            self.idle.push(entry);
        }
    }

    /// An export that is not wanted and for which nothing is under way.
    pub(crate) fn pop_idle(&mut self) -> Option<EntryId> {
        while let Some(entry) = self.idle.pop() {
            let is_idle = |export: &Export| !export.is_wanted() && export.under_way == 0;
            if self.exports.get(entry).is_some_and(is_idle) {
                return Some(entry);
            }
        }
        None
    }

    /// Hands an event to a watch, and gives its commands back.
    pub(crate) fn step(
        &mut self,
        entry: EntryId,
        event: WatchEvent,
        cx: &StepContext<'_>,
    ) -> Vec<Command> {
        let Some(export) = self.exports.get_mut(entry) else { return Vec::new() };
        let before = Standing::of(export);
        let state = std::mem::discriminant(export.watch.state());
        let commands = export.watch.step(event, cx);
        if std::mem::discriminant(export.watch.state()) != state {
            export.shown.moved(cx.now.wall);
        }
        self.moved(entry, Some(before));
        commands
    }

    /// Counts an export that is new, or stood somewhere else before.
    fn moved(&mut self, entry: EntryId, before: Option<Standing>) {
        let Some(export) = self.exports.get(entry) else { return };
        let after = Standing::of(export);
        if before == Some(after) {
            return;
        }
        let id = export.project;
        if let WatchState::Completed { at, .. } = export.watch.state() {
            let last_success = &mut self.projects[id].last_success;
            *last_success = (*last_success).max(Some(*at));
        }
        if let Some(before) = before {
            self.count(entry, id, before, false);
        }
        self.count(entry, id, after, true);
    }

    /// The one place where counts change.
    fn count(&mut self, entry: EntryId, id: ProjectId, standing: Standing, enters: bool) {
        let change = |count: &mut usize| *count = if enters { *count + 1 } else { *count - 1 };
        let bytes = u128::from(standing.claimed_bytes);
        match enters {
            true => self.claimed_bytes += bytes,
            false => self.claimed_bytes -= bytes,
        }
        let project = &mut self.projects[id];
        match standing.class {
            Class::Whole => change(&mut self.counts.whole),
            Class::Failed => change(&mut self.counts.failed),
            Class::Rejected | Class::ToBeAsked | Class::Busy => {
                change(&mut self.counts.watching);
                change(&mut project.unsettled);
            }
        }
        match standing.class {
            _ if !standing.is_wanted => {}
            Class::Rejected if enters => _ = project.rejected.insert(entry),
            Class::Rejected => _ = project.rejected.remove(&entry),
            Class::ToBeAsked => change(&mut project.to_be_asked),
            Class::Busy => change(&mut project.busy),
            Class::Whole | Class::Failed => {}
        }
        if project.unsettled > 0 {
            self.at_work.insert(id);
        } else {
            self.at_work.remove(&id);
        }
    }

    /// Exports whose request the API refuses, if that is theirs alone or if it concerns all.
    ///
    /// A refused request concerns one export when another of its project is answered well after
    /// it, or none is left to ask; it concerns the project when every export gets it.
    pub(crate) fn rejections(&self, project: ProjectId, succeeded: bool) -> Rejections {
        let Project { rejected, to_be_asked, busy, .. } = &self.projects[project];
        let nobody_to_ask = *to_be_asked == 0;
        if rejected.is_empty() {
            Rejections::Undecided
        } else if succeeded || (nobody_to_ask && (rejected.len() == 1 || *busy > 0)) {
            Rejections::TheirOwn(rejected.iter().copied().collect())
        } else if nobody_to_ask {
            Rejections::OfTheProject
        } else {
            Rejections::Undecided
        }
    }

    /// Exports whose request the API refuses.
    pub(crate) fn rejected(&self, project: ProjectId) -> Vec<EntryId> {
        self.projects[project].rejected.iter().copied().collect()
    }

    /// Bytes that prepared exports other than this one still have to find room for. What parts
    /// under way have taken already is not taken off.
    pub(crate) fn claimed_bytes(&self, but: EntryId) -> u64 {
        let own = self.exports.get(but).map_or(0, |export| export.watch.claimed_bytes());
        u64::try_from(self.claimed_bytes - u128::from(own)).unwrap_or(u64::MAX)
    }
}

/// What refused requests of a project mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejections {
    Undecided,
    /// Each concerns its export alone.
    TheirOwn(Vec<EntryId>),
    OfTheProject,
}
