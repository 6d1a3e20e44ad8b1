//! `[[project]]`: its name, its keys, and its exports from both places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::domain::ids::ExportId;

use super::ProjectConfig;
use super::checker::{Checker, quoted_path, shown};
use super::fault::Fault;
use super::ids_file::{self, Listed};
use super::raw::{RawProject, Text};
use super::secret::KeySource;

/// The three ways to name the source of a REST API key.
const KEY_WAYS: &str = "rest_api_key_file = \"PATH\", rest_api_key_env = \"VARIABLE\" or \
                        rest_api_key_credential = \"NAME\"";
/// Repetitions that get their own warning; the rest is counted.
const SHOWN_REPETITIONS: usize = 10;

/// Leaves out projects with a fault.
pub(super) fn projects(
    checker: &mut Checker<'_>,
    raw: &[Spanned<RawProject>],
) -> Vec<ProjectConfig> {
    if raw.is_empty() {
        let message =
            "the file has no project: add a [[project]] table with a name, keys and exports";
        checker.fault("project", 0..0, message);
    }
    let names = raw.iter().filter_map(|project| project.get_ref().name.as_ref());
    checker.refuse_repetitions("project.name", names, "give each project its own name");
    let keys = raw.iter().filter_map(|project| project.get_ref().project_key.as_ref());
    let advice = "write one [[project]] table for each project key";
    checker.refuse_repetitions("project.project_key", keys, advice);
    raw.iter().filter_map(|raw| project(checker, raw.get_ref(), raw.span())).collect()
}

fn project(
    checker: &mut Checker<'_>,
    raw: &RawProject,
    header: Range<usize>,
) -> Option<ProjectConfig> {
    let name = required(checker, "project.name", raw.name.as_ref(), &header);
    let project_key = required(checker, "project.project_key", raw.project_key.as_ref(), &header);
    let key_source = key_source(checker, raw, header);
    let (exports, exports_file) = exports(checker, raw);
    let (name, project_key, key_source) = (name?, project_key?, key_source?);
    Some(ProjectConfig { name, project_key, key_source, exports, exports_file })
}

fn required<T: std::str::FromStr>(
    checker: &mut Checker<'_>,
    key: &str,
    value: Option<&Text>,
    header: &Range<usize>,
) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    if value.is_none() {
        checker.fault(key, header.clone(), "this [[project]] table does not have the key");
    }
    checker.parsed(key, value, str::parse)
}

/// Reads the key from its source, so that a start does not fail after a successful `check`.
fn key_source(
    checker: &mut Checker<'_>,
    raw: &RawProject,
    header: Range<usize>,
) -> Option<KeySource> {
    if let Some(inline) = &raw.rest_api_key {
        let message =
            format!("the REST API key must not be in this file: name its source with {KEY_WAYS}");
        checker.fault("project.rest_api_key", inline.span(), message);
    }
    let ways: [(&str, &Option<Text>, ReadSource); 3] = [
        ("project.rest_api_key_file", &raw.rest_api_key_file, file_source),
        ("project.rest_api_key_env", &raw.rest_api_key_env, variable_source),
        ("project.rest_api_key_credential", &raw.rest_api_key_credential, credential_source),
    ];
    let mut given =
        ways.into_iter().filter_map(|(key, value, source)| Some((key, value.as_ref()?, source)));
    let Some((key, value, source)) = given.next() else {
        if raw.rest_api_key.is_none() {
            let name = raw.name.as_ref().map_or("", |name| name.get_ref());
            let name = if name.is_empty() {
                String::new()
            } else {
                format!(" `{}`", shown("project.name", name))
            };
            let message =
                format!("the project{name} has no source of its REST API key: add {KEY_WAYS}");
            checker.fault("project", header, message);
        }
        return None;
    };
    let first_line = checker.lines.line_at(value.span().start);
    let others: Vec<_> = given.collect();
    for (other, value, _) in &others {
        let message = format!(
            "the REST API key has another source, {key} on line {first_line}: keep one of the two"
        );
        checker.fault(other, value.span(), message);
    }
    if !others.is_empty() {
        return None;
    }
    let source = source(checker, key, value)?;
    match source.read(checker.environment) {
        Err(error) => {
            let name = shown(key, value.get_ref());
            let path = quoted_path(&checker.folder.join(&name));
            let name = match source {
                KeySource::File(_) => format!("key file {path}"),
                KeySource::Env(_) => format!("environment variable `{name}`"),
                KeySource::Credential { .. } => format!("credential `{name}`"),
            };
            checker.fault(key, value.span(), format!("the {name} {error}"));
        }
        Ok(_) => {
            if let Some(mode) = source.mode_if_readable_by_others() {
                let message = format!(
                    "{source} has mode {mode:04o}, so other users can read the key: run chmod 0600"
                );
                checker.warn(key, value.span(), message);
            }
        }
    }
    Some(source)
}

