//! The disk fails at the n-th call of each operation, for every n, or for a while. Everything still
//! downloads without help, nothing wrong is ever visible, and polls continue meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use batch_export_watcher::simulator::{Content, Serving, SimExport, SimFile, ViewStep};
use fastrand::Rng;
use futures::StreamExt as _;
use rustix::process::Signal;
use serde_json::Value;

use super::support::observer::{Folder, Observer};
use super::support::process::Watcher;
use super::support::solo::{SHOP, Solo};
use super::support::turns::in_a_crowd;
use super::support::{FAULTS, PATIENCE, random_bytes};

/// Just above the size from which a part has a name, a room of its own and checkpoints.
const LARGE_BYTES: usize = (16 << 20) + 5;
/// Runs at the same time: most of them wait.
const AT_ONCE: usize = 8;
/// Far more than any run takes, even if the daemon checks the disk again only after a while.
const LIMIT: Duration = Duration::from_secs(240);
/// Longest time without a poll of an export that is asked for every 100 ms: shorter than any wait
/// for the disk.
const LONGEST_SILENCE: Duration = Duration::from_secs(4);

/// The operations, and up to which n the quick variant goes; the last ones are those of a part's
/// many writes.
const OPERATIONS: &[(&str, &[u64])] = &[
    ("open", &[1, 4, 7, 10, 13]),
    ("create", &[1, 2, 3, 4, 5]),
    ("write", &[1, 2, 3, 30]),
    ("allocate", &[1]),
    ("sync", &[1, 2, 3, 4]),
    ("datasync", &[1, 2]),
    ("dirsync", &[1, 2, 3, 4, 5, 6]),
    ("rename", &[1, 2]),
    ("link", &[1, 2, 3]),
    ("mkdir", &[1, 2]),
    ("statvfs", &[1, 2, 3, 4]),
    ("unlink", &[1, 2, 3, 4, 5]),
];

/// What a run with a fault came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It never got so far.
    NotReached,
    /// It met the fault and downloaded everything.
    Healed,
    /// It met the fault before it ran and said so by its exit code. The next start downloaded
    /// everything.
    Refused,
}

struct Bench {
    solo: Solo,
    contents: Vec<Content>,
    observer: Observer,
}

impl Bench {
    /// One export of two small parts and a large one, and one that is never finished. The state
    /// knows the download directory. Parts that are held wait for their release.
    async fn new(held: bool) -> Self {
        let contents: Vec<Content> =
            (1..).zip([3_000, LARGE_BYTES, 200_000]).map(content).collect();
        let files: Vec<_> = (1..)
            .zip(&contents)
            .map(|(number, content)| {
                let file = SimFile::new(&id(number), number, content.clone());
                if held { file.on_fetch(Serving::well().held()) } else { file }
            })
            .collect();
        let pending = SimExport::new("export_pending", vec![ViewStep::status("RUNNING")]);
        let mut solo = Solo::new(vec![SimExport::finished("export_1", files), pending]).await;
        solo.home.set_exports(SHOP, &[]);
        solo.settle(0).await;
        solo.home.set_exports(SHOP, &["export_1", "export_pending"]);
        let names = (1..).zip(&contents);
        let names: BTreeMap<_, _> = names
            .map(|(number, content)| {
                (format!("part-{number:05}-{}.json", id(number)), content.clone())
            })
            .collect();
        let folder = Folder::new(solo.home.export(SHOP, "export_1"), names).with_withdrawals();
        Self { solo, contents, observer: Observer::new(vec![folder]) }
    }

    fn start(&self, faults: &str) -> Watcher {
        let mut command = self.solo.home.command("run", &[]);
        command.env(FAULTS, faults);
        Watcher::spawn(command)
    }

    /// Looks at the folder and reads the log until a line is found, or until the program has ended.
    async fn until(&mut self, watcher: &Watcher, wanted: impl Fn(&Value) -> bool) -> bool {
        let mut lines = 0;
        let looking = async {
            loop {
                tokio::select! {
                    () = self.observer.changed() => {}
                    news = watcher.log_after(lines) => {
                        lines += news.len();
                        if news.is_empty() {
                            return false;
                        }
                        let events = news.iter().filter_map(|line| serde_json::from_str(line).ok());
                        if events.into_iter().any(|event| wanted(&event)) {
                            return true;
                        }
                    }
                }
            }
        };
        let found = tokio::time::timeout(LIMIT, looking).await;
        found.unwrap_or_else(|_| {
            panic!("not within {LIMIT:?}:\n{}", watcher.output().stderr.join("\n"))
        })
    }

