//! Where a file can be fetched: the signed link, which is a secret, or the API's own direct answer.

use std::fmt;

use reqwest::Response;
use url::Url;

use crate::domain::text::shown;

/// Redirects that one download call may follow, including the API's own first one.
pub const MAX_HOPS: u8 = 5;

/// A URL that shows only its host.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    pub fn new(url: Url) -> Self {
        Self(url)
    }

    /// The URL itself, to judge or to send a request to. Never show it.
    pub fn expose(&self) -> &Url {
        &self.0
    }

    /// The host, with its port unless it is the scheme's default. Safe to show; may be empty.
    pub fn host(&self) -> String {
        host_of(&self.0)
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({}/[hidden])", self.host())
    }
}

pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => shown(&format!("{host}:{port}"), &[]),
        None => shown(host, &[]),
    }
}

/// The link that the download call answers with: valid for 20 minutes, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLink {
    pub url: SecretUrl,
    /// Redirects that may still be followed from here.
    pub hops_left: u8,
}

/// The API sent the file itself instead of a redirect; the body has not been read yet.
pub struct DirectAnswer(pub(crate) Response);

impl DirectAnswer {
    pub fn host(&self) -> String {
        host_of(self.0.url())
    }
}

impl fmt::Debug for DirectAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectAnswer({}, {})", self.host(), self.0.status().as_u16())
    }
}

#[derive(Debug)]
pub enum Link {
    Signed(SignedLink),
    Direct(DirectAnswer),
}

impl Link {
    pub fn host(&self) -> String {
        match self {
            Self::Signed(link) => link.url.host(),
            Self::Direct(answer) => answer.host(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_url_shows_its_host_only() {
        let url: Url =
            "https://store.example:8443/bucket/secret-path?X-Signature=s3cr3t".parse().unwrap();
        let link = Link::Signed(SignedLink { url: SecretUrl::new(url), hops_left: 4 });
        let text = format!("{link:?} {link:#?}");
        assert!(text.contains("store.example:8443"), "{text}");
        assert!(!text.contains("secret-path") && !text.contains("s3cr3t"), "{text}");
    }
}
