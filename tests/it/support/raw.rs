//! A server that speaks raw bytes in front of an origin of the simulator, over TCP or TLS: what is
//! sent of an answer, when, and how the connection ends is the test's. What is not scripted goes
//! through to the origin.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::PATIENCE;

/// What a signed link does not need; a store that gets one of them answers 400.
pub(crate) const FORBIDDEN_HEADERS: [&str; 5] =
    ["authorization", "x-batch-project", "cookie", "referer", "proxy-authorization"];
/// Longest request head that is read.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// One step of an answer.
#[derive(Debug, Clone)]
enum Act {
    Send(Vec<u8>),
    /// One byte at a time.
    Drip(Vec<u8>, Duration),
    /// Nothing until [`RawServer::release`].
    Wait,
    /// The origin's own answer, whole.
    Pass,
}

/// How a connection is left after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The next request may come on it.
    Open,
    /// In good order: with a close_notify on TLS.
    Closed,
    /// The stream ends; on TLS without the close_notify.
    Cut,
    /// Reset; what the client has not read yet may be lost with it.
    Reset,
    /// Nothing more, until the client leaves.
    Silent,
}

/// What one request gets.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    acts: Vec<Act>,
    end: End,
}

impl Answer {
    /// These bytes, and a connection that is closed in good order.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { acts: vec![Act::Send(bytes.into())], end: End::Closed }
    }

    /// A head of these lines behind the status, and a body; what frames it is among the lines or
    /// missing.
    pub(crate) fn of(status: u16, lines: &str, body: impl AsRef<[u8]>) -> Self {
        let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{lines}\r\n");
        Self::raw([head.as_bytes(), body.as_ref()].concat())
    }

    /// As [`Answer::of`], with the body's true length.
    pub(crate) fn framed(status: u16, lines: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        Self::of(status, &format!("content-length: {}\r\n{lines}", body.len()), body)
    }

    /// What the origin says.
    pub(crate) fn pass() -> Self {
        Self { acts: vec![Act::Pass], end: End::Closed }
    }

    /// Not a byte.
    pub(crate) fn nothing() -> Self {
        Self { acts: Vec::new(), end: End::Silent }
    }

    /// Then nothing until [`RawServer::release`].
    pub(crate) fn then_wait(mut self) -> Self {
        self.acts.push(Act::Wait);
        self
    }

    /// Then this answer.
    pub(crate) fn then(mut self, next: Self) -> Self {
        self.acts.extend(next.acts);
        Self { end: next.end, ..self }
    }

    /// These bytes go out one by one.
    pub(crate) fn then_dripping(mut self, bytes: impl Into<Vec<u8>>, interval: Duration) -> Self {
        self.acts.push(Act::Drip(bytes.into(), interval));
        self
    }

    /// The connection stays open for the next request.
    pub(crate) fn and_open(self) -> Self {
        Self { end: End::Open, ..self }
    }

    /// The stream ends as if the cable were cut; on TLS without a close_notify.
    pub(crate) fn and_cut(self) -> Self {
        Self { end: End::Cut, ..self }
    }

    /// The connection is reset.
    pub(crate) fn and_reset(self) -> Self {
        Self { end: End::Reset, ..self }
    }

    /// Not a byte more.
    pub(crate) fn and_silent(self) -> Self {
        Self { end: End::Silent, ..self }
    }
}

/// So many header lines, as a few CDNs in a row add them.
pub(crate) fn headers(count: usize) -> String {
    (0..count).map(|number| format!("x-hop-{number}: {number}\r\n")).collect()
}

/// A request that has come.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Its `id`, or the last part of its path.
    pub(crate) key: String,
    /// Its head as it came, in lower case.
    pub(crate) head: String,
    /// When its head was whole.
    pub(crate) at: Instant,
}

impl Asked {
    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
    }
}

/// A running server; dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct RawServer {
    origin: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    strict: bool,
    scripts: Mutex<BTreeMap<String, Vec<Answer>>>,
    asked: watch::Sender<Vec<Asked>>,
    released: watch::Sender<bool>,
}

/// The answers to the requests for one ID, in order; those after the last go through.
pub(crate) type Scripts = BTreeMap<String, Vec<Answer>>;

impl RawServer {
    /// In front of the API.
    pub(crate) async fn api(
        upstream: SocketAddr,
        tls: Option<TlsAcceptor>,
        scripts: Scripts,
    ) -> Self {
        Self::start(upstream, tls, scripts, false).await
    }

    /// In front of the store: a request with a header that a signed link does not need is answered
    /// with 400.
    pub(crate) async fn store(
        upstream: SocketAddr,
        tls: Option<TlsAcceptor>,
        scripts: Scripts,
    ) -> Self {
        Self::start(upstream, tls, scripts, true).await
    }

