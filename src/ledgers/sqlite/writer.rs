//! The task that owns the store while the program runs: takes changes from a bounded queue and says
//! when they are durable.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SqliteLedger;
use super::record::Fact;
use crate::domain::moment::Unit;
use crate::domain::retry::RetryPolicy;

/// How long changes that may wait are gathered: a transaction costs a sync of the disk, whatever is
/// in it.
const GATHER: Duration = Duration::from_millis(20);
/// Changes of one transaction at most: many parts that finish together share one fsync. As many as
/// the queue holds.
const BATCH_CHANGES: usize = 256;
/// The pause after a failed transaction grows from this
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A change on its way to the store.
#[derive(Debug)]
pub struct Write {
    /// The change.
    pub change: Fact,
    /// Comes back in [`LedgerEvent::Written`].
    pub ticket: u64,
    /// Whether more changes are on their way, and nobody waits for this one: it may share their
    /// transaction.
    pub may_wait: bool,
}

/// What the writer reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEvent {
    /// These changes are durable.
    Written(Vec<u64>),
    /// A transaction failed and is tried again until it succeeds; said once.
    Failing {
        /// Why, in words.
        cause: String,
    },
    /// Writing works again.
    Healthy,
}

/// Writes until the queue is closed and empty. `stop` ends the waiting: what is queued is tried
/// once more, and what fails then is given up. Returns the tickets of the changes that were not
/// written.
pub async fn run_writer(
    mut store: SqliteLedger,
    mut queue: mpsc::Receiver<Write>,
    events: mpsc::Sender<LedgerEvent>,
    stop: CancellationToken,
) -> Vec<u64> {
    let mut lost = Vec::new();
    let mut taken = Vec::with_capacity(BATCH_CHANGES);
    loop {
        let count = tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            count = queue.recv_many(&mut taken, BATCH_CHANGES) => count,
        };
        if count == 0 {
            break;
        }
        gather(&mut queue, &mut taken).await;
        let (batch, tickets): (Vec<Fact>, Vec<u64>) =
            taken.drain(..).map(|write| (write.change, write.ticket)).unzip();
        if write(&mut store, &batch, &events, &stop).await {
            say(&events, &stop, LedgerEvent::Written(tickets)).await;
        } else {
            lost.extend(tickets);
        }
    }
    if let Err(error) = store.close().await {
        tracing::warn!(event = "state_close_failed", cause = %error, "the state was not closed cleanly, what was written is durable all the same: {error}");
    }
    lost
}

/// Adds what comes within a moment, as long as everything may wait.
async fn gather(queue: &mut mpsc::Receiver<Write>, taken: &mut Vec<Write>) {
    let until = Instant::now() + GATHER;
    while taken.len() < BATCH_CHANGES && taken.iter().all(|write| write.may_wait) {
        let more = queue.recv_many(taken, BATCH_CHANGES - taken.len());
        if !tokio::time::timeout_at(until, more).await.is_ok_and(|count| count > 0) {
            return;
        }
    }
}

/// Tries until it works or `stop` ends it; whether it worked.
async fn write(
    store: &mut SqliteLedger,
    batch: &[Fact],
    events: &mpsc::Sender<LedgerEvent>,
    stop: &CancellationToken,
) -> bool {
    let mut attempt = 0_u32;
    loop {
        let Err(error) = store.apply(batch).await else {
            if attempt > 0 {
                say(events, stop, LedgerEvent::Healthy).await;
            }
            return true;
        };
        attempt = attempt.saturating_add(1);
        if attempt == 1 {
            say(events, stop, LedgerEvent::Failing { cause: error.to_string() }).await;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(pause(attempt)) => {}
        }
    }
}

fn pause(attempt: u32) -> Duration {
    // There is one writer, so nobody to be spread from.
    RetryPolicy::try_new(FIRST_PAUSE, LONGEST_PAUSE)
        .map_or(LONGEST_PAUSE, |policy| policy.delay(attempt, Unit::clamped(1.0)))
}

/// A listener that has gone, or does not listen while we are told to stop, needs no news.
async fn say(events: &mpsc::Sender<LedgerEvent>, stop: &CancellationToken, event: LedgerEvent) {
    tokio::select! {
        biased;
        sent = events.send(event) => drop(sent),
        () = stop.cancelled() => {}
    }
}
