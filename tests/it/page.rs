//! The status page in a real browser: what somebody sees, hears and presses while the real daemon
//! works.

use std::time::Duration;

use batch_export_watcher::simulator::{Canned, SimExport, SimFile, Simulator, ViewStep};
use serde_json::Value;

use super::support::browser::{Browser, Look};
use super::support::home::Home;
use super::support::process::Watcher;
use super::support::scene::{project_key, scene};
use super::support::turns::{Turn, in_a_browser};

/// A daemon whose page is open in a browser.
struct Stage {
    sim: Simulator,
    home: Home,
    watcher: Option<Watcher>,
    origin: String,
    browser: Browser,
    _turn: Turn,
}

impl Stage {
    /// A stage without a browser is none: then the test ends there.
    async fn of(
        projects: Vec<(&str, Vec<SimExport>)>,
        toml: &str,
        before: impl FnOnce(&Simulator),
    ) -> Option<Self> {
        let turn = in_a_browser().await;
        let browser = Browser::start().await?;
        let (sim, home) = scene(projects).await;
        before(&sim);
        let home = home.with("[server]\nlisten = \"127.0.0.1:0\"").with(toml);
        let mut stage =
            Self { sim, home, watcher: None, origin: String::new(), browser, _turn: turn };
        stage.start().await;
        stage.browser.open(&stage.origin).await;
        stage.browser.run("window.sameTab = true;").await;
        stage.browser.until("document.body.dataset.link === 'live' && !main.hidden").await;
        Some(stage)
    }

    async fn start(&mut self) {
        let watcher = self.home.start(&[]);
        let said = |event: &Value| {
            event["message"].as_str()?.strip_prefix("status page at ").map(str::to_owned)
        };
        let event = watcher.wait_for_event(|event| said(event).is_some()).await;
        self.origin = said(&event).expect("an address").trim_end_matches('/').to_owned();
        self.watcher = Some(watcher);
    }

    /// No error, no warning, and nobody asked but the daemon.
    async fn assert_quiet(&self) {
        assert_eq!(self.browser.complaints().await, Vec::<String>::new(), "the console");
        self.assert_self_contained().await;
    }

    async fn assert_self_contained(&self) {
        let ours = |url: &&String| {
            url.starts_with(&format!("{}/", self.origin)) || url.starts_with("data:")
        };
        let asked = self.browser.requests().await;
        assert!(asked.iter().any(|url| url.ends_with("/api/v1/events")), "{asked:?}");
        let others: Vec<_> = asked.iter().filter(|url| !ours(url)).collect();
        assert!(others.is_empty(), "asked elsewhere: {others:?}");
    }
}

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("PENDING")])
}

fn slow(id: &str, part: u64, bytes: u64, bytes_per_second: u64) -> SimFile {
    SimFile::generated(id, part, bytes).with_bytes_per_second(bytes_per_second)
}

#[tokio::test]
async fn an_export_moves_along_its_track_until_it_is_whole() {
    let export = SimExport::new("export_1", vec![ViewStep::status("CREATED")]);
    let Some(stage) = Stage::of(vec![("shop", vec![export])], "", |_| {}).await else { return };
    let page = &stage.browser;
    for (step, status) in ["CREATED", "PENDING", "RUNNING"].iter().enumerate() {
        stage
            .sim
            .set_views("export_1", vec![ViewStep::status(status)])
            .expect("an export of the script");
        page.until(&format!("document.querySelector('.track[data-step=\"{}\"]')", step + 1)).await;
        let aloud = page.run("return document.querySelector('.track').ariaLabel;").await;
        assert_eq!(aloud, format!("At Batch: {status}, step {} of 4", step + 1));
        assert_eq!(
            page.run("return document.querySelector('.state').textContent;").await,
            "Waiting"
        );
    }
    let file = slow("file_1", 1, 4_000_000, 1_000_000);
    stage
        .sim
        .set_views("export_1", vec![ViewStep::Success(vec![file])])
        .expect("an export of the script");
    page.until("document.querySelector('.track[data-step=\"4\"]')").await;
    let bar = "document.querySelector('.load progress')?.value";
    let first = page.until(bar).await.as_f64();
    let more = page.until(&format!("{bar} > {} && {bar}", first.expect("a number"))).await.as_f64();
    assert!(first < more && more < Some(1.0), "{first:?}, then {more:?}");
    page.until("document.querySelector('.part progress')?.value > 0").await;
    page.until("/^[\\d.]+\\u00a0[kM]B\\/s/.test(document.querySelector('.pace').textContent)")
        .await;
    page.until("/\\d+\\u00a0s left/.test(document.querySelector('.pace').textContent)").await;
    page.until("document.querySelector('#chart .line').getAttribute('d').split('L').length > 2")
        .await;
    page.until("document.querySelector('.state').textContent === 'Whole'").await;
    page.until("document.getElementById('announcer').textContent === 'export_1 is whole.'").await;
    page.until("document.getElementById('tile-whole').textContent === '1'").await;
    assert_eq!(
        page.run("return document.querySelectorAll('.part, .load progress:not([hidden])').length;")
            .await,
        0
    );
    assert_eq!(page.run("return window.sameTab;").await, true, "the page was loaded again");
    stage.assert_quiet().await;
}

