//! Parts that wait for a slot: projects take turns, and so do the exports within a project, so that
//! none can starve another; within an export, in part order.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use slotmap::SecondaryMap;

use crate::domain::part::PartKey;
use crate::engine::gates::Closed;
use crate::engine::ids::{EntryId, PartId, ProjectId};
use crate::engine::turns::Turns;

#[derive(Debug, Default)]
pub(super) struct PartQueue {
    /// The projects; those whose way is closed stand aside.
    pub(super) turns: Turns<ProjectId>,
    projects: SecondaryMap<ProjectId, OfProject>,
}

#[derive(Debug, Default)]
struct OfProject {
    turns: Turns<EntryId>,
    parts: HashMap<EntryId, BTreeSet<PartKey>>,
}

/// Why a project begins no part now.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It has to wait for a gate.
    Closed(Closed),
    /// The free slots are kept for others.
    NoSlot,
}

impl PartQueue {
    /// Queues a part; queueing it twice is queueing it once.
    pub(super) fn push(&mut self, project: ProjectId, part: PartId) {
        let Some(entry) = self.projects.entry(project) else { return };
        let of_project = entry.or_default();
        of_project.turns.join(part.entry);
        of_project.parts.entry(part.entry).or_default().insert(part.key);
        self.turns.call(&project);
        self.turns.join(project);
    }

    /// Forgets the parts of an export.
    pub(super) fn remove_export(&mut self, project: ProjectId, entry: EntryId) {
        let Some(of_project) = self.projects.get_mut(project) else { return };
        of_project.parts.remove(&entry);
        of_project.turns.leave(&entry);
        if of_project.parts.is_empty() {
            self.remove_project(project);
        }
    }

    pub(super) fn remove_project(&mut self, project: ProjectId) {
        self.projects.remove(project);
        self.turns.leave(&project);
    }

    /// The parts of an export may begin again.
    pub(super) fn call_export(&mut self, project: ProjectId, entry: EntryId) {
        if let Some(of_project) = self.projects.get_mut(project) {
            of_project.turns.call(&entry);
        }
        self.turns.call(&project);
    }

    /// Takes the next part of the first project in turn that has an export that may begin and that
    /// is admitted; project and export then go to the end of their lines. Gives both permissions
    /// back with it.
    pub(super) fn pop<A, B>(
        &mut self,
        now: Duration,
        mut may_begin: impl FnMut(EntryId) -> Result<B, Closed>,
        mut admit: impl FnMut(ProjectId) -> Result<A, Refusal>,
    ) -> Option<(ProjectId, PartId, A, B)> {
        let mut without_slot = Vec::new();
        let mut found = None;
        while let Some(project) = self.turns.next() {
            let Some(of_project) = self.projects.get_mut(project) else { continue };
            let Some((entry, begins)) = of_project.first(now, &mut may_begin) else {
                self.turns.stand_aside(project, of_project.turns.next_due());
                continue;
            };
            match admit(project) {
                Ok(admitted) => {
                    found = of_project.take(entry).map(|part| (project, part, admitted, begins));
                    if of_project.parts.is_empty() {
                        self.projects.remove(project);
                    } else {
                        self.turns.join(project);
                    }
                    break;
                }
                Err(Refusal::Closed(closed)) => {
                    of_project.turns.put_back(entry);
                    self.turns.stand_aside(project, closed.until);
                }
                Err(Refusal::NoSlot) => {
                    of_project.turns.put_back(entry);
                    without_slot.push(project);
                }
            }
        }
        for project in without_slot.into_iter().rev() {
            self.turns.put_back(project);
        }
        found
    }
}

impl OfProject {
    /// The first export that may begin a part.
    fn first<B>(
        &mut self,
        now: Duration,
        may_begin: &mut impl FnMut(EntryId) -> Result<B, Closed>,
    ) -> Option<(EntryId, B)> {
        self.turns.call_due(now);
        loop {
            let entry = self.turns.next()?;
            match may_begin(entry) {
                Ok(begins) => return Some((entry, begins)),
                Err(closed) => self.turns.stand_aside(entry, closed.until),
            }
        }
    }

