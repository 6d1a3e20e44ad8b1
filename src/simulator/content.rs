//! Given bytes, or a JSON array that is generated as it is sent and never whole in memory.

use aws_lc_rs::digest;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use hyper::body::Bytes;
use md5::{Digest as _, Md5};

use crate::domain::checksum::Algorithm;
use crate::domain::part::Sha256;

/// The row's number and a pseudo-random token replace the zeros.
const ROW: &[u8] = b"\n{\"custom_id\":\"user-0000000000000000\",\"token\":\"0000000000000000\"},";
const ROW_BYTES: u64 = ROW.len() as u64;
const NUMBER_AT: usize = 20;
const TOKEN_AT: usize = 47;
const HASHED_BYTES: usize = 256 * 1024;

/// What is generated is a JSON array of this length, always the same for the same seed, and valid
/// from two bytes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Bytes(Bytes),
    Generated { bytes: u64, seed: u64 },
}

impl Content {
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Generated { bytes, .. } => *bytes,
        }
    }

    /// The digest of the whole, before base64. Reads everything: slow for a large content.
    pub fn digest(&self, algorithm: Algorithm) -> Vec<u8> {
        match algorithm {
            Algorithm::Md5 => {
                let mut hasher = Md5::new();
                self.for_each_chunk(|chunk| hasher.update(chunk));
                hasher.finalize().to_vec()
            }
            Algorithm::Sha1 => self.sha(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            Algorithm::Sha256 => self.sha(&digest::SHA256),
            Algorithm::Sha512 => self.sha(&digest::SHA512),
            Algorithm::Crc32 => self.crc(CrcAlgorithm::Crc32IsoHdlc)[4..].to_vec(),
            Algorithm::Crc32c => self.crc(CrcAlgorithm::Crc32Iscsi)[4..].to_vec(),
            Algorithm::Crc64nvme => self.crc(CrcAlgorithm::Crc64Nvme).to_vec(),
        }
    }

    /// SHA-256 of the whole, for a test that compares it with what landed on disk.
    pub fn sha256(&self) -> Sha256 {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&self.digest(Algorithm::Sha256));
        Sha256::new(bytes)
    }

    /// A strong validator: equal content has equal tags, quotes included.
    pub fn etag(&self) -> String {
        match self {
            Self::Bytes(_) => format!("\"{}\"", &self.sha256().to_string()[..32]),
            Self::Generated { bytes, seed } => format!("\"generated-{bytes}-{seed}\""),
        }
    }

    /// Reads the bytes from `from` up to, and without, `to`; both are cut to the length.
    pub(super) fn read(&self, from: u64, to: u64) -> Reader {
        let end = to.min(self.len_bytes());
        Reader { content: self.clone(), at: from.min(end), end }
    }

    fn sha(&self, algorithm: &'static digest::Algorithm) -> Vec<u8> {
        let mut hasher = digest::Context::new(algorithm);
        self.for_each_chunk(|chunk| hasher.update(chunk));
        hasher.finish().as_ref().to_vec()
    }

    fn crc(&self, algorithm: CrcAlgorithm) -> [u8; 8] {
        let mut hasher = Crc::new(algorithm);
        self.for_each_chunk(|chunk| hasher.update(chunk));
        hasher.finalize().to_be_bytes()
    }

    fn for_each_chunk(&self, mut each: impl FnMut(&[u8])) {
        let mut reader = self.read(0, self.len_bytes());
        while let Some(chunk) = reader.next_chunk(HASHED_BYTES) {
            each(&chunk);
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        text.as_bytes().to_vec().into()
    }
}

/// A range of a content, read from its start to its end.
#[derive(Debug)]
pub(super) struct Reader {
    content: Content,
    at: u64,
    end: u64,
}

impl Reader {
    pub(super) fn remaining_bytes(&self) -> u64 {
        self.end - self.at
    }

    /// Ends the range after `bytes` more bytes, if it would not end sooner.
    pub(super) fn cut_after(&mut self, bytes: u64) {
        self.end = self.end.min(self.at.saturating_add(bytes));
    }

