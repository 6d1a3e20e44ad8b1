//! A TCP proxy on loopback in front of one origin, for faults below HTTP; each connection gets the next of a list.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PATIENCE;

/// Longest request head that is read before a raw answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;

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
    /// The upstream is not asked: a request's head is read, these bytes are answered, the connection is closed.
    RawAnswer(Vec<u8>),
    /// Reset before a byte is read.
    RefuseConnection,
}

/// A running proxy; dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    address: SocketAddr,
    faults: Arc<Mutex<FaultList>>,
    connections: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct FaultList {
    faults: Vec<Fault>,
    next: usize,
}

impl FaultProxy {
    /// Listens on a free port in front of `upstream`; the last fault repeats, none at all is [`Fault::Pass`].
    pub(crate) async fn start(upstream: SocketAddr, faults: Vec<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let faults = Arc::new(Mutex::new(FaultList { faults, next: 0 }));
        let (counter, connections) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream, Arc::clone(&faults), counter));
        Self { address, faults, connections, _tasks: tasks }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next connection gets the first of these; those that are open keep theirs.
    pub(crate) fn set_faults(&self, faults: Vec<Fault>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = FaultList { faults, next: 0 };
    }

    /// Waits until so many connections were accepted.
    pub(crate) async fn wait_for_connections(&self, count: usize) {
        let mut connections = self.connections.clone();
        if timeout(PATIENCE, connections.wait_for(|seen| *seen >= count)).await.is_err() {
            panic!("{} of {count} connections within {PATIENCE:?}", *self.connections.borrow());
        }
    }
}

impl FaultList {
    fn take_next(&mut self) -> Fault {
        let fault = self.faults.get(self.next).or(self.faults.last()).cloned();
        self.next += 1;
        fault.unwrap_or(Fault::Pass)
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    faults: Arc<Mutex<FaultList>>,
    counter: watch::Sender<usize>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a listener on loopback accepts");
                let fault = faults.lock().unwrap_or_else(PoisonError::into_inner).take_next();
                counter.send_modify(|count| *count += 1);
                connections.spawn(async move {
                    // The other side's going away is what this proxy is for.
                    let _ = suffer(client, upstream, fault).await;
                });
            }
        }
    }
}

async fn suffer(mut client: TcpStream, upstream: SocketAddr, fault: Fault) -> io::Result<()> {
    match fault {
        Fault::Pass => {
            let mut server = TcpStream::connect(upstream).await?;
            copy_bidirectional(&mut client, &mut server).await?;
            Ok(())
        }
        Fault::CutAfter { response_bytes } => {
            relay(&mut client, upstream, response_bytes).await?;
            client.shutdown().await
        }
        Fault::ResetAfter { response_bytes } => {
            relay(&mut client, upstream, response_bytes).await?;
            client.set_zero_linger()
        }
        Fault::StallAfter { response_bytes } => {
            relay(&mut client, upstream, response_bytes).await?;
            copy(&mut client, &mut tokio::io::sink()).await?;
            Ok(())
        }
        Fault::RawAnswer(bytes) => {
            read_head(&mut client).await?;
            client.write_all(&bytes).await?;
            client.shutdown().await
        }
        Fault::RefuseConnection => client.set_zero_linger(),
    }
}

/// Passes bytes both ways until `response_bytes` have come back, or the upstream has closed.
async fn relay(client: &mut TcpStream, upstream: SocketAddr, response_bytes: u64) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut response = from_server.take(response_bytes);
    let upload = async {
        copy(&mut from_client, &mut to_server).await?;
        // The client has closed its side: the answer may still be on its way.
        std::future::pending::<io::Result<u64>>().await
    };
    tokio::select! {
        done = copy(&mut response, &mut to_client) => done.map(drop),
        failed = upload => failed.map(drop),
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
