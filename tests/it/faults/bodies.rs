//! Bodies that are broken byte by byte, on http and https: each costs one attempt of its part,
//! nothing is visible before the right bytes are, and in the end they are.

use std::time::Duration;

use batch_export_watcher::domain::checksum::Algorithm;
use batch_export_watcher::simulator::{
    Canned, ChecksumHeader, Declared, SentChecksum, Serving, SimExport, SimFile, StoreStep,
};

use super::stage::{SHOP, Scheme, Stage, assert_paused};
use crate::support::raw::{Answer, Scripts};
use crate::support::scene::told;

/// Length of the files: more than a head, less than a read.
const BYTES: usize = 20_000;
/// Between two bytes of an answer that drips.
const DRIP: Duration = Duration::from_millis(50);

fn content() -> String {
    let row = "{\"custom_id\":\"0123456789\"},";
    format!("[{}]", row.repeat(BYTES).get(..BYTES - 2).expect("ascii"))
}

fn file(name: &str) -> SimFile {
    SimFile::new(&format!("file_{name}"), 1, content().into_bytes())
}

/// A good head of a whole answer, and the first `bytes` of the body.
fn begun(bytes: usize) -> Answer {
    Answer::of(200, &format!("content-length: {BYTES}\r\n"), &content()[..bytes])
}

fn chunked(body: &str) -> Answer {
    Answer::of(200, "transfer-encoding: chunked\r\n", body)
}

fn whole(lines: &str) -> Answer {
    Answer::framed(200, lines, content())
}

/// A good answer that stops in the middle until it is released.
fn held() -> Answer {
    begun(BYTES / 2).then_wait().then(Answer::raw(&content()[BYTES / 2..]))
}

