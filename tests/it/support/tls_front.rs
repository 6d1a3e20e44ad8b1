//! TLS in front of an origin of the simulator, with a certificate of a throw-away authority.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A certificate authority made for one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A running TLS listener; dropping it ends its connections.
pub(crate) struct TlsFront {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Authority {
    /// Makes a new one.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate of our own").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate, for `api.ca_file`.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Listens on 127.0.0.1 with a certificate for `name` and passes what it decrypts to
    /// `upstream`.
    pub(crate) async fn front(&self, name: &str, upstream: SocketAddr) -> TlsFront {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, self.acceptor(name), upstream));
        TlsFront { address, _tasks: tasks }
    }

    /// What makes TLS of accepted connections, with a certificate for `name`.
    pub(crate) fn acceptor(&self, name: &str) -> TlsAcceptor {
        self.acceptor_with(name, &[], |_| {})
    }

    /// As [`Authority::acceptor`], with protocols to choose from and other terms of the
    /// certificate.
    pub(crate) fn acceptor_with(
        &self,
        name: &str,
        protocols: &[&[u8]],
        terms: impl FnOnce(&mut CertificateParams),
    ) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        terms(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a signature");
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("the provider knows TLS")
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::Pkcs8(key.serialize_der().into()),
                )
                .expect("a certificate and its key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl TlsFront {
    /// `https://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, upstream: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            // A client that does not trust us hangs up here; that is its verdict, not a fault of
            // the test.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let Ok(mut server) = TcpStream::connect(upstream).await else { return };
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
