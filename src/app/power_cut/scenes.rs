//! What the program does while it is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{ExportId, Fact, Log, Operation, TruePart};
use crate::app::{App, RunOptions, Setup, retry};
use crate::config::{self, Config, Environment};
use crate::domain::part::PartKey;
use crate::durable::record::Recording;
use crate::ledgers::sqlite::Applying;
use crate::process::runtimes::TransferRuntimes;
use crate::simulator::{
    Content, Script, Serving, SimExport, SimFile, SimProject, Simulator, ViewStep,
};

const PROJECT: &str = "project_shop";
const KEY: &str = "key-of-the-shop";
const LARGE_BYTES: usize = (17 << 20) + 4321;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub(super) enum Scene {
    /// Two exports of small parts, committed in groups.
    Small { without_rename: bool },
    /// One large part with checkpoints, beside a small one.
    Large { without_rename: bool },
    /// A large part that is stopped after its first checkpoint. The next run continues it.
    Stopped,
    /// An export that fails, is retried, and succeeds.
    Failed,
}

/// The recording, and the expected content.
pub(super) struct Played {
    pub(super) log: Log,
    pub(super) config: Config,
    pub(super) truth: BTreeMap<ExportId, Vec<TruePart>>,
    pub(super) first_is_failure: bool,
}

struct Stage {
    home: TempDir,
    recording: Recording,
    sim: Simulator,
    transfer: TransferRuntimes,
}

impl Scene {
    pub(super) const ALL: [Self; 6] = [
        Self::Small { without_rename: false },
        Self::Small { without_rename: true },
        Self::Large { without_rename: false },
        Self::Large { without_rename: true },
        Self::Stopped,
        Self::Failed,
    ];

    pub(super) async fn play(self, transfer: TransferRuntimes) -> Played {
        let truth = self.truth();
        let script = Script::new(vec![SimProject::new(PROJECT, KEY, self.exports(&truth))]);
        let sim = Simulator::start(script).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        let without_rename = matches!(
            self,
            Self::Small { without_rename: true } | Self::Large { without_rename: true }
        );
        prepare(home.path(), sim.api_base_url(), &truth);
        let recording = Recording::start(home.path(), without_rename);
        let stage = Stage { home, recording, sim, transfer };
        match self {
            Self::Small { .. } | Self::Large { .. } => stage.run_to_its_end().await,
            Self::Stopped => {
                stage.run_until_checkpoint().await;
                stage.sim.release("file_1");
                stage.run_to_its_end().await;
            }
            Self::Failed => {
                stage.run_to_its_end().await;
                let export: ExportId = "export_1".parse().unwrap();
                let files = files(&truth[&export]);
                stage.sim.set_views("export_1", vec![ViewStep::Success(files)]).unwrap();
                let retried = retry(&stage.config(), &BTreeSet::from([export])).await.unwrap();
                assert_eq!(retried.len(), 1);
                stage.run_to_its_end().await;
            }
        }
        for (export, parts) in &truth {
            let folder = stage.home.path().join("exports/shop").join(export.as_str());
            assert!(folder.join("manifest.json").exists(), "{export} is whole in the end");
            assert_eq!(fs::read_dir(folder).unwrap().count(), parts.len() + 1);
        }
        let (log, config) = (stage.recording.log(), stage.config());
        stage.sim.stop().await;
        Played { log, config, truth, first_is_failure: matches!(self, Self::Failed) }
    }

    fn truth(self) -> BTreeMap<ExportId, Vec<TruePart>> {
        let sizes: &[&[usize]] = match self {
            Self::Small { .. } => &[&[5000, 0, 70_000, 3], &[9000, 4097]],
            Self::Large { .. } => &[&[LARGE_BYTES, 5000]],
            Self::Stopped => &[&[LARGE_BYTES]],
            Self::Failed => &[&[5000, 6000]],
        };
        let mut random = Rng::with_seed(7);
        let mut file = 0;
        let mut part = |(at, bytes): (usize, &usize)| {
            file += 1;
            let key = PartKey {
                number: u32::try_from(at + 1).unwrap(),
                file_id: format!("file_{file}").parse().unwrap(),
            };
            let mut content = vec![b'['; *bytes];
            random.fill(content.get_mut(1..).unwrap_or_default());
            TruePart::new(key, content)
        };
        let mut export = |(at, sizes): (usize, &&[usize])| {
            let parts = sizes.iter().enumerate().map(&mut part).collect();
            (format!("export_{}", at + 1).parse().unwrap(), parts)
        };
        sizes.iter().enumerate().map(&mut export).collect()
    }

