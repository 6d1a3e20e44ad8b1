//! The store on real files: what survives, what is refused, and what a failing database does to the
//! writer.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::domain::checksum::Check;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{ExportId, ExportKey, ProjectDigest, ProjectKey};
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::report::RemoteStatus;
use crate::domain::resume::{ResumablePart, ResumePoint, StrongEtag};
use crate::domain::stage::PauseScope;

fn project(key: &str) -> ProjectDigest {
    ProjectDigest::of(&key.parse::<ProjectKey>().unwrap())
}

fn export(id: &str) -> ExportKey {
    ExportKey { project: project("project_one"), export: id.parse().unwrap() }
}

fn part(number: u32) -> CommittedPart {
    CommittedPart {
        key: PartKey { number, file_id: format!("file-{number}").parse().unwrap() },
        bytes: 5_000_000_000,
        declared_bytes: number.is_multiple_of(2).then_some(5_000_000_000),
        sha256: Sha256::new([9; 32]),
        verified_by: vec![Check::Size, Check::Crc64nvme],
    }
}

fn partial(number: u32) -> ResumablePart {
    let etag = StrongEtag::parse("\"v1\"").unwrap();
    ResumablePart {
        key: part(number).key,
        point: ResumePoint { bytes: 40, sha256: Sha256::new([7; 32]), total_bytes: 100, etag },
    }
}

fn failure() -> Failure {
    Failure {
        kind: FailureKind::Rejected,
        cause: "no".to_owned(),
        error_code: Some("MALFORMED_PARAMETER".to_owned()),
        at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
    }
}

async fn reopen(directory: &Path, store: SqliteLedger) -> SqliteLedger {
    store.close().await.unwrap();
    SqliteLedger::open(directory).await.unwrap()
}

async fn only(store: &mut SqliteLedger) -> ExportRecord {
    let mut records = store.load(&[project("project_one")]).await.unwrap();
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

#[tokio::test]
async fn every_change_survives_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("state");
    let mut store = SqliteLedger::open(&directory).await.unwrap();
    let at = "2026-05-06T07:08:09Z".parse().unwrap();
    let key = export("e1");
    store
        .apply(&[
            Fact::StatusSeen {
                export: key.clone(),
                status: RemoteStatus::Unrecognized("ODD".to_owned()),
            },
            Fact::PartCommitted { export: key.clone(), part: part(2) },
            Fact::PartCommitted { export: key.clone(), part: part(1) },
            Fact::Paused { scope: PauseScope::Origin, until: at },
            Fact::Paused { scope: PauseScope::Host("gone".to_owned()), until: at },
            Fact::PauseEnded { scope: PauseScope::Host("gone".to_owned()) },
            Fact::Marker { directory: "/srv".to_owned(), marker: "m1".to_owned() },
            Fact::Marker { directory: "/srv".to_owned(), marker: "m2".to_owned() },
            Fact::Recovered { project: project("project_one"), at },
        ])
        .await
        .unwrap();
    let mut store = reopen(&directory, store).await;
    let record = only(&mut store).await;
    assert_eq!(record.remote_status, Some(RemoteStatus::Unrecognized("ODD".to_owned())));
    assert_eq!((record.state, record.parts), (RecordedState::Watching, vec![part(1), part(2)]));
    assert_eq!(store.pauses().await.unwrap(), HashMap::from([(PauseScope::Origin, at)]));
    assert_eq!(store.marker("/srv").await.unwrap().as_deref(), Some("m2"));
    assert_eq!(store.marker("/other").await.unwrap(), None);
    let asked = [project("project_one"), project("project_two")];
    assert_eq!(store.unrecovered(&asked).await.unwrap(), [project("project_two")]);

    let manifest = "{\"é\": 1}\n".to_owned();
    store
        .apply(&[Fact::Sealing { export: key.clone(), manifest: manifest.clone() }])
        .await
        .unwrap();
    let mut store = reopen(&directory, store).await;
    let record = only(&mut store).await;
    assert_eq!((record.state, record.parts.len()), (RecordedState::Sealing { manifest }, 2));

    store.apply(&[Fact::Completed { export: key.clone(), parts: 2, bytes: 7, at }]).await.unwrap();
    let mut store = reopen(&directory, store).await;
    let record = only(&mut store).await;
    assert_eq!(record.state, RecordedState::Completed { parts: 2, bytes: 7, at });
    assert_eq!(record.parts, [], "the manifest has them now");
    store.apply(&[Fact::StatusSeen { export: key, status: RemoteStatus::Running }]).await.unwrap();
    assert!(
        matches!(only(&mut store).await.state, RecordedState::Completed { .. }),
        "whatever the API says"
    );
}

