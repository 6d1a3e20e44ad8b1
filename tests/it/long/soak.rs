//! The daemon over many simulated days: thousands of exports come and go, a tenth of all answers is
//! a fault, keys change, the configuration changes. Everything is delivered, the request budget is
//! kept, and what the daemon uses stays what it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batch_export_watcher::domain::manifest::Manifest;
use batch_export_watcher::simulator::{Content, Script, SimFile, SimProject, Simulator, ViewStep};
use fastrand::Rng;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::budget::{Budget, Stalls};
use super::cast::{Casting, Fate, Member, count_kinds, number_of, weather};
use super::daemon::{Daemon, Tally, Vitals, heard, program};
use super::trend::Trend;
use super::{seconds, seed, summarize};
use crate::support::fault_proxy::FaultProxy;
use crate::support::home::Home;
use crate::support::scene::{project_key, rest_key};
use crate::support::{PATIENCE, look, move_to};

const PROJECTS: [&str; 3] = ["shop", "blog", "app"];
/// View calls of one project in a second. The cadence would like several times as many, so that the
/// budget is what holds it.
const RATE: u64 = 20;
/// Exports that are watched at the same time.
const LIVE: usize = 48;
/// How many times as fast as by default everything goes.
const COMPRESSION: u64 = 500;
/// Five minutes and ten seconds of cadence become 600 and 20 ms.
const SETTINGS: &str = r#"
    [api]
    requests_per_second = 20
    request_timeout = "5s"
    [poll]
    min_interval = "20ms"
    max_interval = "600ms"
    [retry]
    initial = "20ms"
    max = "1200ms"
    [download]
    max_parts = 6
    stall_timeout = "2s"
    [reload]
    interval = "100ms"
    [server]
    listen = "127.0.0.1:0"
"#;
/// Bytes of answers that a connection typically brings before the network ends it.
const API_CONNECTION_BYTES: u64 = 20_000;
const STORE_CONNECTION_BYTES: u64 = 1_500_000;
/// Longest time from the first sight of an export to its end; it is a second or two.
const LONGEST: Duration = Duration::from_secs(180);
const TICK: Duration = Duration::from_millis(100);
/// What the daemon may have open at once: parts that have their bytes and wait for their names (192
/// at most, which a disk that is slow to sync brings about), a file and connections for each slot,
/// and about 40 that are always there.
const MOST_DESCRIPTORS: f64 = 300.0;
/// Threads that may block in fsync and the like, 16 for each of three runtimes, which are kept once
/// they are there; and about ten that are always there.
const MOST_THREADS: f64 = 60.0;
/// Growth of the descriptors from the first to the last third. A slower disk has more parts wait for
/// their names; a leak of one in a thousand exports would be 36 in an hour.
const MORE_DESCRIPTORS: f64 = 18.0;
/// How often what the daemon uses is looked at.
const SAMPLE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Listed,
    /// Taken out of the configuration for a while.
    Parked(Instant),
    /// Failed, and about to be retried.
    Failed,
    /// Retried; the notice is about to go.
    Retried,
    /// Failed, and out of the configuration for good: the notice is to go.
    Withdrawn,
}

#[derive(Debug)]
struct Live {
    member: Member,
    project: usize,
    born: Instant,
    stage: Stage,
}

#[derive(Debug, Default)]
struct Trends {
    rss_kib: Trend,
    descriptors: Trend,
    threads: Trend,
    own_rss_kib: Trend,
    log_bytes_per_answer: Trend,
}

#[derive(Debug, Default)]
struct Counts {
    whole: u64,
    failed: u64,
    retried: u64,
    parts: u64,
    bytes: u64,
    answers: u64,
    unauthorized: u64,
    key_rotations: u64,
    reloads: u64,
    restarts: u64,
    parked: u64,
    faults: BTreeMap<&'static str, u64>,
}

struct Soak {
    sim: Simulator,
    home: Home,
    api: FaultProxy,
    store: FaultProxy,
    daemon: Option<Daemon>,
    tally: Arc<Mutex<Tally>>,
    casting: Casting,
    random: Rng,
    live: Vec<Live>,
    /// What each project's list of exports says.
    lists: [Vec<String>; PROJECTS.len()],
    /// Keys that the API accepts already and that are not in their file yet.
    new_keys: Vec<(usize, String, Instant)>,
    /// By the export's number.
    ended_at: Vec<Option<Instant>>,
    budget: Budget,
    stalls: Stalls,
    counts: Counts,
    trends: Trends,
    began: Instant,
    /// Log bytes and answers at the last look.
    looked: (u64, u64),
}

