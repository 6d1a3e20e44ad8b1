//! Holds the source to the map in ARCHITECTURE.md: arrows point down, no room goes in circles,
//! files and structs stay readable, and nobody switches off a lint.

mod house;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use house::sources;
use house::{House, Module, Named, Source};

/// Every room and its floor. A room may use lower floors, but never another room of its own floor.
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

/// What the core may not name: I/O, clocks and dice.
const IMPURE: &[&str] = &[
    "backoff",
    "fastrand",
    "hyper",
    "rand",
    "reqwest",
    "rustix",
    "sqlx",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "tracing",
];

/// A file that is longer has more than one reason to exist.
const MOST_LINES: usize = 500;
/// A struct of the engine with more fields is several parts that want owners of their own.
const MOST_FIELDS: usize = 20;

fn room(source: &Source) -> String {
    let name = source.path.iter().next().expect("a relative path").to_string_lossy();
    name.trim_end_matches(".rs").to_owned()
}

fn place(source: &Source, line: usize) -> String {
    format!("{}:{line}", source.path.display())
}

/// Every name of another room has to be of a lower floor.
fn arrows_up(house: &House) -> Vec<String> {
    let floors: BTreeMap<_, _> = FLOORS.iter().copied().collect();
    let mut faults = Vec::new();
    for source in house.sources.iter().filter(|source| room(source) != "lib") {
        let room = room(source);
        let Some(floor) = floors.get(room.as_str()) else {
            faults.push(format!("{}: the room {room} has no floor", source.path.display()));
            continue;
        };
        for named in &source.named {
            let Some(used) = room_of(named) else { continue };
            let at = place(source, named.line);
            match floors.get(used.as_str()) {
                Some(below) if below < floor || used == room => {}
                Some(_) => faults.push(format!("{at}: {room} may not use {used}")),
                None => faults.push(format!("{at}: {used} is not a room")),
            }
        }
    }
    faults
}

/// The room that a path leads to from the crate's root.
fn room_of(named: &Named) -> Option<String> {
    let ups = named.segments.iter().take_while(|segment| *segment == "super").count();
    let from_root = named.segments.first().is_some_and(|first| first == "crate")
        || (ups > 0 && ups >= named.module.len());
    let room = named.segments.get(ups.max(1)).filter(|_| from_root)?;
    // `crate` alone, of `pub(crate)`, and macros lead nowhere.
    Some(room.clone())
}

/// Modules beside each other that need each other, with every use that is part of a circle.
fn circles(house: &House) -> Vec<String> {
    /// By the module that both are in: who needs whom, and one place where.
    type Needs = BTreeMap<Module, BTreeMap<(String, String), String>>;
    let mut needs: Needs = BTreeMap::new();
    for source in &house.sources {
        for named in source.named.iter().filter(|named| !named.in_test) {
            let Some(home) = house.home_of(named) else { continue };
            let shared = source.module.iter().zip(&home).take_while(|(a, b)| a == b).count();
            // Above the rooms there are the floors; and a module and those in it are one.
            let (Some(user), Some(used)) = (source.module.get(shared), home.get(shared)) else {
                continue;
            };
            if shared > 0 {
                let edges = needs.entry(home[..shared].to_vec()).or_default();
                let at = place(source, named.line);
                edges
                    .entry((user.clone(), used.clone()))
                    .or_insert_with(|| format!("{user} -> {used} ({at}: {})", named.text()));
            }
        }
    }
    let mut faults = Vec::new();
    for (module, edges) in needs {
        let leads_to = |start: &String, end: &String| {
            let (mut reached, mut left) = (BTreeSet::new(), vec![start.clone()]);
            while let Some(at) = left.pop() {
                let next = edges.keys().filter(|(user, _)| *user == at).map(|(_, used)| used);
                left.extend(next.filter(|used| reached.insert((*used).clone())).cloned());
            }
            reached.contains(end)
        };
        for ((user, used), told) in &edges {
            if leads_to(used, user) {
                faults.push(format!("{}: {told}", module.join("::")));
            }
        }
    }
    faults
}

/// The core may name no I/O, no clock and no dice.
fn impurities(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for source in house.sources.iter().filter(|source| room(source) == "domain") {
        for named in &source.named {
            let (text, segments) = (named.text(), &named.segments);
            let is_impure = IMPURE.iter().any(|name| {
                text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            });
            let asks_a_clock = segments.len() > 1
                && segments.last().is_some_and(|name| name == "now" || name == "elapsed");
            if is_impure || asks_a_clock {
                faults.push(format!("{}: {text}", place(source, named.line)));
            }
        }
    }
    faults
}

fn unreadable_files(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for source in &house.sources {
        let (path, lines) = (source.path.display(), source.text.lines().count());
        if lines > MOST_LINES {
            faults.push(format!("{path} has {lines} lines"));
        }
        if !source.text.starts_with("//!") {
            faults.push(format!("{path} does not say why it exists"));
        }
    }
    faults
}

fn crowded_structs(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for source in house.sources.iter().filter(|source| room(source) == "engine") {
        for (name, fields) in source.structs.iter().filter(|(_, fields)| *fields > MOST_FIELDS) {
            faults.push(format!("{}: {name} has {fields} fields", source.path.display()));
        }
    }
    faults
}

