//! Bodies that are not what they should be: a final name appears only for the right bytes, and in
//! the end it does.

use std::time::Duration;

use batch_export_watcher::domain::checksum::{Algorithm, Check};
use batch_export_watcher::simulator::{
    Canned, ChecksumHeader, Content, Declared, Etag, SentChecksum, Serving, SimExport, SimFile,
    StoreStep, ViewStep,
};

use super::support::fault_proxy::{Fault, FaultProxy};
use super::support::look;
use super::support::solo::{SHOP, Solo};

/// Length of most files here: a few reads of a socket.
const BYTES: u64 = 200_000;

fn file(id: &str) -> SimFile {
    SimFile::generated(id, 1, BYTES)
}

/// Other bytes than those of [`file`], of this length.
fn stranger(bytes: u64) -> Content {
    Content::Generated { bytes, seed: 99 }
}

/// What the first answer is, and a word of the complaint about it.
fn broken_answers() -> Vec<(&'static str, StoreStep, &'static str)> {
    let well = Serving::well;
    vec![
        ("cut", well().cut_after(1000).into(), "127.0.0.1"),
        ("cut_chunks", well().chunked().cut_after(1000).into(), "127.0.0.1"),
        ("stalled", well().stall_after(1000).into(), "no data arrived"),
        (
            "too_long",
            well().chunked().other_content(stranger(BYTES + 1)).into(),
            "longer than the expected",
        ),
        (
            "too_short",
            well().chunked().other_content(stranger(BYTES - 1)).into(),
            "the body ended after",
        ),
        (
            "other_length",
            well().other_content(stranger(BYTES + 1)).into(),
            "the store offers 200001 bytes",
        ),
        ("error_page", Canned::html(200).into(), "the store offers"),
        (
            "compressed",
            well().header("content-encoding", "gzip").into(),
            "Content-Encoding that was not requested",
        ),
        (
            "ranged",
            StoreStep::Answer(Canned::new(206, "application/json", "[]")),
            "206 although no range",
        ),
        ("no_content", StoreStep::Answer(Canned::new(204, "application/json", "")), "answered 204"),
        (
            "broken_store",
            StoreStep::Answer(Canned::store_error(500, "InternalError", "")),
            "answered 500",
        ),
    ]
}

#[tokio::test]
async fn a_broken_body_is_fetched_again_and_nothing_is_visible_meanwhile() {
    let cases = broken_answers();
    let export = |(name, first, _): &(&str, StoreStep, &str)| {
        let part =
            file(&format!("file_{name}")).on_fetch(first.clone()).on_fetch(Serving::well().held());
        SimExport::finished(&format!("export_{name}"), vec![part])
    };
    let solo = Solo::new(cases.iter().map(export).collect()).await;
    let solo = solo.with("[download]\nmax_parts = 16\nstall_timeout = \"1s\"");
    let watcher = solo.home.start(&["--exit-when-settled"]);
    for (name, _, complaint) in &cases {
        let second = solo.wait_for_fetches(&format!("file_{name}"), 2).await.len();
        assert_eq!(second, 2, "{name}");
        let complained = |line: &str| {
            line.contains("part failed")
                && line.contains(&format!("\"export_{name}\""))
                && line.contains(complaint)
        };
        watcher.wait_for_log(complained).await;
    }
    let visible: Vec<_> =
        solo.home.tree().into_keys().filter(|path| path.ends_with(".json")).collect();
    assert_eq!(visible, [""; 0], "a final name before the right bytes");
    for (name, ..) in &cases {
        solo.sim.release(&format!("file_{name}"));
    }
    solo.settled(watcher, 0).await;
    for (name, ..) in &cases {
        solo.home.assert_whole(SHOP, &format!("export_{name}"), &[&file("any").content]);
    }
}

