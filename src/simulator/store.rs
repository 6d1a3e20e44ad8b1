//! The object store's side of a conversation: signed links, ranges, validators and checksums.

use hyper::HeaderMap;
use hyper::http::request::Parts;

use super::canned::Canned;
use super::record::{Origin, parameter};
use super::reply::{BodyPlan, Reply};
use super::steps::{Serving, StoreStep};
use super::stored::StoredFile;
use super::world::World;

/// A signed link needs none of them, and a client that sends one has leaked it.
const REFUSED_HEADERS: [&str; 4] = ["authorization", "x-batch-project", "cookie", "referer"];

pub(super) async fn answer(world: &World, head: &Parts) -> Reply {
    if let Some(name) = REFUSED_HEADERS.iter().find(|name| head.headers.contains_key(**name)) {
        let message = format!("A signed link takes no {name} header.");
        return Canned::store_error(400, "InvalidArgument", &message).into();
    }
    if let Some(outage) = world.outage(Origin::Store) {
        return outage.into();
    }
    if head.method != hyper::Method::GET {
        return Canned::store_error(405, "MethodNotAllowed", "Only GET is allowed.").into();
    }
    let Some(file_id) = head.uri.path().strip_prefix("/blob/") else {
        return Canned::store_error(404, "NoSuchKey", "The key does not exist.").into();
    };
    let signature = parameter(head.uri.query(), "signature").unwrap_or_default();
    if !world.honours(file_id, &signature) {
        return expired();
    }
    match world.next_fetch(file_id) {
        None => Canned::store_error(404, "NoSuchKey", "The key does not exist.").into(),
        Some((_, StoreStep::ExpiredLink)) => expired(),
        Some((_, StoreStep::Answer(canned))) => canned.into(),
        Some((stored, StoreStep::Serve(serving))) => {
            if serving.held {
                world.wait_for_release(file_id).await;
            }
            serve(&stored, &serving, &head.headers)
        }
    }
}

fn expired() -> Reply {
    Canned::store_error(403, "AccessDenied", "Request has expired").into()
}

/// The file, or the range of it that the headers ask for.
pub(super) fn serve(stored: &StoredFile, serving: &Serving, request: &HeaderMap) -> Reply {
    let (content, etag) = match &serving.other_content {
        Some(other) => (other, Some(other.etag())),
        None => (&stored.file.content, stored.etag.clone()),
    };
    let total = content.len_bytes();
    let is_heeded = !serving.ignores_range
        && (serving.ignores_if_range || is_unchanged(request, etag.as_deref()));
    let range = request.get("range").filter(|_| is_heeded).and_then(|range| range.to_str().ok());
    let range = range.and_then(|range| Asked::parse(range, total)).unwrap_or(Asked::Whole);
    let mut headers = vec![("accept-ranges".to_owned(), "bytes".to_owned())];
    let mut header = |name: &str, value: String| headers.push((name.to_owned(), value));
    let (status, mut reader) = match range {
        Asked::Whole => (200, content.read(0, total)),
        Asked::Part { first, last } => {
            header("content-range", format!("bytes {first}-{last}/{total}"));
            (206, content.read(first, last + 1))
        }
        Asked::Beyond => {
            let refusal = Canned::store_error(416, "InvalidRange", "The range is not satisfiable");
            return refusal.with_header("content-range", &format!("bytes */{total}")).into();
        }
    };
    header("content-type", stored.file.content_type.clone());
    if let Some(etag) = etag {
        header("etag", etag);
    }
    if serving.other_content.is_none() {
        let fits = |whole_only: &bool| status == 200 || !whole_only;
        let fitting = stored.checksums.iter().filter(|(.., whole_only)| fits(whole_only));
        headers.extend(fitting.map(|(name, value, _)| (name.clone(), value.clone())));
    }
    for (name, value) in &serving.headers {
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.to_ascii_lowercase(), value.clone()));
    }
    let length = reader.remaining_bytes();
    let mut cut = serving.claimed_length.is_some_and(|claimed| claimed > length);
    if let Some(place) = serving.cut_after {
        reader.cut_after(place.in_body(length));
        cut = true;
    }
    let body = BodyPlan {
        reader,
        whole_bytes: length,
        length: (!serving.chunked).then_some(serving.claimed_length.unwrap_or(length)),
        cut,
        stall: serving.stall_after.map(|place| (place.in_body(length), stored.file.id.clone())),
        bytes_per_second: serving.bytes_per_second.or(stored.file.bytes_per_second),
    };
    Reply { status, headers, body }
}

/// Whether `If-Range`, if there is one, matches the file.
fn is_unchanged(request: &HeaderMap, etag: Option<&str>) -> bool {
    let validator = request.get("if-range").map(|value| value.to_str().unwrap_or_default());
    validator.is_none_or(|validator| Some(validator) == etag && !validator.starts_with("W/"))
}

/// What of a file a request asks for (RFC 9110 sections 13.1.5 and 14.2).
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// All of it, or something that a server may answer with all of it.
    Whole,
    /// From the first to the last byte, both included.
    Part { first: u64, last: u64 },
    /// A range that begins behind the end.
    Beyond,
}

impl Asked {
    /// One range; several at once are answered with the whole, as a server may.
    fn parse(range: &str, total: u64) -> Option<Self> {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let (first, last) = match (first, last) {
            ("", suffix) => (total.saturating_sub(suffix.parse().ok()?), total.checked_sub(1)?),
            (first, "") => (first.parse().ok()?, u64::MAX),
            (first, last) => (first.parse().ok()?, last.parse().ok()?),
        };
        let last = last.min(total.saturating_sub(1));
        match first {
            first if first >= total => Some(Self::Beyond),
            first => (first <= last).then_some(Self::Part { first, last }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        for (range, expected) in [
            ("bytes=0-", Some(Asked::Part { first: 0, last: 99 })),
            ("bytes=40-", Some(Asked::Part { first: 40, last: 99 })),
            ("bytes=40-49", Some(Asked::Part { first: 40, last: 49 })),
            ("bytes=40-4900", Some(Asked::Part { first: 40, last: 99 })),
            ("bytes=-10", Some(Asked::Part { first: 90, last: 99 })),
            ("bytes=-1000", Some(Asked::Part { first: 0, last: 99 })),
            ("bytes=100-", Some(Asked::Beyond)),
            ("bytes=50-40", None),
            ("bytes=0-1,5-6", None),
            ("lines=0-1", None),
            ("bytes=x-", None),
        ] {
            assert_eq!(Asked::parse(range, 100), expected, "{range}");
        }
        assert_eq!(Asked::parse("bytes=0-", 0), Some(Asked::Beyond));
    }
}
