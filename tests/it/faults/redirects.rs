//! Where a download call may lead, kind by kind of redirect: which hop gets which headers, and
//! which hop is never made.

use std::collections::BTreeMap;

use batch_export_watcher::simulator::{
    Canned, LinkStep, Origin, Recorded, Serving, SimExport, SimFile, Simulator,
};

use super::stage::{SHOP, Scheme, Stage};
use crate::support::process::{Watcher, in_namespace};
use crate::support::raw::{Answer, FORBIDDEN_HEADERS, RawServer, Scripts};
use crate::support::scene::{count, project_key, rest_key, seen, told};
use crate::support::solo::Solo;

const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// Names of locations that lead to the file, and their templates for [`LinkStep::RedirectWith`].
const GOOD: [(&str, &str); 3] = [
    ("other_port", "{link}"),
    ("without_scheme", "//{authority}{path}"),
    ("with_fragment", "{link}#part"),
];

/// Names of locations that are never asked, their templates, and the words about them.
const BAD: [(&str, &str, &str); 17] = [
    ("user", "http://agent@{authority}{path}", "user or password"),
    ("password", "http://:word@{authority}{path}", "user or password"),
    ("file_scheme", "file:///etc/passwd", "not https"),
    ("ftp_scheme", "ftp://{authority}{path}", "not https"),
    ("data_scheme", "data:application/json,[1]", "not https"),
    ("no_url", "http://[", "invalid URL"),
    ("metadata", "http://169.254.169.254/latest/meta-data/", "metadata address"),
    ("link_local", "http://169.254.1.1/", "link-local address"),
    ("private", "http://10.0.0.1/", "private address"),
    ("carrier", "http://100.64.0.1/", "carrier-grade nat address"),
    ("this_network", "http://0.0.0.0/", "this-network address"),
    ("mapped", "http://[::ffff:127.0.0.1]:1/", "ipv4-mapped address"),
    ("nat64", "http://[64:ff9b::7f00:1]/", "nat64 address"),
    ("link_local_6", "http://[fe80::1]/", "link-local address"),
    ("unique_local", "http://[fd00:ec2::254]/", "unique-local address"),
    ("public", "https://93.184.216.34/", "public address"),
    ("unspecified", "http://[::]/", "unspecified address"),
];

fn file(id: &str) -> SimFile {
    SimFile::new(id, 1, format!("[\"{id}\"]").into_bytes())
}

fn exports_of(files: impl IntoIterator<Item = SimFile>) -> Vec<SimExport> {
    let export =
        |file: SimFile| SimExport::finished(&file.id.replace("file_", "export_"), vec![file]);
    files.into_iter().map(export).collect()
}

fn assert_credentials_stayed(requests: &[Recorded]) {
    for request in requests {
        let sent: Vec<_> =
            FORBIDDEN_HEADERS.into_iter().filter(|name| request.header(name).is_some()).collect();
        match request.origin {
            Origin::Store => assert_eq!(sent, [""; 0], "went to the store"),
            Origin::Api => {
                assert_eq!(sent, ["authorization", "x-batch-project"], "went to the API");
            }
        }
    }
}

#[tokio::test]
async fn every_redirect_status_to_an_allowed_place_is_followed_without_api_credentials() {
    let mut files = Vec::new();
    for status in STATUSES {
        for (name, location) in GOOD {
            let step = LinkStep::RedirectWith { status, location: location.to_owned() };
            files.push(file(&format!("file_{name}_{status}")).on_link(step));
        }
    }
    let solo = Solo::new(exports_of(files.clone())).await.with("[api]\nrequests_per_second = 1000");
    solo.settle(0).await;
    for file in &files {
        solo.home.assert_whole(SHOP, &file.id.replace("file_", "export_"), &[&file.content]);
        assert_eq!(
            (solo.links(&file.id).len(), solo.fetches(&file.id).len()),
            (1, 1),
            "{}",
            file.id
        );
    }
    assert_credentials_stayed(&solo.sim.requests());
}

#[tokio::test]
async fn every_redirect_status_to_a_forbidden_place_costs_an_attempt_and_no_request() {
    let mut files = Vec::new();
    let mut words = BTreeMap::new();
    for status in STATUSES {
        for (name, location, complaint) in BAD {
            let id = format!("file_{name}_{status}");
            let step = LinkStep::RedirectWith { status, location: location.to_owned() };
            files.push(file(&id).on_link(step).on_link(LinkStep::Redirect));
            words.insert(id, complaint);
        }
    }
    let solo = Solo::new(exports_of(files.clone())).await;
    let solo = solo.with("[api]\nrequests_per_second = 1000\n[download]\nmax_parts = 32");
    let output = solo.settle(0).await;
    for (id, complaint) in words {
        assert_eq!((solo.links(&id).len(), solo.fetches(&id).len()), (2, 1), "{id}");
        let told = told(&output, "WARN", complaint);
        assert!(
            told.iter().any(|line| line.contains(&id)),
            "{id}: {complaint}: {:#?}",
            output.stderr
        );
    }
    assert_eq!(told(&output, "ERROR", ""), [""; 0]);
    assert_credentials_stayed(&solo.sim.requests());
}

