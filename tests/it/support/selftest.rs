//! The support itself: that a fault is the fault it says, and that a child's words, end and files
//! are seen.

use std::os::unix::fs::PermissionsExt as _;

use batch_export_watcher::simulator::{
    Content, Script, Serving, SimExport, SimFile, SimProject, Simulator,
};
use rustix::process::Signal;
use tokio::process::Command;

use super::fault_proxy::{Fault, FaultProxy};
use super::home::Home;
use super::http::{get, try_get};
use super::look;
use super::observer::{Folder, Observer};
use super::process::Watcher;

const CREDENTIALS: [(&str, &str); 2] = [("authorization", "Bearer k"), ("x-batch-project", "p")];

/// A store behind a proxy with these faults, and a signed link to 1000 bytes that leads through it.
async fn behind(faults: Vec<Fault>) -> (Simulator, FaultProxy) {
    let file = SimFile::generated("file_1", 1, 1000).on_fetch(Serving::well());
    let exports = vec![SimExport::finished("export_1", vec![file])];
    let sim = Simulator::start(Script::new(vec![SimProject::new("p", "k", exports)]))
        .await
        .expect("two free ports");
    let proxy = FaultProxy::start(sim.store_address(), faults).await;
    sim.set_link_origin(&proxy.origin());
    (sim, proxy)
}

async fn link(sim: &Simulator) -> String {
    let url = format!("{}/exports/download?id=file_1", sim.api_base_url());
    get(&url, &CREDENTIALS).await.header("location").to_owned()
}

#[tokio::test]
async fn each_connection_suffers_its_own_fault() {
    let raw = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nno framing".to_vec();
    let (sim, proxy) = behind(vec![
        Fault::RefuseConnection,
        Fault::CutAfter { response_bytes: 700 },
        Fault::ResetAfter { response_bytes: 700 },
        Fault::RawAnswer(raw),
        Fault::Pass,
    ])
    .await;
    let url = link(&sim).await;
    assert!(url.starts_with(&proxy.origin()), "{url}");
    assert!(try_get(&url, &[]).await.is_err());
    let cut = try_get(&url, &[]).await.unwrap();
    assert_eq!((cut.status, cut.whole), (200, false));
    assert!((1..700).contains(&cut.body.len()), "{} bytes", cut.body.len());
    let reset = try_get(&url, &[]).await;
    assert!(reset.is_err() || reset.is_ok_and(|answer| !answer.whole));
    let raw = try_get(&url, &[]).await.unwrap();
    assert_eq!((raw.body.as_slice(), raw.whole), (b"no framing".as_slice(), true));
    for _ in 0..2 {
        let passed = try_get(&url, &[]).await.unwrap();
        assert_eq!((passed.body.len(), passed.whole), (1000, true));
    }
    proxy.wait_for_connections(6).await;
}

#[tokio::test]
async fn a_stalled_connection_stays_silent_until_the_client_leaves() {
    let (sim, proxy) = behind(vec![Fault::StallAfter { response_bytes: 10 }]).await;
    let url = link(&sim).await;
    let client = try_get(&url, &[]);
    tokio::select! {
        _ = client => panic!("an answer through a stalled connection"),
        _ = sim.wait_for(|seen| seen.iter().any(|request| request.ended_at.is_some() && request.is_fetch_of("file_1")), super::PATIENCE) => {}
    }
    proxy.set_faults(vec![]);
    assert!(try_get(&url, &[]).await.unwrap().whole);
}

/// A folder where `part-a` and `part-b` are to appear, and an observer of it.
fn observed(home: &Home) -> (Observer, impl Fn(&str, &str)) {
    observed_as(home, |folder| folder)
}

fn observed_as(
    home: &Home,
    terms: impl FnOnce(Folder) -> Folder,
) -> (Observer, impl Fn(&str, &str)) {
    let parts = [("part-a", "[1]"), ("part-b", "[2]")];
    let parts = parts.map(|(name, text)| (name.to_owned(), Content::from(text)));
    let folder = home.export("shop", "export_1");
    let observer = Observer::new(vec![terms(Folder::new(folder.clone(), parts.into()))]);
    let publish = move |name: &str, text: &str| {
        let partial = folder.join(format!(".{name}.partial"));
        home.write(partial.to_str().expect("our own name"), text);
        super::move_to(partial, folder.join(name));
    };
    (observer, publish)
}

