//! Durations, sizes and rates: a whole number and a unit, without a space. Modes: octal digits.

use std::time::Duration;

use bytesize::ByteSize;

/// A year. Keeps every sum of times far from overflow.
const MAX_DURATION: Duration = Duration::from_hours(365 * 24);
/// One exbibyte. `bytesize` computes exactly below it, and saturates above it.
const MAX_SIZE_BYTES: u64 = bytesize::EIB;
/// Largest first, in milliseconds.
const DURATION_UNITS: [(&str, u128); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// A size is shown in the first of these units that shows it exactly.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", bytesize::TIB),
    ("GiB", bytesize::GIB),
    ("MiB", bytesize::MIB),
    ("KiB", bytesize::KIB),
    ("TB", bytesize::TB),
    ("GB", bytesize::GB),
    ("MB", bytesize::MB),
    ("kB", bytesize::KB),
    ("KB", bytesize::KB),
    ("B", 1),
];

/// Why a text is not a duration, size, rate or mode, as what follows the text in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("is not a duration: write a whole number and a unit, such as 10ms, 5s, 2m, 1h or 7d")]
    NotADuration,
    #[error("is too short: the minimum is 10ms")]
    TooShort,
    #[error("is too long: the maximum is 365d")]
    TooLong,
    #[error("is not a size: write a whole number and a unit, such as 1B, 1KiB, 1MiB, 1GiB or 1MB")]
    NotASize,
    #[error("is too large: the maximum is 1048576TiB")]
    TooLarge,
    #[error("is not a rate: write a size per second, such as 1KiB/s")]
    NotARate,
    #[error("is not a mode: write three or four octal digits, such as 0640")]
    NotAMode,
}

/// Whether `text` is digits followed by one of `units`.
fn has_form<'u>(text: &str, mut units: impl Iterator<Item = &'u str>) -> bool {
    let unit = text.trim_start_matches(|character: char| character.is_ascii_digit());
    unit.len() < text.len() && units.any(|known| known == unit)
}

/// Parses `10ms`, `5s`, `2m`, `1h` or `7d`, up to a year.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    if !has_form(text, DURATION_UNITS.iter().map(|unit| unit.0)) {
        return Err(UnitError::NotADuration);
    }
    // The form is right, so humantime can refuse only a number beyond its range.
    let duration = humantime::parse_duration(text).map_err(|_| UnitError::TooLong)?;
    if duration > MAX_DURATION { Err(UnitError::TooLong) } else { Ok(duration) }
}

/// Parses `1B`, `1KiB`, `1MiB`, `1GiB`, `1TiB` or the decimal `1kB`, `1MB`, `1GB`, `1TB`; in bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, UnitError> {
    if !has_form(text, SIZE_UNITS.iter().map(|unit| unit.0)) {
        return Err(UnitError::NotASize);
    }
    let ByteSize(bytes) = text.parse().map_err(|_| UnitError::NotASize)?;
    if bytes > MAX_SIZE_BYTES { Err(UnitError::TooLarge) } else { Ok(bytes) }
}

/// Parses a size followed by `/s`; in bytes per second.
pub(super) fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let size = text.strip_suffix("/s").ok_or(UnitError::NotARate)?;
    parse_size(size).map_err(|error| match error {
        UnitError::TooLarge => error,
        _ => UnitError::NotARate,
    })
}

/// Parses permission bits such as `640` or `0640`, as `chmod` does.
pub(super) fn parse_mode(text: &str) -> Result<u32, UnitError> {
    let digits = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match text.len() {
        3 | 4 if digits => u32::from_str_radix(text, 8).map_err(|_| UnitError::NotAMode),
        _ => Err(UnitError::NotAMode),
    }
}

/// A duration in the largest unit that shows it exactly.
pub(super) fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let is_exact = |factor: u128| milliseconds > 0 && milliseconds.is_multiple_of(factor);
    match DURATION_UNITS.iter().find(|(_, factor)| is_exact(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", milliseconds / factor),
        None => "0s".to_owned(),
    }
}