#[tokio::test]
async fn a_failure_stays_until_it_is_watched_again_or_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    let key = export("e1");
    let failed = Fact::Failed { export: key.clone(), failure: failure() };
    let committed = Fact::PartCommitted { export: key.clone(), part: part(1) };
    store.apply(&[committed, failed]).await.unwrap();
    let mut store = reopen(root.path(), store).await;
    let record = only(&mut store).await;
    assert_eq!((record.state, record.parts.len()), (RecordedState::Failed(failure()), 1));
    store.apply(&[Fact::Watching { export: key }]).await.unwrap();
    let record = only(&mut store).await;
    assert_eq!((record.state, record.parts.len()), (RecordedState::Watching, 1));
}

#[tokio::test]
async fn a_resume_point_stays_until_its_part_is_committed() {
    let root = tempfile::tempdir().unwrap();
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    let key = export("e1");
    let synced = |number| Fact::PartialSynced { export: key.clone(), part: partial(number) };
    store
        .apply(&[synced(1), synced(2), Fact::PartCommitted { export: key.clone(), part: part(2) }])
        .await
        .unwrap();
    assert_eq!(only(&mut store).await.partials, [partial(1)], "a committed part has no partial");
    let mut store = reopen(root.path(), store).await;
    assert_eq!(only(&mut store).await.partials, [partial(1)], "a crash may come at any time");
    let theirs = ExportKey { project: project("project_two"), export: key.export.clone() };
    store
        .apply(&[synced(1), Fact::PartialSynced { export: theirs, part: partial(3) }])
        .await
        .unwrap();
    let loaded = store.load(&[project("project_two")]).await.unwrap();
    assert_eq!(loaded[0].partials, [partial(3)]);
    store.apply(&[Fact::PartCommitted { export: key.clone(), part: part(1) }]).await.unwrap();
    assert_eq!(only(&mut store).await.partials, []);
}

#[tokio::test]
async fn of_a_long_history_only_the_exports_that_are_asked_for_are_read() {
    let root = tempfile::tempdir().unwrap();
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    let id = |number: u32| format!("e{number}");
    let mut changes = Vec::new();
    for number in 0..200 {
        changes.push(Fact::PartCommitted { export: export(&id(number)), part: part(number) });
        changes
            .push(Fact::PartialSynced { export: export(&id(number)), part: partial(number + 1) });
    }
    store.apply(&changes).await.unwrap();
    let all = store.load(&[project("project_one")]).await.unwrap();
    let wanted: Vec<ExportId> =
        (50..150).chain([999]).map(|number| id(number).parse().unwrap()).collect();
    let wanted: Vec<&ExportId> = wanted.iter().collect();
    let mut some = store.load_exports(project("project_one"), &wanted).await.unwrap();
    some.sort_by(|one, other| one.key.export.cmp(&other.key.export));
    let expected: Vec<_> =
        all.into_iter().filter(|record| wanted.contains(&&record.key.export)).collect();
    assert_eq!((some.len(), some), (100, expected));
    assert_eq!(store.load_exports(project("project_one"), &[]).await.unwrap(), []);
    assert_eq!(store.load_exports(project("project_two"), &wanted).await.unwrap(), []);
}

