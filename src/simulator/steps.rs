//! The answers to the n-th download call and store request for a file. The last one repeats.

use super::canned::Canned;
use super::content::Content;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStep {
    /// 307 to a fresh signed link.
    Redirect,
    /// Another redirect. In `location`, `{link}` stands for a fresh signed link, `{authority}` for
    /// its host and port, and `{path}` for its path and query.
    RedirectWith {
        status: u16,
        location: String,
    },
    /// 307 to a path on the API itself, without an origin; from there 307 to a fresh signed link.
    RelativeHop,
    /// 200 with the file itself, as the store would serve it.
    Direct,
    Answer(Canned),
    /// Waits for [`super::Simulator::release`] of the file's ID, then is the step within.
    Held(Box<Self>),
}

/// The answer to one blob request whose link is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreStep {
    Serve(Serving),
    /// 403, as for a link whose time is over.
    ExpiredLink,
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
    Bytes(u64),
    /// After this many thousandths of the body; below 1000 never at its end.
    Permille(u16),
}

impl Place {
    /// In bytes, for a body of `whole_bytes`; never behind its end.
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

/// How the store sends a file. Bytes count the body of this one answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    /// Sent instead of the file's own content, with its own ETag and without the file's checksums.
    pub other_content: Option<Content>,
    /// Answers 200 with the whole file to a request for a range.
    pub ignores_range: bool,
    /// Answers a request for a range with that range although `If-Range` does not match.
    pub ignores_if_range: bool,
    /// Sends chunks, and no `Content-Length`.
    pub chunked: bool,
    /// A wrong `Content-Length`: a larger one ends in a closed connection, a smaller one cuts.
    pub claimed_length: Option<u64>,
    /// Closes the connection there, in the middle of the body.
    pub cut_after: Option<Place>,
    /// Waits there for [`super::Simulator::release`] of the file's ID, then continues.
    pub stall_after: Option<Place>,
    /// Waits for [`super::Simulator::release`] of the file's ID before the head of the answer.
    pub held: bool,
    /// Bytes per second; wins over the file's own.
    pub bytes_per_second: Option<u64>,
    /// Headers to send besides; a name that the answer has already is replaced.
    pub headers: Vec<(String, String)>,
}

impl Serving {
    pub fn well() -> Self {
        Self::default()
    }

    pub fn other_content(self, content: impl Into<Content>) -> Self {
        Self { other_content: Some(content.into()), ..self }
    }

    pub fn ignoring_range(self) -> Self {
        Self { ignores_range: true, ..self }
    }

    pub fn ignoring_if_range(self) -> Self {
        Self { ignores_if_range: true, ..self }
    }

    pub fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }

    pub fn claiming_length(self, bytes: u64) -> Self {
        Self { claimed_length: Some(bytes), ..self }
    }

    pub fn cut_after(self, place: impl Into<Place>) -> Self {
        Self { cut_after: Some(place.into()), ..self }
    }

    pub fn stall_after(self, place: impl Into<Place>) -> Self {
        Self { stall_after: Some(place.into()), ..self }
    }

    pub fn held(self) -> Self {
        Self { held: true, ..self }
    }

    pub fn bytes_per_second(self, rate: u64) -> Self {
        Self { bytes_per_second: Some(rate), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
