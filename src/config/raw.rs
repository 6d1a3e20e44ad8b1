//! The configuration file as TOML: texts, numbers, and where they are. Finds faults of syntax, keys
//! and types.
//!
//! These faults show neither the line nor the value that the parser quotes: both may hold a key.

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::domain::text;

pub(super) type Text = Spanned<String>;

/// Every table and its keys. A syntax fault names only these: another word may be a misplaced key.
pub(super) const TABLES: [(&str, &[&str]); 8] = [
    ("api", &["base_url", "requests_per_second", "connect_timeout", "request_timeout", "ca_file"]),
    ("poll", &["min_interval", "max_interval", "not_found_grace"]),
    ("retry", &["initial", "max"]),
    ("download", DOWNLOAD),
    ("state", &["directory"]),
    ("reload", &["watch", "interval"]),
    ("server", &["listen", "allowed_hosts"]),
    ("project", PROJECT),
];
const DOWNLOAD: &[&str] = &[
    "directory",
    "file_mode",
    "dir_mode",
    "max_parts",
    "reserve",
    "stall_timeout",
    "min_rate",
    "bandwidth",
    "allowed_hosts",
];
const PROJECT: &[&str] = &[
    "name",
    "project_key",
    "rest_api_key_file",
    "rest_api_key_env",
    "rest_api_key_credential",
    "exports",
    "exports_file",
];

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $key:ident: $type:ty,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields, expecting = "a table")]
        pub(super) struct $name {
            $($(#[$of])* pub(super) $key: $type,)+
        }
    )+};
}

