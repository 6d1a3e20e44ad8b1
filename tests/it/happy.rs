//! The main job: exports with several parts, in several projects, from the first poll to verified
//! files.

use std::collections::BTreeMap;

use batch_export_watcher::domain::checksum::{Algorithm, Check};
use batch_export_watcher::simulator::{
    ChecksumHeader, Content, Origin, Recorded, Script, SentChecksum, Serving, SimExport, SimFile,
    SimProject, Simulator,
};

use crate::support::PATIENCE;
use crate::support::home::Home;

const PROJECT: &str = "project_0123456789abcdef";
const KEY: &str = "rest-key-0123456789abcdef";

fn generated(seed: u64, bytes: u64) -> Content {
    Content::Generated { bytes, seed }
}

async fn simulator(exports: Vec<SimExport>) -> Simulator {
    let script = Script::new(vec![SimProject::new(PROJECT, KEY, exports)]);
    Simulator::start(script).await.expect("the simulator starts")
}

#[tokio::test]
async fn exports_complete_and_one_that_ends_in_error_blocks_no_other() {
    let md5 = SentChecksum::correct(ChecksumHeader::ContentMd5, Algorithm::Md5);
    let (a, b, c) = (generated(1, 1_500_000), generated(2, 700_000), generated(3, 10));
    let customers = SimExport::succeeding(
        "export_customers",
        vec![
            SimFile::new("file_a", 1, a.clone()).with_checksum(md5),
            SimFile::new("file_b", 2, b.clone()).with_checksum(md5),
        ],
    );
    let events = SimExport::finished("export_events", vec![SimFile::new("file_c", 1, c.clone())]);
    let sim = simulator(vec![customers, events, SimExport::failing("export_broken")]).await;
    let home = Home::new(sim.api_base_url()).project(
        "shop",
        PROJECT,
        KEY,
        &["export_customers", "export_events", "export_broken"],
    );
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 1, "one export failed: {output:?}");

    home.assert_whole("shop", "export_customers", &[&a, &b]);
    home.assert_whole("shop", "export_events", &[&c]);
    let manifest = home.manifest("shop", "export_customers");
    assert_eq!(manifest.parts[0].verified_by, [Check::Size, Check::Md5]);
    assert_eq!(manifest.parts[0].path, "part-00001-file_a.json");
    assert_eq!(manifest.scope.as_deref(), Some("PROFILE_ATTRIBUTES"));
    assert!(
        manifest
            .request
            .is_some_and(|request| request.get().contains("\"export_type\":\"ATTRIBUTES\""))
    );
    assert!(manifest.request_date < manifest.completion_date);

    let notice =
        std::fs::read_to_string(home.export("shop", "export_broken").join("failed.json")).unwrap();
    assert!(
        notice.contains("\"kind\": \"remote_error\"") && notice.contains("export_broken"),
        "{notice}"
    );
    assert!(home.try_manifest("shop", "export_broken").is_none());
    let advice = "start the export again in Batch, and replace its ID in the configuration";
    assert!(output.stderr.iter().any(|line| line.contains(advice)), "{:#?}", output.stderr);

    let modes: BTreeMap<_, _> = home.tree();
    for (path, mode) in modes {
        let expected = if home.downloads().join(&path).is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{path}");
    }
}

