//! Which tools compete on which data, in rounds: A B C, A B C, so that a slow minute of the machine
//! affects all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use batch_export_watcher::domain::manifest::{MANIFEST_FILE, Manifest};
use batch_export_watcher::domain::part::Sha256;

use super::data::{BIG, Data, SHORT, SMALL, Set, WIDE, sum_of};
use super::latency;
use super::measure::{Run, measure, settle};
use super::peers::{IN_FLIGHT, Job, OUT, PROJECT, Tool};
use super::rig::{Rig, Scheme};
use super::trouble::{Doing as _, Trouble};

const LATENCY_RUNS: usize = 20;
/// Transfers at once when memory is measured.
const MANY_IN_FLIGHT: usize = 64;

/// A table of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// 12 parts of 100 MB over http.
    BigHttp,
    /// 12 parts of 100 MB over https.
    BigHttps,
    /// 2,000 parts of 50 KB over http.
    SmallHttp,
    /// 2,000 parts of 50 KB over https.
    SmallHttps,
    /// The program alone, with many parts in flight.
    Memory,
    /// From SUCCESS to the manifest.
    Latency,
}

/// One row of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) tool: Tool,
    pub(crate) set: Set,
    pub(crate) scheme: Scheme,
    pub(crate) in_flight: usize,
}

/// The counted runs of a row.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) contender: Contender,
    pub(crate) runs: Vec<Run>,
}

#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) outcomes: Vec<Outcome>,
    /// Milliseconds from SUCCESS to the manifest.
    pub(crate) latencies: Vec<f64>,
}

impl Scenario {
    /// The heading of its table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::BigHttp => "12 parts of 100 MB over http",
            Self::BigHttps => "12 parts of 100 MB over https (TLS 1.3)",
            Self::SmallHttp => "2,000 parts of 50 KB over http",
            Self::SmallHttps => "2,000 parts of 50 KB over https (TLS 1.3)",
            Self::Memory => "Memory with many parts in flight",
            Self::Latency => "From the API's SUCCESS to manifest.json, one part of 1 MB",
        }
    }

    /// What is served for it.
    pub(crate) fn sets(self) -> &'static [Set] {
        match self {
            Self::BigHttp | Self::BigHttps => &[BIG],
            Self::SmallHttp | Self::SmallHttps => &[SMALL],
            Self::Memory => &[WIDE, SHORT],
            Self::Latency => &[],
        }
    }

    /// Its rows, without tools that are not there.
    pub(crate) fn contenders(self, installed: &[Tool]) -> Vec<Contender> {
        let tools = |set: Set, scheme: Scheme, equal_work: Tool| {
            let all = [
                Tool::Ours,
                Tool::Before,
                Tool::Curl,
                equal_work,
                Tool::Aria2c,
                Tool::Wget2,
                Tool::Rclone,
                Tool::Requests,
            ];
            let there = all.into_iter().filter(|tool| installed.contains(tool));
            there.map(|tool| Contender { tool, set, scheme, in_flight: IN_FLIGHT }).collect()
        };
        match self {
            Self::BigHttp => tools(BIG, Scheme::Http, Tool::CurlSyncSums),
            Self::BigHttps => tools(BIG, Scheme::Https, Tool::CurlSyncSums),
            Self::SmallHttp => tools(SMALL, Scheme::Http, Tool::CurlSync),
            Self::SmallHttps => tools(SMALL, Scheme::Https, Tool::CurlSync),
            Self::Memory => [(WIDE, MANY_IN_FLIGHT), (SHORT, MANY_IN_FLIGHT), (SHORT, IN_FLIGHT)]
                .into_iter()
                .flat_map(|(set, in_flight)| {
                    [Scheme::Http, Scheme::Https].map(|scheme| Contender {
                        tool: Tool::Ours,
                        set,
                        scheme,
                        in_flight,
                    })
                })
                .collect(),
            Self::Latency => Vec::new(),
        }
    }

    /// Whether runs lie there until the end: a file system that has just removed thousands of files
    /// makes new ones slowly.
    fn keeps_runs(self) -> bool {
        matches!(self, Self::SmallHttp | Self::SmallHttps)
    }

    /// The disk it needs at a time, in bytes, beside the sets themselves.
    pub(crate) fn disk_bytes(self, rounds: usize, installed: &[Tool]) -> u64 {
        let sizes: Vec<_> = self
            .contenders(installed)
            .iter()
            .map(|contender| contender.set.total_bytes())
            .collect();
        if self.keeps_runs() {
            sizes.iter().sum::<u64>() * rounds as u64
        } else {
            sizes.into_iter().max().unwrap_or(0)
        }
    }

    /// Runs all rounds: one that is verified and not counted, then `runs` that count.
    pub(crate) async fn run(
        self,
        rig: &Rig,
        data: &Data,
        folder: &Path,
        runs: usize,
        installed: &[Tool],
    ) -> Result<Measured, Trouble> {
        fs::create_dir_all(folder).doing(|| "cannot create the scenario's folder".to_owned())?;
        let measured = if self == Self::Latency {
            self.run_latency(folder).await?
        } else {
            self.run_rounds(rig, data, folder, runs, installed).await?
        };
        fs::remove_dir_all(folder).doing(|| "cannot remove the scenario's folder".to_owned())?;
        settle(folder.parent().unwrap_or(folder))?;
        Ok(measured)
    }

    async fn run_rounds(
        self,
        rig: &Rig,
        data: &Data,
        folder: &Path,
        runs: usize,
        installed: &[Tool],
    ) -> Result<Measured, Trouble> {
        for &set in self.sets() {
            data.warm(set).await?;
        }
        let contenders = self.contenders(installed);
        let mut outcomes: Vec<_> = contenders
            .into_iter()
            .map(|contender| Outcome { contender, runs: Vec::new() })
            .collect();
        for round in 0..=runs {
            for (number, outcome) in outcomes.iter_mut().enumerate() {
                let contender = outcome.contender;
                let folder = folder.join(format!("{round}-{number}"));
                let run = contender
                    .run(rig, &folder)
                    .await
                    .map_err(|trouble| contender.blame(trouble))?;
                contender
                    .check(data, &folder, round == 0)
                    .map_err(|trouble| contender.blame(trouble))?;
                if round > 0 {
                    outcome.runs.push(run);
                }
                let count =
                    if round == 0 { "warm-up".to_owned() } else { format!("{round}/{runs}") };
                eprintln!("{} {count}: {:.3} s", contender.label(), run.wall_seconds);
                if !self.keeps_runs() {
                    fs::remove_dir_all(&folder)
                        .doing(|| "a run's folder cannot be removed".to_owned())?;
                }
            }
        }
        Ok(Measured { outcomes, latencies: Vec::new() })
    }

    async fn run_latency(self, folder: &Path) -> Result<Measured, Trouble> {
        let mut latencies = Vec::new();
        for number in 0..=LATENCY_RUNS {
            let folder = folder.join(number.to_string());
            fs::create_dir(&folder).doing(|| "a run's folder cannot be made".to_owned())?;
            let latency = latency::measure_once(&folder).await?;
            eprintln!("latency {number}/{LATENCY_RUNS}: {latency:.1} ms");
            // The first one is to warm up.
            if number > 0 {
                latencies.push(latency);
            }
        }
        Ok(Measured { outcomes: Vec::new(), latencies })
    }
}

