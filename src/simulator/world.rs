//! The simulator's memory: the script as it is now, the use of each step, and the good links.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::canned::Canned;
use super::record::{Origin, Recorder};
use super::script::{Script, SimExport, SimProject, ViewStep};
use super::steps::{LinkStep, Serving, StoreStep};
use super::stored::StoredFile;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the script has no {kind} {id}")]
pub struct UnknownId {
    kind: &'static str,
    id: String,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) recorder: Recorder,
    pub(super) api_base_url: String,
    pub(super) latency: Duration,
    pub(super) released: watch::Sender<HashSet<String>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    projects: HashMap<String, Project>,
    files: HashMap<String, FileEntry>,
    pub(super) links: HashMap<String, Link>,
    pub(super) link_origin: String,
    pub(super) link_lifetime: Duration,
    pub(super) outages: HashMap<Origin, Canned>,
}

#[derive(Debug, Default)]
pub(super) struct Project {
    pub(super) rest_api_key: String,
    /// Oldest first, so that a place stays valid.
    exports: Vec<Arc<SimExport>>,
    place_of: HashMap<String, usize>,
    view_calls: HashMap<String, usize>,
    pub(super) listing: Option<Canned>,
    pub(super) outage: Option<Canned>,
}

#[derive(Debug)]
struct FileEntry {
    project_key: String,
    stored: Arc<StoredFile>,
    link_calls: usize,
    fetches: usize,
}

#[derive(Debug)]
pub(super) struct Link {
    file_id: String,
    expires_at: Instant,
}

