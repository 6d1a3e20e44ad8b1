//! The judge of single values: knows where each stands, collects every fault, and lets a default
//! stand in after one.

use std::collections::HashMap;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::environment::Environment;
use super::fault::{Fault, Lines};
use super::raw::Text;
use super::units;

/// Shortest interval or timeout that is accepted; anything below is a busy loop or cannot succeed.
const SHORTEST: Duration = Duration::from_millis(10);

/// Judges values and collects what is wrong. After a fault the default stands in, so that the rest
/// can be judged too; it goes nowhere, because a configuration with faults is never handed out.
pub(super) struct Checker<'a> {
    /// The configuration file, as its faults name it.
    pub(super) path: &'a Path,
    /// The folder that relative paths start from.
    pub(super) folder: &'a Path,
    pub(super) lines: &'a Lines,
    pub(super) environment: &'a Environment,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<String>,
}

/// A key, the value that the file has for it, and what counts without one.
pub(super) struct Setting<'v, T> {
    pub(super) key: &'static str,
    pub(super) value: Option<&'v Text>,
    pub(super) default: T,
}

impl Checker<'_> {
    /// Records a fault of `key`, whose value stands at `span`.
    pub(super) fn fault(&mut self, key: &str, span: Range<usize>, message: impl Display) {
        let fault = self.at(key, span, message);
        self.faults.push(fault);
    }

    /// Records something that is accepted, but should be looked at.
    pub(super) fn warn(&mut self, key: &str, span: Range<usize>, message: impl Display) {
        let warning = self.at(key, span, message).to_string();
        self.warnings.push(warning);
    }

    fn at(&self, key: &str, span: Range<usize>, message: impl Display) -> Fault {
        Fault {
            file: self.path.to_owned(),
            line: Some(self.lines.line_at(span.start)),
            key: Some(key.to_owned()),
            message: message.to_string(),
        }
    }

    /// A value by its own parser; `None` where there is none or it is at fault.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        value: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = value?;
        parse(value.get_ref()).map_err(|error| self.fault(key, value.span(), error)).ok()
    }

    /// A duration of at least 10 ms.
    pub(super) fn interval(&mut self, setting: &Setting<'_, Duration>) -> Duration {
        let parse = |text: &str| match units::parse_duration(text) {
            Ok(duration) if duration < SHORTEST => Err("is too short: at least 10ms".to_owned()),
            other => other.map_err(|error| error.to_string()),
        };
        self.parsed(setting.key, setting.value, parse).unwrap_or(setting.default)
    }

    /// Two durations of at least 10 ms, the first not longer than the second.
    pub(super) fn ordered(
        &mut self,
        low: &Setting<'_, Duration>,
        high: &Setting<'_, Duration>,
    ) -> (Duration, Duration) {
        let faults = self.faults.len();
        let (shorter, longer) = (self.interval(low), self.interval(high));
        if shorter <= longer {
            return (shorter, longer);
        }
        // If one of the two has a fault of its own, its stand-in says nothing about their order.
        if faults == self.faults.len() {
            let (shown_low, shown_high) =
                (units::format_duration(shorter), units::format_duration(longer));
            match (low.value, high.value) {
                (Some(value), _) => {
                    self.fault(
                        low.key,
                        value.span(),
                        format!("is longer than {}, {shown_high}", high.key),
                    );
                }
                (None, value) => {
                    let span = value.map_or(0..0, Spanned::span);
                    self.fault(high.key, span, format!("is shorter than {}, {shown_low}", low.key));
                }
            }
        }
        (low.default, high.default)
    }

    /// A whole number from 1 to `most`.
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
            self.fault(key, value.span(), format!("must be a whole number from 1 to {most}"));
            default
        })
    }

    /// A path, taken from the configuration file's folder where it is relative.
    pub(super) fn path(&mut self, key: &str, value: Option<&Text>) -> Option<PathBuf> {
        let folder = self.folder;
        self.parsed(key, value, |text| match text {
            "" => Err("is empty"),
            _ if text.contains('\0') => Err("must not contain a nul character"),
            _ => Ok(folder.join(text)),
        })
    }

    /// Refuses every value that stands in the file twice, naming both lines.
    pub(super) fn refuse_repetitions<'v>(
        &mut self,
        key: &str,
        values: impl Iterator<Item = &'v Text>,
    ) {
        let mut first_lines = HashMap::new();
        for value in values {
            let line = self.lines.line_at(value.span().start);
            // Both may stand on one line, so it is the insertion that tells, not the line.
            if let Some(first) = first_lines.get(value.get_ref().as_str()) {
                self.fault(
                    key,
                    value.span(),
                    format!("is the same as on line {first}: each may stand there once"),
                );
            } else {
                first_lines.insert(value.get_ref().as_str(), line);
            }
        }
    }
}