/// Every header that carries a checksum, with an algorithm that it is used with.
fn checksum_headers() -> Vec<(ChecksumHeader, Algorithm)> {
    use ChecksumHeader as Header;
    vec![
        (Header::ContentMd5, Algorithm::Md5),
        (Header::Digest, Algorithm::Sha1),
        (Header::Digest, Algorithm::Sha256),
        (Header::ReprDigest, Algorithm::Sha512),
        (Header::ContentDigest, Algorithm::Sha256),
        (Header::GoogHash, Algorithm::Md5),
        (Header::GoogHash, Algorithm::Crc32c),
        (Header::AmzChecksum, Algorithm::Crc32),
        (Header::AmzChecksum, Algorithm::Crc64nvme),
        (Header::AmzChecksum, Algorithm::Sha1),
    ]
}

#[tokio::test]
async fn a_wrong_checksum_of_any_kind_keeps_the_file_invisible() {
    let cases = checksum_headers();
    let export = |place: usize, (header, algorithm): (ChecksumHeader, Algorithm)| {
        let part =
            file(&format!("file_{place}")).with_checksum(SentChecksum::wrong(header, algorithm));
        SimExport::finished(&format!("export_{place}"), vec![part])
    };
    let exports = cases.iter().enumerate().map(|(place, case)| export(place, *case)).collect();
    let solo = Solo::new(exports).await;
    let watcher = solo.start();
    for (place, (header, algorithm)) in cases.iter().enumerate() {
        let fetches = solo.wait_for_fetches(&format!("file_{place}"), 3).await;
        let ranged = fetches.iter().any(|fetch| fetch.header("range").is_some());
        assert!(!ranged, "{header:?} {algorithm}: wrong bytes are not continued");
    }
    let output = watcher.kill9().await;
    let visible: Vec<_> =
        solo.home.tree().into_keys().filter(|path| path.ends_with(".json")).collect();
    assert_eq!(visible, [""; 0], "a final name in spite of the checksum");
    for (place, (header, algorithm)) in cases.iter().enumerate() {
        let complained = |line: &&String| {
            line.contains("part failed")
                && line.contains(&format!("\"export_{place}\""))
                && line.contains(&algorithm.to_string())
        };
        assert!(
            output.stderr.iter().any(|line| complained(&line)),
            "{header:?} {algorithm} is not blamed"
        );
    }
}

#[tokio::test]
async fn the_manifest_names_every_checksum_that_agreed() {
    let cases = checksum_headers();
    let export = |place: usize, (header, algorithm): (ChecksumHeader, Algorithm)| {
        let part =
            file(&format!("file_{place}")).with_checksum(SentChecksum::correct(header, algorithm));
        SimExport::finished(&format!("export_{place}"), vec![part])
    };
    let mut exports: Vec<_> =
        cases.iter().enumerate().map(|(place, case)| export(place, *case)).collect();
    let both = file("file_both")
        .with_checksum(SentChecksum::correct(ChecksumHeader::ContentMd5, Algorithm::Md5))
        .with_checksum(SentChecksum::correct(ChecksumHeader::AmzChecksum, Algorithm::Crc64nvme));
    exports.push(SimExport::finished("export_both", vec![both]));
    exports.push(SimExport::finished("export_none", vec![file("file_none")]));
    let solo = Solo::new(exports).await;
    solo.settle(0).await;
    let verified = |export: &str| solo.home.manifest(SHOP, export).parts[0].verified_by.clone();
    for (place, (header, algorithm)) in cases.iter().enumerate() {
        let checks = verified(&format!("export_{place}"));
        assert_eq!(checks, [Check::Size, algorithm.check()], "{header:?}");
    }
    assert_eq!(verified("export_both"), [Check::Size, Check::Md5, Check::Crc64nvme]);
    assert_eq!(verified("export_none"), [Check::Size]);
}

