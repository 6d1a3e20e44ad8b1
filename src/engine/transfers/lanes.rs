//! The lanes that move bytes, and which of them a part takes.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::fetch::StoreClient;
use crate::process::runtimes::TransferRuntimes;

/// All lanes. There is at least one.
#[derive(Debug)]
pub struct Lanes {
    first: Lane,
    others: Vec<Lane>,
}

/// A runtime of one thread, and its own connections to stores. Each clone stands for a part that
/// uses the lane.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) runtime: Handle,
    pub(crate) store: StoreClient,
    parts: Arc<()>,
}

impl Lanes {
    /// One lane on each of these runtimes.
    #[must_use]
    pub fn new(runtimes: TransferRuntimes, store: &StoreClient) -> Self {
        let lane =
            |runtime| Lane { runtime, store: store.with_own_connections(), parts: Arc::default() };
        let others = runtimes.others.into_iter().map(lane).collect();
        Self { first: lane(runtimes.first), others }
    }

    /// Parts that begin from now on use this client. Those under way keep theirs.
    pub(crate) fn use_store(&mut self, store: &StoreClient) {
        store.take_over();
        for lane in self.others.iter_mut().chain([&mut self.first]) {
            lane.store = store.with_own_connections();
        }
    }

    /// The lane with the fewest parts on it.
    pub(crate) fn least_busy(&self) -> Lane {
        let fewer = |a, b| if Lane::parts(b) < Lane::parts(a) { b } else { a };
        self.others.iter().fold(&self.first, fewer).clone()
    }

    /// For work that blocks and belongs to no lane: the runtime has other threads for that.
    pub(crate) fn for_blocking_work(&self) -> &Handle {
        &self.first.runtime
    }
}

impl Lane {
    fn parts(&self) -> usize {
        Arc::strong_count(&self.parts) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::scheduler::tests::store_client;

    #[tokio::test]
    async fn parts_spread_evenly_and_come_back_to_what_is_free() {
        let handle = Handle::current();
        let lanes = Lanes::new(
            TransferRuntimes { first: handle.clone(), others: vec![handle.clone(), handle] },
            &store_client(),
        );
        let counts = || [&lanes.first, &lanes.others[0], &lanes.others[1]].map(Lane::parts);
        let mut taken: Vec<_> = (0..6).map(|_| lanes.least_busy()).collect();
        assert_eq!(counts(), [2, 2, 2]);
        taken.remove(1);
        assert_eq!(counts(), [2, 1, 2]);
        taken.push(lanes.least_busy());
        assert_eq!(counts(), [2, 2, 2]);
    }
}
