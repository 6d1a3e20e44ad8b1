//! The format of the metrics: the one that `Accept` prefers, OpenMetrics if it has no preference.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use crate::meters::Format;

struct Offer {
    kind: &'static str,
    subtype: &'static str,
    version: &'static str,
}

const OPEN_METRICS: Offer =
    Offer { kind: "application", subtype: "openmetrics-text", version: "1.0.0" };
const TEXT: Offer = Offer { kind: "text", subtype: "plain", version: "0.0.4" };

/// How closely a range of types names a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    Anything,
    Kind,
    Type,
    Version,
}

/// Never refuses: a client that cannot read the format says so itself.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let values = || headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = || values().flat_map(|value| value.split(','));
    let quality = |offer: &Offer| {
        let fitting = ranges().filter_map(|range| offer.quality(range));
        fitting.max_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)))
    };
    let (open_metrics, text) = (quality(&OPEN_METRICS), quality(&TEXT));
    let of = |found: Option<(Closeness, f32)>| found.map_or(0.0, |(_, quality)| quality);
    if of(text) > of(open_metrics) { Format::Text } else { Format::OpenMetrics }
}

impl Offer {
    /// How closely a range of types names this one, and its quality; `None` if it does not match.
    fn quality(&self, range: &str) -> Option<(Closeness, f32)> {
        let mut fields = range.split(';').map(str::trim);
        let (kind, subtype) = fields.next()?.split_once('/')?;
        let is = |one: &str, other: &str| one.trim().eq_ignore_ascii_case(other);
        let mut closeness = match (kind.trim(), subtype.trim()) {
            ("*", "*") => Closeness::Anything,
            (kind, "*") if is(kind, self.kind) => Closeness::Kind,
            (kind, subtype) if is(kind, self.kind) && is(subtype, self.subtype) => Closeness::Type,
            _ => return None,
        };
        let mut quality = 1.0;
        for field in fields {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let value = value.trim().trim_matches('"');
            if is(name, "q") {
                let valid = value.parse().ok().filter(|quality| (0.0..=1.0).contains(quality));
                quality = valid.unwrap_or(0.0);
            } else if is(name, "version") {
                if value != self.version {
                    return None;
                }
                closeness = Closeness::Version;
            }
        }
        Some((closeness, quality))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn each_gets(expected: Format, cases: &[&[&str]]) {
        for accept in cases {
            let mut headers = HeaderMap::new();
            for value in *accept {
                headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(format(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn prometheus_gets_openmetrics() {
        // 2.42, 2.55, 3.x in the order of its protocols.
        let old = "application/openmetrics-text;version=1.0.0,\
                   application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let later = "application/openmetrics-text;version=1.0.0;q=0.5,\
                     application/openmetrics-text;version=0.0.1;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                   application/openmetrics-text;version=0.0.1;q=0.5,\
                   text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                   text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        each_gets(Format::OpenMetrics, &[&[old], &[later], &[new]]);
    }

    #[test]
    fn without_a_preference_the_answer_is_openmetrics() {
        let both = ["text/plain", "application/openmetrics-text"];
        let browser = ["text/html,application/xhtml+xml,*/*;q=0.8"];
        each_gets(Format::OpenMetrics, &[&[], &["*/*"], &browser, &both, &["image/png"]]);
        let other = [["text/plain;q=0"], ["text/plain;version=1.0.0"]];
        let bad = [["nonsense"], ["text/plain;q=nonsense"], ["text/plain;q=2"]];
        each_gets(Format::OpenMetrics, &[&other[0], &other[1], &bad[0], &bad[1], &bad[2]]);
    }

    #[test]
    fn a_preference_for_the_older_text_is_met() {
        let cases: [&[&str]; 8] = [
            &["text/plain"],
            &["text/plain;version=0.0.4"],
            &["TEXT/PLAIN; Version=\"0.0.4\"; charset=utf-8"],
            &["text/*, */*;q=0.5"],
            &["application/openmetrics-text;q=0.4", "text/plain;q=0.5"],
            &["application/openmetrics-text;version=1.0.0;q=0, */*"],
            // A version that is not made here.
            &["application/openmetrics-text;version=2.0.0,text/plain;q=0.5"],
            // The closest range counts, not the highest.
            &["application/openmetrics-text;q=0.1, */*, text/plain;q=0.2"],
        ];
        each_gets(Format::Text, &cases);
    }
}
