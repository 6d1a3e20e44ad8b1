//! Parts that have come to their end at the same time get their names together: one look at the folder, one sync of it.
//!
//! Whoever comes while nobody leads makes a blocking thread lead: it commits what waits as one group, then what has come
//! since, until nothing is left. So a lone part waits for nobody, and under load a group is what came during the one before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::domain::part::CommittedPart;
use crate::sink::{CommitError, FinishedPart, LocalSink};

/// Parts of one group at most, so that the first does not wait long for the last: what larger groups save is little (2,000
/// files of 50 KB in groups of 8, 32 and 100: 0.49, 0.41 and 0.38 s on ext4).
const GROUP_PARTS: usize = 64;

type Outcome = Result<CommittedPart, CommitError>;

/// The one way in which parts get their names.
#[derive(Debug)]
pub(crate) struct Committer {
    sink: LocalSink,
    /// Its pool of blocking threads lends the leader.
    transfer: Handle,
    queue: Mutex<Queue>,
}

/// Bounded by the parts in flight: each waits here at most once.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Request>,
    is_led: bool,
}

#[derive(Debug)]
struct Request {
    finished: FinishedPart,
    reply: oneshot::Sender<Outcome>,
}

impl Committer {
    pub(crate) fn new(sink: LocalSink, transfer: Handle) -> Self {
        Self { sink, transfer, queue: Mutex::default() }
    }

    /// Commits a part with the next group; `None` where its leader panicked.
    pub(crate) async fn commit(self: &Arc<Self>, finished: FinishedPart) -> Option<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let is_led = {
            let mut queue = self.queue();
            queue.waiting.push(Request { finished, reply });
            std::mem::replace(&mut queue.is_led, true)
        };
        if !is_led {
            let committer = Arc::clone(self);
            // Its end is awaited by those whose parts it commits.
            drop(self.transfer.spawn_blocking(move || committer.lead()));
        }
        outcome.await.ok()
    }

    fn lead(&self) {
        let _end = EndOfLead(self);
        while let Some(group) = self.next_group() {
            let (parts, replies): (Vec<_>, Vec<_>) =
                group.into_iter().map(|request| (request.finished, request.reply)).unzip();
            for (reply, outcome) in replies.into_iter().zip(self.sink.commit(parts)) {
                // Whoever does not listen any more finds the part on disk at the next start.
                drop(reply.send(outcome));
            }
        }
    }

    /// What waits; where nothing does, nobody leads any more.
    fn next_group(&self) -> Option<Vec<Request>> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() {
            queue.is_led = false;
            return None;
        }
        let group = queue.waiting.len().min(GROUP_PARTS);
        let later = queue.waiting.split_off(group);
        Some(std::mem::replace(&mut queue.waiting, later))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whole after any panic: nothing in the locked sections can panic half way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A leader that panics takes with it those who wait: they are told, and the next one finds nobody in the lead.
struct EndOfLead<'a>(&'a Committer);

impl Drop for EndOfLead<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0.queue() = Queue::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::part::PartKey;
    use crate::domain::resume::Plan;

    struct Bench {
        root: tempfile::TempDir,
        sink: LocalSink,
        committer: Arc<Committer>,
    }

    fn bench() -> Bench {
        let root = tempfile::tempdir().unwrap();
        let (sink, _) = LocalSink::open(&root.path().join("exports"), None, 0).unwrap();
        let committer = Arc::new(Committer::new(sink.clone(), Handle::current()));
        Bench { root, sink, committer }
    }

    impl Bench {
        fn finished(&self, export: &str, number: u32, bytes: &[u8]) -> FinishedPart {
            let key = PartKey { number, file_id: format!("file_{number}").parse().unwrap() };
            let (project, export) = ("shop".parse().unwrap(), export.parse().unwrap());
            let length = Some(bytes.len().try_into().unwrap());
            let mut writer = self.sink.begin_part(&project, &export, &key, &Plan::FromStart, length).unwrap();
            writer.write(bytes).unwrap();
            writer.finish(length, &[]).unwrap()
        }

        fn path(&self, export: &str, number: u32) -> std::path::PathBuf {
            self.root.path().join(format!("exports/shop/{export}/part-{number:05}-file_{number}.json"))
        }
    }

    #[tokio::test]
    async fn parts_of_several_folders_are_committed_together_and_a_conflict_is_one_parts_own() {
        let bench = bench();
        std::fs::create_dir_all(bench.root.path().join("exports/shop/export_1")).unwrap();
        let mut foreign = std::fs::File::create(bench.path("export_1", 7)).unwrap();
        std::io::Write::write_all(&mut foreign, b"something else").unwrap();
        let commits = (0..200).map(|number| {
            let export = if number % 3 == 0 { "export_2" } else { "export_1" };
            let finished = bench.finished(export, number, format!("part {number}").as_bytes());
            let committer = bench.committer.clone();
            async move { (export, number, committer.commit(finished).await.unwrap()) }
        });
        for (export, number, outcome) in futures::future::join_all(commits).await {
            if number == 7 {
                assert!(matches!(outcome, Err(CommitError::Conflict(_))), "{outcome:?}");
            } else {
                assert_eq!(outcome.unwrap().key.number, number);
                let found = std::fs::read_to_string(bench.path(export, number)).unwrap();
                assert_eq!(found, format!("part {number}"));
            }
        }
        assert_eq!(std::fs::read_to_string(bench.path("export_1", 7)).unwrap(), "something else");
        let at_rest = async {
            while bench.committer.queue().is_led {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), at_rest).await.expect("the leader ends");
        assert!(bench.committer.queue().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_panics_takes_nobody_down_for_good() {
        let bench = bench();
        bench.committer.queue().is_led = true;
        let committer = bench.committer.clone();
        let finished = bench.finished("export_1", 1, b"1");
        let mut orphan = tokio::task::JoinSet::new();
        orphan.spawn(async move { committer.commit(finished).await });
        tokio::task::yield_now().await;
        let committer = bench.committer.clone();
        let panicking = move || {
            let _end = EndOfLead(&committer);
            panic!("expected by this test");
        };
        tokio::task::spawn_blocking(panicking).await.unwrap_err();
        assert_eq!(orphan.join_next().await.unwrap().unwrap(), None);
        assert!(bench.committer.commit(bench.finished("export_1", 1, b"1")).await.unwrap().is_ok());
    }
}
