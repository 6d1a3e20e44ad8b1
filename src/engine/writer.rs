//! The task that owns the ledger while the program runs: takes facts from a bounded queue and says
//! when they are durable.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::moment::Unit;
use crate::ports::{Epoch, Fact, Ledger, LedgerFault};

/// How long facts that may wait are gathered: a transaction costs a sync of the disk, whatever is
/// in it.
const GATHER: Duration = Duration::from_millis(20);
/// Facts of one transaction at most: many parts that finish together share one fsync. As many as
/// the queue holds.
const BATCH_FACTS: usize = 256;
/// The pause after a failed transaction grows from this
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A fact on its way to the ledger.
#[derive(Debug)]
pub struct Write {
    pub fact: Fact,
    /// Comes back in [`LedgerEvent::Written`].
    pub ticket: u64,
    /// Whether more facts are on their way, and nobody waits for this one: it may share their
    /// transaction.
    pub may_wait: bool,
}

/// What the writer says. A transaction that fails is tried again until it succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEvent {
    Written(Vec<u64>),
    /// It is tried again after `pause`.
    Failing {
        cause: String,
        pause: Duration,
    },
    Healthy,
}

/// Writes until the queue is closed and empty. `stop` ends the waiting: what is queued is tried
/// once more, and what fails then is given up. So is everything once somebody else has claimed the
/// ledger. Returns the tickets of the facts that were not written.
pub async fn run_writer(
    mut ledger: impl Ledger,
    epoch: Epoch,
    mut queue: mpsc::Receiver<Write>,
    events: mpsc::Sender<LedgerEvent>,
    stop: CancellationToken,
) -> Vec<u64> {
    let mut lost = Vec::new();
    let mut taken = Vec::with_capacity(BATCH_FACTS);
    loop {
        let count = tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            count = queue.recv_many(&mut taken, BATCH_FACTS) => count,
        };
        if count == 0 {
            break;
        }
        gather(&mut queue, &mut taken).await;
        let (batch, tickets): (Vec<Fact>, Vec<u64>) =
            taken.drain(..).map(|write| (write.fact, write.ticket)).unzip();
        match write(&mut ledger, epoch, &batch, &events, &stop).await {
            Attempted::Written => say(&events, &stop, LedgerEvent::Written(tickets)).await,
            Attempted::GivenUp => lost.extend(tickets),
            Attempted::Refused => {
                lost.extend(tickets);
                queue.close();
                while let Ok(write) = queue.try_recv() {
                    lost.push(write.ticket);
                }
                break;
            }
        }
    }
    if let Err(error) = ledger.close().await {
        tracing::warn!(
            event = "state_close_failed", cause = %error,
            "the state was not closed cleanly, what was written is durable all the same: {error}"
        );
    }
    lost
}

/// Adds what comes within a moment, as long as everything may wait.
async fn gather(queue: &mut mpsc::Receiver<Write>, taken: &mut Vec<Write>) {
    let until = Instant::now() + GATHER;
    while taken.len() < BATCH_FACTS && taken.iter().all(|write| write.may_wait) {
        let more = queue.recv_many(taken, BATCH_FACTS - taken.len());
        if !tokio::time::timeout_at(until, more).await.is_ok_and(|count| count > 0) {
            return;
        }
    }
}

enum Attempted {
    Written,
    GivenUp,
    Refused,
}

