//! The lines of the text log: `sentence name=value name="value with spaces"`.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes the sentence, then each field. If the cause is a field, the sentence leaves it out.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut line = Collected::default();
        fields.record(&mut line);
        let Collected { sentence, fields } = line;
        let cause = fields.iter().find(|(name, _)| *name == "cause");
        let cause = cause.map(|(_, cause)| format!(": {cause}")).unwrap_or_default();
        let sentence = sentence.replacen(&cause, "", 1);
        write!(writer, "{}", OneLine(&sentence))?;
        for (index, (name, value)) in fields.iter().enumerate() {
            let separator = if sentence.is_empty() && index == 0 { "" } else { " " };
            if writer.has_ansi_escapes() {
                write!(writer, "{separator}\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{}", Value(value))?;
            } else {
                write!(writer, "{separator}{name}={}", Value(value))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Collected {
    sentence: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.sentence),
            name => self.fields.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Escapes control characters: they could move the cursor or begin another line.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| {
            if character.is_control() {
                write!(f, "{}", character.escape_default())
            } else {
                f.write_char(character)
            }
        })
    }
}

/// Quotes a value unless it is one plain word.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
        if !self.0.is_empty() && self.0.bytes().all(is_plain) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn written(log: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layer = fmt::layer().with_writer(Arc::new(file.reopen().unwrap())).with_ansi(false);
        let layer = layer.without_time().with_target(false).fmt_fields(TextFields);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn the_sentence_comes_first_and_then_each_field_in_order() {
        let line = written(|| {
            tracing::info!(
                event = "part_committed",
                export = %"export_1",
                bytes = 7_u64,
                words = "two words",
                none = "",
                absent = Option::<&str>::None,
                equation = "a=b",
                "part committed"
            );
        });
        let fields = r#"event=part_committed export=export_1 bytes=7 words="two words" none="" equation="a=b""#;
        assert_eq!(line, format!(" INFO part committed {fields}\n"));
    }

    #[test]
    fn a_cause_is_written_once() {
        let cause = "no answer";
        let line =
            written(|| tracing::warn!(event = "poll_failed", cause, "poll failed: {cause}; again"));
        assert_eq!(line, " WARN poll failed; again event=poll_failed cause=\"no answer\"\n");
        let line = written(|| tracing::warn!(event = "answer_odd", cause, "{cause}"));
        assert_eq!(line, " WARN no answer event=answer_odd cause=\"no answer\"\n");
    }

    #[test]
    fn nothing_begins_another_line_or_moves_the_cursor() {
        let line = written(|| tracing::warn!(cause = "a\n\x1b[2Jb", "one\ntwo\x1b[2J"));
        assert_eq!(line, " WARN one\\ntwo\\u{1b}[2J cause=\"a\\n\\u{1b}[2Jb\"\n");
    }
}
