//! Time: the engine's clock, and waits in one queue, about a hundred bytes each, where a task would
//! cost a thousand.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::domain::moment::{Moment, Unit};

/// The one place where the engine reads clocks and rolls dice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Time since the start.
    pub(crate) fn now(self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn moment(self) -> Moment {
        Moment { since_start: self.now(), wall: Timestamp::now() }
    }

    pub(crate) fn jitter() -> Unit {
        Unit::clamped(fastrand::f64())
    }

    /// Waits until this time since the start; for ever if there is none.
    pub(crate) async fn sleep_until(self, at: Option<Duration>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.started + at).await,
            None => std::future::pending().await,
        }
    }
}

/// Timers by name; setting one again replaces it. Times count from the program's start.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_time: BTreeSet<(Duration, K)>,
    by_key: HashMap<K, Duration>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Timers<K> {
    pub(crate) fn set(&mut self, key: K, at: Duration) {
        if let Some(before) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_time.remove(&(at, key.clone()));
        }
    }

    /// The timers with their times, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, Duration)> {
        self.by_key.iter().map(|(key, at)| (key, *at))
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    pub(crate) fn due_at(&self, key: &K) -> Option<Duration> {
        self.by_key.get(key).copied()
    }

    /// Takes one timer whose time has come.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<K> {
        if self.next_due()? > now {
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
        let mut timers = Timers::default();
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
        timers.remove(&"a");
        timers.remove(&"never set");
        assert_eq!((timers.due_at(&"a"), timers.next_due()), (None, Some(Duration::from_secs(2))));
    }
}
