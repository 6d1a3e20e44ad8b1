//! Answers to view and download calls that are broken byte by byte, and listings that are odd: each
//! costs one attempt of its export and none of the others.

use std::time::Duration;

use batch_export_watcher::simulator::{Canned, LinkStep, SimExport, SimFile, ViewStep};
use serde_json::{Value, json};

use super::stage::{SHOP, Scheme, Stage, assert_paused};
use crate::support::raw::{Answer, Scripts, headers};
use crate::support::scene::{count, failure, gaps, told};
use crate::support::solo::Solo;

const DRIP: Duration = Duration::from_millis(50);

fn file(name: &str) -> SimFile {
    SimFile::new(&format!("file_{name}"), 1, format!("[\"{name}\"]").into_bytes())
}

fn chunked(body: &str) -> Answer {
    Answer::of(200, "transfer-encoding: chunked\r\n", body)
}

/// What the API says to the first call for an export or a link, whatever that call is for.
fn broken() -> Vec<(&'static str, Answer)> {
    let own =
        |status| Answer::framed(status, "", r#"{"error_code":"GONE","error_message":"for good"}"#);
    vec![
        ("no_answer", Answer::raw("")),
        ("refused", Answer::raw("").and_reset()),
        ("head_cut", Answer::raw("HTTP/1.1 200 OK\r\ncontent-len").and_cut()),
        ("head_reset", Answer::raw("HTTP/1.1 200 OK\r\ncontent-len").and_reset()),
        ("head_never", Answer::nothing()),
        ("head_drips", Answer::raw("HTTP/1.1 200 OK\r\nx: ").then_dripping("x".repeat(400), DRIP)),
        ("head_endless", Answer::raw(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20)))),
        ("head_garbage", Answer::raw("SSH-2.0-OpenSSH_9.6\r\n\r\n")),
        ("two_lengths", Answer::of(200, "content-length: 2\r\ncontent-length: 3\r\n", "{} ")),
        ("redirect_without_place", Answer::framed(307, "", "")),
        ("redirect_with_two_places", Answer::framed(302, "location: /a\r\nlocation: /b\r\n", "")),
        ("redirect_to_nonsense", Answer::framed(302, "location: http://[\r\n", "")),
        ("not_modified", Answer::of(304, "", "")),
        ("no_content", Answer::of(204, "", "")),
        ("page_of_a_gateway", Answer::framed(404, "content-type: text/html\r\n", "<h1>Not found")),
        ("forbidden_by_nobody", Answer::framed(451, "", "<h1>No")),
        ("server_error", own(500)),
        ("timeout", own(408)),
        ("gateway", own(502)),
        ("gateway_timeout", own(504)),
        ("cdn", own(520)),
        ("status_999", own(999)),
    ]
}

