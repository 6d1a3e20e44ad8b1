//! What is answered to the n-th request for an export, a link or a blob; the last step of a list
//! repeats.

use super::canned::Canned;
use super::content::Content;
use super::script::SimFile;

/// The answer to one view call.
#[derive(Debug, Clone, PartialEq)]
pub enum ViewStep {
    /// This status, without a `files` field.
    Status(String),
    /// SUCCESS with these files.
    Success(Vec<SimFile>),
    /// Another status that lists files, or the API's word for it misspelt.
    Listed {
        /// The status.
        status: String,
        /// The files.
        files: Vec<SimFile>,
    },
    /// Exactly this answer.
    Answer(Canned),
    /// Waits for [`super::Simulator::release`] of the export's ID, then is the step within.
    Held(Box<Self>),
}

impl ViewStep {
    /// This status, without a `files` field.
    #[must_use]
    pub fn status(word: &str) -> Self {
        Self::Status(word.to_owned())
    }

    /// The files this step lists.
    #[must_use]
    pub fn files(&self) -> &[SimFile] {
        match self {
            Self::Success(files) | Self::Listed { files, .. } => files,
            Self::Held(step) => step.files(),
            Self::Status(_) | Self::Answer(_) => &[],
        }
    }
}

/// The answer to one download call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStep {
    /// 307 to a fresh signed link.
    Redirect,
    /// Another redirect. In `location`, `{link}` stands for a fresh signed link, `{authority}` for
    /// its host and port, `{path}` for its path and query; without any of them the text is sent as
    /// it is.
    RedirectWith {
        /// HTTP status.
        status: u16,
        /// The template of the `Location`.
        location: String,
    },
    /// 307 to a path on the API itself, without an origin, which answers with 307 to a fresh signed
    /// link.
    RelativeHop,
    /// 200 with the file itself, as the store would serve it.
    Direct,
    /// Exactly this answer.
    Answer(Canned),
    /// Waits for [`super::Simulator::release`] of the file's ID, then is the step within.
    Held(Box<Self>),
}

/// The answer to one blob request whose link is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreStep {
    /// The file, more or less well.
    Serve(Serving),
    /// 403, as for a link whose time is over.
    ExpiredLink,
    /// Exactly this answer.
    Answer(Canned),
}

impl From<Serving> for StoreStep {
    fn from(serving: Serving) -> Self {
        Self::Serve(serving)
    }
}

impl From<Canned> for StoreStep {
    fn from(canned: Canned) -> Self {
        Self::Answer(canned)
    }
}

/// A place in the body of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// After so many bytes.
    Bytes(u64),
    /// After so many thousandths of the body, whatever range of the file it is; below 1000 it is
    /// never the end.
    Permille(u16),
}

impl Place {
    /// In bytes, for a body of `whole_bytes`; never behind its end.
    #[must_use]
    pub fn in_body(self, whole_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.min(whole_bytes),
            Self::Permille(share) => {
                let bytes = u128::from(whole_bytes) * u128::from(share) / 1000;
                u64::try_from(bytes).map_or(whole_bytes, |bytes| bytes.min(whole_bytes))
            }
        }
    }
}

impl From<u64> for Place {
    fn from(bytes: u64) -> Self {
        Self::Bytes(bytes)
    }
}

/// How the store sends a file; [`Serving::well`] is what a healthy one does. Bytes count the body
/// of this one answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    /// Sent instead of the file's own content, with its own ETag and without the file's checksums.
    pub other_content: Option<Content>,
    /// Answers 200 with the whole file to a request for a range.
    pub ignores_range: bool,
    /// Answers a request for a range with that range although the file is not the one that
    /// `If-Range` speaks of.
    pub ignores_if_range: bool,
    /// Sends chunks, and no `Content-Length`.
    pub chunked: bool,
    /// A `Content-Length` that is not the truth: a larger one ends in a closed connection, a
    /// smaller one cuts the body.
    pub claimed_length: Option<u64>,
    /// Closes the connection there, in the middle of the body.
    pub cut_after: Option<Place>,
    /// There waits for [`super::Simulator::release`] of the file's ID, then goes on.
    pub stall_after: Option<Place>,
    /// Waits for [`super::Simulator::release`] of the file's ID before the head of the answer.
    pub held: bool,
    /// Bytes per second; wins over the file's own.
    pub bytes_per_second: Option<u64>,
    /// Headers to send besides; a name that the answer has already is replaced.
    pub headers: Vec<(String, String)>,
}

impl Serving {
    /// As a healthy store does.
    #[must_use]
    pub fn well() -> Self {
        Self::default()
    }

    /// See [`Serving::other_content`].
    #[must_use]
    pub fn other_content(mut self, content: impl Into<Content>) -> Self {
        self.other_content = Some(content.into());
        self
    }

    /// See [`Serving::ignores_range`].
    #[must_use]
    pub fn ignoring_range(mut self) -> Self {
        self.ignores_range = true;
        self
    }

    /// See [`Serving::ignores_if_range`].
    #[must_use]
    pub fn ignoring_if_range(mut self) -> Self {
        self.ignores_if_range = true;
        self
    }

    /// See [`Serving::chunked`].
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// See [`Serving::claimed_length`].
    #[must_use]
    pub fn claiming_length(mut self, bytes: u64) -> Self {
        self.claimed_length = Some(bytes);
        self
    }

    /// See [`Serving::cut_after`].
    #[must_use]
    pub fn cut_after(mut self, place: impl Into<Place>) -> Self {
        self.cut_after = Some(place.into());
        self
    }

    /// See [`Serving::stall_after`].
    #[must_use]
    pub fn stall_after(mut self, place: impl Into<Place>) -> Self {
        self.stall_after = Some(place.into());
        self
    }

    /// See [`Serving::held`].
    #[must_use]
    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// See [`Serving::bytes_per_second`].
    #[must_use]
    pub fn bytes_per_second(mut self, rate: u64) -> Self {
        self.bytes_per_second = Some(rate);
        self
    }

    /// See [`Serving::headers`].
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
