//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::domain::text;

/// One thing that is wrong; shown as `path:line:column: key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// Counts from 1.
    pub line: Option<usize>,
    /// Counts characters from 1. Only a fault in an element of an array has one.
    pub column: Option<usize>,
    /// The key with its table, such as `api.base_url`.
    pub key: Option<String>,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Fault {
    /// A fault of the file as a whole, or of a line in it.
    pub(super) fn new(file: &Path, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, column: None, key: None, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::escaped(&self.file.to_string_lossy()))?;
        for place in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{place}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration: at least one fault, in the order of the file.
/// Each is shown on its own line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(Vec<Fault>);

impl ConfigFaults {
    /// `None` if there are no faults. The faults of the file `main` come first.
    pub(super) fn of(mut faults: Vec<Fault>, main: &Path) -> Option<Self> {
        faults.sort_by_key(|fault| (fault.file != main, fault.line, fault.column));
        (!faults.is_empty()).then_some(Self(faults))
    }

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
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigFaults {}

/// Finds the line and the column of a byte offset, both from 1.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    bytes: &'t [u8],
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn of(bytes: &'t [u8]) -> Self {
        let newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Self { bytes, starts }
    }

    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    pub(super) fn column_at(&self, offset: usize) -> usize {
        let start = self.starts[self.line_at(offset) - 1];
        let before = self.bytes.get(start..offset).unwrap_or_default();
        String::from_utf8_lossy(before).chars().count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(file: &str, line: Option<usize>, key: Option<&str>) -> Fault {
        Fault { key: key.map(str::to_owned), ..Fault::new(Path::new(file), line, "is wrong") }
    }

    #[test]
    fn each_fault_is_on_its_own_line_and_the_main_file_comes_first() {
        let faults = vec![
            fault("ids.txt", Some(1), None),
            fault("c.toml", Some(9), Some("api.base_url")),
            Fault { column: Some(7), ..fault("c.toml", Some(2), None) },
            fault("c.toml", Some(2), None),
            fault("c.toml", None, None),
        ];
        let faults = ConfigFaults::of(faults, Path::new("c.toml")).unwrap();
        let expected = "c.toml: is wrong\nc.toml:2: is wrong\nc.toml:2:7: is wrong\n\
                        c.toml:9: api.base_url: is wrong\nids.txt:1: is wrong";
        assert_eq!(faults.to_string(), expected);
        assert_eq!(ConfigFaults::of(Vec::new(), Path::new("c.toml")), None);
    }

    #[test]
    fn lines_and_columns_are_counted_from_one() {
        let lines = Lines::of("é = 1".as_bytes());
        assert_eq!([0, 2, 5, 99].map(|offset| lines.column_at(offset)), [1, 2, 5, 1]);
        let lines = Lines::of(b"a\r\nb\n");
        assert_eq!([0, 2, 3, 4, 5].map(|offset| lines.column_at(offset)), [1, 3, 1, 2, 1]);
        assert_eq!([0, 2, 3, 4, 5, 99].map(|offset| lines.line_at(offset)), [1, 1, 2, 2, 3, 3]);
        assert_eq!(Lines::of(b"").line_at(0), 1);
    }
}
