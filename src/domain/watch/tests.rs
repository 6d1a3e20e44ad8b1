//! Tables for what the API may say. `properties` has every order of events.

mod clock;
mod part_ends;

use super::*;
use crate::domain::checksum::Check;
use crate::domain::failure::{ApiRefusal, Hold, PartFault};
use crate::domain::part::Sha256;
use crate::domain::report::{PartListing, Report, ReportFacts};
use crate::domain::resume::StrongEtag;

pub(crate) fn policies() -> Policies {
    Policies {
        cadence: Cadence::try_new(Duration::from_secs(10), Duration::from_secs(300)).unwrap(),
        retry: RetryPolicy::doubling(Duration::from_secs(1), Duration::from_secs(600)),
        not_found_grace: Duration::from_secs(600),
    }
}

/// Drives one watch and shows its commands as short words.
struct Driver {
    watch: Watch,
    policies: Policies,
    seconds: u64,
}

pub(super) fn path() -> ExportPath {
    ExportPath { project: "shop".parse().unwrap(), export: "export_1".parse().unwrap() }
}

impl Driver {
    fn new() -> Self {
        let watch = Watch::new(path());
        Self { watch, policies: policies(), seconds: 0 }
    }

    fn step(&mut self, event: WatchEvent) -> Vec<Command> {
        let now = Moment {
            since_start: Duration::from_secs(self.seconds),
            wall: Timestamp::from_second(1_700_000_000 + i64::try_from(self.seconds).unwrap())
                .unwrap(),
        };
        let cx = StepContext { now, jitter: Unit::HALF, policies: &self.policies };
        self.watch.step(event, &cx)
    }

    fn says(&mut self, event: WatchEvent) -> Vec<String> {
        self.step(event).iter().map(brief).collect()
    }

    /// A driver whose export was seen with SUCCESS by an earlier run.
    fn resumed(kept: Kept) -> Self {
        let polling = Polling::resumed(Some(RemoteStatus::Success), kept);
        Self { watch: Watch::with_state(path(), WatchState::Polling(polling)), ..Self::new() }
    }

    /// Downloads a queued part and records it. Shows what the record leads to.
    fn fetches(&mut self, part: &PartKey) -> Vec<String> {
        self.step(WatchEvent::PartStarted(part.clone()));
        self.step(ended(part, Ok(committed(part.clone()))));
        self.says(WatchEvent::Recorded(Recorded::PartCommitted(part.clone())))
    }

    fn view(&mut self, outcome: ViewOutcome) -> Vec<String> {
        self.says(WatchEvent::Viewed(outcome))
    }
}

fn brief(command: &Command) -> String {
    match command {
        Command::ViewAfter(delay) => format!("view {:.1}", delay.as_secs_f64()),
        Command::Prepare => "prepare".into(),
        Command::QueuePart(key) => format!("queue {}", key.file_id),
        Command::RetryPartAfter(key, delay) => {
            format!("retry {} {:.2}", key.file_id, delay.as_secs_f64())
        }
        Command::Record(change) => match change {
            RecordChange::StatusSeen(status) => format!("record {}", status.as_str()),
            RecordChange::PartCommitted(part) => format!("record {}", part.key.file_id),
            RecordChange::PartialSynced(part) => format!("record partial {}", part.key.file_id),
            RecordChange::Sealing(_) => "record sealing".into(),
            RecordChange::Completed { .. } => "record completed".into(),
            RecordChange::Failed(_) => "record failed".into(),
            RecordChange::Watching => "record watching".into(),
        },
        Command::Seal(_) => "seal".into(),
        Command::WriteFailureNotice(failure) => format!("failed.json {}", failure.kind.as_str()),
        Command::RemoveFailureNotice => "remove failed.json".into(),
        Command::Notify(notice) => match notice {
            Notice::StatusChanged { to, .. } => format!("say {}", to.as_str()),
            Notice::PollFailing { .. } => "say failing".into(),
            Notice::PollRecovered => "say recovered".into(),
            Notice::Surprise { .. } => "say surprise".into(),
            Notice::PartsListed { parts, committed, .. } => format!("say {committed} of {parts}"),
            Notice::PartFailing { key, .. } => format!("say failing {}", key.file_id),
            Notice::PartAbandoned { key, .. } => format!("say abandoned {}", key.file_id),
            Notice::PartCheckpointed { key, bytes } => format!("say {} at {bytes}", key.file_id),
            Notice::PartCommitted(part) => format!("say committed {}", part.key.file_id),
            Notice::PartsGone(gone) => format!("say gone {}", gone.len()),
            Notice::ExportSealed(totals) => format!("say sealed {}", totals.parts),
            Notice::ExportCompleted(totals) => {
                format!("say whole {}/{}", totals.parts, totals.bytes)
            }
            Notice::ExportFailed(failure) => format!("say failed {}", failure.kind.as_str()),
            Notice::FailureForgotten => "say forgotten".into(),
        },
    }
}

