//! Every request that came in, in order, for tests to count and to wait for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    Api,
    Store,
}

/// One request and what became of it.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub origin: Origin,
    /// Which connection to that listener it came on, counted from 0.
    pub connection: u64,
    pub at: Instant,
    pub method: String,
    pub path: String,
    /// As sent, without the question mark.
    pub query: Option<String>,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// `None` until there is an answer.
    pub status: Option<u16>,
    /// Length of the answer's body if it is not cut; `None` as long as there is no answer.
    pub whole_bytes: Option<u64>,
    /// Bytes of the answer's body handed to the connection so far.
    pub body_bytes: u64,
    /// When the answer's body was sent whole, cut, or given up by the client.
    pub ended_at: Option<Instant>,
}

impl Recorded {
    /// The first value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<String> {
        parameter(self.query.as_deref(), name)
    }

    /// Whether the answer's body was handed to the connection to its end.
    pub fn is_complete(&self) -> bool {
        self.whole_bytes == Some(self.body_bytes)
    }

    pub fn is_view_of(&self, export_id: &str) -> bool {
        self.is_call("/exports/view", export_id)
    }

    pub fn is_link_of(&self, file_id: &str) -> bool {
        self.is_call("/exports/download", file_id)
    }

    pub fn is_fetch_of(&self, file_id: &str) -> bool {
        self.fetched_file() == Some(file_id)
    }

    /// The ID of the file that the store is asked for.
    pub fn fetched_file(&self) -> Option<&str> {
        self.path.strip_prefix("/blob/").filter(|_| self.origin == Origin::Store)
    }

    fn is_call(&self, route: &str, id: &str) -> bool {
        self.origin == Origin::Api
            && self.path.ends_with(route)
            && self.parameter("id").is_some_and(|value| value == id)
    }
}

/// The first value of a query parameter, decoded.
pub(super) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.unwrap_or("").as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// What was waited for did not happen.
#[derive(Debug, thiserror::Error)]
#[error("not seen within {waited:?}; the requests so far:\n{seen}")]
pub struct NotSeen {
    pub waited: Duration,
    /// A line for each request, without header values and queries.
    pub seen: String,
}

/// The list of requests; each change wakes all waiters.
#[derive(Debug, Default)]
pub(super) struct Recorder(watch::Sender<Log>);

#[derive(Debug, Default)]
struct Log {
    requests: Vec<Recorded>,
    /// The number of the first one: those before were taken out.
    first: usize,
}

impl Recorder {
    pub(super) fn add(&self, request: Recorded) -> usize {
        let mut number = 0;
        self.0.send_modify(|log| {
            number = log.first + log.requests.len();
            log.requests.push(request);
        });
        number
    }

    pub(super) fn update(&self, number: usize, change: impl FnOnce(&mut Recorded)) {
        self.0.send_modify(|log| {
            let place = number.checked_sub(log.first);
            if let Some(request) = place.and_then(|place| log.requests.get_mut(place)) {
                change(request);
            }
        });
    }

    pub(super) fn requests(&self) -> Vec<Recorded> {
        self.0.borrow().requests.clone()
    }

    pub(super) fn take_ended(&self) -> Vec<Recorded> {
        let mut taken = Vec::new();
        self.0.send_if_modified(|log| {
            let has_ended = |request: &&Recorded| request.ended_at.is_some();
            let ended = log.requests.iter().take_while(has_ended).count();
            taken.extend(log.requests.drain(..ended));
            log.first += ended;
            false
        });
        taken
    }

    pub(super) async fn wait_for(
        &self,
        mut seen: impl FnMut(&[Recorded]) -> bool,
        timeout: Duration,
    ) -> Result<Vec<Recorded>, NotSeen> {
        let mut receiver = self.0.subscribe();
        let waiting = receiver.wait_for(|log| seen(&log.requests));
        match tokio::time::timeout(timeout, waiting).await {
            Ok(Ok(log)) => Ok(log.requests.clone()),
            // The sender is `self`, so only the time can be over.
            Ok(Err(_)) | Err(_) => Err(NotSeen { waited: timeout, seen: self.summary() }),
        }
    }

    fn summary(&self) -> String {
        let line = |request: &Recorded| {
            let status = request.status.map(|status| status.to_string());
            let status = status.unwrap_or_else(|| "unanswered".to_owned());
            let id = request.parameter("id").unwrap_or_default();
            let Recorded { origin, method, path, body_bytes, .. } = request;
            format!("  {origin:?} {method} {path} {id} -> {status}, {body_bytes} bytes")
        };
        self.0.borrow().requests.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