/// Something of everything.
async fn troubled() -> Option<Stage> {
    let long = "e".repeat(128);
    let done =
        |id: &str, file: &str| SimExport::finished(id, vec![SimFile::generated(file, 1, 250_000)]);
    let shop = vec![
        SimExport::failing("export_failed"),
        SimExport::finished(
            "export_moving",
            vec![slow("file_1", 1, 90_000_000, 900_000), slow("file_2", 2, 40_000_000, 300_000)],
        ),
        done("export_whole", "file_3"),
        pending("export_pending"),
        pending(&long),
    ];
    let refused = vec![pending("export_refused"), pending("export_refused_too")];
    let projects = vec![
        ("shop", shop),
        ("loyalty", refused),
        ("newsletter", vec![pending("export_throttled")]),
    ];
    let toml = "[retry]\nmax = \"10m\"\n[poll]\nmin_interval = \"1s\"\nmax_interval = \"40s\"";
    let stage = Stage::of(projects, toml, |sim| {
        sim.rotate_key(&project_key("loyalty"), "another").expect("a project of the script");
        let throttled = Some(Canned::throttled(Some("125")));
        sim.set_project_outage(&project_key("newsletter"), throttled)
            .expect("a project of the script");
    })
    .await?;
    let page = &stage.browser;
    page.until("document.querySelectorAll('#attention-list > li').length === 3").await;
    page.until("document.getElementById('tile-whole').textContent === '1'").await;
    page.until("document.querySelectorAll('.part').length === 2").await;
    Some(stage)
}

#[tokio::test]
async fn trouble_shows_its_cause_the_remedy_and_the_time_of_the_next_try() {
    let Some(stage) = troubled().await else { return };
    let page = &stage.browser;
    let card = |title: &str| {
        format!(
            "[...document.querySelectorAll('.card')].find((card) => card.querySelector('h3').textContent === '{title}').innerText"
        )
    };
    let failed = page.until(&card("shop / export_failed")).await;
    let failed = failed.as_str().expect("a text");
    assert!(failed.contains("The API reports ERROR"), "{failed}");
    assert!(
        failed.contains("Start the export again in Batch, and replace its ID in the configuration"),
        "{failed}"
    );
    let config = stage.home.config_path().display().to_string();
    let retry = format!("batch-export-watcher retry -c {config} export_failed");
    assert!(failed.contains(&retry), "{failed}");
    let refused = page.until(&card("Project loyalty")).await;
    let refused = refused.as_str().expect("a text");
    assert!(
        refused.contains("Put a valid REST API key into file ") && refused.contains("loyalty.key"),
        "{refused}"
    );
    assert!(refused.contains("Next try in "), "{refused}");
    let throttled = page.until(&card("Project newsletter")).await;
    let throttled = throttled.as_str().expect("a text");
    assert!(throttled.contains("The API asks for fewer requests"), "{throttled}");
    assert!(
        throttled.contains("Next try in 2\u{a0}min")
            || throttled.contains("Next try in 1\u{a0}min"),
        "{throttled}"
    );
    let left = |text: &str| text.split("Next try in ").nth(1).map(str::to_owned);
    page.until(&format!(
        "!{}.includes({:?})",
        card("Project newsletter"),
        left(throttled).expect("a time")
    ))
    .await;
    let paused = "[...document.querySelectorAll('.paused')].map((pill) => pill.textContent)";
    let paused = page.until(paused).await;
    assert!(
        paused.to_string().contains("the API refuses the REST API key (HTTP 401) · next try in"),
        "{paused}"
    );
    assert_eq!(page.run("return document.title;").await, "1 failed · Batch Export Watcher");

    // What counts down or stands in a card is not said a second time, and then late.
    let sentence = "Watching 6 exports, 1 downloading, 1 whole, 1 failed, 3 held up";
    // It also says "polling now" whenever a poll is under way.
    page.until(&format!("document.getElementById('sentence').textContent === '{sentence}'")).await;

    for (look, name) in [(Look::Light, "light"), (Look::Dark, "dark"), (Look::Narrow, "narrow")] {
        page.look(look).await;
        page.assert_accessible(name).await;
        let fits = "return [document.documentElement.scrollWidth, innerWidth];";
        let fits = page.run(fits).await;
        assert!(fits[0].as_u64() <= fits[1].as_u64(), "{name} scrolls sideways: {fits}");
        page.screenshot(look, name).await;
    }
    stage.assert_quiet().await;
}

