//! Reads a body chunk by chunk, and checks its length, its pace and its first byte.

use std::fmt;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::Instant;

use super::answer::Answer;
use super::bandwidth::Debt;
use super::pace::RateFloor;
use crate::domain::checksum::PromisedChecksum;
use crate::domain::resume::StrongEtag;
use crate::transport::TransportError;

/// Where the bytes of a body belong, and the length of the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// At the start: the body is the whole file.
    Whole { total_bytes: Option<u64> },
    /// After what is there already.
    Append { total_bytes: u64 },
}

/// Why a body is of no use, or ended early. Safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection failed or the framing is incomplete.
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("no data arrived for {after:?}")]
    Stalled { after: Duration },
    #[error(
        "only {bytes} bytes arrived within a minute of waiting, \
         fewer than download.min_rate requires"
    )]
    TooSlow { bytes: u64 },
    #[error("the body is longer than the expected {total_bytes} bytes")]
    TooLong { total_bytes: u64 },
    /// Both lengths include what was there before.
    #[error("the body ended after {bytes} of {total_bytes} bytes")]
    EndedEarly { bytes: u64, total_bytes: u64 },
    #[error("the API declared no size, and the body does not begin with {{ or [")]
    NotJson,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) stall_timeout: Duration,
    /// Smallest rate over a minute of waiting, zero for none.
    pub(super) min_rate_bytes_per_second: u64,
}

/// The body of a store's answer, or of the API's direct one.
pub struct Body {
    pub facts: BodyFacts,
    answer: Answer,
    expected_bytes: Option<u64>,
    stall_timeout: Duration,
    floor: RateFloor,
    /// Time spent waiting since the last byte, including cancelled waits.
    idle: Duration,
    /// Bandwidth still to be paid for; `None` without a cap.
    debt: Option<Debt>,
    end: Option<Result<(), BodyError>>,
}

pub struct BodyFacts {
    pub opening: Opening,
    /// Every checksum of the whole file that the store sent.
    pub promised: Vec<PromisedChecksum>,
    /// The validator to continue this file with later.
    pub etag: Option<StrongEtag>,
    pub host: String,
    /// Bytes of the file so far, including those before a resumed range.
    pub(super) position: u64,
    /// Without a declared size, the first byte is checked.
    pub(super) size_declared: bool,
}

impl Body {
    pub(super) fn new(
        facts: BodyFacts,
        answer: Answer,
        patience: Patience,
        debt: Option<Debt>,
    ) -> Self {
        let expected_bytes = match facts.opening {
            Opening::Whole { total_bytes } => total_bytes,
            Opening::Append { total_bytes } => Some(total_bytes),
        };
        Self {
            facts,
            answer,
            expected_bytes,
            stall_timeout: patience.stall_timeout,
            floor: RateFloor::new(patience.min_rate_bytes_per_second),
            idle: Duration::ZERO,
            debt,
            end: None,
        }
    }

    /// The next bytes; `None` once the body is complete in framing and length. Never empty.
    ///
    /// Under a bandwidth cap it first waits until earlier bytes are paid for; that counts as
    /// neither stalled nor slow. Cancel-safe: no byte is lost, and the time already waited counts
    /// on. After an error each call returns it again.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match (&self.end, &mut self.debt) {
                (Some(Err(error)), _) => return Err(error.clone()),
                (Some(Ok(())), None) => return Ok(None),
                (Some(Ok(())), Some(debt)) => {
                    debt.pay_all().await;
                    return Ok(None);
                }
                (None, Some(debt)) => debt.pay_slices().await,
                (None, None) => {}
            }
            let judged = match wait(&mut self.answer, &mut self.idle, self.stall_timeout).await {
                Some(Ok(Some(chunk))) if chunk.is_empty() && self.idle < self.stall_timeout => {
                    continue;
                }
                Some(Ok(Some(chunk))) if !chunk.is_empty() => {
                    self.take(&chunk).map(|()| Some(chunk))
                }
                Some(Ok(None)) => self.finish().map(|()| None),
                Some(Err(error)) => Err(error.into()),
                Some(Ok(Some(_))) | None => Err(BodyError::Stalled { after: self.stall_timeout }),
            };
            match judged {
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                Ok(None) => self.end = Some(Ok(())),
                Err(error) => self.end = Some(Err(error)),
            }
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        let bytes = chunk.len() as u64;
        // More time than the stall timeout went into another part's write, not into waiting.
        let waited = std::mem::take(&mut self.idle).min(self.stall_timeout);
        if let Some(debt) = &mut self.debt {
            debt.add(bytes);
        }
        self.floor.note(waited, bytes).map_err(|slow| BodyError::TooSlow { bytes: slow.bytes })?;
        if self.is_at_unjudged_start() && !matches!(chunk.first(), Some(b'{' | b'[')) {
            return Err(BodyError::NotJson);
        }
        let position = self.facts.position.saturating_add(bytes);
        if let Some(total_bytes) = self.expected_bytes.filter(|total| position > *total) {
            return Err(BodyError::TooLong { total_bytes });
        }
        self.facts.position = position;
        Ok(())
    }

    fn finish(&self) -> Result<(), BodyError> {
        let bytes = self.facts.position;
        if let Some(total_bytes) = self.expected_bytes.filter(|total| bytes < *total) {
            return Err(BodyError::EndedEarly { bytes, total_bytes });
        }
        if self.is_at_unjudged_start() { Err(BodyError::NotJson) } else { Ok(()) }
    }

    fn is_at_unjudged_start(&self) -> bool {
        !self.facts.size_declared && self.facts.position == 0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("opening", &self.facts.opening)
            .field("host", &self.facts.host)
            .field("position", &self.facts.position)
            .finish_non_exhaustive()
    }
}

