//! Fuzzed: the manifest, as it is on disk and in the state.

use std::collections::BTreeSet;

use super::is_safe_name;
use super::world::World;
use crate::domain::ids::ExportPath;
use crate::domain::manifest::{FAILED_FILE, MANIFEST_FILE, Manifest};
use crate::domain::part::CommittedPart;
use crate::domain::watch::{Totals, Watch, WatchEvent, WatchState};
use crate::sinks::local;

/// The file's bytes. Its first line is also tried as a name in an export's folder.
pub fn manifest(data: &[u8]) {
    if let Some(name) =
        data.split(|byte| *byte == b'\n').next().and_then(|line| std::str::from_utf8(line).ok())
    {
        // A leftover that is removed is one name in the folder, and never that of a finished file.
        if local::is_working_name(name) {
            assert!(name.starts_with('.') && name.ends_with(".partial"), "{name:?}");
            assert!(is_safe_name(&name[1..]) && !name.contains('/'), "{name:?}");
        }
    }
    let Ok(manifest) = Manifest::parse(data) else { return };
    for part in &manifest.parts {
        assert!(is_safe_name(&part.path), "{part:?}");
        assert!(part.path != MANIFEST_FILE && part.path != FAILED_FILE, "{part:?}");
        assert!(!local::is_working_name(&part.path), "{part:?} would be removed");
        assert!(local::is_working_name(&local::working_name(&part.path)), "{part:?}");
    }
    let text = manifest.to_text();
    let again = Manifest::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(again.to_text(), text);
    assert_eq!(again.parts, manifest.parts);
    conflicts(&manifest, text);
}

/// An export keeps every part if another file has the manifest's name.
fn conflicts(manifest: &Manifest, text: String) {
    let parts: Vec<_> = manifest.parts.iter().cloned().map(CommittedPart::from).collect();
    let state = WatchState::Sealing { manifest: text.into(), totals: Totals::of(&parts) };
    let at = ExportPath { project: manifest.project.clone(), export: manifest.export_id.clone() };
    let watch = Watch::with_state(at, state);
    let mut world = World::new(watch);
    world.step(WatchEvent::ManifestConflict { cause: "foreign".to_owned() });
    let WatchState::Failing { kept, .. } = world.watch.state() else { panic!("{:?}", world.watch) };
    let files: BTreeSet<_> = parts.iter().map(|part| &part.key.file_id).collect();
    assert_eq!(kept.committed.keys().collect::<BTreeSet<_>>(), files);
}