    /// The first part of the export, which then goes to the end of the line.
    fn take(&mut self, entry: EntryId) -> Option<PartId> {
        let parts = self.parts.get_mut(&entry)?;
        let key = parts.pop_first();
        if parts.is_empty() {
            self.parts.remove(&entry);
        } else {
            self.turns.join(entry);
        }
        key.map(|key| PartId { entry, key })
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    fn key(number: u32) -> PartKey {
        PartKey { number, file_id: format!("f{number}").parse().unwrap() }
    }

    /// A queue with parts by project, export and number.
    fn queue(parts: &[(usize, usize, u32)]) -> (PartQueue, Vec<ProjectId>, Vec<EntryId>) {
        let (mut projects, mut exports) = (SlotMap::with_key(), SlotMap::with_key());
        let projects: Vec<ProjectId> = (0..4).map(|_| projects.insert(())).collect();
        let exports: Vec<EntryId> = (0..4).map(|_| exports.insert(())).collect();
        let mut queue = PartQueue::default();
        for (project, export, number) in parts {
            let part = PartId { entry: exports[*export], key: key(*number) };
            queue.push(projects[*project], part);
        }
        (queue, projects, exports)
    }

    fn order(
        queue: &mut PartQueue,
        may_begin: impl Fn(EntryId) -> bool,
        admit: impl Fn(ProjectId) -> bool,
    ) -> Vec<u32> {
        let mut order = Vec::new();
        let yes = |is: bool| if is { Ok(()) } else { Err(Closed { until: None }) };
        let admit = |project| yes(admit(project)).map_err(Refusal::Closed);
        while let Some((_, part, (), ())) =
            queue.pop(Duration::ZERO, |entry| yes(may_begin(entry)), admit)
        {
            order.push(part.key.number);
        }
        order
    }

    #[test]
    fn projects_and_their_exports_take_turns_and_a_closed_project_is_passed_over() {
        let parts = [(0, 0, 3), (0, 0, 1), (0, 0, 2), (0, 1, 9), (1, 2, 4), (2, 3, 7), (2, 3, 7)];
        let (mut queue, projects, _) = queue(&parts);
        let passed = order(&mut queue, |_| true, |project| project != projects[2]);
        assert_eq!(passed, [1, 4, 9, 2, 3]);
        assert_eq!(order(&mut queue, |_| true, |_| true), [0; 0], "it stands aside");
        queue.turns.call(&projects[2]);
        assert_eq!(order(&mut queue, |_| true, |_| true), [7]);
    }

    #[test]
    fn an_export_that_may_not_begin_is_passed_over_until_it_is_called() {
        let (mut queue, projects, exports) = queue(&[(0, 0, 1), (0, 0, 2), (0, 1, 3), (1, 2, 4)]);
        let passed = order(&mut queue, |entry| entry != exports[0], |_| true);
        assert_eq!(passed, [3, 4], "another export of the project, and another project");
        queue.call_export(projects[0], exports[0]);
        assert_eq!(order(&mut queue, |_| true, |_| true), [1, 2]);
    }

    #[test]
    fn a_project_without_a_slot_keeps_its_place() {
        let (mut queue, projects, _) = queue(&[(0, 0, 1), (1, 2, 4), (0, 0, 2)]);
        let admit = |project| {
            if project == projects[0] { Err(Refusal::NoSlot) } else { Ok(()) }
        };
        let mut numbers = Vec::new();
        while let Some((_, part, (), ())) = queue.pop(Duration::ZERO, |_| Ok(()), admit) {
            numbers.push(part.key.number);
        }
        assert_eq!(numbers, [4]);
        assert_eq!(order(&mut queue, |_| true, |_| true), [1, 2]);
    }

    #[test]
    fn an_export_that_is_taken_out_takes_no_turn_and_comes_back_as_a_new_one() {
        let (mut queue, projects, exports) = queue(&[(0, 0, 1), (0, 1, 2), (1, 2, 3)]);
        queue.remove_export(projects[0], exports[0]);
        queue.remove_export(projects[1], exports[2]);
        queue.remove_export(projects[1], exports[2]);
        queue.push(projects[1], PartId { entry: exports[2], key: key(4) });
        assert_eq!(order(&mut queue, |_| true, |_| true), [2, 4]);
    }
}
