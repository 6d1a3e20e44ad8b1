//! The bandwidth cap: one bucket that all bodies share, and the debt of each.
//!
//! Before a body reads on, it pays by waiting for what it has received; meanwhile TCP makes the
//! sender wait. The cap counts what is read: a body may be ahead by a chunk and socket buffers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::domain::bandwidth::{Bandwidth, Bucket, SLICE_BYTES};

/// The bucket of all bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct SharedBucket {
    /// Locked for the arithmetic only, never over a wait.
    bucket: Arc<Mutex<Bucket>>,
    /// The moment from which the bucket's times count.
    since: Instant,
}

impl SharedBucket {
    pub(super) fn new(bandwidth: Bandwidth) -> Self {
        Self { bucket: Arc::new(Mutex::new(Bucket::new(bandwidth))), since: Instant::now() }
    }

    /// Sets another cap for all bodies, including those under way.
    pub(super) fn change(&self, bandwidth: Bandwidth) {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).change(bandwidth);
    }

    /// When `bytes` are paid for, as time since the beginning.
    pub(super) fn reserve(&self, bytes: u64) -> Duration {
        let now = self.since.elapsed();
        // The arithmetic cannot panic, so even a poisoned lock would hold a valid bucket.
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_add(bucket.reserve(now, bytes))
    }
}

/// The debt of one body for the bytes it has received. If it is dropped in debt, the others pay.
#[derive(Debug)]
pub(super) struct Debt {
    bucket: SharedBucket,
    bytes: u64,
    /// When the slice that was reserved last is paid for.
    due: Option<Duration>,
}

impl Debt {
    pub(super) fn new(bucket: SharedBucket) -> Self {
        Self { bucket, bytes: 0, due: None }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    #[cfg(test)]
    pub(super) fn owed_bytes(&self) -> u64 {
        self.bytes
    }

    /// Pays whole slices until less than one is owed: a turn is worth the same to every body,
    /// however small its chunks. Cancel-safe: no wait is repeated.
    pub(super) async fn pay_slices(&mut self) {
        self.pay(SLICE_BYTES).await;
    }

    /// Pays everything at the end, so that a file smaller than a slice is not free. Cancel-safe.
    pub(super) async fn pay_all(&mut self) {
        self.pay(1).await;
    }

    /// Pays slice by slice while at least `least` is owed.
    async fn pay(&mut self, least: u64) {
        loop {
            if let Some(due) = self.due {
                let wait = due.saturating_sub(self.bucket.since.elapsed());
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                self.due = None;
            }
            if self.bytes < least {
                return;
            }
            let slice = self.bytes.min(SLICE_BYTES);
            self.bytes -= slice;
            self.due = Some(self.bucket.reserve(slice));
        }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.bucket.reserve(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    /// Bytes per second; a burst is a tenth of it.
    const RATE: u64 = 1_000_000;
    const BURST_BYTES: u64 = RATE / 10;
    const SECOND: Duration = Duration::from_secs(1);
    /// What the clock of the runtime rounds to.
    const TICK: Duration = Duration::from_millis(1);

    fn bucket() -> SharedBucket {
        SharedBucket::new(Bandwidth::try_new(RATE).unwrap())
    }

    /// How long `bytes` take beyond the burst.
    fn time_of(bytes: u64) -> Duration {
        SECOND.mul_f64(bytes.saturating_sub(BURST_BYTES) as f64 / RATE as f64)
    }

    #[tokio::test(start_paused = true)]
    async fn only_received_bytes_are_paid_for() {
        let since = Instant::now();
        let mut debt = Debt::new(bucket());
        for _ in 0..100 {
            debt.add(10_000);
            debt.pay_slices().await;
            assert!(debt.bytes < SLICE_BYTES);
        }
        debt.pay_all().await;
        assert_eq!(debt.bytes, 0);
        let (took, due) = (since.elapsed(), time_of(1_000_000));
        assert!(took >= due && took <= due + TICK, "{took:?}");
        debt.pay_all().await;
        assert_eq!(since.elapsed(), took, "nothing is owed");
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_bodies_obey_the_cap() {
        let (bucket, since) = (bucket(), Instant::now());
        for _ in 0..100 {
            let mut debt = Debt::new(bucket.clone());
            debt.add(10_000);
            debt.pay_slices().await;
            debt.pay_all().await;
        }
        assert!(since.elapsed() >= time_of(1_000_000), "{:?}", since.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_waits_lose_no_debt_and_pay_nothing_twice() {
        let since = Instant::now();
        let mut debt = Debt::new(bucket());
        debt.add(1_000_000);
        let mut cancelled = 0;
        while timeout(3 * TICK, debt.pay_all()).await.is_err() {
            cancelled += 1;
        }
        assert!(cancelled > 100, "{cancelled}");
        let (took, due) = (since.elapsed(), time_of(1_000_000));
        assert!(took >= due && took <= due + 3 * TICK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_body_waits_for_what_the_last_left_unpaid() {
        let (bucket, since) = (bucket(), Instant::now());
        let mut given_up = Debt::new(bucket.clone());
        given_up.add(600_000);
        let paying = timeout(SECOND / 10, given_up.pay_all()).await;
        assert!(paying.is_err(), "it is in the middle of paying");
        drop(given_up);
        let mut next = Debt::new(bucket);
        next.add(400_000);
        next.pay_all().await;
        let (took, due) = (since.elapsed(), time_of(1_000_000));
        assert!(took >= due && took <= due + TICK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_share_by_bytes_whatever_their_chunks() {
        const BODY_BYTES: u64 = 2_400_000;
        let (bucket, since) = (bucket(), Instant::now());
        let mut bodies = JoinSet::new();
        for chunk in [100, 1_500, 16_000, 400_000] {
            let mut debt = Debt::new(bucket.clone());
            bodies.spawn(async move {
                for _ in 0..BODY_BYTES / chunk {
                    debt.add(chunk);
                    debt.pay_slices().await;
                }
                debt.pay_all().await;
                since.elapsed()
            });
        }
        let ends = bodies.join_all().await;
        let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
        // Equal shares end together, except for the burst, which one body may have had alone.
        let ahead = 3 * (BURST_BYTES + 2 * SLICE_BYTES);
        assert!(last - first <= time_of(BURST_BYTES + ahead), "{ends:?}");
        let due = time_of(4 * BODY_BYTES);
        assert!(last >= due && last <= due + TICK, "{ends:?}");
    }
}
