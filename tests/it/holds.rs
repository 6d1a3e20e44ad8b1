//! What makes something larger than one call wait: 429, 503, an unknown route; how long, who else,
//! and how work goes on.

use std::time::Duration;

use batch_export_watcher::simulator::{
    Canned, Content, LinkStep, Origin, Recorded, Serving, SimExport, SimFile, Simulator, ViewStep,
};
use tokio::time::Instant;

use super::support::PATIENCE;
use super::support::machine::Machine;
use super::support::scene::{
    count, gaps, is_of, project_key, scene, scene_with_latency, seen, told,
};
use super::support::turns::punctual;

/// Asked about for ever.
fn running(id: &str) -> SimExport {
    SimExport::new(id, vec![ViewStep::status("RUNNING")])
}

fn many_running(prefix: &str, exports: usize) -> Vec<SimExport> {
    (0..exports).map(|number| running(&format!("{prefix}_{number}"))).collect()
}

/// When the last request with this status came, and when the first that is `such` came after it.
fn before_and_after(
    machine: &Machine,
    requests: &[Recorded],
    status: u16,
    such: impl Fn(&Recorded) -> bool,
) -> (Instant, Instant) {
    let refused =
        requests.iter().rposition(|request| request.status == Some(status)).expect("a refusal");
    // What was on its way when the refusal came is no call after it.
    // Never so long that the call after the wait would count as one of those.
    let on_its_way = machine.stretch(Duration::from_millis(40)).min(Duration::from_millis(500));
    let learnt = requests[refused].ended_at.expect("an answer") + on_its_way;
    let next = requests[refused + 1..].iter().find(|request| such(request) && request.at > learnt);
    let next = next.expect("a call after it");
    (requests[refused].at, next.at)
}

/// Waits until a call was refused with this status, and every call that was under way meanwhile is
/// answered.
async fn refused(sim: &Simulator, status: u16) {
    let all_answered = |seen: &[Recorded]| seen.iter().all(|request| request.status.is_some());
    seen(sim, |seen| {
        count(seen, |request| request.status == Some(status)) > 0 && all_answered(seen)
    })
    .await;
}

/// Waits until `wanted` requests are `such`, counted from the last one with this status.
async fn goes_on_after(
    sim: &Simulator,
    status: u16,
    wanted: usize,
    such: impl Fn(&Recorded) -> bool,
) -> Vec<Recorded> {
    seen(sim, |seen| {
        let refused = seen.iter().rposition(|request| request.status == Some(status));
        refused.is_some_and(|at| count(&seen[at + 1..], &such) >= wanted)
    })
    .await
}

/// No more calls than a bucket of ten that refills with ten a second lets through, in any stretch
/// of time.
fn assert_within_budget(
    machine: &Machine,
    requests: &[Recorded],
    such: impl Fn(&Recorded) -> bool,
) {
    let instants: Vec<_> =
        requests.iter().filter(|request| such(request)).map(|request| request.at).collect();
    let late = machine.worst();
    for (first, from) in instants.iter().enumerate() {
        for (last, to) in instants.iter().enumerate().skip(first) {
            let calls = last - first + 1;
            // Calls that were delayed on their way arrive closer together than they were sent.
            let budget = 10.0 + 10.0 * late.stretch(*to - *from).as_secs_f64() + 2.0;
            assert!(calls as f64 <= budget, "{calls} calls within {:?}", *to - *from);
        }
    }
}

/// A project is throttled with this answer for one call: nothing of it is asked for `wait`, and the
/// other goes on meanwhile.
async fn assert_a_project_waits(throttled: Canned, wait: Duration) {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let projects = vec![("shop", many_running("shop", 3)), ("blog", vec![running("blog_1")])];
    let (sim, home) = scene(projects).await;
    let watcher = home.start(&[]);
    seen(&sim, |seen| seen.iter().filter(|request| is_of(request, "shop")).count() >= 6).await;
    sim.set_project_outage(&project_key("shop"), Some(throttled)).expect("a project of the script");
    refused(&sim, 429).await;
    sim.set_project_outage(&project_key("shop"), None).expect("a project of the script");
    let requests = goes_on_after(&sim, 429, 6, |request| is_of(request, "shop")).await;
    let (refused, next) =
        before_and_after(&machine, &requests, 429, |request| is_of(request, "shop"));
    assert!(next - refused >= wait, "asked again after {:?}", next - refused);
    assert!(
        next - refused < machine.stretch(wait + Duration::from_secs(1)),
        "asked again after {:?} only",
        next - refused
    );
    let meanwhile =
        |request: &Recorded| is_of(request, "blog") && request.at > refused && request.at < next;
    assert!(count(&requests, meanwhile) >= 2, "the other project was held up");
    watcher.wait_for_log(|line| line.contains("the API accepts requests again")).await;
    assert_eq!(told(&watcher.output(), "WARN", "the API asks for fewer requests (429)").len(), 1);
}

