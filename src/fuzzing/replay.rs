//! Runs the committed inputs of every target once, so that no finding comes back.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("configuration", super::configuration),
    ("content_range", super::content_range),
    ("location", super::location),
    ("manifest", super::manifest),
    ("retry_after", super::retry_after),
    ("state_rows", super::state_rows),
    ("view_answer", super::view_answer),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn replay(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    for kind in ["seeds", "corpus", "regressions"] {
        let folder = folder(kind).join(name);
        // Not every target has had findings.
        let inputs = if kind != "seeds" && !folder.exists() { Vec::new() } else { files(&folder) };
        assert!(kind != "seeds" || inputs.len() > 3, "{} holds next to nothing", folder.display());
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            let outcome = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
            assert!(outcome.is_ok(), "{} breaks a rule of {name}", input.display());
        }
    }
}

macro_rules! replayed {
    ($($name:ident),*) => { $( #[test] fn $name() { replay(stringify!($name)); } )* };
}

replayed!(configuration, content_range, location, manifest, retry_after, state_rows, view_answer);

#[test]
fn every_target_is_built_and_replayed() {
    let targets: BTreeSet<_> = TARGETS.into_iter().map(|(name, _)| name.to_owned()).collect();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let built: BTreeSet<_> = files(&folder("fuzz_targets")).into_iter().map(stem).collect();
    assert_eq!(built, targets);
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for target in targets {
        let path = format!("path = \"fuzz_targets/{target}.rs\"");
        assert!(manifest.contains(&path), "{target} is not built");
    }
}
