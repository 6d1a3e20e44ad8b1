//! Parts that wait for a slot: projects take turns, and so do the exports within a project, so that
//! none can starve another; within an export, in part order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::domain::part::PartKey;

/// Round robin over projects, and over the exports of each, by their index.
#[derive(Debug, Default)]
pub(crate) struct PartQueue {
    turns: VecDeque<usize>,
    projects: BTreeMap<usize, OfProject>,
}

#[derive(Debug, Default)]
struct OfProject {
    turns: VecDeque<usize>,
    parts: BTreeMap<usize, BTreeSet<PartKey>>,
}

impl PartQueue {
    /// Queues a part; queueing it twice is queueing it once.
    pub(crate) fn push(&mut self, project: usize, export: usize, key: PartKey) {
        let of_project = self.projects.entry(project).or_default();
        if of_project.parts.is_empty() {
            self.turns.push_back(project);
        }
        let parts = of_project.parts.entry(export).or_default();
        if parts.is_empty() {
            of_project.turns.push_back(export);
        }
        parts.insert(key);
    }

    /// Forgets the parts of an export.
    pub(crate) fn remove_export(&mut self, project: usize, export: usize) {
        let Some(of_project) = self.projects.get_mut(&project) else { return };
        of_project.parts.remove(&export);
        of_project.turns.retain(|turn| *turn != export);
        if of_project.parts.is_empty() {
            self.projects.remove(&project);
            self.turns.retain(|turn| *turn != project);
        }
    }

    /// Takes the next part of the first project in turn that is admitted and has an export that may
    /// begin; project and export then go to the end of their lines. Gives the admission back with
    /// it.
    pub(crate) fn pop<A>(
        &mut self,
        mut admission: impl FnMut(usize) -> Option<A>,
        mut may_begin: impl FnMut(usize) -> bool,
    ) -> Option<(usize, PartKey, A)> {
        let place = (0..self.turns.len()).find_map(|at| {
            let project = self.turns[at];
            let admitted = admission(project)?;
            let export =
                self.projects.get(&project)?.turns.iter().position(|export| may_begin(*export))?;
            Some((at, export, admitted))
        });
        let (at, export, admitted) = place?;
        let project = self.turns.remove(at)?;
        let of_project = self.projects.get_mut(&project)?;
        let next = of_project.pop(export);
        if of_project.parts.is_empty() {
            self.projects.remove(&project);
        } else {
            self.turns.push_back(project);
        }
        next.map(|(export, key)| (export, key, admitted))
    }
}

impl OfProject {
    /// The first part of the export that is in this place of the line.
    fn pop(&mut self, at: usize) -> Option<(usize, PartKey)> {
        let export = self.turns.remove(at)?;
        let parts = self.parts.get_mut(&export)?;
        let key = parts.pop_first();
        if parts.is_empty() {
            self.parts.remove(&export);
        } else {
            self.turns.push_back(export);
        }
        key.map(|key| (export, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> PartKey {
        PartKey { number, file_id: format!("f{number}").parse().unwrap() }
    }

    #[test]
    fn projects_and_their_exports_take_turns_and_a_closed_project_is_passed_over() {
        let mut queue = PartQueue::default();
        for number in [3, 1, 2] {
            queue.push(0, 0, key(number));
        }
        queue.push(0, 1, key(9));
        queue.push(1, 2, key(4));
        queue.push(2, 3, key(7));
        queue.push(2, 3, key(7));
        let mut order = Vec::new();
        while let Some((export, key, ())) =
            queue.pop(|project| (project != 2).then_some(()), |_| true)
        {
            order.push((export, key.number));
        }
        assert_eq!(order, [(0, 1), (2, 4), (1, 9), (0, 2), (0, 3)]);
        assert_eq!(queue.pop(|_| Some("go"), |_| true), Some((3, key(7), "go")));
        assert_eq!(queue.pop(|_| Some("go"), |_| true), None);
    }

    #[test]
    fn an_export_that_may_not_begin_is_passed_over_and_keeps_its_place() {
        let mut queue = PartQueue::default();
        for (project, export, number) in [(0, 0, 1), (0, 0, 2), (0, 1, 3), (1, 2, 4)] {
            queue.push(project, export, key(number));
        }
        let mut next = |closed: &[usize]| {
            let (export, key, ()) = queue.pop(|_| Some(()), |export| !closed.contains(&export))?;
            Some((export, key.number))
        };
        assert_eq!(next(&[0]), Some((1, 3)), "another one of the project");
        assert_eq!(next(&[0]), Some((2, 4)), "another project");
        assert_eq!(next(&[0]), None);
        assert_eq!(next(&[]), Some((0, 1)));
    }

    #[test]
    fn an_export_that_is_taken_out_takes_no_turn_and_comes_back_as_a_new_one() {
        let mut queue = PartQueue::default();
        queue.push(0, 0, key(1));
        queue.push(0, 1, key(2));
        queue.push(1, 2, key(3));
        queue.remove_export(0, 0);
        queue.remove_export(1, 2);
        queue.remove_export(1, 2);
        queue.push(1, 2, key(4));
        let mut order = Vec::new();
        while let Some((export, key, ())) = queue.pop(|_| Some(()), |_| true) {
            order.push((export, key.number));
        }
        assert_eq!(order, [(1, 2), (2, 4)]);
    }
}
