//! A file with the headers that the store sends for it: its validator and its checksums.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::script::{ChecksumHeader, Etag, SentChecksum, SimFile};

#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) file: SimFile,
    pub(super) etag: Option<String>,
    /// Checksum headers, and whether each is sent with whole answers only.
    pub(super) checksums: Vec<(String, String, bool)>,
}

impl StoredFile {
    /// Reads the content if a checksum is sent for it.
    pub(super) fn new(file: SimFile) -> Self {
        let etag = match file.etag {
            Etag::Strong => Some(file.content.etag()),
            Etag::Weak => Some(format!("W/{}", file.content.etag())),
            Etag::Absent => None,
        };
        Self { etag, checksums: checksum_headers(&file), file }
    }
}

fn checksum_headers(file: &SimFile) -> Vec<(String, String, bool)> {
    let header = |sent: &SentChecksum| {
        let mut value = file.content.digest(sent.algorithm);
        if let Some(byte) = value.first_mut().filter(|_| !sent.correct) {
            *byte ^= 1;
        }
        let value = STANDARD.encode(value);
        let algorithm = sent.algorithm.to_string();
        // The names of RFC 3230 and RFC 9530 put a hyphen where ours have none.
        let hyphenated = match algorithm.as_str() {
            "sha1" => "sha".to_owned(),
            other => other.replace("sha", "sha-"),
        };
        let (name, value, whole_only) = match sent.header {
            ChecksumHeader::ContentMd5 => ("content-md5", value, true),
            ChecksumHeader::Digest => ("digest", format!("{hyphenated}={value}"), false),
            ChecksumHeader::ReprDigest => ("repr-digest", format!("{hyphenated}=:{value}:"), false),
            ChecksumHeader::ContentDigest => {
                ("content-digest", format!("{hyphenated}=:{value}:"), true)
            }
            ChecksumHeader::GoogHash => ("x-goog-hash", format!("{algorithm}={value}"), false),
            ChecksumHeader::AmzChecksum => {
                return (format!("x-amz-checksum-{algorithm}"), value, true);
            }
        };
        (name.to_owned(), value, whole_only)
    };
    file.checksums.iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checksum::{Algorithm, Coverage, promised_checksums};

    #[test]
    fn the_program_reads_every_checksum_header() {
        use ChecksumHeader as Header;
        for (header, algorithm) in [
            (Header::ContentMd5, Algorithm::Md5),
            (Header::Digest, Algorithm::Sha1),
            (Header::Digest, Algorithm::Sha256),
            (Header::ReprDigest, Algorithm::Sha512),
            (Header::ContentDigest, Algorithm::Sha256),
            (Header::GoogHash, Algorithm::Md5),
            (Header::GoogHash, Algorithm::Crc32c),
            (Header::AmzChecksum, Algorithm::Crc32),
            (Header::AmzChecksum, Algorithm::Crc64nvme),
            (Header::AmzChecksum, Algorithm::Sha256),
        ] {
            let file = SimFile::new("file_1", 1, "[]");
            let truth = file.content.digest(algorithm);
            for (sent, agrees) in [
                (SentChecksum::correct(header, algorithm), true),
                (SentChecksum::wrong(header, algorithm), false),
            ] {
                let headers = checksum_headers(&file.clone().with_checksum(sent));
                let pairs = headers.iter().map(|(name, value, _)| (name.as_str(), value.as_str()));
                let promised = promised_checksums(pairs, Coverage::Whole);
                assert_eq!(promised.len(), 1, "{header:?} {algorithm}");
                assert_eq!(promised[0].algorithm, algorithm);
                assert_eq!(promised[0].value == truth, agrees, "{header:?} {algorithm}");
            }
        }
    }
}
