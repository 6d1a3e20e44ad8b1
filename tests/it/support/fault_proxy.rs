//! A TCP proxy on loopback in front of one origin, for faults below HTTP; each connection gets the
//! next of a list.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::PATIENCE;

/// Longest request head that is read before a raw answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// What a long way takes at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks under way in one direction: as much as a large window.
const CHUNKS: usize = 256;

/// What happens to one connection. Response bytes count heads and bodies of all answers on it.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing.
    Pass,
    /// Closed in good order after so many bytes of response.
    CutAfter { response_bytes: u64 },
    /// Reset after so many bytes of response; what the client has not read yet may be lost with it.
    ResetAfter { response_bytes: u64 },
    /// Nothing more after so many bytes of response, until the client gives up.
    StallAfter { response_bytes: u64 },
    /// The upstream is not asked: a request's head is read, these bytes are answered, the
    /// connection is closed.
    RawAnswer(Vec<u8>),
    /// Reset before a byte is read.
    RefuseConnection,
    /// A long way: every byte comes late, each way, and as many as are sent.
    Late { one_way: Duration },
}

/// A running proxy; dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    address: SocketAddr,
    faults: Arc<Mutex<Faults>>,
    connections: watch::Receiver<usize>,
    struck: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

/// What the next connections get.
enum Faults {
    List { faults: Vec<Fault>, next: usize },
    Drawn(Box<dyn FnMut() -> Fault + Send>),
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List { .. } => "List",
            Self::Drawn(_) => "Drawn",
        })
    }
}

impl FaultProxy {
    /// Listens on a free port in front of `upstream`; the last fault repeats, none at all is
    /// [`Fault::Pass`].
    pub(crate) async fn start(upstream: SocketAddr, faults: Vec<Fault>) -> Self {
        Self::start_with(upstream, Faults::List { faults, next: 0 }).await
    }

    /// Listens on a free port in front of `upstream`; each connection gets what is drawn for it.
    pub(crate) async fn drawing(
        upstream: SocketAddr,
        draw: impl FnMut() -> Fault + Send + 'static,
    ) -> Self {
        Self::start_with(upstream, Faults::Drawn(Box::new(draw))).await
    }

    async fn start_with(upstream: SocketAddr, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let faults = Arc::new(Mutex::new(faults));
        let (counter, connections) = watch::channel(0);
        let struck = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream, Arc::clone(&faults), counter, Arc::clone(&struck)));
        Self { address, faults, connections, struck, _tasks: tasks }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next connection gets the first of these; those that are open keep theirs.
    pub(crate) fn set_faults(&self, faults: Vec<Fault>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) =
            Faults::List { faults, next: 0 };
    }

    /// Connections that were refused, or ended or silenced in the middle of what they had to say.
    pub(crate) fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// Connections that were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    /// Waits until so many connections were accepted.
    pub(crate) async fn wait_for_connections(&self, count: usize) {
        let mut connections = self.connections.clone();
        if timeout(PATIENCE, connections.wait_for(|seen| *seen >= count)).await.is_err() {
            panic!("{} of {count} connections within {PATIENCE:?}", *self.connections.borrow());
        }
    }
}

impl Faults {
    fn take_next(&mut self) -> Fault {
        match self {
            Self::List { faults, next } => {
                let fault = faults.get(*next).or(faults.last()).cloned();
                *next += 1;
                fault.unwrap_or(Fault::Pass)
            }
            Self::Drawn(draw) => draw(),
        }
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    faults: Arc<Mutex<Faults>>,
    counter: watch::Sender<usize>,
    struck: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a listener on loopback accepts");
                let fault = faults.lock().unwrap_or_else(PoisonError::into_inner).take_next();
                counter.send_modify(|count| *count += 1);
                let struck = Arc::clone(&struck);
                connections.spawn(async move {
                    // The other side's going away is what this proxy is for.
                    let _ = suffer(client, upstream, fault, &struck).await;
                });
            }
        }
    }
}

async fn suffer(
    mut client: TcpStream,
    upstream: SocketAddr,
    fault: Fault,
    struck: &AtomicU64,
) -> io::Result<()> {
    let strike = |reached: bool| struck.fetch_add(u64::from(reached), Ordering::Relaxed);
    match fault {
        Fault::Pass => {
            let mut server = TcpStream::connect(upstream).await?;
            copy_bidirectional(&mut client, &mut server).await?;
            Ok(())
        }
        Fault::CutAfter { response_bytes } => {
            strike(relay(&mut client, upstream, response_bytes).await?);
            client.shutdown().await
        }
        Fault::ResetAfter { response_bytes } => {
            strike(relay(&mut client, upstream, response_bytes).await?);
            client.set_zero_linger()
        }
        Fault::StallAfter { response_bytes } => {
            strike(relay(&mut client, upstream, response_bytes).await?);
            copy(&mut client, &mut tokio::io::sink()).await?;
            Ok(())
        }
        Fault::RawAnswer(bytes) => {
            read_head(&mut client).await?;
            strike(true);
            client.write_all(&bytes).await?;
            client.shutdown().await
        }
        Fault::RefuseConnection => {
            strike(true);
            client.set_zero_linger()
        }
        Fault::Late { one_way } => {
            carry(client, TcpStream::connect(upstream).await?, one_way).await
        }
    }
}

/// Passes bytes both ways until `response_bytes` have come back, or the upstream has closed;
/// whether it was the former.
async fn relay(
    client: &mut TcpStream,
    upstream: SocketAddr,
    response_bytes: u64,
) -> io::Result<bool> {
    let mut server = TcpStream::connect(upstream).await?;
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut response = from_server.take(response_bytes);
    let upload = async {
        copy(&mut from_client, &mut to_server).await?;
        // The client has gone: the upstream ends the connection, and with it the answer that may
        // still be on its way.
        to_server.shutdown().await?;
        std::future::pending::<io::Result<u64>>().await
    };
    tokio::select! {
        done = copy(&mut response, &mut to_client) => done.map(|bytes| bytes == response_bytes),
        failed = upload => failed.map(|_| false),
    }
}

async fn read_head(client: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD_BYTES {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Passes bytes both ways, late, until both sides have ended.
async fn carry(client: TcpStream, server: TcpStream, one_way: Duration) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let up = pump(from_client, to_server, one_way);
    let down = pump(from_server, to_client, one_way);
    tokio::join!(up, down);
    Ok(())
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one_way: Duration) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + one_way, buffer[..bytes].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = receiver.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The other side learns of the end when all before it has come.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
