//! Opens TLS connections to stores, only to judged addresses, through a proxy if there is one.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderValue, USER_AGENT};
use hyper::http::uri::InvalidUri;
use hyper::rt::{Read, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;
use url::{Host, Url};

use super::resolver::JudgingResolver;
use crate::transport::{AGENT, ConnectTimedOut, TCP_KEEPALIVE, proxy_of, through};

/// An open connection: plain, over TLS, or over TLS through a proxy.
pub(super) type Connection = Box<dyn ReadWrite>;
pub(super) type ConnectError = Box<dyn Error + Send + Sync>;

pub(super) trait ReadWrite: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> ReadWrite for T {}

pub(super) struct Connector {
    tcp: HttpConnector<JudgingResolver>,
    resolver: JudgingResolver,
    tls: Arc<ClientConfig>,
    /// Without ALPN, for proxies that speak TLS themselves.
    proxy_tls: Arc<ClientConfig>,
    /// `None` if no proxy is ever used.
    proxies: Option<Matcher>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(
        resolver: JudgingResolver,
        tls: ClientConfig,
        proxies: Option<Matcher>,
        timeout: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(resolver.clone());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        let mut proxy_tls = tls.clone();
        proxy_tls.alpn_protocols.clear();
        Self { tcp, resolver, tls: Arc::new(tls), proxy_tls: Arc::new(proxy_tls), proxies, timeout }
    }

    /// ` through the proxy HOST:PORT`, if there is one for this URL.
    pub(super) fn way_to(&self, url: &Url) -> String {
        through(self.proxies.as_ref().and_then(|proxies| proxy_of(proxies, url)).as_deref())
    }

    pub(super) async fn connect(&self, url: &Url) -> Result<Connection, ConnectError> {
        tokio::time::timeout(self.timeout, self.open(url)).await.map_err(|_| ConnectTimedOut)?
    }

    async fn open(&self, url: &Url) -> Result<Connection, ConnectError> {
        let target = origin_of(url, None)?;
        match self.proxies.as_ref().and_then(|proxies| proxies.intercept(&target)) {
            Some(proxy) => self.open_through(&proxy, url, target).await,
            None => {
                let tcp = self.tcp.clone().call(target).await?;
                if url.scheme() == "https" {
                    self.secure(url, tcp).await
                } else {
                    Ok(Box::new(tcp))
                }
            }
        }
    }

    /// Links through a proxy are always https: an API on this machine has no proxy.
    async fn open_through(
        &self,
        proxy: &Intercept,
        url: &Url,
        target: Uri,
    ) -> Result<Connection, ConnectError> {
        let (at, tcp) = (proxy.uri().clone(), self.tcp.clone());
        let target = match at.scheme_str() {
            Some("socks4" | "socks5") => self.resolved(url).await?,
            _ => target,
        };
        match at.scheme_str() {
            Some("socks4" | "socks4a") => {
                self.secure(url, SocksV4::new(at, tcp).call(target).await?).await
            }
            Some("socks5" | "socks5h") => {
                let mut socks = SocksV5::new(at, tcp);
                if let Some((user, password)) = proxy.raw_auth() {
                    socks = socks.with_auth(user.to_owned(), password.to_owned());
                }
                self.secure(url, socks.call(target).await?).await
            }
            _ => {
                let to_proxy = HttpsConnector::from((tcp, self.proxy_tls.clone()));
                let agent = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(AGENT))]);
                let mut tunnel = Tunnel::new(at, to_proxy).with_headers(agent);
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                self.secure(url, tunnel.call(target).await?).await
            }
        }
    }

    /// The target with its name resolved: this kind of proxy requires addresses.
    async fn resolved(&self, url: &Url) -> Result<Uri, ConnectError> {
        let Some(Host::Domain(name)) = url.host() else { return Ok(origin_of(url, None)?) };
        let addresses = self.resolver.resolve(name).await?;
        let address = addresses.first().map(|address| match address.ip() {
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => format!("[{address}]"),
        });
        Ok(origin_of(url, address.as_deref())?)
    }

    async fn secure(
        &self,
        url: &Url,
        wire: impl Read + Write + Send + Unpin + 'static,
    ) -> Result<Connection, ConnectError> {
        let name = match url.host().ok_or("no host in the URL")? {
            Host::Domain(name) => ServerName::try_from(name.to_owned())?,
            Host::Ipv4(address) => ServerName::from(std::net::IpAddr::V4(address)),
            Host::Ipv6(address) => ServerName::from(std::net::IpAddr::V6(address)),
        };
        let secured =
            TlsConnector::from(self.tls.clone()).connect(name, TokioIo::new(wire)).await?;
        Ok(Box::new(TokioIo::new(secured)))
    }
}

/// Stands for any signed link when the environment is asked for its proxy.
const SOME_LINK: &str = "https://signed-link.invalid/";

pub(super) fn proxy_host(proxies: &Matcher) -> Option<String> {
    let proxy = proxies.intercept(&Uri::from_static(SOME_LINK))?;
    proxy.uri().host().map(str::to_owned)
}