    fn exports(self, truth: &BTreeMap<ExportId, Vec<TruePart>>) -> Vec<SimExport> {
        let export = |(id, parts): (&ExportId, &Vec<TruePart>)| match self {
            Self::Failed => SimExport::failing(id.as_str()),
            Self::Stopped => {
                let stalled = |file: SimFile| {
                    file.on_fetch(Serving::well().stall_after(10_u64 << 20))
                        .on_fetch(Serving::well())
                };
                SimExport::finished(id.as_str(), files(parts).into_iter().map(stalled).collect())
            }
            Self::Small { .. } | Self::Large { .. } => {
                SimExport::finished(id.as_str(), files(parts))
            }
        };
        truth.iter().map(export).collect()
    }
}

fn files(parts: &[TruePart]) -> Vec<SimFile> {
    let file = |part: &TruePart| {
        let content = Content::Bytes(part.content.clone());
        SimFile::new(part.key.file_id.as_str(), part.key.number.into(), content)
    };
    parts.iter().map(file).collect()
}

fn prepare(home: &Path, base_url: &str, truth: &BTreeMap<ExportId, Vec<TruePart>>) {
    let exports: Vec<_> = truth.keys().map(|export| format!("\"{export}\"")).collect();
    let exports = exports.join(", ");
    let config = format!(
        r#"
[api]
base_url = "{base_url}"
[poll]
min_interval = "10ms"
max_interval = "20ms"
[retry]
initial = "10ms"
max = "20ms"
[download]
directory = "exports"
reserve = "1MiB"
max_parts = 4
[state]
directory = "state"
[server]
listen = "off"
[[project]]
name = "shop"
project_key = "{PROJECT}"
rest_api_key_file = "key"
exports = [{exports}]
"#
    );
    for (name, text) in [("config.toml", config.as_str()), ("key", KEY)] {
        let path = home.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }
}

impl Stage {
    fn config(&self) -> Config {
        config::load(&self.home.path().join("config.toml"), &Environment::default()).unwrap()
    }

    async fn build(&self, exit_when_settled: bool) -> App {
        let setup = Setup {
            config: self.config(),
            environment: Environment::default(),
            options: RunOptions { exit_when_settled, deadline: None },
            transfer: self.transfer.clone(),
            hangups: None,
        };
        App::build(setup).await.unwrap()
    }

    async fn run_to_its_end(&self) {
        let run = self.build(true).await.run(CancellationToken::new());
        tokio::time::timeout(PATIENCE, run).await.expect("every export is settled");
    }

    /// Stops cleanly once a checkpoint is on record and the store has stalled.
    async fn run_until_checkpoint(&self) {
        let stop = CancellationToken::new();
        let stopping = async {
            while !self.has_checkpoint() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stop.cancel();
        };
        let run = Box::pin(self.build(false).await.run(stop.clone()));
        tokio::time::timeout(PATIENCE, async { tokio::join!(run, stopping) })
            .await
            .expect("a checkpoint");
    }

    fn has_checkpoint(&self) -> bool {
        self.recording.log().iter().any(|(_, operation)| {
            let Operation::Note(note) = operation else { return false };
            let Some(Applying::Begun(batch)) = note.downcast_ref() else { return false };
            batch.iter().any(|change| matches!(change, Fact::PartialSynced { .. }))
        })
    }
}

pub(super) fn words(operation: &Operation) -> String {
    match operation {
        Operation::MakeFolder { parent, name, folder } => {
            format!("mkdir {parent}/{name} = {folder}")
        }
        Operation::Create { folder, name, file } => format!("create {folder}/{name:?} = {file}"),
        Operation::Write { file, offset, bytes } => {
            format!("write {file}, {} at {offset}", bytes.len())
        }
        Operation::Cut { file, bytes } => format!("truncate {file} to {bytes}"),
        Operation::Sync { file, .. } => format!("fsync {file}"),
        Operation::SyncFolder { folder, .. } => format!("fsync folder {folder}"),
        Operation::Link { folder, name, file } => format!("link {file} as {folder}/{name}"),
        Operation::Rename { folder, old, new } => format!("rename {folder}/{old} to {new}"),
        Operation::Remove { folder, name } => format!("unlink {folder}/{name}"),
        Operation::Note(note) => match note.downcast_ref::<Applying>() {
            Some(Applying::Begun(batch)) => {
                format!("record {} changes, such as {:.60?}", batch.len(), batch.first())
            }
            Some(Applying::Durable) => "recorded".to_owned(),
            None => "a note".to_owned(),
        },
    }
}
