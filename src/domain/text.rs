//! Text that a server sent, made safe to show.

/// Longest excerpt of a server's words, in characters.
const SHOWN_CHARACTERS: usize = 200;

/// A server's words for people: controls escaped, cut to 200 characters, secrets replaced.
pub fn shown(text: &str, secrets: &[&str]) -> String {
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        clean = clean.replace(secret, "[hidden]");
    }
    let mut out = String::with_capacity(clean.len().min(SHOWN_CHARACTERS * 2));
    let mut length = 0;
    for character in clean.chars() {
        let begin = out.len();
        push_escaped(&mut out, character);
        length += out[begin..].chars().count();
        if length > SHOWN_CHARACTERS {
            out.truncate(begin);
            out.push('…');
            break;
        }
    }
    out
}

/// A word as a shell reads it back.
pub fn shell_word(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-+,:@%=".contains(character);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|character| push_escaped(&mut out, character));
    out
}

fn push_escaped(out: &mut String, character: char) {
    // The bidirectional overrides and line separators can disguise a log line, too.
    let disguises = matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    if character.is_control() || disguises {
        out.extend(character.escape_unicode());
    } else {
        out.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_controls_escaped_and_long_texts_cut() {
        assert_eq!(shown("bad key s3cret!", &["s3cret", ""]), "bad key [hidden]!");
        assert_eq!(shown("a\n\x1b[31m\u{202e}", &[]), "a\\u{a}\\u{1b}[31m\\u{202e}");
        assert_eq!(shown(&"x".repeat(200), &[]).chars().count(), SHOWN_CHARACTERS);
        assert_eq!(shown(&"x".repeat(500), &[]).chars().count(), SHOWN_CHARACTERS + 1);
        assert_eq!(shown(&"\x7f".repeat(500), &[]), "\\u{7f}".repeat(33) + "…");
    }
}
