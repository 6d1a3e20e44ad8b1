//! An answer that does not depend on the request: status, headers, body.

use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canned {
    pub status: u16,
    /// Headers, in order; `Date` and the framing are added if they are missing.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Canned {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.into() }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub fn api_error(status: u16, error_code: &str, error_message: &str) -> Self {
        Self::json(status, &json!({ "error_code": error_code, "error_message": error_message }))
    }

    pub fn throttled(retry_after: Option<&str>) -> Self {
        Self::api_error(429, "TOO_MANY_REQUESTS", "Too many requests.")
            .with_retry_after(retry_after)
    }

    pub fn unavailable(retry_after: Option<&str>) -> Self {
        Self::api_error(503, "MAINTENANCE", "Down for maintenance, please try again later.")
            .with_retry_after(retry_after)
    }

    /// The page of a gateway in between.
    pub fn html(status: u16) -> Self {
        let page = "<!doctype html><title>Gateway</title><p>Not the API.</p>";
        Self::new(status, "text/html; charset=utf-8", page)
    }

    /// The error document of an S3-like store.
    pub fn store_error(status: u16, code: &str, message: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Error><Code>{code}</Code><Message>{message}</Message></Error>"
        );
        Self::new(status, "application/xml", body)
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        let headers = vec![("location".to_owned(), location.to_owned())];
        Self { status, headers, body: Vec::new() }
    }

    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn with_retry_after(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with_header("retry-after", value),
            None => self,
        }
    }
}
