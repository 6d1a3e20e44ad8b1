//! The store client against a raw server.

use super::*;
use crate::domain::checksum::Algorithm;
use crate::domain::part::Sha256;
use crate::domain::resume::ResumePoint;
use crate::transport::testing::{Answer, RawServer, client, tls};
use crate::transport::{DirectAnswer, is_loopback_host, send};

/// The API that the links come from; nothing listens there.
const API: &str = "http://127.0.0.1:1/2.11";
const LINK: &str = "/s3cr3t-path?X-Sig=s3cr3t";

fn policy(api: &str) -> StorePolicy {
    StorePolicy {
        api_origin: api.parse().unwrap(),
        allowed_hosts: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        headers_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(5),
        min_rate_bytes_per_second: 0,
        bandwidth: None,
    }
}

pub(in crate::fetch) fn store(api: &str) -> StoreClient {
    StoreClient::new(&tls(), &policy(api))
}

#[tokio::test]
async fn a_cap_changes_when_its_client_takes_over_and_not_before() {
    let capped =
        |rate| StorePolicy { bandwidth: Some(Bandwidth::try_new(rate).unwrap()), ..policy(API) };
    let first = StoreClient::new(&tls(), &capped(100_000));
    let bucket = first.bucket.clone().unwrap();
    // Beyond what may come at once, so that each byte takes its time.
    bucket.reserve(1_000_000);
    let time_of_a_megabyte = || {
        let before = bucket.reserve(0);
        bucket.reserve(1_000_000) - before
    };
    let second = first.successor(&tls(), &capped(1_000_000));
    assert_eq!(time_of_a_megabyte().as_secs(), 10, "before it takes over it changes nothing");
    second.take_over();
    assert_eq!(time_of_a_megabyte().as_secs(), 1);
    let third = second.successor(&tls(), &policy(API));
    third.take_over();
    assert!(third.bucket.is_none());
    assert_eq!(time_of_a_megabyte().as_secs(), 0, "no cap is left for what is under way");
}

/// What a store answers to a plain request for a whole file.
pub(in crate::fetch) async fn answer_of(url: &str) -> super::Answer {
    store(API).get(&SecretUrl::new(url.parse().unwrap()), &Plan::FromStart).await.unwrap()
}

fn signed(url: &str) -> Link {
    Link::Signed(SignedLink { url: SecretUrl::new(url.parse().unwrap()), hops_left: MAX_HOPS - 1 })
}

async fn open_from(
    api: &str,
    url: &str,
    plan: &Plan,
    declared_bytes: Option<u64>,
) -> Result<Body, FetchRefusal> {
    let outcome = store(api).open(signed(url), plan, declared_bytes).await;
    let text = format!("{outcome:?}");
    assert!(!text.contains("s3cr3t") && !text.contains("X-Sig"), "{text}");
    outcome
}

async fn open(
    answer: Answer,
    plan: &Plan,
    declared_bytes: Option<u64>,
) -> Result<Body, FetchRefusal> {
    let server = RawServer::start([answer]).await;
    open_from(API, &server.url(LINK), plan, declared_bytes).await
}

fn cause(outcome: Result<Body, FetchRefusal>) -> String {
    match outcome {
        Err(FetchRefusal::Fault { cause }) => cause,
        other => panic!("{other:?}"),
    }
}

fn point() -> ResumePoint {
    let etag = StrongEtag::parse("\"v1\"").unwrap();
    let (sha256, promised) = (Sha256::new([0; 32]), Vec::new());
    ResumePoint { bytes: 2, sha256, total_bytes: 5, etag, promised }
}

