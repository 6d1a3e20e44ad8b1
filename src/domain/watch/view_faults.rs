//! Views that fail in a row: how long to wait, and what is news.

use std::time::Duration;

use super::{Notice, Step};
use crate::domain::failure::Hold;
use crate::domain::stage::Cause;
use crate::domain::wait::Trouble;

pub(super) const NO_FILES: &str = "the API reports SUCCESS without a list of files";

/// Views that fail in a row.
#[derive(Debug, Default)]
pub(super) struct ViewFaults {
    pub(super) trouble: Option<Trouble>,
    /// Those that a backoff follows; after the others a pause of more than this export.
    failures: u32,
}

impl ViewFaults {
    /// Tells the cause and asks again after a backoff.
    pub(super) fn met(&mut self, cause: Cause, words: String, step: &mut Step<'_>) {
        self.tell(cause, words, step);
        let delay = self.delay(step);
        step.view_after(delay);
    }

    /// The answer made more than this export wait. It is asked again when that is over.
    pub(super) fn held(&mut self, hold: &Hold, step: &mut Step<'_>) {
        if let (Some(cause), Some(words)) = (Cause::of_hold(hold), hold.words()) {
            Trouble::held(&mut self.trouble, cause, words, step.cx.now.since_start);
        }
        step.view_after(Duration::ZERO);
    }

    pub(super) fn over(&mut self, step: &mut Step<'_>) {
        self.failures = 0;
        if self.trouble.take().is_some_and(|trouble| trouble.was_told()) {
            step.notify(Notice::PollRecovered);
        }
    }

    pub(super) fn tell(&mut self, cause: Cause, words: String, step: &mut Step<'_>) {
        self.failures = self.failures.saturating_add(1);
        if Trouble::met(&mut self.trouble, cause, words.clone(), step.cx.now.since_start) {
            step.notify(Notice::PollFailing { cause: words });
        }
    }

    /// The backoff after what was told last.
    pub(super) fn delay(&self, step: &Step<'_>) -> Duration {
        step.backoff(self.failures.max(1))
    }
}
