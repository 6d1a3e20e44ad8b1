//! The resume matrix on the real daemon: it is stopped or killed in the middle of a part, and when
//! it comes back the store's answer to its range, or what lies on the disk, is not what it was.
//! Bytes are appended only where all of it fits.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use batch_export_watcher::domain::checksum::{Algorithm, Check};
use batch_export_watcher::simulator::{
    ChecksumHeader, Content, SentChecksum, Serving, SimExport, SimFile,
};
use rustix::process::Signal;

use super::stage::{SHOP, Scheme, Stage};
use crate::support::eventually;
use crate::support::raw::{Answer, Scripts};

const BYTES: usize = 20_000;
/// What the first run gets of each file.
const FIRST: usize = 5_000;
const ETAG: &str = "\"v1\"";
const MIB: u64 = 1 << 20;

fn content() -> String {
    format!(
        "[{}]",
        "{\"custom_id\":\"0123456789\"},".repeat(BYTES).get(..BYTES - 2).expect("ascii")
    )
}

fn file(name: &str) -> SimFile {
    // It begins with a part and a validator, and then nothing more comes before the program is
    // stopped.
    SimFile::new(&format!("file_{name}"), 1, content().into_bytes())
}

fn first_answer() -> Answer {
    let lines = format!("content-length: {BYTES}\r\netag: {ETAG}\r\n");
    Answer::of(200, &lines, &content()[..FIRST]).and_silent()
}

/// A 206 of these lines, with its true length, and the bytes from `first` on.
fn range(lines: &str, first: usize) -> Answer {
    Answer::framed(206, lines, &content()[first..])
}

fn fitting() -> String {
    format!("content-range: bytes {FIRST}-{}/{BYTES}\r\netag: {ETAG}\r\n", BYTES - 1)
}

fn content_range(value: &str) -> Answer {
    range(&format!("content-range: {value}\r\netag: {ETAG}\r\n"), FIRST)
}

fn etag(line: &str) -> Answer {
    range(&format!("content-range: bytes {FIRST}-{}/{BYTES}\r\n{line}", BYTES - 1), FIRST)
}

fn refused(line: &str) -> Answer {
    Answer::framed(416, line, "")
}

/// What the store says to the range, and how many bytes of it are of use: none, but where
/// everything fits.
fn answers_to_a_range() -> Vec<(&'static str, Answer, bool)> {
    let multipart = "content-type: multipart/byteranges; boundary=x\r\n";
    let fitting_and = |lines: &str| range(&format!("{}{lines}", fitting()), FIRST);
    vec![
        ("fits", range(&fitting(), FIRST), true),
        ("fits_in_capitals", fitting_and("CONTENT-TYPE: application/json\r\n"), true),
        ("ignores_range", Answer::framed(200, &format!("etag: {ETAG}\r\n"), content()), false),
        ("starts_at_zero", content_range("bytes 0-14999/20000"), false),
        ("starts_earlier", content_range("bytes 4999-19998/20000"), false),
        ("starts_later", content_range("bytes 5001-20000/20001"), false),
        ("ends_earlier", content_range("bytes 5000-19998/20000"), false),
        ("total_less", content_range("bytes 5000-19999/19999"), false),
        ("total_more", content_range("bytes 5000-19999/20001"), false),
        ("total_unknown", content_range("bytes 5000-19999/*"), false),
        ("other_unit", content_range("lines 5000-19999/20000"), false),
        ("reversed", content_range("bytes 19999-5000/20000"), false),
        ("signs", content_range("bytes +5000-+19999/20000"), false),
        ("beyond_numbers", content_range("bytes 5000-99999999999999999999/20000"), false),
        ("no_content_range", range(&format!("etag: {ETAG}\r\n"), FIRST), false),
        ("two_content_ranges", fitting_and("content-range: bytes 5000-19999/20000\r\n"), false),
        ("several_ranges", range(&format!("{multipart}etag: {ETAG}\r\n"), FIRST), false),
        ("no_etag", etag(""), false),
        ("weak_etag", etag(&format!("etag: W/{ETAG}\r\n")), false),
        ("changed_etag", etag("etag: \"v2\"\r\n"), false),
        ("two_etags", etag(&format!("etag: {ETAG}\r\netag: {ETAG}\r\n")), false),
        (
            "shorter_than_it_says",
            Answer::framed(206, &fitting(), &content()[FIRST..BYTES - 1]),
            false,
        ),
        (
            "longer_than_it_says",
            Answer::framed(206, &fitting(), format!("{}x", &content()[FIRST..])),
            false,
        ),
        ("416_same_total", refused("content-range: bytes */20000\r\n"), false),
        ("416_other_total", refused("content-range: bytes */4000\r\n"), false),
        ("416_without_a_word", refused(""), false),
        ("416_with_nonsense", refused("content-range: none\r\n"), false),
    ]
}

