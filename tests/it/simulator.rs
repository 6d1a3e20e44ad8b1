//! The simulator itself: that what the other tests rely on is so.

use std::time::Duration;

use batch_export_watcher::domain::checksum::Algorithm;
use batch_export_watcher::simulator::{
    Canned, ChecksumHeader, Content, Declared, Etag, LinkStep, Origin, Place, Recorded, Script,
    SentChecksum, Serving, SimExport, SimFile, SimProject, Simulator, StoreStep, ViewStep,
};
use serde_json::json;

use super::support::PATIENCE;
use super::support::http::{Answer, get};

const PROJECT: &str = "project_1";
const KEY: &str = "key-1";
const CREDENTIALS: [(&str, &str); 2] =
    [("authorization", "Bearer key-1"), ("x-batch-project", PROJECT)];

async fn simulate(exports: Vec<SimExport>) -> Simulator {
    simulate_script(Script::new(vec![SimProject::new(PROJECT, KEY, exports)])).await
}

async fn simulate_script(script: Script) -> Simulator {
    Simulator::start(script).await.expect("two free ports on loopback")
}

async fn call(sim: &Simulator, route_and_query: &str) -> Answer {
    get(&format!("{}/{route_and_query}", sim.api_base_url()), &CREDENTIALS).await
}

async fn view(sim: &Simulator, export: &str) -> Answer {
    call(sim, &format!("exports/view?id={export}")).await
}

async fn link(sim: &Simulator, file: &str) -> String {
    let answer = call(sim, &format!("exports/download?id={file}")).await;
    assert_eq!(answer.status, 307, "{}", answer.text());
    answer.header("location").to_owned()
}

/// A fresh link, fetched.
async fn fetch(sim: &Simulator, file: &str, headers: &[(&str, &str)]) -> Answer {
    get(&link(sim, file).await, headers).await
}

async fn with_file(file: SimFile) -> Simulator {
    simulate(vec![SimExport::finished("export_1", vec![file])]).await
}

fn digits(count: usize) -> String {
    "0123456789".chars().cycle().take(count).collect()
}

#[tokio::test]
async fn an_export_goes_through_its_states_and_its_file_comes_from_the_other_origin() {
    let file = SimFile::new("file_1", 1, "[1]");
    let sim = simulate(vec![SimExport::succeeding("export_1", vec![file])]).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(
            view(&sim, "export_1").await.json()["status"].as_str().unwrap_or_default().to_owned(),
        );
    }
    assert_eq!(seen, ["CREATED", "PENDING", "RUNNING", "SUCCESS", "SUCCESS"]);
    let report = view(&sim, "export_1").await.json();
    assert_eq!(report["id"], "export_1");
    assert_eq!(report["completion_date"], "2026-01-05T08:00:12Z");
    let url = format!("{}/exports/download?id=file_1", sim.api_base_url());
    assert_eq!(report["files"], json!([{ "id": "file_1", "part": 1, "size": 3, "url": url }]));
    let location = link(&sim, "file_1").await;
    assert!(
        location.starts_with(&format!("{}/blob/file_1?expires=", sim.store_origin())),
        "{location}"
    );
    let answer = get(&location, &[]).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "[1]"));
    assert_eq!((answer.header("content-length"), answer.header("accept-ranges")), ("3", "bytes"));
    sim.stop().await;
}

