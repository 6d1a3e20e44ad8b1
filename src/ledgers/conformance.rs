//! What every ledger has to do, by the port alone: [`conforms!`] makes a test of each function.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::checksum::{Algorithm, Check, PromisedChecksum};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{ExportId, ExportKey, ProjectDigest, ProjectKey};
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::report::RemoteStatus;
use crate::domain::resume::{ResumablePart, ResumePoint, StrongEtag};
use crate::domain::stage::PauseScope;
use crate::ports::{Epoch, ExportRecord, Fact, Ledger, LedgerFault, RecordedState};

/// Where one ledger is kept, empty at first.
pub(crate) trait Home {
    type Ledger: Ledger;

    /// Another connection, as another process would have one.
    async fn open(&self) -> Self::Ledger;
}

/// A test of each rule for the ledger that is kept in `$home`.
macro_rules! conforms {
    ($home:expr) => {
        $crate::ledgers::conformance::conforms!($home;
            every_fact_survives_a_restart,
            a_failure_stays_until_it_is_watched_again,
            a_resume_point_stays_until_its_part_is_committed,
            of_a_long_history_only_the_exports_that_are_asked_for_are_read,
            parts_of_one_batch_are_recorded_whatever_their_order,
            what_is_forgotten_is_gone_with_its_parts_and_nothing_else_is,
            exports_are_found_by_their_ids_in_every_project,
            facts_that_are_committed_again_change_nothing,
            a_later_claim_ends_every_earlier_one,
            of_claims_at_the_same_time_one_may_write,
            a_commit_that_is_given_up_half_way_leaves_all_or_nothing
        );
    };
    ($home:expr; $($rule:ident),*) => {
        $(
            #[tokio::test]
            async fn $rule() {
                $crate::ledgers::conformance::$rule(&$home).await;
            }
        )*
    };
}
pub(crate) use conforms;

pub(crate) fn project(key: &str) -> ProjectDigest {
    ProjectDigest::of(&key.parse::<ProjectKey>().unwrap())
}

pub(crate) fn export(id: &str) -> ExportKey {
    ExportKey { project: project("project_one"), export: id.parse().unwrap() }
}

pub(crate) fn part(number: u32) -> CommittedPart {
    CommittedPart {
        key: PartKey { number, file_id: format!("file-{number}").parse().unwrap() },
        bytes: 5_000_000_000,
        declared_bytes: number.is_multiple_of(2).then_some(5_000_000_000),
        sha256: Sha256::new([9; 32]),
        verified_by: vec![Check::Size, Check::Crc64nvme],
    }
}

pub(crate) fn partial(number: u32) -> ResumablePart {
    let etag = StrongEtag::parse("\"v1\"").unwrap();
    let md5 = PromisedChecksum { algorithm: Algorithm::Md5, value: vec![3; 16] };
    let (sha256, promised) = (Sha256::new([7; 32]), vec![md5]);
    ResumablePart {
        key: part(number).key,
        point: ResumePoint { bytes: 40, sha256, total_bytes: 100, etag, promised },
    }
}

pub(crate) fn failure() -> Failure {
    Failure {
        kind: FailureKind::Rejected,
        cause: "no".to_owned(),
        error_code: Some("MALFORMED_PARAMETER".to_owned()),
        at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
    }
}

fn watching(id: &str) -> Fact {
    Fact::Watching { export: export(id) }
}

async fn claimed<H: Home>(home: &H) -> (H::Ledger, Epoch) {
    let mut ledger = home.open().await;
    let epoch = ledger.claim(&[project("project_one"), project("project_two")]).await.unwrap();
    (ledger, epoch)
}

async fn reopen<H: Home>(home: &H, ledger: H::Ledger) -> H::Ledger {
    ledger.close().await.unwrap();
    home.open().await
}

async fn load(ledger: &mut impl Ledger) -> Vec<ExportRecord> {
    ledger.load(&[project("project_one")]).await.unwrap()
}

