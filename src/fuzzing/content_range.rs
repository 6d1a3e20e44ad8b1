//! Fuzzed: the head of a store's answer to a range. A wrong verdict would mix two files.

use super::number;
use crate::domain::part::Sha256;
use crate::domain::resume::{
    CHARSETS, NO_CODINGS, Plan, ResponseHead, ResumePoint, StrongEtag, Verdict, judge_response,
    plan_resume,
};

/// A line each for the declared length, the bytes that are there, the length they promise, their
/// validator, the status, `Content-Length`, whether there is framing, `Content-Range`, `ETag`,
/// `Content-Encoding` and `Content-Type`. An empty line is an absent header.
pub fn content_range(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let declared = number::<u64>(lines.next());
    let bytes = number::<u64>(lines.next());
    let total_bytes = number::<u64>(lines.next());
    let etag = lines.next().and_then(StrongEtag::parse);
    let status = number(lines.next()).unwrap_or(206);
    let content_length = number(lines.next());
    let framed = lines.next() != Some("");
    let mut header = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
    let head = ResponseHead {
        status,
        content_length,
        framed,
        content_range: header(),
        etag: header(),
        content_encoding: header(),
        content_type: header(),
        checksummed: false,
    };
    let point = bytes.zip(total_bytes).zip(etag).map(|((bytes, total_bytes), etag)| ResumePoint {
        bytes,
        sha256: Sha256::new([0; 32]),
        total_bytes,
        etag,
        promised: Vec::new(),
    });
    let plan = plan_resume(point, declared);
    if let Plan::Continue(point) = &plan {
        assert!(0 < point.bytes && point.bytes < point.total_bytes, "{point:?}");
        let is_declared = declared.is_none_or(|declared| declared == point.total_bytes);
        assert!(is_declared, "{point:?} {declared:?}");
    }
    let fits = fits_exactly(&plan, declared, &head);
    match judge_response(&plan, declared, &head) {
        Verdict::Append { total_bytes } => {
            assert!(fits, "appended to {plan:?} by {head:?}");
            let Plan::Continue(point) = &plan else {
                panic!("appended although no range was asked for")
            };
            assert_eq!(total_bytes, point.total_bytes);
        }
        verdict => {
            assert!(!fits, "{verdict:?} for {plan:?} and {head:?}");
            if let Verdict::Whole { total_bytes } = verdict {
                let ranged = head.status == 206 && plan == Plan::FromStart;
                assert!(head.status == 200 || ranged, "{head:?}");
                assert!(is_identity(declared, &head), "a file in a coding: {head:?}");
                let is_declared = declared.is_none() || total_bytes == declared;
                assert!(is_declared, "{total_bytes:?} {declared:?}");
                let is_framed = framed || ranged && total_bytes.is_some();
                assert!(declared.is_some() || is_framed, "an end that cannot be told from a cut");
                let told = declared.zip(content_length);
                assert!(told.is_none_or(|(declared, length)| declared == length), "{told:?}");
            }
        }
    }
}

/// The rule for appending, from the other side: builds the one header that fits, and compares.
fn fits_exactly(plan: &Plan, declared: Option<u64>, head: &ResponseHead) -> bool {
    let Plan::Continue(point) = plan else { return false };
    let expected = format!("{}-{}/{}", point.bytes, point.total_bytes - 1, point.total_bytes);
    let range = head.content_range.as_deref().map(str::trim).and_then(|value| {
        let (unit, range) = value.split_at_checked("bytes ".len())?;
        unit.eq_ignore_ascii_case("bytes ").then_some(range)
    });
    let etag = head.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
    head.status == 206
        && range.and_then(without_leading_zeros) == Some(expected)
        && etag == Some(point.etag.as_str())
        && head.content_length.is_none_or(|length| length == point.total_bytes - point.bytes)
        && is_identity(declared, head)
}

/// `007-9/010` is `7-9/10`: RFC 9110 has numbers as digits, however many. Blanks are accepted.
fn without_leading_zeros(range: &str) -> Option<String> {
    let (range, total) = range.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let short = |digits: &str| match digits.trim_start_matches('0') {
        "" if !digits.is_empty() => "0".to_owned(),
        short => short.to_owned(),
    };
    Some(format!("{}-{}/{}", short(first), short(last), short(total.trim())))
}

/// A declared size lets a few tokens pass that code nothing.
fn is_identity(declared: Option<u64>, head: &ResponseHead) -> bool {
    let codings = head.content_encoding.as_deref().unwrap_or_default().to_ascii_lowercase();
    let identity = |coding: &str| matches!(coding, "" | "identity");
    let codes_nothing = |coding: &str| {
        coding.contains('/')
            || NO_CODINGS.contains(&coding)
            || CHARSETS.iter().any(|charset| coding.starts_with(charset))
    };
    codings
        .split(',')
        .map(str::trim)
        .all(|coding| identity(coding) || declared.is_some() && codes_nothing(coding))
}
