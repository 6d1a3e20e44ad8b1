//! The clients of an API origin and of its projects: which credentials go where, what calls return.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Client, Response};
use rustls::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::error::{Refusal, classify, hold};
use super::url::ApiUrl;
use super::wire::{check_list, parse_view};
use crate::domain::failure::{ApiRefusal, Hold, ViewOutcome};
use crate::domain::ids::{ExportId, ProjectKey};
use crate::transport::{
    ALPN_HTTP2, ClientError, TransportError, build, client_builder, is_plain_loopback, proxy_of,
    read_capped, retry_after, send, through,
};

/// Largest view answer that is read: 100,000 files fit several times.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// Largest error body that is read; a larger one is not the API's own.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Answers above this size are parsed off the runtime's threads.
const PARSE_ELSEWHERE_BYTES: usize = 256 * 1024;
/// Longest time between two pings of an HTTP/2 connection in use.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// Longest wait for the answer to a ping.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
const JSON: &str = "application/json";
const PROJECT_HEADER: HeaderName = HeaderName::from_static("x-batch-project");

/// Where the API is and how long a call may take.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// `https://api.batch.com/2.11`; http on loopback only, no userinfo, query or fragment.
    pub base_url: Url,
    pub connect_timeout: Duration,
    /// For one call as a whole; if the answer is a file, for its headers.
    pub request_timeout: Duration,
}

/// A key that cannot travel in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key has characters that cannot be sent in a header; it must be one line of printable ASCII"
)]
pub struct KeyError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    Accepted,
    /// The key is accepted, but the API does not know the export that was viewed.
    Unknown(ExportId),
    Rejected(ApiRefusal),
    Held(Hold),
    /// A passing fault, in words that are safe to show.
    Fault(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub outcome: ProbeOutcome,
    /// The export that was viewed, because the API has no call that lists exports.
    pub viewed: Option<ExportId>,
}

/// One API origin: its connections are shared by all projects.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    http: Client,
    /// Host and port of the proxy on the way to the API.
    proxy: Option<String>,
    request_timeout: Duration,
    view: ApiUrl,
    list: ApiUrl,
    download: ApiUrl,
}

impl Api {
    pub fn new(settings: &ApiSettings, tls: &ClientConfig) -> Result<Self, ClientError> {
        let base = &settings.base_url;
        // Pings must find a dead connection within the timeout of a call, or each call times out.
        let patience = settings.request_timeout / 4;
        let http = client_builder(tls, ALPN_HTTP2, base, settings.connect_timeout)
            .http2_keep_alive_interval(HTTP2_PING_INTERVAL.min(patience))
            .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT.min(patience));
        let proxies = (!is_plain_loopback(base)).then(Matcher::from_env);
        Ok(Self {
            shared: Arc::new(Shared {
                http: build(http)?,
                proxy: proxies.and_then(|proxies| proxy_of(&proxies, base)),
                request_timeout: settings.request_timeout,
                view: ApiUrl::endpoint(base, "view")?,
                list: ApiUrl::endpoint(base, "list")?,
                download: ApiUrl::endpoint(base, "download")?,
            }),
        })
    }

    pub fn project(
        &self,
        project: &ProjectKey,
        rest: &SecretString,
    ) -> Result<ApiClient, KeyError> {
        let mut header = HeaderValue::from_str(project.expose()).map_err(|_| KeyError)?;
        header.set_sensitive(true);
        let rest = RwLock::new(Bearer::new(rest)?);
        let project = Project { key: project.clone(), header, rest };
        Ok(ApiClient { shared: Arc::clone(&self.shared), project: Arc::new(project) })
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("list", &self.shared.list.as_url().as_str())
            .finish_non_exhaustive()
    }
}

/// The client of one project. Cheap to clone.
#[derive(Clone)]
pub struct ApiClient {
    shared: Arc<Shared>,
    project: Arc<Project>,
}

struct Project {
    key: ProjectKey,
    header: HeaderValue,
    rest: RwLock<Bearer>,
}

/// The REST API key, and the header that carries it.
#[derive(Clone)]
pub(super) struct Bearer {
    key: SecretString,
    header: HeaderValue,
    generation: u64,
}

impl Bearer {
    fn new(key: &SecretString) -> Result<Self, KeyError> {
        let text = SecretString::from(format!("Bearer {}", key.expose_secret()));
        let mut header = HeaderValue::from_str(text.expose_secret()).map_err(|_| KeyError)?;
        header.set_sensitive(true);
        Ok(Self { key: key.clone(), header, generation: 0 })
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("project", &self.project.key).finish_non_exhaustive()
    }
}

