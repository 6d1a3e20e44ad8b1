//! What people are told of an export: one line a change, silence while nothing changes.

use crate::domain::watch::{Notice, Watch};

/// Logs one notice with the fields that every line about an export carries.
pub(crate) fn narrate(watch: &Watch, notice: &Notice) {
    let (project, export) = (watch.project(), watch.export());
    match notice {
        Notice::StatusChanged { from, to } => {
            let from = from.as_ref().map_or("unknown", |status| status.as_str());
            tracing::info!(%project, %export, from, to = to.as_str(), "status changed");
        }
        Notice::PollFailing { cause } => {
            tracing::warn!(%project, %export, "poll failed, will be repeated: {cause}");
        }
        Notice::PollRecovered => tracing::info!(%project, %export, "polls work again"),
        Notice::Surprise { words } => tracing::warn!(%project, %export, "{words}"),
        Notice::PartFailing { key, cause } => {
            tracing::warn!(%project, %export, part = key.number, file = %key.file_id, "part failed, will be repeated: {cause}");
        }
        Notice::PartAbandoned { key, cause } => {
            tracing::error!(%project, %export, part = key.number, file = %key.file_id, "part given up: {cause}");
        }
        Notice::PartCheckpointed { key, bytes } => {
            tracing::debug!(%project, %export, part = key.number, file = %key.file_id, bytes, "checkpoint");
        }
        Notice::PartCommitted(part) => {
            tracing::info!(%project, %export, part = part.key.number, file = %part.key.file_id, bytes = part.bytes, sha256 = %part.sha256, "part committed");
        }
        Notice::ExportCompleted(totals) => {
            tracing::info!(%project, %export, parts = totals.parts, bytes = totals.bytes, "export whole");
        }
        Notice::ExportFailed(failure) => {
            let (kind, error_code) = (failure.kind.as_str(), failure.error_code.as_deref());
            tracing::error!(%project, %export, kind, error_code, "export failed: {}; to try again, run: batch-export-watcher retry {export}", failure.cause);
        }
    }
}
