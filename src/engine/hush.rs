//! A pause that comes and goes is told once in a while, not each time.

use std::collections::HashMap;
use std::time::Duration;

use super::ids::ProjectId;

/// For so long after a pause was told another one of the same is no news.
const QUIET: Duration = Duration::from_mins(10);
/// From so many on, those that nobody needs are forgotten: a server that makes up hosts must not
/// fill the memory.
const MOST: usize = 4_096;

/// Whose pause it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Paused {
    Project(ProjectId),
    Api,
    Store(String),
}

#[derive(Debug, Default)]
pub(crate) struct Hush(HashMap<Paused, Told>);

#[derive(Debug)]
struct Told {
    at: Duration,
    /// Whether the pause that lasts now was kept quiet.
    quiet: bool,
}

impl Hush {
    /// Whether a pause that begins now is to be told.
    pub(crate) fn begins(&mut self, what: Paused, now: Duration) -> bool {
        let is_recent = |told: &Told| now.saturating_sub(told.at) < QUIET;
        if let Some(told) = self.0.get_mut(&what).filter(|told| is_recent(told)) {
            told.quiet = true;
            return false;
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, told| is_recent(told));
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(what, Told { at: now, quiet: false });
        true
    }

    /// Whether the end of a pause is to be told: if its beginning was.
    pub(crate) fn ends(&self, what: &Paused) -> bool {
        self.0.get(what).is_none_or(|told| !told.quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_pauses_that_come_and_go_one_in_ten_minutes_is_told_with_its_end() {
        let mut hush = Hush::default();
        let store = || Paused::Store("one.example".to_owned());
        assert!(hush.ends(&store()), "an earlier run told its beginning");
        let minutes = |minutes| Duration::from_mins(minutes);
        let told =
            [0, 1, 9, 10, 12].map(|at| (hush.begins(store(), minutes(at)), hush.ends(&store())));
        assert_eq!(told, [true, false, false, true, false].map(|told| (told, told)));
        assert!(hush.begins(Paused::Api, minutes(12)) && hush.begins(store(), minutes(20)));
    }

    #[test]
    fn hosts_that_a_server_makes_up_do_not_fill_the_memory() {
        let mut hush = Hush::default();
        for number in 0..10_000_u64 {
            hush.begins(Paused::Store(number.to_string()), Duration::from_millis(number));
        }
        assert!(hush.0.len() <= MOST, "{}", hush.0.len());
    }
}
