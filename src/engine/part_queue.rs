//! Parts that wait for a slot: projects take turns, and so do the exports within a project, so that none can starve another;
//! within an export, in part order.

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

    /// Takes the next part of the first project in turn that is admitted; project and export then go to the end of their
    /// lines. Gives the admission back with it.
    pub(crate) fn pop<A>(
        &mut self,
        mut admission: impl FnMut(usize) -> Option<A>,
    ) -> Option<(usize, PartKey, A)> {
        let place = (0..self.turns.len()).find_map(|at| Some((at, admission(self.turns[at])?)));
        let (at, admitted) = place?;
        let project = self.turns.remove(at)?;
        let of_project = self.projects.get_mut(&project)?;
        let next = of_project.pop();
        if of_project.parts.is_empty() {
            self.projects.remove(&project);
        } else {
            self.turns.push_back(project);
        }
        next.map(|(export, key)| (export, key, admitted))
    }
}

impl OfProject {
    fn pop(&mut self) -> Option<(usize, PartKey)> {
        let export = self.turns.pop_front()?;
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
        while let Some((export, key, ())) = queue.pop(|project| (project != 2).then_some(())) {
            order.push((export, key.number));
        }
        assert_eq!(order, [(0, 1), (2, 4), (1, 9), (0, 2), (0, 3)]);
        assert_eq!(queue.pop(|_| Some("go")), Some((3, key(7), "go")));
        assert_eq!(queue.pop(|_| Some("go")), None);
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
        while let Some((export, key, ())) = queue.pop(|_| Some(())) {
            order.push((export, key.number));
        }
        assert_eq!(order, [(1, 2), (2, 4)]);
    }
}