/// A size in the largest unit that shows it exactly.
pub(super) fn format_size(bytes: u64) -> String {
    let exact = SIZE_UNITS.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    exact.map_or_else(|| "0B".to_owned(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

pub(super) fn format_rate(bytes_per_second: u64) -> String {
    format!("{}/s", format_size(bytes_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_a_duration_is_parsed() {
        let texts = ["10ms", "1000ms", "5s", "2m", "1h", "7d", "0s", "365d"];
        let expected = [10, 1_000, 5_000, 120_000, 3_600_000, 604_800_000, 0, 31_536_000_000];
        for (text, milliseconds) in texts.into_iter().zip(expected) {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn other_forms_that_humantime_accepts_are_refused() {
        for text in [
            "", "5", "s", "5 s", " 5s", "5s ", "5sec", "1h30m", "1h 30m", "1.5h", "-5s", "+5s",
            "5S", "1M", "1w", "1us", "1month", "1y", "٣s", "5µs", "1_0s",
        ] {
            assert_eq!(parse_duration(text), Err(UnitError::NotADuration), "{text:?}");
        }
        let long = "366d 99999999999999999999d 18446744073709551615d 18446744073709551615ms";
        for text in long.split(' ') {
            assert_eq!(parse_duration(text), Err(UnitError::TooLong), "{text:?}");
        }
    }

    #[test]
    fn every_form_of_a_size_is_parsed() {
        let binary = ["0B", "1B", "1KiB", "1MiB", "1GiB", "1TiB"].map(parse_size);
        assert_eq!(binary, [0, 1, 1 << 10, 1 << 20, 1 << 30, 1 << 40].map(Ok));
        let decimal = ["1kB", "1KB", "1MB", "1GB", "1TB"].map(parse_size);
        assert_eq!(decimal, [1_000, 1_000, 1_000_000, 1_000_000_000, 1_000_000_000_000].map(Ok));
        assert_eq!(parse_size("9007199254740993B"), Ok(9_007_199_254_740_993));
    }

    #[test]
    fn other_forms_that_bytesize_accepts_are_refused() {
        for text in [
            "", "5", "B", "1 GiB", "1gib", "1GIB", "1.5GiB", "1K", "1Ki", "-1B", "+1B", "1EiB",
            "1b", "1GiB/s",
        ] {
            assert_eq!(parse_size(text), Err(UnitError::NotASize), "{text:?}");
        }
        let large =
            "1048577TiB 18446744073709551615B 99999999999999999999B 99999999999999999999TiB";
        for text in large.split(' ') {
            assert_eq!(parse_size(text), Err(UnitError::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn a_rate_is_a_size_per_second() {
        assert_eq!(parse_rate("1KiB/s"), Ok(1024));
        assert_eq!(parse_rate("0B/s"), Ok(0));
        for text in ["1KiB", "1KiB/m", "/s", "1KiB /s", "1/s", ""] {
            assert_eq!(parse_rate(text), Err(UnitError::NotARate), "{text:?}");
        }
        assert_eq!(parse_rate("1048577TiB/s"), Err(UnitError::TooLarge));
    }

    #[test]
    fn a_mode_is_three_or_four_octal_digits() {
        let modes = ["600", "0600", "0640", "000", "7777", "2750"].map(parse_mode);
        assert_eq!(modes, [0o600, 0o600, 0o640, 0, 0o7777, 0o2750].map(Ok));
        let bad = ["", "0", "60", "00600", "0680", "9", "+640", "-640", "0o640", "0x1a0", " 640"];
        for text in bad.into_iter().chain(["640 ", "6_40", "u=rw", "u+r", "rw-r-----", "٦٤٠"]) {
            assert_eq!(parse_mode(text), Err(UnitError::NotAMode), "{text:?}");
        }
    }

    #[test]
    fn values_are_shown_in_the_largest_exact_unit() {
        let durations = [0, 10, 1_500, 90_000, 300_000, 86_400_000].map(Duration::from_millis);
        let shown = durations.map(format_duration);
        assert_eq!(shown, ["0s", "10ms", "1500ms", "90s", "5m", "1d"]);
        let sizes = [0, 1, 1 << 30, 1536, 3_000_000, 1_000].map(format_size);
        assert_eq!(sizes, ["0B", "1B", "1GiB", "1536B", "3MB", "1kB"]);
        assert_eq!(format_rate(1024), "1KiB/s");
    }

    proptest! {
        #[test]
        fn a_shown_duration_parses_to_itself(milliseconds in 0_u64..=31_536_000_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_shown_size_parses_to_itself(bytes in 0_u64..=MAX_SIZE_BYTES) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
            prop_assert_eq!(parse_rate(&format_rate(bytes)), Ok(bytes));
        }

        #[test]
        fn a_shown_mode_parses_to_itself(bits in 0_u32..=0o7777) {
            prop_assert_eq!(parse_mode(&format!("{bits:04o}")), Ok(bits));
            prop_assert_eq!(parse_mode(&format!("{bits:05o}")), Err(UnitError::NotAMode));
        }

        #[test]
        fn no_text_panics(text in "[0-9.]{0,25}[a-zA-Zµ ]{0,4}|\\PC{0,12}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_rate(&text), parse_mode(&text));
        }
    }
}
