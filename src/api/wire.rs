//! The view answer: checked, and turned into a report. The answer is untrusted. A row that does not
//! parse makes the whole answer a fault: without it the list could look complete.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::domain::ids::ExportId;
use crate::domain::report::{PartListing, RemoteStatus, Report, ReportFacts};
use crate::domain::text::shown;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// Empty, HTML, cut, or of another shape. The parser's words would quote the answer.
    #[error("the API's answer is not the expected JSON: {what} at line {line}, column {column}")]
    Json { what: &'static str, line: usize, column: usize },
    #[error("the API's answer is not a JSON object")]
    NotAnObject,
    #[error("the API answered 200, but with an error_code")]
    ErrorInside,
    #[error("the API's answer has no export ID")]
    NoId,
    #[error("the API's answer is about another export, {0}")]
    OtherId(String),
    #[error("the API's answer has no status")]
    NoStatus,
    #[error("row {row} of the API's list of files has a missing or invalid {field}")]
    Row { row: usize, field: &'static str },
    #[error("the API lists file {0} twice, with different numbers or sizes")]
    Contradiction(String),
    /// A file ID goes into logs, names and the manifest. The key must not.
    #[error("row {row} of the API's list of files has the REST API key in its id")]
    KeyInId { row: usize },
    #[error("the API's answer has no list of exports")]
    NoExports,
}

impl From<serde_json::Error> for WireError {
    fn from(error: serde_json::Error) -> Self {
        let what = match error.classify() {
            serde_json::error::Category::Io => "a read error",
            serde_json::error::Category::Syntax => "a syntax error",
            serde_json::error::Category::Data => "an unexpected value",
            serde_json::error::Category::Eof => "an early end",
        };
        Self::Json { what, line: error.line(), column: error.column() }
    }
}

/// A view answer; what is not named here is ignored.
#[derive(Deserialize)]
struct ViewAnswer<'a> {
    error_code: Option<IgnoredAny>,
    id: Option<String>,
    status: Option<String>,
    #[serde(borrow)]
    files: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    scope: Option<&'a RawValue>,
    request: Option<Box<RawValue>>,
    #[serde(borrow)]
    request_date: Option<&'a RawValue>,
    #[serde(borrow)]
    requested_at: Option<&'a RawValue>,
    #[serde(borrow)]
    start_date: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_date: Option<&'a RawValue>,
}

/// One row of `files`. Each field is parsed on its own, so that an error can name it.
#[derive(Deserialize)]
struct FileRow<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    part: Option<&'a RawValue>,
    #[serde(borrow)]
    size: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ListAnswer {
    error_code: Option<IgnoredAny>,
    exports: Option<Vec<IgnoredAny>>,
}

/// Reads the 200 to a view of `asked`. `secrets`, the REST API key first, are never shown.
pub(crate) fn parse_view(
    body: &[u8],
    asked: &ExportId,
    secrets: &[&str],
) -> Result<Report, WireError> {
    let body = without_bom(body);
    demand_object(body)?;
    let answer: ViewAnswer<'_> = serde_json::from_slice(body)?;
    if answer.error_code.is_some() {
        return Err(WireError::ErrorInside);
    }
    let id = answer.id.ok_or(WireError::NoId)?;
    if id != asked.as_str() {
        return Err(WireError::OtherId(shown(&id, secrets)));
    }
    let status = answer.status.ok_or(WireError::NoStatus)?;
    let files = answer.files.map(|rows| merge(&rows, secrets)).transpose()?;
    Ok(Report {
        export: asked.clone(),
        status: RemoteStatus::parse(&shown(&status, secrets)),
        files,
        facts: ReportFacts {
            scope: answer.scope.and_then(text),
            request: answer.request,
            request_date: date(answer.request_date).or_else(|| date(answer.requested_at)),
            start_date: date(answer.start_date),
            completion_date: date(answer.completion_date),
        },
    })
}

/// Whether the body of a 200 is the answer to a list call.
pub(super) fn check_list(body: &[u8]) -> Result<(), WireError> {
    let body = without_bom(body);
    demand_object(body)?;
    let answer: ListAnswer = serde_json::from_slice(body)?;
    if answer.error_code.is_some() {
        return Err(WireError::ErrorInside);
    }
    answer.exports.map(drop).ok_or(WireError::NoExports)
}

