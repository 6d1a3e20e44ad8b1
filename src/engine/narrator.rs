//! What the log says of an export: one line a change, silence while nothing changes. Every event and
//! its fields are listed in `docs/log-events.md`; `tests/it/log_events.rs` holds the code to that.
//!
//! What happens once for an export is logged at `info`, what happens once for each of its parts at
//! `debug`: an export may have thousands.

use std::time::Duration;

use crate::domain::failure::Failure;
use crate::domain::ids::{ExportId, ExportPath};
use crate::domain::part::{CommittedPart, PartKey};
use crate::domain::report::RemoteStatus;
use crate::domain::wait::Wait;
use crate::domain::watch::{Notice, Totals, Watch, WatchState};

/// Logs one notice with the fields that every line about an export carries. `retry` is the command
/// that retries exports, without their IDs.
pub(crate) fn narrate(ExportPath { project, export }: &ExportPath, notice: &Notice, retry: &str) {
    match notice {
        Notice::StatusChanged { from, to } => {
            let (from, to) = (from.as_ref().map_or("unknown", RemoteStatus::as_str), to.as_str());
            tracing::info!(event = "status_changed", %project, %export, from, to, "status changed");
        }
        Notice::PollFailing { cause } => tracing::warn!(
            event = "poll_failed", %project, %export, cause,
            "poll failed, will be repeated: {cause}"
        ),
        Notice::PollRecovered => {
            tracing::info!(event = "poll_recovered", %project, %export, "polls work again");
        }
        Notice::Surprise { words } => {
            tracing::warn!(event = "answer_odd", %project, %export, cause = words, "{words}");
        }
        Notice::PartsListed { parts, bytes, committed, partials } => tracing::info!(
            event = "parts_listed", %project, %export, parts, bytes, committed, partials,
            "parts listed"
        ),
        Notice::PartFailing { key: PartKey { number, file_id }, cause } => tracing::warn!(
            event = "part_failed", %project, %export, part = number, file = %file_id, cause,
            "part failed, will be repeated: {cause}"
        ),
        Notice::PartAbandoned { key: PartKey { number, file_id }, cause } => tracing::error!(
            event = "part_abandoned", %project, %export, part = number, file = %file_id, cause,
            "part given up: {cause}"
        ),
        Notice::PartCheckpointed { key: PartKey { number, file_id }, bytes } => tracing::debug!(
            event = "part_checkpointed", %project, %export, part = number, file = %file_id,
            bytes, "checkpoint"
        ),
        Notice::PartCommitted(part) => {
            let CommittedPart { key: PartKey { number, file_id }, bytes, sha256, .. } = part;
            tracing::debug!(
                event = "part_committed", %project, %export, part = number, file = %file_id, bytes,
                %sha256, "part committed"
            );
        }
        Notice::ExportSealed(Totals { parts, bytes }) => tracing::info!(
            event = "export_sealed", %project, %export, parts, bytes, "manifest.json written"
        ),
        Notice::ExportCompleted(Totals { parts, bytes }) => tracing::info!(
            event = "export_completed", %project, %export, parts, bytes, "export whole"
        ),
        Notice::ExportFailed(failure) => {
            let (kind, error_code) = (failure.kind.as_str(), failure.error_code.as_deref());
            let (cause, advice) = (&failure.cause, advice(failure, export, retry));
            tracing::error!(
                event = "export_failed", %project, %export, kind, error_code, cause,
                "export failed: {cause}; {advice}"
            );
        }
        Notice::PartsGone(gone) => {
            let (count, first) = (gone.len(), gone.first().map(|key| key.file_id.as_str()));
            tracing::warn!(
                event = "parts_gone", %project, %export, parts = count, file = first,
                "finished parts were removed before there was a manifest: {count}; they are \
                 downloaded again"
            );
        }
        Notice::FailureForgotten => tracing::info!(
            event = "failure_forgotten", %project, %export, "the failure is forgotten"
        ),
    }
}

/// What a person can do about a failure: the same that the status says.
fn advice(failure: &Failure, export: &ExportId, retry: &str) -> String {
    match failure.kind.advice() {
        (words, true) => format!("{words}: {retry} {export}"),
        (words, false) => words.to_owned(),
    }
}

