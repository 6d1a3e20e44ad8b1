//! Values under numbers: what an event names by its number may be gone when the event comes, and
//! must then not be taken for another one.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

/// Values under numbers that are never given out twice.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    values: BTreeMap<usize, T>,
    next: usize,
}

impl<T> Registry<T> {
    pub(crate) fn new() -> Self {
        Self { values: BTreeMap::new(), next: 0 }
    }

    /// Adds a value and returns its number, which is higher than all before.
    pub(crate) fn add(&mut self, value: T) -> usize {
        let number = self.next;
        self.next += 1;
        self.values.insert(number, value);
        number
    }

    pub(crate) fn contains(&self, number: usize) -> bool {
        self.values.contains_key(&number)
    }

    /// Takes a value out. Whoever does that sees to it that nothing names its number any more.
    pub(crate) fn remove(&mut self, number: usize) -> Option<T> {
        self.values.remove(&number)
    }

    /// The values, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.values.iter().map(|(number, value)| (*number, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.values.values()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.values_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

/// For numbers that are known to be there: those of children, timers and tickets, which a value
/// outlives.
impl<T> Index<usize> for Registry<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        &self.values[&number]
    }
}

impl<T> IndexMut<usize> for Registry<T> {
    fn index_mut(&mut self, number: usize) -> &mut T {
        self.values.get_mut(&number).expect("a value outlives everything that names its number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_out_twice() {
        let mut registry = Registry::new();
        let (first, second) = (registry.add("a"), registry.add("b"));
        assert_eq!(registry.remove(second), Some("b"));
        let third = registry.add("c");
        assert!(third > second && !registry.contains(second));
        registry[first] = "d";
        assert_eq!(registry.iter().collect::<Vec<_>>(), [(first, &"d"), (third, &"c")]);
    }
}
