//! Text that fits a number of columns, and short numbers for people.

use std::time::Duration;

use unicode_width::UnicodeWidthChar as _;

/// The columns that a text takes on a terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// In at most so many columns: the text, or its beginning and its end with `…` between.
pub(super) fn shortened(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let left = columns.saturating_sub(1);
    let end = taken(text.chars().rev(), left / 2);
    let begin = taken(text.chars(), left - end.iter().copied().map(char_width).sum::<usize>());
    let ellipsis = (columns > 0).then_some('…');
    begin.into_iter().chain(ellipsis).chain(end.into_iter().rev()).collect()
}

fn taken(characters: impl Iterator<Item = char>, columns: usize) -> Vec<char> {
    let mut left = columns;
    let fit = |character: char| {
        left = left.checked_sub(char_width(character))?;
        Some(character)
    };
    characters.map_while(fit).collect()
}

pub(super) fn to_the_left(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

pub(super) fn to_the_right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Lines of at most so many columns, broken at spaces. A word that is longer is broken anywhere.
pub(super) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    // A character may take two.
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let gap = usize::from(!line.is_empty());
        if width(&line) + gap + width(word) > columns && !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for character in word.chars() {
            if width(&line) + char_width(character) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(character);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// A number of bytes in at most five columns, in powers of 1024.
pub(super) fn size(bytes: u64) -> String {
    let (mut whole, mut rest) = (bytes, 0);
    let mut units = ["B", "K", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while whole >= 1024
        && let Some(next) = units.next()
    {
        (whole, rest) = (whole / 1024, whole % 1024);
        unit = next;
    }
    if whole >= 10 || unit == "B" {
        format!("{whole}{unit}")
    } else {
        format!("{whole}.{}{unit}", rest * 10 / 1024)
    }
}

/// A time in at most six columns.
pub(super) fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds @ 172_800..86_400_000 => format!("{} d", seconds / 86_400),
        _ => ">999 d".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shortened_in_the_middle() {
        assert_eq!(shortened("export_1", 8), "export_1");
        assert_eq!(shortened("export_123456", 8), "expo…456");
        assert_eq!(shortened("漢字漢字", 5), "漢…字");
        assert_eq!(shortened("abc", 1), "…");
        assert_eq!(shortened("abc", 0), "");
    }

    #[test]
    fn lines_are_broken_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a bcdefghij k", 4), ["a", "bcde", "fghi", "j k"]);
        assert_eq!(wrapped("漢字漢", 5), ["漢字", "漢"]);
        assert_eq!(wrapped(" ", 5), Vec::<String>::new());
    }

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 1023, 1024, 10 * 1024 - 1, 10 << 20, (1 << 40) - 1, u64::MAX].map(size);
        assert_eq!(sizes, ["0B", "1023B", "1.0K", "9.9K", "10M", "1023G", "15E"]);
        let times = [119, 120, 7_199, 7_200, 172_800].map(Duration::from_secs).map(time);
        assert_eq!(times, ["119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
