//! A real headless browser for one test: Chromium, driven through chromedriver, and gone with all
//! its processes at the end.

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{Capabilities, WebDriver};
use tokio::process::Command;

use super::process::Watcher;
use super::{PATIENCE, http, look};

/// An empty profile, and nothing that asks anybody else than the page does.
const ARGUMENTS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--window-size=1280,900",
];
/// What each driver call may take at most.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Starts of chromedriver until one of them has its port.
const TRIES: usize = 3;
/// Longest wait for killed processes to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A desktop in light colours.
    Light,
    /// A desktop in dark colours.
    Dark,
    /// A phone.
    Narrow,
}

/// A browser with one tab. Killed when dropped, the browser's own children too.
#[derive(Debug)]
pub(crate) struct Browser {
    web: WebDriver,
    driver: Option<Watcher>,
    profile: TempDir,
}

/// Chromedriver, and the port that it listens on. It takes one for IPv4 and then the same for IPv6,
/// and gives up where somebody else was faster: then another one is started.
async fn started(chromedriver: &Path, home: &Path) -> (Watcher, u16) {
    // It speaks of port 0 first.
    let port = |line: &str| {
        let port = line.split(" on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok()?;
        (port > 0).then_some(port)
    };
    for _ in 0..TRIES {
        let mut command = Command::new(chromedriver);
        command.arg("--port=0").env("HOME", home).env("XDG_CONFIG_HOME", home);
        let driver = Watcher::spawn(command);
        if let Some(port) = driver.said(port).await {
            return (driver, port);
        }
    }
    panic!("chromedriver has ended {TRIES} times before it listened");
}

impl Browser {
    /// Starts one; says so loudly and gives none where none is installed.
    pub(crate) async fn start() -> Option<Self> {
        let programs = installed(&["chromium", "chromium-browser", "google-chrome"])
            .zip(installed(&["chromedriver"]));
        let Some((chromium, chromedriver)) = programs else {
            skipped("the status page in a browser: chromium and chromedriver are not installed");
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary folder");
        let (driver, port) = started(&chromedriver, profile.path()).await;
        let mut browser = Guard { driver: Some(driver), profile: Some(profile) };
        let connecting = WebDriver::builder(
            format!("http://127.0.0.1:{port}"),
            capabilities(&chromium, browser.profile.as_ref().expect("not given away yet").path()),
        )
        .client(http::client(CALL_TIMEOUT))
        .connect();
        let web = connecting.await.unwrap_or_else(|error| panic!("no browser: {error}"));
        // Its processes are killed at the end: nobody has to be asked to close it.
        web.clone().leak().expect("it has just begun");
        let (driver, profile) =
            (browser.driver.take(), browser.profile.take().expect("not given away yet"));
        Some(Self { web, driver, profile })
    }

    /// Opens a page.
    pub(crate) async fn open(&self, url: &str) {
        self.web.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Runs a function's body in the page.
    pub(crate) async fn run(&self, body: &str) -> Value {
        let ran = self.web.execute(body, Vec::new()).await;
        ran.unwrap_or_else(|error| panic!("{body}: {error}")).json().clone()
    }

    /// As [`Browser::run`], for a body that calls `done` with its result.
    pub(crate) async fn run_until_done(&self, body: &str, argument: Value) -> Value {
        let body = format!("const [argument, done] = arguments; {body}");
        let ran = self.web.execute_async(body.as_str(), vec![argument]).await;
        ran.unwrap_or_else(|error| panic!("{body}: {error}")).json().clone()
    }

    /// Waits until the expression is truthy in the page, and returns it.
    pub(crate) async fn until(&self, expression: &str) -> Value {
        let began = Instant::now();
        loop {
            let value = self.run(&format!("return {expression};")).await;
            if !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0 {
                return value;
            }
            if began.elapsed() > PATIENCE {
                let text = self.run("return document.body.innerText;").await;
                panic!(
                    "not within {PATIENCE:?}: {expression}\n{}",
                    text.as_str().unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Looks at the page on another device.
    pub(crate) async fn look(&self, look: Look) {
        let scheme = if look == Look::Light { "light" } else { "dark" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        self.resize(look, if look == Look::Narrow { 844 } else { 900 }).await;
    }

    async fn resize(&self, look: Look, height: u64) {
        let phone = look == Look::Narrow;
        let width = if phone { 390 } else { 1280 };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
        // Colours on their way from one scheme to the other are neither's.
        self.run_until_done(AWAIT_TRANSITIONS, Value::Null).await;
    }

    /// Presses and releases a key, as a keyboard would.
    pub(crate) async fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            " " => 32,
            other => panic!("no code for the key {other}"),
        };
        let text = if key == "Enter" {
            "\r"
        } else if key == " " {
            " "
        } else {
            ""
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.cdp("Input.dispatchKeyEvent", event).await;
        }
    }

    /// The whole page as a picture, at `target/page-screenshots/NAME.png`; one that shows next to
    /// nothing fails the test.
    pub(crate) async fn screenshot(&self, look: Look, name: &str) {
        // Rows out of sight are not drawn, so all of the page has to be in sight. They may be
        // higher than they were taken for.
        for _ in 0..2 {
            let height = self.run("return document.documentElement.scrollHeight;").await;
            self.resize(look, height.as_u64().expect("a number")).await;
        }
        let shot = self.cdp("Page.captureScreenshot", json!({ "format": "png" })).await;
        let encoded = shot["data"].as_str().expect("a picture").to_owned();
        let folder = target().join("page-screenshots");
        fs::create_dir_all(&folder).expect("a folder for the pictures");
        let picture = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &encoded)
            .expect("base64");
        let path = folder.join(format!("{name}.png"));
        let mut file = fs::File::create(&path).expect("a file for the picture");
        file.write_all(&picture).expect("room for the picture");
        let colours = self.run_until_done(COUNT_COLOURS, encoded.into()).await;
        assert!(colours.as_u64() > Some(16), "{} has {colours} colours", path.display());
        self.look(look).await;
    }

    /// Sends a command of the DevTools protocol.
    async fn cdp(&self, method: &str, parameters: Value) -> Value {
        let sent = self.web.cdp().send_raw(method, parameters).await;
        sent.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// What axe-core finds wrong in the page as it is now: nothing in a good one. Skips loudly
    /// where axe-core is not there.
    pub(crate) async fn assert_accessible(&self, what: &str) {
        let path = env::var_os("AXE_CORE")
            .map_or_else(|| target().join("axe-core/package/axe.min.js"), PathBuf::from);
        let Ok(axe) = fs::read_to_string(&path) else {
            skipped(&format!(
                "accessibility of {what}: axe-core is not at {} ($AXE_CORE)",
                path.display()
            ));
            return;
        };
        // It has to be told only once where no page was opened since.
        if self.run("return Boolean(window.axe);").await != true {
            self.run(&axe).await;
        }
        let violations = self.run_until_done(RUN_AXE, Value::Null).await;
        assert_eq!(violations, json!([]), "{what}: {violations:#}");
    }

    /// The console's complaints since the last call.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let entries =
            self.web.browser_log().await.unwrap_or_else(|error| panic!("no console: {error}"));
        let serious = entries
            .into_iter()
            .filter(|entry| ["SEVERE", "WARNING"].contains(&entry.level.as_str()));
        serious.map(|entry| entry.message).collect()
    }

    /// The addresses that pages asked for since the last call; the browser's own pages do not
    /// count.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let log = self.web.get_log("performance").await;
        let entries = log.unwrap_or_else(|error| panic!("no network log: {error}"));
        let messages =
            entries.iter().filter_map(|entry| serde_json::from_str::<Value>(&entry.message).ok());
        let url = |message: Value| {
            let (method, sent) = (&message["message"]["method"], &message["message"]["params"]);
            let own = sent["documentURL"].as_str()?.starts_with("chrome");
            let counts = method == "Network.requestWillBeSent" && !own;
            counts.then(|| sent["request"]["url"].as_str().map(str::to_owned))?
        };
        messages.filter_map(url).collect()
    }
}

/// Distinct colours of a picture that is given as base64.
const COUNT_COLOURS: &str = "
    const image = new Image();
    image.onerror = () => done(0);
    image.onload = () => {
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.width, image.height];
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        done(new Set(new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer)).size);
    };
    image.src = `data:image/png;base64,${argument}`;";

const AWAIT_TRANSITIONS: &str = "
    requestAnimationFrame(() => requestAnimationFrame(() => {
        const moving = document.getAnimations().filter((animation) => animation instanceof CSSTransition);
        Promise.allSettled(moving.map((transition) => transition.finished)).then(() => done(true));
    }));";

const RUN_AXE: &str = "
    axe.run(document, { resultTypes: ['violations'] }).then(
        ({ violations }) => done(violations.map(({ id, help, nodes }) =>
            ({ id, help, nodes: nodes.slice(0, 5).map((node) => [node.html, node.failureSummary]) }))),
        (error) => done(String(error)));";

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver first: it must not see its browser go.
        drop(self.driver.take());
        end_users_of(self.profile.path());
    }
}