#[tokio::test]
async fn a_store_may_redirect_by_the_same_rules_but_never_back() {
    let onward = |status, location: &str| Canned::redirect(status, location);
    let mut files = Vec::new();
    let mut words = BTreeMap::new();
    for status in STATUSES {
        for (name, location, complaint) in
            BAD.into_iter().filter(|(_, location, _)| !location.contains('{'))
        {
            let id = format!("file_{name}_{status}");
            files.push(file(&id).on_fetch(onward(status, location)).on_fetch(Serving::well()));
            words.insert(id, complaint);
        }
    }
    let solo = Solo::new(exports_of(files)).await;
    let solo = solo.with("[api]\nrequests_per_second = 1000\n[download]\nmax_parts = 32");
    let base_url = solo.sim.api_base_url().to_owned();
    let mut home_again = Vec::new();
    for status in STATUSES {
        let id = format!("file_back_{status}");
        let back = onward(status, &format!("{base_url}/exports/download?id={id}"));
        home_again.push(file(&id).on_fetch(back).on_fetch(Serving::well()));
        words.insert(id, "leads back to the API");
    }
    for export in exports_of(home_again) {
        solo.sim.put_export("project_shop", export).expect("a project of the script");
    }
    let mut solo = solo;
    let ids: Vec<_> = words.keys().map(|id| id.replace("file_", "export_")).collect();
    solo.home.set_exports(SHOP, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let output = solo.settle(0).await;
    for (id, complaint) in &words {
        let told = told(&output, "WARN", complaint);
        assert!(
            told.iter().any(|line| line.contains(id.as_str())),
            "{id}: {complaint}: {:#?}",
            output.stderr
        );
        assert_eq!((solo.links(id).len(), solo.fetches(id).len()), (2, 2), "{id}");
    }
    assert_credentials_stayed(&solo.sim.requests());
}

/// A signature is over the letters of the link.
#[tokio::test]
async fn a_link_is_sent_letter_for_letter_where_http_allows_its_characters() {
    let cases = [
        ("quotes", "/it's/file_quotes?sig='a'&sp=r", "/it's/file_quotes?sig='a'&sp=r"),
        ("dots", "/a/./b/../c/file_dots?x", "/a/./b/../c/file_dots?x"),
        ("coded_dots", "/%2e/a/%2e%2e/b/file_coded_dots?x", "/%2e/a/%2e%2e/b/file_coded_dots?x"),
        ("slashes", "//a///b//file_slashes?x=//", "//a///b//file_slashes?x=//"),
        (
            "cases",
            "/%7efile/%2f%2F/file_cases?a=%7E~%2B+%27",
            "/%7efile/%2f%2f/file_cases?a=%7e~%2b+%27",
        ),
        (
            "marks",
            "/;v=1/@:$!*(),&=/file_marks?/?[]{}|^`\\",
            "/;v=1/@:$!*(),&=/file_marks?/?[]{}|^`\\",
        ),
        ("spaces", "/a b/file_spaces?a='b c'<>", "/a%20b/file_spaces?a='b%20c'%3c%3e"),
    ];
    let content = |name: &str| format!("[\"file_{name}\"]");
    let mut files = Vec::new();
    let (mut scripts, mut hops) = (Scripts::new(), Vec::new());
    for (name, link, _) in cases {
        let location = format!("http://{{authority}}{link}");
        let step = LinkStep::RedirectWith { status: 307, location };
        files.push(file(&format!("file_{name}")).on_link(step));
        let onward = format!("location: {link}\r\n");
        let mut answers = vec![Answer::framed(200, "", content(name))];
        // A reference that begins with two slashes begins with a host.
        if !link.starts_with("//") {
            answers.insert(0, Answer::framed(302, &onward, ""));
        }
        hops.push(answers.len());
        scripts.insert(format!("file_{name}"), answers);
    }
    let stage = Stage::new(Scheme::Http, exports_of(files), Scripts::new(), scripts).await;
    stage.settled(stage.start()).await;
    for ((name, _, sent), hops) in cases.into_iter().zip(hops) {
        let asked = stage.store.asked_for(&format!("file_{name}"));
        let line = format!("get {sent} http/1.1");
        let lines: Vec<_> = asked.iter().filter_map(|asked| asked.head.lines().next()).collect();
        assert_eq!(lines, vec![line.as_str(); hops], "{name}");
    }
}

#[tokio::test]
async fn a_redirect_chain_over_both_origins_gives_each_hop_only_its_own_headers() {
    let second = RawServer::store(([127, 0, 0, 1], 1).into(), None, last_store()).await;
    let relative = file("file_1").on_link(LinkStep::RelativeHop);
    let onward =
        Canned::redirect(302, &format!("{}/blob/file_1?signature=another", second.origin()));
    let onward = onward.with_header("set-cookie", "session=of-the-store; Path=/");
    let relative = relative.on_fetch(onward);
    let stage =
        Stage::new(Scheme::Http, exports_of([relative]), Scripts::new(), Scripts::new()).await;
    stage.settled(stage.start()).await;
    second.assert_no_forbidden_header();
    let api: Vec<_> = stage.api.asked();
    assert_eq!(api.len(), 3, "the view, the download call, and its hop");
    for asked in &api {
        assert_eq!(
            asked.header("authorization"),
            Some(format!("bearer {}", rest_key(SHOP)).as_str())
        );
        assert_eq!(asked.header("x-batch-project"), Some(project_key(SHOP).as_str()));
        assert_eq!((asked.header("cookie"), asked.header("referer")), (None, None));
    }
    assert_eq!((stage.store.asked().len(), second.asked().len()), (1, 1));
    stage.home.assert_whole(SHOP, "export_1", &[&"[\"file_1\"]".into()]);
}

fn last_store() -> Scripts {
    Scripts::from([("file_1".to_owned(), vec![Answer::framed(200, "", "[\"file_1\"]")])])
}

#[tokio::test]
async fn cookies_of_the_api_are_never_stored() {
    let running = r#"{"id":"export_1","status":"RUNNING"}"#;
    let cookie = Answer::framed(200, "set-cookie: session=of-the-api; Path=/\r\n", running);
    let scripts = Scripts::from([("export_1".to_owned(), vec![cookie.clone(), cookie])]);
    let stage =
        Stage::new(Scheme::Http, exports_of([file("file_1")]), scripts, Scripts::new()).await;
    stage.settled(stage.start()).await;
    for asked in stage.api.asked() {
        assert_eq!(
            (asked.header("cookie"), asked.header("referer")),
            (None, None),
            "{}",
            asked.head
        );
    }
}

#[tokio::test]
async fn an_api_over_https_leads_to_no_store_over_http() {
    let stage =
        Stage::new(Scheme::Https, exports_of([file("file_1")]), Scripts::new(), Scripts::new())
            .await;
    let plain = RawServer::store(stage.sim.store_address(), None, Scripts::new()).await;
    stage.sim.set_link_origin(plain.origin());
    let watcher = stage.start();
    watcher
        .wait_for_log(|line| line.contains("part failed") && line.contains("the link is not https"))
        .await;
    stage.sim.set_link_origin(stage.store.origin());
    stage.settled(watcher).await;
    assert!(plain.asked().is_empty());
    stage.home.assert_whole(SHOP, "export_1", &[&"[\"file_1\"]".into()]);
}

#[tokio::test]
async fn a_host_name_is_refused_if_any_of_its_addresses_is_forbidden() {
    // An API on loopback allows loopback only; the private address need not be the one that would
    // be tried.
    let names = "127.0.0.1 localhost\\n127.0.0.1 mixed.example\\n10.9.9.9 mixed.example\\n127.0.0.1 good.example";
    let at = |id: &str, host: &str, sim: &Simulator| {
        let port = sim.store_address().port();
        file(id).on_link(LinkStep::RedirectWith {
            status: 307,
            location: format!("http://{host}:{port}{{path}}"),
        })
    };
    let mut solo = Solo::new(Vec::new()).await;
    let exports = exports_of([
        at("file_mixed", "mixed.example", &solo.sim),
        at("file_good", "good.example", &solo.sim),
    ]);
    for export in exports {
        solo.sim.put_export("project_shop", export).expect("a project of the script");
    }
    solo.home.set_exports(SHOP, &["export_mixed", "export_good"]);
    let hosts = solo.home.path().join("hosts").display().to_string();
    let first =
        format!("printf '{names}\\n' >{hosts} && mount --bind {hosts} /etc/hosts || exit 9");
    let Some(command) = in_namespace(&solo.home.command("run", &[]), &["--mount"], &first) else {
        return;
    };
    let watcher = Watcher::spawn(command);
    watcher
        .wait_for_event(|event| {
            event["message"] == "export whole" && event["export"] == "export_good"
        })
        .await;
    watcher
        .wait_for_log(|line| {
            line.contains("part failed")
                && line.contains("mixed.example")
                && line.contains("10.9.9.9, a private address")
        })
        .await;
    let requests =
        seen(&solo.sim, |seen| count(seen, |request| request.is_link_of("file_mixed")) >= 3).await;
    assert_eq!(count(&requests, |request| request.is_fetch_of("file_mixed")), 0);
    assert_credentials_stayed(&requests);
}