#[tokio::test]
async fn the_log_has_one_line_a_change_with_its_fields_and_nothing_else() {
    let file = SimFile::new("file_a", 1, generated(1, 1000));
    let mut export = SimExport::succeeding("export_a", vec![file]);
    // The same status again and again is no news.
    for _ in 0..5 {
        export.views.insert(1, export.views[0].clone());
    }
    let sim = simulator(vec![export]).await;
    let home = Home::new(sim.api_base_url()).project("shop", PROJECT, KEY, &["export_a"]);
    let mut command = home.command("run", &["--exit-when-settled"]);
    command.env("RUST_LOG", "info");
    let (code, output) = crate::support::process::Watcher::spawn(command).wait().await;
    assert_eq!(code, 0);
    let lines: Vec<serde_json::Value> = output
        .stderr
        .iter()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let told: Vec<_> =
        lines.iter().map(|line| line["message"].as_str().unwrap_or_default()).collect();
    let expected = [
        "running",
        "watching the export",
        "status changed",
        "status changed",
        "status changed",
        "status changed",
        "parts listed",
        "manifest.json written",
        "export whole",
    ];
    assert_eq!(told, expected, "{:#?}", output.stderr);
    for line in &lines[1..] {
        assert_eq!(
            (line["project"].as_str(), line["export"].as_str()),
            (Some("shop"), Some("export_a")),
            "{line}"
        );
    }
    assert_eq!(lines[6]["parts"], 1, "{}", lines[6]);
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn two_projects_with_the_same_export_id_are_two_exports() {
    let (one, two) = (generated(1, 5000), generated(2, 6000));
    let export = |content: &Content, id: &str| {
        vec![SimExport::finished("export_same", vec![SimFile::new(id, 1, content.clone())])]
    };
    let script = Script::new(vec![
        SimProject::new("project_one", "key-one", export(&one, "file_one")),
        SimProject::new("project_two", "key-two", export(&two, "file_two")),
    ]);
    let sim = Simulator::start(script).await.unwrap();
    let home = Home::new(sim.api_base_url())
        .project("first", "project_one", "key-one", &["export_same"])
        .project("second", "project_two", "key-two", &["export_same"]);
    let (code, _) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0);
    home.assert_whole("first", "export_same", &[&one]);
    home.assert_whole("second", "export_same", &[&two]);
}

#[tokio::test]
async fn parts_run_side_by_side_up_to_max_parts_and_exports_take_turns() {
    let held = |export: &str| {
        let file = |number: u64| {
            let id = format!("file_{export}_{number}");
            SimFile::new(&id, number, generated(number, 2000)).on_fetch(Serving::well().held())
        };
        SimExport::finished(&format!("export_{export}"), (1..=6).map(file).collect())
    };
    let sim = simulator(vec![held("x"), held("y")]).await;
    let home = Home::new(sim.api_base_url())
        .project("shop", PROJECT, KEY, &["export_x", "export_y"])
        .with("[download]\nmax_parts = 4");
    let mut watcher = home.start(&["--exit-when-settled"]);
    // Both exports want slots, and all slots are taken. The first export must not keep them all.
    let first = sim.wait_for(|requests| fetches_of(requests).len() == 4, PATIENCE).await.unwrap();
    let first: Vec<_> =
        fetches_of(&first).iter().map(|fetch| fetch.path.replace("/blob/", "")).collect();
    for export in ["export_x", "export_y"] {
        watcher
            .wait_for_event(|event| event["message"] == "folder ready" && event["export"] == export)
            .await;
    }
    // Two slots become free: one of them is the other export's.
    for (released, fetches) in first.iter().zip([5, 6]) {
        sim.release(released);
        sim.wait_for(|requests| fetches_of(requests).len() == fetches, PATIENCE).await.unwrap();
    }
    let requests = sim.requests();
    let of_y =
        fetches_of(&requests)[4..].iter().filter(|fetch| fetch.path.contains("file_y")).count();
    assert_eq!(of_y, 1, "{requests:#?}");
    for number in 1..=6 {
        sim.release(&format!("file_x_{number}"));
        sim.release(&format!("file_y_{number}"));
    }
    let (code, _) = watcher.wait().await;
    assert_eq!(code, 0);
    let requests = sim.requests();
    let fetches = fetches_of(&requests);
    assert_eq!(fetches.len(), 12);
    for fetch in &fetches {
        let at_once = fetches
            .iter()
            .filter(|other| other.at <= fetch.at && other.ended_at > Some(fetch.at))
            .count();
        assert!(at_once <= 4, "{at_once} parts at once");
    }
}

fn fetches_of(requests: &[Recorded]) -> Vec<&Recorded> {
    requests.iter().filter(|request| request.origin == Origin::Store).collect()
}

#[tokio::test]
async fn without_exports_it_idles_and_with_the_flag_it_is_done() {
    let sim = simulator(vec![]).await;
    let home = Home::new(sim.api_base_url()).project("shop", PROJECT, KEY, &[]);
    let (code, _) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0);
    let mut watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("\"running\"")).await;
    watcher.signal(rustix::process::Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
    assert!(sim.requests().is_empty());
}