#[tokio::test]
async fn the_api_refuses_in_its_own_words() {
    let sim = simulate(vec![SimExport::failing("export_1")]).await;
    let base = sim.api_base_url();
    for (route, status, code) in [
        ("exports/view", 400, "MISSING_PARAMETER"),
        ("exports/view?id=", 400, "MISSING_PARAMETER"),
        ("exports/view?id=export_2", 404, "EXPORT_NOT_FOUND"),
        ("exports/download?id=file_2", 404, "FILE_NOT_FOUND"),
        ("exports/list?limit=0", 400, "MALFORMED_PARAMETER"),
        ("exports/list?limit=101", 400, "MALFORMED_PARAMETER"),
        ("exports/list?from=x", 400, "MALFORMED_PARAMETER"),
        ("exports/else", 404, "ROUTE_NOT_FOUND"),
        ("v/exports/view?id=export_1", 404, "ROUTE_NOT_FOUND"),
    ] {
        let answer = call(&sim, route).await;
        assert_eq!(
            (answer.status, &answer.json()["error_code"]),
            (status, &json!(code)),
            "{route}"
        );
    }
    let url = format!("{base}/exports/view?id=export_1");
    for headers in [
        vec![],
        vec![CREDENTIALS[0]],
        vec![CREDENTIALS[1]],
        vec![("authorization", "Bearer other"), CREDENTIALS[1]],
        vec![("authorization", "key-1"), CREDENTIALS[1]],
        vec![CREDENTIALS[0], ("x-batch-project", "project_2")],
    ] {
        let answer = get(&url, &headers).await;
        let code = answer.json()["error_code"].clone();
        assert_eq!((answer.status, code), (401, json!("AUTHENTICATION_INVALID")), "{headers:?}");
    }
    sim.rotate_key(PROJECT, "key-2").unwrap();
    assert_eq!(get(&url, &CREDENTIALS).await.status, 401);
    assert_eq!(get(&url, &[("authorization", "Bearer key-2"), CREDENTIALS[1]]).await.status, 200);
    assert!(sim.rotate_key("project_2", "key").is_err());
}

#[tokio::test]
async fn one_project_does_not_see_the_other() {
    let exports = vec![SimExport::finished("export_2", vec![SimFile::new("file_2", 1, "[]")])];
    let other = SimProject::new("project_2", "key-2", exports);
    let sim =
        simulate_script(Script::new(vec![SimProject::new(PROJECT, KEY, vec![]), other])).await;
    assert_eq!(view(&sim, "export_2").await.status, 404);
    assert_eq!(call(&sim, "exports/download?id=file_2").await.status, 404);
    sim.set_project_outage(PROJECT, Some(Canned::throttled(Some("2")))).unwrap();
    let answer = view(&sim, "export_2").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "2"));
    let theirs = [("authorization", "Bearer key-2"), ("x-batch-project", "project_2")];
    let url = format!("{}/exports/view?id=export_2", sim.api_base_url());
    assert_eq!(get(&url, &theirs).await.status, 200);
}

#[tokio::test]
async fn the_listing_is_paged_newest_first() {
    let sim =
        simulate((0..25).map(|number| SimExport::failing(&format!("export_{number}"))).collect())
            .await;
    sim.put_export(PROJECT, SimExport::failing("export_new")).unwrap();
    let first = call(&sim, "exports/list").await.json();
    assert_eq!((&first["count"], &first["has_more"]), (&json!(10), &json!(true)));
    assert_eq!(first["exports"][0]["id"], "export_new");
    assert_eq!(first["exports"][1]["id"], "export_0");
    let cursor = first["next_from"].as_str().unwrap();
    let second = call(&sim, &format!("exports/list?limit=100&from={cursor}")).await.json();
    assert_eq!((&second["count"], &second["has_more"]), (&json!(16), &json!(false)));
    assert_eq!(second["exports"][15]["id"], "export_24");
    assert!(second.get("next_from").is_none());
    sim.set_listing(PROJECT, Some(Canned::unavailable(None))).unwrap();
    assert_eq!(call(&sim, "exports/list").await.status, 503);
}

