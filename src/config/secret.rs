//! Where a project's REST API key comes from, and the key itself. It is never shown.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

use super::environment::Environment;
use super::file::{self, ReadError};

/// The key is sent in a header, and common servers limit a header line to 8 KiB.
const MAX_KEY_BYTES: usize = 4096;
/// The key, a BOM and a line end.
const MAX_KEY_FILE_BYTES: u64 = 4096 + 5;
/// The UTF-8 byte order mark that some editors put before a text.
const BOM: &[u8] = b"\xef\xbb\xbf";
const READABLE_BY_OTHERS: u32 = 0o044;

/// A project's REST API key: one line of printable ASCII. Neither `Debug` nor an error shows it.
#[derive(Clone)]
pub struct RestKey(SecretString);

impl RestKey {
    /// Removes a BOM and one line end; the rest must be one line of printable ASCII. A space at
    /// either end is refused, because HTTP would silently drop it.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let line = bytes.strip_suffix(b"\r\n").or(bytes.strip_suffix(b"\n")).unwrap_or(bytes);
        match line {
            [] => Err(KeyError::Empty),
            _ if line.len() > MAX_KEY_BYTES => Err(KeyError::TooLong),
            _ if line.contains(&b'\n') => Err(KeyError::NotOneLine),
            [b' ', ..] | [.., b' '] => Err(KeyError::SpaceAtEnd),
            [b'"' | b'\'' | b'`', ..] | [.., b'"' | b'\'' | b'`'] => Err(KeyError::Quoted),
            _ if is_header(line) => Err(KeyError::Header),
            _ if is_assignment(line) => Err(KeyError::Assignment),
            _ => {
                let key = std::str::from_utf8(line).map_err(|_| KeyError::NotPrintable)?;
                let is_printable = key.bytes().all(|byte| matches!(byte, b' '..=b'~'));
                is_printable.then(|| Self(key.into())).ok_or(KeyError::NotPrintable)
            }
        }
    }

    /// The key itself, for the request header and for removing it from a server's messages.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

/// Whether a header was copied instead of the key that it carries.
fn is_header(line: &[u8]) -> bool {
    let begins = |with: &str| {
        line.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    begins("Bearer ") || begins("Authorization:")
}

/// Whether a line of a shell or an environment file was copied: a bearer token has `=` only at its
/// end (RFC 6750, section 2.1).
fn is_assignment(line: &[u8]) -> bool {
    line.windows(2).any(|pair| pair[0] == b'=' && pair[1] != b'=')
}

impl PartialEq for RestKey {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for RestKey {}

impl fmt::Debug for RestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestKey([hidden])")
    }
}

/// systemd puts credentials into `$CREDENTIALS_DIRECTORY`. `Display` names the source, never the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    Env(String),
    Credential { name: String, directory: PathBuf },
}

impl KeySource {
    /// Reads the key as it is now; blocks on the disk. A changed file or credential gives the
    /// changed key. A variable gives the same key as long as the process runs.
    pub fn read(&self, environment: &Environment) -> Result<RestKey, KeyError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Credential { name, directory } => read_file(&directory.join(name)),
            Self::Env(name) => {
                let value = environment.get_os(name).ok_or(KeyError::Unset)?;
                RestKey::parse(value.as_encoded_bytes())
            }
        }
    }

    /// `None` if a variable holds the key.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Credential { name, directory } => Some(directory.join(name)),
            Self::Env(_) => None,
        }
    }

    /// The mode of a key file that other users can read. Credentials are left out: systemd protects
    /// them by the folder and by ACLs, which look like group bits.
    pub(super) fn mode_if_readable_by_others(&self) -> Option<u32> {
        let Self::File(path) = self else { return None };
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o7777;
        (mode & READABLE_BY_OTHERS != 0).then_some(mode)
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Credential { name, .. } => write!(f, "credential {name}"),
        }
    }
}

fn read_file(path: &Path) -> Result<RestKey, KeyError> {
    let bytes = Zeroizing::new(file::read(path, MAX_KEY_FILE_BYTES)?.bytes);
    RestKey::parse(&bytes)
}

