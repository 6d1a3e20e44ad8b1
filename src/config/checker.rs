//! Checks single values, remembers where each is in the file, and collects every fault.

use std::collections::HashMap;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::environment::Environment;
use crate::domain::text;

use super::fault::{Fault, Lines};
use super::raw::Text;
use super::units::{self, UnitError};

/// A shorter interval or timeout makes a busy loop or cannot succeed.
const SHORTEST: Duration = Duration::from_millis(10);
/// The keys whose values are arrays of texts. A fault in an element gives the element's column.
const ARRAYS: [&str; 3] = ["project.exports", "download.allowed_hosts", "server.allowed_hosts"];

/// Checks values and collects what is wrong. After a fault it goes on with the default, so that it
/// finds the other faults too. A configuration with faults is never used.
pub(super) struct Checker<'a> {
    pub(super) path: &'a Path,
    /// The folder that relative paths start from.
    pub(super) folder: &'a Path,
    pub(super) lines: &'a Lines<'a>,
    pub(super) environment: &'a Environment,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<String>,
}

/// A key, its value in the file, and its default.
type Interval<'v> = (&'static str, &'v Option<Text>, Duration);

impl Checker<'_> {
    /// Records a fault of `key`, whose value is at `span`.
    pub(super) fn fault(&mut self, key: &str, span: Range<usize>, message: impl Display) {
        let fault = self.at(key, span, message);
        self.faults.push(fault);
    }

    /// Records something that is accepted but probably a mistake.
    pub(super) fn warn(&mut self, key: &str, span: Range<usize>, message: impl Display) {
        let warning = self.at(key, span, message).to_string();
        self.warnings.push(warning);
    }

    fn at(&self, key: &str, span: Range<usize>, message: impl Display) -> Fault {
        let line = self.lines.line_at(span.start);
        let column = ARRAYS.contains(&key).then(|| self.lines.column_at(span.start));
        let fault = Fault::new(self.path, Some(line), message.to_string());
        Fault { column, key: Some(key.to_owned()), ..fault }
    }

    /// Parses a value; `None` if there is none or it has a fault. An error of `parse` continues a
    /// sentence that begins with the value.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        value: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = value?;
        let fault = |error| format!("{} {error}", quoted(key, value.get_ref()));
        parse(value.get_ref()).map_err(|error| self.fault(key, value.span(), fault(error))).ok()
    }

    /// Parses each element of an array. Leaves out those with a fault.
    pub(super) fn all<T, E: Display>(
        &mut self,
        key: &str,
        values: &[Text],
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        values.iter().filter_map(|value| self.parsed(key, Some(value), &parse)).collect()
    }

    /// A duration of at least 10 ms.
    pub(super) fn interval(&mut self, (key, value, default): Interval<'_>) -> Duration {
        let parse = |text: &str| match units::parse_duration(text)? {
            duration if duration < SHORTEST => Err(UnitError::TooShort),
            duration => Ok(duration),
        };
        self.parsed(key, value.as_ref(), parse).unwrap_or(default)
    }

    /// Two durations of at least 10 ms; the first is not longer than the second.
    pub(super) fn ordered(&mut self, low: Interval<'_>, high: Interval<'_>) -> [Duration; 2] {
        let faults = self.faults.len();
        let (shorter, longer) = (self.interval(low), self.interval(high));
        if shorter <= longer {
            return [shorter, longer];
        }
        // If one of the two has its own fault, its default says nothing about their order.
        if faults == self.faults.len() {
            let ((key, value, _), relation, (other, limit, _), duration) = match low.1 {
                Some(_) => (low, "longer", high, longer),
                None => (high, "shorter", low, shorter),
            };
            // One of the two is in the file: the defaults are in order.
            let value = value.as_ref();
            let (text, span) = value.map_or(("", 0..0), |value| (value.get_ref(), value.span()));
            let (text, duration) = (quoted(key, text), units::format_duration(duration));
            let by_default = if limit.is_none() { " by default" } else { "" };
            let message = format!("is {relation} than {other}, which is {duration}{by_default}");
            self.fault(key, span, format!("{text} {message}"));
        }
        [low.2, high.2]
    }

    pub(super) fn count(
        &mut self,
        key: &str,
        value: Option<&Spanned<i64>>,
        default: NonZeroU32,
        most: u32,
    ) -> NonZeroU32 {
        let Some(value) = value else { return default };
        let count = u32::try_from(*value.get_ref()).ok().and_then(NonZeroU32::new);
        count.filter(|count| count.get() <= most).unwrap_or_else(|| {
            let message = format!("`{}` is not a whole number from 1 to {most}", value.get_ref());
            self.fault(key, value.span(), message);
            default
        })
    }

    /// A path; a relative one starts from the configuration file's folder.
    pub(super) fn path(&mut self, key: &str, value: Option<&Text>) -> Option<PathBuf> {
        let folder = self.folder;
        self.parsed(key, value, |text| match text {
            "" => Err("is empty: write a path"),
            _ if text.contains('\0') => Err("contains a NUL character"),
            _ => Ok(folder.join(text)),
        })
    }

    /// Refuses every value that occurs twice and names both lines. `advice` says what to do.
    pub(super) fn refuse_repetitions<'v>(
        &mut self,
        key: &str,
        values: impl Iterator<Item = &'v Text>,
        advice: &str,
    ) {
        let mut first_lines = HashMap::new();
        for value in values {
            let line = self.lines.line_at(value.span().start);
            if let Some(first) = first_lines.get(value.get_ref().as_str()) {
                let shown = quoted(key, value.get_ref());
                let message = format!("{shown} is already on line {first}: {advice}");
                self.fault(key, value.span(), message);
            } else {
                first_lines.insert(value.get_ref().as_str(), line);
            }
        }
    }
}

