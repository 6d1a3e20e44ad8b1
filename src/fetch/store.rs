//! The store client: from a link to an open body, over the store's own redirects, each judged anew.
//!
//! It speaks HTTP/1.1 through hyper itself (`wire`), not through `reqwest` as the API's client
//! does: that is what lets a part have a read buffer of known size, and be read by the task that
//! hashes and writes it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST, HeaderName,
    HeaderValue, IF_RANGE, RANGE, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Request, Version};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;
use url::{Position, Url};

use super::answer::Answer;
use super::bandwidth::{Debt, SharedBucket};
use super::body::{Body, BodyFacts, Opening, Patience};
use super::connector::{Connector, proxy_host};
use super::hop::HopRules;
use super::pool::{Origin, Pool};
use super::resolver::JudgingResolver;
use super::wire::{SendError, Wire};
use crate::domain::bandwidth::Bandwidth;
use crate::domain::checksum::{Coverage, promised_checksums};
use crate::domain::resume::{Plan, ResponseHead, StrongEtag, Verdict, judge_response};
use crate::transport::{
    AGENT, ALPN_HTTP1, Link, MAX_HOPS, SecretUrl, SignedLink, TransportError, is_plain_loopback,
    is_redirect, redirect_target, retry_after, with_alpn,
};

/// What fetching is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePolicy {
    /// Any URL of the API: links never lead back to its origin, and where it is on loopback, to
    /// loopback only.
    pub api_origin: Url,
    /// Hosts that may have addresses which are not public.
    pub allowed_hosts: Vec<String>,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
    /// To the headers of one answer, connecting included.
    pub headers_timeout: Duration,
    /// Longest wait for a byte of a body.
    pub stall_timeout: Duration,
    /// Smallest rate over a minute of waiting; zero for none.
    pub min_rate_bytes_per_second: u64,
    /// Cap on all bodies together, of every clone of the client; `None` for none.
    pub bandwidth: Option<Bandwidth>,
}

/// Why there is no body to read. All causes are safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchRefusal {
    /// 400, 401, 403 or 410: this link is no good, a fresh one may be.
    LinkRefused {
        /// The cause in words.
        cause: String,
    },
    /// 404.
    Gone {
        /// The cause in words.
        cause: String,
    },
    /// 429 or 503: the host waits.
    Busy {
        /// The host.
        host: String,
        /// `Retry-After`, where the answer had a usable one.
        retry_after: Option<Duration>,
    },
    /// The partial cannot be continued: drop it and ask for the whole file.
    StartOver {
        /// The cause in words.
        reason: &'static str,
    },
    /// An answer that is not the file.
    Refused {
        /// The cause in words.
        cause: String,
        /// Whether it contradicts the listing.
        listing_in_doubt: bool,
    },
    /// No answer, or a link that must not be followed: a passing fault.
    Fault {
        /// The cause in words.
        cause: String,
    },
}

/// Fetches from signed links. Cheap to clone.
#[derive(Clone)]
pub struct StoreClient {
    connector: Arc<Connector>,
    pool: Pool,
    rules: Arc<HopRules>,
    headers_timeout: Duration,
    patience: Patience,
    bucket: Option<SharedBucket>,
    /// The cap that the bodies of the client before are held to, once this one is in force.
    inherited: Option<(SharedBucket, Bandwidth)>,
}

impl StoreClient {
    /// A client that trusts whom `tls` does.
    #[must_use]
    pub fn new(tls: &ClientConfig, policy: &StorePolicy) -> Self {
        let plain = is_plain_loopback(&policy.api_origin);
        let proxies = (!plain).then(Matcher::from_env);
        let proxy_host = proxies.as_ref().and_then(proxy_host);
        let api = policy.api_origin.clone();
        let rules = Arc::new(HopRules::new(api, &policy.allowed_hosts, proxy_host.as_deref()));
        // HTTP/1.1 gives each part a connection: over HTTP/2 all parts of a host would share one
        // congestion window and one flow-control window, and a part that waits for the disk would
        // hold up the others.
        let tls = with_alpn(tls, ALPN_HTTP1);
        let resolver = JudgingResolver(Arc::clone(&rules));
        Self {
            connector: Arc::new(Connector::new(resolver, tls, proxies, policy.connect_timeout)),
            pool: Pool::default(),
            rules,
            headers_timeout: policy.headers_timeout,
            patience: Patience {
                stall_timeout: policy.stall_timeout,
                min_rate_bytes_per_second: policy.min_rate_bytes_per_second,
            },
            bucket: policy.bandwidth.map(SharedBucket::new),
            inherited: None,
        }
    }