#[tokio::test]
async fn a_redirected_body_is_fetched_without_credentials_cookies_or_referer() {
    let second = RawServer::start([Answer::with(200, "etag: \"v1\"\r\n", b"12345")]).await;
    let away = format!("set-cookie: a=b\r\nlocation: {}\r\n", second.url("/next?X-Sig=s3cr3t#top"));
    let answers = [Answer::redirect(302, "relative?X-Sig=s3cr3t"), Answer::with(307, &away, b"")];
    let first = RawServer::start(answers).await;
    let mut body = open_from(API, &first.url(LINK), &Plan::FromStart, Some(5)).await.unwrap();
    assert_eq!(body.facts.opening, Opening::Whole { total_bytes: Some(5) });
    assert_eq!(body.facts.etag, StrongEtag::parse("\"v1\""));
    assert_eq!(format!("http://{}", body.facts.host), second.url(""));
    assert_eq!(body.next_chunk().await.unwrap().unwrap(), "12345");
    assert_eq!(body.next_chunk().await.unwrap(), None);
    let heads = [first.heads(), second.heads()].concat();
    assert_eq!(heads.len(), 3);
    assert!(heads[1].starts_with("get /relative?x-sig=s3cr3t "), "{}", heads[1]);
    assert!(heads[2].starts_with("get /next?x-sig=s3cr3t "), "{}", heads[2]);
    for head in heads {
        let mut names: Vec<_> =
            head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "accept-encoding", "host", "user-agent"], "{head}");
        assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
    }
}

#[tokio::test]
async fn hops_are_counted_and_judged_anew() {
    let looping = RawServer::start((0..10).map(|_| Answer::redirect(307, "/again"))).await;
    let words = cause(open_from(API, &looping.url(LINK), &Plan::FromStart, None).await);
    assert!(words.contains("more than 5"), "{words}");
    let hops = looping.heads().len();
    assert_eq!(hops, usize::from(MAX_HOPS), "the API's own redirect was the first hop");
    for (location, expected) in [
        ("http://127.0.0.1:1/s3cr3t", "back to the API"),
        ("https://93.184.216.34/s3cr3t", "public address"),
        ("https://169.254.169.254/s3cr3t", "metadata address"),
        ("http://user:s3cr3t@127.0.0.1/", "user or password"),
        ("ftp://127.0.0.1/s3cr3t", "not https"),
    ] {
        let words = cause(open(Answer::redirect(307, location), &Plan::FromStart, None).await);
        assert!(words.contains(expected), "{location}: {words}");
    }
    let words = cause(open(Answer::with(307, "", b""), &Plan::FromStart, None).await);
    assert!(words.contains("without a Location"), "{words}");
}

#[tokio::test]
async fn a_name_that_leads_inward_is_refused_before_anything_is_sent() {
    let server = RawServer::start([Answer::ok(b"{}")]).await;
    let url = server.url(LINK).replace("http://127.0.0.1", "https://localhost");
    assert!(is_loopback_host(&url.parse().unwrap()));
    let words = cause(open_from("https://api.example/", &url, &Plan::FromStart, None).await);
    assert!(words.contains("loopback address") && words.contains("allowed_hosts"), "{words}");
    assert_eq!(server.heads().len(), 0);
}

#[tokio::test]
async fn each_refusal_is_classified_by_its_remedy() {
    let of = async |status: u16| {
        let answer = Answer::with(status, "retry-after: 7\r\n", b"<Error>s3cr3t</Error>");
        open(answer, &Plan::FromStart, None).await.unwrap_err()
    };
    for status in [400, 401, 403, 410] {
        let FetchRefusal::LinkRefused { cause } = of(status).await else { panic!("{status}") };
        assert!(cause.ends_with(&format!("answered {status}")), "{cause}");
    }
    assert!(matches!(of(404).await, FetchRefusal::Gone { .. }));
    for status in [429, 503] {
        let FetchRefusal::Busy { host, status: told, retry_after } = of(status).await else {
            panic!("{status}")
        };
        assert_eq!(told, status);
        assert!(host.starts_with("127.0.0.1:"), "{host}");
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }
    for status in [204, 206, 304, 416, 500, 502] {
        let FetchRefusal::Refused { listing_in_doubt: false, .. } = of(status).await else {
            panic!("{status}")
        };
    }
    let other_size = open(Answer::ok(b"12345"), &Plan::FromStart, Some(6)).await;
    assert!(matches!(other_size, Err(FetchRefusal::Refused { listing_in_doubt: true, .. })));
}

