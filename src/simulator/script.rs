//! What the simulator plays: projects, their exports and files, as plain values.
//!
//! The keys in a script are made up; none is a secret, and `Debug` shows them.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::canned::Canned;
use super::content::Content;
use super::steps::{LinkStep, StoreStep};
use crate::domain::checksum::Algorithm;

/// How long a signed link lives: 20 minutes by the API's documentation.
const LINK_LIFETIME: Duration = Duration::from_secs(20 * 60);
/// When exports were requested by default: fixed, so that answers stay the same.
const REQUEST_DATE: Timestamp = Timestamp::constant(1_767_600_000, 0);

#[derive(Debug, Clone)]
pub struct Script {
    pub projects: Vec<SimProject>,
    pub link_lifetime: Duration,
    /// The origin in signed links, if it is not the store's own: a proxy in front of it.
    pub link_origin: Option<String>,
    /// Waited before each answer of the API, to look like a network.
    pub latency: Duration,
}

impl Script {
    pub fn new(projects: Vec<SimProject>) -> Self {
        Self { projects, link_lifetime: LINK_LIFETIME, link_origin: None, latency: Duration::ZERO }
    }

    pub fn with_link_lifetime(self, lifetime: Duration) -> Self {
        Self { link_lifetime: lifetime, ..self }
    }

    pub fn with_latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }
}

#[derive(Debug, Clone)]
pub struct SimProject {
    /// The value of `X-Batch-Project`.
    pub project_key: String,
    pub rest_api_key: String,
    /// Its exports, newest first.
    pub exports: Vec<SimExport>,
}

