//! Prometheus' own tools take what the daemon serves, and the alerts, the dashboard and
//! `docs/operations.md` speak of the metrics that there are.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use batch_export_watcher::simulator::{SimExport, SimFile, ViewStep};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::support::http::try_get;
use super::support::process::Watcher;
use super::support::scrape::{LISTEN, PREFIX, Samples, TEXT, address, metrics};
use super::support::solo::Solo;

const ALERTS: &str = include_str!("../../config/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../config/grafana/dashboard.json");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Longest wait for Prometheus: it starts, and scrapes each second.
const PROMETHEUS_PATIENCE: Duration = Duration::from_secs(120);

/// A program of Prometheus: where `.ci/run` has unpacked it, or in the path. `None`, loudly, where
/// it is not installed.
fn tool(name: &str) -> Option<PathBuf> {
    let unpacked =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/prometheus/usr/bin").join(name);
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&in_path).map(|folder| folder.join(name));
    let found = std::iter::once(unpacked).chain(in_path).find(|path| path.is_file());
    if found.is_none() {
        // Not `eprintln!`, which a test that passes keeps to itself.
        let skipped = format!("SKIPPED: this test needs {name} (Debian: prometheus)\n");
        std::io::stderr().write_all(skipped.as_bytes()).expect("stderr");
    }
    found
}

/// A daemon whose scrape has every metric: one export is whole, one is polled.
async fn with_everything() -> (Solo, Watcher, SocketAddr) {
    let files = vec![SimFile::generated("file_1", 1, 1000)];
    let running = SimExport::new("export_2", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![SimExport::finished("export_1", files), running]).await.with(LISTEN);
    let watcher = solo.start();
    let address = address(&watcher).await;
    let whole =
        |samples: &Samples| samples.value("exports{project=\"shop\",state=\"whole\"}") == 1.0;
    Samples::when(address, whole).await;
    (solo, watcher, address)
}

/// The metrics of a scrape by the names that queries use; a histogram by its own.
async fn scraped_names(address: SocketAddr) -> BTreeSet<String> {
    let text = metrics(address, &[TEXT]).await.text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().expect("a name").to_owned()).collect()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let names = text.match_indices(PREFIX).map(|(at, _)| {
        let rest = &text[at..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        rest[..end].trim_end_matches("_bucket").to_owned()
    });
    names.collect()
}

#[tokio::test]
async fn documents_alerts_and_dashboard_use_metrics_that_exist() {
    let (_solo, _watcher, address) = with_everything().await;
    let scraped = scraped_names(address).await;
    assert!(scraped.len() > 15, "{scraped:?}");
    let table = OPERATIONS.split("\n## Metrics\n").nth(1);
    let table = table.and_then(|rest| rest.split("\n## ").next());
    let rows = table.expect("the chapter").lines().filter(|line| line.starts_with("| `"));
    let documented = named(&rows.collect::<Vec<_>>().join("\n"));
    assert_eq!(documented, scraped, "the table of docs/operations.md");
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("json");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    assert_eq!(named(&queries.join("\n")), scraped, "the dashboard");
    let alerts = named(ALERTS);
    assert!(alerts.is_subset(&scraped), "alerts of nothing: {:?}", alerts.difference(&scraped));
}

#[test]
fn the_dashboard_asks_the_data_source_that_is_chosen() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("json");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let source =
        variables.iter().find(|variable| variable["type"] == "datasource").expect("a data source");
    assert_eq!((&source["name"], &source["query"]), (&"datasource".into(), &"prometheus".into()));
    for panel in dashboard["panels"]
        .as_array()
        .expect("panels")
        .iter()
        .filter(|panel| panel["type"] != "row")
    {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        for target in panel["targets"].as_array().expect("queries") {
            let query = target["expr"].as_str().expect("a query");
            assert_eq!(
                query.matches(PREFIX).count(),
                query.matches("{job=~\"$job\",instance=~\"$instance\"").count(),
                "{query}"
            );
        }
    }
}

#[tokio::test]
async fn promtool_finds_nothing_in_a_scrape() {
    let Some(promtool) = tool("promtool") else { return };
    let (_solo, _watcher, address) = with_everything().await;
    let text = metrics(address, &[TEXT]).await.text();
    let mut command = Command::new(promtool);
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("promtool starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(text.as_bytes()).await.expect("promtool reads");
    drop(stdin);
    let output = tokio::time::timeout(PROMETHEUS_PATIENCE, child.wait_with_output()).await;
    let output = output.expect("an end in time").expect("an end");
    let words = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && words.is_empty(), "{words}\n{text}");
}

#[tokio::test]
async fn a_real_prometheus_scrapes_it() {
    let Some(prometheus) = tool("prometheus") else { return };
    let (solo, _watcher, address) = with_everything().await;
    solo.home.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: batch-export-watcher\n  \
             static_configs: [{{targets: [\"{address}\"]}}]\n"
        ),
    );
    let file = |name: &str| solo.home.path().join(name).display().to_string();
    let mut command = Command::new(prometheus);
    command.env_clear().current_dir(solo.home.path()).args([
        format!("--config.file={}", file("prometheus.yml")),
        format!("--storage.tsdb.path={}", file("prometheus")),
        "--web.listen-address=127.0.0.1:0".to_owned(),
    ]);
    let prometheus = Watcher::spawn(command);
    let listens = |line: &str| {
        let (_, rest) =
            line.split_once("address=127.0.0.1:").filter(|_| line.contains("Listening"))?;
        rest.split_whitespace().next()?.parse::<u16>().ok()
    };
    let line = prometheus.wait_for_log(|line| listens(line).is_some()).await;
    let listens = format!("127.0.0.1:{}", listens(&line).expect("a port"));
    let asked = async |query: &str| {
        let url = format!("http://{listens}/api/v1/query?query={query}");
        let answer = try_get(&url, &[]).await.ok()?.json();
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        value.parse::<f64>().ok()
    };
    let began = Instant::now();
    for (query, expected) in [
        ("up", 1.0),
        ("batch_export_watcher_parts_downloaded_total", 1.0),
        ("batch_export_watcher_downloaded_bytes_total", 1000.0),
        ("batch_export_watcher_part_duration_seconds_count", 1.0),
        ("count(batch_export_watcher_exports)", 6.0),
        ("count(batch_export_watcher_build_info)", 1.0),
    ] {
        while asked(query).await != Some(expected) {
            let log = prometheus.output().stderr.join("\n");
            assert!(
                began.elapsed() < PROMETHEUS_PATIENCE,
                "{query} is {:?}\n{log}",
                asked(query).await
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // What was scraped was OpenMetrics: it knows the unit, the older text does not.
    let url = format!(
        "http://{listens}/api/v1/metadata?metric=batch_export_watcher_poll_duration_seconds"
    );
    let answer = try_get(&url, &[]).await.expect("an answer").json();
    let known = &answer["data"]["batch_export_watcher_poll_duration_seconds"][0];
    assert_eq!(
        (&known["type"], &known["unit"]),
        (&"histogram".into(), &"seconds".into()),
        "{answer}"
    );
    prometheus.kill9().await;
}
