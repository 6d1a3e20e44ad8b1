//! Everything that an export can wait for, set up for real, and what is said of it in the four
//! places where somebody looks: the status document, the table, the page and the metrics.

use std::fs;

use batch_export_watcher::domain::stage::Cause;
use batch_export_watcher::simulator::{
    Canned, Origin, Serving, SimExport, SimFile, StoreStep, ViewStep,
};
use serde_json::Value;

use super::support::browser::Browser;
use super::support::mount::{Mount, fill_bytes};
use super::support::process::Watcher;
use super::support::scrape::{LISTEN, Samples, address};
use super::support::solo::{PROJECT_KEY, SHOP, Solo};
use super::support::turns::in_a_browser;
use super::support::{PATIENCE, http};

/// What an export waits for, and what has to stay for it to go on waiting.
struct Scene {
    solo: Solo,
    watcher: Watcher,
    _mount: Option<Mount>,
}

fn file(id: &str) -> SimFile {
    SimFile::generated(id, 1, 100_000)
}

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// One export whose only file the store answers like this.
async fn served(step: impl Into<StoreStep>) -> Solo {
    Solo::finished(vec![file("file_1").on_fetch(step)]).await
}

/// Sets up what makes an export wait for this cause; `None`, loudly, if this machine cannot.
async fn scene(cause: Cause) -> Option<Scene> {
    let mut mount = None;
    let refused = || Canned::api_error(400, "BAD_REQUEST", "not like this");
    let solo = match cause {
        Cause::Throttled | Cause::Rejected => Solo::new(vec![running("export_1"), running("2")]),
        Cause::Unavailable | Cause::Unauthorized => Solo::new(vec![running("export_1")]),
        Cause::Fault => {
            Solo::new(vec![SimExport::new("export_1", vec![ViewStep::Answer(Canned::html(500))])])
        }
        _ => Solo::new(Vec::new()),
    };
    let mut solo = match cause {
        Cause::LinkRefused => served(StoreStep::ExpiredLink).await,
        Cause::Gone => served(Canned::store_error(404, "NoSuchKey", "no such key")).await,
        Cause::StoreBusy | Cause::Disk | Cause::Folder | Cause::Room => {
            served(Serving::well()).await
        }
        Cause::State => Solo::new(vec![running("export_1")]).await,
        Cause::Slots => {
            let held = |id: &str| file(id).on_fetch(Serving::well().held());
            let exports = ["1", "2"].map(|id| SimExport::finished(id, vec![held(id)]));
            Solo::new(exports.into()).await.with("[download]\nmax_parts = 1")
        }
        _ => solo.await,
    };
    match cause {
        Cause::Throttled => {
            let answer = Canned::throttled(Some("600"));
            solo.sim.set_project_outage(PROJECT_KEY, Some(answer)).expect("our project");
        }
        Cause::Rejected => {
            solo.sim.set_project_outage(PROJECT_KEY, Some(refused())).expect("our project");
        }
        Cause::Unavailable => {
            solo.sim.set_outage(Origin::Api, Some(Canned::unavailable(Some("600"))));
        }
        Cause::StoreBusy => {
            solo.sim.set_outage(Origin::Store, Some(Canned::unavailable(Some("600"))));
        }
        Cause::Unauthorized => solo.home.write_key(SHOP, "a-key-of-somebody-else"),
        Cause::NotFound => solo.home.set_exports(SHOP, &["export_1"]),
        Cause::Room => solo = solo.with("[download]\nreserve = \"1000TiB\""),
        Cause::Disk => {
            solo.home.set_exports(SHOP, &[]);
            solo.settle(0).await;
            let marker = solo.home.downloads().join(".batch-export-watcher");
            fs::remove_file(marker).expect("the marker");
            solo.home.set_exports(SHOP, &["export_1"]);
        }
        Cause::Folder => {
            let folder = solo.home.downloads().join(SHOP);
            fs::create_dir_all(&folder).expect("a folder");
            mount = Some(Mount::tmpfs(folder, "ro")?);
        }
        Cause::State => {
            mount = Some(Mount::tmpfs(solo.home.path().join("state"), "size=1m,mode=0700")?);
        }
        Cause::Fault | Cause::LinkRefused | Cause::Gone | Cause::Slots => {}
    }
    let solo = solo.with(LISTEN);
    let watcher = solo.start();
    if cause == Cause::State {
        watcher.wait_for_event(|event| event["message"] == "running").await;
        solo.wait_for(|seen| seen.iter().any(|request| request.is_view_of("export_1"))).await;
        fill_bytes(&solo.home.path().join("state/ballast"));
        let views = vec![ViewStep::Success(vec![file("file_1")])];
        solo.sim.set_views("export_1", views).expect("an export of ours");
    }
    Some(Scene { solo, watcher, _mount: mount })
}

