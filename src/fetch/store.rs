//! The store client: from a link to an open body. It judges and follows the store's redirects.
//!
//! It speaks HTTP/1.1 through hyper (`wire`), unlike the API's client, which is `reqwest`. So a
//! part has a read buffer of known size, and the task that hashes and writes a part also reads it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;
use url::Url;

use super::answer::Answer;
use super::bandwidth::{Debt, SharedBucket};
use super::body::{Body, BodyFacts, Opening, Patience};
use super::connector::{Connector, proxy_host};
use super::hop::HopRules;
use super::pool::{Origin, Pool};
use super::resolver::JudgingResolver;
use super::wire::{SendError, Wire, request};
use crate::domain::bandwidth::Bandwidth;
use crate::domain::checksum::{Coverage, promised_checksums};
use crate::domain::resume::{Plan, ResponseHead, StrongEtag, Verdict, judge_response};
use crate::transport::{
    ALPN_HTTP1, Link, MAX_HOPS, SecretUrl, SignedLink, TransportError, check_head,
    is_plain_loopback, is_redirect, redirect_target, retry_after, with_alpn,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePolicy {
    /// Any URL of the API. No link leads back to its origin. On loopback, all links stay there.
    pub api_origin: Url,
    /// Hosts that may have addresses that are not public.
    pub allowed_hosts: Vec<String>,
    pub connect_timeout: Duration,
    /// To the headers of one answer, including the connect.
    pub headers_timeout: Duration,
    /// Longest wait for a byte of a body.
    pub stall_timeout: Duration,
    /// Smallest rate over a minute of waiting; zero for none.
    pub min_rate_bytes_per_second: u64,
    /// Cap on all bodies of all clones of the client together.
    pub bandwidth: Option<Bandwidth>,
}

/// Why there is no body to read. All causes are safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchRefusal {
    /// 400, 401, 403 or 410: this link does not work, a fresh one may.
    LinkRefused { cause: String },
    /// 404.
    Gone { cause: String },
    /// 429 or 503: the host waits.
    Busy { host: String, status: u16, retry_after: Option<Duration> },
    /// The partial cannot be continued: drop it and ask for the whole file.
    StartOver { reason: &'static str },
    /// An answer that is not the file. It may contradict the listing.
    Refused { cause: String, listing_in_doubt: bool },
    /// No answer, or a link that must not be followed: a passing fault.
    Fault { cause: String },
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
    /// The cap for the bodies of the previous client, once this client takes over.
    inherited: Option<(SharedBucket, Bandwidth)>,
}

impl StoreClient {
    pub fn new(tls: &ClientConfig, policy: &StorePolicy) -> Self {
        let plain = is_plain_loopback(&policy.api_origin);
        let proxies = (!plain).then(Matcher::from_env);
        let proxy_host = proxies.as_ref().and_then(proxy_host);
        let api = policy.api_origin.clone();
        let rules = Arc::new(HopRules::new(api, &policy.allowed_hosts, proxy_host.as_deref()));
        // HTTP/1.1 gives each part a connection. Over HTTP/2 all parts of a host would share a
        // flow-control window, and a part that waits for the disk would hold up the others.
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

    /// A client with another policy; nothing changes before [`StoreClient::take_over`].
    pub fn successor(&self, tls: &ClientConfig, policy: &StorePolicy) -> Self {
        let mut next = Self::new(tls, policy);
        if let Some(bucket) = &self.bucket {
            let bandwidth = policy.bandwidth.unwrap_or(Bandwidth::BOUNDLESS);
            next.inherited = Some((bucket.clone(), bandwidth));
            next.bucket = policy.bandwidth.map(|_| bucket.clone());
        }
        next
    }

    /// Puts this client into use. Bodies of the previous client get the new cap, or none if there
    /// no longer is one. Only a first cap leaves them alone.
    pub fn take_over(&self) {
        if let Some((bucket, bandwidth)) = &self.inherited {
            bucket.change(*bandwidth);
        }
    }

    /// The same client with connections of its own, for the runtime that reads from them.
    pub fn with_own_connections(&self) -> Self {
        Self { pool: Pool::default(), ..self.clone() }
    }

    /// Opens the body behind `link` as `plan` says, and judges its head.
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
                cause: format!("the store {host}: {words}"),
            };
            self.rules.judge(url.expose()).map_err(|refusal| fault(&refusal))?;
            let limit = self.headers_timeout;
            let unanswered = |words: &dyn fmt::Display| FetchRefusal::Fault {
                cause: format!("the store {host}{}: {words}", self.connector.way_to(url.expose())),
            };
            let response = tokio::time::timeout(limit, self.get(&url, plan))
                .await
                .map_err(|_| unanswered(&format_args!("no answer within {limit:?}")))?
                .map_err(|error| unanswered(&error))?;
            if !is_redirect(response.status()) {
                return Ok((response, host));
            }
            let target = redirect_target(url.expose(), response.headers())
                .map_err(|words| fault(&format_args!("answered with {words}")))?;
            hops_left = hops_left.checked_sub(1).ok_or_else(|| {
                fault(&format_args!("the link redirects more than {MAX_HOPS} times"))
            })?;
            url = target;
        }
    }

    /// Sends one request, on an open connection if the pool has one.
    pub(super) async fn get(&self, url: &SecretUrl, plan: &Plan) -> Result<Answer, TransportError> {
        let mut request = request(url, plan).ok_or_else(TransportError::no_request)?;
        let url = url.expose();
        let origin = Origin::of(url);
        loop {
            let (wire, reused) = match self.pool.take(&origin) {
                Some(wire) => (wire, true),
                None => (self.connect(url).await?, false),
            };
            request = match wire.send(request).await {
                Ok((head, body)) => {
                    check_head(&head.headers)?;
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
        // Only the 206 to a range describes less than the whole file.
        let coverage = match plan {
            Plan::Continue(_) if response.status() == 206 => Coverage::Range,
            _ => Coverage::Whole,
        };
        let headers = response.headers().iter();
        let texts = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let promised = promised_checksums(texts, coverage);
        let head = ResponseHead { checksummed: !promised.is_empty(), ..response.head() };
        let answered = || format!("the store {host} answered {}", head.status);
        let opening = match judge_response(plan, declared_bytes, &head) {
            Verdict::Whole { total_bytes } => Opening::Whole { total_bytes },
            Verdict::Append { total_bytes } => Opening::Append { total_bytes },
            Verdict::StartOver { reason } => return Err(FetchRefusal::StartOver { reason }),
            Verdict::LinkRefused => return Err(FetchRefusal::LinkRefused { cause: answered() }),
            Verdict::Gone => return Err(FetchRefusal::Gone { cause: answered() }),
            Verdict::Busy => {
                let retry_after = retry_after(response.headers(), SystemTime::now());
                return Err(FetchRefusal::Busy { host, status: head.status, retry_after });
            }
            Verdict::Refused { reason, listing_in_doubt } => {
                let cause = format!("the store {host}: {reason}");
                return Err(FetchRefusal::Refused { cause, listing_in_doubt });
            }
        };
        let position = match (opening, plan) {
            (Opening::Append { .. }, Plan::Continue(point)) => point.bytes,
            _ => 0,
        };
        let facts = BodyFacts {
            opening,
            promised,
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

#[cfg(test)]
pub(super) mod tests;