    /// Everything is there, and the pending export was polled all the while.
    async fn check(&mut self, mut watcher: Watcher) {
        let withdrawn = self.observer.withdrawn();
        let points = injected(&watcher);
        assert!(
            withdrawn.is_empty() || points.iter().any(|point| point.ends_with(".dirsync")),
            "{withdrawn:?} went although no folder failed to sync: {points:?}"
        );
        let contents: Vec<_> = self.contents.iter().collect();
        self.solo.home.assert_whole(SHOP, "export_1", &contents);
        let polls = self.solo.views("export_pending");
        let silence =
            polls.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap_or_default();
        assert!(
            silence < LONGEST_SILENCE,
            "no poll for {silence:?}:\n{}",
            watcher.output().stderr.join("\n")
        );
        watcher.signal(Signal::TERM);
        assert_eq!(watcher.wait().await.0, 0);
    }

    fn fetches(&self) -> Vec<usize> {
        (1..=3).map(|number| self.solo.fetches(&id(number)).len()).collect()
    }
}

fn id(number: u64) -> String {
    format!("file_{number}")
}

fn content((seed, bytes): (u64, usize)) -> Content {
    random_bytes(&mut Rng::with_seed(seed), bytes).into()
}

fn is_whole(event: &Value) -> bool {
    event["message"] == "export whole" && event["export"] == "export_1"
}

/// The points at which something was injected.
fn injected(watcher: &Watcher) -> Vec<String> {
    let lines = watcher.output().stderr;
    let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let injected = events.filter(|event| {
        event["message"].as_str().unwrap_or_default().starts_with("fault injected")
    });
    injected.filter_map(|event| event["point"].as_str().map(str::to_owned)).collect()
}