#[tokio::test]
async fn a_length_other_than_the_declared_one_is_refused_before_a_byte_and_needs_a_new_listing() {
    // The body stalls: a program that reads it notices nothing within this test.
    let first = Serving::well().claiming_length(BYTES + 1).stall_after(1000);
    let solo = Solo::finished(vec![file("file_1").on_fetch(first)]).await;
    let solo = solo.with("[retry]\ninitial = \"1m\"\nmax = \"1m\"");
    let watcher = solo.start();
    watcher
        .wait_for_log(|line| {
            line.contains("the store offers 200001 bytes, but the API declared 200000")
        })
        .await;
    solo.wait_for(|seen| seen.iter().filter(|request| request.is_view_of("export_1")).count() >= 2)
        .await;
    let partial = solo.home.export(SHOP, "export_1").join(".part-00001-file_1.json.partial");
    assert_eq!(look::metadata(&partial).map_or(0, |partial| partial.len()), 0);
    assert_eq!(solo.fetches("file_1").len(), 1, "the part waits for its retry");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_abandoned_at_the_first_extra_byte() {
    let first = Serving::well().chunked().other_content(stranger(2 * BYTES)).stall_after(BYTES + 1);
    let solo = Solo::finished(vec![file("file_1").on_fetch(first).on_fetch(Serving::well())]).await;
    let watcher = solo.home.start(&["--exit-when-settled"]);
    watcher.wait_for_log(|line| line.contains("longer than the expected 200000 bytes")).await;
    solo.settled(watcher, 0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
    assert_eq!(
        solo.fetches("file_1")[1].header("range"),
        None,
        "none of those bytes can be trusted"
    );
}

#[tokio::test]
async fn a_connection_that_is_reset_costs_an_attempt_and_nothing_more() {
    let solo = Solo::finished(vec![file("file_1")]).await;
    let faults = vec![
        Fault::RefuseConnection,
        Fault::ResetAfter { response_bytes: 100 },
        Fault::ResetAfter { response_bytes: 60_000 },
        Fault::CutAfter { response_bytes: 90_000 },
        Fault::RawAnswer(b"garbage\r\n\r\n".to_vec()),
        Fault::Pass,
    ];
    let proxy = FaultProxy::start(solo.sim.store_address(), faults).await;
    solo.sim.set_link_origin(&proxy.origin());
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
    proxy.wait_for_connections(6).await;
}

#[tokio::test]
async fn without_a_declared_size_the_framing_has_to_tell_the_end() {
    let absent = |id: &str| file(id).declaring(Declared::Absent);
    let mut html = absent("file_html");
    html.content_type = "text/html".to_owned();
    let text = |id: &str| SimFile::new(id, 1, "no json").declaring(Declared::Absent);
    let solo = Solo::new(vec![
        SimExport::finished("export_length", vec![absent("file_length")]),
        SimExport::finished(
            "export_chunks",
            vec![absent("file_chunks").on_fetch(Serving::well().chunked())],
        ),
        SimExport::finished(
            "export_cut",
            vec![
                absent("file_cut")
                    .on_fetch(Serving::well().chunked().cut_after(5000))
                    .on_fetch(Serving::well().chunked()),
            ],
        ),
        SimExport::finished("export_html", vec![html]),
        SimExport::finished("export_text", vec![text("file_text")]),
        SimExport::finished(
            "export_empty",
            vec![SimFile::new("file_empty", 1, "").declaring(Declared::Absent)],
        ),
    ])
    .await;
    let watcher = solo.start();
    for export in ["export_length", "export_chunks", "export_cut"] {
        watcher
            .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
            .await;
        solo.home.assert_whole(SHOP, export, &[&file("any").content]);
        let part = &solo.home.manifest(SHOP, export).parts[0];
        assert_eq!((part.declared_bytes, part.bytes), (None, BYTES), "{export}");
        assert_eq!(part.verified_by, [Check::Framing], "{export}");
    }
    for (name, complaint) in [
        ("html", "an HTML or XML page"),
        ("text", "does not begin with"),
        ("empty", "does not begin with"),
    ] {
        solo.wait_for_fetches(&format!("file_{name}"), 2).await;
        watcher
            .wait_for_log(|line| line.contains(&format!("file_{name}")) && line.contains(complaint))
            .await;
        assert!(solo.home.try_manifest(SHOP, &format!("export_{name}")).is_none());
    }
}

#[tokio::test]
async fn without_a_declared_size_a_body_without_framing_is_refused() {
    let solo =
        Solo::finished(vec![SimFile::new("file_1", 1, "[1]").declaring(Declared::Absent)]).await;
    let unframed = Fault::RawAnswer(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[2]".to_vec());
    let proxy = FaultProxy::start(solo.sim.store_address(), vec![unframed, Fault::Pass]).await;
    solo.sim.set_link_origin(&proxy.origin());
    let output = solo.settle(0).await;
    assert!(output.stderr.iter().any(|line| line.contains("the body has no framing")));
    solo.home.assert_whole(SHOP, "export_1", &[&"[1]".into()]);
}

#[tokio::test]
async fn a_part_of_no_bytes_becomes_an_empty_file() {
    let solo =
        Solo::finished(vec![SimFile::new("file_1", 1, ""), SimFile::new("file_2", 2, "[]")]).await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&"".into(), &"[]".into()]);
    let part = &solo.home.manifest(SHOP, "export_1").parts[0];
    assert_eq!((part.bytes, part.declared_bytes), (0, Some(0)));
}

#[tokio::test]
async fn an_expired_link_is_replaced_twice_at_once_and_then_after_a_pause_and_a_fresh_view() {
    let mut part = file("file_1");
    for _ in 0..3 {
        part = part.on_fetch(StoreStep::ExpiredLink);
    }
    let solo = Solo::finished(vec![part.on_fetch(Serving::well())]).await;
    let solo = solo.with("[retry]\ninitial = \"2s\"\nmax = \"2s\"");
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
    let links = solo.links("file_1");
    assert_eq!((links.len(), solo.fetches("file_1").len()), (4, 4));
    let at_once = links[2].at - links[0].at;
    let paused = links[3].at - links[2].at;
    assert!(paused >= Duration::from_millis(900), "a pause of {paused:?}");
    assert!(at_once < paused, "three links took {at_once:?}");
    let views = solo.views("export_1");
    let between =
        views.iter().filter(|view| view.at > links[2].at && view.at < links[3].at).count();
    assert_eq!(
        (views.len(), between),
        (2, 1),
        "one fresh view between the third link and the fourth"
    );
}

#[tokio::test]
async fn no_link_is_requested_before_its_part_has_a_slot() {
    let parts = 5;
    let part = |number: u64| {
        SimFile::generated(&format!("file_{number}"), number, 40_000).with_bytes_per_second(100_000)
    };
    let solo =
        Solo::finished((1..=parts).map(part).collect()).await.with("[download]\nmax_parts = 1");
    solo.sim.set_link_lifetime(Duration::from_secs(1));
    solo.settle(0).await;
    let mut earlier_ended = None;
    for number in 1..=parts {
        let (links, fetches) =
            (solo.links(&format!("file_{number}")), solo.fetches(&format!("file_{number}")));
        assert_eq!((links.len(), fetches.len()), (1, 1), "file_{number}");
        assert!(
            earlier_ended < Some(links[0].at),
            "file_{number}: its link was asked for before its turn"
        );
        earlier_ended = fetches[0].ended_at;
    }
}

#[tokio::test]
async fn a_file_the_store_lost_gets_views_and_tries_before_the_export_fails() {
    let lost = file("file_lost").on_fetch(Canned::store_error(404, "NoSuchKey", "gone"));
    let mut good = SimFile::generated("file_good", 2, BYTES);
    good.part = Some(2);
    let solo = Solo::finished(vec![lost, good.clone()]).await;
    let solo = solo.with("[poll]\nnot_found_grace = \"100ms\"");
    solo.settle(1).await;
    let (views, fetches) = (solo.views("export_1"), solo.fetches("file_lost"));
    assert!(fetches.len() >= 2 && solo.links("file_lost").len() == fetches.len());
    assert!(views.len() >= 2);
    assert!(
        fetches[0].at < views[1].at && views[1].at < fetches[1].at,
        "the view comes between the tries"
    );
    let notice =
        std::fs::read_to_string(solo.home.export(SHOP, "export_1").join("failed.json")).unwrap();
    let notice: serde_json::Value = serde_json::from_str(&notice).unwrap();
    assert_eq!(notice["kind"], "part_gone");
    let kept = solo.home.sha256("shop/export_1/part-00002-file_good.json");
    assert_eq!(kept, good.content.sha256(), "the other part is kept");
    assert!(solo.home.try_manifest(SHOP, "export_1").is_none());
    let partials = solo.home.tree().into_keys().filter(|path| path.ends_with(".partial")).count();
    assert_eq!(partials, 0, "nothing of a failed export is worked on: {:#?}", solo.home.tree());
}

#[tokio::test]
async fn a_file_the_store_finds_again_is_fetched() {
    let part = file("file_1")
        .on_fetch(Canned::store_error(404, "NoSuchKey", "gone"))
        .on_fetch(Serving::well());
    let solo = Solo::finished(vec![part]).await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
    assert_eq!(solo.views("export_1").len(), 2);
}

#[tokio::test]
async fn a_part_that_is_gone_and_no_longer_listed_is_left_out() {
    let good = SimFile::generated("file_good", 1, BYTES);
    let lost = SimFile::generated("file_lost", 2, BYTES).on_fetch(Canned::store_error(
        404,
        "NoSuchKey",
        "gone",
    ));
    let views =
        vec![ViewStep::Success(vec![good.clone(), lost]), ViewStep::Success(vec![good.clone()])];
    let solo = Solo::new(vec![SimExport::new("export_1", views)]).await;
    let output = solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&good.content]);
    assert!(output.stderr.iter().any(|line| line.contains("the API no longer lists it")));
}