#[tokio::test]
async fn parts_of_one_batch_are_recorded_whatever_their_order() {
    let root = tempfile::tempdir().unwrap();
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    let committed = |export: &str, part: &CommittedPart| Fact::PartCommitted {
        export: self::export(export),
        part: part.clone(),
    };
    let longer = CommittedPart { bytes: part(1).bytes + 1, ..part(1) };
    let batch = [
        committed("e1", &part(1)),
        committed("e1", &part(2)),
        committed("e1", &longer),
        committed("e2", &part(1)),
        committed("e1", &part(3)),
    ];
    store.apply(&batch).await.unwrap();
    store.apply(&batch).await.unwrap();
    let records = store.load(&[project("project_one")]).await.unwrap();
    let parts: Vec<_> = records.iter().map(|record| record.parts.clone()).collect();
    assert_eq!(parts, [vec![longer, part(2), part(3)], vec![part(1)]]);
}

/// A state as the first schema left it.
async fn first_schema(directory: &Path) {
    Dir::open(directory).unwrap().create_empty(DATABASE_FILE).unwrap();
    let options = SqliteConnectOptions::new().filename(directory.join(DATABASE_FILE));
    let mut old = options.connect().await.unwrap();
    let (version, name, statements) = MIGRATIONS[0];
    let migration = Migration::new(
        version,
        name.into(),
        MigrationType::Simple,
        statements.into_sql_str(),
        false,
    );
    Migrator::with_migrations(vec![migration]).run(&mut old).await.unwrap();
    for insert in [
        "INSERT INTO export (project, export_id, state) VALUES ($1, 'e1', 'watching')",
        "INSERT INTO partial VALUES ($1, 'e1', 1, 'f1', 40, 100, '\"v\"')",
    ] {
        sqlx::query(insert)
            .bind(project("project_one").to_string())
            .execute(&mut old)
            .await
            .unwrap();
    }
    old.close().await.unwrap();
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date() {
    let root = tempfile::tempdir().unwrap();
    first_schema(root.path()).await;
    let seen = look(root.path(), &[project("project_one")]).await.unwrap().unwrap();
    assert_eq!(
        (seen.exports.len(), seen.exports[0].partials.len()),
        (1, 0),
        "a look migrates nothing"
    );
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    let record = only(&mut store).await;
    assert_eq!(record.partials, [], "what does not say what its bytes are is not believed");
    store.apply(&[Fact::PartialSynced { export: export("e1"), part: partial(1) }]).await.unwrap();
    assert_eq!(only(&mut store).await.partials, [partial(1)]);
}

#[tokio::test]
async fn neither_the_key_nor_anybody_else_gets_in() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("state");
    let mut store = SqliteLedger::open(&directory).await.unwrap();
    store.apply(&[Fact::Watching { export: export("e1") }]).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&directory), 0o700);
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
        seen.extend(std::fs::read(&path).unwrap());
    }
    let text = String::from_utf8_lossy(&seen);
    assert!(text.contains(&project("project_one").to_string()));
    assert!(!text.contains("project_one"));
}

#[tokio::test]
async fn a_failed_batch_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    sqlx::query("ALTER TABLE pause RENAME TO hidden")
        .execute(store.connection().await.unwrap())
        .await
        .unwrap();
    let paused =
        Fact::Paused { scope: PauseScope::Origin, until: "2026-01-01T00:00:00Z".parse().unwrap() };
    let error = store.apply(&[Fact::Watching { export: export("e1") }, paused]).await.unwrap_err();
    assert!(error.to_string().contains("state.db"), "{error}");
    assert_eq!(store.load(&[project("project_one")]).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_as_it_is() {
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| *bytes = vec![b'x'; 9000],
        |bytes| bytes[..16].fill(0),
        |bytes| {
            let length = bytes.len();
            bytes[4096..length].fill(0xff);
        },
        |bytes| {
            let length = bytes.len();
            bytes[length - 4096..].fill(0xff);
        },
    ];
    for damage in damages {
        let root = tempfile::tempdir().unwrap();
        let mut store = SqliteLedger::open(root.path()).await.unwrap();
        store.apply(&[Fact::Watching { export: export("e1") }]).await.unwrap();
        store.close().await.unwrap();
        let path = root.path().join(DATABASE_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), &bytes).unwrap();
        let error = SqliteLedger::open(root.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(&path.display().to_string()) && message.contains("move it"),
            "{message}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                  VALUES (7, 'later', TRUE, x'00', 0)";
    sqlx::query(insert).execute(store.connection().await.unwrap()).await.unwrap();
    store.close().await.unwrap();
    let error = SqliteLedger::open(root.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, known: 2, .. }), "{error:?}");
    let error = look(root.path(), &[]).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, known: 2, .. }), "{error:?}");
}

