//! Fuzzed: `Retry-After`, a header that decides how long everything waits.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

use super::number;
use crate::domain::retry::RETRY_AFTER_CAP;
use crate::transport;

/// The last moment that is tried as now: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// A line each for the value, the answer's `Date`, and now in seconds.
pub fn retry_after(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let value = lines.next().unwrap_or_default();
    let date = lines.next().unwrap_or_default();
    let now: u64 =
        number(lines.next().and_then(|line| std::str::from_utf8(line).ok())).unwrap_or(0);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.min(LAST_SECOND));
    let mut headers = HeaderMap::new();
    for (name, bytes) in [(RETRY_AFTER, value), (DATE, date)] {
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            headers.insert(name, value);
        }
    }
    let pause = transport::retry_after(&headers, now);
    if let Some(pause) = pause {
        assert!(!pause.is_zero() && pause <= RETRY_AFTER_CAP, "{pause:?}");
    }
    let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    match text {
        None | Some("") => assert_eq!(pause, None, "nothing was asked for"),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            // Parsed in another way than the code does.
            let seconds = digits.bytes().fold(0_u64, |sum, digit| {
                sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            });
            let expected = (digits.len() <= 9 && seconds > 0)
                .then(|| Duration::from_secs(seconds).min(RETRY_AFTER_CAP));
            assert_eq!(pause, expected, "{digits}");
        }
        Some(date) => {
            let is_date = httpdate::parse_http_date(date).is_ok();
            assert!(is_date || pause.is_none(), "{date} is neither a number nor a date");
        }
    }
}
