//! The API's base URL, and the hosts that may have private addresses.

use std::net::Ipv6Addr;

use url::{Host, Url};

/// Why a text is not a usable base URL. The text is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BaseUrlError {
    #[error("is not a URL: {0}")]
    Malformed(#[from] url::ParseError),
    #[error("must begin with https://")]
    Scheme,
    #[error(
        "must begin with https://: plain HTTP is only for an API on this machine \
         (127.0.0.0/8, ::1, localhost)"
    )]
    PlainHttp,
    #[error("must not contain a user name or password: remove the part before '@'")]
    UserInfo,
    #[error("must not contain a query: remove the part from '?' on")]
    Query,
    #[error("must not contain a fragment: remove the part from '#' on")]
    Fragment,
}

/// Parses a base URL and removes slashes at its end, so that a path can be appended.
pub(super) fn parse_base_url(text: &str) -> Result<Url, BaseUrlError> {
    let mut url = Url::parse(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BaseUrlError::UserInfo);
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => return Err(BaseUrlError::PlainHttp),
        _ => return Err(BaseUrlError::Scheme),
    }
    if url.query().is_some() {
        return Err(BaseUrlError::Query);
    }
    if url.fragment().is_some() {
        return Err(BaseUrlError::Fragment);
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a host: write a host name or an IP address without scheme, port or path")]
pub(super) struct HostError;

/// Parses a host name or an address into the spelling that
/// [`super::DownloadConfig::allowed_hosts`] documents.
pub(super) fn parse_host(text: &str) -> Result<String, HostError> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(address.to_string());
    }
    match Host::parse(text).map_err(|_| HostError)? {
        Host::Ipv4(address) => Ok(address.to_string()),
        Host::Ipv6(address) => Ok(address.to_string()),
        Host::Domain(name) if is_host_name(&name) => Ok(name),
        Host::Domain(_) => Err(HostError),
    }
}

/// Stricter than the host of a URL: no empty label, and no characters of patterns such as `*`.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_and_http_on_loopback() {
        for (text, expected) in [
            ("https://api.batch.com/2.11", "https://api.batch.com/2.11"),
            ("https://api.batch.com/2.11/", "https://api.batch.com/2.11"),
            ("https://API.batch.com", "https://api.batch.com/"),
            ("https://127.0.0.1:8443/v", "https://127.0.0.1:8443/v"),
            ("http://127.0.0.1:8080/2.11", "http://127.0.0.1:8080/2.11"),
            ("http://127.9.9.9/", "http://127.9.9.9/"),
            ("http://[::1]:80/a//", "http://[::1]/a"),
            ("http://LOCALHOST:1/", "http://localhost:1/"),
        ] {
            assert_eq!(parse_base_url(text).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn other_base_urls_are_refused_and_not_repeated() {
        for (text, error) in [
            ("http://api.batch.com/2.11", BaseUrlError::PlainHttp),
            ("http://localhost.example.com/", BaseUrlError::PlainHttp),
            ("http://128.0.0.1/", BaseUrlError::PlainHttp),
            ("http://10.0.0.1/", BaseUrlError::PlainHttp),
            ("http://0.0.0.0/", BaseUrlError::PlainHttp),
            ("http://[::ffff:127.0.0.1]/", BaseUrlError::PlainHttp),
            ("ftp://localhost/", BaseUrlError::Scheme),
            ("file:///etc/passwd", BaseUrlError::Scheme),
            ("localhost:8080", BaseUrlError::Scheme),
            ("https://s3cret@api.batch.com/", BaseUrlError::UserInfo),
            ("https://u:s3cret@api.batch.com/", BaseUrlError::UserInfo),
            ("http://:s3cret@localhost/", BaseUrlError::UserInfo),
            ("https://api.batch.com/?s3cret", BaseUrlError::Query),
            ("https://api.batch.com/?", BaseUrlError::Query),
            ("https://api.batch.com/#s3cret", BaseUrlError::Fragment),
            ("https://api.batch.com/#", BaseUrlError::Fragment),
        ] {
            assert_eq!(parse_base_url(text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("s3cret"));
        }
        for text in ["", "api.batch.com/2.11", "https://", "https://u:s3cret@:99999/", "//host"] {
            let error = parse_base_url(text).unwrap_err();
            assert!(matches!(error, BaseUrlError::Malformed(_)), "{text}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn hosts_get_one_spelling() {
        for (text, expected) in [
            ("Minio.Internal", "minio.internal"),
            ("minio", "minio"),
            ("my_store-1.example", "my_store-1.example"),
            ("10.0.0.7", "10.0.0.7"),
            ("FD00::1", "fd00::1"),
            ("[fd00:0:0::1]", "fd00::1"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(parse_host(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn more_than_a_host_is_refused() {
        let short = ["", " ", "a b", "minio/", "a..b", "minio.", ".minio", "u@minio", "minio?"];
        let long = ["https://minio", "minio:9000", "10.0.0.0/8", "*.internal", "[::1]:80"];
        for text in short.into_iter().chain(long).chain(["1.2.3.999", "[minio]"]) {
            assert_eq!(parse_host(text), Err(HostError), "{text:?}");
        }
    }
}