/// What the store sends at first, and a word of the complaint about it.
fn broken() -> Vec<(&'static str, Answer, &'static str)> {
    let half = &content()[..BYTES / 2];
    let chunk = format!("{:x}\r\n{}\r\n", BYTES, content());
    let half_chunk = format!("{BYTES:x}\r\n{half}");
    vec![
        ("no_answer", Answer::raw(""), "127.0.0.1"),
        ("head_cut", Answer::raw("HTTP/1.1 200 OK\r\ncontent-len"), "127.0.0.1"),
        ("head_reset", Answer::raw("HTTP/1.1 200 OK\r\ncontent-len").and_reset(), "127.0.0.1"),
        ("head_never", Answer::nothing(), "no answer within 5s"),
        (
            "head_drips",
            Answer::raw("HTTP/1.1 200 OK\r\nx: ").then_dripping("x".repeat(400), DRIP),
            "no answer within 5s",
        ),
        (
            "head_endless",
            Answer::raw(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20))),
            "the head of the answer is larger than 64 KiB",
        ),
        ("head_garbage", Answer::raw("220 ftp.example ready\r\n\r\n"), "127.0.0.1"),
        ("head_without_status", Answer::raw("HTTP/1.1 OK\r\n\r\n"), "127.0.0.1"),
        ("two_lengths", whole("content-length: 7\r\n"), "127.0.0.1"),
        ("length_in_words", Answer::of(200, "content-length: many\r\n", content()), "127.0.0.1"),
        ("length_negative", Answer::of(200, "content-length: -1\r\n", content()), "127.0.0.1"),
        (
            "length_beyond_numbers",
            Answer::of(200, "content-length: 99999999999999999999\r\n", content()),
            "127.0.0.1",
        ),
        (
            "length_one_more",
            Answer::of(200, &format!("content-length: {}\r\n", BYTES + 1), content()),
            "the store offers 20001 bytes",
        ),
        (
            "length_one_less",
            Answer::of(200, &format!("content-length: {}\r\n", BYTES - 1), content()),
            "the store offers 19999 bytes",
        ),
        ("body_closed", begun(BYTES / 2), "127.0.0.1"),
        ("body_cut", begun(BYTES - 1).and_cut(), "127.0.0.1"),
        ("body_reset", begun(BYTES / 2).and_reset(), "127.0.0.1"),
        ("chunk_cut", chunked(&half_chunk), "127.0.0.1"),
        ("chunk_reset", chunked(&half_chunk).and_reset(), "127.0.0.1"),
        ("chunks_without_end", chunked(&chunk), "127.0.0.1"),
        ("chunks_with_half_an_end", chunked(&format!("{chunk}0\r\n")), "127.0.0.1"),
        ("chunk_size_no_number", chunked(&format!("zz\r\n{half}")), "127.0.0.1"),
        ("chunk_size_overflows", chunked(&format!("ffffffffffffffffff\r\n{half}")), "127.0.0.1"),
        (
            "chunks_too_long",
            chunked(&format!("{chunk}1\r\n]\r\n0\r\n\r\n")),
            "longer than the expected 20000 bytes",
        ),
        (
            "chunks_too_short",
            chunked(&format!("{:x}\r\n{half}\r\n0\r\n\r\n", BYTES / 2)),
            "the body ended after 10000",
        ),
        ("unframed_too_short", Answer::of(200, "", half), "the body ended after 10000"),
        ("gzip", whole("content-encoding: gzip\r\n"), "Content-Encoding that was not requested"),
        (
            "brotli_behind_identity",
            whole("content-encoding: identity\r\ncontent-encoding: br\r\n"),
            "Content-Encoding that was not requested",
        ),
        (
            "gzip_behind_no_coding",
            whole("content-encoding: aws-chunked,gzip\r\n"),
            "Content-Encoding that was not requested",
        ),
        (
            "a_part_nobody_asked_for",
            Answer::framed(206, "content-range: bytes 0-9999/20000\r\n", half),
            "206 although no range",
        ),
        (
            "a_range_of_another_length",
            Answer::framed(206, "content-range: bytes 0-19999/20000\r\n", half),
            "the range has the wrong length",
        ),
        (
            "a_whole_range_cut",
            Answer::of(206, "content-range: bytes 0-19999/20000\r\n", half),
            "the body ended after 10000",
        ),
        (
            "head_too_large",
            whole(&format!("x: {}\r\n", "x".repeat(64 << 10))),
            "the head of the answer is larger than 64 KiB",
        ),
        (
            "html_page",
            Answer::framed(200, "content-type: text/html\r\n", "<!doctype html><p>Sign in"),
            "the store offers",
        ),
        (
            "xml_error",
            Answer::framed(200, "content-type: application/xml\r\n", "<Error/>"),
            "the store offers",
        ),
        ("other_bytes_of_that_length", whole("content-md5: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), "md5"),
        ("no_content", Answer::of(204, "", ""), "answered 204"),
        ("not_modified", Answer::of(304, "", ""), "answered 304"),
        ("teapot", Answer::framed(418, "", "no"), "answered 418"),
        ("server_error", Answer::framed(500, "", content()), "answered 500"),
        ("ssl_of_a_cdn", Answer::framed(526, "", ""), "answered 526"),
        ("status_999", Answer::framed(999, "", ""), "answered 999"),
    ]
}

async fn each_is_fetched_again(scheme: Scheme) {
    let cases = broken();
    let export = |name: &str| SimExport::finished(&format!("export_{name}"), vec![file(name)]);
    let exports = cases.iter().map(|(name, ..)| export(name)).collect();
    let script = |(name, first, _): &(&str, Answer, &str)| {
        (format!("file_{name}"), vec![first.clone(), held()])
    };
    let stage =
        Stage::new(scheme, exports, Scripts::new(), cases.iter().map(script).collect()).await;
    let home = stage.home.with("[api]\nrequest_timeout = \"5s\"");
    let stage = Stage { home, ..stage };
    let watcher = stage.start();
    for (name, _, complaint) in &cases {
        stage.store.wait_for(&format!("file_{name}"), 2).await;
        let complained = |line: &str| {
            line.contains("part failed")
                && line.contains(&format!("\"export_{name}\""))
                && line.contains(complaint)
        };
        watcher.wait_for_log(complained).await;
    }
    assert_eq!(stage.visible(), [""; 0], "a final name before the right bytes");
    stage.store.release();
    let output = stage.settled(watcher).await;
    for (name, ..) in &cases {
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content().as_str().into()]);
        let asked = stage.store.asked_for(&format!("file_{name}"));
        assert_eq!(asked.len(), 2, "{name}: a second layer tries again");
        assert_paused(name, &asked.iter().map(|asked| asked.at).collect::<Vec<_>>());
        assert_eq!(asked[1].header("range"), None, "{name}: there was no validator to go on by");
    }
    assert_eq!(told(&output, "ERROR", ""), [""; 0]);
}

