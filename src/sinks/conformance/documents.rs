//! The rules of manifests and notices, of what is forgotten, and of the sink as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{DIGITS, Shelf, at, begin, behind, name, order, published};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::manifest::{FAILED_FILE, MANIFEST_FILE, Manifest, failure_notice};
use crate::domain::part::CommittedPart;
use crate::domain::report::ReportFacts;
use crate::domain::resume::Plan;
use crate::domain::watch::Totals;
use crate::ports::{Document, Found, Put, Sink, SinkFault, Upload};

fn manifest(export: &str, parts: Vec<CommittedPart>) -> Manifest {
    let sealed_at = "2026-01-02T03:04:05Z".parse().unwrap();
    Manifest::seal(at(export), ReportFacts::default(), parts, sealed_at)
}

async fn seal(sink: &impl Sink, manifest: &Manifest) -> Result<Put, SinkFault> {
    let at = at(manifest.export_id.as_str());
    sink.put(&at, Document::Manifest(manifest.to_text().into())).await
}

pub(crate) async fn a_manifest_is_written_once_and_never_over_another(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    let part = published(&sink, 1, b"1234").await.unwrap();
    let sealed = manifest("e1", vec![part.clone()]);
    assert_eq!(seal(&sink, &sealed).await.unwrap(), Put::Written);
    assert_eq!(seal(&sink, &sealed).await.unwrap(), Put::AlreadyThere);
    let mut later = sealed.clone();
    later.sealed_at = "2027-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(seal(&sink, &later).await.unwrap(), Put::AlreadyThere, "of the same files");
    let fault = seal(&sink, &manifest("e1", vec![])).await.unwrap_err();
    assert!(matches!(fault, SinkFault::Conflict(_)), "{fault:?}");
    assert_eq!(shelf.read(&at, MANIFEST_FILE).unwrap(), sealed.to_text().as_bytes());
    assert_eq!(shelf.names(&at), [MANIFEST_FILE.to_owned(), name(1)]);
    let empty = manifest("e2", vec![]);
    assert_eq!(seal(&sink, &empty).await.unwrap(), Put::Written, "an export without parts");
}

pub(crate) async fn sealing_is_finished_after_a_crash_whatever_a_consumer_took(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    let parts = [published(&sink, 1, b"1234").await, published(&sink, 2, b"5").await];
    let text: Arc<str> = manifest("e1", parts.map(Result::unwrap).into()).to_text().into();
    let recover = || sink.put(&at, Document::RecordedManifest(text.clone()));
    assert_eq!(recover().await.unwrap(), Put::Written, "died before the manifest");
    assert_eq!(recover().await.unwrap(), Put::AlreadyThere, "died after it");
    shelf.take(&at, MANIFEST_FILE);
    shelf.take(&at, &name(1));
    assert_eq!(recover().await.unwrap(), Put::Written, "one part is left");
    shelf.take(&at, &name(2));
    assert_eq!(recover().await.unwrap(), Put::AlreadyThere, "the manifest is left");
    shelf.take(&at, MANIFEST_FILE);
    assert_eq!(recover().await.unwrap(), Put::Taken);
    assert_eq!(shelf.names(&at), [""; 0], "not written again");
    let broken = Document::RecordedManifest("{".into());
    let fault = sink.put(&at, broken).await.unwrap_err();
    assert!(matches!(fault, SinkFault::Conflict(_)), "{fault:?}");
}

pub(crate) async fn manifests_are_found_again_and_believed_only_if_the_files_agree(
    shelf: &impl Shelf,
) {
    let sink = shelf.open().await;
    let exports = ["cut", "none", "other", "short", "taken", "whole"];
    for export in exports {
        let at = at(export);
        let mut upload = sink.begin(&at, &order(1, Some(4)), &Plan::FromStart).await.unwrap();
        upload.write(b"1234").await.unwrap();
        let finished = upload.finish(Some(4), &[]).await.unwrap();
        let part = sink.publish(vec![finished]).await.remove(0).unwrap();
        match export {
            "none" => {}
            "cut" => shelf.put(&at, MANIFEST_FILE, b"{\"version\": 1,"),
            "other" => {
                let text = manifest("another", vec![part]).to_text();
                shelf.put(&at, MANIFEST_FILE, text.as_bytes());
            }
            _ => assert_eq!(seal(&sink, &manifest(export, vec![part])).await, Ok(Put::Written)),
        }
    }
    shelf.take(&at("taken"), &name(1));
    shelf.take(&at("short"), &name(1));
    shelf.put(&at("short"), &name(1), b"123");
    let sink = shelf.open().await;
    let project = at("any").project;
    let named = exports.iter().chain(&["unknown"]).map(|export| export.parse().unwrap());
    for only in [None, Some(named.collect())] {
        let found = sink.manifests(&project, only).await.unwrap();
        let found: BTreeSet<_> = found
            .into_iter()
            .map(|found| match found.unwrap() {
                (export, Found::Whole { totals, sealed_at }) => {
                    assert_eq!(totals, Totals { parts: 1, bytes: 4 });
                    assert_eq!(sealed_at.to_string(), "2026-01-02T03:04:05Z");
                    (export.to_string(), true)
                }
                (export, Found::Rejected(_)) => (export.to_string(), false),
            })
            .collect();
        let expected =
            [("cut", false), ("other", false), ("short", false), ("taken", true), ("whole", true)];
        assert_eq!(found, expected.map(|(export, whole)| (export.to_owned(), whole)).into());
    }
    let found = sink.manifests(&project, Some(vec!["whole".parse().unwrap()])).await.unwrap();
    assert_eq!(found.len(), 1, "no other is looked for");
    assert_eq!(sink.manifests(&"other".parse().unwrap(), None).await.unwrap(), []);
}

