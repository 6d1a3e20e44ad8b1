//! Fuzzed: the answer to a view, from its bytes to the watch's reaction.

use std::collections::BTreeSet;

use super::is_safe_name;
use super::world::World;
use crate::api;
use crate::domain::failure::{PartFault, ViewOutcome};
use crate::domain::ids::{ExportId, ExportPath, FileId};
use crate::domain::part::PartKey;
use crate::domain::report::{PartListing, RemoteStatus, Report, ReportFacts};
use crate::domain::watch::{Command, Watch, WatchEvent, WatchState};

const ASKED: &str = "export_1";
const SECRET: &str = "k3y";

pub fn view_answer(data: &[u8]) {
    let asked: ExportId = ASKED.parse().expect("an id");
    let report = match api::parse_view(data, &asked, &[SECRET]) {
        Ok(report) => report,
        Err(error) => {
            let words = error.to_string();
            let is_safe = !words.contains(SECRET) && !words.contains('\n');
            assert!(is_safe && words.len() < 300, "{words}");
            return;
        }
    };
    check(&report, data);
    first_view(&report);
    later_view(&report);
}

/// Checks the report against the bytes, parsed again by the JSON parser alone.
fn check(report: &Report, data: &[u8]) {
    assert_eq!(report.export.as_str(), ASKED);
    assert!(!report.status.as_str().contains(SECRET), "{:?}", report.status);
    let mut ids = BTreeSet::new();
    for file in report.files.iter().flatten() {
        assert!(is_safe_name(file.file_id.as_str()), "{file:?}");
        assert!(file.number != Some(0), "{file:?}");
        assert!(ids.insert(&file.file_id), "{file:?} is listed twice");
    }
    // A number beyond f64 or a lone surrogate in an unread field is an error only there.
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    assert_eq!(json["id"], ASKED, "an answer about another export was used");
    assert!(json["error_code"].is_null(), "an error was used");
    assert_eq!(report.status == RemoteStatus::Success, json["status"] == "SUCCESS");
    let listed = json["files"].as_array().into_iter().flatten();
    let listed: BTreeSet<_> = listed.filter_map(|row| row["id"].as_str()).collect();
    let ids: BTreeSet<_> = ids.into_iter().map(FileId::as_str).collect();
    assert_eq!(ids, listed, "the files are those of the answer");
}

fn first_view(report: &Report) {
    let mut world = World::new(Watch::new(at(&report.export)));
    let commands = world.step(WatchEvent::Viewed(ViewOutcome::Report(report.clone())));
    let fetches = commands.iter().any(begins_fetching);
    let finished = report.status == RemoteStatus::Success && report.files.is_some();
    assert_eq!(fetches, finished, "{:?} led to {commands:?}", report.status);
    if !finished && report.status != RemoteStatus::Error {
        let waits = commands.iter().any(|command| matches!(command, Command::ViewAfter(_)));
        assert!(waits, "{commands:?}");
        return;
    }
    world.settle(commands, report);
    if finished {
        let manifest = world.manifest();
        let files = report.files.iter().flatten();
        let expected: BTreeSet<_> = files.map(|file| &file.file_id).collect();
        let sealed: BTreeSet<_> = manifest.parts.iter().map(|part| &part.file_id).collect();
        assert_eq!(sealed, expected);
        assert_eq!(manifest.parts.len(), expected.len(), "a part is there twice");
        assert_eq!(manifest.scope, report.facts.scope);
        let request = |request: &Option<Box<serde_json::value::RawValue>>| {
            request.as_ref().map(|request| request.get().to_owned())
        };
        assert_eq!(request(&manifest.request), request(&report.facts.request), "verbatim");
    }
}

/// The same answer while a part is under way and another one is gone.
fn later_view(report: &Report) {
    let mut world = World::new(Watch::new(at(&report.export)));
    let listing = |id: &str, number| PartListing {
        file_id: id.parse().expect("an id"),
        number: Some(number),
        declared_bytes: Some(10),
    };
    let first = Report {
        export: report.export.clone(),
        status: RemoteStatus::Success,
        files: Some(vec![listing("under_way", 1), listing("gone", 2)]),
        facts: ReportFacts::default(),
    };
    world.step(WatchEvent::Viewed(ViewOutcome::Report(first)));
    world.step(WatchEvent::Prepared { adopted: Vec::new(), conflicts: Vec::new() });
    let key = |id: &str, number| PartKey { number, file_id: id.parse().expect("an id") };
    let (under_way, gone) = (key("under_way", 1), key("gone", 2));
    world.step(WatchEvent::PartStarted(under_way.clone()));
    world.step(WatchEvent::PartStarted(gone.clone()));
    let missing = PartFault::Gone { cause: "404".to_owned(), error_code: None };
    world.step(WatchEvent::PartEnded { key: gone, outcome: Err(missing.into()) });
    let commands = world.step(WatchEvent::Viewed(ViewOutcome::Report(report.clone())));
    let queued = commands.iter().filter_map(|command| match command {
        Command::QueuePart(key) => Some(&key.file_id),
        _ => None,
    });
    let listed: BTreeSet<_> = report.files.iter().flatten().map(|file| &file.file_id).collect();
    for file in queued {
        assert!(listed.contains(file) && *file != under_way.file_id, "{file} was queued");
        assert_eq!(report.status, RemoteStatus::Success, "{file} was queued");
    }
    let WatchState::Fetching(fetching) = world.watch.state() else {
        panic!("a part under way is awaited")
    };
    assert!(fetching.parts().any(|(key, _)| *key == under_way), "a part under way was lost");
}

fn begins_fetching(command: &Command) -> bool {
    matches!(command, Command::Prepare | Command::QueuePart(_) | Command::Seal(_))
}

fn at(export: &ExportId) -> ExportPath {
    ExportPath { project: "shop".parse().expect("a name"), export: export.clone() }
}
