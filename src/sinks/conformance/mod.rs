//! What every sink has to do, by the port alone: [`conforms!`] makes a test of each function.

mod documents;

use aws_lc_rs::digest::{SHA256, digest};

use crate::domain::checksum::{Algorithm, Check, PromisedChecksum};
use crate::domain::ids::ExportPath;
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::resume::{CHECKPOINT_BYTES, Plan, Prefix, ResumePoint, StrongEtag};
use crate::domain::watch::PartOrder;
use crate::ports::{Armed, Finished, Sink, SinkFault, Upload};

pub(crate) use documents::*;

/// A place for bytes, empty at first, as a consumer sees it: unfinished files have no name there.
pub(crate) trait Shelf {
    type Sink: Sink;

    /// A sink for this place, as after another start of the program.
    async fn open(&self) -> Self::Sink;
    fn names(&self, at: &ExportPath) -> Vec<String>;
    fn read(&self, at: &ExportPath, name: &str) -> Option<Vec<u8>>;
    /// Puts a file of another program there.
    fn put(&self, at: &ExportPath, name: &str, bytes: &[u8]);
    fn take(&self, at: &ExportPath, name: &str);
}

/// A test of each rule for the sink that writes to `$shelf`.
macro_rules! conforms {
    ($shelf:expr) => {
        $crate::sinks::conformance::conforms!($shelf;
            a_part_appears_whole_and_checked_or_not_at_all,
            an_empty_part_is_a_file_too,
            what_was_not_promised_leaves_nothing,
            each_part_of_a_group_has_its_own_outcome,
            nothing_is_overwritten_by_a_part,
            of_two_sinks_that_publish_one_part_neither_harms_the_other,
            a_part_is_written_by_one_upload_at_a_time,
            what_is_kept_is_continued_or_fetched_again,
            a_checkpoint_outlives_a_crash_or_is_never_promised,
            bytes_that_are_not_those_of_the_record_are_not_continued,
            what_is_started_over_forgets_its_bytes,
            parts_without_a_record_are_adopted_or_a_conflict,
            a_manifest_is_written_once_and_never_over_another,
            sealing_is_finished_after_a_crash_whatever_a_consumer_took,
            manifests_are_found_again_and_believed_only_if_the_files_agree,
            a_notice_is_ours_to_replace_and_to_remove_and_nobody_elses,
            what_is_forgotten_leaves_what_is_finished,
            a_sink_that_is_well_says_so_and_has_no_room_for_everything
        );
    };
    ($shelf:expr; $($rule:ident),*) => {
        $(
            #[tokio::test]
            async fn $rule() {
                $crate::sinks::conformance::$rule(&$shelf).await;
            }
        )*
    };
}
pub(crate) use conforms;

const DIGITS: &[u8] = b"0123456789";

pub(crate) fn at(export: &str) -> ExportPath {
    ExportPath { project: "shop".parse().unwrap(), export: export.parse().unwrap() }
}

pub(crate) fn key(number: u32) -> PartKey {
    PartKey { number, file_id: format!("file_{number}").parse().unwrap() }
}

fn name(number: u32) -> String {
    key(number).file_name()
}

