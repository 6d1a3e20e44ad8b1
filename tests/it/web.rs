//! The status server of the real daemon: what it answers, to whom, and that nobody can hold it up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Canned, SimExport, SimFile, ViewStep};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::PATIENCE;
use super::support::http::{Answer, get};
use super::support::machine::Machine;
use super::support::process::Watcher;
use super::support::solo::{PROJECT_KEY, Solo};

fn pending(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

/// A running daemon and where its page is.
struct Page {
    solo: Solo,
    _watcher: Watcher,
    address: SocketAddr,
}

impl Page {
    async fn of(exports: Vec<SimExport>) -> Self {
        Self::start(Solo::new(exports).await).await
    }

    async fn start(solo: Solo) -> Self {
        let solo = solo.with("[server]\nlisten = \"127.0.0.1:0\"");
        let watcher = solo.start();
        let said =
            |message: &str| message.strip_prefix("status page at http://").map(str::to_owned);
        let event = watcher
            .wait_for_event(|event| event["message"].as_str().and_then(said).is_some())
            .await;
        let address =
            event["message"].as_str().and_then(said).expect("an address").parse().expect("one");
        watcher.wait_for_event(|event| event["message"] == "running").await;
        Self { solo, _watcher: watcher, address }
    }

    async fn get(&self, path: &str) -> Answer {
        get(&format!("http://{}{path}", self.address), &[]).await
    }

    /// The first status that satisfies `wanted`.
    async fn status(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.get("/api/v1/status").await.json();
            if wanted(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{status:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What comes back for these bytes until the connection ends.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("it takes the request");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("an end in time").expect("an end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A connection on which these bytes were sent.
    async fn begun(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("it takes the request");
        stream
    }
}

/// The only export of the only project.
fn export(status: &Value) -> &Value {
    &status["projects"][0]["exports"][0]
}

/// The next snapshot of a stream of events.
async fn next_snapshot(stream: &mut TcpStream, seen: &mut String) -> Value {
    let reading = async {
        loop {
            if let Some(at) = seen.find("data: ")
                && let Some(length) = seen[at..].find("\n\n")
            {
                let json = serde_json::from_str(&seen[at + 6..at + length]).expect("json");
                *seen = seen.split_off(at + length);
                return json;
            }
            let mut buffer = [0; 4096];
            let bytes = stream.read(&mut buffer).await.expect("a stream");
            assert!(bytes > 0, "the stream has ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an event in time")
}

const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "DENY"),
];

#[tokio::test]
async fn every_route_answers_with_its_type_and_the_headers_that_protect_it() {
    let page = Page::of(vec![pending("export_1")]).await;
    for (path, status, content_type, words) in [
        ("/", 200, "text/html; charset=utf-8", "<html"),
        ("/style.css", 200, "text/css; charset=utf-8", "{"),
        ("/app.js", 200, "text/javascript; charset=utf-8", "api/v1/events"),
        ("/attention.js", 200, "text/javascript; charset=utf-8", "troubles"),
        ("/kit.js", 200, "text/javascript; charset=utf-8", "instantiate"),
        ("/livez", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/api/v1/status", 200, "application/json", "{"),
        ("/metrics", 200, "application/openmetrics-text; version=1.0.0; charset=utf-8", "# EOF\n"),
        ("/nothing", 404, "text/plain; charset=utf-8", "nothing is here"),
    ] {
        let answer = page.get(path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, content_type),
            "{path}"
        );
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
        for (name, value) in HEADERS {
            assert_eq!(answer.header(name), value, "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn other_methods_hosts_and_bodies_are_refused() {
    let page = Page::start(
        Solo::new(vec![pending("export_1")])
            .await
            .with("[server]\nallowed_hosts = [\"watcher.internal\"]"),
    )
    .await;
    let asked = |line: &str, headers: &str| page_request(line, headers);
    for (request, expected) in [
        (asked("GET /livez", "Host: localhost:1"), "200 "),
        (asked("GET /livez", "Host: [::1]:9847"), "200 "),
        (asked("GET /livez", "Host: Watcher.Internal"), "200 "),
        (asked("GET /livez", "Host: evil.example"), "421 "),
        (asked("GET /api/v1/events", "Host: evil.example:9847"), "421 "),
        (asked("GET /livez", "Host: localhost\r\nHost: evil.example"), "421 "),
        (asked("GET http://evil.example/livez", "Host: localhost"), "421 "),
        (asked("GET /livez", "X-Host: none"), "421 "),
        (asked("HEAD /api/v1/status", "Host: localhost"), "200 "),
        (asked("HEAD /api/v1/events", "Host: localhost"), "200 "),
        (asked("POST /api/v1/status", "Host: localhost\r\nContent-Length: 0"), "405 "),
        (asked("DELETE /nothing", "Host: localhost"), "405 "),
        (asked("OPTIONS /livez", "Host: localhost"), "405 "),
        (asked("GET /livez", "Host: localhost\r\nContent-Length: 5\r\n\r\nhello"), "413 "),
        (asked("GET /livez", "Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0"), "413 "),
    ] {
        let answer = page.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{request}\n{answer}");
        assert!(answer.contains("x-frame-options: DENY\r\n"), "{request}\n{answer}");
        assert_eq!(answer.contains("allow: GET, HEAD\r\n"), expected == "405 ", "{answer}");
        assert!(!request.starts_with("HEAD") || answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

fn page_request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n\r\n")
}

#[tokio::test]
async fn a_polled_export_shows_when_its_next_poll_is_due() {
    let solo = Solo::new(vec![pending("export_1")]).await;
    let page = Page::start(solo.with("[poll]\nmin_interval = \"1h\"\nmax_interval = \"1h\"")).await;
    let status = page.status(|status| export(status)["remote_status"] == "RUNNING").await;
    let found = export(&status);
    assert_eq!((&found["id"], &found["state"]), (&json!("export_1"), &json!("polling")));
    assert_eq!(
        (&found["parts"], &found["failure"]),
        (&json!({"done": 0, "total": 0}), &Value::Null)
    );
    let time =
        |value: &Value| value.as_str().expect("a text").parse::<jiff::Timestamp>().expect("a time");
    let wait = time(&found["next_poll_at"]).duration_since(time(&status["now"]));
    assert!((3000..=4000).contains(&wait.as_secs()), "{wait}");
    assert!(
        time(&found["since"]) <= time(&status["now"])
            && time(&status["started_at"]) <= time(&status["now"])
    );
    assert_eq!(
        (&status["version"], &status["draining"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(false))
    );
    assert_eq!(
        (&status["slots"], &status["disk"]),
        (&json!({"in_use": 0, "max": 8}), &json!({"ill": false}))
    );
    assert_eq!(status["reloads"], json!({"accepted": 0, "refused": 0, "last_refusal": null}));
    assert_eq!((&status["origin"], &status["projects"][0]["pauses"]), (&Value::Null, &json!([])));
    assert!(
        status["sentence"].as_str().expect("a text").starts_with("watching 1 export"),
        "{status:#}"
    );
    assert_eq!((&status["summary"], &status["waits"]), (&json!("watching 1 export"), &json!([])));
    let file = page.solo.home.config_path().display().to_string();
    for verb in ["retry", "check"] {
        let command = format!("batch-export-watcher {verb} -c {file}");
        assert_eq!(status["commands"][verb], command);
    }
}

#[tokio::test]
async fn events_show_the_progress_of_parts() {
    let slow = SimFile::generated("file_1", 1, 4_000_000).with_bytes_per_second(1_000_000);
    let page = Page::of(vec![SimExport::finished("export_1", vec![slow])]).await;
    let mut stream = page.begun("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let (mut seen, mut bytes, mut rates) = (String::new(), Vec::new(), Vec::new());
    let whole = loop {
        let status = next_snapshot(&mut stream, &mut seen).await;
        let found = export(&status).clone();
        if let Some(part) = found["active_parts"].get(0) {
            assert_eq!((&part["part"], &part["file"]), (&json!(1), &json!("file_1")));
            assert_eq!((&part["total"], &found["state"]), (&json!(4_000_000), &json!("fetching")));
            assert_eq!(found["bytes"]["done"], part["bytes"]);
            bytes.push(part["bytes"].as_u64().expect("a number"));
            rates.push(status["bytes_per_second"].as_u64().expect("a number"));
        }
        if found["state"] == "whole" {
            break found;
        }
    };
    assert!(bytes.len() >= 3 && bytes.is_sorted_by(|a, b| a < b), "{bytes:?}");
    assert!(rates.iter().any(|rate| (200_000..4_000_000).contains(rate)), "{rates:?}");
    assert_eq!(whole["bytes"], json!({"done": 4_000_000, "total": 4_000_000}));
    assert_eq!(whole["parts"], json!({"done": 1, "total": 1}));
    assert_eq!(whole["remote_status"], "SUCCESS");
}

#[tokio::test]
async fn a_failure_comes_with_advice() {
    let page = Page::of(vec![SimExport::failing("export_1")]).await;
    let status = page.status(|status| export(status)["state"] == "failed").await;
    let failure = &export(&status)["failure"];
    assert_eq!(
        (&failure["kind"], &export(&status)["remote_status"]),
        (&json!("remote_error"), &json!("ERROR"))
    );
    assert!(failure["cause"].is_string() && failure["at"].is_string(), "{failure}");
    assert_eq!(
        failure["advice"],
        "start the export again in Batch, and replace its ID in the configuration"
    );
}

#[tokio::test]
async fn a_pause_shows_its_cause_the_remedy_and_its_end() {
    let solo = Solo::new(vec![pending("export_1")]).await.with("[retry]\nmax = \"10m\"");
    solo.sim.rotate_key(PROJECT_KEY, "another").expect("a project of the script");
    let page = Page::start(solo).await;
    let paused = |status: &Value| status["projects"][0]["pauses"][0]["until"].is_string();
    let pause = page.status(paused).await["projects"][0]["pauses"][0].clone();
    assert_eq!(pause["reason"], "unauthorized");
    let advice = pause["advice"].as_str().expect("a text");
    assert!(advice.starts_with("put a valid REST API key into file "), "{advice}");
    assert!(advice.ends_with("shop.key; it is read again by itself"), "{advice}");

    let page = Page::of(vec![pending("export_1")]).await;
    let throttled = Canned::throttled(Some("60"));
    page.solo
        .sim
        .set_project_outage(PROJECT_KEY, Some(throttled))
        .expect("a project of the script");
    let status = page.status(paused).await;
    let pause = &status["projects"][0]["pauses"][0];
    assert_eq!(
        (&pause["reason"], &pause["words"]),
        (&json!("throttled"), &json!("the API asks for fewer requests (HTTP 429)"))
    );
    assert!(pause["until"].as_str() > status["now"].as_str(), "{status:#}");
}

#[tokio::test]
async fn no_answer_holds_a_secret() {
    let slow = SimFile::generated("file_1", 1, 50_000_000).with_bytes_per_second(1_000_000);
    let page =
        Page::of(vec![SimExport::finished("export_1", vec![slow]), SimExport::failing("export_2")])
            .await;
    page.status(|status| export(status)["active_parts"][0]["bytes"].as_u64() > Some(0)).await;
    for path in [
        "/",
        "/style.css",
        "/app.js",
        "/attention.js",
        "/kit.js",
        "/livez",
        "/readyz",
        "/api/v1/status",
        "/metrics",
        "/nothing",
    ] {
        let text = page.get(path).await.text();
        for secret in ["key-of-the-shop", PROJECT_KEY, "signature", "expires=", "/blob/"] {
            assert!(!text.contains(secret), "{path} holds {secret}");
        }
    }
}

#[tokio::test]
async fn half_open_connections_block_nobody_for_long() {
    let page = Page::of(vec![pending("export_1")]).await;
    let mut half_open = Vec::new();
    for _ in 0..64 {
        half_open.push(page.begun("GET /livez HTTP/1.1\r\nHost: loc").await);
    }
    let (machine, began) = (Machine::watch(), Instant::now());
    let status = page.solo.home.command("status", &["--check"]);
    assert_eq!(Watcher::spawn(status).wait().await.0, 0, "the control socket is not concerned");
    assert_eq!(page.get("/livez").await.status, 200);
    let took = began.elapsed();
    assert!(took < machine.stretch(Duration::from_secs(6)), "{took:?}");
}

#[tokio::test]
async fn streams_are_limited_and_a_client_that_does_not_read_blocks_nothing() {
    let page = Page::of(vec![pending("export_1")]).await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = page.begun("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        next_snapshot(&mut stream, &mut String::new()).await;
        streams.push(stream);
    }
    assert_eq!(page.get("/api/v1/events").await.status, 503);
    let polls = page.solo.views("export_1").len();
    page.solo.wait_for(|seen| seen.len() > polls + 20).await;
    assert_eq!(page.get("/livez").await.status, 200);
    drop(streams);
    let began = Instant::now();
    while page.raw(&page_request("HEAD /api/v1/events", "Host: localhost")).await.contains(" 503 ")
    {
        assert!(
            began.elapsed() < PATIENCE,
            "the places of streams that are gone are not given back"
        );
    }
}

#[tokio::test]
async fn an_address_that_is_taken_refuses_the_start_and_off_listens_nowhere() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("an address");
    let solo = Solo::new(vec![pending("export_1")]).await;
    let solo = solo.with(&format!("[server]\nlisten = \"{address}\""));
    let (code, output) = solo.start().wait().await;
    assert_eq!(code, i32::from(exit::CONFIGURATION));
    let log = output.stderr.join("\n");
    assert!(
        log.contains(&format!("server.listen: the status page cannot listen at {address}")),
        "{log}"
    );

    let solo = solo.with("[server]\nlisten = \"0.0.0.0:0\"");
    let (code, output) = solo.start().wait().await;
    assert_eq!(code, i32::from(exit::CONFIGURATION));
    let log = output.stderr.join("\n");
    assert!(
        log.contains("config.toml:")
            && log.contains("server.listen: `0.0.0.0:0` can be reached from other"),
        "{log}"
    );

    let solo = solo.with("[server]\nlisten = \"off\"");
    let watcher = solo.start();
    watcher.wait_for_event(|event| event["message"] == "running").await;
    assert!(!watcher.output().stderr.join("\n").contains("status page"));
}

#[tokio::test]
async fn a_default_address_that_is_taken_is_a_warning() {
    let mut solo = Solo::new(vec![pending("export_1")]).await;
    solo.home.remove("server");
    let warned = loop {
        // Held by this test, or by somebody else already: both will do.
        let taken = TcpListener::bind("127.0.0.1:9847").await;
        let watcher = solo.start();
        watcher.wait_for_event(|event| event["message"] == "running").await;
        let log = watcher.kill9().await.stderr;
        if let Some(line) = log.iter().find(|line| line.contains("there is no status page")) {
            break line.clone();
        }
        assert!(taken.is_err(), "no warning: {log:#?}");
        // Somebody else has let go of it meanwhile, so that this test may have it.
    };
    assert!(
        warned.contains("WARN")
            && warned.contains("127.0.0.1:9847")
            && warned.contains("server.listen")
    );
}