#[tokio::test]
async fn after_a_stop_only_a_matching_answer_is_appended() {
    for scheme in [Scheme::Http, Scheme::Https] {
        let cases = answers_to_a_range();
        let exports = cases
            .iter()
            .map(|(name, ..)| SimExport::finished(&format!("export_{name}"), vec![file(name)]))
            .collect();
        let script = |(name, second, _): &(&str, Answer, bool)| {
            (format!("file_{name}"), vec![first_answer(), second.clone()])
        };
        let stage = stopped_in_mid_part(scheme, exports, cases.iter().map(script).collect()).await;
        stage.settled(stage.start()).await;
        for (name, _, fits) in &cases {
            stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content().as_str().into()]);
            let asked = stage.store.asked_for(&format!("file_{name}"));
            assert_eq!(asked[1].header("range"), Some("bytes=5000-"), "{name}");
            assert_eq!(asked[1].header("if-range"), Some(ETAG), "{name}");
            let whole_at_once = *fits || *name == "ignores_range";
            assert_eq!(asked.len(), if whole_at_once { 2 } else { 3 }, "{name}");
            if !whole_at_once {
                assert_eq!(asked[2].header("range"), None, "{name}: the partial is dropped");
            }
        }
    }
}

/// Every file of these exports has brought [`FIRST`] bytes, and the daemon was asked to stop.
async fn stopped_in_mid_part(scheme: Scheme, exports: Vec<SimExport>, store: Scripts) -> Stage {
    let folders: Vec<_> = exports.iter().map(|export| export.id.clone()).collect();
    let stage = Stage::new(scheme, exports, Scripts::new(), store).await;
    let stage = Stage { home: stage.home.with("[download]\nstall_timeout = \"10m\""), ..stage };
    let mut watcher = stage.home.start(&[]);
    for id in folders {
        let folder = stage.home.export(SHOP, &id);
        eventually(&format!("bytes of {id}"), || watcher.partial_bytes(&folder) == [FIRST as u64])
            .await;
    }
    watcher.signal(Signal::TERM);
    assert_eq!(watcher.wait().await.0, 0);
    stage
}

/// What is done to a file.
type Damage = fn(&Path);

/// What happens to a partial on the disk while the daemon is away, and whether the bytes on record
/// are still there.
fn damages() -> Vec<(&'static str, Damage, bool)> {
    vec![
        ("untouched", |_| {}, true),
        ("longer_than_recorded", |path| write_at(path, 5_000, b"torn tail"), true),
        ("longer_than_the_file", |path| write_at(path, 5_000, &[b'x'; 30_000]), true),
        ("nul_tail_behind_the_record", |path| write_at(path, 5_000, &[0; 4_096]), true),
        ("nul_tail_within_the_record", |path| write_at(path, 4_000, &[0; 1_000]), false),
        ("all_nul", |path| write_at(path, 0, &[0; 5_000]), false),
        ("one_bit", |path| write_at(path, 2_500, b"\x7f"), false),
        ("shorter", |path| cut_to(path, 4_999), false),
        ("empty", |path| cut_to(path, 0), false),
        (
            "sparse",
            |path| {
                cut_to(path, 0);
                cut_to(path, 5_000);
            },
            false,
        ),
        ("gone", |path| fs::remove_file(path).expect("a partial"), false),
    ]
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).expect("a partial");
    file.seek(SeekFrom::Start(at)).expect("a place in it");
    file.write_all(bytes).expect("a writable partial");
}

fn cut_to(path: &Path, bytes: u64) {
    fs::File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(bytes))
        .expect("a partial");
}

fn partial_of(stage: &Stage, name: &str) -> PathBuf {
    stage
        .home
        .export(SHOP, &format!("export_{name}"))
        .join(format!(".part-00001-file_{name}.json.partial"))
}

