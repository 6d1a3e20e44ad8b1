//! What is wrong with a configuration, and where. A fault never repeats a value from the file: it
//! might be a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong; shown as `path:line: key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file to look into.
    pub file: PathBuf,
    /// The line in it, from 1, where one can be named.
    pub line: Option<usize>,
    /// The key with its table, such as `api.base_url`, where one is concerned.
    pub key: Option<String>,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration, at least one fault; shown one a line, in the
/// order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(Vec<Fault>);

impl ConfigFaults {
    /// Wraps what was found, if anything was; `main` is the file whose faults come first.
    pub(super) fn of(mut faults: Vec<Fault>, main: &Path) -> Option<Self> {
        faults.sort_by_key(|fault| (fault.file != main, fault.line));
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// The faults, in the order of the file.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }
}

impl From<Fault> for ConfigFaults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

/// Finds the line of a byte offset.
#[derive(Debug)]
pub(super) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let after_newlines =
            bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The line that holds the byte at `offset`, from 1.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(file: &str, line: Option<usize>, key: Option<&str>) -> Fault {
        Fault {
            file: file.into(),
            line,
            key: key.map(str::to_owned),
            message: "is wrong".to_owned(),
        }
    }

    #[test]
    fn faults_are_shown_one_a_line_the_main_file_first() {
        let faults = vec![
            fault("ids.txt", Some(1), None),
            fault("c.toml", Some(9), Some("api.base_url")),
            fault("c.toml", Some(2), None),
            fault("c.toml", None, None),
        ];
        let faults = ConfigFaults::of(faults, Path::new("c.toml")).unwrap();
        let expected = "c.toml: is wrong\nc.toml:2: is wrong\nc.toml:9: api.base_url: is wrong\nids.txt:1: is wrong";
        assert_eq!(faults.to_string(), expected);
        assert_eq!(ConfigFaults::of(Vec::new(), Path::new("c.toml")), None);
    }

    #[test]
    fn lines_are_counted_from_one() {
        let lines = Lines::of(b"a\r\nb\n");
        assert_eq!([0, 2, 3, 4, 5, 99].map(|offset| lines.line_at(offset)), [1, 1, 2, 2, 3, 3]);
        assert_eq!(Lines::of(b"").line_at(0), 1);
    }
}
