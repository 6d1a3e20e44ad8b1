//! Floor 5, the status server: read-only, for people and for probes. It sees the engine's read
//! model and nothing else.
//!
//! While nobody looks, it makes nothing. One answer serves everybody who asks within a quarter of a
//! second. Connections are few, and each has an end.

mod accept;
mod events;
mod guard;
mod hosts;
mod metrics;
mod server;
mod source;
mod space;
mod stall;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

use hosts::Hosts;
use source::Source;
use space::Space;

use crate::engine::Control;
use crate::meters::Meters;
use crate::sinks::AnySink;

const MAX_STREAMS: usize = 16;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Bound, but not serving yet.
#[derive(Debug)]
pub struct StatusServer {
    listener: TcpListener,
    address: SocketAddr,
    hosts: Hosts,
}

#[derive(Debug)]
pub struct Sources {
    pub engine: mpsc::Sender<Control>,
    pub config_file: PathBuf,
    pub meters: Meters,
    pub sink: AnySink,
}

#[derive(Debug, Clone)]
struct Shared {
    source: Arc<Source>,
    meters: Meters,
    space: Arc<Space>,
    streams: Arc<Semaphore>,
}

impl StatusServer {
    /// Port 0 picks a free one. `allowed_hosts` are spelled as in the configuration.
    pub async fn bind(address: SocketAddr, allowed_hosts: &[String]) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, hosts: Hosts::new(allowed_hosts) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers every request with 503 and these words, until it is dropped.
    pub async fn say(&self, words: watch::Receiver<String>) {
        let answer = async move || {
            let words = format!("the daemon cannot answer yet: {}\n", *words.borrow());
            let mut answer = (StatusCode::SERVICE_UNAVAILABLE, typed(TEXT, words)).into_response();
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            answer
        };
        let routes = Router::new().fallback(answer);
        server::serve(&self.listener, guard::guarded(routes, self.hosts.clone())).await;
    }

    pub async fn serve(self, sources: Sources) {
        let shared = Shared {
            source: Arc::new(Source::new(sources.engine, sources.config_file)),
            meters: sources.meters,
            space: Arc::new(Space::new(sources.sink)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        };
        server::serve(&self.listener, guard::guarded(routes(shared), self.hosts)).await;
    }
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/", get(|| asset(HTML, include_str!("assets/index.html"))))
        .route("/style.css", get(|| asset(CSS, include_str!("assets/style.css"))))
        .route("/app.js", get(|| asset(SCRIPT, include_str!("assets/app.js"))))
        .route("/attention.js", get(|| asset(SCRIPT, include_str!("assets/attention.js"))))
        .route("/kit.js", get(|| asset(SCRIPT, include_str!("assets/kit.js"))))
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/api/v1/status", get(status))
        .route("/api/v1/events", get(stream))
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "nothing is here; the page is at /\n") })
        .with_state(shared)
}

async fn asset(content_type: &'static str, text: &'static str) -> Response {
    typed(content_type, text)
}

async fn live(State(shared): State<Shared>) -> Response {
    shared.source.latest().await.map_or_else(silent, |_| plain(StatusCode::OK, "ok\n"))
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.source.latest().await {
        Some(made) if made.document.draining => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n")
        }
        Some(_) => plain(StatusCode::OK, "ok\n"),
        None => silent(),
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    shared.source.latest().await.map_or_else(silent, |made| typed(JSON, made.json.clone()))
}

async fn stream(State(shared): State<Shared>) -> Response {
    match shared.streams.clone().try_acquire_owned() {
        Ok(turn) => typed("text/event-stream", events::body(shared.source, turn)),
        Err(_) => {
            let words = "too many event streams are open; close one, or ask /api/v1/status\n";
            let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, words);
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            answer
        }
    }
}

fn silent() -> Response {
    plain(StatusCode::SERVICE_UNAVAILABLE, "the scheduler does not answer\n")
}

fn typed(content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let headers: [(HeaderName, &str); 1] = [(CONTENT_TYPE, content_type)];
    (headers, body.into()).into_response()
}

fn plain(status: StatusCode, words: &'static str) -> Response {
    (status, typed(TEXT, words)).into_response()
}
