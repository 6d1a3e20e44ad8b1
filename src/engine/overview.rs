//! The read model: everything at one moment, made when somebody looks. The status document, the
//! page, the metrics, the progress bars and the service manager's sentence are all made from it.
//! Plain data, without secrets.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{ExportId, ProjectName};
use crate::domain::moment::Moment;
use crate::domain::part::PartKey;
use crate::domain::rate::Rate;
use crate::domain::report::RemoteStatus;
use crate::domain::stage::{Cause, Stage};
use crate::domain::wait::{Concern, Trouble, Wait};
use crate::domain::watch::{Fetching, Kept, PartState, Totals, Watch, WatchState};

#[derive(Debug, Clone, Default)]
pub struct Overview {
    pub started_at: Timestamp,
    pub standing: Standing,
    pub slots_in_use: usize,
    pub slots_max: usize,
    /// In configuration order.
    pub projects: Vec<ProjectOverview>,
}

/// How the work stands as a whole; `Display` makes a sentence of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub now: Timestamp,
    pub counts: Counts,
    /// Whether a poll is under way.
    pub polling: bool,
    /// When the next poll is due; `None` if none is planned.
    pub next_poll_at: Option<Timestamp>,
    /// What everything or a project waits for. What holds up more comes first.
    pub waits: Vec<Wait>,
    /// Whether a stop has begun.
    pub draining: bool,
    pub reloads: Reloads,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Exports that are not settled.
    pub watching: usize,
    /// Those of them with a part under way.
    pub downloading: usize,
    pub whole: usize,
    pub failed: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloads {
    pub accepted: u64,
    pub refused: u64,
    /// Why the last one was refused, in one line; `None` as soon as one is accepted.
    pub refusal: Option<String>,
}

#[derive(Debug, Clone)]
pub struct ProjectOverview {
    pub name: ProjectName,
    /// When an export of it last became whole, in this run or an earlier one.
    pub last_success: Option<Timestamp>,
    /// In configuration order.
    pub exports: Vec<ExportOverview>,
}

#[derive(Debug, Clone)]
pub struct ExportOverview {
    pub id: ExportId,
    pub stage: Stage,
    /// The last status that the API reported. An export that is fetched or whole had SUCCESS.
    pub remote_status: Option<Arc<str>>,
    /// When it came to its stage, as far as this run knows.
    pub since: Timestamp,
    pub next_poll_at: Option<Timestamp>,
    pub progress: Progress,
    /// The average of the last few seconds.
    pub bytes_per_second: u64,
    pub active_parts: Vec<ActivePart>,
    pub failure: Option<Failure>,
    /// What holds it up most; `None` if nothing does.
    pub waiting: Option<Wait>,
}

/// How much of an export is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub parts_done: u64,
    pub parts_total: u64,
    /// Bytes on disk, those of partials included.
    pub bytes_done: u64,
    /// Declared bytes; `None` unless every part has a declared length.
    pub bytes_total: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct ActivePart {
    pub key: PartKey,
    pub bytes: u64,
    /// Its length, if the API declared one.
    pub total: Option<u64>,
}

/// What is remembered of an export from one look to the next.
#[derive(Debug)]
pub(crate) struct Shown {
    /// When the export came to its stage.
    since: Timestamp,
    rate: Rate,
}

impl Shown {
    /// Of an export that is new, or that recovery has found.
    pub(crate) fn of(watch: &Watch) -> Self {
        let since = match watch.state() {
            WatchState::Completed { at, .. } => *at,
            WatchState::Failing { failure, .. } | WatchState::Failed { failure, .. } => failure.at,
            WatchState::Polling(_) | WatchState::Fetching(_) | WatchState::Sealing { .. } => {
                Timestamp::now()
            }
        };
        Self { since, rate: Rate::default() }
    }

    /// The export came to another stage.
    pub(crate) fn moved(&mut self, now: Timestamp) {
        *self = Self { since: now, rate: Rate::default() };
    }
}