#[tokio::test]
async fn the_keyboard_reaches_everything_and_keeps_its_place() {
    let Some(stage) = troubled().await else { return };
    let page = &stage.browser;
    let mut reached = Vec::new();
    let focused = "const at = document.activeElement; const seen = getComputedStyle(at);
        return [at.id || at.className || at.localName, at.localName, seen.outlineStyle !== 'none' && parseFloat(seen.outlineWidth) >= 2];";
    for _ in 0..30 {
        page.press("Tab").await;
        let at = page.run(focused).await;
        let name = at[0].as_str().expect("a name").to_owned();
        assert!(at[1] == "body" || at[2] == true, "the focus does not show at {at}");
        reached.push(name);
        if at[1] == "summary" {
            break;
        }
    }
    let at = |name: &str| {
        reached
            .iter()
            .position(|other| other == name)
            .unwrap_or_else(|| panic!("{name}: {reached:?}"))
    };
    assert_eq!(at("skip"), 0, "{reached:?}");
    assert!(
        at("filter-text") < at("chip") && at("chip") < at("sort") && at("sort") < at("summary"),
        "{reached:?}"
    );

    let open = "document.querySelector('.project').open";
    for (key, expected) in [("Enter", false), (" ", true), ("Enter", false)] {
        page.press(key).await;
        page.until(&format!("{open} === {expected}")).await;
    }
    // Snapshots come in meanwhile: what has the focus keeps it, what is closed stays so, and nobody
    // is told about every second.
    page.run("window.said = []; new MutationObserver(() => said.push(announcer.textContent)).observe(announcer, { childList: true });").await;
    let rate = page
        .run("return document.getElementById('chart').querySelector('.line').getAttribute('d');")
        .await;
    let drawn = "document.getElementById('chart').querySelector('.line').getAttribute('d').split('L').length";
    let points = rate.as_str().expect("a line").split('L').count();
    page.until(&format!("{drawn} > {}", points + 2)).await;
    assert_eq!(page.run("return document.activeElement.localName;").await, "summary");
    // What comes to need attention meanwhile is said, once.
    let said = page.run("return said;").await;
    assert!(said.as_array().is_some_and(|said| said.len() <= 1), "{said}");
    assert_eq!(page.run(&format!("return {open};")).await, false);
    stage.assert_quiet().await;
}

