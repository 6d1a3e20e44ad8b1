//! Round robin over whoever has work. Those whose way is closed stand aside until it opens, so that
//! nobody looks at them in vain at each event.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use super::timers::Timers;

/// A line in which each key stands once: in the line, or aside. A key that leaves costs no look at
/// the others.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    line: BTreeMap<i64, K>,
    places: HashMap<K, i64>,
    aside: HashSet<K>,
    /// When those come back who stand aside until a time.
    waking: Timers<K>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            line: BTreeMap::new(),
            places: HashMap::new(),
            aside: HashSet::new(),
            waking: Timers::default(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Turns<K> {
    /// Goes to the end of the line, unless it stands there or aside already.
    pub(crate) fn join(&mut self, key: K) {
        let last = self.line.last_key_value().map_or(0, |(place, _)| *place);
        self.stand(key, last + 1);
    }

    fn stand(&mut self, key: K, place: i64) {
        if !self.aside.contains(&key) && !self.places.contains_key(&key) {
            self.places.insert(key.clone(), place);
            self.line.insert(place, key);
        }
    }

    /// Has no work any more.
    pub(crate) fn leave(&mut self, key: &K) {
        self.aside.remove(key);
        self.waking.remove(key);
        if let Some(place) = self.places.remove(key) {
            self.line.remove(&place);
        }
    }

    /// Takes the first out of the line: it joins again, stands aside, or has no more work.
    pub(crate) fn next(&mut self) -> Option<K> {
        let (_, key) = self.line.pop_first()?;
        self.places.remove(&key);
        Some(key)
    }

    /// Whether nobody stands in the line.
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Undoes [`Turns::next`].
    pub(crate) fn put_back(&mut self, key: K) {
        let first = self.line.first_key_value().map_or(0, |(place, _)| *place);
        self.stand(key, first - 1);
    }

    /// Stands aside until this time, or until [`Turns::call`]. Whichever comes first.
    pub(crate) fn stand_aside(&mut self, key: K, until: Option<Duration>) {
        if let Some(until) = until {
            self.waking.set(key.clone(), until);
        }
        self.aside.insert(key);
    }

    /// Its way may be open again.
    pub(crate) fn call(&mut self, key: &K) {
        self.waking.remove(key);
        if let Some(key) = self.aside.take(key) {
            self.join(key);
        }
    }

    pub(crate) fn call_all(&mut self) {
        for key in self.aside.iter().cloned().collect::<Vec<_>>() {
            self.call(&key);
        }
    }

    /// Calls those whose time has come.
    pub(crate) fn call_due(&mut self, now: Duration) {
        while let Some(key) = self.waking.pop_due(now) {
            self.call(&key);
        }
    }

    /// When somebody comes back who stands aside.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.waking.next_due()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn line(turns: &mut Turns<u8>) -> Vec<u8> {
        std::iter::from_fn(|| turns.next()).collect()
    }

    #[test]
    fn each_key_stands_once_and_in_the_order_it_came() {
        let mut turns = Turns::default();
        for key in [2, 1, 2, 3, 1] {
            turns.join(key);
        }
        turns.leave(&1);
        turns.leave(&9);
        assert_eq!(line(&mut turns), [2, 3]);
        turns.join(1);
        assert_eq!(line(&mut turns), [1]);
    }

    #[test]
    fn who_stands_aside_comes_back_at_its_time_or_when_called() {
        let mut turns = Turns::default();
        turns.stand_aside(1, Some(at(10)));
        turns.stand_aside(2, None);
        turns.stand_aside(3, Some(at(5)));
        turns.join(1);
        assert_eq!((turns.next(), turns.next_due()), (None, Some(at(5))), "it stands aside");
        turns.call_due(at(9));
        assert_eq!(line(&mut turns), [3]);
        turns.call(&2);
        turns.call(&7);
        assert_eq!(line(&mut turns), [2]);
        turns.stand_aside(2, None);
        turns.leave(&2);
        turns.call_all();
        assert_eq!((line(&mut turns), turns.next_due()), (vec![1], None));
    }
}