impl ApiClient {
    pub async fn view(&self, export: &ExportId) -> ViewOutcome {
        let url = self.shared.view.with("id", export.as_str());
        self.within(self.view_at(&url, export)).await.unwrap_or_else(ViewOutcome::Fault)
    }

    /// Asks for one row of the list of exports, to find out whether the credentials are accepted. If
    /// the API has no such call, views this export instead.
    pub async fn probe(&self, export: Option<&ExportId>) -> Probe {
        let url = self.shared.list.with("limit", "1");
        let listed = self.within(self.probe_at(&url)).await;
        let (outcome, is_missing) =
            listed.unwrap_or_else(|cause| (ProbeOutcome::Fault(cause), false));
        let Some(export) = export.filter(|_| is_missing) else {
            return Probe { outcome, viewed: None };
        };
        let outcome = match self.view(export).await {
            ViewOutcome::Report(_) => ProbeOutcome::Accepted,
            ViewOutcome::NotFound(_) => ProbeOutcome::Unknown(export.clone()),
            ViewOutcome::Rejected(refusal) => ProbeOutcome::Rejected(refusal),
            ViewOutcome::Held(hold) => ProbeOutcome::Held(hold),
            ViewOutcome::Fault(cause) => ProbeOutcome::Fault(cause),
        };
        Probe { outcome, viewed: Some(export.clone()) }
    }

    /// Uses another REST API key from the next request on. Returns whether it differs from the
    /// current one, which stays if the new one cannot be sent in a header.
    pub fn replace_key(&self, key: &SecretString) -> Result<bool, KeyError> {
        let bearer = Bearer::new(key)?;
        let mut current = self.project.rest.write().unwrap_or_else(PoisonError::into_inner);
        let differs = current.key.expose_secret() != key.expose_secret();
        if differs {
            let generation = current.generation + 1;
            *current = Bearer { generation, ..bearer };
        }
        Ok(differs)
    }

    pub fn has_key_of(&self, other: &Self) -> bool {
        self.bearer().key.expose_secret() == other.bearer().key.expose_secret()
    }

    /// How often the REST API key has been replaced: a call compares it before and after.
    pub fn key_generation(&self) -> u64 {
        self.bearer().generation
    }

    async fn view_at(&self, url: &ApiUrl, export: &ExportId) -> ViewOutcome {
        let bearer = self.bearer();
        let body = match self.ask(url, &bearer).await {
            Ok(body) => body,
            Err(Refusal::Held(hold)) => return ViewOutcome::Held(hold),
            Err(Refusal::NotFound(refusal)) => return ViewOutcome::NotFound(refusal),
            Err(Refusal::Rejected(refusal)) => return ViewOutcome::Rejected(refusal),
            Err(Refusal::Fault(cause)) => return ViewOutcome::Fault(cause),
        };
        let (project, asked) = (Arc::clone(&self.project), export.clone());
        let parse = move |body: &[u8]| {
            parse_view(body, &asked, &[bearer.key.expose_secret(), project.key.expose()])
                .map_err(|error| error.to_string())
        };
        let parsed = if body.len() > PARSE_ELSEWHERE_BYTES {
            let parsing = tokio::task::spawn_blocking(move || parse(&body)).await;
            parsing.unwrap_or_else(|_| Err("the API's answer could not be parsed".to_owned()))
        } else {
            parse(&body)
        };
        parsed.map_or_else(ViewOutcome::Fault, ViewOutcome::Report)
    }

    /// Also says whether the API does not know the call.
    async fn probe_at(&self, url: &ApiUrl) -> (ProbeOutcome, bool) {
        let bearer = self.bearer();
        let (answer, is_missing) = match self.get(url, &bearer, JSON).await {
            Err(error) => (Err(Refusal::Fault(self.unreachable(url, &error))), false),
            Ok(response) => {
                let is_missing = matches!(response.status().as_u16(), 404 | 405 | 501);
                (self.body(response, &bearer).await, is_missing)
            }
        };
        let outcome = match answer {
            Ok(body) => match check_list(&body) {
                Ok(()) => ProbeOutcome::Accepted,
                Err(error) => ProbeOutcome::Fault(error.to_string()),
            },
            Err(Refusal::Held(hold)) => ProbeOutcome::Held(hold),
            Err(Refusal::NotFound(refusal) | Refusal::Rejected(refusal)) => {
                ProbeOutcome::Rejected(refusal)
            }
            Err(Refusal::Fault(cause)) => ProbeOutcome::Fault(cause),
        };
        (outcome, is_missing)
    }

    /// The body of a 200.
    async fn ask(&self, url: &ApiUrl, bearer: &Bearer) -> Result<Vec<u8>, Refusal> {
        let answered = self.get(url, bearer, JSON).await;
        let response = answered.map_err(|error| Refusal::Fault(self.unreachable(url, &error)))?;
        self.body(response, bearer).await
    }