/// The export that waits for this, as the document has it.
fn waits_for(document: &Value, cause: Cause) -> Option<Value> {
    let exports = document["projects"][0]["exports"].as_array()?;
    let mut waiting = exports.iter().map(|export| export["waiting"].clone());
    waiting.find(|waiting| waiting["cause"] == cause.as_str())
}

impl Scene {
    async fn document(&self, cause: Cause) -> Value {
        let at = address(&self.watcher).await;
        let began = std::time::Instant::now();
        loop {
            let document = http::get(&format!("http://{at}/api/v1/status"), &[]).await.json();
            if let Some(waiting) = waits_for(&document, cause) {
                return waiting;
            }
            assert!(began.elapsed() < PATIENCE, "nothing waits for {cause:?}: {document:#}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn table(&self) -> String {
        let mut command = self.solo.home.command("status", &[]);
        let output = command.output().await.expect("the program starts");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Waits until a place says the same as the document. The page begins it with a capital.
    async fn until_told(&self, cause: Cause, place: impl AsyncFn() -> String) {
        let began = std::time::Instant::now();
        loop {
            let waiting = self.document(cause).await;
            let words = waiting["words"].as_str().expect("words");
            let start = words.chars().skip(1).take(40).collect::<String>();
            let told = place().await;
            if told.contains(&start) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{cause:?}: {start} is not in\n{told}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn is_told_in_four_places(&self, cause: Cause, browser: Option<&Browser>) {
        let waiting = self.document(cause).await;
        let words = waiting["words"].as_str().unwrap_or_default();
        assert!(words.len() > 10, "{waiting:#}");
        assert!(waiting["advice"].as_str().is_some_and(|advice| advice.len() > 20), "{waiting:#}");
        if cause != Cause::Slots {
            assert!(waiting["since"].is_string(), "{cause:?}: {waiting:#}");
            assert!(waiting["attempts"].as_u64() >= Some(1), "{cause:?}: {waiting:#}");
        }

        // The words may change between two looks, as when a refusal turns out to be the project's.
        self.until_told(cause, async || {
            self.table().await.split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .await;

        let at = address(&self.watcher).await;
        let cause_word = cause.as_str();
        let waiting = format!("waiting{{project=\"shop\",cause=\"{cause_word}\"}}");
        let samples = Samples::when(at, |samples| samples.get(&waiting) >= Some(1.0)).await;
        samples.value(&format!("oldest_wait_seconds{{cause=\"{cause_word}\"}}"));

        if let Some(browser) = browser {
            browser.open(&format!("http://{at}/")).await;
            let rows = "[...document.querySelectorAll('.wait')].map((of) => of.textContent).join()";
            self.until_told(cause, async || {
                browser.until(rows).await.as_str().expect("text").to_owned()
            })
            .await;
        }
    }
}

#[tokio::test]
async fn every_cause_is_told_in_the_document_the_table_the_page_and_the_metrics() {
    let _turn = in_a_browser().await;
    let browser = Browser::start().await;
    for cause in Cause::ALL {
        if let Some(scene) = scene(cause).await {
            scene.is_told_in_four_places(cause, browser.as_ref()).await;
        }
    }
}

#[tokio::test]
async fn what_fails_again_and_again_needs_attention_with_a_command_that_works() {
    let _turn = in_a_browser().await;
    let scene = scene(Cause::Fault).await.expect("it needs nothing of the machine");
    let began = std::time::Instant::now();
    let waiting = loop {
        let waiting = scene.document(Cause::Fault).await;
        if waiting["needs_attention"] == true {
            break waiting;
        }
        assert!(waiting["attempts"].as_u64() < Some(5), "{waiting:#}");
        assert!(began.elapsed() < PATIENCE, "{waiting:#}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(waiting["attempts"].as_u64() >= Some(5), "{waiting:#}");
    let command = waiting["command"].as_str().expect("a command");
    let path = scene.solo.home.config_path();
    assert!(command.ends_with("--probe") && command.contains(path.to_str().expect("text")));
    let table = scene.table().await;
    let told = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("it is tried again by itself; if it lasts"), "{table}");
    if let Some(browser) = Browser::start().await {
        browser.open(&format!("http://{}/", address(&scene.watcher).await)).await;
        let card = "document.querySelector('#attention-list')?.innerText";
        let has = |text: &str| format!("{card}.includes({})", Value::from(text));
        for text in ["shop / export_1", "attempts", "if it lasts", command] {
            browser.until(&has(text)).await;
        }
    }
    // It heals, and says so by saying nothing.
    let views = vec![ViewStep::status("RUNNING")];
    scene.solo.sim.set_views("export_1", views).expect("an export of ours");
    let at = address(&scene.watcher).await;
    let began = std::time::Instant::now();
    loop {
        let document = http::get(&format!("http://{at}/api/v1/status"), &[]).await.json();
        let export = &document["projects"][0]["exports"][0];
        if export["waiting"].is_null() && export["remote_status"] == "RUNNING" {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{document:#}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// One of many that is refused while the others get through: each success of theirs ends the pause
/// of all, and none ends this one's trouble.
async fn one_of_many_needs_attention(solo: Solo, cause: Cause, concerns: &str, told: &str) {
    let solo = solo.with(LISTEN);
    let watcher = solo.start();
    let scene = Scene { solo, watcher, _mount: None };
    let began = std::time::Instant::now();
    loop {
        let waiting = scene.document(cause).await;
        let is_own = waiting["concerns"] == concerns && waiting["needs_attention"] == true;
        if is_own && waiting["attempts"].as_u64() >= Some(5) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{waiting:#}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let log = scene.watcher.output().stderr;
    assert_eq!(log.iter().filter(|line| line.contains(told)).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn a_part_that_its_store_refuses_alone_needs_attention_and_fills_no_log() {
    let refused = || SimFile::generated("file_1", 1, 1000).on_fetch(Canned::unavailable(None));
    let many = (1..=400).map(|n| SimFile::generated(&format!("file_of_many_{n}"), n, 1000));
    let exports = vec![
        SimExport::finished("export_1", vec![refused()]),
        SimExport::finished("export_2", many.collect()),
    ];
    let solo = Solo::new(exports).await.with("[download]\nmax_parts = 2");
    let told = "the store asks for fewer requests";
    one_of_many_needs_attention(solo, Cause::StoreBusy, "part 1", told).await;
}

#[tokio::test]
async fn an_export_that_the_api_throttles_alone_needs_attention_and_fills_no_log() {
    let refused = ViewStep::Answer(Canned::throttled(None));
    let exports = vec![SimExport::new("export_1", vec![refused]), running("export_2")];
    let told = "the API asks for fewer requests (429)";
    one_of_many_needs_attention(Solo::new(exports).await, Cause::Throttled, "the export", told)
        .await;
}

/// As docs/operations.md says, with what the status says.
#[tokio::test]
async fn a_marker_that_was_deleted_is_mended_with_the_words_of_the_status() {
    let scene = scene(Cause::Disk).await.expect("it needs nothing of the machine");
    let waiting = scene.document(Cause::Disk).await;
    let words = waiting["words"].as_str().expect("words");
    let (_, command) = words.split_once(" If this is the right folder, run: ").expect("a command");
    let written =
        std::process::Command::new("sh").args(["-c", &format!("umask 077; {command}")]).status();
    assert!(written.expect("a shell").success());
    scene.watcher.wait_for_event(|event| event["message"] == "export whole").await;
    scene.solo.home.assert_whole(SHOP, "export_1", &[&file("file_1").content]);
}

/// A store may have a file later than the API lists it.
#[tokio::test]
async fn a_file_that_comes_later_than_its_listing_is_waited_for_and_then_whole() {
    let late = || Canned::store_error(404, "NoSuchKey", "no such key");
    let answers = (0..4).fold(file("file_1"), |file, _| file.on_fetch(late()));
    let at_last = file("file_1");
    let solo = Solo::finished(vec![answers.on_fetch(Serving::well())]).await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&at_last.content]);
    assert_eq!(solo.fetches("file_1").len(), 5);
}

/// What never comes is given up after the grace, with one advice in the log and in the status.
#[tokio::test]
async fn a_file_that_never_comes_fails_the_export_after_the_grace_with_one_advice() {
    let solo = served(Canned::store_error(404, "NoSuchKey", "no such key")).await;
    let solo = solo.with("[poll]\nnot_found_grace = \"300ms\"");
    let output = solo.settle(1).await;
    assert!(solo.fetches("file_1").len() > 2, "it was tried more than twice");
    let advice = "start the export again in Batch, and replace its ID in the configuration";
    let log = output.stderr.join("\n");
    assert!(log.contains(advice) && !log.contains("to try again, run"), "{log}");
    let status = solo.home.command("status", &["--json"]).output().await.expect("it starts");
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["projects"][0]["exports"][0]["failure"]["advice"], advice);
}
