//! Where a download call may lead: the credentials stay with the API, no bad link fails an export
//! or is asked in a loop.

use std::time::Duration;

use batch_export_watcher::simulator::{
    Canned, LinkStep, Origin, Recorded, Script, SimExport, SimFile, SimProject, Simulator, ViewStep,
};

use super::support::home::Home;
use super::support::http::get;
use super::support::scene::{count, gaps, project_key, rest_key, scene, seen, told};

/// Long enough to be told from no pause at all.
const SLOW_RETRY: &str = "[retry]\ninitial = \"50ms\"\nmax = \"100ms\"";
const CREDENTIALS: [&str; 4] = ["authorization", "x-batch-project", "cookie", "referer"];

fn a_file() -> SimFile {
    SimFile::generated("file_1", 1, 5000)
}

fn redirect(status: u16, location: &str) -> LinkStep {
    LinkStep::RedirectWith { status, location: location.to_owned() }
}

fn export_of(file: SimFile) -> Vec<(&'static str, Vec<SimExport>)> {
    vec![("shop", vec![SimExport::finished("export_1", vec![file])])]
}

fn assert_credentials_stayed(requests: &[Recorded]) {
    for request in requests.iter().filter(|request| request.origin == Origin::Store) {
        let sent = CREDENTIALS.iter().find(|name| request.header(name).is_some());
        assert!(sent.is_none(), "{sent:?} went to the store");
        assert_ne!(request.status, Some(400), "the store refused a header: {request:?}");
    }
}

/// Downloads the file over what its steps put in the way; returns the requests that it took.
async fn assert_whole(file: SimFile) -> Vec<Recorded> {
    let content = file.content.clone();
    let (sim, home) = scene(export_of(file)).await;
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0, "{:#?}", output.stderr);
    home.assert_whole("shop", "export_1", &[&content]);
    assert_credentials_stayed(&sim.requests());
    sim.requests()
}

fn links(requests: &[Recorded]) -> usize {
    count(requests, |request| request.is_link_of("file_1"))
}

/// The API gives a good link from now on.
fn good_again(sim: &Simulator) {
    sim.set_views("export_1", vec![ViewStep::Success(vec![a_file()])])
        .expect("an export of the script");
}

/// The part is tried again with pauses and fails nothing, for as long as it takes, and is whole
/// once it is `mended`.
async fn assert_tried_again(
    sim: &Simulator,
    home: Home,
    words: &str,
    mended: impl Fn(&Simulator),
) -> Vec<Recorded> {
    let home = home.with(SLOW_RETRY);
    let watcher = home.start(&[]);
    let requests = seen(sim, |seen| links(seen) >= 5).await;
    let waits = gaps(&requests, |request| request.is_link_of("file_1"));
    assert!(
        waits.iter().all(|wait| *wait >= Duration::from_millis(25)),
        "without a pause: {waits:?}"
    );
    assert_credentials_stayed(&requests);
    let output = watcher.output();
    assert!(!told(&output, "WARN", words).is_empty(), "{words}: {:#?}", output.stderr);
    assert_eq!(told(&output, "ERROR", ""), [""; 0]);
    mended(sim);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    home.assert_whole("shop", "export_1", &[&a_file().content]);
    requests
}

#[tokio::test]
async fn every_kind_of_redirect_is_followed_without_credentials() {
    for status in [301, 302, 303, 307, 308] {
        let requests = assert_whole(a_file().on_link(redirect(status, "{link}"))).await;
        assert_eq!(links(&requests), 1, "{status}");
        assert_eq!(count(&requests, |request| request.is_fetch_of("file_1")), 1, "{status}");
    }
}

#[tokio::test]
async fn a_location_without_a_scheme_still_leads_off_the_api() {
    assert_whole(a_file().on_link(redirect(307, "//{authority}{path}"))).await;
}

#[tokio::test]
async fn a_relative_location_is_a_hop_on_the_api_with_credentials_and_off_it_without() {
    let requests = assert_whole(a_file().on_link(LinkStep::RelativeHop)).await;
    let hop = requests.iter().find(|request| request.path == "/2.11/exports/hop").expect("the hop");
    assert_eq!(hop.header("x-batch-project"), Some(project_key("shop").as_str()));
    assert_eq!(hop.header("authorization"), Some(format!("Bearer {}", rest_key("shop")).as_str()));
}

#[tokio::test]
async fn a_file_that_the_api_sends_itself_is_taken() {
    let requests = assert_whole(a_file().on_link(LinkStep::Direct)).await;
    assert_eq!(count(&requests, |request| request.origin == Origin::Store), 0);
}

#[tokio::test]
async fn a_file_that_the_api_sends_itself_gets_the_same_checks() {
    let page = LinkStep::Answer(Canned::html(200));
    let short = LinkStep::Answer(Canned::new(200, "application/json", "[]"));
    let long = LinkStep::Answer(Canned::new(200, "application/json", "[".repeat(6000)));
    let coded = LinkStep::Answer(
        Canned::new(200, "application/json", "[".repeat(5000))
            .with_header("content-encoding", "gzip"),
    );
    let steps = [page, short, long, coded];
    let file = steps.iter().cloned().fold(a_file(), SimFile::on_link).on_link(LinkStep::Direct);
    assert_eq!(links(&assert_whole(file).await), steps.len() + 1);
}