/// Only scheme, host and port of a URL: no proxy sees a signature. `host` replaces the URL's own.
fn origin_of(url: &Url, host: Option<&str>) -> Result<Uri, InvalidUri> {
    let host = host.or(url.host_str()).unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(443);
    format!("{}://{host}:{port}", url.scheme()).parse()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::super::hop::HopRules;
    use super::*;
    use crate::transport::testing::{Answer, RawServer, tls};
    use crate::transport::{TransportError, TransportErrorKind};

    const LINK: &str = "https://store.example:8443/s3cr3t-path?sig=s3cr3t";

    fn connector(proxy: &str) -> Connector {
        let rules =
            HopRules::new("https://api.example/".parse().unwrap(), &["localhost".to_owned()], None);
        let proxies = Matcher::builder().all(proxy).build();
        let resolver = JudgingResolver(Arc::new(rules));
        Connector::new(resolver, tls(), Some(proxies), Duration::from_secs(5))
    }

    async fn failure(connector: &Connector, link: &str) -> TransportError {
        let Err(error) = connector.connect(&link.parse().unwrap()).await else {
            panic!("connected")
        };
        let error = TransportError::connecting(&*error);
        let text = format!("{error:?} {error}");
        assert!(!text.contains("s3cr3t") && !text.contains("passw0rd"), "{text}");
        error
    }

    #[tokio::test]
    async fn a_tunnel_request_contains_the_host_and_nothing_else_of_the_link() {
        // Behind an open tunnel this proxy hangs up instead of speaking TLS.
        let opened = Answer::raw("HTTP/1.1 200 OK\r\n\r\n");
        let refused = Answer::raw("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        for (answer, kind) in
            [(opened, TransportErrorKind::Connect), (refused, TransportErrorKind::Proxy)]
        {
            let proxy = RawServer::start([answer.clone()]).await;
            let connector = connector(&proxy.url("").replace("http://", "http://user:passw0rd@"));
            let error = failure(&connector, LINK).await;
            assert_eq!(error.kind(), kind, "{error}");
            let head = proxy.heads().remove(0);
            assert!(head.starts_with("connect store.example:8443 http/1.1\r\n"), "{head}");
            // Base64 of user:passw0rd, in the lower case of the recorded head.
            assert!(head.contains("proxy-authorization: basic dxnlcjpwyxnzdzbyza=="), "{head}");
            let has_agent = head.contains("user-agent: batch-export-watcher/");
            assert!(has_agent && !head.contains("s3cr3t"), "{head}");
        }
    }

    /// A SOCKS 5 proxy that takes one connection and hangs up; what it was asked to connect to.
    async fn socks_proxy() -> (SocketAddr, JoinHandle<Vec<u8>>) {
        async fn serve(mut client: TcpStream) -> std::io::Result<Vec<u8>> {
            let mut greeting = [0; 3];
            client.read_exact(&mut greeting).await?;
            client.write_all(&[5, 0]).await?;
            let mut request = vec![0; 4];
            client.read_exact(&mut request).await?;
            let length = match request[3] {
                1 => 4,
                3 => usize::from(client.read_u8().await?),
                _ => 16,
            };
            let mut target = vec![0; length + 2];
            client.read_exact(&mut target).await?;
            client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 1]).await?;
            Ok(target)
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = async move { serve(listener.accept().await.unwrap().0).await.unwrap() };
        #[expect(clippy::disallowed_methods, reason = "its handle is awaited by the test")]
        (address, tokio::spawn(served))
    }

    #[tokio::test]
    async fn a_socks_proxy_gets_the_name_or_a_judged_address() {
        let (address, asked) = socks_proxy().await;
        failure(&connector(&format!("socks5h://{address}")), LINK).await;
        let port = 8443_u16.to_be_bytes();
        assert_eq!(asked.await.unwrap(), [b"store.example".as_slice(), &port].concat());

        let (address, asked) = socks_proxy().await;
        failure(&connector(&format!("socks5://{address}")), "https://localhost:8443/").await;
        let target = asked.await.unwrap();
        assert!(target.ends_with(&port) && !target.starts_with(b"localhost"), "{target:?}");

        let rules = HopRules::new("https://api.example/".parse().unwrap(), &[], None);
        let strict = Connector {
            resolver: JudgingResolver(Arc::new(rules)),
            ..connector("socks5://127.0.0.1:9")
        };
        let refused = failure(&strict, "https://localhost/").await;
        assert_eq!(refused.kind(), TransportErrorKind::Refused);
    }

    #[tokio::test]
    async fn a_proxy_that_is_not_there_is_named_as_the_proxy() {
        for scheme in ["http", "https", "socks4a", "socks5", "socks5h"] {
            let connector = connector(&format!("{scheme}://user:passw0rd@127.0.0.1:1"));
            let error = failure(&connector, "https://localhost:8443/").await;
            assert_eq!(error.kind(), TransportErrorKind::Proxy, "{scheme}: {error}");
            let words = error.to_string();
            assert!(words.starts_with("no connection to the proxy"), "{scheme}: {words}");
            let way = connector.way_to(&LINK.parse().unwrap());
            assert_eq!(way, " through the proxy 127.0.0.1:1", "{scheme}");
        }
        let unknown = failure(&connector("http://proxy.invalid:3128"), LINK).await;
        assert!(unknown.to_string().contains("name of the proxy"), "{unknown}");
    }

    #[tokio::test]
    async fn connecting_is_bounded_by_its_timeout() {
        // It takes the connection and says nothing: the handshake never ends.
        let silent = RawServer::start([Answer::silent()]).await;
        let link = silent.url("/").replace("http://", "https://");
        let hasty = Connector {
            proxies: None,
            timeout: Duration::from_millis(30),
            ..connector("http://127.0.0.1:9")
        };
        let error = failure(&hasty, &link).await;
        assert_eq!(error.kind(), TransportErrorKind::Timeout);
        assert_eq!(error.to_string(), "connecting timed out");
    }
}