pub(crate) async fn only(ledger: &mut impl Ledger) -> ExportRecord {
    let mut records = load(ledger).await;
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

pub(crate) async fn every_fact_survives_a_restart(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let at = "2026-05-06T07:08:09Z".parse().unwrap();
    let key = export("e1");
    let place = |identity: &str| Fact::SinkIdentified {
        place: "/srv".to_owned(),
        identity: identity.to_owned(),
    };
    let odd = || RemoteStatus::Unrecognized("ODD".to_owned());
    let facts = [
        Fact::StatusSeen { export: key.clone(), status: odd() },
        Fact::PartCommitted { export: key.clone(), part: part(2) },
        Fact::PartCommitted { export: key.clone(), part: part(1) },
        Fact::PartialSynced { export: key.clone(), part: partial(3) },
        Fact::Paused { scope: PauseScope::Origin, until: Timestamp::UNIX_EPOCH },
        Fact::Paused { scope: PauseScope::Origin, until: at },
        Fact::Paused { scope: PauseScope::Host("gone".to_owned()), until: at },
        Fact::PauseEnded { scope: PauseScope::Host("gone".to_owned()) },
        place("m1"),
        place("m2"),
        Fact::Recovered { project: project("project_one"), at },
    ];
    ledger.commit(epoch, &facts).await.unwrap();
    let mut ledger = reopen(home, ledger).await;
    let record = only(&mut ledger).await;
    assert_eq!(record.remote_status, Some(odd()));
    assert_eq!(record.partials, [partial(3)]);
    assert_eq!((record.state, record.parts), (RecordedState::Watching, vec![part(1), part(2)]));
    assert_eq!(ledger.pauses().await.unwrap(), HashMap::from([(PauseScope::Origin, at)]));
    assert_eq!(ledger.sink_identity("/srv").await.unwrap().as_deref(), Some("m2"));
    assert_eq!(ledger.sink_identity("/other").await.unwrap(), None);
    let asked = [project("project_one"), project("project_two")];
    assert_eq!(ledger.unrecovered(&asked).await.unwrap(), [project("project_two")]);

    let manifest = "{\"é\": 1}\n".to_owned();
    let sealing = Fact::Sealing { export: key.clone(), manifest: manifest.clone() };
    ledger.commit(epoch, &[sealing]).await.unwrap();
    let mut ledger = reopen(home, ledger).await;
    let record = only(&mut ledger).await;
    assert_eq!((record.state, record.parts.len()), (RecordedState::Sealing { manifest }, 2));

    let completed = Fact::Completed { export: key.clone(), parts: 2, bytes: 7, at };
    ledger.commit(epoch, &[completed]).await.unwrap();
    let mut ledger = reopen(home, ledger).await;
    let record = only(&mut ledger).await;
    assert_eq!(record.state, RecordedState::Completed { parts: 2, bytes: 7, at });
    assert_eq!(record.parts, [], "the manifest has them now");
    assert_eq!(record.partials, []);
    let seen = Fact::StatusSeen { export: key, status: RemoteStatus::Running };
    ledger.commit(epoch, &[seen]).await.unwrap();
    let state = only(&mut ledger).await.state;
    assert!(matches!(state, RecordedState::Completed { .. }), "whatever the API says: {state:?}");
}

pub(crate) async fn a_failure_stays_until_it_is_watched_again(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let key = export("e1");
    let failed = Fact::Failed { export: key.clone(), failure: failure() };
    let committed = Fact::PartCommitted { export: key.clone(), part: part(1) };
    ledger.commit(epoch, &[committed, failed]).await.unwrap();
    let mut ledger = reopen(home, ledger).await;
    let record = only(&mut ledger).await;
    assert_eq!((record.state, record.parts.len()), (RecordedState::Failed(failure()), 1));
    ledger.commit(epoch, &[Fact::Watching { export: key }]).await.unwrap();
    let record = only(&mut ledger).await;
    assert_eq!((record.state, record.parts.len()), (RecordedState::Watching, 1));
}

pub(crate) async fn a_resume_point_stays_until_its_part_is_committed(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let key = export("e1");
    let synced = |number| Fact::PartialSynced { export: key.clone(), part: partial(number) };
    let committed = |number| Fact::PartCommitted { export: key.clone(), part: part(number) };
    ledger.commit(epoch, &[synced(1), synced(2), committed(2)]).await.unwrap();
    assert_eq!(only(&mut ledger).await.partials, [partial(1)], "a committed part has no partial");
    let etag = StrongEtag::parse("\"v2\"").unwrap();
    let (sha256, promised) = (Sha256::new([8; 32]), Vec::new());
    let point = ResumePoint { bytes: 60, sha256, total_bytes: 200, etag, promised };
    let further = ResumablePart { key: part(1).key, point };
    let later = Fact::PartialSynced { export: key.clone(), part: further.clone() };
    ledger.commit(epoch, &[later]).await.unwrap();
    let mut ledger = reopen(home, ledger).await;
    assert_eq!(only(&mut ledger).await.partials, [further], "a crash may come at any time");
    let theirs = ExportKey { project: project("project_two"), export: key.export.clone() };
    let theirs = Fact::PartialSynced { export: theirs, part: partial(3) };
    ledger.commit(epoch, &[synced(1), theirs]).await.unwrap();
    let loaded = ledger.load(&[project("project_two")]).await.unwrap();
    assert_eq!(loaded[0].partials, [partial(3)]);
    ledger.commit(epoch, &[committed(1)]).await.unwrap();
    assert_eq!(only(&mut ledger).await.partials, []);
}

pub(crate) async fn of_a_long_history_only_the_exports_that_are_asked_for_are_read(
    home: &impl Home,
) {
    let (mut ledger, epoch) = claimed(home).await;
    let id = |number: u32| format!("e{number}");
    let mut facts = Vec::new();
    for number in 0..200 {
        let export = export(&id(number));
        facts.push(Fact::PartCommitted { export: export.clone(), part: part(number) });
        facts.push(Fact::PartialSynced { export, part: partial(number + 1) });
    }
    ledger.commit(epoch, &facts).await.unwrap();
    let all = load(&mut ledger).await;
    let wanted: Vec<ExportId> =
        (50..150).chain([999]).map(|number| id(number).parse().unwrap()).collect();
    let wanted: Vec<&ExportId> = wanted.iter().collect();
    let mut some = ledger.load_exports(project("project_one"), &wanted).await.unwrap();
    some.sort_by(|one, other| one.key.export.cmp(&other.key.export));
    let expected: Vec<_> =
        all.into_iter().filter(|record| wanted.contains(&&record.key.export)).collect();
    assert_eq!((some.len(), some), (100, expected));
    assert_eq!(ledger.load_exports(project("project_one"), &[]).await.unwrap(), []);
    assert_eq!(ledger.load_exports(project("project_two"), &wanted).await.unwrap(), []);
}

pub(crate) async fn parts_of_one_batch_are_recorded_whatever_their_order(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let committed = |export: &str, part: &CommittedPart| Fact::PartCommitted {
        export: self::export(export),
        part: part.clone(),
    };
    let longer = CommittedPart { bytes: part(1).bytes + 1, ..part(1) };
    let batch = [
        committed("e1", &part(1)),
        committed("e1", &part(2)),
        committed("e1", &longer),
        committed("e2", &part(1)),
        committed("e1", &part(3)),
    ];
    ledger.commit(epoch, &batch).await.unwrap();
    ledger.commit(epoch, &batch).await.unwrap();
    let parts: Vec<_> = load(&mut ledger).await.into_iter().map(|record| record.parts).collect();
    assert_eq!(parts, [vec![longer, part(2), part(3)], vec![part(1)]]);
}

pub(crate) async fn what_is_forgotten_is_gone_with_its_parts_and_nothing_else_is(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let (key, other) = (export("e1"), export("e2"));
    for export in [&key, &other] {
        let committed = Fact::PartCommitted { export: export.clone(), part: part(1) };
        let synced = Fact::PartialSynced { export: export.clone(), part: partial(2) };
        ledger.commit(epoch, &[committed, synced]).await.unwrap();
    }
    ledger.commit(epoch, &[Fact::Forgotten { export: key.clone() }]).await.unwrap();
    assert_eq!(only(&mut ledger).await.key, other);
    ledger.commit(epoch, &[Fact::Watching { export: key }]).await.unwrap();
    let parts: Vec<_> = load(&mut ledger).await.iter().map(|record| record.parts.len()).collect();
    assert_eq!(parts, [0, 1]);
}

pub(crate) async fn exports_are_found_by_their_ids_in_every_project(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let theirs = ExportKey { project: project("project_two"), ..export("e1") };
    let failed = Fact::Failed { export: theirs.clone(), failure: failure() };
    ledger.commit(epoch, &[watching("e1"), failed, watching("e2")]).await.unwrap();
    let wanted = ["e1", "e3"].map(|id| id.parse().unwrap()).into();
    let found = ledger.find(&wanted, false).await.unwrap();
    assert!(found.len() == 2 && found.contains(&export("e1")) && found.contains(&theirs));
    assert_eq!(ledger.find(&wanted, true).await.unwrap(), [theirs]);
}

pub(crate) async fn facts_that_are_committed_again_change_nothing(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let (key, at) = (export("e1"), Timestamp::UNIX_EPOCH);
    let facts = [
        Fact::StatusSeen { export: key.clone(), status: RemoteStatus::Success },
        Fact::PartCommitted { export: key.clone(), part: part(1) },
        Fact::PartialSynced { export: key.clone(), part: partial(2) },
        Fact::Sealing { export: key.clone(), manifest: "{}".to_owned() },
        Fact::Completed { export: key.clone(), parts: 1, bytes: 2, at },
        Fact::Paused { scope: PauseScope::Origin, until: at },
        Fact::PauseEnded { scope: PauseScope::Origin },
        Fact::Recovered { project: key.project, at },
        Fact::Forgotten { export: key },
    ];
    for fact in &facts {
        ledger.commit(epoch, std::slice::from_ref(fact)).await.unwrap();
        let once = (load(&mut ledger).await, ledger.pauses().await.unwrap());
        ledger.commit(epoch, std::slice::from_ref(fact)).await.unwrap();
        let twice = (load(&mut ledger).await, ledger.pauses().await.unwrap());
        assert_eq!(once, twice, "{fact:?}");
    }
}

pub(crate) async fn a_later_claim_ends_every_earlier_one(home: &impl Home) {
    let (mut first, early) = claimed(home).await;
    first.commit(early, &[watching("e1")]).await.unwrap();
    let (mut second, late) = claimed(home).await;
    assert!(late > early);
    let fault = first.commit(early, &[watching("e2")]).await.unwrap_err();
    assert_eq!(fault, LedgerFault::Refused { epoch: early, holder: late });
    second.commit(late, &[watching("e3")]).await.unwrap();
    // The epoch may write, over whatever connection.
    first.commit(late, &[watching("e4")]).await.unwrap();
    first.close().await.unwrap();
    let mut second = reopen(home, second).await;
    second.commit(late, &[watching("e5")]).await.unwrap();
    let next = second.claim(&[project("project_one")]).await.unwrap();
    assert!(next > late, "a restart begins no new count");
    let fault = second.commit(late, &[watching("e6")]).await.unwrap_err();
    assert_eq!(fault, LedgerFault::Refused { epoch: late, holder: next });
    second.commit(next, &[watching("e7")]).await.unwrap();
    let ids: Vec<_> =
        load(&mut second).await.iter().map(|record| record.key.export.to_string()).collect();
    assert_eq!(ids, ["e1", "e3", "e4", "e5", "e7"], "of what was refused nothing is there");
}

pub(crate) async fn of_claims_at_the_same_time_one_may_write(home: &impl Home) {
    let (mut first, mut second) = (home.open().await, home.open().await);
    let projects = [project("project_one")];
    let (one, other) = tokio::join!(first.claim(&projects), second.claim(&projects));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one, other);
    let wrote = [
        first.commit(one, &[watching("e1")]).await.is_ok(),
        second.commit(other, &[watching("e2")]).await.is_ok(),
    ];
    assert_eq!(wrote, [one > other, other > one]);
}

pub(crate) async fn a_commit_that_is_given_up_half_way_leaves_all_or_nothing(home: &impl Home) {
    let (mut ledger, epoch) = claimed(home).await;
    let ids: Vec<String> = (0..40).map(|number| format!("e{number}")).collect();
    let batch: Vec<Fact> = ids.iter().map(|id| watching(id)).collect();
    for patience in (0..20).map(|step| Duration::from_micros(step * step * 20)) {
        drop(tokio::time::timeout(patience, ledger.commit(epoch, &batch)).await);
        let recorded = load(&mut ledger).await.len();
        assert!(recorded == 0 || recorded == batch.len(), "{recorded} after {patience:?}");
        let forgotten: Vec<Fact> =
            ids.iter().map(|id| Fact::Forgotten { export: export(id) }).collect();
        ledger.commit(epoch, &forgotten).await.unwrap();
        assert_eq!(load(&mut ledger).await, []);
    }
}
