//! Child tasks that come back as events, each with a name, so that even one that panicked can be
//! told apart.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinSet};

/// A set of child tasks named by `K`; dropping it aborts them.
#[derive(Debug)]
pub(crate) struct Children<K, T> {
    tasks: JoinSet<T>,
    names: HashMap<Id, K>,
}

/// A child that did not come back with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

impl<K, T: Send + 'static> Children<K, T> {
    pub(crate) fn new() -> Self {
        Self { tasks: JoinSet::new(), names: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The children under way, by name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &K> {
        self.names.values()
    }

    pub(crate) fn spawn(&mut self, name: K, task: impl Future<Output = T> + Send + 'static) {
        // A runtime moves a task's future more than once, and those of this program are large.
        let id = self.tasks.spawn(Box::pin(task)).id();
        self.names.insert(id, name);
    }

    /// Waits for the next child; pends for ever while there is none. Cancel-safe.
    pub(crate) async fn next(&mut self) -> (K, Result<T, Panicked>) {
        loop {
            let (id, result) = match self.tasks.join_next_with_id().await {
                Some(Ok((id, value))) => (id, Ok(value)),
                Some(Err(error)) => (error.id(), Err(Panicked)),
                None => std::future::pending().await,
            };
            if let Some(name) = self.names.remove(&id) {
                return (name, result);
            }
        }
    }

    /// Aborts every child; none of them comes back.
    pub(crate) fn abort_all(&mut self) {
        self.names.clear();
        self.tasks.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_child_comes_back_by_name() {
        let mut children = Children::new();
        children.spawn("good", async { 1 });
        children.spawn("bad", async { panic!("expected by this test") });
        let mut seen = vec![children.next().await, children.next().await];
        seen.sort_by_key(|(name, _)| *name);
        assert_eq!(seen, [("bad", Err(Panicked)), ("good", Ok(1))]);
        assert!(children.is_empty());
    }
}