/// Adds the time until it is dropped, so that a cancelled wait counts too.
struct Waiting<'a> {
    idle: &'a mut Duration,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.idle = self.idle.saturating_add(self.since.elapsed());
    }
}

/// Waits for the next frame; `None` when `limit` of idle time is used up.
async fn wait(
    answer: &mut Answer,
    idle: &mut Duration,
    limit: Duration,
) -> Option<Result<Option<Bytes>, TransportError>> {
    let left = limit.saturating_sub(*idle);
    let _waiting = Waiting { idle, since: Instant::now() };
    tokio::time::timeout(left, answer.next_chunk()).await.ok()
}

#[cfg(test)]
mod tests {
    use super::super::bandwidth::SharedBucket;
    use super::*;
    use crate::domain::bandwidth::{Bandwidth, SLICE_BYTES};
    use crate::fetch::store::tests::answer_of;
    use crate::transport::TransportErrorKind;
    use crate::transport::testing::{Answer, RawServer};

    const PATIENCE: Patience =
        Patience { stall_timeout: Duration::from_secs(20), min_rate_bytes_per_second: 0 };
    const CLOSE_DELIMITED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";

    fn whole(total_bytes: Option<u64>) -> BodyFacts {
        BodyFacts {
            opening: Opening::Whole { total_bytes },
            promised: Vec::new(),
            etag: None,
            host: "store".to_owned(),
            position: 0,
            size_declared: total_bytes.is_some(),
        }
    }

    async fn open(server: &RawServer, facts: BodyFacts, patience: Patience) -> Body {
        Body::new(facts, answer_of(&server.url("/s3cr3t?sig=s3cr3t")).await, patience, None)
    }

    async fn drain(body: &mut Body) -> Result<Vec<u8>, BodyError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next_chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn fetch(answer: Answer, facts: BodyFacts) -> Result<Vec<u8>, BodyError> {
        let server = RawServer::start([answer]).await;
        let mut body = open(&server, facts, PATIENCE).await;
        let outcome = drain(&mut body).await;
        assert_eq!(drain(&mut body).await, outcome.clone().map(|_| Vec::new()), "an end stays");
        let text = format!("{body:?} {outcome:?}");
        assert!(!text.contains("s3cr3t"), "{text}");
        outcome
    }

    fn unframed(body: &str) -> Answer {
        Answer::raw(format!("{CLOSE_DELIMITED}{body}"))
    }

