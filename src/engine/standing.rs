//! How the work stands, in numbers and in one sentence: for the service manager and for whoever
//! asks.

use std::fmt;
use std::time::Duration;

/// How the work stands, in numbers; `Display` makes a sentence of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Exports that are not at their end.
    pub watching: usize,
    /// Those of them with parts in flight.
    pub downloading: usize,
    /// Exports that are whole.
    pub whole: usize,
    /// Exports that failed.
    pub failed: usize,
    /// Whether a poll is under way.
    pub polling: bool,
    /// How long until the next poll; `None` where none is due.
    pub next_poll: Option<Duration>,
    /// What everything or a project waits for, in words.
    pub waits: Vec<String>,
    /// Whether a stop has begun.
    pub draining: bool,
    /// How the reloads came out.
    pub reloads: Reloads,
}

/// How the reloads of this run came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Reloads that took effect.
    pub accepted: u64,
    /// Reloads that were refused.
    pub refused: u64,
    /// Why the last one was refused, in one line, as long as none was accepted since.
    pub refusal: Option<String>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.draining {
            f.write_str("stopping, ")?;
        }
        if self.watching > 0 {
            write!(f, "watching {}", exports(self.watching))?;
            if self.downloading > 0 {
                write!(f, ", {} downloading", self.downloading)?;
            }
        } else {
            f.write_str("nothing left to watch")?;
        }
        for (count, word) in [(self.whole, "whole"), (self.failed, "failed")] {
            if count > 0 {
                write!(f, ", {count} {word}")?;
            }
        }
        if self.polling && !self.draining {
            f.write_str(", polling now")?;
        } else if let Some(wait) = self.next_poll.filter(|_| !self.draining) {
            write!(f, ", next poll in {}", rounded(wait))?;
        }
        for wait in &self.waits {
            write!(f, "; {wait}")?;
        }
        if let Some(refusal) = &self.reloads.refusal {
            write!(f, "; the last reload was refused: {refusal}")?;
        }
        Ok(())
    }
}

fn exports(count: usize) -> String {
    if count == 1 { "1 export".to_owned() } else { format!("{count} exports") }
}

/// A wait as people say it: whole seconds, from two minutes on whole minutes, rounded up.
#[must_use]
pub fn rounded(wait: Duration) -> String {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds.div_ceil(60)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_can_use_the_sentence() {
        let standing = Standing {
            watching: 12,
            downloading: 2,
            next_poll: Some(Duration::from_millis(7_200)),
            ..Standing::default()
        };
        assert_eq!(standing.to_string(), "watching 12 exports, 2 downloading, next poll in 8 s");
        let standing = Standing { polling: true, ..standing };
        assert_eq!(standing.to_string(), "watching 12 exports, 2 downloading, polling now");
        let refusal = Some("c.toml:3: api.base_url: is not a url".to_owned());
        let standing = Standing {
            watching: 1,
            whole: 3,
            failed: 1,
            next_poll: Some(Duration::from_secs(121)),
            waits: vec!["project shop waits for its rest api key".to_owned()],
            reloads: Reloads { refused: 1, refusal, ..Reloads::default() },
            ..Standing::default()
        };
        assert_eq!(
            standing.to_string(),
            "watching 1 export, 3 whole, 1 failed, next poll in 3 min; project shop waits for its rest api key; \
             the last reload was refused: c.toml:3: api.base_url: is not a url"
        );
        let standing =
            Standing { draining: true, downloading: 1, watching: 1, ..Standing::default() };
        assert_eq!(standing.to_string(), "stopping, watching 1 export, 1 downloading");
        assert_eq!(Standing::default().to_string(), "nothing left to watch");
    }
}
