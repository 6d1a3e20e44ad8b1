//! What an answer to a view call makes of its export: when it is asked about, fetched, failed for
//! good, or asked about again.

use std::time::Duration;

use batch_export_watcher::simulator::{Canned, Recorded, SimExport, SimFile, ViewStep};
use serde_json::json;

use super::support::machine::Machine;
use super::support::process::Watcher;
use super::support::scene::{count, failure, gaps, is_of, project_key, scene, seen, told};

fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

fn a_file(id: &str) -> SimFile {
    SimFile::generated(id, 1, 1000)
}

/// One export that gets these answers and then its file: it ends whole, and nothing has failed.
async fn assert_retried_until_whole(answers: Vec<Canned>) -> Vec<Recorded> {
    let calls = answers.len() + 1;
    let file = a_file("file_1");
    let content = file.content.clone();
    let mut views: Vec<_> = answers.into_iter().map(ViewStep::Answer).collect();
    views.push(ViewStep::Success(vec![file]));
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0, "{:#?}", output.stderr);
    home.assert_whole("shop", "export_1", &[&content]);
    let requests = sim.requests();
    assert_eq!(count(&requests, |request| request.is_view_of("export_1")), calls);
    let waits = gaps(&requests, |request| request.is_view_of("export_1"));
    assert!(
        waits.iter().all(|wait| *wait >= Duration::from_millis(10)),
        "without a pause: {waits:?}"
    );
    assert_eq!(told(&output, "ERROR", ""), [""; 0]);
    assert!(!told(&output, "WARN", "poll failed, will be repeated").is_empty());
    requests
}

#[tokio::test]
async fn the_first_export_of_each_project_is_polled_at_once_and_the_others_are_spread() {
    let exports =
        |prefix: &str| (0..10).map(|number| running(&format!("{prefix}_{number}"))).collect();
    let (sim, home) = scene(vec![("shop", exports("shop")), ("blog", exports("blog"))]).await;
    let home = home.with("[poll]\nmin_interval = \"5s\"\nmax_interval = \"5s\"");
    let machine = Machine::watch();
    let _watcher = home.start(&[]);
    let requests = seen(&sim, |seen| seen.len() >= 20).await;
    let firsts: Vec<_> =
        requests[..2].iter().filter_map(|request| request.parameter("id")).collect();
    assert!(
        firsts.contains(&"shop_0".to_owned()) && firsts.contains(&"blog_0".to_owned()),
        "{firsts:?}"
    );
    for name in ["shop", "blog"] {
        let gaps = gaps(&requests, |request| is_of(request, name));
        let whole: Duration = gaps.iter().sum();
        let (least, most) = (Duration::from_millis(700), Duration::from_millis(2000));
        assert!(machine.stretch(whole) >= least, "ten exports within {whole:?}: {gaps:?}");
        assert!(whole <= machine.stretch(most), "ten exports over {whole:?}: {gaps:?}");
        let longest = machine.stretch(whole / 2);
        assert!(gaps.iter().all(|gap| *gap < longest), "not spread: {gaps:?}");
    }
}

#[tokio::test]
async fn the_interval_grows_while_nothing_changes_and_resets_when_the_status_moves() {
    let mut views = vec![ViewStep::status("PENDING"); 6];
    views.push(ViewStep::status("RUNNING"));
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    let home = home.with("[poll]\nmin_interval = \"150ms\"\nmax_interval = \"600ms\"");
    let machine = Machine::watch();
    let _watcher = home.start(&[]);
    let requests = seen(&sim, |seen| seen.len() >= 8).await;
    let gaps = gaps(&requests[..8], |_| true);
    // The sixth answer changes nothing yet; the seventh brings RUNNING.
    for (gap, interval) in
        gaps.iter().zip([150, 225, 337, 506, 600, 600, 150].map(Duration::from_millis))
    {
        assert!(*gap >= interval.mul_f64(0.89), "{gap:?} for {interval:?}: {gaps:?}");
        assert!(
            *gap <= machine.stretch(interval.mul_f64(1.1) + Duration::from_millis(250)),
            "{gap:?} for {interval:?}: {gaps:?}"
        );
    }
}

#[tokio::test]
async fn nothing_is_fetched_before_success_although_files_are_listed() {
    let file = a_file("file_1");
    let content = file.content.clone();
    let listed =
        |status: &str| ViewStep::Listed { status: status.to_owned(), files: vec![file.clone()] };
    let mut views: Vec<_> = ["CREATED", "PENDING", "RUNNING"].map(listed).into();
    views.push(ViewStep::Success(vec![file.clone()]));
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0);
    let requests = sim.requests();
    let link =
        requests.iter().position(|request| request.is_link_of("file_1")).expect("a download call");
    assert_eq!(count(&requests[..link], |request| request.is_view_of("export_1")), 4);
    assert_eq!(told(&output, "INFO", "status changed").len(), 4);
    home.assert_whole("shop", "export_1", &[&content]);
}