/// What is broken only where an answer's body is read.
fn broken_bodies(id: &str) -> Vec<(&'static str, Answer)> {
    let good = json!({ "id": id, "status": "ERROR" }).to_string();
    let length = format!("content-length: {}\r\n", good.len());
    vec![
        ("body_cut", Answer::of(200, &length, &good[..10]).and_cut()),
        ("body_closed", Answer::of(200, &length, &good[..10])),
        ("body_reset", Answer::of(200, &length, &good[..10]).and_reset()),
        ("body_stalled", Answer::of(200, &length, &good[..10]).and_silent()),
        (
            "body_drips",
            Answer::of(200, "content-length: 5000\r\n", "{").then_dripping(" ".repeat(400), DRIP),
        ),
        ("chunks_without_end", chunked(&format!("{:x}\r\n{good}\r\n", good.len()))),
        ("chunk_cut", chunked(&format!("{:x}\r\n{}", good.len(), &good[..10]))),
        ("empty", Answer::framed(200, "", "")),
        ("spaces", Answer::framed(200, "", "   ")),
        ("html", Answer::framed(200, "content-type: text/html\r\n", "<!doctype html>")),
        (
            "packed",
            Answer::framed(200, "content-encoding: gzip\r\n", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
        ),
        (
            "no_utf8",
            Answer::framed(200, "", [b"{\"id\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat()),
        ),
        ("nul", Answer::framed(200, "", [0; 100])),
        ("error_inside", Answer::framed(200, "", format!("{{\"error_code\":\"X\",{}", &good[1..]))),
        ("another_export", Answer::framed(200, "", good.replace(id, "export_of_somebody_else"))),
        ("two_documents", Answer::framed(200, "", format!("{good}{good}"))),
        ("depth", Answer::framed(200, "", "[".repeat(200_000))),
    ]
}

/// Every export, and every link, gets one broken answer; all are whole in the end, with one call
/// more than that.
async fn each_is_asked_again(scheme: Scheme) {
    let links = broken();
    let mut views = broken();
    views.extend(broken_bodies("export_x").into_iter().map(|(name, _)| (name, Answer::nothing())));
    for (name, answer) in &mut views {
        let own = broken_bodies(&format!("export_{name}_v")).into_iter().find(|(of, _)| of == name);
        if let Some((_, own)) = own {
            *answer = own;
        }
    }
    let named = views.iter().map(|(name, _)| format!("{name}_v"));
    let named: Vec<_> = named.chain(links.iter().map(|(name, _)| format!("{name}_l"))).collect();
    let exports = named
        .iter()
        .map(|name| SimExport::finished(&format!("export_{name}"), vec![file(name)]))
        .collect();
    let mut scripts: Scripts = views
        .iter()
        .map(|(name, answer)| (format!("export_{name}_v"), vec![answer.clone()]))
        .collect();
    scripts.extend(
        links.iter().map(|(name, answer)| (format!("file_{name}_l"), vec![answer.clone()])),
    );
    let stage = Stage::new(scheme, exports, scripts.clone(), Scripts::new()).await;
    // On a busy machine a good answer may take a second, and would be asked for once more.
    let home = stage.home.with("[api]\nrequest_timeout = \"5s\"");
    let stage = Stage { home, ..stage };
    let output = stage.settled(stage.start()).await;
    for name in &named {
        let content = format!("[\"{name}\"]").as_str().into();
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content]);
    }
    for id in scripts.keys() {
        let asked = stage.api.asked_for(id);
        assert_eq!(asked.len(), 2, "{id}: a second layer tries again, or none does");
        assert_paused(id, &asked.iter().map(|asked| asked.at).collect::<Vec<_>>());
    }
    let warned = told(&output, "WARN", "will be repeated").len();
    assert_eq!(
        (warned, told(&output, "ERROR", "").len()),
        (scripts.len(), 0),
        "{:#?}",
        output.stderr
    );
}

/// What gateways make of an answer that is right.
#[tokio::test]
async fn unusual_but_correct_views_are_understood() {
    let view = |name: &str, part: &str, size: &str| {
        format!(
            r#"{{"id":"export_{name}","status":"SUCCESS",
            "files":[{{"id":"file_{name}","part":{part},"size":{size}}}]}}"#
        )
    };
    let many = headers(1_000);
    let cases = [
        ("plain", "", view("plain", "1", "9")),
        ("headers", many.as_str(), view("headers", "1", "11")),
        ("bom", "", format!("\u{feff}{}", view("bom", "1", "7"))),
        ("point", "", view("point", "1.0", "9.0")),
        ("exponent", "", view("exponent", "1E0", "1.2e+1")),
        ("shifted", "", view("shifted", "10e-1", "1100e-2")),
    ];
    let exports = cases
        .iter()
        .map(|(name, ..)| SimExport::finished(&format!("export_{name}"), vec![file(name)]))
        .collect();
    let scripts = cases
        .iter()
        .map(|(name, lines, body)| {
            (format!("export_{name}"), vec![Answer::framed(200, lines, body)])
        })
        .collect();
    let stage = Stage::new(Scheme::Http, exports, scripts, Scripts::new()).await;
    let output = stage.settled(stage.start()).await;
    assert_eq!(told(&output, "WARN", ""), [""; 0]);
    for (name, ..) in &cases {
        let content = format!("[\"{name}\"]").as_str().into();
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content]);
        let part = &stage.home.manifest(SHOP, &format!("export_{name}")).parts[0];
        assert_eq!((part.part, part.declared_bytes), (1, Some(name.len() as u64 + 4)), "{name}");
    }
}

