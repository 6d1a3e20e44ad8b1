//! Sends an answer: its head, and a body that is cut, stalled or slowed as the script says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use tokio::time::{Instant, sleep_until};

use super::canned::Canned;
use super::connection::Drained;
use super::content::{Content, Reader};
use super::world::World;

const CHUNK_BYTES: usize = 64 * 1024;
/// Frames per second of a slowed body.
const FRAMES_PER_SECOND: u64 = 20;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer, before its headers are known to be valid.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: BodyPlan,
}

#[derive(Debug)]
pub(super) struct BodyPlan {
    pub(super) reader: Reader,
    /// Length of the body if nothing cut it.
    pub(super) whole_bytes: u64,
    /// `Content-Length`; without it the body is sent in chunks.
    pub(super) length: Option<u64>,
    /// Ends in a closed connection instead of a proper end.
    pub(super) cut: bool,
    /// Waits after this many bytes for the release of this ID.
    pub(super) stall: Option<(u64, String)>,
    pub(super) bytes_per_second: Option<u64>,
}

impl From<Canned> for Reply {
    fn from(canned: Canned) -> Self {
        let reader = Content::from(canned.body).read(0, u64::MAX);
        let whole_bytes = reader.remaining_bytes();
        let (length, cut, stall, bytes_per_second) = (Some(whole_bytes), false, None, None);
        let body = BodyPlan { reader, whole_bytes, length, cut, stall, bytes_per_second };
        Self { status: canned.status, headers: canned.headers, body }
    }
}

impl Reply {
    /// Headers that are not valid become an answer with the status 500 that says so.
    pub(super) fn into_response(self, request: Open, drained: Drained) -> Response<Body> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let is_length = |name: &str| name.eq_ignore_ascii_case("content-length");
        let has_length = self.headers.iter().any(|(name, _)| is_length(name));
        if let Some(length) = self.body.length.filter(|_| !has_length) {
            response = response.header("content-length", length);
        }
        let (sent_bytes, began_at) = (0, Instant::now());
        let flow = Flow { plan: self.body, request, drained, sent_bytes, began_at };
        response.body(flow.into_body()).unwrap_or_else(|error| {
            let words = Bytes::from(format!("the script's answer is not HTTP: {error}"));
            let body = http_body_util::Full::new(words).map_err(|never| match never {});
            let mut response = Response::new(body.boxed_unsync());
            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// A request whose answer is not sent yet. Dropping it notes the end, however that came.
pub(super) struct Open {
    pub(super) world: Arc<World>,
    pub(super) number: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.world.recorder.update(self.number, |request| request.ended_at = Some(Instant::now()));
    }
}

/// A body under way.
struct Flow {
    plan: BodyPlan,
    request: Open,
    drained: Drained,
    sent_bytes: u64,
    began_at: Instant,
}

impl Flow {
    fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut flow| async {
            let frame = flow.next_frame().await?;
            Some((frame.map(Frame::data), flow))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next_frame(&mut self) -> Option<io::Result<Bytes>> {
        let mut limit = CHUNK_BYTES;
        if let Some((at, id)) = &self.plan.stall {
            if self.sent_bytes >= *at {
                self.request.world.wait_for_release(id).await;
                self.plan.stall = None;
            } else {
                limit = usize::try_from(at - self.sent_bytes).map_or(limit, |left| left.min(limit));
            }
        }
        if let Some(rate) = self.plan.bytes_per_second {
            let frame_bytes = (rate / FRAMES_PER_SECOND).max(1);
            limit = usize::try_from(frame_bytes).map_or(limit, |bytes| bytes.min(limit));
            sleep_until(self.began_at + time_for(self.sent_bytes, rate)).await;
        }
        match self.plan.reader.next_chunk(limit) {
            Some(chunk) => {
                self.sent_bytes += chunk.len() as u64;
                let Open { world, number } = &self.request;
                world.recorder.update(*number, |request| request.body_bytes = self.sent_bytes);
                Some(Ok(chunk))
            }
            None if self.plan.cut => {
                // An error drops what hyper still buffers, so that must be on the socket first.
                self.drained.wait().await;
                self.plan.cut = false;
                Some(Err(io::Error::other("cut by the script")))
            }
            None => None,
        }
    }
}

/// How long `bytes` take at `rate` bytes per second.
fn time_for(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
