//! Disks that are full, away or read-only, and strangers' files: the program waits, heals by
//! itself, and touches nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use batch_export_watcher::simulator::{Content, Recorded, Serving, SimExport, SimFile, ViewStep};

use super::support::mount::{Mount, fill_bytes, fill_names};
use super::support::process::{Output, Watcher};
use super::support::solo::{SHOP, Solo};
use super::support::{eventually, look, move_to};

const BYTES: u64 = 300_000;

fn file(number: u64) -> SimFile {
    SimFile::generated(&format!("file_{number}"), number, BYTES)
}

/// An export that is never finished: its views show that polling goes on.
fn pending() -> SimExport {
    SimExport::new("export_pending", vec![ViewStep::status("RUNNING")])
}

async fn polling_goes_on(solo: &Solo) {
    let polls = solo.views("export_pending").len();
    let polled = |requests: &[Recorded]| {
        requests.iter().filter(|request| request.is_view_of("export_pending")).count()
    };
    solo.wait_for(|seen| polled(seen) >= polls + 3).await;
}

async fn wait_for_whole(watcher: &Watcher, export: &str) {
    watcher
        .wait_for_event(|event| event["message"] == "export whole" && event["export"] == export)
        .await;
}

fn notice(solo: &Solo, export: &str) -> serde_json::Value {
    let bytes = fs::read(solo.home.export(SHOP, export).join("failed.json")).expect("failed.json");
    serde_json::from_slice(&bytes).expect("json")
}

fn said(output: &Output, words: &str) -> bool {
    output.stderr.iter().any(|line| line.contains(words))
}

#[tokio::test]
async fn an_export_waits_before_its_first_byte_until_there_is_room_beside_the_reserve() {
    let solo = Solo::new(vec![SimExport::finished("export_1", vec![file(1)]), pending()]).await;
    let solo = solo.with("[download]\nreserve = \"1000000GiB\"");
    let watcher = solo.start();
    let warning = watcher
        .wait_for_event(|event| {
            event["message"].as_str().unwrap_or("").contains("not enough space")
        })
        .await;
    assert_eq!((&warning["export"], &warning["needed_bytes"]), (&"export_1".into(), &BYTES.into()));
    polling_goes_on(&solo).await;
    assert!(solo.links("file_1").is_empty(), "no link is asked for without room");
    watcher.kill9().await;
    let mut solo = solo.with("[download]\nreserve = \"1MiB\"");
    solo.home.set_exports(SHOP, &["export_1"]);
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

/// The entries of a folder, by name.
fn names(folder: &Path) -> Vec<String> {
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    look::entries(folder).into_iter().filter_map(name).collect()
}

#[tokio::test]
async fn a_directory_that_is_replaced_by_an_empty_one_is_waited_for_and_not_filled() {
    let waiting = SimExport::new("export_1", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![waiting, pending()]).await;
    let watcher = solo.start();
    solo.wait_for(|seen| seen.iter().any(|request| request.ended_at.is_some())).await;
    let (place, aside) = (solo.home.downloads(), solo.home.path().join("aside"));
    move_to(&place, &aside);
    fs::create_dir(&place).unwrap();
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file(1)])]).unwrap();
    watcher
        .wait_for_log(|line| {
            line.contains("downloads wait for the disk") && line.contains("not mounted?")
        })
        .await;
    polling_goes_on(&solo).await;
    assert_eq!(names(&place), [""; 0], "nothing is made where the disk is missing");
    assert!(solo.links("file_1").is_empty());
    fs::remove_dir(&place).unwrap();
    move_to(&aside, &place);
    watcher.wait_for_log(|line| line.contains("the disk works again")).await;
    wait_for_whole(&watcher, "export_1").await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