pub(crate) async fn a_notice_is_ours_to_replace_and_to_remove_and_nobody_elses(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    let notice = |cause: &str| {
        let failure = Failure {
            kind: FailureKind::Expired,
            cause: cause.to_owned(),
            error_code: None,
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
        };
        failure_notice(&at, &failure)
    };
    let write = |cause: &str| sink.put(&at, Document::Notice(notice(cause)));
    sink.remove_notice(&at).await.unwrap();
    for cause in ["one", "one", "two"] {
        write(cause).await.unwrap();
        assert_eq!(shelf.read(&at, FAILED_FILE).unwrap(), notice(cause).as_bytes());
    }
    sink.remove_notice(&at).await.unwrap();
    assert_eq!(shelf.names(&at), [""; 0]);
    for theirs in ["{\"export_id\": \"e2\", \"kind\": \"x\"}", "hello"] {
        shelf.put(&at, FAILED_FILE, theirs.as_bytes());
        for fault in [write("three").await.err(), sink.remove_notice(&at).await.err()] {
            assert!(matches!(fault, Some(SinkFault::Conflict(_))), "{fault:?}");
        }
        assert_eq!(shelf.read(&at, FAILED_FILE).unwrap(), theirs.as_bytes());
        shelf.take(&at, FAILED_FILE);
    }
}

pub(crate) async fn what_is_forgotten_leaves_what_is_finished(shelf: &impl Shelf) {
    let (sink, at) = (shelf.open().await, at("e1"));
    sink.forget(&at).await.unwrap();
    let part = published(&sink, 1, DIGITS).await.unwrap();
    sink.put(&at, Document::Notice("{\"export_id\": \"e1\", \"kind\": \"x\"}".to_owned()))
        .await
        .unwrap();
    // After the notice, which itself removes what is unfinished.
    let mut upload = begin(&sink, 2, 10, &Plan::FromStart).await;
    upload.write(&DIGITS[..7]).await.unwrap();
    let kept = upload.keep().await.unwrap();
    sink.forget(&at).await.unwrap();
    sink.forget(&at).await.unwrap();
    assert_eq!(shelf.names(&at), [name(1)]);
    if let Some(prefix) = kept {
        let upload = begin(&sink, 2, 10, &behind(prefix, 10)).await;
        assert_eq!(upload.bytes(), 0, "what was unfinished is gone");
    }
    seal(&sink, &manifest("e1", vec![part])).await.unwrap();
    shelf.put(&at, FAILED_FILE, b"hello");
    let fault = sink.forget(&at).await.unwrap_err();
    assert!(matches!(fault, SinkFault::Conflict(_)), "{fault:?}");
    assert_eq!(shelf.names(&at), [FAILED_FILE.to_owned(), MANIFEST_FILE.to_owned(), name(1)]);
}

pub(crate) async fn a_sink_that_is_well_says_so_and_has_no_room_for_everything(shelf: &impl Shelf) {
    let sink = shelf.open().await;
    sink.health(0).await.unwrap();
    sink.health(1024).await.unwrap();
    if let Some(free_bytes) = sink.free_bytes().await.unwrap() {
        assert!(free_bytes > 0);
        let fault = sink.health(u64::MAX).await.unwrap_err();
        assert!(matches!(fault, SinkFault::Unavailable(_)), "{fault:?}");
    }
    let elsewhere = sink.on(&tokio::runtime::Handle::current());
    assert_eq!(elsewhere.reserve_bytes(), sink.reserve_bytes());
    published(&elsewhere, 1, b"").await.unwrap();
}
