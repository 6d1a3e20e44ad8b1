//! Whether a partial file may be continued, and what a store's answer means for it. Pure.
//!
//! Rules: RFC 9110 sections 8.8 (validators), 13.1.5 (If-Range), 14.2 to 14.4 (ranges). Bytes are
//! appended only on a 206 that starts at the end of the partial, with equal total and validator.

use super::checksum::PromisedChecksum;
use super::part::{PartKey, Sha256};

/// A strong entity tag, quotes included; what `If-Range` may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrongEtag(String);

impl StrongEtag {
    /// Reads an `ETag` value; a weak or malformed one is of no use for ranges.
    pub fn parse(value: &str) -> Option<Self> {
        let inner = value.strip_prefix('"')?.strip_suffix('"')?;
        let valid = !inner.is_empty()
            && inner.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte));
        (valid && value.len() <= 512).then(|| Self(value.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The most of a part that a power cut costs with a validator. Each checkpoint costs a sync.
pub const CHECKPOINT_BYTES: u64 = 16 << 20;

/// Whether a part, of known length, is too small for checkpoints: it is downloaded again instead.
pub fn is_small(declared_bytes: Option<u64>) -> bool {
    declared_bytes.is_some_and(|declared| declared < CHECKPOINT_BYTES)
}

/// The first bytes of a file at the moment they are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub bytes: u64,
    pub sha256: Sha256,
}

/// Where a partial file can be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// Bytes at the start of the partial that were made durable.
    pub bytes: u64,
    /// Only this makes the bytes trustworthy: the partial may be newer than the record.
    pub sha256: Sha256,
    /// Length of the whole file, according to the answer that the bytes came from.
    pub total_bytes: u64,
    pub etag: StrongEtag,
    /// What that answer promised about the whole file. The answers to ranges may not repeat it.
    pub promised: Vec<PromisedChecksum>,
}

/// A resume point and the part it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumablePart {
    pub key: PartKey,
    pub point: ResumePoint,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    FromStart,
    /// `Range: bytes=N-` with `If-Range`.
    Continue(ResumePoint),
}