impl Soak {
    async fn new(seed: u64) -> Self {
        let projects =
            PROJECTS.map(|name| SimProject::new(&project_key(name), &rest_key(name), Vec::new()));
        let script = Script::new(projects.into()).with_link_lifetime(Duration::from_secs(10));
        let sim = Simulator::start(script).await.expect("two free ports on loopback");
        let api =
            FaultProxy::drawing(sim.api_address(), weather(seed ^ 1, API_CONNECTION_BYTES)).await;
        let store =
            FaultProxy::drawing(sim.store_address(), weather(seed ^ 2, STORE_CONNECTION_BYTES))
                .await;
        sim.set_link_origin(&store.origin());
        let mut home = Home::new(&format!("{}/2.11", api.origin())).with(SETTINGS);
        let mut tables = String::new();
        for name in PROJECTS {
            home.write_key(name, &rest_key(name));
            home.write(&format!("{name}.ids"), "");
            let key = project_key(name);
            let _ = write!(
                tables,
                "[[project]]\nname = \"{name}\"\nproject_key = \"{key}\"\nrest_api_key_file = \"{name}.key\"\n\
                 exports_file = \"{name}.ids\"\n"
            );
        }
        home.merge(&tables);
        home.write_config();
        let tally = Arc::new(Mutex::new(Tally::default()));
        let daemon = Some(Daemon::start(&home, &tally));
        Self {
            sim,
            home,
            api,
            store,
            daemon,
            tally,
            casting: Casting::new(seed),
            random: Rng::with_seed(seed ^ 3),
            live: Vec::new(),
            lists: [const { Vec::new() }; PROJECTS.len()],
            new_keys: Vec::new(),
            ended_at: Vec::new(),
            budget: Budget::new(RATE),
            stalls: Stalls::watch(),
            counts: Counts::default(),
            trends: Trends::default(),
            began: Instant::now(),
            looked: (0, 0),
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("the log ends with\n{}\n{what}", heard(&self.tally).last_lines());
    }

    fn top_up(&mut self) {
        while self.live.len() < LIVE {
            let (member, export) = self.casting.draw();
            let project = self.random.usize(..PROJECTS.len());
            self.sim
                .put_export(&project_key(PROJECTS[project]), export)
                .expect("a project of ours");
            self.ended_at.push(None);
            self.live.push(Live { member, project, born: Instant::now(), stage: Stage::Listed });
        }
    }

    /// Puts back whose time has come, and while it is `running` takes a few out for a while.
    fn park(&mut self, running: bool) {
        let now = Instant::now();
        for live in &mut self.live {
            match live.stage {
                Stage::Listed if running && self.random.usize(..1000) == 0 => {
                    live.stage = Stage::Parked(now + Duration::from_secs(1));
                    self.counts.parked += 1;
                }
                Stage::Parked(until) if until <= now => live.stage = Stage::Listed,
                _ => {}
            }
        }
    }

    /// Appends what is new to each list, as another job would; writes it anew where something is
    /// gone.
    fn write_lists(&mut self) {
        for (project, name) in PROJECTS.iter().enumerate() {
            let is_listed = |live: &&Live| {
                live.project == project
                    && matches!(live.stage, Stage::Listed | Stage::Failed | Stage::Retried)
            };
            let ids: Vec<String> =
                self.live.iter().filter(is_listed).map(|live| live.member.id.clone()).collect();
            if ids == self.lists[project] {
                continue;
            }
            let path = self.home.path().join(format!("{name}.ids"));
            if let Some(new) = ids.strip_prefix(self.lists[project].as_slice()) {
                let text: String = new.iter().map(|id| format!("{id}\n")).collect();
                let file = fs::OpenOptions::new().append(true).open(&path);
                std::io::Write::write_all(&mut file.expect("a list of ours"), text.as_bytes())
                    .expect("room");
            } else {
                let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
                self.replace(&format!("{name}.ids"), &text);
            }
            self.lists[project] = ids;
        }
    }

    /// Puts a file in the place of another one, as an editor would.
    fn replace(&self, name: &str, text: &str) {
        self.home.write(&format!("{name}.new"), text);
        move_to(self.home.path().join(format!("{name}.new")), self.home.path().join(name));
    }

    /// The consumer: looks for what is whole, compares it, and takes it away.
    async fn consume(&mut self) {
        let mut at = 0;
        while at < self.live.len() {
            let live = &self.live[at];
            let folder = self.home.export(PROJECTS[live.project], &live.member.id);
            let (whole, failed) =
                (folder.join("manifest.json").exists(), folder.join("failed.json").exists());
            if live.born.elapsed() > LONGEST {
                self.fail(&format!("{live:?} is not at its end; whole: {whole}, failed: {failed}"));
            }
            let gone = match (live.stage, whole, failed) {
                (_, true, false) => self.take(at, &folder).await,
                (Stage::Listed, false, true) => {
                    self.notice(at, &folder);
                    false
                }
                (Stage::Failed, false, _) => {
                    self.retry(at).await;
                    false
                }
                (Stage::Retried, false, false) => {
                    self.live[at].stage = Stage::Listed;
                    false
                }
                (Stage::Withdrawn, false, false) => {
                    self.counts.failed += 1;
                    true
                }
                (_, true, true) => {
                    // A notice goes before the export is fetched, so that both are a fault.
                    self.fail(&format!("{} is whole and failed", live.member.id))
                }
                _ => false,
            };
            if gone {
                fs::remove_dir_all(&folder).expect("the folder of an export that is at its end");
                let live = self.live.remove(at);
                self.ended_at[live.member.number] = Some(Instant::now());
                count_kinds(&mut self.counts.faults, &live.member.faults);
                let removed =
                    self.sim.remove_export(&project_key(PROJECTS[live.project]), &live.member.id);
                removed.expect("an export of ours");
            } else {
                at += 1;
            }
        }
    }

    async fn take(&mut self, at: usize, folder: &Path) -> bool {
        let member = &self.live[at].member;
        if member.fate == Fate::Fails {
            self.fail(&format!("{} cannot be whole", member.id));
        }
        let (files, folder) = (member.files.clone(), folder.to_owned());
        let compared = tokio::task::spawn_blocking(move || compare(&folder, &files)).await;
        match compared.expect("the comparison ends") {
            Ok(bytes) => {
                self.counts.whole += 1;
                self.counts.parts += member.files.len() as u64;
                self.counts.bytes += bytes;
                true
            }
            Err(fault) => self.fail(&format!("{}: {fault}", self.live[at].member.id)),
        }
    }

    fn notice(&mut self, at: usize, folder: &Path) {
        let live = &self.live[at];
        let text = look::text(&folder.join("failed.json")).unwrap_or_default();
        let notice: Value = serde_json::from_str(&text).unwrap_or_default();
        if notice["export_id"] != live.member.id.as_str() || live.member.fate == Fate::Whole {
            self.fail(&format!("{:?} has the notice {text}", live.member));
        }
        let live = &mut self.live[at];
        if live.member.fate == Fate::FailsFirst {
            let views = vec![ViewStep::Success(live.member.files.clone())];
            self.sim.set_views(&live.member.id, views).expect("an export of ours");
            live.stage = Stage::Failed;
        } else {
            live.stage = Stage::Withdrawn;
        }
    }

    /// The operator retries a failed export; while the daemon is busy with it, or with itself, they
    /// try again.
    async fn retry(&mut self, at: usize) {
        let mut command = program(&self.home, "retry", &[]);
        command.arg(&self.live[at].member.id);
        let output = timeout(PATIENCE, command.output())
            .await
            .expect("an answer")
            .expect("the program starts");
        match output.status.code() {
            Some(0) => {
                self.live[at].stage = Stage::Retried;
                self.live[at].member.fate = Fate::Whole;
                self.counts.retried += 1;
            }
            Some(1 | 75) => {}
            other => self.fail(&format!("retry ended with {other:?}: {output:?}")),
        }
    }

    /// Reads what the simulator was asked since the last time.
    fn drain(&mut self) {
        let stalled = self.stalls.longest();
        for request in self.sim.take_ended_requests() {
            if let Err(fault) = self.budget.see(&request, stalled) {
                self.fail(&fault);
            }
            self.counts.answers += 1;
            self.counts.unauthorized += u64::from(request.status == Some(401));
            let number = request.fetched_file().and_then(number_of);
            let ended = number.and_then(|number| self.ended_at.get(number).copied().flatten());
            if ended.is_some_and(|ended| request.at > ended) {
                self.fail(&format!("{} was fetched again after it was delivered", request.path));
            }
        }
    }

    /// A key changes on the other side now, and in its file a moment before or after.
    fn rotate_key(&mut self) {
        let project = self.random.usize(..PROJECTS.len());
        if self.new_keys.iter().any(|(other, ..)| *other == project) {
            return;
        }
        let name = PROJECTS[project];
        self.counts.key_rotations += 1;
        let key = format!("{}-{}", rest_key(name), self.counts.key_rotations);
        self.sim.rotate_key(&project_key(name), &key).expect("a project of ours");
        if self.random.bool() {
            self.replace(&format!("{name}.key"), &format!("{key}\n"));
        } else {
            let late = Duration::from_millis(self.random.u64(..800));
            self.new_keys.push((project, key, Instant::now() + late));
        }
    }

    fn hand_out_keys(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.new_keys)
            .into_iter()
            .partition(|(.., at)| *at <= Instant::now());
        self.new_keys = later;
        for (project, key, _) in due {
            self.replace(&format!("{}.key", PROJECTS[project]), &format!("{key}\n"));
        }
    }