/// Some gateways put a byte order mark before JSON; a reader may ignore it (RFC 8259 section 8.1).
pub(super) fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// `serde` accepts an array for a struct, by position; the API never means that.
fn demand_object(body: &[u8]) -> Result<(), WireError> {
    match body.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        Some(b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n') => Err(WireError::NotAnObject),
        Some(_) => Err(WireError::Json { what: "a syntax error", line: 1, column: 1 }),
        None => Err(WireError::Json { what: "an early end", line: 1, column: 0 }),
    }
}

/// Equal rows are merged, in the order of their first appearance.
fn merge(rows: &[&RawValue], secrets: &[&str]) -> Result<Vec<PartListing>, WireError> {
    let mut listings = Vec::<PartListing>::with_capacity(rows.len());
    let mut places = HashMap::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let listing =
            parse_row(row.get()).map_err(|field| WireError::Row { row: index + 1, field })?;
        if secrets.first().is_some_and(|key| listing.file_id.as_str().contains(key)) {
            return Err(WireError::KeyInId { row: index + 1 });
        }
        match places.entry(listing.file_id.clone()) {
            Entry::Vacant(place) => {
                place.insert(listings.len());
                listings.push(listing);
            }
            Entry::Occupied(place) if listings[*place.get()] == listing => {}
            Entry::Occupied(_) => {
                return Err(WireError::Contradiction(shown(listing.file_id.as_str(), secrets)));
            }
        }
    }
    Ok(listings)
}

/// One row; the error names the field that is wrong.
fn parse_row(row: &str) -> Result<PartListing, &'static str> {
    if !row.starts_with('{') {
        return Err("shape");
    }
    let row: FileRow<'_> = serde_json::from_str(row).map_err(|_| "shape")?;
    let file_id = row.id.and_then(text).and_then(|id| id.parse().ok()).ok_or("id")?;
    let number = optional(row.part).map_err(|()| "part")?;
    let number = number.map(u32::try_from).transpose().map_err(|_| "part")?;
    if number == Some(0) {
        return Err("part");
    }
    let declared_bytes = optional(row.size).map_err(|()| "size")?;
    Ok(PartListing { file_id, number, declared_bytes })
}

fn optional(value: Option<&RawValue>) -> Result<Option<u64>, ()> {
    match value.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(text) => integer(text).map(Some).ok_or(()),
    }
}

/// An integral JSON number. `20000.0` and `2e4` are integers too, and no digit is lost on the way.
fn integer(text: &str) -> Option<u64> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if significant.is_empty() {
        return (!digits.is_empty()).then_some(0);
    }
    // Zeros to append to the significant digits.
    let zeros = i64::from(exponent) + i64::try_from(digits.len() - significant.len()).ok()?
        - i64::try_from(fraction.len()).ok()?;
    let factor = 10_u64.checked_pow(u32::try_from(zeros).ok()?)?;
    significant.parse::<u64>().ok()?.checked_mul(factor)
}

