//! The download call: from a file ID to a signed link, with credentials on the API's origin only.

use super::client::ApiClient;
use super::error::Refusal;
use crate::domain::failure::Hold;
use crate::domain::ids::FileId;
use crate::domain::text::shown;
use crate::transport::{DirectAnswer, Link, MAX_HOPS, SignedLink, is_redirect, redirect_target};

#[derive(Debug)]
pub enum LinkOutcome {
    /// Where the file is.
    Link(Link),
    /// The API refuses the download: there is no such file, or it is not available.
    Gone { cause: String, error_code: Option<String> },
    /// Nothing was learnt about this file; the hold says what waits.
    Held(Hold),
    /// A passing fault, in words that are safe to show.
    Fault(String),
}

impl ApiClient {
    /// Asks for the link of a file. It is valid for 20 minutes: ask once the part has its slot.
    pub async fn link(&self, file: &FileId) -> LinkOutcome {
        self.within(self.follow(file)).await.unwrap_or_else(LinkOutcome::Fault)
    }

    async fn follow(&self, file: &FileId) -> LinkOutcome {
        let mut url = self.download().with("id", file.as_str());
        let bearer = self.bearer();
        let mut hops_left = MAX_HOPS;
        loop {
            let response = match self.get(&url, &bearer, "*/*").await {
                Ok(response) => response,
                Err(error) => return LinkOutcome::Fault(self.unreachable(&url, &error)),
            };
            // Whether a 206 is the whole file is judged with the body.
            if matches!(response.status().as_u16(), 200 | 206) {
                return LinkOutcome::Link(Link::Direct(DirectAnswer(response)));
            }
            if !is_redirect(response.status()) {
                return outcome(self.refusal(response, &bearer).await);
            }
            let target = match redirect_target(url.as_url(), response.headers()) {
                Ok(target) => target,
                Err(words) => return LinkOutcome::Fault(format!("the API answered with {words}")),
            };
            let Some(left) = hops_left.checked_sub(1) else {
                return LinkOutcome::Fault(format!("the API redirects more than {MAX_HOPS} times"));
            };
            hops_left = left;
            match url.follow(target) {
                Ok(on_origin) => url = on_origin,
                Err(url) => {
                    return LinkOutcome::Link(Link::Signed(SignedLink { url, hops_left }));
                }
            }
        }
    }
}

