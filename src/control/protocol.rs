//! What can be asked and what is answered. Daemon and command may be of different versions for a
//! while: what one does not understand it says so.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::ids::ExportId;

/// A question to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case")]
pub enum Question {
    /// How is it going, in short?
    Status,
    Document,
    /// Read the configuration again, and say what came of it.
    Reload,
    /// Set failed exports to watching again.
    Retry {
        exports: BTreeSet<ExportId>,
    },
    /// Drop what is known of exports, and what is half done.
    Forget {
        exports: BTreeSet<ExportId>,
    },
    /// Hang for good, to prove the watchdog.
    #[cfg(debug_assertions)]
    Hang,
}

/// The daemon's answer. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Status(Report),
    Document {
        document: serde_json::Value,
    },
    /// The configuration is in force.
    Reloaded {
        words: String,
        /// The file that it was read from.
        file: PathBuf,
    },
    /// The configuration cannot be used: the one in force goes on.
    Refused {
        /// What is wrong, one fault a line, each with file, line and key.
        faults: String,
    },
    /// These were failed and are watched again.
    Retried {
        /// The exports with their projects.
        exports: Vec<Retried>,
    },
    /// These are forgotten; those that are configured begin anew.
    Forgotten {
        /// The exports with their projects.
        exports: Vec<Forgotten>,
    },
    /// The daemon cannot do that now.
    Unavailable {
        cause: String,
    },
    /// The daemon does not know the question.
    NotUnderstood,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub sentence: String,
    pub version: String,
    /// Exports that are not at their end.
    pub watching: usize,
    /// Those of them with parts in flight.
    pub downloading: usize,
    pub whole: usize,
    pub failed: usize,
    /// Reloads that took effect in this run.
    pub reloads_accepted: u64,
    /// Reloads that were refused in this run.
    pub reloads_refused: u64,
}

/// An export that is watched again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub project: String,
    pub export: ExportId,
}

/// An export that was forgotten, or was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    pub project: String,
    pub export: ExportId,
    /// Why it was not; `None` where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hindrance: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_on_the_wire_stay_as_they_are() {
        let line = |question: &Question| serde_json::to_string(question).unwrap();
        assert_eq!(line(&Question::Status), r#"{"question":"status"}"#);
        assert_eq!(line(&Question::Document), r#"{"question":"document"}"#);
        let forget = Question::Forget { exports: BTreeSet::from(["export_1".parse().unwrap()]) };
        assert_eq!(line(&forget), r#"{"question":"forget","exports":["export_1"]}"#);
        assert_eq!(line(&Question::Reload), r#"{"question":"reload"}"#);
        let retry = Question::Retry { exports: BTreeSet::from(["export_1".parse().unwrap()]) };
        assert_eq!(line(&retry), r#"{"question":"retry","exports":["export_1"]}"#);
        let answer = Answer::Refused { faults: "c.toml:1: wrong".to_owned() };
        let text = r#"{"answer":"refused","faults":"c.toml:1: wrong"}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), text);
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), answer);
        assert!(
            serde_json::from_str::<Question>(r#"{"question":"retry","exports":["../x"]}"#).is_err()
        );
    }
}