#[tokio::test]
async fn a_head_of_more_than_64_kib_is_refused_and_an_error_after_a_bom_is_the_apis_own() {
    let good = r#"{"id":"export_1","status":"RUNNING"}"#;
    let large = format!("x: {}\r\n", "x".repeat(64 << 10));
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20));
    let lost = "\u{feff}{\"error_code\":\"ROUTE_NOT_FOUND\",\"error_message\":\"\"}";
    let answers = vec![
        Answer::framed(200, &large, good),
        Answer::raw(endless),
        Answer::framed(404, "", lost),
    ];
    let export = SimExport::finished("export_1", vec![file("1")]);
    let scripts = Scripts::from([("export_1".to_owned(), answers)]);
    let stage = Stage::new(Scheme::Http, vec![export], scripts, Scripts::new()).await;
    let output = stage.settled(stage.start()).await;
    let told = |words| told(&output, "WARN", words).len();
    let lines = output.stderr.join("\n");
    assert_eq!(told("the head of the answer is larger than 64 KiB"), 1, "{lines}");
    assert!(lines.contains("check base_url") || lines.contains("base_url"), "{lines}");
}

#[tokio::test]
async fn over_http_each_broken_answer_of_the_api_costs_one_attempt() {
    each_is_asked_again(Scheme::Http).await;
}

#[tokio::test]
async fn over_https_each_broken_answer_of_the_api_costs_one_attempt() {
    each_is_asked_again(Scheme::Https).await;
}

#[tokio::test]
async fn an_endless_answer_is_abandoned_after_32_mib_and_logged() {
    let space = vec![b' '; 1 << 20];
    let chunk = [format!("{:x}\r\n", space.len()).as_bytes(), &space, b"\r\n"].concat();
    let endless = Answer::of(200, "transfer-encoding: chunked\r\n", chunk.repeat(40));
    let export = SimExport::finished("export_1", vec![file("1")]);
    let scripts = Scripts::from([("export_1".to_owned(), vec![endless])]);
    let stage = Stage::new(Scheme::Http, vec![export], scripts, Scripts::new()).await;
    let home = stage.home.with("[api]\nrequest_timeout = \"30s\"");
    let stage = Stage { home, ..stage };
    let output = stage.settled(stage.start()).await;
    assert_eq!(
        told(&output, "WARN", "larger than 33554432 bytes").len(),
        1,
        "{:#?}",
        output.stderr
    );
}

/// An export whose first SUCCESS has these rows instead of its own, and the words about it.
fn odd_rows() -> Vec<(&'static str, Value, &'static str)> {
    let row = |field: &str, value: Value| {
        let mut row = json!({ "id": "file_odd", "part": 1, "size": 9 });
        row[field] = value;
        json!([{ "id": "file_fine", "part": 2, "size": 9 }, row])
    };
    vec![
        ("id_up", row("id", json!("../../../../etc/cron.d/evil")), "has a missing or invalid id"),
        ("id_rooted", row("id", json!("/etc/passwd")), "has a missing or invalid id"),
        ("id_dot", row("id", json!(".")), "has a missing or invalid id"),
        ("id_hidden", row("id", json!(".hidden")), "has a missing or invalid id"),
        ("id_nul", row("id", json!("a\u{0}b")), "has a missing or invalid id"),
        ("id_lines", row("id", json!("a\nb")), "has a missing or invalid id"),
        ("id_letters", row("id", json!("f\u{fc}le")), "has a missing or invalid id"),
        ("id_long", row("id", json!("x".repeat(129))), "has a missing or invalid id"),
        ("id_empty", row("id", json!("")), "has a missing or invalid id"),
        ("id_null", row("id", json!(null)), "has a missing or invalid id"),
        ("id_number", row("id", json!(7)), "has a missing or invalid id"),
        ("part_zero", row("part", json!(0)), "has a missing or invalid part"),
        ("part_negative", row("part", json!(-1)), "has a missing or invalid part"),
        ("part_words", row("part", json!("one")), "has a missing or invalid part"),
        ("part_beyond", row("part", json!(4_294_967_296_u64)), "has a missing or invalid part"),
        ("size_negative", row("size", json!(-1)), "has a missing or invalid size"),
        ("size_fraction", row("size", json!(1.5)), "has a missing or invalid size"),
        ("size_beyond", row("size", json!(1e20)), "has a missing or invalid size"),
        ("part_fraction", row("part", json!(0.5)), "has a missing or invalid part"),
        ("size_words", row("size", json!("9")), "has a missing or invalid size"),
        ("no_row", json!([null]), "has a missing or invalid shape"),
        ("no_list", json!("files"), "not the expected JSON"),
        (
            "contradiction",
            json!([{ "id": "file_odd", "size": 1 }, { "id": "file_odd", "size": 2 }]),
            "twice, with different numbers or sizes",
        ),
    ]
}

