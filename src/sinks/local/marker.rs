//! The marker in the download directory distinguishes it from an empty mount point or another disk.

use std::fmt;
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};

pub const MARKER_FILE: &str = ".batch-export-watcher";
/// First line of a marker; the number is the format's version.
const HEADER: &str = "batch-export-watcher 1";
/// A marker is a few lines; what is longer is something else.
pub(super) const MAX_MARKER_BYTES: u64 = 4096;

/// The random identity of one download directory, 128 bits; its text is 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MarkerId(u128);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a marker's identity is 32 hexadecimal digits")]
pub struct MarkerIdError;

impl MarkerId {
    /// A new identity from the kernel's generator.
    pub(super) fn random() -> rustix::io::Result<Self> {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
        }
        Ok(Self(u128::from_ne_bytes(bytes)))
    }

    pub(super) fn to_file(self) -> String {
        format!(
            "{HEADER}\n{self}\n\
             This folder belongs to batch-export-watcher. The line above is recorded in its \
             state: it tells this folder from a disk that is not mounted. Leave this file where \
             it is.\n"
        )
    }

    /// What a marker has to say, for a shell's printf.
    pub(super) fn lines(self) -> String {
        format!("'{HEADER}\\n{self}\\n'")
    }

    pub(super) fn from_file(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        (lines.next()? == HEADER).then_some(())?;
        lines.next()?.parse().ok()
    }
}

impl fmt::Display for MarkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for MarkerId {
    type Err = MarkerIdError;

    fn from_str(text: &str) -> Result<Self, MarkerIdError> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits {
            return Err(MarkerIdError);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| MarkerIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_its_file_and_its_text() {
        let id = MarkerId::random().unwrap();
        assert_eq!(MarkerId::from_file(id.to_file().as_bytes()), Some(id));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(MarkerId(7).to_string(), "00000000000000000000000000000007");
        assert_ne!(MarkerId::random().unwrap(), id);
    }

    #[test]
    fn anything_else_is_no_marker() {
        let id = "0123456789abcdef0123456789abcdef";
        for text in [
            String::new(),
            "batch-export-watcher 1".to_owned(),
            format!("batch-export-watcher 2\n{id}\n"),
            format!("batch-export-watcher 1\n+{}\n", &id[1..]),
            format!("batch-export-watcher 1\n{}\n", &id[1..]),
        ] {
            assert_eq!(MarkerId::from_file(text.as_bytes()), None, "{text:?}");
        }
    }
}