impl World {
    /// Reads every content that a checksum is sent for.
    pub(super) fn new(script: Script, api_base_url: String, store_origin: String) -> Self {
        let link_origin = script.link_origin.unwrap_or(store_origin);
        let link_lifetime = script.link_lifetime;
        let mut state = State { link_origin, link_lifetime, ..State::default() };
        for project in script.projects {
            state.add_project(project);
        }
        Self {
            recorder: Recorder::default(),
            api_base_url,
            latency: script.latency,
            released: watch::Sender::default(),
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `id` is released; at once if it already is.
    pub(super) async fn wait_for_release(&self, id: &str) {
        // The sender is `self`: this cannot fail during a wait.
        let _ = self.released.subscribe().wait_for(|released| released.contains(id)).await;
    }

    pub(super) fn outage(&self, origin: Origin) -> Option<Canned> {
        self.state().outages.get(&origin).cloned()
    }

    pub(super) fn authenticates(&self, project_key: &str, rest_api_key: &str) -> bool {
        self.state().project(project_key).is_ok_and(|project| project.rest_api_key == rest_api_key)
    }

    pub(super) fn project_outage(&self, project_key: &str) -> Option<Canned> {
        self.state().projects.get(project_key)?.outage.clone()
    }

    pub(super) fn next_view(
        &self,
        project_key: &str,
        export_id: &str,
    ) -> Option<(Arc<SimExport>, ViewStep)> {
        let mut state = self.state();
        let project = state.projects.get_mut(project_key)?;
        let export = Arc::clone(project.exports.get(*project.place_of.get(export_id)?)?);
        let step = nth(&export.views, project.view_calls.entry(export_id.to_owned()).or_default())?;
        Some((export, step))
    }

    /// The exports of a project, newest first, with the step that the last view call got, or the
    /// listing that was set for it.
    pub(super) fn listing(
        &self,
        project_key: &str,
    ) -> Result<Vec<(Arc<SimExport>, ViewStep)>, Canned> {
        let state = self.state();
        let Some(project) = state.projects.get(project_key) else { return Ok(Vec::new()) };
        if let Some(answer) = &project.listing {
            return Err(answer.clone());
        }
        let row = |export: &Arc<SimExport>| {
            let calls = project.view_calls.get(&export.id).copied().unwrap_or_default();
            let step = nth(&export.views, &mut calls.saturating_sub(1))?;
            Some((Arc::clone(export), step))
        };
        Ok(project.exports.iter().rev().filter_map(row).collect())
    }

    /// The next link step of a file; `None` for a file this project does not have.
    pub(super) fn next_link(
        &self,
        project_key: &str,
        file_id: &str,
    ) -> Option<(Arc<StoredFile>, LinkStep)> {
        let mut state = self.state();
        let entry =
            state.files.get_mut(file_id).filter(|entry| entry.project_key == project_key)?;
        let step = nth(&entry.stored.file.link_steps, &mut entry.link_calls);
        Some((Arc::clone(&entry.stored), step.unwrap_or(LinkStep::Redirect)))
    }

    /// Origin and path of a fresh signed link.
    pub(super) fn sign(&self, file_id: &str) -> (String, String) {
        let signature = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        let mut state = self.state();
        let now = Instant::now();
        // Only before it grows: looking at all of them for each new one would take ever longer.
        if state.links.len() == state.links.capacity() {
            state.links.retain(|_, link| link.expires_at > now);
        }
        let lifetime = state.link_lifetime;
        let expires = (SystemTime::now() + lifetime).duration_since(UNIX_EPOCH);
        let expires = expires.map_or(0, |since| since.as_secs());
        let link = Link { file_id: file_id.to_owned(), expires_at: now + lifetime };
        state.links.insert(signature.clone(), link);
        let path = format!("/blob/{file_id}?expires={expires}&signature={signature}");
        (state.link_origin.clone(), path)
    }

    /// Whether a signed link is for this file and still good.
    pub(super) fn honours(&self, file_id: &str, signature: &str) -> bool {
        let state = self.state();
        state.links.get(signature).is_some_and(|link| {
            link.file_id == file_id
                && link.expires_at > Instant::now()
                && state.files.contains_key(file_id)
        })
    }

    pub(super) fn next_fetch(&self, file_id: &str) -> Option<(Arc<StoredFile>, StoreStep)> {
        let mut state = self.state();
        let entry = state.files.get_mut(file_id)?;
        let step = nth(&entry.stored.file.store_steps, &mut entry.fetches);
        Some((Arc::clone(&entry.stored), step.unwrap_or_else(|| Serving::well().into())))
    }

    pub(super) fn report(&self, export: &SimExport, step: &ViewStep) -> Value {
        let (status, files) = match step {
            ViewStep::Status(status) => (status.as_str(), None),
            ViewStep::Success(files) => ("SUCCESS", Some(files.as_slice())),
            ViewStep::Listed { status, files } => (status.as_str(), Some(files.as_slice())),
            ViewStep::Held(step) => return self.report(export, step),
            // Only a listing asks for the row of such an export.
            ViewStep::Answer(_) => ("RUNNING", None),
        };
        export.report(status, files, &self.api_base_url)
    }
}

impl State {
    fn add_project(&mut self, project: SimProject) {
        for export in &project.exports {
            self.register_files(&project.project_key, export);
        }
        let mut entry = Project { rest_api_key: project.rest_api_key, ..Project::default() };
        project.exports.into_iter().rev().for_each(|export| entry.put(export));
        self.projects.insert(project.project_key, entry);
    }

    pub(super) fn project(&mut self, project_key: &str) -> Result<&mut Project, UnknownId> {
        self.projects
            .get_mut(project_key)
            .ok_or_else(|| UnknownId { kind: "project", id: project_key.to_owned() })
    }

    /// An export by its ID, with the key of its project.
    pub(super) fn find(&self, export_id: &str) -> Result<(String, SimExport), UnknownId> {
        let found = self.projects.iter().find_map(|(key, project)| {
            let place = *project.place_of.get(export_id)?;
            Some((key.clone(), SimExport::clone(project.exports.get(place)?)))
        });
        found.ok_or_else(|| UnknownId { kind: "export", id: export_id.to_owned() })
    }

    pub(super) fn remove_export(&mut self, project_key: &str, id: &str) -> Result<(), UnknownId> {
        let removed = self.project(project_key)?.take(id);
        let removed = removed.ok_or_else(|| UnknownId { kind: "export", id: id.to_owned() })?;
        for file in removed.files() {
            self.files.remove(&file.id);
        }
        Ok(())
    }

    /// A file that has not changed keeps its place in its steps.
    pub(super) fn register_files(&mut self, project_key: &str, export: &SimExport) {
        for file in export.files() {
            let same =
                |known: &FileEntry| known.project_key == project_key && known.stored.file == *file;
            if self.files.get(&file.id).is_some_and(same) {
                continue;
            }
            let entry = FileEntry {
                project_key: project_key.to_owned(),
                stored: Arc::new(StoredFile::new(file.clone())),
                link_calls: 0,
                fetches: 0,
            };
            self.files.insert(file.id.clone(), entry);
        }
    }
}

impl Project {
    pub(super) fn put(&mut self, export: SimExport) {
        self.view_calls.remove(&export.id);
        match self.place_of.get(&export.id).and_then(|&place| self.exports.get_mut(place)) {
            Some(known) => *known = Arc::new(export),
            None => {
                self.place_of.insert(export.id.clone(), self.exports.len());
                self.exports.push(Arc::new(export));
            }
        }
    }

    fn take(&mut self, export_id: &str) -> Option<Arc<SimExport>> {
        let place = self.place_of.remove(export_id)?;
        self.view_calls.remove(export_id);
        self.place_of.values_mut().filter(|other| **other > place).for_each(|other| *other -= 1);
        Some(self.exports.remove(place))
    }
}

/// The step of this call, counted; the last one repeats.
fn nth<T: Clone>(steps: &[T], calls: &mut usize) -> Option<T> {
    let step = steps.get(*calls).or(steps.last()).cloned();
    *calls += 1;
    step
}