impl SimProject {
    pub fn new(project_key: &str, rest_api_key: &str, exports: Vec<SimExport>) -> Self {
        Self { project_key: project_key.to_owned(), rest_api_key: rest_api_key.to_owned(), exports }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct SimExport {
    pub id: String,
    pub scope: String,
    pub request: Value,
    /// When it was requested; it starts six seconds later and ends after six more.
    pub request_date: Timestamp,
    /// The answers to view calls, in order; an empty list is a 404.
    pub views: Vec<ViewStep>,
    /// Files that can be downloaded although no view step lists them.
    pub unlisted: Vec<SimFile>,
}

impl SimExport {
    /// An export of attributes whose view calls get these steps.
    pub fn new(id: &str, views: Vec<ViewStep>) -> Self {
        Self {
            id: id.to_owned(),
            scope: "PROFILE_ATTRIBUTES".to_owned(),
            request: json!({
                "export_type": "ATTRIBUTES",
                "attributes": ["$region", "$language"],
                "identifiers": ["custom_id"],
            }),
            request_date: REQUEST_DATE,
            views,
            unlisted: Vec::new(),
        }
    }

    /// CREATED, PENDING, RUNNING, then SUCCESS with these files.
    pub fn succeeding(id: &str, files: Vec<SimFile>) -> Self {
        let mut views: Vec<_> = ["CREATED", "PENDING", "RUNNING"].map(ViewStep::status).into();
        views.push(ViewStep::Success(files));
        Self::new(id, views)
    }

    /// SUCCESS with these files from the first call on.
    pub fn finished(id: &str, files: Vec<SimFile>) -> Self {
        Self::new(id, vec![ViewStep::Success(files)])
    }

    /// CREATED, RUNNING, then ERROR.
    pub fn failing(id: &str) -> Self {
        Self::new(id, ["CREATED", "RUNNING", "ERROR"].map(ViewStep::status).into())
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &SimFile> {
        self.views.iter().flat_map(ViewStep::files).chain(&self.unlisted)
    }

    /// The answer's body for this status, with these files.
    pub fn report(&self, status: &str, files: Option<&[SimFile]>, api_base_url: &str) -> Value {
        let started = matches!(status, "RUNNING" | "SUCCESS" | "ERROR");
        let ended = matches!(status, "SUCCESS" | "ERROR");
        let mut report = json!({
            "id": self.id,
            "request_date": self.request_date,
            "scope": self.scope,
            "status": status,
            "request": self.request,
        });
        if started {
            report["start_date"] = json!(self.request_date + 6.seconds());
        }
        if ended {
            report["completion_date"] = json!(self.request_date + 12.seconds());
        }
        if let Some(files) = files {
            report["files"] = files.iter().map(|file| file.row(api_base_url)).collect();
        }
        report
    }
}

/// The answer to the n-th view call; the last step of a list repeats.
#[derive(Debug, Clone, PartialEq)]
pub enum ViewStep {
    /// This status, without a `files` field.
    Status(String),
    Success(Vec<SimFile>),
    /// Another status that lists files, or the API's word for it misspelt.
    Listed {
        status: String,
        files: Vec<SimFile>,
    },
    Answer(Canned),
    /// Waits for [`super::Simulator::release`] of the export's ID, then is the step within.
    Held(Box<Self>),
}

impl ViewStep {
    pub fn status(word: &str) -> Self {
        Self::Status(word.to_owned())
    }

    pub fn files(&self) -> &[SimFile] {
        match self {
            Self::Success(files) | Self::Listed { files, .. } => files,
            Self::Held(step) => step.files(),
            Self::Status(_) | Self::Answer(_) => &[],
        }
    }
}

/// The `size` that a view declares for a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Declared {
    True,
    Bytes(u64),
    Absent,
    Raw(Value),
}

#[derive(Debug, Clone, PartialEq)]
pub struct SimFile {
    /// Its ID; one ID is one file in the whole simulator, the last one registered counts.
    pub id: String,
    pub part: Option<u64>,
    pub declared: Declared,
    /// The `url` in its row, if it is not the download call.
    pub url: Option<String>,
    pub content: Content,
    pub etag: Etag,
    pub content_type: String,
    pub checksums: Vec<SentChecksum>,
    /// How fast the store sends it, in bytes per second; `None` is as fast as can be.
    pub bytes_per_second: Option<u64>,
    /// What each download call gets; none is [`LinkStep::Redirect`].
    pub link_steps: Vec<LinkStep>,
    /// What each request to the store gets; none is to serve it well.
    pub store_steps: Vec<StoreStep>,
}

impl SimFile {
    pub fn new(id: &str, part: u64, content: impl Into<Content>) -> Self {
        Self {
            id: id.to_owned(),
            part: Some(part),
            declared: Declared::True,
            url: None,
            content: content.into(),
            etag: Etag::Strong,
            content_type: "application/json".to_owned(),
            checksums: Vec::new(),
            bytes_per_second: None,
            link_steps: Vec::new(),
            store_steps: Vec::new(),
        }
    }

    /// A healthy file of generated JSON, whose seed is its part number.
    pub fn generated(id: &str, part: u64, bytes: u64) -> Self {
        Self::new(id, part, Content::Generated { bytes, seed: part })
    }

    pub fn declaring(self, declared: Declared) -> Self {
        Self { declared, ..self }
    }

    pub fn with_checksum(mut self, checksum: SentChecksum) -> Self {
        self.checksums.push(checksum);
        self
    }

    pub fn with_etag(self, etag: Etag) -> Self {
        Self { etag, ..self }
    }

    pub fn with_bytes_per_second(self, rate: u64) -> Self {
        Self { bytes_per_second: Some(rate), ..self }
    }

    /// The next download call gets this.
    pub fn on_link(mut self, step: LinkStep) -> Self {
        self.link_steps.push(step);
        self
    }

    /// The next request to the store gets this.
    pub fn on_fetch(mut self, step: impl Into<StoreStep>) -> Self {
        self.store_steps.push(step.into());
        self
    }

    fn row(&self, api_base_url: &str) -> Value {
        let download = || format!("{api_base_url}/exports/download?id={}", self.id);
        let url = self.url.clone().unwrap_or_else(download);
        let mut row = json!({ "id": self.id, "url": url });
        if let Some(part) = self.part {
            row["part"] = part.into();
        }
        match &self.declared {
            Declared::True => row["size"] = self.content.len_bytes().into(),
            Declared::Bytes(bytes) => row["size"] = (*bytes).into(),
            Declared::Absent => {}
            Declared::Raw(value) => row["size"] = value.clone(),
        }
        row
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Etag {
    /// One that ranges can rely on.
    Strong,
    Weak,
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumHeader {
    /// `Content-MD5`, whole answers only.
    ContentMd5,
    Digest,
    ReprDigest,
    /// `Content-Digest`, whole answers only.
    ContentDigest,
    GoogHash,
    /// `x-amz-checksum-…`, whole answers only.
    AmzChecksum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentChecksum {
    pub header: ChecksumHeader,
    pub algorithm: Algorithm,
    /// Whether it is the content's; otherwise it is wrong in one bit.
    pub correct: bool,
}

impl SentChecksum {
    pub fn correct(header: ChecksumHeader, algorithm: Algorithm) -> Self {
        Self { header, algorithm, correct: true }
    }

    pub fn wrong(header: ChecksumHeader, algorithm: Algorithm) -> Self {
        Self { header, algorithm, correct: false }
    }
}
