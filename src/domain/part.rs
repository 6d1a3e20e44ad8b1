//! One file of an export.

use super::checksum::Check;
use super::ids::FileId;

pub use super::digest::Sha256;

/// Identity and order of a part within its export: sorted by number, then by file ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartKey {
    /// The part number; if the API gave none, the place in its list, from 1.
    pub number: u32,
    /// The file's ID: identity towards the API and across polls.
    pub file_id: FileId,
}

impl PartKey {
    pub fn file_name(&self) -> String {
        format!("part-{:05}-{}.json", self.number, self.file_id)
    }
}

/// A part whose file is whole, verified and durable under its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedPart {
    pub key: PartKey,
    pub bytes: u64,
    pub declared_bytes: Option<u64>,
    pub sha256: Sha256,
    /// What the file was checked against, in manifest order.
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
}