    /// Another configuration, or the same one again.
    fn reload(&mut self) {
        self.counts.reloads += 1;
        if self.random.bool() {
            let parts = self.random.usize(4..9);
            let rate = ["20MB/s", "200MB/s"][self.random.usize(..2)];
            let longest = self.random.usize(400..800);
            self.home.merge(&format!(
                "[poll]\nmax_interval = \"{longest}ms\"\n[download]\nmax_parts = {parts}\nbandwidth = \"{rate}\""
            ));
            self.home.write_config_as("config.toml.new");
            move_to(self.home.path().join("config.toml.new"), self.home.config_path());
        }
        if let (true, Some(daemon)) = (self.random.bool(), &self.daemon) {
            daemon.signal(Signal::HUP);
        }
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.counts.restarts += 1;
        self.budget.restarted();
        self.daemon = Some(Daemon::start(&self.home, &self.tally));
    }

    async fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop().await;
        }
        self.drain();
    }

    fn state_bytes(&self) -> u64 {
        let files = look::below(&self.home.path().join("state")).into_values();
        files.map(|metadata| metadata.len()).sum()
    }

    fn sample(&mut self) {
        let Some(vitals) = self.daemon.as_ref().and_then(Daemon::vitals) else { return };
        let own = Vitals::of(std::process::id()).unwrap_or_default();
        let at = self.began.elapsed().as_secs_f64();
        let log_bytes = heard(&self.tally).bytes;
        let (log_before, answers_before) =
            std::mem::replace(&mut self.looked, (log_bytes, self.counts.answers));
        let answers = precise(self.counts.answers - answers_before).max(1.0);
        self.trends.rss_kib.add(at, vitals.rss_kib.into());
        self.trends.descriptors.add(at, vitals.descriptors.into());
        self.trends.threads.add(at, vitals.threads.into());
        self.trends.own_rss_kib.add(at, own.rss_kib.into());
        self.trends.log_bytes_per_answer.add(at, precise(log_bytes - log_before) / answers);
    }

    /// Everything once more around the clock, until `until`, or until nothing is left to wait for.
    async fn run(&mut self, duration: Duration) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the process has needed once it may keep: it is looked at when it has run for a while
        // without a restart.
        let measured_from = duration / 4;
        let sample = SAMPLE.min(duration / 40);
        let restart = duration / 16;
        let [mut sampled, mut restarted, mut rotated, mut reloaded] = [Instant::now(); 4];
        while self.began.elapsed() < duration || !self.live.is_empty() {
            ticks.tick().await;
            let running = self.began.elapsed() < duration;
            if running {
                self.top_up();
            }
            self.park(running);
            self.write_lists();
            self.hand_out_keys();
            self.consume().await;
            self.drain();
            if running && rotated.elapsed() > Duration::from_secs(7) {
                rotated = Instant::now();
                self.rotate_key();
            }
            if running && reloaded.elapsed() > Duration::from_secs(2) {
                reloaded = Instant::now();
                self.reload();
            }
            if self.began.elapsed() + restart < measured_from && restarted.elapsed() > restart {
                self.restart().await;
                restarted = Instant::now();
            }
            if running && self.began.elapsed() > measured_from && sampled.elapsed() > sample {
                sampled = Instant::now();
                self.sample();
            }
            if let Some(status) = self.daemon.as_mut().and_then(Daemon::has_ended) {
                self.fail(&format!("the daemon has ended: {status}"));
            }
        }
    }

    fn summary(&self, seed: u64, duration: Duration, state_bytes: u64) -> Value {
        let Counts { whole, failed, .. } = self.counts;
        let tally = heard(&self.tally);
        let trend = |trend: &Trend| {
            let thirds = trend.thirds().map(f64::round);
            json!({ "thirds": thirds, "max": trend.max().round(), "slope_per_hour": trend.slope_per_hour().round() })
        };
        let drawn: u64 = self.counts.faults.values().sum();
        let (api_cut, store_cut) = (self.api.struck(), self.store.struck());
        let faults = drawn + api_cut + store_cut + self.counts.unauthorized;
        json!({
            "case": "soak", "seed": seed, "seconds": duration.as_secs(),
            "simulated_hours": duration.as_secs() * COMPRESSION / 3600,
            "exports_whole": whole, "exports_failed": failed, "exports_retried": self.counts.retried,
            "parts": self.counts.parts, "bytes": self.counts.bytes,
            "answers": self.counts.answers, "views": self.budget.views, "faults": faults,
            "fault_percent": (precise(faults) * 1000.0 / precise(self.counts.answers)).round() / 10.0,
            "faults_by_kind": self.counts.faults, "connections_cut": { "api": api_cut, "store": store_cut },
            "unauthorized": self.counts.unauthorized, "key_rotations": self.counts.key_rotations,
            "reloads": self.counts.reloads, "parked": self.counts.parked, "restarts": self.counts.restarts,
            "most_views_in_1_and_10_s": self.budget.busiest, "views_allowed_in_1_and_10_s": self.budget.allowed(),
            "samples": self.trends.rss_kib.len(),
            "rss_kib": trend(&self.trends.rss_kib), "descriptors": trend(&self.trends.descriptors),
            "threads": trend(&self.trends.threads), "test_rss_kib": trend(&self.trends.own_rss_kib),
            "log_bytes": tally.bytes, "log_bytes_per_answer": trend(&self.trends.log_bytes_per_answer),
            "log_bytes_per_export": tally.bytes / (whole + failed).max(1), "log_lines": tally.by_level,
            "state_bytes": state_bytes,
        })
    }
}

