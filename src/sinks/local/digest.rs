//! Hashing a body while it is written: SHA-256 for the manifest, and whatever the store promised.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use crc_fast::CrcAlgorithm;
use md5::Digest as _;

use crate::domain::checksum::{Algorithm, Check, PromisedChecksum};
use crate::domain::part::Sha256;

pub struct Digests {
    sha256: Context,
    promised: Vec<(Algorithm, Hasher)>,
}

enum Hasher {
    Md5(md5::Md5),
    AwsLc(Context),
    /// Boxed: it is several times as large as the others.
    Crc(Box<crc_fast::Digest>, usize),
}

/// A checksum that the store sent is not the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {algorithm} of the bytes is not the one that the store sent")]
pub struct Mismatch {
    pub algorithm: Algorithm,
}

impl Digests {
    /// Digests of nothing yet; `algorithms` are those that [`Digests::finish`] will be asked for.
    pub fn new(algorithms: &[Algorithm]) -> Self {
        let mut promised: Vec<(Algorithm, Hasher)> = Vec::new();
        for &algorithm in algorithms {
            let is_new = promised.iter().all(|(known, _)| *known != algorithm);
            if algorithm != Algorithm::Sha256 && is_new {
                promised.push((algorithm, Hasher::new(algorithm)));
            }
        }
        Self { sha256: Context::new(&SHA256), promised }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        for (_, hasher) in &mut self.promised {
            hasher.update(bytes);
        }
    }

    pub fn so_far(&self) -> Sha256 {
        sha256_of(self.sha256.clone())
    }

    /// The file's SHA-256, and the checks it passed, in manifest order. A promised checksum that
    /// differs, or was not named to [`Digests::new`], is a mismatch.
    pub fn finish(self, promised: &[PromisedChecksum]) -> Result<(Sha256, Vec<Check>), Mismatch> {
        let sha256 = sha256_of(self.sha256);
        let mut values: Vec<(Algorithm, Vec<u8>)> = self
            .promised
            .into_iter()
            .map(|(algorithm, hasher)| (algorithm, hasher.finish()))
            .collect();
        values.push((Algorithm::Sha256, sha256.as_bytes().to_vec()));
        let mut checks = Vec::with_capacity(promised.len());
        for PromisedChecksum { algorithm, value } in promised {
            if !values.iter().any(|(known, ours)| known == algorithm && ours == value) {
                return Err(Mismatch { algorithm: *algorithm });
            }
            checks.push(algorithm.check());
        }
        checks.sort_unstable();
        checks.dedup();
        Ok((sha256, checks))
    }
}

fn sha256_of(context: Context) -> Sha256 {
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Sha256::new(digest)
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        let crc = |kind| Self::Crc(Box::new(crc_fast::Digest::new(kind)), algorithm.value_bytes());
        match algorithm {
            Algorithm::Md5 => Self::Md5(md5::Md5::new()),
            Algorithm::Sha1 => Self::AwsLc(Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            Algorithm::Sha256 => Self::AwsLc(Context::new(&SHA256)),
            Algorithm::Sha512 => Self::AwsLc(Context::new(&SHA512)),
            Algorithm::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => crc(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64nvme => crc(CrcAlgorithm::Crc64Nvme),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(bytes),
            Self::AwsLc(context) => context.update(bytes),
            Self::Crc(crc, _) => crc.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Md5(md5) => md5.finalize().to_vec(),
            Self::AwsLc(context) => context.finish().as_ref().to_vec(),
            // The value is as wide as its algorithm; it arrives in the low bytes of a u64.
            Self::Crc(crc, bytes) => {
                crc.finalize().to_be_bytes()[size_of::<u64>() - bytes..].to_vec()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of "123456789": RFC 1321 and FIPS 180 by `md5sum` and `sha*sum`, the CRCs
    /// by the catalogue of parametrised CRC algorithms.
    const KNOWN: [(Algorithm, &str); 7] = [
        (Algorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
        (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        (
            Algorithm::Sha512,
            "d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274ad27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85",
        ),
        (Algorithm::Crc32, "cbf43926"),
        (Algorithm::Crc32c, "e3069283"),
        (Algorithm::Crc64nvme, "ae8b14860a799888"),
    ];

    fn promise(algorithm: Algorithm, hex: &str) -> PromisedChecksum {
        let value = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        PromisedChecksum { algorithm, value }
    }

    fn digests(algorithms: &[Algorithm]) -> Digests {
        let mut digests = Digests::new(algorithms);
        digests.update(b"1234");
        digests.update(b"");
        digests.update(b"56789");
        digests
    }

    #[test]
    fn known_answers() {
        let algorithms = KNOWN.map(|(algorithm, _)| algorithm);
        let promised = KNOWN.map(|(algorithm, hex)| promise(algorithm, hex));
        let (sha256, checks) = digests(&algorithms).finish(&promised).unwrap();
        assert_eq!(sha256.to_string(), KNOWN[2].1);
        assert_eq!(checks, algorithms.map(Algorithm::check));
    }

    #[test]
    fn each_wrong_value_is_found_and_named() {
        for (algorithm, hex) in KNOWN {
            let mut wrong = promise(algorithm, hex);
            wrong.value[0] ^= 1;
            let refused = digests(&[algorithm]).finish(&[wrong]);
            assert_eq!(refused.unwrap_err(), Mismatch { algorithm });
        }
    }

    #[test]
    fn what_was_not_computed_is_not_called_verified() {
        let promised = [promise(Algorithm::Md5, KNOWN[0].1)];
        let refused = digests(&[]).finish(&promised).unwrap_err();
        assert_eq!(refused, Mismatch { algorithm: Algorithm::Md5 });
        assert_eq!(digests(&[]).finish(&[]).unwrap().1, []);
    }
}