#[tokio::test]
async fn an_answer_with_an_invalid_row_is_requested_again() {
    let cases = odd_rows();
    let export = |(name, rows, _): &(&str, Value, &str)| {
        let id = format!("export_{name}");
        let body = json!({ "id": id, "status": "SUCCESS", "files": rows });
        let odd = ViewStep::Answer(Canned::json(200, &body));
        SimExport::new(&id, vec![odd, ViewStep::Success(vec![file(name)])])
    };
    let solo = Solo::new(cases.iter().map(export).collect())
        .await
        .with("[api]\nrequests_per_second = 1000");
    let output = solo.settle(0).await;
    for (name, _, words) in &cases {
        let id = format!("export_{name}");
        solo.home.assert_whole(SHOP, &id, &[&format!("[\"{name}\"]").as_str().into()]);
        let told = told(&output, "WARN", words);
        assert!(
            told.iter().any(|line| line.contains(&id)),
            "{name}: {words}\n{}",
            output.stderr.join("\n")
        );
    }
    assert!(
        solo.fetches("file_odd").is_empty() && solo.links("file_odd").is_empty(),
        "a row of it was used"
    );
    assert!(solo.links("file_fine").is_empty(), "what is left of the answer was used");
}

#[tokio::test]
async fn a_file_is_known_by_its_id_whatever_url_each_poll_lists() {
    let at = |url: &str, id: &str, number| SimFile {
        url: Some(url.to_owned()),
        ..SimFile::new(id, number, "[1]")
    };
    let spy =
        crate::support::fault_proxy::FaultProxy::start(([127, 0, 0, 1], 1).into(), Vec::new())
            .await;
    // A gap asks for a second view, in which every URL is another one.
    let listed = |round: &str| {
        let elsewhere = format!("{}/{round}", spy.origin());
        ViewStep::Success(vec![
            at(&elsewhere, "file_a", 1),
            at("javascript:alert(1)", "file_b", 3),
            at(round, "file_c", 4),
        ])
    };
    let solo =
        Solo::new(vec![SimExport::new("export_1", vec![listed("one"), listed("two")])]).await;
    solo.settle(0).await;
    for id in ["file_a", "file_b", "file_c"] {
        assert_eq!(
            (solo.links(id).len(), solo.fetches(id).len()),
            (1, 1),
            "{id} is fetched once, by its id"
        );
    }
    assert_eq!(solo.views("export_1").len(), 2);
    assert_eq!(spy.connections(), 0, "a url of a listing was asked");
}

