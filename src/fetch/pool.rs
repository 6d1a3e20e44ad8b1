//! Idle connections, kept so that many parts of a store need few handshakes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use super::wire::Wire;

/// How long an idle connection is kept. `reqwest`, which calls the API, keeps its own as long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Idle connections by origin. Cheap to clone. It holds at most as many as were in use at once,
/// which the slots bound, each for [`IDLE_TIMEOUT`].
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Idle>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    is_tls: bool,
    host: String,
    port: u16,
}

#[derive(Default)]
struct Idle {
    wires: HashMap<Origin, Vec<(Wire, Instant)>>,
    /// The task that closes idle connections; it ends when none is left.
    sweeper: JoinSet<()>,
}

impl Origin {
    pub(super) fn of(url: &Url) -> Self {
        Self {
            is_tls: url.scheme() == "https",
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or_default(),
        }
    }
}

impl Pool {
    /// The open connection that was used last, if there is one.
    pub(super) fn take(&self, origin: &Origin) -> Option<Wire> {
        let mut idle = self.idle();
        let wires = idle.wires.get_mut(origin)?;
        let mut found = None;
        while let Some((mut wire, since)) = wires.pop() {
            if since.elapsed() < IDLE_TIMEOUT && wire.is_open() {
                found = Some(wire);
                break;
            }
        }
        if wires.is_empty() {
            idle.wires.remove(origin);
        }
        found
    }

    pub(super) fn put(&self, origin: Origin, wire: Wire) {
        let mut idle = self.idle();
        idle.wires.entry(origin).or_default().push((wire, Instant::now()));
        while idle.sweeper.try_join_next().is_some() {}
        if idle.sweeper.is_empty() {
            idle.sweeper.spawn(sweep(Arc::downgrade(&self.0)));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        // Even after a panic this holds nothing but open connections.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Closes what was idle for too long; returns whether anything is left.
    fn close_old(&mut self) -> bool {
        self.wires.retain(|_, wires| {
            wires.retain(|(_, since)| since.elapsed() < IDLE_TIMEOUT);
            !wires.is_empty()
        });
        !self.wires.is_empty()
    }
}

/// Checks twice per idle timeout, until no connection is left.
async fn sweep(pool: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(IDLE_TIMEOUT / 2).await;
        let Some(pool) = pool.upgrade().map(Pool) else { return };
        if !pool.idle().close_old() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::super::store::StoreClient;
    use super::super::store::tests::store;
    use super::*;
    use crate::domain::resume::Plan;
    use crate::transport::SecretUrl;

    /// A store on loopback that keeps connections open, for this many answers each.
    struct Keeping {
        address: std::net::SocketAddr,
        connections: Arc<AtomicUsize>,
        ended: mpsc::Receiver<()>,
        _server: JoinSet<()>,
    }

    impl Keeping {
        async fn start(answers: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let connections = Arc::new(AtomicUsize::new(0));
            let (tell, ended) = mpsc::channel(16);
            let mut server = JoinSet::new();
            let counted = Arc::clone(&connections);
            server.spawn(async move {
                let mut conversations = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let tell = tell.clone();
                    conversations.spawn(async move {
                        converse(client, answers).await;
                        tell.send(()).await.unwrap();
                    });
                }
            });
            Self { address, connections, ended, _server: server }
        }

        async fn get(&self, store: &StoreClient) -> super::super::answer::Answer {
            let url = SecretUrl::new(format!("http://{}/x", self.address).parse().unwrap());
            store.get(&url, &Plan::FromStart).await.unwrap()
        }

        async fn fetch(&self, store: &StoreClient) {
            let mut answer = self.get(store).await;
            let mut bytes = 0;
            while let Some(chunk) = answer.next_chunk().await.unwrap() {
                bytes += chunk.len();
            }
            assert_eq!(bytes, 2);
        }

        fn connections(&self) -> usize {
            self.connections.load(Ordering::SeqCst)
        }
    }

    async fn converse(mut client: TcpStream, answers: usize) {
        for _ in 0..answers {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match client.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_request_after_another_takes_one_connection() {
        let (server, store) = (Keeping::start(usize::MAX).await, store("http://127.0.0.1:1/"));
        for _ in 0..3 {
            server.fetch(&store).await;
        }
        assert_eq!(server.connections(), 1);
        let (one, other) = (server.get(&store).await, server.get(&store).await);
        assert_eq!(server.connections(), 2, "each body has one of its own");
        drop((one, other));
        server.fetch(&store).await;
        assert_eq!(server.connections(), 3, "a body that was not read to its end leaves none");
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_is_not_used() {
        let (mut server, store) = (Keeping::start(1).await, store("http://127.0.0.1:1/"));
        for connections in 1..=3 {
            server.fetch(&store).await;
            assert_eq!(server.connections(), connections);
            server.ended.recv().await.unwrap();
        }
    }

    #[tokio::test]
    async fn idle_connections_are_closed() {
        let (mut server, store) = (Keeping::start(usize::MAX).await, store("http://127.0.0.1:1/"));
        server.fetch(&store).await;
        tokio::time::pause();
        let since = Instant::now();
        server.ended.recv().await.unwrap();
        let took = since.elapsed();
        assert!((IDLE_TIMEOUT..=IDLE_TIMEOUT * 2).contains(&took), "{took:?}");
        server.fetch(&store).await;
        assert_eq!(server.connections(), 2);
    }
}