#[tokio::test]
async fn after_a_stop_a_partial_continues_from_its_record_or_not_at_all() {
    let cases = damages();
    let exports = cases
        .iter()
        .map(|(name, ..)| SimExport::finished(&format!("export_{name}"), vec![file(name)]))
        .collect();
    let script = |(name, ..): &(&str, Damage, bool)| {
        // Damage may be found before the range is asked for, which makes the second answer one that
        // nobody asked for.
        let whole = Answer::framed(200, &format!("etag: {ETAG}\r\n"), content());
        (format!("file_{name}"), vec![first_answer(), range(&fitting(), FIRST), whole])
    };
    let stage =
        stopped_in_mid_part(Scheme::Http, exports, cases.iter().map(script).collect()).await;
    for (name, damage, _) in &cases {
        damage(&partial_of(&stage, name));
    }
    stage.settled(stage.start()).await;
    for (name, _, sound) in &cases {
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content().as_str().into()]);
        let asked = stage.store.asked_for(&format!("file_{name}"));
        let ranges: Vec<_> =
            asked[1..].iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
        match *sound {
            true => assert_eq!(ranges, [Some("bytes=5000-".to_owned())], "{name}"),
            false => assert_eq!((ranges.len(), &ranges[1]), (2, &None), "{name}: {ranges:?}"),
        }
    }
}

#[tokio::test]
async fn a_partial_without_a_record_is_stale_and_dropped() {
    let names = ["lost_state", "forged"];
    let exports =
        names.map(|name| SimExport::finished(&format!("export_{name}"), vec![file(name)]));
    let scripts = names.map(|name| (format!("file_{name}"), vec![first_answer()]));
    let stage = stopped_in_mid_part(Scheme::Http, exports.into(), scripts.into()).await;
    fs::remove_dir_all(stage.home.path().join("state")).expect("the state");
    // As long as the file, and not its bytes.
    write_at(&partial_of(&stage, "forged"), 0, &[b'['; BYTES]);
    stage.settled(stage.start()).await;
    for name in names {
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&content().as_str().into()]);
        let asked = stage.store.asked_for(&format!("file_{name}"));
        assert_eq!((asked.len(), asked[1].header("range")), (2, None), "{name}");
    }
}

#[tokio::test]
async fn a_symbolic_link_in_the_place_of_a_partial_is_not_followed() {
    let exports = vec![SimExport::finished("export_link", vec![file("link")])];
    let scripts = Scripts::from([("file_link".to_owned(), vec![first_answer()])]);
    let stage = stopped_in_mid_part(Scheme::Http, exports, scripts).await;
    stage.home.write("outside", "somebody's");
    let partial = partial_of(&stage, "link");
    fs::remove_file(&partial).expect("a partial");
    symlink(stage.home.path().join("outside"), &partial).expect("a link");
    let mut watcher = stage.start();
    let _ = watcher.wait_within(crate::support::PATIENCE).await;
    let outside =
        fs::read_to_string(stage.home.path().join("outside")).expect("a file that is not ours");
    assert_eq!(outside, "somebody's");
    stage.home.assert_whole(SHOP, "export_link", &[&content().as_str().into()]);
}

#[tokio::test]
async fn a_listing_that_changed_while_the_daemon_was_away_starts_the_file_over() {
    let exports = vec![SimExport::finished("export_1", vec![file("1")])];
    let scripts = Scripts::from([("file_1".to_owned(), vec![first_answer()])]);
    let stage = stopped_in_mid_part(Scheme::Http, exports, scripts).await;
    let other = SimFile::new("file_1", 1, "[\"another version\"]");
    let views = vec![batch_export_watcher::simulator::ViewStep::Success(vec![other.clone()])];
    stage.sim.set_views("export_1", views).expect("an export of the script");
    stage.settled(stage.start()).await;
    stage.home.assert_whole(SHOP, "export_1", &[&other.content]);
    assert_eq!(stage.store.asked_for("file_1")[1].header("range"), None);
}

#[tokio::test]
async fn the_checksum_of_the_whole_file_detects_a_range_of_other_bytes() {
    let part = |name: &str, header, algorithm| {
        file(name).with_checksum(SentChecksum::correct(header, algorithm))
    };
    let digest = Content::from(content().as_str()).digest(Algorithm::Md5);
    let hash = base64(&digest);
    let line = format!("{}x-goog-hash: md5={hash}\r\n", fitting());
    let wrong = Answer::framed(206, &line, content()[FIRST..].replace("0123456789", "9876543210"));
    let exports = vec![SimExport::finished(
        "export_1",
        vec![part("1", ChecksumHeader::GoogHash, Algorithm::Md5)],
    )];
    let scripts = Scripts::from([("file_1".to_owned(), vec![first_answer(), wrong])]);
    let stage = stopped_in_mid_part(Scheme::Http, exports, scripts).await;
    stage.settled(stage.start()).await;
    stage.home.assert_whole(SHOP, "export_1", &[&content().as_str().into()]);
    assert_eq!(stage.store.asked_for("file_1")[2].header("range"), None);
}

