//! The free space of the disk. A disk that hangs holds up no answer, and costs one thread at most.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::ports::Sink;
use crate::sinks::AnySink;

/// How long an answer counts as new.
const FRESH: Duration = Duration::from_millis(250);
/// Longest wait for the disk; shorter than that for the scheduler.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Space {
    sink: AnySink,
    /// Held while the disk is asked, so that others wait for the same answer.
    look: Mutex<Look>,
}

#[derive(Debug, Default)]
struct Look {
    /// One at most.
    under_way: JoinSet<Option<u64>>,
    /// The last answer, or that there was none.
    last: Option<(Instant, Option<u64>)>,
}

impl Space {
    pub(super) fn new(sink: AnySink) -> Self {
        Self { sink, look: Mutex::default() }
    }

    pub(super) fn reserve_bytes(&self) -> u64 {
        self.sink.reserve_bytes()
    }

    /// The reserve included. `None` if the disk does not answer in time.
    pub(super) async fn free_bytes(&self) -> Option<u64> {
        let sink = self.sink.clone();
        self.ask(async move { sink.free_bytes().await.ok().flatten() }).await
    }

    async fn ask(&self, disk: impl Future<Output = Option<u64>> + Send + 'static) -> Option<u64> {
        let mut look = self.look.lock().await;
        if let Some((at, free)) = look.last
            && at.elapsed() < FRESH
        {
            return free;
        }
        let until = Instant::now() + PATIENCE;
        // The answer of a look that hung is old: another look follows.
        let is_free =
            timeout_at(until, async { while look.under_way.join_next().await.is_some() {} }).await;
        let mut free = None;
        if is_free.is_ok() {
            look.under_way.spawn(disk);
            if let Ok(Some(Ok(answer))) = timeout_at(until, look.under_way.join_next()).await {
                free = answer;
            }
        }
        look.last = Some((Instant::now(), free));
        free
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::oneshot;

    use super::*;
    use crate::sinks::local::{LocalSink, SinkSettings};

    fn space(folder: &std::path::Path) -> Space {
        let (sink, _) = LocalSink::open(folder, None, SinkSettings::default()).unwrap();
        Space::new(AnySink::Local(sink))
    }

    #[tokio::test]
    async fn a_disk_that_answers_says_how_much_there_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(space(folder.path()).free_bytes().await.unwrap() > 0);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_once_by_one_thread_and_believed_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let space = space(folder.path());
        let (release, hangs) = oneshot::channel::<()>();
        let began = Instant::now();
        let hanging = async move { hangs.await.ok().map(|()| 1) };
        let looks = Arc::new(AtomicU64::new(0));
        let look = || {
            let looks = looks.clone();
            async move { Some(looks.fetch_add(1, Ordering::Relaxed)) }
        };
        let (first, second) = tokio::join!(space.ask(hanging), space.ask(look()));
        assert_eq!((first, second), (None, None));
        assert!((PATIENCE..2 * PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
        tokio::time::sleep(FRESH).await;
        assert_eq!(space.ask(look()).await, None);
        tokio::time::sleep(FRESH).await;
        assert_eq!(looks.load(Ordering::Relaxed), 0, "a second look was begun");
        release.send(()).unwrap();
        tokio::time::sleep(FRESH).await;
        assert_eq!(space.ask(async { Some(2) }).await, Some(2), "not the old answer");
    }
}