#[tokio::test]
async fn after_a_restart_the_page_is_right_again() {
    // The second daemon needs the port of the first. On an address of its own nobody else takes it.
    let own = "[server]\nlisten = \"127.0.0.9:0\"";
    let Some(mut stage) = Stage::of(vec![("shop", vec![pending("export_1")])], own, |_| {}).await
    else {
        return;
    };
    stage.browser.until("document.querySelectorAll('.export').length === 1").await;
    stage.assert_quiet().await;
    stage.watcher.take().expect("it runs").kill9().await;
    stage.browser.until("document.body.dataset.link === 'lost'").await;
    stage
        .browser
        .until("lost.innerText.includes('Connection lost, trying again. What you see is')")
        .await;

    stage
        .sim
        .put_export(&project_key("shop"), pending("export_2"))
        .expect("a project of the script");
    stage.home.set_exports("shop", &["export_1", "export_2"]);
    let address = stage.origin.trim_start_matches("http://").to_owned();
    stage.home.merge(&format!("[server]\nlisten = \"{address}\""));
    stage.start().await;
    let page = &stage.browser;
    page.until("document.body.dataset.link === 'live' && lost.hidden").await;
    page.until("notice.innerText.includes('The daemon was started again')").await;
    let ids = "[...document.querySelectorAll('.export .id')].map((id) => id.textContent).join()";
    page.until(&format!("{ids} === 'export_1,export_2'")).await;
    assert_eq!(page.run("return document.querySelectorAll('.project').length;").await, 1);
    // It is live, not only painted once.
    let failing = vec![ViewStep::status("ERROR")];
    stage.sim.set_views("export_2", failing).expect("an export of the script");
    page.until("document.querySelectorAll('#attention-list > li').length === 1").await;
    assert_eq!(page.run("return window.sameTab;").await, true, "the page was loaded again");
    // The browser itself says that nobody answered; it may say nothing else.
    let complaints = page.complaints().await;
    assert!(
        complaints.iter().all(|line| line.contains("/api/v1/events") && line.contains("net::ERR_")),
        "{complaints:?}"
    );
    stage.assert_self_contained().await;
}

#[tokio::test]
async fn a_thousand_exports_stay_smooth() {
    let mut exports: Vec<_> = (0..999).map(|number| pending(&format!("export_{number}"))).collect();
    exports.push(SimExport::finished("moving", vec![slow("file_1", 1, 90_000_000, 1_000_000)]));
    let (first, second) = (exports.split_off(600), exports);
    let toml = "[poll]\nmin_interval = \"1h\"\nmax_interval = \"1h\"";
    let Some(stage) = Stage::of(vec![("shop", first), ("loyalty", second)], toml, |_| {}).await
    else {
        return;
    };
    let page = &stage.browser;
    page.until("document.querySelectorAll('.export').length === 1000").await;
    let timed = |what: &str| {
        format!(
            "const began = performance.now(); {what}; document.body.getBoundingClientRect().height;
             return [performance.now() - began, document.querySelectorAll('.export').length];"
        )
    };
    let field = "const field = document.getElementById('filter-text');";
    let typed = |text: &str| {
        let event = "field.dispatchEvent(new Event('input', { bubbles: true }))";
        timed(&format!("{field} field.value = '{text}'; {event}"))
    };
    // Ten times what it takes, for a machine that is busy with other tests.
    let bound = Duration::from_millis(1500).as_secs_f64() * 1000.0;
    for (script, rows) in [
        (typed("export_99"), 10),
        (typed("loyalty"), 600),
        (typed(""), 1000),
        (timed("sort.value = 'name'; sort.dispatchEvent(new Event('change'))"), 1000),
        (timed("document.querySelector('.project summary').click()"), 1000),
    ] {
        let result = page.run(&script).await;
        assert_eq!(result[1], rows, "{script}");
        assert!(result[0].as_f64() < Some(bound), "{script}: {result}");
    }
    // Three snapshots: none takes long.
    page.run(
        "window.longest = 0;
         new PerformanceObserver((list) => {
             for (const { duration } of list.getEntries()) longest = Math.max(longest, duration);
         }).observe({ type: 'longtask' });",
    )
    .await;
    let points = "document.querySelector('#chart .line').getAttribute('d').split('L').length";
    let now = page.run(&format!("return {points};")).await.as_u64().expect("a number");
    page.until(&format!("{points} >= {}", now + 3)).await;
    let longest = page.run("return longest;").await;
    assert!(longest.as_f64() < Some(bound), "a snapshot takes {longest} ms");
    page.run(&typed("")).await;
    stage.assert_quiet().await;
}

#[tokio::test]
async fn a_page_without_exports_says_what_to_do() {
    let Some(stage) = Stage::of(vec![("shop", vec![])], "", |_| {}).await else { return };
    let page = &stage.browser;
    page.until("document.querySelector('.project .empty').innerText.includes('No exports yet.')")
        .await;
    page.look(Look::Narrow).await;
    page.assert_accessible("a project without exports").await;
    page.look(Look::Light).await;
    page.assert_accessible("a project without exports, wide").await;
    page.screenshot(Look::Light, "empty").await;
    stage.assert_quiet().await;
}
