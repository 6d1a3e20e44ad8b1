//! The vocabulary of where an export stands and what it waits for.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::ids::ProjectDigest;

/// What waits as a whole because something answered `Retry-After`. `Display` is its key in the
/// state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PauseScope {
    Project(ProjectDigest),
    /// The API, and with it every project.
    Origin,
    /// One object store.
    Host(String),
    /// A scope that a later version of this program recorded.
    Unknown(String),
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(digest) => write!(f, "project:{digest}"),
            Self::Origin => f.write_str("origin"),
            Self::Host(host) => write!(f, "host:{host}"),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

impl FromStr for PauseScope {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let known = match text.split_once(':') {
            None => (text == "origin").then_some(Self::Origin),
            Some(("project", digest)) => digest.parse().ok().map(Self::Project),
            Some(("host", host)) => Some(Self::Host(host.to_owned())),
            Some(_) => None,
        };
        Ok(known.unwrap_or_else(|| Self::Unknown(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_back_as_it_was_written() {
        let digest = ProjectDigest::of(&"project_1".parse().unwrap());
        let scopes = [
            PauseScope::Project(digest),
            PauseScope::Origin,
            PauseScope::Host("store.example:8443".to_owned()),
            PauseScope::Unknown("bucket:exports".to_owned()),
            PauseScope::Unknown("project:1".to_owned()),
        ];
        for scope in scopes {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
    }
}
