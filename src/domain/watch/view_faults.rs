//! Views that fail in a row: how long to wait, and what is news.

use std::time::Duration;

use super::{Notice, Step};
use crate::domain::stage::Cause;
use crate::domain::wait::Trouble;

pub(super) const NO_FILES: &str = "the API reports SUCCESS without a list of files";

/// Views that fail in a row.
#[derive(Debug, Default)]
pub(super) struct ViewFaults {
    pub(super) trouble: Option<Trouble>,
}

impl ViewFaults {
    /// Tells the cause and asks again after a backoff.
    pub(super) fn met(&mut self, cause: Cause, words: String, step: &mut Step<'_>) {
        self.tell(cause, words, step);
        let delay = self.delay(step);
        step.view_after(delay);
    }

    pub(super) fn over(&mut self, step: &mut Step<'_>) {
        if self.trouble.take().is_some() {
            step.notify(Notice::PollRecovered);
        }
    }

    pub(super) fn tell(&mut self, cause: Cause, words: String, step: &mut Step<'_>) {
        if Trouble::met(&mut self.trouble, cause, words.clone(), step.cx.now.since_start) {
            step.notify(Notice::PollFailing { cause: words });
        }
    }

    /// The backoff after what was told last.
    pub(super) fn delay(&self, step: &Step<'_>) -> Duration {
        step.backoff(self.trouble.as_ref().map_or(1, |trouble| trouble.attempts))
    }
}
