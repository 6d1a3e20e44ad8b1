//! One project's way to the API: its client, and where its key comes from when the one in use is
//! refused.

use std::sync::Arc;
use std::time::Duration;

use super::gates::Pass;
use crate::api::{ApiClient, LinkOutcome};
use crate::config::{Environment, KeySource};
use crate::domain::failure::{Hold, Observation, ViewOutcome};
use crate::domain::ids::{ExportId, FileId, ProjectName};

/// Longest wait for a key source to be read; a file on a network share that hangs must not hold up
/// a probe for ever.
const KEY_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A project's client together with the source of its key.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    project: ProjectName,
    client: ApiClient,
    key_source: KeySource,
    environment: Arc<Environment>,
}

/// Whether the key is read again before a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyUse {
    /// Use the key at hand.
    AtHand,
    /// The key was refused before: look first whether there is another one.
    ReadAgain,
}

impl KeyUse {
    /// How a call with this pass uses the key.
    pub(crate) fn of(pass: &Pass) -> Self {
        if pass.probes_key() { Self::ReadAgain } else { Self::AtHand }
    }
}

impl Access {
    pub(crate) fn new(
        project: ProjectName,
        client: ApiClient,
        key_source: KeySource,
        environment: Arc<Environment>,
    ) -> Self {
        Self { project, client, key_source, environment }
    }

    /// Where the key is read from.
    pub(crate) fn key_source(&self) -> &KeySource {
        &self.key_source
    }

    /// Whether both use the same key.
    pub(crate) fn has_key_of(&self, other: &Self) -> bool {
        self.client.has_key_of(&other.client)
    }

    /// One view; a refused key is read again, and where that brought another one, the call is to be
    /// made anew: it costs the project's request budget like any other.
    pub(crate) async fn view(&self, export: &ExportId, key: KeyUse) -> Vec<Observation> {
        if key == KeyUse::ReadAgain {
            self.read_key_again().await;
        }
        let generation = self.client.key_generation();
        let outcome = match self.client.view(export).await {
            ViewOutcome::Held(Hold::Unauthorized { .. })
                if self.key_differs_from(generation).await =>
            {
                ViewOutcome::Held(Hold::KeyReplaced)
            }
            outcome => outcome,
        };
        vec![Observation { export: export.clone(), outcome }]
    }

    /// One signed link; it costs no budget, so that with another key the call is made once more
    /// here.
    pub(crate) async fn link(&self, file: &FileId, key: KeyUse) -> LinkOutcome {
        if key == KeyUse::ReadAgain {
            self.read_key_again().await;
        }
        let generation = self.client.key_generation();
        match self.client.link(file).await {
            LinkOutcome::Held(Hold::Unauthorized { .. })
                if self.key_differs_from(generation).await =>
            {
                self.client.link(file).await
            }
            outcome => outcome,
        }
    }

    /// Reads the key source. Returns whether another key is in use than at that generation; a call
    /// that was refused at the same time may have brought it.
    async fn key_differs_from(&self, generation: u64) -> bool {
        self.read_key_again().await;
        self.client.key_generation() != generation
    }

    /// Reads the key source and uses what it holds.
    async fn read_key_again(&self) {
        let (source, environment) = (self.key_source.clone(), self.environment.clone());
        let read = tokio::task::spawn_blocking(move || source.read(&environment));
        match tokio::time::timeout(KEY_READ_TIMEOUT, read).await {
            Ok(Ok(Ok(key))) => {
                if let Err(error) = self.client.replace_key(key.secret()) {
                    tracing::warn!(event = "key_unusable", project = %self.project, cause = %error, "the rest api key cannot be used: {error}");
                }
            }
            Ok(Ok(Err(error))) => {
                tracing::warn!(event = "key_unreadable", project = %self.project, source = %self.key_source, cause = %error, "the rest api key cannot be read again from {}: {error}", self.key_source);
            }
            Ok(Err(_)) | Err(_) => {
                let cause = "no answer in time";
                tracing::warn!(event = "key_unreadable", project = %self.project, source = %self.key_source, cause, "the rest api key cannot be read again from {}: {cause}", self.key_source);
            }
        }
    }
}
