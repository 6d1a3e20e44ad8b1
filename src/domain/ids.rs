//! Names from outside, parsed into types that are safe in a path, a header and a log. An invalid
//! text is refused, never cleaned up.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::digest::Sha256;

/// Longest export or file ID in bytes: every file name stays below the 255 bytes of Linux.
pub const MAX_ID_BYTES: usize = 128;
pub const MAX_PROJECT_NAME_BYTES: usize = 64;
const MAX_PROJECT_KEY_BYTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {max} characters")]
    TooLong { max: usize },
    #[error("may only contain {allowed}")]
    BadCharacter { allowed: &'static str },
}

fn parse(
    text: &str,
    max: usize,
    allowed: &'static str,
    first: impl Fn(u8) -> bool,
    rest: impl Fn(u8) -> bool,
) -> Result<String, IdError> {
    let bytes = text.as_bytes();
    match bytes.first() {
        None => Err(IdError::Empty),
        Some(_) if bytes.len() > max => Err(IdError::TooLong { max }),
        Some(&byte) if first(byte) && bytes.iter().skip(1).all(|&byte| rest(byte)) => {
            Ok(text.to_owned())
        }
        Some(_) => Err(IdError::BadCharacter { allowed }),
    }
}

macro_rules! path_safe_id {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:expr, $first:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let first: fn(u8) -> bool = $first;
                let rest = |byte| first(byte) || byte == b'_' || byte == b'-';
                parse(text, $max, $allowed, first, rest).map(|name| Self(name.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

const ID_CHARACTERS: &str = "letters, digits, '_' and '-', and starts with a letter or digit";

path_safe_id!(
    /// The ID of one export request, `[A-Za-z0-9][A-Za-z0-9_-]{0,127}`; a folder name on disk.
    ExportId, MAX_ID_BYTES, ID_CHARACTERS, |byte| byte.is_ascii_alphanumeric()
);

path_safe_id!(
    /// The ID of one file of an export, same alphabet as [`ExportId`]; part of a file name on disk.
    FileId, MAX_ID_BYTES, ID_CHARACTERS, |byte| byte.is_ascii_alphanumeric()
);

path_safe_id!(
    /// The name an operator gives to a project, `[a-z0-9][a-z0-9_-]{0,63}`; a folder name on disk.
    ProjectName,
    MAX_PROJECT_NAME_BYTES,
    "lower-case letters, digits, '_' and '-', and starts with a letter or digit",
    |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()
);

/// The key that names a project to the API (`X-Batch-Project`). Never shown whole.
#[derive(Clone)]
pub struct ProjectKey(SecretString);

impl ProjectKey {
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The first characters and an ellipsis, enough to distinguish two keys.
    pub fn shortened(&self) -> String {
        let key = self.expose();
        let shown = (key.len() / 3).min(12);
        format!("{}…", &key[..shown])
    }
}

impl FromStr for ProjectKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (printable, is_graphic) =
            ("printable ASCII without spaces", |byte: u8| byte.is_ascii_graphic());
        parse(text, MAX_PROJECT_KEY_BYTES, printable, is_graphic, is_graphic)
            .map(|key| Self(key.into()))
    }
}

impl fmt::Debug for ProjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProjectKey([hidden])")
    }
}

impl PartialEq for ProjectKey {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ProjectKey {}

/// The SHA-256 of a project key: identifies a project across renames without storing the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProjectDigest(Sha256);

impl ProjectDigest {
    pub fn of(key: &ProjectKey) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key.expose().as_bytes()).as_ref());
        Self(Sha256::new(bytes))
    }
}

impl fmt::Display for ProjectDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ProjectDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a project's digest is 64 hexadecimal digits")]
pub struct ProjectDigestError;

impl FromStr for ProjectDigest {
    type Err = ProjectDigestError;

    fn from_str(text: &str) -> Result<Self, ProjectDigestError> {
        Sha256::from_hex(text).map(Self).ok_or(ProjectDigestError)
    }
}

/// What every record of an export is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportKey {
    pub project: ProjectDigest,
    pub export: ExportId,
}

/// Where an export belongs on disk and in front of people: `project/export`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportPath {
    pub project: ProjectName,
    pub export: ExportId,
}

impl fmt::Display for ExportPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.export)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn export_ids_outside_the_alphabet_are_refused() {
        assert_eq!("".parse::<ExportId>(), Err(IdError::Empty));
        for text in [".", "..", "-a", "_a", "a/b", "a\0", "é", "a b"] {
            let refused = text.parse::<ExportId>().unwrap_err().to_string();
            assert!(refused.starts_with("may only contain"), "{text:?}: {refused}");
        }
        assert!("a".repeat(MAX_ID_BYTES).parse::<ExportId>().is_ok());
        let long = "a".repeat(MAX_ID_BYTES + 1).parse::<ExportId>();
        assert_eq!(long, Err(IdError::TooLong { max: MAX_ID_BYTES }));
    }

    #[test]
    fn project_names_are_lower_case() {
        assert!("shop-1_eu".parse::<ProjectName>().is_ok());
        assert!("Shop".parse::<ProjectName>().is_err());
    }

    #[test]
    fn a_project_key_hides_itself() {
        let key: ProjectKey = "project_0123456789abcdef".parse().unwrap();
        assert_eq!(format!("{key:?}"), "ProjectKey([hidden])");
        assert_eq!(key.shortened(), "project_…");
        assert!("with space".parse::<ProjectKey>().is_err());
        assert!("line\nbreak".parse::<ProjectKey>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_is_one_safe_path_component(text in "\\PC{0,140}") {
            if let Ok(id) = text.parse::<ExportId>() {
                prop_assert_eq!(id.as_str(), text.as_str());
                let path = std::path::Path::new(id.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
            }
        }
    }
}