#[tokio::test]
async fn a_429_with_seconds_pauses_its_project_and_no_other() {
    assert_a_project_waits(Canned::throttled(Some("2")), Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_429_with_a_date_counts_from_the_answers_own_clock() {
    let dated = Canned::throttled(Some("Sun, 06 Nov 1994 12:00:02 GMT"))
        .with_header("date", "Sun, 06 Nov 1994 12:00:00 GMT");
    assert_a_project_waits(dated, Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_429_without_a_header_backs_off_exponentially_with_jitter() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let mut views = vec![ViewStep::Answer(Canned::throttled(None)); 6];
    views.push(ViewStep::status("RUNNING"));
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    let home = home.with("[retry]\ninitial = \"100ms\"\nmax = \"800ms\"");
    let _watcher = home.start(&[]);
    let requests = seen(&sim, |seen| seen.len() >= 7).await;
    let gaps = gaps(&requests[..7], |_| true);
    for (gap, ceiling) in gaps.iter().zip([100, 200, 400, 800, 800, 800].map(Duration::from_millis))
    {
        assert!(*gap >= ceiling / 2, "{gap:?} of at least {:?}; all: {gaps:?}", ceiling / 2);
        assert!(
            *gap <= machine.stretch(ceiling + Duration::from_millis(400)),
            "{gap:?} of at most {ceiling:?}; all: {gaps:?}"
        );
    }
}

#[tokio::test]
async fn a_retry_after_of_zero_the_past_or_nonsense_counts_as_absent() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let nonsense = ["0", "soon", "-5", "1.5", "9999999999", "Sun, 06 Nov 1994 12:00:00 GMT", ""];
    let mut views: Vec<_> = nonsense
        .map(|value| ViewStep::Answer(Canned::throttled(Some(value))))
        .into_iter()
        .collect();
    views.push(ViewStep::status("RUNNING"));
    let (sim, home) = scene(vec![("shop", vec![SimExport::new("export_1", views)])]).await;
    let home = home.with("[retry]\ninitial = \"40ms\"\nmax = \"160ms\"");
    let _watcher = home.start(&[]);
    let requests = seen(&sim, |seen| seen.len() > nonsense.len()).await;
    let gaps = gaps(&requests[..=nonsense.len()], |_| true);
    for (gap, least) in gaps.iter().zip([20, 40, 80, 80, 80, 80, 80].map(Duration::from_millis)) {
        assert!(*gap >= least && *gap < machine.stretch(Duration::from_secs(1)), "{gaps:?}");
    }
}

#[tokio::test]
async fn a_503_pauses_the_whole_origin_and_then_one_probe_goes_first() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let latency = Duration::from_millis(150);
    let projects = vec![("shop", many_running("shop", 3)), ("blog", many_running("blog", 3))];
    let (sim, home) = scene_with_latency(projects, latency).await;
    let watcher = home.start(&[]);
    seen(&sim, |seen| {
        ["shop", "blog"].iter().all(|name| count(seen, |request| is_of(request, name)) >= 3)
    })
    .await;
    sim.set_outage(Origin::Api, Some(Canned::unavailable(Some("1"))));
    watcher.wait_for_log(|line| line.contains("the API is unavailable (503)")).await;
    refused(&sim, 503).await;
    sim.set_outage(Origin::Api, None);
    let requests = goes_on_after(&sim, 503, 7, |_| true).await;
    assert!(count(&requests, |request| request.status == Some(503)) <= 6, "{requests:#?}");
    let (refused, probed) = before_and_after(&machine, &requests, 503, |_| true);
    assert!(probed - refused >= Duration::from_secs(1), "asked again after {:?}", probed - refused);
    let probe = requests.iter().find(|request| request.at == probed).expect("the probe");
    let answered = probe.ended_at.expect("the probe was answered before the others were asked");
    assert!(answered - probed >= latency);
    let beside = |request: &Recorded| request.at > probed && request.at < answered;
    assert_eq!(count(&requests, beside), 0, "others went beside the probe");
    for name in ["shop", "blog"] {
        seen(&sim, |seen| {
            count(seen, |request| is_of(request, name) && request.at > answered) >= 3
        })
        .await;
    }
    watcher.wait_for_log(|line| line.contains("the API is available again")).await;
    assert_eq!(told(&watcher.output(), "WARN", "the API is unavailable (503)").len(), 1);
}

#[tokio::test]
async fn a_429_to_a_download_call_pauses_its_project() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let held_up = LinkStep::Answer(Canned::throttled(Some("1")));
    let file = SimFile::generated("file_1", 1, 1000).on_link(held_up).on_link(LinkStep::Redirect);
    let content = file.content.clone();
    let exports = vec![SimExport::finished("export_1", vec![file]), running("export_2")];
    let (sim, home) = scene(vec![("shop", exports), ("blog", vec![running("blog_1")])]).await;
    let watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    let requests = sim.requests();
    let (refused, next) =
        before_and_after(&machine, &requests, 429, |request| is_of(request, "shop"));
    assert_silent_for_a_second(&machine, &requests, refused, next, |request| {
        is_of(request, "shop")
    });
    assert!(count(&requests, |request| is_of(request, "blog") && request.at > refused) >= 2);
    home.assert_whole("shop", "export_1", &[&content]);
}

