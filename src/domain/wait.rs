//! What waits: for which cause, since when, how often it was tried, when it is tried next, and what
//! a person can do about it.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU64;
use std::time::Duration;

use jiff::Timestamp;

use super::ids::ProjectName;
use super::moment::Moment;
use super::stage::Cause;

/// Failed attempts in a row from which on a person should look. The first few are the daily life of
/// a network.
const ATTENTION_ATTEMPTS: u32 = 5;
/// How long something may wait before a person should look, however few the attempts.
const ATTENTION_AFTER: Duration = Duration::from_mins(10);

/// Why a whole project waits whose every request is refused.
pub const REJECTED: &str = "the API refuses the request for every export of the project";

/// What has failed in a row without success between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub cause: Cause,
    /// What the last attempt met; safe to show.
    pub words: String,
    /// When the first attempt of the row failed, since the program's start.
    pub since: Duration,
    /// Failed attempts of the row; 0 if the last one got further than those before.
    pub attempts: u32,
    /// A fingerprint of what was told last of the row, which may be other than `words`. Small,
    /// because each export has room for a row.
    told: Option<NonZeroU64>,
}

impl Trouble {
    /// One more attempt has failed. Returns whether that is news: the first of the row, or for
    /// another cause than the one before.
    pub fn met(row: &mut Option<Self>, cause: Cause, words: String, now: Duration) -> bool {
        let mut print = DefaultHasher::new();
        // How much room is missing changes all the time, and is no news.
        (cause, (cause != Cause::Room).then_some(&words)).hash(&mut print);
        let print = NonZeroU64::new(print.finish()).unwrap_or(NonZeroU64::MIN);
        Self::held(row, cause, words, now);
        row.as_mut().and_then(|row| row.told.replace(print)) != Some(print)
    }

    /// As [`Trouble::met`], for what is told elsewhere: as the pause of a project, of the API or
    /// of a store.
    pub fn held(row: &mut Option<Self>, cause: Cause, words: String, now: Duration) {
        let (since, attempts, told) = row
            .take()
            .map_or((now, 1, None), |row| (row.since, row.attempts.saturating_add(1), row.told));
        *row = Some(Self { cause, words, since, attempts, told });
    }

    /// Whether anything was told of the row.
    pub fn was_told(&self) -> bool {
        self.told.is_some()
    }

    /// The last attempt got further than those before: the row begins anew, and what was told is
    /// remembered.
    pub fn begin_anew(&mut self, now: Duration) {
        (self.since, self.attempts) = (now, 0);
    }

    /// Whether it is the one of two that a person should hear of.
    pub fn is_worse_than(&self, other: &Self) -> bool {
        (self.attempts, other.since) > (other.attempts, self.since)
    }

    /// Whether it goes on for so long that a person should look.
    pub fn is_lasting(&self, now: Duration) -> bool {
        is_lasting(self.attempts, now.saturating_sub(self.since))
    }
}

fn is_lasting(attempts: u32, age: Duration) -> bool {
    attempts >= ATTENTION_ATTEMPTS || age >= ATTENTION_AFTER
}

/// What a wait concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// A part of an export, by its number.
    Part(u32),
    Export,
    Project(ProjectName),
    /// The key of a project, and the place that it is read from.
    Key {
        project: ProjectName,
        place: String,
    },
    /// The API, and with it every project.
    Api,
    /// A store, by its host.
    Store(String),
    Disk,
    State,
    Slots,
}