tables! {
    Raw {
        api: RawApi,
        poll: RawPoll,
        retry: RawRetry,
        download: RawDownload,
        state: RawState,
        reload: RawReload,
        server: RawServer,
        project: Vec<Spanned<RawProject>>,
    }
    RawApi {
        base_url: Option<Text>,
        requests_per_second: Option<Spanned<i64>>,
        connect_timeout: Option<Text>,
        request_timeout: Option<Text>,
        ca_file: Option<Text>,
    }
    RawPoll {
        min_interval: Option<Text>,
        max_interval: Option<Text>,
        not_found_grace: Option<Text>,
    }
    RawRetry { initial: Option<Text>, max: Option<Text>, }
    RawDownload {
        directory: Option<Text>,
        file_mode: Option<Text>,
        dir_mode: Option<Text>,
        max_parts: Option<Spanned<i64>>,
        reserve: Option<Text>,
        stall_timeout: Option<Text>,
        min_rate: Option<Text>,
        bandwidth: Option<Text>,
        allowed_hosts: Vec<Text>,
    }
    RawState { directory: Option<Text>, }
    RawReload { watch: Option<bool>, interval: Option<Text>, }
    RawServer { listen: Option<Text>, allowed_hosts: Vec<Text>, }
    /// Every key is optional here, so that validation reports a missing one with the other faults.
    RawProject {
        name: Option<Text>,
        project_key: Option<Text>,
        rest_api_key_file: Option<Text>,
        rest_api_key_env: Option<Text>,
        rest_api_key_credential: Option<Text>,
        /// Known only to be refused with a helpful message; its value is never read.
        rest_api_key: Option<Spanned<IgnoredAny>>,
        exports: Vec<Text>,
        exports_file: Option<Text>,
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShapeFault {
    pub(super) offset: usize,
    /// Whether an element of an array is at fault.
    pub(super) in_array: bool,
    pub(super) key: Option<String>,
    pub(super) message: String,
}

pub(super) fn parse(text: &str) -> Result<Raw, ShapeFault> {
    let document = DeTable::parse(text).map_err(|error| syntax_fault(text, &error))?;
    let tree = document.get_ref().clone();
    Raw::deserialize(toml::Deserializer::from(document)).map_err(|error| type_fault(&tree, &error))
}

/// `state.directory`, if it can be found. The rest of the file may have any fault.
pub(super) fn state_directory(text: &str) -> Option<String> {
    let (document, _) = DeTable::parse_recoverable(text);
    let DeValue::Table(state) = document.get_ref().get("state")?.get_ref() else { return None };
    match state.get("directory")?.get_ref() {
        DeValue::String(directory) => Some(directory.to_string()),
        _ => None,
    }
}

fn syntax_fault(text: &str, error: &toml::de::Error) -> ShapeFault {
    let offset = error.span().map_or(0, |span| span.start.min(text.len()));
    let message = format!("invalid TOML: {}", text::shown(error.message(), &[]));
    ShapeFault { offset, in_array: false, key: known_key_at(text, offset), message }
}

/// The key of the line at `offset`, if it is one of ours.
fn known_key_at(text: &str, offset: usize) -> Option<String> {
    let before = text.get(..offset)?;
    let line = text.get(before.rfind('\n').map_or(0, |at| at + 1)..)?.lines().next()?;
    let name = line.split('=').next()?.trim();
    let header = before.lines().rev().find_map(|line| line.trim_start().strip_prefix('['))?;
    let table = header.trim_start_matches('[').split(']').next()?.trim();
    let (table, keys) = TABLES.iter().find(|(known, _)| *known == table)?;
    keys.contains(&name).then(|| format!("{table}.{name}"))
}

fn type_fault(tree: &DeTable<'_>, error: &toml::de::Error) -> ShapeFault {
    let offset = error.span().map_or(0, |span| span.start);
    let (path, in_array) = key_at(tree, offset).unzip();
    let key = path.map(|path| text::shown(&path, &[]));
    let message = without_values(error.message(), key.as_deref());
    ShapeFault { offset, in_array: in_array.unwrap_or(false), key, message }
}

/// The path of the innermost key at `offset`, and whether an element of an array is there.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<(String, bool)> {
    table.iter().find_map(|(name, value)| {
        let (inner, in_array) = match value.get_ref() {
            DeValue::Table(inner) => (key_at(inner, offset), false),
            DeValue::Array(items) => {
                let item = items.iter().find(|item| item.span().contains(&offset));
                let inside = items.iter().find_map(|item| match item.get_ref() {
                    DeValue::Table(inner) => key_at(inner, offset),
                    _ => None,
                });
                (inside, item.is_some_and(|item| !item.get_ref().is_table()))
            }
            _ => (None, false),
        };
        let name_text = name.get_ref();
        match inner {
            Some((path, in_array)) => Some((format!("{name_text}.{path}"), in_array)),
            None if name.span().contains(&offset) || value.span().contains(&offset) => {
                Some((name_text.to_string(), in_array))
            }
            None => None,
        }
    })
}

/// Serde's message in our words. Serde quotes the value; only the value's type is kept.
fn without_values(message: &str, key: Option<&str>) -> String {
    if message.starts_with("unknown field") {
        return unknown_key(key);
    }
    let Some((met, expected)) =
        message.strip_prefix("invalid type: ").and_then(|text| text.rsplit_once(", expected "))
    else {
        return "invalid value".to_owned();
    };
    let found = match met.split(['"', '`']).next().unwrap_or_default().trim() {
        "string" => "a string",
        "integer" => "an integer",
        "floating point" => "a number with a fraction",
        "boolean" => "a boolean",
        "sequence" => "an array",
        "map" => "a table",
        _ => "another type",
    };
    let expected = match expected {
        "a string" => "a string in quotes",
        "a boolean" => "true or false without quotes",
        "i64" => "a whole number",
        "a sequence" if key == Some("project") => {
            "an array of tables ([[project]] with two brackets)"
        }
        "a sequence" => "an array",
        other => other,
    };
    format!("wrong type: expected {expected}, found {found}")
}

/// Says which keys the table of the unknown key has.
fn unknown_key(key: Option<&str>) -> String {
    let known = match key.and_then(|key| key.rsplit_once('.')) {
        None => TABLES.map(|(table, _)| table).join(", "),
        Some((table, _)) => {
            let keys = TABLES.iter().find(|(known, _)| *known == table);
            keys.map(|(_, keys)| keys.join(", ")).unwrap_or_default()
        }
    };
    format!("unknown key; expected one of: {known}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    /// The keys that serde knows for a table, by its own message about an unknown one.
    fn fields_of<T: DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
        let error = toml::from_str::<T>("nonsense = 1").unwrap_err();
        error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_list_of_keys_matches_serde() {
        let mut project = fields_of::<RawProject>();
        project.retain(|key| key != "rest_api_key");
        let fields = [
            fields_of::<RawApi>(),
            fields_of::<RawPoll>(),
            fields_of::<RawRetry>(),
            fields_of::<RawDownload>(),
            vec!["directory".to_owned()],
            fields_of::<RawReload>(),
            fields_of::<RawServer>(),
            project,
        ];
        assert_eq!(fields_of::<Raw>(), TABLES.map(|(table, _)| table));
        for ((table, keys), fields) in TABLES.iter().zip(fields) {
            assert_eq!(*keys, fields, "{table}");
        }
    }

    /// Checks line and key, and that no secret is shown; returns the message.
    #[track_caller]
    fn fault(text: &str, line: usize, key: Option<&str>) -> String {
        let ShapeFault { offset, key: found, message, .. } = parse(text).unwrap_err();
        let at = text[..offset].matches('\n').count() + 1;
        assert_eq!((at, found.as_deref()), (line, key), "{text}: {message}");
        assert!(!message.contains("s3cret"), "{message}");
        message
    }

    #[test]
    fn shape_faults_name_line_and_key_but_no_value() {
        let (rate, key_file) = ("api.requests_per_second", "project.rest_api_key_file");
        let string = "expected a string in quotes, found";
        let two_projects = "[[project]]\nname = \"a\"\n[[project]]\nkey = \"s3cret\"\n";
        let rate_text = "[api]\nrequests_per_second = \"s3cret, expected x\"";
        for (text, line, key, expected) in [
            ("[api]\nbase_uri = \"s3cret\"", 2, "api.base_uri", "unknown key; @: base_url,"),
            ("s3 = 1\n", 1, "s3", "@: api, poll,"),
            ("[aip]\n", 1, "aip", "@: api, poll,"),
            (two_projects, 4, "project.key", "@: name,"),
            (rate_text, 2, rate, "expected a whole number, found a string"),
            ("[api]\nrequests_per_second = 1.5", 2, rate, "found a number with a fraction"),
            ("[poll]\n\nmin_interval = 10", 3, "poll.min_interval", "$ an integer"),
            ("[[project]]\nrest_api_key_file = [\"s3cret\"]", 2, key_file, "$ an array"),
            ("[[project]]\nexports = \"s3cret\"", 2, "project.exports", "expected an array"),
            ("[[project]]\nexports = [\n\"a\",\n7]", 4, "project.exports", "found an integer"),
            ("[project]\nname = \"a\"", 1, "project", "expected an array of tables ([[project]]"),
            ("api = 3", 1, "api", "expected a table"),
            ("[download]\nfile_mode = 640", 2, "download.file_mode", "$ an integer"),
            ("[api]\nca_file = true", 2, "api.ca_file", "found a boolean"),
            ("[reload]\nwatch = \"yes\"", 2, "reload.watch", "expected true or false"),
            ("[api]\nca_file = 2020-01-01", 2, "api.ca_file", "expected a string"),
        ] {
            let expected = expected.replace('@', "expected one of").replace('$', string);
            let message = fault(text, line, Some(key));
            assert!(message.contains(&expected), "{text}: {message}");
        }
    }

    #[test]
    fn only_a_fault_in_an_element_is_in_an_array() {
        for (text, in_array) in [
            ("[[project]]\nexports = [\n\"a\",\n7]", true),
            ("[[project]]\nexports = 7", false),
            ("[[project]]\nname = 7", false),
            ("[[project]]\nnonsense = 7", false),
            ("project = [7]", true),
        ] {
            assert_eq!(parse(text).unwrap_err().in_array, in_array, "{text}");
        }
    }

    #[test]
    fn syntax_faults_name_the_line_and_only_known_keys() {
        let twice = "[poll]\nmin_interval = \"1s\"\nmin_interval = \"s3cret\"\n";
        let huge = "[api]\nrequests_per_second = 99999999999999999999";
        for (text, line, key) in [
            ("[[project]]\nrest_api_key_file = s3cret\n", 2, Some("project.rest_api_key_file")),
            ("[[project]]\nname = \"s3cret\n", 2, Some("project.name")),
            (twice, 3, Some("poll.min_interval")),
            ("[[project]]\ns3cret==\n", 2, None),
            ("[[project]]\r\n\r\ns3cret\r\n", 3, None),
            ("[s3cret\nname = 1\n", 1, None),
            ("[[project]]\nname = \"\\s3cret\"", 2, Some("project.name")),
            (huge, 2, Some("api.requests_per_second")),
            ("[api]\n[api]\n", 2, None),
        ] {
            let message = fault(text, line, key);
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn the_state_directory_is_found_in_a_broken_file() {
        let directory = "[state]\ndirectory = \"/srv\"\n";
        for broken in
            ["", "[poll]\nmin_interval = 10s\n", "[api]\nnonsense = 1\n", "[[project\n", "]\n"]
        {
            let text = format!("{directory}{broken}");
            assert_eq!(state_directory(&text).as_deref(), Some("/srv"), "{text}");
        }
        assert_eq!(state_directory("[state]\ndirectory = 1\n"), None);
        assert_eq!(state_directory(""), None);
    }

    #[test]
    fn a_bom_and_crlf_are_tolerated() {
        let raw = parse("\u{feff}[retry]\r\nmax = \"1m\"\r\n").unwrap();
        assert_eq!(raw.retry.max.unwrap().get_ref(), "1m");
    }
}
