//! What the HTTP clients of the API and of the stores share. The API's client uses `reqwest`; the
//! store's client opens its connections itself.
//!
//! A `reqwest` error contains the URL, and a signed URL is a secret. So [`send`] and [`next_chunk`]
//! are the only callers of `reqwest`'s own methods, and what they return has been through
//! [`TransportError`]; so has what `fetch` reads of a body that the API sent directly.

mod backoff;
mod error;
mod link;
mod retry_after;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

use std::time::Duration;

use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode};
use rustls::ClientConfig;
use url::Url;

pub use backoff::retry_policy;
pub use error::{ConnectTimedOut, RefusedAddress, TransportError, TransportErrorKind, Unresolved};
pub(crate) use link::host_of;
pub use link::{DirectAnswer, Link, MAX_HOPS, SecretUrl, SignedLink};
pub use retry_after::{parse_retry_after, retry_after};
pub use tls::{TlsError, tls_config};

pub(crate) const AGENT: &str = concat!("batch-export-watcher/", env!("CARGO_PKG_VERSION"));
/// Idle time after which the kernel probes the peer of a connection.
pub(crate) const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// The largest head of an answer, as HTTP/2 counts it (RFC 9113 section 6.5.2): names, values, and
/// [`FIELD_BYTES`] for each line. How many lines there are does not matter.
pub(crate) const MAX_HEAD_BYTES: u32 = 64 << 10;
const FIELD_BYTES: u32 = 32;
/// Above what fits into a head: hyper wants a number for HTTP/1.1, and reads 100 by default.
pub(crate) const MAX_HEADERS: usize = (MAX_HEAD_BYTES / FIELD_BYTES) as usize;
pub(crate) const ALPN_HTTP2: &[&[u8]] = &[b"h2", b"http/1.1"];
pub(crate) const ALPN_HTTP1: &[&[u8]] = &[b"http/1.1"];

/// A client could not be set up: a bug, or TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct ClientError(pub(crate) String);

/// The settings of the API's clients: no redirects, referer, cookies or retries, a bounded connect.
///
/// `alpn` is set here because `reqwest` leaves a preconfigured TLS configuration as it is. `api` is
/// any URL of the API: if it is plain HTTP on loopback, no proxy is used, else the environment's.
pub(crate) fn client_builder(
    tls: &ClientConfig,
    alpn: &[&[u8]],
    api: &Url,
    connect_timeout: Duration,
) -> ClientBuilder {
    let builder = Client::builder()
        .tls_backend_preconfigured(with_alpn(tls, alpn))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(connect_timeout)
        .tcp_keepalive(TCP_KEEPALIVE)
        .http1_max_headers(MAX_HEADERS)
        .http2_max_header_list_size(MAX_HEAD_BYTES)
        .user_agent(AGENT);
    if is_plain_loopback(api) { builder.no_proxy() } else { builder }
}

pub(crate) fn with_alpn(tls: &ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    let mut tls = tls.clone();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    tls
}

/// Host and port of the proxy for a URL, without its credentials; `None` if there is none.
pub(crate) fn proxy_of(proxies: &Matcher, url: &Url) -> Option<String> {
    // Only scheme and host count. The rest may be secret.
    let target = format!("{}://{}", url.scheme(), url.host_str()?).parse::<Uri>().ok()?;
    Some(proxies.intercept(&target)?.uri().authority()?.as_str().to_owned())
}

/// ` through the proxy HOST:PORT`, after the name of a host.
pub(crate) fn through(proxy: Option<&str>) -> String {
    proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default()
}

pub(crate) fn build(builder: ClientBuilder) -> Result<Client, ClientError> {
    builder.build().map_err(|error| ClientError(TransportError::from(error).to_string()))
}

/// Sends a request and waits for the answer's head. Bound it with a timeout.
///
/// If the server ends the HTTP/2 connection in order while the request is on its way, the request
/// is sent once more, over a new connection. Every request here only reads.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that sends, and takes the URL out of the error"
)]
pub async fn send(request: RequestBuilder) -> Result<Response, TransportError> {
    let again = request.try_clone();
    let mut answered = request.send().await.map_err(TransportError::from);
    if let (Err(error), Some(again)) = (&answered, again)
        && error.kind() == TransportErrorKind::EndedInOrder
    {
        answered = again.send().await.map_err(TransportError::from);
    }
    let response = answered?;
    check_head(response.headers())?;
    Ok(response)
}

/// Whether a head is small enough. HTTP/2 refuses it while it reads; HTTP/1.1 knows no such limit.
pub(crate) fn check_head(headers: &HeaderMap) -> Result<(), TransportError> {
    let lines = headers.iter();
    let field = FIELD_BYTES as usize;
    let bytes: usize = lines.map(|(name, value)| name.as_str().len() + value.len() + field).sum();
    if bytes > MAX_HEAD_BYTES as usize { Err(TransportError::head_too_large()) } else { Ok(()) }
}

/// The next bytes of a body, `None` at its complete end. Cancel-safe. Bound it with a timeout.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads, and takes the URL out of the error"
)]
pub async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, TransportError> {
    response.chunk().await.map_err(TransportError::from)
}