fn order(number: u32, declared_bytes: Option<usize>) -> PartOrder {
    let declared_bytes = declared_bytes.map(|bytes| bytes as u64);
    PartOrder { key: key(number), declared_bytes, resume: None }
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::new(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

pub(crate) fn md5_of_digits() -> PromisedChecksum {
    let value = (0..16)
        .map(|at| u8::from_str_radix(&"781e5e245d69b566979b86e28d23f2c7"[at * 2..at * 2 + 2], 16));
    PromisedChecksum { algorithm: Algorithm::Md5, value: value.map(Result::unwrap).collect() }
}

fn behind(prefix: Prefix, total: usize) -> Plan {
    let etag = StrongEtag::parse("\"v1\"").unwrap();
    let Prefix { bytes, sha256 } = prefix;
    let total_bytes = total as u64;
    Plan::Continue(ResumePoint { bytes, sha256, total_bytes, etag, promised: Vec::new() })
}

async fn begin<S: Sink>(sink: &S, number: u32, length: usize, plan: &Plan) -> S::Upload {
    sink.begin(&at("e1"), &order(number, Some(length)), plan).await.unwrap()
}

/// A part of the export that has all its bytes.
async fn finished<S: Sink>(sink: &S, number: u32, bytes: &[u8]) -> S::Finished {
    let mut upload = begin(sink, number, bytes.len(), &Plan::FromStart).await;
    upload.write(bytes).await.unwrap();
    upload.finish(Some(bytes.len() as u64), &[]).await.unwrap()
}

async fn published<S: Sink>(
    sink: &S,
    number: u32,
    bytes: &[u8],
) -> Result<CommittedPart, SinkFault> {
    let finished = finished(sink, number, bytes).await;
    sink.publish(vec![finished]).await.remove(0)
}

pub(crate) async fn a_part_appears_whole_and_checked_or_not_at_all(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    sink.prepare(&at, &[order(1, Some(10))]).await.unwrap();
    let mut upload = begin(&sink, 1, 10, &Plan::FromStart).await;
    assert_eq!(upload.arm(&[Algorithm::Md5]).await.unwrap(), Armed::Ready);
    upload.write(&DIGITS[..5]).await.unwrap();
    upload.write(&DIGITS[5..]).await.unwrap();
    assert_eq!(upload.bytes(), 10);
    let finished = upload.finish(Some(10), &[md5_of_digits()]).await.unwrap();
    assert_eq!(shelf.names(&at), [""; 0], "it has no name before it is published");
    let part = sink.publish(vec![finished.sync().await.unwrap()]).await.remove(0).unwrap();
    let expected = CommittedPart {
        key: key(1),
        bytes: 10,
        declared_bytes: Some(10),
        sha256: sha256(DIGITS),
        verified_by: vec![Check::Size, Check::Md5],
    };
    assert_eq!(part, expected);
    assert_eq!(shelf.names(&at), [name(1)]);
    assert_eq!(shelf.read(&at, &name(1)).unwrap(), DIGITS);
    // Without a declared length the caller has seen that the body was complete.
    let mut upload = sink.begin(&at, &order(2, None), &Plan::FromStart).await.unwrap();
    upload.write(b"[]").await.unwrap();
    let finished = upload.finish(None, &[]).await.unwrap();
    let part = sink.publish(vec![finished]).await.remove(0).unwrap();
    assert_eq!((part.declared_bytes, part.verified_by), (None, vec![Check::Framing]));
}

pub(crate) async fn an_empty_part_is_a_file_too(shelf: &impl Shelf) {
    let sink = shelf.open().await;
    let part = published(&sink, 1, b"").await.unwrap();
    assert_eq!((part.bytes, part.verified_by), (0, vec![Check::Size]));
    assert_eq!(shelf.read(&at("e1"), &name(1)).unwrap(), b"");
}

pub(crate) async fn what_was_not_promised_leaves_nothing(shelf: &impl Shelf) {
    let sink = shelf.open().await;
    let mut wrong = md5_of_digits();
    wrong.value[15] ^= 1;
    let cases = [
        (9, vec![], Algorithm::Md5),
        (11, vec![], Algorithm::Md5),
        (10, vec![wrong], Algorithm::Md5),
        // A checksum that was not computed is not one that agrees.
        (10, vec![md5_of_digits()], Algorithm::Crc32c),
    ];
    for (declared, promised, computed) in cases {
        let mut upload = begin(&sink, 1, declared, &Plan::FromStart).await;
        upload.arm(&[computed]).await.unwrap();
        upload.write(DIGITS).await.unwrap();
        let fault = upload.finish(Some(declared as u64), &promised).await.err().unwrap();
        assert!(matches!(fault, SinkFault::Mismatch(_)), "{fault:?}");
        assert_eq!(shelf.names(&at("e1")), [""; 0]);
    }
    let mut upload = begin(&sink, 1, 10, &Plan::FromStart).await;
    upload.write(DIGITS).await.unwrap();
    drop(upload);
    drop(finished(&sink, 1, DIGITS).await);
    assert_eq!(shelf.names(&at("e1")), [""; 0]);
    published(&sink, 1, DIGITS).await.unwrap();
}

pub(crate) async fn each_part_of_a_group_has_its_own_outcome(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    shelf.put(&at, &name(2), b"something else");
    shelf.put(&at, &name(3), b"the same");
    let elsewhere = ExportPath { export: "e2".parse().unwrap(), ..at.clone() };
    let mut upload = sink.begin(&elsewhere, &order(1, Some(3)), &Plan::FromStart).await.unwrap();
    upload.write(b"two").await.unwrap();
    let group = vec![
        finished(&sink, 1, b"one").await,
        finished(&sink, 2, b"two").await,
        upload.finish(Some(3), &[]).await.unwrap(),
        finished(&sink, 3, b"the same").await,
        finished(&sink, 4, b"four").await.sync().await.unwrap(),
    ];
    let outcomes = sink.publish(group).await;
    let numbers: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().ok().map(|part| part.key.number)).collect();
    assert_eq!(numbers, [Some(1), None, Some(1), Some(3), Some(4)]);
    assert!(matches!(&outcomes[1], Err(SinkFault::Conflict(_))), "{outcomes:?}");
    assert_eq!(shelf.names(&at), [1, 2, 3, 4].map(name));
    assert_eq!(shelf.names(&elsewhere), [name(1)]);
    assert_eq!(shelf.read(&at, &name(2)).unwrap(), b"something else");
    assert_eq!(sink.publish(Vec::new()).await, []);
}

pub(crate) async fn nothing_is_overwritten_by_a_part(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    published(&sink, 1, b"same").await.unwrap();
    assert_eq!(published(&sink, 1, b"same").await.unwrap().sha256, sha256(b"same"));
    for other in [b"diff".as_slice(), b"longer", b""] {
        shelf.take(&at, &name(1));
        shelf.put(&at, &name(1), other);
        let fault = published(&sink, 1, b"same").await.unwrap_err();
        let SinkFault::Conflict(words) = &fault else { panic!("{fault:?}") };
        assert!(words.contains(&name(1)), "it names the file: {words}");
        assert_eq!(shelf.read(&at, &name(1)).unwrap(), other, "untouched");
    }
}

pub(crate) async fn of_two_sinks_that_publish_one_part_neither_harms_the_other(shelf: &impl Shelf) {
    let at = at("e1");
    let (one, other) = (shelf.open().await, shelf.open().await);
    for (number, theirs) in [(1, b"equal".as_slice()), (2, b"other")] {
        let (ours, theirs) =
            (finished(&one, number, b"equal").await, finished(&other, number, theirs).await);
        let (ours, theirs) = tokio::join!(one.publish(vec![ours]), other.publish(vec![theirs]));
        let found = sha256(&shelf.read(&at, &name(number)).unwrap());
        let outcomes = [&ours[0], &theirs[0]];
        let agreed = outcomes.iter().filter(|outcome| match outcome {
            Ok(part) => part.sha256 == found,
            Err(fault) => {
                assert!(matches!(fault, SinkFault::Conflict(_)), "{fault:?}");
                false
            }
        });
        assert_eq!(agreed.count(), if number == 1 { 2 } else { 1 }, "{outcomes:?}");
        let confirmed = outcomes.iter().filter(|outcome| outcome.is_ok());
        assert_eq!(confirmed.count(), if number == 1 { 2 } else { 1 }, "{outcomes:?}");
    }
}

pub(crate) async fn a_part_is_written_by_one_upload_at_a_time(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    let first = begin(&sink, 1, 10, &Plan::FromStart).await;
    let second = sink.clone().begin(&at, &order(1, Some(10)), &Plan::FromStart).await;
    assert!(matches!(second.err().unwrap(), SinkFault::Busy(_)));
    // Nothing is taken away from it.
    sink.prepare(&at, &[order(1, Some(10))]).await.unwrap();
    begin(&sink, 2, 10, &Plan::FromStart).await.discard().await;
    drop(first);
    let mut third = begin(&sink, 1, 10, &Plan::FromStart).await;
    third.write(DIGITS).await.unwrap();
    let finished = third.finish(Some(10), &[]).await.unwrap();
    let fourth = sink.begin(&at, &order(1, Some(10)), &Plan::FromStart).await;
    assert!(matches!(fourth.err().unwrap(), SinkFault::Busy(_)), "it has no name yet");
    sink.publish(vec![finished]).await.remove(0).unwrap();
    begin(&sink, 1, 10, &Plan::FromStart).await.discard().await;
}

pub(crate) async fn what_is_kept_is_continued_or_fetched_again(shelf: &impl Shelf) {
    let sink = shelf.open().await;
    let mut upload = begin(&sink, 1, 10, &Plan::FromStart).await;
    upload.write(&DIGITS[..7]).await.unwrap();
    let kept = upload.keep().await.unwrap();
    let plan = match kept {
        Some(prefix) => {
            assert_eq!((prefix.bytes, prefix.sha256), (7, sha256(&DIGITS[..7])));
            behind(prefix, 10)
        }
        None => Plan::FromStart,
    };
    assert_eq!(shelf.names(&at("e1")), [""; 0]);
    let sink = shelf.open().await;
    if let Plan::Continue(point) = &plan {
        let order = PartOrder { resume: Some(point.clone()), ..order(1, Some(10)) };
        let prepared = sink.prepare(&at("e1"), &[order]).await.unwrap();
        assert_eq!(prepared.resumable.len(), 1, "what was kept is not tidied away");
    }
    let mut upload = begin(&sink, 1, 10, &plan).await;
    assert_eq!(upload.plan(), &plan);
    assert_eq!(upload.arm(&[Algorithm::Md5]).await.unwrap(), Armed::Ready);
    let already = usize::try_from(upload.bytes()).unwrap();
    upload.write(&DIGITS[already..]).await.unwrap();
    let finished = upload.finish(None, &[md5_of_digits()]).await.unwrap();
    let part = sink.publish(vec![finished]).await.remove(0).unwrap();
    assert_eq!(part.sha256, sha256(DIGITS), "of all its bytes");
    assert_eq!(part.verified_by, [Check::Framing, Check::Md5]);
    assert_eq!(shelf.read(&at("e1"), &name(1)).unwrap(), DIGITS);

    for is_armed in [false, true] {
        let mut empty = begin(&sink, 2, 10, &Plan::FromStart).await;
        if is_armed {
            empty.arm(&[]).await.unwrap();
        }
        assert_eq!(empty.keep().await.unwrap(), None, "there is nothing to continue");
    }
    let lost = behind(Prefix { bytes: 7, sha256: sha256(&DIGITS[..7]) }, 10);
    let upload = begin(&sink, 2, 10, &lost).await;
    assert_eq!((upload.plan(), upload.bytes()), (&Plan::FromStart, 0));
}

pub(crate) async fn a_checkpoint_outlives_a_crash_or_is_never_promised(shelf: &impl Shelf) {
    let sink = shelf.open().await;
    let large = usize::try_from(CHECKPOINT_BYTES).unwrap() + 10;
    let bytes: Vec<u8> = (0..large).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect();
    let mut upload = begin(&sink, 1, large, &Plan::FromStart).await;
    upload.arm(&[]).await.unwrap();
    upload.write(&bytes[..large / 2]).await.unwrap();
    let checkpoint = upload.checkpoint();
    upload.write(&bytes[large / 2..large / 2 + 5]).await.unwrap();
    let plan = match checkpoint {
        Some(checkpoint) => {
            let prefix = checkpoint.await.unwrap();
            assert!(usize::try_from(prefix.bytes).unwrap() <= large / 2 + 5);
            behind(prefix, large)
        }
        None => Plan::FromStart,
    };
    // As in a crash: nothing keeps it.
    drop(upload);
    let sink = shelf.open().await;
    let mut upload = begin(&sink, 1, large, &plan).await;
    assert_eq!(upload.plan(), &plan);
    assert_eq!(upload.arm(&[]).await.unwrap(), Armed::Ready);
    let already = usize::try_from(upload.bytes()).unwrap();
    upload.write(&bytes[already..]).await.unwrap();
    let finished = upload.finish(Some(large as u64), &[]).await.unwrap();
    let part = sink.publish(vec![finished.sync().await.unwrap()]).await.remove(0).unwrap();
    assert_eq!(part.sha256, sha256(&bytes));
    assert!(shelf.read(&at("e1"), &name(1)).unwrap() == bytes);
}

pub(crate) async fn bytes_that_are_not_those_of_the_record_are_not_continued(shelf: &impl Shelf) {
    let sink = shelf.open().await;
    let mut upload = begin(&sink, 1, 10, &Plan::FromStart).await;
    upload.write(b"another").await.unwrap();
    upload.keep().await.unwrap();
    let stale = behind(Prefix { bytes: 7, sha256: sha256(&DIGITS[..7]) }, 10);
    let mut upload = begin(&sink, 1, 10, &stale).await;
    if *upload.plan() == stale {
        assert_eq!(upload.arm(&[Algorithm::Md5]).await.unwrap(), Armed::OtherBytes);
        upload = upload.restart().await.unwrap();
    }
    assert_eq!((upload.plan(), upload.bytes()), (&Plan::FromStart, 0));
    assert_eq!(upload.arm(&[Algorithm::Md5]).await.unwrap(), Armed::Ready);
    upload.write(DIGITS).await.unwrap();
    let finished = upload.finish(Some(10), &[md5_of_digits()]).await.unwrap();
    sink.publish(vec![finished]).await.remove(0).unwrap();
    assert_eq!(shelf.read(&at("e1"), &name(1)).unwrap(), DIGITS);
}

pub(crate) async fn what_is_started_over_forgets_its_bytes(shelf: &impl Shelf) {
    let sink = shelf.open().await;
    for (number, is_armed) in [(1, true), (2, false)] {
        let mut upload = begin(&sink, number, 10, &Plan::FromStart).await;
        upload.write(b"garbage that is longer").await.unwrap();
        let mut upload = upload.restart().await.unwrap();
        assert_eq!((upload.plan(), upload.bytes()), (&Plan::FromStart, 0));
        if is_armed {
            upload.arm(&[Algorithm::Md5]).await.unwrap();
        }
        upload.write(DIGITS).await.unwrap();
        let promised = if is_armed { vec![md5_of_digits()] } else { Vec::new() };
        let finished = upload.finish(Some(10), &promised).await.unwrap();
        let part = sink.publish(vec![finished]).await.remove(0).unwrap();
        assert_eq!(part.sha256, sha256(DIGITS), "not of what was dropped");
        assert_eq!(shelf.read(&at("e1"), &name(number)).unwrap(), DIGITS);
    }
}

pub(crate) async fn parts_without_a_record_are_adopted_or_a_conflict(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    let part = published(&sink, 1, DIGITS).await.unwrap();
    published(&sink, 2, DIGITS).await.unwrap();
    let listed = [order(1, Some(10)), order(2, Some(9)), order(3, Some(10))];
    let sink = shelf.open().await;
    let prepared = sink.prepare(&at, &listed).await.unwrap();
    let adopted: Vec<_> =
        prepared.adopted.iter().map(|part| (part.key.number, part.sha256)).collect();
    assert_eq!(adopted, [(1, part.sha256)]);
    let conflicts: Vec<_> = prepared.conflicts.iter().map(|(key, _)| key.number).collect();
    assert_eq!(conflicts, [2], "of another length than is declared");
    assert_eq!(prepared.resumable, []);
    assert_eq!(shelf.names(&at), [1, 2].map(name), "all untouched");
    let again = sink.prepare(&at, &listed).await.unwrap();
    assert_eq!((again.adopted, again.conflicts), (prepared.adopted, prepared.conflicts));
    let has_room = sink.free_bytes().await.unwrap().is_some();
    assert_eq!(prepared.room_bytes.is_some(), has_room);
}