#[tokio::test]
async fn a_range_is_asked_with_its_validator_and_appended_only_when_it_fits() {
    let plan = Plan::Continue(point());
    let headers = "content-range: bytes 2-4/5\r\netag: \"v1\"\r\ncontent-md5: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
        x-goog-hash: crc32c=AAAAAA==\r\nx-goog-hash: md5=1B2M2Y8AsgTpgAmY7PhCfg==\r\n";
    let server = RawServer::start([Answer::with(206, headers, b"345")]).await;
    let mut body = open_from(API, &server.url(LINK), &plan, Some(5)).await.unwrap();
    assert!(server.heads()[0].contains("range: bytes=2-\r\n"), "{}", server.heads()[0]);
    assert!(server.heads()[0].contains("if-range: \"v1\"\r\n"), "{}", server.heads()[0]);
    assert_eq!(body.facts.opening, Opening::Append { total_bytes: 5 });
    let algorithms: Vec<_> =
        body.facts.promised.iter().map(|promised| promised.algorithm).collect();
    let of_whole = [Algorithm::Md5, Algorithm::Crc32c];
    assert_eq!(algorithms, of_whole, "every x-goog-hash, of the whole file");
    assert_eq!(body.next_chunk().await.unwrap().unwrap(), "345");
    assert_eq!(body.next_chunk().await.unwrap(), None);

    let whole = open(Answer::ok(b"12345"), &plan, Some(5)).await.unwrap();
    assert_eq!(whole.facts.opening, Opening::Whole { total_bytes: Some(5) });
    let moved = headers.replace("v1", "v2");
    let refusal = open(Answer::with(206, &moved, b"345"), &plan, Some(5)).await.unwrap_err();
    assert!(matches!(refusal, FetchRefusal::StartOver { .. }), "{refusal:?}");
}

#[tokio::test]
async fn framing_and_encoding_are_taken_from_the_answer() {
    let unframed = Answer::raw("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}");
    let refusal = open(unframed.clone(), &Plan::FromStart, None).await.unwrap_err();
    assert!(matches!(refusal, FetchRefusal::Refused { .. }), "{refusal:?}");
    assert!(open(unframed, &Plan::FromStart, Some(2)).await.is_ok());
    assert!(open(Answer::chunked(&[b"{}"]), &Plan::FromStart, None).await.is_ok());
    let known = open(Answer::ok(b"{}"), &Plan::FromStart, None).await.unwrap();
    assert_eq!(known.facts.opening, Opening::Whole { total_bytes: Some(2) });
    for packed in
        ["content-encoding: gzip\r\n", "content-encoding: identity\r\ncontent-encoding: gzip\r\n"]
    {
        let refusal =
            open(Answer::with(200, packed, b"{}"), &Plan::FromStart, Some(2)).await.unwrap_err();
        assert!(matches!(refusal, FetchRefusal::Refused { .. }), "{packed}: {refusal:?}");
    }
}

#[tokio::test]
async fn headers_that_never_come_are_given_up() {
    let server = RawServer::start([Answer::silent()]).await;
    let mut store = store(API);
    store.headers_timeout = Duration::from_millis(30);
    let outcome = store.open(signed(&server.url(LINK)), &Plan::FromStart, None).await;
    assert!(cause(outcome).ends_with("no answer within 30ms"));
}

#[tokio::test]
async fn a_direct_answer_is_held_to_the_same_rules() {
    for (answer, good) in [
        (Answer::ok(b"[]"), true),
        (Answer::with(200, "content-type: text/html\r\n", b"[]"), false),
    ] {
        let server = RawServer::start([answer]).await;
        let direct = DirectAnswer(send(client().get(server.url(LINK))).await.unwrap());
        let outcome = store(API).open(Link::Direct(direct), &Plan::Continue(point()), None).await;
        assert_eq!(outcome.is_ok(), good, "{outcome:?}");
    }
}