#[tokio::test]
async fn a_part_that_is_delisted_while_it_downloads_is_finished_and_kept() {
    let one = SimFile::generated("file_one", 1, BYTES);
    // The missing number 2 is what makes the program ask a second time.
    let three =
        SimFile::generated("file_three", 3, BYTES).on_fetch(Serving::well().stall_after(1000));
    let views = vec![
        ViewStep::Success(vec![one.clone(), three.clone()]),
        ViewStep::Success(vec![one.clone()]),
    ];
    let solo = Solo::new(vec![SimExport::new("export_1", views)]).await;
    let watcher = solo.home.start(&["--exit-when-settled"]);
    solo.wait_for_fetches("file_three", 1).await;
    solo.wait_for(|seen| {
        seen.iter().filter(|view| view.is_view_of("export_1") && view.ended_at.is_some()).count()
            == 2
    })
    .await;
    solo.sim.release("file_three");
    solo.settled(watcher, 0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&one.content, &three.content]);
    assert_eq!(solo.fetches("file_three").len(), 1);
}

#[tokio::test]
async fn gaps_in_the_numbers_are_confirmed_and_a_part_that_joins_later_is_fetched() {
    let part = |number: u64| SimFile::generated(&format!("file_{number}"), number, BYTES);
    let late = vec![
        ViewStep::Success(vec![part(1), part(3)]),
        ViewStep::Success(vec![part(1), part(2), part(3)]),
    ];
    let gap = |number: u64| SimFile::generated(&format!("file_gap_{number}"), number, BYTES);
    let solo = Solo::new(vec![
        SimExport::new("export_late", late),
        SimExport::finished("export_gap", vec![gap(1), gap(4)]),
    ])
    .await
    .with("[poll]\nmin_interval = \"300ms\"\nmax_interval = \"1s\"");
    let output = solo.settle(0).await;
    let contents = [1, 2, 3, 4].map(|number| part(number).content);
    solo.home.assert_whole(SHOP, "export_late", &[&contents[0], &contents[1], &contents[2]]);
    solo.home.assert_whole(SHOP, "export_gap", &[&contents[0], &contents[3]]);
    for export in ["export_late", "export_gap"] {
        let views = solo.views(export);
        assert_eq!(views.len(), 2, "{export}");
        let pause = views[1].at - views[0].at;
        assert!(pause >= Duration::from_millis(270), "{export}: the second view after {pause:?}");
    }
    assert!(output.stderr.iter().any(|line| line.contains("2 part numbers below 4 are missing")));
}

