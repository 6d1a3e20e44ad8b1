//! The checks before a request reaches its route, and the headers of every answer.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST,
    REFERRER_POLICY, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;

use super::hosts::Hosts;
use super::plain;

/// Longest wait for an answer's head. The scheduler may take four seconds of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The page loads only what this server has, and connects to nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (X_FRAME_OPTIONS, "DENY"),
];

pub(super) fn guarded(routes: Router, hosts: Hosts) -> Router {
    routes.layer(from_fn_with_state(hosts, admit)).layer(from_fn(finish))
}

async fn admit(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if let Some(refusal) = refusal(&hosts, &request) {
        return refusal;
    }
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| plain(StatusCode::GATEWAY_TIMEOUT, "the answer took too long\n"))
}

fn refusal(hosts: &Hosts, request: &Request) -> Option<Response> {
    if !is_for_us(hosts, request) {
        let words = "this host name is not allowed here; server.allowed_hosts can add it\n";
        return Some(plain(StatusCode::MISDIRECTED_REQUEST, words));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this server is read-only\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(closing(answer));
    }
    if has_body(request.headers()) {
        let words = "no request here may have a body\n";
        return Some(closing(plain(StatusCode::PAYLOAD_TOO_LARGE, words)));
    }
    None
}

/// Whether the one `Host` header, and the host in the target if there is one, are ours.
fn is_for_us(hosts: &Hosts, request: &Request) -> bool {
    let mut named = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return false };
    let target = request.uri().authority();
    host.to_str().is_ok_and(|host| hosts.admit(host))
        && target.is_none_or(|target| hosts.admit(target.as_str()))
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// The rest of the request is not read.
fn closing(mut answer: Response) -> Response {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

async fn finish(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
