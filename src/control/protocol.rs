//! The questions and the answers. Daemon and command may be different versions for a while: each
//! says so if it does not understand the other.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::ids::{ExportId, ExportPath};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case")]
pub enum Question {
    Status,
    Document,
    Reload,
    Retry {
        exports: BTreeSet<ExportId>,
    },
    Forget {
        exports: BTreeSet<ExportId>,
    },
    #[cfg(debug_assertions)]
    Hang,
}

/// Never holds a secret. `faults` has one fault on each line, with file, line and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Status(Report),
    Document { document: serde_json::Value },
    Reloaded { words: String, file: PathBuf },
    Refused { faults: String },
    Retried { exports: Vec<Retried> },
    Forgotten { exports: Vec<Forgotten> },
    Unavailable { cause: String },
    NotUnderstood,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub sentence: String,
    pub version: String,
    /// Exports that are neither whole nor failed.
    pub watching: usize,
    /// Those of them with parts in flight.
    pub downloading: usize,
    pub whole: usize,
    pub failed: usize,
    /// Since the start of the daemon.
    pub reloads_accepted: u64,
    pub reloads_refused: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub project: String,
    pub export: ExportId,
}

impl From<ExportPath> for Retried {
    fn from(ExportPath { project, export }: ExportPath) -> Self {
        Self { project: project.to_string(), export }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    pub project: String,
    pub export: ExportId,
    /// Why the export was not forgotten; `None` if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hindrance: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_format_is_stable() {
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
        let bad = r#"{"question":"retry","exports":["../x"]}"#;
        assert!(serde_json::from_str::<Question>(bad).is_err());
    }
}