/// A count that is far below where floating point becomes coarse.
fn precise(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// Holds a delivered export against what the store had; the number of its bytes.
fn compare(folder: &Path, files: &[SimFile]) -> Result<u64, String> {
    let read = |name: &str| fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let manifest = Manifest::parse(&read("manifest.json")?).map_err(|error| error.to_string())?;
    if manifest.parts.len() != files.len() {
        return Err(format!("{} parts of {}", manifest.parts.len(), files.len()));
    }
    let mut total = 0;
    for (part, file) in manifest.parts.iter().zip(files) {
        let bytes = read(&part.path)?;
        total += bytes.len() as u64;
        let (expected, found) = (file.content.sha256(), Content::from(bytes).sha256());
        if found != expected || part.sha256 != expected {
            return Err(format!("{} has other bytes", part.path));
        }
    }
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    names.sort();
    if names.len() == files.len() + 1 {
        Ok(total)
    } else {
        Err(format!("{} parts, and {names:?} in {}", files.len(), folder.display()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: run by tests/long/run.sh"]
async fn simulated_days_leave_the_daemon_as_it_was() {
    let (seed, duration) = (seed(), seconds("SOAK_SECONDS", 3600));
    let mut soak = Box::new(Soak::new(seed).await);
    soak.run(duration).await;
    // With all exports gone it is idle, and its lists are empty.
    soak.write_lists();
    let state_bytes = soak.state_bytes();
    soak.stop().await;
    let summary = soak.summary(seed, duration, state_bytes);
    summarize(&summary);
    let tally = heard(&soak.tally);
    eprintln!("what the log said: {:#?}", tally.by_message);
    assert!(tally.panics.is_empty(), "{:?}", tally.panics);
    let (counts, trends) = (&soak.counts, &soak.trends);
    assert!(counts.whole > duration.as_secs() / 2 && counts.failed > 0, "{summary}");
    assert!(summary["fault_percent"].as_f64() >= Some(10.0), "{summary}");
    assert!(trends.rss_kib.is_flat(0.15, 2048.0), "memory grows: {:?}", trends.rss_kib);
    assert!(
        trends.descriptors.is_flat(0.0, MORE_DESCRIPTORS),
        "descriptors grow: {:?}",
        trends.descriptors
    );
    assert!(trends.descriptors.max() < MOST_DESCRIPTORS, "{:?}", trends.descriptors);
    assert!(trends.threads.max() < MOST_THREADS, "too many threads: {:?}", trends.threads);
    assert!(
        trends.own_rss_kib.is_flat(0.3, 65536.0),
        "the test's own memory: {:?}",
        trends.own_rss_kib
    );
    assert!(
        trends.log_bytes_per_answer.is_flat(0.3, 50.0),
        "the log grows: {:?}",
        trends.log_bytes_per_answer
    );
    let ended = counts.whole + counts.failed;
    assert!(tally.bytes / ended < 16 * 1024, "{} bytes of log an export", tally.bytes / ended);
    assert!(
        state_bytes < 6 * 1024 * 1024 + ended * 1024,
        "{state_bytes} bytes of state for {ended} exports"
    );
    let left: Vec<_> =
        soak.home.tree().into_keys().filter(|path| path.matches('/').count() > 0).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
