//! The single conversion of an HTTP client's error into words that are safe to show.
//!
//! The words come from facts about an error, not from its `Display`: `reqwest` prints the URL, and
//! `h2` prints what the server chose. Only texts about addresses and certificates are quoted.

use std::error::Error;
use std::io;
use std::net::IpAddr;

use super::MAX_HEAD_BYTES;
use crate::domain::text::shown;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportErrorKind {
    Dns,
    /// An address was refused by this program's own rules.
    Refused,
    Connect,
    /// The TLS handshake failed; nothing was sent.
    Tls,
    Timeout,
    /// The connection ended in the middle of an answer.
    Cut,
    /// The server closed the HTTP/2 connection without an error, as it does from time to time.
    EndedInOrder,
    /// The proxy refused, or its answer made no sense.
    Proxy,
    Other,
}

/// Why an answer is missing or incomplete. Safe to show: holds no URL, no query, no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct TransportError {
    kind: TransportErrorKind,
    words: String,
}

impl TransportError {
    pub fn kind(&self) -> TransportErrorKind {
        self.kind
    }
}

/// A host has an address that must not be contacted. Shown as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host leads to {address}, a {class} address, and is not listed in download.allowed_hosts"
)]
pub struct RefusedAddress {
    pub host: String,
    pub address: IpAddr,
    pub class: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connecting timed out")]
pub struct ConnectTimedOut;

/// A host name without an address; the system's own words say no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host name could not be resolved")]
pub struct Unresolved;

/// The proxy itself could not be reached; what follows in the chain says why.
const NO_PROXY_ERRORS: [&str; 2] = [
    "tunnel error: failed to create underlying connection",
    "SOCKS error: failed to create underlying connection",
];

/// `hyper-util`'s tunnel errors cannot be named, but their texts are fixed.
const TUNNEL_ERRORS: [(&str, &str); 7] = [
    ("SOCKS error: io error during SOCKS handshake", "the connection to the proxy failed"),
    ("SOCKS error: failed parsing server response", "the proxy's answer makes no sense"),
    ("tunnel error: proxy authorization required", "the proxy asks for credentials"),
    ("tunnel error: unsuccessful", "the proxy refuses the tunnel"),
    ("tunnel error: unexpected end of file", "the proxy closed the connection"),
    ("tunnel error: proxy response headers too long", "the proxy's answer is too long"),
    ("tunnel error: io error establishing tunnel", "the connection to the proxy failed"),
];

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut facts = Facts::of(&error);
        facts.timeout |= error.is_timeout();
        facts.dns |= error.is_dns();
        facts.connect = error.is_connect();
        facts.builder = error.is_builder();
        facts.body = error.is_body() || error.is_decode();
        facts.into()
    }
}

impl TransportError {
    pub(crate) fn connecting(error: &(dyn Error + 'static)) -> Self {
        Facts { connect: true, ..Facts::of(error) }.into()
    }

    /// A connection ended in the middle of an answer, or before it.
    pub(crate) fn cut(error: &hyper::Error) -> Self {
        Facts { body: true, ..Facts::of(error) }.into()
    }

    pub(crate) fn head_too_large() -> Self {
        Facts { head_too_large: true, ..Facts::default() }.into()
    }

    /// No request can be made for this URL.
    pub(crate) fn no_request() -> Self {
        Facts { builder: true, ..Facts::default() }.into()
    }
}

impl From<Facts> for TransportError {
    fn from(facts: Facts) -> Self {
        let (kind, words) = facts.describe();
        Self { kind, words: shown(&words, &[]) }
    }
}

/// What an error and its causes say: facts, and the texts that may be quoted.
#[derive(Default)]
struct Facts {
    refused: Option<String>,
    tls: Option<String>,
    tunnel: Option<&'static str>,
    no_proxy: bool,
    io: Option<String>,
    http: Option<String>,
    /// What the server said over HTTP/2, and whether it is no error.
    h2: Option<(String, bool)>,
    head_too_large: bool,
    timeout: bool,
    dns: bool,
    connect: bool,
    builder: bool,
    body: bool,
}

fn words_of(tls: &rustls::Error) -> String {
    use rustls::{AlertDescription, CertificateError, Error as Tls};
    match tls {
        // The API's client offers both versions, so it never hears this of a server that has one.
        Tls::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the server refuses HTTP/1.1, which downloads need".to_owned()
        }
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "{tls}; if a proxy replaces certificates here, put its certificate authority into \
             api.ca_file"
        ),
        _ => tls.to_string(),
    }
}

