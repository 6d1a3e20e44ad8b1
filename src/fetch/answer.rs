//! An answer with an unread body: the store's, or the API's if it sent the file itself.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as _, Bytes, Frame};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, TRANSFER_ENCODING,
};
use hyper::http::response::Parts;
use hyper::{HeaderMap, StatusCode, Version};

use super::pool::{Origin, Pool};
use super::wire::WireBody;
use crate::domain::resume::ResponseHead;
use crate::transport::{DirectAnswer, TransportError};

pub(super) struct Answer {
    head: Parts,
    body: Source,
}

/// The store's connection returns to its pool at the body's complete end.
enum Source {
    Store { body: WireBody, pooled: (Pool, Origin) },
    Api(reqwest::Body),
    Complete,
}

impl Answer {
    pub(super) fn new(head: Parts, body: WireBody, pooled: (Pool, Origin)) -> Self {
        Self { head, body: Source::Store { body, pooled } }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub(super) fn version(&self) -> Version {
        self.head.version
    }

    /// The length of the rest by its real framing: a `Content-Length` beside chunks means nothing.
    pub(super) fn content_length(&self) -> Option<u64> {
        match &self.body {
            Source::Store { body, .. } => body.length(),
            Source::Api(body) => body.size_hint().exact(),
            Source::Complete => Some(0),
        }
    }

    pub(super) fn head(&self) -> ResponseHead {
        // A repeated header is one list (RFC 9110 section 5.3), which does not parse as one value.
        let text = |name: HeaderName| {
            let values: Vec<_> = self
                .headers()
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        let content_length = self.content_length();
        let chunked = text(TRANSFER_ENCODING).is_some_and(|codings| {
            codings.rsplit(',').next().unwrap_or("").trim().eq_ignore_ascii_case("chunked")
        });
        ResponseHead {
            status: self.status().as_u16(),
            content_length,
            framed: content_length.is_some()
                || self.version() == Version::HTTP_2
                || (self.version() == Version::HTTP_11 && chunked),
            content_range: text(CONTENT_RANGE),
            etag: text(ETAG),
            content_encoding: text(CONTENT_ENCODING),
            content_type: text(CONTENT_TYPE),
            checksummed: false,
        }
    }

    /// The next bytes, `None` at the complete end. Cancel-safe. Bound it with a timeout.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            match poll_fn(|cx| self.body.poll_frame(cx)).await {
                // Trailers are ignored.
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                None => {
                    let ended = std::mem::replace(&mut self.body, Source::Complete);
                    if let Source::Store { body, pooled: (pool, origin) } = ended
                        && let Some(wire) = body.into_open_wire()
                    {
                        pool.put(origin, wire);
                    }
                    return Ok(None);
                }
            }
        }
    }
}

impl Source {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        Poll::Ready(match self {
            Self::Store { body, .. } => ready!(body.poll_frame(cx))
                .map(|frame| frame.map_err(|error| TransportError::cut(&error))),
            Self::Api(body) => ready!(Pin::new(body).poll_frame(cx))
                .map(|frame| frame.map_err(TransportError::from)),
            Self::Complete => None,
        })
    }
}

impl From<DirectAnswer> for Answer {
    fn from(answer: DirectAnswer) -> Self {
        let (head, body) = hyper::Response::<reqwest::Body>::from(answer.0).into_parts();
        Self { head, body: Source::Api(body) }
    }
}