    #[tokio::test]
    async fn a_body_is_complete_only_at_its_expected_length() {
        for answer in [Answer::ok(b"12345"), Answer::chunked(&[b"123", b"45"]), unframed("12345")] {
            assert_eq!(fetch(answer.clone(), whole(Some(5))).await.unwrap(), b"12345");
            let longer = fetch(answer.clone(), whole(Some(4))).await.unwrap_err();
            assert_eq!(longer, BodyError::TooLong { total_bytes: 4 });
            let shorter = fetch(answer, whole(Some(6))).await.unwrap_err();
            assert_eq!(shorter, BodyError::EndedEarly { bytes: 5, total_bytes: 6 });
        }
        assert_eq!(fetch(Answer::ok(b""), whole(Some(0))).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_resumed_body_counts_from_where_it_begins() {
        let range = |total_bytes| BodyFacts {
            opening: Opening::Append { total_bytes },
            position: 10,
            ..whole(Some(total_bytes))
        };
        assert_eq!(fetch(Answer::ok(b"12345"), range(15)).await.unwrap(), b"12345");
        let longer = fetch(Answer::ok(b"12345"), range(14)).await.unwrap_err();
        assert_eq!(longer, BodyError::TooLong { total_bytes: 14 });
        let shorter = fetch(Answer::ok(b"12345"), range(16)).await.unwrap_err();
        assert_eq!(shorter, BodyError::EndedEarly { bytes: 15, total_bytes: 16 });
    }

    #[tokio::test]
    async fn a_cut_in_the_framing_is_seen() {
        for raw in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{half",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{half\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{half\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{half\r\n",
        ] {
            let Err(BodyError::Transport(error)) = fetch(Answer::raw(raw), whole(None)).await
            else {
                panic!("{raw}");
            };
            assert_eq!(error.kind(), TransportErrorKind::Cut, "{raw}");
        }
    }

    #[tokio::test]
    async fn without_a_declared_size_the_first_byte_is_that_of_json() {
        for good in ["{\"a\":1}", "[]"] {
            let body = fetch(Answer::chunked(&[good.as_bytes()]), whole(None)).await;
            assert_eq!(body.unwrap(), good.as_bytes());
        }
        for bad in ["<Error/>", "", " {}", "\"a\""] {
            let body = fetch(Answer::ok(bad.as_bytes()), whole(None)).await;
            assert_eq!(body, Err(BodyError::NotJson), "{bad}");
        }
        let declared = fetch(Answer::ok(b"<"), whole(Some(1))).await;
        assert_eq!(declared.unwrap(), b"<", "a declared size is enough");
    }

    #[tokio::test]
    async fn a_stall_is_measured_over_cancelled_waits() {
        let stall_timeout = Duration::from_millis(300);
        let server = RawServer::start([unframed("{").and_stays()]).await;
        let mut body = open(&server, whole(None), Patience { stall_timeout, ..PATIENCE }).await;
        assert_eq!(body.next_chunk().await.unwrap().unwrap(), "{");
        let mut cancelled = 0;
        let error = loop {
            match tokio::time::timeout(Duration::from_millis(5), body.next_chunk()).await {
                Ok(outcome) => break outcome.unwrap_err(),
                Err(_) => cancelled += 1,
            }
            assert!(cancelled < 1_000, "the cancelled waits do not add up");
        };
        assert_eq!(error, BodyError::Stalled { after: stall_timeout });
        assert!(cancelled > 0);
    }

    #[tokio::test]
    async fn time_spent_elsewhere_is_no_stall_and_no_byte_is_lost() {
        let stall_timeout = Duration::from_millis(500);
        let server = RawServer::start([unframed("{").then("}").then("\n")]).await;
        let mut body = open(&server, whole(None), Patience { stall_timeout, ..PATIENCE }).await;
        assert_eq!(body.next_chunk().await.unwrap().unwrap(), "{");
        server.release();
        tokio::time::sleep(stall_timeout * 2).await;
        assert_eq!(body.next_chunk().await.unwrap().unwrap(), "}");
        assert!(tokio::time::timeout(Duration::from_millis(5), body.next_chunk()).await.is_err());
        server.release();
        assert_eq!(body.next_chunk().await.unwrap().unwrap(), "\n");
        assert_eq!(body.next_chunk().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_dripping_body_is_given_up() {
        let server = RawServer::start([unframed("{").then("}")]).await;
        let patience = Patience { min_rate_bytes_per_second: 1024, ..PATIENCE };
        let mut body = open(&server, whole(None), patience).await;
        body.next_chunk().await.unwrap();
        body.idle = Duration::from_mins(1);
        body.stall_timeout = Duration::from_mins(2);
        server.release();
        assert_eq!(body.next_chunk().await.unwrap_err(), BodyError::TooSlow { bytes: 2 });
    }

    /// A body whose bucket caps it to this rate, together with every other body of the bucket.
    async fn open_capped(
        server: &RawServer,
        facts: BodyFacts,
        patience: Patience,
        bucket: &SharedBucket,
    ) -> Body {
        let mut body = open(server, facts, patience).await;
        body.debt = Some(Debt::new(bucket.clone()));
        body
    }

    fn capped(bytes_per_second: u64) -> SharedBucket {
        SharedBucket::new(Bandwidth::try_new(bytes_per_second).unwrap())
    }

    #[tokio::test]
    async fn bodies_under_a_cap_take_as_long_as_their_sum_does() {
        const RATE: u64 = 1_000_000;
        const BURST_BYTES: u64 = RATE / 10;
        let content = vec![b'x'; 250_000];
        let small: Vec<_> = content.chunks(1_000).collect();
        let server = RawServer::start([Answer::ok(&content), Answer::chunked(&small)]).await;
        let bucket = capped(RATE);
        let mut one = open_capped(&server, whole(Some(250_000)), PATIENCE, &bucket).await;
        let mut two = open_capped(&server, whole(Some(250_000)), PATIENCE, &bucket).await;
        let since = Instant::now();
        let end = async |body: &mut Body| {
            assert_eq!(drain(body).await.unwrap().len(), content.len());
            since.elapsed()
        };
        let (one, two) = tokio::join!(end(&mut one), end(&mut two));
        let (first, last) = (one.min(two), one.max(two));
        let time_of = |bytes: u64| Duration::from_millis((bytes - BURST_BYTES) * 1000 / RATE);
        assert!(last >= time_of(2 * 250_000), "{last:?}");
        assert!(last < Duration::from_secs(4), "the cap is made use of: {last:?}");
        // When the first is whole, the other lacks only the burst and a few turns.
        let ahead = BURST_BYTES + 4 * SLICE_BYTES;
        assert!(first >= time_of(2 * 250_000 - ahead), "{first:?} of {last:?}");
    }

    #[tokio::test]
    async fn paying_is_neither_a_stall_nor_slow_and_loses_no_byte() {
        let patience = Patience {
            stall_timeout: Duration::from_millis(500),
            min_rate_bytes_per_second: u64::MAX,
        };
        let server = RawServer::start([unframed("{").then("}")]).await;
        let mut body = open_capped(&server, whole(Some(2)), patience, &capped(100_000)).await;
        assert_eq!(body.next_chunk().await.unwrap().unwrap(), "{");
        server.release();
        // As after a chunk of this size: about a second to pay for what exceeds the burst.
        body.debt.as_mut().unwrap().add(120_000);
        // Were that second waiting for bytes, a minute of it would be full.
        body.floor.note(Duration::from_millis(59_500), 0).unwrap();
        let since = Instant::now();
        let mut cancelled = 0;
        let chunk = loop {
            match tokio::time::timeout(Duration::from_millis(40), body.next_chunk()).await {
                Ok(outcome) => break outcome.unwrap().unwrap(),
                Err(_) => cancelled += 1,
            }
        };
        assert_eq!(chunk, "}");
        let least = Duration::from_millis((120_000 - 2 * SLICE_BYTES) * 1000 / 100_000);
        let took = since.elapsed();
        assert!(cancelled > 0 && took >= least, "{cancelled} times, {took:?}");
        assert_eq!(body.next_chunk().await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_end_waits_until_all_is_paid_for_and_an_error_does_not() {
        for (facts, is_whole) in [(whole(Some(2)), true), (whole(Some(3)), false)] {
            let server = RawServer::start([Answer::ok(b"{}")]).await;
            let mut body = open_capped(&server, facts, PATIENCE, &capped(100_000)).await;
            assert_eq!(body.next_chunk().await.unwrap().unwrap(), "{}");
            // A slice goes with the burst; half a one is left.
            body.debt.as_mut().unwrap().add(SLICE_BYTES + SLICE_BYTES / 2);
            let since = Instant::now();
            let outcome = body.next_chunk().await;
            assert_eq!(outcome == Ok(None), is_whole, "{outcome:?}");
            let took = since.elapsed();
            assert_eq!(body.debt.as_ref().unwrap().owed_bytes() == 0, is_whole);
            let least = Duration::from_millis(SLICE_BYTES / 2 * 1000 / 100_000);
            assert!(!is_whole || took >= least, "{took:?}");
        }
    }
}
