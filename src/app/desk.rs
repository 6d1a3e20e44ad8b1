//! Who answers what is asked over the control socket: the scheduler knows how it is going, the
//! reloader reads configurations.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::reload::{Request, Verdict};
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
        let Some(standing) = self.asked(|reply| Control::Status { reply }).await else {
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
        let Some(overview) = self.asked(|reply| Control::Overview { reply }).await else {
            return unavailable("the scheduler does not answer");
        };
        match serde_json::to_value(Stamped::of(&overview, &self.config_file)) {
            Ok(document) => Answer::Document { document },
            Err(error) => unavailable(&error.to_string()),
        }
    }

    async fn retry(&self, exports: BTreeSet<ExportId>) -> Answer {
        let Some(retried) = self.asked(|reply| Control::Retry { exports, reply }).await else {
            return unavailable("it is stopping");
        };
        Answer::Retried { exports: retried.into_iter().map(Retried::from).collect() }
    }

    async fn forget(&self, exports: BTreeSet<ExportId>) -> Answer {
        let (reply, outcome) = oneshot::channel();
        let asked = async {
            self.engine.send(Control::Forget { exports, reply }).await.ok()?;
            outcome.await.ok()
        };
        let told = |archive::Forgotten { project, export, hindrance }| Forgotten {
            project: project.to_string(),
            export,
            hindrance,
        };
        match tokio::time::timeout(FORGET_TIMEOUT, asked).await {
            Ok(Some(Ok(outcomes))) => {
                Answer::Forgotten { exports: outcomes.into_iter().map(told).collect() }
            }
            Ok(Some(Err(cause))) => unavailable(&cause),
            Ok(None) => unavailable("it is stopping"),
            Err(_) => unavailable("the disk does not answer"),
        }
    }

    async fn reload(&self) -> Answer {
        let (reply, verdict) = oneshot::channel();
        let asked = async {
            self.reloads.send(reply).await.ok()?;
            verdict.await.ok()
        };
        match tokio::time::timeout(RELOAD_TIMEOUT, asked).await {
            Ok(Some(Verdict::Reloaded { words, file })) => Answer::Reloaded { words, file },
            Ok(Some(Verdict::Refused { faults })) => Answer::Refused { faults },
            Ok(None) => unavailable("it is stopping"),
            Err(_) => unavailable("the configuration is still being read"),
        }
    }

    async fn asked<T>(&self, control: impl FnOnce(oneshot::Sender<T>) -> Control) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.engine.send(control(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(SCHEDULER_TIMEOUT, asked).await.ok().flatten()
    }
}

fn unavailable(cause: &str) -> Answer {
    Answer::Unavailable { cause: cause.to_owned() }
}
