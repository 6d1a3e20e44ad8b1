//! What an unwanted answer means: who has to wait, what is refused, what is a passing fault.

use std::time::Duration;

use serde::Deserialize;

use super::wire::without_bom;
use crate::domain::failure::{ApiRefusal, Hold};
use crate::domain::text::shown;

/// The code of a 4xx answer that means that `base_url` is wrong.
const ROUTE_NOT_FOUND: &str = "ROUTE_NOT_FOUND";

/// An unwanted answer, classified. All texts are safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Held(Hold),
    NotFound(ApiRefusal),
    /// Another 4xx with the API's own error.
    Rejected(ApiRefusal),
    Fault(String),
}

/// The API's own error, as it spells it.
#[derive(Deserialize)]
struct ErrorBody {
    error_code: Option<String>,
    error_message: Option<String>,
}

/// Whether an answer with this status makes more than this call wait, whatever its body says.
pub(super) fn hold(status: u16, retry_after: Option<Duration>) -> Option<Hold> {
    match status {
        429 => Some(Hold::Throttled { retry_after }),
        503 => Some(Hold::Unavailable { retry_after }),
        401 | 403 => Some(Hold::Unauthorized { status }),
        _ => None,
    }
}

/// Classifies an unwanted answer. `body` may be anything; `secrets` are removed from its words.
pub(super) fn classify(
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
    secrets: &[&str],
) -> Refusal {
    if let Some(hold) = hold(status, retry_after) {
        return Refusal::Held(hold);
    }
    let own = own_error(status, body, secrets);
    match (status, own) {
        (408 | ..400 | 500.., None) => Refusal::Fault(format!("the API answered {status}")),
        (408 | ..400 | 500.., Some(error)) => {
            Refusal::Fault(format!("the API answered {status} ({}: {})", error.code, error.message))
        }
        // A proxy can answer like this too: without the API's own error it proves nothing.
        (_, None) => Refusal::Fault(format!("the API answered {status} without an error_code")),
        (_, Some(error)) if error.code == ROUTE_NOT_FOUND => Refusal::Held(Hold::RouteNotFound),
        (404, Some(error)) => Refusal::NotFound(error),
        (_, Some(error)) => Refusal::Rejected(error),
    }
}

fn own_error(status: u16, body: &[u8], secrets: &[&str]) -> Option<ApiRefusal> {
    let body = without_bom(body);
    // An array would pass for the struct, by position.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    let code = body.error_code.filter(|code| !code.is_empty())?;
    Some(ApiRefusal {
        status,
        code: shown(&code, secrets),
        message: shown(&body.error_message.unwrap_or_default(), secrets),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OWN: &[u8] = br#"{"error_code":"SOME_CODE","error_message":"words"}"#;

    fn word(refusal: &Refusal) -> &'static str {
        match refusal {
            Refusal::Held(Hold::Throttled { .. }) => "throttled",
            Refusal::Held(Hold::Unavailable { .. }) => "unavailable",
            Refusal::Held(Hold::Unauthorized { .. }) => "unauthorized",
            Refusal::Held(_) => "held otherwise",
            Refusal::NotFound(_) => "not found",
            Refusal::Rejected(_) => "rejected",
            Refusal::Fault(_) => "fault",
        }
    }

    fn by_word(body: &[u8]) -> BTreeMap<&'static str, Vec<u16>> {
        let mut table = BTreeMap::<_, Vec<u16>>::new();
        for status in 100..600 {
            table.entry(word(&classify(status, None, body, &[]))).or_default().push(status);
        }
        table
    }

    #[test]
    fn of_all_status_codes_exactly_these_are_more_than_a_passing_fault() {
        let mut own = by_word(OWN);
        assert_eq!(own.remove("throttled").unwrap(), [429]);
        assert_eq!(own.remove("unavailable").unwrap(), [503]);
        assert_eq!(own.remove("unauthorized").unwrap(), [401, 403]);
        assert_eq!(own.remove("not found").unwrap(), [404]);
        let rejected: Vec<u16> =
            (400..500).filter(|status| ![401, 403, 404, 408, 429].contains(status)).collect();
        assert_eq!(own.remove("rejected").unwrap(), rejected);
        let fault: Vec<u16> =
            (100..400).chain([408]).chain((500..600).filter(|status| *status != 503)).collect();
        assert_eq!(own.remove("fault").unwrap(), fault);
        assert!(own.is_empty(), "{own:?}");
    }

    #[test]
    fn without_the_apis_own_error_nothing_is_permanent() {
        for body in [
            &b""[..],
            b"<html>404</html>",
            b"{}",
            b"null",
            br#"["SOME_CODE","words"]"#,
            br#"{"error_code":""}"#,
            br#"{"error_code":null}"#,
            br#"{"error_code":404}"#,
            br#"{"error_code":"SOME_CODE""#,
            b"\xff\xfe",
        ] {
            let table = by_word(body);
            let words: Vec<_> = table.keys().copied().collect();
            let text = String::from_utf8_lossy(body);
            assert_eq!(words, ["fault", "throttled", "unauthorized", "unavailable"], "{text}");
        }
    }

    #[test]
    fn an_unknown_route_holds_the_origin() {
        let body = br#"{"error_code":"ROUTE_NOT_FOUND","error_message":"?"}"#;
        assert_eq!(classify(404, None, body, &[]), Refusal::Held(Hold::RouteNotFound));
        assert_eq!(word(&classify(500, None, body, &[])), "fault");
    }

    #[test]
    fn a_hold_carries_its_retry_after() {
        let pause = Some(Duration::from_secs(30));
        assert_eq!(hold(429, pause), Some(Hold::Throttled { retry_after: pause }));
        assert_eq!(hold(503, pause), Some(Hold::Unavailable { retry_after: pause }));
        assert_eq!(hold(500, pause), None);
    }

    #[test]
    fn secrets_and_control_characters_never_leave_a_refusal() {
        let body = br#"{"error_code":"BAD\u0007k3y","error_message":"key k3y of pr0ject\n"}"#;
        for status in [400, 404, 500] {
            let text = format!("{:?}", classify(status, None, body, &["k3y", "pr0ject"]));
            assert!(text.contains("key [hidden] of [hidden]"), "{text}");
            assert!(!text.contains("k3y") && !text.contains("pr0ject"), "{text}");
        }
    }
}
