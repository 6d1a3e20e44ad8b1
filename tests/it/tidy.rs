//! Holds the source to the map in ARCHITECTURE.md: arrows point down, files stay readable, lints
//! are not switched off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room and its floor; a room may use lower floors only, and never another room of its own
/// floor.
const FLOORS: &[(&str, u32)] = &[
    ("domain", 0),
    ("failpoint", 0),
    ("exit", 1),
    ("transport", 1),
    ("durable", 1),
    ("meters", 1),
    ("ports", 1),
    ("api", 2),
    ("config", 2),
    ("control", 2),
    ("fetch", 2),
    ("process", 2),
    ("ledgers", 2),
    ("sinks", 2),
    ("engine", 3),
    ("simulator", 3),
    ("status", 4),
    ("fuzzing", 4),
    ("web", 5),
    ("app", 6),
    ("cli", 7),
    ("main", 8),
];

/// A file longer than this has more than one reason to exist.
const ALARM_LINES: usize = 600;

pub(crate) fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("the source folder can be read") {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    assert!(found.len() > 30, "the sources were not found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        (path.strip_prefix(&root).expect("below src").to_owned(), text)
    };
    found.into_iter().map(read).collect()
}

fn room_of(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .expect("a relative path")
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that a file names after `crate::`, also in `use crate::{a, b}`.
fn rooms_used(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        };
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut start = 0;
            for (index, character) in group.char_indices() {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && character == ',') {
                    rooms.push(name(&group[start..index]));
                    start = index + 1;
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            rooms.push(name(rest));
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

#[test]
fn arrows_point_down() {
    let floors: BTreeMap<_, _> = FLOORS.iter().copied().collect();
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        if room == "lib" {
            continue;
        }
        let Some(floor) = floors.get(room.as_str()) else {
            faults.push(format!("{}: the room {room} has no floor", path.display()));
            continue;
        };
        for used in rooms_used(&text) {
            match floors.get(used.as_str()) {
                Some(below) if below < floor || used == room => {}
                Some(_) => faults.push(format!("{}: {room} may not use {used}", path.display())),
                None => faults.push(format!("{}: {used} is not a room", path.display())),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_core_touches_neither_io_nor_clocks_nor_dice() {
    let banned = ["tokio::", "reqwest", "std::fs", "std::net", "::now()", "fastrand", "std::env"];
    for (path, text) in sources().into_iter().filter(|(path, _)| room_of(path) == "domain") {
        for (number, line) in (1..).zip(text.lines()) {
            let found = banned
                .iter()
                .find(|word| line.contains(*word) && !line.trim_start().starts_with("//"));
            assert!(found.is_none(), "{}:{number}: {line}", path.display());
        }
    }
}

#[test]
fn files_stay_readable_and_say_what_they_are_for() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= ALARM_LINES, "{} has {lines} lines", path.display());
        assert!(text.starts_with("//!"), "{} does not say why it exists", path.display());
    }
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    for (path, text) in sources() {
        assert!(!text.contains("#[allow("), "{} allows a lint", path.display());
        assert!(!text.contains("#![allow("), "{} allows a lint", path.display());
    }
}

#[test]
fn a_release_cannot_be_told_to_fail() {
    let sources = sources();
    let armed = sources.iter().filter(|(_, text)| text.contains("BATCH_EXPORT_WATCHER_FAULTS"));
    let armed: Vec<_> = armed.map(|(path, _)| path.display().to_string()).collect();
    assert_eq!(armed, ["failpoint/armed.rs"], "who reads the variable");
    let (_, gate) =
        sources.iter().find(|(path, _)| path.ends_with("failpoint/mod.rs")).expect("its room");
    let lines: Vec<_> = gate.lines().collect();
    let uses = lines.iter().enumerate().filter(|(_, line)| {
        let code = line.trim_start();
        !code.starts_with("//") && code.contains("armed")
    });
    let uses: Vec<_> = uses.map(|(number, _)| lines[number - 1].trim()).collect();
    assert_eq!(uses, ["#[cfg(debug_assertions)]"; 4], "what stands before each use of it");
}

#[test]
fn the_reader_of_arrows_sees_groups_and_ignores_comments() {
    let text = "// crate::cli\nuse crate::{api::{A, B}, exit};\nlet x = crate::sinks::local::y();";
    assert_eq!(rooms_used(text), ["api", "exit", "sinks"]);
}