#[tokio::test]
async fn odd_rows_are_sorted_out() {
    let twin = SimFile::generated("file_twin", 1, BYTES);
    let mut contradicting = SimFile::generated("file_odd", 1, BYTES);
    contradicting.declared = Declared::Bytes(BYTES + 1);
    let odd = SimFile::generated("file_odd", 1, BYTES);
    let (same_a, same_b) =
        (SimFile::generated("file_same_a", 1, BYTES), SimFile::new("file_same_b", 1, "[]"));
    let unnumbered = |id: &str, text: &str| SimFile { part: None, ..SimFile::new(id, 1, text) };
    let solo = Solo::new(vec![
        SimExport::finished("export_twin", vec![twin.clone(), twin.clone()]),
        SimExport::new(
            "export_odd",
            vec![
                ViewStep::Success(vec![contradicting, odd.clone()]),
                ViewStep::Success(vec![odd.clone()]),
            ],
        ),
        SimExport::finished("export_same", vec![same_a.clone(), same_b.clone()]),
        SimExport::finished(
            "export_unnumbered",
            vec![unnumbered("file_x", "[\"x\"]"), unnumbered("file_w", "[\"w\"]")],
        ),
    ])
    .await;
    let output = solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_twin", &[&twin.content]);
    solo.home.assert_whole(SHOP, "export_odd", &[&odd.content]);
    assert_eq!(solo.views("export_odd").len(), 2, "rows that contradict each other are not used");
    solo.home.assert_whole(SHOP, "export_same", &[&same_a.content, &same_b.content]);
    solo.home.assert_whole(SHOP, "export_unnumbered", &[&"[\"x\"]".into(), &"[\"w\"]".into()]);
    let paths: Vec<_> = solo
        .home
        .manifest(SHOP, "export_unnumbered")
        .parts
        .into_iter()
        .map(|part| part.path)
        .collect();
    assert_eq!(paths, ["part-00001-file_x.json", "part-00002-file_w.json"]);
    for words in ["part numbers are repeated", "2 of 2 files have no part number"] {
        assert!(output.stderr.iter().any(|line| line.contains(words)), "{words}");
    }
}