#[tokio::test]
async fn views_can_be_changed_and_answers_written_down() {
    let sim =
        simulate(vec![SimExport::new("export_1", vec![ViewStep::Answer(Canned::html(200))])]).await;
    assert!(view(&sim, "export_1").await.header("content-type").starts_with("text/html"));
    let rows = vec![
        SimFile::new("file_1", 1, "[]").declaring(Declared::Absent),
        SimFile::new("file_2", 2, "[]").declaring(Declared::Raw(json!("two"))),
        SimFile { part: None, ..SimFile::new("file_3", 3, "[]").declaring(Declared::Bytes(9)) },
    ];
    let steps = vec![
        ViewStep::Listed { status: "RUNNING".to_owned(), files: rows },
        ViewStep::status("PAUSED"),
    ];
    sim.set_views("export_1", steps).unwrap();
    let files = view(&sim, "export_1").await.json()["files"].clone();
    assert!(files[0].get("size").is_none());
    assert_eq!(files[1]["size"], "two");
    assert_eq!(files[2]["size"], 9);
    assert!(files[2].get("part").is_none());
    let report = view(&sim, "export_1").await.json();
    assert_eq!(report["status"], "PAUSED");
    assert!(report.get("files").is_none());
    assert!(sim.set_views("export_2", vec![]).is_err());
    sim.set_outage(Origin::Api, Some(Canned::unavailable(Some("1"))));
    assert_eq!(view(&sim, "export_1").await.status, 503);
    sim.set_outage(Origin::Api, None);
    assert_eq!(view(&sim, "export_1").await.status, 200);
}

#[tokio::test]
async fn the_store_refuses_whatever_a_signed_link_does_not_need() {
    let sim = with_file(SimFile::new("file_1", 1, "[]")).await;
    for name in ["authorization", "x-batch-project", "cookie", "referer"] {
        let answer = fetch(&sim, "file_1", &[(name, "x")]).await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(answer.text().contains("InvalidArgument"));
    }
    assert_eq!(fetch(&sim, "file_1", &[("accept", "*/*")]).await.status, 200);
}

#[tokio::test]
async fn links_are_for_one_file_and_expire() {
    let files = vec![SimFile::new("file_1", 1, "[]"), SimFile::new("file_2", 2, "[]")];
    let sim = simulate(vec![SimExport::finished("export_1", files)]).await;
    let good = link(&sim, "file_1").await;
    assert_eq!(get(&good, &[]).await.status, 200);
    assert_ne!(good, link(&sim, "file_1").await, "each link is signed anew");
    assert_eq!(get(&good.replace("file_1", "file_2"), &[]).await.status, 403);
    assert_eq!(get(&format!("{good}0"), &[]).await.status, 403);
    assert_eq!(get(&format!("{}/blob/file_1", sim.store_origin()), &[]).await.status, 403);
    sim.expire_links();
    let answer = get(&good, &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (403, "application/xml"));
    assert!(answer.text().contains("<Message>Request has expired</Message>"));
    assert_eq!(fetch(&sim, "file_1", &[]).await.status, 200);
    sim.set_link_lifetime(Duration::ZERO);
    assert_eq!(fetch(&sim, "file_1", &[]).await.status, 403);
}