#[tokio::test]
async fn a_part_gets_no_name_if_the_marker_is_removed_meanwhile() {
    let held = file(1).on_fetch(Serving::well().stall_after(100_000));
    let solo =
        Solo::new(vec![SimExport::finished("export_1", vec![held, file(2)]), pending()]).await;
    let watcher = solo.start();
    watcher
        .wait_for_event(|event| event["message"] == "part committed" && event["part"] == 2)
        .await;
    solo.wait_for_fetches("file_1", 1).await;
    let (marker, aside) =
        (solo.home.downloads().join(".batch-export-watcher"), solo.home.path().join("aside"));
    move_to(&marker, &aside);
    solo.sim.release("file_1");
    watcher
        .wait_for_log(|line| line.contains("it has no marker") && line.contains("not mounted?"))
        .await;
    polling_goes_on(&solo).await;
    assert!(!solo.home.export(SHOP, "export_1").join("part-00001-file_1.json").exists());
    assert!(!marker.exists(), "a marker that was known is not made again");
    move_to(&aside, &marker);
    wait_for_whole(&watcher, "export_1").await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content, &file(2).content]);
    assert_eq!(solo.fetches("file_2").len(), 1);
}

#[tokio::test]
async fn a_directory_that_is_away_at_the_start_is_waited_for() {
    let mut solo = Solo::new(vec![SimExport::finished("export_1", vec![file(1)]), pending()]).await;
    solo.home.set_exports(SHOP, &[]);
    solo.settle(0).await;
    let (place, aside) = (solo.home.downloads(), solo.home.path().join("aside"));
    move_to(&place, &aside);
    solo.home.set_exports(SHOP, &["export_1", "export_pending"]);
    let watcher = solo.start();
    watcher
        .wait_for_log(|line| {
            line.contains("downloads wait for the disk") && line.contains("not mounted?")
        })
        .await;
    polling_goes_on(&solo).await;
    assert!(!place.exists(), "a directory that was known is not made again");
    assert!(solo.links("file_1").is_empty());
    move_to(&aside, &place);
    wait_for_whole(&watcher, "export_1").await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

#[tokio::test]
async fn a_strangers_file_at_a_final_name_stays_and_fails_the_export_after_its_other_parts() {
    let exports = |id: &str, parts: [SimFile; 2]| SimExport::finished(id, parts.into());
    let part = |id: &str, number| SimFile::generated(id, number, BYTES);
    let solo = Solo::new(vec![
        exports("export_file", [part("file_a", 1), part("file_b", 2)]),
        exports("export_link", [part("file_c", 1), part("file_d", 2)]),
        SimExport::finished("export_good", vec![part("file_e", 1)]),
    ])
    .await;
    for export in ["export_file", "export_link"] {
        fs::create_dir_all(solo.home.export(SHOP, export)).unwrap();
    }
    solo.home.write("exports/shop/export_file/part-00001-file_a.json", "not ours");
    solo.home.write("outside", "somebody's");
    let link = solo.home.export(SHOP, "export_link").join("part-00001-file_c.json");
    symlink(solo.home.path().join("outside"), &link).unwrap();
    solo.settle(1).await;
    for (export, other) in [("export_file", "file_b"), ("export_link", "file_d")] {
        assert_eq!(notice(&solo, export)["kind"], "conflict", "{export}");
        let kept = solo.home.sha256(&format!("shop/{export}/part-00002-{other}.json"));
        assert_eq!(kept, part(other, 2).content.sha256(), "{export}: the other part is fetched");
        assert!(solo.home.try_manifest(SHOP, export).is_none());
    }
    let untouched = solo.home.downloads().join("shop/export_file/part-00001-file_a.json");
    assert_eq!(fs::read_to_string(untouched).unwrap(), "not ours");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(solo.home.path().join("outside")).unwrap(), "somebody's");
    assert!(solo.fetches("file_a").is_empty() && solo.fetches("file_c").is_empty());
    solo.home.assert_whole(SHOP, "export_good", &[&part("file_e", 1).content]);
}

#[tokio::test]
async fn a_strangers_file_of_the_right_length_is_believed_only_by_its_content() {
    let part = |id: &str| SimFile::new(id, 1, "[\"right\"]");
    let solo = Solo::new(vec![
        SimExport::finished("export_same", vec![part("file_same")]),
        SimExport::finished("export_other", vec![part("file_other")]),
    ])
    .await;
    for (name, content) in [("same", "[\"right\"]"), ("other", "[\"wrong\"]")] {
        fs::create_dir_all(solo.home.export(SHOP, &format!("export_{name}"))).unwrap();
        let path = format!("exports/shop/export_{name}/part-00001-file_{name}.json");
        solo.home.write(&path, content);
        fs::set_permissions(solo.home.path().join(path), fs::Permissions::from_mode(0o644))
            .unwrap();
    }
    solo.settle(1).await;
    solo.home.assert_whole(SHOP, "export_same", &[&"[\"right\"]".into()]);
    assert_eq!(notice(&solo, "export_other")["kind"], "conflict");
    let other = solo.home.downloads().join("shop/export_other/part-00001-file_other.json");
    assert_eq!(fs::read_to_string(other).unwrap(), "[\"wrong\"]");
}