/// Why a source has no valid key, as what follows the source in a sentence. Never shows the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("is not set")]
    Unset,
    #[error("is empty")]
    Empty,
    #[error("holds more than {MAX_KEY_BYTES} characters, which is too long for a key")]
    TooLong,
    #[error("holds more than one line: a key is a single line")]
    NotOneLine,
    #[error("holds a key that begins or ends with a space")]
    SpaceAtEnd,
    #[error("holds a key in quotes: remove the quotes")]
    Quoted,
    #[error("holds a header: keep only the key, which follows `Bearer`")]
    Header,
    #[error("holds NAME=VALUE: keep only the value, which is the key")]
    Assignment,
    #[error("holds characters that are not printable ASCII, which a key cannot contain")]
    NotPrintable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::Permissions;
    use std::io::Write as _;

    fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_bom_and_one_line_end_are_removed() {
        for bytes in [&b"s3cret"[..], b"s3cret\n", b"s3cret\r\n", b"\xef\xbb\xbfs3cret\n"] {
            assert_eq!(RestKey::parse(bytes).unwrap().expose(), "s3cret", "{bytes:?}");
        }
        assert_eq!(RestKey::parse(b"s3cret==").unwrap().expose(), "s3cret==", "base64");
        assert_eq!(RestKey::parse(b"two words").unwrap().expose(), "two words");
        assert!(RestKey::parse(&[b'k'; MAX_KEY_BYTES]).is_ok());
    }

    #[test]
    fn an_invalid_key_is_refused_and_not_shown() {
        for (bytes, expected) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"\r\n", "is empty"),
            (b"\xef\xbb\xbf", "is empty"),
            (b"s3cret\n\n", "more than one line"),
            (b"s3cret\nmore", "more than one line"),
            (b"s3cret\r", "printable"),
            (b"s3cret\t", "printable"),
            (b"s3cr\xc3\xa9t", "printable"),
            (b"s3cret\xff", "printable"),
            (b"s3cret\0", "printable"),
            (b" s3cret", "space"),
            (b"s3cret \n", "space"),
            (b" ", "space"),
            (b"\"s3cret\"", "in quotes"),
            (b"s3cret'\n", "in quotes"),
            (b"bearer s3cret", "`Bearer`"),
            (b"AUTHORIZATION: Bearer s3cret", "`Bearer`"),
            (b"export KEY=s3cret", "NAME=VALUE"),
            (&[b'k'; MAX_KEY_BYTES + 1], "too long"),
        ] {
            let error = RestKey::parse(bytes).unwrap_err();
            assert!(error.to_string().contains(expected), "{bytes:?}: {error}");
            assert!(!format!("{error} {error:?}").contains("s3c"), "{error:?}");
        }
    }

    #[test]
    fn a_key_compares_without_being_shown() {
        let key = RestKey::parse(b"s3cret").unwrap();
        assert_eq!(key, RestKey::parse(b"s3cret\n").unwrap());
        assert_ne!(key, RestKey::parse(b"other").unwrap());
        assert_eq!(format!("{key:?}"), "RestKey([hidden])");
    }

    #[test]
    fn a_file_is_read_again_each_time_and_a_variable_comes_from_the_snapshot() {
        let mut file = file_with(b"first\n");
        let (source, none) = (KeySource::File(file.path().to_owned()), Environment::default());
        assert_eq!(source.read(&none).unwrap().expose(), "first");
        file.as_file().set_len(0).unwrap();
        assert!(matches!(source.read(&none), Err(KeyError::Empty)));
        std::io::Seek::rewind(&mut file).unwrap();
        file.write_all(b"second\n").unwrap();
        assert_eq!(source.read(&none).unwrap().expose(), "second");

        let source = KeySource::Env("KEY".to_owned());
        assert_eq!(source.read(&Environment::from_pairs([("KEY", "k")])).unwrap().expose(), "k");
        assert!(matches!(source.read(&none), Err(KeyError::Unset)));
        let empty = Environment::from_pairs([("KEY", "")]);
        assert!(matches!(source.read(&empty), Err(KeyError::Empty)));
    }

    #[test]
    fn only_the_permissions_of_a_key_file_are_checked() {
        let file = file_with(b"key");
        let set =
            |mode| std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        let source = KeySource::File(file.path().to_owned());
        for (mode, is_readable) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            set(mode);
            assert_eq!(source.mode_if_readable_by_others(), is_readable.then_some(mode));
        }
        let directory = file.path().parent().unwrap().to_owned();
        let name = file.path().file_name().unwrap().to_str().unwrap().to_owned();
        let credential = KeySource::Credential { name, directory };
        assert_eq!(credential.mode_if_readable_by_others(), None);
        assert_eq!(credential.read(&Environment::default()).unwrap().expose(), "key");
    }

    proptest! {
        #[test]
        fn every_valid_key_is_a_header_value(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(key) = RestKey::parse(&bytes) {
                prop_assert!(reqwest::header::HeaderValue::from_str(key.expose()).is_ok());
                prop_assert_eq!(key.expose().trim(), key.expose());
            }
        }
    }
}