#[tokio::test]
async fn ranges_are_served_to_a_client_that_knows_the_file() {
    let sim = with_file(SimFile::new("file_1", 1, digits(100).as_str())).await;
    let etag = fetch(&sim, "file_1", &[]).await.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let answer = fetch(&sim, "file_1", &[("range", "bytes=95-"), ("if-range", &etag)]).await;
    assert_eq!((answer.status, answer.header("content-range")), (206, "bytes 95-99/100"));
    assert_eq!((answer.text().as_str(), answer.header("etag")), ("56789", etag.as_str()));
    assert_eq!(answer.header("content-length"), "5");
    assert_eq!(fetch(&sim, "file_1", &[("range", "bytes=95-")]).await.status, 206);
    let answer = fetch(&sim, "file_1", &[("range", "bytes=95-"), ("if-range", "\"other\"")]).await;
    assert_eq!((answer.status, answer.body.len()), (200, 100));
    let answer = fetch(&sim, "file_1", &[("range", "bytes=100-")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */100"));
}

#[tokio::test]
async fn a_range_is_cut_at_its_own_share_and_served_unconditionally_if_the_script_says_so() {
    let file = SimFile::new("file_1", 1, digits(100).as_str())
        .on_fetch(Serving::well().cut_after(Place::Permille(250)))
        .on_fetch(Serving::well().ignoring_if_range())
        .on_fetch(Serving::well());
    let sim = with_file(file).await;
    let range = [("range", "bytes=60-"), ("if-range", "\"other\"")];
    let answer = fetch(&sim, "file_1", &range[..1]).await;
    assert_eq!((answer.status, answer.text().as_str(), answer.whole), (206, "0123456789", false));
    let answer = fetch(&sim, "file_1", &range).await;
    assert_eq!((answer.status, answer.body.len(), answer.whole), (206, 40, true));
    assert_eq!(fetch(&sim, "file_1", &range).await.status, 200);
    let requests = sim.requests();
    let blobs = requests.iter().filter(|request| request.is_fetch_of("file_1"));
    let seen: Vec<_> =
        blobs.map(|blob| (blob.whole_bytes, blob.body_bytes, blob.is_complete())).collect();
    assert_eq!(seen, [(Some(40), 10, false), (Some(40), 40, true), (Some(100), 100, true)]);
    for (place, bytes) in
        [(Place::Permille(999), 1000), (Place::Permille(999), 1), (Place::Permille(0), 9)]
    {
        assert!(place.in_body(bytes) < bytes, "{place:?} of {bytes}");
    }
    assert_eq!((Place::Permille(1000).in_body(7), Place::Bytes(9).in_body(7)), (7, 7));
}

#[tokio::test]
async fn a_weak_validator_is_no_ground_for_a_range() {
    let sim = with_file(SimFile::new("file_1", 1, "[1,2]").with_etag(Etag::Weak)).await;
    let etag = fetch(&sim, "file_1", &[]).await.header("etag").to_owned();
    assert!(etag.starts_with("W/\""), "{etag}");
    assert_eq!(
        fetch(&sim, "file_1", &[("range", "bytes=1-"), ("if-range", &etag)]).await.status,
        200
    );
}

#[tokio::test]
async fn each_link_step_is_used_once_and_the_last_one_repeats() {
    let file = SimFile::new("file_1", 1, "[1]")
        .on_link(LinkStep::Answer(Canned::api_error(500, "SERVER_ERROR", "Oops.")))
        .on_link(LinkStep::RedirectWith {
            status: 302,
            location: "http://user:pw@{authority}{path}".to_owned(),
        })
        .on_link(LinkStep::RelativeHop)
        .on_link(LinkStep::Direct);
    let sim = with_file(file).await;
    let route = "exports/download?id=file_1";
    assert_eq!(call(&sim, route).await.status, 500);
    let answer = call(&sim, route).await;
    let authority = sim.store_origin().replace("http://", "http://user:pw@");
    assert_eq!(answer.status, 302);
    assert!(answer.header("location").starts_with(&format!("{authority}/blob/file_1?expires=")));
    let hop = call(&sim, route).await.header("location").to_owned();
    assert_eq!(hop, "/2.11/exports/hop?id=file_1");
    let second = call(&sim, "exports/hop?id=file_1").await;
    assert_eq!(get(second.header("location"), &[]).await.text(), "[1]");
    for _ in 0..2 {
        let answer = call(&sim, route).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "[1]"));
    }
}

#[tokio::test]
async fn bodies_are_cut_where_the_script_says() {
    // More than the socket's buffers hold, so that a cut which drops what is buffered would show.
    let content = Content::Generated { bytes: 8_000_000, seed: 1 };
    let file = SimFile::new("file_1", 1, content.clone())
        .on_fetch(Serving::well().cut_after(7_654_321))
        .on_fetch(Serving::well().chunked().cut_after(7_654_321))
        .on_fetch(Serving::well().cut_after(0))
        .on_fetch(Serving::well().claiming_length(8_000_001))
        .on_fetch(Serving::well().claiming_length(10))
        .on_fetch(Serving::well().chunked())
        .on_fetch(Serving::well());
    let sim = with_file(file).await;
    for (framing, length, bytes, whole) in [
        ("length", "8000000", 7_654_321, false),
        ("chunked", "", 7_654_321, false),
        ("length", "8000000", 0, false),
        ("length", "8000001", 8_000_000, false),
        ("length", "10", 10, true),
        ("chunked", "", 8_000_000, true),
        ("length", "8000000", 8_000_000, true),
    ] {
        let answer = fetch(&sim, "file_1", &[]).await;
        assert_eq!(answer.header("content-length"), length);
        assert_eq!(answer.header("transfer-encoding") == "chunked", framing == "chunked");
        assert_eq!((answer.body.len(), answer.whole), (bytes, whole), "{framing} {length}");
        if bytes == 8_000_000 {
            assert_eq!(Content::from(answer.body).sha256(), content.sha256());
        }
    }
}

