//! One file of an export on its way to disk.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::checksum::Check;
use super::ids::FileId;

/// Identity and order of a part within its export: sorted by number, then by file ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartKey {
    /// The part number; where the API gave none, the place in its list, from 1.
    pub number: u32,
    /// The file's ID: identity towards the API and across polls.
    pub file_id: FileId,
}

impl PartKey {
    /// The final file name, `part-00001-<file_id>.json`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("part-{:05}-{}.json", self.number, self.file_id)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// Wraps the 32 bytes of a digest.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

/// A part whose file is whole, verified and durable under its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedPart {
    pub key: PartKey,
    pub bytes: u64,
    /// Bytes the API had declared, where it did.
    pub declared_bytes: Option<u64>,
    pub sha256: Sha256,
    /// What the file was held against, in manifest order.
    pub verified_by: Vec<Check>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_sort_and_keep_the_id() {
        let key = PartKey { number: 7, file_id: "file_x".parse().unwrap() };
        assert_eq!(key.file_name(), "part-00007-file_x.json");
        let wide = PartKey { number: 123_456, file_id: "f".parse().unwrap() };
        assert_eq!(wide.file_name(), "part-123456-f.json");
    }

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Sha256::new(std::array::from_fn(|index| u8::try_from(index * 7).unwrap()));
        assert_eq!(Sha256::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Sha256::from_hex("zz"), None);
        assert_eq!(Sha256::from_hex(&"é".repeat(32)), None);
    }
}