pub(super) fn report(status: &str, files: Option<Vec<PartListing>>) -> ViewOutcome {
    ViewOutcome::Report(Report {
        export: "export_1".parse().unwrap(),
        status: RemoteStatus::parse(status),
        files,
        facts: ReportFacts::default(),
    })
}

fn success(files: &[(&str, u32)]) -> ViewOutcome {
    report("SUCCESS", Some(files.iter().map(|(id, number)| listing(id, Some(*number))).collect()))
}

pub(super) fn listing(id: &str, number: Option<u32>) -> PartListing {
    PartListing { file_id: id.parse().unwrap(), number, declared_bytes: Some(10) }
}

pub(super) fn key(id: &str, number: u32) -> PartKey {
    PartKey { number, file_id: id.parse().unwrap() }
}

pub(super) fn committed(key: PartKey) -> CommittedPart {
    CommittedPart {
        key,
        bytes: 10,
        declared_bytes: Some(10),
        sha256: Sha256::new([1; 32]),
        verified_by: vec![Check::Size],
    }
}

pub(super) fn point(bytes: u64) -> ResumePoint {
    let etag = StrongEtag::parse("\"a\"").unwrap();
    let (sha256, promised) = (Sha256::new([0; 32]), Vec::new());
    ResumePoint { bytes, sha256, total_bytes: 10, etag, promised }
}

pub(super) fn refusal(code: &str) -> ApiRefusal {
    ApiRefusal { status: 404, code: code.into(), message: String::new() }
}

fn prepared() -> WatchEvent {
    WatchEvent::Prepared { adopted: vec![], conflicts: vec![] }
}

pub(super) fn ended(key: &PartKey, outcome: Result<CommittedPart, PartFailure>) -> WatchEvent {
    WatchEvent::PartEnded { key: key.clone(), outcome }
}

pub(super) fn transient(resume: Option<ResumePoint>) -> PartFailure {
    PartFailure::Failed {
        fault: PartFault::transient("cut"),
        progressed: resume.is_some(),
        kept: resume.map(Box::new),
    }
}

pub(super) fn gone() -> PartFailure {
    PartFault::Gone { cause: "404".into(), error_code: None }.into()
}

/// A driver in Fetching with one prepared, started part.
fn fetching() -> (Driver, PartKey) {
    let mut driver = Driver::new();
    driver.view(success(&[("a", 1)]));
    driver.step(prepared());
    driver.step(WatchEvent::PartStarted(key("a", 1)));
    (driver, key("a", 1))
}

#[test]
fn a_part_that_met_a_sick_disk_waits_its_backoff_and_starts_over() {
    let (mut driver, part) = fetching();
    driver.says(ended(&part, Err(transient(Some(point(5))))));
    driver.says(WatchEvent::PartRetryDue(part.clone()));
    driver.says(WatchEvent::PartStarted(part.clone()));
    let sick = PartFault::Held(Hold::Disk { cause: "input/output error".into() });
    assert_eq!(driver.says(ended(&part, Err(sick.into()))), ["say failing a", "retry a 1.50"]);
    driver.says(WatchEvent::PartRetryDue(part.clone()));
    let resume = driver.watch.part_order(&part).unwrap().resume;
    assert_eq!(resume, None, "bytes of a sick disk are not believed");
}

#[test]
fn a_checkpoint_is_recorded_while_its_attempt_is_under_way_and_not_after() {
    let (mut driver, part) = fetching();
    let checkpoint =
        || WatchEvent::PartCheckpointed(ResumablePart { key: part.clone(), point: point(5) });
    assert_eq!(driver.says(checkpoint()), ["record partial a"]);
    let recorded = WatchEvent::Recorded(Recorded::PartialSynced { key: part.clone(), bytes: 5 });
    assert_eq!(driver.says(recorded), ["say a at 5"]);
    driver.step(ended(&part, Ok(committed(part.clone()))));
    assert_eq!(driver.says(checkpoint()), [""; 0], "the part is committed");
    let (mut driver, _) = fetching();
    driver.step(ended(&part, Err(transient(None))));
    assert_eq!(driver.says(checkpoint()), [""; 0], "the end of the attempt said where to resume");
}

