//! The two text formats: OpenMetrics and Prometheus' own.

use std::fmt::Error;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4.
    Text,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }
}

pub(super) fn expose(registries: &[&Registry], format: Format) -> Result<String, Error> {
    let mut exposed = String::new();
    for registry in registries {
        match format {
            Format::OpenMetrics => text::encode_registry(&mut exposed, registry)?,
            Format::Text => prometheus_text::encode(&mut exposed, registry)?,
        }
    }
    if format == Format::OpenMetrics {
        text::encode_eof(&mut exposed)?;
    }
    Ok(exposed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::{Meters, Moment};

    #[test]
    fn the_older_text_names_counters_in_full_and_knows_neither_units_nor_an_end() {
        let meters = Meters::default();
        let text = meters.expose(&Moment::default(), Format::Text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for line in [
            "# TYPE batch_export_watcher_polls_total counter",
            "# TYPE batch_export_watcher_build_info gauge",
            "# TYPE batch_export_watcher_poll_duration_seconds histogram",
            "batch_export_watcher_poll_duration_seconds_bucket{le=\"+Inf\"} 0",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
        let newer = ["# UNIT", "# EOF", "_created"];
        assert!(!newer.iter().any(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn openmetrics_names_families_and_units_and_has_one_end() {
        let text = Meters::default().expose(&Moment::default(), Format::OpenMetrics).unwrap();
        assert!(text.contains("# TYPE batch_export_watcher_polls counter\n"), "{text}");
        let unit = "# UNIT batch_export_watcher_poll_duration_seconds seconds\n";
        assert!(text.contains(unit), "{text}");
        assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    }
}