#[tokio::test]
async fn a_look_sees_what_is_in_use_or_was_closed_and_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let digests = [project("project_one")];
    let directory = root.path().join("state");
    assert!(look(&directory, &digests).await.unwrap().is_none() && !directory.exists());
    let files = || -> Vec<_> {
        let entries = std::fs::read_dir(&directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut store = SqliteLedger::open(&directory).await.unwrap();
    store.apply(&[Fact::Failed { export: export("e1"), failure: failure() }]).await.unwrap();
    let in_use = files();
    assert_eq!(in_use.len(), 3, "{in_use:?}");
    let state = RecordedState::Failed(failure());
    assert_eq!(look(&directory, &digests).await.unwrap().unwrap().exports[0].state, state);
    assert_eq!(files(), in_use);
    store.close().await.unwrap();
    assert_eq!(look(&directory, &digests).await.unwrap().unwrap().exports[0].state, state);
    assert_eq!(files(), [DATABASE_FILE]);
}

#[tokio::test]
async fn what_is_forgotten_is_gone_with_its_parts_and_nothing_else_is() {
    let root = tempfile::tempdir().unwrap();
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    let (key, other) = (export("e1"), export("e2"));
    for export in [&key, &other] {
        let committed = Fact::PartCommitted { export: export.clone(), part: part(1) };
        let synced = Fact::PartialSynced { export: export.clone(), part: partial(2) };
        store.apply(&[committed, synced]).await.unwrap();
    }
    let wanted = [key.export.clone(), "e3".parse().unwrap()].into();
    assert_eq!(store.recorded_exports(&wanted).await.unwrap(), std::slice::from_ref(&key));
    store.apply(&[Fact::Forgotten { export: key.clone() }]).await.unwrap();
    assert_eq!(only(&mut store).await.key, other);
    store.apply(&[Fact::Watching { export: key.clone() }]).await.unwrap();
    let records = store.load(&[project("project_one")]).await.unwrap();
    assert_eq!(records.iter().map(|record| record.parts.len()).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test]
async fn an_empty_file_is_a_first_start_that_died_and_a_folder_is_not() {
    let root = tempfile::tempdir().unwrap();
    Dir::open(root.path()).unwrap().create_empty(DATABASE_FILE).unwrap();
    let store = SqliteLedger::open(root.path()).await.unwrap();
    store.close().await.unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join(DATABASE_FILE)).unwrap();
    assert!(matches!(SqliteLedger::open(other.path()).await, Err(StoreError::NotAFile { .. })));
}

/// A store whose `pause` table can be hidden, so that every transaction about pauses fails.
async fn rename_pause(directory: &Path, from: &'static str, to: &'static str) {
    let mut other = SqliteLedger::open(directory).await.unwrap();
    let statement = sqlx::AssertSqlSafe(format!("ALTER TABLE {from} RENAME TO {to}"));
    sqlx::query(statement).execute(other.connection().await.unwrap()).await.unwrap();
    other.close().await.unwrap();
}

fn paused(ticket: u64) -> Write {
    let until = "2026-01-01T00:00:00Z".parse().unwrap();
    Write {
        change: Fact::Paused { scope: PauseScope::Host(format!("host-{ticket}")), until },
        ticket,
        may_wait: false,
    }
}

#[tokio::test]
async fn what_may_wait_is_gathered_for_a_moment_or_until_something_may_not() {
    let root = tempfile::tempdir().unwrap();
    let store = SqliteLedger::open(root.path()).await.unwrap();
    let (writes, queue) = mpsc::channel(8);
    let (events, mut heard) = mpsc::channel(8);
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn(run_writer(store, queue, events, CancellationToken::new()));
    let patient = |ticket| Write { may_wait: true, ..paused(ticket) };
    // Each is sent when the writer has taken the one before, so that nothing but waiting brings
    // them together.
    for write in [patient(0), patient(1), paused(2)] {
        writes.send(write).await.unwrap();
        while writes.capacity() < 8 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(heard.recv().await, Some(LedgerEvent::Written(vec![0, 1, 2])));
    writes.send(patient(3)).await.unwrap();
    assert_eq!(
        heard.recv().await,
        Some(LedgerEvent::Written(vec![3])),
        "it waits for a moment, not for ever"
    );
    drop(writes);
    assert_eq!(writer.join_next().await.unwrap().unwrap(), [0; 0]);
}

#[tokio::test]
async fn the_writer_shares_transactions_and_reports_every_ticket() {
    let root = tempfile::tempdir().unwrap();
    let store = SqliteLedger::open(root.path()).await.unwrap();
    let (writes, queue) = mpsc::channel(300);
    let (events, mut heard) = mpsc::channel(300);
    for ticket in 0..300 {
        writes.try_send(paused(ticket)).unwrap();
    }
    drop(writes);
    let lost = run_writer(store, queue, events, CancellationToken::new()).await;
    assert_eq!(lost, [0; 0]);
    let mut batches = Vec::new();
    while let Some(event) = heard.recv().await {
        let LedgerEvent::Written(tickets) = event else { panic!("{event:?}") };
        batches.push(tickets);
    }
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [256, 44]);
    assert_eq!(batches.concat(), (0..300).collect::<Vec<_>>());
    let mut store = SqliteLedger::open(root.path()).await.unwrap();
    assert_eq!(store.pauses().await.unwrap().len(), 300);
}

#[tokio::test(start_paused = true)]
async fn the_writer_waits_for_a_failing_database_and_goes_on_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let store = SqliteLedger::open(root.path()).await.unwrap();
    rename_pause(root.path(), "pause", "hidden").await;
    let (writes, queue) = mpsc::channel(8);
    let (events, mut heard) = mpsc::channel(8);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(run_writer(store, queue, events, CancellationToken::new()));
    writes.send(paused(1)).await.unwrap();
    let Some(LedgerEvent::Failing { cause }) = heard.recv().await else { panic!("not reported") };
    assert!(cause.contains("pause"), "{cause}");
    rename_pause(root.path(), "hidden", "pause").await;
    assert_eq!(heard.recv().await, Some(LedgerEvent::Healthy));
    assert_eq!(heard.recv().await, Some(LedgerEvent::Written(vec![1])));
    drop(writes);
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), [0; 0]);
}

#[tokio::test]
async fn told_to_stop_the_writer_tries_what_is_queued_and_owns_up_to_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let store = SqliteLedger::open(root.path()).await.unwrap();
    let (writes, queue) = mpsc::channel(8);
    let (events, _heard) = mpsc::channel(8);
    let stop = CancellationToken::new();
    stop.cancel();
    writes.try_send(paused(1)).unwrap();
    assert_eq!(run_writer(store, queue, events.clone(), stop.clone()).await, [0; 0]);

    let store = SqliteLedger::open(root.path()).await.unwrap();
    rename_pause(root.path(), "pause", "hidden").await;
    let (writes, queue) = mpsc::channel(8);
    writes.try_send(paused(2)).unwrap();
    assert_eq!(run_writer(store, queue, events, stop).await, [2]);
}