/// What has waited for long, told again from time to time. `wait` is that of the export that has
/// waited the longest, of `exports` that wait for the same cause.
pub(crate) fn waits_long(path: &ExportPath, wait: &Wait, exports: usize, age: Duration) {
    let ExportPath { project, export } = path;
    let (cause, words, advice) = (wait.cause.as_str(), wait.words(), wait.advice());
    let (attempts, age_seconds) = (wait.attempts, age.as_secs());
    let for_long = humantime::format_duration(Duration::from_secs(age_seconds));
    tracing::warn!(
        event = "wait_lasts", %project, %export, cause, attempts, age_seconds, exports,
        "the export has waited for {for_long}: {words}; {advice}"
    );
}

/// The first line about an export: what is known of it when the program begins to watch it.
pub(crate) fn introduce(watch: &Watch, retry: &str) {
    let ExportPath { project, export } = watch.path();
    match watch.state() {
        WatchState::Polling(polling) if polling.is_new() => {
            tracing::info!(event = "export_watched", %project, %export, "watching the export");
        }
        WatchState::Polling(polling) => {
            let status = polling.seen().map(RemoteStatus::as_str);
            let kept = polling.kept();
            let (committed, partials) = (kept.committed.len(), kept.partials.len());
            tracing::info!(
                event = "export_recovered", %project, %export, status, committed, partials,
                "continuing where an earlier run stopped"
            );
        }
        WatchState::Sealing { totals: Totals { parts, bytes }, .. } => tracing::info!(
            event = "seal_recovered", %project, %export, parts, bytes,
            "every part is here; manifest.json is next"
        ),
        WatchState::Completed { totals: Totals { parts, bytes }, .. } => tracing::debug!(
            event = "completion_recovered", %project, %export, parts, bytes,
            "an earlier run completed the export"
        ),
        WatchState::Failing { failure, .. } | WatchState::Failed { failure, .. } => {
            let (kind, error_code) = (failure.kind.as_str(), failure.error_code.as_deref());
            let (cause, failed_at) = (&failure.cause, failure.at);
            let advice = advice(failure, export, retry);
            tracing::warn!(
                event = "failure_recovered", %project, %export, kind, error_code, %failed_at, cause,
                "the export failed on {failed_at}: {cause}; {advice}"
            );
        }
        // Recovery leaves no export in this state.
        WatchState::Fetching(_) => {}
    }
}

/// The folder is there, and was looked at.
pub(crate) fn prepared(ExportPath { project, export }: &ExportPath, adopted: &[CommittedPart]) {
    let adopted = adopted.len();
    tracing::debug!(event = "folder_prepared", %project, %export, adopted, "folder ready");
    if adopted > 0 {
        tracing::info!(
            event = "parts_adopted", %project, %export, parts = adopted,
            "finished files without a record are adopted"
        );
    }
}

/// A part got a slot.
pub(crate) fn part_started(ExportPath { project, export }: &ExportPath, key: &PartKey) {
    let (part, file) = (key.number, &key.file_id);
    tracing::debug!(event = "part_started", %project, %export, part, %file, "part started");
}

pub(crate) fn retried(ExportPath { project, export }: &ExportPath) {
    tracing::info!(
        event = "export_retried", %project, %export,
        "the failed export will be tried again, as requested"
    );
}

/// The configuration no longer has the export.
pub(crate) fn removed(ExportPath { project, export }: &ExportPath) {
    tracing::info!(
        event = "export_removed", %project, %export,
        "the export is no longer configured: nothing new starts for it"
    );
}

/// The configuration has the export again before it was forgotten.
pub(crate) fn restored(ExportPath { project, export }: &ExportPath) {
    tracing::info!(
        event = "export_restored", %project, %export,
        "the export is configured again and continues where it is"
    );
}

pub(crate) fn forgotten(ExportPath { project, export }: &ExportPath) {
    tracing::debug!(
        event = "export_forgotten", %project, %export,
        "nothing is under way for the removed export"
    );
}