type ReadSource = fn(&mut Checker<'_>, &str, &Text) -> Option<KeySource>;

fn file_source(checker: &mut Checker<'_>, key: &str, value: &Text) -> Option<KeySource> {
    checker.path(key, Some(value)).map(KeySource::File)
}

fn variable_source(checker: &mut Checker<'_>, key: &str, value: &Text) -> Option<KeySource> {
    checker.parsed(key, Some(value), |name| {
        let valid = !name.is_empty() && !name.contains(['=', '\0']);
        let source = valid.then(|| KeySource::Env(name.to_owned()));
        source.ok_or("is not the name of an environment variable")
    })
}

fn credential_source(checker: &mut Checker<'_>, key: &str, value: &Text) -> Option<KeySource> {
    let directory = checker.environment.get_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let directory = directory.filter(|path| !path.as_os_str().is_empty());
    let parse = |name: &str| {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err("is not the name of a credential: write a name without '/'");
        }
        let directory = directory.ok_or(
            "cannot be read, because CREDENTIALS_DIRECTORY is not set: add \
             LoadCredential=NAME:PATH to the systemd unit",
        )?;
        Ok(KeySource::Credential { name: name.to_owned(), directory })
    };
    checker.parsed(key, Some(value), parse)
}

/// `exports`, then what `exports_file` adds, and which file that is.
fn exports(checker: &mut Checker<'_>, raw: &RawProject) -> (Vec<ExportId>, Option<PathBuf>) {
    const KEY: &str = "project.exports";
    checker.refuse_repetitions(KEY, raw.exports.iter(), "list each export once");
    let mut exports = checker.all(KEY, &raw.exports, str::parse);
    let file = checker.path("project.exports_file", raw.exports_file.as_ref());
    if let (Some(value), Some(path)) = (&raw.exports_file, &file) {
        append_exports_file(checker, value.span(), path, &mut exports);
    }
    (exports, file)
}