/// What the store says to the range that follows a cut.
fn unfitting_answers() -> Vec<(&'static str, StoreStep)> {
    let range = |value: &str| StoreStep::from(Serving::well().header("content-range", value));
    vec![
        ("elsewhere", range("bytes 49999-199998/200000")),
        ("other_total", range("bytes 50000-199999/200001")),
        ("short_range", range("bytes 50000-199998/200000")),
        ("no_range", range("none")),
        ("other_etag", Serving::well().header("etag", "\"another\"").into()),
        ("weak_etag", Serving::well().header("etag", "W/\"generated-200000-1\"").into()),
        ("whole", Serving::well().ignoring_range().into()),
        ("beyond", StoreStep::Answer(Canned::store_error(416, "InvalidRange", ""))),
    ]
}

#[tokio::test]
async fn after_a_cut_the_rest_is_requested_and_appended() {
    let part = file("file_1")
        .on_fetch(Serving::well().cut_after(50_000))
        .on_fetch(Serving::well().cut_after(30_000))
        .on_fetch(Serving::well());
    let solo = Solo::finished(vec![part]).await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
    let fetches = solo.fetches("file_1");
    let ranges: Vec<_> = fetches.iter().map(|fetch| fetch.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=50000-"), Some("bytes=80000-")]);
    let statuses: Vec<_> = fetches.iter().map(|fetch| fetch.status).collect();
    assert_eq!(statuses, [Some(200), Some(206), Some(206)]);
    assert_eq!(fetches[1].header("if-range"), Some(file("any").content.etag().as_str()));
    let served: u64 = fetches.iter().map(|fetch| fetch.body_bytes).sum();
    assert_eq!(served, BYTES, "no byte is fetched twice");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_the_range_starts_the_file_over() {
    let cases = unfitting_answers();
    let export = |(name, second): &(&str, StoreStep)| {
        let part = file(&format!("file_{name}"))
            .on_fetch(Serving::well().cut_after(50_000))
            .on_fetch(second.clone())
            .on_fetch(Serving::well());
        SimExport::finished(&format!("export_{name}"), vec![part])
    };
    let solo = Solo::new(cases.iter().map(export).collect()).await;
    solo.settle(0).await;
    for (name, _) in &cases {
        solo.home.assert_whole(SHOP, &format!("export_{name}"), &[&file("any").content]);
        let fetches = solo.fetches(&format!("file_{name}"));
        assert_eq!(fetches[1].header("range"), Some("bytes=50000-"), "{name}");
        let last = fetches.last().unwrap();
        let from_zero = last.status == Some(200) && last.body_bytes == BYTES;
        assert!(
            from_zero,
            "{name}: the last answer was {:?} of {} bytes",
            last.status, last.body_bytes
        );
    }
}

#[tokio::test]
async fn a_file_that_changed_after_a_cut_is_taken_whole_from_its_new_version() {
    let part = file("file_1")
        .on_fetch(Serving::well().cut_after(50_000))
        .on_fetch(Serving::well().other_content(stranger(BYTES)).cut_after(90_000))
        .on_fetch(Serving::well().other_content(stranger(BYTES)));
    let solo = Solo::finished(vec![part]).await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&stranger(BYTES)]);
    let fetches = solo.fetches("file_1");
    assert_eq!(fetches[1].status, Some(200), "another version is never appended");
    assert_eq!(fetches[2].header("range"), Some("bytes=90000-"));
    assert_eq!(fetches[2].header("if-range"), Some(stranger(BYTES).etag().as_str()));
}