/// Tries until it works, `stop` ends it, or somebody else has claimed the ledger.
async fn write(
    ledger: &mut impl Ledger,
    epoch: Epoch,
    batch: &[Fact],
    events: &mpsc::Sender<LedgerEvent>,
    stop: &CancellationToken,
) -> Attempted {
    let mut attempt = 0_u32;
    loop {
        let fault = match ledger.commit(epoch, batch).await {
            Ok(()) => {
                if attempt > 0 {
                    say(events, stop, LedgerEvent::Healthy).await;
                }
                return Attempted::Written;
            }
            Err(fault @ LedgerFault::Refused { .. }) => {
                tracing::error!(
                    event = "state_claimed_elsewhere", cause = %fault,
                    "nothing more can be recorded: {fault}"
                );
                return Attempted::Refused;
            }
            Err(fault) => fault,
        };
        attempt = attempt.saturating_add(1);
        let pause = pause(attempt);
        say(events, stop, LedgerEvent::Failing { cause: fault.to_string(), pause }).await;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Attempted::GivenUp,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn pause(attempt: u32) -> Duration {
    // There is one writer, so nobody to be spread from.
    crate::transport::retry_policy(FIRST_PAUSE, LONGEST_PAUSE)
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::task::JoinSet;

    use super::*;
    use crate::domain::stage::PauseScope;
    use crate::ledgers::sqlite::SqliteLedger;
    use crate::ledgers::sqlite::fuzzing::rename_table;

    /// A writer that begins as soon as the test waits, and the other ends of its channels.
    struct Rig {
        writes: mpsc::Sender<Write>,
        heard: mpsc::Receiver<LedgerEvent>,
        writer: JoinSet<Vec<u64>>,
    }

    fn rig((ledger, epoch): (SqliteLedger, Epoch), stop: CancellationToken) -> Rig {
        let (writes, queue) = mpsc::channel(300);
        let (events, heard) = mpsc::channel(300);
        let mut writer = JoinSet::new();
        writer.spawn(run_writer(ledger, epoch, queue, events, stop));
        Rig { writes, heard, writer }
    }

    async fn claimed(directory: &Path) -> (SqliteLedger, Epoch) {
        let mut ledger = SqliteLedger::open(directory).await.unwrap();
        let epoch = ledger.claim(&[]).await.unwrap();
        (ledger, epoch)
    }

    fn paused(ticket: u64) -> Write {
        let until = "2026-01-01T00:00:00Z".parse().unwrap();
        let fact = Fact::Paused { scope: PauseScope::Host(format!("host-{ticket}")), until };
        Write { fact, ticket, may_wait: false }
    }

    /// What the writer has not written when it ends.
    async fn lost(mut writer: JoinSet<Vec<u64>>) -> Vec<u64> {
        writer.join_next().await.unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_wait_is_gathered_for_a_moment_or_until_something_may_not() {
        let root = tempfile::tempdir().unwrap();
        let mut rig = rig(claimed(root.path()).await, CancellationToken::new());
        let start = Instant::now();
        let patient = |ticket| Write { may_wait: true, ..paused(ticket) };
        // Each is sent when the writer has taken the one before, so that nothing but waiting brings
        // them together.
        for write in [patient(0), patient(1), paused(2)] {
            rig.writes.send(write).await.unwrap();
            while rig.writes.capacity() < 300 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(rig.heard.recv().await, Some(LedgerEvent::Written(vec![0, 1, 2])));
        assert_eq!(start.elapsed(), Duration::ZERO, "what may not wait does not");
        rig.writes.send(patient(3)).await.unwrap();
        let heard = rig.heard.recv().await;
        assert_eq!(heard, Some(LedgerEvent::Written(vec![3])), "it waits a moment, not for ever");
        assert!(start.elapsed() >= GATHER);
        drop(rig.writes);
        assert_eq!(lost(rig.writer).await, [0; 0]);
    }

    #[tokio::test]
    async fn the_writer_shares_transactions_and_reports_every_ticket() {
        let root = tempfile::tempdir().unwrap();
        let mut rig = rig(claimed(root.path()).await, CancellationToken::new());
        for ticket in 0..300 {
            rig.writes.try_send(paused(ticket)).unwrap();
        }
        drop(rig.writes);
        assert_eq!(lost(rig.writer).await, [0; 0]);
        let mut batches = Vec::new();
        while let Some(event) = rig.heard.recv().await {
            let LedgerEvent::Written(tickets) = event else { panic!("{event:?}") };
            batches.push(tickets);
        }
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [256, 44]);
        assert_eq!(batches.concat(), (0..300).collect::<Vec<_>>());
        let mut ledger = SqliteLedger::open(root.path()).await.unwrap();
        assert_eq!(ledger.pauses().await.unwrap().len(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn the_writer_waits_for_a_failing_database_and_goes_on_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let mut rig = rig(claimed(root.path()).await, CancellationToken::new());
        rename_table(root.path(), "pause", "hidden").await;
        rig.writes.send(paused(1)).await.unwrap();
        let heard = rig.heard.recv().await;
        let Some(LedgerEvent::Failing { cause, .. }) = heard else { panic!("not reported") };
        assert!(cause.contains("pause"), "{cause}");
        rename_table(root.path(), "hidden", "pause").await;
        let mut heard = rig.heard.recv().await;
        while let Some(LedgerEvent::Failing { .. }) = heard {
            heard = rig.heard.recv().await;
        }
        assert_eq!(heard, Some(LedgerEvent::Healthy));
        assert_eq!(rig.heard.recv().await, Some(LedgerEvent::Written(vec![1])));
        drop(rig.writes);
        assert_eq!(lost(rig.writer).await, [0; 0]);
    }

    #[tokio::test]
    async fn told_to_stop_the_writer_tries_what_is_queued_and_owns_up_to_the_rest() {
        let root = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        for (can_write, expected) in [(true, vec![]), (false, vec![1])] {
            let ledger = claimed(root.path()).await;
            if !can_write {
                rename_table(root.path(), "pause", "hidden").await;
            }
            let rig = rig(ledger, stop.clone());
            rig.writes.try_send(paused(1)).unwrap();
            assert_eq!(lost(rig.writer).await, expected);
        }
    }

    #[tokio::test]
    async fn once_somebody_else_has_claimed_the_ledger_the_writer_gives_up_everything() {
        let root = tempfile::tempdir().unwrap();
        let ledger = claimed(root.path()).await;
        let (mut other, _) = claimed(root.path()).await;
        let mut rig = rig(ledger, CancellationToken::new());
        for ticket in 0..300 {
            rig.writes.try_send(paused(ticket)).unwrap();
        }
        let lost = tokio::time::timeout(Duration::from_secs(20), lost(rig.writer)).await.unwrap();
        assert_eq!(lost, (0..300).collect::<Vec<_>>());
        assert_eq!(rig.heard.recv().await, None, "nothing is tried again");
        assert!(rig.writes.is_closed());
        assert_eq!(other.pauses().await.unwrap().len(), 0);
    }
}
