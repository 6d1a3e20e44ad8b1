//! Parses the checksums that an object store may send with a body. Others do the hashing.
//!
//! Sources: `Content-MD5` RFC 1864; `Digest` RFC 3230; `Repr-Digest` and `Content-Digest` RFC 9530;
//! `x-goog-hash` Cloud Storage XML API; `x-amz-checksum-*` Amazon S3 API, where a value ending in
//! `-N` is a checksum of checksums and `x-amz-checksum-type: COMPOSITE` says the same.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// What a finished file was checked against; the words of the manifest's `verified_by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The length is what the API declared.
    Size,
    /// No length was declared; the body's own framing (Content-Length or chunks) was complete.
    Framing,
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Crc32,
    Crc32c,
    Crc64nvme,
}

/// An algorithm that a store may use. `Crc32` is CRC-32/ISO-HDLC, `Crc32c` is CRC-32/ISCSI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Crc32,
    Crc32c,
    Crc64nvme,
}

impl Algorithm {
    /// Its name, the bytes of its values, and the check that it makes.
    fn facts(self) -> (&'static str, usize, Check) {
        match self {
            Self::Md5 => ("md5", 16, Check::Md5),
            Self::Sha1 => ("sha1", 20, Check::Sha1),
            Self::Sha256 => ("sha256", 32, Check::Sha256),
            Self::Sha512 => ("sha512", 64, Check::Sha512),
            Self::Crc32 => ("crc32", 4, Check::Crc32),
            Self::Crc32c => ("crc32c", 4, Check::Crc32c),
            Self::Crc64nvme => ("crc64nvme", 8, Check::Crc64nvme),
        }
    }

    pub fn value_bytes(self) -> usize {
        self.facts().1
    }

    pub fn check(self) -> Check {
        self.facts().2
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().0)
    }
}

/// One checksum of the whole file, as the store promised it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PromisedChecksum {
    pub algorithm: Algorithm,
    pub value: Vec<u8>,
}

/// Which bytes an answer's headers describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// A 200: body and representation are the same bytes.
    Whole,
    /// A 206: headers about the body describe the range, and say nothing about the whole file.
    Range,
}

/// Every valid checksum of the whole file among `headers` (name in lower case, value), each once.
pub fn promised_checksums<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    coverage: Coverage,
) -> Vec<PromisedChecksum> {
    let whole = coverage == Coverage::Whole;
    let (mut found, mut amazon, mut google) = (Vec::new(), Vec::new(), Vec::new());
    let (mut composite, mut stored_encoded) = (false, false);
    for (name, value) in headers {
        match name {
            "content-md5" if whole => found.extend(decode(Algorithm::Md5, value)),
            "digest" => found.extend(items(value).filter_map(|(name, value)| {
                decode(http_algorithm(&name.to_ascii_lowercase())?, value)
            })),
            "repr-digest" => found.extend(structured(value)),
            "content-digest" if whole => found.extend(structured(value)),
            "x-goog-hash" => google.extend(items(value).filter_map(|(name, value)| {
                let algorithm = match name {
                    "md5" => Algorithm::Md5,
                    "crc32c" => Algorithm::Crc32c,
                    _ => return None,
                };
                decode(algorithm, value)
            })),
            "x-goog-stored-content-encoding" => {
                stored_encoded = !value.trim().eq_ignore_ascii_case("identity");
            }
            "x-amz-checksum-type" => composite = value.trim().eq_ignore_ascii_case("composite"),
            _ if whole => {
                let algorithm = match name.strip_prefix("x-amz-checksum-") {
                    Some("crc32") => Algorithm::Crc32,
                    Some("crc32c") => Algorithm::Crc32c,
                    Some("crc64nvme") => Algorithm::Crc64nvme,
                    Some("sha1") => Algorithm::Sha1,
                    Some("sha256") => Algorithm::Sha256,
                    _ => continue,
                };
                amazon.extend(decode(algorithm, value));
            }
            _ => {}
        }
    }
    if !composite {
        found.extend(amazon);
    }
    // Cloud Storage hashes what it stores: if that was unpacked on the way, these are other bytes.
    if !stored_encoded {
        found.extend(google);
    }
    found.sort();
    found.dedup();
    found
}

fn decode(algorithm: Algorithm, value: &str) -> Option<PromisedChecksum> {
    let value = STANDARD.decode(value.trim()).ok()?;
    (value.len() == algorithm.value_bytes()).then_some(PromisedChecksum { algorithm, value })
}

/// `name=value,name=value`.
fn items(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split(',').filter_map(|item| item.trim().split_once('='))
}

fn http_algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "md5" => Some(Algorithm::Md5),
        "sha" => Some(Algorithm::Sha1),
        "sha-256" => Some(Algorithm::Sha256),
        "sha-512" => Some(Algorithm::Sha512),
        _ => None,
    }
}

fn structured(value: &str) -> impl Iterator<Item = PromisedChecksum> + '_ {
    items(value).filter_map(|(name, value)| {
        decode(http_algorithm(name)?, value.strip_prefix(':')?.strip_suffix(':')?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5_OF_NOTHING: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";

    fn names(headers: &[(&str, &str)], coverage: Coverage) -> Vec<String> {
        let promised = promised_checksums(headers.iter().copied(), coverage);
        promised.iter().map(|promised| promised.algorithm.to_string()).collect()
    }

    #[test]
    fn each_header_is_read_and_what_covers_other_bytes_is_not() {
        let md5 = MD5_OF_NOTHING;
        let (whole, range) = (Coverage::Whole, Coverage::Range);
        let goog = format!("crc32c=AAAAAA==,md5={md5}");
        let repr = format!("md5=:{md5}:, unknown=:AA==:");
        let digest = format!("MD5={md5}");
        let (goog, repr, digest) = (goog.as_str(), repr.as_str(), digest.as_str());
        let crc32 = ("x-amz-checksum-crc32", "AAAAAA==");
        for (headers, coverage, expected) in [
            (vec![("content-md5", md5)], whole, vec!["md5"]),
            (vec![("content-md5", md5)], range, vec![]),
            (vec![("x-goog-hash", goog)], range, vec!["md5", "crc32c"]),
            (
                vec![("x-goog-hash", goog), ("x-goog-stored-content-encoding", "gzip")],
                whole,
                vec![],
            ),
            (vec![("repr-digest", repr)], range, vec!["md5"]),
            (vec![("content-digest", repr)], range, vec![]),
            (vec![("digest", digest)], whole, vec!["md5"]),
            (vec![crc32], whole, vec!["crc32"]),
            (vec![("x-amz-checksum-crc32", "AAAAAA==-3")], whole, vec![]),
            (vec![crc32, ("x-amz-checksum-type", "COMPOSITE")], whole, vec![]),
            (
                vec![("content-md5", "short"), ("digest", "sha-256=AAAA"), ("etag", "\"x\"")],
                whole,
                vec![],
            ),
            (vec![("content-md5", md5), ("x-goog-hash", goog)], whole, vec!["md5", "crc32c"]),
        ] {
            assert_eq!(names(&headers, coverage), expected, "{headers:?} {coverage:?}");
        }
    }
}
