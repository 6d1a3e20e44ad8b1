//! Fuzzed: the rows of the state, from the database to the watches that continue from them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tokio::runtime::{Builder, Runtime};

use super::world::World;
use crate::domain::ids::{ExportId, ExportPath, FileId, ProjectDigest, ProjectKey};
use crate::domain::manifest::Manifest;
use crate::domain::part::CommittedPart;
use crate::domain::report::{PartListing, RemoteStatus, Report, ReportFacts};
use crate::domain::watch::{Command, WatchEvent, WatchState};
use crate::engine::recovery;
use crate::ledgers::sqlite::fuzzing::{Memory, Value};
use crate::ports::{ExportRecord, Ledger, LedgerFault, RecordedState};

const PROJECT_KEY: &str = "project_1";
const MAX_ROWS: usize = 40;

thread_local! {
    static STATE: RefCell<Option<(Runtime, Memory)>> = const { RefCell::new(None) };
}

/// A row a line: the first letter of its table (`e`xport, `p`art, partia`l`, pa`u`se), then its
/// other columns, each after a `|`: `~` is null, `#` begins a number, `!` a blob, all else is text.
pub fn state_rows(data: &[u8]) {
    STATE.with_borrow_mut(|state| {
        let (runtime, memory) = state.get_or_insert_with(|| {
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            let memory = runtime.block_on(Memory::new()).expect("a state in memory");
            (runtime, memory)
        });
        let (loaded, parts) = runtime.block_on(load(memory, data));
        match loaded {
            Ok(records) => {
                for record in records {
                    let rows = parts.get(record.key.export.as_str()).copied().unwrap_or(0);
                    assert_eq!(record.parts.len(), rows, "every row of a part is on record");
                    check(record);
                }
            }
            Err(LedgerFault::Corrupt(cause)) => assert!(cause.contains("column"), "{cause}"),
            Err(error) => panic!("{error}"),
        }
    });
}

/// The records of the project, and how many rows of parts each export has.
async fn load(
    memory: &mut Memory,
    data: &[u8],
) -> (Result<Vec<ExportRecord>, LedgerFault>, BTreeMap<String, usize>) {
    memory.clear().await.expect("the rows can be removed");
    let project = ProjectDigest::of(&PROJECT_KEY.parse::<ProjectKey>().expect("a key"));
    let mut parts = BTreeMap::new();
    for line in data.split(|byte| *byte == b'\n').take(MAX_ROWS) {
        let mut fields = line.split(|byte| *byte == b'|');
        let (table, columns) = match fields.next() {
            Some(b"e") => ("export", 12),
            Some(b"p") => ("part", 8),
            Some(b"l") => ("partial", 9),
            Some(b"u") => ("pause", 2),
            _ => continue,
        };
        let mut values = Vec::new();
        if table != "pause" {
            values.push(Value::Text(project.to_string()));
        }
        let missing = std::iter::repeat(b"~".as_slice());
        values.extend(fields.map(value).chain(missing.map(value)).take(columns - values.len()));
        let export = values.get(1).cloned();
        if memory.insert(table, &values).await && table == "part" {
            let Some(Value::Text(export)) = export else { continue };
            *parts.entry(export).or_insert(0) += 1;
        }
    }
    let pauses = memory.ledger.pauses().await;
    assert!(matches!(pauses, Ok(_) | Err(LedgerFault::Corrupt(_))), "{pauses:?}");
    (memory.ledger.load(&[project]).await, parts)
}

fn value(field: &[u8]) -> Value {
    let text = String::from_utf8_lossy(field);
    match text.split_at_checked(1) {
        Some(("~", "")) => Value::Null,
        Some(("#", digits)) => digits.parse().map_or(Value::Null, Value::Integer),
        Some(("!", _)) => Value::Blob(field[1..].to_vec()),
        _ => Value::Text(text.into_owned()),
    }
}

/// Continues from the records, and checks that nothing of them is lost.
fn check(record: ExportRecord) {
    let export = record.key.export.clone();
    let at = ExportPath { project: "shop".parse().expect("a name"), export: export.clone() };
    let (state, parts) = (record.state.clone(), record.parts.clone());
    let mut world = World::new(recovery::watch(at, record));
    match (world.watch.state(), state) {
        (WatchState::Completed { totals, .. }, RecordedState::Completed { parts, bytes, .. }) => {
            assert_eq!((totals.parts, totals.bytes), (parts, bytes));
        }
        (WatchState::Sealing { .. }, RecordedState::Sealing { manifest }) => {
            let orders = world.watch.resume_commands();
            let [Command::Seal(text)] = orders.as_slice() else { panic!("{orders:?}") };
            assert_eq!(**text, *manifest);
            world.settle(orders, &report(&export, &[]));
            keeps(&world.manifest(), &parts);
            assert_eq!(world.sealed, Some(manifest));
        }
        (WatchState::Failed { failure, .. }, RecordedState::Failed(recorded)) => {
            assert_eq!(*failure, recorded);
            let orders = world.step(WatchEvent::Retry);
            finish(world, orders, &export, &parts);
        }
        (WatchState::Polling(_), RecordedState::Watching | RecordedState::Sealing { .. }) => {
            let orders = world.watch.wake_commands();
            finish(world, orders, &export, &parts);
        }
        (state, recorded) => panic!("{recorded:?} became {state:?}"),
    }
}

/// Fetches what is missing; a part on record is not fetched again, listed or not.
fn finish(mut world: World, orders: Vec<Command>, export: &ExportId, parts: &[CommittedPart]) {
    let report = report(export, parts);
    world.settle(orders, &report);
    for part in parts {
        assert!(!world.fetched.contains_key(&part.key.file_id), "{:?} was fetched again", part.key);
    }
    keeps(&world.manifest(), parts);
}

/// Every file on record is in the manifest, with a digest that was on record.
fn keeps(manifest: &Manifest, parts: &[CommittedPart]) {
    for part in parts {
        let digests: Vec<_> = parts
            .iter()
            .filter(|other| other.key.file_id == part.key.file_id)
            .map(|other| (other.key.number, other.bytes, other.sha256))
            .collect();
        let sealed = manifest.parts.iter().find(|sealed| sealed.file_id == part.key.file_id);
        let sealed = sealed.unwrap_or_else(|| panic!("{:?} was lost", part.key));
        let digest = (sealed.part, sealed.bytes, sealed.sha256);
        assert!(digests.contains(&digest), "{sealed:?} is none of {digests:?}");
    }
}

/// A listing of every second part on record, and of one part that is not.
fn report(export: &ExportId, parts: &[CommittedPart]) -> Report {
    let mut files: BTreeMap<FileId, PartListing> = BTreeMap::new();
    for part in parts.iter().step_by(2) {
        let file_id = part.key.file_id.clone();
        let declared_bytes = part.declared_bytes;
        let number = Some(part.key.number.max(1));
        files.insert(file_id.clone(), PartListing { file_id, number, declared_bytes });
    }
    let new: FileId = "not_on_record".parse().expect("an id");
    if parts.iter().all(|part| part.key.file_id != new) {
        let listing = PartListing { file_id: new.clone(), number: None, declared_bytes: Some(1) };
        files.insert(new, listing);
    }
    Report {
        export: export.clone(),
        status: RemoteStatus::Success,
        files: Some(files.into_values().collect()),
        facts: ReportFacts::default(),
    }
}