    /// The client of another policy; nothing changes before [`StoreClient::take_over`].
    #[must_use]
    pub fn successor(&self, tls: &ClientConfig, policy: &StorePolicy) -> Self {
        let mut next = Self::new(tls, policy);
        if let Some(bucket) = &self.bucket {
            next.inherited =
                Some((bucket.clone(), policy.bandwidth.unwrap_or(Bandwidth::BOUNDLESS)));
            if policy.bandwidth.is_some() {
                next.bucket = Some(bucket.clone());
            }
        }
        next
    }

    /// This client is in force. Its cap on bandwidth holds for it and the client before together:
    /// what is under way with that one is held to the new cap as well, and to none where there is
    /// none any more. Only a first cap leaves it alone.
    pub fn take_over(&self) {
        if let Some((bucket, bandwidth)) = &self.inherited {
            bucket.change(*bandwidth);
        }
    }

    /// The same client with connections of its own, which are at home on the runtime that reads
    /// from them.
    #[must_use]
    pub fn with_own_connections(&self) -> Self {
        Self { pool: Pool::default(), ..self.clone() }
    }

    /// Opens the body behind `link` as `plan` says, and holds its head to the rules of
    /// [`crate::domain::resume`].
    ///
    /// # Errors
    /// When there is no body to read, by what is to be done about it.
    pub async fn open(
        &self,
        link: Link,
        plan: &Plan,
        declared_bytes: Option<u64>,
    ) -> Result<Body, FetchRefusal> {
        let (response, host) = match link {
            Link::Direct(answer) => {
                let host = answer.host();
                (Answer::from(answer), host)
            }
            Link::Signed(link) => self.follow(link, plan).await?,
        };
        self.judge(response, host, plan, declared_bytes)
    }

    async fn follow(
        &self,
        link: SignedLink,
        plan: &Plan,
    ) -> Result<(Answer, String), FetchRefusal> {
        let SignedLink { mut url, mut hops_left } = link;
        loop {
            let host = url.host();
            let fault = |words: &dyn fmt::Display| FetchRefusal::Fault {
                cause: format!("{host}: {words}"),
            };
            self.rules.judge(url.expose()).map_err(|refusal| fault(&refusal))?;
            let response = match tokio::time::timeout(
                self.headers_timeout,
                self.get(url.expose(), plan),
            )
            .await
            {
                Ok(sent) => sent.map_err(|error| fault(&error))?,
                Err(_) => {
                    return Err(fault(&format_args!(
                        "no answer within {:?}",
                        self.headers_timeout
                    )));
                }
            };
            if !is_redirect(response.status()) {
                return Ok((response, host));
            }
            let target = redirect_target(url.expose(), response.headers())
                .map_err(|words| fault(&format_args!("it answered with {words}")))?;
            hops_left = hops_left.checked_sub(1).ok_or_else(|| {
                fault(&format_args!("the link redirects more than {MAX_HOPS} times"))
            })?;
            url = SecretUrl::new(target);
        }
    }

    /// One request, on a connection that is open already where there is one.
    pub(super) async fn get(&self, url: &Url, plan: &Plan) -> Result<Answer, TransportError> {
        let origin = Origin::of(url);
        let mut request = request(url, plan).ok_or_else(TransportError::no_request)?;
        loop {
            let (wire, reused) = match self.pool.take(&origin) {
                Some(wire) => (wire, true),
                None => (self.connect(url).await?, false),
            };
            request = match wire.send(request).await {
                Ok((head, body)) => {
                    return Ok(Answer::new(head, body, (self.pool.clone(), origin)));
                }
                // The store closed it while it was idle: no request was made yet.
                Err(SendError::Unsent(request, _)) if reused => *request,
                Err(SendError::Unsent(_, error) | SendError::Failed(error)) => {
                    return Err(TransportError::cut(&error));
                }
            };
        }
    }

    async fn connect(&self, url: &Url) -> Result<Wire, TransportError> {
        let connected = self.connector.connect(url).await;
        let connection = connected.map_err(|error| TransportError::connecting(&*error))?;
        Wire::begin(connection).await.map_err(|error| TransportError::cut(&error))
    }