#[tokio::test]
async fn over_http_each_broken_body_costs_one_attempt_and_is_never_seen() {
    each_is_fetched_again(Scheme::Http).await;
}

#[tokio::test]
async fn over_https_each_broken_body_costs_one_attempt_and_is_never_seen() {
    each_is_fetched_again(Scheme::Https).await;
}

#[tokio::test]
async fn a_stalled_body_is_abandoned_over_http_and_over_https() {
    for scheme in [Scheme::Http, Scheme::Https] {
        let export = SimExport::finished("export_1", vec![file("stalled")]);
        let scripts =
            Scripts::from([("file_stalled".to_owned(), vec![begun(BYTES / 2).and_silent()])]);
        let stage = Stage::new(scheme, vec![export], Scripts::new(), scripts).await;
        let stage =
            Stage { home: stage.home.with("[download]\nstall_timeout = \"300ms\""), ..stage };
        let output = stage.settled(stage.start()).await;
        assert_eq!(told(&output, "WARN", "no data arrived for 300ms").len(), 1, "{scheme:?}");
        stage.home.assert_whole(SHOP, "export_1", &[&content().as_str().into()]);
    }
}

#[tokio::test]
async fn a_tls_stream_without_a_close_notify_does_not_prove_the_end() {
    // All bytes are there, but nothing says so: neither a length nor the end of the TLS stream.
    let unframed = Answer::of(200, "", content()).and_cut();
    let absent =
        SimExport::finished("export_absent", vec![file("absent").declaring(Declared::Absent)]);
    let declared = SimExport::finished("export_declared", vec![file("declared")]);
    let scripts =
        ["file_absent", "file_declared"].map(|id| (id.to_owned(), vec![unframed.clone(), held()]));
    let stage =
        Stage::new(Scheme::Https, vec![absent, declared], Scripts::new(), scripts.into()).await;
    let watcher = stage.start();
    for (id, complaint) in [("file_absent", "no framing"), ("file_declared", "127.0.0.1")] {
        stage.store.wait_for(id, 2).await;
        watcher
            .wait_for_log(|line| {
                line.contains("part failed") && line.contains(id) && line.contains(complaint)
            })
            .await;
    }
    assert_eq!(stage.visible(), [""; 0]);
    stage.store.release();
    stage.settled(watcher).await;
}

#[tokio::test]
async fn unusual_but_correct_answers_are_accepted() {
    let chunk = format!("{:x};ext=1\r\n{}\r\n0\r\ntrailer: x\r\n\r\n", BYTES, content());
    let coded = |coding: &str| whole(&format!("content-encoding: {coding}\r\n"));
    let ranged = format!("content-range: bytes 0-{}/{BYTES}\r\n", BYTES - 1);
    let cases = [
        ("coded_as_a_charset", coded("UTF-8")),
        ("coded_as_nothing", coded("none")),
        ("coded_as_binary", coded("binary")),
        ("coded_on_its_way_up", coded("aws-chunked")),
        ("coded_as_two_things", coded("identity, utf8")),
        (
            "coded_in_chunks",
            Answer::of(200, "content-encoding: utf-8\r\ntransfer-encoding: chunked\r\n", &chunk),
        ),
        ("a_whole_range", Answer::framed(206, &ranged, content())),
        ("a_whole_range_until_closed", Answer::of(206, &ranged, content())),
        ("many_headers", whole(&crate::support::raw::headers(1_000))),
        ("same_length_twice", whole(&format!("content-length: {BYTES}\r\n"))),
        (
            "chunks_win_over_length",
            Answer::of(200, "content-length: 5\r\ntransfer-encoding: chunked\r\n", &chunk),
        ),
        ("extensions_and_trailers", chunked(&chunk)),
        ("identity", whole("content-encoding: identity\r\n")),
        (
            "named_elsewhere",
            whole("content-disposition: attachment; filename=\"../../../../tmp/evil\"\r\n"),
        ),
        ("another_type", whole("content-type: text/html\r\n")),
        ("a_cookie_that_nobody_keeps", whole("set-cookie: a=b; Path=/\r\n")),
        (
            "early_hints",
            Answer::raw("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n").then(whole("")),
        ),
        ("until_closed", Answer::of(200, "", content())),
        ("on_an_open_connection", whole("").and_open()),
    ];
    let exports = cases
        .iter()
        .map(|(name, _)| SimExport::finished(&format!("export_{name}"), vec![file(name)]))
        .collect();
    let scripts =
        cases.iter().map(|(name, answer)| (format!("file_{name}"), vec![answer.clone()])).collect();
    let stage = Stage::new(Scheme::Http, exports, Scripts::new(), scripts).await;
    let output = stage.settled(stage.start()).await;
    for (name, _) in &cases {
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content().as_str().into()]);
        assert_eq!(stage.store.asked_for(&format!("file_{name}")).len(), 1, "{name}");
    }
    assert_eq!(told(&output, "WARN", ""), [""; 0]);
}

