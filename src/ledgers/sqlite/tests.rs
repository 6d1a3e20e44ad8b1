//! SQLite on real files: it keeps the rules of the port, and what it refuses.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::ledgers::conformance::{Home, conforms, export, failure, only, partial, project};
use crate::ports::RecordedState;

impl Home for TempDir {
    type Ledger = SqliteLedger;

    async fn open(&self) -> SqliteLedger {
        SqliteLedger::open(self.path()).await.unwrap()
    }
}

conforms!(tempfile::tempdir().unwrap());

async fn claimed(directory: &Path) -> (SqliteLedger, Epoch) {
    let mut ledger = SqliteLedger::open(directory).await.unwrap();
    let epoch = ledger.claim(&[]).await.unwrap();
    (ledger, epoch)
}

/// A state as the first schema left it.
async fn first_schema(directory: &Path) {
    Dir::open(directory).unwrap().create_empty(DATABASE_FILE).unwrap();
    let options = SqliteConnectOptions::new().filename(directory.join(DATABASE_FILE));
    let mut old = options.connect().await.unwrap();
    let migrator = Migrator::with_migrations(vec![migration(MIGRATIONS[0])]);
    migrator.run(&mut old).await.unwrap();
    for insert in [
        "INSERT INTO export (project, export_id, state) VALUES ($1, 'e1', 'watching')",
        "INSERT INTO partial VALUES ($1, 'e1', 1, 'f1', 40, 100, '\"v\"')",
    ] {
        let insert = sqlx::query(insert).bind(project("project_one").to_string());
        insert.execute(&mut old).await.unwrap();
    }
    old.close().await.unwrap();
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date() {
    let root = tempfile::tempdir().unwrap();
    first_schema(root.path()).await;
    let seen = look(root.path(), &[project("project_one")]).await.unwrap().unwrap();
    let found = (seen.exports.len(), seen.exports[0].partials.len());
    assert_eq!(found, (1, 0), "a look migrates nothing");
    let (mut ledger, epoch) = claimed(root.path()).await;
    let record = only(&mut ledger).await;
    assert_eq!(record.partials, [], "what does not say what its bytes are is not believed");
    let synced = Fact::PartialSynced { export: export("e1"), part: partial(1) };
    ledger.commit(epoch, &[synced]).await.unwrap();
    assert_eq!(only(&mut ledger).await.partials, [partial(1)]);
}

#[tokio::test]
async fn neither_the_key_nor_anybody_else_gets_in() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("state");
    let (mut ledger, epoch) = claimed(&directory).await;
    ledger.commit(epoch, &[Fact::Watching { export: export("e1") }]).await.unwrap();
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
    let (mut ledger, epoch) = claimed(root.path()).await;
    let rename = sqlx::query("ALTER TABLE pause RENAME TO hidden");
    rename.execute(ledger.connection().await.unwrap()).await.unwrap();
    let watching = Fact::Watching { export: export("e1") };
    let paused = Fact::Paused { scope: PauseScope::Origin, until: Timestamp::UNIX_EPOCH };
    let error = ledger.commit(epoch, &[watching, paused]).await.unwrap_err();
    assert!(error.to_string().contains("state.db"), "{error}");
    assert_eq!(ledger.load(&[project("project_one")]).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_as_it_is() {
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| *bytes = vec![b'x'; 9000],
        |bytes| bytes[..16].fill(0),
        |bytes| bytes[4096..].fill(0xff),
        |bytes| {
            let length = bytes.len();
            bytes[length - 4096..].fill(0xff);
        },
    ];
    for damage in damages {
        let root = tempfile::tempdir().unwrap();
        let (mut ledger, epoch) = claimed(root.path()).await;
        ledger.commit(epoch, &[Fact::Watching { export: export("e1") }]).await.unwrap();
        ledger.close().await.unwrap();
        let path = root.path().join(DATABASE_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), &bytes).unwrap();
        let error = SqliteLedger::open(root.path()).await.unwrap_err();
        assert!(matches!(error, LedgerFault::Corrupt(_)), "{error:?}");
        let words = error.to_string();
        assert!(words.contains(path.to_str().unwrap()) && words.contains("move it"), "{words}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut ledger = SqliteLedger::open(root.path()).await.unwrap();
    let insert = "INSERT INTO _sqlx_migrations \
                  (version, description, success, checksum, execution_time) \
                  VALUES (7, 'later', TRUE, x'00', 0)";
    sqlx::query(insert).execute(ledger.connection().await.unwrap()).await.unwrap();
    ledger.close().await.unwrap();
    let opened = SqliteLedger::open(root.path()).await.unwrap_err();
    for error in [opened, look(root.path(), &[]).await.unwrap_err()] {
        let LedgerFault::Newer(words) = &error else { panic!("{error:?}") };
        assert!(words.contains("schema 7, this one knows 3"), "{words}");
    }
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
    let (mut ledger, epoch) = claimed(&directory).await;
    let failed = Fact::Failed { export: export("e1"), failure: failure() };
    ledger.commit(epoch, &[failed]).await.unwrap();
    let in_use = files();
    assert_eq!(in_use.len(), 3, "{in_use:?}");
    let state = RecordedState::Failed(failure());
    assert_eq!(look(&directory, &digests).await.unwrap().unwrap().exports[0].state, state);
    assert_eq!(files(), in_use);
    ledger.close().await.unwrap();
    assert_eq!(look(&directory, &digests).await.unwrap().unwrap().exports[0].state, state);
    assert_eq!(files(), [DATABASE_FILE]);
}

#[tokio::test]
async fn an_empty_file_is_a_first_start_that_died_and_a_folder_is_not() {
    let root = tempfile::tempdir().unwrap();
    Dir::open(root.path()).unwrap().create_empty(DATABASE_FILE).unwrap();
    let ledger = SqliteLedger::open(root.path()).await.unwrap();
    ledger.close().await.unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join(DATABASE_FILE)).unwrap();
    assert!(matches!(
        SqliteLedger::open(other.path()).await,
        Err(LedgerFault::Unavailable(words)) if words.contains("not a regular file")
    ));
}