    fn judge(
        &self,
        response: Answer,
        host: String,
        plan: &Plan,
        declared_bytes: Option<u64>,
    ) -> Result<Body, FetchRefusal> {
        let head = head_of(&response);
        let answered = || format!("{host} answered {}", head.status);
        let opening = match judge_response(plan, declared_bytes, &head) {
            Verdict::Whole { total_bytes } => Opening::Whole { total_bytes },
            Verdict::Append { total_bytes } => Opening::Append { total_bytes },
            Verdict::StartOver { reason } => return Err(FetchRefusal::StartOver { reason }),
            Verdict::LinkRefused => return Err(FetchRefusal::LinkRefused { cause: answered() }),
            Verdict::Gone => return Err(FetchRefusal::Gone { cause: answered() }),
            Verdict::Busy => {
                let retry_after = retry_after(response.headers(), SystemTime::now());
                return Err(FetchRefusal::Busy { host, retry_after });
            }
            Verdict::Refused { reason, listing_in_doubt } => {
                return Err(FetchRefusal::Refused {
                    cause: format!("{host}: {reason}"),
                    listing_in_doubt,
                });
            }
        };
        let (coverage, position) = match (opening, plan) {
            (Opening::Append { .. }, Plan::Continue(point)) => (Coverage::Range, point.bytes),
            _ => (Coverage::Whole, 0),
        };
        let headers = response.headers().iter();
        let texts = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let facts = BodyFacts {
            opening,
            promised: promised_checksums(texts, coverage),
            etag: head.etag.as_deref().and_then(StrongEtag::parse),
            host,
            position,
            size_declared: declared_bytes.is_some(),
        };
        Ok(Body::new(facts, response, self.patience, self.bucket.clone().map(Debt::new)))
    }
}

