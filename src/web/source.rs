//! The scheduler's answer, made once for all clients that ask at about the same time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use crate::engine::Control;
use crate::engine::overview::Overview;
use crate::status::{Document, Stamped};

/// How long an answer counts as new.
const FRESH: Duration = Duration::from_millis(250);
/// Longest wait for the scheduler: it answers between two events, or it hangs.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Debug)]
pub(super) struct Made {
    pub(super) document: Document,
    /// The same with the time, as JSON.
    pub(super) json: Bytes,
    pub(super) overview: Box<Overview>,
}

#[derive(Debug)]
pub(super) struct Source {
    engine: mpsc::Sender<Control>,
    config_file: PathBuf,
    /// The last answer, or that there was none. Held while the scheduler is asked, so that others
    /// wait for the same answer.
    last: Mutex<Option<(Instant, Option<Arc<Made>>)>>,
}

impl Source {
    pub(super) fn new(engine: mpsc::Sender<Control>, config_file: PathBuf) -> Self {
        Self { engine, config_file, last: Mutex::new(None) }
    }

    /// `None` if the scheduler does not answer in time.
    pub(super) async fn latest(&self) -> Option<Arc<Made>> {
        let mut last = self.last.lock().await;
        if let Some((at, made)) = &*last
            && at.elapsed() < FRESH
        {
            return made.clone();
        }
        let overview = tokio::time::timeout(PATIENCE, self.ask()).await.ok().flatten();
        let made = overview.and_then(|overview| make(overview, &self.config_file)).map(Arc::new);
        *last = Some((Instant::now(), made.clone()));
        made
    }

    async fn ask(&self) -> Option<Box<Overview>> {
        let (reply, answer) = oneshot::channel();
        self.engine.send(Control::Overview { reply }).await.ok()?;
        answer.await.ok()
    }
}

fn make(overview: Box<Overview>, config_file: &Path) -> Option<Made> {
    let stamped = Stamped::of(&overview, config_file);
    let json = serde_json::to_vec(&stamped).ok()?;
    Some(Made { document: stamped.document().clone(), json: json.into(), overview })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_clients_are_one_question() {
        let (engine, mut questions) = mpsc::channel(16);
        let source = Source::new(engine, "/c.toml".into());
        let scheduler = async {
            let mut asked = 0;
            while let Ok(Some(Control::Overview { reply })) =
                tokio::time::timeout(Duration::from_secs(1), questions.recv()).await
            {
                asked += 1;
                let _ = reply.send(Box::default());
            }
            asked
        };
        let readers = async {
            let (first, second) = tokio::join!(source.latest(), source.latest());
            assert!(Arc::ptr_eq(&first.unwrap(), &second.unwrap()));
            tokio::time::sleep(FRESH).await;
            assert!(source.latest().await.is_some());
        };
        assert_eq!(tokio::join!(scheduler, readers).0, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_hangs_is_waited_for_once() {
        let (engine, _questions) = mpsc::channel(16);
        let source = Source::new(engine, "/c.toml".into());
        let began = Instant::now();
        let (first, second) = tokio::join!(source.latest(), source.latest());
        assert!(first.is_none() && second.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