#[tokio::test]
async fn the_store_misbehaves_as_told() {
    let file = SimFile::new("file_1", 1, "[1,2,3]")
        .on_fetch(StoreStep::ExpiredLink)
        .on_fetch(Canned::store_error(503, "SlowDown", "Reduce your request rate"))
        .on_fetch(Serving::well().ignoring_range())
        .on_fetch(Serving::well().other_content("[9]"))
        .on_fetch(
            Serving::well().header("Content-Encoding", "gzip").header("content-type", "text/html"),
        );
    let sim = with_file(file).await;
    let range = [("range", "bytes=3-")];
    assert_eq!(fetch(&sim, "file_1", &range).await.status, 403);
    assert_eq!(fetch(&sim, "file_1", &range).await.status, 503);
    let answer = fetch(&sim, "file_1", &range).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "[1,2,3]"));
    let etag = answer.header("etag").to_owned();
    let answer = fetch(&sim, "file_1", &[]).await;
    assert_eq!(answer.text(), "[9]");
    assert_ne!(answer.header("etag"), etag);
    let answer = fetch(&sim, "file_1", &[]).await;
    assert_eq!(
        (answer.header("content-encoding"), answer.header("content-type")),
        ("gzip", "text/html")
    );
}

#[tokio::test]
async fn checksums_are_sent_with_the_bytes_they_speak_of() {
    let file = SimFile::new("file_1", 1, "123456789")
        .with_checksum(SentChecksum::correct(ChecksumHeader::ContentMd5, Algorithm::Md5))
        .with_checksum(SentChecksum::correct(ChecksumHeader::GoogHash, Algorithm::Crc32c));
    let sim = with_file(file).await;
    let whole = fetch(&sim, "file_1", &[]).await;
    assert_eq!(whole.header("content-md5"), "JfnnlDI7RTiF9RgfG2JNCw==");
    assert_eq!(whole.header("x-goog-hash"), "crc32c=4waSgw==");
    let part = fetch(&sim, "file_1", &[("range", "bytes=3-")]).await;
    assert_eq!((part.header("content-md5"), part.header("x-goog-hash")), ("", "crc32c=4waSgw=="));
}

#[tokio::test]
async fn a_held_answer_continues_when_released_and_ends_with_the_simulator() {
    let file = SimFile::new("file_1", 1, "[1,2,3]")
        .on_fetch(Serving::well().held())
        .on_fetch(Serving::well().stall_after(3));
    let held = ViewStep::Held(Box::new(ViewStep::Success(vec![file])));
    let sim = simulate(vec![SimExport::new("export_1", vec![held])]).await;
    let watch = async {
        let arrived = |seen: &[_]| seen.iter().any(|request: &_| is_open_view(request));
        sim.wait_for(arrived, PATIENCE).await.unwrap();
        sim.release("export_1");
    };
    let (answer, ()) = tokio::join!(view(&sim, "export_1"), watch);
    assert_eq!(answer.json()["status"], "SUCCESS");
    let watch = async {
        sim.wait_for(|seen| seen.iter().any(|request| request.is_fetch_of("file_1")), PATIENCE)
            .await
            .unwrap();
        sim.release("file_1");
    };
    let (answer, ()) = tokio::join!(fetch(&sim, "file_1", &[]), watch);
    assert_eq!(answer.text(), "[1,2,3]");
    sim.hold("file_1");
    let url = link(&sim, "file_1").await;
    let stop = async {
        let stalled = |seen: &[Recorded]| {
            seen.iter()
                .filter(|request| request.is_fetch_of("file_1"))
                .any(|request| request.body_bytes == 3)
        };
        sim.wait_for(stalled, PATIENCE).await.unwrap();
        sim.stop().await;
    };
    let (answer, ()) = tokio::join!(get(&url, &[]), stop);
    assert_eq!((answer.text().as_str(), answer.whole), ("[1,", false));
}

