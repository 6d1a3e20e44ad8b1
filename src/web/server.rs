//! Connections: few at a time, each with a bound.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::stall::Impatient;

/// Connections at a time; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// The longest wait for the head of the first or the next request of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: usize = 16 << 10;
/// More than fit: what a head may have is bytes.
const MAX_HEADERS: usize = MAX_HEAD_BYTES / 16;
/// The pause after a failed accept: without descriptors the next one fails too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn serve(listener: &TcpListener, routes: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(talk(stream, routes.clone()));
                }
                Err(error) => {
                    tracing::debug!(
                        event = "page_connection_refused", cause = %error,
                        "the status page cannot accept a connection: {error}"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn talk(stream: TcpStream, routes: Router) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let connection = builder
        .serve_connection(TokioIo::new(Impatient::new(stream)), TowerToHyperService::new(routes));
    // The client may be gone, or silent.
    let _ = connection.await;
}