#[tokio::test]
async fn a_503_to_a_download_call_pauses_the_whole_origin() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let held_up = LinkStep::Answer(Canned::unavailable(Some("1")));
    let file = SimFile::generated("file_1", 1, 1000).on_link(held_up).on_link(LinkStep::Redirect);
    let content = file.content.clone();
    let exports = vec![SimExport::finished("export_1", vec![file])];
    let (sim, home) = scene(vec![("shop", exports), ("blog", vec![running("blog_1")])]).await;
    let watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    let requests = sim.requests();
    let (refused, next) = before_and_after(&machine, &requests, 503, |_| true);
    assert_silent_for_a_second(&machine, &requests, refused, next, |_| true);
    home.assert_whole("shop", "export_1", &[&content]);
}

/// A view may have been under way when the refusal came; whatever is asked later is asked after the
/// second is over.
fn assert_silent_for_a_second(
    machine: &Machine,
    requests: &[Recorded],
    refused: Instant,
    next: Instant,
    such: impl Fn(&Recorded) -> bool,
) {
    let margin = machine.stretch(Duration::from_millis(300));
    let early = |request: &Recorded| {
        such(request)
            && request.at > refused + margin
            && request.at < refused + Duration::from_secs(1)
    };
    assert_eq!(count(requests, early), 0, "asked {:?} after the refusal", next - refused);
}

/// A store that refuses with this answer is left alone for a second, links are not even asked for,
/// and polling goes on.
async fn assert_a_store_waits(busy: Canned) {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let status = busy.status;
    let first = SimFile::generated("file_1", 1, 1000).on_fetch(busy).on_fetch(Serving::well());
    let files = vec![first, SimFile::generated("file_2", 2, 1000)];
    let contents: Vec<_> = files.iter().map(|file| file.content.clone()).collect();
    let exports = vec![SimExport::finished("export_1", files), running("export_2")];
    let (sim, home) = scene(vec![("shop", exports)]).await;
    let home = home.with("[download]\nmax_parts = 1");
    let watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    let requests = sim.requests();
    let is_download =
        |request: &Recorded| request.origin == Origin::Store || request.path.ends_with("/download");
    let (refused, next) = before_and_after(&machine, &requests, status, is_download);
    assert!(
        next - refused >= Duration::from_secs(1),
        "the store or a link was asked after {:?}",
        next - refused
    );
    let views = |request: &Recorded| {
        request.is_view_of("export_2") && request.at > refused && request.at < next
    };
    assert!(count(&requests, views) >= 2, "polling was held up");
    home.assert_whole("shop", "export_1", &contents.iter().collect::<Vec<&Content>>());
    assert_eq!(told(&watcher.output(), "WARN", "the store asks for fewer requests").len(), 1);
}

#[tokio::test]
async fn a_store_that_answers_429_is_left_alone_while_polling_goes_on() {
    assert_a_store_waits(Canned::store_error(429, "SlowDown", "").with_header("retry-after", "1"))
        .await;
}