    async fn body(&self, response: Response, bearer: &Bearer) -> Result<Vec<u8>, Refusal> {
        if response.status() != 200 {
            return Err(self.refusal(response, bearer).await);
        }
        read_capped(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|error| Refusal::Fault(format!("the API's answer could not be read: {error}")))
    }

    pub(super) fn unreachable(&self, url: &ApiUrl, error: &TransportError) -> String {
        let way = through(self.shared.proxy.as_deref());
        format!("no answer from the API at {}{way}: {error}", url.host())
    }

    pub(super) fn download(&self) -> &ApiUrl {
        &self.shared.download
    }

    /// Bounds a call by the request timeout.
    pub(super) async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, String> {
        let limit = self.shared.request_timeout;
        tokio::time::timeout(limit, call).await.map_err(|_| {
            let way = through(self.shared.proxy.as_deref());
            format!("the API did not answer within {limit:?}{way}")
        })
    }

    /// The key in use. A call keeps it from start to end, to remove it from what the answer says.
    pub(super) fn bearer(&self) -> Bearer {
        self.project.rest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn get(
        &self,
        url: &ApiUrl,
        bearer: &Bearer,
        accept: &'static str,
    ) -> Result<Response, TransportError> {
        let request = self
            .shared
            .http
            .get(url.as_url().clone())
            .header(AUTHORIZATION, bearer.header.clone())
            .header(PROJECT_HEADER, self.project.header.clone())
            .header(ACCEPT, accept)
            .header(ACCEPT_ENCODING, "identity");
        send(request).await
    }

    /// Classifies an unwanted answer, in words without this project's keys.
    pub(super) async fn refusal(&self, response: Response, bearer: &Bearer) -> Refusal {
        let status = response.status().as_u16();
        let pause = retry_after(response.headers(), SystemTime::now());
        // The status alone decides. Waiting for a body could only lose the Retry-After.
        if let Some(hold) = hold(status, pause) {
            let replaced = self.bearer().key.expose_secret() != bearer.key.expose_secret();
            if replaced && matches!(hold, Hold::Unauthorized { .. }) {
                return Refusal::Fault("the key was replaced during the call".to_owned());
            }
            return Refusal::Held(hold);
        }
        let body = match read_capped(response, MAX_ERROR_BYTES).await {
            Ok(body) => body,
            Err(error) => return Refusal::Fault(format!("the API answered {status}, but {error}")),
        };
        classify(status, pause, &body, &[bearer.key.expose_secret(), self.project.key.expose()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::tests::{EXPORT, PROJECT_KEY, REST_KEY, api_client, api_client_within};
    use super::*;
    use crate::transport::testing::{Answer, RawServer};

    const GOOD: &[u8] = br#"{"id":"export_1","status":"RUNNING"}"#;

    async fn view(answer: Answer) -> ViewOutcome {
        let server = RawServer::start([answer]).await;
        let outcome = api_client(&server).view(&EXPORT.parse().unwrap()).await;
        let text = format!("{outcome:?}");
        assert!(!text.contains(REST_KEY) && !text.contains(PROJECT_KEY), "{text}");
        outcome
    }

    #[tokio::test]
    async fn a_view_asks_once_with_credentials_and_reports() {
        let server = RawServer::start([Answer::ok(GOOD)]).await;
        let client = api_client(&server);
        let ViewOutcome::Report(report) = client.view(&EXPORT.parse().unwrap()).await else {
            panic!()
        };
        assert_eq!(report.export.as_str(), EXPORT);
        let heads = server.heads();
        assert_eq!(heads.len(), 1);
        let asked = "get /2.11/exports/view?id=export_1 http/1.1\r\n";
        assert!(heads[0].starts_with(asked), "{}", heads[0]);
        for line in [
            format!("authorization: bearer {REST_KEY}\r\n"),
            format!("x-batch-project: {PROJECT_KEY}\r\n"),
            "user-agent: batch-export-watcher/".to_owned(),
            "accept: application/json\r\n".to_owned(),
        ] {
            assert!(heads[0].contains(&line), "{line}: {}", heads[0]);
        }
        assert!(!heads[0].contains("referer") && !heads[0].contains("cookie"));
        let text = format!("{client:?}");
        assert!(!text.contains(REST_KEY) && !text.contains(PROJECT_KEY), "{text}");
    }

    #[tokio::test]
    async fn answers_that_prove_nothing_are_faults() {
        let own = br#"{"error_code":"X","error_message":"rest-k3y"}"#;
        let endless = [own, &[b' '; MAX_ERROR_BYTES][..]].concat();
        let too_long =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", MAX_ANSWER_BYTES + 1);
        for answer in [
            Answer::ok(b""),
            Answer::ok(b"<html></html>"),
            Answer::ok(br#"{"id":"export_2","status":"RUNNING"}"#),
            Answer::with(500, "", own),
            Answer::with(404, "", b"<html>not found</html>"),
            Answer::redirect(302, "http://127.0.0.1:1/"),
            Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"id\":\"export_1\""),
            Answer::with(404, "", &endless),
            Answer::raw(too_long),
        ] {
            let outcome = view(answer).await;
            assert!(matches!(outcome, ViewOutcome::Fault(_)), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn refusals_and_holds_are_distinguished() {
        let own = br#"{"error_code":"SOME_CODE","error_message":"the key rest-k3y of pr0ject"}"#;
        let ViewOutcome::NotFound(refusal) = view(Answer::with(404, "", own)).await else {
            panic!()
        };
        assert_eq!((refusal.code.as_str(), refusal.status), ("SOME_CODE", 404));
        assert_eq!(refusal.message, "the key [hidden] of [hidden]");
        assert!(matches!(view(Answer::with(400, "", own)).await, ViewOutcome::Rejected(_)));
        let ViewOutcome::Held(hold) = view(Answer::with(429, "retry-after: 30\r\n", b"")).await
        else {
            panic!()
        };
        assert_eq!(hold, Hold::Throttled { retry_after: Some(Duration::from_secs(30)) });
        let dates =
            "date: Sun, 06 Nov 1994 12:00:00 GMT\r\nretry-after: Sun, 06 Nov 1994 12:01:00 GMT\r\n";
        let ViewOutcome::Held(hold) = view(Answer::with(503, dates, b"")).await else { panic!() };
        assert_eq!(hold, Hold::Unavailable { retry_after: Some(Duration::from_mins(1)) });
        let endless = "HTTP/1.1 401 X\r\ncontent-length: 9\r\n\r\n";
        let ViewOutcome::Held(hold) = view(Answer::raw(endless).and_stays()).await else {
            panic!()
        };
        assert_eq!(hold, Hold::Unauthorized { status: 401 }, "no body is waited for");
    }

    #[tokio::test]
    async fn a_large_answer_is_parsed_and_a_silent_api_times_out() {
        let padding = "x".repeat(PARSE_ELSEWHERE_BYTES);
        let large = format!(r#"{{"id":"export_1","status":"RUNNING","more":"{padding}"}}"#);
        assert!(matches!(view(Answer::ok(large.as_bytes())).await, ViewOutcome::Report(_)));
        let slow = Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n").and_stays();
        for answer in [Answer::silent(), slow] {
            let server = RawServer::start([answer]).await;
            let client = api_client_within(&server, Duration::from_millis(50));
            let ViewOutcome::Fault(cause) = client.view(&EXPORT.parse().unwrap()).await else {
                panic!()
            };
            assert!(cause.contains("50ms"), "{cause}");
        }
    }

    #[tokio::test]
    async fn a_probe_asks_the_list_and_a_replaced_key_counts_at_once() {
        let answers =
            [Answer::ok(br#"{"exports":[]}"#), Answer::with(401, "", b""), Answer::ok(b"{}")];
        let server = RawServer::start(answers).await;
        let client = api_client(&server);
        let probe = async || client.probe(None).await.outcome;
        assert_eq!(probe().await, ProbeOutcome::Accepted);
        assert_eq!(client.replace_key(&REST_KEY.to_owned().into()), Ok(false));
        assert_eq!(client.clone().replace_key(&"other".to_owned().into()), Ok(true));
        assert_eq!(client.replace_key(&"two\nlines".to_owned().into()), Err(KeyError));
        assert_eq!(probe().await, ProbeOutcome::Held(Hold::Unauthorized { status: 401 }));
        assert!(matches!(probe().await, ProbeOutcome::Fault(_)));
        let heads = server.heads();
        assert!(heads[0].starts_with("get /2.11/exports/list?limit=1 "), "{}", heads[0]);
        assert!(heads[1].contains("authorization: bearer other\r\n"), "{}", heads[1]);
    }

    #[tokio::test]
    async fn a_refusal_of_a_replaced_key_is_a_passing_fault() {
        let late = Answer::raw("").then("HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n");
        let server = RawServer::start([late]).await;
        let client = api_client(&server);
        let replace = async {
            while server.heads().is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(client.replace_key(&"other".to_owned().into()), Ok(true));
            server.release();
        };
        let export = EXPORT.parse().unwrap();
        let (outcome, ()) = tokio::join!(client.view(&export), replace);
        assert!(matches!(outcome, ViewOutcome::Fault(_)), "{outcome:?}");
    }
}