fn is_open_view(request: &Recorded) -> bool {
    request.is_view_of("export_1") && request.status.is_none()
}

#[tokio::test]
async fn every_request_is_on_record() {
    let sim = with_file(SimFile::new("file_1", 1, "[1]")).await;
    view(&sim, "export_1").await;
    fetch(&sim, "file_1", &[("x-mark", "here")]).await;
    let seen = sim
        .wait_for(
            |seen| seen.len() == 3 && seen.iter().all(|request| request.ended_at.is_some()),
            PATIENCE,
        )
        .await
        .unwrap();
    assert!(
        seen[0].is_view_of("export_1")
            && seen[1].is_link_of("file_1")
            && seen[2].is_fetch_of("file_1")
    );
    assert_eq!(
        seen.iter().map(|request| request.status).collect::<Vec<_>>(),
        [Some(200), Some(307), Some(200)]
    );
    assert_eq!((seen[0].origin, seen[2].origin), (Origin::Api, Origin::Store));
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("GET", "/2.11/exports/view"));
    assert_eq!(seen[0].header("authorization"), Some("Bearer key-1"));
    assert_eq!((seen[2].header("x-mark"), seen[2].body_bytes), (Some("here"), 3));
    let signature = seen[2].parameter("signature").unwrap();
    let error = sim.wait_for(|_| false, Duration::from_millis(1)).await.unwrap_err().to_string();
    assert!(error.contains("Store GET /blob/file_1") && !error.contains(&signature), "{error}");
    assert_eq!(sim.requests().len(), 3);
}

#[tokio::test]
async fn a_slow_file_takes_its_time() {
    let sim =
        with_file(SimFile::new("file_1", 1, digits(100).as_str()).with_bytes_per_second(1_000))
            .await;
    let answer = fetch(&sim, "file_1", &[]).await;
    assert!(answer.whole);
    let requests = sim.requests();
    let blob = requests.iter().find(|request| request.is_fetch_of("file_1")).unwrap();
    let took = blob.ended_at.unwrap() - blob.at;
    // 100 bytes in frames of 50: the second one is due after 50 ms.
    assert!(took >= Duration::from_millis(50), "{took:?}");
}

#[tokio::test]
async fn a_removed_export_is_neither_known_nor_recorded() {
    let export = |number: usize| {
        SimExport::finished(
            &format!("export_{number}"),
            vec![SimFile::new(&format!("file_{number}"), 1, "[1]")],
        )
    };
    let sim = simulate((1..=3).map(export).collect()).await;
    assert_eq!(fetch(&sim, "file_2", &[]).await.status, 200);
    let ended = |seen: &[Recorded]| {
        seen.len() == 2 && seen.iter().all(|request| request.ended_at.is_some())
    };
    sim.wait_for(ended, PATIENCE).await.unwrap();
    assert_eq!(sim.take_ended_requests().len(), 2);
    assert!(sim.requests().is_empty() && sim.take_ended_requests().is_empty());
    sim.remove_export(PROJECT, "export_2").unwrap();
    sim.remove_export(PROJECT, "export_2").unwrap_err();
    assert_eq!(view(&sim, "export_2").await.status, 404);
    assert_eq!(call(&sim, "exports/download?id=file_2").await.status, 404);
    for number in [1, 3] {
        assert_eq!(
            view(&sim, &format!("export_{number}")).await.json()["id"],
            format!("export_{number}")
        );
    }
    let requests = sim.requests();
    assert_eq!(
        (requests.len(), requests[0].status),
        (4, Some(404)),
        "the numbers of requests go on"
    );
}