fn outcome(refusal: Refusal) -> LinkOutcome {
    match refusal {
        Refusal::Held(hold) => LinkOutcome::Held(hold),
        Refusal::NotFound(refusal) | Refusal::Rejected(refusal) => LinkOutcome::Gone {
            // Each text is cut already; together they are cut once more.
            cause: shown(&refusal.cause("the API refuses the download"), &[]),
            error_code: Some(refusal.code),
        },
        Refusal::Fault(cause) => LinkOutcome::Fault(cause),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::{Api, ApiSettings};
    use crate::transport::testing::{Answer, RawServer, tls};

    pub(in crate::api) const REST_KEY: &str = "rest-k3y";
    pub(in crate::api) const PROJECT_KEY: &str = "pr0ject";
    pub(in crate::api) const EXPORT: &str = "export_1";

    pub(in crate::api) fn api_client(server: &RawServer) -> ApiClient {
        api_client_within(server, Duration::from_secs(10))
    }

    pub(in crate::api) fn api_client_within(server: &RawServer, limit: Duration) -> ApiClient {
        let settings = ApiSettings {
            base_url: server.url("/2.11").parse().unwrap(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: limit,
        };
        let api = Api::new(&settings, &tls()).unwrap();
        api.project(&PROJECT_KEY.parse().unwrap(), &REST_KEY.to_owned().into()).unwrap()
    }

    async fn link(server: &RawServer) -> LinkOutcome {
        let outcome = api_client(server).link(&"file_1".parse().unwrap()).await;
        let text = format!("{outcome:?}");
        for secret in [REST_KEY, PROJECT_KEY, "s3cr3t", "X-Sig"] {
            assert!(!text.contains(secret), "{text}");
        }
        outcome
    }

    async fn link_of(answer: Answer) -> LinkOutcome {
        link(&RawServer::start([answer]).await).await
    }

    #[tokio::test]
    async fn every_redirect_to_another_origin_is_a_link_and_is_not_followed() {
        for status in [301, 302, 303, 307, 308] {
            let elsewhere = RawServer::start([]).await;
            let target = elsewhere.url("/bucket/file?X-Sig=s3cr3t#top");
            let server = RawServer::start([Answer::redirect(status, &target)]).await;
            let LinkOutcome::Link(Link::Signed(signed)) = link(&server).await else {
                panic!("{status}")
            };
            assert_eq!(signed.url.expose().as_str(), elsewhere.url("/bucket/file?X-Sig=s3cr3t"));
            assert_eq!(signed.hops_left, MAX_HOPS - 1);
            assert_eq!(elsewhere.heads().len(), 0);
            assert!(server.heads()[0].starts_with("get /2.11/exports/download?id=file_1 "));
        }
    }

    #[tokio::test]
    async fn hops_on_the_apis_origin_carry_the_credentials_and_are_counted() {
        let mut answers =
            vec![Answer::redirect(307, "/2.12/other?x=1"), Answer::redirect(302, "next")];
        answers.push(Answer::redirect(307, "https://store.example/file?X-Sig=s3cr3t"));
        let server = RawServer::start(answers).await;
        let LinkOutcome::Link(Link::Signed(signed)) = link(&server).await else { panic!() };
        assert_eq!(signed.hops_left, MAX_HOPS - 3);
        let heads = server.heads();
        assert!(heads[1].starts_with("get /2.12/other?x=1 "), "{}", heads[1]);
        assert!(heads[2].starts_with("get /2.12/next "), "{}", heads[2]);
        assert!(heads.iter().all(|head| head.contains("authorization: bearer rest-k3y")));
    }

    #[tokio::test]
    async fn a_redirect_loop_ends() {
        let server = RawServer::start((0..10).map(|_| Answer::redirect(307, "/again"))).await;
        let LinkOutcome::Fault(cause) = link(&server).await else { panic!() };
        assert!(cause.contains("more than 5"), "{cause}");
        assert_eq!(server.heads().len(), usize::from(MAX_HOPS) + 1);
    }

    #[tokio::test]
    async fn a_bad_location_is_a_fault() {
        for headers in [
            "",
            "location: https://user:s3cr3t@store.example/\r\n",
            "location: https://[/s3cr3t\r\n",
            "location: https://a.example/\r\nlocation: https://b.example/\r\n",
        ] {
            let outcome = link_of(Answer::with(307, headers, b"")).await;
            assert!(matches!(outcome, LinkOutcome::Fault(_)), "{headers}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn other_answers_are_classified() {
        let own = br#"{"error_code":"SOME_CODE","error_message":"for rest-k3y"}"#;
        let lost = br#"{"error_code":"ROUTE_NOT_FOUND","error_message":""}"#;
        for status in [400, 404, 410] {
            let LinkOutcome::Gone { cause, error_code } =
                link_of(Answer::with(status, "", own)).await
            else {
                panic!("{status}");
            };
            assert_eq!(error_code.as_deref(), Some("SOME_CODE"));
            let expected = format!("the API refuses the download (HTTP {status}): for [hidden]");
            assert_eq!(cause, expected);
        }
        let unauthorized = Hold::Unauthorized { status: 403 };
        for (status, body, hold) in
            [(404, &lost[..], Hold::RouteNotFound), (403, own, unauthorized)]
        {
            let outcome = link_of(Answer::with(status, "", body)).await;
            assert!(matches!(&outcome, LinkOutcome::Held(held) if *held == hold), "{outcome:?}");
        }
        for answer in [
            Answer::with(404, "", b"<html>"),
            Answer::with(500, "", own),
            Answer::with(304, "", b""),
        ] {
            let outcome = link_of(answer).await;
            assert!(matches!(outcome, LinkOutcome::Fault(_)), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_200_is_the_file_itself_and_a_206_may_be() {
        let whole = Answer::with(206, "content-range: bytes 0-1/2\r\n", b"[]");
        let outcome = link_of(whole).await;
        assert!(matches!(outcome, LinkOutcome::Link(Link::Direct(_))), "{outcome:?}");
        let server = RawServer::start([Answer::ok(b"[]")]).await;
        let outcome = link(&server).await;
        let LinkOutcome::Link(Link::Direct(direct)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(server.url(""), format!("http://{}", direct.host()));
        assert_eq!(format!("{direct:?}"), format!("DirectAnswer({}, 200)", direct.host()));
    }
}