impl ExportOverview {
    /// `due` is the time of the next poll since the start. Its own troubles are what it waits for.
    pub(crate) fn of(
        watch: &Watch,
        shown: &mut Shown,
        due: Option<Duration>,
        parts: &impl PartsUnderWay,
        clock: Moment,
    ) -> Self {
        let stage = watch.state().stage();
        let next_poll_at = due.map(|due| clock.wall_at(due));
        let view_wait = |trouble: Option<&Trouble>| {
            Some(Wait { next_at: next_poll_at, ..Wait::of(trouble?, Concern::Export, clock) })
        };
        let (progress, active_parts, waiting) = match watch.state() {
            WatchState::Fetching(fetching) => {
                let (progress, active, wait) = fetched(fetching, parts, clock);
                (progress, active, wait.or_else(|| view_wait(fetching.view_trouble())))
            }
            WatchState::Polling(polling) => {
                (Progress::default(), Vec::new(), view_wait(polling.trouble()))
            }
            state => (Progress::of(state), Vec::new(), None),
        };
        let (remote_status, failure) = match watch.state() {
            WatchState::Polling(polling) => (polling.seen().cloned(), None),
            WatchState::Failing { failure, .. } | WatchState::Failed { failure, .. } => {
                let is_remote = failure.kind == FailureKind::RemoteError;
                (is_remote.then_some(RemoteStatus::Error), Some(failure.clone()))
            }
            WatchState::Fetching(_) | WatchState::Sealing { .. } | WatchState::Completed { .. } => {
                (Some(RemoteStatus::Success), None)
            }
        };
        let bytes_per_second = match stage {
            Stage::Fetching => shown.rate.observe(progress.bytes_done, clock.since_start),
            _ => 0,
        };
        Self {
            id: watch.path().export.clone(),
            stage,
            remote_status: remote_status.map(|status| status.as_str().into()),
            since: shown.since,
            next_poll_at,
            progress,
            bytes_per_second,
            active_parts,
            failure,
            waiting,
        }
    }
}

/// How far the parts of one export are that something is under way for.
pub(crate) trait PartsUnderWay {
    /// Bytes of the attempt under way.
    fn bytes(&self, key: &PartKey) -> u64;
    /// When the part is tried again, since the start.
    fn retry_at(&self, key: &PartKey) -> Option<Duration>;
}

/// The progress, the parts under way, and what the part waits for that fares worst.
fn fetched(
    fetching: &Fetching,
    parts: &impl PartsUnderWay,
    clock: Moment,
) -> (Progress, Vec<ActivePart>, Option<Wait>) {
    let mut progress = Progress { bytes_total: Some(0), ..Progress::default() };
    let mut active = Vec::new();
    let mut worst: Option<(&PartKey, &Trouble)> = None;
    let mut is_queued = false;
    for (key, part) in fetching.parts() {
        progress.parts_total += 1;
        let (sum, declared) = (progress.bytes_total, part.declared_bytes);
        progress.bytes_total = sum.and_then(|sum| sum.checked_add(declared?));
        let bytes = match &part.state {
            PartState::Committed(done) | PartState::Recording(done) => {
                progress.parts_done += 1;
                done.bytes
            }
            PartState::Active => {
                // Until its partial is open, a part has what an earlier attempt left.
                let bytes = parts.bytes(key).max(part.resumable_bytes());
                active.push(ActivePart { key: key.clone(), bytes, total: declared });
                bytes
            }
            PartState::Queued | PartState::Waiting | PartState::AwaitingView => {
                part.resumable_bytes()
            }
            PartState::Abandoned { .. } => 0,
        };
        progress.bytes_done = progress.bytes_done.saturating_add(bytes);
        is_queued |= part.state == PartState::Queued;
        // An attempt that gains bytes is no longer in trouble, unless that has been so before.
        let gains = part.state == PartState::Active && bytes > part.resumable_bytes();
        let is_over = matches!(
            part.state,
            PartState::Recording(_) | PartState::Committed(_) | PartState::Abandoned { .. }
        );
        let trouble = part.trouble.as_ref().filter(|met| !is_over && met.attempts > 0);
        if let Some(trouble) = trouble.filter(|met| !gains || met.is_lasting(clock.since_start))
            && worst.is_none_or(|(_, other)| trouble.is_worse_than(other))
        {
            worst = Some((key, trouble));
        }
    }
    let wait = worst.map(|(key, trouble)| {
        let next_at = parts.retry_at(key).map(|at| clock.wall_at(at));
        Wait { next_at, ..Wait::of(trouble, Concern::Part(key.number), clock) }
    });
    let starves = is_queued && active.is_empty() && fetching.is_prepared();
    let slots = || starves.then(|| Wait::new(Cause::Slots, Concern::Slots));
    (progress, active, wait.or_else(slots))
}