/// The same before there is a session.
struct Guard {
    driver: Option<Watcher>,
    profile: Option<TempDir>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.driver.take());
        if let Some(profile) = &self.profile {
            end_users_of(profile.path());
        }
    }
}

/// Kills every process that was started with this folder in its arguments: no other has it, and the
/// browser leaves the group of processes in which it was started.
fn end_users_of(folder: &Path) {
    let began = Instant::now();
    let name = folder.as_os_str().as_encoded_bytes();
    loop {
        let ours = look::entries(Path::new("/proc")).into_iter().filter_map(|process| {
            let id = process.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
            // Those of other users may be closed to us.
            let arguments = fs::read(process.join("cmdline")).ok()?;
            arguments.windows(name.len()).any(|window| window == name).then_some(id)
        });
        let ours: Vec<_> = ours.collect();
        for id in &ours {
            // One that has just ended is as good.
            let _ = kill_process(*id, Signal::KILL);
        }
        if ours.is_empty() || began.elapsed() > END_TIMEOUT {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn capabilities(chromium: &Path, profile: &Path) -> Capabilities {
    let mut capabilities = Capabilities::default();
    let mut arguments: Vec<_> = ARGUMENTS.map(str::to_owned).into();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    let options = json!({ "binary": chromium, "args": arguments });
    let logs = json!({ "browser": "ALL", "performance": "ALL" });
    for (key, value) in [
        ("browserName", "chrome".into()),
        ("goog:chromeOptions", options),
        ("goog:loggingPrefs", logs),
    ] {
        capabilities.set(key, value).expect("a value of json");
    }
    capabilities
}

/// Not `eprintln!`, which a test that passes keeps to itself.
fn skipped(what: &str) {
    let words = format!("!! SKIPPED: {what}\n");
    std::io::stderr().write_all(words.as_bytes()).expect("stderr takes a line");
}

/// The first of these programs in `PATH`.
fn installed(names: &[&str]) -> Option<PathBuf> {
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH")?).collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// The folder of what is built.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
}
