//! The search for leaks: a job with every fault, at `trace`, over TLS, with the status server asked
//! all along. Neither key, no signature and no byte of an export may be found in anything that the
//! program shows or keeps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use batch_export_watcher::simulator::{
    Canned, LinkStep, Serving, SimExport, SimFile, StoreStep, ViewStep,
};
use rustix::process::Signal;

use super::stage::{SHOP, Scheme, Stage};
use crate::support::http::try_get;
use crate::support::process::Watcher;
use crate::support::raw::{Answer, Scripts};
use crate::support::scene::{project_key, rest_key};
use crate::support::{eventually, look};

/// In every content, and in whatever a server says in place of one.
const CONTENT_MARKER: &str = "marker-of-personal-data-4711";
/// The key after the rotation.
const NEXT_KEY: &str = "next-rest-key-of-the-shop-987654321";

fn content() -> String {
    format!("[\"{}\"]", CONTENT_MARKER.repeat(300))
}

fn file(id: &str) -> SimFile {
    SimFile::new(id, 1, content().into_bytes())
}

/// What a server might repeat of what it was sent, where it is the API that the program quotes.
fn echo() -> String {
    format!("{} of {}", rest_key(SHOP), project_key(SHOP))
}

/// What anybody might say where nothing is to be quoted.
fn indiscretion() -> String {
    format!("{}, then {NEXT_KEY}: {CONTENT_MARKER}", echo())
}

fn own_error(status: u16) -> Canned {
    Canned::api_error(status, &format!("CODE_{}", rest_key(SHOP)), &echo())
}

fn redirect(location: &str) -> LinkStep {
    LinkStep::RedirectWith { status: 307, location: location.to_owned() }
}

fn exports() -> Vec<SimExport> {
    let store_error =
        |status| StoreStep::from(Canned::store_error(status, "Code", &indiscretion()));
    let well = Serving::well;
    let links = [
        LinkStep::Answer(own_error(500)),
        LinkStep::Answer(Canned::new(404, "text/html", indiscretion())),
        redirect(&format!("https://{}:{NEXT_KEY}@{{authority}}{{path}}", rest_key(SHOP))),
        redirect("https://{authority}.invalid{path}"),
        redirect("http://{authority}{path}"),
        redirect("ftp://{authority}{path}"),
        redirect("https://10.0.0.1{path}"),
        redirect("https://127.0.0.1:1{path}"),
        LinkStep::RelativeHop,
        LinkStep::Redirect,
    ];
    let fetches = [
        StoreStep::ExpiredLink,
        store_error(400),
        store_error(500),
        store_error(503),
        store_error(404),
        Canned::redirect(302, "https://127.0.0.1:1/onward?signature=of-another-link").into(),
        Canned::new(200, "text/html", indiscretion()).into(),
        well().header("content-encoding", CONTENT_MARKER).into(),
        well().header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").into(),
        well().cut_after(900).into(),
        well().header("content-range", CONTENT_MARKER).into(),
        well().into(),
    ];
    let busy = links.into_iter().fold(file("file_busy"), SimFile::on_link);
    let busy = fetches.into_iter().fold(busy, SimFile::on_fetch);
    let views = vec![
        ViewStep::Answer(own_error(500)),
        ViewStep::Answer(own_error(429)),
        ViewStep::Answer(own_error(503)),
        ViewStep::Answer(own_error(404)),
        ViewStep::Answer(Canned::new(500, "application/json", indiscretion())),
        ViewStep::Answer(Canned::new(200, "application/json", indiscretion())),
        ViewStep::Answer(Canned::new(
            200,
            "application/json",
            format!("{{\"id\": {}", indiscretion()),
        )),
        ViewStep::Answer(Canned::redirect(307, &format!("/?{}", rest_key(SHOP)))),
        ViewStep::status(&format!("STATUS_{}", echo())),
        ViewStep::Success(vec![busy]),
    ];
    let stalled = file("file_stalled").on_fetch(well().stall_after(5000)).on_fetch(well());
    vec![
        SimExport::new("export_busy", views),
        SimExport::new("export_refused", vec![ViewStep::Answer(own_error(400))]),
        SimExport::finished("export_stalled", vec![stalled]),
        SimExport::new("export_running", vec![ViewStep::status("RUNNING")]),
    ]
}

/// What is looked for, and whether it may be in the folders that are the program's own.
struct Secrets(Vec<String>);

impl Secrets {
    /// Fails if one of them stands there; the text itself is not shown in full.
    fn assert_absent(&self, place: &str, text: &[u8]) {
        for secret in &self.0 {
            let found = text.windows(secret.len()).position(|window| window == secret.as_bytes());
            if let Some(at) = found {
                let around = &text[at.saturating_sub(200)..text.len().min(at + secret.len() + 40)];
                panic!("{secret} is shown in {place}: …{}…", String::from_utf8_lossy(around));
            }
        }
    }

    fn assert_absent_below(&self, folder: &Path) -> usize {
        let files = look::files_below(folder);
        for path in &files {
            // A file that went meanwhile is not kept.
            let bytes = look::read(path).unwrap_or_default();
            self.assert_absent(&path.display().to_string(), &bytes);
        }
        files.len()
    }
}

