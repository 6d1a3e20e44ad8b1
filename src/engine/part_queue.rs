//! Parts that wait for a slot: exports take turns, so that none can starve another; within an export, in part order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::domain::part::PartKey;

/// Round robin over exports, by their index.
#[derive(Debug, Default)]
pub(crate) struct PartQueue {
    turns: VecDeque<usize>,
    parts: BTreeMap<usize, BTreeSet<PartKey>>,
}

impl PartQueue {
    /// Queues a part; queueing it twice is queueing it once.
    pub(crate) fn push(&mut self, export: usize, key: PartKey) {
        let parts = self.parts.entry(export).or_default();
        if parts.is_empty() {
            self.turns.push_back(export);
        }
        parts.insert(key);
    }

    /// Takes the next part of the first export in turn that `may_start` accepts; that export then goes to the end of the line.
    pub(crate) fn pop(&mut self, mut may_start: impl FnMut(usize) -> bool) -> Option<(usize, PartKey)> {
        for _ in 0..self.turns.len() {
            let export = self.turns.pop_front()?;
            if !may_start(export) {
                self.turns.push_back(export);
                continue;
            }
            let parts = self.parts.get_mut(&export)?;
            let key = parts.pop_first();
            if parts.is_empty() {
                self.parts.remove(&export);
            } else {
                self.turns.push_back(export);
            }
            return key.map(|key| (export, key));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> PartKey {
        PartKey { number, file_id: format!("f{number}").parse().unwrap() }
    }

    #[test]
    fn exports_take_turns_and_a_closed_one_is_passed_over() {
        let mut queue = PartQueue::default();
        for number in [3, 1, 2] {
            queue.push(0, key(number));
        }
        queue.push(1, key(9));
        queue.push(2, key(7));
        queue.push(2, key(7));
        let mut order = Vec::new();
        while let Some((export, key)) = queue.pop(|export| export != 2) {
            order.push((export, key.number));
        }
        assert_eq!(order, [(0, 1), (1, 9), (0, 2), (0, 3)]);
        assert_eq!(queue.pop(|_| true).map(|(export, key)| (export, key.number)), Some((2, 7)));
        assert_eq!(queue.pop(|_| true), None);
    }
}
