//! `Retry-After`, RFC 9110 section 10.2.3: seconds, or a date relative to the answer's `Date`.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::domain::retry::RETRY_AFTER_CAP;

/// Most digits of a number of seconds; a longer one counts as absent.
const MAX_DIGITS: usize = 9;

pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    parse_retry_after(text(RETRY_AFTER)?, text(DATE), now)
}

/// A date counts from `date`, the answer's clock, or else from `now`. `None` for zero, the past and
/// an invalid value; at most [`RETRY_AFTER_CAP`].
pub fn parse_retry_after(value: &str, date: Option<&str>, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let pause = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        (value.len() <= MAX_DIGITS)
            .then(|| value.parse().ok().map(Duration::from_secs))
            .flatten()?
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        let from = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
        until.duration_since(from).ok()?
    };
    (!pause.is_zero()).then(|| pause.min(RETRY_AFTER_CAP))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: &str = "Sun, 06 Nov 1994 12:00:00 GMT";
    const HALF_PAST: &str = "Sun, 06 Nov 1994 12:30:00 GMT";

    #[test]
    fn seconds_and_dates_are_read_and_anything_else_counts_as_absent() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 12:20:00 GMT").unwrap();
        for (value, date, seconds) in [
            ("30", None, Some(30)),
            (" 30 ", None, Some(30)),
            ("007", None, Some(7)),
            ("0", None, None),
            ("3600", None, Some(3600)),
            ("999999999", None, Some(3600)),
            ("1000000000", None, None),
            ("-1", None, None),
            ("+5", None, None),
            ("1.5", None, None),
            ("", None, None),
            ("soon", None, None),
            (HALF_PAST, Some(NOON), Some(1800)),
            (HALF_PAST, None, Some(600)),
            (HALF_PAST, Some("yesterday"), Some(600)),
            (NOON, Some(HALF_PAST), None),
            (NOON, Some(NOON), None),
            ("Sun, 06 Nov 9994 12:30:00 GMT", Some(NOON), Some(3600)),
        ] {
            let pause = parse_retry_after(value, date, now).map(|pause| pause.as_secs_f64());
            assert_eq!(pause, seconds.map(f64::from), "{value:?} {date:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_or_exceeds_the_cap(value in "\\PC{0,30}", date in "\\PC{0,30}") {
            let pause = parse_retry_after(&value, Some(&date), SystemTime::UNIX_EPOCH);
            prop_assert!(pause.is_none_or(|pause| !pause.is_zero() && pause <= RETRY_AFTER_CAP));
        }
    }
}