#[tokio::test]
async fn the_store_may_redirect_to_another_one() {
    let second = simulate_alone(a_file()).await;
    let (sim, home) = scene(export_of(a_file())).await;
    let onward = a_file().on_fetch(Canned::redirect(302, &link_of(&second).await));
    sim.set_views("export_1", vec![ViewStep::Success(vec![onward])]).unwrap();
    let (code, output) = home.start(&["--exit-when-settled"]).wait().await;
    assert_eq!(code, 0, "{:#?}", output.stderr);
    home.assert_whole("shop", "export_1", &[&a_file().content]);
    assert_eq!(count(&sim.requests(), |request| request.is_fetch_of("file_1")), 1);
    assert_eq!(count(&second.requests(), |request| request.is_fetch_of("file_1")), 1);
    assert_credentials_stayed(&sim.requests());
    assert_credentials_stayed(&second.requests());
}

/// A simulator that the program under test knows nothing of.
async fn simulate_alone(file: SimFile) -> Simulator {
    let exports = vec![SimExport::finished("export_1", vec![file])];
    let project = SimProject::new(&project_key("alone"), &rest_key("alone"), exports);
    Simulator::start(Script::new(vec![project])).await.expect("two free ports on loopback")
}

async fn link_of(sim: &Simulator) -> String {
    let url = format!("{}/exports/download?id=file_1", sim.api_base_url());
    let bearer = format!("Bearer {}", rest_key("alone"));
    let key = project_key("alone");
    get(&url, &[("authorization", &bearer), ("x-batch-project", &key)])
        .await
        .header("location")
        .to_owned()
}

#[tokio::test]
async fn a_store_that_redirects_without_end_is_left_after_five_hops() {
    let (sim, home) = scene(export_of(a_file())).await;
    sim.set_outage(Origin::Store, Some(Canned::redirect(307, "/again?and=again")));
    let outage_over = |sim: &Simulator| sim.set_outage(Origin::Store, None);
    let requests = assert_tried_again(&sim, home, "redirects more than 5 times", outage_over).await;
    let first_attempt = requests.iter().skip_while(|request| !request.is_link_of("file_1"));
    let fetches =
        first_attempt.skip(1).take_while(|request| request.origin == Origin::Store).count();
    // The API's own redirect is the first of five.
    assert_eq!(fetches, 5);
}

#[tokio::test]
async fn an_api_that_redirects_to_itself_without_end_is_left_after_five_hops() {
    let round = redirect(307, "/2.11/exports/download?id=file_1");
    let (sim, home) = scene(export_of(a_file().on_link(round))).await;
    let home = home.with(SLOW_RETRY);
    let watcher = home.start(&[]);
    let requests = seen(&sim, |seen| links(seen) >= 18).await;
    let waits = gaps(&requests, |request| request.is_link_of("file_1"));
    assert!(
        waits[5] >= Duration::from_millis(25) && waits[11] >= Duration::from_millis(25),
        "{waits:?}"
    );
    assert!(!told(&watcher.output(), "WARN", "redirects more than 5 times").is_empty());
    good_again(&sim);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
}

#[tokio::test]
async fn no_hop_leads_back_to_the_api() {
    let (sim, home) = scene(export_of(a_file())).await;
    let back = format!("{}/exports/download?id=file_1", sim.api_base_url());
    let returning = a_file().on_fetch(Canned::redirect(307, &back));
    sim.set_views("export_1", vec![ViewStep::Success(vec![returning])]).unwrap();
    let requests =
        assert_tried_again(&sim, home, "the link leads back to the API", good_again).await;
    assert!(requests.iter().all(
        |request| request.origin == Origin::Store || request.header("authorization").is_some()
    ));
}

#[tokio::test]
async fn a_location_with_a_user_in_it_is_refused() {
    assert_refused("http://user:word@{authority}{path}").await;
}

#[tokio::test]
async fn the_metadata_service_is_not_asked() {
    assert_refused("http://169.254.169.254/latest/meta-data/").await;
}

#[tokio::test]
async fn a_private_address_is_not_asked() {
    assert_refused("http://10.0.0.1/x").await;
}

#[tokio::test]
async fn a_link_local_address_is_not_asked() {
    assert_refused("http://[fe80::1]/x").await;
}

#[tokio::test]
async fn another_scheme_is_not_asked() {
    assert_refused("file:///etc/passwd").await;
}

#[tokio::test]
async fn a_location_that_is_no_url_is_refused() {
    assert_refused("http://[").await;
}

/// No store is asked for what such a `Location` says.
async fn assert_refused(location: &str) {
    let (sim, home) = scene(export_of(a_file().on_link(redirect(307, location)))).await;
    let requests =
        assert_tried_again(&sim, home, "part failed, will be repeated", good_again).await;
    assert_eq!(count(&requests, |request| request.origin == Origin::Store), 0);
}