impl Contender {
    /// Who, on what, and how.
    pub(crate) fn label(self) -> String {
        let Self { tool, set, scheme, in_flight } = self;
        format!("{}, {} over {scheme}, {in_flight} in flight", tool.name(), set.size())
    }

    async fn run(self, rig: &Rig, folder: &Path) -> Result<Run, Trouble> {
        fs::create_dir(folder).doing(|| "a run's folder cannot be made".to_owned())?;
        let Self { tool, set, scheme, in_flight } = self;
        measure(&tool.plan(Job { rig, scheme, set, in_flight, folder })?, folder).await
    }

    fn blame(self, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::Wrong(words) => Trouble::Wrong(format!("{}: {words}", self.label())),
            other => other,
        }
    }

    /// Where a run's files land.
    fn landing(self, folder: &Path) -> PathBuf {
        let out = folder.join(OUT);
        if self.tool.is_this_program() { out.join(PROJECT).join(self.set.name) } else { out }
    }

    /// Whether a run downloaded what was served: the number of files and bytes, and their content
    /// if `thoroughly`.
    fn check(self, data: &Data, folder: &Path, thoroughly: bool) -> Result<(), Trouble> {
        let mut files = files_below(&self.landing(folder))?;
        if self.tool.is_this_program() {
            self.check_manifest(data, folder)?;
            files.remove(&self.landing(folder).join(MANIFEST_FILE));
        }
        let bytes: u64 = files.values().sum();
        if files.len() != self.set.parts || bytes != self.set.total_bytes() {
            return Err(Trouble::Wrong(format!(
                "it brought {} files of {bytes} bytes",
                files.len()
            )));
        }
        if thoroughly {
            let sums = files.keys().map(|path| sum_of(path)).collect::<Result<Vec<_>, _>>()?;
            let served = self.set.ids().filter_map(|id| data.sum(&id)).collect();
            if counted(sums) != counted(served) {
                return Err(Trouble::Wrong(
                    "it downloaded other bytes than were served".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Whether the manifest vouches for what was served.
    fn check_manifest(self, data: &Data, folder: &Path) -> Result<(), Trouble> {
        let bytes = fs::read(self.landing(folder).join(MANIFEST_FILE))
            .doing(|| "cannot read the manifest".to_owned())?;
        let manifest =
            Manifest::parse(&bytes).map_err(|error| Trouble::Wrong(error.to_string()))?;
        let promised =
            manifest.parts.iter().map(|part| (part.file_id.to_string(), Some(part.sha256)));
        if promised.eq(self.set.ids().map(|id| (id.clone(), data.sum(&id)))) {
            Ok(())
        } else {
            Err(Trouble::Wrong("the manifest differs from what was served".to_owned()))
        }
    }
}

/// How often each sum is there: tools name their files as they like.
fn counted(sums: Vec<Sha256>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for sum in sums {
        *counts.entry(sum.to_string()).or_insert(0) += 1;
    }
    counts
}

/// Every file with its length.
fn files_below(folder: &Path) -> Result<BTreeMap<PathBuf, u64>, Trouble> {
    let words = || format!("{} cannot be read", folder.display());
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).doing(words)? {
            let entry = entry.doing(words)?;
            let metadata = entry.metadata().doing(words)?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path(), metadata.len());
            }
        }
    }
    Ok(found)
}
