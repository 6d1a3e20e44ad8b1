//! Rules that tell a debug build what to do at which point:
//! `[after:]SUBJECT.OPERATION=ACTION[@N][@N+][while:PATH]`, separated by commas.
//! `*` is any subject, or any operation.
//!
//! - `kill`: the process kills itself at the N-th passing (the first if no N is given).
//! - `EIO`, `ENOSPC`: the operation fails with this error at the N-th time; with `@N+` from then
//!   on; with `while:PATH` while this path exists. A write that fails has written half.
//! - `tell`: each point is logged when it is passed for the first time.
//!
//! An error is logged as `fault injected`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

const VARIABLE: &str = "BATCH_EXPORT_WATCHER_FAULTS";

/// The start of a file's name, without leading dots, and the subject that it belongs to.
const SUBJECTS: &[(&str, &str)] = &[
    ("part-", "part"),
    ("manifest.json", "manifest"),
    ("failed.json", "notice"),
    ("batch-export-watcher.check", "check"),
    ("batch-export-watcher.probe", "probe"),
    ("batch-export-watcher", "marker"),
    ("state.db", "state"),
];

#[derive(Debug)]
struct Rule {
    /// `None` for any.
    subject: Option<String>,
    operation: Option<String>,
    is_after: bool,
    action: Action,
    when: When,
    passed: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Fail(Errno),
    Tell,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    Nth(u64),
    From(u64),
    While(PathBuf),
}

static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Does what the rules say about this point; returns the error that they demand.
pub(super) fn due(operation: &str, name: &str, is_after: bool) -> Option<Errno> {
    let rules = RULES.get_or_init(|| parse(&std::env::var(VARIABLE).unwrap_or_default()));
    let mut error = None;
    // Most runs have no rules.
    if rules.is_empty() {
        return error;
    }
    let subject = subject(name);
    for rule in rules.iter().filter(|rule| rule.is_about(operation, subject, is_after)) {
        match rule.action {
            Action::Tell => tell(operation, subject, is_after),
            Action::Kill if rule.is_due() => die(),
            Action::Fail(errno) if rule.is_due() => {
                tracing::warn!(point = format!("{subject}.{operation}"), "fault injected: {errno}");
                error = error.or(Some(errno));
            }
            Action::Kill | Action::Fail(_) => {}
        }
    }
    error
}

impl Rule {
    fn is_about(&self, operation: &str, subject: &str, is_after: bool) -> bool {
        let fits = |wanted: &Option<String>, word: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == word)
        };
        self.is_after == is_after
            && fits(&self.subject, subject)
            && fits(&self.operation, operation)
    }

    fn is_due(&self) -> bool {
        let passing = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.when {
            When::Nth(wanted) => passing == *wanted,
            When::From(first) => passing >= *first,
            When::While(path) => path.exists(),
        }
    }
}

/// The subject of a file by its name; the second word of `record:sealing`.
fn subject(name: &str) -> &str {
    if let Some(record) = name.strip_prefix("record:") {
        return record;
    }
    let base = Path::new(name).file_name().and_then(|base| base.to_str()).unwrap_or(name);
    let bare = base.trim_start_matches('.');
    SUBJECTS
        .iter()
        .find(|(start, _)| bare.starts_with(start))
        .map_or("folder", |(_, subject)| subject)
}

fn tell(operation: &str, subject: &str, is_after: bool) {
    let point = format!("{}{subject}.{operation}", if is_after { "after:" } else { "" });
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(point.clone()) {
        tracing::info!(point, "point passed");
    }
}

/// As with `kill -9`: nothing runs afterwards, not even in other threads.
fn die() -> ! {
    loop {
        // It cannot fail: a process may kill itself.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// A rule that makes no sense ends the program at once.
fn parse(text: &str) -> Vec<Rule> {
    let wrong = |word: &str| -> ! { panic!("{VARIABLE}: {word:?} is no rule") };
    let words = text.split(',').filter(|word| !word.is_empty());
    words.map(|word| rule(word).unwrap_or_else(|| wrong(word))).collect()
}

fn rule(word: &str) -> Option<Rule> {
    let (point, action) = word.split_once('=')?;
    let (is_after, point) = match point.strip_prefix("after:") {
        Some(point) => (true, point),
        None => (false, point),
    };
    let (subject, operation) = point.split_once('.')?;
    let (action, when) = if let Some((action, path)) = action.split_once("while:") {
        (action, When::While(path.into()))
    } else if let Some((action, number)) = action.split_once('@') {
        match number.strip_suffix('+') {
            Some(number) => (action, When::From(number.parse().ok()?)),
            None => (action, When::Nth(number.parse().ok()?)),
        }
    } else {
        (action, When::Nth(1))
    };
    let action = match action {
        "kill" => Action::Kill,
        "EIO" => Action::Fail(Errno::IO),
        "ENOSPC" => Action::Fail(Errno::NOSPC),
        "tell" => Action::Tell,
        _ => return None,
    };
    let any_or = |word: &str| (word != "*").then(|| word.to_owned());
    let (subject, operation) = (any_or(subject), any_or(operation));
    Some(Rule { subject, operation, is_after, action, when, passed: AtomicU64::new(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_file_follows_from_its_name() {
        for (name, expected) in [
            (".part-00001-file_1.json.partial", "part"),
            ("part-00001-file_1.json", "part"),
            (".manifest.json.partial", "manifest"),
            ("/srv/exports/shop/export_1/failed.json", "notice"),
            ("..batch-export-watcher.partial", "marker"),
            (".batch-export-watcher.check", "check"),
            (".batch-export-watcher.probe-1", "probe"),
            ("state.db", "state"),
            ("/srv/exports", "folder"),
            ("shop", "folder"),
            ("record:sealing", "sealing"),
        ] {
            assert_eq!(subject(name), expected, "{name}");
        }
    }

    #[test]
    fn a_rule_is_about_its_point_at_its_time() {
        let rules =
            parse("part.write=kill@2,after:*.sync=EIO@2+,manifest.*=ENOSPCwhile:/nowhere,*.*=tell");
        assert_eq!(rules.len(), 4);
        assert!(rules[0].is_about("write", "part", false));
        assert!(!rules[0].is_about("write", "manifest", false));
        assert!(!rules[0].is_about("write", "part", true));
        assert!(rules[1].is_about("sync", "folder", true));
        assert!(!rules[1].is_about("sync", "folder", false));
        let due = |rule: &Rule| [(); 4].map(|()| rule.is_due());
        assert_eq!(due(&rules[0]), [false, true, false, false]);
        assert_eq!(due(&rules[1]), [false, true, true, true]);
        assert_eq!(due(&rules[2]), [false; 4]);
        assert!(due(&parse("*.*=EIOwhile:/")[0]).iter().all(|due| *due));
        for nonsense in ["part=kill", "part.write", "part.write=burn", "part.write=kill@x"] {
            assert!(rule(nonsense).is_none(), "{nonsense}");
        }
    }
}
