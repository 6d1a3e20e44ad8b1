//! Every wait of the engine in one queue: about a hundred bytes a timer, where a task would cost a
//! thousand.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Timers by name; setting one again replaces it. Times count from the program's start.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_time: BTreeSet<(Duration, K)>,
    by_key: HashMap<K, Duration>,
}

impl<K: Clone + Eq + Hash + Ord> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { by_time: BTreeSet::new(), by_key: HashMap::new() }
    }

    /// Sets or replaces a timer.
    pub(crate) fn set(&mut self, key: K, at: Duration) {
        if let Some(before) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    /// Keeps the timers that are wanted, and calls off the others.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&K) -> bool) {
        self.by_time.retain(|(_, key)| wanted(key));
        self.by_key.retain(|key, _| wanted(key));
    }

    /// The timers in the order in which they are due.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Duration, K)> {
        self.by_time.iter()
    }

    /// When the next timer is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// When this timer is due.
    pub(crate) fn due_at(&self, key: &K) -> Option<Duration> {
        self.by_key.get(key).copied()
    }

    /// Takes one timer whose time has come.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<K> {
        let due = self.next_due()? <= now;
        if !due {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_a_reset_replaces() {
        let mut timers = Timers::new();
        timers.set("a", Duration::from_secs(1));
        timers.set("b", Duration::from_secs(2));
        timers.set("a", Duration::from_secs(3));
        assert_eq!(timers.next_due(), Some(Duration::from_secs(2)));
        assert_eq!(timers.pop_due(Duration::from_secs(1)), None);
        assert_eq!(timers.pop_due(Duration::from_secs(9)), Some("b"));
        assert_eq!(timers.due_at(&"a"), Some(Duration::from_secs(3)));
        assert_eq!(timers.pop_due(Duration::from_secs(9)), Some("a"));
        assert_eq!((timers.pop_due(Duration::from_secs(9)), timers.next_due()), (None, None));
        timers.set("a", Duration::from_secs(1));
        timers.set("b", Duration::from_secs(2));
        timers.retain(|key| *key != "a");
        assert_eq!((timers.due_at(&"a"), timers.next_due()), (None, Some(Duration::from_secs(2))));
    }
}