#[tokio::test]
async fn without_a_declared_size_error_pages_and_cut_bodies_are_refused() {
    let absent = |name: &str| file(name).declaring(Declared::Absent);
    let length = format!("content-length: {BYTES}\r\n");
    let half_chunk = format!("{:x}\r\n{}", BYTES, &content()[..100]);
    let typed = |kind: &str| whole(&format!("content-type: {kind}\r\n"));
    let cases = [
        ("html", typed("text/html; charset=utf-8"), "HTML or XML"),
        ("html_in_capitals", typed("TEXT/HTML"), "HTML or XML"),
        ("xhtml", typed("application/xhtml+xml"), "HTML or XML"),
        ("xml", typed("application/xml"), "HTML or XML"),
        ("text_xml", typed("text/xml"), "HTML or XML"),
        (
            "a_page_without_a_type",
            Answer::framed(200, "", "<!doctype html>"),
            "does not begin with",
        ),
        (
            "text",
            Answer::framed(200, "content-type: application/json\r\n", "null"),
            "does not begin with",
        ),
        ("empty", Answer::framed(200, "", ""), "does not begin with"),
        ("cut", Answer::of(200, &length, &content()[..100]), "127.0.0.1"),
        ("chunks_cut", chunked(&half_chunk), "127.0.0.1"),
        ("unframed", Answer::of(200, "", content()), "no framing"),
        ("http_1_0", Answer::raw(format!("HTTP/1.0 200 OK\r\n\r\n{}", content())), "no framing"),
    ];
    let exports = cases
        .iter()
        .map(|(name, ..)| SimExport::finished(&format!("export_{name}"), vec![absent(name)]))
        .collect();
    let scripts = cases
        .iter()
        .map(|(name, answer, _)| (format!("file_{name}"), vec![answer.clone(), held()]))
        .collect();
    let stage = Stage::new(Scheme::Http, exports, Scripts::new(), scripts).await;
    let watcher = stage.start();
    for (name, _, complaint) in &cases {
        stage.store.wait_for(&format!("file_{name}"), 2).await;
        let id = format!("\"export_{name}\"");
        watcher
            .wait_for_log(|line| {
                line.contains("part failed") && line.contains(&id) && line.contains(complaint)
            })
            .await;
    }
    assert_eq!(stage.visible(), [""; 0]);
    stage.store.release();
    stage.settled(watcher).await;
    for (name, ..) in &cases {
        assert_eq!(
            stage.home.manifest(SHOP, &format!("export_{name}")).parts[0].declared_bytes,
            None,
            "{name}"
        );
    }
}

