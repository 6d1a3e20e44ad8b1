//! Child tasks come back as events, each with its name, also when it panicked.

use std::hash::Hash;

use tokio_util::task::JoinMap;

/// A child that did not come back with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Waits for the next child; for ever while there is none. Cancel-safe.
pub(crate) async fn next<K: Hash + Eq, T: 'static>(
    children: &mut JoinMap<K, T>,
) -> (K, Result<T, Panicked>) {
    match children.join_next().await {
        Some((name, result)) => (name, result.map_err(|_| Panicked)),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_child_comes_back_by_name() {
        let mut children = JoinMap::new();
        children.spawn("good", async { 1 });
        children.spawn("bad", async { panic!("expected by this test") });
        let mut seen = vec![next(&mut children).await, next(&mut children).await];
        seen.sort_by_key(|(name, _)| *name);
        assert_eq!(seen, [("bad", Err(Panicked)), ("good", Ok(1))]);
        assert!(children.is_empty());
    }
}
