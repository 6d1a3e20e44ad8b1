//! A URL on the API's origin: only such a URL is requested with credentials.

use url::Url;

use crate::transport::{ClientError, SecretUrl, host_of, same_origin};

#[derive(Clone)]
pub(crate) struct ApiUrl(Url);

impl ApiUrl {
    /// A call of the API at `base`.
    pub(crate) fn endpoint(base: &Url, call: &str) -> Result<Self, ClientError> {
        let mut url = base.clone();
        url.path_segments_mut()
            .map_err(|()| ClientError("base_url has no path to append to".to_owned()))?
            .pop_if_empty()
            .extend(["exports", call]);
        Ok(Self(url))
    }

    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut url = self.0.clone();
        url.query_pairs_mut().append_pair(name, value);
        Self(url)
    }

    /// Follows a redirect on this origin; returns a target on another one as the error.
    pub(crate) fn follow(&self, target: SecretUrl) -> Result<Self, SecretUrl> {
        let url = target.expose();
        if same_origin(&self.0, url) { Ok(Self(url.clone())) } else { Err(target) }
    }

    pub(crate) fn host(&self) -> String {
        host_of(&self.0)
    }

    pub(crate) fn as_url(&self) -> &Url {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_in_base_url_changes_nothing() {
        for base in ["https://api.example/2.11", "https://api.example/2.11/"] {
            let url = ApiUrl::endpoint(&base.parse().unwrap(), "view").unwrap().with("id", "a");
            assert_eq!(url.as_url().as_str(), "https://api.example/2.11/exports/view?id=a");
        }
        assert!(ApiUrl::endpoint(&"data:x".parse().unwrap(), "view").is_err());
    }
}