#[tokio::test]
async fn without_a_declared_size_a_checksum_proves_that_a_coding_codes_nothing() {
    let absent = |name: &str| file(name).declaring(Declared::Absent);
    let digest = SentChecksum::correct(ChecksumHeader::ContentMd5, Algorithm::Md5);
    let coded = || Serving::well().header("content-encoding", "UTF-8");
    let proven = absent("proven").with_checksum(digest).on_fetch(coded());
    let unproven = absent("unproven").on_fetch(coded()).on_fetch(Serving::well());
    let export =
        |file: SimFile| SimExport::finished(&file.id.replace("file", "export"), vec![file]);
    let exports = vec![export(proven), export(unproven)];
    let stage = Stage::new(Scheme::Http, exports, Scripts::new(), Scripts::new()).await;
    let output = stage.settled(stage.start()).await;
    let told = told(&output, "WARN", "neither a size nor a checksum proves");
    assert_eq!(told.len(), 1, "{:#?}", output.stderr);
    for (name, asked) in [("proven", 1), ("unproven", 2)] {
        assert_eq!(stage.store.asked_for(&format!("file_{name}")).len(), asked, "{name}");
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content().as_str().into()]);
    }
}

#[tokio::test]
async fn a_refused_link_is_requested_again_and_does_not_count_against_the_key() {
    let statuses = [400, 401, 403, 410];
    let export = |status: &u16| {
        let refused = || Canned::store_error(*status, "AccessDenied", "");
        let part = file(&format!("{status}"))
            .on_fetch(refused())
            .on_fetch(refused())
            .on_fetch(Serving::well());
        SimExport::finished(&format!("export_{status}"), vec![part])
    };
    let stage = Stage::new(
        Scheme::Http,
        statuses.iter().map(export).collect(),
        Scripts::new(),
        Scripts::new(),
    )
    .await;
    // One more refusal, and a part would wait for an hour.
    stage.home.write_config();
    let stage = Stage { home: stage.home.with("[retry]\ninitial = \"1h\"\nmax = \"1h\""), ..stage };
    let output = stage.settled(stage.start()).await;
    for status in statuses {
        let id = format!("file_{status}");
        assert_eq!(stage.api.asked_for(&id).len(), 3, "{status}: a link each");
        assert_eq!(stage.store.asked_for(&id).len(), 3, "{status}");
    }
    assert!(
        told(&output, "ERROR", "").is_empty() && told(&output, "WARN", "").is_empty(),
        "{:#?}",
        output.stderr
    );
}

#[tokio::test]
async fn a_part_that_waits_for_its_retry_gives_up_its_slot() {
    let lost = SimFile::new("file_lost", 1, content().into_bytes())
        .on_fetch(StoreStep::from(Canned::store_error(500, "Broken", "")));
    let good = SimFile::new("file_good", 2, content().into_bytes())
        .with_checksum(SentChecksum::correct(ChecksumHeader::GoogHash, Algorithm::Crc32c));
    let export = SimExport::finished("export_1", vec![lost, good]);
    let stage = Stage::new(Scheme::Http, vec![export], Scripts::new(), Scripts::new()).await;
    let home =
        stage.home.with("[download]\nmax_parts = 1\n[retry]\ninitial = \"1h\"\nmax = \"1h\"");
    let watcher = home.start(&[]);
    watcher
        .wait_for_event(|event| event["message"] == "part committed" && event["part"] == 2)
        .await;
    assert_eq!(stage.store.asked_for("file_lost").len(), 1);
}

/// The rate is measured over a minute of waiting, so this takes one. Run it by name, with
/// `--run-ignored all`.
#[tokio::test]
#[ignore = "takes a minute"]
async fn a_body_below_the_minimum_rate_is_abandoned() {
    let dripping = begun(0).then_dripping(content(), Duration::from_millis(200));
    let export = SimExport::finished("export_1", vec![file("slow")]);
    let scripts = Scripts::from([("file_slow".to_owned(), vec![dripping])]);
    let stage = Stage::new(Scheme::Http, vec![export], Scripts::new(), scripts).await;
    let home = stage.home.with("[download]\nmin_rate = \"1KiB/s\"");
    let stage = Stage { home, ..stage };
    let watcher = stage.start();
    let given_up = |line: &str| {
        line.contains("part failed") && line.contains("fewer than download.min_rate requires")
    };
    watcher.wait_for_log_within(given_up, Duration::from_secs(75)).await;
    stage.settled(watcher).await;
    stage.home.assert_whole(SHOP, "export_1", &[&content().as_str().into()]);
}