#[test]
fn room_is_missing_for_what_has_not_taken_it() {
    let mut d = Driver::new();
    d.view(success(&[("a", 1), ("b", 2), ("c", 3)]));
    d.step(prepared());
    let fetching = d.watch.fetching().unwrap();
    let declared: u64 = fetching.parts().filter_map(|(_, part)| part.declared_bytes).sum();
    assert!(declared > 0);
    assert_eq!(fetching.missing_bytes(), declared);
    d.step(WatchEvent::PartStarted(key("a", 1)));
    assert_eq!(d.watch.claimed_bytes(), declared, "a part under way counts whole");
    d.step(ended(&key("a", 1), Ok(committed(key("a", 1)))));
    let claimed = d.watch.claimed_bytes();
    assert_eq!(claimed, declared / 3 * 2, "what is on disk needs no room, recorded or not");
}

#[test]
fn the_happy_path_from_created_to_whole() {
    let mut d = Driver::new();
    let said = d.view(report("CREATED", Some(vec![])));
    assert_eq!(said, ["record CREATED", "say CREATED", "view 10.0"]);
    assert_eq!(d.view(report("CREATED", None)), ["view 15.0"], "silence while nothing changes");
    assert_eq!(d.view(report("PENDING", None)), ["record PENDING", "say PENDING", "view 10.0"]);
    let early = Some(vec![listing("a", Some(1))]);
    let said = d.view(report("RUNNING", early));
    assert_eq!(said, ["record RUNNING", "say RUNNING", "view 10.0"], "nothing is fetched yet");
    let listed = success(&[("a", 1), ("b", 2)]);
    assert_eq!(d.view(listed), ["record SUCCESS", "say SUCCESS", "say 0 of 2", "prepare"]);
    assert_eq!(d.says(prepared()), ["queue a", "queue b"]);
    for id in [("a", 1), ("b", 2)] {
        d.step(WatchEvent::PartStarted(key(id.0, id.1)));
    }
    let (a, b) = (key("a", 1), key("b", 2));
    assert_eq!(d.says(ended(&b, Ok(committed(b.clone())))), ["record b"]);
    assert_eq!(d.says(ended(&a, Ok(committed(a.clone())))), ["record a"]);
    assert_eq!(d.says(WatchEvent::Recorded(Recorded::PartCommitted(a))), ["say committed a"]);
    let said = d.says(WatchEvent::Recorded(Recorded::PartCommitted(b)));
    assert_eq!(said, ["say committed b", "record sealing"]);
    assert_eq!(d.says(WatchEvent::Recorded(Recorded::Sealing)), ["seal"]);
    assert_eq!(d.says(WatchEvent::ManifestDurable), ["say sealed 2", "record completed"]);
    assert_eq!(d.says(WatchEvent::Recorded(Recorded::Completed)), ["say whole 2/20"]);
    assert!(d.watch.is_settled());
}

#[test]
fn what_one_view_leads_to_while_polling() {
    let fault = || ViewOutcome::Fault("cut".into());
    let held = || ViewOutcome::Held(Hold::Throttled { retry_after: None });
    let (hole, twice) = (success(&[("a", 1), ("c", 3)]), success(&[("a", 1), ("c", 1)]));
    let (empty, success) = (success(&[]), ["record SUCCESS", "say SUCCESS"]);
    for (outcome, expected) in [
        (report("ERROR", None), vec!["record ERROR", "say ERROR", "failed.json remote_error"]),
        (report("PAUSED", None), vec!["record PAUSED", "say PAUSED", "say surprise", "view 300.0"]),
        (report("SUCCESS", None), vec!["record SUCCESS", "say SUCCESS", "say failing", "view 0.8"]),
        (empty, [&success, &["say 0 of 0", "say surprise", "view 10.0", "prepare"][..]].concat()),
        (hole, [&success, &["say 0 of 2", "say surprise", "view 10.0", "prepare"][..]].concat()),
        (twice, vec!["record SUCCESS", "say SUCCESS", "say 0 of 2", "say surprise", "prepare"]),
        (ViewOutcome::NotFound(refusal("X")), vec!["say failing", "view 10.0"]),
        (ViewOutcome::Rejected(refusal("X")), vec!["say failing", "view 0.8"]),
        (fault(), vec!["say failing", "view 0.8"]),
        (held(), vec!["view 0.0"]),
    ] {
        let shown = format!("{outcome:?}");
        assert_eq!(Driver::new().view(outcome), expected, "{shown}");
    }
}