impl Concern {
    /// The project that waits as a whole; `None` if less or more than one project does.
    pub fn project(&self) -> Option<&ProjectName> {
        match self {
            Self::Project(project) | Self::Key { project, .. } => Some(project),
            _ => None,
        }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(number) => write!(f, "part {number}"),
            Self::Export => f.write_str("the export"),
            Self::Project(project) => write!(f, "project {project}"),
            Self::Key { project, .. } => write!(f, "the REST API key of project {project}"),
            Self::Api => f.write_str("the API"),
            Self::Store(host) => write!(f, "the store {host}"),
            Self::Disk => f.write_str("the download directory"),
            Self::State => f.write_str("the state"),
            Self::Slots => f.write_str("the slots"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub cause: Cause,
    pub concern: Concern,
    /// What the last attempt met, if that says more than the cause; safe to show.
    pub detail: Option<String>,
    /// `None` if nobody knows: no daemon runs, or an earlier run began to wait.
    pub since: Option<Timestamp>,
    /// Failed attempts in a row.
    pub attempts: u32,
    /// When it is tried next; `None` while a try is under way, or if the next one has no set time.
    pub next_at: Option<Timestamp>,
}

impl Wait {
    pub fn new(cause: Cause, concern: Concern) -> Self {
        Self { cause, concern, detail: None, since: None, attempts: 0, next_at: None }
    }

    /// The wait for what has failed in a row.
    pub fn of(trouble: &Trouble, concern: Concern, clock: Moment) -> Self {
        Self {
            detail: Some(trouble.words.clone()),
            since: Some(clock.wall_at(trouble.since)),
            attempts: trouble.attempts,
            ..Self::new(trouble.cause, concern)
        }
    }

    /// What holds an export up most: what it shares with others, or its own trouble if that is
    /// older. A pause that comes and goes must not hide what goes on all the while.
    pub fn longer_of(shared: Option<Self>, own: Option<Self>) -> Option<Self> {
        match (shared, own) {
            (Some(shared), Some(own)) if own.since.is_some() && own.since < shared.since => {
                // It is not tried before the pause is over.
                let next_at = match (own.next_at, shared.next_at) {
                    (Some(own), Some(shared)) => Some(own.max(shared)),
                    (own, shared) => own.or(shared),
                };
                Some(Self { next_at, ..own })
            }
            (shared, own) => shared.or(own),
        }
    }

    /// Whether a call is under way that finds out if the wait is over.
    pub fn is_asking(&self) -> bool {
        self.next_at.is_none() && !matches!(self.cause, Cause::Disk | Cause::State | Cause::Slots)
    }

    /// How long it has waited; zero if nobody knows.
    pub fn age(&self, now: Timestamp) -> Duration {
        let age = self.since.map(|since| now.duration_since(since));
        age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
    }

    /// Whether a person should look. What has a place in a queue is calm, however long it waits.
    pub fn needs_attention(&self, now: Timestamp) -> bool {
        self.cause != Cause::Slots
            && self.since.is_some()
            && is_lasting(self.attempts, self.age(now))
    }

    pub fn words(&self) -> String {
        let words = match self.cause {
            Cause::Throttled => "the API asks for fewer requests",
            Cause::Unavailable => "the API is unavailable",
            Cause::Unauthorized => "the API refuses the REST API key",
            Cause::Rejected if self.concern.project().is_some() => REJECTED,
            Cause::Rejected => "the API refuses the request",
            Cause::NotFound => "the API does not know the export",
            Cause::Fault => "the last attempt failed",
            Cause::LinkRefused => "the store refuses the signed link",
            Cause::Gone => "the store does not have the file",
            Cause::StoreBusy => match &self.concern {
                Concern::Store(host) => &format!("the store {host} asks for fewer requests"),
                _ => "the store asks for fewer requests",
            },
            Cause::Disk => "downloads wait because the download directory cannot be used",
            Cause::Folder => "the folder of the export cannot be used",
            Cause::Room => "not enough space above the reserve",
            Cause::State => "downloads wait because the state cannot be written",
            Cause::Slots => "other parts have every slot",
        };
        match (&self.detail, &self.concern) {
            (Some(detail), Concern::Part(number)) => format!("part {number}: {detail}"),
            // It names the directory itself.
            (Some(detail), Concern::Disk) => format!("downloads wait: {detail}"),
            (Some(detail), Concern::State) => format!("{words}: {detail}"),
            (Some(detail), _) => detail.clone(),
            (None, _) => words.to_owned(),
        }
    }

    /// What a person can do about it.
    pub fn advice(&self) -> String {
        let words = match self.cause {
            Cause::Throttled => {
                "it continues by itself; if it lasts, lower requests_per_second in [api], and look \
                 for other programs that use this key"
            }
            Cause::Unavailable => {
                "it continues by itself once the API answers; if it lasts, check base_url in \
                 [api], and ask Batch"
            }
            Cause::Unauthorized => {
                let place = match &self.concern {
                    Concern::Key { place, .. } => place,
                    _ => "the place that [[project]] names",
                };
                return format!(
                    "put a valid REST API key into {place}; it is read again by itself"
                );
            }
            Cause::Rejected if self.concern.project().is_some() => {
                "check project_key of the project and base_url in [api]"
            }
            Cause::Rejected => {
                "check the ID; once another export of the project gets an answer, this one fails"
            }
            Cause::NotFound => {
                "a new export may take a while to be known; check the ID and project_key of its \
                 project before not_found_grace in [poll] is over, because then the export fails"
            }
            Cause::Fault => {
                "it is tried again by itself; if it lasts, check what the words name: the \
                 network, the proxy, the API or the store"
            }
            Cause::LinkRefused => {
                "it is tried again by itself with a fresh link; if it lasts, check the clock of \
                 this machine, and ask Batch why the store refuses its links"
            }
            Cause::Gone => {
                "it is tried again by itself until not_found_grace in [poll] is over, then the \
                 export fails; if it does, start it again in Batch and replace its ID in the \
                 configuration"
            }
            Cause::StoreBusy => {
                "it continues by itself; if it lasts, lower max_parts in [download], and ask Batch \
                 about its store"
            }
            Cause::Disk => {
                "check the mount, the permissions and the free space of the download directory; \
                 downloads continue by themselves"
            }
            Cause::Folder => {
                "check the owner and the permissions of the folder, and what lies in its place; \
                 it is tried again by itself"
            }
            Cause::Room => {
                "free some space, or lower reserve in [download]; it continues by itself"
            }
            Cause::State => {
                "check the mount, the permissions and the free space of the state directory; \
                 downloads continue by themselves"
            }
            Cause::Slots => {
                "nothing to do, it takes its turn; for more parts at a time, raise max_parts in \
                 [download]"
            }
        };
        words.to_owned()
    }

    /// Whether `check --probe`, which asks the API, helps to find out more.
    pub fn probe_helps(&self) -> bool {
        match self.cause {
            Cause::Unavailable | Cause::Unauthorized | Cause::Rejected | Cause::NotFound => true,
            // A part may have met the store, which no command asks.
            Cause::Fault => self.concern == Concern::Export,
            Cause::Disk
            | Cause::Folder
            | Cause::Room
            | Cause::State
            | Cause::Throttled
            | Cause::LinkRefused
            | Cause::Gone
            | Cause::StoreBusy
            | Cause::Slots => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_row_of_failures_is_told_once_for_each_cause_and_remembers_its_start() {
        let mut row = None;
        let mut met = |cause, words: &str, second| {
            Trouble::met(&mut row, cause, words.to_owned(), Duration::from_secs(second))
        };
        assert!(met(Cause::Fault, "connection refused", 1));
        assert!(!met(Cause::Fault, "connection refused", 2));
        assert!(met(Cause::Fault, "HTTP 500", 3));
        assert!(met(Cause::Room, "5 GB are missing", 4));
        assert!(!met(Cause::Room, "4 GB are missing", 5));
        let row = row.unwrap();
        assert_eq!(
            (row.since.as_secs(), row.attempts, row.words.as_str()),
            (1, 5, "4 GB are missing")
        );
    }

    #[test]
    fn a_person_should_look_after_some_attempts_or_some_time() {
        let wait = |attempts, seconds| {
            let since = Some(at(0));
            let wait = Wait { since, attempts, ..Wait::new(Cause::Fault, Concern::Export) };
            wait.needs_attention(at(seconds))
        };
        assert_eq!([wait(4, 599), wait(5, 0), wait(1, 600)], [false, true, true]);
        let unknown = Wait { attempts: 9, ..Wait::new(Cause::Throttled, Concern::Api) };
        assert!(!unknown.needs_attention(at(0)), "nobody knows since when");
        let since = Some(at(0));
        let calm = Wait { since, attempts: 9, ..Wait::new(Cause::Slots, Concern::Slots) };
        assert!(!calm.needs_attention(at(9999)));
    }

    #[test]
    fn every_cause_has_words_and_advice_of_its_own() {
        let waits = Cause::ALL.map(|cause| Wait::new(cause, Concern::Export));
        for (place, wait) in waits.iter().enumerate() {
            assert!(wait.words().len() > 10 && wait.advice().len() > 20, "{wait:?}");
            let same = waits[..place].iter().find(|other| other.words() == wait.words());
            assert_eq!(same, None, "{wait:?}");
        }
    }

    #[test]
    fn words_name_the_thing_and_advice_what_to_mend() {
        let project: ProjectName = "shop".parse().unwrap();
        let place = "file /srv/shop.key".to_owned();
        let key = Wait::new(Cause::Unauthorized, Concern::Key { project, place });
        assert!(key.advice().contains("file /srv/shop.key"), "{}", key.advice());
        let host = "store.example".to_owned();
        let busy = Wait::new(Cause::StoreBusy, Concern::Store(host));
        assert_eq!(busy.words(), "the store store.example asks for fewer requests");
        let words = "HTTP 500".to_owned();
        let since = Duration::from_secs(5);
        let trouble = Trouble { cause: Cause::Fault, words, since, attempts: 1, told: None };
        let clock = Moment { since_start: Duration::from_secs(65), wall: at(1065) };
        let part = Wait::of(&trouble, Concern::Part(3), clock);
        assert_eq!((part.words().as_str(), part.since), ("part 3: HTTP 500", Some(at(1005))));
        assert_eq!(part.age(clock.wall), Duration::from_secs(60));
        assert_eq!(Wait::of(&trouble, Concern::Export, clock).words(), "HTTP 500");
    }

    #[test]
    fn what_is_told_elsewhere_counts_and_is_no_news_of_this_row() {
        let mut row = None;
        Trouble::held(&mut row, Cause::Throttled, "HTTP 429".to_owned(), Duration::ZERO);
        assert!(row.as_ref().is_some_and(|row| !row.was_told()));
        let mut failed = |second| {
            let now = Duration::from_secs(second);
            Trouble::met(&mut row, Cause::Fault, "HTTP 500".to_owned(), now)
        };
        assert!(failed(1));
        assert!(!failed(2));
        Trouble::held(&mut row, Cause::Throttled, "HTTP 429".to_owned(), Duration::from_secs(3));
        let news =
            Trouble::met(&mut row, Cause::Fault, "HTTP 500".to_owned(), Duration::from_secs(4));
        let row = row.unwrap();
        assert!(!news && row.was_told(), "the same was told before");
        assert_eq!((row.attempts, row.since), (5, Duration::ZERO));
    }

    #[test]
    fn a_pause_that_comes_and_goes_hides_no_older_trouble() {
        let wait = |cause, since: Option<i64>, next: Option<i64>| {
            let (since, next_at) = (since.map(at), next.map(at));
            Some(Wait { since, next_at, ..Wait::new(cause, Concern::Export) })
        };
        let shared = |since| wait(Cause::Throttled, since, Some(50));
        let own = |since| wait(Cause::Fault, since, Some(20));
        let longer =
            |shared, own| Wait::longer_of(shared, own).map(|wait| (wait.cause, wait.next_at));
        let (paused, troubled) =
            (Some((Cause::Throttled, Some(at(50)))), Some((Cause::Fault, Some(at(50)))));
        assert_eq!(longer(shared(Some(9)), own(Some(3))), troubled, "tried after the pause");
        assert_eq!(longer(shared(Some(3)), own(Some(9))), paused);
        assert_eq!(longer(shared(None), own(Some(9))), paused, "nobody knows which is older");
        assert_eq!(longer(shared(Some(9)), own(None)), paused);
        assert_eq!(longer(shared(Some(9)), None), paused);
        assert_eq!(longer(None, own(Some(9))), Some((Cause::Fault, Some(at(20)))));
        assert_eq!(longer(None, None), None);
    }
}
