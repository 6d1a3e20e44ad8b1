//! Gives `crate::fuzzing` access to private items of this room.

use url::Url;

use super::url::ApiUrl;
use super::wire;
use crate::domain::ids::ExportId;
use crate::domain::report::Report;

pub(crate) fn parse_view(
    body: &[u8],
    asked: &ExportId,
    secrets: &[&str],
) -> Result<Report, String> {
    wire::parse_view(body, asked, secrets).map_err(|error| error.to_string())
}

/// A URL that is requested with credentials.
pub(crate) struct Credentialed(ApiUrl);

impl Credentialed {
    /// The download call of the API at `base`.
    pub(crate) fn download(base: &Url, file: &str) -> Option<Self> {
        Some(Self(ApiUrl::endpoint(base, "download").ok()?.with("id", file)))
    }

    pub(crate) fn url(&self) -> &Url {
        self.0.as_url()
    }

    /// Follows a redirect on this origin; returns a target on another one as the error.
    pub(crate) fn follow(&self, target: Url) -> Result<Self, Url> {
        self.0.follow(target).map(Self)
    }
}
