//! Two faults in a row, where the second meets what the first has left: a cut or a stop, and then
//! not what was hoped for.

use batch_export_watcher::simulator::{Canned, Content, Serving, SimExport, SimFile, StoreStep};
use rustix::process::Signal;

use crate::support::eventually;
use crate::support::solo::{SHOP, Solo};

/// A few reads of a socket.
const BYTES: u64 = 200_000;
/// Where the first transfer ends.
const FIRST: u64 = 50_000;

fn file(name: &str) -> SimFile {
    SimFile::generated(&format!("file_{name}"), 1, BYTES)
}

/// What the file is replaced by.
fn another() -> Content {
    Content::Generated { bytes: BYTES, seed: 99 }
}

fn refused(status: u16) -> StoreStep {
    Canned::store_error(status, "Refused", "As the script says.").into()
}

async fn with_files(files: impl IntoIterator<Item = (&'static str, SimFile)>) -> Solo {
    let export = |(name, file)| SimExport::finished(&format!("export_{name}"), vec![file]);
    Solo::new(files.into_iter().map(export).collect()).await.with("[download]\nmax_parts = 16")
}

/// What the store says after a cut, and whether the bytes before the cut are still of use.
fn refusals() -> Vec<(&'static str, StoreStep, bool)> {
    vec![
        ("slow_down", refused(503), true),
        ("too_many", refused(429), true),
        ("broken", refused(500), true),
        ("gateway", refused(502), true),
        ("denied", refused(403), true),
        ("expired", refused(410), true),
        ("page", Canned::html(200).into(), true),
        ("no_content", Canned::new(204, "application/json", "").into(), true),
        // For all that is known, the next view lists another file.
        ("gone", refused(404), false),
    ]
}

#[tokio::test]
async fn a_refusal_after_a_cut_costs_none_of_the_bytes_before_it() {
    let cases = refusals();
    let files = cases.iter().map(|(name, refusal, _)| {
        let cut = file(name).on_fetch(Serving::well().cut_after(FIRST)).on_fetch(refusal.clone());
        (*name, cut.on_fetch(Serving::well()))
    });
    let solo = with_files(files).await;
    solo.settle(0).await;
    for (name, _, kept) in &cases {
        solo.home.assert_whole(SHOP, &format!("export_{name}"), &[&file(name).content]);
        let fetches = solo.fetches(&format!("file_{name}"));
        let ranges: Vec<_> = fetches.iter().map(|fetch| fetch.header("range")).collect();
        let range = Some("bytes=50000-");
        assert_eq!(ranges, [None, range, range.filter(|_| *kept)], "{name}");
        let last = if *kept { BYTES - FIRST } else { BYTES };
        assert_eq!((fetches[0].body_bytes, fetches[2].body_bytes), (FIRST, last), "{name}");
    }
}

/// What the store says to the run after a stop, one answer after the other, what there is in the
/// end, and the first status.
fn returns() -> Vec<(&'static str, Vec<Serving>, Content, u16)> {
    let well = Serving::well;
    let replaced = || well().other_content(another());
    let same = file("any").content;
    vec![
        ("same", vec![well()], same.clone(), 206),
        ("chunks", vec![well().chunked()], same.clone(), 206),
        ("whole", vec![well().ignoring_range()], same.clone(), 200),
        ("weak", vec![well().header("etag", "W/\"1\""), well()], same.clone(), 206),
        ("replaced", vec![replaced()], another(), 200),
        ("careless", vec![replaced().ignoring_if_range(), replaced()], another(), 206),
        ("cut_again", vec![replaced().cut_after(FIRST / 2), replaced()], another(), 200),
        ("put_back", vec![replaced().cut_after(FIRST), well()], same, 200),
    ]
}

#[tokio::test]
async fn a_file_that_changed_while_the_program_was_stopped_is_never_mixed_with_its_old_bytes() {
    let cases = returns();
    let files = cases.iter().map(|(name, answers, ..)| {
        let stalled = file(name).on_fetch(Serving::well().stall_after(FIRST));
        (*name, answers.iter().fold(stalled, |file, answer| file.on_fetch(answer.clone())))
    });
    let solo = with_files(files).await;
    let mut watcher = solo.start();
    for (name, ..) in &cases {
        let folder = solo.home.export(SHOP, &format!("export_{name}"));
        eventually("bytes in the partial", || watcher.partial_bytes(&folder) == [FIRST]).await;
    }
    watcher.signal(Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
    solo.settle(0).await;
    for (name, answers, content, status) in &cases {
        solo.home.assert_whole(SHOP, &format!("export_{name}"), &[content]);
        let fetches = solo.fetches(&format!("file_{name}"));
        assert_eq!(fetches[1].header("range"), Some("bytes=50000-"), "{name}");
        assert_eq!(fetches[1].status, Some(*status), "{name}");
        assert_eq!(fetches.len(), 1 + answers.len(), "{name}");
    }
}