#[tokio::test]
async fn an_observer_sees_what_appears_as_it_appears() {
    let home = Home::new("http://127.0.0.1:1/2.11");
    let (mut observer, publish) = observed(&home);
    publish("part-b", "[2]");
    tokio::time::timeout(super::PATIENCE, observer.changed()).await.expect("a change");
    assert_eq!(observer.visible(), ["part-b".to_owned()].into());
    publish("part-a", "[1]");
    observer.look();
    assert_eq!(observer.visible().len(), 2);
}

#[tokio::test]
async fn an_observer_tells_every_fault() {
    type Deed = fn(&dyn Fn(&str, &str), &Home);
    let deeds: [(&str, Deed); 6] = [
        ("the length of", |publish, _| publish("part-b", "[2")),
        ("appeared with other bytes", |publish, _| publish("part-b", "[1]")),
        ("is not ours", |publish, _| publish("part-c", "[3]")),
        ("has a manifest", |publish, _| publish("manifest.json", "{}")),
        ("was published twice", |publish, _| publish("part-a", "[1]")),
        ("was taken away", |_, home| {
            std::fs::remove_file(home.export("shop", "export_1").join("part-a"))
                .expect("a file of ours");
        }),
    ];
    for (words, deed) in deeds {
        let home = Home::new("http://127.0.0.1:1/2.11");
        let (mut observer, publish) = observed(&home);
        publish("part-a", "[1]");
        observer.look();
        deed(&publish, &home);
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.look()));
        let fault = looked.expect_err(words);
        let told = fault.downcast_ref::<String>().expect("words");
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[tokio::test]
async fn an_observer_may_come_late_to_a_name_that_was_withdrawn() {
    let home = Home::new("http://127.0.0.1:1/2.11");
    let (mut observer, publish) = observed_as(&home, Folder::with_withdrawals);
    let withdraw = |name: &str| {
        std::fs::remove_file(home.export("shop", "export_1").join(name)).expect("a file of ours");
    };
    publish("part-a", "[1]");
    withdraw("part-a");
    assert_eq!(observer.withdrawn(), ["part-a".to_owned()].into());
    assert!(observer.visible().is_empty());
    // It comes again, and has to be right again.
    publish("part-a", "[2]");
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.look()));
    let fault = looked.expect_err("other bytes");
    let told = fault.downcast_ref::<String>().expect("words");
    assert!(told.contains("appeared with other bytes"), "{told}");
}

#[tokio::test]
#[should_panic(expected = "appeared and is gone")]
async fn an_observer_allows_no_withdrawal_on_a_disk_that_works() {
    let home = Home::new("http://127.0.0.1:1/2.11");
    let (mut observer, publish) = observed(&home);
    publish("part-a", "[1]");
    std::fs::remove_file(home.export("shop", "export_1").join("part-a")).expect("a file of ours");
    observer.look();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own file need not be durable")]
fn a_look_tells_what_is_gone_from_what_cannot_be_looked_at() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gone = folder.path().join("gone");
    assert!(look::read(&gone).is_none() && look::metadata(&gone).is_none());
    assert!(look::entries(&gone).is_empty() && look::below(&gone).is_empty());
    std::fs::create_dir(folder.path().join("inner")).expect("a folder of ours");
    std::fs::write(folder.path().join("inner/file"), "1").expect("a file of ours");
    assert_eq!(look::files_below(folder.path()), [folder.path().join("inner/file")]);
    assert_eq!(look::below(folder.path()).len(), 2);
    let fault = std::panic::catch_unwind(|| look::read(&folder.path().join("inner/file/below")));
    let fault = fault.expect_err("a file has nothing below it");
    assert!(fault.downcast_ref::<String>().expect("words").contains("inner/file/below"));
}