impl fmt::Debug for StoreClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreClient").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// A request for a file or the rest of it; `None` where HTTP cannot say it.
fn request(url: &Url, plan: &Plan) -> Option<Request<Empty<Bytes>>> {
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    let request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
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

/// The facts of an answer's head that its judgement needs.
fn head_of(response: &Answer) -> ResponseHead {
    // A repeated header is one list (RFC 9110 section 5.3); where a single value is meant, the list
    // does not parse.
    let text = |name: HeaderName| {
        let values: Vec<_> = response
            .headers()
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    };
    // The length by the framing that is in force: a Content-Length beside chunks means nothing.
    let content_length = response.content_length();
    let chunked = text(TRANSFER_ENCODING).is_some_and(|codings| {
        codings.rsplit(',').next().unwrap_or("").trim().eq_ignore_ascii_case("chunked")
    });
    ResponseHead {
        status: response.status().as_u16(),
        content_length,
        framed: content_length.is_some()
            || response.version() == Version::HTTP_2
            || (response.version() == Version::HTTP_11 && chunked),
        content_range: text(CONTENT_RANGE),
        etag: text(ETAG),
        content_encoding: text(CONTENT_ENCODING),
        content_type: text(CONTENT_TYPE),
    }
}

#[cfg(test)]
pub(super) mod tests {
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
    async fn a_cap_changes_when_its_client_is_in_force_and_not_before() {
        let capped = |rate| StorePolicy {
            bandwidth: Some(Bandwidth::try_new(rate).unwrap()),
            ..policy(API)
        };
        let first = StoreClient::new(&tls(), &capped(100_000));
        let bucket = first.bucket.clone().unwrap();
        // Beyond what may come at once, so that each byte takes its time.
        bucket.reserve(1_000_000);
        let time_of_a_megabyte = || {
            let before = bucket.reserve(0);
            bucket.reserve(1_000_000) - before
        };
        let second = first.successor(&tls(), &capped(1_000_000));
        assert_eq!(
            time_of_a_megabyte().as_secs(),
            10,
            "one that is not in force yet changes nothing"
        );
        second.take_over();
        assert_eq!(time_of_a_megabyte().as_secs(), 1);
        let third = second.successor(&tls(), &policy(API));
        third.take_over();
        assert!(third.bucket.is_none());
        assert_eq!(time_of_a_megabyte().as_secs(), 0, "no cap is left for what is under way");
    }

    /// What a store answers to a plain request for a whole file.
    pub(in crate::fetch) async fn answer_of(url: &str) -> super::Answer {
        store(API).get(&url.parse().unwrap(), &Plan::FromStart).await.unwrap()
    }

    fn signed(url: &str) -> Link {
        Link::Signed(SignedLink {
            url: SecretUrl::new(url.parse().unwrap()),
            hops_left: MAX_HOPS - 1,
        })
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
        ResumePoint {
            bytes: 2,
            sha256: Sha256::new([0; 32]),
            total_bytes: 5,
            etag: StrongEtag::parse("\"v1\"").unwrap(),
        }
    }

    #[tokio::test]
    async fn a_redirected_body_is_fetched_without_credentials_cookies_or_referer() {
        let second = RawServer::start([Answer::with(200, "etag: \"v1\"\r\n", b"12345")]).await;
        let away =
            format!("set-cookie: a=b\r\nlocation: {}\r\n", second.url("/next?X-Sig=s3cr3t#top"));
        let answers =
            [Answer::redirect(302, "relative?X-Sig=s3cr3t"), Answer::with(307, &away, b"")];
        let first = RawServer::start(answers).await;
        let mut body = open_from(API, &first.url(LINK), &Plan::FromStart, Some(5)).await.unwrap();
        assert_eq!(body.opening, Opening::Whole { total_bytes: Some(5) });
        assert_eq!(body.etag, StrongEtag::parse("\"v1\""));
        assert_eq!(format!("http://{}", body.host), second.url(""));
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
        assert_eq!(
            looping.heads().len(),
            usize::from(MAX_HOPS),
            "the api's own redirect was the first hop"
        );
        for (location, expected) in [
            ("http://127.0.0.1:1/s3cr3t", "back to the api"),
            ("https://93.184.216.34/s3cr3t", "public address"),
            ("https://169.254.169.254/s3cr3t", "metadata address"),
            ("http://user:s3cr3t@127.0.0.1/", "user or password"),
            ("ftp://127.0.0.1/s3cr3t", "not https"),
        ] {
            let words = cause(open(Answer::redirect(307, location), &Plan::FromStart, None).await);
            assert!(words.contains(expected), "{location}: {words}");
        }
        let words = cause(open(Answer::with(307, "", b""), &Plan::FromStart, None).await);
        assert!(words.contains("without a location"), "{words}");
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
    async fn refusals_are_told_apart_by_what_is_done_about_them() {
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
            let FetchRefusal::Busy { host, retry_after } = of(status).await else {
                panic!("{status}")
            };
            assert!(host.starts_with("127.0.0.1:"), "{host}");
            assert_eq!(retry_after, Some(Duration::from_secs(7)));
        }
        for status in [204, 206, 304, 416, 500, 502] {
            let refusal = of(status).await;
            assert!(
                matches!(refusal, FetchRefusal::Refused { listing_in_doubt: false, .. }),
                "{refusal:?}"
            );
        }
        let other_size = open(Answer::ok(b"12345"), &Plan::FromStart, Some(6)).await.unwrap_err();
        assert!(
            matches!(other_size, FetchRefusal::Refused { listing_in_doubt: true, .. }),
            "{other_size:?}"
        );
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
        assert_eq!(body.opening, Opening::Append { total_bytes: 5 });
        let algorithms: Vec<_> = body.promised.iter().map(|promised| promised.algorithm).collect();
        assert_eq!(
            algorithms,
            [Algorithm::Md5, Algorithm::Crc32c],
            "every x-goog-hash, of the whole file"
        );
        assert_eq!(body.next_chunk().await.unwrap().unwrap(), "345");
        assert_eq!(body.next_chunk().await.unwrap(), None);

        let whole = open(Answer::ok(b"12345"), &plan, Some(5)).await.unwrap();
        assert_eq!(whole.opening, Opening::Whole { total_bytes: Some(5) });
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
        assert_eq!(known.opening, Opening::Whole { total_bytes: Some(2) });
        for packed in [
            "content-encoding: gzip\r\n",
            "content-encoding: identity\r\ncontent-encoding: gzip\r\n",
        ] {
            let refusal = open(Answer::with(200, packed, b"{}"), &Plan::FromStart, Some(2))
                .await
                .unwrap_err();
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
            let outcome =
                store(API).open(Link::Direct(direct), &Plan::Continue(point()), None).await;
            assert_eq!(outcome.is_ok(), good, "{outcome:?}");
        }
    }
}