#[tokio::test]
async fn a_file_that_appears_during_the_download_is_adopted_if_identical_and_a_conflict_if_not() {
    let held = |id: &str| SimFile::new(id, 1, "[\"right\"]").on_fetch(Serving::well().held());
    let solo = Solo::new(vec![
        SimExport::finished("export_same", vec![held("file_same")]),
        SimExport::finished("export_other", vec![held("file_other")]),
    ])
    .await;
    let watcher = solo.home.start(&["--exit-when-settled"]);
    solo.wait_for_fetches("file_same", 1).await;
    solo.wait_for_fetches("file_other", 1).await;
    solo.home.write("exports/shop/export_same/part-00001-file_same.json", "[\"right\"]");
    solo.home.write("exports/shop/export_other/part-00001-file_other.json", "[\"wrong\"]");
    solo.sim.release("file_same");
    solo.sim.release("file_other");
    solo.settled(watcher, 1).await;
    solo.home.assert_whole(SHOP, "export_same", &[&"[\"right\"]".into()]);
    assert_eq!(notice(&solo, "export_other")["kind"], "conflict");
    let other = solo.home.downloads().join("shop/export_other/part-00001-file_other.json");
    assert_eq!(fs::read_to_string(other).unwrap(), "[\"wrong\"]");
}

