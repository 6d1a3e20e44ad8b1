//! One HTTP/1.1 connection to a store, driven by its reader. It has no task of its own: a chunk is
//! hashed and written where it was received, and a body needs one read buffer.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body_util::Empty;
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HOST, HeaderValue, IF_RANGE, RANGE, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Request, Response};

use super::connector::Connection;
use crate::domain::resume::Plan;
use crate::transport::{AGENT, MAX_HEADERS, SecretUrl};

/// What the read buffer of a connection grows to, and so the largest chunk. With 64, 128, 256 and
/// 408 KiB (hyper's own limit) 256 parts of 1 MB over https, 64 at once, took 1.06, 0.93, 0.81 and
/// 1.02 s and 29, 37, 46 and 76 MiB.
const READ_BUFFER_BYTES: usize = 256 * 1024;

pub(super) struct Wire {
    sender: SendRequest<Empty<Bytes>>,
    /// Moves the bytes when polled. `None` once the connection has ended.
    connection: Option<Driver>,
}

type Driver = Box<http1::Connection<Connection, Empty<Bytes>>>;

pub(super) enum SendError {
    /// It never left, because the connection had ended before.
    Unsent(Box<Request<Empty<Bytes>>>, hyper::Error),
    Failed(hyper::Error),
}

impl Wire {
    pub(super) async fn begin(connection: Connection) -> Result<Self, hyper::Error> {
        let mut http = http1::Builder::new();
        http.max_buf_size(READ_BUFFER_BYTES).max_headers(MAX_HEADERS);
        let (sender, connection) = http.handshake(connection).await?;
        Ok(Self { sender, connection: Some(Box::new(connection)) })
    }

    /// Whether it can take another request; false once the peer has closed it.
    pub(super) fn is_open(&mut self) -> bool {
        // The next sender is woken instead.
        drive(&mut self.connection, &mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head, to be bounded by a timeout. If dropped, closes.
    pub(super) async fn send(
        mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<(Parts, WireBody), SendError> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        let answered = poll_fn(|cx| {
            drive(connection, cx);
            answer.as_mut().poll(cx)
        });
        match answered.await {
            Ok(answer) => {
                let (head, body) = Response::into_parts(answer);
                Ok((head, WireBody { wire: self, body }))
            }
            Err(mut refused) => Err(match refused.take_message() {
                Some(request) => SendError::Unsent(Box::new(request), refused.into_error()),
                None => SendError::Failed(refused.into_error()),
            }),
        }
    }
}

/// Moves bytes. The request or the body that is left behind says what ended a connection.
fn drive(connection: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(alive) = connection
        && Pin::new(alive).poll(cx).is_ready()
    {
        *connection = None;
    }
}

pub(super) struct WireBody {
    wire: Wire,
    body: Incoming,
}

impl WireBody {
    pub(super) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece of it; `None` at its complete end.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        drive(&mut self.wire.connection, cx);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// The connection, if the body is complete and it can take another request.
    pub(super) fn into_open_wire(mut self) -> Option<Wire> {
        self.wire.is_open().then_some(self.wire)
    }
}

/// A request for a file or the rest of it; `None` if HTTP cannot express it.
pub(super) fn request(link: &SecretUrl, plan: &Plan) -> Option<Request<Empty<Bytes>>> {
    let url = link.expose();
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    let request = Request::get(link.target())
        .header(HOST, host)
        .header(USER_AGENT, HeaderValue::from_static(AGENT))
        .header(ACCEPT, HeaderValue::from_static("*/*"))
        .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let request = match plan {
        Plan::FromStart => request,
        Plan::Continue(point) => request
            .header(RANGE, format!("bytes={}-", point.bytes))
            .header(IF_RANGE, point.etag.as_str()),
    };
    request.body(Empty::new()).ok()
}