/// Why a body was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the answer is larger than {cap_bytes} bytes; reading stopped")]
    TooLarge { cap_bytes: usize },
}

/// Reads a whole body of at most `cap_bytes`. Bound it with a timeout.
pub async fn read_capped(mut response: Response, cap_bytes: usize) -> Result<Vec<u8>, ReadError> {
    let too_large = ReadError::TooLarge { cap_bytes };
    if response.content_length().is_some_and(|length| length > cap_bytes as u64) {
        return Err(too_large);
    }
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response).await? {
        if chunk.len() > cap_bytes - body.len() {
            return Err(too_large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Whether the status is a redirect. The method may become GET; this program uses no other.
pub fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The target of a redirect, without its fragment. The error's words are safe to show.
pub fn redirect_target(current: &Url, headers: &HeaderMap) -> Result<SecretUrl, &'static str> {
    let mut locations = headers.get_all(LOCATION).iter();
    let location = match (locations.next(), locations.next()) {
        (Some(location), None) => location,
        (None, _) => return Err("a redirect without a Location header"),
        (Some(_), Some(_)) => return Err("a redirect with more than one Location header"),
    };
    let location =
        std::str::from_utf8(location.as_bytes()).map_err(|_| "a redirect to an invalid URL")?;
    let mut target = current.join(location).map_err(|_| "a redirect to an invalid URL")?;
    if has_userinfo(&target) {
        return Err("a redirect to a URL with a user or password in it");
    }
    target.set_fragment(None);
    Ok(SecretUrl::spelled(target, location))
}

pub fn has_userinfo(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

pub fn same_origin(a: &Url, b: &Url) -> bool {
    let (a, b) = (a.origin(), b.origin());
    a.is_tuple() && a == b
}

/// Whether a URL's host is this machine: 127.0.0.0/8, `::1` or `localhost`.
pub fn is_loopback_host(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether a URL is plain http to this machine.
pub fn is_plain_loopback(url: &Url) -> bool {
    url.scheme() == "http" && is_loopback_host(url)
}

#[cfg(test)]
mod tests {
    use super::testing::{Answer, RawServer, client};
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let api = url("https://api.batch.com/2.11");
        assert!(same_origin(&api, &url("https://API.batch.com:443/other?x=1")));
        for other in [
            "http://api.batch.com/",
            "https://api.batch.com:8443/",
            "https://batch.com/",
            "data:text/plain,x",
        ] {
            assert!(!same_origin(&api, &url(other)), "{other}");
        }
        assert!(!same_origin(&url("data:x"), &url("data:x")), "an opaque origin equals nothing");
    }

    #[test]
    fn only_loopback_names_are_loopback() {
        for (text, expected) in [
            ("http://127.0.0.1:1/", true),
            ("http://127.9.9.9/", true),
            ("http://[::1]/", true),
            ("http://LOCALHOST/", true),
            ("https://localhost/", false),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
            ("http://[::ffff:127.0.0.1]/", false),
        ] {
            assert_eq!(is_plain_loopback(&url(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_location_is_resolved_and_checked() {
        let current = url("https://api.example/2.11/exports/download?id=1");
        let target = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(LOCATION, value.parse().unwrap());
            }
            redirect_target(&current, &headers).map(|target| target.expose().to_string())
        };
        assert_eq!(target(&["/files/1?sig=x#top"]).unwrap(), "https://api.example/files/1?sig=x");
        assert_eq!(target(&["next"]).unwrap(), "https://api.example/2.11/exports/next");
        assert_eq!(target(&["//store.example/x"]).unwrap(), "https://store.example/x");
        for bad in [
            &[][..],
            &["https://a.example/", "https://b.example/"],
            &["https://user@store.example/"],
            &["https://:password@store.example/"],
            &["https://[::1/"],
        ] {
            assert!(target(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn of_all_status_codes_exactly_these_lead_elsewhere() {
        let leads = |status: &u16| is_redirect(StatusCode::from_u16(*status).unwrap());
        assert_eq!((100..1000).filter(leads).collect::<Vec<_>>(), [301, 302, 303, 307, 308]);
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_cap_and_no_further() {
        for (answer, expected) in [
            (Answer::ok(b"12345678"), Ok(b"12345678".to_vec())),
            (Answer::ok(b"123456789"), Err(ReadError::TooLarge { cap_bytes: 8 })),
            (Answer::chunked(&[b"12345", b"6789"]), Err(ReadError::TooLarge { cap_bytes: 8 })),
            (Answer::chunked(&[b"12345", b"678"]), Ok(b"12345678".to_vec())),
        ] {
            let server = RawServer::start([answer]).await;
            let response = send(client().get(server.url("/"))).await.unwrap();
            assert_eq!(read_capped(response, 8).await, expected);
        }
    }

    #[tokio::test]
    async fn a_cut_body_is_an_error() {
        for raw in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ] {
            let server = RawServer::start([Answer::raw(raw)]).await;
            let response = send(client().get(server.url("/"))).await.unwrap();
            let Err(ReadError::Transport(error)) = read_capped(response, 100).await else {
                panic!("{raw}");
            };
            assert_eq!(error.kind(), TransportErrorKind::Cut);
        }
    }
}
