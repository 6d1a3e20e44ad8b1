//! Who answers what is asked over the control socket: the scheduler knows how it is going, the
//! reloader reads configurations.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::error::Elapsed;

use super::reload::Request;
use crate::control::{Answer, Forgotten, Question, Report, Retried};
use crate::domain::ids::ExportId;
use crate::engine::{Control, archive};
use crate::status::Stamped;

/// Longest wait for the scheduler: it answers between two events, or it hangs.
const SCHEDULER_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest wait until exports are forgotten: what is under way for them comes to its end first.
const FORGET_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest wait for a reload: its files may lie on a share that hangs.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(50);

/// Answers questions. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) engine: mpsc::Sender<Control>,
    pub(super) reloads: mpsc::Sender<Request>,
    /// The configuration that this program reads.
    pub(super) config_file: PathBuf,
}

impl Desk {
    pub(super) async fn answer(self, question: Question) -> Answer {
        match question {
            Question::Status => self.status().await,
            Question::Document => self.document().await,
            Question::Reload => self.reload().await,
            Question::Retry { exports } => self.retry(exports).await,
            Question::Forget { exports } => self.forget(exports).await,
            #[cfg(debug_assertions)]
            Question::Hang => {
                drop(self.engine.send(Control::Hang).await);
                Answer::NotUnderstood
            }
        }
    }

    async fn status(&self) -> Answer {
        let Some(standing) = self.ask_engine(|reply| Control::Status { reply }).await else {
            return unavailable("the scheduler does not answer");
        };
        Answer::Status(Report {
            sentence: standing.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            watching: standing.counts.watching,
            downloading: standing.counts.downloading,
            whole: standing.counts.whole,
            failed: standing.counts.failed,
            reloads_accepted: standing.reloads.accepted,
            reloads_refused: standing.reloads.refused,
        })
    }

    async fn document(&self) -> Answer {
        let Some(overview) = self.ask_engine(|reply| Control::Overview { reply }).await else {
            return unavailable("the scheduler does not answer");
        };
        match serde_json::to_value(Stamped::of(&overview, &self.config_file)) {
            Ok(document) => Answer::Document { document },
            Err(error) => unavailable(&error.to_string()),
        }
    }

    async fn retry(&self, exports: BTreeSet<ExportId>) -> Answer {
        let retry = |reply| Control::Retry { exports, reply };
        let Some(retried) = self.ask_engine(retry).await else {
            return unavailable("it is stopping");
        };
        Answer::Retried { exports: retried.into_iter().map(Retried::from).collect() }
    }

    async fn forget(&self, exports: BTreeSet<ExportId>) -> Answer {
        let forget = |reply| Control::Forget { exports, reply };
        match ask(&self.engine, FORGET_TIMEOUT, forget).await {
            Ok(Some(Ok(outcomes))) => {
                Answer::Forgotten { exports: outcomes.into_iter().map(Forgotten::from).collect() }
            }
            Ok(Some(Err(cause))) => unavailable(&cause),
            Ok(None) => unavailable("it is stopping"),
            Err(_) => unavailable("the disk does not answer"),
        }
    }

    async fn reload(&self) -> Answer {
        match ask(&self.reloads, RELOAD_TIMEOUT, |reply| reply).await {
            Ok(Some(verdict)) => verdict,
            Ok(None) => unavailable("it is stopping"),
            Err(_) => unavailable("the configuration is still being read"),
        }
    }

    async fn ask_engine<T>(
        &self,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Option<T> {
        ask(&self.engine, SCHEDULER_TIMEOUT, control).await.ok().flatten()
    }
}

/// The answer, in time; `None` if nobody is there to give one.
async fn ask<Q, T>(
    to: &mpsc::Sender<Q>,
    limit: Duration,
    question: impl FnOnce(oneshot::Sender<T>) -> Q,
) -> Result<Option<T>, Elapsed> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        to.send(question(reply)).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(limit, asked).await
}

impl From<archive::Forgotten> for Forgotten {
    fn from(archive::Forgotten { project, export, hindrance }: archive::Forgotten) -> Self {
        Self { project: project.to_string(), export, hindrance }
    }
}

fn unavailable(cause: &str) -> Answer {
    Answer::Unavailable { cause: cause.to_owned() }
}
