//! Views that fail in a row: how long to wait, and what is news.

use std::time::Duration;

use super::{Notice, Step};

pub(super) const NO_FILES: &str = "the API reports SUCCESS without a list of files";

/// Views that fail in a row.
#[derive(Debug, Default)]
pub(super) struct ViewFaults {
    count: u32,
    /// The last cause that was logged.
    told: Option<String>,
}

impl ViewFaults {
    /// Tells the cause and asks again after a backoff.
    pub(super) fn met(&mut self, cause: String, step: &mut Step<'_>) {
        self.tell(cause, step);
        let delay = self.next_delay(step);
        step.view_after(delay);
    }

    pub(super) fn over(&mut self, step: &mut Step<'_>) {
        if std::mem::take(self).told.is_some() {
            step.notify(Notice::PollRecovered);
        }
    }

    pub(super) fn tell(&mut self, cause: String, step: &mut Step<'_>) {
        if is_news(&mut self.told, &cause) {
            step.notify(Notice::PollFailing { cause });
        }
    }

    pub(super) fn next_delay(&mut self, step: &Step<'_>) -> Duration {
        self.count = self.count.saturating_add(1);
        step.backoff(self.count)
    }
}

/// Whether this cause is another one than the last that was told.
pub(super) fn is_news(told: &mut Option<String>, cause: &str) -> bool {
    told.replace(cause.to_owned()).as_deref() != Some(cause)
}
