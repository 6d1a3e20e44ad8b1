//! A loopback server for the tests of both clients: one scripted answer a connection, in raw bytes.
//! It keeps the heads of the requests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{ALPN_HTTP1, build, client_builder, tls_config};

/// What a connection gets after its request head was read.
#[derive(Clone)]
pub(crate) struct Answer {
    /// Pieces to write, each but the first after [`RawServer::release`] was called once more.
    pieces: Vec<Vec<u8>>,
    /// Whether the connection stays open afterwards, without another byte.
    stays: bool,
}

impl Answer {
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![bytes.into()], stays: false }
    }

    /// No byte at all, and no end.
    pub(crate) fn silent() -> Self {
        Self { pieces: Vec::new(), stays: true }
    }

    /// A status, header lines (each ended by CRLF) and a body with its length.
    pub(crate) fn with(status: u16, headers: &str, body: &[u8]) -> Self {
        let head = format!(
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        Self::raw([head.as_bytes(), body].concat())
    }

    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::with(200, "", body)
    }

    /// 200 with these chunks, ended properly.
    pub(crate) fn chunked(chunks: &[&[u8]]) -> Self {
        let mut bytes =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n".to_vec();
        for chunk in chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        Self::raw(bytes)
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::with(status, &format!("location: {location}\r\n"), b"")
    }

    /// Another piece, written once the test calls [`RawServer::release`].
    pub(crate) fn then(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.pieces.push(bytes.into());
        self
    }

    /// Keeps the connection open after the last piece.
    pub(crate) fn and_stays(mut self) -> Self {
        self.stays = true;
        self
    }
}

pub(crate) struct RawServer {
    address: std::net::SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    gate: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl RawServer {
    /// Serves these answers in order, then refuses further connections.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: Vec<_> = answers.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, answers, Arc::clone(&heads), Arc::clone(&gate)));
        Self { address, heads, gate, _tasks: tasks }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The heads of the requests so far, in order.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Lets the next piece of an answer go out.
    pub(crate) fn release(&self) {
        self.gate.notify_one();
    }
}

async fn serve(
    listener: TcpListener,
    answers: Vec<Answer>,
    heads: Arc<Mutex<Vec<String>>>,
    gate: Arc<Notify>,
) {
    let mut connections = JoinSet::new();
    for answer in answers {
        let (stream, _) = listener.accept().await.unwrap();
        let (heads, gate) = (Arc::clone(&heads), Arc::clone(&gate));
        connections.spawn(async move {
            // A client that hangs up early is part of some tests.
            let _ = converse(stream, answer, &heads, &gate).await;
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn converse(
    mut stream: TcpStream,
    answer: Answer,
    heads: &Mutex<Vec<String>>,
    gate: &Notify,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
        // A TLS client speaks first, and never ends a line.
        if head.first() == Some(&0x16) && head.len() > 5 {
            break;
        }
    }
    heads.lock().unwrap().push(String::from_utf8_lossy(&head).to_lowercase());
    for (index, piece) in answer.pieces.iter().enumerate() {
        if index > 0 {
            gate.notified().await;
        }
        stream.write_all(piece).await?;
        stream.flush().await?;
    }
    if answer.stays {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await?;
    // Reading the rest keeps the kernel from sending a reset, which could overtake the last bytes.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A TLS configuration that trusts whatever the machine does.
pub(crate) fn tls() -> ClientConfig {
    tls_config(None, false).unwrap()
}

/// A client like the program's own, without a proxy.
pub(crate) fn client() -> reqwest::Client {
    let api = "http://127.0.0.1/".parse().unwrap();
    build(client_builder(&tls(), ALPN_HTTP1, &api, Duration::from_secs(5))).unwrap()
}
