//! The request budget as the API sees it: how many view calls of a project fall into any second,
//! and into any ten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batch_export_watcher::simulator::{Origin, Recorded};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// View calls that may go out at once, whatever the rate.
pub(super) const BURST: u64 = 10;
/// How late a call may come that went out in time, where the machine does not stall: what arrives
/// is what is counted.
const UNDER_WAY: Duration = Duration::from_millis(150);
/// The windows that are counted, in seconds.
const WINDOWS: [u64; 2] = [1, 10];

/// The view calls of the last seconds, for each project.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u64,
    recent: HashMap<String, VecDeque<Instant>>,
    /// Most calls of one project in each window.
    pub(super) busiest: [u64; WINDOWS.len()],
    /// All view calls.
    pub(super) views: u64,
}

impl Budget {
    pub(super) fn new(per_second: u64) -> Self {
        Self { per_second, recent: HashMap::new(), busiest: [0; WINDOWS.len()], views: 0 }
    }

    /// Counts a request, in order of arrival; the machine has stalled for so long at most.
    ///
    /// # Errors
    /// When it is one too many.
    pub(super) fn see(&mut self, request: &Recorded, stalled: Duration) -> Result<(), String> {
        if request.origin != Origin::Api || !request.path.ends_with("/exports/view") {
            return Ok(());
        }
        self.views += 1;
        let project = request.header("x-batch-project").unwrap_or_default();
        let recent = self.recent.entry(project.to_owned()).or_default();
        recent.push_back(request.at);
        while recent
            .front()
            .is_some_and(|first| request.at - *first > Duration::from_secs(WINDOWS[1]))
        {
            recent.pop_front();
        }
        for (window, busiest) in WINDOWS.into_iter().zip(&mut self.busiest) {
            let since = |at: &&Instant| request.at - **at <= Duration::from_secs(window);
            let calls = recent.iter().rev().take_while(since).count() as u64;
            *busiest = calls.max(*busiest);
            let late = u64::try_from((UNDER_WAY + stalled).as_millis()).unwrap_or_default();
            if calls > BURST + self.per_second * window + self.per_second * late / 1000 {
                let calls: Vec<_> =
                    recent.iter().rev().take_while(since).map(|at| request.at - *at).collect();
                return Err(format!(
                    "{} view calls of {project} in {window} s, stalled for {stalled:?}: {calls:?}",
                    calls.len()
                ));
            }
        }
        Ok(())
    }

    /// What the windows may hold, where no call is late.
    pub(super) fn allowed(&self) -> [u64; WINDOWS.len()] {
        WINDOWS.map(|window| BURST + self.per_second * window)
    }

    /// Another process begins with a full bucket.
    pub(super) fn restarted(&mut self) {
        self.recent.clear();
    }
}

/// How long this process had to wait for a processor lately: others have it, too.
#[derive(Debug)]
pub(super) struct Stalls {
    recent: Arc<Mutex<VecDeque<(Instant, Duration)>>>,
    _watch: JoinSet<()>,
}

impl Stalls {
    const LOOK: Duration = Duration::from_millis(10);
    /// As long as the longest window, and the time until it is looked at.
    const KEPT: Duration = Duration::from_secs(15);

    /// Watches from now on.
    pub(super) fn watch() -> Self {
        let recent = Arc::new(Mutex::new(VecDeque::new()));
        let mut watch = JoinSet::new();
        let stalls = Arc::clone(&recent);
        watch.spawn(async move {
            loop {
                let before = Instant::now();
                tokio::time::sleep(Self::LOOK).await;
                let late = before.elapsed().saturating_sub(Self::LOOK);
                let mut stalls = stalls.lock().unwrap_or_else(PoisonError::into_inner);
                stalls.push_back((before, late));
                while stalls.front().is_some_and(|(at, _)| at.elapsed() > Self::KEPT) {
                    stalls.pop_front();
                }
            }
        });
        Self { recent, _watch: watch }
    }

    /// The longest of the last seconds.
    pub(super) fn longest(&self) -> Duration {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().map(|(_, late)| *late).max().unwrap_or_default()
    }
}