impl Facts {
    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut facts = Self::default();
        let mut next = Some(error);
        while let Some(error) = next {
            facts.note(error);
            // An io::Error does not name the error it wraps as its source.
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = wrapped.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source());
        }
        facts
    }

    fn note(&mut self, error: &(dyn Error + 'static)) {
        if let Some(refused) = error.downcast_ref::<RefusedAddress>() {
            self.refused = Some(refused.to_string());
        } else if error.is::<ConnectTimedOut>() {
            self.timeout = true;
        } else if error.is::<Unresolved>() {
            self.dns = true;
        } else if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            self.tls = Some(words_of(tls));
        } else if let Some(h2) = error.downcast_ref::<h2::Error>() {
            self.note_h2(h2);
        } else if let Some(http) = error.downcast_ref::<hyper::Error>() {
            self.head_too_large |= http.is_parse_too_large();
            self.http = Some(http.to_string());
        } else if let Some(io) = error.downcast_ref::<io::Error>() {
            self.io = Some(match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code).to_string(),
                None => io.kind().to_string(),
            });
        } else if self.tunnel.is_none() {
            let text = error.to_string();
            self.no_proxy |= NO_PROXY_ERRORS.contains(&text.as_str());
            self.tunnel =
                TUNNEL_ERRORS.iter().find(|(own, _)| *own == text).map(|(_, words)| *words);
        }
    }

    /// The reason has a name of its own; the words that a server may add are not shown.
    fn note_h2(&mut self, error: &h2::Error) {
        let Some(reason) = error.reason().filter(|_| error.is_remote() || error.is_library())
        else {
            return;
        };
        let in_order = reason == h2::Reason::NO_ERROR;
        let words = match (error.is_remote(), error.is_go_away()) {
            (true, true) if in_order => "the server closed the HTTP/2 connection in order".into(),
            (true, true) => format!("the server closed the HTTP/2 connection ({reason:?})"),
            (true, false) => format!("the server aborted the answer over HTTP/2 ({reason:?})"),
            // A head above the limit looks the same.
            (false, _) => format!(
                "the answer breaks the rules of HTTP/2, or its head is larger than {} KiB \
                 ({reason:?})",
                MAX_HEAD_BYTES >> 10
            ),
        };
        self.h2 = Some((words, in_order && error.is_remote() && error.is_go_away()));
    }

    fn describe(self) -> (TransportErrorKind, String) {
        use TransportErrorKind as Kind;
        let because = |words: &str, detail: Option<String>| match detail {
            Some(detail) => format!("{words}: {detail}"),
            None => words.to_owned(),
        };
        let (kind, words) = match self {
            Self { refused: Some(refused), .. } => return (Kind::Refused, refused),
            Self { tunnel: Some(words), .. } => (Kind::Proxy, words),
            Self { no_proxy: true, dns: true, .. } => {
                (Kind::Proxy, "the host name of the proxy could not be resolved")
            }
            Self { no_proxy: true, tls, io, http, .. } => {
                let detail = tls.or(io).or(http);
                return (Kind::Proxy, because("no connection to the proxy", detail));
            }
            Self { tls, .. } if tls.is_some() => return (Kind::Tls, because("TLS failed", tls)),
            Self { timeout: true, connect: true, .. } => (Kind::Timeout, "connecting timed out"),
            Self { timeout: true, .. } => (Kind::Timeout, "timed out"),
            Self { head_too_large: true, .. } => {
                let kib = MAX_HEAD_BYTES >> 10;
                return (Kind::Other, format!("the head of the answer is larger than {kib} KiB"));
            }
            Self { h2: Some((words, true)), .. } => return (Kind::EndedInOrder, words),
            Self { h2: Some((words, false)), .. } => return (Kind::Cut, words),
            Self { dns: true, .. } => (Kind::Dns, "the host name could not be resolved"),
            Self { connect: true, io, http, .. } => {
                return (Kind::Connect, because("no connection", io.or(http)));
            }
            Self { builder: true, .. } => (Kind::Other, "the request could not be made"),
            Self { body, io, http, .. } if body || http.is_some() || io.is_some() => {
                return (Kind::Cut, because("the connection failed", io.or(http)));
            }
            _ => (Kind::Other, "the request failed"),
        };
        (kind, words.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::super::testing::{Answer, RawServer, client, tls};
    use super::super::{ALPN_HTTP2, build, client_builder, send};
    use super::*;

    const SECRET: &str = "s3cr3t";

    fn assert_hides(error: &TransportError) {
        for text in [error.to_string(), format!("{error:?}")] {
            for hidden in [SECRET, "http://", "X-Sig"] {
                assert!(!text.contains(hidden), "{text}");
            }
        }
    }

    async fn failure(url: String) -> TransportError {
        let error = send(client().get(url)).await.unwrap_err();
        assert_hides(&error);
        error
    }

    #[tokio::test]
    async fn each_error_has_its_kind_and_none_shows_the_url() {
        let path = format!("/{SECRET}?X-Sig={SECRET}");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let error = failure(format!("http://{address}{path}")).await;
        assert_eq!(error.kind(), TransportErrorKind::Connect);
        assert!(error.to_string().contains("refused"), "{error}");

        // No name server is asked for a label of more than 63 characters.
        let error = failure(format!("http://{}{path}", "x".repeat(64))).await;
        assert_eq!(error.kind(), TransportErrorKind::Dns);

        let plain = RawServer::start([Answer::raw("this is not tls, not at all\r\n\r\n")]).await;
        let error = failure(plain.url(&path).replace("http://", "https://")).await;
        assert_eq!(error.kind(), TransportErrorKind::Tls, "{error}");

        let cut = RawServer::start([Answer::raw("HTTP/1.1 200")]).await;
        assert_eq!(failure(cut.url(&path)).await.kind(), TransportErrorKind::Cut);

        let nonsense = RawServer::start([Answer::raw(format!("{SECRET}\r\n\r\n"))]).await;
        assert_eq!(failure(nonsense.url(&path)).await.kind(), TransportErrorKind::Cut);
    }

    #[test]
    fn an_authority_that_nobody_trusts_comes_with_advice() {
        let unknown = rustls::Error::from(rustls::CertificateError::UnknownIssuer);
        assert!(words_of(&unknown).ends_with("put its certificate authority into api.ca_file"));
    }

    #[tokio::test]
    async fn a_timeout_is_a_timeout() {
        let silent = RawServer::start([Answer::silent()]).await;
        let request = client().get(silent.url("/?X-Sig=s3cr3t")).timeout(Duration::from_millis(30));
        let error = send(request).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Timeout);
        assert_hides(&error);
    }

    #[tokio::test]
    async fn a_refusing_proxy_is_reported_without_its_credentials() {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        let server = RawServer::start([Answer::raw(refusal)]).await;
        let proxy = server.url("/").replace("http://", &format!("http://user:{SECRET}@"));
        let api = "https://api.example".parse().unwrap();
        let builder = client_builder(&tls(), ALPN_HTTP2, &api, Duration::from_secs(5));
        let client = build(builder.proxy(reqwest::Proxy::all(proxy).unwrap())).unwrap();
        let error = send(client.get("https://store.example/?X-Sig=s3cr3t")).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Proxy, "{error}");
        assert_hides(&error);
    }
}
