//! One listener: accepts, records each request, and has it answered by the API or the store.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::connection::{Drained, Watched};
use super::record::{Origin, Recorded};
use super::reply::{Body, Open};
use super::world::World;
use super::{api, store};

/// The pause after a failed accept: without descriptors the next one fails too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves until `stop`; connections end with it.
pub(super) async fn serve(
    listener: TcpListener,
    origin: Origin,
    world: Arc<World>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut numbers = 0..;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let number = numbers.next().unwrap_or(u64::MAX);
                    connections.spawn(converse(stream, origin, number, Arc::clone(&world)));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }
    connections.shutdown().await;
}

async fn converse(stream: TcpStream, origin: Origin, number: u64, world: Arc<World>) {
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let (stream, drained) = Watched::new(stream);
    let place = (origin, number);
    let service = service_fn(|request| answer(request, place, Arc::clone(&world), drained.clone()));
    // A client that goes away and a scripted cut both end here, and the record has them.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    (origin, connection): (Origin, u64),
    world: Arc<World>,
    drained: Drained,
) -> Result<Response<Body>, Infallible> {
    let (head, _body) = request.into_parts();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let header = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), text(value));
    let number = world.recorder.add(Recorded {
        origin,
        connection,
        at: Instant::now(),
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(ToOwned::to_owned),
        headers: head.headers.iter().map(header).collect(),
        status: None,
        whole_bytes: None,
        body_bytes: 0,
        ended_at: None,
    });
    let request = Open { world: Arc::clone(&world), number };
    let reply = match origin {
        Origin::Api => api::answer(&world, &head).await,
        Origin::Store => store::answer(&world, &head).await,
    };
    let whole_bytes = reply.body.whole_bytes;
    let response = reply.into_response(request, drained);
    world.recorder.update(number, |request| {
        request.status = Some(response.status().as_u16());
        request.whole_bytes = Some(whole_bytes);
    });
    Ok(response)
}