#[tokio::test]
async fn a_store_that_answers_503_is_left_alone_while_polling_goes_on() {
    assert_a_store_waits(Canned::store_error(503, "SlowDown", "").with_header("retry-after", "1"))
        .await;
}

#[tokio::test]
async fn a_restart_does_not_shorten_a_retry_after() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let throttled = ViewStep::Answer(Canned::throttled(Some("3")));
    let shop = SimExport::new("export_1", vec![throttled, ViewStep::status("RUNNING")]);
    let done =
        ViewStep::Held(Box::new(ViewStep::Success(vec![SimFile::generated("file_1", 1, 10)])));
    let (sim, home) =
        scene(vec![("shop", vec![shop]), ("blog", vec![SimExport::new("blog_1", vec![done])])])
            .await;
    let watcher = home.start(&[]);
    watcher.wait_for_log(|line| line.contains("the API asks for fewer requests")).await;
    // Records are written in order: once the other project's later one is durable, the pause is.
    sim.release("blog_1");
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    watcher.kill9().await;
    let _watcher = home.start(&[]);
    let requests = goes_on_after(&sim, 429, 1, |request| is_of(request, "shop")).await;
    let (refused, next) =
        before_and_after(&machine, &requests, 429, |request| is_of(request, "shop"));
    assert!(next - refused >= Duration::from_secs(3), "asked again after {:?}", next - refused);
}

#[tokio::test]
async fn the_start_of_many_exports_stays_within_the_request_budget() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let (sim, home) =
        scene(vec![("shop", many_running("shop", 60)), ("blog", many_running("blog", 20))]).await;
    let _watcher = home.start(&[]);
    let all_asked = |seen: &[Recorded]| {
        (0..60)
            .all(|number| seen.iter().any(|request| request.is_view_of(&format!("shop_{number}"))))
    };
    let requests =
        sim.wait_for(all_asked, PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
    for name in ["shop", "blog"] {
        assert_within_budget(&machine, &requests, |request| is_of(request, name));
    }
}

#[tokio::test]
async fn many_exports_that_recover_together_stay_within_the_request_budget() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let (sim, home) = scene(vec![("shop", many_running("shop", 30))]).await;
    sim.set_outage(Origin::Api, Some(Canned::unavailable(None)));
    let _watcher = home.start(&[]);
    // By then every export is due, and the bucket is full again.
    seen(&sim, |seen| seen.len() >= 12).await;
    sim.set_outage(Origin::Api, None);
    let requests = goes_on_after(&sim, 503, 30, |_| true).await;
    assert_within_budget(&machine, &requests, |_| true);
    let (_, recovered) = before_and_after(&machine, &requests, 503, |_| true);
    let outage = count(&requests, |request| request.at < recovered);
    assert!(outage < 40, "{outage} calls during the outage");
}

#[tokio::test]
async fn an_unknown_route_pauses_the_origin_loudly_and_fails_nothing() {
    let _turn = punctual().await;
    let machine = Machine::watch();
    let shop = SimExport::finished("export_1", vec![SimFile::generated("file_1", 1, 1000)]);
    let (sim, home) = scene(vec![("shop", vec![shop]), ("blog", many_running("blog", 5))]).await;
    let home = home.with("[retry]\ninitial = \"100ms\"\nmax = \"200ms\"");
    sim.set_outage(
        Origin::Api,
        Some(Canned::api_error(404, "ROUTE_NOT_FOUND", "The route does not exist.")),
    );
    let watcher = home.start(&[]);
    let refused = seen(&sim, |seen| seen.iter().any(|request| request.ended_at.is_some())).await;
    // The calls of the first moment may go side by side; once one is answered there are probes
    // only, one at a time.
    let answered = refused.iter().filter_map(|request| request.ended_at).min().expect("an answer");
    let learnt = answered + machine.stretch(Duration::from_millis(40));
    let is_probe = |request: &Recorded| request.at > learnt;
    let requests = seen(&sim, |seen| count(seen, is_probe) >= 4).await;
    let probes = gaps(&requests, is_probe);
    assert!(probes.iter().all(|gap| *gap >= Duration::from_millis(50)), "{probes:?}");
    sim.set_outage(Origin::Api, None);
    watcher.wait_for_log(|line| line.contains("export whole")).await;
    let output = watcher.output();
    assert_eq!(told(&output, "ERROR", "check base_url").len(), 1);
    assert_eq!(told(&output, "ERROR", "").len(), 1, "{:#?}", output.stderr);
}