#[tokio::test]
async fn repeated_or_missing_part_numbers_hide_no_gap() {
    let part = |id: &str, number: Option<u64>| SimFile {
        part: number,
        ..SimFile::new(id, 1, format!("[\"{id}\"]").into_bytes())
    };
    let export = |name: &str, first: [Option<u64>; 3], late: Option<u64>| {
        let file =
            |(place, number): (usize, &Option<u64>)| part(&format!("{name}_{place}"), *number);
        let files: Vec<_> = first.iter().enumerate().map(file).collect();
        let mut later = files.clone();
        later.push(part(&format!("{name}_late"), late));
        SimExport::new(name, vec![ViewStep::Success(files), ViewStep::Success(later)])
    };
    let solo = Solo::new(vec![
        export("repeated", [Some(1), Some(1), Some(3)], Some(2)),
        export("unnumbered", [Some(1), Some(5), None], Some(2)),
    ])
    .await;
    solo.settle(0).await;
    for name in ["repeated", "unnumbered"] {
        assert_eq!(
            solo.home.manifest(SHOP, name).parts.len(),
            4,
            "{name}: the part that a second view brought"
        );
    }
}

#[tokio::test]
async fn after_the_seal_there_is_no_view_call() {
    let running = SimExport::new("export_running", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![SimExport::finished("export_1", vec![file("1")]), running]).await;
    let watcher = solo.start();
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    let views = solo.views("export_1").len();
    let polls = solo.views("export_running").len();
    solo.wait_for(|seen| count(seen, |request| request.is_view_of("export_running")) >= polls + 5)
        .await;
    assert_eq!((views, solo.views("export_1").len()), (1, 1));
}

#[tokio::test]
async fn a_status_that_goes_backwards_does_not_stop_the_download() {
    // The gap asks for another view; none of these is the confirmation that it wants.
    let files = vec![SimFile::new("file_1", 1, "[1]"), SimFile::new("file_3", 3, "[3]")];
    let mut views = vec![ViewStep::Success(files.clone())];
    views.extend(["RUNNING", "CREATED", "ARCHIVING"].map(ViewStep::status));
    views.push(ViewStep::Success(files));
    let solo = Solo::new(vec![SimExport::new("export_1", views)]).await;
    let output = solo.settle(0).await;
    assert_eq!(solo.home.manifest(SHOP, "export_1").parts.len(), 2);
    assert_eq!(
        (solo.views("export_1").len(), solo.fetches("file_1").len(), solo.fetches("file_3").len()),
        (5, 1, 1)
    );
    for status in ["RUNNING", "CREATED", "ARCHIVING"] {
        assert_eq!(
            told(&output, "WARN", &format!("reports {status} after SUCCESS")).len(),
            1,
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_file_that_the_api_itself_refuses_gets_fresh_views_and_fails_only_its_export() {
    let own =
        |status| LinkStep::Answer(Canned::api_error(status, "FILE_EXPIRED", "The file is gone."));
    let statuses = [400, 404, 410];
    let export = |status: &u16| {
        SimExport::finished(
            &format!("export_{status}"),
            vec![file(&status.to_string()).on_link(own(*status))],
        )
    };
    let mut exports: Vec<_> = statuses.iter().map(export).collect();
    exports.push(SimExport::finished("export_good", vec![file("good")]));
    let solo = Solo::new(exports).await.with("[poll]\nnot_found_grace = \"100ms\"");
    solo.settle(1).await;
    for status in statuses {
        let failed = failure(&solo.home, SHOP, &format!("export_{status}"));
        assert_eq!(
            (&failed["kind"], &failed["error_code"]),
            (&json!("part_gone"), &json!("FILE_EXPIRED")),
            "{status}"
        );
        assert!(solo.links(&format!("file_{status}")).len() >= 2, "{status}");
        assert!(solo.views(&format!("export_{status}")).len() >= 2, "{status}");
    }
    solo.home.manifest(SHOP, "export_good");
}

#[tokio::test]
async fn a_link_refused_without_an_api_error_fails_nothing() {
    let page = LinkStep::Answer(Canned::html(404));
    let steps = [page.clone(), page.clone(), page.clone(), page, LinkStep::Redirect];
    let part = steps.into_iter().fold(file("1"), SimFile::on_link);
    let solo = Solo::finished(vec![part]).await;
    solo.settle(0).await;
    let waits = gaps(&solo.links("file_1"), |_| true);
    assert!(
        waits.len() == 4 && waits.iter().all(|wait| *wait >= Duration::from_millis(10)),
        "{waits:?}"
    );
}
