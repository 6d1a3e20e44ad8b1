//! Where a file can be fetched: the signed link, which is a secret, or the API's own direct answer.

use std::fmt;

use reqwest::Response;
use url::{Position, Url};

use crate::domain::text::shown;

/// Redirects that one download call may follow, including the API's own first one.
pub const MAX_HOPS: u8 = 5;

/// A URL that shows only its host, and its path and query as they are sent.
///
/// A signature is over the letters of a link, but `Url` writes some of them anew: `'` of a query,
/// `./` and `../` of a path. So they are kept as they came.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl {
    url: Url,
    target: String,
}

/// What `Url` percent-encodes in a query, apart from `'`, and in a path (URL Standard, section 1.3).
const NOT_IN_QUERIES: &[u8] = b" \"<>";
const NOT_IN_PATHS: &[u8] = b" \"<>`{}";

impl SecretUrl {
    pub fn new(url: Url) -> Self {
        let target = url[Position::BeforePath..Position::AfterQuery].to_owned();
        Self { url, target }
    }

    /// `url`, which was read from `text`: its path and query keep the letters of `text`.
    pub(super) fn spelled(url: Url, text: &str) -> Self {
        let plain = Self::new(url);
        let Some(target) = spelling(&plain.url, text) else { return plain };
        // Only letters that mean what was judged: read again, they have to be the same URL.
        let origin = &plain.url[..Position::BeforePath];
        match format!("{origin}{target}").parse() {
            Ok(again) if plain.url == again => Self { target, ..plain },
            _ => plain,
        }
    }

    /// The URL itself, to judge or to connect to. Never show it.
    pub fn expose(&self) -> &Url {
        &self.url
    }

    /// The path and query to send. Never show them.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The host, with its port unless it is the scheme's default. Safe to show; may be empty.
    pub fn host(&self) -> String {
        host_of(&self.url)
    }
}

/// The path and query of `text` in its own letters. What HTTP does not allow is percent-encoded. A
/// relative path has none of its own, so it gets that of `url`.
fn spelling(url: &Url, text: &str) -> Option<String> {
    let text = text.trim_matches(|letter: char| letter <= ' ');
    let text = text.split_once('#').map_or(text, |(text, _)| text);
    let scheme = text.get(..url.scheme().len() + 1);
    let has_scheme = scheme.is_some_and(|found| {
        found.strip_suffix(':').is_some_and(|found| found.eq_ignore_ascii_case(url.scheme()))
    });
    let rest = if has_scheme { &text[url.scheme().len() + 1..] } else { text };
    let rest = match rest.strip_prefix("//") {
        Some(rest) => &rest[rest.find(['/', '?']).unwrap_or(rest.len())..],
        None => rest,
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // The URL Standard reads it as a slash; HTTP does not know it.
    if path.contains('\\') {
        return None;
    }
    let mut target = String::with_capacity(text.len());
    match path {
        path if path.starts_with('/') => encode(path, NOT_IN_PATHS, &mut target),
        _ => target.push_str(url.path()),
    }
    if let Some(query) = query {
        target.push('?');
        encode(query, NOT_IN_QUERIES, &mut target);
    }
    Some(target)
}

fn encode(text: &str, not_in: &[u8], into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !not_in.contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
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
    fn a_link_keeps_its_letters() {
        let current: Url = "https://store.example/a/b?old".parse().unwrap();
        for (location, target) in [
            ("https://store.example/it's/./x?sig='a'#top", "/it's/./x?sig='a'"),
            ("HTTPS://STORE.example:443/a/../b", "/a/../b"),
            ("https://other.example?x='", "/?x='"),
            ("https://other.example", "/"),
            ("https://other.example/?", "/?"),
            ("//other.example//a//./b?x=//", "//a//./b?x=//"),
            ("/%7e/%2E/x?%27'", "/%7e/%2E/x?%27'"),
            ("  /padded?'\t", "/padded?'"),
            ("/é b?é 'b", "/%C3%A9%20b?%C3%A9%20'b"),
            ("/p^`{}|?p^`{}|", "/p^%60%7B%7D|?p^`{}|"),
            // References to another folder are resolved; the query keeps its letters.
            ("c?x='", "/a/c?x='"),
            ("./c/../d?x='", "/a/d?x='"),
            ("?x='", "/a/b?x='"),
            ("https:c?x='", "/a/c?x='"),
            // Letters that a URL may not have are read as the URL Standard says.
            ("https:\\\\other.example\\a\\.\\b", "/a/b"),
            ("/a\\b?x='", "/a/b?x=%27"),
            ("/a\tb?x='", "/ab?x=%27"),
            ("https:/store.example/./b", "/store.example/./b"),
        ] {
            let url = current.join(location).unwrap();
            let mut bare = url.clone();
            bare.set_fragment(None);
            let link = SecretUrl::spelled(bare, location);
            assert_eq!(link.target(), target, "{location}");
            let host = &link.expose()[..Position::BeforePath];
            let sent: Url = format!("{host}{}", link.target()).parse().unwrap();
            assert_eq!(&sent, link.expose(), "{location}");
        }
    }

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