impl Plan {
    /// Every checksum that the whole file has to have, if the answer to this plan promised these.
    /// One that was promised twice, with two values, can be kept by no file.
    pub fn promised(&self, by_answer: Vec<PromisedChecksum>) -> Vec<PromisedChecksum> {
        let mut all = by_answer;
        if let Self::Continue(point) = self {
            all.extend(point.promised.iter().cloned());
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Continues if some bytes are there, some are missing, and the length is still what the API says.
pub fn plan_resume(point: Option<ResumePoint>, declared_bytes: Option<u64>) -> Plan {
    match point {
        Some(point)
            if point.bytes > 0
                && point.bytes < point.total_bytes
                && declared_bytes.is_none_or(|declared| declared == point.total_bytes) =>
        {
            Plan::Continue(point)
        }
        _ => Plan::FromStart,
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    pub content_length: Option<u64>,
    /// Whether the framing shows a cut: Content-Length, chunks, or HTTP/2.
    pub framed: bool,
    pub content_range: Option<String>,
    pub etag: Option<String>,
    pub content_encoding: Option<String>,
    pub content_type: Option<String>,
    /// Whether a checksum of the whole file came with it.
    pub checksummed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The body is the whole file, with its length if that is known.
    Whole { total_bytes: Option<u64> },
    /// The body is exactly what the partial lacks.
    Append { total_bytes: u64 },
    /// The partial cannot be continued; drop it and ask for the whole file.
    StartOver { reason: &'static str },
    /// 400, 401, 403 or 410: this link does not work, a fresh one may.
    LinkRefused,
    /// 404.
    Gone,
    /// 429 or 503.
    Busy,
    /// Any other answer, in words that are safe to show. It may contradict the listing.
    Refused { reason: String, listing_in_doubt: bool },
}

/// Judges the head of a store's answer to `plan`; redirects were followed before.
#[must_use]
pub fn judge_response(plan: &Plan, declared_bytes: Option<u64>, head: &ResponseHead) -> Verdict {
    match head.status {
        200 => judge_whole(declared_bytes, head),
        206 => match plan {
            Plan::FromStart => judge_unasked_range(declared_bytes, head),
            Plan::Continue(point) => judge_range(point, declared_bytes, head),
        },
        416 => match plan {
            Plan::FromStart => refused("answered 416 although no range was asked for"),
            Plan::Continue(_) => Verdict::StartOver { reason: "the store refuses the range" },
        },
        400 | 401 | 403 | 410 => Verdict::LinkRefused,
        404 => Verdict::Gone,
        429 | 503 => Verdict::Busy,
        status => refused(format!("answered {status}")),
    }
}

fn refused(reason: impl Into<String>) -> Verdict {
    Verdict::Refused { reason: reason.into(), listing_in_doubt: false }
}

/// A 206 that nobody asked for: good if its range is the whole file.
fn judge_unasked_range(declared_bytes: Option<u64>, head: &ResponseHead) -> Verdict {
    let total_bytes = match head.content_range.as_deref().and_then(parse_content_range) {
        Some((0, last, Some(total))) if last.checked_add(1) == Some(total) => total,
        _ => return refused("answered 206 although no range was asked for"),
    };
    if head.content_length.is_some_and(|length| length != total_bytes) {
        return refused("the range has the wrong length");
    }
    let content_length = Some(total_bytes);
    judge_whole(declared_bytes, &ResponseHead { content_length, framed: true, ..head.clone() })
}

fn judge_whole(declared_bytes: Option<u64>, head: &ResponseHead) -> Verdict {
    if let Some(refusal) = judge_encoding(declared_bytes, head) {
        return refusal;
    }
    match (declared_bytes, head.content_length) {
        (Some(declared), Some(length)) if declared != length => Verdict::Refused {
            reason: format!("the store offers {length} bytes, but the API declared {declared}"),
            listing_in_doubt: true,
        },
        (Some(declared), _) => Verdict::Whole { total_bytes: Some(declared) },
        (None, length) if head.framed => match markup(head.content_type.as_deref()) {
            true => refused("an HTML or XML page instead of the file"),
            false => Verdict::Whole { total_bytes: length },
        },
        (None, _) => refused(
            "the API declared no size and the body has no framing: a cut would look like its end",
        ),
    }
}

fn judge_range(point: &ResumePoint, declared_bytes: Option<u64>, head: &ResponseHead) -> Verdict {
    if let Some(refusal) = judge_encoding(declared_bytes, head) {
        return refusal;
    }
    let range = head.content_range.as_deref().and_then(parse_content_range);
    let total_bytes = point.total_bytes;
    let reason = match range {
        None => "the 206 has no valid Content-Range",
        Some((_, last, total))
            if total != Some(total_bytes) || last.checked_add(1) != Some(total_bytes) =>
        {
            "the file's length has changed"
        }
        Some((first, ..)) if first != point.bytes => "the range starts at the wrong byte",
        _ if head.content_length.is_some_and(|length| length != total_bytes - point.bytes) => {
            "the range has the wrong length"
        }
        _ if head.etag.as_deref().and_then(StrongEtag::parse).as_ref() != Some(&point.etag) => {
            "the file has changed"
        }
        _ => return Verdict::Append { total_bytes },
    };
    Verdict::StartOver { reason }
}

/// Tokens that uploaders put into `Content-Encoding` by mistake, and that code nothing. Clients of
/// S3 leave `aws-chunked` there, which the store took off when it received the object.
pub(crate) const NO_CODINGS: [&str; 14] = [
    "none",
    "null",
    "raw",
    "plain",
    "text",
    "json",
    "binary",
    "7bit",
    "8bit",
    "aws-chunked",
    "unicode",
    "ascii",
    "us-ascii",
    "latin1",
];
/// How the names of character sets begin; none of them is a coding.
pub(crate) const CHARSETS: [&str; 7] =
    ["utf-", "utf8", "utf16", "utf_8", "iso-8859-", "windows-125", "charset="];

/// Whether the bytes are what the header says counts only if the size or a checksum proves it.
fn judge_encoding(declared_bytes: Option<u64>, head: &ResponseHead) -> Option<Verdict> {
    let codings = head.content_encoding.as_deref().unwrap_or_default().split(',');
    let codings = codings.map(|coding| coding.trim().to_ascii_lowercase());
    let mut named = codings.filter(|coding| !matches!(coding.as_str(), "" | "identity")).peekable();
    named.peek()?;
    if !named.all(|coding| codes_nothing(&coding)) {
        return Some(refused("the body has a Content-Encoding that was not requested"));
    }
    let proven = declared_bytes.is_some() || head.checksummed;
    (!proven).then(|| {
        refused(
            "the body has a Content-Encoding, and neither a size nor a checksum proves its bytes",
        )
    })
}

fn codes_nothing(coding: &str) -> bool {
    let is_media_type = coding.contains('/');
    is_media_type
        || NO_CODINGS.contains(&coding)
        || CHARSETS.iter().any(|charset| coding.starts_with(charset))
}

fn markup(content_type: Option<&str>) -> bool {
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or("");
    let essence = essence.trim().to_ascii_lowercase();
    matches!(essence.as_str(), "text/html" | "text/xml" | "application/xml")
        || essence.ends_with("+xml")
}

/// `bytes first-last/total` or `bytes first-last/*`. The unit is case-insensitive.
fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (unit, range) = value.trim().split_once(' ')?;
    let (range, total) = range.split_once('/')?;
    unit.eq_ignore_ascii_case("bytes").then_some(())?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let total = match total.trim() {
        "*" => None,
        digits => Some(number(digits)?),
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point() -> ResumePoint {
        let etag = StrongEtag::parse("\"v1\"").unwrap();
        let sha256 = Sha256::new([0; 32]);
        ResumePoint { bytes: 40, sha256, total_bytes: 100, etag, promised: Vec::new() }
    }

    fn partial_answer() -> ResponseHead {
        ResponseHead {
            status: 206,
            content_length: Some(60),
            framed: true,
            content_range: Some("bytes 40-99/100".to_owned()),
            etag: Some("\"v1\"".to_owned()),
            ..ResponseHead::default()
        }
    }

    fn whole_answer(bytes: u64) -> ResponseHead {
        let content_length = Some(bytes);
        ResponseHead { status: 200, content_length, framed: true, ..ResponseHead::default() }
    }

    #[test]
    fn only_strong_etags_are_validators() {
        assert!(StrongEtag::parse("\"abc\"").is_some());
        for bad in ["W/\"abc\"", "abc", "\"\"", "\"a\"b\"", "\"a\nb\"", ""] {
            assert!(StrongEtag::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_partial_is_continued_only_if_its_bytes_can_be_right() {
        assert_eq!(plan_resume(Some(point()), Some(100)), Plan::Continue(point()));
        assert_eq!(plan_resume(Some(point()), None), Plan::Continue(point()));
        assert_eq!(plan_resume(Some(point()), Some(99)), Plan::FromStart);
        for bytes in [0, 100] {
            let point = ResumePoint { bytes, ..point() };
            assert_eq!(plan_resume(Some(point), Some(100)), Plan::FromStart, "{bytes}");
        }
        assert_eq!(plan_resume(None, Some(100)), Plan::FromStart);
    }

    #[test]
    fn a_range_is_appended_only_when_everything_fits() {
        let plan = Plan::Continue(point());
        let judge = |head: &ResponseHead| judge_response(&plan, Some(100), head);
        assert_eq!(judge(&partial_answer()), Verdict::Append { total_bytes: 100 });
        let unframed = ResponseHead { content_length: None, ..partial_answer() };
        assert_eq!(judge(&unframed), Verdict::Append { total_bytes: 100 });
        for head in [
            ResponseHead { content_range: None, ..partial_answer() },
            ResponseHead { content_range: Some("bytes 0-99/100".into()), ..partial_answer() },
            ResponseHead { content_range: Some("bytes 41-99/100".into()), ..partial_answer() },
            ResponseHead { content_range: Some("bytes 40-98/100".into()), ..partial_answer() },
            ResponseHead { content_range: Some("bytes 40-99/101".into()), ..partial_answer() },
            ResponseHead { content_range: Some("bytes 40-99/*".into()), ..partial_answer() },
            ResponseHead { content_range: Some("bytes +40-99/100".into()), ..partial_answer() },
            ResponseHead { content_length: Some(59), ..partial_answer() },
            ResponseHead { etag: None, ..partial_answer() },
            ResponseHead { etag: Some("W/\"v1\"".into()), ..partial_answer() },
            ResponseHead { etag: Some("\"v2\"".into()), ..partial_answer() },
            ResponseHead { status: 416, ..partial_answer() },
        ] {
            assert!(matches!(judge(&head), Verdict::StartOver { .. }), "{head:?}");
        }
        assert_eq!(judge(&whole_answer(100)), Verdict::Whole { total_bytes: Some(100) });
    }

    #[test]
    fn a_whole_answer_must_match_the_declared_size_and_be_framed() {
        let judge =
            |declared, head: ResponseHead| judge_response(&Plan::FromStart, declared, &head);
        let ok = whole_answer(5);
        let unframed = ResponseHead { status: 200, ..ResponseHead::default() };
        let chunked = ResponseHead { framed: true, ..unframed.clone() };
        assert_eq!(judge(Some(5), ok.clone()), Verdict::Whole { total_bytes: Some(5) });
        assert_eq!(judge(None, ok.clone()), Verdict::Whole { total_bytes: Some(5) });
        assert_eq!(judge(Some(5), unframed.clone()), Verdict::Whole { total_bytes: Some(5) });
        assert_eq!(judge(None, chunked.clone()), Verdict::Whole { total_bytes: None });
        let other_size = judge(Some(6), ok.clone());
        assert!(matches!(other_size, Verdict::Refused { listing_in_doubt: true, .. }));
        assert!(matches!(judge(None, unframed), Verdict::Refused { .. }));
        for content_type in ["text/html; charset=utf-8", "application/xml", "image/svg+xml"] {
            let page = ResponseHead { content_type: Some(content_type.into()), ..ok.clone() };
            assert!(matches!(judge(None, page), Verdict::Refused { .. }), "{content_type}");
        }
    }

    #[test]
    fn a_coding_that_codes_nothing_is_identity_if_the_bytes_are_proven() {
        let judge = |declared, coding: &str, checksummed| {
            let content_encoding = Some(coding.to_owned());
            let head = ResponseHead { content_encoding, checksummed, ..whole_answer(5) };
            matches!(judge_response(&Plan::FromStart, declared, &head), Verdict::Whole { .. })
        };
        for coding in
            ["UTF-8", "utf8", "None", "binary", "aws-chunked", "identity, UTF-8", "text/json"]
        {
            assert!(judge(Some(5), coding, false), "{coding}");
            assert!(judge(None, coding, true), "{coding}");
            assert!(!judge(None, coding, false), "{coding}");
        }
        for coding in ["identity", "", " IDENTITY ,identity"] {
            assert!(judge(None, coding, false), "{coding:?}");
        }
        for coding in ["gzip", "aws-chunked,gzip", "br", "zstd", "utf-8,br", "lz4", "base64"] {
            assert!(!judge(Some(5), coding, true), "{coding}");
        }
    }

    #[test]
    fn a_206_that_nobody_asked_for_is_good_if_it_is_the_whole_file() {
        let judge = |declared, range: &str, content_length| {
            let content_range = Some(range.to_owned());
            let head = ResponseHead { content_range, content_length, ..partial_answer() };
            judge_response(&Plan::FromStart, declared, &head)
        };
        let whole = Verdict::Whole { total_bytes: Some(100) };
        for declared in [None, Some(100)] {
            for length in [None, Some(100)] {
                assert_eq!(judge(declared, "bytes 0-99/100", length), whole);
                assert_eq!(judge(declared, "Bytes 0-99/100", length), whole);
            }
        }
        for (declared, range, length) in [
            (None, "bytes 0-99/*", None),
            (None, "bytes 0-98/100", Some(99)),
            (None, "bytes 1-99/100", Some(99)),
            (None, "bytes 0-99/100", Some(99)),
            (Some(99), "bytes 0-99/100", Some(100)),
            (None, "lines 0-99/100", Some(100)),
            (None, "bytes 0-18446744073709551615/100", None),
        ] {
            let verdict = judge(declared, range, length);
            assert!(matches!(verdict, Verdict::Refused { .. }), "{range} {length:?}: {verdict:?}");
        }
    }

    #[test]
    fn of_all_status_codes_exactly_these_have_a_meaning() {
        let mut meant = Vec::new();
        for status in 100..600 {
            let head = ResponseHead { status, framed: true, ..ResponseHead::default() };
            if !matches!(judge_response(&Plan::FromStart, None, &head), Verdict::Refused { .. }) {
                meant.push(status);
            }
        }
        assert_eq!(meant, [200, 400, 401, 403, 404, 410, 429, 503]);
    }

    proptest! {
        #[test]
        fn appending_never_leaves_a_hole_or_an_overlap(
            bytes in 0_u64..200, total in 0_u64..200, first in 0_u64..200, last in 0_u64..200, of in 0_u64..200,
            status in prop::sample::select(vec![200_u16, 206, 416]),
        ) {
            let point = ResumePoint { bytes, total_bytes: total, ..point() };
            let plan = plan_resume(Some(point.clone()), None);
            let head = ResponseHead {
                status,
                content_range: Some(format!("bytes {first}-{last}/{of}")),
                content_length: None,
                ..partial_answer()
            };
            if let Verdict::Append { total_bytes } = judge_response(&plan, None, &head) {
                prop_assert_eq!((status, first, last + 1, of), (206, bytes, total, total));
                prop_assert_eq!(total_bytes, total);
            }
        }

        #[test]
        fn no_content_range_text_panics(text in "\\PC{0,40}") {
            let _ = parse_content_range(&text);
        }
    }
}