#[test]
fn days_of_faults_are_logged_once_and_recovery_takes_one_capped_interval() {
    let mut d = Driver::new();
    assert_eq!(d.view(ViewOutcome::Fault("refused".into())), ["say failing", "view 0.8"]);
    for _ in 0..100 {
        let said = d.view(ViewOutcome::Fault("refused".into()));
        assert_eq!(said.len(), 1, "{said:?}");
    }
    assert_eq!(d.view(ViewOutcome::Fault("refused".into())), ["view 450.0"]);
    let said = d.view(report("CREATED", None));
    assert_eq!(said, ["record CREATED", "say CREATED", "say recovered", "view 10.0"]);
}

#[test]
fn every_way_to_ask_again_backs_off_and_starts_over_after_an_answer() {
    let asked_again = |d: &mut Driver, outcome: &ViewOutcome, waits: &[&str]| {
        for wait in waits {
            assert_eq!(d.view(outcome.clone()).last().unwrap(), wait, "{outcome:?}");
        }
    };
    let fault = ViewOutcome::Fault("cut".into());
    let mut d = Driver::new();
    let waits = ["view 10.0", "view 10.0", "view 10.0", "view 10.0", "view 12.0", "view 24.0"];
    asked_again(&mut d, &ViewOutcome::NotFound(refusal("X")), &waits);
    d.view(report("RUNNING", None));
    asked_again(&mut d, &fault, &["view 0.8", "view 1.5", "view 3.0"]);
    let (mut d, _) = fetching();
    for _ in 0..2 {
        asked_again(&mut d, &fault, &["view 0.8", "view 1.5", "view 3.0"]);
        d.view(success(&[("a", 1)]));
    }
}

#[test]
fn an_unknown_export_is_given_its_grace_to_the_second() {
    let mut d = Driver::new();
    let not_found = || ViewOutcome::NotFound(refusal("EXPORT_NOT_FOUND"));
    d.view(not_found());
    d.seconds = 595;
    assert_eq!(d.view(not_found()), ["view 5.0"], "the last question comes when the grace ends");
    d.seconds = 600;
    assert_eq!(d.view(not_found()), ["failed.json not_found"]);
    assert_eq!(d.says(WatchEvent::FailureNoticeDurable), ["record failed"]);
    assert_eq!(d.says(WatchEvent::Recorded(Recorded::Failed)), ["say failed not_found"]);
    assert!(d.watch.is_settled() && !d.watch.wants_views());
}

#[test]
fn a_failed_export_is_watched_again_once_its_notice_is_gone() {
    let mut d = Driver::new();
    d.view(report("ERROR", None));
    d.says(WatchEvent::FailureNoticeDurable);
    d.says(WatchEvent::Recorded(Recorded::Failed));
    assert_eq!(d.says(WatchEvent::Retry), ["remove failed.json"]);
    assert!(d.watch.is_settled(), "a crash now leaves it failed, and it can be retried once more");
    let said = d.says(WatchEvent::FailureNoticeRemoved);
    assert_eq!(said, ["say forgotten", "record watching", "view 0.0"]);
    assert!(!d.watch.is_settled() && d.watch.wants_views());
    assert!(d.says(WatchEvent::Recorded(Recorded::Watching)).is_empty());
}

#[test]
fn a_404_after_success_expires_only_when_a_second_view_agrees() {
    let mut d = Driver::resumed(Kept::default());
    d.view(ViewOutcome::Fault("reset".into()));
    assert_eq!(d.view(ViewOutcome::NotFound(refusal("X"))), ["say failing", "view 10.0"]);
    assert_eq!(d.view(ViewOutcome::NotFound(refusal("X"))), ["failed.json expired"]);
}

#[test]
fn a_missing_file_gets_fresh_views_and_more_tries_until_the_grace_is_over() {
    let (mut d, a) = fetching();
    let again = |d: &mut Driver| {
        d.step(WatchEvent::PartRetryDue(key("a", 1)));
        d.step(WatchEvent::PartStarted(key("a", 1)));
    };
    assert_eq!(d.says(ended(&a, Err(gone()))), ["say failing a", "view 10.0"]);
    assert!(d.watch.wants_views());
    assert_eq!(d.view(success(&[("a", 1)])), ["retry a 0.75"]);
    again(&mut d);
    d.seconds += 599;
    assert_eq!(d.says(ended(&a, Err(gone()))), ["view 10.0"], "it may come yet");
    assert_eq!(d.view(success(&[("a", 1)])), ["retry a 1.50"]);
    again(&mut d);
    d.seconds += 1;
    assert_eq!(d.says(ended(&a, Err(gone()))), ["say abandoned a", "failed.json part_gone"]);
}

