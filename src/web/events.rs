//! Server-sent events: the whole snapshot at once, and again while something changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::source::{Made, Source};

/// How often the stream looks for a change.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest silence: a proxy may close a connection that says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

struct Reader {
    source: Arc<Source>,
    /// The last snapshot that it got, and when.
    told: Option<(Arc<Made>, Instant)>,
    next_look: Instant,
    _turn: OwnedSemaphorePermit,
}

pub(super) fn body(source: Arc<Source>, turn: OwnedSemaphorePermit) -> Body {
    let reader = Reader { source, told: None, next_look: Instant::now(), _turn: turn };
    Body::from_stream(unfold(reader, |mut reader| async {
        let words = reader.next().await;
        Some((Ok::<_, Infallible>(words), reader))
    }))
}

impl Reader {
    async fn next(&mut self) -> Bytes {
        let began = Instant::now();
        loop {
            sleep_until(self.next_look).await;
            self.next_look = Instant::now() + INTERVAL;
            match self.source.latest().await {
                Some(made) if self.is_due(&made) => {
                    let words = event(&made.json, self.told.is_none());
                    self.told = Some((made, Instant::now()));
                    return words;
                }
                None if began.elapsed() >= KEEP_ALIVE => {
                    return Bytes::from_static(b": the scheduler does not answer\n\n");
                }
                _ => {}
            }
        }
    }

    fn is_due(&self, made: &Made) -> bool {
        self.told
            .as_ref()
            .is_none_or(|(told, at)| told.document != made.document || at.elapsed() >= KEEP_ALIVE)
    }
}

/// One event. The JSON has no line breaks.
fn event(json: &[u8], first: bool) -> Bytes {
    let retry: &[u8] = if first { b"retry: 2000\n" } else { b"" };
    [retry, b"event: snapshot\ndata: ", json, b"\n\n"].concat().into()
}