/// The first bytes of the file, and a checksum of all of it that no range repeats.
fn promising_answer() -> Answer {
    let hash = base64(&Content::from(content().as_str()).digest(Algorithm::Md5));
    let lines = format!("content-length: {BYTES}\r\netag: {ETAG}\r\ncontent-md5: {hash}\r\n");
    Answer::of(200, &lines, &content()[..FIRST])
}

/// The file is whole, although a range had other bytes; the part was checked against the checksum.
fn assert_checked(stage: &Stage) {
    stage.home.assert_whole(SHOP, "export_1", &[&content().as_str().into()]);
    let asked = stage.store.asked_for("file_1");
    assert_eq!(asked[1].header("range"), Some("bytes=5000-"));
    assert_eq!(asked[2].header("range"), None, "the partial is dropped");
    let manifest = stage.home.manifest(SHOP, "export_1");
    assert!(manifest.parts[0].verified_by.contains(&Check::Md5), "{:?}", manifest.parts);
}

#[tokio::test]
async fn a_checksum_of_the_first_answer_counts_for_the_ranges_that_continue_it() {
    let other = content()[FIRST..].replace("0123456789", "9876543210");
    let wrong = Answer::framed(206, &fitting(), other);
    let whole = promising_answer().then(Answer::raw(&content()[FIRST..]));
    let exports = || vec![SimExport::finished("export_1", vec![file("1")])];
    let scripts =
        |first| Scripts::from([("file_1".to_owned(), vec![first, wrong.clone(), whole.clone()])]);

    let cut = scripts(promising_answer());
    let stage = Stage::new(Scheme::Http, exports(), Scripts::new(), cut).await;
    stage.settled(stage.start()).await;
    assert_checked(&stage);

    let silent = scripts(promising_answer().and_silent());
    let stage = stopped_in_mid_part(Scheme::Http, exports(), silent).await;
    stage.settled(stage.start()).await;
    assert_checked(&stage);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn after_a_crash_nul_bytes_and_torn_tails_behind_a_checkpoint_are_cut_and_within_it_not_believed()
 {
    // What a file system may leave of a part after a power cut: the length without the bytes.
    let cases: [(&str, Damage, bool); 3] = [
        ("nul_behind", |path| write_at(path, 17 * MIB, &[0; 4 << 20]), true),
        ("beyond_the_end", |path| write_at(path, 24 * MIB, &[0; 1 << 20]), true),
        ("nul_within", |path| write_at(path, 4 * MIB, &[0; 1 << 20]), false),
    ];
    let part = |name: &str| {
        SimFile::generated(&format!("file_{name}"), 1, 24 * MIB)
            .on_fetch(Serving::well().stall_after(20 * MIB))
            .on_fetch(Serving::well())
    };
    let exports = cases
        .iter()
        .map(|(name, ..)| SimExport::finished(&format!("export_{name}"), vec![part(name)]))
        .collect();
    let stage = Stage::new(Scheme::Http, exports, Scripts::new(), Scripts::new()).await;
    let stage = Stage { home: stage.home.with("[download]\nstall_timeout = \"10m\""), ..stage };
    let watcher = stage.home.start(&[]);
    for (name, ..) in &cases {
        let export = format!("export_{name}");
        let safe = |event: &serde_json::Value| {
            event["message"] == "checkpoint"
                && event["export"] == export.as_str()
                && event["bytes"].as_u64() >= Some(8 * MIB)
        };
        watcher.wait_for_event(safe).await;
    }
    let log = watcher.kill9().await.stderr.join("\n");
    for (name, damage, _) in &cases {
        assert!(partial_of(&stage, name).exists(), "{name} has no partial:\n{log}");
        damage(&partial_of(&stage, name));
    }
    stage.settled(stage.start()).await;
    for (name, _, sound) in &cases {
        stage.home.assert_whole(SHOP, &format!("export_{name}"), &[&part(name).content]);
        let asked = stage.store.asked_for(&format!("file_{name}"));
        let last = asked.last().expect("a request").header("range");
        assert_eq!(last.is_some(), *sound, "{name}: {last:?}");
    }
}
