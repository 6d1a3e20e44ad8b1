//! `download.bandwidth` through the real program: all parts together stay below it, share it, and
//! still end at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use batch_export_watcher::domain::bandwidth::SLICE_BYTES;
use batch_export_watcher::exit;
use batch_export_watcher::simulator::{Serving, SimExport, SimFile};
use rustix::process::Signal;

use super::support::machine::Machine;
use super::support::solo::{SHOP, Solo};
use super::support::{eventually, look};

/// Bytes of each part in an export's folder by its file ID, whether it was kept for later or has
/// its final name.
fn bytes_on_disk(solo: &Solo, export: &str) -> BTreeMap<String, u64> {
    let part = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let (_, id) = name.split_once("part-")?.1.split_once('-')?;
        Some((id.split('.').next()?.to_owned(), look::metadata(&path)?.len()))
    };
    look::entries(&solo.home.export(SHOP, export)).into_iter().filter_map(part).collect()
}

/// Two exports of two parts each. Nothing is sent before the clock runs, and on it all that counts
/// is sums.
#[tokio::test]
async fn all_parts_together_stay_below_the_bandwidth_cap_and_share_it() {
    const PART_BYTES: u64 = 160_000;
    const BYTES_PER_SECOND: u64 = 400_000;
    const BURST_BYTES: u64 = BYTES_PER_SECOND / 10;
    let file = |id: &str, part| SimFile::generated(id, part, PART_BYTES);
    let held = |id: &str, part| file(id, part).on_fetch(Serving::well().held());
    let solo = Solo::new(vec![
        SimExport::finished("export_1", vec![held("file_1", 1), held("file_2", 2)]),
        SimExport::finished("export_2", vec![held("file_3", 1), held("file_4", 2)]),
    ])
    .await
    .with("[download]\nbandwidth = \"400kB/s\"");
    let watcher = solo.home.start(&["--exit-when-settled"]);
    let files = ["file_1", "file_2", "file_3", "file_4"];
    for id in files {
        solo.wait_for_fetches(id, 1).await;
    }
    let since = Instant::now();
    files.iter().for_each(|id| solo.sim.release(id));

    watcher.wait_for_log(|line| line.contains("part committed")).await;
    let mut bytes = Vec::new();
    for export in ["export_1", "export_2"] {
        bytes.extend(watcher.partial_bytes(&solo.home.export(SHOP, export)));
        bytes.extend(bytes_on_disk(&solo, export).into_values());
    }
    assert!(bytes.len() == 4 && bytes.iter().all(|bytes| *bytes >= PART_BYTES / 3), "{bytes:?}");

    solo.settled(watcher, i32::from(exit::DONE)).await;
    let took = since.elapsed();
    let least = Duration::from_millis((4 * PART_BYTES - BURST_BYTES) * 1000 / BYTES_PER_SECOND);
    assert!(took >= least, "{took:?}, and at this rate it takes {least:?}");
    assert!(
        took < 4 * least,
        "{took:?}, and at this rate it takes {least:?}: the cap is not made use of"
    );
    for (export, [one, two]) in
        [("export_1", ["file_1", "file_2"]), ("export_2", ["file_3", "file_4"])]
    {
        solo.home.assert_whole(SHOP, export, &[&file(one, 1).content, &file(two, 2).content]);
    }
    assert!(
        files.iter().all(|id| solo.fetches(id).len() == 1),
        "nothing was given up for its pace"
    );
}

#[tokio::test]
async fn a_signal_ends_parts_that_wait_for_their_turn_at_once_and_keeps_what_they_have() {
    const PARTS: u64 = 40;
    const PART_BYTES: u64 = 200_000;
    const BYTES_PER_SECOND: u64 = 64 * 1024;
    let file = |part| SimFile::generated(&format!("file_{part}"), part, PART_BYTES);
    let files: Vec<_> = (1..=PARTS).map(file).collect();
    let mut solo = Solo::finished(files.clone())
        .await
        .with("[download]\nmax_parts = 64\nbandwidth = \"64KiB/s\"");
    let mut watcher = solo.start();
    // Who has more than a slice waits for its turn, and there are turns for ten seconds.
    let turns = Duration::from_secs(PARTS * SLICE_BYTES / BYTES_PER_SECOND);
    let folder = solo.home.export(SHOP, "export_1");
    let waiting = || {
        let bytes = watcher.partial_bytes(&folder);
        bytes.len() == files.len() && bytes.iter().all(|bytes| *bytes > SLICE_BYTES)
    };
    eventually("more than a slice of each part", waiting).await;
    watcher.signal(Signal::TERM);
    let (machine, since) = (Machine::watch(), Instant::now());
    let (code, _) = watcher.wait().await;
    assert_eq!(code, i32::from(exit::DONE));
    let took = since.elapsed();
    assert!(took < machine.stretch(turns / 2), "it took {took:?}");

    let kept = bytes_on_disk(&solo, "export_1");
    assert!(kept.values().all(|bytes| *bytes < PART_BYTES), "{kept:?}");
    solo.home.merge("[download]\nbandwidth = \"1GB/s\"");
    solo.settle(i32::from(exit::DONE)).await;
    for SimFile { id, .. } in &files {
        let range = format!("bytes={}-", kept[id]);
        assert_eq!(solo.fetches(id)[1].header("range"), Some(range.as_str()), "{id}");
    }
    let contents: Vec<_> = files.iter().map(|file| &file.content).collect();
    solo.home.assert_whole(SHOP, "export_1", &contents);
}
