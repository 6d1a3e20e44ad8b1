//! A long way: a TCP proxy on loopback that brings every byte late, each way, and as many as are sent.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks under way in one direction: as much as a large window.
const CHUNKS: usize = 256;

/// A running proxy; dropping it ends its connections.
#[derive(Debug)]
pub(super) struct SlowProxy {
    pub(super) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl SlowProxy {
    /// Listens on a free port in front of `upstream`; each way takes so long.
    pub(super) async fn start(upstream: SocketAddr, one_way: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => {
                        let (client, _) = accepted.expect("a listener on loopback accepts");
                        connections.spawn(carry(client, upstream, one_way));
                    }
                }
            }
        });
        Self { address, _tasks: tasks }
    }

    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn carry(client: TcpStream, upstream: SocketAddr, one_way: Duration) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    // Only a matter of speed.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pump(from_client, to_server, one_way);
    let down = pump(from_server, to_client, one_way);
    tokio::join!(up, down);
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