#[tokio::test]
async fn an_error_is_final_and_logged_once_while_the_others_continue() {
    let (sim, home) = scene(vec![(
        "shop",
        vec![
            SimExport::failing("export_1"),
            SimExport::succeeding("export_2", vec![a_file("file_2")]),
        ],
    )])
    .await;
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 1);
    assert_eq!(failure(&home, "shop", "export_1")["kind"], "remote_error");
    assert_eq!(told(&output, "ERROR", "").len(), 1, "{:#?}", output.stderr);
    home.manifest("shop", "export_2");
    let errors = sim.requests();
    assert_eq!(count(&errors, |request| request.is_view_of("export_1")), 3, "asked after its end");
}

#[tokio::test]
async fn an_unknown_status_is_logged_once_and_polled_slowly() {
    let mut views = vec![ViewStep::status("ARCHIVING"); 3];
    views.push(ViewStep::Success(vec![a_file("file_1")]));
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    let home = home.with("[poll]\nmax_interval = \"300ms\"");
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0);
    assert_eq!(told(&output, "WARN", "ARCHIVING").len(), 1, "{:#?}", output.stderr);
    let gaps = gaps(&sim.requests(), |request| request.is_view_of("export_1"));
    assert!(gaps.iter().all(|gap| *gap >= Duration::from_millis(265)), "{gaps:?}");
}

#[tokio::test]
async fn success_without_a_list_of_files_is_polled_again() {
    let body = |files: serde_json::Value| {
        Canned::json(200, &json!({ "id": "export_1", "status": "SUCCESS", "files": files }))
    };
    let without = Canned::json(200, &json!({ "id": "export_1", "status": "SUCCESS" }));
    assert_retried_until_whole(vec![
        without,
        body(json!(null)),
        body(json!({})),
        body(json!([{ "part": 1 }])),
    ])
    .await;
}

#[tokio::test]
async fn success_with_an_empty_list_is_whole_once_a_second_view_agrees() {
    let (sim, home) = scene(vec![("shop", vec![SimExport::finished("export_1", vec![])])]).await;
    let home = home.with("[poll]\nmin_interval = \"200ms\"\nmax_interval = \"1s\"");
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0);
    home.assert_whole("shop", "export_1", &[]);
    let gaps = gaps(&sim.requests(), |request| request.is_view_of("export_1"));
    assert!(gaps.len() == 1 && gaps[0] >= Duration::from_millis(175), "{gaps:?}");
    assert_eq!(told(&output, "WARN", "without any file").len(), 1);
}

#[tokio::test]
async fn files_that_a_second_view_brings_are_fetched() {
    let file = a_file("file_1");
    let views = vec![ViewStep::Success(vec![]), ViewStep::Success(vec![file.clone()])];
    let (_sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    assert_eq!(home.start(&["--exit-when-settled"]).wait().await.0, 0);
    home.assert_whole("shop", "export_1", &[&file.content]);
}

#[tokio::test]
async fn an_unknown_export_is_polled_for_its_grace_period_and_then_fails() {
    let late = SimExport::new(
        "export_2",
        vec![
            ViewStep::Answer(Canned::api_error(404, "EXPORT_NOT_FOUND", "No such export.")),
            ViewStep::Success(vec![a_file("file_2")]),
        ],
    );
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", vec![]), late])]).await;
    let home = home.with("[poll]\nnot_found_grace = \"600ms\"");
    let (code, _) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 1);
    let failed = failure(&home, "shop", "export_1");
    assert_eq!(
        (&failed["kind"], &failed["error_code"]),
        (&json!("not_found"), &json!("EXPORT_NOT_FOUND"))
    );
    home.manifest("shop", "export_2");
    let gaps = gaps(&sim.requests(), |request| request.is_view_of("export_1"));
    let asked: Duration = gaps.iter().sum();
    assert!(asked >= Duration::from_millis(590), "given up after {asked:?}: {gaps:?}");
    assert!(gaps.len() >= 2, "{gaps:?}");
}

#[tokio::test]
async fn an_export_that_the_api_forgets_after_success_is_expired_and_its_parts_are_kept() {
    let gone = Canned::store_error(404, "NoSuchKey", "");
    let files = vec![a_file("file_1"), SimFile::generated("file_2", 2, 1000).on_fetch(gone)];
    let forgotten = Canned::api_error(404, "EXPORT_NOT_FOUND", "No such export.");
    let views = vec![ViewStep::Success(files.clone()), ViewStep::Answer(forgotten)];
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    let (code, _) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 1);
    assert_eq!(failure(&home, "shop", "export_1")["kind"], "expired");
    assert_eq!(home.sha256("shop/export_1/part-00001-file_1.json"), files[0].content.sha256());
    assert!(home.try_manifest("shop", "export_1").is_none());
    assert_eq!(
        count(&sim.requests(), |request| request.is_view_of("export_1")),
        3,
        "one confirmation"
    );
}

