//! What becomes durable, in order: writes go to the writer of the state through a bounded queue, and
//! come back when they are on disk.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::mpsc;

use super::ids::EntryId;
use super::writer::{LedgerEvent, Write};
use crate::domain::ids::ExportKey;
use crate::domain::part::PartKey;
use crate::domain::stage::{Cause, PauseScope};
use crate::domain::wait::Trouble;
use crate::domain::watch::Recorded;
use crate::meters::Meters;
use crate::ports::Fact;

#[derive(Debug)]
pub(crate) struct Journal {
    writes: mpsc::Sender<Write>,
    events: mpsc::Receiver<LedgerEvent>,
    /// Writes that the writer's queue has not taken yet, by their tickets. Bounded by the work
    /// under way: one record a part in flight and a few an export. Of what keeps changing only the
    /// last word waits.
    outbox: BTreeMap<u64, Write>,
    /// The tickets of those in the outbox that a newer word replaces.
    replaceable: HashMap<Replaceable, u64>,
    /// Whom each write concerns that is not durable yet.
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    /// Why the state cannot be written.
    failing: Option<Trouble>,
    /// When it is tried again.
    next_try: Duration,
    meters: Meters,
}

/// Whom a write concerns, and what its watch is told when it is durable.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    pub(crate) entry: Option<EntryId>,
    pub(crate) recorded: Option<Recorded>,
}

/// What only the last word counts of.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Replaceable {
    Status(ExportKey),
    Partial(ExportKey, PartKey),
    Pause(PauseScope),
}

impl Replaceable {
    fn of(fact: &Fact) -> Option<Self> {
        match fact {
            Fact::StatusSeen { export, .. } => Some(Self::Status(export.clone())),
            Fact::PartialSynced { export, part } => {
                Some(Self::Partial(export.clone(), part.key.clone()))
            }
            Fact::Paused { scope, .. } => Some(Self::Pause(scope.clone())),
            _ => None,
        }
    }
}

impl Journal {
    pub(crate) fn new(
        writes: mpsc::Sender<Write>,
        events: mpsc::Receiver<LedgerEvent>,
        meters: Meters,
    ) -> Self {
        let (outbox, replaceable, tickets) = Default::default();
        let (next_ticket, failing, next_try) = Default::default();
        Self {
            writes,
            events,
            outbox,
            replaceable,
            tickets,
            next_ticket,
            failing,
            next_try,
            meters,
        }
    }

    /// Queues a write. Returns the ticket of an older one that it replaces. A write that
    /// `may_wait` shares a transaction with others that are on their way.
    #[must_use]
    pub(crate) fn record(&mut self, fact: Fact, ticket: Ticket, may_wait: bool) -> Option<Ticket> {
        let number = self.next_ticket;
        self.next_ticket += 1;
        let replaced = Replaceable::of(&fact)
            .and_then(|what| self.replaceable.insert(what, number))
            .and_then(|older| {
                self.outbox.remove(&older)?;
                self.tickets.remove(&older)
            });
        self.tickets.insert(number, ticket);
        self.outbox.insert(number, Write { fact, ticket: number, may_wait });
        replaced
    }

    /// Queues a write that concerns no export.
    pub(crate) fn note(&mut self, fact: Fact) {
        // What it replaces concerned no export either.
        drop(self.record(fact, Ticket::default(), false));
    }

    /// Hands over what the writer's queue takes, all at once: the writer makes one transaction of
    /// it.
    pub(crate) fn flush(&mut self) {
        while let Some(first) = self.outbox.first_entry()
            && let Ok(permit) = self.writes.try_reserve()
        {
            let write = first.remove();
            if let Some(what) = Replaceable::of(&write.fact) {
                self.replaceable.remove(&what);
            }
            permit.send(write);
        }
    }

    /// Waits for news: of the writer, or that its queue has room for what waits. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<LedgerEvent> {
        tokio::select! {
            Some(event) = self.events.recv() => Some(event),
            Ok(permit) = self.writes.reserve(), if !self.outbox.is_empty() => {
                drop(permit);
                None
            }
            else => std::future::pending().await,
        }
    }

    /// Takes the news in. Returns the writes that have become durable.
    pub(crate) fn apply(&mut self, event: LedgerEvent, now: Duration) -> Vec<Ticket> {
        match event {
            LedgerEvent::Written(tickets) => {
                return tickets.iter().filter_map(|ticket| self.tickets.remove(ticket)).collect();
            }
            LedgerEvent::Failing { cause, pause } => {
                self.next_try = now.saturating_add(pause);
                if self.failing.is_none() {
                    self.meters.paused(None, Cause::State);
                }
                if Trouble::met(&mut self.failing, Cause::State, cause.clone(), now) {
                    tracing::error!(
                        event = "state_failed",
                        cause,
                        "the state cannot be written; downloads wait: {cause}"
                    );
                }
            }
            LedgerEvent::Healthy => {
                self.failing = None;
                tracing::info!(
                    event = "state_recovered",
                    "the state can be written again; downloads continue"
                );
            }
        }
        Vec::new()
    }

    /// Whether the state cannot be written at the moment.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Why the state cannot be written, and when that is tried next.
    pub(crate) fn failure(&self) -> Option<(&Trouble, Duration)> {
        self.failing.as_ref().map(|trouble| (trouble, self.next_try))
    }

    /// Whether everything is durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.tickets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::ProjectDigest;
    use crate::domain::report::RemoteStatus;

    fn status(status: &str) -> Fact {
        let project = ProjectDigest::of(&"project_1".parse().unwrap());
        let export = ExportKey { project, export: "export_1".parse().unwrap() };
        Fact::StatusSeen { export, status: RemoteStatus::parse(status) }
    }

    #[tokio::test]
    async fn only_the_last_word_of_a_status_waits_and_what_was_handed_over_stays() {
        let (writes, mut queue) = mpsc::channel(1);
        let (news, events) = mpsc::channel(1);
        let mut journal = Journal::new(writes, events, Meters::default());
        assert!(journal.record(status("CREATED"), Ticket::default(), false).is_none());
        journal.flush();
        assert!(journal.record(status("PENDING"), Ticket::default(), false).is_none());
        assert!(journal.record(status("RUNNING"), Ticket::default(), false).is_some());
        journal.flush();
        assert!(!journal.is_idle(), "the queue is full");
        let first = queue.recv().await.unwrap();
        assert_eq!((first.fact, journal.next().await), (status("CREATED"), None));
        journal.flush();
        let second = queue.recv().await.unwrap();
        assert_eq!(second.fact, status("RUNNING"));
        news.send(LedgerEvent::Written(vec![first.ticket, second.ticket])).await.unwrap();
        assert!(!journal.is_idle(), "handed over is not durable yet");
        let event = journal.next().await.unwrap();
        assert_eq!(journal.apply(event, Duration::ZERO).len(), 2);
        assert!(journal.is_idle() && queue.try_recv().is_err());
    }
}