#[tokio::test]
async fn a_checksum_covers_the_bytes_before_the_cut_as_well() {
    // `Digest` speaks of the whole file in a 206, too. The first answer is of other bytes under the
    // same validator.
    let liar = Serving::well()
        .other_content(stranger(BYTES))
        .header("etag", &file("any").content.etag())
        .cut_after(50_000);
    let part = file("file_1")
        .with_checksum(SentChecksum::correct(ChecksumHeader::Digest, Algorithm::Sha256))
        .on_fetch(liar)
        .on_fetch(Serving::well());
    let solo = Solo::finished(vec![part]).await;
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file("any").content]);
    let ranges: Vec<_> = solo
        .fetches("file_1")
        .iter()
        .map(|fetch| fetch.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=50000-".to_owned()), None]);
}

#[tokio::test]
async fn without_a_strong_validator_no_range_is_requested() {
    let part = |id: &str, etag| {
        let part = file(id).with_etag(etag).on_fetch(Serving::well().cut_after(50_000));
        part.on_fetch(Serving::well())
    };
    let solo = Solo::new(vec![
        SimExport::finished("export_weak", vec![part("file_weak", Etag::Weak)]),
        SimExport::finished("export_absent", vec![part("file_absent", Etag::Absent)]),
    ])
    .await;
    solo.settle(0).await;
    for name in ["weak", "absent"] {
        solo.home.assert_whole(SHOP, &format!("export_{name}"), &[&file("any").content]);
        let fetches = solo.fetches(&format!("file_{name}"));
        assert_eq!(fetches.len(), 2);
        assert_eq!(fetches[1].header("range"), None, "{name}");
    }
}