#[tokio::test]
async fn a_refused_request_fails_its_export_with_the_apis_own_code() {
    let refused =
        ViewStep::Answer(Canned::api_error(400, "MALFORMED_PARAMETER", "The id is malformed."));
    let exports = vec![
        SimExport::new("export_1", vec![refused]),
        SimExport::finished("export_2", vec![a_file("file_2")]),
    ];
    let (_sim, home) = scene(vec![("shop", exports)]).await;
    let (code, _) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 1);
    let failed = failure(&home, "shop", "export_1");
    assert_eq!(
        (&failed["kind"], &failed["error_code"]),
        (&json!("rejected"), &json!("MALFORMED_PARAMETER"))
    );
    assert!(failed["cause"].as_str().unwrap().contains("The id is malformed."), "{failed}");
    let (_, shown) = Watcher::spawn(home.command("status", &[])).wait().await;
    let shown = shown.stdout.join(" ");
    assert_eq!(shown.matches("MALFORMED_PARAMETER").count(), 1, "{shown}");
    home.manifest("shop", "export_2");
}

#[tokio::test]
async fn a_project_whose_every_export_is_refused_pauses_and_nothing_fails() {
    let finished = |id: &str, file: &str| SimExport::finished(id, vec![a_file(file)]);
    let shop = vec![finished("export_1", "file_1"), finished("export_2", "file_2")];
    let (sim, home) = scene(vec![("shop", shop), ("blog", vec![running("blog_1")])]).await;
    let refusal = Canned::api_error(400, "MALFORMED_PARAMETER", "Malformed.");
    sim.set_project_outage(&project_key("shop"), Some(refusal)).unwrap();
    let watcher = home.start(&[]);
    seen(&sim, |seen| count(seen, |request| is_of(request, "shop")) >= 6).await;
    let requests = sim.requests();
    // Both have to be refused before anything is known; from then on there are probes, one each
    // retry.max.
    let probes: Vec<_> = gaps(&requests, |request| is_of(request, "shop")).split_off(2);
    assert!(probes.iter().all(|gap| *gap >= Duration::from_millis(175)), "{probes:?}");
    assert!(
        count(&requests, |request| is_of(request, "blog")) > 5,
        "the other project was held up"
    );
    sim.set_project_outage(&project_key("shop"), None).unwrap();
    for export in ["export_1", "export_2"] {
        watcher
            .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
            .await;
    }
    let output = watcher.output();
    assert_eq!(told(&output, "ERROR", "").len(), 1, "{:#?}", output.stderr);
    assert_eq!(told(&output, "ERROR", "for every export of the project").len(), 1);
    assert_eq!(
        told(&output, "INFO", "the API no longer refuses the request").len(),
        1,
        "{:#?}",
        output.stderr
    );
}

#[tokio::test]
async fn a_refusal_without_an_api_error_is_retried() {
    assert_retried_until_whole(vec![
        Canned::html(404),
        Canned::html(400),
        Canned::json(404, &json!({})),
        Canned::json(400, &json!(["SOME_CODE", "words"])),
        Canned::json(410, &json!({ "error_code": "" })),
        Canned::json(422, &json!({ "error_message": "no code" })),
    ])
    .await;
}

#[tokio::test]
async fn a_200_that_is_not_the_answer_is_retried() {
    assert_retried_until_whole(vec![
        Canned::html(200),
        Canned::new(200, "application/json", ""),
        Canned::new(200, "application/json", r#"{"id":"export_1","status":"SUC"#),
        Canned::api_error(200, "SERVER_ERROR", "Not really."),
        Canned::json(200, &json!({ "id": "export_2", "status": "SUCCESS", "files": [] })),
        Canned::json(200, &json!({ "status": "SUCCESS", "files": [] })),
        Canned::json(200, &json!({ "id": null, "status": "ERROR" })),
        Canned::json(200, &json!([{ "id": "export_1", "status": "ERROR" }])),
    ])
    .await;
}

#[tokio::test]
async fn a_transient_status_is_retried_whatever_its_body_says() {
    let own = |status| Canned::api_error(status, "EXPORT_NOT_FOUND", "Gone for good.");
    assert_retried_until_whole(vec![
        own(500),
        own(502),
        own(504),
        own(522),
        own(408),
        Canned::html(500),
    ])
    .await;
}

#[tokio::test]
async fn a_redirect_of_a_view_is_not_followed() {
    let redirects = [301, 302, 303, 307, 308]
        .map(|status| Canned::redirect(status, "/2.11/exports/view?id=export_9"));
    let requests = assert_retried_until_whole(redirects.into()).await;
    assert_eq!(count(&requests, |request| request.is_view_of("export_9")), 0);
}

#[tokio::test]
async fn an_answer_beyond_32_mib_is_not_read_but_logged() {
    let padding = "x".repeat(33 << 20);
    let body = json!({ "id": "export_1", "status": "ERROR", "more": padding });
    let (sim, home) = scene(vec![(
        "shop",
        vec![SimExport::new(
            "export_1",
            vec![ViewStep::Answer(Canned::json(200, &body)), ViewStep::status("RUNNING")],
        )],
    )])
    .await;
    let watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("polls work again")).await;
    assert_eq!(told(&watcher.output(), "WARN", "larger than 33554432 bytes").len(), 1);
    let first = &sim.requests()[0];
    assert!(first.body_bytes < 33 << 20, "{} bytes were taken", first.body_bytes);
}
