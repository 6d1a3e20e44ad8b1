//! How one project reaches the API: its client, and the source that its key is read from again if
//! the API refuses the one in use.

use std::sync::Arc;
use std::time::Duration;

use super::gates::Pass;
use crate::api::{ApiClient, LinkOutcome};
use crate::config::{Environment, KeySource};
use crate::domain::failure::{Hold, Observation, ViewOutcome};
use crate::domain::ids::{ExportId, FileId, ProjectName};

/// Longest wait for a key source. A file on a network share that hangs must not hold up a probe
/// forever.
const KEY_READ_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(crate) struct Access {
    project: ProjectName,
    client: ApiClient,
    key_source: KeySource,
    environment: Arc<Environment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyUse {
    AtHand,
    /// The API refused the key before: first read its source again.
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

    pub(crate) fn key_source(&self) -> &KeySource {
        &self.key_source
    }

    pub(crate) fn has_key_of(&self, other: &Self) -> bool {
        self.client.has_key_of(&other.client)
    }

    /// Asks for one view. If the API refuses the key and its source now holds another one, the
    /// answer is [`Hold::KeyReplaced`]: the caller asks again, at the cost of the request budget.
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

    /// Asks for one signed link. If the API refuses the key and its source now holds another one,
    /// this asks once more: a link costs no budget.
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

    /// Reads the key source. Returns whether the key in use differs from that of the generation. A
    /// call that was refused at the same time may have replaced it.
    async fn key_differs_from(&self, generation: u64) -> bool {
        self.read_key_again().await;
        self.client.key_generation() != generation
    }

    async fn read_key_again(&self) {
        let (source, environment) = (self.key_source.clone(), self.environment.clone());
        let read = tokio::task::spawn_blocking(move || source.read(&environment));
        let cause = match tokio::time::timeout(KEY_READ_TIMEOUT, read).await {
            Ok(Ok(Ok(key))) => {
                if let Err(error) = self.client.replace_key(key.secret()) {
                    tracing::warn!(
                        event = "key_unusable", project = %self.project, cause = %error,
                        "the REST API key in {} cannot be used: {error}",
                        self.key_source
                    );
                }
                return;
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) | Err(_) => format!("no answer within {KEY_READ_TIMEOUT:?}"),
        };
        tracing::warn!(
            event = "key_unreadable", project = %self.project, source = %self.key_source, cause,
            "the REST API key cannot be read again from {}: {cause}",
            self.key_source
        );
    }
}