fn allowed_lints(house: &House) -> Vec<String> {
    let allowed = |source: &Source| {
        let lines: Vec<_> = source.allowed.iter().map(|line| place(source, *line)).collect();
        lines
    };
    house.sources.iter().flat_map(allowed).collect()
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn arrows_point_down() {
    assert_none(&arrows_up(&House::open()));
}

#[test]
fn no_room_goes_in_circles() {
    assert_none(&circles(&House::open()));
}

#[test]
fn a_struct_of_the_engine_has_one_concern() {
    assert_none(&crowded_structs(&House::open()));
}

#[test]
fn the_core_touches_neither_io_nor_clocks_nor_dice() {
    assert_none(&impurities(&House::open()));
}

#[test]
fn files_stay_readable_and_say_what_they_are_for() {
    assert_none(&unreadable_files(&House::open()));
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    assert_none(&allowed_lints(&House::open()));
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

/// A house of these files.
fn house(files: &[(&str, &str)]) -> House {
    House::of(files.iter().map(|(path, text)| ((*path).into(), (*text).to_owned())).collect())
}

#[test]
fn the_reader_of_arrows_sees_every_kind_of_path() {
    let text = "// crate::cli
        use crate::{api::{A, B}, exit};
        fn f() { crate::sinks::local::y(); m!(a, crate::web::Z { b: [crate::app::c()] }); }
        mod inner { use super::super::super::meters::M; fn g(_: &crate::durable::Dir) {} }
        #[doc = \"crate::cli\"] struct S;";
    let house = house(&[("engine/x.rs", text)]);
    let rooms: Vec<_> = house.sources[0].named.iter().filter_map(room_of).collect();
    assert_eq!(rooms, ["api", "api", "exit", "sinks", "web", "app", "meters", "durable"]);
    assert_eq!(arrows_up(&house).len(), 2, "{:?}", arrows_up(&house));
    assert_eq!(arrows_up(&self::house(&[("attic/mod.rs", "")])).len(), 1);
    assert_eq!(arrows_up(&self::house(&[("api/mod.rs", "use crate::fetch::X;")])).len(), 1);
}

#[test]
fn the_reader_of_circles_follows_exports_and_passes_over_tests() {
    let parts = |b: &'static str| {
        house(&[
            ("engine/mod.rs", "mod a; mod b; mod c; pub use c::Export; pub struct Loop;"),
            ("engine/a.rs", "use super::Loop; use crate::engine::b::B; pub struct A;"),
            ("engine/b.rs", b),
            ("engine/c/mod.rs", "mod deep; pub struct Export;"),
            ("engine/c/deep.rs", "fn f(_: crate::engine::a::A) {}"),
            ("engine/b/tests.rs", "use crate::engine::a::A;"),
        ])
    };
    assert_none(&circles(&parts("#[cfg(test)] mod tests; pub struct B;")));
    assert_none(&circles(&parts(
        "#[cfg(test)] mod tests; #[cfg(test)] mod more { use super::super::a::A; }",
    )));
    let direct = circles(&parts("#[cfg(test)] mod tests; m!(super::a::A);"));
    assert_eq!(direct.len(), 2, "{direct:?}");
    assert!(direct[1].starts_with("engine: b -> a (engine/b.rs:1: super::a::A)"), "{direct:?}");
    // By way of what its parent exports, to another folder, and back from a file below that.
    let long = circles(&parts("#[cfg(test)] mod tests; use crate::engine::Export;"));
    assert_eq!(long.len(), 3, "{long:?}");
}

#[test]
fn the_other_rules_see_what_they_forbid() {
    let impure = "use std::{fs, time::{Duration, Instant}};
        fn f() { jiff::Timestamp::now(); fastrand::u8(..); m!(tokio::spawn(x)); }";
    let found = impurities(&house(&[("domain/x.rs", impure), ("api/x.rs", impure)]));
    assert_eq!(found.len(), 5, "{found:?}");
    assert_none(&impurities(&house(&[("domain/x.rs", "use crate::domain::random::backoff;")])));

    let allows = "#![allow(unused)] #[cfg_attr(test, allow(dead_code))] fn f() {}
        m! { #[allow(x)] fn g() {} } #[expect(unused, reason = \"allow\")] fn h() {}";
    assert_eq!(allowed_lints(&house(&[("api/x.rs", allows)])).len(), 3);

    let fields: String = (0..=MOST_FIELDS).map(|number| format!("f{number}: u8,")).collect();
    let wide = format!("//! Wide.\nstruct Wide {{ {fields} }}");
    let files = house(&[("engine/x.rs", &wide), ("api/x.rs", &wide)]);
    assert_eq!(crowded_structs(&files), ["engine/x.rs: Wide has 21 fields"]);

    let long = format!("//! Long.\n{}", "\n".repeat(MOST_LINES));
    let files = house(&[("api/long.rs", &long), ("api/mute.rs", "struct Mute;")]);
    assert_eq!(unreadable_files(&files).len(), 2);
}
