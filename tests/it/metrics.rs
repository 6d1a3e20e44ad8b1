//! What a scrape says, before and after something has happened, and what it never says.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use batch_export_watcher::simulator::{Canned, Serving, SimExport, SimFile, StoreStep, ViewStep};
use rustix::process::Signal;

use super::support::fuse::{Disk, Hang, Operation};
use super::support::machine::Machine;
use super::support::process::Watcher;
use super::support::scene::scene;
use super::support::scrape::{LISTEN, Samples, TEXT, address, metrics};
use super::support::solo::{PROJECT_KEY, Solo};

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// Starts the daemon where it can be scraped.
async fn start(solo: Solo) -> (Solo, Watcher, SocketAddr) {
    let solo = solo.with(LISTEN);
    let watcher = solo.start();
    let address = address(&watcher).await;
    (solo, watcher, address)
}

#[tokio::test]
async fn accept_chooses_the_format() {
    let (_solo, _watcher, address) = start(Solo::new(vec![pending("export_1")]).await).await;
    let prometheus =
        "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for headers in [&[][..], &[("accept", "*/*")], &[("accept", prometheus)]] {
        let answer = metrics(address, headers).await;
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, content_type),
            "{headers:?}"
        );
        assert!(answer.text().ends_with("# EOF\n"), "{}", answer.text());
    }
    let answer = metrics(address, &[TEXT]).await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        !answer.text().contains("# EOF") && !answer.text().contains("# UNIT"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn polls_are_counted_by_outcome_with_their_retries_and_pauses() {
    let throttled = ViewStep::Held(Box::new(ViewStep::Answer(Canned::throttled(None))));
    let broken = ViewStep::Answer(Canned::new(200, "application/json", "{"));
    let views = vec![throttled, broken, ViewStep::status("RUNNING")];
    let (solo, _watcher, address) =
        start(Solo::new(vec![SimExport::new("export_1", views)]).await).await;
    solo.wait_for(|seen| seen.iter().any(|request| request.is_view_of("export_1"))).await;
    let before = Samples::scraped(address).await;
    for name in
        ["polls_total", "retries_total", "pauses_total", "paused", "poll_duration_seconds_count"]
    {
        assert!(before.sum(name) == 0.0, "{name}: {before:#?}");
    }
    assert_eq!(before.value("exports{project=\"shop\",state=\"polling\"}"), 1.0);
    solo.sim.release("export_1");
    let after =
        Samples::when(address, |samples| samples.value("polls_total{outcome=\"report\"}") > 1.0)
            .await;
    for series in [
        "polls_total{outcome=\"throttled\"}",
        "polls_total{outcome=\"fault\"}",
        "retries_total{work=\"poll\",cause=\"throttled\"}",
        "retries_total{work=\"poll\",cause=\"fault\"}",
        "pauses_total{project=\"shop\",cause=\"throttled\"}",
    ] {
        assert_eq!(after.value(series), 1.0, "{series}");
    }
    assert_eq!((after.sum("retries_total"), after.sum("pauses_total")), (2.0, 1.0), "{after:#?}");
    // A poll is timed when its answer is there, and counted by the scheduler a moment later.
    let (polls, timed) = (after.sum("polls_total"), after.value("poll_duration_seconds_count"));
    assert!(polls <= timed && timed <= polls + 1.0, "{polls} polls, {timed} timed");
    assert!(after.value("poll_duration_seconds_sum") > 0.0);
    assert!(after.value("oldest_export_seconds{project=\"shop\",state=\"polling\"}") > 0.0);
}

#[tokio::test]
async fn a_pause_is_shown_while_it_lasts_and_counted_once() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    solo.sim.rotate_key(PROJECT_KEY, "another").expect("a project of the script");
    let (solo, _watcher, address) = start(solo).await;
    let paused = "paused{project=\"shop\",cause=\"unauthorized\"}";
    let refusals = "polls_total{outcome=\"unauthorized\"}";
    let during = Samples::when(address, |samples| samples.value(refusals) >= 3.0).await;
    assert_eq!(during.value(paused), 1.0);
    assert_eq!(during.sum("paused"), 1.0, "{during:#?}");
    solo.home.write_key("shop", "another");
    let after = Samples::when(address, |samples| samples.value(paused) == 0.0).await;
    assert_eq!(after.value("pauses_total{project=\"shop\",cause=\"unauthorized\"}"), 1.0);
    assert_eq!(after.sum("pauses_total"), 1.0, "{after:#?}");
}

#[tokio::test]
async fn an_unavailable_api_pauses_the_origin_and_no_project() {
    let views = vec![
        ViewStep::Answer(Canned::new(503, "text/plain", "later")),
        ViewStep::status("RUNNING"),
    ];
    let (_solo, _watcher, address) =
        start(Solo::new(vec![SimExport::new("export_1", views)]).await).await;
    let samples = Samples::when(address, |samples| {
        samples.value("polls_total{outcome=\"report\"}") > 0.0
            && samples.value("paused{cause=\"unavailable\"}") == 0.0
    })
    .await;
    assert_eq!(samples.value("polls_total{outcome=\"unavailable\"}"), 1.0);
    assert_eq!(samples.value("pauses_total{cause=\"unavailable\"}"), 1.0);
    assert_eq!(samples.value("paused{cause=\"unavailable\"}"), 0.0);
}

#[tokio::test]
async fn downloaded_parts_and_bytes_are_counted_with_the_success() {
    let held =
        |id: &str, part| SimFile::generated(id, part, 10_000).on_fetch(Serving::well().held());
    let solo = Solo::finished(vec![held("file_1", 1), held("file_2", 2)]).await;
    let (solo, watcher, address) = start(solo).await;
    solo.wait_for_fetches("file_1", 1).await;
    solo.wait_for_fetches("file_2", 1).await;
    let before = Samples::scraped(address).await;
    assert_eq!((before.value("slots_in_use"), before.value("slots_max")), (2.0, 8.0));
    assert_eq!(before.value("exports{project=\"shop\",state=\"fetching\"}"), 1.0);
    assert_eq!(before.value("parts_downloaded_total{project=\"shop\"}"), 0.0);
    assert_eq!(before.value("downloaded_bytes_total{project=\"shop\"}"), 0.0);
    assert_eq!(before.get("last_success_timestamp_seconds{project=\"shop\"}"), None);
    solo.sim.release("file_1");
    solo.sim.release("file_2");
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    let whole = "exports{project=\"shop\",state=\"whole\"}";
    let after = Samples::when(address, |samples| samples.value(whole) == 1.0).await;
    assert_eq!(after.value("exports{project=\"shop\",state=\"fetching\"}"), 0.0);
    assert_eq!(after.value("parts_downloaded_total{project=\"shop\"}"), 2.0);
    assert_eq!(after.value("downloaded_bytes_total{project=\"shop\"}"), 20_000.0);
    assert_eq!(after.value("part_duration_seconds_count"), 2.0);
    assert_eq!((after.value("slots_in_use"), after.sum("retries_total")), (0.0, 0.0));
    let last = after.value("last_success_timestamp_seconds{project=\"shop\"}");
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    assert!((now - 60.0..=now).contains(&last), "{last}, now {now}");
    assert!((now - 60.0..=last).contains(&after.value("start_time_seconds")));

    drop(watcher);
    let watcher = solo.start();
    let again = Samples::scraped(super::support::scrape::address(&watcher).await).await;
    let known = again.value("last_success_timestamp_seconds{project=\"shop\"}");
    assert!((known - last).abs() < 1.0, "another run knows it: {known}, not {last}");
}

#[tokio::test]
async fn retried_parts_are_counted_by_cause_and_so_are_refreshed_links() {
    let file = |number| SimFile::generated(&format!("file_{number}"), number, 10_000);
    let files = vec![
        file(1).on_fetch(StoreStep::ExpiredLink).on_fetch(Serving::well()),
        file(2).on_fetch(Serving::well().cut_after(5_000)).on_fetch(Serving::well()),
        file(3)
            .on_fetch(StoreStep::Answer(Canned::store_error(503, "SlowDown", "later")))
            .on_fetch(Serving::well()),
    ];
    // One after the other: while the store waits nothing else is asked of it.
    let solo = Solo::finished(files).await.with("[download]\nmax_parts = 1");
    let (_solo, watcher, address) = start(solo).await;
    watcher.wait_for_event(|event| event["message"] == "export whole").await;
    let samples = Samples::scraped(address).await;
    assert_eq!(samples.value("link_refreshes_total"), 1.0);
    assert_eq!(samples.value("retries_total{work=\"part\",cause=\"fault\"}"), 1.0);
    assert_eq!(samples.value("retries_total{work=\"part\",cause=\"store_busy\"}"), 1.0);
    assert_eq!(samples.sum("retries_total"), 2.0, "{samples:#?}");
    assert_eq!(samples.value("pauses_total{cause=\"store_busy\"}"), 1.0);
    assert_eq!(samples.value("paused{cause=\"store_busy\"}"), 0.0);
    assert_eq!(samples.value("parts_downloaded_total{project=\"shop\"}"), 3.0);
    let bytes = samples.value("downloaded_bytes_total{project=\"shop\"}");
    assert!(
        (30_000.0..=35_000.0).contains(&bytes),
        "{bytes}: those that were cut off are among them"
    );
}

#[tokio::test]
async fn reloads_are_counted_by_verdict_and_projects_come_and_go() {
    let (_sim, home) = scene(vec![("shop", vec![pending("a_1")]), ("blog", vec![])]).await;
    let home = home.with(LISTEN).with("[reload]\nwatch = false");
    let watcher = home.start(&[]);
    let address = address(&watcher).await;
    let before = Samples::scraped(address).await;
    assert_eq!((before.sum("reloads_total"), before.value("last_reload_successful")), (0.0, 1.0));
    assert_eq!(before.value("exports{project=\"blog\",state=\"polling\"}"), 0.0);
    assert_eq!(before.value("parts_downloaded_total{project=\"blog\"}"), 0.0);

    let good = fs::read_to_string(home.config_path()).expect("a configuration");
    home.write("config.toml", "nonsense");
    watcher.signal(Signal::HUP);
    watcher.wait_for_log(|line| line.contains("reload refused")).await;
    let verdicts = |samples: &Samples| {
        ["accepted", "refused"]
            .map(|verdict| samples.value(&format!("reloads_total{{verdict=\"{verdict}\"}}")))
    };
    // Gauges may be a quarter of a second old, counters are not.
    let refused = |samples: &Samples| samples.value("last_reload_successful") == 0.0;
    assert_eq!(verdicts(&Samples::when(address, refused).await), [0.0, 1.0]);

    let mut table: toml::Table = good.parse().expect("toml");
    let projects = table.get_mut("project").and_then(toml::Value::as_array_mut).expect("projects");
    projects.retain(|project| project["name"].as_str() == Some("shop"));
    home.write("config.toml", &table.to_string());
    watcher.signal(Signal::HUP);
    watcher.wait_for_log(|line| line.contains("configuration reloaded: 1 project removed")).await;
    let accepted = |samples: &Samples| samples.value("last_reload_successful") == 1.0;
    let accepted = Samples::when(address, accepted).await;
    assert_eq!(verdicts(&accepted), [1.0, 1.0]);
    let left: Vec<_> = accepted.series().filter(|series| series.contains("blog")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn no_scrape_holds_a_secret_or_the_name_of_an_export() {
    let slow = SimFile::generated("file_1", 1, 50_000_000).with_bytes_per_second(1_000_000);
    let exports = vec![SimExport::finished("export_1", vec![slow]), SimExport::failing("export_2")];
    let (solo, _watcher, address) = start(Solo::new(exports).await).await;
    let under_way = |samples: &Samples| {
        samples.value("downloaded_bytes_total{project=\"shop\"}") > 0.0
            && samples.value("exports{project=\"shop\",state=\"failed\"}") == 1.0
    };
    Samples::when(address, under_way).await;
    for headers in [&[][..], &[TEXT]] {
        let text = metrics(address, headers).await.text();
        let store = solo.sim.store_address().port().to_string();
        for secret in [
            "export_1",
            "export_2",
            "file_1",
            "key-of-the-shop",
            PROJECT_KEY,
            "signature",
            "127.0.0",
            &store,
        ] {
            assert!(!text.contains(secret), "{secret} is in\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_costs_a_scrape_one_second_and_only_its_free_bytes() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let Some(disk) = Disk::mount(solo.home.downloads()) else { return };
    let (_solo, _watcher, address) = start(solo).await;
    assert!(Samples::scraped(address).await.value("disk_free_bytes") > 0.0);
    disk.hang(&[Operation::Space], Hang::Deaf);
    let machine = Machine::watch();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        let samples = Samples::scraped(address).await;
        let took = began.elapsed();
        assert!(took < machine.stretch(Duration::from_secs(2)), "{took:?}");
        assert_eq!(samples.get("disk_free_bytes"), None);
        assert!(samples.value("disk_reserve_bytes") > 0.0);
        assert_eq!(disk.hanging(), 1, "one thread waits");
    }
    disk.release();
    Samples::when(address, |samples| samples.get("disk_free_bytes").is_some()).await;
}