/// A value of `key` for a message, in backticks.
fn quoted(key: &str, value: &str) -> String {
    if value.is_empty() { "the value".to_owned() } else { format!("`{}`", shown(key, value)) }
}

/// A path for a message, in backticks.
pub(super) fn quoted_path(path: &Path) -> String {
    format!("`{}`", text::escaped(&path.to_string_lossy()))
}

/// A value of `key` as a message may show it: what may be a secret is shortened.
pub(super) fn shown(key: &str, value: &str) -> String {
    let clean = |value: &str| text::shown(value, &[]);
    match key {
        "project.project_key" => shortened(value, 12),
        // Somebody may have pasted the key itself.
        _ if key.starts_with("project.rest_api_key") => {
            let is_path = value.starts_with('/');
            let is_variable = value.starts_with(|first: char| !first.is_ascii_digit())
                && value.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
            if is_path || is_variable { clean(value) } else { shortened(value, 4) }
        }
        // A user name, a password and a query are left out.
        "api.base_url" => {
            let host = value.rsplit_once('@').map_or(value, |(_, rest)| rest);
            let hidden = if host.len() < value.len() { "…@" } else { "" };
            hidden.to_owned() + &clean(host.split(['?', '#']).next().unwrap_or_default())
        }
        _ => clean(value),
    }
}

/// The beginning of a text that may be a secret: `most` characters, but never over a third of it.
pub(super) fn shortened(value: &str, most: usize) -> String {
    let most = (value.chars().count() / 3).min(most);
    text::escaped(&value.chars().take(most).collect::<String>()) + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_shortened() {
        for (key, value, expected) in [
            ("project.exports", "export 1\n", "export 1\\u{a}"),
            ("project.project_key", "project_0123456789", "projec…"),
            ("project.rest_api_key_env", "BATCH_KEY_2", "BATCH_KEY_2"),
            ("project.rest_api_key_env", "2_BATCH_KEY", "2_B…"),
            ("project.rest_api_key_env", "0123456789abcdef0123456789abcdef", "0123…"),
            ("project.rest_api_key_file", "/run/key", "/run/key"),
            ("project.rest_api_key_file", "keys/batch", "key…"),
            ("project.rest_api_key_credential", "k", "…"),
            ("api.base_url", "http://u:s3cret@host/a?s3cret#s3cret", "…@host/a"),
            ("api.base_url", "http://host/a", "http://host/a"),
        ] {
            assert_eq!(shown(key, value), expected, "{key} {value}");
        }
    }
}