/// A JSON string; anything else counts as absent.
fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A date is only for people and the manifest: one that cannot be read counts as absent.
fn date(value: Option<&RawValue>) -> Option<Timestamp> {
    text(value?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str) -> Result<Report, WireError> {
        parse_view(body.as_bytes(), &"export_1".parse().unwrap(), &["k3y"])
    }

    fn with_files(files: &str) -> Result<Option<Vec<PartListing>>, WireError> {
        parse(&format!(r#"{{"id":"export_1","status":"SUCCESS","files":{files}}}"#))
            .map(|report| report.files)
    }

    fn listing(id: &str, number: Option<u32>, declared_bytes: Option<u64>) -> PartListing {
        PartListing { file_id: id.parse().unwrap(), number, declared_bytes }
    }

    #[test]
    fn a_file_id_that_contains_the_key_is_refused_and_not_shown() {
        let files = r#"[{"id":"a"},{"id":"file_k3y_1"}]"#;
        let error = with_files(files).unwrap_err();
        assert_eq!(error, WireError::KeyInId { row: 2 });
        assert!(!error.to_string().contains("k3y"));
    }

    #[test]
    fn a_complete_answer_is_read_and_the_request_kept_verbatim() {
        let report = parse(
            r#" {"id":"export_1","request_date":"2024-02-28T16:28:42Z","scope":"PROFILE_EVENTS","status":"SUCCESS",
            "request":{"b":1.0,"a":[ "$x" ],"big":123456789012345678901234567890},"start_date":"2024-02-28T16:28:43Z",
            "completion_date":"2024-02-28T16:28:48Z","unknown":{"deep":[1]},
            "files":[{"id":"file_a","part":1,"size":592752,"url":"https://elsewhere.example/"},{"id":"file_b","extra":1}]}"#,
        )
        .unwrap();
        assert_eq!(report.status, RemoteStatus::Success);
        let files = [listing("file_a", Some(1), Some(592_752)), listing("file_b", None, None)];
        assert_eq!(report.files.unwrap(), files);
        let facts = report.facts;
        assert_eq!(facts.scope.as_deref(), Some("PROFILE_EVENTS"));
        let request = r#"{"b":1.0,"a":[ "$x" ],"big":123456789012345678901234567890}"#;
        assert_eq!(facts.request.unwrap().get(), request);
        assert_eq!(facts.request_date.unwrap().to_string(), "2024-02-28T16:28:42Z");
        assert!(facts.start_date.is_some() && facts.completion_date.is_some());
    }

    #[test]
    fn optional_fields_may_be_missing_or_invalid() {
        let report = parse(
            r#"{"id":"export_1","status":"DREAMING k3y","scope":7,"request":null,"request_date":"tomorrow",
            "requested_at":"2024-02-28T16:28:42Z","start_date":12,"completion_date":null,"error_code":null}"#,
        )
        .unwrap();
        assert_eq!(report.status, RemoteStatus::Unrecognized("DREAMING [hidden]".to_owned()));
        assert_eq!(report.files, None);
        assert!(report.facts.scope.is_none() && report.facts.request.is_none());
        assert!(report.facts.request_date.is_some(), "requested_at stands in");
        assert!(report.facts.start_date.is_none() && report.facts.completion_date.is_none());
    }

    #[test]
    fn an_answer_that_proves_nothing_is_a_fault() {
        for (body, error) in [
            (r#"{"id":"export_1","status":"SUCCESS","error_code":"X"}"#, WireError::ErrorInside),
            (r#"{"status":"SUCCESS"}"#, WireError::NoId),
            (r#"{"id":null,"status":"SUCCESS"}"#, WireError::NoId),
            (r#"{"id":"export_2","status":"SUCCESS"}"#, WireError::OtherId("export_2".to_owned())),
            (r#"{"id":"export_1"}"#, WireError::NoStatus),
            (r#"{"id":"export_1","status":null}"#, WireError::NoStatus),
            (r#"[null,"export_1","SUCCESS"]"#, WireError::NotAnObject),
            ("null", WireError::NotAnObject),
        ] {
            assert_eq!(parse(body).unwrap_err(), error, "{body}");
        }
        for body in [
            "",
            "  ",
            "<html></html>",
            r#"{"id":"export_1","status":"SUCC"#,
            r#"{"id":"export_1","status":"SUCCESS"} trailing"#,
            r#"{"id":"export_1","id":"export_1","status":"SUCCESS"}"#,
            r#"{"id":1,"status":"SUCCESS"}"#,
            r#"{"id":"export_1","status":["s3cr3t"]}"#,
            r#"{"id":"export_1","status":"SUCCESS","files":{}}"#,
            r#"{"id":"export_1","status":"SUCCESS","files":"s3cr3t"}"#,
        ] {
            let error = parse(body).unwrap_err();
            assert!(matches!(error, WireError::Json { .. }), "{body}: {error}");
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
        let deep = "[".repeat(100_000);
        let parsed = parse(&format!(r#"{{"id":"export_1","x":{deep}"#));
        assert!(parsed.is_err(), "no stack overflow");
    }

    #[test]
    fn absent_and_null_files_differ_from_an_empty_list() {
        assert_eq!(with_files("null"), Ok(None));
        assert_eq!(with_files("[]"), Ok(Some(Vec::new())));
    }

    #[test]
    fn one_invalid_row_makes_the_whole_answer_a_fault() {
        for (row, field) in [
            (r#"["file_a",1,1]"#, "shape"),
            ("null", "shape"),
            (r#"{"id":"file_a","id":"file_a"}"#, "shape"),
            ("{}", "id"),
            (r#"{"id":null}"#, "id"),
            (r#"{"id":7}"#, "id"),
            (r#"{"id":""}"#, "id"),
            (r#"{"id":"../../etc/passwd"}"#, "id"),
            (r#"{"id":"file_a","part":0}"#, "part"),
            (r#"{"id":"file_a","part":-1}"#, "part"),
            (r#"{"id":"file_a","part":1.5}"#, "part"),
            (r#"{"id":"file_a","part":"1"}"#, "part"),
            (r#"{"id":"file_a","part":4294967296}"#, "part"),
            (r#"{"id":"file_a","size":-1}"#, "size"),
            (r#"{"id":"file_a","size":1e-1}"#, "size"),
            (r#"{"id":"file_a","size":1e20}"#, "size"),
            (r#"{"id":"file_a","size":1e999999999999}"#, "size"),
            (r#"{"id":"file_a","size":[]}"#, "size"),
            (r#"{"id":"file_a","size":true}"#, "size"),
            (r#"{"id":"file_a","part":0.0}"#, "part"),
            (r#"{"id":"file_a","size":18446744073709551616}"#, "size"),
        ] {
            let files = format!(r#"[{{"id":"fine","part":1,"size":1}},{row}]"#);
            assert_eq!(with_files(&files), Err(WireError::Row { row: 2, field }), "{row}");
        }
        let edges = r#"[{"id":"file_a","part":4294967295,"size":18446744073709551615},{"id":"b","part":null,"size":null},{"id":"c","size":0}]"#;
        let highest = listing("file_a", Some(u32::MAX), Some(u64::MAX));
        let expected = [highest, listing("b", None, None), listing("c", None, Some(0))];
        assert_eq!(with_files(edges).unwrap().unwrap(), expected);
    }

    #[test]
    fn a_number_is_an_integer_however_it_is_written() {
        for (text, value) in [
            ("0", Some(0)),
            ("0.0", Some(0)),
            ("0e9999", Some(0)),
            ("20000.0", Some(20_000)),
            ("2e4", Some(20_000)),
            ("2.00E+4", Some(20_000)),
            ("2000000e-2", Some(20_000)),
            ("12.50e1", Some(125)),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("18446744073709551615.000", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1844674407370955162e1", None),
            ("1.5", None),
            ("12.55e1", None),
            ("1e-1", None),
            ("1e20", None),
            ("1e2147483648", None),
            ("-1", None),
            ("\"1\"", None),
            ("", None),
        ] {
            assert_eq!(integer(text), value, "{text}");
        }
    }

    #[test]
    fn equal_rows_are_merged_and_different_rows_refused() {
        let twice = r#"[{"id":"a","part":1,"size":1,"url":"x"},{"id":"b"},{"id":"a","size":1,"part":1,"url":"y"}]"#;
        let merged = [listing("a", Some(1), Some(1)), listing("b", None, None)];
        assert_eq!(with_files(twice).unwrap().unwrap(), merged);
        for other in [r#"{"id":"a","part":2,"size":1}"#, r#"{"id":"a","part":1}"#] {
            let files = format!(r#"[{{"id":"a","part":1,"size":1}},{other}]"#);
            let error = with_files(&files).unwrap_err();
            assert_eq!(error, WireError::Contradiction("a".to_owned()), "{other}");
        }
    }

    #[test]
    fn a_hundred_thousand_files_are_read() {
        let rows: Vec<_> = (1..=100_000)
            .map(|part| format!(r#"{{"id":"file_{part}","part":{part},"size":1}}"#))
            .collect();
        assert_eq!(with_files(&format!("[{}]", rows.join(","))).unwrap().unwrap().len(), 100_000);
    }

    #[test]
    fn a_list_answer_is_recognised() {
        assert_eq!(check_list(br#"{"exports":[{}],"count":1}"#), Ok(()));
        assert_eq!(check_list("\u{feff}{\"exports\":[]}".as_bytes()), Ok(()));
        assert_eq!(check_list(b"{}"), Err(WireError::NoExports));
        assert_eq!(check_list(br#"{"exports":[],"error_code":"X"}"#), Err(WireError::ErrorInside));
        assert!(check_list(b"<html>").is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(body in "\\PC{0,80}", files in "[\\[\\]{}\",:a-z0-9]{0,40}") {
            let _ = parse(&body);
            let _ = with_files(&files);
        }
    }
}