impl Progress {
    /// Of an export that downloads nothing.
    fn of(state: &WatchState) -> Self {
        match state {
            WatchState::Polling(_) | WatchState::Fetching(_) => Self::default(),
            WatchState::Sealing { totals, .. } | WatchState::Completed { totals, .. } => {
                Self { bytes_total: Some(totals.bytes), ..Self::done(*totals) }
            }
            WatchState::Failing { kept: Kept { committed, .. }, .. }
            | WatchState::Failed { kept: Kept { committed, .. }, .. } => {
                Self::done(Totals::of(committed.values()))
            }
        }
    }

    fn done(Totals { parts, bytes }: Totals) -> Self {
        Self { parts_done: parts, parts_total: parts, bytes_done: bytes, bytes_total: None }
    }
}

impl Counts {
    /// The counts in words: all that a line has room for.
    fn words(self) -> String {
        let mut words = match self.watching {
            0 => "nothing left to watch".to_owned(),
            watching => format!("watching {}", exports(watching)),
        };
        let counts =
            [(self.downloading, "downloading"), (self.whole, "whole"), (self.failed, "failed")];
        for (count, word) in counts.into_iter().filter(|(count, _)| *count > 0) {
            words.push_str(&format!(", {count} {word}"));
        }
        words
    }
}

/// "1 export", "2 exports".
#[must_use]
pub fn exports(count: usize) -> String {
    if count == 1 { "1 export".to_owned() } else { format!("{count} exports") }
}

impl Standing {
    /// The part of the sentence that stays true from one second to the next.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{}{}", if self.draining { "stopping, " } else { "" }, self.counts.words())
    }

    fn until(&self, at: Timestamp) -> String {
        rounded(Duration::try_from(at.duration_since(self.now)).unwrap_or_default())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        if self.polling && !self.draining {
            f.write_str(", polling now")?;
        } else if let Some(at) = self.next_poll_at.filter(|_| !self.draining) {
            write!(f, ", next poll in {}", self.until(at))?;
        }
        for wait in &self.waits {
            f.write_str("; ")?;
            if let Some(project) = wait.concern.project() {
                write!(f, "project {project}: ")?;
            }
            f.write_str(&wait.words())?;
            match wait.next_at {
                Some(at) => write!(f, ", next try in {}", self.until(at))?,
                None if wait.is_asking() => f.write_str(", asking now")?,
                None => {}
            }
        }
        if let Some(refusal) = &self.reloads.refusal {
            write!(f, "; the last reload was refused: {refusal}")?;
        }
        Ok(())
    }
}

/// A wait as people say it: whole seconds, from two minutes on whole minutes, rounded up.
fn rounded(wait: Duration) -> String {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds.div_ceil(60)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_can_use_the_sentence() {
        let now = Timestamp::UNIX_EPOCH;
        let after = |millis: u64| now.checked_add(Duration::from_millis(millis)).ok();
        let counts = Counts { watching: 12, downloading: 2, ..Counts::default() };
        let standing = Standing { now, counts, next_poll_at: after(7_200), ..Standing::default() };
        assert_eq!(standing.to_string(), "watching 12 exports, 2 downloading, next poll in 8 s");
        assert_eq!(standing.summary(), "watching 12 exports, 2 downloading");
        let standing = Standing { polling: true, ..standing };
        assert_eq!(standing.to_string(), "watching 12 exports, 2 downloading, polling now");
        let refusal = Some("c.toml:3: api.base_url: is not a URL".to_owned());
        let standing = Standing {
            now,
            counts: Counts { watching: 1, whole: 3, failed: 1, ..Counts::default() },
            next_poll_at: after(121_000),
            waits: vec![
                Wait::new(Cause::Disk, Concern::Disk),
                Wait { next_at: after(5_000), ..Wait::new(Cause::Unavailable, Concern::Api) },
                Wait::new(Cause::Unauthorized, Concern::Project("shop".parse().unwrap())),
            ],
            reloads: Reloads { refused: 1, refusal, ..Reloads::default() },
            ..Standing::default()
        };
        assert_eq!(
            standing.to_string(),
            "watching 1 export, 3 whole, 1 failed, next poll in 3 min; \
             downloads wait because the download directory cannot be used; \
             the API is unavailable, next try in 5 s; \
             project shop: the API refuses the REST API key, asking now; \
             the last reload was refused: c.toml:3: api.base_url: is not a URL"
        );
        let counts = Counts { watching: 1, downloading: 1, ..Counts::default() };
        let standing = Standing { draining: true, counts, ..Standing::default() };
        assert_eq!(standing.to_string(), "stopping, watching 1 export, 1 downloading");
        assert_eq!(Standing::default().to_string(), "nothing left to watch");
    }
}