#[tokio::test]
async fn a_strangers_manifest_fails_the_export_until_it_is_gone() {
    let solo = Solo::finished(vec![file(1)]).await;
    let manifest = solo.home.export(SHOP, "export_1").join("manifest.json");
    fs::create_dir_all(solo.home.export(SHOP, "export_1")).unwrap();
    solo.home.write("exports/shop/export_1/manifest.json", "{\"not\":\"ours\"}");
    solo.settle(1).await;
    assert_eq!(notice(&solo, "export_1")["kind"], "conflict");
    assert_eq!(fs::read_to_string(&manifest).unwrap(), "{\"not\":\"ours\"}");
    assert_eq!(solo.home.sha256("shop/export_1/part-00001-file_1.json"), file(1).content.sha256());
    fs::remove_file(&manifest).unwrap();
    assert_eq!(Watcher::spawn(solo.home.command("retry", &["export_1"])).wait().await.0, 0);
    solo.settle(0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
    assert_eq!(solo.fetches("file_1").len(), 1, "what was fetched is still good");
}

/// Fills the download directory in mid-part; the second part comes only after the first.
async fn fills_up(options: &str, fill: fn(&Path)) {
    let part = |number: u64| SimFile::generated(&format!("file_{number}"), number, 1_500_000);
    let held = part(1).on_fetch(Serving::well().stall_after(500_000)).on_fetch(Serving::well());
    let solo =
        Solo::new(vec![SimExport::finished("export_1", vec![held, part(2)]), pending()]).await;
    let Some(_mount) = Mount::tmpfs(solo.home.downloads(), options) else { return };
    let solo = solo.with("[download]\nreserve = \"1B\"\nmax_parts = 1");
    let watcher = solo.start();
    let folder = solo.home.export(SHOP, "export_1");
    eventually("half a part", || watcher.partial_bytes(&folder) == [500_000]).await;
    let ballast = solo.home.downloads().join("ballast");
    fill(&ballast);
    solo.sim.release("file_1");
    watcher.wait_for_log(|line| line.contains("No space left")).await;
    watcher.wait_for_log(|line| line.contains("downloads wait for the disk")).await;
    polling_goes_on(&solo).await;
    assert!(solo.home.try_manifest(SHOP, "export_1").is_none());
    let removed =
        if ballast.is_dir() { fs::remove_dir_all(&ballast) } else { fs::remove_file(&ballast) };
    removed.expect("the ballast goes");
    watcher.wait_for_log(|line| line.contains("the disk works again")).await;
    wait_for_whole(&watcher, "export_1").await;
    solo.home.assert_whole(SHOP, "export_1", &[&part(1).content, &part(2).content]);
    watcher.kill9().await;
}

#[tokio::test]
async fn after_a_disk_that_fills_up_in_mid_part_downloads_resume() {
    fills_up("size=5m", fill_bytes).await;
}

#[tokio::test]
async fn after_a_disk_without_a_free_inode_downloads_resume() {
    fills_up("size=8m,nr_inodes=40", fill_names).await;
}

#[tokio::test]
async fn a_full_disk_does_not_mix_two_versions_of_a_file() {
    let (bytes, other) = (1_500_000, Content::Generated { bytes: 1_500_000, seed: 99 });
    let part = SimFile::generated("file_1", 1, bytes)
        .on_fetch(Serving::well().cut_after(100_000))
        .on_fetch(Serving::well().other_content(other).stall_after(500_000))
        .on_fetch(Serving::well());
    let solo = Solo::finished(vec![part.clone()]).await.with("[download]\nreserve = \"1B\"");
    let Some(_mount) = Mount::tmpfs(solo.home.downloads(), "size=3m") else { return };
    let watcher = solo.start();
    let folder = solo.home.export(SHOP, "export_1");
    eventually("the other version", || watcher.partial_bytes(&folder) == [500_000]).await;
    let ballast = solo.home.downloads().join("ballast");
    fill_bytes(&ballast);
    solo.sim.release("file_1");
    watcher.wait_for_log(|line| line.contains("downloads wait for the disk")).await;
    fs::remove_file(&ballast).unwrap();
    wait_for_whole(&watcher, "export_1").await;
    solo.home.assert_whole(SHOP, "export_1", &[&part.content]);
    watcher.kill9().await;
}

#[tokio::test]
async fn after_a_disk_that_becomes_read_only_downloads_resume() {
    let waiting = SimExport::new("export_1", vec![ViewStep::status("RUNNING")]);
    let solo = Solo::new(vec![waiting, pending()]).await;
    let watcher = solo.start();
    solo.wait_for(|seen| seen.iter().any(|request| request.ended_at.is_some())).await;
    let place = solo.home.downloads();
    // A read-only view of the same directory, over it: the program's open lock keeps a real one
    // from being remounted.
    let source = place.display().to_string();
    let Some(read_only) = Mount::new(place, &["--bind", "-o", "ro", &source]) else { return };
    let remounted =
        Command::new("mount").args(["-o", "remount,bind,ro", &source]).status().unwrap();
    assert!(remounted.success());
    solo.sim.set_views("export_1", vec![ViewStep::Success(vec![file(1)])]).unwrap();
    watcher
        .wait_for_log(|line| {
            line.contains("downloads wait for the disk") && line.contains("Read-only")
        })
        .await;
    polling_goes_on(&solo).await;
    assert!(solo.links("file_1").is_empty(), "an ill disk costs the API no call");
    drop(read_only);
    wait_for_whole(&watcher, "export_1").await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}

/// How often the log has a line with these words.
fn times(watcher: &Watcher, words: &str) -> usize {
    watcher.output().stderr.iter().filter(|line| line.contains(words)).count()
}

#[tokio::test]
async fn a_link_in_the_place_of_a_projects_folder_is_waited_for_and_told_once() {
    let exports = [1, 2, 3]
        .map(|number| SimExport::finished(&format!("export_{number}"), vec![file(number)]));
    let solo = Solo::new(exports.into_iter().chain([pending()]).collect()).await;
    let elsewhere = solo.home.path().join("elsewhere");
    for folder in [&elsewhere, &solo.home.downloads()] {
        fs::create_dir(folder).unwrap();
    }
    let link = solo.home.downloads().join(SHOP);
    symlink(&elsewhere, &link).unwrap();
    let watcher = solo.start();
    watcher.wait_for_log(|line| line.contains("exports/shop is in the way")).await;
    for number in [1, 2, 3] {
        let asked = |seen: &[Recorded]| {
            seen.iter().any(|view| view.is_view_of(&format!("export_{number}")))
        };
        solo.wait_for(asked).await;
    }
    polling_goes_on(&solo).await;
    assert_eq!(names(&elsewhere), [""; 0], "nothing is written behind the link");
    fs::remove_file(&link).unwrap();
    for number in [1, 2, 3] {
        let export = format!("export_{number}");
        wait_for_whole(&watcher, &export).await;
        solo.home.assert_whole(SHOP, &export, &[&file(number).content]);
        assert_eq!(solo.fetches(&format!("file_{number}")).len(), 1, "{export}");
    }
    assert_eq!(times(&watcher, "folder_unusable"), 1, "{:#?}", watcher.output().stderr);
    watcher.kill9().await;
}

#[tokio::test]
async fn what_is_in_the_way_of_one_export_holds_up_that_one_until_it_is_moved_away() {
    let exports = ["file", "partial", "good"].into_iter().zip(1..);
    let exports = exports
        .map(|(name, number)| SimExport::finished(&format!("export_{name}"), vec![file(number)]));
    let solo = Solo::new(exports.collect()).await;
    let in_the_way = [
        solo.home.export(SHOP, "export_file"),
        solo.home.export(SHOP, "export_partial").join(".manifest.json.partial"),
    ];
    fs::create_dir_all(solo.home.downloads().join(SHOP)).unwrap();
    solo.home.write("exports/shop/export_file", "not ours");
    fs::create_dir_all(&in_the_way[1]).unwrap();
    let watcher = solo.start();
    wait_for_whole(&watcher, "export_good").await;
    for path in &in_the_way {
        let words = format!("{} is in the way", path.display());
        watcher.wait_for_log(|line| line.contains(&words)).await;
    }
    assert_eq!(fs::read_to_string(&in_the_way[0]).unwrap(), "not ours");
    fs::remove_file(&in_the_way[0]).unwrap();
    fs::remove_dir(&in_the_way[1]).unwrap();
    for (export, number) in [("export_file", 1), ("export_partial", 2)] {
        wait_for_whole(&watcher, export).await;
        solo.home.assert_whole(SHOP, export, &[&file(number).content]);
        assert_eq!(solo.fetches(&format!("file_{number}")).len(), 1, "{export}");
    }
    assert_eq!(times(&watcher, "folder_unusable"), 2, "{:#?}", watcher.output().stderr);
    watcher.kill9().await;
}

#[tokio::test]
async fn parts_that_are_gone_before_the_manifest_are_fetched_again() {
    for dies in [false, true] {
        let slow = file(2).on_fetch(Serving::well().stall_after(100_000)).on_fetch(Serving::well());
        let solo = Solo::finished(vec![file(1), slow, file(3)]).await;
        let watcher = solo.home.start(&["--exit-when-settled"]);
        for part in [1, 3] {
            watcher
                .wait_for_event(|event| {
                    event["message"] == "part committed" && event["part"] == part
                })
                .await;
        }
        solo.wait_for_fetches("file_2", 1).await;
        let output = if dies {
            watcher.kill9().await;
            fs::remove_dir_all(solo.home.export(SHOP, "export_1")).unwrap();
            solo.settle(0).await
        } else {
            fs::remove_dir_all(solo.home.export(SHOP, "export_1")).unwrap();
            solo.sim.release("file_2");
            solo.settled(watcher, 0).await
        };
        let contents = [1, 2, 3].map(|number| file(number).content);
        solo.home.assert_whole(SHOP, "export_1", &contents.each_ref());
        assert!(said(&output, "\"event\":\"parts_gone\""), "{output:#?}");
        assert_eq!([1, 3].map(|number| solo.fetches(&format!("file_{number}")).len()), [2, 2]);
        // What is gone now was taken by a consumer.
        fs::remove_dir_all(solo.home.export(SHOP, "export_1")).unwrap();
        let asked = solo.sim.requests().len();
        solo.settle(0).await;
        assert_eq!(solo.sim.requests().len(), asked, "dies: {dies}");
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for_at_the_first_start() {
    let solo = Solo::finished(vec![file(1)]).await;
    let Some(_mount) = Mount::tmpfs(solo.home.downloads(), "size=8m,mode=0700") else { return };
    let ballast = solo.home.downloads().join("ballast");
    fill_bytes(&ballast);
    let watcher = solo.home.start(&["--exit-when-settled"]);
    watcher.wait_for_log(|line| line.contains("the start waits for the disk")).await;
    fs::remove_file(&ballast).unwrap();
    solo.settled(watcher, 0).await;
    solo.home.assert_whole(SHOP, "export_1", &[&file(1).content]);
}