fn append_exports_file(
    checker: &mut Checker<'_>,
    span: Range<usize>,
    path: &Path,
    exports: &mut Vec<ExportId>,
) {
    let Listed { ids, unfinished_line, faults } = ids_file::read(path).unwrap_or_else(|error| {
        let message = format!("the exports file {} {error}", quoted_path(path));
        checker.fault("project.exports_file", span, message);
        Listed::default()
    });
    checker.faults.extend(faults);
    let mut warn = |line, message: String| {
        checker.warnings.push(Fault::new(path, line, message).to_string());
    };
    let in_list = |id: &ExportId| (id.clone(), "in project.exports".to_owned());
    let mut known: HashMap<ExportId, String> = exports.iter().map(in_list).collect();
    let mut repetitions = 0;
    for (line, id) in ids {
        match known.entry(id) {
            Entry::Vacant(unknown) => {
                exports.push(unknown.key().clone());
                unknown.insert(format!("on line {line}"));
            }
            Entry::Occupied(first) => {
                repetitions += 1;
                if repetitions <= SHOWN_REPETITIONS {
                    let (id, place) = (first.key(), first.get());
                    warn(Some(line), format!("`{id}` is already {place}"));
                }
            }
        }
    }
    if repetitions > SHOWN_REPETITIONS {
        let more = repetitions - SHOWN_REPETITIONS;
        warn(None, format!("{more} more lines repeat an export ID"));
    }
    if unfinished_line.is_some() {
        let message = "the last line has no newline, so it may be incomplete: it counts when the \
                       file is read again";
        warn(unfinished_line, message.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use std::{io, thread};

    use super::super::scene::{SHOP, Scene, begins, fault, holds, shop};
    use super::*;

    #[test]
    fn a_project_with_its_three_keys_is_required() {
        begins(&fault(""), "c.toml:1: project: the file has no project");
        let faults = Scene::new().faults("\n[[project]]\n");
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, key) in faults.iter().zip(["name", "project_key"]) {
            let rest = "this [[project]] table does not have the key";
            assert_eq!(*fault, format!("c.toml:2: project.{key}: {rest}"));
        }
        let rest = "the project has no source of its REST API key: add rest_";
        begins(&faults[2], &format!("c.toml:2: project: {rest}"));
        begins(&fault(SHOP), "c.toml:1: project: the project `shop` has no source");
    }

    #[test]
    fn exactly_one_source_of_the_key_is_accepted() {
        let fault_of = |lines: &str| fault(&format!("{SHOP}{lines}"));
        let two = fault_of("rest_api_key_env = \"NAME\"\nrest_api_key_file = \"key\"\n");
        let expected = "c.toml:4: project.rest_api_key_env: the REST API key has another source, \
                        project.rest_api_key_file on line 5";
        begins(&two, expected);
        for inline in ["\"s3cret\"", "[\"s3cret\"]", "7", "{ s3cret = 1 }"] {
            let refused = fault_of(&format!("rest_api_key = {inline}\n"));
            let rest = "the REST API key must not be in this file";
            begins(&refused, &format!("c.toml:4: project.rest_api_key: {rest}"));
            for way in ["rest_api_key_file", "rest_api_key_env", "rest_api_key_credential"] {
                holds(&refused, way);
            }
        }
        let beside = fault_of("rest_api_key = \"s3cret\"\nrest_api_key_file = \"key\"\n");
        begins(&beside, "c.toml:4: project.rest_api_key: ");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_a_fault_of_its_line() {
        let scene = Scene::with_environment(&[("EMPTY", ""), ("TWO_LINES", "s3cret\ns3cret")]);
        scene.file("empty", "\n");
        for (line, expected) in [
            ("rest_api_key_file = \"s3cret-none\"", "the key file `s3c…` cannot be read: No"),
            ("rest_api_key_file = \"/no/key\"", "the key file `/no/key` cannot be read: No such"),
            ("rest_api_key_file = \"\"", "the value is empty"),
            ("rest_api_key_file = \".\"", "is not a regular file"),
            ("rest_api_key_file = \"empty\"", "the key file `e…` is empty"),
            ("rest_api_key_file = \"s3cret\\u0000\"", "`s3…` contains a NUL character"),
            ("rest_api_key_env = \"s3cret\"", "the environment variable `s3…` is not set"),
            ("rest_api_key_env = \"NOT_SET\"", "the environment variable `NOT_SET` is not set"),
            ("rest_api_key_env = \"a=s3cret\"", "`a=…` is not the name of an environment"),
            ("rest_api_key_env = \"\"", "the value is not the name of an environment variable"),
            ("rest_api_key_env = \"EMPTY\"", "the environment variable `EMPTY` is empty"),
            ("rest_api_key_env = \"TWO_LINES\"", "`TWO_LINES` holds more than one line"),
            (
                "rest_api_key_credential = \"s3cret\"",
                "CREDENTIALS_DIRECTORY is not set: add LoadCredential=",
            ),
            ("rest_api_key_credential = \"../s3cret\"", "`../…` is not the name of a credential"),
            ("rest_api_key_credential = \"..\"", "is not the name of a credential"),
            ("rest_api_key_credential = \"\"", "the value is not the name of a credential"),
        ] {
            let faults = scene.faults(&format!("{SHOP}{line}\n"));
            let key = line.split(' ').next().unwrap();
            begins(&faults[0], &format!("c.toml:4: project.{key}: "));
            assert!(faults[0].contains(expected) && faults.len() == 1, "{faults:?}");
        }
    }

    #[test]
    fn each_source_gives_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let other = Scene::new();
        fs::copy(other.file("key", "from systemd\r\n"), folder.path().join("batch")).unwrap();
        let directory = ("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap());
        let scene = Scene::with_environment(&[("NAME", "from env"), directory]);
        scene.file("bom", "\u{feff}from file\n");
        for (line, key) in [
            ("rest_api_key_file = \"bom\"", "from file"),
            ("rest_api_key_env = \"NAME\"", "from env"),
            ("rest_api_key_credential = \"batch\"", "from systemd"),
        ] {
            let config = scene.load(&format!("{SHOP}{line}\n")).unwrap();
            let source = &config.projects[0].key_source;
            assert_eq!(source.read(&scene.environment).unwrap().expose(), key);
        }
    }

    #[test]
    fn a_key_file_that_others_can_read_is_a_warning() {
        let scene = Scene::new();
        fs::set_permissions(scene.path("key"), Permissions::from_mode(0o644)).unwrap();
        let config = scene.load_with_shop("").unwrap();
        let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
        let expected = format!(
            "c.toml:5: project.rest_api_key_file: file {} has mode 0644, so other users can read \
             the key: run chmod 0600",
            scene.path("key").display()
        );
        assert!(warning.ends_with(&expected), "{warning}");
    }

    #[test]
    fn names_and_keys_of_projects_are_unique() {
        let faults = Scene::new().faults(&(shop("") + &shop("")));
        assert_eq!(faults.len(), 2, "{faults:?}");
        begins(&faults[0], "c.toml:6: project.name: `shop` is already on line 2: give each");
        let expected = "c.toml:7: project.project_key: `projec…` is already on line 3: write one";
        begins(&faults[1], expected);
    }

    #[test]
    fn a_repeated_id_in_one_list_is_refused_with_both_lines() {
        let list = |list: &str| fault(&shop(&format!("exports = {list}\n")));
        let rest = "project.exports: `export_1` is already on line";
        let apart = list("[\n\"export_1\",\n\"export_2\",\n  \"export_1\"]");
        assert_eq!(apart, format!("c.toml:8:3: {rest} 6: list each export once"));
        let beside = list("[\"export_1\", \"export_1\"]");
        assert_eq!(beside, format!("c.toml:5:24: {rest} 5: list each export once"));
    }

    #[test]
    fn a_fault_in_an_array_has_the_line_and_column_of_its_element() {
        let exports = "[\n  \"export_1\",  # é\n  \"é\", \"two words\",\n\t\"\",\n]";
        let text = shop(&format!("exports = {exports}\n"));
        let faults = Scene::new().faults(&text);
        let places = [("7:3", "`é` "), ("7:8", "`two words` "), ("8:2", "the value is empty")];
        assert_eq!(faults.len(), places.len(), "{faults:?}");
        for (fault, (place, value)) in faults.iter().zip(places) {
            begins(fault, &format!("c.toml:{place}: project.exports: {value}"));
        }
        let hosts = "[download]\nallowed_hosts = [\n  \"minio\",\n  \"minio:9000\",\n]\n";
        let host = fault(&format!("{hosts}{}", shop("")));
        begins(&host, "c.toml:4:3: download.allowed_hosts: `minio:9000` is");
        let typed = fault(&text.replace("\"\",", "17,"));
        begins(&typed, "c.toml:8:2: project.exports: wrong type: expected");
    }

    #[test]
    fn two_projects_may_watch_the_same_id() {
        let second = SHOP.replace("shop", "b").replace("0123", "9");
        let rest = "rest_api_key_file = \"key\"\nexports = [\"export_1\"]\n";
        assert!(Scene::new().load(&format!("{SHOP}{rest}{second}{rest}")).is_ok());
    }

    #[test]
    fn the_exports_file_adds_to_the_list_and_repetitions_cause_warnings() {
        let scene = Scene::new();
        scene.file("ids.txt", "# from the nightly job\nexport_3\nexport_1\nexport_2\nexport_3");
        let text = shop("exports = [\"export_2\", \"export_1\"]\nexports_file = \"ids.txt\"\n");
        let config = scene.load(&text).unwrap();
        let ids: Vec<_> = config.projects[0].exports.iter().map(ExportId::as_str).collect();
        assert_eq!(ids, ["export_2", "export_1", "export_3"]);
        let path = scene.path("ids.txt").display().to_string();
        let expected = [
            "3: `export_1` is already in project.exports",
            "4: `export_2` is already in project.exports",
            "5: `export_3` is already on line 2",
        ];
        assert_eq!(config.warnings, expected.map(|warning| format!("{path}:{warning}")));

        scene.file("ids.txt", &"export_1\n".repeat(100));
        let warnings = scene.load(&text).unwrap().warnings;
        assert_eq!(warnings.len(), 11, "{warnings:?}");
        assert!(warnings[10].ends_with("90 more lines repeat an export ID"), "{warnings:?}");
    }

    #[test]
    fn an_incomplete_last_line_of_a_new_exports_file_does_not_count_yet() {
        let scene = Scene::new();
        let path = scene.file("ids.txt", "export_1\nexport_");
        let config = scene.load_with_shop("").unwrap();
        assert_eq!(config.projects[0].exports, []);
        // Somebody still writes the line: it grows between two looks.
        let [began, is_read] = [const { AtomicBool::new(false) }; 2];
        let config = thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = File::options().append(true).open(path).unwrap();
                while !is_read.load(Ordering::Relaxed) {
                    io::Write::write_all(&mut file, b"1").unwrap();
                    began.store(true, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            while !began.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            let config = scene.load(&shop("exports_file = \"ids.txt\"\n"));
            is_read.store(true, Ordering::Relaxed);
            config.unwrap()
        });
        assert_eq!(config.projects[0].exports, ["export_1".parse().unwrap()]);
        let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
        holds(warning, "ids.txt:2: the last line has no newline");
    }

    #[test]
    fn a_bad_line_of_the_exports_file_is_a_fault_that_names_it() {
        let scene = Scene::new();
        scene.file("ids.txt", "export_1\n../s3cret\n");
        let text = "rest_api_key_file = \"s3cret\"\nexports_file = \"ids.txt\"\n";
        let faults = scene.faults(&format!("{SHOP}{text}"));
        assert_eq!(faults.len(), 2, "{faults:?}");
        begins(&faults[0], "c.toml:4: ");
        begins(&faults[1], "ids.txt:2: the export ID `../…` ");
    }
}
