//! Exports that somebody wants forgotten: their work is called off, and when nothing names them any
//! more they are let go of. Those that are configured come back as they are on disk by then.
//!
//! In between their files and records belong to whoever asked. That one always sends
//! [`Control::Begin`] in the end.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio::sync::oneshot;

use super::Scheduler;
use crate::domain::ids::{ExportId, ExportKey};
use crate::domain::watch::Watch;
use crate::engine::control::Begun;

/// Exports that are being let go of.
#[derive(Debug)]
pub(super) struct Release {
    wanted: BTreeSet<ExportId>,
    /// Those that were known.
    found: Vec<ExportKey>,
    /// The last write that may speak of them, once there will be no more.
    last_write: Option<u64>,
    reply: oneshot::Sender<Vec<ExportKey>>,
}

impl Scheduler {
    pub(super) fn release(
        &mut self,
        wanted: BTreeSet<ExportId>,
        reply: oneshot::Sender<Vec<ExportKey>>,
    ) {
        let is_wanted = |number: &usize| wanted.contains(self.entries[*number].watch.export());
        let entries: Vec<usize> = self
            .entries
            .iter()
            .map(|(number, _)| number)
            .filter(|number| is_wanted(number))
            .collect();
        let key = |number: &usize| ExportKey {
            project: self.projects[self.entries[*number].project].digest,
            export: self.entries[*number].watch.export().clone(),
        };
        let found = entries.iter().map(key).collect();
        self.retire(&entries);
        for ((number, _), stop) in &self.stops {
            if entries.contains(number) {
                stop.cancel();
            }
        }
        self.forgetting = true;
        self.release = Some(Release { wanted, found, last_write: None, reply });
    }

    /// Tells who waits for it that nothing is under way any more, and nothing will be written.
    pub(super) fn tell_released(&mut self) {
        let Some(release) = &mut self.release else { return };
        if release.reply.is_closed() {
            self.release = None;
            return;
        }
        if self.entries.values().any(|entry| release.wanted.contains(entry.watch.export())) {
            return;
        }
        // Records that nobody is told of may be on their way still.
        let last = *release.last_write.get_or_insert(self.next_ticket);
        if self.unwritten > 0 && self.written < last {
            return;
        }
        if let Some(Release { reply, found, .. }) = self.release.take() {
            // Who asked may be gone.
            let _ = reply.send(found);
        }
    }

    /// The configured ones go on: as they were where they were not let go of, else as they were
    /// found.
    pub(super) fn begin_released(&mut self, begun: Vec<Begun>) {
        (self.forgetting, self.release) = (false, None);
        for Begun { project: digest, name, configured, exports, watches } in begun {
            let Some((number, _)) =
                self.projects.iter().find(|(_, project)| project.digest == digest)
            else {
                continue;
            };
            self.begin_in(number, &exports, watches, |export| {
                Watch::new(name.clone(), export.clone())
            });
            let places: HashMap<&ExportId, usize> =
                configured.iter().enumerate().map(|(place, export)| (export, place)).collect();
            let mut entries = std::mem::take(&mut self.projects[number].exports);
            entries.sort_by_key(|entry| {
                places.get(self.entries[*entry].watch.export()).copied().unwrap_or(usize::MAX)
            });
            self.projects[number].exports = entries;
        }
    }

    fn begin_in(
        &mut self,
        project: usize,
        exports: &[ExportId],
        mut watches: HashMap<ExportId, Watch>,
        fresh: impl Fn(&ExportId) -> Watch,
    ) {
        let known: HashMap<ExportId, usize> = self.projects[project]
            .exports
            .iter()
            .map(|entry| (self.entries[*entry].watch.export().clone(), *entry))
            .collect();
        let mut new = Vec::new();
        for export in exports.iter().collect::<HashSet<_>>() {
            match known.get(export) {
                Some(&entry) => {
                    if std::mem::take(&mut self.entries[entry].retiring) {
                        self.wake(entry);
                    }
                }
                None => {
                    let watch = watches.remove(export).unwrap_or_else(|| fresh(export));
                    let entry = self.add_entry(project, watch);
                    self.projects[project].exports.push(entry);
                    new.push(entry);
                }
            }
        }
        self.begin_exports(&new);
    }
}