/// One run in which the n-th call of an operation fails, and no other.
async fn fails_once(operation: &str, error: &str, n: u64) -> End {
    let _turn = in_a_crowd().await;
    let mut bench = Bench::new(false).await;
    let watcher = bench.start(&format!("*.{operation}={error}@{n}"));
    let whole = bench.until(&watcher, is_whole).await;
    let points = injected(&watcher);
    if !whole {
        let output = watcher.output();
        let ran = output.stderr.iter().any(|line| line.contains("\"running\""));
        assert!(!ran && points.len() == 1, "{operation} {error}@{n}: {}", output.stderr.join("\n"));
        drop(watcher);
        let watcher = bench.start("");
        assert!(bench.until(&watcher, is_whole).await);
        bench.check(watcher).await;
        return End::Refused;
    }
    let fetches = bench.fetches();
    bench.check(watcher).await;
    match points.first().map(String::as_str) {
        None => End::NotReached,
        Some(point) => {
            // After a failed sync nobody knows what the file holds: it has to be fetched again.
            if ["part.sync", "part.datasync"].contains(&point) {
                assert!(
                    fetches.iter().sum::<usize>() > 3,
                    "{point} failed, and the file was believed: {fetches:?}"
                );
            }
            End::Healed
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test's own words")]
async fn all(runs: Vec<(&'static str, &'static str, Vec<u64>)>) -> BTreeMap<String, u64> {
    let runs = runs.into_iter().map(async |(operation, error, numbers)| {
        let (mut healed, mut refused) = (0, 0);
        for n in numbers {
            match Box::pin(fails_once(operation, error, n)).await {
                End::NotReached => break,
                End::Healed => healed += 1,
                End::Refused => refused += 1,
            }
        }
        (operation, error, healed, refused)
    });
    let mut counts = BTreeMap::new();
    let mut ended = futures::stream::iter(runs).buffer_unordered(AT_ONCE);
    while let Some((operation, error, healed, refused)) = ended.next().await {
        eprintln!("{operation} {error}: {healed} healed, {refused} refused at the start");
        *counts.entry(operation.to_owned()).or_default() += healed + refused;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_once_costs_an_attempt_and_no_byte() {
    let pick = |(operation, numbers): &(&'static str, &'static [u64])| {
        // Turn by turn, so that each operation sees both.
        let of = |rest| numbers.iter().copied().filter(|n| n % 2 == rest).collect::<Vec<_>>();
        [(*operation, "EIO", of(1)), (*operation, "ENOSPC", of(0))]
    };
    let counts = all(OPERATIONS.iter().flat_map(pick).collect()).await;
    for (operation, _) in OPERATIONS {
        assert!(counts[*operation] > 0, "{operation} was never reached");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: some hundred runs"]
async fn any_call_that_fails_once_costs_an_attempt_and_no_byte() {
    let every = |(operation, _): &(&'static str, _)| {
        ["EIO", "ENOSPC"].map(|error| (*operation, error, (1..).take(1000).collect()))
    };
    let counts = all(OPERATIONS.iter().flat_map(every).collect()).await;
    eprintln!(
        "{}",
        serde_json::json!({ "case": "every call on the disk fails once", "runs": counts.values().sum::<u64>(), "of": counts })
    );
    for (operation, _) in OPERATIONS {
        assert!(counts[*operation] > 1, "{operation} was never reached");
    }
}

/// When a disk begins to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Start,
    /// The parts are on their way.
    Middle,
}

/// A disk that refuses an operation each time, until it does not.
async fn fails_for_a_while(operation: &str, error: &str, since: Since) {
    let _turn = in_a_crowd().await;
    let mut bench = Bench::new(since == Since::Middle).await;
    let ill = bench.solo.home.path().join("ill");
    // Where fdatasync fails, fsync does as well.
    let operations =
        if operation == "datasync" { vec!["datasync", "sync"] } else { vec![operation] };
    let faults =
        operations.iter().map(|operation| format!("*.{operation}={error}while:{}", ill.display()));
    let faults = faults.collect::<Vec<_>>().join(",");
    if since == Since::Start {
        bench.solo.home.write("ill", "");
    }
    let watcher = bench.start(&faults);
    if since == Since::Middle {
        bench.solo.wait_for_fetches(&id(2), 1).await;
        bench.solo.home.write("ill", "");
        (1..=3).for_each(|number| bench.solo.sim.release(&id(number)));
    }
    let point = format!(".{operation}");
    let hits = |event: &Value| event["point"].as_str().is_some_and(|at| at.ends_with(&point));
    assert!(bench.until(&watcher, hits).await, "{operation} is reached");
    let polls = bench.solo.views("export_pending").len();
    let polled = |seen: &[batch_export_watcher::simulator::Recorded]| {
        seen.iter().filter(|request| request.is_view_of("export_pending")).count() >= polls + 10
    };
    bench.solo.sim.wait_for(polled, PATIENCE).await.expect("polls go on");
    // Without hard links, parts have a name from the start and download all the same.
    assert!(operation == "link" || bench.solo.home.try_manifest(SHOP, "export_1").is_none());
    // A part is tried again only when a look says that the disk is well: else it would be fetched
    // again and again, and thrown away each time.
    let fetches = bench.fetches();
    assert!(
        fetches.iter().all(|count| *count <= 2),
        "{operation} {error} {since:?}: in vain: {fetches:?}"
    );
    std::fs::remove_file(&ill).expect("it was there");
    assert!(bench.until(&watcher, is_whole).await);
    bench.check(watcher).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_resume_after_a_disk_that_refuses_for_a_while() {
    let cases = [
        ("write", "ENOSPC", Since::Start),
        ("write", "EIO", Since::Middle),
        ("create", "ENOSPC", Since::Start),
        ("sync", "EIO", Since::Middle),
        ("datasync", "EIO", Since::Start),
        ("dirsync", "EIO", Since::Start),
        ("dirsync", "EIO", Since::Middle),
        ("rename", "ENOSPC", Since::Start),
        ("rename", "EIO", Since::Middle),
        ("link", "EIO", Since::Start),
        ("mkdir", "ENOSPC", Since::Start),
        ("statvfs", "EIO", Since::Start),
    ];
    let cases = cases.map(async |(operation, error, since)| {
        Box::pin(fails_for_a_while(operation, error, since)).await;
    });
    futures::stream::iter(cases).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}