/// Everything that the daemon says when it is asked, over HTTP and over the control socket.
async fn everything_it_says(stage: &Stage, page: &str) -> Vec<(String, String)> {
    let mut said = Vec::new();
    for path in [
        "/",
        "/app.js",
        "/style.css",
        "/api/v1/status",
        "/livez",
        "/readyz",
        "/metrics",
        "/nowhere",
    ] {
        let answer =
            try_get(&format!("{page}{path}"), &[]).await.expect("an answer of the status server");
        assert!(answer.status < 500, "{path}: {}", answer.status);
        said.push((
            format!("{path} ({})", answer.status),
            format!("{:?} {}", answer.headers, answer.text()),
        ));
    }
    for (subcommand, arguments) in
        [("status", &[][..]), ("retry", &["export_running"]), ("reload", &[]), ("check", &[])]
    {
        let (_, output) = Watcher::spawn(stage.home.command(subcommand, arguments)).wait().await;
        said.push((
            subcommand.to_owned(),
            format!("{} {}", output.stdout.join("\n"), output.stderr.join("\n")),
        ));
    }
    said
}

#[tokio::test]
async fn no_key_signature_or_content_is_shown_or_kept_anywhere() {
    // One more fault below HTTP on each side.
    let cut = |text: String| Answer::of(200, "content-length: 99999\r\n", text).and_cut();
    let api = Scripts::from([("export_busy".to_owned(), vec![cut(indiscretion())])]);
    let store = Scripts::from([(
        "file_busy".to_owned(),
        vec![Answer::raw(format!("{}\r\n\r\n", indiscretion()))],
    )]);
    let stage = Stage::new(Scheme::Https, exports(), api, store).await;
    let settings = "[retry]\ninitial = \"10ms\"\nmax = \"40ms\"\n[server]\nlisten = \"127.0.0.1:0\"\n[download]\nstall_timeout = \"10m\"";
    let stage = Stage { home: stage.home.with(settings), ..stage };
    let mut command = stage.home.command("run", &[]);
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    let mut watcher = Watcher::spawn(command);
    let said = |event: &serde_json::Value| {
        Some(event["message"].as_str()?.strip_prefix("status page at ")?.to_owned())
    };
    let page =
        said(&watcher.wait_for_event(|event| said(event).is_some()).await).expect("its address");

    watcher
        .wait_for_event(|event| {
            event["message"] == "export whole" && event["export"] == "export_busy"
        })
        .await;
    // The refusal is the export's own once another one was answered well after it.
    watcher
        .wait_for_event(|event| {
            event["message"].as_str().is_some_and(|words| words.contains("export failed"))
        })
        .await;
    stage.sim.rotate_key(&project_key(SHOP), NEXT_KEY).expect("a project of the script");
    watcher.wait_for_log(|line| line.contains("the API refuses the REST API key")).await;
    let mut said = everything_it_says(&stage, &page).await;
    stage.home.write_key(SHOP, NEXT_KEY);
    watcher.wait_for_log(|line| line.contains("accepts the REST API key again")).await;
    said.extend(everything_it_says(&stage, &page).await);

    let requests = stage.sim.requests();
    let signatures: Vec<_> =
        requests.iter().filter_map(|request| request.parameter("signature")).collect();
    assert!(signatures.len() >= 12, "{} links were followed", signatures.len());
    let mut secrets =
        vec![rest_key(SHOP), NEXT_KEY.to_owned(), project_key(SHOP), CONTENT_MARKER.to_owned()];
    secrets.extend([rest_key(SHOP), NEXT_KEY.to_owned()].map(|key| STANDARD.encode(key)));
    secrets.push("of-another-link".to_owned());
    secrets.extend(signatures);
    let secrets = Secrets(secrets);

    let state = stage.home.path().join("state");
    let files = look::files_below(&state);
    assert!(files.iter().any(|path| path.to_string_lossy().ends_with("-wal")), "{files:?}");
    secrets.assert_absent_below(&state);
    secrets.assert_absent("the command line", watcher.proc_text("cmdline").as_bytes());
    secrets.assert_absent("its name", watcher.proc_text("comm").as_bytes());
    for (place, text) in &said {
        secrets.assert_absent(place, text.as_bytes());
    }
    let words = said.iter().map(|(_, text)| text.as_str()).collect::<String>();
    assert!(
        words.contains("export_refused") && words.contains("[hidden]"),
        "the faults were not told at all: {words}"
    );

    // A stop in mid part: what is kept of it is content, in the one place where content belongs.
    let folder = stage.home.export(SHOP, "export_stalled");
    eventually("bytes in the partial", || watcher.partial_bytes(&folder) == [5000]).await;
    watcher.signal(Signal::TERM);
    let (code, output) = watcher.wait_within(Duration::from_secs(12)).await;
    assert_eq!(code, 0);
    assert!(secrets.assert_absent_below(&state) > 0);
    secrets.assert_absent("the log", output.stderr.join("\n").as_bytes());
    secrets.assert_absent("stdout", output.stdout.join("\n").as_bytes());
    for path in look::files_below(&stage.home.downloads()) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.contains("part-") {
            secrets.assert_absent(&name, &fs::read(&path).expect("a file of the tree"));
        }
        secrets.assert_absent("the name of a file", path.as_os_str().as_encoded_bytes());
    }
    let log = output.stderr.join("\n");
    for told in ["[hidden]", "DEBUG", "part failed", "poll failed"] {
        assert!(log.contains(told), "the log does not tell {told}: {log}");
    }
    stage.store.assert_no_forbidden_header();
}