    /// The next bytes, at most `limit` and at least one; `None` at the end.
    pub(super) fn next_chunk(&mut self, limit: usize) -> Option<Bytes> {
        let length = usize::try_from(self.remaining_bytes()).map_or(limit, |left| left.min(limit));
        if length == 0 {
            return None;
        }
        let chunk = match &self.content {
            Content::Bytes(bytes) => {
                let from = usize::try_from(self.at).unwrap_or(usize::MAX);
                bytes.slice(from..from + length)
            }
            Content::Generated { bytes, seed } => generate(*bytes, *seed, self.at, length).into(),
        };
        self.at += length as u64;
        Some(chunk)
    }
}

/// Bytes from offset `from` of an array of `total` bytes: a bracket, rows, spaces, a bracket.
fn generate(total: u64, seed: u64, from: u64, length: usize) -> Vec<u8> {
    let rows = total.saturating_sub(2) / ROW_BYTES;
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        let at = from + out.len() as u64;
        let inner = at.wrapping_sub(1);
        if at == 0 {
            out.push(b'[');
        } else if at == total - 1 {
            out.push(b']');
        } else if inner / ROW_BYTES >= rows {
            out.push(b' ');
        } else {
            let mut row = row(seed, inner / ROW_BYTES);
            if inner / ROW_BYTES + 1 == rows {
                row[ROW.len() - 1] = b' ';
            }
            let skip = usize::try_from(inner % ROW_BYTES).unwrap_or(0);
            let wanted = (length - out.len()).min(ROW.len() - skip);
            out.extend_from_slice(&row[skip..skip + wanted]);
        }
    }
    out
}

fn row(seed: u64, number: u64) -> [u8; ROW.len()] {
    let mut row = [0; ROW.len()];
    row.copy_from_slice(ROW);
    write_hex(&mut row[NUMBER_AT..NUMBER_AT + 16], number);
    write_hex(&mut row[TOKEN_AT..TOKEN_AT + 16], mixed(seed, number));
    row
}

fn write_hex(digits: &mut [u8], value: u64) {
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (4 * place) & 0xf) as usize];
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014) at step `number`.
fn mixed(seed: u64, number: u64) -> u64 {
    let mut word = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(content: &Content) -> Vec<u8> {
        let mut out = Vec::new();
        content.for_each_chunk(|chunk| out.extend_from_slice(chunk));
        out
    }

    #[test]
    fn generated_content_is_valid_json_of_the_length_asked_for() {
        for bytes in [2, 3, 67, 68, 69, 70, 71, 138, 1000, 70_001] {
            let text = whole(&Content::Generated { bytes, seed: 7 });
            assert_eq!(text.len() as u64, bytes);
            let rows: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
            assert_eq!(rows.len() as u64, (bytes - 2) / ROW_BYTES);
            assert!(rows.iter().all(|row| row["token"] != "0000000000000000"));
        }
        assert!(whole(&Content::Generated { bytes: 0, seed: 7 }).is_empty());
    }

    #[test]
    fn a_range_of_generated_content_equals_that_range_of_the_whole() {
        let content = Content::Generated { bytes: 500, seed: 3 };
        let all = whole(&content);
        for from in 0..500_u64 {
            for chunk_bytes in [1, 69, 500] {
                let mut reader = content.read(from, 490);
                let mut read = Vec::new();
                while let Some(chunk) = reader.next_chunk(chunk_bytes) {
                    read.extend_from_slice(&chunk);
                }
                let start = usize::try_from(from).unwrap();
                assert_eq!(read, all[start.min(490)..490], "from {from} by {chunk_bytes}");
            }
        }
    }

    #[test]
    fn seeds_tell_contents_apart() {
        let [one, two] = [1, 2].map(|seed| Content::Generated { bytes: 500, seed });
        assert_ne!(one.sha256(), two.sha256());
        assert_ne!(one.etag(), two.etag());
    }

    #[test]
    fn digests_are_the_published_ones() {
        // Check values of the text "123456789": RFC 1321 A.5, the CRC catalogue, FIPS 180.
        let content = Content::from("123456789");
        let hex = |algorithm| -> String {
            content.digest(algorithm).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        assert_eq!(hex(Algorithm::Md5), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(hex(Algorithm::Sha1), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
        assert_eq!(hex(Algorithm::Sha256), sha256);
        assert_eq!(hex(Algorithm::Crc32), "cbf43926");
        assert_eq!(hex(Algorithm::Crc32c), "e3069283");
        assert_eq!(hex(Algorithm::Crc64nvme), "ae8b14860a799888");
    }
}
