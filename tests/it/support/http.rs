//! A plain client, to ask the simulator what the program would ask.

use std::sync::Once;
use std::time::Duration;

use reqwest::redirect::Policy;
use serde_json::Value;

use super::PATIENCE;

/// What came back; `whole` tells whether the body ended as its framing promised.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) whole: bool,
}

impl Answer {
    /// A header's first value, empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client that asks nobody's proxy.
pub(crate) fn client(timeout: Duration) -> reqwest::Client {
    static CRYPTO: Once = Once::new();
    CRYPTO.call_once(|| {
        // Installed by somebody else already is just as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    let builder = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(timeout);
    builder.build().expect("a client without settings that could be wrong")
}

/// One GET, redirects not followed; `Err` where no head came back.
#[expect(clippy::disallowed_methods, reason = "the simulator's keys and links are made up")]
pub(crate) async fn try_get(url: &str, headers: &[(&str, &str)]) -> Result<Answer, reqwest::Error> {
    let mut request = client(PATIENCE).get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.send().await?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let mut answer =
        Answer { status: response.status().as_u16(), headers, body: Vec::new(), whole: false };
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => answer.body.extend_from_slice(&chunk),
            Ok(None) => {
                answer.whole = true;
                return Ok(answer);
            }
            Err(_) => return Ok(answer),
        }
    }
}

/// As [`try_get`], where there has to be an answer.
pub(crate) async fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    try_get(url, headers).await.expect("an answer")
}