    async fn start(
        upstream: SocketAddr,
        tls: Option<TlsAcceptor>,
        scripts: Scripts,
        strict: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            upstream,
            strict,
            scripts: Mutex::new(scripts),
            asked: watch::Sender::new(Vec::new()),
            released: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, tls, shared.clone()));
        Self { origin: format!("{scheme}://{address}"), shared, _tasks: tasks }
    }

    /// `http://127.0.0.1:PORT`, or https.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.borrow().clone()
    }

    /// The requests for one ID so far.
    pub(crate) fn asked_for(&self, key: &str) -> Vec<Asked> {
        self.shared.asked.borrow().iter().filter(|asked| asked.key == key).cloned().collect()
    }

    /// Waits until so many requests for one ID have come.
    pub(crate) async fn wait_for(&self, key: &str, count: usize) -> Vec<Asked> {
        let mut asked = self.shared.asked.subscribe();
        let of_key = |asked: &[Asked]| asked.iter().filter(|asked| asked.key == key).count();
        let waiting = asked.wait_for(|asked| of_key(asked) >= count);
        let came = timeout(PATIENCE, waiting).await.is_ok();
        let so_far = self.asked_for(key);
        assert!(came, "{} of {count} requests for {key} within {PATIENCE:?}", so_far.len());
        so_far
    }

    /// Lets everything go on that waits, now and later.
    pub(crate) fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Fails if a request brought what does not belong here.
    pub(crate) fn assert_no_forbidden_header(&self) {
        for asked in self.asked() {
            assert_eq!(forbidden(&asked), None, "came to {}: {}", self.origin, asked.head);
        }
    }
}

fn forbidden(asked: &Asked) -> Option<&'static str> {
    FORBIDDEN_HEADERS.into_iter().find(|name| asked.header(name).is_some())
}

impl Shared {
    fn next_answer(&self, key: &str) -> Answer {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        match scripts.get_mut(key) {
            Some(answers) if !answers.is_empty() => answers.remove(0),
            _ => Answer::pass(),
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("a listener on loopback accepts");
                let (tls, shared) = (tls.clone(), shared.clone());
                connections.spawn(async move {
                    // The client's going away is what most of these answers are for.
                    let _ = serve(stream, tls, &shared).await;
                });
            }
        }
    }
}

/// A connection, with the means to leave it rudely.
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Wire {
    fn io(&mut self) -> &mut dyn Io {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.as_mut(),
        }
    }

    fn into_tcp(self) -> TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.into_inner().0,
        }
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wire = match tls {
        Some(tls) => Wire::Tls(Box::new(tls.accept(stream).await?)),
        None => Wire::Plain(stream),
    };
    while let Some(head) = read_head(wire.io()).await? {
        let asked = Asked { key: key_of(&head), head: head.to_lowercase(), at: Instant::now() };
        let refused = shared.strict && forbidden(&asked).is_some();
        let key = asked.key.clone();
        shared.asked.send_modify(|all| all.push(asked));
        let answer = match refused {
            true => Answer::framed(400, "", "a signed link takes no such header"),
            false => shared.next_answer(&key),
        };
        for act in answer.acts {
            perform(act, &head, &mut wire, shared).await?;
        }
        wire.io().flush().await?;
        if answer.end != End::Open {
            return leave(wire, answer.end).await;
        }
    }
    Ok(())
}

async fn perform(act: Act, head: &str, wire: &mut Wire, shared: &Shared) -> io::Result<()> {
    match act {
        Act::Send(bytes) => wire.io().write_all(&bytes).await,
        Act::Drip(bytes, interval) => {
            for byte in bytes {
                wire.io().write_all(&[byte]).await?;
                wire.io().flush().await?;
                tokio::time::sleep(interval).await;
            }
            Ok(())
        }
        Act::Wait => {
            // The sender is there as long as the server is.
            let _ = shared.released.subscribe().wait_for(|released| *released).await;
            Ok(())
        }
        Act::Pass => {
            let mut origin = TcpStream::connect(shared.upstream).await?;
            let (line, rest) = head.split_once("\r\n").unwrap_or((head, ""));
            origin.write_all(format!("{line}\r\nConnection: close\r\n{rest}").as_bytes()).await?;
            copy(&mut origin, wire.io()).await?;
            Ok(())
        }
    }
}

async fn leave(mut wire: Wire, end: End) -> io::Result<()> {
    let mut tcp = match end {
        End::Open | End::Closed => {
            wire.io().shutdown().await?;
            wire.into_tcp()
        }
        End::Cut => {
            let mut tcp = wire.into_tcp();
            tcp.shutdown().await?;
            tcp
        }
        End::Reset => return wire.into_tcp().set_zero_linger(),
        End::Silent => wire.into_tcp(),
    };
    // Reading what is left keeps the kernel from answering with a reset, which could overtake the
    // last bytes.
    copy(&mut tcp, &mut tokio::io::sink()).await.map(drop)
}

/// A request's head; nothing where the connection ended before one.
async fn read_head(io: &mut dyn Io) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD_BYTES {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn key_of(head: &str) -> String {
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let id = query.split('&').find_map(|pair| pair.strip_prefix("id="));
    id.unwrap_or_else(|| path.rsplit('/').next().unwrap_or_default()).to_owned()
}