fn shell(script: &str) -> Watcher {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    Watcher::spawn(command)
}

#[tokio::test]
async fn a_child_is_heard_signalled_and_waited_for() {
    let mut child = shell(
        r#"trap 'echo "{\"message\":\"bye\"}" >&2; exit 3' TERM; echo result; printf 'caf\351\n' >&2; echo '{"message":"ready"}' >&2; while :; do sleep 0.02; done"#,
    );
    let event = child.wait_for_event(|event| event["message"] == "ready").await;
    assert_eq!(event["message"], "ready");
    child.signal(Signal::TERM);
    let (code, output) = child.wait().await;
    assert_eq!(code, 3);
    assert_eq!(output.stdout, ["result"]);
    assert_eq!(output.stderr, ["caf\u{fffd}", "{\"message\":\"ready\"}", "{\"message\":\"bye\"}"]);
}

#[tokio::test]
#[should_panic(
    expected = "the process ended without that line\n--- stdout\n\n--- stderr\nlast words"
)]
async fn a_child_that_ends_early_is_reported_with_its_log() {
    let child = shell("echo last words >&2");
    child.wait_for_log(|line| line == "ready").await;
}

#[tokio::test]
async fn a_killed_child_is_gone() {
    let child = shell("echo ready >&2; exec sleep 100");
    child.wait_for_log(|line| line == "ready").await;
    assert_eq!(child.kill9().await.stderr, ["ready"]);
}

#[tokio::test]
async fn a_home_holds_what_the_test_says_over_what_is_fast() {
    let mut home = Home::new("http://127.0.0.1:1/2.11")
        .project("shop", "project_1", "key-1", &["export_1"])
        .project("blog", "project_2", "key-2", &[])
        .with("[retry]\nmax = \"1s\"\n[download]\nmax_parts = 2");
    home.set_exports("shop", &["export_1", "export_2"]);
    let command = home.command("check", &[]);
    let config: toml::Table = std::fs::read_to_string(home.config_path()).unwrap().parse().unwrap();
    assert_eq!(config["api"]["base_url"].as_str(), Some("http://127.0.0.1:1/2.11"));
    assert_eq!(config["retry"]["initial"].as_str(), Some("20ms"));
    assert_eq!(config["retry"]["max"].as_str(), Some("1s"));
    assert_eq!(config["download"]["max_parts"].as_integer(), Some(2));
    assert_eq!(config["project"][0]["exports"][1].as_str(), Some("export_2"));
    assert_eq!(config["project"][1]["rest_api_key_file"].as_str(), Some("blog.key"));
    let key = home.path().join("shop.key");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "key-1\n");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let arguments: Vec<_> =
        command.as_std().get_args().map(|text| text.to_string_lossy()).collect();
    assert_eq!(arguments[..4], ["--log-format", "json", "check", "-c"]);
    assert_eq!(home.start(&["--help"]).wait().await.0, 0);
}

#[tokio::test]
async fn the_files_on_disk_are_held_against_what_the_store_had() {
    let home = Home::new("http://127.0.0.1:1/2.11");
    assert!(home.try_manifest("shop", "export_1").is_none() && home.tree().is_empty());
    let file = SimFile::new("file_1", 1, "[1]");
    std::fs::create_dir_all(home.export("shop", "export_1")).unwrap();
    home.write("exports/shop/export_1/part-00001-file_1.json", "[1]");
    let digest = file.content.sha256();
    let manifest = serde_json::json!({
        "version": 1, "project": "shop", "export_id": "export_1", "sealed_at": "2026-01-05T08:00:00Z",
        "parts": [{
            "part": 1, "file_id": "file_1", "path": "part-00001-file_1.json", "bytes": 3, "declared_bytes": 3,
            "sha256": digest.to_string(), "verified_by": ["size"],
        }],
    });
    home.write("exports/shop/export_1/manifest.json", &manifest.to_string());
    home.assert_whole("shop", "export_1", &[&file.content]);
    assert_eq!(home.tree().get("shop/export_1/manifest.json"), Some(&0o600));
    assert_eq!(home.tree().len(), 4);
}