#[test]
fn a_missing_file_of_a_forgotten_export_means_expired_and_keeps_what_is_there() {
    let mut d = Driver::new();
    d.view(success(&[("a", 1), ("b", 2)]));
    d.step(prepared());
    for part in [key("a", 1), key("b", 2)] {
        d.step(WatchEvent::PartStarted(part));
    }
    assert_eq!(d.says(ended(&key("a", 1), Err(gone()))), ["say failing a", "view 10.0"]);
    d.view(ViewOutcome::NotFound(refusal("X")));
    assert!(d.view(ViewOutcome::NotFound(refusal("X"))).is_empty(), "a part under way is awaited");
    assert!(d.watch.part_order(&key("a", 1)).is_none());
    d.step(ended(&key("b", 2), Ok(committed(key("b", 2)))));
    let said = d.says(WatchEvent::Recorded(Recorded::PartCommitted(key("b", 2))));
    assert_eq!(said, ["say committed b", "failed.json expired"]);
    let WatchState::Failing { kept, .. } = d.watch.state() else { panic!("{:?}", d.watch) };
    assert_eq!(kept.committed.len(), 1);
}

#[test]
fn a_delisted_missing_file_is_left_out_and_a_new_one_is_fetched() {
    let (mut d, a) = fetching();
    d.step(ended(&a, Err(gone())));
    assert_eq!(d.view(success(&[("b", 2)])), ["queue b", "say 0 of 2", "say surprise"]);
    assert_eq!(d.fetches(&key("b", 2)), ["say committed b", "record sealing"]);
}

#[test]
fn a_part_backs_off_resumes_and_asks_for_a_view_now_and_then() {
    let (mut d, a) = fetching();
    let cut = transient(Some(point(4)));
    assert_eq!(d.says(ended(&a, Err(cut))), ["say failing a", "retry a 0.75"]);
    assert!(d.watch.part_order(&a).is_none(), "not before its wait is over");
    assert_eq!(d.says(WatchEvent::PartRetryDue(a.clone())), ["queue a"]);
    assert_eq!(d.watch.part_order(&a).unwrap().resume, Some(point(4)));
    d.step(WatchEvent::PartStarted(a.clone()));
    assert_eq!(d.says(ended(&a, Err(transient(None)))), ["retry a 1.50"]);
    d.step(WatchEvent::PartRetryDue(a.clone()));
    d.step(WatchEvent::PartStarted(a.clone()));
    assert_eq!(d.says(ended(&a, Err(transient(None)))), ["retry a 3.00", "view 10.0"]);
}

#[test]
fn a_conflict_fails_the_export_after_everything_else_is_downloaded() {
    let mut d = Driver::new();
    d.view(success(&[("a", 1), ("b", 2)]));
    let said = d.says(WatchEvent::Prepared {
        adopted: vec![],
        conflicts: vec![(key("a", 1), "foreign".into())],
    });
    assert_eq!(said, ["say abandoned a", "queue b"]);
    assert_eq!(d.fetches(&key("b", 2)), ["say committed b", "failed.json conflict"]);
}

#[test]
fn parts_of_an_earlier_run_are_not_asked_for_again() {
    let mut kept = Kept::default();
    kept.committed.insert("a".parse().unwrap(), committed(key("a", 1)));
    let mut d = Driver::resumed(kept);
    assert_eq!(d.view(success(&[("a", 1), ("b", 2)])), ["say 1 of 2", "prepare"]);
    assert_eq!(d.says(prepared()), ["queue b"]);
}

#[test]
fn an_empty_export_is_whole_after_a_second_view_confirms_it() {
    let mut d = Driver::new();
    d.view(report("SUCCESS", Some(vec![])));
    assert!(d.says(prepared()).is_empty());
    assert_eq!(d.view(report("SUCCESS", Some(vec![]))), ["record sealing"]);
}

/// If each event looked at every part, this would take minutes.
#[test]
fn events_of_a_hundred_thousand_parts_take_linear_time() {
    let files: Vec<_> =
        (1..=100_000_u32).map(|number| listing(&format!("f{number}"), Some(number))).collect();
    let mut driver = Driver::new();
    driver.view(report("SUCCESS", Some(files)));
    driver.step(prepared());
    for number in 1..=100_000_u32 {
        driver.fetches(&key(&format!("f{number}"), number));
    }
    assert!(matches!(driver.watch.state(), WatchState::Sealing { .. }));
}
